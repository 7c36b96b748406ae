"""Checks of ranges, which all priors have as parameters."""

from __future__ import annotations

import math
from typing import Any

from skfunc._validation import check_integer, check_real


def check_range(name: str, value: Any, low: float = 0.0) -> None:
    """Raise ValueError unless the value is two finite numbers, low < a <= b."""
    first, second = _pair(name, value)
    check_real(f"{name}[0]", first, low, math.inf, inclusive=False)
    check_real(f"{name}[1]", second, float(first), math.inf)


def check_integer_range(name: str, value: Any, low: int = 1) -> None:
    """Raise ValueError unless the value is two integers, low <= a <= b."""
    first, second = _pair(name, value)
    check_integer(f"{name}[1]", second, check_integer(f"{name}[0]", first, low))


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{name} must be two numbers, lowest first; got {value!r}")
    return value[0], value[1]
