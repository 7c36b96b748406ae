"""Training of a latent ODE on events alone, and its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skfunc._shapes import Float
from skfunc.nn import (
    LatentODENetwork,
    SeriesBatch,
    series_lower_bound,
)
from skfunc.ode._latent_ode_clock import EventClock
from skfunc.ode._latent_ode_streams import PaddedStreams
from skfunc.training import MemberStack, TrainingOptions, TrainingResult, train

Array = NDArray[np.float64]

_MAX_GRADIENT_NORM = 5.0
# Even parts of the window, by the clock, whose counts the encoder reads.
_BINS = 24
# Draws that judge the held-out events; the same ones after every epoch.
_JUDGING_DRAWS = 4
# Anscombe's root makes the variance of Poisson counts one.
_ANSCOMBE = 3.0 / 8.0


@dataclass(frozen=True)
class EventTraining:
    """How a latent ODE of events is trained."""

    learning_rate: float
    alpha: float
    beta: float
    divergence_warmup: float
    max_iter: int
    batch_size: int
    n_iter_no_change: int
    most_hidden: float
    device: torch.device
    dtype: torch.dtype
    seeds: list[int]


def binned(
    times: Float[Tensor, "members rows slots"],
    mask: Float[Tensor, "members rows slots kinds"],
    window: Float[Tensor, "members rows 2"],
    kept: Float[Tensor, "members rows 1"],
    mean_rates: Sequence[float],
) -> SeriesBatch:
    """Return counts of events in even bins as a series for the encoder.

    Counts of thinned events are divided by the share that was kept, and made to have a
    variance of about one.
    """
    index = (times * _BINS).floor().clamp(0, _BINS - 1).long()
    shape = (*times.shape[:2], _BINS, mask.shape[-1])
    counts = torch.zeros(shape, dtype=mask.dtype, device=mask.device)
    counts = counts.scatter_add(2, index.unsqueeze(-1).expand_as(mask), mask)
    middles = (torch.arange(_BINS, device=mask.device).to(mask) + 0.5) / _BINS
    usual = torch.tensor(mean_rates, dtype=mask.dtype, device=mask.device) / _BINS
    values = 2.0 * (
        torch.sqrt(counts / kept.unsqueeze(-1) + _ANSCOMBE)
        - torch.sqrt(usual + _ANSCOMBE)
    )
    half = 0.5 / _BINS
    watched = (middles + half > window[..., :1]) & (middles - half < window[..., 1:])
    seen = watched.to(mask.dtype)
    return SeriesBatch(
        middles.expand(*times.shape[:2], _BINS),
        values * seen.unsqueeze(-1),
        seen.unsqueeze(-1).expand(shape),
        seen,
        window,
    )


class _EventObjective:
    """Negative lower bound of streams per event; each member has events of its own.

    Batches hold, for every row, the times and the windows by each member's clock.
    """

    def __init__(
        self,
        options: EventTraining,
        network: LatentODENetwork,
        n_folds: int,
        mean_count: float,
    ) -> None:
        self.options, self.mean_count, self.n_folds = options, mean_count, n_folds
        self.latent_size = network.latent_size
        assert network.mean_rates is not None
        self.mean_rates = network.mean_rates
        seed = options.seeds[0]
        self.generator = torch.Generator(options.device).manual_seed(seed)
        judging = torch.Generator().manual_seed(seed)
        draws = torch.randn(
            1, _JUDGING_DRAWS // 2, 1, self.latent_size, generator=judging
        ).double()
        self.judging = torch.cat([draws, -draws], 1).to(options.device, options.dtype)
        self.n_epochs = 0

    def on_epoch_begin(self) -> None:
        self.n_epochs += 1

    def _own(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return times, mask, window and what each member holds out."""
        times, mask, window, fold = batch
        members = torch.arange(len(times), device=times.device)
        own = (members % self.n_folds)[:, None, None]
        held = (fold == own).to(mask.dtype).unsqueeze(-1) * mask
        return times[members, :, members], mask, window[members, :, members], held

    def _uniform(self, like: Tensor) -> Tensor:
        return torch.rand(
            like.shape, generator=self.generator, dtype=like.dtype, device=like.device
        )

    def training_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> Float[Tensor, "members rows"]:
        times, mask, window, held = self._own(batch)
        used = mask - held
        share = 1.0 / self.n_folds
        shown = 1.0 - self._uniform(times[:, :, :1]) * self.options.most_hidden
        seen = (self._uniform(times) < shown).to(mask.dtype).unsqueeze(-1) * used
        read = binned(times, seen, window, shown * (1.0 - share), self.mean_rates)
        noise = torch.randn(
            (*times.shape[:1], 2, times.shape[1], self.latent_size),
            generator=self.generator,
            dtype=times.dtype,
            device=times.device,
        )
        rising = self.options.divergence_warmup * self.options.max_iter
        weight = min(1.0, self.n_epochs / rising) if rising > 0 else 1.0
        weight = weight * self.options.beta
        return self._loss(module, times, used, window, read, noise, weight, 1 - share)

    def held_out_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> Float[Tensor, "members rows"]:
        times, mask, window, held = self._own(batch)
        share = 1.0 / self.n_folds
        kept = torch.full_like(times[:, :, :1], 1.0 - share)
        read = binned(times, mask - held, window, kept, self.mean_rates)
        noise = self.judging.expand(
            len(times), _JUDGING_DRAWS, times.shape[1], self.latent_size
        )
        # Given what was read, the held-out events are new: no divergence.
        return self._loss(module, times, held, window, read, noise, 0.0, share)

    def _loss(
        self,
        module: nn.Module,
        times: Tensor,
        mask: Tensor,
        window: Tensor,
        read: SeriesBatch,
        noise: Tensor,
        weight: float,
        kept_share: float,
    ) -> Tensor:
        assert isinstance(module, LatentODENetwork)
        posterior = module.encoder(read)
        events = SeriesBatch(times, mask, mask, torch.ones_like(times), window)
        bound = series_lower_bound(module, events, posterior, noise, weight, kept_share)
        return -bound / (self.mean_count * kept_share)


def train_events(
    stack: MemberStack,
    streams: PaddedStreams,
    n_kinds: int,
    clocks: Sequence[EventClock],
    fold: NDArray[np.intp],
    n_folds: int,
    options: EventTraining,
    on_epoch: Callable[[TrainingResult], None],
) -> TrainingResult:
    """Train one network for each clock; a member never sees the events of its fold.

    Member m has the fold m modulo their number.

    Parameters
    ----------
    stack : MemberStack
        Of one `LatentODENetwork` without values.
    streams : PaddedStreams
        In units of the user.
    n_kinds : int
        Kinds of events.
    clocks : sequence of EventClock
        One for each member.
    fold : ndarray of int of shape (streams, slots)
        The fold of each event.
    n_folds : int
        How many there are.
    options : EventTraining
        How to train.
    on_epoch : callable
        Called after every epoch.
    """
    members = len(clocks)
    times = np.stack([clock.at(streams.times) for clock in clocks], axis=1)
    window = np.stack([clock.at(streams.windows) for clock in clocks], axis=1)

    def tensor(values: NDArray[Any]) -> Tensor:
        return torch.as_tensor(values, dtype=options.dtype, device=options.device)

    mean_count = max(1.0, streams.real.sum() / len(streams))
    network = stack.module
    assert isinstance(network, LatentODENetwork)
    objective = _EventObjective(options, network, n_folds, mean_count)
    everyone = tensor(np.ones((members, len(streams))))
    patience = options.n_iter_no_change

    def watch(result: TrainingResult) -> bool:
        on_epoch(result)
        # Members end together: each knows its events by its place in the stack.
        return bool(result.n_iter - result.best_epochs.max() >= patience)

    return train(
        stack,
        tensor(stack.initial(options.seeds).numpy()),
        objective.training_loss,
        [tensor(x) for x in (times, streams.mask(n_kinds), window, fold)],
        everyone,
        seeds=options.seeds,
        options=TrainingOptions(
            learning_rate=np.full(members, options.learning_rate),
            alpha=np.full(members, options.alpha),
            max_iter=options.max_iter,
            batch_size=options.batch_size,
            n_iter_no_change=patience,
            max_gradient_norm=_MAX_GRADIENT_NORM,
            stop_on_plateau=False,
        ),
        held_out_weights=everyone,
        held_out_loss=objective.held_out_loss,
        on_epoch_begin=objective.on_epoch_begin,
        on_epoch=watch,
    )
