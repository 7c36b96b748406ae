"""A batch of series, each with times of its own, padded to one length."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skfunc._shapes import Bool, Float


class SeriesBatch(NamedTuple):
    """Observations of series, their slots in order of time, padding last.

    Attributes
    ----------
    times : Tensor of shape (members, rows, slots)
        Not decreasing; what padding holds does not matter, but must be finite.
    values : Tensor of shape (members, rows, slots, channels)
        Zero where nothing was observed.
    mask : Tensor of shape (members, rows, slots, channels)
        1 where a channel was observed, else 0.
    read : Tensor of shape (members, rows, slots)
        1 for the slots that an encoder reads, else 0.
    window : Tensor of shape (members, rows, 2)
        From when to when events would have been observed.
    """

    times: Float[Tensor, "members rows slots"]
    values: Float[Tensor, "members rows slots channels"]
    mask: Float[Tensor, "members rows slots channels"]
    read: Float[Tensor, "members rows slots"]
    window: Float[Tensor, "members rows 2"]

    def read_slots(self) -> Bool[Tensor, "members rows slots"]:
        """Tell the slots that hold something to read."""
        return (self.mask.amax(-1) > 0) & (self.read > 0)

    def trimmed(self) -> SeriesBatch:
        """Leave out slots that are padding in all of the rows."""
        used = (self.mask.amax(-1) > 0).flatten(0, 1).any(0)
        last = int(used.nonzero().max()) + 1 if bool(used.any()) else 1
        return SeriesBatch(
            self.times[:, :, :last],
            self.values[:, :, :last],
            self.mask[:, :, :last],
            self.read[:, :, :last],
            self.window,
        )


def gaps_to_next(
    times: Float[Tensor, "members rows slots"], read: Bool[Tensor, "members rows slots"]
) -> Float[Tensor, "members rows slots"]:
    """Return the time from each slot to the next one that is read, else zero."""
    later = torch.where(read, times, torch.inf).flip(-1).cummin(-1).values.flip(-1)
    later = torch.cat([later[..., 1:], torch.full_like(later[..., :1], torch.inf)], -1)
    return torch.where(torch.isfinite(later), later - times, 0.0).clamp(min=0.0)
