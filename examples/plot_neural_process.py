"""
Hills from a few heights: learning from other lines
====================================================

A surveyor measures the height of the ground at a few places along a line. What is it in
between? A Gaussian process answers from these few points, its kernel included. A neural
process has seen other lines before: it has learned what hills look like, and from the
few points it only has to tell which hill this is [1]_ [2]_.

.. [1] M. Garnelo, J. Schwarz, D. Rosenbaum, F. Viola, D. J. Rezende, S. M. A. Eslami,
   Y. W. Teh 2018, Neural processes, arXiv 1807.01622.
.. [2] J. Gordon, W. P. Bruinsma, A. Y. K. Foong, J. Requeima, Y. Dubois, R. E. Turner
   2020, Convolutional conditional neural processes, arXiv 1910.13556.
"""

# %%
# Lines across a map
# ------------------
# Matplotlib brings heights of the hills around the Jacksboro fault in Tennessee, on a
# grid of 3 seconds of arc, some 75 metres from west to east. Lines of 96 places in the
# north of the map are there to learn from, each a group of rows; lines in the south are
# for the test.
import warnings

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cbook import get_sample_data
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from skfunc import NeuralProcessMetaLearner, NeuralProcessRegressor

heights = get_sample_data("jacksboro_fault_dem.npz")["elevation"].astype(float)
n_places, spacing = 96, 0.075
km = spacing * np.arange(n_places)[:, None]
rng = np.random.default_rng(0)


def lines(rows, n_lines):
    """Cut lines out of rows of the map."""
    starts = rng.integers(heights.shape[1] - n_places, size=n_lines)
    chosen = rng.choice(rows, n_lines)
    return np.stack(
        [heights[i, j : j + n_places] for i, j in zip(chosen, starts, strict=True)]
    )


to_learn, to_test = lines(np.arange(230), 800), lines(np.arange(260, 344), 40)
X = np.tile(km, (len(to_learn), 1))
y, groups = to_learn.ravel(), np.repeat(np.arange(len(to_learn)), n_places)

# %%
# Three networks
# --------------
# "convcnp" knows that hills look alike wherever they stand; "np" has a latent of which
# every draw is a profile; "kernel" infers kernels from the points and then conditions
# Gaussian processes exactly. Each learns for some seconds.
networks = {
    "convcnp": {"max_iter": 500, "hidden_size": 32},
    "np": {"max_iter": 1500},
    "kernel": {"max_iter": 200, "hidden_size": 32, "n_layers": 3},
}
models = {}
for variant, options in networks.items():
    learner = NeuralProcessMetaLearner(
        variant=variant,
        context_size=(3, 40),
        learning_rate_init=3e-3,
        random_state=0,
        **options,
    ).fit(X, y, groups=groups)
    models[variant] = NeuralProcessRegressor(prior=learner.prior_, random_state=0)
    print(f"{variant}: {learner.prior_.training['seconds']:.0f} s of training")
models["Gaussian process"] = GaussianProcessRegressor(
    ConstantKernel() * Matern(nu=1.5) + WhiteKernel(1e-2), normalize_y=True
)

# %%
# How sure, and how right
# -----------------------
# The mean negative log-likelihood of heights that were not measured, against the number
# of those that were. The Gaussian process fits its kernel to each line's points by
# maximum likelihood; with four points there is not much to fit it to.
sizes = (4, 8, 16, 32)
scores = {name: [] for name in models}
for n_seen in sizes:
    places = np.random.default_rng(1)
    losses = {name: [] for name in models}
    for line in to_test:
        order = places.permutation(n_places)
        seen, asked = order[:n_seen], order[n_seen:]
        for name, model in models.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(km[seen], line[seen])
            mean, std = model.predict(km[asked], return_std=True)
            losses[name].append(-norm.logpdf(line[asked], mean, std).mean())
    for name, values in losses.items():
        scores[name].append(np.mean(values))
for name, values in scores.items():
    print(f"{name:18}", "  ".join(f"{value:.2f}" for value in values))

colors = dict(zip(models, ("#0072B2", "#009E73", "#D55E00", "black"), strict=True))
figure, ax = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
for name, values in scores.items():
    ax.plot(sizes, values, "o-", color=colors[name], label=name)
ax.set_xscale("log", base=2)
ax.set_xticks(sizes, labels=[str(size) for size in sizes])
ax.set(xlabel="measured heights", ylabel="negative log-likelihood, nats")
ax.legend()

# %%
# The profiles that each holds possible
# -------------------------------------
# Draws of whole functions, given eight heights of one line. The Gaussian process and
# "kernel" draw in closed form, "np" by its latent, "convcnp" place by place in a random
# order, each place a part of the context of the next.
line = to_test[1]
seen = np.sort(np.random.default_rng(5).choice(n_places, 8, replace=False))
figure, axes = plt.subplots(
    2, 2, figsize=(10, 6), sharex=True, sharey=True, layout="constrained"
)
for ax, (name, model) in zip(axes.flat, models.items(), strict=True):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(km[seen], line[seen])
    mean, std = model.predict(km, return_std=True)
    color = colors[name]
    band = norm.ppf(0.95) * std
    ax.fill_between(km[:, 0], mean - band, mean + band, color=color, alpha=0.15, lw=0)
    ax.plot(km, model.sample_y(km, 6, random_state=0), color=color, lw=0.7)
    ax.plot(km, line, "k--", lw=1.2)
    ax.plot(km[seen, 0], line[seen], "ko", ms=5)
    ax.set_title(name)
for ax in axes[1]:
    ax.set_xlabel("km")
for ax in axes[:, 0]:
    ax.set_ylabel("height, m")
axes[0, 0].plot([], [], "k--", label="the ground")
axes[0, 0].plot([], [], "ko", label="measured")
axes[0, 0].plot([], [], color="grey", lw=0.7, label="draws; band: 90 % of heights")
axes[0, 0].legend(fontsize=8)
plt.show()
