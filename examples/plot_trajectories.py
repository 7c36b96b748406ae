"""
Paths through depth, and why zeros help
=======================================

The flow of an ODE in the plane is a continuous deformation: paths do not cross, and
what is inside a ring stays inside it. So a flow in two dimensions cannot make the two
circles below linearly separable [1]_: it can only squeeze the inner one out through the
gaps between the rows of a finite sample. With one more dimension, which starts at zero,
it lifts the inner circle out.

.. [1] E. Dupont, A. Doucet, Y. W. Teh 2019, Augmented neural ODEs, arXiv 1904.01681.
"""

# %%
# Two networks
# ------------
# The state has the size of the input, so that we can look at it.
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import make_circles

from skfunc import ODENetClassifier
from skfunc.solvers import odeint

X, y = make_circles(400, factor=0.4, noise=0.05, random_state=0)
models = {}
for n_augment in (0, 1):
    models[n_augment] = ODENetClassifier(
        state_size=2,
        n_augment=n_augment,
        n_members=1,
        solver="rk4",
        n_steps=4,
        activation="tanh",
        alpha=10.0,
        learning_rate_init=0.01,
        max_iter=60,
        early_stopping=False,
        random_state=0,
    ).fit(X, y)
    loss = -models[n_augment].log_prob(X, y).mean()
    accuracy = models[n_augment].score(X, y)
    print(f"n_augment={n_augment}: accuracy {accuracy:.3f}, log-loss {loss:.4f}")


# %%
# States at all depths
# --------------------
# The estimator returns predictions only. For the states on the way we take its network
# and solve for them ourselves.
def states(model, X, times):
    network = model._bound_module()
    rows = torch.as_tensor((X - model.X_mean_) / model.X_scale_)
    with torch.no_grad():
        start = network.initial_state(rows.unsqueeze(0))
        solution = odeint(network.field, start, times, method="rk4", n_steps=1)
    return solution.y[:, 0].numpy()


times = np.linspace(0, 1, 21)

# %%
# The picture
# -----------
# From left to right depth grows; the upper row has two dimensions, the lower a third
# one, which is drawn upwards.
colors = np.array(["#0072B2", "#D55E00"])[y]
shown = [0, 10, 20]
figure = plt.figure(figsize=(11, 7), layout="constrained")
for n_augment, model in models.items():
    path = states(model, X, times)
    space = {"projection": "3d", "elev": 20} if n_augment else {}
    for column, k in enumerate(shown):
        place = n_augment * len(shown) + column + 1
        ax = figure.add_subplot(2, len(shown), place, **space)
        ax.set_title(f"{2 + n_augment} dimensions, t = {times[k]:.1f}")
        for row in range(0, len(X), 10):
            ax.plot(*path[: k + 1, row].T, color="#BFBFBF", linewidth=0.7)
        ax.scatter(*path[k].T, c=colors, s=6)
plt.show()
