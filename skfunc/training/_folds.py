"""Which rows a member trains on and which it is judged by."""

from __future__ import annotations

import numpy as np


def row_folds(
    X: np.ndarray,
    n_folds: int,
    random_state: np.random.RandomState,
    labels: np.ndarray | None = None,
) -> np.ndarray:
    """Deal rows into folds by their content.

    Equal rows share a fold, so no row is judged by a member that saw its copy, and a
    weight of k means the same as k copies. The rows' order does not matter.

    Parameters
    ----------
    X : ndarray of shape (rows, columns)
        The rows.
    n_folds : int
        The number of folds.
    random_state : RandomState
        Shuffles the distinct rows.
    labels : ndarray of shape (rows,), optional
        Classes (ints from 0): each is dealt in turn, so folds are stratified.

    Returns
    -------
    ndarray of shape (rows,)
        The fold of each row. Some folds are empty where distinct rows are few.
    """
    keys = X if labels is None else np.column_stack([labels, X])
    distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
    inverse = inverse.ravel()
    order = random_state.permutation(len(distinct))
    if labels is not None:
        order = order[np.argsort(distinct[order, 0], kind="stable")]
    fold = np.empty(len(distinct), dtype=np.intp)
    fold[order] = np.arange(len(distinct)) % n_folds
    return fold[inverse]


def held_out_fraction(
    X: np.ndarray,
    fraction: float,
    random_state: np.random.RandomState,
    labels: np.ndarray | None = None,
) -> np.ndarray:
    """Return a boolean mask of about `fraction` of the rows, equal rows together."""
    n_folds = max(2, round(1.0 / fraction))
    return row_folds(X, n_folds, random_state, labels) == 0
