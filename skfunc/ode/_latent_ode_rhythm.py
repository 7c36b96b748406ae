"""Rhythms of series: the periods that a latent state starts with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gamma

from skfunc._validation import check_option
from skfunc.ode._panel import PaddedSeries

Array = NDArray[np.float64]

# Steps that the solver takes for a turn.
STEPS_PER_TURN = 10.0
# Turns in the window of rotations that make up for rhythms not found. A slow rotation
# is a memory that does not fade.
_SLOW_TURNS = (0.5, 0.25)
# Share of the variation around straight lines that a sine wave must explain, and least
# share of what the best one does, slow movements among them.
_LEAST_SHARE, _LEAST_OF_BEST = 0.15, 0.3
# Chance that white noise has a peak at any of the cycles tried.
_FALSE_ALARM = 1e-3
# Fewer cycles in a window are learned as well without help.
_FEWEST_CYCLES = 2.0
# Cycles are tried this far apart, and peaks must be so many trials apart.
_CYCLES_APART, _PEAK_WIDTH = 0.25, 4
# Observations of a cycle at the most frequent, and of a channel that is looked at.
_SLOTS_PER_CYCLE, _FEWEST_SLOTS = 3.0, 8
# Series looked at, and most cycles tried.
_MOST_SERIES, _MOST_CYCLES = 100, 50


def find_rhythms(
    series: PaddedSeries, most: int, most_cycles: float = _MOST_CYCLES
) -> Array:
    """Return how many cycles strong rhythms go through in a unit of time.

    The least squares periodogram of each channel around a straight line (Lomb 1976,
    Scargle 1982), all series together: a peak counts where one sine wave, of any phase
    in any series, explains a good share of the variation, and more than noise would.

    Parameters
    ----------
    series : PaddedSeries
        Times in units of the window, values standardized.
    most : int
        How many rhythms at most.
    most_cycles : float, default=50
        Cycles in a unit of time at most.

    Returns
    -------
    ndarray of shape (rhythms,)
        Strongest first; empty if there are none.
    """
    if most < 1:
        return np.zeros(0)
    chosen = np.unique(
        np.linspace(0, len(series) - 1, min(len(series), _MOST_SERIES)).round()
    ).astype(int)
    longest = int(series.mask[chosen].max(axis=2).sum(axis=1).max())
    top = min(most_cycles, longest / _SLOTS_PER_CYCLE)
    cycles = np.arange(2 * _CYCLES_APART, top, _CYCLES_APART)
    if not len(cycles):
        return np.zeros(0)
    explained, total, noise = np.zeros(len(cycles)), 0.0, []
    for row in chosen:
        for channel in range(series.values.shape[2]):
            seen = series.mask[row, :, channel] > 0
            t, y = series.times[row, seen], series.values[row, seen, channel]
            if len(t) < _FEWEST_SLOTS or np.ptp(t) == 0:
                continue
            y = y - np.polynomial.Polynomial.fit(t, y, 1)(t)
            explained += _explained(t, y, 2.0 * np.pi * cycles)
            total += float(y @ y)
            noise.append(2.0 / (len(t) - 2))
    if total == 0:
        return np.zeros(0)
    shares = explained / total
    padded = np.pad(shares, _PEAK_WIDTH, constant_values=-np.inf)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * _PEAK_WIDTH + 1)
    # Of noise a sine explains an exponential share, and the mean of many a gamma one.
    by_chance = gamma.isf(_FALSE_ALARM / len(cycles), len(noise)) / len(noise)
    least = max(
        _LEAST_SHARE,
        _LEAST_OF_BEST * float(shares.max()),
        float(by_chance * np.mean(noise)),
    )
    peaks = (shares == around.max(axis=1)) & (shares > least)
    found = np.flatnonzero(peaks & (cycles >= _FEWEST_CYCLES))
    return cycles[found[np.argsort(-shares[found], kind="stable")][:most]]


def starting_turns(series: PaddedSeries, size: int, n_steps: int | None) -> Array:
    """Return the turns in the window of the rotations that a state starts with.

    Parameters
    ----------
    series : PaddedSeries
        Times in units of the window, values standardized.
    size : int
        Width of the state, about half of which starts with rotations.
    n_steps : int or None
        Steps of the solver in the window, which quick rhythms are left out for.
    """
    most = min(size // 2, max(2, size // 4))
    most_cycles = _MOST_CYCLES if n_steps is None else n_steps / STEPS_PER_TURN
    return np.append(find_rhythms(series, most, most_cycles), _SLOW_TURNS)[:most]


def check_periods(periods: Any, latent_size: int) -> None:
    """Raise ValueError if these are no periods for a state of this width."""
    if periods is None:
        return
    if isinstance(periods, str):
        check_option("periods", periods, ("auto",))
        return
    values = np.asarray(periods, dtype=np.float64)
    if (
        values.ndim != 1
        or not (np.isfinite(values) & (values > 0)).all()
        or 2 * len(values) > latent_size
    ):
        raise ValueError(
            "periods must be positive times, no more than half of latent_size="
            f"{latent_size}; got {periods!r}"
        )


def _explained(t: Array, y: Array, rates: Array) -> Array:
    """Return the sum of squares that a sine wave of each rate explains."""
    angles = rates[:, None] * t
    # The origin of time that makes sine and cosine orthogonal on these times.
    shift = 0.5 * np.arctan2(np.sin(2 * angles).sum(1), np.cos(2 * angles).sum(1))
    angles = angles - shift[:, None]
    total = np.zeros(len(rates))
    for wave in (np.cos(angles), np.sin(angles)):
        squares = np.maximum((wave**2).sum(axis=1), 1e-9)
        total += (wave @ y) ** 2 / squares
    return total
