"""The neural process that completes images: a U-Net over interpolations."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from skfunc._shapes import Bool, Float
from skfunc.nn._image_exemplars import ExemplarMemory
from skfunc.nn._layers import Conv2d, activation_function, activation_gain
from skfunc.nn._neural_process_base import check_widths
from skfunc.nn._neural_process_convolutional import ConvolutionalState
from skfunc.nn._neural_process_grid import PixelNeuralProcess
from skfunc.nn._task_batch import TaskBatch, blank

# Number of seen pixels that a coarser value counts as, beside those of a finer cell.
_COARSE_COUNT = 0.25
# Deviation to begin with where no stored images tell one, for values in [-.5, .5].
_DEVIATION = 0.3
# Gains of what is added: small, so that training begins at what is interpolated.
_RESIDUAL_GAIN, _OUTPUT_GAIN = 0.5, 0.1


def interpolate(
    image: Float[Tensor, "tasks channels height width"],
    there: Float[Tensor, "tasks 1 height width"],
) -> Float[Tensor, "tasks channels height width"]:
    """Fill missing pixels from means over coarser and coarser cells.

    Gortler, Grzeszczuk, Szeliski and Cohen 1996, The lumigraph: pull sums up a pyramid,
    push means down to where too little was seen. Zero where nothing was seen at all.
    """
    levels = [(image, there)]
    while max(levels[-1][1].shape[-2:]) > 1:
        levels.append((_quarter_sums(levels[-1][0]), _quarter_sums(levels[-1][1])))
    sums, counts = levels.pop()
    filled = sums / (counts + 1.0)
    for sums, counts in reversed(levels[1:]):
        coarse = functional.interpolate(filled, size=sums.shape[-2:], mode="bilinear")
        filled = (sums + _COARSE_COUNT * coarse) / (counts + _COARSE_COUNT)
    coarse = functional.interpolate(filled, size=image.shape[-2:], mode="bilinear")
    return torch.where(there > 0, image, coarse)


def _quarter_sums(x: Tensor) -> Tensor:
    # Means over whole and cut cells, times their pixels: sums.
    padded = functional.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
    return 4.0 * functional.avg_pool2d(padded, 2)


class ResidualBlock(nn.Module):
    """Two convolutions that are added to their input."""

    def __init__(self, width: int, kernel_size: int, activation: str) -> None:
        super().__init__()
        self.activation = activation_function(activation)
        gain = activation_gain(activation)
        self.first = Conv2d(width, width, kernel_size, gain=gain)
        self.second = Conv2d(width, width, kernel_size, gain=_RESIDUAL_GAIN)

    def forward(
        self, x: Float[Tensor, "tasks width height width2"]
    ) -> Float[Tensor, "tasks width height width2"]:
        """Add to the features."""
        return x + self.second(self.activation(self.first(self.activation(x))))


class ImageUNet(nn.Module):
    """Residual blocks at halved resolutions and on the way back, of images of any size.

    Ronneberger, Fischer and Brox 2015 (arXiv 1505.04597), with sums in place of
    concatenations. Channels double where the resolution halves.
    """

    def __init__(
        self, width: int, n_resolutions: int, kernel_size: int, activation: str
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(n_resolutions)]
        pairs = list(zip(widths[:-1], widths[1:], strict=True))

        def blocks(of_levels: list[int]) -> nn.ModuleList:
            return nn.ModuleList(
                ResidualBlock(w, kernel_size, activation) for w in of_levels
            )

        self.down, self.up = blocks(widths), blocks(widths[:-1])
        self.coarsen = nn.ModuleList(Conv2d(a, b, 1) for a, b in pairs)
        self.refine = nn.ModuleList(Conv2d(b, a, 1) for a, b in pairs)

    def forward(
        self, x: Float[Tensor, "tasks width height width2"]
    ) -> Float[Tensor, "tasks width height width2"]:
        """Return the features."""
        finer = []
        for block, coarsen in zip(self.down, self.coarsen, strict=False):
            finer.append(block(x))
            x = functional.avg_pool2d(
                finer[-1], 2, ceil_mode=True, count_include_pad=False
            )
            x = coarsen(x)
        x = self.down[-1](x)
        for block, refine in reversed(list(zip(self.up, self.refine, strict=True))):
            skip = finer.pop()
            x = block(skip + functional.interpolate(refine(x), size=skip.shape[-2:]))
        return x


class ImageNeuralProcess(PixelNeuralProcess):
    """Neural process on images of one size, whose places matter: faces, digits.

    A U-Net corrects two guesses of the missing pixels that need no training: the
    interpolation of seen pixels, and the mean of stored images that agree with them,
    whose deviation it scales. It reads the guesses and a learned bias of every pixel
    beside the context, so it is not equivariant to translations.

    In training, `forward` leaves out of the memory what agrees with context and targets
    of an image at once: the image itself.

    Parameters
    ----------
    n_features : int
        Width of the inputs, which must be 2: row and column in [-1, 1].
    n_targets : int
        Width of the outputs, the image's channels; values lie in [-.5, .5] or near.
    n_raw : int
        Width of what the likelihood reads, which must be 2 `n_targets`: means and raw
        deviations.
    image_size : tuple of two ints
        Height and width, at least 2 each.
    n_exemplars : int, default=0
        Images to store by ``exemplars.store``: 0 for none, or at least 2.
    width : int, default=16
        Channels at the image's resolution.
    n_resolutions : int, default=4
        Resolutions at most; fewer when the image is down to two pixels before.
    kernel_size : int, default=3
        Odd side of the convolutions' kernels.
    activation : str, default="relu"
        Name in `ACTIVATIONS`.

    Raises
    ------
    ValueError
        If a size is not valid.

    References
    ----------
    Garnelo, Rosenbaum, Maddison, Ramalho, Saxton, Shanahan, Teh, Rezende and Eslami
    2018, Conditional neural processes (arXiv 1807.01613).

    Examples
    --------
    >>> import torch
    >>> from skfunc.nn import ImageNeuralProcess, draw_module, pixel_coordinates
    >>> network = ImageNeuralProcess(2, 1, 2, image_size=(8, 8), width=8)
    >>> draw_module(network, torch.Generator().manual_seed(0))
    >>> pixels = pixel_coordinates(8, 8).float()[None]
    >>> image, seen = torch.rand(1, 64, 1) - 0.5, torch.rand(1, 64) < 0.3
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
        n_exemplars: int = 0,
        width: int = 16,
        n_resolutions: int = 4,
        kernel_size: int = 3,
        activation: str = "relu",
    ) -> None:
        super().__init__(n_features, image_size)
        check_widths(width=width, n_resolutions=n_resolutions)
        if n_raw != 2 * n_targets:
            raise ValueError(
                f"n_raw must be twice n_targets, means and deviations; got {n_raw} "
                f"for n_targets={n_targets}"
            )
        if kernel_size < 1 or not kernel_size % 2:
            raise ValueError(
                f"kernel_size must be positive and odd; got {kernel_size!r}"
            )
        if n_exemplars < 0 or n_exemplars == 1:
            raise ValueError(f"n_exemplars must be 0 or at least 2; got {n_exemplars}")
        n_guesses = 1 + 2 * bool(n_exemplars)
        self.exemplars = (
            ExemplarMemory(n_exemplars, n_targets, image_size) if n_exemplars else None
        )
        side = min(image_size)
        halvings = 0
        while side > 2 and halvings < n_resolutions - 1:
            side, halvings = (side + 1) // 2, halvings + 1
        self.lift = Conv2d(1 + (1 + n_guesses) * n_targets, width, kernel_size)
        self.place = nn.Parameter(torch.empty(width, *image_size))
        self.unet = ImageUNet(width, halvings + 1, kernel_size, activation)
        self.activation = activation_function(activation)
        gain = activation_gain(activation)
        self.hidden = Conv2d(width, width, 1, gain=gain)
        self.head = Conv2d(width, 3 * n_targets, 1, gain=_OUTPUT_GAIN)

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Begin without biases of pixels."""
        del generator
        with torch.no_grad():
            self.place.zero_()

    def forward(self, batch: TaskBatch, *, z: Tensor | None = None) -> Tensor:
        """Predict the batch's targets; stored images that the batch holds stay out."""
        self._refuse_latent(z)
        image, there = self._image_of(
            batch.context_x, batch.context_y, batch.context_mask
        )
        left_out = None
        if self.exemplars is not None:
            left_out = self.exemplars.same(*self._image_of(*batch.joined()))
        state = self.encode_image(image, there, left_out)
        return self.decode(state, blank(batch.target_x, batch.target_mask))

    def encode_image(
        self,
        image: Float[Tensor, "tasks channels height width"],
        there: Float[Tensor, "tasks 1 height width"],
        left_out: Bool[Tensor, "tasks exemplars"] | None = None,
    ) -> ConvolutionalState:
        """Return raw parameters of all pixels of images, zero where `there` is zero."""
        smooth = interpolate(image, there)
        guesses = [smooth]
        if self.exemplars is not None:
            guesses.extend(self.exemplars(image, there, left_out))
        x = self.lift(torch.cat([image, there, *guesses], dim=1)) + self.place
        x = self.activation(self.unet(x))
        x = self.head(self.activation(self.hidden(x)))
        correction, gate, spread = x.chunk(3, dim=1)
        if self.exemplars is None:
            mean, deviation = smooth, torch.full_like(smooth, _DEVIATION)
        else:
            mean, deviation = guesses[1], guesses[2]
        mean = mean + gate * (smooth - mean) + correction
        # The likelihood takes a softplus, whose inverse this is.
        spread = spread + torch.log(torch.expm1(deviation))
        raw = torch.cat([mean, spread], dim=1)
        return ConvolutionalState(raw.flatten(2).transpose(1, 2))

    def _read(self, features: Float[Tensor, "tasks points raw"]) -> Tensor:
        return features
