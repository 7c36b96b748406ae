"""Adaptive steps with one step size for the whole state."""

from __future__ import annotations

import math
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
from skfunc.solvers._fixed import GuardedGrid
from skfunc.solvers._report import Status
from skfunc.solvers._runge_kutta import (
    CountedField,
    Step,
    StepObserver,
    Taken,
    runge_kutta_step,
)
from skfunc.solvers._tableaus import Tableau


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

    def interval(
        self,
        y: Float[Tensor, "*state"],
        slope: Float[Tensor, "*state"] | None,
        t0: float,
        t1: float,
        on_step: StepObserver | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return state and slope at ``t1``, on which the last step lands."""
        t, t_end = t0, t1
        tally, tableau, field = self.tally, self.tableau, self.field
        if tally.status != "success":
            return self._finish(y, t, t_end, on_step), None
        smallest = UNDERFLOW_ULPS * torch.finfo(y.dtype).eps * max(abs(t), abs(t_end))
        if slope is None:
            slope = field(t, y)
        just_rejected = False
        while True:
            tried = self._clip(t, t_end, y, slope)
            taken = runge_kutta_step(field, Step(tableau, t, tried), y, slope)
            h, ratio = self._read(tried, y, taken)
            landed = abs(t_end - t - h) <= smallest
            factor = step_factor(ratio, just_rejected)
            just_rejected = not ratio <= 1.0
            if just_rejected:
                tally.n_rejected += 1
                self._h = h * factor
            else:
                tally.n_steps += 1
                self._h = self._grown(h, factor)
                step = Step(tableau, t, h)
                t = t_end if landed else t + h
                y, slope = taken.y, taken.slopes[-1]
                if on_step is not None:
                    on_step(step, y)
                if landed:
                    return y, slope
            if (
                abs(self._h) <= smallest
                or field.nfe + tableau.n_stages - 1 > self.max_nfe
            ):
                return self._finish(y, t, t_end, on_step), None

    def _read(self, h: float | Tensor, y: Tensor, taken: Taken) -> tuple[float, float]:
        """Return step and error ratio as numbers, by one read from the device."""
        with torch.no_grad():
            ratio = error_ratio(
                self.tolerance, self.tableau, h, y, taken.y, taken.slopes
            )
            if not isinstance(h, Tensor):
                return h, ratio.item()
            self._h, ratio_read = torch.stack((h, ratio)).tolist()
            return self._h, ratio_read

    def _grown(self, h: float, factor: float) -> float:
        """Return the next step after one of ``h`` was accepted."""
        # A step cut short to land says little about how large the next may be.
        uncut = h if self._h is None else self._h
        if abs(h) < abs(uncut) and factor >= 1.0:
            return math.copysign(max(abs(h * factor), abs(uncut)), h)
        return h * factor

    def _clip(self, t: float, t_end: float, y: Tensor, slope: Tensor) -> float | Tensor:
        remaining = t_end - t
        if self._h is None:
            with torch.no_grad():
                return first_step(self.field, self.tolerance, t, remaining, y, slope)
        if abs(self._h) >= abs(remaining):
            return remaining
        # Two even steps rather than one and a sliver.
        return remaining / 2 if 2 * abs(self._h) > abs(remaining) else self._h

    def _finish(
        self, y: Tensor, t: float, t_end: float, on_step: StepObserver | None
    ) -> Tensor:
        self.tally.status = "capped"
        y = self._guard.finish(y, t, t_end, on_step)
        if self._guard.diverged:
            self.tally.status = "diverged"
        return y
