"""
Digits read line by line, with lines missing
============================================

A scanner passes over a digit and fails at random lines: a series of eight channels,
seen at some of eight times. `LatentODEClassifier` learns from such series what the
digits are and how they go on, in one model: it names a digit of which half is missing,
says how sure it is, and fills the gaps.
"""

# %%
# The data
# --------
# A row of the table is a digit, its columns are (line, pixel of the line), and NaN is
# what was not scanned: between two and six lines of each.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from skfunc import LatentODEClassifier

X, y = load_digits(return_X_y=True)
whole = X.reshape(-1, 8, 8)
rng = np.random.default_rng(0)
n_missing = rng.integers(2, 7, size=len(X))
order = rng.permuted(np.tile(np.arange(8), (len(X), 1)), axis=1)
scanned = np.where((order < n_missing[:, None])[..., None], np.nan, whole)
train, test = train_test_split(
    np.arange(len(X)), train_size=800, random_state=0, stratify=y
)

# %%
# One model for labels and gaps
# -----------------------------
# Gradient boosting takes NaN as it is, and is a strong opponent on such a table.
flat = scanned.reshape(len(X), -1)
model = LatentODEClassifier(
    times=np.arange(8),
    n_channels=8,
    latent_size=24,
    encoder_size=96,
    max_iter=80,
    random_state=0,
).fit(flat[train], y[train])
peer = HistGradientBoostingClassifier(random_state=0).fit(flat[train], y[train])
for name, fitted in (("latent ODE", model), ("gradient boosting", peer)):
    proba = fitted.predict_proba(flat[test])
    right = (proba.argmax(1) == y[test]).mean()
    print(f"{name}: accuracy {right:.3f}, log loss {log_loss(y[test], proba):.3f}")

# %%
# How sure, by how much was seen
# ------------------------------
# A calibrated model is less sure of what it saw less of.
proba = model.predict_proba(flat[test])
for lines in range(2, 7):
    few = n_missing[test] == lines
    hit = (proba[few].argmax(1) == y[test][few]).mean()
    sure = proba[few].max(1).mean()
    print(f"{8 - lines} lines: accuracy {hit:.2f}, mean confidence {sure:.2f}")

# %%
# The gaps
# --------
# Above what was scanned, below the digit as it is filled, with the likeliest label and
# its probability.
filled = model.impute(flat[test]).reshape(-1, 8, 8)
shown = np.flatnonzero(n_missing[test] == 4)[:10]
figure, axes = plt.subplots(3, len(shown), figsize=(11, 3.8), layout="constrained")
for column, i in zip(axes.T, shown, strict=True):
    for axis, picture in zip(
        column, (scanned[test][i], filled[i], whole[test][i]), strict=True
    ):
        axis.imshow(picture, cmap="gray_r", vmin=0, vmax=16)
        axis.set(xticks=[], yticks=[])
        axis.set_facecolor("tab:orange")
    column[1].set_title(f"{proba[i].argmax()}: {proba[i].max():.0%}", fontsize=9)
for axis, name in zip(axes[:, 0], ("scanned", "filled", "truth"), strict=True):
    axis.set_ylabel(name)
plt.show()
