"""What a table looks like to a prior that takes any table."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Positions = NDArray[np.int64]

# Standardized columns are held within this many deviations, as in training.
LARGEST = 8.0
# Seeds of fixed orders: they depend on nothing but the table's content.
_ORDER_SEED = 20_180_704


class Table(NamedTuple):
    """Columns of a table, in the order and the units in which a network reads them.

    A column with missing values is followed by the indicator that they are missing;
    the value itself counts as the mean. Columns of one value say nothing and are left
    out.
    """

    columns: Positions
    with_missing: Positions
    mean: Array
    scale: Array

    def standardized(self, X: Array) -> Array:
        """Return rows in the network's units.

        Parameters
        ----------
        X : ndarray of shape (n, n_features)
            Rows as the user has them, NaN where a value is missing.

        Returns
        -------
        ndarray of shape (n, n_columns)
            Without NaN.
        """
        expanded = _expanded(X, self.columns, self.with_missing)
        with np.errstate(over="ignore"):
            scaled = (expanded - self.mean) / self.scale
        return np.clip(np.nan_to_num(scaled, nan=0.0), -LARGEST, LARGEST)


def _expanded(X: Array, columns: Positions, with_missing: Positions) -> Array:
    """Return the columns, and indicators of what is missing in some of them."""
    missing = np.isnan(X[:, with_missing]).astype(np.float64)
    return np.hstack([X[:, columns], missing])


def describe_table(X: Array) -> Table:
    """Return what rows look like, whatever the order of their columns.

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
        Rows in an order that depends on their content alone, as of `content_order`.
    """
    known = ~np.isnan(X)
    low = np.where(known, X, np.inf).min(axis=0)
    high = np.where(known, X, -np.inf).max(axis=0)
    varied = np.flatnonzero(high > low)
    gaps = np.flatnonzero(known.any(axis=0) & ~known.all(axis=0))
    columns = varied[_column_order(X[:, varied])]
    with_missing = gaps[_column_order(np.isnan(X[:, gaps]).astype(np.float64))]
    if not len(columns) and not len(with_missing):
        # Nothing varies: any one column says so.
        columns, X = np.zeros(1, dtype=np.int64), np.nan_to_num(X, nan=0.0)
    expanded = _expanded(X, columns, with_missing)
    # Scaled first, so that squares of huge numbers are finite.
    largest = np.nanmax(np.abs(expanded), axis=0, initial=0.0)
    unit = np.where(largest > 0.0, largest, 1.0)
    mean = unit * np.nanmean(expanded / unit, axis=0)
    scale = unit * np.nanstd(expanded / unit, axis=0)
    scale = np.where(scale > 1e-12 * unit, scale, 1.0)
    return Table(columns, with_missing, mean, scale)


def content_order(X: Array, targets: Array) -> Positions:
    """Return an order of rows that depends on their content alone.

    Neither the order in which rows are given nor that of their columns matters; what is
    first in the order is as good as a random choice.
    """
    keys = np.hstack([np.sort(X, axis=1)[:, ::-1], targets])
    order = np.lexsort(keys.T)
    return order[np.random.RandomState(_ORDER_SEED).permutation(len(order))]


def _column_order(X: Array) -> Positions:
    """Return an order of columns by what they hold, in rows of a fixed order."""
    weights = np.random.RandomState(_ORDER_SEED).standard_normal((2, len(X), 1))
    filled = np.nan_to_num(X, nan=0.0)
    return np.lexsort([(filled * weight).sum(axis=0) for weight in weights])
