"""Networks of infinite width: closed-form kernels and their ensembles."""

from skfunc.infinite_width import layers

__all__ = ["layers"]
