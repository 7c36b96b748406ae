"""Predictive distributions as values.

A regressor returns a `GaussianMixture` or `StudentMixture` (one component per member,
weight path or permutation), a `Gaussian` (a process with a covariance over rows) or a
`SampledProcess` (rows of any distribution, joint functions by drawing), a classifier a
`Categorical`. What a user may ask of a prediction is computed here, once.

Shapes: n rows, k targets, S components, c classes. One target is kept as an axis of
length 1 inside; `squeeze` says whether the user sees it.
"""

from skfunc.predictive._categorical import Categorical
from skfunc.predictive._gaussian import Gaussian
from skfunc.predictive._gaussian_mixture import GaussianMixture
from skfunc.predictive._levels import coverage_levels
from skfunc.predictive._sampled_process import Functions, Marginals, SampledProcess
from skfunc.predictive._student_mixture import StudentMixture

__all__ = [
    "Categorical",
    "Functions",
    "Gaussian",
    "GaussianMixture",
    "Marginals",
    "SampledProcess",
    "StudentMixture",
    "coverage_levels",
]

Predictive = GaussianMixture | StudentMixture | Gaussian | SampledProcess
