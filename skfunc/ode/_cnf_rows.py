"""From columns as they come to columns that have a density, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skfunc._moments import weighted_moments
from skfunc.ode._cnf_quantiles import QuantileMap, fit_quantile_map

Array = NDArray[np.float64]

PREPROCESSINGS = ("standardize", "whiten", "quantile")

# A column is an affine function of others if less of its variance is left.
_RANK_TOLERANCE = 1e-10
# Deviation from that function that is rounding, in standard deviations, besides ten
# times the largest in training.
_OFF_TOLERANCE = 1e-6
# Rows farther than so many standard deviations are moved there, where squares are
# finite.
_FARTHEST = 1e8
# Copies of rows are looked for in so many rows at most.
_ROWS_TO_COMPARE = 20_000
# A column is rounded if more than this share of its values have copies.
_TIED_SHARE = 0.5
# Gaps below this share of the range are rounding errors of one value.
_SMALLEST_GAP = 1e-9
# Values this near to multiples of a gap lie on its grid.
_GRID_TOLERANCE = 0.01
# Or values are few: at most this share of the rows.
_FEW_VALUES_SHARE = 0.1


@dataclass(frozen=True)
class RowMap:
    """Columns kept, standardized, whitened or made normal; others as functions of them.

    Attributes
    ----------
    kept : ndarray of bool of shape (columns,)
        Columns with a density of their own.
    mean, scale : ndarray of shape (columns,)
        Moments of all columns.
    forward, backward : ndarray of shape (size, size)
        Standardized kept columns times `forward` are the flow's, and back.
    relation : ndarray of shape (size, columns - size)
        Standardized kept columns times this are the other columns.
    tolerance : float
        Deviation from the relation that is rounding.
    quantiles : QuantileMap
        Map of standardized kept columns to normal ones, if it has knots.
    """

    kept: NDArray[np.bool_]
    mean: Array
    scale: Array
    forward: Array
    backward: Array
    relation: Array
    tolerance: float
    quantiles: QuantileMap

    def to_flow(self, X: Array) -> tuple[Array, Array]:
        """Return the flow's rows, and the log of the volume change at each.

        A row of X that breaks the relation has -inf.
        """
        with np.errstate(over="ignore"):
            standard = (X - self.mean) / self.scale
        standard = np.clip(standard, -_FARTHEST, _FARTHEST)
        inner = standard[:, self.kept]
        allowed = self.tolerance * (1.0 + np.abs(inner).max(axis=1, keepdims=True))
        off = np.abs(standard[:, ~self.kept] - inner @ self.relation)
        obeys = (off <= allowed).all(axis=1)
        _, log_det = np.linalg.slogdet(self.forward)
        log_det = log_det - np.log(self.scale[self.kept]).sum()
        log_slopes = np.zeros(len(X))
        if self.quantiles.n_knots:
            inner, log_slopes = self.quantiles.forward(inner)
        return inner @ self.forward, np.where(obeys, log_det + log_slopes, -np.inf)

    def from_flow(self, rows: Array) -> Array:
        """Return rows of X, columns that follow from others filled in."""
        inner = rows @ self.backward
        if self.quantiles.n_knots:
            inner = self.quantiles.backward(inner)
        standard = np.empty((len(rows), len(self.mean)))
        standard[:, self.kept] = inner
        standard[:, ~self.kept] = inner @ self.relation
        return self.mean + self.scale * standard


def fit_row_map(X: Array, preprocessing: str) -> RowMap:
    """Return the map fitted to rows.

    Raises
    ------
    ValueError
        If the rows cannot tell a density: all columns are constant, or rows are too few
        for the columns.
    """
    mean, scale = weighted_moments(X, np.ones(len(X)))
    standard = (X - mean) / scale
    kept = _independent(standard)
    size = int(kept.sum())
    if size == 0:
        raise ValueError(
            "all columns of X are constant: rows that are all alike have no density "
            f"(n_samples = {len(X)})"
        )
    if len(X) <= X.shape[1] and size >= len(X) - 1:
        raise ValueError(
            f"n_samples = {len(X)} rows span only {size} directions of the "
            f"{X.shape[1]} columns, and tell no density in them; give more rows, or "
            "reduce the columns first, such as by sklearn.decomposition.PCA"
        )
    inner = standard[:, kept]
    relation = np.linalg.lstsq(inner, standard[:, ~kept], rcond=None)[0].astype(
        np.float64
    )
    largest = np.abs(standard[:, ~kept] - inner @ relation).max(initial=0.0)
    forward = backward = np.eye(size)
    if preprocessing == "whiten":
        values, vectors = np.linalg.eigh(inner.T @ inner / len(X))
        # Each direction's sign is a choice: its largest entry is positive.
        largest_entry = np.abs(vectors).argmax(axis=0)
        vectors = vectors * np.sign(vectors[largest_entry, np.arange(size)])
        forward = vectors / np.sqrt(values)
        backward = (vectors * np.sqrt(values)).T
    quantiles = QuantileMap(np.zeros((3, size, 0)))
    if preprocessing == "quantile":
        quantiles = fit_quantile_map(inner)
    return RowMap(
        kept=kept,
        mean=mean,
        scale=scale,
        forward=forward,
        backward=backward,
        relation=relation,
        tolerance=float(_OFF_TOLERANCE + 10 * largest),
        quantiles=quantiles,
    )


def _independent(standard: Array) -> NDArray[np.bool_]:
    """Return which columns are no affine functions of those before them."""
    triangle = np.linalg.qr(standard, mode="r") / np.sqrt(len(standard))
    kept = np.zeros(standard.shape[1], dtype=bool)
    basis = np.zeros((len(triangle), 0))
    for j, column in enumerate(triangle.T):
        rest = column
        # Projected twice: once leaves rounding errors of the basis.
        for _ in range(2):
            rest = rest - basis @ (basis.T @ rest)
        norm = np.linalg.norm(rest)
        if norm**2 > _RANK_TOLERANCE:
            kept[j] = True
            basis = np.column_stack([basis, rest / norm])
    return kept


def rounding_gaps(X: Array) -> Array:
    """Return the gap that the values of each column are rounded to; 0 where not.

    A column is rounded if more than half of its values have copies, and they are few or
    lie on a grid; its gap is the smallest between two values.
    """
    gaps = np.zeros(X.shape[1])
    for j, column in enumerate(X.T):
        values, counts = np.unique(column, return_counts=True)
        if len(values) > 1 and counts[counts > 1].sum() > _TIED_SHARE * len(X):
            between = np.diff(values)
            gap = between[between > _SMALLEST_GAP * np.ptp(values)].min()
            places = (values - values[0]) / gap
            on_grid = np.abs(places - places.round()).max() < _GRID_TOLERANCE
            if on_grid or len(values) <= _FEW_VALUES_SHARE * len(X):
                gaps[j] = gap
    return gaps


def spread(X: Array, gaps: Array, random: np.random.Generator) -> Array:
    """Spread rounded values evenly over the gap around each."""
    return X + gaps * random.uniform(-0.5, 0.5, X.shape)


def row_copies(X: Array) -> NDArray[np.intp]:
    """Return a number of each row, from 0, which copies share."""
    if len(X) > _ROWS_TO_COMPARE:
        return np.arange(len(X))
    return np.unique(X, axis=0, return_inverse=True)[1].ravel()
