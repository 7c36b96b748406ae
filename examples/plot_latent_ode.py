"""
Spirals seen at a few random times
==================================

Half of these series turn clockwise, half the other way. Each shows 40 noisy points,
at times of its own. `LatentODE` learns one law of motion for all of them: it fills the
gaps, goes on where the observations end, and sorts the series by its latent codes.
"""

# %%
# The data
# --------
# A series is a row, NaN where nothing was observed. Test series go on after the window,
# for half as long again; the model never sees that part, but other series pass there.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from skfunc import LatentODE
from skfunc.datasets import make_spirals


def with_gaps(series, n_observed, seed):
    rng = np.random.default_rng(seed)
    rows = series.copy()
    for row in rows:
        row[rng.permutation(len(row))[n_observed:]] = np.nan
    return rows.reshape(len(rows), -1)


train = make_spirals(400, n_future=0, random_state=0)
test = make_spirals(200, n_future=50, random_state=1)
X = with_gaps(train.observed, 40, seed=0)
X_test = with_gaps(test.observed, 40, seed=1)

# %%
# A law of motion
# ---------------
# The noise of an observation has a standard deviation of .3 here; errors are against
# the spirals without it.
model = LatentODE(
    times=train.times,
    n_channels=2,
    latent_size=4,
    n_steps=10,
    max_iter=100,
    random_state=0,
).fit(X)
inside = model.predict(X_test)
beyond, std = model.predict(X_test, test.future_times, return_std=True)
for name, path, truth in (
    ("within the window", inside, test.truth),
    ("beyond", beyond, test.future),
):
    print(f"error {name}: {np.sqrt(((path - truth) ** 2).mean()):.2f}")
print(f"predicted deviation of observations beyond: {std.mean():.2f}")

# %%
# The codes tell the directions apart, for a linear classifier behind them.
codes = model.transform(X_test)
accuracy = cross_val_score(LogisticRegression(), codes, test.clockwise).mean()
print(f"accuracy of the direction from latent codes: {accuracy:.2f}")

# %%
# Six series, and the plane of the codes
# --------------------------------------
# The thin lines are paths that the model finds possible; squares mark where the window
# ends.
figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
times = np.concatenate([test.times, test.future_times])
paths = model.sample_paths(X_test, times, 10)
mean = model.predict(X_test, times)
chosen = [np.flatnonzero(test.clockwise == turn)[:3] for turn in (False, True)]
for axis, rows, title in zip(
    axes, chosen, ("counter-clockwise", "clockwise"), strict=False
):
    for i, colour in zip(rows, ("tab:blue", "tab:green", "tab:purple"), strict=True):
        axis.plot(*np.moveaxis(paths[i], 1, 0), color=colour, linewidth=0.3)
        axis.plot(*mean[i].T, color=colour)
        truth = np.concatenate([test.truth[i], test.future[i]])
        axis.plot(*truth.T, color="black", linewidth=0.8, linestyle="--")
        axis.plot(*X_test[i].reshape(-1, 2).T, ".", color=colour, markersize=4)
        axis.plot(*truth[len(test.times)], "s", color="black", markersize=4)
    axis.set_aspect("equal", adjustable="datalim")
    axis.set_title(title)
plane = PCA(2).fit_transform(codes)
for turn, colour, name in (
    (False, "tab:orange", "counter-clockwise"),
    (True, "tab:cyan", "clockwise"),
):
    axes[2].plot(
        *plane[test.clockwise == turn].T, ".", color=colour, label=name, markersize=4
    )
axes[2].legend()
axes[2].set_title("latent codes, two principal axes")
plt.show()
