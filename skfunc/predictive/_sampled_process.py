"""Rows of any distribution, and functions that are drawn where they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skfunc._shapes import Float
from skfunc.predictive._levels import check_draw_count, check_levels


class Marginals(Protocol):
    """Distribution of an observation at each of n rows, each row alone."""

    def mean(self) -> NDArray[np.float64]:
        """Return means, (n, k)."""

    def std(self) -> NDArray[np.float64]:
        """Return standard deviations, (n, k)."""

    def cdf(self, y: Float[np.ndarray, "rows targets"]) -> NDArray[np.float64]:
        """Return each target's distribution function at y, (n, k)."""

    def quantiles(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return each target's quantiles, (n, a, k)."""

    def log_prob(self, y: Float[np.ndarray, "rows targets"]) -> NDArray[np.float64]:
        """Return the log density of each row, all its targets together, (n,)."""


class Functions(Protocol):
    """Joint functions through the same rows."""

    def draw(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Draw functions without noise, (n, k, n_samples)."""

    def draw_observations(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Draw observations jointly, (n, k, n_samples)."""

    def variance(self) -> NDArray[np.float64]:
        """Return the variance of functions at each row, (n, k)."""

    def covariance(self) -> NDArray[np.float64]:
        """Return the covariance of functions over rows, (n, n, k)."""


@dataclass(frozen=True)
class SampledProcess:
    """Rows of any distribution, and joint functions through them.

    For models that give every row's distribution in closed form, and joint functions
    by drawing them.

    Parameters
    ----------
    marginals : Marginals
        Distribution of an observation at each row, noise included.
    functions : Functions
        What draws functions, and tells how they vary together.
    squeeze : bool
        Whether results leave out the target axis.
    """

    marginals: Marginals
    functions: Functions
    squeeze: bool = True

    def _out(self, values: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.squeeze(values, axis=axis) if self.squeeze else values

    @cached_property
    def _function_variance(self) -> Float[np.ndarray, "rows targets"]:
        # An observation varies at least as much as the function.
        return np.minimum(self.functions.variance(), np.square(self.marginals.std()))

    def mean(self) -> NDArray[np.float64]:
        """Return the mean, (n[, k])."""
        return self._out(self.marginals.mean())

    def std(self) -> NDArray[np.float64]:
        """Return the standard deviation of an observation, (n[, k])."""
        return self._out(self.marginals.std())

    def std_parts(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (epistemic, aleatoric) deviations; their squares add up."""
        epistemic = self._function_variance
        aleatoric = np.square(self.marginals.std()) - epistemic
        return self._out(np.sqrt(epistemic)), self._out(np.sqrt(aleatoric))

    def cov(self) -> NDArray[np.float64]:
        """Return the covariance of observations over rows, (n, n[, k])."""
        covariance = np.array(self.functions.covariance(), dtype=float)
        spread = np.sqrt(np.einsum("iik->ik", covariance).clip(min=0.0))
        share = np.sqrt(self._function_variance) / np.where(spread > 0, spread, 1.0)
        covariance *= share[:, None] * share[None]
        rows = np.arange(len(covariance))
        covariance[rows, rows] = np.square(self.marginals.std())
        return self._out(covariance)

    def cdf(self, y: Float[np.ndarray, "rows targets"]) -> NDArray[np.float64]:
        """Return the distribution function at y, (n, k)."""
        return self.marginals.cdf(y)

    def quantiles(self, alpha: ArrayLike) -> NDArray[np.float64]:
        """Return quantiles, (n, a[, k])."""
        return self._out(self.marginals.quantiles(check_levels(alpha)))

    def log_prob(self, y: Float[np.ndarray, "rows targets"]) -> NDArray[np.float64]:
        """Return the log density of each row, all its targets together, (n,)."""
        return self.marginals.log_prob(y)

    def sample_functions(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Draw functions jointly over rows, (n[, k], draws)."""
        count = check_draw_count(n_samples)
        return self._out(self.functions.draw(count, random_state), axis=1)

    def sample_observations(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Draw observations jointly over rows, (n[, k], draws)."""
        count = check_draw_count(n_samples)
        return self._out(self.functions.draw_observations(count, random_state), axis=1)
