"""The clock by which the state of an event process moves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from skfunc._validation import check_shape

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
_SQRT_TWO_PI = math.sqrt(2.0 * math.pi)
# Numbers that one chunk of kernel values holds.
_CHUNK_NUMBERS = 2_000_000
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
        densities = clock._components(times, own)
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

    def _components(
        self,
        times: Array,
        own: NDArray[np.intp] | None = None,
        only: Array | None = None,
    ) -> Array:
        """Return the density of every component at times, (times, components).

        With `own`, kernels on events of the same stream are left out; with `only`,
        components for which it is zero are not computed.
        """
        even = np.ones((len(times), 1))
        if not len(self.centres):
            return even
        parts = []
        step = max(1, _CHUNK_NUMBERS // len(self.centres))
        for first in range(0, len(times), step):
            rows = slice(first, first + step)
            away = times[rows, None] - self.centres
            counted = np.ones(away.shape)
            if own is not None:
                counted = (own[rows, None] != own).astype(float)
            n = np.maximum(counted.sum(axis=1), 1.0)
            chunk = np.empty((len(away), len(self.bandwidths)))
            for j, h in enumerate(self.bandwidths):
                if only is not None and not only[j + 1]:
                    chunk[:, j] = 0.0
                    continue
                # Each kernel is cut at the window's ends, and keeps its mass.
                mass = ndtr((1.0 - self.centres) / h) - ndtr(-self.centres / h)
                kernel = np.exp(-0.5 * (away / h) ** 2) / (_SQRT_TWO_PI * h * mass)
                chunk[:, j] = (kernel * counted).sum(axis=1) / n
            parts.append(chunk)
        return np.hstack([even, np.concatenate(parts)])

    def speed(self, times: Array) -> Array:
        """Return the density at times of any shape."""
        if not len(self.centres):
            return np.ones(times.shape)
        flat = self._components(times.ravel(), only=self.weights) @ self.weights
        return flat.reshape(times.shape)

    def at(self, times: Array) -> Array:
        """Return the clock's reading at times of any shape."""
        flat = np.clip(times.ravel(), 0.0, 1.0)
        reading = self.weights[0] * flat
        if len(self.centres):
            step = max(1, _CHUNK_NUMBERS // len(self.centres))
            for first in range(0, len(flat), step):
                rows = slice(first, first + step)
                away = flat[rows, None] - self.centres
                for h, weight in zip(self.bandwidths, self.weights[1:], strict=True):
                    if not weight:
                        continue
                    low = ndtr(-self.centres / h)
                    high = ndtr((1.0 - self.centres) / h)
                    below = (ndtr(away / h) - low) / (high - low)
                    reading[rows] += weight * below.mean(axis=1)
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
