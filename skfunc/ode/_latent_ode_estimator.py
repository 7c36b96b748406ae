"""Parameters, fitted state and input of `LatentODE`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from skfunc._validation import (
    check_integer,
    check_option,
    check_real,
    check_shape,
    check_sizes,
)
from skfunc.nn import ACTIVATIONS, LATENT_ENCODERS, LatentODENetwork, draw_module
from skfunc.ode._latent_ode_clock import check_clocks
from skfunc.ode._latent_ode_input import DRAWN_TIMES, SeriesInput
from skfunc.ode._latent_ode_rhythm import STEPS_PER_TURN, check_periods, starting_turns
from skfunc.ode._latent_ode_training import SeriesAnswers, opposite_draws
from skfunc.ode._panel import PaddedSeries
from skfunc.training import MemberStack, resolve_device

Array = NDArray[np.float64]

# "auto": a step of training for each observed value, between these, but in no fewer
# epochs than this.
_TRAINING_STEPS, _FEWEST_EPOCHS = (100, 3000), 30
# "auto": a step of the solver for every two observations of the longest series, which
# could tell of no quicker oscillation, between these; and so many for every turn of the
# rotations that the state starts with.
_SOLVER_STEPS, _FEWEST_STEPS_PER_TURN = (5, 20), 4.0
# "auto": two numbers of the state for each channel, between these.
_LATENT_SIZES = (8, 32)
# "auto": series in a batch; a tenth of all, between these.
_BATCH_SIZES = (32, 128)

# What a fit to events sets besides.
_EVENT_ATTRIBUTES = (
    "event_kinds_",
    "clock_bandwidths_",
    "clock_weights_",
    "clock_events_",
    "clock_shares_",
    "held_out_score_",
)


class _Runtime:
    """What is rebuilt on demand, never stored."""

    def __init__(self) -> None:
        self.stack: MemberStack | None = None


class BaseLatentODE(SeriesInput):
    """What a latent ODE is fitted with, what a fit keeps, how input is read."""

    _runtime: _Runtime
    periods_: Array | None = None
    # Set by `LatentODE.fit_events` alone.
    clock_bandwidths_: Array | None = None
    clock_weights_: Array | None = None
    clock_events_: list[Array] | None = None
    clock_shares_: Array | None = None
    held_out_score_: float | None = None

    def __init__(
        self,
        *,
        times: ArrayLike | None = None,
        n_channels: int = 1,
        window: tuple[float, float] | None = None,
        context_end: float | None = None,
        poisson: bool = False,
        latent_size: int | Literal["auto"] = "auto",
        encoder: str = "gru",
        encoder_size: int = 32,
        hidden_layer_sizes: Sequence[int] = (64, 64),
        decoder_layer_sizes: Sequence[int] = (),
        activation: str = "silu",
        noise: str = "ou",
        periods: ArrayLike | Literal["auto"] | None = "auto",
        n_steps: int | Literal["auto"] = "auto",
        n_draws: int = 32,
        observation_dropout: float = 0.5,
        beta: float = 1.0,
        alpha: float = 0.0,
        batch_size: int | Literal["auto"] = "auto",
        learning_rate_init: float = 2e-2,
        max_iter: int | Literal["auto"] = "auto",
        n_iter_no_change: int = 50,
        early_stopping: bool | Literal["auto"] = "auto",
        validation_fraction: float = 0.1,
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
    ) -> None:
        self.times = times
        self.n_channels = n_channels
        self.window = window
        self.context_end = context_end
        self.poisson = poisson
        self.latent_size = latent_size
        self.encoder = encoder
        self.encoder_size = encoder_size
        self.hidden_layer_sizes = hidden_layer_sizes
        self.decoder_layer_sizes = decoder_layer_sizes
        self.activation = activation
        self.noise = noise
        self.periods = periods
        self.n_steps = n_steps
        self.n_draws = n_draws
        self.observation_dropout = observation_dropout
        self.beta = beta
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.verbose = verbose
        self.random_state = random_state
        self.device = device

    def _check_parameters(self) -> None:
        for name in ("n_channels", "encoder_size", "n_draws"):
            check_integer(name, getattr(self, name))
        check_integer("n_iter_no_change", self.n_iter_no_change)
        for name in ("batch_size", "latent_size", "max_iter", "n_steps"):
            if getattr(self, name) != "auto":
                check_integer(name, getattr(self, name))
        check_sizes("hidden_layer_sizes", self.hidden_layer_sizes)
        check_sizes("decoder_layer_sizes", self.decoder_layer_sizes, allow_empty=True)
        check_option("encoder", self.encoder, LATENT_ENCODERS)
        check_option("activation", self.activation, sorted(ACTIVATIONS))
        check_option("noise", self.noise, ("ou", "white"))
        check_option("early_stopping", self.early_stopping, ("auto", True, False))
        size = self.latent_size
        check_periods(self.periods, _LATENT_SIZES[0] if size == "auto" else size)
        for name in ("poisson", "verbose"):
            check_option(name, getattr(self, name), (True, False))
        for name in ("beta", "alpha"):
            check_real(name, getattr(self, name), 0)
        check_real("observation_dropout", self.observation_dropout, 0, 1)
        check_real("learning_rate_init", self.learning_rate_init, 0, inclusive=False)
        check_real(
            "validation_fraction", self.validation_fraction, 0, 1, inclusive=False
        )
        if self.context_end is not None:
            check_real("context_end", self.context_end)
        if self.window is not None:
            window = np.asarray(self.window, dtype=np.float64)
            if window.shape != (2,) or not window[0] < window[1] < np.inf:
                raise ValueError(
                    "window must be (start, end), start before end; got "
                    f"{self.window!r}"
                )
        resolve_device(self.device)

    @property
    def _latent_size(self) -> int:
        if self.latent_size != "auto":
            return int(self.latent_size)
        return int(np.clip(2 * self.n_channels_, *_LATENT_SIZES))

    def _batch(self, n_series: int) -> int:
        if self.batch_size != "auto":
            return min(int(self.batch_size), n_series)
        return int(np.clip(n_series // 10, *_BATCH_SIZES))

    def _epochs(self, series: PaddedSeries) -> int:
        if self.max_iter != "auto":
            return int(self.max_iter)
        per_epoch = math.ceil(len(series) / self._batch(len(series)))
        steps = np.clip(series.mask.sum(), *_TRAINING_STEPS)
        return max(_FEWEST_EPOCHS, round(steps / per_epoch))

    def _solver_steps(self, n_slots: int) -> int:
        turns = self._turns()
        if self.n_steps != "auto":
            if turns and _FEWEST_STEPS_PER_TURN * max(turns) > self.n_steps:
                window = self.window_[1] - self.window_[0]
                raise ValueError(
                    f"n_steps={self.n_steps} are fewer than four in the period "
                    f"{window / max(turns):g}: the solver could not follow it"
                )
            return int(self.n_steps)
        n_steps = int(np.clip(math.ceil(n_slots / 2), *_SOLVER_STEPS))
        if not turns:
            return n_steps
        return max(n_steps, math.ceil(STEPS_PER_TURN * max(turns) - 1e-9))

    def _starting_periods(self, inner: PaddedSeries) -> Array | None:
        """Return the periods of the rotations that the state starts with."""
        if self.periods is None:
            return None
        if not isinstance(self.periods, str):
            return np.asarray(self.periods, dtype=np.float64)
        n_steps = None if self.n_steps == "auto" else int(self.n_steps)
        turns = starting_turns(inner, self._latent_size, n_steps)
        start, end = self.window_
        # Halves first: the length of the widest windows would overflow.
        return (end / 2 - start / 2) / (turns / 2)

    def _turns(self) -> list[float] | None:
        """Return the turns in the window of the rotations, if there are any."""
        if self.periods_ is None:
            return None
        start, end = self.window_
        return ((end / 2 - start / 2) / (self.periods_ / 2)).tolist()

    def _build_module(self) -> LatentODENetwork:
        rates = self.event_rates_
        return LatentODENetwork(
            self.n_channels_,
            latent_size=self._latent_size,
            encoder=self.encoder,
            encoder_size=int(self.encoder_size),
            hidden_layer_sizes=check_sizes(
                "hidden_layer_sizes", self.hidden_layer_sizes
            ),
            decoder_layer_sizes=check_sizes(
                "decoder_layer_sizes", self.decoder_layer_sizes, allow_empty=True
            ),
            activation=self.activation,
            n_steps=self.n_steps_,
            turns=self._turns(),
            mean_rates=None if rates is None else rates.tolist(),
            has_values=not self._of_events,
            correlated_noise=self.noise == "ou",
            **self._classifier_sizes(),
        )

    def _classifier_sizes(self) -> dict[str, Any]:
        """Return what a classifier's network has besides."""
        return {}

    def _stack(self) -> MemberStack:
        if self._runtime.stack is None:
            self._runtime.stack = MemberStack(self._build_module, draw_module)
        return self._runtime.stack

    def _answers(self) -> SeriesAnswers:
        network = self._stack().bind(torch.as_tensor(self.parameters_))
        assert isinstance(network, LatentODENetwork)
        noise = opposite_draws(int(self.n_draws), network.latent_size, self.draw_seed_)
        return SeriesAnswers(network, self._context_end(), noise)

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        return (
            "n_features_in_",
            "feature_names_in_",
            "n_channels_",
            "times_",
            "window_",
            "channel_observed_",
            "channel_mean_",
            "channel_scale_",
            "event_rates_",
            "parameters_",
            "draw_seed_",
            "n_steps_",
            "periods_",
            "n_iter_",
            "best_iter_",
            "loss_curve_",
            "validation_scores_",
            "n_retries_",
            *_EVENT_ATTRIBUTES,
        )

    def _check_fitted_state(self) -> None:
        """Raise ValueError if loaded attributes do not make a fitted estimator."""
        self._check_parameters()
        n_channels = check_integer("n_channels_", self.n_channels_)
        check_integer("draw_seed_", self.draw_seed_, low=0)
        check_integer("n_steps_", self.n_steps_)
        if hasattr(self, "n_features_in_"):
            n_columns = check_integer("n_features_in_", self.n_features_in_)
            check_shape("times_", self.times_, (n_columns // n_channels,))
        else:
            check_shape("times_", self.times_, (DRAWN_TIMES,))
        check_shape("window_", self.window_, (2,))
        if self.periods_ is not None:
            if not isinstance(self.periods_, np.ndarray) or self.periods_.ndim != 1:
                raise ValueError("periods_ must be a vector or None")
            check_shape("periods_", self.periods_, self.periods_.shape)
            if not (self.periods_ > 0).all():
                raise ValueError("periods_ must be positive")
        for name in ("channel_mean_", "channel_scale_"):
            check_shape(name, getattr(self, name), (n_channels,))
        if (
            not isinstance(self.channel_observed_, np.ndarray)
            or self.channel_observed_.dtype.kind != "b"
            or self.channel_observed_.shape != (n_channels,)
        ):
            raise ValueError("channel_observed_ must be an array of bool per channel")
        if (self.event_rates_ is not None) != (bool(self.poisson) or self._of_events):
            raise ValueError("event_rates_ belong to poisson=True and to events alone")
        if self.event_rates_ is not None:
            check_shape("event_rates_", self.event_rates_, (n_channels,))
        # On the meta device a network costs nothing, however large the file says it is.
        with torch.device("meta"):
            module = self._build_module()
        n_parameters = sum(value.numel() for value in module.parameters())
        n_members = 1
        if self._of_events:
            n_members = check_clocks(self)
        check_shape("parameters_", self.parameters_, (n_members, n_parameters))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what is rebuilt on demand."""
        state = dict(super().__getstate__())
        state.pop("_runtime", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        super().__setstate__(state)
        if hasattr(self, "parameters_"):
            self._runtime = _Runtime()
