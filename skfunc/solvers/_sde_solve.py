"""One stochastic problem: which steps, which gradient, what to report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from skfunc.solvers._brownian import BrownianPath
from skfunc.solvers._controller import Tolerance
from skfunc.solvers._parameters import check_reads
from skfunc.solvers._report import SolverReport, Status
from skfunc.solvers._sde_adaptive import DyadicIntegrator, Holder
from skfunc.solvers._sde_gradients import (
    Trajectory,
    solve_adjoint,
    solve_recomputed,
    stacked,
)
from skfunc.solvers._sde_steps import SDE_METHODS, Parts, SDEField, SDEStep
from skfunc.solvers._tableaus import HEUN, MIDPOINT
from skfunc.solvers._torchsde import PREFIX, solve_by_torchsde

# Adaptive methods, by the fixed one whose steps they take.
ADAPTIVE_BY = {"adaptive_heun": "heun"}


@dataclass(frozen=True)
class SDESettings:
    """Checked arguments of :func:`skfunc.solvers.sdeint`."""

    method: str
    n_steps: int
    rtol: float
    atol: float
    gradient: str
    max_nfe: int


class SDESolution(NamedTuple):
    """States at the asked times, and the report.

    Parameters
    ----------
    y : Tensor or tuple of Tensor
        The states, stacked along a first axis; a tuple where the first state was one.
    report : SolverReport
        How the equation was solved.

    Examples
    --------
    >>> import torch
    >>> from skfunc.solvers import sdeint
    >>> y0 = torch.zeros(2, 3)
    >>> y, report = sdeint(lambda t, y: -y, 1.0, y0, [0.0, 0.5, 1.0], noise=0)
    >>> y.shape, report.n_steps
    (torch.Size([3, 2, 3]), 40)
    """

    y: Tensor | tuple[Tensor, ...]
    report: SolverReport


def grid(times: list[float], n_steps: int) -> list[float]:
    """Return the times with ``n_steps`` equal steps from each to the next."""
    inner = [
        t0 + (t1 - t0) * (i / n_steps)
        for t0, t1 in zip(times, times[1:], strict=False)
        for i in range(n_steps)
    ]
    return [*inner, times[-1]]


def solve_sde(
    field: SDEField,
    y0: Parts,
    times: list[float],
    path: BrownianPath,
    settings: SDESettings,
    params: Iterable[Tensor],
) -> tuple[Parts, SolverReport]:
    """Return the stacked states and the report; warn of nothing."""
    known = _parameters(field, params)
    recording = torch.is_grad_enabled() and _wants_gradient(
        field, y0, times[0], settings.gradient, known
    )
    if settings.method.startswith(PREFIX):
        return _solve_by_torchsde(field, y0, times, path, settings, known, recording)

    def noise(step: SDEStep) -> Tensor:
        return path.increment(step.start, step.end).to(y0[0])

    method = SDE_METHODS[ADAPTIVE_BY.get(settings.method, settings.method)]
    status: Status = "success"
    n_rejected = 0
    holder = None if recording else Holder()
    states: list[Parts] = []
    if settings.method in ADAPTIVE_BY:
        integrator = DyadicIntegrator(
            field,
            method,
            Tolerance(settings.rtol, settings.atol),
            settings.max_nfe,
            noise,
        )
        plan, y = [], tuple(part.detach() for part in y0)
        states = [y]
        for t0, t1 in zip(times, times[1:], strict=False):
            y, steps = integrator.interval(y, t0, t1)
            plan.append(steps)
            states.append(y)
        status, n_rejected = integrator.tally.status, integrator.tally.n_rejected
        holder = integrator.hold
    else:
        knots = grid(times, settings.n_steps)
        steps = list(map(SDEStep, knots, knots[1:]))
        n = settings.n_steps
        plan = [steps[i : i + n] for i in range(0, len(steps), n)]
    # The adaptive steps are found without a graph, and the accepted ones taken again.
    trajectory = Trajectory(
        field, method, plan, noise, len(y0), None if recording else holder
    )
    if recording:
        y_all = _with_gradient(trajectory, y0, settings, known)
    else:
        if not states:
            with torch.no_grad():
                states, _ = trajectory.run(y0)
        y_all = stacked(states)
    if holder is not None and holder.held:
        status = "diverged"
    nfe, n_taken = field.nfe, sum(map(len, plan))
    report = SolverReport(
        settings.method, float(nfe), nfe, None, n_taken, n_rejected, status
    )
    return y_all, report


def _with_gradient(
    trajectory: Trajectory, y0: Parts, settings: SDESettings, params: tuple[Tensor, ...]
) -> Parts:
    if settings.gradient == "backprop":
        return stacked(trajectory.run(y0)[0])
    if settings.gradient == "checkpoint":
        return solve_recomputed(trajectory, False, y0, params)
    if settings.method == "reversible_heun":
        return solve_recomputed(trajectory, True, y0, params)
    if settings.method == "euler" and not trajectory.field.additive:
        raise ValueError(
            "gradient='adjoint' with method='euler' needs additive noise, since the "
            "adjoint equation is a Stratonovich one: use 'checkpoint', or one of heun, "
            "midpoint and reversible_heun."
        )
    # Of second order without noise, so that it adds little to a first-order method's
    # own error: Euler's adjoint solved so is nearer to the true gradient than Euler's.
    tableau = MIDPOINT if settings.method == "midpoint" else HEUN
    return solve_adjoint(trajectory, tableau, y0, params)


def _parameters(field: SDEField, params: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Return ``params`` and those tensors among the arguments that want a gradient."""
    own = [x for x in (field.g, field.mean) if isinstance(x, Tensor)]
    known = {id(p): p for p in (*params, *(x for x in own if x.requires_grad))}
    return tuple(known.values())


def _wants_gradient(
    field: SDEField,
    y0: Parts,
    t0: float,
    gradient: str,
    params: tuple[Tensor, ...],
) -> bool:
    """Return whether the states depend on a tensor that wants a gradient.

    Where the steps are taken again, raise if that tensor is not known.
    """
    known = any(x.requires_grad for x in (*y0, *params))
    if known and gradient == "backprop":
        return True
    slopes = field(t0, tuple(part.detach() for part in y0))
    read = [
        x
        for x in (*slopes.drift, slopes.diffusion)
        if isinstance(x, Tensor) and x.requires_grad
    ]
    if gradient != "backprop":
        for slope in read:
            # A view, for a slope that is itself a parameter has no history to search.
            check_reads(slope.view_as(slope), params, gradient)
    return known or bool(read)


def _solve_by_torchsde(
    field: SDEField,
    y0: Parts,
    times: list[float],
    path: BrownianPath,
    settings: SDESettings,
    params: tuple[Tensor, ...],
    recording: bool,
) -> tuple[Parts, SolverReport]:
    if settings.gradient == "checkpoint":
        raise ValueError(
            f"gradient='checkpoint' needs one of {', '.join(SDE_METHODS)}; "
            f"{settings.method} has 'backprop' and 'adjoint'."
        )
    adjoint = recording and settings.gradient == "adjoint"
    n = settings.n_steps
    states = solve_by_torchsde(
        field, settings.method, y0, times, n, path, params if adjoint else None
    )
    finite = recording or all(torch.isfinite(part.sum()) for part in states[-1])
    nfe = field.nfe
    report = SolverReport(
        method=settings.method,
        nfe=float(nfe),
        nfe_max=nfe,
        nfe_per_row=None,
        n_steps=n * (len(times) - 1),
        n_rejected=0,
        status="success" if finite else "diverged",
    )
    return stacked(states), report
