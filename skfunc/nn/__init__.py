"""Pure torch building blocks whose parameters may carry a leading member axis."""

from skfunc.nn._fields import ConvField, MLPField, UserField
from skfunc.nn._layers import (
    ACTIVATIONS,
    Conv2d,
    GroupNorm,
    Linear,
    activation_function,
    draw_module,
)
from skfunc.nn._odenet import ODENet, SolverOptions

__all__ = [
    "ACTIVATIONS",
    "Conv2d",
    "ConvField",
    "GroupNorm",
    "Linear",
    "MLPField",
    "ODENet",
    "SolverOptions",
    "UserField",
    "activation_function",
    "draw_module",
]
