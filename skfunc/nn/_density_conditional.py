"""Continuous normalizing flows of targets, given a row of features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from skfunc._shapes import Float
from skfunc.nn._density_field import SMOOTH_ACTIVATIONS
from skfunc.nn._fields import TimeShift
from skfunc.nn._layers import Linear, activation_function, activation_gain
from skfunc.nn._odenet import SolverOptions
from skfunc.solvers._fixed import DEFAULT_STEPS
from skfunc.solvers._tableaus import FIXED_TABLEAUS


def _tanh_of_half(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return tanh(x / 2) and twice its slope, by a sigmoid, which is quicker."""
    value = torch.rsub(torch.sigmoid(x), -1.0, alpha=-2.0)
    return value, 1.0 - value * value


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
        self.activation = activation
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

    def to_base(
        self,
        context: FieldContext,
        z: Float[Tensor, "members rows targets"],
        solver: SolverOptions,
    ) -> tuple[Float[Tensor, "members rows targets"], Float[Tensor, "members rows"]]:
        """Carry residuals to the normal, t from 1 to 0; also the log volume change."""
        return self._carry(context, z, (1.0, 0.0), solver)

    def from_base(
        self,
        context: FieldContext,
        u: Float[Tensor, "members rows targets"],
        solver: SolverOptions,
    ) -> tuple[Float[Tensor, "members rows targets"], Float[Tensor, "members rows"]]:
        """Carry normal rows along the flow; also the log volume change."""
        return self._carry(context, u, (0.0, 1.0), solver)

    def _carry(
        self,
        context: FieldContext,
        state: Float[Tensor, "members rows targets"],
        times: tuple[float, float],
        solver: SolverOptions,
    ) -> tuple[Float[Tensor, "members rows targets"], Float[Tensor, "members rows"]]:
        """Solve by an explicit Runge-Kutta method on a fixed grid.

        The same numbers as `skfunc.solvers.odeint` gives for (z, log volume), by half
        the operations, since all here are small: the volume does not act on z, so that
        its products with g and V W wait until the slopes s' of all stages are added up.
        """
        tableau = FIXED_TABLEAUS[solver.method]
        value_and_slope, scale = SMOOTH_ACTIVATIONS[self.activation], 1.0
        if self.activation == "tanh":
            # The factor on hidden units costs nothing.
            value_and_slope, scale = _tanh_of_half, 2.0
        first, last = self.first.weight, self.last.weight
        # V's bias moves every state alike: in a frame that moves along it is a drift of
        # the hidden units in time.
        bias = self.last.bias.unsqueeze(-2)
        drift = self.time.weight.unsqueeze(-2) + bias @ first
        shift = context.shift + self.first.bias.unsqueeze(-2)
        start, end = times
        n_steps = solver.n_steps or DEFAULT_STEPS
        h = (end - start) / n_steps
        state = state - start * bias
        slopes = torch.zeros_like(shift[..., :1, :])
        shifts: dict[float, Tensor] = {}
        for step in range(n_steps):
            t = start + step * h
            values: list[Tensor] = []
            for c, a, b in zip(tableau.c, tableau.a, tableau.b, strict=True):
                place = t + c * h
                if place not in shifts:
                    # Stages in a row share theirs.
                    shifts = {place: torch.add(shift, drift, alpha=place)}
                stage = self._moved(state, context.gate, values, a, h)
                hidden = torch.baddbmm(
                    shifts[place], stage, first, beta=scale, alpha=scale
                )
                value, slope = value_and_slope(hidden)
                values.append(value)
                if b:
                    slopes = torch.add(slopes, slope, alpha=b * h)
            state = self._moved(state, context.gate, values, tableau.b, h)
        # Diagonal of V W, unit by unit.
        loop = (first * last.transpose(-1, -2)).sum(-2).unsqueeze(-1)
        log_det = ((context.gate * slopes) @ loop).squeeze(-1)
        return state + end * bias, log_det

    def _moved(
        self,
        state: Float[Tensor, "members rows targets"],
        gate: Float[Tensor, "members rows hidden"],
        values: list[Tensor],
        coefficients: tuple[float, ...],
        h: float,
    ) -> Float[Tensor, "members rows targets"]:
        """Return the state moved along a sum of the stages' velocities."""
        terms = [(c, v) for c, v in zip(coefficients, values, strict=True) if c]
        if not terms:
            return state
        (unit, total), *others = terms
        for c, value in others:
            total = torch.add(total, value, alpha=c / unit)
        return torch.baddbmm(state, gate * total, self.last.weight, alpha=h * unit)
