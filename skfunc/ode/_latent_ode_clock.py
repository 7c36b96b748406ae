"""The clock by which the state of an event process moves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skfunc._validation import check_shape
from skfunc.ode._kernel_sums import KernelSums

Array = NDArray[np.float64]

# How time may pass for a state.
CLOCKS = ("even", "events")
# Bandwidths of the kernels.
_BANDWIDTHS = np.geomspace(1e-6, 0.3, 15)
# Where times repeat they were rounded: no bandwidth below so many steps of that.
_ROUNDING_STEPS = 10.0
# Events from which on there are kernels.
_FEWEST_EVENTS = 10
_EM_STEPS = 200
# Events by which a bandwidth must explain more than its share: a chance pair of close
# events is none. Figueiredo and Jain 2002, Unsupervised learning of finite mixture
# models, drop components so.
_LEAST_EVENTS = 2.0
_LEAST_WEIGHT = 1e-6
# Where the table of the inverse has points: on an even grid, and about every event, in
# bandwidths.
_TABLE = 1001
_AROUND = np.array([-3.0, -2.0, -1.2, -0.6, 0.0, 0.6, 1.2, 2.0, 3.0])


class EventClock:
    """A change of time from [0, 1] to [0, 1].

    Its speed is a density over the window: a mixture of the even one and, around past
    events, of kernels of several bandwidths. A Poisson process stays one under a change
    of time, its rate divided by the speed; where events cluster, the clock gives a
    state the time to follow.

    Parameters
    ----------
    centres : ndarray of shape (n,)
        Events; none for an even clock.
    bandwidths : ndarray of shape (k,)
        Of the kernels.
    weights : ndarray of shape (k + 1,)
        Of the even density, and of each bandwidth; they sum to one.
    """

    def __init__(self, centres: Array, bandwidths: Array, weights: Array) -> None:
        self.centres, self.bandwidths, self.weights = centres, bandwidths, weights
        self._table: tuple[Array, Array] | None = None
        self._kernels: dict[float, KernelSums] = {}

    @classmethod
    def even(cls, n_bandwidths: int = 0) -> EventClock:
        """Return the clock that runs like time itself."""
        return cls(np.zeros(0), np.zeros(n_bandwidths), np.eye(n_bandwidths + 1)[0])

    @staticmethod
    def usual_bandwidths(times: Array) -> Array:
        """Return bandwidths for events; none of them where these are too few."""
        if len(times) < _FEWEST_EVENTS:
            return np.zeros(0)
        bandwidths = _BANDWIDTHS
        gaps = np.diff(np.sort(times))
        if (gaps == 0).any() and (gaps > 0).any():
            least = _ROUNDING_STEPS * gaps[gaps > 0].min()
            bandwidths = bandwidths[bandwidths >= min(least, bandwidths[-1])]
        return bandwidths

    @classmethod
    def of_events(
        cls,
        times: Array,
        streams: NDArray[np.intp],
        bandwidths: Array,
    ) -> EventClock:
        """Return the clock whose weights make events likely that it does not know.

        Expectation maximization of the likelihood of each event under kernels on the
        events of other streams; of a single stream, on its other events.
        """
        if not len(bandwidths):
            return cls.even()
        several = len(np.unique(streams)) > 1
        own = streams if several else np.arange(len(times))
        clock = cls(times, bandwidths, np.zeros(len(bandwidths) + 1))
        densities = clock._unseen(own)
        weights = np.full(densities.shape[1], 1.0 / densities.shape[1])
        least = np.full(len(weights), _LEAST_EVENTS)
        least[0] = 0.0
        for _ in range(_EM_STEPS):
            share = densities * weights
            share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-300)
            counts = np.maximum(share.sum(axis=0) - least, 0.0)
            if not counts.any():
                return cls(times, bandwidths, np.eye(len(weights))[0])
            weights = counts / counts.sum()
        clock.weights = np.where(weights > _LEAST_WEIGHT, weights, 0.0)
        clock.weights /= clock.weights.sum()
        return clock

    def _sums(self, h: float) -> KernelSums:
        if h not in self._kernels:
            self._kernels[h] = KernelSums(np.sort(self.centres), h)
        return self._kernels[h]

    def _unseen(self, own: NDArray[np.intp]) -> Array:
        """Return densities of the components at the centres, (centres, components).

        Kernels on events with the same mark in ``own`` are left out.
        """
        order = np.argsort(self.centres, kind="stable")
        marks = own, own[order]
        _, group, sizes = np.unique(own, return_inverse=True, return_counts=True)
        n = np.maximum(len(own) - sizes[group], 1.0)
        kernels = [self._sums(h).density(self.centres, marks) for h in self.bandwidths]
        return np.column_stack([np.ones(len(own)), *(k / n for k in kernels)])

    def speed(self, times: Array) -> Array:
        """Return the density at times of any shape."""
        if not len(self.centres):
            return np.ones(times.shape)
        flat = times.ravel()
        density = np.full(len(flat), self.weights[0])
        for h, weight in zip(self.bandwidths, self.weights[1:], strict=True):
            if weight:
                density += weight * self._sums(h).density(flat) / len(self.centres)
        return density.reshape(times.shape)

    def at(self, times: Array) -> Array:
        """Return the clock's reading at times of any shape."""
        flat = np.clip(times.ravel(), 0.0, 1.0)
        reading = self.weights[0] * flat
        if len(self.centres):
            for h, weight in zip(self.bandwidths, self.weights[1:], strict=True):
                if weight:
                    below = self._sums(h).cumulative(flat)
                    reading += weight * below / len(self.centres)
        return np.clip(reading, 0.0, 1.0).reshape(times.shape)

    def times(self, readings: Array) -> Array:
        """Return when the clock shows these readings, by a table of its own."""
        used = self.bandwidths[self.weights[1:] > 0]
        if not len(self.centres) or not len(used):
            return readings
        if self._table is None:
            around = (self.centres[:, None, None] + used[:, None] * _AROUND).ravel()
            grid = np.linspace(0.0, 1.0, _TABLE)
            grid = np.unique(np.concatenate([grid, np.clip(around, 0.0, 1.0)]))
            self._table = grid, self.at(grid)
        grid, shown = self._table
        return np.interp(readings, shown, grid)


def check_clocks(model: Any) -> int:
    """Check the clocks of a loaded model of events; return how many there are."""
    kinds, events = model.event_kinds_, model.clock_events_
    bandwidths, shares = model.clock_bandwidths_, model.clock_shares_
    if not isinstance(kinds, np.ndarray) or kinds.shape != (model.n_channels_,):
        raise ValueError("event_kinds_ must be a vector, one for each channel")
    if not isinstance(events, list) or not events:
        raise ValueError("clock_events_ must be a list of arrays")
    if not isinstance(bandwidths, np.ndarray) or bandwidths.ndim != 1:
        raise ValueError("clock_bandwidths_ must be a vector")
    check_shape("clock_bandwidths_", bandwidths, bandwidths.shape)
    check_shape(
        "clock_weights_", model.clock_weights_, (len(events), len(bandwidths) + 1)
    )
    for centres in events:
        if not isinstance(centres, np.ndarray) or centres.ndim != 1:
            raise ValueError("clock_events_ must be a list of vectors")
        check_shape("clock_events_", centres, centres.shape)
    check_shape("clock_shares_", shares, (len(CLOCKS),))
    if (shares < 0).any() or abs(shares.sum() - 1.0) > 1e-9:
        raise ValueError("clock_shares_ must not be negative, and sum to one")
    if len(events) % np.count_nonzero(shares):
        raise ValueError("clock_events_ must be as many for each clock")
    return len(events)
