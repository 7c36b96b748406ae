"""Quantiles and moments of a mixture whose members map a normal increasingly to y."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from skfunc._shapes import Float

Array = NDArray[np.float64]

# Steps of the search for a quantile, bisections and Newton's in turn: the former
# alone leave 4e-6 of a bracket.
_SEARCH_STEPS = 36
# Numbers in one chunk of rows.
_CHUNK_NUMBERS = 2_000_000
# Nodes and weights in a cell by which moments are integrated (Gauss and Legendre).
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(3)
_SQRT_2PI = float(np.sqrt(2.0 * np.pi))


def even_points(u: Array, y: Array, n_points: int) -> Array:
    """Return values of y that leave no wide gap in y nor in u.

    Parameters
    ----------
    u : ndarray of shape (points,)
        Increasing.
    y : ndarray of shape (..., points)
        Increasing along the last axis.
    n_points : int
        How many.

    Returns
    -------
    ndarray of shape (..., n_points)
        Even along the path (u, y), both in units of their ranges, the ends included.
    """
    y = np.maximum.accumulate(y, axis=-1)
    span = y[..., -1:] - y[..., :1]
    length = (u - u[0]) / (u[-1] - u[0]) + (y - y[..., :1]) / span
    points = np.empty((*y.shape[:-1], n_points))
    for j, place in enumerate(np.linspace(0.0, 2.0, n_points)):
        cell = (length <= place).sum(-1, keepdims=True).clip(1, len(u) - 1) - 1
        low, high = (np.take_along_axis(length, cell + i, -1) for i in (0, 1))
        share = np.clip((place - low) / (high - low), 0.0, 1.0)
        start, end = (np.take_along_axis(y, cell + i, -1) for i in (0, 1))
        points[..., j] = (start + share * (end - start))[..., 0]
    return points


@dataclass(frozen=True)
class MonotoneMap:
    """Increasing maps of y to a standard normal u, known with their slopes at points.

    Between points u is a monotone cubic of y (Fritsch and Carlson 1980, Monotone
    piecewise cubic interpolation), beyond them it goes on along the outer slopes.

    Parameters
    ----------
    y, u, slopes : ndarray of shape (members, rows, points)
        Points, where they go, and du/dy there.
    """

    y: Float[np.ndarray, "members rows points"]
    u: Float[np.ndarray, "members rows points"]
    slopes: Float[np.ndarray, "members rows points"]

    def moments(self) -> tuple[Array, Array]:
        """Return means and variances of each member, (members, rows)."""
        width = np.diff(self.y, axis=-1)
        cell = np.broadcast_to(np.arange(width.shape[-1]), width.shape)
        ends = self.y[..., :-1], self.y[..., 1:]
        middle = self.y[..., [0, -1]].mean(-1)
        total, first, second = (np.zeros(middle.shape) for _ in range(3))
        for node, weight in zip(_NODES, _WEIGHTS, strict=True):
            y = ends[0] + 0.5 * (1.0 + node) * width
            u, slope = self._cubic(y, ends, cell)
            mass = 0.5 * weight * width * slope * np.exp(-0.5 * u * u)
            centred = y - middle[..., None]
            total += mass.sum(-1)
            first += (mass * centred).sum(-1)
            second += (mass * centred * centred).sum(-1)
        mean = first / total
        return middle + mean, np.maximum(second / total - mean * mean, 0.0)

    def quantiles(self, levels: Array) -> Array:
        """Return quantiles of the equally weighted mixture, (rows, levels)."""
        members, n_rows, points = self.y.shape
        step = max(1, _CHUNK_NUMBERS // (members * max(len(levels), points)))
        chunks = [
            MonotoneMap(
                self.y[:, start : start + step],
                self.u[:, start : start + step],
                self.slopes[:, start : start + step],
            )._chunk_quantiles(levels)
            for start in range(0, n_rows, step)
        ]
        return np.concatenate(chunks) if chunks else np.empty((0, len(levels)))

    def _chunk_quantiles(self, levels: Array) -> Array:
        low, high = self._brackets(special.ndtri(levels))
        y = 0.5 * (low + high)
        for i in range(_SEARCH_STEPS):
            u, slope = self._inverse(y)
            excess = special.ndtr(u).mean(0) - levels
            density = (np.exp(-0.5 * u * u) * slope).mean(0) / _SQRT_2PI
            low = np.where(excess < 0, y, low)
            high = np.where(excess < 0, high, y)
            newton = y - excess / np.maximum(density, np.finfo(float).tiny)
            inside = (newton > low) & (newton < high) & (i % 2 == 1)
            y = np.where(inside, newton, 0.5 * (low + high))
        return y

    def _brackets(self, u: Array) -> tuple[Array, Array]:
        """Return bounds of the mixture's quantiles, each (rows, levels)."""
        last = self.y.shape[-1] - 1
        lows, highs = [], []
        for level in u:
            # Each member's own quantile lies in one cell, or beyond the points.
            after = (self.u <= level).sum(-1, keepdims=True)
            edges = []
            for place in (after - 1, after):
                inside = place.clip(0, last)
                edge, reached, slope = (
                    np.take_along_axis(part, inside, -1)[..., 0]
                    for part in (self.y, self.u, self.slopes)
                )
                beyond = (place[..., 0] < 0) | (place[..., 0] > last)
                edges.append(np.where(beyond, edge + (level - reached) / slope, edge))
            lows.append(edges[0].min(0))
            highs.append(edges[1].max(0))
        return np.stack(lows, axis=-1), np.stack(highs, axis=-1)

    def _inverse(self, y: Array) -> tuple[Array, Array]:
        """Return u and du/dy at y (rows, levels), each (members, rows, levels)."""
        cell = np.zeros((len(self.y), *y.shape), dtype=np.intp)
        # Few points: counting by halves is a search in all rows at once.
        last = self.y.shape[-1] - 2
        size = 1 << last.bit_length()
        while size := size // 2:
            ahead = np.minimum(cell + size, last)
            reached = np.take_along_axis(self.y, ahead, -1) <= y
            cell = np.where(reached, ahead, cell)
        low = np.take_along_axis(self.y, cell, -1)
        high = np.take_along_axis(self.y, cell + 1, -1)
        clipped = np.clip(y, low, high)
        u, slope = self._cubic(clipped, (low, high), cell)
        outer = np.take_along_axis(self.slopes, cell + (y > high), -1)
        slope = np.where(clipped == y, slope, outer)
        return u + (y - clipped) * outer, slope

    def _cubic(
        self,
        y: Array,
        ends: tuple[Array, Array],
        cell: NDArray[np.intp],
    ) -> tuple[Array, Array]:
        """Return u and du/dy at y within cells (members, rows, levels)."""
        width = np.maximum(ends[1] - ends[0], np.finfo(float).tiny)
        start = np.take_along_axis(self.u, cell, -1)
        # Rounding may leave two points in the wrong order by a little.
        rise = np.maximum(np.take_along_axis(self.u, cell + 1, -1) - start, 0.0)
        secant = rise / width
        first = np.take_along_axis(self.slopes, cell, -1)
        last = np.take_along_axis(self.slopes, cell + 1, -1)
        # Slopes of at most three secants keep the cubic increasing.
        first, last = np.minimum(first, 3 * secant), np.minimum(last, 3 * secant)
        s = (y - ends[0]) / width
        bend, twist = 3 * secant - 2 * first - last, first + last - 2 * secant
        u = start + width * s * (first + s * (bend + s * twist))
        return u, first + s * (2 * bend + 3 * s * twist)
