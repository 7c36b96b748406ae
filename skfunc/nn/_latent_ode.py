"""The latent ODE: an encoder, dynamics of a latent state, a decoder, event rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from skfunc._shapes import Float
from skfunc.nn._channel_noise import ChannelNoise
from skfunc.nn._label_heads import LabelHeads
from skfunc.nn._latent_ode_encoder import (
    AutonomousField,
    BackwardEncoder,
    LatentPosterior,
    Perceptron,
)
from skfunc.nn._latent_ode_path import CubicPath, solve_path
from skfunc.nn._latent_ode_series import SeriesBatch

LATENT_ENCODERS = ("gru", "ode_rnn")

# softplus of this is 1: rates start at their means.
_UNIT_SOFTPLUS = 0.5413248546129181


class LatentODENetwork(nn.Module):
    """Series as observations of z' = f(z) with a random initial state.

    Chen et al. 2018, Neural ordinary differential equations (arXiv 1806.07366),
    section 5; Rubanova et al. 2019 (arXiv 1907.03907). Times are in units of the
    window, which begins at 0.

    Parameters
    ----------
    n_channels : int
        Channels of the series.
    latent_size : int
        Width of the state.
    encoder : {"gru", "ode_rnn"}
        What reads a series, backwards.
    encoder_size : int
        Width of its state.
    hidden_layer_sizes : sequence of int
        Hidden widths of the field.
    decoder_layer_sizes : sequence of int
        Hidden widths of the decoder; none makes it affine.
    activation : str
        Name in `ACTIVATIONS`.
    n_steps : int
        Steps of the solver in the window.
    turns : sequence of float, optional
        Turns in the window of the rotations that the dynamics start with; see
        `AutonomousField`.
    mean_rates : sequence of float, optional
        Mean number of events of each channel in the window, the unit of the Poisson
        process's rates. Without it observation times carry no information.
    has_values : bool, default=True
        Whether the channels have values, or are events without any.
    correlated_noise : bool, default=False
        Whether the noise has a part that lasts; see `ChannelNoise`.
    n_classes : int, default=0
        Classes of the series, read from the initial state; 0 for none.
    n_summaries : int, default=0
        Numbers that the classes are read from besides.
    classifier_layer_sizes : sequence of int, default=()
        Hidden widths of what reads the classes.
    n_heads : int, default=1
        How many networks read the classes.
    """

    def __init__(
        self,
        n_channels: int,
        *,
        latent_size: int,
        encoder: str,
        encoder_size: int,
        hidden_layer_sizes: Sequence[int],
        decoder_layer_sizes: Sequence[int],
        activation: str,
        n_steps: int,
        turns: Sequence[float] | None = None,
        mean_rates: Sequence[float] | None = None,
        has_values: bool = True,
        correlated_noise: bool = False,
        n_classes: int = 0,
        n_summaries: int = 0,
        classifier_layer_sizes: Sequence[int] = (),
        n_heads: int = 1,
    ) -> None:
        super().__init__()
        self.latent_size, self.n_steps = latent_size, n_steps
        encoder_field = None
        if encoder == "ode_rnn":
            encoder_field = AutonomousField(encoder_size, (encoder_size,), activation)
        elif encoder != "gru":
            raise ValueError(
                f"encoder={encoder!r} is unknown; choose one of {list(LATENT_ENCODERS)}"
            )
        self.encoder = BackwardEncoder(
            n_channels, latent_size, encoder_size, encoder_field
        )
        self.field: nn.Module = AutonomousField(
            latent_size, hidden_layer_sizes, activation, turns
        )
        self.decoder: nn.Module | None = None
        if has_values:
            self.decoder = Perceptron(
                latent_size, n_channels, decoder_layer_sizes, activation
            )
            self.noise = ChannelNoise(n_channels, correlated_noise)
        self.mean_rates = None if mean_rates is None else tuple(mean_rates)
        self.rates: nn.Module | None = None
        if mean_rates is not None:
            self.rates = Perceptron(
                latent_size, n_channels, decoder_layer_sizes, activation
            )
        self.heads: nn.Module | None = None
        if n_classes:
            self.heads = LabelHeads(
                latent_size,
                n_summaries,
                n_classes,
                classifier_layer_sizes,
                n_heads,
                activation,
            )

    def path(self, start: Float[Tensor, "members rows size"], end: float) -> CubicPath:
        """Solve for the state from each row's start, up to a time."""
        return solve_path(self.field, start, n_steps=self.n_steps, end=end)

    def decode(
        self, z: Float[Tensor, "members rows times size"]
    ) -> Float[Tensor, "members rows times channels"]:
        """Return the means of observations for states."""
        assert self.decoder is not None
        return self.decoder(z.flatten(1, 2)).unflatten(1, z.shape[1:3])

    def intensity(
        self, z: Float[Tensor, "members rows times size"]
    ) -> Float[Tensor, "members rows times channels"]:
        """Return the rates of events, per window, for states."""
        assert self.rates is not None and self.mean_rates is not None
        raw = self.rates(z.flatten(1, 2)).unflatten(1, z.shape[1:3])
        unit = torch.tensor(self.mean_rates, dtype=z.dtype, device=z.device)
        return functional.softplus(raw + _UNIT_SOFTPLUS) * unit

    def class_logits(
        self,
        starts: Float[Tensor, "members draws rows size"],
        summaries: Float[Tensor, "members rows summaries"],
        dropout: Callable[[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "members heads_draws rows classes"]:
        """Return the logits of every head for every initial state."""
        assert self.heads is not None
        return self.heads(starts, summaries, dropout)

    def log_likelihood(
        self,
        starts: Float[Tensor, "members draws rows size"],
        series: SeriesBatch,
        kept_share: float = 1.0,
        learning_lag: int | None = None,
    ) -> Float[Tensor, "members draws rows"]:
        """Return log densities of the observations, and their times, given states.

        Events thinned at random, of which a share was kept, are a Poisson process whose
        rates are that share of all.
        """
        members, draws, rows, _ = starts.shape

        def repeated(x: Tensor) -> Tensor:
            return x.unsqueeze(1).expand(members, draws, *x.shape[1:]).flatten(1, 2)

        used = series.mask.amax(-1) > 0
        times = torch.where(used, series.times, 0.0)
        end = float(torch.maximum(times.amax(), series.window.amax()))
        path = self.path(starts.flatten(1, 2), end)
        z = path.at(repeated(times))
        mask = series.mask.unsqueeze(1) > 0
        total = starts.new_zeros(())
        if self.decoder is not None:
            mean = self.decode(z).unflatten(1, (draws, rows))
            residuals = series.values.unsqueeze(1) - mean
            density = self.noise.log_density
            if learning_lag is not None:
                density = partial(self.noise.learning_density, lag=learning_lag)
            total = density(times, residuals, series.mask)
        if self.rates is None:
            return total
        intensity = kept_share * self.intensity(z).unflatten(1, (draws, rows))
        log_rates = torch.log(intensity)
        events = torch.where(mask, log_rates, 0.0).sum((-2, -1))
        expected = path.integral_of(self.intensity).at(repeated(series.window))
        expected = kept_share * (expected[:, :, 1] - expected[:, :, 0]).sum(-1)
        return total + events - expected.unflatten(1, (draws, rows))

    def observations(
        self,
        starts: Float[Tensor, "members draws rows size"],
        series: SeriesBatch,
        wanted: Float[Tensor, "members rows wanted"],
        normals: Float[Tensor, "members draws rows both channels"] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return what can be said of values at wanted times, for given states.

        That is the path, and what the observations that were read say of noise that
        lasts.

        Parameters
        ----------
        starts : Tensor of shape (members, draws, rows, size)
            Initial states.
        series : SeriesBatch
            What was observed; what was not read is ignored.
        wanted : Tensor of shape (members, rows, wanted)
            When.
        normals : Tensor of shape (members, draws, rows, 2 slots + wanted, channels)
            Standard normals, to draw the noise that lasts instead of its mean.

        Returns
        -------
        mean : Tensor of shape (members, draws, rows, wanted, channels)
            Means, or draws, without white noise.
        variance : Tensor of shape (members, rows, wanted, channels)
            Variances of observations around the means; around draws, of white noise.
        """
        draws, rows = starts.shape[1:3]
        mask = series.mask * series.read.unsqueeze(-1)
        used = mask.amax(-1) > 0
        times = torch.where(used, series.times, 0.0)
        asked = torch.cat([times, wanted], -1) if self.noise.correlated else wanted
        path = self.path(starts.flatten(1, 2), max(1.0, float(asked.amax())))
        repeated = asked.unsqueeze(1).expand(-1, draws, -1, -1).flatten(1, 2)
        mean = self.decode(path.at(repeated)).unflatten(1, (draws, rows))
        white = self.noise.white_variance().reshape(-1, 1, 1, mean.shape[-1])
        white = white.expand(-1, rows, wanted.shape[-1], -1)
        if not self.noise.correlated:
            return mean, white
        slots = times.shape[-1]
        residuals = series.values.unsqueeze(1) - mean[:, :, :, :slots]
        mean = mean[:, :, :, slots:]
        if normals is None:
            lasting, spread = self.noise.condition(times, residuals, mask, wanted)
            return mean + lasting, white + spread
        # Matheron's rule: a draw without observations, corrected by them.
        # Slots without any observation come last, where they change no other.
        last = asked.amax() + 1.0
        drawn_at = torch.cat([torch.where(used, times, last), wanted], -1)
        drawn = self.noise.draw(drawn_at, normals[:, :, :, :-slots])
        fresh = torch.sqrt(white[:, :1, :1]).unsqueeze(1) * normals[:, :, :, -slots:]
        residuals = residuals - drawn[:, :, :, :slots] - fresh
        lasting, _ = self.noise.condition(times, residuals, mask, wanted)
        return mean + lasting + drawn[:, :, :, slots:], white


def series_lower_bound(
    network: LatentODENetwork,
    series: SeriesBatch,
    posterior: LatentPosterior,
    noise: Float[Tensor, "members draws rows size"],
    divergence_weight: float = 1.0,
    kept_share: float = 1.0,
    learning_lag: int | None = None,
) -> Float[Tensor, "members rows"]:
    """Return the evidence lower bound of each row, by draws of standard noise."""
    starts = posterior.starts(noise)
    expected = network.log_likelihood(starts, series, kept_share, learning_lag).mean(1)
    return expected - divergence_weight * posterior.divergence()


def series_importance_bound(
    network: LatentODENetwork,
    series: SeriesBatch,
    posterior: LatentPosterior,
    noise: Float[Tensor, "members draws rows size"],
) -> Float[Tensor, "members rows"]:
    """Return a tighter bound, the log of a mean of importance weights.

    Burda, Grosse and Salakhutdinov 2016, Importance weighted autoencoders
    (arXiv 1509.00519).
    """
    starts = posterior.starts(noise)
    logs = network.log_likelihood(starts, series)
    # The log ratio of prior to posterior: their constants cancel.
    ratio = 0.5 * (noise**2 - starts**2) + torch.log(posterior.std).unsqueeze(1)
    return torch.logsumexp(logs + ratio.sum(-1), 1) - math.log(noise.shape[1])
