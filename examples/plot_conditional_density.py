"""
A target with two branches
==========================

Some questions have more than one answer: the same x may go with a high y or a low one.
A mean with a standard deviation then points at the middle, where nothing is.
`ConditionalCNFRegressor` predicts the density itself.
"""

# %%
# Two branches
# ------------
# A third of the observations follow the lower branch; nothing in x tells which.
import matplotlib.pyplot as plt
import numpy as np

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
# Densities and draws
# -------------------
# The Gaussian covers the gap; the flow leaves it empty, and gives the upper branch its
# larger share. Draws of y take either branch.
columns, rows = np.meshgrid(np.linspace(-2, 2, 90), np.linspace(-3.2, 3.2, 120))
grid = columns.reshape(-1, 1)
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), sharey=True, layout="constrained")
for axis, fitted, title in zip(
    axes, (gaussian, model), ("Gaussian members", "with a flow"), strict=False
):
    density = np.exp(fitted.log_prob(grid, rows.ravel())).reshape(rows.shape)
    axis.pcolormesh(columns, rows, density, cmap="Blues", vmax=1.5, shading="gouraud")
    axis.plot(columns[0], fitted.predict(columns[0][:, None]), color="tab:orange")
    axis.plot(x, y, ".", color="black", markersize=1.5)
    axis.set_title(f"{title}; the line is the mean")
draws = model.sample(x[:, None], random_state=1)[:, 0]
axes[2].plot(x, draws, ".", color="tab:blue", markersize=2)
axes[2].set_title("one draw of y at every x")
plt.show()
