"""
A target with two branches
==========================

Some questions have more than one answer: the same x may go with a high y or a low one.
A mean with a standard deviation then points at the middle, where nothing is.
`ConditionalCNFRegressor` predicts the density itself, and so its skewness too.
"""

# %%
# Two branches
# ------------
# A third of the observations follow the lower branch; nothing in x tells which.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes

from skfunc import ConditionalCNFRegressor

rng = np.random.default_rng(0)
x = rng.uniform(-2, 2, size=500)
side = np.where(rng.uniform(size=500) < 0.35, -1, 1)
y = np.sin(1.5 * x) + side * (0.4 + 0.5 * np.abs(x)) + 0.12 * rng.normal(size=500)

options = {"n_members": 4, "random_state": 0}
gaussian = ConditionalCNFRegressor(flow=False, **options).fit(x[:, None], y)
model = ConditionalCNFRegressor(**options).fit(x[:, None], y)
gain, error = model.flow_gain_
print(f"held-out rows gain {gain:.2f} nats by the flow, give or take {error:.2f}")

# %%
# A skewed target
# ---------------
# Progression of diabetes within a year, from the body mass index alone. It has a long
# tail upwards where the index is low; the flow is kept here as well.
X, progression = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
index = X["bmi"].to_numpy()
skewed = ConditionalCNFRegressor(random_state=0).fit(index[:, None], progression)
gain, error = skewed.flow_gain_
print(f"held-out rows gain {gain:.3f} nats by the flow, give or take {error:.3f}")

# %%
# Densities, quantiles and draws
# ------------------------------
# The Gaussians' interval covers the gap and says nothing of it; the flow leaves it
# empty, and gives the upper branch its larger share. Draws of y take either branch.
figure, axes = plt.subplots(2, 2, figsize=(10, 6.4), layout="constrained")


def show_density(axis, fitted, grid, heights):
    columns, levels = np.meshgrid(grid, heights)
    log_density = fitted.log_prob(columns.reshape(-1, 1), levels.ravel())
    density = np.exp(log_density).reshape(levels.shape)
    # Each column in units of its peak: narrow and wide densities are as dark.
    density /= density.max(axis=0)
    axis.pcolormesh(columns, levels, density, cmap="Blues", shading="gouraud")


grid, heights = np.linspace(-2, 2, 90), np.linspace(-3.2, 3.2, 160)
for axis, fitted, title in zip(
    axes[0],
    (gaussian, model),
    ("Gaussian members: density, mean, 90 % interval", "with the flow: density"),
    strict=True,
):
    show_density(axis, fitted, grid, heights)
    axis.plot(x, y, ".", color="black", markersize=1.5)
    axis.set(title=title, ylim=(-3.2, 3.2))
low, high = gaussian.predict_interval(grid[:, None], 0.9).T
axes[0, 0].plot(grid, gaussian.predict(grid[:, None]), color="tab:orange")
axes[0, 0].plot(grid, low, "--", grid, high, "--", color="tab:orange")

draws = model.sample(x[:, None], random_state=1)[:, 0]
axes[1, 0].plot(x, draws, ".", color="tab:blue", markersize=2)
axes[1, 0].set(title="the flow: one draw of y at every x", ylim=(-3.2, 3.2))

grid, heights = np.linspace(index.min(), index.max(), 90), np.linspace(0, 400, 120)
show_density(axes[1, 1], skewed, grid, heights)
axes[1, 1].plot(index, progression, ".", color="black", markersize=1.5)
quantiles = skewed.predict_quantiles(grid[:, None], [0.05, 0.5, 0.95])
axes[1, 1].plot(grid, quantiles, color="tab:orange")
axes[1, 1].set(
    title="diabetes: density; 5, 50 and 95 % quantiles",
    xlabel="body mass index",
    ylabel="progression",
)
plt.show()
