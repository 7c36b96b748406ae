"""Networks of infinite width: closed-form kernels and their ensembles."""

from skfunc.infinite_width import layers
from skfunc.infinite_width._classifier import InfiniteWidthClassifier
from skfunc.infinite_width._empirical import Linearization, empirical_ntk, linearize
from skfunc.infinite_width._finite_ensemble import FiniteEnsemble
from skfunc.infinite_width._iterative_dask import kernel_dask
from skfunc.infinite_width._neural_kernel import NeuralKernel
from skfunc.infinite_width._regressor import InfiniteWidthRegressor

__all__ = [
    "FiniteEnsemble",
    "InfiniteWidthClassifier",
    "InfiniteWidthRegressor",
    "Linearization",
    "NeuralKernel",
    "empirical_ntk",
    "kernel_dask",
    "layers",
    "linearize",
]
