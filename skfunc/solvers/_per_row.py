"""Adaptive steps with a step size for each row.

A row's steps depend on that row alone, so that its result does not depend on its
batch mates. Rows are masked once they arrive; when at most half of the entries along
the last row axis are under way, the others are left out of the evaluations. Only that
axis is compacted: axes before it may be members of a stack with weights of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from skfunc._shapes import Float
from skfunc.solvers._controller import (
    UNDERFLOW_ULPS,
    Tolerance,
    error_ratio,
    first_step,
    step_factors,
)
from skfunc.solvers._fixed import FINISH_STEPS, GuardedGrid
from skfunc.solvers._report import SolverReport
from skfunc.solvers._runge_kutta import CountedField, Step, runge_kutta_step
from skfunc.solvers._tableaus import RK4, Tableau


def row_column(y: Tensor, row_ndim: int, value: float) -> Tensor:
    """Return one number for each row, with as many axes as ``y``."""
    shape = (*y.shape[:row_ndim], *(1,) * (y.ndim - row_ndim))
    return torch.full(shape, value, dtype=y.dtype, device=y.device)


@dataclass
class RowStates:
    """State, step and counts of each row; all but ``y`` and ``slope`` have one entry.

    Everything keeps the axes of the state, so that it broadcasts to it.
    """

    y: Tensor
    slope: Tensor
    t: Tensor
    h: Tensor
    nfe: Tensor
    n_steps: Tensor
    n_rejected: Tensor
    just_rejected: Tensor
    under_way: Tensor
    capped: Tensor
    diverged: Tensor

    def part(self, axis: int, rows: Tensor) -> RowStates:
        """Return a copy of some entries along an axis."""
        values = {
            f.name: getattr(self, f.name).index_select(axis, rows) for f in fields(self)
        }
        return RowStates(**values)

    def store(self, axis: int, rows: Tensor, part: RowStates) -> None:
        """Write back what :meth:`part` returned."""
        for f in fields(self):
            getattr(self, f.name).index_copy_(axis, rows, getattr(part, f.name))


class _Attempt(NamedTuple):
    rows: Tensor | None
    accepted: Tensor
    t: Tensor
    h: Tensor


class PerRowIntegrator:
    """An adaptive method with a step size for each row; records no gradient.

    One read from the device per attempted step tells how many entries are under way;
    each compaction, at most log2 of their number, takes one more.

    Parameters
    ----------
    field : CountedField
        The right-hand side, row-wise along the last row axis.
    tableau : Tableau
        The method, with an error estimate.
    tolerance : Tolerance
        Tolerances, and the number of leading axes that index rows.
    max_nfe : int
        Evaluations after which a row is finished on a fixed grid.
    record : bool
        Whether to keep the accepted steps in ``plan``.
    """

    def __init__(
        self,
        field: CountedField,
        tableau: Tableau,
        tolerance: Tolerance,
        max_nfe: int,
        record: bool,
    ) -> None:
        self.field = field
        self.tableau = tableau
        self.tolerance = tolerance
        self.max_nfe = max_nfe
        self.axis = tolerance.row_ndim - 1
        # The accepted steps of each interval between two times, when recorded.
        self.plan: list[list[Step]] | None = [] if record else None
        self.rows: RowStates | None = None
        self._attempts: list[_Attempt] = []
        self._any_capped = False

    @torch.no_grad()
    def integrate(
        self,
        y0: Float[Tensor, "*state"],
        slope: Float[Tensor, "*state"],
        times: list[float],
    ) -> list[Tensor]:
        """Return the states at ``times``; ``slope`` is ``f(times[0], y0)``."""
        rows = self._begin(y0, slope, times)
        states = [y0]
        for t0, t1 in zip(times, times[1:], strict=False):
            self._interval(rows, t0, t1)
            states.append(rows.y.clone())
        self.rows = rows
        return states

    def _begin(self, y0: Tensor, slope: Tensor, times: list[float]) -> RowStates:
        t = row_column(y0, self.tolerance.row_ndim, times[0])
        length = times[1] - times[0]
        h = first_step(self.field, self.tolerance, t, length, y0, slope)
        count = torch.zeros_like(t, dtype=torch.int64)
        no = torch.zeros_like(t, dtype=torch.bool)
        return RowStates(
            y=y0.detach().clone(),
            slope=slope.detach().clone(),
            t=t,
            h=h,
            nfe=count + self.field.nfe,
            n_steps=count,
            n_rejected=count.clone(),
            just_rejected=no,
            under_way=~no,
            capped=no.clone(),
            diverged=no.clone(),
        )

    def _interval(self, rows: RowStates, t0: float, t_end: float) -> None:
        rows.under_way = ~rows.capped
        rows.just_rejected = torch.zeros_like(rows.capped)
        self._attempts = []
        current, where = rows, None
        while True:
            self._attempt(current, where, t0, t_end)
            entries = self._entries(current.under_way)
            counts = torch.stack((entries.sum(), current.capped.sum())).tolist()
            n_under_way, n_capped = counts
            self._any_capped = self._any_capped or n_capped > 0
            if n_under_way == 0:
                break
            if 2 * n_under_way <= entries.numel():
                if where is not None:
                    rows.store(self.axis, where, current)
                where = torch.nonzero(self._entries(rows.under_way)).flatten()
                current = rows.part(self.axis, where)
        if where is not None:
            rows.store(self.axis, where, current)
        if self.plan is not None:
            self.plan.append(self._planned(rows))
        if self._any_capped:
            self._finish(rows, t_end)

    def _entries(self, mask: Tensor) -> Tensor:
        """Tell the entries along the last row axis in which any row is marked."""
        width = mask.shape[self.axis]
        return mask.movedim(self.axis, -1).reshape(-1, width).any(dim=0)

    def _attempt(
        self, rows: RowStates, where: Tensor | None, t0: float, t_end: float
    ) -> None:
        remaining = t_end - rows.t
        smallest = (
            UNDERFLOW_ULPS * torch.finfo(rows.y.dtype).eps * max(abs(t0), abs(t_end))
        )
        size = rows.h.abs()
        h = torch.where(2 * size > remaining.abs(), remaining / 2, rows.h)
        h = torch.where(size >= remaining.abs(), remaining, h)
        h = torch.where(rows.under_way, h, 0.0)

        step = Step(self.tableau, rows.t, h)
        taken = runge_kutta_step(self.field, step, rows.y, rows.slope)
        ratio = error_ratio(
            self.tolerance, self.tableau, h, rows.y, taken.y, taken.slopes
        )

        accepted = rows.under_way & (ratio <= 1.0)
        rejected = rows.under_way & ~accepted
        if self.plan is not None:
            self._attempts.append(_Attempt(where, accepted, rows.t, h))
        landed = accepted & ((remaining - h).abs() <= smallest)
        factor = step_factors(ratio, rows.just_rejected)
        proposed = h * factor
        # A step cut short to land says little about how large the next may be.
        keep = accepted & (h.abs() < size) & (factor >= 1.0)
        keep &= proposed.abs() < size
        rows.h = torch.where(rows.under_way & ~keep, proposed, rows.h)
        rows.t = torch.where(landed, t_end, torch.where(accepted, rows.t + h, rows.t))
        rows.y = torch.where(accepted, taken.y, rows.y)
        rows.slope = torch.where(accepted, taken.slopes[-1], rows.slope)

        n_new = self.tableau.n_stages - 1
        rows.nfe = rows.nfe + n_new * rows.under_way
        rows.n_steps = rows.n_steps + accepted
        rows.n_rejected = rows.n_rejected + rejected
        rows.just_rejected = rejected
        rows.under_way = rows.under_way & ~landed
        stuck = (rows.h.abs() <= smallest) | (rows.nfe + n_new > self.max_nfe)
        rows.capped = rows.capped | (rows.under_way & stuck)
        rows.under_way = rows.under_way & ~rows.capped

    def _finish(self, rows: RowStates, t_end: float) -> None:
        """Take the rows that gave up to ``t_end`` by classical Runge-Kutta."""
        where = torch.nonzero(self._entries(rows.capped)).flatten()
        part = rows.part(self.axis, where)
        guard = GuardedGrid(self.field, self.tolerance.row_ndim)
        planned: list[Step] = []
        # Rows that have arrived share entries with rows that have not: they step by 0.
        t = torch.where(part.capped, part.t, t_end)
        part.y = guard.finish(
            part.y, t, t_end, lambda step, _: planned.append(step._replace(rows=where))
        )
        assert guard.alive is not None
        part.diverged = part.diverged | (part.capped & ~guard.alive)
        part.nfe = part.nfe + FINISH_STEPS * RK4.n_stages * part.capped
        part.t = torch.full_like(part.t, t_end)
        rows.store(self.axis, where, part)
        if self.plan is not None:
            self.plan[-1].extend(planned)

    def _planned(self, rows: RowStates) -> list[Step]:
        """Turn the attempts into steps, each row's accepted ones moved up in a row."""
        n = len(self._attempts)
        accepted = rows.capped.new_zeros((n, *rows.capped.shape))
        h = rows.h.new_zeros((n, *rows.h.shape))
        t = h.clone()
        for i, attempt in enumerate(self._attempts):
            if attempt.rows is None:
                accepted[i], t[i], h[i] = attempt.accepted, attempt.t, attempt.h
            else:
                at = attempt.rows
                accepted[i].index_copy_(self.axis, at, attempt.accepted)
                t[i].index_copy_(self.axis, at, attempt.t)
                h[i].index_copy_(self.axis, at, attempt.h)
        # A stable sort by "was rejected" moves accepted attempts up in their order.
        order = torch.argsort((~accepted).to(torch.uint8), dim=0, stable=True)
        taken = accepted.gather(0, order)
        h = torch.where(taken, h.gather(0, order), 0.0)
        t = torch.where(taken, t.gather(0, order), rows.t)
        steps = []
        entries = torch.stack([self._entries(mask) for mask in taken])
        width = entries.shape[1]
        for i, n_entries in enumerate(entries.sum(dim=1).tolist()):
            if n_entries == 0:
                break
            if 2 * n_entries > width:
                steps.append(Step(self.tableau, t[i], h[i]))
                continue
            at = torch.nonzero(entries[i]).flatten()
            steps.append(
                Step(
                    self.tableau,
                    t[i].index_select(self.axis, at),
                    h[i].index_select(self.axis, at),
                    rows=at,
                )
            )
        return steps

    def report(self, method: str) -> SolverReport:
        """Return the counts over rows."""
        rows = self.rows
        assert rows is not None
        nfe = rows.nfe.reshape(rows.nfe.shape[: self.tolerance.row_ndim])
        largest = [nfe, rows.n_steps, rows.n_rejected, rows.capped, rows.diverged]
        nfe_max, n_steps, n_rejected, capped, diverged = torch.stack(
            [count.amax().to(torch.int64) for count in largest]
        ).tolist()
        return SolverReport(
            method=method,
            nfe=nfe.to(rows.h.dtype).mean().item(),
            nfe_max=nfe_max,
            nfe_per_row=nfe.cpu(),
            n_steps=n_steps,
            n_rejected=n_rejected,
            status="diverged" if diverged else "capped" if capped else "success",
        )
