"""Monotone map of columns to normal ones, by their quantiles, with its slope."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

Array = NDArray[np.float64]

# Quantiles of a column: the square root of the rows, within these.
_FEWEST_KNOTS, _MOST_KNOTS = 4, 32
# Steepest chord between two quantiles, in deviations of the normal over those of the
# column: values that repeat must not make the map a jump.
_STEEPEST = 100.0


@dataclass(frozen=True)
class QuantileMap:
    """Columns to normal ones: smooth, increasing, straight beyond the outer quantiles.

    Between two quantiles it is the rational quadratic of Gregory and Delbourgo 1982,
    Piecewise rational quadratic interpolation to monotonic data, whose inverse is one
    root.

    Attributes
    ----------
    knots : ndarray of shape (3, size, knots)
        Quantiles of each column, the normal's, and the slopes there.
    """

    knots: Array

    @property
    def n_knots(self) -> int:
        """Quantiles of each column."""
        return self.knots.shape[2]

    def forward(self, X: Array) -> tuple[Array, Array]:
        """Return the normal columns, and the log of each row's volume change."""
        normal, log_slope = np.empty_like(X), np.zeros(len(X))
        for j, column in enumerate(X.T):
            normal[:, j], slope = _mapped(column, *self.knots[:, j])
            log_slope += np.log(slope)
        return normal, log_slope

    def backward(self, rows: Array) -> Array:
        """Return the columns of normal ones."""
        X = np.empty_like(rows)
        for j, column in enumerate(rows.T):
            X[:, j] = _mapped_back(column, *self.knots[:, j])
        return X


def fit_quantile_map(X: Array) -> QuantileMap:
    """Return the map fitted to rows of about unit variance."""
    n_knots = int(np.clip(np.sqrt(len(X)), _FEWEST_KNOTS, _MOST_KNOTS))
    levels = (np.arange(n_knots) + 0.5) / n_knots
    normals = norm.ppf(levels)
    rises = np.diff(normals)
    knots = np.empty((3, X.shape[1], n_knots))
    for j, column in enumerate(X.T):
        found = np.quantile(column, levels)
        gaps = np.maximum(np.diff(found), rises / _STEEPEST)
        places = np.concatenate([[0.0], np.cumsum(gaps)])
        middle = n_knots // 2
        chords = rises / gaps
        # The harmonic mean of the chords on both sides, as in Fritsch and Butland 1984.
        inner = 2.0 / (1.0 / chords[1:] + 1.0 / chords[:-1])
        knots[0, j] = places - places[middle] + found[middle]
        knots[1, j] = normals
        knots[2, j] = np.concatenate([chords[:1], inner, chords[-1:]])
    return QuantileMap(knots)


def _mapped(
    x: Array, places: Array, normals: Array, slopes: Array
) -> tuple[Array, Array]:
    """Return the map of a column, and its slope."""
    k = np.clip(np.searchsorted(places, x) - 1, 0, len(places) - 2)
    width, rise = np.diff(places)[k], np.diff(normals)[k]
    chord, left, right = rise / width, slopes[k], slopes[k + 1]
    share = np.clip((x - places[k]) / width, 0.0, 1.0)
    both = share * (1.0 - share)
    below = chord + (left + right - 2.0 * chord) * both
    inside = normals[k] + rise * (chord * share**2 + left * both) / below
    slope = right * share**2 + 2.0 * chord * both + left * (1.0 - share) ** 2
    slope *= (chord / below) ** 2
    # At the outer quantiles the slope is that of the line beyond.
    beyond = x - np.clip(x, places[0], places[-1])
    return inside + slope * beyond, slope


def _mapped_back(z: Array, places: Array, normals: Array, slopes: Array) -> Array:
    """Return the column of its map."""
    k = np.clip(np.searchsorted(normals, z) - 1, 0, len(normals) - 2)
    width, rise = np.diff(places)[k], np.diff(normals)[k]
    chord, left, right = rise / width, slopes[k], slopes[k + 1]
    height = np.clip(z - normals[k], 0.0, rise)
    bend = height * (left + right - 2.0 * chord)
    # The share solves a share^2 + b share + c = 0.
    a, b, c = rise * (chord - left) + bend, rise * left - bend, -chord * height
    share = 2.0 * c / (-b - np.sqrt(np.maximum(b * b - 4.0 * a * c, 0.0)))
    beyond = z - np.clip(z, normals[0], normals[-1])
    slope = np.where(beyond > 0, slopes[-1], slopes[0])
    return np.asarray(places[k] + width * share + beyond / slope, dtype=np.float64)
