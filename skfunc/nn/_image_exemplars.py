"""What stored images say about the missing pixels of another: nothing is learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skfunc._shapes import Bool, Float

# Windows of an image along each axis, and the length scales, in units of half an image,
# over which seen pixels matter to a window and windows are blended.
_WINDOWS = 4
_VIEW, _BLEND = 0.35, 1.0 / _WINDOWS
# Weight that a pixel keeps however far it is: it decides where none is near.
_FAR = 0.05
# The bandwidth is half the mean squared distance of so many nearest images beyond that
# of the nearest, which lets it follow the number of pixels that were seen.
_NEAREST, _SHARE_OF_GAP = 20, 0.5
# Floors, for values in [-.5, .5]: of the bandwidth and of the variance.
_SMALLEST_BANDWIDTH, _SMALLEST_VARIANCE = 1e-3, 4e-4
# Squared distance below which two images are one, above the rounding of float32.
_SAME = 1e-3
_LEFT_OUT = 1e6


class ExemplarMemory(nn.Module):
    """Mean and deviation of pixels over stored images that agree with what is seen.

    Kernel regression on images (Nadaraya 1964, Watson 1964), in overlapping windows: in
    each, stored images are weighted by a Gaussian kernel of their squared distance at
    seen pixels, those near the window foremost.

    Parameters
    ----------
    n_exemplars : int
        Number of images to store, at least 2.
    n_channels : int
        Channels of an image.
    image_size : tuple of two ints
        Height and width.
    """

    images: Tensor
    view: Tensor
    blend: Tensor

    def __init__(
        self, n_exemplars: int, n_channels: int, image_size: tuple[int, int]
    ) -> None:
        super().__init__()
        n_pixels = image_size[0] * image_size[1]
        self.register_buffer("images", torch.zeros(n_exemplars, n_channels * n_pixels))
        places = torch.cartesian_prod(*(_inner_points(size) for size in image_size))
        centres = torch.cartesian_prod(*[_inner_points(_WINDOWS)] * 2)
        squares = (centres[:, None] - places).square().sum(-1)
        view = torch.exp(-0.5 * squares / _VIEW**2) + _FAR
        self.register_buffer("view", view, persistent=False)
        blend = torch.exp(-0.5 * squares / _BLEND**2)
        self.register_buffer("blend", blend / blend.sum(0), persistent=False)

    def store(self, images: Float[Tensor, "exemplars channels pixels"]) -> None:
        """Keep these images."""
        self.images.copy_(images.flatten(1))

    def same(
        self,
        image: Float[Tensor, "tasks channels height width"],
        there: Float[Tensor, "tasks 1 height width"],
    ) -> Bool[Tensor, "tasks exemplars"]:
        """Return which stored images agree with an image wherever it was seen."""
        seen = there.expand_as(image).flatten(1)
        return self._distances(image.flatten(1), seen) < _SAME

    def forward(
        self,
        image: Float[Tensor, "tasks channels height width"],
        there: Float[Tensor, "tasks 1 height width"],
        left_out: Bool[Tensor, "tasks exemplars"] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return means and deviations, shaped as the image; no gradient passes.

        Parameters
        ----------
        image, there : Tensor
            Values, zero where nothing was seen, and where something was.
        left_out : bool Tensor of shape (tasks, exemplars), optional
            Stored images that have no say.
        """
        n_channels = image.shape[1]
        with torch.no_grad():
            seen = (self.view * there.flatten(2)).repeat(1, 1, n_channels)
            distances = self._distances(image.flatten(1).unsqueeze(1), seen)
            if left_out is not None:
                distances = distances + _LEFT_OUT * left_out.unsqueeze(1)
            # One image may be left out, and must not be among the nearest.
            count = max(1, min(_NEAREST, len(self.images) - 1))
            nearest = distances.topk(count, dim=-1, largest=False).values
            excess = nearest.mean(-1, keepdim=True) - nearest[..., :1]
            bandwidth = _SHARE_OF_GAP * excess + _SMALLEST_BANDWIDTH
            weights = torch.softmax((nearest[..., :1] - distances) / bandwidth, dim=-1)
            blend = self.blend.repeat(1, n_channels)
            mean = (weights @ self.images * blend).sum(1)
            square = (weights @ self.images.square() * blend).sum(1)
            variance = (square - mean.square()).clamp(min=0.0) + _SMALLEST_VARIANCE
        return mean.view_as(image), variance.sqrt().view_as(image)

    def _distances(
        self,
        values: Float[Tensor, "*rows pixels"],
        weights: Float[Tensor, "*all pixels"],
    ) -> Float[Tensor, "*all exemplars"]:
        """Return weighted sums of squared differences from the stored images."""
        own = (weights * values.square()).sum(-1, keepdim=True)
        cross = (weights * values) @ self.images.T
        return own - 2.0 * cross + weights @ self.images.square().T


def _inner_points(count: int) -> Tensor:
    """Return the middles of equal parts of [-1, 1]."""
    return (2.0 * torch.arange(count) + 1.0) / count - 1.0
