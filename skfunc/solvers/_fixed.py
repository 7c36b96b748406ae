"""Steps on a fixed grid, plain or guarded against states that are not finite."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from skfunc._shapes import Bool, Float
from skfunc.solvers._runge_kutta import (
    CountedField,
    Scalar,
    Step,
    StepObserver,
    masked_step,
    runge_kutta_step,
)
from skfunc.solvers._tableaus import RK4, Tableau

# Steps between two times when the caller names no number.
DEFAULT_STEPS = 20

# Steps by which classical Runge-Kutta finishes an interval that an adaptive method
# gave up on.
FINISH_STEPS = 50


def steps_on_grid(
    tableau: Tableau, t0: Scalar, t1: float, n_steps: int
) -> Iterator[Step]:
    """Yield ``n_steps`` equal steps from ``t0`` to ``t1``."""
    h = (t1 - t0) / n_steps
    for i in range(n_steps):
        yield Step(tableau, t0 + i * h, h)


def finite_rows(
    y: Float[Tensor, "*state"], row_ndim: int
) -> Bool[Tensor, "*broadcastable"]:
    """Tell the rows without NaN or infinity, in a shape that broadcasts to ``y``."""
    axes = tuple(range(row_ndim, y.ndim))
    if not axes:
        return torch.isfinite(y)
    # A sum is finite only where all its terms are: one pass, no temporary of y's size.
    return torch.isfinite(y.sum(dim=axes, keepdim=True))


class GuardedGrid:
    """Fixed-grid steps that hold a row at its last finite state.

    Parameters
    ----------
    field : CountedField
        The right-hand side.
    row_ndim : int
        Number of leading axes that index rows.
    """

    def __init__(self, field: CountedField, row_ndim: int) -> None:
        self.field = field
        self.row_ndim = row_ndim
        self.alive: Tensor | None = None

    def integrate(
        self,
        tableau: Tableau,
        y: Float[Tensor, "*state"],
        t0: Scalar,
        t1: float,
        n_steps: int,
        slope: Float[Tensor, "*state"] | None = None,
        on_step: StepObserver | None = None,
    ) -> Float[Tensor, "*state"]:
        """Return the state at ``t1``; rows that leave the finite range are held."""
        for step in steps_on_grid(tableau, t0, t1, n_steps):
            y, step = self._step(step, y, slope)
            slope = None
            if on_step is not None:
                on_step(step, y)
        return y

    def finish(
        self,
        y: Float[Tensor, "*state"],
        t0: Scalar,
        t1: float,
        on_step: StepObserver | None = None,
    ) -> Float[Tensor, "*state"]:
        """Go on to ``t1`` by classical Runge-Kutta where an adaptive method gave up."""
        return self.integrate(RK4, y, t0, t1, FINISH_STEPS, on_step=on_step)

    def _step(self, step: Step, y: Tensor, slope: Tensor | None) -> tuple[Tensor, Step]:
        with torch.no_grad():
            trial = runge_kutta_step(self.field, step, y, slope).y
            finite = finite_rows(trial, self.row_ndim)
            self.alive = finite if self.alive is None else self.alive & finite
            step = step._replace(move=step.h * self.alive.to(y.dtype))
        if not torch.is_grad_enabled():
            return torch.where(self.alive, trial, y), step
        # A graph of the trial would send zeros through what is not finite, and zero
        # times infinity is NaN: the step is taken again without the rows it lost.
        return masked_step(self.field, step, y, slope).y, step

    @property
    def diverged(self) -> bool:
        """Whether any row has been held; asks the device."""
        return self.alive is not None and not bool(self.alive.all().item())


class FixedIntegrator:
    """A method on a fixed grid of ``n_steps`` equal steps between two times.

    Asks nothing of the device, but for :attr:`GuardedGrid.diverged` where there is a
    guard.

    Parameters
    ----------
    field : CountedField
        The right-hand side.
    tableau : Tableau
        The method.
    n_steps : int
        Steps between two times.
    guard : GuardedGrid or None
        Holds rows at their last finite state; plain arithmetic when None.
    """

    def __init__(
        self,
        field: CountedField,
        tableau: Tableau,
        n_steps: int,
        guard: GuardedGrid | None = None,
    ) -> None:
        self.field = field
        self.tableau = tableau
        self.n_steps = n_steps
        self.guard = guard

    def interval(
        self,
        y: Float[Tensor, "*state"],
        slope: Float[Tensor, "*state"] | None,
        t0: float,
        t1: float,
        on_step: StepObserver | None = None,
    ) -> tuple[Tensor, None]:
        """Return the state at ``t1``, from ``y`` and its slope at ``t0``."""
        if self.guard is not None:
            return self.guard.integrate(
                self.tableau, y, t0, t1, self.n_steps, slope, on_step
            ), None
        for step in steps_on_grid(self.tableau, t0, t1, self.n_steps):
            y = runge_kutta_step(self.field, step, y, slope).y
            slope = None
            if on_step is not None:
                on_step(step, y)
        return y, None
