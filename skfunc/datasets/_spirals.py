"""Spirals in two directions, the toy series of latent ODEs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skfunc.datasets._random_state import RandomState, as_generator

# Points of a whole spiral, over three turns; a series starts at one of them, the end
# of what it shows and of what follows lying before the spiral's own end.
_N_POINTS, _TURNS = 500, 3
_MARGIN = 100
# Radius per radian, and the radius times the angle left of the spirals that grow as
# they turn clockwise.
_GROWTH, _CLOCKWISE_RADIUS = 0.3, 15.0
# Centre of the clockwise spirals; the others' is its mirror image.
_CENTRE = -5.0


@dataclass(frozen=True)
class Spirals:
    """Series of points on spirals.

    Attributes
    ----------
    times : ndarray of shape (n_times,)
        Radians turned since a series began.
    observed : ndarray of shape (n_series, n_times, 2)
        Points with noise.
    truth : ndarray of shape (n_series, n_times, 2)
        Points without noise.
    future_times : ndarray of shape (n_times,)
        As many times again, after those.
    future : ndarray of shape (n_series, n_times, 2)
        Points there, without noise.
    clockwise : ndarray of bool of shape (n_series,)
        In which direction a spiral turns.
    """

    times: NDArray[np.float64]
    observed: NDArray[np.float64]
    truth: NDArray[np.float64]
    future_times: NDArray[np.float64]
    future: NDArray[np.float64]
    clockwise: NDArray[np.bool_]


def make_spirals(
    n_series: int = 1000,
    *,
    n_times: int = 100,
    noise_std: float = 0.3,
    random_state: RandomState = None,
) -> Spirals:
    """Draw spirals that turn clockwise or counter-clockwise [1]_.

    Parameters
    ----------
    n_series : int, default=1000
        How many.
    n_times : int, default=100
        Points of each, at most 100, out of 500 on three turns; as many follow them.
    noise_std : float, default=0.3
        Standard deviation of the noise of each coordinate.
    random_state : int, RandomState, Generator or None, default=None
        Which.

    Returns
    -------
    Spirals
        The series.

    Raises
    ------
    ValueError
        If `n_times` is more than 100 or less than 1.

    References
    ----------
    .. [1] R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud 2018, Neural Ordinary
       Differential Equations, arXiv 1806.07366, section 5.1.

    Examples
    --------
    >>> from skfunc.datasets import make_spirals
    >>> spirals = make_spirals(4, random_state=0)
    >>> spirals.observed.shape, spirals.future.shape
    ((4, 100, 2), (4, 100, 2))
    """
    if not 1 <= n_times <= _MARGIN:
        raise ValueError(f"n_times must be between 1 and {_MARGIN}; got {n_times!r}")
    rng = as_generator(random_state)
    stop = 2 * np.pi * _TURNS
    angles = np.linspace(0.0, stop, _N_POINTS)
    left = stop + 1.0 - angles
    radius = _CLOCKWISE_RADIUS / left
    inwards = np.stack([radius * np.cos(left) + _CENTRE, radius * np.sin(left)], -1)
    radius = _GROWTH * angles
    outwards = np.stack(
        [radius * np.cos(angles) - _CENTRE, radius * np.sin(angles)], -1
    )
    clockwise = rng.uniform(size=n_series) < 0.5
    first = rng.integers(_MARGIN, _N_POINTS - 2 * _MARGIN, size=n_series)
    index = first[:, None] + np.arange(2 * n_times)
    path = np.where(clockwise[:, None, None], inwards[index], outwards[index])
    truth, future = path[:, :n_times], path[:, n_times:]
    observed = truth + noise_std * rng.normal(size=truth.shape)
    times = angles[: 2 * n_times]
    return Spirals(times[:n_times], observed, truth, times[n_times:], future, clockwise)
