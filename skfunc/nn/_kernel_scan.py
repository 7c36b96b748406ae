"""Frequencies of periodic kernels, searched on a grid by the evidence."""

from __future__ import annotations

import torch

from skfunc._shapes import Bool, Float
from skfunc.nn._kernel_mixture import Hypotheses, condition

# Grid points on either side of a peak that belong to it.
_PEAK = 2


@torch.no_grad()
def scan_frequencies(
    hypothesis: Hypotheses,
    x: Float[torch.Tensor, "processes points features"],
    y: Float[torch.Tensor, "processes points"],
    mask: Bool[torch.Tensor, "processes points"],
    grid: Float[torch.Tensor, " frequencies"],
    n_peaks: int,
) -> Float[torch.Tensor, "processes peaks"]:
    """Return the likeliest frequencies of a periodic kernel, the best one first.

    Parameters
    ----------
    hypothesis : Hypotheses
        One periodic kernel for each process; all but its frequency is taken from it.
    x, y, mask : Tensor
        The context.
    grid : Tensor of shape (frequencies,)
        What to try, equally spaced; every column of x has the same frequency.
    n_peaks : int
        How many to return, a few grid points apart.
    """
    n, size = len(x), len(grid)

    def for_each(values: torch.Tensor) -> torch.Tensor:
        return values.repeat_interleave(size, dim=0)

    tried = Hypotheses(*(for_each(value) for value in hypothesis))
    frequencies = grid.repeat(n)[:, None, None].expand_as(tried.frequencies)
    tried = tried._replace(frequencies=frequencies)
    scored = condition(
        ("periodic",), tried, for_each(x), for_each(y), for_each(mask)
    ).evidence
    evidence = scored.reshape(n, size)
    place = torch.arange(size, device=grid.device)
    peaks = []
    for _ in range(n_peaks):
        best = evidence.argmax(dim=1, keepdim=True)
        peaks.append(grid[best.squeeze(1)])
        evidence = evidence.masked_fill((place - best).abs() <= _PEAK, -torch.inf)
    return torch.stack(peaks, dim=1)
