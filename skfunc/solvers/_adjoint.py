"""The continuous adjoint: the gradient as the solution of another equation.

Chen, Rubanova, Bettencourt and Duvenaud 2018, Neural ordinary differential equations,
arXiv:1806.07366: backwards in time, a' = -a^T df/dy, g' = -a^T df/dtheta. The block g
is a plain quadrature and is left out of the error norm (Kidger, Chen and Lyons 2021,
"Hey, that's not an ODE", arXiv:2009.09457).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skfunc._shapes import Float
from skfunc.solvers._adaptive import SharedStepIntegrator
from skfunc.solvers._report import SolverWarning
from skfunc.solvers._runge_kutta import CountedField, Field, Step, StepObserver


class Integrator(Protocol):
    """Takes a state, and its slope where known, from one time to another."""

    def interval(
        self,
        y: Tensor,
        slope: Tensor | None,
        t0: float,
        t1: float,
        on_step: StepObserver | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return state and slope at ``t1``."""
        ...


class _AdjointField:
    """Slopes of the stacked pair (y, a); keeps those of the parameters aside."""

    def __init__(self, f: Field, params: tuple[Tensor, ...]) -> None:
        self.f = f
        self.wanted = [i for i, p in enumerate(params) if p.requires_grad]
        self.inputs = [params[i] for i in self.wanted]
        self.totals = [torch.zeros_like(p) for p in self.inputs]
        self._slopes: list[list[Tensor | None]] = []

    def restart(self) -> None:
        """Forget the slopes so far: the next call is a first stage."""
        self._slopes = []

    def __call__(self, t: Tensor, pair: Tensor) -> Tensor:
        with torch.enable_grad():
            y = pair[0].detach().requires_grad_()
            k = self.f(t, y)
        slopes: list[Tensor | None] = [None] * (1 + len(self.inputs))
        if k.requires_grad:
            slopes[:] = torch.autograd.grad(
                k, [y, *self.inputs], pair[1], allow_unused=True
            )
        pulled = torch.zeros_like(k) if slopes[0] is None else slopes[0]
        self._slopes.append(slopes[1:])
        return torch.stack((k.detach(), -pulled))

    def on_step(self, step: Step, _: Tensor) -> None:
        """Add an accepted step to the parameters' gradient."""
        tableau = step.tableau
        assert not isinstance(step.h, Tensor)
        if tableau.first_same_as_last:
            stages = [self._slopes[0], *self._slopes[1 - tableau.n_stages :]]
        else:
            stages = self._slopes[-tableau.n_stages :]
        for b, slopes in zip(tableau.b, stages, strict=True):
            if b == 0.0:
                continue
            for total, slope in zip(self.totals, slopes, strict=True):
                if slope is not None:
                    total.sub_(slope, alpha=step.h * b)
        self._slopes = self._slopes[-1:] if tableau.first_same_as_last else []


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        f: Field,
        solve: Callable[[], list[Tensor]],
        backward_integrator: Callable[[CountedField], Integrator],
        times: list[float],
        y0: Tensor,
        *params: Tensor,
    ) -> Tensor:
        states = torch.stack(solve())
        ctx.f = f
        ctx.backward_integrator = backward_integrator
        ctx.times = times
        ctx.params = params
        ctx.save_for_backward(states, *params)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        of_y0, of_params = adjoint_gradients(
            ctx.f,
            ctx.saved_tensors[0],
            ctx.times,
            gradient,
            ctx.params,
            ctx.backward_integrator,
        )
        return None, None, None, None, of_y0, *of_params


def adjoint_gradients(
    f: Field,
    states: Float[Tensor, "times ..."],
    times: list[float],
    gradient: Float[Tensor, "times ..."],
    params: tuple[Tensor, ...],
    backward_integrator: Callable[[CountedField], Integrator],
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the gradients of the first state and of ``params``.

    The state starts again from ``states`` at each of the times, and the cotangent
    takes up that time's ``gradient``.
    """
    adjoint = _AdjointField(f, params)
    integrator = backward_integrator(CountedField(adjoint, states))
    cotangent = gradient[-1]
    for i in range(len(times) - 1, 0, -1):
        adjoint.restart()
        pair = torch.stack((states[i], cotangent))
        pair, _ = integrator.interval(
            pair, None, times[i], times[i - 1], adjoint.on_step
        )
        cotangent = pair[1] + gradient[i - 1]
    if isinstance(integrator, SharedStepIntegrator):
        _warn_if_capped(integrator)
    of_params: list[Tensor | None] = [None] * len(params)
    for j, total in zip(adjoint.wanted, adjoint.totals, strict=True):
        of_params[j] = total
    return cotangent, of_params


def _warn_if_capped(integrator: SharedStepIntegrator) -> None:
    if integrator.tally.status != "success":
        warnings.warn(
            "The adjoint equation could not keep its tolerance on the way back, and "
            "was finished by rk4 on a fixed grid: the gradient's accuracy is unknown. "
            "Use gradient='checkpoint' for the exact one.",
            SolverWarning,
            stacklevel=2,
        )


def solve_adjoint(
    f: Field,
    solve: Callable[[], list[Tensor]],
    backward_integrator: Callable[[CountedField], Integrator],
    times: list[float],
    y0: Float[Tensor, "*state"],
    params: tuple[Tensor, ...],
) -> Float[Tensor, "times ..."]:
    """Return the states of ``solve`` with the continuous adjoint as their gradient.

    Parameters
    ----------
    f : callable
        The right-hand side.
    solve : callable
        Returns the states at ``times``, without gradient.
    backward_integrator : callable
        Makes the integrator of the adjoint's field.
    times : list of float
        Times of the states.
    y0 : Tensor
        First state.
    params : tuple of Tensor
        Tensors that ``f`` reads and that want a gradient.

    Returns
    -------
    Tensor
        The states, stacked.
    """
    states: Tensor = _Adjoint.apply(f, solve, backward_integrator, times, y0, *params)
    return states
