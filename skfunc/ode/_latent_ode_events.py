"""Fits of latent ODEs to streams of events."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from skfunc._validation import check_integer, check_option
from skfunc.ode._latent_ode_clock import CLOCKS, EventClock
from skfunc.ode._latent_ode_documentation import document_series
from skfunc.ode._latent_ode_estimator import _EVENT_ATTRIBUTES, _Runtime
from skfunc.ode._latent_ode_event_stacking import clock_shares
from skfunc.ode._latent_ode_event_training import EventTraining, train_events
from skfunc.ode._latent_ode_rates import RateMethods
from skfunc.ode._latent_ode_streams import PaddedStreams, as_streams
from skfunc.training import TrainingResult, resolve_device, thread_limits

Array = NDArray[np.float64]

# "auto": a step of training for each event, between these, but in no fewer epochs
# than this.
_TRAINING_STEPS, _FEWEST_EPOCHS = (150, 1500), 30
# Streams up to which a fit on the CPU is in double precision.
_FEW_STREAMS = 64
# Share of the epochs over which the divergence's weight rises.
_DIVERGENCE_WARMUP = 0.2
# Events that a clock's kernels are put on; more would cost more than they tell.
_MOST_CENTRES = 2000
# Events in a batch up to which a fit runs on one thread.
_SMALL_FIT = 200_000


@document_series
class EventFit(RateMethods):
    """Training on times alone."""

    def fit_events(
        self,
        streams: Any,
        window: ArrayLike | None = None,
        *,
        n_folds: int = 5,
        clock: str = "auto",
    ) -> Self:
        """Fit the model to streams of events, which have times but no values.

        Each of `n_folds` members is trained without its share of the events, drawn at
        random, and keeps the weights under which those are most likely: a Poisson
        process thinned at random is one whose rate is thinned alike. So even a single
        stream tells how smooth its rate is. Rates are means over the members.

        Parameters
        ----------
        streams : list of array-like, or EventStreams
            The times of each stream, not decreasing; or pairs (times, kinds) with a
            label for every event. One array of numbers is one stream.
        window : array-like of shape (2,) or (n_streams, 2), default=None
            From when to when the streams were watched: one window for all, or one for
            each. None: the parameter `window`; without it, from the first event to
            the last, which makes rates a little too high.
        n_folds : int, default=5
            Members for each clock; at least 2.
        clock : {"auto", "events", "even"}, default="auto"
            How time passes for the state. "events": the faster, the more past events
            are near, by a mixture of kernels whose bandwidths are weighted by the
            likelihood of left-out events; the state then models what remains. "even":
            as it does for all. "auto" fits members by both, and weighs their rates
            (`clock_shares_`) by how likely they make events that they never saw.

        Returns
        -------
        self : LatentODE
            The fitted estimator. It has rates (`intensity`, `sample_events`), codes and
            scores, but no values to predict.

        Raises
        ------
        ValueError
            If there is no event, times decrease, or an event lies outside of its
            window.
        FloatingPointError
            If the loss stays non-finite through three restarts.

        Examples
        --------
        >>> import numpy as np
        >>> from skfunc import LatentODE
        >>> rng = np.random.default_rng(0)
        >>> times = np.sort(rng.uniform(0, 10, size=40))
        >>> model = LatentODE(max_iter=10, random_state=0)
        >>> model = model.fit_events([times], window=(0, 10))
        >>> rate, std = model.intensity([times], [2.0, 5.0], return_std=True)
        >>> rate.shape, std.shape
        ((1, 2), (1, 2))
        """
        self._check_parameters()
        n_folds = check_integer("n_folds", n_folds, 2)
        check_option("clock", clock, ("auto", *CLOCKS))
        given = as_streams(streams)
        self._forget_events()
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self, name):
                delattr(self, name)
        if not any(len(own) for own in given.times):
            raise ValueError("streams hold no event at all")
        if window is None and given.windows is None:
            window = self.window
        if window is not None and np.ndim(window) == 2:
            given = type(given)(list(given), window)
            window = None
        self._set_scales(given, window)
        inner = self._event_streams(given)
        counts = inner.mask(self.n_channels_).sum(axis=(0, 1))
        watched = np.diff(inner.windows).sum()
        self.event_rates_ = np.maximum(counts, 0.5) / watched
        random_state = check_random_state(self.random_state)
        fold: NDArray[np.intp] = np.full(inner.kinds.shape, -1, dtype=np.intp)
        n_events = int(inner.real.sum())
        fold[inner.real] = random_state.permutation(np.arange(n_events) % n_folds)
        self.draw_seed_ = int(random_state.randint(2**31 - 1))
        self.periods_ = None
        self.n_steps_ = self._solver_steps(inner.times.shape[1])
        self._set_clocks(inner, fold, n_folds, clock)
        clocks = self._event_clocks()
        seeds = random_state.randint(2**31 - 1, size=len(clocks)).tolist()
        options = self._event_options(inner, seeds)
        self._runtime = _Runtime()
        with thread_limits(small=options.batch_size * fold.shape[1] < _SMALL_FIT):
            result = train_events(
                self._stack(),
                inner,
                self.n_channels_,
                clocks,
                fold,
                n_folds,
                options,
                self._report_events,
            )
        self._keep_events(result)
        self._weigh_clocks(inner, fold)
        if result.interrupted:
            raise KeyboardInterrupt
        return self

    def _forget_events(self) -> None:
        """Leave nothing of an earlier fit to events."""
        for name in _EVENT_ATTRIBUTES:
            if name in vars(self):
                delattr(self, name)

    def _set_scales(self, streams: Any, window: ArrayLike | None) -> None:
        """Set window and kinds; values have no scale."""
        if window is not None:
            ends = np.asarray(window, dtype=np.float64)
        elif streams.windows is not None:
            ends = np.array([streams.windows.min(), streams.windows.max()])
        else:
            seen = np.concatenate(streams.times)
            ends = np.array([seen.min(), seen.max()])
            if ends[0] == ends[1]:
                # One time alone: any length will do.
                ends = ends[0] + np.array([0.0, max(1.0, abs(ends[0]))])
        if ends.shape != (2,) or not (np.isfinite(ends).all() and ends[0] < ends[1]):
            raise ValueError(
                f"window must be (start, end), start before end; got {window!r}"
            )
        self.window_ = ends
        if streams.kinds is None:
            self.event_kinds_ = np.zeros(1, dtype=np.int64)
        else:
            self.event_kinds_ = np.unique(np.concatenate(streams.kinds))
        self.n_channels_ = len(self.event_kinds_)
        self.times_ = self._drawn_times()
        self.channel_observed_ = np.ones(self.n_channels_, dtype=bool)
        self.channel_mean_ = np.zeros(self.n_channels_)
        self.channel_scale_ = np.ones(self.n_channels_)

    def _set_clocks(
        self,
        streams: PaddedStreams,
        fold: NDArray[np.intp],
        n_folds: int,
        clock: str,
    ) -> None:
        """Set a clock for each member, of the events that it is trained on."""
        times = streams.times.ravel()
        rows = np.repeat(np.arange(len(streams)), fold.shape[1])
        kept = []
        for k in range(n_folds):
            chosen = np.flatnonzero(((fold != k) & streams.real).ravel())
            if len(chosen) > _MOST_CENTRES:
                order = np.random.RandomState(self.draw_seed_).permutation(chosen)
                chosen = np.sort(order[:_MOST_CENTRES])
            kept.append(chosen)
        bandwidths, clocks = np.zeros(0), []
        if clock != "even":
            bandwidths = EventClock.usual_bandwidths(times[min(kept, key=len)])
        # Without kernels both clocks are the same.
        names = np.array(["even"])
        if len(bandwidths):
            names = np.array([name for name in CLOCKS if clock in ("auto", name)])
        if "even" in names:
            clocks += [EventClock.even(len(bandwidths)) for _ in kept]
        if "events" in names:
            clocks += [
                EventClock.of_events(times[own], rows[own], bandwidths) for own in kept
            ]
        self.clock_bandwidths_ = bandwidths
        self.clock_events_ = [one.centres for one in clocks]
        self.clock_weights_ = np.stack([one.weights for one in clocks])
        self.clock_shares_ = np.isin(CLOCKS, names) / len(names)

    def _event_options(self, streams: PaddedStreams, seeds: list[int]) -> EventTraining:
        device = resolve_device(self.device)
        batch_size = self._batch(len(streams))
        epochs = self.max_iter
        if epochs == "auto":
            steps = np.clip(streams.real.sum(), *_TRAINING_STEPS)
            per_epoch = math.ceil(len(streams) / batch_size)
            epochs = max(_FEWEST_EPOCHS, round(steps / per_epoch))
        exact = len(streams) <= _FEW_STREAMS and device.type == "cpu"
        return EventTraining(
            learning_rate=float(self.learning_rate_init),
            alpha=float(self.alpha),
            beta=float(self.beta),
            divergence_warmup=_DIVERGENCE_WARMUP,
            max_iter=int(epochs),
            batch_size=batch_size,
            n_iter_no_change=int(self.n_iter_no_change),
            most_hidden=float(self.observation_dropout),
            device=device,
            dtype=torch.float64 if exact else torch.float32,
            seeds=seeds,
        )

    def _report_events(self, result: TrainingResult) -> None:
        if self.verbose:
            judged = result.validation_losses[-1].mean()
            print(
                f"epoch {result.n_iter}: loss {result.losses[-1].mean():.5f}, "
                f"held out {judged:.5f}"
            )

    def _keep_events(self, result: TrainingResult) -> None:
        self.parameters_ = result.flat.detach().cpu().double().numpy()
        self.n_iter_ = max(1, result.n_iter)
        self.best_iter_ = int(np.median(result.best_epochs))
        self.loss_curve_ = [float(row.mean()) for row in result.losses]
        judged = [-float(row.mean()) for row in result.validation_losses]
        self.validation_scores_ = judged or None
        self.n_retries_ = int(result.n_retries.max())

    def _weigh_clocks(self, streams: PaddedStreams, fold: NDArray[np.intp]) -> None:
        """Set each clock's share by the events that its members never saw."""
        assert self.clock_events_ is not None and self.clock_weights_ is not None
        assert self.clock_shares_ is not None
        rates, masses = self._held_out_rates(streams, fold)
        tried = np.flatnonzero(self.clock_shares_)
        shares = clock_shares(rates, masses)
        unit = np.diff(self.window_)[0]
        logs = np.log(shares @ rates / unit)
        self.held_out_score_ = float((logs.sum() - shares @ masses) / len(logs))
        self.clock_shares_ = np.zeros(len(CLOCKS))
        self.clock_shares_[tried] = shares
        kept = np.repeat(shares > 0, len(self.parameters_) // len(shares))
        self.parameters_ = self.parameters_[kept]
        self.clock_weights_ = self.clock_weights_[kept]
        self.clock_events_ = [self.clock_events_[m] for m in np.flatnonzero(kept)]

    def _held_out_rates(
        self, streams: PaddedStreams, fold: NDArray[np.intp]
    ) -> tuple[Array, Array]:
        """Return rates at events left out, (clocks, events), and how many expected."""
        answers, real = self._event_answers(), streams.real
        n_clocks, n_folds = len(answers.clocks) // answers.n_folds, answers.n_folds
        rates, masses = [], np.zeros(n_clocks)
        for rows, values in answers.rates(streams, streams.times, fold):
            means = values.mean(axis=1).reshape(n_clocks, n_folds, *values.shape[2:])
            i, j = np.nonzero(real[rows])
            own = means[:, fold[rows][i, j], i, j, streams.kinds[rows][i, j]]
            rates.append(np.maximum(own, np.finfo(float).tiny))
        ends = streams.windows[:, 1:]
        for _, values in answers.rates(streams, ends, fold, integrated=True):
            sums = values.mean(axis=1).sum(axis=(1, 2, 3)).reshape(n_clocks, n_folds)
            masses += sums.sum(axis=1)
        # A member tells the rate of all events, of which a fold is its share.
        return np.concatenate(rates, axis=1) / n_folds, masses / n_folds
