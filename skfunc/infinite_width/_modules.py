"""Finite networks in NTK parameterization, the twins of those of infinite width."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skfunc.infinite_width._kernel_block import Window
from skfunc.infinite_width._layers_base import Layer, Shape
from skfunc.infinite_width._layers_elementwise import Elementwise, Relu
from skfunc.infinite_width._layers_linear import (
    AvgPool,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    Identity,
)
from skfunc.infinite_width._layers_networks import Residual, Serial, chain


class NTKLinear(nn.Module):
    """weight_std W x / sqrt(inputs) + bias_std b, with W and b of unit variance."""

    def __init__(
        self, n_inputs: int, n_outputs: int, weight_std: float, bias_std: float
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_outputs, n_inputs))
        self.bias = nn.Parameter(torch.empty(n_outputs))
        self.weight_scale = weight_std / math.sqrt(n_inputs)
        self.bias_scale = bias_std

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's outputs, (rows, outputs)."""
        return F.linear(x, self.weight * self.weight_scale, self.bias * self.bias_scale)


class NTKConv(nn.Module):
    """Convolution whose weights and biases have unit variance, padded as XLA does."""

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        layer: Conv,
        windows: tuple[Window, Window],
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.empty(n_outputs, n_inputs, *layer.filter_shape)
        )
        self.bias = nn.Parameter(torch.empty(n_outputs))
        fan_in = n_inputs * math.prod(layer.filter_shape)
        self.weight_scale = layer.weight_std / math.sqrt(fan_in)
        self.bias_scale = layer.bias_std
        self.strides = layer.strides
        self.margins = _margins(windows)

    def forward(self, x: Tensor) -> Tensor:
        """Return images of (rows, channels, height, width)."""
        weight, bias = self.weight * self.weight_scale, self.bias * self.bias_scale
        return F.conv2d(F.pad(x, self.margins), weight, bias, self.strides)


class Function(nn.Module):
    """A function of a layer's values, without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor], name: str) -> None:
        super().__init__()
        self.function = function
        self.name = name

    def extra_repr(self) -> str:
        """Return the layer's name."""
        return self.name

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of x."""
        return self.function(x)


class Pool(nn.Module):
    """Mean over windows, zeros outside counted."""

    def __init__(self, layer: AvgPool, windows: tuple[Window, Window]) -> None:
        super().__init__()
        self.size = layer.window_shape
        self.strides = (windows[0].stride, windows[1].stride)
        self.margins = _margins(windows)

    def forward(self, x: Tensor) -> Tensor:
        """Return images of (rows, channels, height, width)."""
        return F.avg_pool2d(F.pad(x, self.margins), self.size, self.strides)


class GlobalPool(nn.Module):
    """Mean over the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """Return vectors of (rows, channels)."""
        return x.mean((2, 3))


class Sum(nn.Module):
    """The sum of two branches."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the branches' outputs."""
        return self.body(x) + self.shortcut(x)


def finite_network(
    net: Layer,
    width: int,
    n_features: int | None,
    image_shape: tuple[int, int, int] | None,
    n_outputs: int,
    random_state: int | None,
    dtype: torch.dtype | None,
) -> nn.Module:
    """Return a random network whose kernel approaches `net`'s as its width grows.

    The parameters are those of `Layer.to_module`.
    """
    from skfunc.infinite_width._kernel_matrices import check_network

    for name, value in (("width", width), ("n_outputs", n_outputs)):
        if value < 1:
            raise ValueError(f"{name}={value!r} must be positive.")
    if n_features is None:
        if image_shape is None:
            raise ValueError("Pass n_features, or image_shape for images.")
        n_features = math.prod(image_shape)
    shape = check_network(net, n_features, image_shape)
    layers = chain(net)
    modules: list[nn.Module] = []
    n_inputs = n_features
    if image_shape is not None:
        modules.append(nn.Unflatten(1, tuple(image_shape)))
        n_inputs = image_shape[0]
    for position, layer in enumerate(layers):
        last = position == len(layers) - 1
        module, n_inputs = _build(layer, n_inputs, shape, n_outputs if last else width)
        shape = layer.output_shape(shape)
        modules.append(module)
    network = nn.Sequential(*modules).to(dtype or torch.get_default_dtype())
    generator = torch.Generator()
    if random_state is None:
        generator.seed()
    else:
        generator.manual_seed(random_state)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(generator=generator)
    return network


def _margins(windows: tuple[Window, Window]) -> tuple[int, int, int, int]:
    """Return the zeros left, right, above and below, as torch's pad takes them."""
    vertical, horizontal = windows
    return (*horizontal.margins, *vertical.margins)


def _rectify(x: Tensor) -> Tensor:
    """Return max(x, 0), of slope 1 at 0 as the layer's own function is."""
    return x.clamp(min=0.0)


@singledispatch
def _build(
    layer: Layer, n_inputs: int, shape: Shape, width: int
) -> tuple[nn.Module, int]:
    """Return a layer's module and its number of outputs (channels of images)."""
    raise NotImplementedError(f"{layer!r} has no finite twin.")


@_build.register
def _(layer: Dense, n_inputs: int, shape: Shape, width: int) -> tuple[nn.Module, int]:
    return NTKLinear(n_inputs, width, layer.weight_std, layer.bias_std), width


@_build.register
def _(layer: Conv, n_inputs: int, shape: Shape, width: int) -> tuple[nn.Module, int]:
    return NTKConv(n_inputs, width, layer, layer.windows(shape)), width


@_build.register
def _(layer: AvgPool, n_inputs: int, shape: Shape, width: int) -> tuple[nn.Module, int]:
    return Pool(layer, layer.windows(shape)), n_inputs


@_build.register
def _(
    layer: GlobalAvgPool, n_inputs: int, shape: Shape, width: int
) -> tuple[nn.Module, int]:
    return GlobalPool(), n_inputs


@_build.register
def _(layer: Flatten, n_inputs: int, shape: Shape, width: int) -> tuple[nn.Module, int]:
    return nn.Flatten(), n_inputs * math.prod(shape)


@_build.register
def _(
    layer: Identity, n_inputs: int, shape: Shape, width: int
) -> tuple[nn.Module, int]:
    return nn.Identity(), n_inputs


@_build.register
def _(
    layer: Elementwise, n_inputs: int, shape: Shape, width: int
) -> tuple[nn.Module, int]:
    return Function(layer._function, repr(layer)), n_inputs


@_build.register
def _(layer: Relu, n_inputs: int, shape: Shape, width: int) -> tuple[nn.Module, int]:
    # One pass over the units, and one back, instead of six.
    return Function(_rectify, repr(layer)), n_inputs


@_build.register
def _(layer: Serial, n_inputs: int, shape: Shape, width: int) -> tuple[nn.Module, int]:
    modules = []
    for part in layer.layers:
        module, n_inputs = _build(part, n_inputs, shape, width)
        shape = part.output_shape(shape)
        modules.append(module)
    return nn.Sequential(*modules), n_inputs


@_build.register
def _(
    layer: Residual, n_inputs: int, shape: Shape, width: int
) -> tuple[nn.Module, int]:
    body, n_body = _build(layer.body, n_inputs, shape, width)
    shortcut, n_shortcut = _build(layer.shortcut, n_inputs, shape, width)
    if n_body != n_shortcut:
        raise ValueError(
            f"The branches of {layer!r} have {n_body} and {n_shortcut} units: put a "
            "Dense or Conv before the block or in its shortcut, and one after the last."
        )
    return Sum(body, shortcut), n_body
