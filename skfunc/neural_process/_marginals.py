"""Predictions of a network as distributions of observations, in units of y."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from skfunc._shapes import Float
from skfunc.nn import ContinuousLikelihood

Array = NDArray[np.float64]

# Bisection halves the bracket each time: 60 steps reach the spacing of float64.
_BISECTIONS = 60
# Factors on deviations that are considered lie between the reciprocal and this.
_LARGEST_FACTOR = 10.0


@dataclass(frozen=True)
class LikelihoodMarginals:
    """What a likelihood says of rows, averaged over draws of a latent.

    An observation is ``shift + scale * u`` with u as the likelihood has it, for
    standardized y.

    Parameters
    ----------
    likelihood : ContinuousLikelihood
        Reads the raw outputs, in float64.
    raw : Tensor of shape (S, n, n_raw)
        Raw outputs; one draw for a network without latent.
    y_mean, y_scale : ndarray of shape (k,)
        What y was standardized by.
    factor : ndarray of shape (k,)
        Factor on the deviations of every draw about its mean.
    """

    likelihood: ContinuousLikelihood
    raw: Float[Tensor, "draws rows raw"]
    y_mean: Array
    y_scale: Array
    factor: Array

    @cached_property
    def _centres(self) -> Float[np.ndarray, "draws rows targets"]:
        return self.likelihood.mean(self.raw).numpy()

    @cached_property
    def scale(self) -> Float[np.ndarray, " targets"]:
        """Deviations of y in units of the likelihood's."""
        return self.y_scale * self.factor

    @cached_property
    def shift(self) -> Float[np.ndarray, "draws rows targets"]:
        """What is added to scaled values of the likelihood."""
        return self.y_mean + self.y_scale * (1.0 - self.factor) * self._centres

    def means(self) -> Float[np.ndarray, "draws rows targets"]:
        """Return the mean of every draw."""
        return self.y_mean + self.y_scale * self._centres

    def stds(self) -> Float[np.ndarray, "draws rows targets"]:
        """Return the standard deviation of every draw."""
        return self.scale * np.sqrt(self.likelihood.variance(self.raw).numpy())

    def mean(self) -> Array:
        """Return means, (n, k)."""
        return self.means().mean(axis=0)

    def std(self) -> Array:
        """Return standard deviations, (n, k)."""
        return np.sqrt(self.means().var(axis=0) + np.square(self.stds()).mean(axis=0))

    def _standardized(self, y: Array) -> Tensor:
        """Return observations as every draw's likelihood has them, (S, n, k)."""
        return torch.as_tensor((y - self.shift) / self.scale)

    def cdf(self, y: Float[np.ndarray, "rows targets"]) -> Array:
        """Return each target's distribution function at y, (n, k)."""
        return self.likelihood.cdf(self.raw, self._standardized(y)).mean(0).numpy()

    def quantiles(self, levels: Array) -> Array:
        """Return each target's quantiles, (n, a, k)."""
        single = self.likelihood.quantiles(self.raw, torch.as_tensor(levels)).numpy()
        single = self.shift[:, :, None] + self.scale * single
        # The quantile over all draws lies between those of the draws.
        low, high = single.min(axis=0), single.max(axis=0)
        if len(single) == 1:
            return low
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            below = np.stack(
                [self.cdf(middle[:, i]) < level for i, level in enumerate(levels)],
                axis=1,
            )
            low = np.where(below, middle, low)
            high = np.where(below, high, middle)
        return 0.5 * (low + high)

    def log_prob(self, y: Float[np.ndarray, "rows targets"]) -> Array:
        """Return the log density of each row, all its targets together, (n,)."""
        each = self.likelihood.log_prob(self.raw, self._standardized(y))
        joint = torch.logsumexp(each, dim=0).numpy() - np.log(len(self.raw))
        return joint - np.log(self.scale).sum()

    def with_factor(self, factor: Array) -> LikelihoodMarginals:
        """Return the same means with other deviations."""
        return LikelihoodMarginals(
            self.likelihood, self.raw, self.y_mean, self.y_scale, factor
        )


def best_factor(
    marginals: LikelihoodMarginals,
    y: Float[np.ndarray, "rows targets"],
    prior_rows: int,
) -> Float[np.ndarray, " targets"]:
    """Return the factor on deviations that observations ask for.

    Each target's factor maximizes the log density of the observations and of some rows
    more that are just as far off as a Gaussian of the stated deviation expects.
    For a Gaussian it is the root mean square of standardized residuals.
    """
    factor = np.ones(y.shape[1])
    for target in range(len(factor)):

        def cost(log_factor: float, target: int = target) -> float:
            changed = np.ones(len(factor))
            changed[target] = np.exp(log_factor)
            seen = marginals.with_factor(changed).log_prob(y).sum()
            # The log density of a standard normal's deviation s at z^2 = 1.
            expected = -log_factor - 0.5 * np.exp(-2.0 * log_factor)
            return -float(seen + prior_rows * expected)

        bound = np.log(_LARGEST_FACTOR)
        found = minimize_scalar(cost, bounds=(-bound, bound), method="bounded")
        factor[target] = np.exp(found.x)
    return factor
