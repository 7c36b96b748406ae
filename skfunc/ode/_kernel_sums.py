"""Sums of Gaussian kernels on events, at many times."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicHermiteSpline
from scipy.special import ndtr

Array = NDArray[np.float64]
Marks = tuple[NDArray[np.intp], NDArray[np.intp]]
Kernel = Callable[[Array, NDArray[np.intp], NDArray[np.intp]], Array]

_SQRT_TWO_PI = math.sqrt(2.0 * math.pi)
# Bandwidths beyond which a kernel is zero in double precision, relative to its peak.
_REACH = 8.5
# Points of a table in a bandwidth: cubics between them err by 1e-10 of a peak.
_TABLE_POINTS = 64
# Pairs of a time and an event that are computed at once.
_CHUNK_NUMBERS = 2_000_000


class KernelSums:
    """Kernels of one bandwidth on events in [0, 1], cut at its ends, of mass one each.

    What is summed are pairs of a time and an event that is near; sums at very many
    times are read from a table.

    Parameters
    ----------
    centres : ndarray of shape (n,)
        Events, in order.
    bandwidth : float
        Standard deviation of a kernel.
    """

    def __init__(self, centres: Array, bandwidth: float) -> None:
        self.centres, self.bandwidth = centres, bandwidth
        self._low = ndtr(-centres / bandwidth)
        self._mass = ndtr((1.0 - centres) / bandwidth) - self._low

    def density(self, times: Array, own: Marks | None = None) -> Array:
        """Return the sum of the densities at times.

        Parameters
        ----------
        times : ndarray of shape (m,)
            In [0, 1].
        own : tuple of ndarray of shapes (m,) and (n,), optional
            A mark of each time and of each event: equal ones are left out.
        """
        if own is None and self._worth_a_table(len(times)):
            return self._table(self._densities, self._slopes)(times)
        return self._densities(times, own)

    def cumulative(self, times: Array) -> Array:
        """Return the sum of the distribution functions at times."""
        if self._worth_a_table(len(times)):
            return self._table(self._distributions, self._densities)(times)
        return self._distributions(times)

    def _worth_a_table(self, n_times: int) -> bool:
        return 2 * _TABLE_POINTS / self.bandwidth < n_times

    def _table(
        self, values: Callable[[Array], Array], slopes: Callable[[Array], Array]
    ) -> CubicHermiteSpline:
        n_points = math.ceil(_TABLE_POINTS / self.bandwidth) + 1
        grid = np.linspace(0.0, 1.0, n_points)
        return CubicHermiteSpline(grid, values(grid), slopes(grid))

    def _densities(self, times: Array, own: Marks | None = None) -> Array:
        def kernel(z: Array, time: NDArray[np.intp], event: NDArray[np.intp]) -> Array:
            values = np.exp(-0.5 * z**2) / self._mass[event]
            return values if own is None else values * (own[0][time] != own[1][event])

        return self._near(times, kernel)[0] / (_SQRT_TWO_PI * self.bandwidth)

    def _slopes(self, times: Array) -> Array:
        def kernel(z: Array, time: NDArray[np.intp], event: NDArray[np.intp]) -> Array:
            del time
            return -z * np.exp(-0.5 * z**2) / self._mass[event]

        return self._near(times, kernel)[0] / (_SQRT_TWO_PI * self.bandwidth**2)

    def _distributions(self, times: Array) -> Array:
        def kernel(z: Array, time: NDArray[np.intp], event: NDArray[np.intp]) -> Array:
            del time
            return (ndtr(z) - self._low[event]) / self._mass[event]

        sums, first = self._near(times, kernel)
        # Kernels that lie before are whole.
        whole = np.append(0.0, np.cumsum((1.0 - self._low) / self._mass))
        return sums + whole[first]

    def _near(self, times: Array, kernel: Kernel) -> tuple[Array, NDArray[np.intp]]:
        """Return sums over events near each time, and the first of these."""
        reach = _REACH * self.bandwidth
        first = np.searchsorted(self.centres, times - reach)
        counts = np.searchsorted(self.centres, times + reach) - first
        sums = np.zeros(len(times))
        ends = np.append(0, np.cumsum(counts))
        start = 0
        while start < len(times):
            most = ends[start] + max(_CHUNK_NUMBERS, int(counts[start]))
            stop = int(np.searchsorted(ends, most, side="right")) - 1
            time = np.repeat(np.arange(start, stop), counts[start:stop])
            event = np.arange(ends[start], ends[stop]) + np.repeat(
                first[start:stop] - ends[start:stop], counts[start:stop]
            )
            z = (times[time] - self.centres[event]) / self.bandwidth
            values = kernel(z, time, event)
            sums[start:stop] = np.bincount(time - start, values, stop - start)
            start = stop
        return sums, first
