"""The algebra of architectures: layers of infinite width and their networks.

A layer is a small immutable object. `Serial` chains layers, `Residual` adds a shortcut,
and ``net.kernel(X1, X2)`` is the neural tangent kernel of the network.
"""

from skfunc.infinite_width._layers_base import Layer
from skfunc.infinite_width._layers_elementwise import (
    Abs,
    Cos,
    Erf,
    Gelu,
    LayerNorm,
    LeakyRelu,
    Rbf,
    Relu,
    Sigmoid,
    Sin,
)
from skfunc.infinite_width._layers_linear import (
    AvgPool,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    Identity,
)
from skfunc.infinite_width._layers_networks import Residual, Serial, preset

__all__ = [
    "Abs",
    "AvgPool",
    "Conv",
    "Cos",
    "Dense",
    "Erf",
    "Flatten",
    "Gelu",
    "GlobalAvgPool",
    "Identity",
    "Layer",
    "LayerNorm",
    "LeakyRelu",
    "Rbf",
    "Relu",
    "Residual",
    "Serial",
    "Sigmoid",
    "Sin",
    "preset",
]
