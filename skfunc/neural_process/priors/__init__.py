"""Priors over tasks: what functions look like before any data are seen."""

from __future__ import annotations

from skfunc.neural_process.priors._additive import AdditivePrior
from skfunc.neural_process.priors._base import MixturePrior, TaskPrior, Tasks
from skfunc.neural_process.priors._classification import ClassificationPrior
from skfunc.neural_process.priors._gaussian_process import GaussianProcessPrior
from skfunc.neural_process.priors._inputs import InputDistribution
from skfunc.neural_process.priors._linear import LinearPrior
from skfunc.neural_process.priors._network import NetworkPrior
from skfunc.neural_process.priors._noise import NoiseDistribution
from skfunc.neural_process.priors._tree import TreePrior

__all__ = [
    "AdditivePrior",
    "ClassificationPrior",
    "GaussianProcessPrior",
    "InputDistribution",
    "LinearPrior",
    "MixturePrior",
    "NetworkPrior",
    "NoiseDistribution",
    "TaskPrior",
    "Tasks",
    "TreePrior",
]
