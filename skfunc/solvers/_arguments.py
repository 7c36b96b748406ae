"""Checks of the arguments that all solvers share."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

from torch import Tensor

GRADIENTS: tuple[str, ...] = ("backprop", "checkpoint", "adjoint")


def check_times(t: Tensor | Sequence[float]) -> list[float]:
    """Return the times as numbers: two at least, finite, in one direction."""
    if isinstance(t, Tensor):
        if t.ndim != 1:
            raise ValueError(f"t must have one axis, got shape {tuple(t.shape)}.")
        t = t.detach()
    # tolist reads a host tensor without asking a device.
    values = t.tolist() if hasattr(t, "tolist") else list(t)
    times = [float(value) for value in values]
    if len(times) < 2:
        raise ValueError(f"t must have at least two times, got {times}.")
    if not all(map(math.isfinite, times)):
        raise ValueError(f"t must be finite, got {times}.")
    steps = [b - a for a, b in zip(times, times[1:], strict=False)]
    if not (all(s > 0 for s in steps) or all(s < 0 for s in steps)):
        raise ValueError(
            f"t must be strictly increasing or strictly decreasing, got {times}."
        )
    return times


def check_state(y0: Tensor, row_ndim: int) -> None:
    """Raise unless the state is a floating point tensor with so many row axes."""
    if not isinstance(y0, Tensor) or not y0.is_floating_point():
        kind = y0.dtype if isinstance(y0, Tensor) else type(y0).__name__
        raise ValueError(f"y0 must be a floating point tensor, got {kind}.")
    if not isinstance(row_ndim, int) or not 0 <= row_ndim <= y0.ndim:
        raise ValueError(
            f"row_ndim must be between 0 and the {y0.ndim} axes of y0, got "
            f"{row_ndim!r}."
        )


def check_settings(
    rtol: float, atol: float, n_steps: int | None, max_nfe: int, gradient: str
) -> None:
    """Raise unless tolerances, steps and gradient are such."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not isinstance(value, numbers.Real) or not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a number >= 0, got {value!r}.")
    if rtol == atol == 0:
        raise ValueError("rtol and atol must not both be 0.")
    if n_steps is not None and not _is_positive_integer(n_steps):
        raise ValueError(f"n_steps must be an integer >= 1 or None, got {n_steps!r}.")
    if not _is_positive_integer(max_nfe):
        raise ValueError(f"max_nfe must be an integer >= 1, got {max_nfe!r}.")
    if gradient not in GRADIENTS:
        raise ValueError(
            f"Unknown gradient {gradient!r}. Valid gradients are "
            f"{', '.join(GRADIENTS)}."
        )


def _is_positive_integer(value: object) -> bool:
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_integer and value >= 1  # type: ignore[operator]
