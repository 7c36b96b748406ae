"""
Where to look next: Thompson sampling
=====================================

To find the minimum of a costly function in few evaluations, draw one function from
what is known so far, evaluate the true one where the draw is least, and learn from the
result. Draws differ where little is known, so the search explores; as they come to
agree, it stays where the minimum is [1]_.

.. [1] M. Garnelo, J. Schwarz, D. Rosenbaum, F. Viola, D. J. Rezende, S. M. A. Eslami,
   Y. W. Teh 2018, Neural processes, arXiv 1807.01622.
"""

# %%
# A costly function
# -----------------
# We let the search stop when it meets the global minimum of a grid. The model is a
# Gaussian process whose draws are networks of infinite width: one hidden layer of erf
# units, steep enough to bend several times on the grid. Any estimator with ``sample_y``
# would do.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor

from skfunc.decision import thompson_minimize
from skfunc.infinite_width import NeuralKernel
from skfunc.infinite_width import layers as L

grid = np.linspace(-2, 2, 201)[:, None]


def cost(x):
    return float(np.sin(4 * x[0]) * np.exp(-0.2 * x[0]) + 0.3 * x[0] ** 2)


values = np.array([cost(x) for x in grid])
network = L.Serial(L.Dense(5.0, 5.0), L.Erf(), L.Dense(1.5))
model = GaussianProcessRegressor(NeuralKernel(network), alpha=1e-6, optimizer=None)
found = thompson_minimize(
    model, cost, candidates=grid, n_iter=60, stop_at=values.min(), random_state=0
)
print(f"met the minimum after {found.n_evaluations} evaluations of {len(grid)} points")

# %%
# Steps of the search
# -------------------
# What the model knew after some of the steps, and the functions that it held possible.
shown = np.unique(np.linspace(2, found.n_evaluations - 1, 3).astype(int))
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), sharey=True, layout="constrained")
for ax, n in zip(axes, shown, strict=True):
    known = model.fit(found.X[:n], found.y[:n])
    draws = known.sample_y(grid, n_samples=8, random_state=1)
    ax.plot(grid, draws, color="#0072B2", linewidth=0.7, alpha=0.6)
    ax.plot(grid, values, color="black", linewidth=1.2, linestyle="--")
    ax.scatter(found.X[:n], found.y[:n], color="black", s=22, zorder=3)
    ax.axvline(found.X[n, 0], color="#D55E00", linewidth=1)
    ax.set(title=f"{n} evaluations", xlabel="x")
axes[0].set_ylabel("cost")
axes[0].plot([], [], color="#0072B2", label="draws")
axes[0].plot([], [], color="black", linestyle="--", label="true cost")
axes[0].plot([], [], color="#D55E00", label="next evaluation")
figure.legend(loc="outside lower center", ncols=3)
plt.show()
