"""Continuous normalizing flows of targets, given a row of features."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skfunc._shapes import Float
from skfunc.nn._density_field import SMOOTH_ACTIVATIONS
from skfunc.nn._fields import TimeShift
from skfunc.nn._layers import Linear, activation_function, activation_gain
from skfunc.nn._odenet import SolverOptions
from skfunc.solvers import odeint


class FieldContext(NamedTuple):
    """What a row of features says of its field, formed once for a solve."""

    shift: Float[Tensor, "members rows hidden"]
    gate: Float[Tensor, "members rows hidden"]


class ConditionalFlow(nn.Module):
    """The flow z' = v(t, z; x) of residuals z, from a standard normal at t = 0.

    The field has one hidden layer, whose units the features x place and weigh:
    ``v = (g(x) s(z W + c(x) + t w)) V``. Its trace is
    ``sum_j g_j s'_j (V W)_jj``, exact for any number of targets, at the cost of one
    more sum. V starts at zero, and the flow at the identity. Conditioned on features as
    by Winkler et al. 2019, Learning likelihoods with conditional normalizing flows
    (arXiv 1912.00042).

    Parameters
    ----------
    n_features : int
        Width of the rows x.
    n_targets : int
        Width of the residuals z.
    n_hidden : int
        Units of the field.
    context_size : int
        Hidden units of the network that reads x.
    activation : str
        Name in `SMOOTH_ACTIVATIONS`, of the field.
    """

    def __init__(
        self,
        n_features: int,
        n_targets: int,
        *,
        n_hidden: int,
        context_size: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.value_and_slope = SMOOTH_ACTIVATIONS[activation]
        self.context_activation = activation_function("silu")
        self.reader = Linear(n_features, context_size)
        gain = activation_gain("silu")
        self.shift = Linear(context_size, n_hidden, gain=gain)
        self.gate = Linear(context_size, n_hidden, gain=gain)
        self.first = Linear(n_targets, n_hidden)
        self.time = TimeShift(n_hidden)
        self.last = Linear(n_hidden, n_targets, gain=0.0)

    def context(self, x: Float[Tensor, "members rows features"]) -> FieldContext:
        """Read rows of features."""
        h = self.context_activation(self.reader(x))
        return FieldContext(self.shift(h), 1.0 + self.gate(h))

    def _field(self, context: FieldContext) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the field of z and of the log volume change."""
        first, last = self.first.weight, self.last.weight
        size = first.shape[-2]
        # Diagonal of V W, unit by unit.
        loop = (first * last.transpose(-1, -2)).sum(-2).unsqueeze(-1)
        shift, gate = context.shift + self.first.bias.unsqueeze(-2), context.gate

        def field(t: Tensor, state: Tensor) -> Tensor:
            hidden = torch.baddbmm(self.time(t, shift), state[..., :size], first)
            value, slope = self.value_and_slope(hidden)
            velocity = self.last(gate * value)
            return torch.cat([velocity, (gate * slope) @ loop], dim=-1)

        return field

    def to_base(
        self,
        context: FieldContext,
        z: Float[Tensor, "members rows targets"],
        solver: SolverOptions,
    ) -> tuple[Float[Tensor, "members rows targets"], Float[Tensor, "members rows"]]:
        """Carry residuals to the normal, t from 1 to 0; also the log volume change."""
        start = torch.cat([z, z.new_zeros(*z.shape[:-1], 1)], dim=-1)
        end = self._solve(self._field(context), start, (1.0, 0.0), solver)
        return end[..., :-1], end[..., -1]

    def from_base(
        self,
        context: FieldContext,
        u: Float[Tensor, "members rows targets"],
        solver: SolverOptions,
    ) -> tuple[Float[Tensor, "members rows targets"], Float[Tensor, "members rows"]]:
        """Carry normal rows along the flow; also the log volume change."""
        start = torch.cat([u, u.new_zeros(*u.shape[:-1], 1)], dim=-1)
        end = self._solve(self._field(context), start, (0.0, 1.0), solver)
        return end[..., :-1], end[..., -1]

    @staticmethod
    def _solve(
        field: Callable[[Tensor, Tensor], Tensor],
        start: Tensor,
        times: tuple[float, float],
        solver: SolverOptions,
    ) -> Tensor:
        solution = odeint(
            field,
            start,
            times,
            method=solver.method,
            n_steps=solver.n_steps,
            row_ndim=2,
            last_only=True,
        )
        return solution.y[-1]
