"""The convolutional neural process in one dimension."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from skfunc._shapes import Bool, Float, Int
from skfunc.nn._layers import Linear, activation_function, activation_gain
from skfunc.nn._neural_process_base import MLP, NeuralProcess, check_widths
from skfunc.nn._task_batch import blank

# Density below which the data channel is taken to be empty: a context point at six
# lengthscales from the grid point has exp(-18) = 1.5e-8.
_SMALLEST_DENSITY = 1e-8


class ConvolutionalState(NamedTuple):
    """The function's representation on the grid."""

    features: Float[Tensor, "tasks grid width"]


class Conv1d(nn.Module):
    """Convolution with zero padding: odd kernels keep the length at stride 1."""

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        kernel_size: int,
        stride: int = 1,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (kernel_size - 1) // 2
        self.gain = gain
        self.weight = nn.Parameter(torch.empty(n_outputs, n_inputs, kernel_size))
        self.bias = nn.Parameter(torch.empty(n_outputs))

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Draw weights N(0, gain^2 / fan in) and set biases to zero."""
        fan_in = math.prod(self.weight.shape[1:])
        with torch.no_grad():
            self.weight.normal_(0.0, 1.0, generator=generator)
            self.weight.mul_(self.gain / math.sqrt(fan_in))
            self.bias.zero_()

    def forward(
        self, x: Float[Tensor, "tasks channels grid"]
    ) -> Float[Tensor, "tasks channels2 grid2"]:
        """Convolve."""
        return functional.conv1d(x, self.weight, self.bias, self.stride, self.padding)


class ResidualCNN(nn.Module):
    """Convolutions added to their input, all at the grid's resolution."""

    coarsening = 1

    def __init__(
        self, width: int, n_layers: int, kernel_size: int, activation: str
    ) -> None:
        super().__init__()
        self.activation = activation_function(activation)
        gain = activation_gain(activation) / math.sqrt(n_layers)
        self.convs = nn.ModuleList(
            Conv1d(width, width, kernel_size, gain=gain) for _ in range(n_layers)
        )

    def forward(
        self, x: Float[Tensor, "tasks width grid"]
    ) -> Float[Tensor, "tasks width grid"]:
        """Return the features."""
        for conv in self.convs:
            x = x + conv(self.activation(x))
        return x


class UNet(nn.Module):
    """Halvings of the grid and their way back, joined at every resolution.

    Ronneberger, Fischer and Brox 2015 (arXiv 1505.04597): a wide view at few layers.
    """

    def __init__(
        self, width: int, n_layers: int, kernel_size: int, activation: str
    ) -> None:
        super().__init__()
        self.coarsening = 2**n_layers
        self.activation = activation_function(activation)
        gain = activation_gain(activation)
        self.down = nn.ModuleList(
            Conv1d(width, width, kernel_size, stride=2, gain=gain)
            for _ in range(n_layers)
        )
        self.up = nn.ModuleList(
            Conv1d(2 * width, width, kernel_size, gain=gain) for _ in range(n_layers)
        )

    def forward(
        self, x: Float[Tensor, "tasks width grid"]
    ) -> Float[Tensor, "tasks width grid"]:
        """Return the features."""
        levels = [x]
        for conv in self.down:
            levels.append(conv(self.activation(levels[-1])))
        x = levels.pop()
        for conv in self.up:
            finer = x.repeat_interleave(2, dim=-1)
            x = conv(self.activation(torch.cat([finer, levels.pop()], dim=1)))
        return x


class ConvolutionalNeuralProcess(NeuralProcess):
    """Translation-equivariant neural process of functions of one variable.

    Context points are smoothed by Gaussian kernels onto a grid, with a channel for
    their density; a convolutional network works there; targets read a Gaussian-weighted
    mean of the grid around them.

    The grid is fixed when the network is made: the integer multiples of
    1 / `points_per_unit` that cover `x_range` and `margin` on both sides, up to a
    multiple of what the U-Net halves to. So a prediction depends on no other target and
    on no other task. Moving context and target alike by a multiple of the coarsest
    spacing moves the prediction, as long as the network's view stays within the grid.
    A target outside of the grid reads its end; a context point far outside is not seen.

    Parameters
    ----------
    n_features : int
        Width of the inputs, which must be 1.
    n_targets : int
        Width of the outputs dy.
    n_raw : int
        Width of what the likelihood reads, `Likelihood.n_raw(n_targets)`.
    width : int, default=64
        Channels of the network.
    x_range : tuple of two floats, default=(-2.0, 2.0)
        Where inputs lie, in units of x.
    margin : float, default=0.5
        What the grid covers beyond, in units of x.
    points_per_unit : int, default=16
        Grid points per unit of x.
    cnn : {"unet", "residual"}, default="unet"
        Kind of network on the grid.
    n_layers : int, default=4
        Halvings of the U-Net, or convolutions of the residual network.
    kernel_size : int, default=5
        Odd number of grid points that a convolution sees.
    activation : str, default="relu"
        Name in `ACTIVATIONS`.

    Raises
    ------
    ValueError
        If there is more than one feature, or the grid or the kernel is not valid.

    References
    ----------
    Gordon, Bruinsma, Foong, Requeima, Dubois and Turner 2020, Convolutional conditional
    neural processes (arXiv 1910.13556).

    Examples
    --------
    >>> import torch
    >>> from skfunc.nn import ConvolutionalNeuralProcess, TaskBatch, draw_module
    >>> network = ConvolutionalNeuralProcess(1, 1, 2, width=8)
    >>> draw_module(network, torch.Generator().manual_seed(0))
    >>> x, y = torch.rand(4, 10, 1), torch.rand(4, 10, 1)
    >>> batch = TaskBatch.without_padding(x[:, :3], y[:, :3], x[:, 3:], y[:, 3:])
    >>> network(batch).shape
    torch.Size([4, 7, 2])
    """

    grid_index: Tensor

    def __init__(
        self,
        n_features: int,
        n_targets: int,
        n_raw: int,
        *,
        width: int = 64,
        x_range: tuple[float, float] = (-2.0, 2.0),
        margin: float = 0.5,
        points_per_unit: int = 16,
        cnn: str = "unet",
        n_layers: int = 4,
        kernel_size: int = 5,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        check_widths(
            width=width,
            n_layers=n_layers,
            points_per_unit=points_per_unit,
            kernel_size=kernel_size,
        )
        if n_features != 1:
            raise ValueError(
                "the convolutional neural process takes one feature, or two on the "
                f"grid of an image; got {n_features}"
            )
        if not kernel_size % 2:
            raise ValueError(f"kernel_size must be odd; got {kernel_size}")
        kinds: dict[str, type[UNet] | type[ResidualCNN]] = {
            "unet": UNet,
            "residual": ResidualCNN,
        }
        if cnn not in kinds:
            raise ValueError(f"cnn={cnn!r} is unknown; choose one of {sorted(kinds)}")
        low, high = x_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"x_range must be finite and increase; got {x_range!r}")
        if not (math.isfinite(margin) and margin >= 0.0):
            raise ValueError(f"margin must be finite and not negative; got {margin!r}")
        self.cnn = kinds[cnn](width, n_layers, kernel_size, activation)
        self.points_per_unit = points_per_unit
        self.register_buffer(
            "grid_index",
            _grid_index(low - margin, high + margin, points_per_unit, self.cnn),
        )
        self.lift = Linear(1 + n_targets, width)
        self.activation = activation_function(activation)
        self.head = MLP(width, n_raw, width=width, n_hidden=1, activation=activation)
        # Twice the spacing, as in the code of Gordon et al. 2020.
        self._initial = math.log(2.0 / points_per_unit)
        self.log_lengthscales = nn.Parameter(torch.empty(2))

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Set the lengthscales of the two smoothings to twice the grid's spacing."""
        del generator
        with torch.no_grad():
            self.log_lengthscales.fill_(self._initial)

    def _grid(self, like: Tensor) -> Float[Tensor, " grid"]:
        """Return the grid points; from integers, so exact in every dtype."""
        return self.grid_index.to(like.dtype) / self.points_per_unit

    def encode(
        self,
        context_x: Float[Tensor, "tasks context features"],
        context_y: Float[Tensor, "tasks context targets"],
        context_mask: Bool[Tensor, "tasks context"],
    ) -> ConvolutionalState:
        """Smooth the context onto the grid and run the network there."""
        x, y = blank(context_x, context_mask), blank(context_y, context_mask)
        lengthscale = self.log_lengthscales[0].exp()
        distance = (self._grid(x)[:, None] - x.transpose(1, 2)) / lengthscale
        weights = torch.exp(-0.5 * distance.square())
        weights = weights * context_mask.to(weights.dtype).unsqueeze(1)
        density = weights.sum(-1, keepdim=True)
        signal = (weights @ y) / (density + _SMALLEST_DENSITY)
        lifted = self.lift(torch.cat([density, signal], dim=-1))
        features = self.cnn(lifted.transpose(1, 2)).transpose(1, 2)
        return ConvolutionalState(self.activation(features))

    def decode(
        self,
        state: ConvolutionalState,
        target_x: Float[Tensor, "tasks points features"],
        *,
        z: Float[Tensor, "samples tasks latent"] | None = None,
    ) -> Float[Tensor, "tasks points raw"]:
        """Return raw parameters of the likelihood."""
        self._refuse_latent(z)
        distance = (target_x - self._grid(target_x)) / self.log_lengthscales[1].exp()
        # The softmax normalizes the Gaussian weights, also where all of them underflow.
        weights = torch.softmax(-0.5 * distance.square(), dim=-1)
        return self.head(weights @ state.features)


def _grid_index(
    low: float, high: float, points_per_unit: int, cnn: UNet | ResidualCNN
) -> Int[Tensor, " grid"]:
    """Return grid points in units of the spacing; first and number suit the network."""
    step = cnn.coarsening
    first = math.floor(low * points_per_unit / step) * step
    last = math.ceil(high * points_per_unit)
    count = math.ceil((last - first + 1) / step) * step
    return torch.arange(first, first + count)
