"""What a latent ODE that was trained on events says of streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor

from skfunc._shapes import Float
from skfunc.nn import LatentODENetwork, SeriesBatch, series_importance_bound
from skfunc.ode._latent_ode_clock import EventClock
from skfunc.ode._latent_ode_event_training import binned
from skfunc.ode._latent_ode_streams import PaddedStreams

Array = NDArray[np.float64]

# Numbers in one chunk's states.
_CHUNK_NUMBERS = 2_000_000


class EventAnswers:
    """What trained members say of streams, in float64.

    Parameters
    ----------
    network : LatentODENetwork
        With the parameters of all members bound.
    clocks : sequence of EventClock
        Of the members.
    n_folds : int
        Folds of the events; member m was trained without fold m modulo their number.
    noise : Tensor of shape (draws, size)
        Draws shared by all streams.
    """

    def __init__(
        self,
        network: LatentODENetwork,
        clocks: Sequence[EventClock],
        n_folds: int,
        noise: Tensor,
    ) -> None:
        assert network.mean_rates is not None
        self.network, self.clocks, self.noise = network, clocks, noise
        self.n_folds, self.mean_rates = n_folds, network.mean_rates
        self.n_kinds = len(network.mean_rates)

    def _by_clocks(self, times: Array) -> Tensor:
        return torch.as_tensor(np.stack([clock.at(times) for clock in self.clocks]))

    def _mask(self, streams: PaddedStreams) -> Tensor:
        mask = torch.as_tensor(streams.mask(self.n_kinds)).double()
        return mask.expand(len(self.clocks), *mask.shape)

    def _read(
        self, streams: PaddedStreams, fold: NDArray[np.intp] | None = None
    ) -> SeriesBatch:
        """Return streams as read by the encoders; with `fold`, without each's own."""
        mask, kept = self._mask(streams), 1.0
        if fold is not None:
            own = np.arange(len(self.clocks)) % self.n_folds
            seen = torch.as_tensor(fold != own[:, None, None])
            mask, kept = mask * seen.unsqueeze(-1), 1.0 - 1.0 / self.n_folds
        share = torch.full((*mask.shape[:2], 1), kept, dtype=mask.dtype)
        times, window = self._by_clocks(streams.times), self._by_clocks(streams.windows)
        return binned(times, mask, window, share, self.mean_rates)

    def starts(
        self, noise: Tensor, streams: PaddedStreams | None
    ) -> Float[Tensor, "members draws rows size"]:
        """Return initial states of streams, or of the prior, for draws of noise."""
        noise = noise[None, :, None]
        if streams is None:
            return noise.expand(len(self.clocks), -1, -1, -1)
        with torch.no_grad():
            return self.network.encoder(self._read(streams)).starts(noise)

    def means(self, streams: PaddedStreams) -> Array:
        """Return the posterior means of initial states, (members, streams, size)."""
        with torch.no_grad():
            return self.network.encoder(self._read(streams)).mean.numpy()

    def bounds(self, streams: PaddedStreams) -> Array:
        """Return each stream's importance-weighted bound, (members, streams)."""
        chunks = [self._bounds(streams[rows]) for rows in self._rows(streams, 1)]
        return np.concatenate(chunks, axis=1)

    def _bounds(self, streams: PaddedStreams) -> Array:
        mask, parts, n_draws = self._mask(streams), [], len(self.noise)
        times, window = self._by_clocks(streams.times), self._by_clocks(streams.windows)
        events = SeriesBatch(times, mask, mask, torch.ones_like(times), window)
        with torch.no_grad():
            posterior = self.network.encoder(self._read(streams))
            # A mean of importance weights is a mean of those of its parts.
            for noise in self.noise.split(self._per_chunk(streams.times.size)):
                shape = (len(self.clocks), len(noise), *posterior.mean.shape[1:])
                drawn = noise.reshape(1, len(noise), 1, -1).expand(shape)
                bound = series_importance_bound(self.network, events, posterior, drawn)
                parts.append(bound.numpy() + np.log(len(noise) / n_draws))
        # Rates are per unit of the clocks; densities are wanted per unit of time.
        return logsumexp(parts, axis=0) + self._log_speeds(streams)

    def _log_speeds(self, streams: PaddedStreams) -> Array:
        parts = []
        for clock in self.clocks:
            logs = np.where(streams.real, np.log(clock.speed(streams.times)), 0.0)
            parts.append(logs.sum(axis=1))
        return np.stack(parts)

    def _per_chunk(self, n_times: int) -> int:
        """Return how many draws, or streams, of so many times make a chunk."""
        # A state, and the values and slopes at both ends of its step.
        per_time = 5 * self.network.latent_size + self.n_kinds
        slots = max(n_times, self.network.n_steps)
        return max(1, _CHUNK_NUMBERS // (len(self.clocks) * slots * per_time))

    def _rows(self, streams: PaddedStreams, n_draws: int) -> Iterator[slice]:
        size = self._per_chunk(n_draws * streams.times.shape[1])
        for first in range(0, len(streams), size):
            yield slice(first, first + size)

    def rates(
        self,
        streams: PaddedStreams,
        times: Array,
        fold: NDArray[np.intp] | None = None,
        *,
        integrated: bool = False,
    ) -> Iterator[tuple[slice, Array]]:
        """Yield chunks of rates at times, or of their integrals.

        Parameters
        ----------
        streams : PaddedStreams
            What is known.
        times : ndarray of shape (streams, times)
            When.
        fold : ndarray of int of shape (streams, slots), optional
            Of each event; members do not read their own then.
        integrated : bool, default=False
            Whether to integrate from each stream's own start.

        Yields
        ------
        rows : slice
            Some of the streams.
        values : ndarray of shape (members, draws, rows, times, kinds)
            Per unit of time.
        """
        for rows in self._rows(streams, len(self.noise)):
            own = None if fold is None else fold[rows]
            yield rows, self._rates(streams[rows], times[rows], own, integrated)

    def _rates(
        self,
        streams: PaddedStreams,
        times: Array,
        fold: NDArray[np.intp] | None,
        integrated: bool,
    ) -> Array:
        draws, rows, n_times = len(self.noise), *times.shape
        shape = (len(self.clocks), draws, rows, n_times, self.n_kinds)
        values = np.empty(shape)

        def repeated(x: Tensor) -> Tensor:
            return x.unsqueeze(1).expand(-1, draws, -1, -1).flatten(1, 2)

        with torch.no_grad():
            posterior = self.network.encoder(self._read(streams, fold))
            starts = posterior.starts(self.noise[None, :, None])
            path = self.network.path(starts.flatten(1, 2), 1.0)
            if integrated:
                integral = path.integral_of(self.network.intensity)
                first = integral.at(repeated(self._by_clocks(streams.windows)))[
                    :, :, :1
                ]
            size = self._per_chunk(draws * rows)
            for start in range(0, n_times, size):
                part = slice(start, start + size)
                wanted = repeated(self._by_clocks(times[:, part]))
                if integrated:
                    y = integral.at(wanted) - first
                else:
                    y = self.network.intensity(path.at(wanted))
                values[:, :, :, part] = y.unflatten(1, (draws, rows)).numpy()
        if integrated:
            return values
        speeds = np.stack([clock.speed(times) for clock in self.clocks])
        return values * speeds[:, None, :, :, None]
