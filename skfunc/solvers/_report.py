"""What a solve returns: the states, and how they were computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from skfunc._shapes import Float

Status = Literal["success", "capped", "diverged"]

# From best to worst: a merged report carries the worst of its parts.
_STATUSES: tuple[Status, ...] = ("success", "capped", "diverged")


class SolverWarning(RuntimeWarning):
    """The solver could not keep its tolerance, and says what it returned instead."""


@dataclass(frozen=True)
class SolverReport:
    """How an initial value problem was solved.

    Parameters
    ----------
    method : str
        Name of the method.
    nfe : float
        Number of evaluations of the field, averaged over rows.
    nfe_max : int
        Number of evaluations for the row that needed most.
    nfe_per_row : Tensor or None
        Number of evaluations for each row, where rows have steps of their own.
    n_steps : int
        Accepted steps, of the row that took most.
    n_rejected : int
        Rejected steps, of the row that had most.
    status : {"success", "capped", "diverged"}
        ``"capped"``: the step underflowed or the evaluations ran out, and the interval
        was finished on a fixed grid. ``"diverged"``: the state left the range of
        floating point numbers even so, and is held at its last finite value.
    """

    method: str
    nfe: float
    nfe_max: int
    nfe_per_row: Tensor | None
    n_steps: int
    n_rejected: int
    status: Status

    @classmethod
    def merge(
        cls,
        reports: Sequence[SolverReport],
        weights: Sequence[float] | None = None,
    ) -> SolverReport:
        """Join the reports of chunks of rows that were solved one after another.

        Parameters
        ----------
        reports : sequence of SolverReport
            At least one; the chunks follow each other along the last row axis.
        weights : sequence of float, default=None
            Number of rows of each chunk, to average ``nfe``; equal when None.

        Returns
        -------
        SolverReport
            Averages of ``nfe``, the largest of the counts and the worst status.
        """
        if not reports:
            raise ValueError("merge needs at least one report, got none.")
        if weights is None:
            weights = [1.0] * len(reports)
        if len(weights) != len(reports) or not sum(weights) > 0:
            raise ValueError(
                f"weights must be {len(reports)} numbers with a positive sum, one per "
                f"report; got {list(weights)}."
            )
        rows = [r.nfe_per_row for r in reports if r.nfe_per_row is not None]
        weighted = sum(w * r.nfe for w, r in zip(weights, reports, strict=True))
        return cls(
            method=reports[0].method,
            nfe=weighted / sum(weights),
            nfe_max=max(r.nfe_max for r in reports),
            nfe_per_row=torch.cat(rows, dim=-1) if len(rows) == len(reports) else None,
            n_steps=max(r.n_steps for r in reports),
            n_rejected=max(r.n_rejected for r in reports),
            status=max((r.status for r in reports), key=_STATUSES.index),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dictionary that ``json.dumps`` accepts."""
        rows = self.nfe_per_row
        return {
            "method": self.method,
            "nfe": float(self.nfe),
            "nfe_max": int(self.nfe_max),
            "nfe_per_row": None if rows is None else rows.tolist(),
            "n_steps": int(self.n_steps),
            "n_rejected": int(self.n_rejected),
            "status": self.status,
        }


class Solution(NamedTuple):
    """States at the asked times, shape ``(len(t), *y0.shape)``, and the report."""

    y: Float[Tensor, "times ..."]
    report: SolverReport
