"""Vector fields dh/dt = f(t, h) of the depth-continuous networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from skfunc._shapes import Float
from skfunc.nn._layers import (
    Conv2d,
    GroupNorm,
    Linear,
    activation_function,
    activation_gain,
)

# The last layer of a field starts at this fraction of its usual scale, so that the
# flow starts near the identity and the network near a linear model.
_LAST_LAYER_GAIN = 0.1


class TimeShift(nn.Module):
    """A learned vector times t, added to a layer's output: time as an extra input."""

    def __init__(self, n_outputs: int, n_spatial: int = 0) -> None:
        super().__init__()
        self.n_spatial = n_spatial
        self.weight = nn.Parameter(torch.empty(n_outputs))

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Draw N(0, 1 / outputs)."""
        with torch.no_grad():
            self.weight.normal_(0.0, 1.0, generator=generator)
            self.weight.div_(max(self.weight.shape[-1], 1) ** 0.5)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Return x + t w; t is a number or has one value per row."""
        weight: Tensor = self.weight
        if weight.dim() == 2:
            weight = weight.unsqueeze(1)
        for _ in range(self.n_spatial):
            weight = weight.unsqueeze(-1)
        return torch.addcmul(x, t.to(x.dtype), weight)


class MLPField(nn.Module):
    """Multilayer perceptron of the state, time entering its first layer.

    Parameters
    ----------
    size : int
        Width of the state.
    hidden_layer_sizes : sequence of int
        Widths of the hidden layers.
    activation : str
        Name in `ACTIVATIONS`.
    """

    def __init__(
        self, size: int, hidden_layer_sizes: Sequence[int], activation: str
    ) -> None:
        super().__init__()
        self.activation = activation_function(activation)
        gain = activation_gain(activation)
        widths = [size, *hidden_layer_sizes]
        self.hidden = nn.ModuleList(
            Linear(a, b, gain=1.0 if i == 0 else gain)
            for i, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True))
        )
        self.time = TimeShift(widths[1] if len(widths) > 1 else size)
        self.last = Linear(widths[-1], size, gain=_LAST_LAYER_GAIN * gain)

    def forward(
        self, t: Tensor, h: Float[Tensor, "*rows size"]
    ) -> Float[Tensor, "*rows size"]:
        """Evaluate dh/dt."""
        x = h
        for i, layer in enumerate(self.hidden):
            x = layer(x)
            if i == 0:
                x = self.time(t, x)
            x = self.activation(x)
        x = self.last(x)
        return x if self.hidden else self.time(t, x)


class ConvField(nn.Module):
    """Two 3x3 convolutions with group normalization, time shifting each one.

    The residual function of Chen et al. 2018 (arXiv 1806.07366), section 3.
    """

    def __init__(self, n_channels: int, activation: str) -> None:
        super().__init__()
        self.activation = activation_function(activation)
        gain = activation_gain(activation)
        self.norms = nn.ModuleList(GroupNorm(n_channels) for _ in range(3))
        self.convs = nn.ModuleList(
            Conv2d(n_channels, n_channels, 3, gain=gain) for _ in range(2)
        )
        self.times = nn.ModuleList(TimeShift(n_channels, n_spatial=2) for _ in range(2))

    def forward(
        self, t: Tensor, h: Float[Tensor, "*rows channels height width"]
    ) -> Float[Tensor, "*rows channels height width"]:
        """Evaluate dh/dt."""
        x = h
        for norm, conv, time in zip(self.norms, self.convs, self.times, strict=False):
            x = time(t, conv(self.activation(norm(x))))
        return self.norms[2](x)


class UserField(nn.Module):
    """A user's field, made to run for a stack of members by `torch.func.vmap`.

    Parameters
    ----------
    factory : callable
        Takes the state's size (an int, or (channels, height, width) for images) and
        returns an `nn.Module` with forward(t, h), h of shape (rows, size).
    size : int or tuple of int
        The state's size.
    """

    def __init__(
        self, factory: Callable[..., nn.Module], size: int | tuple[int, ...]
    ) -> None:
        super().__init__()
        self.module = factory(size)
        self.stacked_ndim = 3 if isinstance(size, int) else 2 + len(size)
        if not isinstance(self.module, nn.Module):
            raise TypeError(
                "field must build a torch.nn.Module when called with the state's "
                f"size; it built {type(self.module).__name__}"
            )

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        """Evaluate dh/dt and check the user's output shape."""
        # Stacked parameters come from functional_call on the whole network.
        parameters: dict[str, Tensor] = dict(self.module.named_parameters())
        buffers = dict(self.module.named_buffers())
        if h.dim() < self.stacked_ndim:
            derivative = self.module(t, h)
        else:
            t_axis = 0 if t.dim() else None

            def evaluate(parameters: dict[str, Tensor], t: Tensor, h: Tensor) -> Tensor:
                return functional_call(self.module, (parameters, buffers), (t, h))

            derivative = vmap(evaluate, in_dims=(0, t_axis, 0))(parameters, t, h)
        if not isinstance(derivative, Tensor) or derivative.shape != h.shape:
            got = type(derivative).__name__
            if isinstance(derivative, Tensor):
                got = str(tuple(derivative.shape))
            raise ValueError(
                "field(t, h) must return a tensor of h's shape: h of one network is "
                f"{tuple(h.shape[1:])}, with the stack of members in front "
                f"{tuple(h.shape)}; it returned {got}"
            )
        return derivative
