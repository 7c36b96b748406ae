"""A Gaussian process at some rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from skfunc._shapes import Float
from skfunc.predictive._levels import check_draw_count, check_levels


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian process at n rows, its covariance built when asked for.

    Parameters
    ----------
    means : ndarray of shape (n, k)
        Means.
    function_variance : ndarray of shape (n, k) or callable
        Variance of the function at each row (epistemic), or what returns it: then it
        is computed when first asked for.
    noise_variance : ndarray of shape (n, k)
        Variance of an observation around the function (aleatoric).
    function_cov : callable
        Returns the covariance of the function over rows, (n, n, k).
    squeeze : bool
        Whether results leave out the target axis.
    """

    means: Float[np.ndarray, "rows targets"]
    function_variance: (
        Float[np.ndarray, "rows targets"]
        | Callable[[], Float[np.ndarray, "rows targets"]]
    )
    noise_variance: Float[np.ndarray, "rows targets"]
    function_cov: Callable[[], Float[np.ndarray, "rows rows targets"]]
    squeeze: bool = True

    @cached_property
    def _function_variance(self) -> Float[np.ndarray, "rows targets"]:
        variance = self.function_variance
        return variance() if callable(variance) else variance

    def _out(self, values: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.squeeze(values, axis=axis) if self.squeeze else values

    def _std(self) -> NDArray[np.float64]:
        return np.sqrt(self._function_variance + self.noise_variance)

    def mean(self) -> NDArray[np.float64]:
        """Return the mean, (n[, k])."""
        return self._out(self.means)

    def std(self) -> NDArray[np.float64]:
        """Return the standard deviation of an observation, (n[, k])."""
        return self._out(self._std())

    def std_parts(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (epistemic, aleatoric) standard deviations, each (n[, k])."""
        return (
            self._out(np.sqrt(self._function_variance)),
            self._out(np.sqrt(self.noise_variance)),
        )

    def cov(self) -> NDArray[np.float64]:
        """Return the covariance of observations over rows, (n, n[, k])."""
        covariance = np.array(self.function_cov(), dtype=float)
        rows = np.arange(covariance.shape[0])
        # The variance computed row by row is the exact one; the diagonal follows it.
        covariance[rows, rows] = self._function_variance + self.noise_variance
        return self._out(covariance)

    def cdf(self, y: Float[np.ndarray, "rows targets"]) -> NDArray[np.float64]:
        """Return the distribution function at y, (n, k)."""
        return special.ndtr((y - self.means) / self._std())

    def quantiles(self, alpha: ArrayLike) -> NDArray[np.float64]:
        """Return quantiles, (n, a[, k])."""
        z = special.ndtri(check_levels(alpha))[:, None]
        return self._out(self.means[:, None] + z * self._std()[:, None])

    def log_prob(self, y: Float[np.ndarray, "rows targets"]) -> NDArray[np.float64]:
        """Return the log density of each row, summed over targets, (n,)."""
        return stats.norm.logpdf(y, self.means, self._std()).sum(-1)

    def sample_functions(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Draw functions jointly over rows, (n[, k], draws)."""
        noise = random_state.standard_normal(
            (*self.means.shape, check_draw_count(n_samples))
        )
        covariance = self.function_cov()
        draws = np.empty_like(noise)
        for target in range(self.means.shape[1]):
            # The square root by eigenvalues takes a semi-definite matrix.
            values, vectors = np.linalg.eigh(covariance[..., target])
            root = vectors * np.sqrt(np.clip(values, 0.0, None))
            draws[:, target] = self.means[:, target, None] + root @ noise[:, target]
        return self._out(draws, axis=1)

    def sample_observations(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Draw observations: a function and noise, (n[, k], draws)."""
        functions = self.sample_functions(n_samples, random_state)
        noise = random_state.standard_normal(functions.shape)
        scale = self._out(np.sqrt(self.noise_variance))[..., None]
        return functions + scale * noise
