"""Layers for one network or for a stack of networks of one shape.

A layer is built for one network, its parameters of shape ``(...)``. Given stacked
parameters of shape ``(members, ...)`` through `torch.func.functional_call`, the same
forward computes every member at once on inputs ``(members, rows, ...)``, by batched
matrix products and grouped convolutions: the result of `torch.func.vmap` without its
cost per call.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from skfunc._shapes import Float

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": functional.elu,
    "gelu": functional.gelu,
    "identity": lambda x: x,
    "logistic": torch.sigmoid,
    "relu": torch.relu,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "tanh": torch.tanh,
}

# Gain that keeps the second moment of a unit Gaussian through the activation,
# 1 / sqrt(E f(z)^2), by quadrature.
_GAINS = {
    "elu": 1.2452,
    "gelu": 1.5335,
    "identity": 1.0,
    "logistic": 1.8462,
    "relu": math.sqrt(2.0),
    "silu": 1.6765,
    "softplus": 1.0419,
    "tanh": 1.5925,
}


def activation_function(name: str) -> Callable[[Tensor], Tensor]:
    """Return the elementwise function of that name.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    try:
        return ACTIVATIONS[name]
    except KeyError:
        raise ValueError(
            f"activation={name!r} is unknown; choose one of {sorted(ACTIVATIONS)}"
        ) from None


def activation_gain(name: str) -> float:
    """Return the gain of the initial weights after that activation."""
    return _GAINS[name]


class Linear(nn.Module):
    """Affine map ``x W + b`` with weights ``(..., inputs, outputs)``."""

    def __init__(self, n_inputs: int, n_outputs: int, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.weight = nn.Parameter(torch.empty(n_inputs, n_outputs))
        self.bias = nn.Parameter(torch.empty(n_outputs))

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Draw weights N(0, gain^2 / inputs) and set biases to zero."""
        scale = self.gain / math.sqrt(max(self.weight.shape[-2], 1))
        with torch.no_grad():
            self.weight.normal_(0.0, 1.0, generator=generator).mul_(scale)
            self.bias.zero_()

    def forward(
        self, x: Float[Tensor, "*rows inputs"]
    ) -> Float[Tensor, "*rows outputs"]:
        """Map the last axis of x."""
        if self.weight.dim() == 3:
            return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight)
        return x @ self.weight + self.bias


class Conv2d(nn.Module):
    """Square convolution with zero padding: odd kernels keep the size at stride 1."""

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        kernel_size: int = 3,
        stride: int = 1,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (kernel_size - 1) // 2
        self.gain = gain
        self.weight = nn.Parameter(
            torch.empty(n_outputs, n_inputs, kernel_size, kernel_size)
        )
        self.bias = nn.Parameter(torch.empty(n_outputs))

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Draw weights N(0, gain^2 / fan in) and set biases to zero."""
        fan_in = math.prod(self.weight.shape[-3:])
        with torch.no_grad():
            self.weight.normal_(0.0, 1.0, generator=generator)
            self.weight.mul_(self.gain / math.sqrt(fan_in))
            self.bias.zero_()

    def forward(
        self, x: Float[Tensor, "*rows inputs height width"]
    ) -> Float[Tensor, "*rows outputs height2 width2"]:
        """Convolve images ``(rows, ...)`` or ``(members, rows, ...)``."""
        if self.weight.dim() == 4:
            return functional.conv2d(
                x, self.weight, self.bias, self.stride, self.padding
            )
        members, n_outputs = self.weight.shape[:2]
        if members == 1:
            y = functional.conv2d(
                x[0], self.weight[0], self.bias[0], self.stride, self.padding
            )
            return y.unsqueeze(0)
        # One grouped convolution: (rows, members * channels, height, width).
        grouped = x.transpose(0, 1).flatten(1, 2)
        y = functional.conv2d(
            grouped,
            self.weight.flatten(0, 1),
            self.bias.flatten(),
            self.stride,
            self.padding,
            groups=members,
        )
        return y.unflatten(1, (members, n_outputs)).transpose(0, 1)


class GroupNorm(nn.Module):
    """Group normalization (Wu & He 2018, arXiv 1803.08494): no batch statistics."""

    def __init__(self, n_channels: int, n_groups: int | None = None) -> None:
        super().__init__()
        if n_groups is None:
            n_groups = math.gcd(n_channels, 8)
            # A group of one channel would cancel what is added to all of its pixels,
            # as a field adds the time.
            if n_groups == n_channels:
                n_groups = max(1, n_channels // 2)
        self.n_groups = n_groups
        self.scale = nn.Parameter(torch.empty(n_channels))
        self.shift = nn.Parameter(torch.empty(n_channels))

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Set the identity."""
        del generator
        with torch.no_grad():
            self.scale.fill_(1.0)
            self.shift.zero_()

    def forward(
        self, x: Float[Tensor, "*rows channels height width"]
    ) -> Float[Tensor, "*rows channels height width"]:
        """Normalize images ``(rows, ...)`` or ``(members, rows, ...)``."""
        if self.scale.dim() == 1:
            return functional.group_norm(x, self.n_groups, self.scale, self.shift)
        normalized = functional.group_norm(x.flatten(0, 1), self.n_groups)
        scale = self.scale[:, None, :, None, None]
        shift = self.shift[:, None, :, None, None]
        return torch.addcmul(shift, normalized.unflatten(0, x.shape[:2]), scale)


def draw_module(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the initial parameters of all our layers in a module, in order.

    Layers of other origin keep what their constructors drew.
    """
    for layer in module.modules():
        draw = getattr(layer, "draw_parameters", None)
        if draw is not None:
            draw(generator)
