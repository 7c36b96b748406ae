"""Recurrent encoders that read a series backwards in time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from skfunc._shapes import Float
from skfunc.nn._latent_ode_series import SeriesBatch, gaps_to_next
from skfunc.nn._layers import Linear, activation_function, activation_gain
from skfunc.solvers import odeint

# softplus of this is 1: a posterior's deviation starts at the prior's.
_UNIT_SOFTPLUS = 0.5413248546129181
# Least standard deviation of a posterior, against a divergence without bound.
_LEAST_STD = 1e-4


class LatentPosterior(NamedTuple):
    """Independent normals over the initial state of every row."""

    mean: Float[Tensor, "members rows size"]
    std: Float[Tensor, "members rows size"]

    def starts(
        self, noise: Float[Tensor, "#members draws #rows size"]
    ) -> Float[Tensor, "members draws rows size"]:
        """Return initial states for draws of standard noise."""
        return self.mean.unsqueeze(1) + self.std.unsqueeze(1) * noise

    def divergence(self) -> Float[Tensor, "members rows"]:
        """Return the Kullback-Leibler divergence from N(0, I)."""
        variance = self.std**2
        terms = self.mean**2 + variance - 1.0 - torch.log(variance)
        return 0.5 * terms.sum(-1)


class AutonomousField(nn.Module):
    """Multilayer perceptron dz/dt = f(z), the same at all times.

    Parameters
    ----------
    size : int
        Width of the state.
    hidden_layer_sizes : sequence of int
        Widths of the hidden layers.
    activation : str
        Name in `ACTIVATIONS`.
    turns : sequence of float, optional
        Turns per unit of time of the rotations, in one pair of coordinates each, that
        the field starts with: a matrix of its own, which is learned. Without it there
        is none.
    """

    def __init__(
        self,
        size: int,
        hidden_layer_sizes: Sequence[int],
        activation: str,
        turns: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.layers = Perceptron(size, size, hidden_layer_sizes, activation)
        self.turns = None if turns is None else tuple(turns)
        if self.turns is not None:
            if 2 * len(self.turns) > size:
                raise ValueError(f"{size} coordinates have no {len(self.turns)} pairs")
            self.rotation = nn.Parameter(torch.empty(size, size))

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Set the rotations."""
        del generator
        if self.turns is None:
            return
        with torch.no_grad():
            self.rotation.zero_()
            for pair, turns in enumerate(self.turns):
                first, second = 2 * pair, 2 * pair + 1
                self.rotation[first, second] = 2.0 * math.pi * turns
                self.rotation[second, first] = -2.0 * math.pi * turns

    def forward(
        self, t: Tensor, z: Float[Tensor, "*rows size"]
    ) -> Float[Tensor, "*rows size"]:
        """Evaluate dz/dt."""
        del t
        if self.turns is None:
            return self.layers(z)
        return self.layers(z) + z @ self.rotation


class Perceptron(nn.Module):
    """Multilayer perceptron; without hidden layers an affine map."""

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        hidden_layer_sizes: Sequence[int],
        activation: str,
    ) -> None:
        super().__init__()
        self.activation = activation_function(activation)
        gain = activation_gain(activation)
        widths = [n_inputs, *hidden_layer_sizes, n_outputs]
        self.layers = nn.ModuleList(
            Linear(a, b, gain=1.0 if i == 0 else gain)
            for i, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True))
        )

    def forward(
        self, x: Float[Tensor, "*rows inputs"]
    ) -> Float[Tensor, "*rows outputs"]:
        """Map the last axis of x."""
        x = self.layers[0](x)
        for layer in list(self.layers)[1:]:
            x = layer(self.activation(x))
        return x


class BackwardEncoder(nn.Module):
    """Gated recurrent unit from the last observation to the first.

    Where nothing is read the state stays, so that padding and gaps cost no accuracy. A
    row without any observation gets the prior.

    Parameters
    ----------
    n_channels : int
        Channels of the series.
    latent_size : int
        Width of the initial state.
    width : int
        Width of the recurrent state.
    field : AutonomousField, optional
        How the state moves between observations: an ODE-RNN [1]_. Without it the time
        to the next observation is an input alone.

    References
    ----------
    .. [1] Y. Rubanova, R. T. Q. Chen, D. Duvenaud 2019, Latent ODEs for
       irregularly-sampled time series, arXiv 1907.03907.
    """

    def __init__(
        self,
        n_channels: int,
        latent_size: int,
        width: int,
        field: AutonomousField | None = None,
    ) -> None:
        super().__init__()
        self.width = width
        self.field = field
        # Values, what was observed, the time itself and the time to the next slot.
        self.inputs = Linear(2 * n_channels + 2, 3 * width)
        self.recurrence = Linear(width, 3 * width)
        self.readout = Perceptron(width + 1, 2 * latent_size, (width,), "tanh")

    def forward(self, series: SeriesBatch) -> LatentPosterior:
        """Return the posterior of every row's initial state."""
        read = series.read_slots()
        members, rows, slots = read.shape
        gaps = gaps_to_next(series.times, read)
        extra = torch.stack([series.times, gaps], -1)
        x = torch.cat([series.values, series.mask, extra], -1)
        x = x * read.unsqueeze(-1)
        projected = self.inputs(x.flatten(1, 2)).unflatten(1, (rows, slots))
        kept = read.to(x.dtype).unsqueeze(-1)
        state = x.new_zeros(members, rows, self.width)
        for i in reversed(range(slots)):
            if self.field is not None:
                moved = self._move(state, gaps[:, :, i : i + 1])
                state = torch.lerp(state, moved, kept[:, :, i])
            state = self._update(state, projected[:, :, i], kept[:, :, i])
        any_read = read.any(-1, keepdim=True)
        first = torch.where(read, series.times, torch.inf).amin(-1, keepdim=True)
        lead = torch.where(any_read, first, 0.0)
        if self.field is not None:
            state = self._move(state, lead)
        mean, raw = self.readout(torch.cat([state, lead], -1)).chunk(2, -1)
        std = functional.softplus(raw + _UNIT_SOFTPLUS) + _LEAST_STD
        return LatentPosterior(
            torch.where(any_read, mean, 0.0), torch.where(any_read, std, 1.0)
        )

    def _update(self, state: Tensor, projected: Tensor, kept: Tensor) -> Tensor:
        reset_x, update_x, new_x = projected.chunk(3, -1)
        reset_h, update_h, new_h = self.recurrence(state).chunk(3, -1)
        new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
        return torch.lerp(state, new, torch.sigmoid(update_x + update_h) * kept)

    def _move(self, state: Tensor, gap: Tensor) -> Tensor:
        """Carry the state back over a gap, in one step of unit time."""
        field = self.field
        assert field is not None

        def backwards(t: Tensor, h: Tensor) -> Tensor:
            return -gap * field(t, h)

        solution = odeint(
            backwards,
            state,
            (0.0, 1.0),
            method="midpoint",
            n_steps=1,
            row_ndim=2,
            last_only=True,
        )
        return solution.y[-1]
