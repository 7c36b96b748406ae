"""What is chosen in a fit: a preset network's hyperparameters and the ridge."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from skfunc.infinite_width._layers_base import Layer
from skfunc.infinite_width._layers_linear import Dense, Flatten
from skfunc.infinite_width._layers_networks import Residual, Serial, preset

Array = NDArray[np.float64]

# Continuous hyperparameters: name, value without selection, start of the search, bounds
# and the standard deviation of a Gaussian prior on the logarithm, centred on the start.
# The priors are weak: they keep what the data do not determine where it began.
CONTINUOUS: dict[str, tuple[float, float, tuple[float, float], float]] = {
    "weight_std": (1.5, 1.5, (0.05, 10.0), 2.0),
    "bias_std": (0.3, 0.3, (1e-3, 20.0), 2.0),
    "linear_std": (0.3, 0.3, (1e-3, 20.0), 2.0),
    "ridge": (1e-2, 0.1, (1e-7, 100.0), 4.0),
}
# A narrow prior: columns are alike until the data say otherwise. Wider ones fit noise
# in small tables (docs/benchmarks.md).
RELEVANCE_BOUNDS, RELEVANCE_PRIOR_STD = (1e-3, 20.0), 0.3

# Networks that are tried when depth and activation are both open: a rough one, a smooth
# one that saturates, one smooth and unbounded, and one that is local.
CANDIDATES = (("relu", 3), ("erf", 2), ("gelu", 1), ("rbf", 1))
# Depths that are tried when only the depth is open, and by the classifier.
DEPTHS = (1, 2, 3, 5)
DEFAULT_DEPTH = {"mlp": 3, "conv": 3, "wide_resnet": 1}
DEFAULT_ACTIVATION = "relu"


@dataclass(frozen=True)
class Hyperparameters:
    """A preset network and a ridge.

    Attributes
    ----------
    activation : str
        Name of the activation.
    depth : int
        Hidden layers, or blocks of a group.
    weight_std, bias_std : float
        Standard deviations of weights and biases of every layer.
    linear_std : float
        Standard deviation of the weights of a linear path from input to output, added
        to the network's; 0 for none.
    ridge : float
        Ridge in units of the mean of the kernel's diagonal.
    relevance : ndarray of shape (n_features,) or None
        Factor on every standardized column.
    """

    activation: str = DEFAULT_ACTIVATION
    depth: int = 3
    weight_std: float = 1.5
    bias_std: float = 0.3
    linear_std: float = 0.3
    ridge: float = 1e-2
    relevance: Array | None = None

    def network(self, name: str, image_shape: tuple[int, int, int] | None) -> Layer:
        """Return the network.

        Parameters
        ----------
        name : {"mlp", "conv", "wide_resnet"}
            The preset.
        image_shape : tuple of int (channels, height, width) or None
            The images' shape.
        """
        values = (self.weight_std, self.bias_std, self.linear_std)
        return network(name, self.activation, self.depth, values, image_shape)

    def with_values(self, **values: Any) -> Hyperparameters:
        """Return a copy with other values."""
        return replace(self, **values)


def network(
    name: str,
    activation: str,
    depth: int,
    values: tuple[float | Tensor, float | Tensor, float | Tensor],
    image_shape: tuple[int, int, int] | None,
) -> Layer:
    """Return a preset network with a linear path beside it.

    Parameters
    ----------
    name, activation, depth, image_shape
        As in `preset`.
    values : tuple of (weight_std, bias_std, linear_std)
        Floats, or tensors to differentiate by.
    """
    weight_std, bias_std, linear_std = values
    net = preset(name, depth, activation, weight_std, bias_std, image_shape)  # type: ignore[arg-type]
    if not isinstance(linear_std, Tensor) and linear_std == 0:
        return net
    linear: Layer = Dense(linear_std, 0.0)  # type: ignore[arg-type]
    if image_shape is not None:
        linear = Serial(Flatten(), linear)
    return Residual(net, linear)


def log_uniform_grid(low: float, high: float, per_decade: int) -> Array:
    """Return numbers from low to high at equal ratios."""
    decades = math.log10(high / low)
    return np.geomspace(low, high, max(int(round(decades * per_decade)) + 1, 2))
