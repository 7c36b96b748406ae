"""Posterior drifts u(t, z) of weight processes: what the data add to the prior.

A drift sees the weights as deviations z from their start, in units of the diffusion,
and starts at zero: the posterior is the prior then, and their divergence is 0. Drifts
take stacks of members as the layers do; their parameters are flat vectors, for which a
penalty of the weights does not hold: the divergence is what pays for a drift.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from skfunc._shapes import Float

# Depths at which an affine drift has values of its own, linear in between.
AFFINE_KNOTS = 2
# Width of the hidden layer in the networks of drifts.
_HIDDEN = 64


class Drift(nn.Module):
    """A drift of weights; `stopped` keeps the gradient from its parameters alone."""

    def forward(
        self,
        t: float | Tensor,
        z: Float[Tensor, "*members paths weights"],
        stopped: bool,
    ) -> Float[Tensor, "*members paths weights"]:
        """Evaluate the drift of every path."""
        raise NotImplementedError

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Draw what is not zero at the start."""
        raise NotImplementedError

    def _matrix(self, name: str, rows: int, stopped: bool) -> Tensor:
        """Return a flat parameter as a matrix, ([members,] rows, columns)."""
        value: Tensor = getattr(self, name)
        value = value.detach() if stopped else value
        return value.unflatten(-1, (rows, -1))


class AffineDrift(Drift):
    """b(t) - k z, a shift and a pull for each weight: the paths' spread can shrink."""

    def __init__(self, n_weights: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.empty(AFFINE_KNOTS * n_weights))
        self.pull = nn.Parameter(torch.empty(n_weights))

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Set the drift to zero."""
        del generator
        with torch.no_grad():
            self.shift.zero_()
            self.pull.zero_()

    def forward(
        self,
        t: float | Tensor,
        z: Float[Tensor, "*members paths weights"],
        stopped: bool,
    ) -> Float[Tensor, "*members paths weights"]:
        """Evaluate the drift of every path."""
        knots = self._matrix("shift", AFFINE_KNOTS, stopped)
        start, end = knots[..., :1, :], knots[..., 1:, :]
        pull = self._matrix("pull", 1, stopped)
        return torch.addcmul(torch.lerp(start, end, _weight(t, z)), pull, z, value=-1.0)


class NetworkDrift(Drift):
    """Network of all deviations and of t, by way of few numbers where `rank` is given.

    z is projected to `rank` numbers, passes a hidden layer, and is spread to all
    weights from `rank` numbers again; without a rank hidden layers meet all weights.
    """

    def __init__(self, n_weights: int, rank: int | None) -> None:
        super().__init__()
        self.n_weights = n_weights
        self.rank = _HIDDEN if rank is None else rank
        self.bottleneck = rank is not None
        self.encode = nn.Parameter(torch.empty(n_weights * self.rank))
        self.inner = nn.Parameter(torch.empty((self.rank + 2) * _HIDDEN))
        self.outer = nn.Parameter(torch.empty((_HIDDEN + 1) * self.rank))
        self.decode = nn.Parameter(torch.empty(self.rank * n_weights))

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Draw random projections and layers; the last layer is zero."""
        with torch.no_grad():
            for values, width in (
                (self.encode, self.n_weights),
                (self.inner, self.rank + 1),
                (self.outer, _HIDDEN),
            ):
                values.normal_(generator=generator).div_(math.sqrt(max(width, 1)))
            self.decode.zero_()

    def forward(
        self,
        t: float | Tensor,
        z: Float[Tensor, "*members paths weights"],
        stopped: bool,
    ) -> Float[Tensor, "*members paths weights"]:
        """Evaluate the drift of every path."""
        x = z @ self._matrix("encode", self.n_weights, stopped)
        if not self.bottleneck:
            x = torch.tanh(x)
        time = torch.ones_like(x[..., :1]) * t
        x = torch.cat([x, time, torch.ones_like(time)], dim=-1)
        x = torch.tanh(x @ self._matrix("inner", self.rank + 2, stopped))
        x = torch.cat([x, torch.ones_like(time)], dim=-1)
        x = x @ self._matrix("outer", _HIDDEN + 1, stopped)
        if not self.bottleneck:
            x = torch.tanh(x)
        return x @ self._matrix("decode", self.rank, stopped)


class SumDrift(Drift):
    """The sum of drifts."""

    def __init__(self, *drifts: Drift) -> None:
        super().__init__()
        self.parts = nn.ModuleList(drifts)

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Draw nothing: the parts draw for themselves."""

    def forward(
        self,
        t: float | Tensor,
        z: Float[Tensor, "*members paths weights"],
        stopped: bool,
    ) -> Float[Tensor, "*members paths weights"]:
        """Evaluate the drift of every path."""
        first, *others = self.parts
        total = first(t, z, stopped)
        for part in others:
            total = total + part(t, z, stopped)
        return total


def _weight(t: float | Tensor, z: Tensor) -> Tensor | float:
    return t.to(z.dtype) if isinstance(t, Tensor) else t


DRIFTS: dict[str, Callable[[int, int], Drift]] = {
    "affine": lambda n_weights, rank: AffineDrift(n_weights),
    "lowrank": NetworkDrift,
    "affine+lowrank": lambda n_weights, rank: SumDrift(
        AffineDrift(n_weights), NetworkDrift(n_weights, rank)
    ),
    "mlp": lambda n_weights, rank: NetworkDrift(n_weights, None),
}
