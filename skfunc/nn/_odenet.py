"""The network of depth-continuous classifiers and regressors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from skfunc._shapes import Float
from skfunc.nn._fields import ConvField, MLPField, UserField
from skfunc.nn._layers import (
    Conv2d,
    GroupNorm,
    Linear,
    activation_function,
    activation_gain,
)
from skfunc.solvers import Solution, SolverReport, odeint

# Images are halved at most twice, as in Chen et al. 2018, and not below this side.
_SMALLEST_SIDE = 6


@dataclass(frozen=True)
class SolverOptions:
    """How the state is carried from t = 0 to t = 1; see `skfunc.solvers.odeint`."""

    method: str = "rk4"
    n_steps: int | None = None
    rtol: float = 1e-3
    atol: float = 1e-3
    gradient: str = "backprop"
    per_row: bool = False
    max_nfe: int = 10_000


class ODENet(nn.Module):
    """Input map, ODE block on [0, 1], output map.

    Chen et al. 2018, Neural ordinary differential equations (arXiv 1806.07366); zero
    channels beside the state as in Dupont et al. 2019, Augmented neural ODEs
    (arXiv 1904.01681).

    Parameters
    ----------
    n_features : int
        Width of the input rows.
    n_outputs : int
        Width of the output.
    state_size : int
        Width of the state, or its channels for images.
    hidden_layer_sizes : sequence of int
        Hidden widths of the MLP field.
    n_augment : int
        Zero dimensions added to the state.
    field : {"mlp", "conv"} or callable
        The field, or what builds it from the state's size.
    activation : str
        Activation of the field.
    image_shape : tuple of 3 ints, optional
        (channels, height, width) of the flattened rows.
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        *,
        state_size: int,
        hidden_layer_sizes: Sequence[int],
        n_augment: int,
        field: str | Callable[..., nn.Module],
        activation: str,
        image_shape: tuple[int, int, int] | None,
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.n_augment = n_augment
        self.activation = activation_function(activation)
        width = state_size + n_augment
        size: int | tuple[int, ...] = width
        if image_shape is None:
            self.stem: nn.Module = Linear(n_features, state_size)
            self.head: nn.Module = Linear(width, n_outputs)
        else:
            stem = ImageStem(image_shape, state_size, activation)
            self.stem, self.head = stem, ImageHead(width, n_outputs, activation)
            size = (width, *stem.out_size)
        if field == "mlp":
            self.field: nn.Module = MLPField(width, hidden_layer_sizes, activation)
        elif field == "conv":
            self.field = ConvField(width, activation)
        elif callable(field):
            self.field = UserField(field, size)
        else:
            raise ValueError(
                f"field={field!r} is unknown; choose 'mlp', 'conv', or give a callable "
                "that builds a torch.nn.Module from the state's size"
            )

    def initial_state(self, x: Float[Tensor, "*rows features"]) -> Tensor:
        """Map the rows to h(0), zeros appended."""
        if self.image_shape is not None:
            x = x.unflatten(-1, self.image_shape)
        h = self.stem(x)
        if self.n_augment:
            axis = -1 if self.image_shape is None else -3
            shape = list(h.shape)
            shape[axis] = self.n_augment
            h = torch.cat([h, h.new_zeros(shape)], dim=axis)
        return h

    def forward(
        self, x: Float[Tensor, "*rows features"], solver: SolverOptions
    ) -> tuple[Float[Tensor, "*rows outputs"], SolverReport]:
        """Return the outputs and the solver's report."""
        solution = self.solve(self.initial_state(x), solver)
        return self.head(solution.y[-1]), solution.report

    def solve(self, h: Tensor, solver: SolverOptions) -> Solution:
        """Carry the state from t = 0 to t = 1."""
        return odeint(
            self.field,
            h,
            (0.0, 1.0),
            method=solver.method,
            rtol=solver.rtol,
            atol=solver.atol,
            n_steps=solver.n_steps,
            gradient=solver.gradient,
            per_row=solver.per_row,
            row_ndim=2,
            max_nfe=solver.max_nfe,
            last_only=True,
            params=list(self.field.parameters())
            if solver.gradient == "adjoint"
            else None,
        )


class ImageStem(nn.Module):
    """3x3 convolution, then up to two halvings with group normalization."""

    def __init__(
        self, image_shape: tuple[int, int, int], n_channels: int, activation: str
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        gain = activation_gain(activation)
        self.activation = activation_function(activation)
        self.first = Conv2d(channels, n_channels, 3)
        self.norms, self.halvings = nn.ModuleList(), nn.ModuleList()
        for _ in range(2):
            if min(height, width) // 2 < _SMALLEST_SIDE:
                break
            self.norms.append(GroupNorm(n_channels))
            self.halvings.append(Conv2d(n_channels, n_channels, 4, 2, gain=gain))
            height, width = height // 2, width // 2
        self.out_size = (height, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature maps."""
        x = self.first(x)
        for norm, halving in zip(self.norms, self.halvings, strict=True):
            x = halving(self.activation(norm(x)))
        return x


class ImageHead(nn.Module):
    """Group normalization, activation, mean over pixels, affine map."""

    def __init__(self, n_channels: int, n_outputs: int, activation: str) -> None:
        super().__init__()
        self.activation = activation_function(activation)
        self.norm = GroupNorm(n_channels)
        self.last = Linear(n_channels, n_outputs)

    def forward(self, h: Tensor) -> Tensor:
        """Return the outputs of every row."""
        return self.last(self.activation(self.norm(h)).mean(dim=(-2, -1)))
