"""Operations on the values of many functions at once, one row each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from skfunc._shapes import Float, Int


def by_kind(
    kinds: Int[Tensor, " rows"],
    functions: Sequence[Callable[[Tensor], Tensor]],
    values: Tensor,
) -> Tensor:
    """Apply to each row the function of its kind."""
    result = torch.empty_like(values)
    for position, function in enumerate(functions):
        rows = kinds == position
        result[rows] = function(values[rows])
    return result


def unit_spread(functions: Float[Tensor, "rows points"]) -> Tensor:
    """Centre rows and scale them to unit standard deviation over their points.

    Rows that are constant to rounding become zero.
    """
    centred = functions - functions.mean(1, keepdim=True)
    spread = centred.square().mean(1, keepdim=True).sqrt()
    size = functions.abs().amax(1, keepdim=True)
    varies = spread > 1e-5 * size
    return torch.where(varies, centred / torch.where(varies, spread, 1.0), 0.0)
