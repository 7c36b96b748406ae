"""Paths of a latent state, solved once on an even grid and read at any times."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from skfunc._shapes import Float
from skfunc.solvers import odeint


def _pick(
    grid: Float[Tensor, "members rows points size"], index: Tensor
) -> Float[Tensor, "members rows times size"]:
    index = index.unsqueeze(-1).expand(*index.shape, grid.shape[-1])
    return grid.gather(2, index)


def _hermite(s: Tensor, h: float, start: Tensor, end: Tensor) -> Tensor:
    """Evaluate cubics with given values and slopes at both ends, at s in [0, 1].

    Values and slopes are the two halves of the last axis.
    """
    y0, d0 = start.chunk(2, -1)
    y1, d1 = end.chunk(2, -1)
    r = 1.0 - s
    return r * r * ((1.0 + 2.0 * s) * y0 + s * h * d0) + s * s * (
        (1.0 + 2.0 * r) * y1 - r * h * d1
    )


class CubicPath:
    """A function of time by its values and slopes on an even grid from 0.

    Parameters
    ----------
    step : float
        Distance of the grid's points.
    values, slopes : Tensor of shape (members, rows, points, size)
        At 0, step, 2 step, ...
    """

    def __init__(
        self,
        step: float,
        values: Float[Tensor, "members rows points size"],
        slopes: Float[Tensor, "members rows points size"],
    ) -> None:
        self.step = step
        self.values = values
        self.knots = torch.cat([values, slopes], -1)

    def at(
        self, times: Float[Tensor, "members rows times"]
    ) -> Float[Tensor, "members rows times size"]:
        """Interpolate at times within the grid; outside, go on with the end's cubic."""
        scaled = times / self.step
        index = scaled.detach().floor().clamp(0, self.values.shape[2] - 2)
        s = (scaled - index).unsqueeze(-1)
        first = index.long()
        start, end = _pick(self.knots, first), _pick(self.knots, first + 1)
        return _hermite(s, self.step, start, end)

    def midpoints(self) -> Float[Tensor, "members rows intervals size"]:
        """Return the values halfway between neighbours on the grid."""
        half = torch.full((), 0.5, dtype=self.knots.dtype, device=self.knots.device)
        return _hermite(half, self.step, self.knots[:, :, :-1], self.knots[:, :, 1:])

    def integral_of(self, rate: Callable[[Tensor], Tensor]) -> CubicPath:
        """Return the integral from 0 of a rate that is a function of the value.

        Simpson's rule on every interval: what classical Runge-Kutta makes of an extra
        state whose slope is the rate.
        """
        ends, middles = rate(self.values), rate(self.midpoints())
        pieces = (ends[:, :, :-1] + 4.0 * middles + ends[:, :, 1:]) * (self.step / 6.0)
        total = pieces.cumsum(2)
        total = torch.cat([torch.zeros_like(total[:, :, :1]), total], 2)
        return CubicPath(self.step, total, ends)


def solve_path(
    field: nn.Module,
    start: Float[Tensor, "members rows size"],
    *,
    n_steps: int,
    end: float = 1.0,
) -> CubicPath:
    """Solve z' = f(z) from time 0 to beyond ``end``, in steps of 1 / n_steps.

    All rows share the grid, whatever the times that they are asked for: classical
    Runge-Kutta, and cubic Hermite interpolation of the same order between its points.
    """
    n_points = max(1, math.ceil(end * n_steps - 1e-9))
    step = 1.0 / n_steps
    grid = [k * step for k in range(n_points + 1)]
    solution = odeint(field, start, grid, method="rk4", n_steps=1, row_ndim=2)
    values = solution.y.permute(1, 2, 0, 3)
    clock = values.new_zeros(())
    slopes = field(clock, values.flatten(1, 2)).unflatten(1, values.shape[1:3])
    return CubicPath(step, values, slopes)
