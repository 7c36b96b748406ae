"""Spirals in two directions, the toy series of latent ODEs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skfunc.datasets._random_state import RandomState, as_generator

# Points of a whole spiral, over three turns, and the first that a series may start at.
_N_POINTS, _TURNS = 500, 3
_FIRST = 100
# Radius per radian, and the radius times the angle left of the spirals that grow as
# they turn clockwise.
_GROWTH, _CLOCKWISE_RADIUS = 0.3, 15.0
# Centre of the clockwise spirals; the others' is its mirror image.
_CENTRE = -5.0


@dataclass(frozen=True)
class Spirals:
    """Series of points on spirals.

    Parameters
    ----------
    times : ndarray of shape (n_times,)
        Radians turned since a series began.
    observed : ndarray of shape (n_series, n_times, 2)
        Points with noise.
    truth : ndarray of shape (n_series, n_times, 2)
        Points without noise.
    future_times : ndarray of shape (n_future,)
        The times after those.
    future : ndarray of shape (n_series, n_future, 2)
        Points there, without noise.
    clockwise : ndarray of bool of shape (n_series,)
        In which direction a spiral turns.

    See Also
    --------
    make_spirals : Draw them.

    Examples
    --------
    >>> from skfunc.datasets import make_spirals
    >>> spirals = make_spirals(3, n_future=10, random_state=0)
    >>> type(spirals).__name__, spirals.future_times.shape
    ('Spirals', (10,))
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
    n_future: int = 100,
    noise_std: float = 0.3,
    random_state: RandomState = None,
) -> Spirals:
    """Draw spirals that turn clockwise or counter-clockwise [1]_.

    Parameters
    ----------
    n_series : int, default=1000
        How many.
    n_times : int, default=100
        Points of each, out of 500 on three turns, from a random one on.
    n_future : int, default=100
        Points that follow them. All lie on the three turns, so that the more are asked
        for, the earlier a series begins.
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
        If points and those that follow are more than the 400 that a series has.

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
    length = n_times + n_future
    if n_times < 1 or n_future < 0 or length > _N_POINTS - _FIRST:
        raise ValueError(
            f"n_times={n_times!r} and n_future={n_future!r} must be at least 1 and 0, "
            f"and at most {_N_POINTS - _FIRST} together"
        )
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
    first = rng.integers(_FIRST, _N_POINTS - length + 1, size=n_series)
    index = first[:, None] + np.arange(length)
    path = np.where(clockwise[:, None, None], inwards[index], outwards[index])
    truth, future = path[:, :n_times], path[:, n_times:]
    observed = truth + noise_std * rng.normal(size=truth.shape)
    times = angles[:length]
    return Spirals(times[:n_times], observed, truth, times[n_times:], future, clockwise)
