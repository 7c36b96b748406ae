"""The methods of torchdiffeq, behind the same function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torchdiffeq
from torch import Tensor
from torch.autograd.function import once_differentiable

from skfunc._shapes import Float
from skfunc.solvers._adjoint import adjoint_gradients
from skfunc.solvers._fixed import FINISH_STEPS, FixedIntegrator, GuardedGrid
from skfunc.solvers._report import SolverReport, Status
from skfunc.solvers._runge_kutta import CountedField, Field
from skfunc.solvers._tableaus import RK4

PREFIX = "torchdiffeq:"

TORCHDIFFEQ_ADAPTIVE = (
    "dopri8",
    "dopri5",
    "bosh3",
    "fehlberg2",
    "adaptive_heun",
)
TORCHDIFFEQ_FIXED = (
    "euler",
    "midpoint",
    "heun2",
    "heun3",
    "rk4",
    "explicit_adams",
    "implicit_adams",
    "fixed_adams",
)
# SciPy's solve_ivp, which records no graph: gradients come from the adjoint only.
TORCHDIFFEQ_SCIPY = ("scipy_solver",)

TORCHDIFFEQ_METHODS = tuple(
    PREFIX + name
    for name in (*TORCHDIFFEQ_ADAPTIVE, *TORCHDIFFEQ_FIXED, *TORCHDIFFEQ_SCIPY)
)


class _EvaluationsExhausted(Exception):
    pass


class TorchdiffeqSolver:
    """Solves by one of torchdiffeq's methods, and never raises for stiffness.

    Parameters
    ----------
    field : CountedField
        The right-hand side.
    method : str
        Name of the method, with the prefix.
    rtol, atol : float
        Tolerances.
    n_steps : int
        Steps between two times, of the fixed methods.
    max_nfe : int
        Evaluations after which the solve starts again on a fixed grid.
    row_ndim : int
        Number of leading axes that index rows.
    """

    def __init__(
        self,
        field: CountedField,
        method: str,
        *,
        rtol: float,
        atol: float,
        n_steps: int,
        max_nfe: int,
        row_ndim: int,
    ) -> None:
        self.field = field
        self.method = method.removeprefix(PREFIX)
        self.rtol = rtol
        self.atol = atol
        self.n_steps = n_steps
        self.max_nfe = max_nfe
        self.row_ndim = row_ndim
        self.n_accepted = 0
        self.n_rejected = 0
        self.status: Status = "success"

    def solve(
        self,
        y0: Float[Tensor, "*state"],
        times: list[float],
        adjoint_params: tuple[Tensor, ...] | None = None,
    ) -> Float[Tensor, "times ..."]:
        """Return the states at ``times``; by ``odeint_adjoint`` if given parameters."""
        if adjoint_params is None:
            return self._solve(y0, times)
        states: Tensor = _Shielded.apply(self, times, y0, *adjoint_params)
        return states

    def report(self) -> SolverReport:
        """Return the counts of the solve."""
        nfe = self.field.nfe
        return SolverReport(
            method=PREFIX + self.method,
            nfe=float(nfe),
            nfe_max=nfe,
            nfe_per_row=None,
            n_steps=self.n_accepted,
            n_rejected=self.n_rejected,
            status=self.status,
        )

    def _solve(
        self,
        y0: Tensor,
        times: list[float],
        adjoint_params: tuple[Tensor, ...] | None = None,
    ) -> Tensor:
        t = torch.tensor(times, dtype=y0.dtype, device=y0.device)
        settings: dict[str, Any] = {
            "rtol": self.rtol,
            "atol": self.atol,
            "method": self.method,
            "options": self._options(),
        }
        function: Callable[..., Tensor] = torchdiffeq.odeint
        if adjoint_params is not None:
            function = torchdiffeq.odeint_adjoint
            settings["adjoint_params"] = adjoint_params
            settings["adjoint_options"] = {**self._options(), "norm": "seminorm"}
        try:
            states = function(self._evaluation(), y0, t, **settings)
        except (AssertionError, _EvaluationsExhausted):
            # torchdiffeq asserts that its step does not underflow.
            return self._finish(y0, times)
        # SciPy returns the times that it reached, where it gave up before the end.
        if len(states) == len(times) and math.isfinite(states.detach().sum().item()):
            return states
        return self._finish(y0, times)

    def _evaluation(self) -> Field:
        """Return the field with the callbacks by which torchdiffeq tells its steps."""

        def evaluate(t: Tensor, y: Tensor) -> Tensor:
            if not self._is_fixed and self.field.nfe >= self.max_nfe:
                raise _EvaluationsExhausted
            return self.field(t.to(y.dtype), y)

        def accept(*_: object) -> None:
            self.n_accepted += 1

        def reject(*_: object) -> None:
            self.n_rejected += 1

        if self._is_fixed:
            evaluate.callback_step = accept  # type: ignore[attr-defined]
        elif self.method in TORCHDIFFEQ_ADAPTIVE:
            evaluate.callback_accept_step = accept  # type: ignore[attr-defined]
            evaluate.callback_reject_step = reject  # type: ignore[attr-defined]
        return evaluate

    @property
    def _is_fixed(self) -> bool:
        return self.method in TORCHDIFFEQ_FIXED

    def _options(self) -> dict[str, object]:
        return {"grid_constructor": self._grid} if self._is_fixed else {}

    def _grid(self, _f: object, _y0: Tensor, t: Tensor) -> Tensor:
        fractions = torch.arange(self.n_steps, dtype=t.dtype, device=t.device)
        inner = t[:-1, None] + (t[1:] - t[:-1])[:, None] * (fractions / self.n_steps)
        return torch.cat((inner.flatten(), t[-1:]))

    def _finish(self, y: Tensor, times: list[float]) -> Tensor:
        self.status = "capped"
        guard = GuardedGrid(self.field, self.row_ndim)
        states = [y]
        for t0, t1 in zip(times, times[1:], strict=False):
            y = guard.finish(y, t0, t1)
            states.append(y)
        if guard.diverged:
            self.status = "diverged"
        return torch.stack(states)


class _Shielded(torch.autograd.Function):
    """``odeint_adjoint`` whose way back does not raise for stiffness either."""

    @staticmethod
    def forward(
        ctx: Any,
        solver: TorchdiffeqSolver,
        times: list[float],
        y0: Tensor,
        *params: Tensor,
    ) -> Tensor:
        with torch.enable_grad():
            start = y0.detach().requires_grad_()
            states = solver._solve(start, times, params)
        ctx.solver = solver
        ctx.times = times
        ctx.params = params
        ctx.start = start
        ctx.states = states
        return states.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [p for p in ctx.params if p.requires_grad]
        solver = ctx.solver
        # The budget of evaluations is the way back's own.
        nfe, solver.field.nfe = solver.field.nfe, 1
        try:
            of_y0, *found = torch.autograd.grad(
                ctx.states,
                [ctx.start, *wanted],
                gradients,
                retain_graph=True,
                allow_unused=True,
            )
            of_wanted = iter(found)
            of_params = [
                next(of_wanted) if p.requires_grad else None for p in ctx.params
            ]
        except (AssertionError, _EvaluationsExhausted):
            of_y0, of_params = adjoint_gradients(
                solver.field,
                ctx.states.detach(),
                ctx.times,
                gradients[0],
                ctx.params,
                lambda field: FixedIntegrator(field, RK4, FINISH_STEPS),
            )
        finally:
            solver.field.nfe = nfe
        return None, None, of_y0, *of_params
