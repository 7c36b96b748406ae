"""The column of X that a display is drawn against."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skfunc.metrics._checks import as_numbers, check_finite


def as_table(X: Any) -> tuple[Any, list[str]]:
    """Return X, a DataFrame or a 2-D array, and the names of its columns if any."""
    columns = [str(column) for column in getattr(X, "columns", [])]
    table = X if columns else np.asarray(X)
    if len(table.shape) != 2 or len(table) == 0:
        raise ValueError(
            "`X` must have shape (n_samples, n_features) with at least one sample; "
            f"got {table.shape}."
        )
    return table, columns


def feature_position(
    feature: int | str | None, columns: list[str], n_features: int
) -> int | None:
    """Return the position of a feature; for None that of the only one, or None."""
    if feature is None:
        return 0 if n_features == 1 else None
    if isinstance(feature, str):
        if feature not in columns:
            known = columns or "no names: X is no DataFrame"
            raise ValueError(
                f"`feature` {feature!r} is no column of X; it has {known}."
            )
        return columns.index(feature)
    if not isinstance(feature, Integral) or not -n_features <= feature < n_features:
        raise ValueError(
            f"`feature` must be a column of X, which has {n_features}; got {feature!r}."
        )
    return int(feature) % n_features


def feature_values(table: Any, position: int) -> NDArray[Any]:
    """Return one column of a table as finite numbers."""
    columns = getattr(table, "columns", None)
    values = table[:, position] if columns is None else table[columns[position]]
    numbers = as_numbers(np.asarray(values), f"feature {position} of X")
    check_finite(numbers, f"feature {position} of X")
    return numbers


def feature_label(table: Any, columns: list[str], position: int) -> str:
    """Return the name of a column, or what to call it without one."""
    if columns:
        return columns[position]
    return "Feature" if table.shape[1] == 1 else f"Feature {position}"
