"""The public function: argument checks, and the way to the right integrator."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from skfunc.solvers._adaptive import SharedStepIntegrator
from skfunc.solvers._controller import Tolerance
from skfunc.solvers._fixed import DEFAULT_STEPS, integrate_fixed
from skfunc.solvers._report import Solution, SolverReport, SolverWarning
from skfunc.solvers._runge_kutta import CountedField, Field
from skfunc.solvers._tableaus import ADAPTIVE_TABLEAUS, FIXED_TABLEAUS

FIXED_METHODS: tuple[str, ...] = tuple(FIXED_TABLEAUS)
ADAPTIVE_METHODS: tuple[str, ...] = tuple(ADAPTIVE_TABLEAUS)


def odeint(
    f: Field,
    y0: Tensor,
    t: Tensor | Sequence[float],
    *,
    method: str = "dopri5",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    n_steps: int | None = None,
    gradient: str = "backprop",
    per_row: bool = False,
    row_ndim: int = 1,
    max_nfe: int = 10_000,
    params: Iterable[Tensor] | None = None,
) -> Solution:
    """Solve ``dy/dt = f(t, y)``, ``y(t[0]) = y0`` at the times ``t``."""
    times = [float(x) for x in (t.tolist() if isinstance(t, Tensor) else t)]
    field = CountedField(f, y0)
    if method in FIXED_TABLEAUS:
        n = n_steps or DEFAULT_STEPS
        states = integrate_fixed(field, FIXED_TABLEAUS[method], y0, times, n)
        report = SolverReport(
            method, field.nfe, field.nfe, None, n * (len(times) - 1), 0, "success"
        )
    elif method in ADAPTIVE_TABLEAUS:
        solver = SharedStepIntegrator(
            field, ADAPTIVE_TABLEAUS[method], Tolerance(rtol, atol), max_nfe, row_ndim
        )
        states = solver.integrate(y0, times)
        tally = solver.tally
        report = SolverReport(
            method,
            field.nfe,
            field.nfe,
            None,
            tally.n_steps,
            tally.n_rejected,
            tally.status,
        )
        if tally.status != "success":
            warnings.warn(tally.status, SolverWarning, stacklevel=2)
    else:
        raise ValueError(f"unknown method {method!r}")
    return Solution(torch.stack(states), report)
