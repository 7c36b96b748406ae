"""Tasks as padded arrays, and batches of contexts and targets drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from skfunc.nn import TaskBatch

Array = NDArray[np.float64]


class TaskRows:
    """Rows of several tasks, from which batches are drawn.

    Parameters
    ----------
    tasks : sequence of (X, y)
        X of shape (n_points, n_features) and y of shape (n_points, n_targets) of every
        task, standardized; at least two points each.
    context_size, target_size : tuple of int
        Fewest and most context points, and most targets. Of a task that has fewer
        points, about half are context.
    """

    def __init__(
        self,
        tasks: Sequence[tuple[Array, Array]],
        context_size: tuple[int, int],
        target_size: int,
    ) -> None:
        self.sizes = np.array([len(X) for X, _ in tasks])
        longest = int(self.sizes.max())
        self.x = np.zeros((len(tasks), longest, tasks[0][0].shape[1]))
        self.y = np.zeros((len(tasks), longest, tasks[0][1].shape[1]))
        for i, (X, y) in enumerate(tasks):
            self.x[i, : len(X)], self.y[i, : len(X)] = X, y
        low, high = context_size
        self.context_size = (min(low, longest - 1), min(high, longest - 1))
        self.target_size = target_size

    def draw(
        self, n_tasks: int, generator: np.random.Generator, dtype: torch.dtype
    ) -> TaskBatch:
        """Return a batch: one size of the context for all its tasks.

        Parameters
        ----------
        n_tasks : int
            Tasks of the batch, drawn with replacement.
        generator : numpy.random.Generator
            What is drawn.
        dtype : torch.dtype
            Of the tensors.
        """
        chosen = generator.integers(len(self.sizes), size=n_tasks)
        sizes = self.sizes[chosen]
        # Points in random order, padding last.
        keys = generator.random((n_tasks, self.x.shape[1]))
        keys[np.arange(self.x.shape[1]) >= sizes[:, None]] = 2.0
        order = np.argsort(keys, axis=1)
        low, high = self.context_size
        n_context = int(generator.integers(low, high + 1))
        # A short task keeps points to predict.
        kept = np.minimum(n_context, np.maximum(sizes // 2, 1))
        n_target = min(self.target_size, int((sizes - kept).max()))
        place = np.arange(n_context)
        context = np.take_along_axis(order, place[None], axis=1)
        targets_at = kept[:, None] + np.arange(n_target)
        target_mask = targets_at < sizes[:, None]
        target = np.take_along_axis(
            order, np.minimum(targets_at, order.shape[1] - 1), axis=1
        )
        context_mask = place < kept[:, None]
        return task_batch(
            self._gather(self.x, chosen, context, context_mask),
            self._gather(self.y, chosen, context, context_mask),
            context_mask,
            self._gather(self.x, chosen, target, target_mask),
            self._gather(self.y, chosen, target, target_mask),
            target_mask,
            dtype=dtype,
        )

    def _gather(
        self,
        values: Array,
        chosen: NDArray[np.intp],
        rows: NDArray[np.intp],
        mask: NDArray[np.bool_],
    ) -> Array:
        return np.where(mask[..., None], values[chosen[:, None], rows], 0.0)


def task_batch(*arrays: Any, dtype: torch.dtype) -> TaskBatch:
    """Return a batch from arrays in the order of its fields."""
    return TaskBatch(
        *(
            torch.as_tensor(array)
            if np.asarray(array).dtype == bool
            else torch.as_tensor(array).to(dtype)
            for array in arrays
        )
    )


def split_by_group(X: Array, y: Array, groups: ArrayLike) -> list[tuple[Array, Array]]:
    """Return one (X, y) for each group, in the order of the groups' labels.

    Raises
    ------
    ValueError
        If the groups are not one label a row, or none has two rows.
    """
    labels = np.asarray(groups)
    if labels.shape != (len(X),):
        raise ValueError(
            f"groups must hold one task label a row, shape ({len(X)},); got "
            f"{labels.shape}"
        )
    _, positions = np.unique(labels, return_inverse=True)
    order = np.argsort(positions, kind="stable")
    edges = np.flatnonzero(np.diff(positions[order])) + 1
    tasks = [(X[rows], y[rows]) for rows in np.split(order, edges) if len(rows) > 1]
    if not tasks:
        raise ValueError(
            "no group has two rows: a task needs a context and something to predict"
        )
    return tasks
