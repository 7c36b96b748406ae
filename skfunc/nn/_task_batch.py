"""A batch of tasks: context points to condition on, target points to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from skfunc._shapes import Bool, Float


def blank(
    values: Float[Tensor, "*tasks points width"], mask: Bool[Tensor, "*tasks points"]
) -> Float[Tensor, "*tasks points width"]:
    """Return the values with zeros where the mask is False.

    What stood there, NaN included, has no part in values and gradients.
    """
    return values.masked_fill(~mask.unsqueeze(-1), 0.0)


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """B tasks, each a function seen at context points and asked for at target points.

    Tasks of fewer points are padded; a mask says which points are there. Values at
    masked places are zero by convention and matter to no network or objective.

    Parameters
    ----------
    context_x : Tensor of shape (B, n, dx)
        Inputs of the context; n may be 0.
    context_y : Tensor of shape (B, n, dy)
        Outputs of the context.
    context_mask : bool Tensor of shape (B, n)
        True where a context point is there.
    target_x : Tensor of shape (B, m, dx)
        Inputs of the targets.
    target_y : Tensor of shape (B, m, dy)
        Outputs of the targets.
    target_mask : bool Tensor of shape (B, m)
        True where a target is there.

    Raises
    ------
    ValueError
        If shapes, dtypes or devices do not fit together.

    Examples
    --------
    >>> import torch
    >>> from skfunc.nn import TaskBatch
    >>> x, y = torch.rand(4, 10, 2), torch.rand(4, 10, 1)
    >>> batch = TaskBatch.without_padding(x[:, :3], y[:, :3], x[:, 3:], y[:, 3:])
    >>> batch.n_targets()
    tensor([7, 7, 7, 7])
    """

    context_x: Tensor
    context_y: Tensor
    context_mask: Tensor
    target_x: Tensor
    target_y: Tensor
    target_mask: Tensor

    def __post_init__(self) -> None:
        for part in ("context", "target"):
            x, y, mask = (
                getattr(self, f"{part}_{name}") for name in ("x", "y", "mask")
            )
            if x.dim() != 3 or y.dim() != 3 or mask.dim() != 2:
                raise ValueError(
                    f"{part}_x and {part}_y must have 3 axes and {part}_mask 2; got "
                    f"shapes {tuple(x.shape)}, {tuple(y.shape)}, {tuple(mask.shape)}"
                )
            if not x.shape[:2] == y.shape[:2] == mask.shape:
                raise ValueError(
                    f"{part}_x, {part}_y and {part}_mask must agree in tasks and "
                    f"points; got shapes {tuple(x.shape)}, {tuple(y.shape)}, "
                    f"{tuple(mask.shape)}"
                )
            if mask.dtype != torch.bool:
                raise ValueError(f"{part}_mask must be boolean; got {mask.dtype}")
        for name in ("x", "y"):
            one, other = (
                getattr(self, f"context_{name}"),
                getattr(self, f"target_{name}"),
            )
            if one.shape[0] != other.shape[0] or one.shape[2] != other.shape[2]:
                raise ValueError(
                    f"context_{name} and target_{name} must agree in tasks and width; "
                    f"got shapes {tuple(one.shape)} and {tuple(other.shape)}"
                )
        values = (self.context_x, self.context_y, self.target_x, self.target_y)
        dtypes = {value.dtype for value in values}
        if len(dtypes) > 1 or not values[0].is_floating_point():
            raise ValueError(
                "inputs and outputs must share one floating dtype; got "
                f"{sorted(str(dtype) for dtype in dtypes)}"
            )
        devices = {str(getattr(self, field.name).device) for field in fields(self)}
        if len(devices) > 1:
            raise ValueError(f"tensors must share one device; got {sorted(devices)}")

    @classmethod
    def without_padding(
        cls, context_x: Tensor, context_y: Tensor, target_x: Tensor, target_y: Tensor
    ) -> TaskBatch:
        """Return a batch whose points are all there."""
        return cls(
            context_x,
            context_y,
            torch.ones(context_x.shape[:2], dtype=torch.bool, device=context_x.device),
            target_x,
            target_y,
            torch.ones(target_x.shape[:2], dtype=torch.bool, device=target_x.device),
        )

    @classmethod
    def concatenate(cls, batches: Sequence[TaskBatch]) -> TaskBatch:
        """Return the tasks of all batches in order, padded to the longest.

        Raises
        ------
        ValueError
            If there is no batch, or widths differ.
        """
        if not batches:
            raise ValueError("concatenate needs at least one batch; got none")
        widths = {(b.context_x.shape[2], b.context_y.shape[2]) for b in batches}
        if len(widths) > 1:
            raise ValueError(
                "batches must agree in the widths of inputs and outputs; got "
                f"{sorted(widths)}"
            )
        n_context = max(b.context_x.shape[1] for b in batches)
        n_target = max(b.target_x.shape[1] for b in batches)
        padded = [b.pad(n_context, n_target) for b in batches]
        return cls(
            *(
                torch.cat([getattr(b, field.name) for b in padded])
                for field in fields(cls)
            )
        )

    @property
    def n_tasks(self) -> int:
        """Number of tasks B."""
        return self.context_x.shape[0]

    def n_targets(self) -> Tensor:
        """Return how many targets every task has, (B,)."""
        return self.target_mask.sum(1)

    def pad(self, n_context: int, n_target: int) -> TaskBatch:
        """Return the batch with masked points added up to these numbers.

        Raises
        ------
        ValueError
            If there are more points already.
        """
        extra_context = n_context - self.context_x.shape[1]
        extra_target = n_target - self.target_x.shape[1]
        if extra_context < 0 or extra_target < 0:
            raise ValueError(
                f"cannot pad {self.context_x.shape[1]} context points and "
                f"{self.target_x.shape[1]} targets to {n_context} and {n_target}"
            )
        padded = {}
        for field in fields(self):
            value = getattr(self, field.name)
            extra = extra_context if field.name.startswith("context") else extra_target
            # functional.pad counts axes from the last one.
            before_points = (0, 0) if value.dim() == 3 else ()
            padded[field.name] = functional.pad(value, (*before_points, 0, extra))
        return TaskBatch(**padded)

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> TaskBatch:
        """Return the batch on a device and in a floating dtype; masks stay boolean."""
        moved = {}
        for field in fields(self):
            value = getattr(self, field.name)
            kind = dtype if value.is_floating_point() else None
            moved[field.name] = value.to(device=device, dtype=kind)
        return TaskBatch(**moved)

    def joined(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return x, y and mask of context and targets together, n + m points."""
        return (
            torch.cat([self.context_x, self.target_x], dim=1),
            torch.cat([self.context_y, self.target_y], dim=1),
            torch.cat([self.context_mask, self.target_mask], dim=1),
        )
