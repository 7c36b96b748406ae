"""Networks of infinite width: closed-form kernels and their ensembles."""

from skfunc.infinite_width import layers
from skfunc.infinite_width._empirical import Linearization, empirical_ntk, linearize

__all__ = ["Linearization", "empirical_ntk", "layers", "linearize"]
