"""Distributions of the columns of tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from skfunc._shapes import Float
from skfunc._validation import check_integer, check_option, check_real
from skfunc.neural_process.priors._draws import Draws


def _gaussian(z: Tensor, draws: Draws, max_levels: int) -> Tensor:
    return z


def _uniform(z: Tensor, draws: Draws, max_levels: int) -> Tensor:
    return math.sqrt(3.0) * torch.erf(z / math.sqrt(2.0))


def _heavy_tailed(z: Tensor, draws: Draws, max_levels: int) -> Tensor:
    # Tukey's h-distribution; the variance is finite for h < 1/2.
    h = draws.uniform(0.05, 0.3, len(z), 1, z.shape[2])
    return z * torch.exp(0.5 * h * z**2) * (1 - 2 * h) ** 0.75


def _skewed(z: Tensor, draws: Draws, max_levels: int) -> Tensor:
    # Log-normal, centred and scaled to unit variance.
    s = draws.uniform(0.2, 1.0, len(z), 1, z.shape[2])
    mean = torch.exp(0.5 * s**2)
    return (torch.exp(s * z) - mean) / (mean * torch.sqrt(torch.expm1(s**2)))


def _discrete(z: Tensor, draws: Draws, max_levels: int) -> Tensor:
    levels = draws.log_integers(2, max_levels, len(z), 1, z.shape[2])
    # A shift makes levels unequally frequent.
    shift = 0.5 * draws.normal(len(z), 1, z.shape[2])
    share = torch.special.ndtr(z + shift)
    level = (share * levels).floor().minimum(levels - 1.0)
    return (level - (levels - 1) / 2) / torch.sqrt((levels**2 - 1) / 12)


MARGINALS: dict[str, Callable[[Tensor, Draws, int], Tensor]] = {
    "gaussian": _gaussian,
    "uniform": _uniform,
    "heavy_tailed": _heavy_tailed,
    "skewed": _skewed,
    "discrete": _discrete,
}


class InputDistribution(BaseEstimator):
    """Random distributions of the columns of X, another for every task.

    Parameters
    ----------
    kinds : sequence of str, default=("gaussian", "uniform", "heavy_tailed", \
"skewed", "discrete")
        Marginal distributions to draw from, each centred and of about unit variance.
        Half of the tasks have columns of one kind, the others of mixed kinds.
    correlated : float, default=0.5
        Probability that the columns of a task are correlated.
    max_levels : int, default=10
        Most levels of a discrete column; their number is log-uniform from 2.

    See Also
    --------
    TaskPrior : Priors take it as `inputs`.

    Notes
    -----
    Correlation comes from a Gaussian copula: up to three common factors add to each
    column, and the marginals are transformed afterwards.

    Examples
    --------
    >>> from skfunc.neural_process.priors import InputDistribution, LinearPrior
    >>> uniform = InputDistribution(kinds=("uniform",), correlated=0.0)
    >>> tasks = LinearPrior(inputs=uniform).sample(5, 20, 3, random_state=0)
    >>> bool(abs(tasks.X).max() < 1.7321)
    True
    """

    def __init__(
        self,
        *,
        kinds: Sequence[str] = tuple(MARGINALS),
        correlated: float = 0.5,
        max_levels: int = 10,
    ):
        self.kinds = kinds
        self.correlated = correlated
        self.max_levels = max_levels

    def _check(self) -> None:
        if isinstance(self.kinds, str) or not len(self.kinds):
            raise ValueError(f"kinds must be a sequence of names; got {self.kinds!r}")
        for kind in self.kinds:
            check_option("kinds", kind, MARGINALS)
        check_real("correlated", self.correlated, 0.0, 1.0)
        check_integer("max_levels", self.max_levels, 2)

    def _draw(
        self, n_tasks: int, n_points: int, n_features: int, draws: Draws
    ) -> Float[Tensor, "tasks points features"]:
        z = self._copula(n_tasks, n_points, n_features, draws)
        of_column = draws.integers(0, len(self.kinds) - 1, n_tasks, 1, n_features)
        mixed = draws.chance(0.5, n_tasks, 1, 1)
        chosen = torch.where(mixed, of_column, of_column[..., :1])
        X = torch.zeros_like(z)
        for position, kind in enumerate(self.kinds):
            column = MARGINALS[kind](z, draws, self.max_levels)
            X = torch.where(chosen == position, column, X)
        return X

    def _copula(
        self, n_tasks: int, n_points: int, n_features: int, draws: Draws
    ) -> Float[Tensor, "tasks points features"]:
        n_factors = 3
        own = draws.normal(n_tasks, n_points, n_features)
        factors = draws.normal(n_tasks, n_points, n_factors)
        strength = draws.log_uniform(0.3, 5.0, n_tasks, 1, 1)
        strength = strength * draws.chance(self.correlated, n_tasks, 1, 1)
        # Some columns and factors have nothing to do with each other.
        weights = strength * draws.normal(n_tasks, n_factors, n_features)
        weights = weights * draws.chance(0.6, n_tasks, n_factors, n_features)
        common = factors @ weights
        return (own + common) / torch.sqrt(1 + (weights**2).sum(1, keepdim=True))
