"""One explicit Runge-Kutta step, with one autograd node per stage combination."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skfunc._shapes import Float
from skfunc.solvers._tableaus import Tableau

Field = Callable[[Tensor, Tensor], Tensor]

# A number, where the host knows the step, else a tensor that broadcasts to the state.
Scalar = float | Tensor


class CountedField:
    """A field that counts its evaluations and checks the first answer's shape.

    Times that the host knows as numbers become 0-dimensional tensors by a fill, which
    no device has to wait for.
    """

    def __init__(self, f: Field, y0: Tensor) -> None:
        self.f = f
        self.nfe = 0
        self._dtype = y0.dtype
        self._device = y0.device
        self._last_time: tuple[float, Tensor] | None = None

    def __call__(self, t: Scalar, y: Tensor) -> Tensor:
        k = self.f(self.time_tensor(t), y)
        if self.nfe == 0:
            self._check(k, y)
        self.nfe += 1
        return k

    def time_tensor(self, t: Scalar) -> Tensor:
        """Return ``t`` as the tensor that the field receives."""
        if isinstance(t, Tensor):
            return t
        if self._last_time is None or self._last_time[0] != t:
            filled = torch.full((), t, dtype=self._dtype, device=self._device)
            self._last_time = (t, filled)
        return self._last_time[1]

    def _check(self, k: object, y: Tensor) -> None:
        if not isinstance(k, Tensor):
            raise ValueError(
                f"f(t, y) must return a tensor of shape {tuple(y.shape)}, as y; got "
                f"{type(k).__name__}."
            )
        if k.shape != y.shape or k.dtype != y.dtype:
            raise ValueError(
                f"f(t, y) must return dy/dt of the shape and dtype of y, "
                f"{tuple(y.shape)} {y.dtype}; got {tuple(k.shape)} {k.dtype}."
            )


def _weighted_sum(
    h: Scalar, coefficients: Sequence[float], y: Tensor, slopes: Sequence[Tensor]
) -> Tensor:
    if isinstance(h, Tensor):
        total = slopes[0] * coefficients[0]
        for c, k in zip(coefficients[1:], slopes[1:], strict=True):
            total.add_(k, alpha=c)
        return torch.addcmul(y, total, h)
    total = torch.add(y, slopes[0], alpha=h * coefficients[0])
    for c, k in zip(coefficients[1:], slopes[1:], strict=True):
        total.add_(k, alpha=h * c)
    return total


class _Combination(torch.autograd.Function):
    """``y + h sum_i c_i k_i``; linear, so that nothing but ``h`` is kept for later."""

    @staticmethod
    def forward(
        ctx: Any,
        h: Scalar,
        coefficients: tuple[float, ...],
        y: Tensor,
        *slopes: Tensor,
    ) -> Tensor:
        ctx.h = h
        ctx.coefficients = coefficients
        return _weighted_sum(h, coefficients, y, slopes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        needed = ctx.needs_input_grad[3:]
        if isinstance(ctx.h, Tensor):
            scaled, h = gradient * ctx.h, 1.0
        else:
            scaled, h = gradient, ctx.h
        # Slopes of equal coefficients, as two pairs of rk4's, share their gradient.
        shared: dict[float, Tensor] = {}
        slopes: list[Tensor | None] = []
        for c, need in zip(ctx.coefficients, needed, strict=True):
            if need and c not in shared:
                shared[c] = scaled * (h * c)
            slopes.append(shared[c] if need else None)
        return (None, None, gradient, *slopes)


def combine(
    y: Float[Tensor, "*state"],
    h: Scalar,
    coefficients: Sequence[float],
    slopes: Sequence[Tensor],
) -> Float[Tensor, "*state"]:
    """Return ``y + h sum_i c_i k_i``, leaving out the zero coefficients.

    The step ``h`` is a constant to autograd, be it a number or a tensor.
    """
    used = [(c, k) for c, k in zip(coefficients, slopes, strict=False) if c != 0.0]
    cs = tuple(c for c, _ in used)
    ks = [k for _, k in used]
    if torch.is_grad_enabled() and (
        y.requires_grad or any(k.requires_grad for k in ks)
    ):
        if len(ks) == 1 and not isinstance(h, Tensor):
            return torch.add(y, ks[0], alpha=h * cs[0])
        return _Combination.apply(h, cs, y, *ks)
    return _weighted_sum(h, cs, y, ks)


class Step(NamedTuple):
    """A step to take, or one that was taken.

    ``t`` and ``h`` place the stages in time; a number each where all rows share them.
    The state moves by ``move`` where that is not ``h``: zero for rows that are held
    where they are. ``rows`` lists the entries along the last row axis that the step
    concerns, all when None.
    """

    tableau: Tableau
    t: Scalar
    h: Scalar
    move: Tensor | None = None
    rows: Tensor | None = None


# Called after an accepted step with the step and the new state.
StepObserver = Callable[[Step, Tensor], None]


class Taken(NamedTuple):
    """A step's new state, and the slopes of its stages."""

    y: Tensor
    slopes: list[Tensor]


def runge_kutta_step(
    field: CountedField,
    step: Step,
    y: Float[Tensor, "*state"],
    first_slope: Float[Tensor, "*state"] | None = None,
    last_slope: bool = True,
) -> Taken:
    """Take one step from the state ``y``, on all rows.

    Parameters
    ----------
    field : CountedField
        The right-hand side.
    step : Step
        Method, time and size; ``step.rows`` is the caller's business.
    y : Tensor
        State at ``step.t``.
    first_slope : Tensor or None
        ``f(t, y)`` where it is known already.
    last_slope : bool
        Whether to evaluate the slope at the new state when the method has it for the
        next step and the error estimate only.

    Returns
    -------
    Taken
        The state at ``t + h`` and the slopes.
    """
    tableau, t, h = step.tableau, step.t, step.h
    move = h if step.move is None else step.move
    slopes = [field(t, y) if first_slope is None else first_slope]
    stage = y
    for i in range(1, tableau.n_stages):
        stage = combine(y, move, tableau.a[i], slopes)
        is_new_state = tableau.first_same_as_last and i == tableau.n_stages - 1
        if not is_new_state or last_slope:
            slopes.append(field(t + tableau.c[i] * h, stage))
    if tableau.first_same_as_last:
        return Taken(stage, slopes)
    return Taken(combine(y, move, tableau.b, slopes), slopes)


def retake_step(
    field: CountedField,
    step: Step,
    y: Float[Tensor, "*state"],
    slope: Float[Tensor, "*state"] | None,
    row_axis: int,
    last_slope: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Take a recorded step again; return the new state and its slope where known.

    Steps that concern a part of the rows leave the others, and their slopes, alone.
    """
    first_same_as_last = step.tableau.first_same_as_last
    if step.rows is None:
        taken = masked_step(field, step, y, slope, last_slope)
        new_slope = taken.slopes[-1] if first_same_as_last and last_slope else None
        return taken.y, new_slope
    part = None if slope is None else slope.index_select(row_axis, step.rows)
    taken = masked_step(
        field, step, y.index_select(row_axis, step.rows), part, last_slope
    )
    y = y.index_copy(row_axis, step.rows, taken.y)
    if slope is None or not first_same_as_last or not last_slope:
        return y, None
    return y, slope.index_copy(row_axis, step.rows, taken.slopes[-1])


def masked_step(
    field: CountedField,
    step: Step,
    y: Float[Tensor, "*state"],
    slope: Float[Tensor, "*state"] | None,
    last_slope: bool = True,
) -> Taken:
    """Take a step that leaves the rows alone by which it moves by zero.

    Those may be held where the field is no longer finite, and zero times infinity is
    NaN, forwards and backwards. So the field sees zeros in their place.
    """
    move = step.h if step.move is None else step.move
    if not isinstance(move, Tensor) or move.ndim == 0:
        return runge_kutta_step(field, step, y, slope, last_slope)
    moving = move != 0
    stand_in = torch.where(moving, y, 0.0)
    first = None if slope is None else torch.where(moving, slope, 0.0)
    new, slopes = runge_kutta_step(field, step, stand_in, first, last_slope)
    if slope is not None:
        slopes[-1] = torch.where(moving, slopes[-1], slope)
    return Taken(torch.where(moving, new, y), slopes)
