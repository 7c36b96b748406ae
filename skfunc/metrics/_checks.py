"""Input checks and weighted averages that the metrics share."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

# Doubles that one block of draws may hold: 8 MiB, small beside any ensemble that
# needs blocks and large enough that the loop over blocks costs nothing.
BLOCK_ELEMENTS = 2**20


def as_numbers(value: Any, name: str) -> NDArray[Any]:
    """Return `value` as a real numeric array, without a copy where it is one."""
    try:
        array = np.asarray(value)
        if array.dtype.kind == "O":
            array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be a rectangular array of real numbers: {error}."
        ) from error
    if array.dtype.kind not in "fiub":
        raise ValueError(
            f"`{name}` must be an array of real numbers; got dtype {array.dtype}."
        )
    return array


def check_finite(array: NDArray[Any], name: str, *, infinite: float = 0.0) -> None:
    """Raise where `array` has NaN or an infinity of another sign than `infinite`."""
    bad = ~np.isfinite(array)
    if infinite:
        bad &= array != infinite
    if bad.any():
        where = np.argwhere(bad)[0]
        allowed = f"finite or {infinite}" if infinite else "finite"
        raise ValueError(
            f"`{name}` must be {allowed}; got {array[tuple(where)]} in row {where[0]}."
        )


def check_target(value: Any, name: str = "y") -> FloatArray:
    """Return a finite target of shape (n_samples,) or (n_samples, n_outputs)."""
    array = as_numbers(value, name)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(
            f"`{name}` must have shape (n_samples,) or (n_samples, n_outputs) with at "
            f"least one sample; got shape {array.shape}."
        )
    check_finite(array, name)
    return array.astype(np.float64, copy=False)


def check_like_target(
    value: Any, name: str, y: FloatArray, *, infinite: float = 0.0, of: str = "y"
) -> FloatArray:
    """Return an array of the shape of `y`, called `of`; finite but for `infinite`."""
    array = as_numbers(value, name)
    if array.shape != y.shape:
        raise ValueError(
            f"`{name}` must have the shape of `{of}`, {y.shape}; got {array.shape}."
        )
    check_finite(array, name, infinite=infinite)
    return array.astype(np.float64, copy=False)


def check_std(value: Any, y: FloatArray, *, of: str = "y") -> FloatArray:
    """Return the standard deviations, positive and of the shape of `y`, called `of`."""
    std = check_like_target(value, "std", y, of=of)
    if (std <= 0).any():
        row = int(np.argwhere(std <= 0)[0][0])
        raise ValueError(
            f"`std` must be positive; got {std.min()} (first in row {row}). Add the "
            "variance of the observation noise, or a small floor, to the prediction."
        )
    return std


def check_bounds(
    lower: Any, upper: Any, y: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return interval bounds; unbounded sides are allowed, crossed bounds are not."""
    low = check_like_target(lower, "lower", y, infinite=-np.inf)
    high = check_like_target(upper, "upper", y, infinite=np.inf)
    crossed = low > high
    if crossed.any():
        where = tuple(np.argwhere(crossed)[0])
        raise ValueError(
            "`lower` must not exceed `upper`; got "
            f"lower={low[where]}, upper={high[where]} in row {where[0]}."
        )
    return low, high


def check_draws(value: Any, y: FloatArray) -> NDArray[Any]:
    """Return draws of shape (*y.shape, n_draws), in the dtype that they came in."""
    draws = as_numbers(value, "draws")
    if draws.ndim != y.ndim + 1 or draws.shape[:-1] != y.shape or draws.shape[-1] == 0:
        expected = ", ".join(str(size) for size in y.shape)
        raise ValueError(
            f"`draws` must have shape ({expected}, n_draws): that of `y` and one axis "
            f"more; got {draws.shape}."
        )
    return draws


def check_weights(sample_weight: ArrayLike | None, n_samples: int) -> FloatArray:
    """Return one non-negative weight per row, ones for None."""
    if sample_weight is None:
        return np.ones(n_samples)
    weights = as_numbers(sample_weight, "sample_weight").astype(np.float64)
    if weights.shape != (n_samples,):
        raise ValueError(
            f"`sample_weight` must have shape ({n_samples},), one weight per row of "
            f"`y`; got {weights.shape}."
        )
    check_finite(weights, "sample_weight")
    if (weights < 0).any() or not weights.any():
        raise ValueError(
            "`sample_weight` must be non-negative with at least one positive weight; "
            f"got a minimum of {weights.min()} and a sum of {weights.sum()}."
        )
    return weights


def check_option(value: Any, name: str, options: tuple[str, ...]) -> None:
    """Raise unless `value` is one of the names in `options`."""
    if not (isinstance(value, str) and value in options):
        raise ValueError(f"`{name}` must be one of {options}; got {value!r}.")


def check_fraction(value: Any, name: str) -> float:
    """Return a number strictly between zero and one."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"`{name}` must be a number in (0, 1); got {value!r}.")
    number = float(value)
    if not 0.0 < number < 1.0:
        raise ValueError(f"`{name}` must lie strictly in (0, 1); got {value!r}.")
    return number


def average_rows(
    losses: FloatArray,
    sample_weight: ArrayLike | None,
    multioutput: str | ArrayLike,
) -> float | FloatArray:
    """Average per-row values over the rows, then over the outputs as asked."""
    table = losses.reshape(losses.shape[0], -1)
    weights = check_weights(sample_weight, table.shape[0])
    # A row of weight zero is left out rather than multiplied: it may be infinite.
    kept = weights > 0
    per_output = np.average(table[kept], axis=0, weights=weights[kept])
    if isinstance(multioutput, str):
        check_option(multioutput, "multioutput", ("uniform_average", "raw_values"))
        if multioutput == "raw_values":
            return per_output
        return float(per_output.mean())
    output_weights = as_numbers(multioutput, "multioutput")
    if output_weights.shape != per_output.shape or not (
        np.isfinite(output_weights).all()
        and (output_weights >= 0).all()
        and output_weights.any()
    ):
        raise ValueError(
            "`multioutput` must be 'uniform_average', 'raw_values' or one non-negative "
            f"weight for each of the {per_output.size} outputs; got {multioutput!r}."
        )
    return float(np.average(per_output, weights=output_weights))


def row_blocks(n_rows: int, width: int) -> Iterator[slice]:
    """Yield slices of rows so that one slice of `width` columns is a block."""
    step = max(1, BLOCK_ELEMENTS // max(width, 1))
    for start in range(0, n_rows, step):
        yield slice(start, start + step)
