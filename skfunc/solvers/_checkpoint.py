"""The exact gradient of recorded steps, with about sqrt(steps) states in memory.

The states are kept at every so many accepted steps. Backwards, the states between two
of them are computed again, and then one step at a time with its graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skfunc._shapes import Float
from skfunc.solvers._runge_kutta import CountedField, Step, retake_step

# Up to so many steps each state is kept, and nothing is computed twice over.
KEEP_ALL = 16


class StateKeeper:
    """Keeps states at a stride that grows with the number of steps.

    The number of steps need not be known: the stride doubles, and every other state is
    dropped, when there are more than twice as many states as the stride. So ``n``
    steps end with a stride of ``sqrt(n / 2)`` to ``sqrt(n)``.
    """

    def __init__(self, y0: Tensor) -> None:
        self.steps: list[Step] = []
        # Number of steps up to each time after the first.
        self.arrivals: list[int] = []
        # kept[i] is the state before step i * stride.
        self.kept = [y0]
        self.stride = 1

    def __call__(self, step: Step, y: Tensor) -> None:
        self.steps.append(step)
        if len(self.steps) % self.stride == 0:
            self.kept.append(y)
            if len(self.kept) > max(KEEP_ALL, 2 * self.stride):
                self.kept = self.kept[::2]
                self.stride *= 2

    def arrive(self) -> None:
        """Note that the last step ended at a time that was asked for."""
        self.arrivals.append(len(self.steps))


# Solves without gradient, telling the keeper of each step and arrival.
Solve = Callable[[StateKeeper], list[Tensor]]


class _Checkpointed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        field: CountedField,
        solve: Solve,
        row_axis: int,
        y0: Tensor,
        *params: Tensor,
    ) -> Tensor:
        keeper = StateKeeper(y0.detach())
        states = solve(keeper)
        ctx.field = field
        ctx.row_axis = row_axis
        ctx.arrivals = keeper.arrivals
        ctx.steps = keeper.steps
        ctx.stride = keeper.stride
        ctx.params = params
        ctx.n_kept = len(keeper.kept)
        # The parameters are saved so that torch notices when they change in between.
        ctx.save_for_backward(*keeper.kept, *params)
        return torch.stack(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        kept = ctx.saved_tensors[: ctx.n_kept]
        retrace = _Retrace(ctx.field, ctx.row_axis, ctx.params)
        arrivals = dict(zip(ctx.arrivals, range(1, len(gradient)), strict=True))
        n = len(ctx.steps)
        cotangent = torch.zeros_like(gradient[0])
        for start in range((n - 1) // ctx.stride * ctx.stride, -1, -ctx.stride):
            steps = ctx.steps[start : start + ctx.stride]
            states = retrace.states(steps, kept[start // ctx.stride])
            for i in range(len(steps) - 1, -1, -1):
                if start + i + 1 in arrivals:
                    cotangent = cotangent + gradient[arrivals[start + i + 1]]
                cotangent = retrace.pull_back(steps[i], states.pop(), cotangent)
        return None, None, None, cotangent + gradient[0], *retrace.parameter_gradients


class _Retrace:
    """Takes recorded steps again, with and without their graph."""

    def __init__(
        self, field: CountedField, row_axis: int, params: tuple[Tensor, ...]
    ) -> None:
        self.field = field
        self.row_axis = row_axis
        self.wanted = [i for i, p in enumerate(params) if p.requires_grad]
        self.inputs = [params[i] for i in self.wanted]
        self.parameter_gradients: list[Tensor | None] = [None] * len(params)

    @torch.no_grad()
    def states(self, steps: list[Step], y: Tensor) -> list[Tensor]:
        """Return the state before each of the steps."""
        states, slope = [y], None
        for step in steps[:-1]:
            y, slope = retake_step(self.field, step, y, slope, self.row_axis)
            states.append(y)
        return states

    def pull_back(self, step: Step, y: Tensor, cotangent: Tensor) -> Tensor:
        """Return the gradient before a step; add to those of the parameters."""
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            new, _ = retake_step(
                self.field, step, y, None, self.row_axis, last_slope=False
            )
        pulled, *gradients = torch.autograd.grad(
            new, [y, *self.inputs], cotangent, allow_unused=True
        )
        for i, g in zip(self.wanted, gradients, strict=True):
            total = self.parameter_gradients[i]
            if total is None:
                # A gradient may be a view that several tensors share.
                self.parameter_gradients[i] = None if g is None else g.clone()
            elif g is not None:
                total.add_(g)
        return pulled


def solve_checkpointed(
    field: CountedField,
    solve: Solve,
    row_axis: int,
    y0: Float[Tensor, "*state"],
    params: tuple[Tensor, ...],
) -> Float[Tensor, "times ..."]:
    """Return the states of ``solve`` with an exact gradient by recomputation."""
    states: Tensor = _Checkpointed.apply(field, solve, row_axis, y0, *params)
    return states
