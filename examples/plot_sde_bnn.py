"""
Functions before and after the data
===================================

An SDE-BNN is a network of continuous depth whose weights follow a stochastic process
[1]_. Each path of the weights is one function, so the prior process is a prior over
functions, and its posterior a posterior over functions: both can be drawn. In one
dimension, as here, a path of the network's state cannot pass another one, and so every
function is monotone; two dimensions that start at zero set it free.

.. [1] W. Xu, R. T. Q. Chen, X. Li, D. Duvenaud 2022, Infinitely deep Bayesian neural
   networks with stochastic differential equations, arXiv 2102.06559, figure 2.
"""

# %%
# A function that turns
# ---------------------
# Three hundred points of a curve that falls, rises and falls again, and none in the
# middle.
import matplotlib.pyplot as plt
import numpy as np

from skfunc import SDEBNNRegressor

generator = np.random.default_rng(0)
x = np.concatenate([generator.uniform(-3, -0.8, 150), generator.uniform(0.6, 3, 150)])
y = np.sin(1.6 * x) + 0.25 * x + 0.1 * generator.standard_normal(300)
X = x[:, None]

# %%
# One dimension, and three
# ------------------------
# The state has the size of the input, so that there is no room but what `n_augment`
# adds. With `initial_weights="gaussian"` the weights at depth 0 are uncertain too, and
# their prior is about the network as it was drawn: it has not seen the data, apart from
# the input and output maps, which are trained. One member is one posterior.
models = {}
for n_augment in (0, 2):
    models[n_augment] = SDEBNNRegressor(
        state_size=1,
        n_augment=n_augment,
        activation="tanh",
        sigma=0.3,
        initial_weights="gaussian",
        n_members=1,
        n_train_paths=2,
        n_predict_paths=64,
        n_steps=5,
        alpha=0.01,
        learning_rate_init=0.03,
        max_iter=200,
        early_stopping=False,
        random_state=0,
    ).fit(X, y)

# %%
# Which of them the data prefer is told by the evidence lower bound, without a test set.
# It is the fit, less what the posterior had to pay for leaving the prior.
for n_augment, model in models.items():
    print(
        f"n_augment={n_augment}: evidence lower bound {model.elbo_:6.1f} nats, "
        f"of which paid for leaving the prior {model.kl_:5.1f}"
    )

# %%
# The picture
# -----------
# Left: functions of the prior. Middle: functions of the posterior, each of one weight
# path. Right: what they predict together. Without more dimensions all functions are
# monotone, and what they miss is called noise. With two more they follow the points,
# and are closer together there than in the gap and beyond. Beyond the data they go on
# as the network does: straight.
grid = np.linspace(-4.5, 4.5, 300)[:, None]
figure, axes = plt.subplots(
    2, 3, figsize=(12, 6.5), sharex=True, sharey=True, layout="constrained"
)
for row, (n_augment, model) in zip(axes, models.items(), strict=True):
    row[0].plot(grid, model.sample_y(grid, 15, prior=True), color="#7F7F7F", lw=0.8)
    row[1].plot(grid, model.sample_y(grid, 15), color="#0072B2", lw=0.8)
    mean, std = model.predict(grid, return_std=True)
    epistemic, _ = model.predict_std_parts(grid)
    for width, alpha, name in ((std, 0.15, "in all"), (epistemic, 0.35, "epistemic")):
        low, high = mean - 2 * width, mean + 2 * width
        label = f"2 deviations, {name}"
        row[2].fill_between(
            grid[:, 0], low, high, color="#0072B2", alpha=alpha, lw=0, label=label
        )
    row[2].plot(grid, mean, color="#0072B2", label="Mean")
    row[0].set_ylabel(f"{1 + n_augment} dimension{'s' if n_augment else ''}")
    for ax in row:
        ax.plot(x, y, ".", color="black", markersize=2)
for ax, title in zip(axes[0], ("Prior", "Posterior", "Prediction"), strict=True):
    ax.set_title(title)
axes[0, 2].legend(frameon=False, loc="upper left")
axes[0, 0].set_ylim(-3, 3)
plt.show()
