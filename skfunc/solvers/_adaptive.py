"""Adaptive steps with one step size for the whole state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from skfunc._shapes import Float
from skfunc.solvers._controller import (
    UNDERFLOW_ULPS,
    Tolerance,
    error_ratio,
    first_step,
    step_factor,
)
from skfunc.solvers._fixed import GuardedGrid, finish
from skfunc.solvers._report import Status
from skfunc.solvers._runge_kutta import CountedField, runge_kutta_step
from skfunc.solvers._tableaus import Tableau

# Called after an accepted step with its time, its size and the new state.
StepObserver = Callable[[float, float, Tensor], None]


@dataclass
class Tally:
    """What an adaptive solve counts."""

    n_steps: int = 0
    n_rejected: int = 0
    status: Status = "success"


class SharedStepIntegrator:
    """An adaptive method whose one step size serves the whole state.

    The step size lives on the host: each attempted step reads one number back, the
    error ratio. The first attempt reads its own size along with it.

    Parameters
    ----------
    field : CountedField
        The right-hand side.
    tableau : Tableau
        The method, with an error estimate.
    tolerance : Tolerance
        Tolerances and error norm.
    max_nfe : int
        Number of evaluations after which the interval is finished on a fixed grid.
    row_ndim : int
        Number of leading axes that index rows, for holding rows that diverge.
    """

    def __init__(
        self,
        field: CountedField,
        tableau: Tableau,
        tolerance: Tolerance,
        max_nfe: int,
        row_ndim: int,
    ) -> None:
        self.field = field
        self.tableau = tableau
        self.tolerance = tolerance
        self.max_nfe = max_nfe
        self.tally = Tally()
        self._guard = GuardedGrid(field, row_ndim)
        self._h: float | None = None

    def integrate(
        self,
        y: Float[Tensor, "*state"],
        times: list[float],
        on_step: StepObserver | None = None,
    ) -> list[Tensor]:
        """Return the states at ``times``; steps land on each of them."""
        states = [y]
        slope: Tensor | None = None
        for t0, t1 in zip(times, times[1:], strict=False):
            y, slope = self._interval(y, t0, t1, slope, on_step)
            states.append(y)
        return states

    def _interval(
        self,
        y: Tensor,
        t: float,
        t_end: float,
        slope: Tensor | None,
        on_step: StepObserver | None,
    ) -> tuple[Tensor, Tensor | None]:
        tally, tableau, field = self.tally, self.tableau, self.field
        if tally.status != "success":
            return self._finish(y, t, t_end), None
        ulp = torch.finfo(y.dtype).eps * max(abs(t), abs(t_end))
        if slope is None:
            slope = field(t, y)
        just_rejected = False
        while True:
            h = self._clip(t, t_end, y, slope)
            step = runge_kutta_step(field, tableau, t, h, y, slope)
            with torch.no_grad():
                ratio_tensor = error_ratio(
                    self.tolerance, tableau, h, y, step.y, step.slopes
                )
                if isinstance(h, Tensor):
                    ratio, h = torch.stack((ratio_tensor, h)).tolist()
                    self._h = h
                else:
                    ratio = ratio_tensor.item()
            landed = abs(t_end - t - h) <= UNDERFLOW_ULPS * ulp
            factor = step_factor(ratio, just_rejected)
            just_rejected = not ratio <= 1.0
            if just_rejected:
                tally.n_rejected += 1
                self._h = h * factor
            else:
                tally.n_steps += 1
                # A step cut short to land says little about how large one may be.
                assert self._h is not None
                self._h = math.copysign(max(abs(h * factor), abs(self._h)), h)
                if not landed or factor < 1.0:
                    self._h = h * factor
                t_new = t_end if landed else t + h
                y, slope = step.y, step.slopes[-1]
                if on_step is not None:
                    on_step(t, t_new - t, y)
                t = t_new
                if landed:
                    return y, slope
            if (
                abs(self._h) <= UNDERFLOW_ULPS * ulp
                or field.nfe + tableau.n_stages - 1 > self.max_nfe
            ):
                return self._finish(y, t, t_end), None

    def _clip(self, t: float, t_end: float, y: Tensor, slope: Tensor) -> float | Tensor:
        remaining = t_end - t
        if self._h is None:
            with torch.no_grad():
                return first_step(self.field, self.tolerance, t, remaining, y, slope)
        if abs(self._h) >= abs(remaining):
            return remaining
        # Two even steps rather than one and a sliver.
        return remaining / 2 if 2 * abs(self._h) > abs(remaining) else self._h

    def _finish(self, y: Tensor, t: float, t_end: float) -> Tensor:
        self.tally.status = "capped"
        y = finish(self._guard, y, t, t_end)
        if self._guard.diverged:
            self.tally.status = "diverged"
        return y
