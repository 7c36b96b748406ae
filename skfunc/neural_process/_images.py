"""Images as tasks: a pixel's place is the input, its values are the output."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skfunc.neural_process._tasks import task_batch
from skfunc.nn import TaskBatch, pixel_coordinates

Array = NDArray[np.float64]
Shape = tuple[int, int, int]

# The finest grid of the one-dimensional convolution, points a unit.
_MOST_POINTS_PER_UNIT = 512


def is_signal(shape: Shape) -> bool:
    """Return whether pixels lie on a line, with one coordinate."""
    return min(shape[1:]) == 1


def coordinates(shape: Shape) -> Array:
    """Return the places of the pixels in [-1, 1], (n_pixels, 1 or 2)."""
    _, height, width = shape
    if is_signal(shape):
        return np.linspace(-1.0, 1.0, height * width)[:, None]
    return pixel_coordinates(height, width).numpy()


def as_points(rows: Array, shape: Shape) -> Array:
    """Return images as values at pixels, (n_images, n_pixels, channels)."""
    return rows.reshape(len(rows), shape[0], -1).swapaxes(1, 2)


def as_rows(points: Array) -> Array:
    """Return values at pixels as flattened images, (n_images, n_features)."""
    return points.swapaxes(1, 2).reshape(len(points), -1)


def seen_pixels(points: Array) -> NDArray[np.bool_]:
    """Return which pixels were seen in all channels, (n_images, n_pixels)."""
    return np.asarray(np.isfinite(points).all(axis=-1))


def grid_network(
    shape: Shape, hidden_size: int, n_layers: int, n_exemplars: int
) -> tuple[str, dict[str, Any]]:
    """Return name and arguments of the convolutional network for such images."""
    _, height, width = shape
    if is_signal(shape):
        # No two neighbours fall on one point of the grid, where it can be that fine.
        resolution = min(max(16, height * width // 2 + 1), _MOST_POINTS_PER_UNIT)
        return "convcnp", {
            "width": hidden_size,
            "x_range": [-1.0, 1.0],
            "points_per_unit": resolution,
        }
    return "convcnp_image", {
        "width": max(1, hidden_size // 2),
        "n_resolutions": n_layers,
        "image_size": [height, width],
        "n_exemplars": n_exemplars,
    }


def choose_exemplars(
    points: Array, most: int, random_state: np.random.RandomState
) -> Array:
    """Return images without gaps, at most so many, or none where there is but one."""
    whole = np.flatnonzero(seen_pixels(points).all(axis=1))
    if len(whole) > most:
        whole = np.sort(random_state.choice(whole, most, replace=False))
    return points[whole if len(whole) > 1 else whole[:0]]


class ImageTasks:
    """Images with random pixels as context, other pixels as targets.

    Parameters
    ----------
    points : ndarray of shape (n_images, n_pixels, channels)
        Scaled values, NaN where nothing was seen; two whole pixels at least in every
        image.
    x : ndarray of shape (n_pixels, n_features)
        Where the pixels are.
    context_share : tuple of float
        Least and greatest share of an image's pixels that are context.
    target_size : int
        Most targets of an image.
    is_padded : bool
        Whether images of a batch have contexts of their own sizes; else they share one,
        which spares networks the work of padding.
    """

    def __init__(
        self,
        points: Array,
        x: Array,
        context_share: tuple[float, float],
        target_size: int,
        is_padded: bool = False,
    ) -> None:
        self.there = seen_pixels(points)
        self.points = np.where(self.there[..., None], points, 0.0).astype(np.float32)
        self.x = x
        self.context_share = context_share
        self.target_size = target_size
        self.is_padded = is_padded

    def draw(
        self, n_tasks: int, generator: np.random.Generator, dtype: torch.dtype
    ) -> TaskBatch:
        """Return a batch.

        The share is low + (high - low) u^2 for a uniform u: small contexts, where
        there is most to learn, come more often.

        Parameters
        ----------
        n_tasks : int
            Images of the batch, drawn with replacement.
        generator : numpy.random.Generator
            What is drawn.
        dtype : torch.dtype
            Of the tensors.
        """
        n_pixels = self.points.shape[1]
        chosen = generator.integers(len(self.points), size=n_tasks)
        there = self.there[chosen]
        sizes = there.sum(axis=1)
        low, high = self.context_share
        uniform = generator.random(n_tasks if self.is_padded else 1)
        share = low + (high - low) * uniform**2
        # One pixel at least is left to predict.
        kept = np.minimum(np.round(share * n_pixels).astype(np.intp), sizes - 1)
        n_context = int(kept.max())
        # Pixels in random order, those that were not seen last.
        keys = np.where(there, generator.random(there.shape), 2.0)
        order = np.argsort(keys, axis=1)
        n_target = min(self.target_size, int((sizes - kept).max()))
        context_mask = np.arange(n_context) < kept[:, None]
        place = kept[:, None] + np.arange(n_target)
        target_mask = place < sizes[:, None]
        context = order[:, :n_context]
        target = np.take_along_axis(order, np.minimum(place, n_pixels - 1), axis=1)
        return task_batch(
            *self._gather(chosen, context, context_mask),
            *self._gather(chosen, target, target_mask),
            dtype=dtype,
        )

    def _gather(
        self,
        chosen: NDArray[np.intp],
        pixels: NDArray[np.intp],
        mask: NDArray[np.bool_],
    ) -> tuple[Array, Array, NDArray[np.bool_]]:
        there = mask[..., None]
        x = np.where(there, self.x[pixels], 0.0)
        y = np.where(there, self.points[chosen[:, None], pixels], 0.0)
        return x, y, mask
