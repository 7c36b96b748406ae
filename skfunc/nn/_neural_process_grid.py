"""The convolutional neural process on the pixels of an image."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from skfunc._shapes import Bool, Float, Int
from skfunc.nn._layers import Conv2d, Linear, activation_function, activation_gain
from skfunc.nn._neural_process_base import MLP, NeuralProcess, check_widths
from skfunc.nn._neural_process_convolutional import ConvolutionalState
from skfunc.nn._task_batch import blank

_SMALLEST_DENSITY = 1e-8


def pixel_coordinates(height: int, width: int) -> Float[Tensor, "pixels 2"]:
    """Return (row, column) of every pixel in [-1, 1], row by row, in float64."""
    rows = torch.linspace(-1.0, 1.0, height, dtype=torch.float64)
    columns = torch.linspace(-1.0, 1.0, width, dtype=torch.float64)
    return torch.cartesian_prod(rows, columns)


class DensityConv(nn.Module):
    """Weighted mean of the pixels that are there, and the weights' sum.

    Weights are the magnitudes of one learned kernel per channel, Gordon et al. 2020
    (arXiv 1910.13556), the version on the grid.
    """

    def __init__(self, n_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.weight = nn.Parameter(torch.empty(n_channels, 1, kernel_size, kernel_size))

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Draw N(0, 1 / kernel size)."""
        with torch.no_grad():
            self.weight.normal_(0.0, 1.0, generator=generator)
            self.weight.div_(self.kernel_size)

    def forward(
        self,
        image: Float[Tensor, "tasks channels height width"],
        there: Float[Tensor, "tasks 1 height width"],
    ) -> Float[Tensor, "tasks channels2 height width"]:
        """Return densities and means, twice the channels."""
        kernel = self.weight.abs()
        channels, padding = kernel.shape[0], (self.kernel_size - 1) // 2
        there = there.expand_as(image)
        density = functional.conv2d(there, kernel, padding=padding, groups=channels)
        signal = functional.conv2d(image, kernel, padding=padding, groups=channels)
        return torch.cat([density, signal / (density + _SMALLEST_DENSITY)], dim=1)


class SeparableConv2d(nn.Module):
    """One kernel per channel, then a linear map over channels, as Gordon et al. 2020.

    Chollet 2017, Xception (arXiv 1610.02357): about the kernel's area less work than a
    full convolution.
    """

    def __init__(self, n_channels: int, kernel_size: int, gain: float = 1.0) -> None:
        super().__init__()
        self.padding = (kernel_size - 1) // 2
        self.weight = nn.Parameter(torch.empty(n_channels, 1, kernel_size, kernel_size))
        self.mix = Conv2d(n_channels, n_channels, 1, gain=gain)

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Draw N(0, 1 / area)."""
        with torch.no_grad():
            self.weight.normal_(0.0, 1.0, generator=generator)
            self.weight.div_(self.weight.shape[-1])

    def forward(
        self, x: Float[Tensor, "tasks channels height width"]
    ) -> Float[Tensor, "tasks channels height width"]:
        """Convolve."""
        x = functional.conv2d(
            x, self.weight, padding=self.padding, groups=len(self.weight)
        )
        return self.mix(x)


class PixelNeuralProcess(NeuralProcess):
    """Neural process whose points are pixels of images of one size.

    Context points are put into an image, beside a mask of the pixels that are there.
    Points lie at `pixel_coordinates`; others count as the nearest pixel, and context
    points of one pixel are averaged.

    Parameters
    ----------
    n_features : int
        Width of the inputs, which must be 2: row and column in [-1, 1].
    image_size : tuple of two ints
        Height and width, at least 2 each.

    Raises
    ------
    ValueError
        If there are not two features, or the size is not valid.
    """

    def __init__(self, n_features: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        if n_features != 2:
            raise ValueError(
                "points of an image have two features, row and column; got "
                f"{n_features}"
            )
        if min(image_size) < 2:
            raise ValueError(f"image_size must be at least (2, 2); got {image_size!r}")
        self.image_size = image_size

    @abstractmethod
    def encode_image(
        self,
        image: Float[Tensor, "tasks channels height width"],
        there: Float[Tensor, "tasks 1 height width"],
    ) -> ConvolutionalState:
        """Encode images, zero where `there` is zero: features of every pixel."""

    @abstractmethod
    def _read(self, features: Float[Tensor, "tasks points width"]) -> Tensor:
        """Return raw parameters of the likelihood from features of pixels."""

    def _pixel_of(
        self, x: Float[Tensor, "tasks points 2"]
    ) -> Int[Tensor, "tasks points"]:
        """Return the position of the nearest pixel, row by row."""
        sizes = torch.tensor(self.image_size, device=x.device)
        place = (0.5 * (x + 1.0) * (sizes - 1)).round().long()
        place = torch.minimum(place.clamp(min=0), sizes - 1)
        return place[..., 0] * self.image_size[1] + place[..., 1]

    def encode(
        self,
        context_x: Float[Tensor, "tasks context features"],
        context_y: Float[Tensor, "tasks context targets"],
        context_mask: Bool[Tensor, "tasks context"],
    ) -> ConvolutionalState:
        """Put the context into an image and run the network there."""
        return self.encode_image(*self._image_of(context_x, context_y, context_mask))

    def _image_of(
        self,
        context_x: Float[Tensor, "tasks context features"],
        context_y: Float[Tensor, "tasks context targets"],
        context_mask: Bool[Tensor, "tasks context"],
    ) -> tuple[Tensor, Tensor]:
        """Return images of the points, and where there are any."""
        y = blank(context_y, context_mask)
        pixels = self._pixel_of(blank(context_x, context_mask))
        n_tasks, _, channels = y.shape
        height, width = self.image_size
        counts = y.new_zeros(n_tasks, height * width)
        counts = counts.scatter_add(1, pixels, context_mask.to(y.dtype)).unsqueeze(1)
        sums = y.new_zeros(n_tasks, channels, height * width)
        index = pixels.unsqueeze(1).expand(-1, channels, -1)
        image = sums.scatter_add(2, index, y.transpose(1, 2)) / counts.clamp(min=1.0)
        there = (counts > 0).to(y.dtype)
        size = (height, width)
        return image.unflatten(-1, size), there.unflatten(-1, size)

    def decode(
        self,
        state: ConvolutionalState,
        target_x: Float[Tensor, "tasks points features"],
        *,
        z: Float[Tensor, "samples tasks latent"] | None = None,
    ) -> Float[Tensor, "tasks points raw"]:
        """Return raw parameters of the likelihood."""
        self._refuse_latent(z)
        index = self._pixel_of(target_x).unsqueeze(-1)
        width = state.features.shape[-1]
        return self._read(state.features.gather(1, index.expand(-1, -1, width)))


class ConvolutionalGridNeuralProcess(PixelNeuralProcess):
    """Convolutional neural process on the pixels of images: translation-equivariant.

    A residual network of convolutions reads an image of the context and a mask of the
    pixels that are there, and a perceptron the features of each target's pixel.

    Parameters
    ----------
    n_features : int
        Width of the inputs, which must be 2: row and column in [-1, 1].
    n_targets : int
        Width of the outputs, the image's channels.
    n_raw : int
        Width of what the likelihood reads, `Likelihood.n_raw(n_targets)`.
    image_size : tuple of two ints
        Height and width, at least 2 each.
    width : int, default=64
        Channels of the network.
    n_layers : int, default=6
        Number of residual convolutions, each separable.
    kernel_size : int, default=5
        Odd side of the residual convolutions' kernels.
    density_size : int, default=9
        Odd side of the first kernel, over which pixels are averaged.
    activation : str, default="relu"
        Name in `ACTIVATIONS`.

    Raises
    ------
    ValueError
        If there are not two features, or a size is not valid.

    References
    ----------
    Gordon, Bruinsma, Foong, Requeima, Dubois and Turner 2020, Convolutional conditional
    neural processes (arXiv 1910.13556).

    Examples
    --------
    >>> import torch
    >>> from skfunc.nn import ConvolutionalGridNeuralProcess, draw_module
    >>> from skfunc.nn import pixel_coordinates
    >>> network = ConvolutionalGridNeuralProcess(2, 1, 2, image_size=(8, 8), width=8)
    >>> draw_module(network, torch.Generator().manual_seed(0))
    >>> pixels = pixel_coordinates(8, 8).float()[None]
    >>> image, seen = torch.rand(1, 64, 1), torch.rand(1, 64) < 0.3
    >>> network.decode(network.encode(pixels, image, seen), pixels).shape
    torch.Size([1, 64, 2])
    """

    def __init__(
        self,
        n_features: int,
        n_targets: int,
        n_raw: int,
        *,
        image_size: tuple[int, int],
        width: int = 64,
        n_layers: int = 6,
        kernel_size: int = 5,
        density_size: int = 9,
        activation: str = "relu",
    ) -> None:
        super().__init__(n_features, image_size)
        check_widths(width=width, n_layers=n_layers)
        for name, size in (
            ("kernel_size", kernel_size),
            ("density_size", density_size),
        ):
            if size < 1 or not size % 2:
                raise ValueError(f"{name} must be positive and odd; got {size!r}")
        self.density = DensityConv(n_targets, density_size)
        self.lift = Linear(2 * n_targets, width)
        self.activation = activation_function(activation)
        gain = activation_gain(activation) / math.sqrt(n_layers)
        self.convs = nn.ModuleList(
            SeparableConv2d(width, kernel_size, gain) for _ in range(n_layers)
        )
        self.head = MLP(width, n_raw, width=width, n_hidden=1, activation=activation)

    def encode_image(
        self,
        image: Float[Tensor, "tasks channels height width"],
        there: Float[Tensor, "tasks 1 height width"],
    ) -> ConvolutionalState:
        """Encode images, zero where `there` is zero."""
        first = self.density(image, there)
        x = self.lift(first.movedim(1, -1)).movedim(-1, 1)
        for conv in self.convs:
            x = x + conv(self.activation(x))
        return ConvolutionalState(self.activation(x).flatten(2).transpose(1, 2))

    def _read(self, features: Float[Tensor, "tasks points width"]) -> Tensor:
        return self.head(features)
