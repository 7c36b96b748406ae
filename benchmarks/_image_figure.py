"""The figure of the images: what was seen, what is predicted, and draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from skfunc import ImageCompleter

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROWS = ("context", "mean", "std", "sample", "sample", "sample")
N_SAMPLES, N_IMAGES, N_GROUPS = 3, 2, 32
# Grey levels are for values; what was not seen is blue.
UNSEEN = (0.25, 0.4, 0.75)


def draw_figure(
    completer: ImageCompleter,
    X: np.ndarray,
    sizes: Sequence[int | None],
    mask: Callable[[np.ndarray, int, int], np.ndarray],
    path: Path,
) -> None:
    """Draw the first images of X, None for all pixels seen."""
    images = X[:N_IMAGES]
    side = completer.image_shape_[1]
    n_columns = len(sizes) * N_IMAGES
    figure, axes = plt.subplots(
        len(ROWS),
        n_columns,
        figsize=(1.05 * n_columns + 0.7, 1.05 * len(ROWS) + 0.5),
        layout="constrained",
        squeeze=False,
    )
    for i in range(N_IMAGES):
        for j, size in enumerate(sizes):
            n_seen = X.shape[1] if size is None else size
            masked = mask(images, n_seen, 1)[i : i + 1]
            mean, std = completer.transform(masked, return_std=True)
            draws = completer.sample(masked, N_SAMPLES, 0, n_groups=N_GROUPS)[0]
            column = axes[:, i * len(sizes) + j]
            grey = np.repeat(masked[0, :, None] + 0.5, 3, axis=1)
            grey[np.isnan(masked[0])] = UNSEEN
            column[0].imshow(grey.reshape(side, side, 3), vmin=0, vmax=1)
            show(column[1], mean[0], side, -0.5, 0.5)
            show(column[2], std[0], side, 0.0, 0.4, "magma")
            for axis, draw in zip(column[3:], draws.T, strict=True):
                show(axis, draw, side, -0.5, 0.5)
            column[0].set_title(f"{n_seen} seen", fontsize=8)
    for axis, text in zip(axes[:, 0], ROWS, strict=True):
        axis.set_ylabel(text, fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=90)
    plt.close(figure)


def show(axis, values, side, low, high, colours="gray") -> None:
    axis.imshow(values.reshape(side, side), cmap=colours, vmin=low, vmax=high)
