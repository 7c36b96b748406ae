"""Rows made distinct, and small checks that the estimators of infinite width share."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# Standard deviations whose squares keep all their digits in float64.
_SCALES = (1e-150, 1e150)


def merge_rows(
    X: Array, targets: Array, weight: Array
) -> tuple[Array, Array, Array, NDArray[np.intp]]:
    """Return distinct rows in a canonical order, with summed weights.

    So a weight of k means the same as k copies bit by bit, the order of the rows means
    nothing, and copies do not make the kernel matrix singular.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Inputs.
    targets : ndarray of shape (n_samples, n_outputs)
        Targets; rows that differ in them stay apart.
    weight : ndarray of shape (n_samples,)
        Weights; rows of weight zero are dropped.

    Returns
    -------
    X, targets, weight : ndarray
        Distinct rows.
    row_index : ndarray of shape (n_samples,)
        Position of every given row among them, -1 for those dropped.
    """
    counted = np.flatnonzero(weight > 0)
    both = np.column_stack([X[counted], targets[counted]])
    # Minus zero equals zero, but not bit by bit.
    distinct, index = np.unique(both + 0.0, axis=0, return_inverse=True)
    index = index.reshape(-1)
    summed = np.zeros(len(distinct))
    np.add.at(summed, index, weight[counted])
    row_index: NDArray[np.intp] = np.full(len(X), -1, dtype=np.intp)
    row_index[counted] = index
    width = X.shape[1]
    return (
        np.ascontiguousarray(distinct[:, :width]),
        np.ascontiguousarray(distinct[:, width:]),
        summed,
        row_index,
    )


def physical_memory() -> int:
    """Return the bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_target_scale(scale: Array) -> None:
    """Raise ValueError if targets' standard deviations are too extreme to square."""
    extreme = scale[(scale < _SCALES[0]) | (scale > _SCALES[1])]
    if extreme.size:
        raise ValueError(
            f"y has the standard deviation {extreme[0]:.3g}, outside of {_SCALES[0]:g} "
            f"to {_SCALES[1]:g}, where its square keeps its digits; give y in other "
            "units"
        )


def check_finite(values: Array) -> Array:
    """Return predictions, or raise ValueError that names the row that overflows."""
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"the kernel of the network overflows in row {int(np.argmin(finite))} of "
            "X, which lies too far from the rows of the fit"
        )
    return values


def times_of(value: ArrayLike) -> list[float]:
    """Return training times from a number or a sequence of them."""
    times = np.atleast_1d(np.asarray(value))
    if times.dtype.kind in "iuf" and times.ndim == 1 and times.size:
        if (times >= 0).all():
            return times.astype(np.float64).tolist()
    raise ValueError(
        f"training_time must be a number or a list of numbers of at least 0 (inf: to "
        f"the end); got {value!r}"
    )
