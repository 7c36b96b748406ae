"""Weighted means and scales that inputs and targets are standardized by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def weighted_moments(
    values: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weighted means and standard deviations of columns.

    A constant column has scale 1; magnitudes from 1e-150 to 1e200 are safe.
    """
    # Dividing by the largest magnitude first keeps the squares finite.
    largest = np.abs(values).max(axis=0)
    largest = np.where(largest > 0, largest, 1.0)
    weights = weights / weights.max()
    unit = values / largest
    mean = np.average(unit, axis=0, weights=weights)
    spread = np.sqrt(np.average((unit - mean) ** 2, axis=0, weights=weights))
    # Below the rounding of the mean, a spread is none.
    varies = spread > 10 * np.finfo(np.float64).eps * np.abs(mean)
    scale = np.where(varies, spread * largest, 1.0)
    # The mean of a constant column is the constant, not its rounded average.
    mean = np.where(np.ptp(values, axis=0) == 0, values[0], mean * largest)
    return mean, np.where(scale > 0, scale, 1.0)


def pooled_moments(
    values: NDArray[np.float64], weights: NDArray[np.float64], n_channels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return moments of the columns of flattened images, one pair for each channel.

    A pixel that is nearly always dark has a tiny deviation of its own: any light there
    would be huge.
    """
    n_pixels = values.shape[1] // n_channels
    pixels = values.reshape(len(values), n_channels, n_pixels).swapaxes(1, 2)
    repeated = np.repeat(weights, n_pixels)
    mean, scale = weighted_moments(pixels.reshape(-1, n_channels), repeated)
    return np.repeat(mean, n_pixels), np.repeat(scale, n_pixels)
