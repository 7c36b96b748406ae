"""Gradients of recorded steps that keep few states, and rebuild the noise.

``"checkpoint"`` keeps about sqrt(steps) states and computes the others again; the
adjoint of the reversible Heun method runs the steps backwards and keeps none: both are
exact. The continuous adjoint solves the adjoint equation, whose noise is the forward
path's (Li, Wong, Chen and Duvenaud 2020, Scalable gradients for stochastic differential
equations, arXiv:2001.01328): it is as exact as the steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skfunc.solvers._checkpoint import KEEP_ALL
from skfunc.solvers._sde_adaptive import Holder, Noise
from skfunc.solvers._sde_steps import (
    Method,
    Parts,
    ReversibleHeun,
    SDEField,
    SDEStep,
    Slopes,
    noise_term,
)
from skfunc.solvers._tableaus import Tableau


@dataclass(frozen=True)
class Trajectory:
    """Steps to take, and all that is needed to take them again.

    ``plan`` holds the steps from each time to the next. ``hold`` keeps entries that
    are no longer finite where they were.
    """

    field: SDEField
    method: Method
    plan: list[list[SDEStep]]
    noise: Noise
    n_parts: int
    hold: Holder | None = None

    @property
    def steps(self) -> list[SDEStep]:
        """All steps in turn."""
        return [step for steps in self.plan for step in steps]

    @property
    def arrivals(self) -> list[int]:
        """Number of steps up to each time after the first."""
        counts = torch.tensor([len(steps) for steps in self.plan])
        return counts.cumsum(0).tolist()

    def run(self, y0: Parts, stride: int = 0) -> tuple[list[Parts], list[Parts]]:
        """Return the states at the times, and every ``stride``-th carry.

        These are the carries before steps 0, stride, 2 stride, ..., or only the one
        after the last step where the stride is 0.
        """
        carry, known = self.method.start(y0), None
        states, kept = [y0], []
        n = 0
        for steps in self.plan:
            for step in steps:
                if stride and n % stride == 0:
                    kept.append(carry)
                n += 1
                new, known = self.method.step(
                    self.field, step, carry, self.noise(step), known
                )
                carry = new if self.hold is None else self.hold(new, carry)
            states.append(carry[: self.n_parts])
        return states, kept if stride else [carry]

    @torch.no_grad()
    def retrace(self, steps: list[SDEStep], carry: Parts) -> list[Parts]:
        """Return the carries before each of the steps."""
        carries, known = [carry], None
        for step in steps[:-1]:
            carry, known = self.method.step(
                self.field, step, carry, self.noise(step), known
            )
            carries.append(carry)
        return carries


def stacked(states: list[Parts]) -> Parts:
    """Return each part's states, stacked along a new first axis."""
    return tuple(map(torch.stack, zip(*states, strict=True)))


class _Totals:
    """Sums of the gradients of those parameters that want one."""

    def __init__(self, params: tuple[Tensor, ...]) -> None:
        self.wanted = [i for i, p in enumerate(params) if p.requires_grad]
        self.inputs = [params[i] for i in self.wanted]
        self.totals: list[Tensor | None] = [None] * len(params)

    def add(self, gradients: list[Tensor | None], weight: float = 1.0) -> None:
        for i, gradient in zip(self.wanted, gradients, strict=True):
            total = self.totals[i]
            if gradient is None:
                continue
            if total is None:
                self.totals[i] = gradient * weight
            else:
                total.add_(gradient, alpha=weight)


def pull_back(
    outputs: Parts, inputs: Parts, totals_inputs: list[Tensor], cotangents: Parts
) -> tuple[Parts, list[Tensor | None]]:
    """Return the vector-Jacobian products with the inputs and with the parameters."""
    pairs = [
        (o, c) for o, c in zip(outputs, cotangents, strict=True) if o.requires_grad
    ]
    if not pairs:
        zeros = tuple(torch.zeros_like(part) for part in inputs)
        return zeros, [None] * len(totals_inputs)
    found = torch.autograd.grad(
        [o for o, _ in pairs],
        [*inputs, *totals_inputs],
        [c for _, c in pairs],
        allow_unused=True,
    )
    n = len(inputs)
    pulled = tuple(
        torch.zeros_like(part) if g is None else g
        for part, g in zip(inputs, found[:n], strict=True)
    )
    return pulled, list(found[n:])


def _leaves(parts: Parts) -> Parts:
    return tuple(part.detach().requires_grad_() for part in parts)


class _Recomputed(torch.autograd.Function):
    """The exact gradient: each step is taken again with its graph, last one first."""

    @staticmethod
    def forward(
        ctx: Any, trajectory: Trajectory, reverse: bool, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        n = trajectory.n_parts
        y0, params = tensors[:n], tensors[n:]
        ctx.trajectory, ctx.reverse, ctx.params = trajectory, reverse, params
        n_steps = len(trajectory.steps)
        ctx.stride = 1 if n_steps <= KEEP_ALL else math.isqrt(n_steps)
        states, kept = trajectory.run(y0, 0 if reverse else ctx.stride)
        # Parameters are saved so that torch notices when they change in between.
        ctx.n_kept = len(kept)
        ctx.save_for_backward(*(part for carry in kept for part in carry), *params)
        return stacked(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        trajectory: Trajectory = ctx.trajectory
        n, steps = trajectory.n_parts, trajectory.steps
        saved = ctx.saved_tensors[: len(ctx.saved_tensors) - len(ctx.params)]
        width = len(saved) // ctx.n_kept
        kept = [saved[i : i + width] for i in range(0, len(saved), width)]
        carries = (
            _reversed_carries(trajectory, kept[0])
            if ctx.reverse
            else _retraced_carries(trajectory, kept, ctx.stride)
        )
        arrivals = dict(
            zip(trajectory.arrivals, range(1, len(gradients[0])), strict=True)
        )
        totals = _Totals(ctx.params)
        cotangent = tuple(torch.zeros_like(part) for part in kept[0])
        for i, carry in zip(range(len(steps) - 1, -1, -1), carries, strict=True):
            if i + 1 in arrivals:
                cotangent = _added(cotangent, gradients, arrivals[i + 1])
            step = steps[i]
            with torch.enable_grad():
                inputs = _leaves(carry)
                outputs, _ = trajectory.method.step(
                    trajectory.field, step, inputs, trajectory.noise(step)
                )
            cotangent, found = pull_back(outputs, inputs, totals.inputs, cotangent)
            totals.add(found)
        cotangent = _added(cotangent, gradients, 0)
        # What is carried starts as one or two copies of the state.
        of_y0 = [sum(cotangent[j::n][1:], start=cotangent[j]) for j in range(n)]
        return None, None, *of_y0, *totals.totals


def _added(cotangent: Parts, gradients: tuple[Tensor, ...], index: int) -> Parts:
    n = len(gradients)
    first = tuple(c + g[index] for c, g in zip(cotangent[:n], gradients, strict=True))
    return (*first, *cotangent[n:])


def _retraced_carries(trajectory: Trajectory, kept: list[Parts], stride: int) -> Any:
    steps = trajectory.steps
    for segment in range(len(kept) - 1, -1, -1):
        part = steps[segment * stride : (segment + 1) * stride]
        yield from reversed(trajectory.retrace(part, kept[segment]))


def _reversed_carries(trajectory: Trajectory, carry: Parts) -> Any:
    method = trajectory.method
    assert isinstance(method, ReversibleHeun)
    known: Slopes | None = None
    for step in reversed(trajectory.steps):
        with torch.no_grad():
            carry, known = method.reverse(
                trajectory.field, step, carry, trajectory.noise(step), known
            )
        yield carry


class _ContinuousAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, trajectory: Trajectory, tableau: Tableau, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        n = trajectory.n_parts
        y0, params = tensors[:n], tensors[n:]
        states = stacked(trajectory.run(y0)[0])
        ctx.trajectory, ctx.tableau, ctx.params = trajectory, tableau, params
        ctx.save_for_backward(*states, *params)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        trajectory: Trajectory = ctx.trajectory
        states = ctx.saved_tensors[: trajectory.n_parts]
        totals = _Totals(ctx.params)
        cotangent = tuple(g[-1] for g in gradients)
        for i in range(len(trajectory.plan) - 1, -1, -1):
            # The state starts again from what the solve forwards found.
            y = tuple(part[i + 1] for part in states)
            for step in reversed(trajectory.plan[i]):
                noise = trajectory.noise(step)
                y, cotangent = _adjoint_step(
                    trajectory.field, ctx.tableau, step, noise, y, cotangent, totals
                )
            cotangent = _added(cotangent, gradients, i)
        return None, None, *cotangent, *totals.totals


def _adjoint_step(
    field: SDEField,
    tableau: Tableau,
    step: SDEStep,
    noise: Tensor,
    y: Parts,
    cotangent: Parts,
    totals: _Totals,
) -> tuple[Parts, Parts]:
    """Take one step backwards, of state and cotangent together.

    With F = f dt + g o dB: dy = F, da = -a^T dF/dy, and the parameters' gradient
    gathers a^T dF/dparameters on the way back.
    """
    moves: list[Parts] = []
    pulls: list[Parts] = []
    for c, row, b in zip(tableau.c, tableau.a, tableau.b, strict=True):
        stage_y = _combined(y, row, moves, -1.0)
        stage_a = _combined(cotangent, row, pulls, 1.0)
        with torch.enable_grad():
            inputs = _leaves(stage_y)
            slopes = field(step.end - c * step.h, inputs)
            move = [slope * step.h for slope in slopes.drift]
            move[0] = noise_term(move[0], slopes.diffusion, noise)
        pulled, found = pull_back(tuple(move), inputs, totals.inputs, stage_a)
        if b:
            totals.add(found, b)
        moves.append(tuple(part.detach() for part in move))
        pulls.append(pulled)
    return (
        _combined(y, tableau.b, moves, -1.0),
        _combined(cotangent, tableau.b, pulls, 1.0),
    )


def _combined(
    base: Parts, weights: tuple[float, ...], moves: list[Parts], sign: float
) -> Parts:
    parts = list(base)
    for weight, move in zip(weights, moves, strict=False):
        if weight:
            parts = [
                p.add(m, alpha=sign * weight) for p, m in zip(parts, move, strict=True)
            ]
    return tuple(parts)


def solve_recomputed(
    trajectory: Trajectory, reverse: bool, y0: Parts, params: tuple[Tensor, ...]
) -> Parts:
    """Return the states with an exact gradient by taking the steps again.

    With ``reverse`` the steps are undone, else their carries are kept at a stride.
    """
    states: Parts = _Recomputed.apply(trajectory, reverse, *y0, *params)
    return states


def solve_adjoint(
    trajectory: Trajectory, tableau: Tableau, y0: Parts, params: tuple[Tensor, ...]
) -> Parts:
    """Return the states with the gradient of the continuous adjoint."""
    states: Parts = _ContinuousAdjoint.apply(trajectory, tableau, *y0, *params)
    return states
