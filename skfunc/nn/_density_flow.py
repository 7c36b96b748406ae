"""Continuous normalizing flows: rows carried to a base distribution and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skfunc._shapes import Float
from skfunc.nn._density_field import (
    FieldWithTrace,
    TraceField,
    field_with_trace,
)
from skfunc.nn._fields import UserField
from skfunc.nn._odenet import SolverOptions
from skfunc.solvers import Solution, SolverReport, odeint


class BaseRows(NamedTuple):
    """Rows carried to the base distribution.

    `log_det` is the log of the map's volume change. Where they were asked for,
    `kinetic` is the squared speed averaged over the path and the columns, and
    `jacobian` the squared Frobenius norm of the field's Jacobian, over the columns.
    """

    rows: Float[Tensor, "members rows size"]
    log_det: Float[Tensor, "members rows"]
    kinetic: Float[Tensor, "members rows"] | None
    jacobian: Float[Tensor, "members rows"] | None
    report: SolverReport


class ContinuousFlow(nn.Module):
    """The flow x' = v(t, x) from a base distribution at t = 0 to the data at t = 1.

    Chen et al. 2018, Neural ordinary differential equations (arXiv 1806.07366), section
    4: along a path ``d log p / dt = -tr dv/dx``.

    Parameters
    ----------
    size : int
        Width of the rows.
    hidden_layer_sizes : sequence of 2 ints
        Hidden widths of the field "mlp".
    field : "mlp" or callable
        `TraceField`, or what builds a module from the size.
    activation : str
        Name in `SMOOTH_ACTIVATIONS`, of the field "mlp".
    """

    def __init__(
        self,
        size: int,
        *,
        hidden_layer_sizes: Sequence[int],
        field: str | Callable[..., nn.Module],
        activation: str,
    ) -> None:
        super().__init__()
        if callable(field):
            self.field: nn.Module = UserField(field, size)
        elif field == "mlp":
            self.field = TraceField(size, hidden_layer_sizes, activation)
        else:
            raise ValueError(
                f"field={field!r} is unknown; choose 'mlp', or give a callable that "
                "builds a torch.nn.Module from the rows' width"
            )

    def velocity(
        self, t: Float[Tensor, "members rows 1"], x: Float[Tensor, "members rows size"]
    ) -> Float[Tensor, "members rows size"]:
        """Evaluate the field, each row at its own time."""
        return self.field(t, x)

    def to_base(
        self,
        x: Float[Tensor, "members rows size"],
        solver: SolverOptions,
        probe: Tensor | None = None,
        *,
        kinetic: bool = False,
        jacobian_probe: Tensor | None = None,
    ) -> BaseRows:
        """Carry data to the base distribution, t from 1 to 0.

        Parameters
        ----------
        x : Tensor of shape (members, rows, size)
            Rows.
        solver : SolverOptions
            How to solve.
        probe : Tensor, optional
            Random signs that estimate the trace of a field without a closed form.
        kinetic : bool
            Whether to integrate the squared speed too.
        jacobian_probe : Tensor, optional
            Random signs e that estimate the Jacobian's norm, by that of e^T dv/dx, to
            integrate it too (Finlay et al. 2020, arXiv 2002.02798).
        """
        size = x.shape[-1]
        n_columns = 1 + kinetic + (jacobian_probe is not None)
        if (
            isinstance(self.field, TraceField)
            and self.field.is_stacked
            and torch.is_grad_enabled()
            and n_columns == 1
            and not solver.per_row
        ):
            field = self.field.with_gradient()
        else:
            evaluate = self._with_trace(probe, jacobian_probe)

            def field(t: Tensor, state: Tensor) -> Tensor:
                value, *columns = evaluate(t, state[..., :size])
                if kinetic:
                    columns.append((value * value).mean(-1))
                return torch.cat([value, torch.stack(columns, dim=-1)], dim=-1)

        zeros = x.new_zeros(*x.shape[:-1], n_columns)
        start = torch.cat([x, zeros], dim=-1)
        solution = self._solve(field, start, (1.0, 0.0), solver)
        end = solution.y[-1]
        # Time runs backwards: integrals over it have the other sign.
        energy = -end[..., -1] if kinetic else None
        norm = -end[..., size + 1] if jacobian_probe is not None else None
        return BaseRows(end[..., :size], end[..., size], energy, norm, solution.report)

    def from_base(
        self,
        z: Float[Tensor, "members rows size"],
        solver: SolverOptions,
        times: Sequence[float] = (0.0, 1.0),
    ) -> Solution:
        """Carry base rows along the flow; without traces, so at less cost."""
        return self._solve(self.field, z, times, solver)

    def _with_trace(
        self, probe: Tensor | None, jacobian_probe: Tensor | None
    ) -> FieldWithTrace:
        if isinstance(self.field, TraceField):
            return self.field.with_trace(jacobian_probe)
        return field_with_trace(self.field, probe, jacobian_probe)

    def _solve(
        self,
        field: Callable[[Tensor, Tensor], Tensor],
        start: Tensor,
        times: Sequence[float],
        solver: SolverOptions,
    ) -> Solution:
        return odeint(
            field,
            start,
            times,
            method=solver.method,
            rtol=solver.rtol,
            atol=solver.atol,
            n_steps=solver.n_steps,
            per_row=solver.per_row,
            row_ndim=2,
            max_nfe=solver.max_nfe,
            last_only=len(times) == 2,
        )
