"""What fitted latent ODEs say of when things happen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, ndtri
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skfunc._validation import check_integer, check_real
from skfunc.nn import LatentODENetwork
from skfunc.ode._latent_ode_clock import EventClock
from skfunc.ode._latent_ode_documentation import document_series
from skfunc.ode._latent_ode_event_answers import EventAnswers
from skfunc.ode._latent_ode_methods import SeriesMethods
from skfunc.ode._latent_ode_streams import PaddedStreams, as_streams, padded_streams
from skfunc.ode._latent_ode_training import opposite_draws

Array = NDArray[np.float64]

# Where the highest rate is looked for, and how far above it candidates are drawn.
_GRID, _ABOVE = 257, 1.3


def thinned_events(
    rates: Callable[[Array], Array],
    start: float,
    end: float,
    random_state: np.random.RandomState,
) -> tuple[Array, NDArray[np.intp]]:
    """Draw a Poisson process by thinning.

    Lewis and Shedler 1979, Simulation of nonhomogeneous Poisson processes by thinning.

    Parameters
    ----------
    rates : callable
        Rates (times, kinds) at times.
    start, end : float
        From when to when.
    random_state : RandomState
        What draws.

    Returns
    -------
    times : ndarray of shape (n,)
        In order.
    kinds : ndarray of int of shape (n,)
        Positions of the kinds.
    """
    bound = _ABOVE * float(rates(np.linspace(start, end, _GRID)).sum(axis=1).max())
    while True:
        n = random_state.poisson(bound * (end - start))
        times = np.sort(random_state.uniform(start, end, size=n))
        if not n:
            return times, np.zeros(0, dtype=np.intp)
        levels = np.cumsum(rates(times), axis=1)
        if levels[:, -1].max() <= bound:
            break
        bound = _ABOVE * float(levels[:, -1].max())
    # Below the first level it is the first kind, below the second the second, ...
    drawn = bound * random_state.uniform(size=(n, 1))
    kinds = (drawn >= levels).sum(axis=1)
    kept = kinds < levels.shape[1]
    return times[kept], kinds[kept]


@document_series
class RateMethods(SeriesMethods):
    """Rates of observations and of events, and draws of them."""

    def intensity(
        self, X: Any, times: ArrayLike | None = None, return_std: bool = False
    ) -> Any:
        """Return the rates at which the channels are observed, or events happen.

        Parameters
        ----------
        {events}
        times : array-like of shape (n_times,), default=None
            When. None: the series' own times.
        return_std : bool, default=False
            Also return their standard deviation: how sure the model is of them.

        Returns
        -------
        rate : ndarray of shape (n_series, n_times[, n_channels]), or list
            Posterior means, in observations per unit of time.
        std : ndarray of the same shape, or list
            Only with `return_std`.

        Raises
        ------
        ValueError
            If the model is one of values alone.
        """
        mean, std, lengths = self._rate_moments(X, times)
        rate = self._shaped(mean, lengths, every_channel=True)
        if not return_std:
            return rate
        return rate, self._shaped(std, lengths, every_channel=True)

    def intensity_interval(
        self, X: Any, times: ArrayLike | None = None, coverage: float = 0.9
    ) -> Any:
        """Return a central interval of the rates.

        Parameters
        ----------
        {events}
        times : array-like of shape (n_times,), default=None
            When. None: the series' own times.
        coverage : float, default=0.9
            Probability of the interval, in (0, 1).

        Returns
        -------
        lower : ndarray of shape (n_series, n_times[, n_channels]), or list
            Its lower ends, in observations per unit of time.
        upper : ndarray of the same shape, or list
            Its upper ends.

        Raises
        ------
        ValueError
            If the model is one of values alone, or the coverage is outside (0, 1).
        """
        coverage = check_real("coverage", coverage, 0, 1, inclusive=False)
        middle, std, lengths = self._rate_moments(X, times, logs=True)
        away = ndtri(0.5 + 0.5 * coverage) * std
        return tuple(
            self._shaped(np.exp(middle + side * away), lengths, every_channel=True)
            for side in (-1, 1)
        )

    def cumulative_intensity(self, X: Any, times: ArrayLike | None = None) -> Any:
        """Return how many observations, or events, are expected up to times.

        At a stream's own events this makes it a Poisson process of rate one: the
        differences are exponential, if the model is right.

        Parameters
        ----------
        {events}
        times : array-like of shape (n_times,), default=None
            When. None: the series' own times.

        Returns
        -------
        ndarray of shape (n_series, n_times[, n_channels]), or list
            Posterior means of the rates' integrals from the window's start.

        Raises
        ------
        ValueError
            If the model is one of values alone.
        """
        mean, _, lengths = self._rate_moments(X, times, "integrals")
        return self._shaped(mean, lengths, every_channel=True)

    def sample_events(
        self,
        X: Any = None,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = None,
    ) -> list[Any]:
        """Draw when things happen, by thinning.

        Parameters
        ----------
        X : as in `intensity`, default=None
            Series or streams whose rates to draw from, each in its own window. None:
            new ones out of the prior.
        n_samples : int, default=1
            How many, of each.
        random_state : int, RandomState or None, default=None
            Which.

        Returns
        -------
        list
            `n_samples` arrays of times, in order; or pairs (times, kinds), where there
            are several channels or kinds. With X, such a list for each of its series.

        Raises
        ------
        ValueError
            If the model is one of values alone.
        """
        self._check_rates()
        rng = check_random_state(random_state)
        n_samples = check_integer("n_samples", n_samples)
        noise = torch.as_tensor(rng.normal(size=(n_samples, self._latent_size)))
        if self._of_events:
            answers = self._event_answers()
            clocks, network = answers.clocks, answers.network
            shares = self._member_shares()
            streams = None if X is None else self._event_streams(X)
            starts = answers.starts(noise, streams)
            window = np.array([[0.0, 1.0]]) if streams is None else streams.windows
        else:
            single = self._answers()
            clocks, network = [EventClock.even()], single.network
            shares = np.ones(1)
            series = None if X is None else self._inner(self._read(X, reset=False))
            window = np.array([[0.0, 1.0]])
            starts = noise[None, :, None]
            if series is not None:
                window = self._windows(series)
                starts = single.starts(series, window, noise)
        drawn = []
        for row, (start, end) in enumerate(window):
            own = []
            for s in range(n_samples):
                member = rng.choice(len(clocks), p=shares)
                rates = _rates_along(network, starts[:, s, row : row + 1], member)
                clock = clocks[member]
                first, last = clock.at(np.array([start, end]))
                readings, kinds = thinned_events(rates, first, last, rng)
                own.append(self._outer_events(clock.times(readings), kinds))
            drawn.append(own)
        return drawn[0] if X is None else drawn

    def _outer_events(self, times: Array, kinds: NDArray[np.intp]) -> Any:
        """Return events as users see them."""
        start, end = self.window_
        times = start + times * (end - start)
        if self.n_channels_ == 1:
            return times
        return times, kinds if self.event_kinds_ is None else self.event_kinds_[kinds]

    def _check_rates(self) -> None:
        check_is_fitted(self)
        if self.event_rates_ is None:
            raise ValueError(
                "event rates need a model fitted with poisson=True, or by fit_events"
            )

    def _rate_moments(
        self,
        X: Any,
        times: ArrayLike | None,
        what: str = "rates",
        *,
        logs: bool = False,
    ) -> tuple[Array, Array, list[int] | None]:
        """Return means and deviations of rates or integrals, (rows, times, channels).

        With `logs`, of their logarithms.
        """
        self._check_rates()
        if self._of_events:
            n_rows, wanted, lengths, chunks = self._event_chunks(X, times, what)
        else:
            n_rows, wanted, lengths, chunks = self._series_chunks(X, times, what)
        mean = np.empty((n_rows, wanted.shape[1], self.n_channels_))
        std = np.empty_like(mean)
        unit = np.diff(self.window_)[0] if what == "rates" else 1.0
        shares = np.ones(1)
        if self.clock_shares_ is not None:
            shares = self.clock_shares_[self.clock_shares_ > 0]
        for rows, draws in chunks:
            if logs:
                draws = np.log(np.maximum(draws, np.finfo(float).tiny))
            mean[rows], std[rows] = _stacked_moments(draws, shares)
        # Last: squares of rates in tiny or huge units of time would overflow.
        if logs:
            return mean - np.log(unit), std, lengths
        return mean / unit, std / unit, lengths

    def _series_chunks(
        self, X: Any, times: ArrayLike | None, what: str
    ) -> tuple[int, Array, list[int] | None, Iterator[tuple[slice, Array]]]:
        series, wanted, lengths = self._wanted(X, times)
        windows = self._windows(series)

        def chunks() -> Iterator[tuple[slice, Array]]:
            asked = np.hstack([windows[:, :1], wanted])
            paths = self._answers().paths(series, windows, asked, what=what)
            for rows, draws in paths:
                first = draws[:, :, :1] if what == "integrals" else 0.0
                yield rows, (draws[:, :, 1:] - first)[None]

        return len(series), wanted, lengths, chunks()

    def _event_chunks(
        self, X: Any, times: ArrayLike | None, what: str
    ) -> tuple[int, Array, list[int] | None, Iterator[tuple[slice, Array]]]:
        streams = self._event_streams(X)
        lengths = None
        wanted = streams.times
        if times is None:
            lengths = streams.real.sum(axis=1).tolist()
        else:
            inner = self._checked_times(times)
            if inner.max() > 1.0:
                raise ValueError(
                    "times must not be after the end of the window, "
                    f"{self.window_[1]:g}: nothing is known of the clock there"
                )
            wanted = np.tile(inner, (len(streams), 1))

        chunks = self._event_answers().rates(
            streams, wanted, integrated=what == "integrals"
        )
        return len(streams), wanted, lengths, chunks

    def _event_streams(self, X: Any) -> PaddedStreams:
        """Return checked streams, times and windows in units of the model's window."""
        assert self.event_kinds_ is not None
        streams = as_streams(X)
        windows = streams.windows
        if windows is None:
            windows = np.tile(self.window_, (len(streams), 1))
        start, end = self.window_
        for i, (first, last) in enumerate(windows):
            if first < start or last > end:
                raise ValueError(
                    f"stream {i} has the window ({first:g}, {last:g}), outside of the "
                    f"model's ({start:g}, {end:g})"
                )
        outer = padded_streams(streams, self.event_kinds_, windows)
        return PaddedStreams(
            self._inner_times(outer.times),
            outer.kinds,
            self._inner_times(outer.windows),
        )

    def _event_answers(self) -> EventAnswers:
        network = self._stack().bind(torch.as_tensor(self.parameters_))
        assert isinstance(network, LatentODENetwork)
        noise = opposite_draws(int(self.n_draws), network.latent_size, self.draw_seed_)
        assert self.clock_shares_ is not None
        clocks = self._event_clocks()
        n_folds = len(clocks) // int(np.count_nonzero(self.clock_shares_))
        return EventAnswers(network, clocks, n_folds, noise)

    def _member_shares(self) -> Array:
        """Return the share of every member in the rates."""
        assert self.clock_shares_ is not None
        shares = self.clock_shares_[self.clock_shares_ > 0]
        n_folds = len(self.parameters_) // len(shares)
        return np.repeat(shares / n_folds, n_folds)

    def _event_clocks(self) -> list[EventClock]:
        """Return the clock of each member."""
        assert self.clock_events_ is not None and self.clock_weights_ is not None
        assert self.clock_bandwidths_ is not None
        return [
            EventClock(centres, self.clock_bandwidths_, weights)
            for centres, weights in zip(
                self.clock_events_, self.clock_weights_, strict=True
            )
        ]

    def _event_scores(self, streams: PaddedStreams) -> Array:
        """Return the log of the members' mean bound of the likelihood, (streams,)."""
        bounds = self._event_answers().bounds(streams)
        bounds = logsumexp(bounds, axis=0, b=self._member_shares()[:, None])
        return bounds - streams.real.sum(axis=1) * np.log(np.diff(self.window_)[0])


def _rates_along(
    network: LatentODENetwork, start: Tensor, member: int
) -> Callable[[Array], Array]:
    """Return the rates (times, kinds) of one member's path, a function of times."""
    with torch.no_grad():
        path = network.path(start, 1.0)

    def rates(readings: Array) -> Array:
        at = torch.as_tensor(readings).expand(len(start), 1, -1)
        with torch.no_grad():
            return network.intensity(path.at(at))[member, 0].numpy()

    return rates


def _stacked_moments(draws: Array, shares: Array) -> tuple[Array, Array]:
    """Return means and deviations of draws (members, draws, ...).

    Members of one clock were each trained without their own part of the events. Their
    spread is then that of a delete-a-group jackknife: its variance times their number
    less one. Clocks that disagree widen the deviation as parts of a mixture do.
    """
    by_clock = draws.reshape(len(shares), -1, *draws.shape[1:])
    means = by_clock.mean(axis=2)
    own = means.mean(axis=1)
    mean = np.tensordot(shares, own, 1)
    variance = by_clock.var(axis=2).mean(axis=1)
    variance = variance + means.var(axis=1) * (means.shape[1] - 1)
    variance = np.tensordot(shares, variance + (own - mean) ** 2, 1)
    return mean, np.sqrt(variance)
