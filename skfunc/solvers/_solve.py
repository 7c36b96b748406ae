"""One initial value problem: which integrator, which gradient, what to report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from skfunc._shapes import Float
from skfunc.solvers._adaptive import SharedStepIntegrator
from skfunc.solvers._adjoint import solve_adjoint
from skfunc.solvers._checkpoint import StateKeeper, solve_checkpointed
from skfunc.solvers._controller import Tolerance
from skfunc.solvers._fixed import FixedIntegrator, GuardedGrid
from skfunc.solvers._parameters import check_reads, field_parameters
from skfunc.solvers._per_row import PerRowIntegrator, row_column
from skfunc.solvers._report import Solution, SolverReport
from skfunc.solvers._runge_kutta import CountedField, Field, retake_step
from skfunc.solvers._tableaus import ADAPTIVE_TABLEAUS, FIXED_TABLEAUS
from skfunc.solvers._torchdiffeq import (
    PREFIX,
    TORCHDIFFEQ_SCIPY,
    TorchdiffeqSolver,
)

NATIVE = (*FIXED_TABLEAUS, *ADAPTIVE_TABLEAUS)


@dataclass(frozen=True)
class Settings:
    """Checked arguments of :func:`skfunc.solvers.odeint`."""

    method: str
    rtol: float
    atol: float
    n_steps: int
    gradient: str
    per_row: bool
    row_ndim: int
    max_nfe: int
    last_only: bool = False


def solve(
    f: Field,
    y0: Float[Tensor, "*state"],
    times: list[float],
    settings: Settings,
    params: Iterable[Tensor] | None,
) -> Solution:
    """Solve with checked arguments; warn of nothing."""
    if y0.numel() == 0:
        rows = y0.shape[: settings.row_ndim]
        none = torch.zeros(rows, dtype=torch.int64) if settings.per_row else None
        report = SolverReport(settings.method, 0.0, 0, none, 0, 0, "success")
        n_states = 1 if settings.last_only else len(times)
        return Solution(torch.stack([y0] * n_states), report)
    if settings.method.startswith(PREFIX):
        solution = _solve_by_torchdiffeq(f, y0, times, settings, params)
        return solution._replace(y=solution.y[-1:]) if settings.last_only else solution
    problem = _Problem(f, y0, times, settings)
    if settings.gradient == "backprop" or not torch.is_grad_enabled():
        y = problem.solve_plainly()
    else:
        y = problem.solve_recomputed(field_parameters(f, params))
    return Solution(y[-1:] if settings.last_only else y, problem.report())


class _Problem:
    def __init__(
        self, f: Field, y0: Tensor, times: list[float], settings: Settings
    ) -> None:
        self.f = f
        self.y0 = y0
        self.times = times
        self.settings = settings
        self.field = CountedField(f, y0)
        self._used: FixedIntegrator | SharedStepIntegrator | PerRowIntegrator | None
        self._used = None

    def solve_plainly(self) -> Tensor:
        """Return the states with the graph of the steps, where one is wanted."""
        slope = self.field(self._first_time(), self.y0)
        tracked = torch.is_grad_enabled() and (
            self.y0.requires_grad or slope.requires_grad
        )
        states = self._states(slope, training=tracked, record=tracked)
        if self.settings.last_only:
            return states[-1].unsqueeze(0)
        return torch.stack(states)

    def solve_recomputed(self, params: tuple[Tensor, ...]) -> Tensor:
        """Return the states with a gradient that computes the field again."""
        gradient = self.settings.gradient
        slope = self.field(self._first_time(), self.y0.detach())
        check_reads(slope, params, gradient)
        slope = slope.detach()
        if not (self.y0.requires_grad or any(p.requires_grad for p in params)):
            with torch.no_grad():
                return torch.stack(self._states(slope, training=False, record=False))
        if gradient == "checkpoint":
            return solve_checkpointed(
                self.field,
                lambda keeper: self._states(slope, True, True, keeper),
                self.settings.row_ndim - 1,
                self.y0,
                params,
            )
        return solve_adjoint(
            self.f,
            lambda: self._states(slope, training=True, record=False),
            lambda field: self._integrator(field, training=True, for_adjoint=True),
            self.times,
            self.y0,
            params,
        )

    def _first_time(self) -> float | Tensor:
        if self.settings.per_row:
            return row_column(self.y0, self.settings.row_ndim, self.times[0])
        return self.times[0]

    def _integrator(
        self, field: CountedField, training: bool, for_adjoint: bool = False
    ) -> FixedIntegrator | SharedStepIntegrator:
        s = self.settings
        if s.method in FIXED_TABLEAUS:
            guard = None if training else GuardedGrid(field, s.row_ndim)
            return FixedIntegrator(field, FIXED_TABLEAUS[s.method], s.n_steps, guard)
        # The adjoint's state is a pair: state and cotangent each have their norm.
        return SharedStepIntegrator(
            field,
            ADAPTIVE_TABLEAUS[s.method],
            Tolerance(s.rtol, s.atol, blocks=for_adjoint),
            s.max_nfe,
            row_ndim=s.row_ndim + for_adjoint,
        )

    def _states(
        self,
        slope: Tensor,
        training: bool,
        record: bool,
        keeper: StateKeeper | None = None,
    ) -> list[Tensor]:
        """Return the states at the times.

        When training, fixed grids are not guarded. The steps are recorded where a
        graph or a keeper follows them.
        """
        if self.settings.per_row:
            return self._states_per_row(slope, record, keeper)
        integrator = self._integrator(self.field, training)
        self._used = integrator
        y, states = self.y0, [self.y0]
        known: Tensor | None = slope
        for t0, t1 in zip(self.times, self.times[1:], strict=False):
            y, known = integrator.interval(y, known, t0, t1, keeper)
            states.append(y)
            if keeper is not None:
                keeper.arrive()
        return states

    def _states_per_row(
        self, slope: Tensor, record: bool, keeper: StateKeeper | None
    ) -> list[Tensor]:
        s = self.settings
        integrator = PerRowIntegrator(
            self.field,
            ADAPTIVE_TABLEAUS[s.method],
            Tolerance(s.rtol, s.atol, s.row_ndim),
            s.max_nfe,
            record=record,
        )
        self._used = integrator
        states = integrator.integrate(self.y0, slope, self.times)
        if integrator.plan is None:
            return states
        # The steps are found without a graph, and the accepted ones are then taken
        # with it: rejected ones never send NaN through a mask into the gradient.
        y, states = self.y0, [self.y0]
        known: Tensor | None = slope
        for steps in integrator.plan:
            for step in steps:
                y, known = retake_step(self.field, step, y, known, s.row_ndim - 1)
                if keeper is not None:
                    keeper(step, y)
            states.append(y)
            if keeper is not None:
                keeper.arrive()
        return states

    def report(self) -> SolverReport:
        """Return the counts of the solve, before any gradient is computed."""
        method, nfe, used = self.settings.method, self.field.nfe, self._used
        if isinstance(used, PerRowIntegrator):
            return used.report(method)
        if isinstance(used, SharedStepIntegrator):
            tally = used.tally
            return SolverReport(
                method,
                float(nfe),
                nfe,
                None,
                tally.n_steps,
                tally.n_rejected,
                tally.status,
            )
        n_steps = self.settings.n_steps * (len(self.times) - 1)
        guard = used.guard if used is not None else None
        held = guard is not None and guard.diverged
        return SolverReport(
            method, float(nfe), nfe, None, n_steps, 0, "diverged" if held else "success"
        )


def _solve_by_torchdiffeq(
    f: Field,
    y0: Tensor,
    times: list[float],
    settings: Settings,
    params: Iterable[Tensor] | None,
) -> Solution:
    if settings.gradient == "checkpoint":
        raise ValueError(
            f"gradient='checkpoint' needs one of {', '.join(NATIVE)}; "
            f"{settings.method} has 'backprop' and 'adjoint'."
        )
    field = CountedField(f, y0)
    known = None
    if torch.is_grad_enabled():
        slope = f(torch.full((), times[0], dtype=y0.dtype, device=y0.device), y0)
        wants_gradient = y0.requires_grad or slope.requires_grad
        if settings.gradient == "adjoint" and wants_gradient:
            known = field_parameters(f, params)
        elif (
            settings.method.removeprefix(PREFIX) in TORCHDIFFEQ_SCIPY and wants_gradient
        ):
            raise ValueError(
                f"{settings.method} records no graph: use gradient='adjoint', or "
                "torch.no_grad() where no gradient is wanted; got gradient='backprop'."
            )
    solver = TorchdiffeqSolver(
        field,
        settings.method,
        rtol=settings.rtol,
        atol=settings.atol,
        n_steps=settings.n_steps,
        max_nfe=settings.max_nfe,
        row_ndim=settings.row_ndim,
    )
    y = solver.solve(y0, times, known)
    return Solution(y, solver.report())
