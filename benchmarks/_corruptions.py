"""Six corruptions of images at five severities, after Hendrycks & Dietterich 2019.

Benchmarking neural network robustness to common corruptions and perturbations (arXiv
1903.12261) has fixed severities for each size of image. Here images of any size, from
8 x 8 on, share one scale:

- intensities (noise, brightness, contrast) and angles are the same at every size;
- the width of the blur grows as the square root of the side, halfway between a fixed
  number of pixels, which is all of a small image, and a fixed share, which is nothing
  there; it is given for a side of 32;
- pixelation leaves a share of the pixels of each side, a whole number, so that at 8
  pixels every severity still has one of its own: 7, 6, 5, 4 and 3. A pixel on the edge
  of blocks is their average by area.

The largest severities are beyond those of the paper for CIFAR-10, since digits are
easier to read.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

SEVERITIES = (0, 1, 2, 3, 4, 5)
# Of severities 1 to 5; in units of the whole range of intensities, but for the blur
# (pixels of a side of 32), the rotation (degrees) and the pixelation (share of pixels).
LEVELS = {
    "noise": (0.06, 0.12, 0.18, 0.26, 0.38),
    "blur": (0.8, 1.1, 1.4, 1.8, 2.4),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "rotation": (8.0, 16.0, 24.0, 32.0, 40.0),
    "pixelate": (0.9, 0.75, 0.6, 0.5, 0.4),
}
CORRUPTIONS = tuple(LEVELS)
REFERENCE_SIDE = 32


def corrupt(images: np.ndarray, kind: str, severity: int, seed: int = 0) -> np.ndarray:
    """Return corrupted images.

    The draws depend on the seed and on an image's position alone: they are the same at
    every severity, and for the first images of a longer array.

    Parameters
    ----------
    images : ndarray of shape (n_images, channels, height, width)
        Intensities in [0, 1].
    kind : str
        One of `CORRUPTIONS`.
    severity : int
        0, which leaves the images as they are, to 5.
    seed : int, default=0
        Of the noise and of the direction of rotations.

    Returns
    -------
    ndarray of shape (n_images, channels, height, width)
        Intensities in [0, 1].
    """
    if kind not in LEVELS:
        raise ValueError(f"no corruption {kind!r}; there are {', '.join(LEVELS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be one of {SEVERITIES}, not {severity!r}")
    images = np.asarray(images, dtype=np.float64)
    if images.ndim != 4:
        raise ValueError(
            "images must have shape (n_images, channels, height, width), not "
            f"{images.shape}"
        )
    if severity == 0:
        return images.copy()
    level = LEVELS[kind][severity - 1]
    rng = np.random.default_rng([seed, CORRUPTIONS.index(kind)])
    return np.clip(_ACTIONS[kind](images, level, rng), 0.0, 1.0)


def _noise(images, level, rng):
    return images + level * rng.standard_normal(images.shape)


def _blur(images, level, rng):
    side = min(images.shape[-2:])
    sigma = level * (side / REFERENCE_SIDE) ** 0.5
    return ndimage.gaussian_filter(images, sigma, axes=(-2, -1), mode="nearest")


def _brightness(images, level, rng):
    return images + level


def _contrast(images, level, rng):
    mean = images.mean(axis=(-2, -1), keepdims=True)
    return mean + level * (images - mean)


def _rotation(images, level, rng):
    clockwise = rng.random(len(images)) < 0.5
    rotated = np.empty_like(images)
    for chosen, angle in ((clockwise, -level), (~clockwise, level)):
        rotated[chosen] = ndimage.rotate(
            images[chosen], angle, (-1, -2), reshape=False, order=1, mode="nearest"
        )
    return rotated


def _pixelate(images, level, rng):
    rows, columns = (_blocks(side, level) for side in images.shape[-2:])
    return rows @ images @ columns.T


def _blocks(side: int, share: float) -> np.ndarray:
    """Return the matrix that averages a side over blocks and spreads them again."""
    n = max(1, round(side * share))
    edges = np.arange(n + 1) * side / n
    pixels = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(
        edges[:-1, None], pixels
    )
    overlap = np.clip(overlap, 0.0, None)
    return overlap.T @ overlap * n / side


_ACTIONS = dict(
    zip(
        CORRUPTIONS,
        (_noise, _blur, _brightness, _contrast, _rotation, _pixelate),
        strict=True,
    )
)
