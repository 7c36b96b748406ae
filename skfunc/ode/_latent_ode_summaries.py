"""Numbers that sum a series up, for a classifier beside its latent state."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skfunc._moments import weighted_moments
from skfunc.ode._panel import PaddedSeries

Array = NDArray[np.float64]

# Summaries of each channel; a classifier reads their distances from the mean besides.
PER_CHANNEL = 10
# A summary farther from its mean than so many deviations is moved there.
_FARTHEST = 4.0
# Added to the variance of a channel's times in a series, in units of the window's: the
# slope of few observations close together is drawn towards none.
_LEAST_VARIANCE = 1e-2


def summarize(series: PaddedSeries, context_end: float) -> Array:
    """Return what a series says without its times, (rows, summaries).

    For every channel: whether it was observed, the log of how often, and the mean, the
    least, the largest, the first and the last value, standardized, their standard
    deviation and slope, and when the last was; 0 without any. So what never changes is
    not lost on the way through a latent state, nor what is missing.

    Parameters
    ----------
    series : PaddedSeries
        In units of the window and of the channels' scales.
    context_end : float
        Time up to which series are read.
    """
    read = series.mask & (series.times <= context_end)[:, :, None]
    counts = read.sum(axis=1)
    seen = counts > 0
    values = np.where(read, series.values, 0.0)
    mean = values.sum(axis=1) / np.maximum(counts, 1)
    least = np.where(read, series.values, np.inf).min(axis=1)
    largest = np.where(read, series.values, -np.inf).max(axis=1)
    slots = read.shape[1]
    first = np.argmax(read, axis=1)[:, None]
    last = slots - 1 - np.argmax(read[:, ::-1], axis=1)[:, None]
    clock = np.where(read, series.times[:, :, None], 0.0)
    middle = clock.sum(axis=1) / np.maximum(counts, 1)
    residual = np.where(read, values - mean[:, None], 0.0)
    since = np.where(read, clock - middle[:, None], 0.0)
    moved = (since * residual).sum(axis=1)
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
    parts = [np.where(seen, part, 0.0) for part in parts]
    return np.hstack([seen.astype(float), np.log1p(counts), *parts])


def summary_moments(summaries: Array) -> tuple[Array, Array]:
    """Return means and scales of summaries."""
    return weighted_moments(summaries, np.ones(len(summaries)))


def scaled_summaries(summaries: Array, mean: Array, scale: Array) -> Array:
    """Return standardized summaries, and how far each is from its mean, (rows, 2 n).

    What tells is often that a value is unusual, too low or too high. Divided by the
    root of their number: together they count as one, and a step of Adam moves what is
    read from them no more than if there were one.
    """
    scaled = np.clip((summaries - mean) / scale, -_FARTHEST, _FARTHEST)
    # Of a normal summary, standardized.
    distance = (np.abs(scaled) - np.sqrt(2 / np.pi)) / np.sqrt(1 - 2 / np.pi)
    told = np.hstack([scaled, distance])
    return told / np.sqrt(told.shape[1])
