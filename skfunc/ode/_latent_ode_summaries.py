"""Numbers that sum a series up, for a classifier beside its latent state."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from skfunc._moments import weighted_moments
from skfunc.ode._panel import PaddedSeries

Array = NDArray[np.float64]

# Summaries of each channel; a classifier reads their distances from the middle besides.
PER_CHANNEL = 12
# Normal scores at which the quantiles of a summary are kept: close together enough for
# a smooth map, far out enough to tell what is rare in a thousand series.
_SCORES = np.linspace(-3.0, 3.0, 49)
N_QUANTILES, _LEVELS = len(_SCORES), ndtr(_SCORES)
# Added to the variance of a channel's times in a series, in units of the window's: the
# slope of few observations close together is drawn towards none.
_LEAST_VARIANCE = 1e-2
# Share of the time read after which a series nears its end.
_LATE = 0.75


def summarize(series: PaddedSeries, window: Array, context_end: float) -> Array:
    """Return what a series says without its times, (rows, summaries).

    For every channel: whether it was observed, the logs of how often, in all and in the
    last quarter of the window, and the mean, the least, the largest, the first and the
    last value, their standard deviation and slope, when the last was, and the mean in
    the last quarter; NaN without any. So what never changes is not lost on the way
    through a latent state, nor what is missing.

    Parameters
    ----------
    series : PaddedSeries
        In units of the window and of the channels' scales.
    window : ndarray of shape (rows, 2)
        From when to when each series was observed.
    context_end : float
        Time up to which series are read.
    """
    times = series.times
    read = series.mask & (times <= context_end)[:, :, None]
    counts = read.sum(axis=1)
    seen = counts > 0
    values = np.where(read, series.values, 0.0)
    mean = values.sum(axis=1) / np.maximum(counts, 1)
    least = np.where(read, series.values, np.inf).min(axis=1)
    largest = np.where(read, series.values, -np.inf).max(axis=1)
    slots = read.shape[1]
    first = np.argmax(read, axis=1)[:, None]
    last = slots - 1 - np.argmax(read[:, ::-1], axis=1)[:, None]
    clock = np.where(read, times[:, :, None], 0.0)
    middle = clock.sum(axis=1) / np.maximum(counts, 1)
    residual = np.where(read, values - mean[:, None], 0.0)
    since = np.where(read, clock - middle[:, None], 0.0)
    moved = (since * residual).sum(axis=1)
    start, end = window[:, :1], np.minimum(window[:, 1:], context_end)
    late = read & (times >= start + _LATE * (end - start))[:, :, None]
    late_counts = late.sum(axis=1)
    late_mean = np.where(late, values, 0.0).sum(axis=1) / np.maximum(late_counts, 1)
    parts = [
        mean,
        least,
        largest,
        np.take_along_axis(values, first, axis=1)[:, 0],
        np.take_along_axis(values, last, axis=1)[:, 0],
        np.sqrt((residual**2).sum(axis=1) / np.maximum(counts, 1)),
        moved / ((since**2).sum(axis=1) + _LEAST_VARIANCE * np.maximum(counts, 1)),
        np.take_along_axis(clock, last, axis=1)[:, 0],
    ]
    parts = [np.where(seen, part, np.nan) for part in parts]
    parts.append(np.where(late_counts > 0, late_mean, np.nan))
    amounts = [seen.astype(float), np.log1p(counts), np.log1p(late_counts)]
    return np.hstack([*amounts, *parts])


def summary_quantiles(summaries: Array) -> Array:
    """Return quantiles of the summaries that are not missing, (N_QUANTILES, n)."""
    quantiles = np.zeros((N_QUANTILES, summaries.shape[1]))
    for j, column in enumerate(summaries.T):
        known = column[np.isfinite(column)]
        if len(known):
            quantiles[:, j] = np.quantile(known, _LEVELS)
    return quantiles


def normal_scores(summaries: Array, quantiles: Array) -> Array:
    """Return normal scores of summaries, and how far each is from 0, (rows, 2 n).

    A monotone map makes a summary normal, whatever its tails. What tells is often that
    a value is unusual, too low or too high. A missing summary is in the middle, at 0,
    and as far from there as others are on average.
    """
    scores = np.zeros_like(summaries)
    for j, column in enumerate(summaries.T):
        known = np.isfinite(column)
        knots = quantiles[:, j]
        # Of equal quantiles the middle one, so that a frequent value is not far out.
        above = np.interp(column[known], knots, _LEVELS)
        below = 1.0 - np.interp(-column[known], -knots[::-1], 1.0 - _LEVELS[::-1])
        scores[known, j] = ndtri(0.5 * (above + below))
    # The mean distance of a normal number.
    typical = np.sqrt(2.0 / np.pi)
    distance = np.where(np.isfinite(summaries), np.abs(scores) - typical, 0.0)
    return np.hstack([scores, distance])


def summary_moments(scores: Array) -> tuple[Array, Array]:
    """Return means and scales of columns."""
    return weighted_moments(scores, np.ones(len(scores)))
