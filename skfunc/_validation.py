"""Checks of parameters and inputs, and the texts of their errors."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from skfunc._sklearn import check_sample_weight


def check_option(name: str, value: Any, options: Collection[Any]) -> None:
    """Raise ValueError unless the value is one of the options.

    The options are listed in the error.
    """
    if isinstance(value, (str, type(None), bool, np.bool_)) and value in options:
        return
    raise ValueError(f"{name}={value!r} is unknown; choose one of {list(options)}")


def check_integer(name: str, value: Any, low: int = 1) -> int:
    """Return an int of at least `low`, or raise ValueError."""
    if isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_)):
        number = int(value)
        if number >= low:
            return number
    raise ValueError(f"{name} must be an integer of at least {low}; got {value!r}")


def check_real(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    inclusive: bool = True,
) -> float:
    """Return a finite float in [low, high] (or (low, high)), or raise ValueError."""
    if isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)):
        number = float(value)
        inside = low <= number <= high if inclusive else low < number < high
        if math.isfinite(number) and inside:
            return number
    left, right = "[]" if inclusive else "()"
    raise ValueError(
        f"{name} must be a number in {left}{low:g}, {high:g}{right}; got {value!r}"
    )


def check_sizes(name: str, value: Any, *, allow_empty: bool = False) -> tuple[int, ...]:
    """Return a tuple of positive ints from an int or a sequence of ints."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        value = (value,)
    if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str):
        if len(value) or allow_empty:
            return tuple(check_integer(f"{name}[{i}]", v) for i, v in enumerate(value))
    raise ValueError(
        f"{name} must be a positive integer or a sequence of them; got {value!r}"
    )


def check_image_shape(value: Any, n_features: int) -> tuple[int, int, int] | None:
    """Return (channels, height, width) whose product is the width of X.

    Raises
    ------
    ValueError
        If the shape has not three positive entries, or does not multiply to the width.
    """
    if value is None:
        return None
    shape = check_sizes("image_shape", value)
    if len(shape) != 3:
        raise ValueError(
            f"image_shape must be (channels, height, width); got {value!r}"
        )
    if math.prod(shape) != n_features:
        raise ValueError(
            f"image_shape={shape} multiplies to {math.prod(shape)}, but X has "
            f"{n_features} features; rows are images flattened in the order "
            "(channels, height, width)"
        )
    return shape


def check_shape(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the value is a finite float array of that shape."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise ValueError(f"{name} must be an array of floats")
    if value.shape != shape:
        raise ValueError(f"{name} has shape {value.shape}; expected {shape}")
    if not np.isfinite(value).all():
        raise ValueError(f"{name} has entries that are not finite")


def check_weights(sample_weight: Any, X: np.ndarray) -> np.ndarray:
    """Return float64 weights, one per row, none negative and not all zero.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, or all are zero.
    """
    weights = check_sample_weight(sample_weight, X, dtype=np.float64)
    if (weights < 0).any():
        row = int(np.flatnonzero(weights < 0)[0])
        raise ValueError(
            f"sample_weight must not be negative; row {row} has {weights[row]!r}"
        )
    if not (weights > 0).any():
        raise ValueError(
            "sample_weight is zero for every row; at least one row must count"
        )
    return weights
