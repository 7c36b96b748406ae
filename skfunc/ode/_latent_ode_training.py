"""Training of a latent ODE, and its answers for padded series."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from skfunc._shapes import Float
from skfunc.nn import (
    LatentODENetwork,
    SeriesBatch,
    series_importance_bound,
    series_lower_bound,
)
from skfunc.ode._panel import PaddedSeries
from skfunc.training import MemberStack, TrainingOptions, TrainingResult, train

Array = NDArray[np.float64]

# Steepest gradient, against a rare series far from the others.
_MAX_GRADIENT_NORM = 5.0
# Numbers in one chunk's states while series are predicted.
_CHUNK_NUMBERS = 2_000_000
# Draws that judge the held-out series; the same ones after every epoch.
_JUDGING_DRAWS = 4


@dataclass(frozen=True)
class SeriesTraining:
    """How a latent ODE is trained."""

    learning_rate: float
    alpha: float
    beta: float
    divergence_warmup: float
    max_iter: int
    batch_size: int
    n_iter_no_change: int
    context_end: float
    most_hidden: float
    label_weight: float
    device: torch.device
    dtype: torch.dtype
    seed: int


@dataclass(frozen=True)
class Labels:
    """What a classifier learns besides the series.

    Attributes
    ----------
    positions : ndarray of int of shape (rows,)
        Classes.
    summaries : ndarray of shape (rows, summaries)
        Standardized numbers that the classes are read from besides the latent state.
    left_out : float
        Share of them, and of hidden units, that are left out in a step of training.
    """

    positions: NDArray[np.intp]
    summaries: Array
    left_out: float


class _Objective:
    """Negative lower bound of series per observed value, its divergence warming up.

    With labels, their weighted cross-entropy is added; held-out series are then judged
    by it alone.
    """

    def __init__(
        self,
        options: SeriesTraining,
        latent_size: int,
        mean_count: float,
        left_out: float,
    ) -> None:
        self.options, self.mean_count = options, mean_count
        self.left_out = left_out
        self.latent_size = latent_size
        self.generator = torch.Generator(options.device).manual_seed(options.seed)
        self.lags = torch.Generator().manual_seed(options.seed)
        judging = torch.Generator().manual_seed(options.seed)
        draws = torch.randn(
            1, _JUDGING_DRAWS // 2, 1, latent_size, generator=judging
        ).double()
        # Pairs of opposite draws.
        self.judging = torch.cat([draws, -draws], 1).to(options.device, options.dtype)
        self.n_epochs = 0

    def on_epoch_begin(self) -> None:
        self.n_epochs += 1

    def _lag(self, series: SeriesBatch) -> int:
        """Draw a lag, of 1 slot or of all as likely as of any share between."""
        most = math.log(max(2, series.times.shape[-1]))
        drawn = torch.rand((), generator=self.lags)
        return int(math.exp(most * float(drawn)))

    def _series(self, batch: Sequence[Tensor]) -> SeriesBatch:
        times, values, mask, window = batch[:4]
        read = (times <= self.options.context_end).to(times.dtype)
        return SeriesBatch(times, values, mask, read, window).trimmed()

    def _with_gaps(self, series: SeriesBatch) -> SeriesBatch:
        """Hide some observations from the encoder, a share of its own for each row."""
        share = self._uniform(series.read[:, :, :1]) * self.options.most_hidden
        seen = self._uniform(series.read) >= share
        return series._replace(read=series.read * seen)

    def _thinned(self, x: Tensor) -> Tensor:
        """Leave out some of the numbers; the others count for them."""
        return x * (self._uniform(x) >= self.left_out) / (1.0 - self.left_out)

    def _uniform(self, like: Tensor) -> Tensor:
        return torch.rand(
            like.shape, generator=self.generator, dtype=like.dtype, device=like.device
        )

    def training_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> Float[Tensor, "members rows"]:
        series = self._with_gaps(self._series(batch))
        members, rows = series.times.shape[:2]
        noise = torch.randn(
            (members, 1, rows, self.latent_size),
            generator=self.generator,
            dtype=series.times.dtype,
            device=series.times.device,
        )
        rising = self.options.divergence_warmup * self.options.max_iter
        weight = min(1.0, self.n_epochs / rising) if rising > 0 else 1.0
        bound, logs = self._terms(
            module,
            batch,
            series,
            noise,
            weight * self.options.beta,
            self._lag(series),
            self._thinned,
        )
        # Every head learns by itself.
        return -bound - self.options.label_weight * logs.mean(1)

    def held_out_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> Float[Tensor, "members rows"]:
        series = self._series(batch)
        members, rows = series.times.shape[:2]
        noise = self.judging.expand(members, _JUDGING_DRAWS, rows, self.latent_size)
        bound, logs = self._terms(module, batch, series, noise, self.options.beta)
        if len(batch) == 4:
            return -bound
        # The probability of a label is its mean over heads and draws.
        return math.log(logs.shape[1]) - logs.logsumexp(1)

    def _terms(
        self,
        module: nn.Module,
        batch: Sequence[Tensor],
        series: SeriesBatch,
        noise: Tensor,
        weight: float,
        lag: int = 0,
        dropout: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the bound per observed value, and log probabilities of the labels.

        The latter are those of every head for every draw, (members, heads * draws,
        rows).
        """
        assert isinstance(module, LatentODENetwork)
        posterior = module.encoder(series)
        bound = series_lower_bound(
            module, series, posterior, noise, weight, learning_lag=lag
        )
        bound = bound / self.mean_count
        if len(batch) == 4:
            return bound, torch.zeros_like(bound).unsqueeze(1)
        positions, summaries = batch[4:]
        logits = module.class_logits(posterior.starts(noise), summaries, dropout)
        logs = functional.log_softmax(logits, -1)
        index = positions[:, None, :, None].expand(*logs.shape[:-1], 1)
        return bound, logs.gather(-1, index).squeeze(-1)


def train_series(
    stack: MemberStack,
    latent_size: int,
    series: PaddedSeries,
    window: Array,
    held_out: NDArray[np.bool_],
    options: SeriesTraining,
    on_epoch: Callable[[TrainingResult], bool],
    labels: Labels | None = None,
) -> TrainingResult:
    """Train one network on standardized series.

    Parameters
    ----------
    stack : MemberStack
        Of one `LatentODENetwork`.
    latent_size : int
        Width of its state.
    series : PaddedSeries
        Times in units of the window, values standardized.
    window : ndarray of shape (rows, 2)
        From when to when each series was observed.
    held_out : ndarray of bool of shape (rows,)
        Series that judge; none trains to the end.
    options : SeriesTraining
        How to train.
    on_epoch : callable
        Called after every epoch; True ends the training.
    labels : Labels, optional
        For a classifier.
    """

    def tensor(values: NDArray[Any]) -> Tensor:
        kind = torch.long if values.dtype.kind in "iu" else options.dtype
        return torch.as_tensor(values, dtype=kind, device=options.device)

    mean_count = max(1.0, series.mask.sum() / len(series))
    left_out = 0.0 if labels is None else labels.left_out
    objective = _Objective(options, latent_size, mean_count, left_out)
    judges = tensor(held_out[None].astype(float))
    data = [series.times, series.values, series.mask, window]
    if labels is not None:
        data += [labels.positions, labels.summaries]
    return train(
        stack,
        tensor(stack.initial([options.seed]).numpy()),
        objective.training_loss,
        [tensor(x) for x in data],
        1.0 - judges,
        seeds=[options.seed],
        options=TrainingOptions(
            learning_rate=np.array([options.learning_rate]),
            alpha=np.array([options.alpha]),
            max_iter=options.max_iter,
            batch_size=options.batch_size,
            n_iter_no_change=options.n_iter_no_change,
            max_gradient_norm=_MAX_GRADIENT_NORM,
            stop_on_plateau=bool(held_out.any()),
        ),
        held_out_weights=judges if held_out.any() else None,
        held_out_loss=objective.held_out_loss,
        on_epoch_begin=objective.on_epoch_begin,
        on_epoch=on_epoch,
    )


class SeriesAnswers:
    """What a trained network says of standardized series, in float64.

    Parameters
    ----------
    network : LatentODENetwork
        With the trained parameters bound.
    context_end : float
        Time up to which series are read.
    noise : Tensor of shape (draws, size)
        Draws shared by all series, so that one's answer does not depend on others.
    """

    def __init__(
        self, network: LatentODENetwork, context_end: float, noise: Tensor
    ) -> None:
        self.network, self.context_end, self.noise = network, context_end, noise

    def _chunks(
        self, series: PaddedSeries, window: Array, n_times: int
    ) -> Iterator[tuple[slice, SeriesBatch]]:
        per_time = self.network.latent_size * 4 + series.values.shape[2]
        slots = max(n_times, series.times.shape[1], self.network.n_steps)
        per_row = len(self.noise) * slots * per_time
        size = max(1, _CHUNK_NUMBERS // per_row)
        for start in range(0, len(series), size):
            rows = slice(start, start + size)
            parts = (series.times, series.values, series.mask, window)
            times, values, mask, ends = (
                torch.as_tensor(x[rows], dtype=torch.float64).unsqueeze(0)
                for x in parts
            )
            read = (times <= self.context_end).double()
            yield rows, SeriesBatch(times, values, mask, read, ends)

    def starts(self, series: PaddedSeries, window: Array, noise: Tensor) -> Tensor:
        """Return initial states, (1, draws, rows, size), for draws of noise."""
        with torch.no_grad():
            parts = [
                self.network.encoder(batch).starts(noise[None, :, None])
                for _, batch in self._chunks(series, window, 1)
            ]
        return torch.cat(parts, 2)

    def means(self, series: PaddedSeries, window: Array) -> Array:
        """Return the posterior means of initial states, (rows, size)."""
        with torch.no_grad():
            parts = [
                self.network.encoder(batch).mean[0].numpy()
                for _, batch in self._chunks(series, window, 1)
            ]
        return np.concatenate(parts)

    def bounds(self, series: PaddedSeries, window: Array) -> Array:
        """Return the importance-weighted bound of every series, (rows,)."""
        parts = []
        with torch.no_grad():
            for _, batch in self._chunks(series, window, 1):
                posterior = self.network.encoder(batch)
                shape = (1, *self.noise.shape[:1], *posterior.mean.shape[1:])
                noise = self.noise.reshape(1, len(self.noise), 1, -1).expand(shape)
                bound = series_importance_bound(self.network, batch, posterior, noise)
                parts.append(bound[0].numpy())
        return np.concatenate(parts)

    def class_probabilities(
        self, series: PaddedSeries, window: Array, summaries: Array
    ) -> Array:
        """Return probabilities by every head and draw, (heads * draws, rows, c)."""
        parts = []
        with torch.no_grad():
            for rows, batch in self._chunks(series, window, 1):
                starts = self.network.encoder(batch).starts(self.noise[None, :, None])
                told = torch.as_tensor(summaries[rows]).unsqueeze(0)
                logits = self.network.class_logits(starts, told)
                parts.append(torch.softmax(logits, -1)[0].numpy())
        return np.concatenate(parts, axis=1)

    def paths(
        self,
        series: PaddedSeries,
        window: Array,
        times: Array,
        noise: Tensor | None = None,
        *,
        what: str = "values",
    ) -> Iterator[tuple[slice, Array]]:
        """Yield chunks of posterior paths at times (rows, times).

        Each is (draws, rows, times, channels): observations' means ("values"), event
        rates ("rates"), or the integrals of those from the window's start
        ("integrals").
        """
        noise = self.noise if noise is None else noise
        with torch.no_grad():
            for rows, batch in self._chunks(series, window, times.shape[1]):
                starts = self.network.encoder(batch).starts(noise[None, :, None])[0]
                yield rows, self.at(starts, times[rows], what=what)

    def observations(
        self,
        series: PaddedSeries,
        window: Array,
        times: Array,
        noise: Tensor | None = None,
        seed: int | None = None,
    ) -> Iterator[tuple[slice, Array, Array]]:
        """Yield chunks of what can be said of values at times (rows, times).

        Each is the means for every draw, (draws, rows, times, channels), and the
        variances around them, (rows, times, channels). With a seed the means are draws
        of noise that lasts as well, the same ones for all series.
        """
        noise = self.noise if noise is None else noise
        normals = None
        slots, n_times = series.times.shape[1], times.shape[1]
        if seed is not None:
            rng = np.random.default_rng(seed)
            shape = (len(noise), series.values.shape[2])
            at_times = rng.normal(size=(n_times, *shape))
            # Slots lead, so that the first ones do not depend on how many there are.
            lasting, white = np.moveaxis(rng.normal(size=(slots, 2, *shape)), 1, 0)
            drawn = np.concatenate([lasting, at_times, white])
            normals = torch.as_tensor(np.moveaxis(drawn, 0, 1)[None, :, None])
        with torch.no_grad():
            for rows, batch in self._chunks(series, window, n_times + slots):
                starts = self.network.encoder(batch).starts(noise[None, :, None])
                wanted = torch.as_tensor(times[rows]).unsqueeze(0)
                told = None
                if normals is not None:
                    told = normals.expand(-1, -1, starts.shape[2], -1, -1)
                mean, variance = self.network.observations(starts, batch, wanted, told)
                yield rows, mean[0].numpy(), variance[0].numpy()

    def at(self, starts: Tensor, times: Array, *, what: str = "values") -> Array:
        """Return paths from states (draws, rows, size) at times (rows, times)."""
        draws, rows, _ = starts.shape
        wanted = torch.as_tensor(times, dtype=torch.float64)
        wanted = wanted.expand(draws, *wanted.shape).flatten(0, 1).unsqueeze(0)
        end = float(times.max()) if times.size else 1.0
        with torch.no_grad():
            path = self.network.path(starts.flatten(0, 1).unsqueeze(0), max(end, 1.0))
            if what == "integrals":
                y = path.integral_of(self.network.intensity).at(wanted)
            elif what == "rates":
                y = self.network.intensity(path.at(wanted))
            else:
                y = self.network.decode(path.at(wanted))
        return y[0].unflatten(0, (draws, rows)).numpy()

    def noise_draws(self, times: Array, normals: Array) -> Array:
        """Return draws of noise at times (times,), out of (2, draws, times, channels).

        The first half makes what lasts, the second white noise.
        """
        noise = self.network.noise
        lasting, white = torch.as_tensor(normals)[:, None, :, None]
        with torch.no_grad():
            drawn = torch.sqrt(noise.white_variance()).reshape(-1) * white
            if noise.correlated:
                drawn = drawn + noise.draw(torch.as_tensor(times)[None, None], lasting)
        return drawn[0, :, 0].numpy()


def opposite_draws(n_draws: int, size: int, seed: int) -> Tensor:
    """Return standard normal draws in pairs of opposites, (n_draws, size)."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(
        math.ceil(n_draws / 2), size, generator=generator, dtype=torch.float64
    )
    return torch.cat([half, -half])[:n_draws]
