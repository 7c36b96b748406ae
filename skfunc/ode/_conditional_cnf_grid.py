"""Quantiles and moments of a mixture whose members map a normal increasingly to y."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import special

from skfunc._shapes import Float

Array = NDArray[np.float64]

# The search for a quantile ends so close to its level, or after so many steps; seven or
# eight are usual, 40 halvings leave 1e-12 of a bracket.
_CLOSE, _SEARCH_STEPS = 1e-10, 60
# Numbers in one chunk of rows.
_CHUNK_NUMBERS = 2_000_000
# Nodes and weights in a cell by which moments are integrated (Gauss and Legendre).
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(3)
# What a cell's own rise in u counts for, beside the bend of the map there, when the
# cells to split are chosen: even a straight one is not left high. Moments suffer from
# doubt times width, quantiles from doubt in cells narrower than this, too.
_RISE_SHARE, _LEAST_WIDTH = 0.05, 0.1
# A split leaves at least so large a share of a cell on either side.
_NEAREST_SHARE = 0.3


def doubtful_points(y: Array, u: Array, slopes: Array, n_points: int) -> Array:
    """Return values of y in the cells where the distribution is known least.

    Parameters
    ----------
    y, u, slopes : ndarray of shape (..., points)
        Points in about unit scale, the normal values where they go, and du/dy there; y
        and u increase along the last axis.
    n_points : int
        How many.

    Returns
    -------
    ndarray of shape (..., n_points)
        One in each of the worst cells: where the two ends' tangents meet, since doubt
        is at corners, but not close to an end.
    """
    width, rise, change = (np.diff(part, axis=-1) for part in (y, u, slopes))
    # The cubic is off the straight line by so much at most, and u stays in the cell.
    bend = np.minimum(np.abs(change) * width / 8.0, rise)
    low, high = u[..., :-1], u[..., 1:]
    nearest = np.clip(0.0, low, high)
    doubt = (bend + _RISE_SHARE * rise) * np.exp(-0.5 * nearest * nearest)
    doubt *= _LEAST_WIDTH + width
    cells = np.argpartition(-doubt, n_points, axis=-1)[..., :n_points]
    width, rise, change, start, last = (
        np.take_along_axis(part, cells, -1)
        for part in (width, rise, change, y, slopes[..., 1:])
    )
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = (last * width - rise) / (change * width)
    share = np.where(np.isfinite(share), share, 0.5)
    return start + width * np.clip(share, _NEAREST_SHARE, 1.0 - _NEAREST_SHARE)


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

    @cached_property
    def _cubics(self) -> tuple[Array, Array, Array, Array]:
        """Of each cell: its width, and u' at its start, then the cubic's two bends."""
        width = np.maximum(np.diff(self.y, axis=-1), np.finfo(float).tiny)
        # Rounding may leave two points in the wrong order by a little.
        secant = np.maximum(np.diff(self.u, axis=-1), 0.0) / width
        # Slopes of at most three secants keep the cubic increasing.
        first = np.minimum(self.slopes[..., :-1], 3 * secant)
        last = np.minimum(self.slopes[..., 1:], 3 * secant)
        return width, first, 3 * secant - 2 * first - last, first + last - 2 * secant

    def moments(self) -> tuple[Array, Array]:
        """Return means and variances of each member, (members, rows)."""
        width, linear, bend, twist = self._cubics
        middle = self.y[..., [0, -1]].mean(-1)
        from_middle = self.y[..., :-1] - middle[..., None]
        total, first, second = (np.zeros(middle.shape) for _ in range(3))
        for node, weight in zip(_NODES, _WEIGHTS, strict=True):
            s = 0.5 * (1.0 + node)
            u = self.u[..., :-1] + width * s * (linear + s * (bend + s * twist))
            slope = linear + s * (2 * bend + 3 * s * twist)
            mass = 0.5 * weight * width * slope * np.exp(-0.5 * u * u)
            centred = from_middle + s * width
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
        """Search by Chandrupatla's method, every row and level on its own.

        Chandrupatla 1997, A new hybrid quadratic/bisection algorithm for finding the
        zero of a nonlinear function without using derivatives.
        """
        low, high = (part.ravel() for part in self._brackets(special.ndtri(levels)))
        n_rows, n_levels = self.y.shape[1], len(levels)
        rows = np.repeat(np.arange(n_rows), n_levels)
        aims = np.tile(levels, n_rows)

        def excess(y: Array, rows: NDArray[np.intp], aims: Array) -> Array:
            return special.ndtr(self._normals(y, rows)).mean(0) - aims

        found = 0.5 * (low + high)
        left = np.arange(len(found))
        # The bracket's newer end, its other one, and the point before.
        a, b, c = high, low, low
        f_a, f_b = excess(a, rows, aims), excess(b, rows, aims)
        f_c, share = f_b, np.full(len(a), 0.5)
        for _ in range(_SEARCH_STEPS):
            y = a + share * (b - a)
            f = excess(y, rows[left], aims[left])
            found[left] = y
            same = np.sign(f) == np.sign(f_a)
            b, f_b, c, f_c = (
                np.where(same, b, a),
                np.where(same, f_b, f_a),
                np.where(same, a, b),
                np.where(same, f_a, f_b),
            )
            a, f_a = y, f
            open_ = (np.abs(f) > _CLOSE) & (a != b)
            if not open_.any():
                break
            left, a, b, c, f_a, f_b, f_c = (
                part[open_] for part in (left, a, b, c, f_a, f_b, f_c)
            )
            share = _inverse_quadratic_share(a, b, c, f_a, f_b, f_c)
        return found.reshape(n_rows, n_levels)

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

    def _normals(self, y: Array, rows: NDArray[np.intp]) -> Array:
        """Return u at values y (pairs,) of those rows, (members, pairs)."""
        members, n_rows, points = self.y.shape
        row = np.arange(members)[:, None] * n_rows + rows
        flat, cell = self.y.ravel(), np.zeros(row.shape, dtype=np.intp)
        # Few points: counting by halves is a search in all rows at once.
        last = points - 2
        size = 1 << last.bit_length()
        while size := size // 2:
            ahead = np.minimum(cell + size, last)
            cell = np.where(flat[row * points + ahead] <= y, ahead, cell)
        point, place = row * points + cell, row * (points - 1) + cell
        width, linear, bend, twist = (part.ravel()[place] for part in self._cubics)
        s = (y - flat[point]) / width
        within = np.clip(s, 0.0, 1.0)
        u = width * within * (linear + within * (bend + within * twist))
        outer = self.slopes.ravel()[point + (s > 1.0)]
        return self.u.ravel()[point] + u + (s - within) * width * outer


def _inverse_quadratic_share(
    a: Array, b: Array, c: Array, f_a: Array, f_b: Array, f_c: Array
) -> Array:
    """Return how far from a to b the next trial lies: a half unless a parabola is safe.

    A bracket's end is never tried again: a trial stays a little off both.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        xi, phi = (a - b) / (c - b), (f_a - f_b) / (f_c - f_b)
        safe = (phi * phi < xi) & ((1.0 - phi) ** 2 < 1.0 - xi)
        share = f_a / (f_b - f_a) * f_c / (f_b - f_c)
        share += (c - a) / (b - a) * f_a / (f_c - f_a) * f_b / (f_c - f_b)
    share = np.where(safe, share, 0.5)
    least = np.finfo(float).eps * np.maximum(np.abs(a), np.abs(b))
    least = np.minimum(least / np.maximum(np.abs(b - a), np.finfo(float).tiny), 0.5)
    return np.clip(share, least, 1.0 - least)
