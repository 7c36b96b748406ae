"""
Images as functions: what a few pixels say of the others
========================================================

An image is a function from a pixel's place to its grey level. `ImageCompleter` learns
from whole images what such functions look like, and then predicts all pixels of another
from any few: their mean, how uncertain they are, and several completions that hang
together.

Garnelo et al. 2018, Conditional neural processes, arXiv 1807.01613.
"""

# %%
# Digits with gaps
# ----------------
# The completer learns from whole digits. Of new ones it sees some random pixels; NaN
# stands for the others. The nearest neighbours among the same digits are a strong
# competitor, and have no standard deviation.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.impute import KNNImputer
from sklearn.model_selection import train_test_split

from skfunc import ImageCompleter

X, y = load_digits(return_X_y=True)
X_train, X_test, _, y_test = train_test_split(X, y, test_size=300, random_state=0)
completer = ImageCompleter(
    image_shape=(1, 8, 8), max_iter=400, n_exemplars=1000, random_state=0
).fit(X_train)
neighbours = KNNImputer().fit(X_train)

keys = np.random.default_rng(0).random(X_test.shape)
order = keys.argsort(axis=1).argsort(axis=1)
for n_seen in (6, 20, 45):
    masked = np.where(order < n_seen, X_test, np.nan)
    missing = np.isnan(masked)
    filled, std = completer.transform(masked, return_std=True)
    error = (filled - X_test)[missing]
    inside = np.abs(error) < 1.645 * std[missing]
    other = (neighbours.transform(masked) - X_test)[missing]
    print(
        f"{n_seen:2d} of 64 pixels seen: squared error {np.mean(error**2):5.2f}, "
        f"of nearest neighbours {np.mean(other**2):5.2f}; "
        f"{np.mean(inside):.0%} within the interval of 90 %"
    )

# %%
# The picture
# -----------
# Pixels that were not seen are blue. With few pixels the mean is a blur of several
# digits, while every draw decides for one; with more of them the draws agree.
digit = X_test[np.flatnonzero(y_test == 3)[0]][None]
place = order[np.flatnonzero(y_test == 3)[0]][None]
sizes = (0, 3, 8, 16, 32, 64)
names = ("seen", "mean", "std", "draw", "draw", "draw")
figure, axes = plt.subplots(6, len(sizes), figsize=(7, 7), layout="constrained")
grey = plt.get_cmap("gray").with_extremes(bad=(0.25, 0.4, 0.75))
for column, n_seen in zip(axes.T, sizes, strict=True):
    masked = np.where(place < n_seen, digit, np.nan)
    mean, std = completer.transform(masked, return_std=True)
    draws = completer.sample(masked, n_samples=3, random_state=0)[0].T
    for ax, values in zip(column, (masked, mean, std, *draws), strict=True):
        of_std = ax is column[2]
        ax.imshow(
            values.reshape(8, 8),
            cmap="magma" if of_std else grey,
            vmin=0,
            vmax=7 if of_std else 16,
        )
        ax.set(xticks=[], yticks=[])
    column[0].set_title(f"{n_seen} seen", fontsize=9)
for ax, name in zip(axes[:, 0], names, strict=True):
    ax.set_ylabel(name)
plt.show()
