"""The step-size controller: error norm, growth of the step, first step."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skfunc._shapes import Float
from skfunc.solvers._runge_kutta import CountedField, Scalar, combine
from skfunc.solvers._tableaus import Tableau

# Hairer, Norsett and Wanner 1993, Solving Ordinary Differential Equations I, section
# II.4: safety factor and the bounds by which a step may shrink and grow.
SAFETY = 0.9
SHRINK = 0.2
GROW = 10.0

# Exponent for a method of order 5 whose error estimate is of order 4.
EXPONENT = -1 / 5

# A step below this many units in the last place of the time is an underflow.
UNDERFLOW_ULPS = 4.0


class Tolerance(NamedTuple):
    """Tolerances, and the number of leading axes that index rows with own steps.

    With ``row_ndim=0`` the norm is taken over the whole state; with ``blocks`` it is
    the largest of the norms of ``state[0], state[1], ...``, so that a small block is
    not lost among the entries of a large one.
    """

    rtol: float
    atol: float
    row_ndim: int = 0
    blocks: bool = False

    def scale(self, *states: Tensor) -> Tensor:
        """Return ``atol + rtol max |y|`` over the given states."""
        size = states[0].abs()
        for y in states[1:]:
            torch.maximum(size, y.abs(), out=size)
        return size.mul_(self.rtol).add_(self.atol)

    def norm(self, x: Float[Tensor, "*state"]) -> Float[Tensor, "*rows"]:
        """Root mean square over all but the row axes, which it keeps as size one."""
        if self.blocks:
            return torch.stack([Tolerance(0, 0).norm(block) for block in x]).amax()
        axes = tuple(range(self.row_ndim, x.ndim))
        if not axes:
            return x.abs()
        n = math.prod(x.shape[self.row_ndim :])
        keep = self.row_ndim > 0
        return torch.linalg.vector_norm(x, dim=axes, keepdim=keep) / math.sqrt(n)


def error_ratio(
    tolerance: Tolerance,
    tableau: Tableau,
    h: Scalar,
    y0: Float[Tensor, "*state"],
    y1: Float[Tensor, "*state"],
    slopes: list[Tensor],
) -> Float[Tensor, "*rows"]:
    """Norm of the local error over the tolerance: a step is accepted up to 1."""
    # The norm's 1 / sqrt(n), the step and 1 / rtol join the coefficients, which cost
    # nothing, so that the scale is max |y| + atol / rtol.
    rtol, atol, row_ndim = tolerance.rtol, tolerance.atol, tolerance.row_ndim
    factor = 1.0 if isinstance(h, Tensor) else h
    if not tolerance.blocks:
        factor /= math.sqrt(math.prod(y0.shape[row_ndim:]))
    factor /= rtol or atol
    used = [(e, k) for e, k in zip(tableau.e, slopes, strict=True) if e != 0.0]
    error = used[0][1] * (factor * used[0][0])
    for e, k in used[1:]:
        error.add_(k, alpha=factor * e)
    if rtol:
        size = y1.abs()
        error.div_(torch.maximum(size, y0.abs(), out=size).add_(atol / rtol))
    if tolerance.blocks:
        ratio = tolerance.norm(error)
    elif row_ndim == y0.ndim:
        ratio = error.abs()
    else:
        axes = tuple(range(row_ndim, y0.ndim))
        ratio = torch.linalg.vector_norm(error, dim=axes, keepdim=row_ndim > 0)
    return (ratio * h).abs() if isinstance(h, Tensor) else ratio


def step_factor(ratio: float, just_rejected: bool) -> float:
    """Return the factor by which the step changes after an error ratio."""
    if not math.isfinite(ratio):
        return SHRINK
    factor = GROW if ratio == 0.0 else SAFETY * ratio**EXPONENT
    return min(max(factor, SHRINK), 1.0 if just_rejected else GROW)


def step_factors(
    ratio: Float[Tensor, "*rows"], just_rejected: Tensor
) -> Float[Tensor, "*rows"]:
    """Return what :func:`step_factor` does, for each row."""
    factor = (SAFETY * ratio.pow(EXPONENT)).clamp(SHRINK, GROW)
    factor = torch.where(just_rejected, factor.clamp(max=1.0), factor)
    # clamp keeps NaN, and an infinite ratio ends at the lower bound by itself.
    return torch.where(torch.isfinite(ratio), factor, SHRINK)


def first_step(
    field: CountedField,
    tolerance: Tolerance,
    t: Scalar,
    length: float,
    y0: Float[Tensor, "*state"],
    k0: Float[Tensor, "*state"],
) -> Float[Tensor, "*rows"]:
    """Choose the first step's size by Hairer's rule, with one evaluation.

    Hairer, Norsett and Wanner 1993, section II.4, "Starting step size". ``length`` is
    the signed length of the interval, whose sign the step takes.
    """
    sign = math.copysign(1.0, length)
    scale = tolerance.scale(y0)
    d0 = tolerance.norm(y0 / scale)
    d1 = tolerance.norm(k0 / scale)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
    h0 = h0.nan_to_num(1e-6, 1e-6).clamp(max=abs(length))
    k1 = field(t + sign * h0, combine(y0, sign * h0, (1.0,), (k0,)))
    d2 = tolerance.norm((k1 - k0) / scale) / h0
    steepest = torch.maximum(d1, d2)
    h1 = torch.where(
        steepest <= 1e-15,
        torch.clamp(h0 * 1e-3, min=1e-6),
        (0.01 / steepest) ** (-EXPONENT),
    )
    h = torch.minimum(100 * h0, h1.nan_to_num(1e-6, 1e-6))
    return sign * h.clamp(max=abs(length))
