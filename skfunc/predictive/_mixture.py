"""Equally weighted distributions of one family, each a location and a scale."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from skfunc._shapes import Float
from skfunc.predictive._levels import check_levels, shuffled_rounds

# Bisection halves the bracket each time: 60 steps reach the spacing of float64.
_BISECTIONS = 60
# Largest array (in numbers) that one chunk of a mixture's distribution function takes.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Mixture(ABC):
    """Equally weighted components; component s is one function plus its noise.

    Parameters
    ----------
    means : ndarray of shape (S, n, k)
        Function values of each component.
    noise_std : ndarray of shape (S, n, k)
        Standard deviation of an observation around each function.
    squeeze : bool
        Whether results leave out the target axis.
    """

    means: Float[np.ndarray, "components rows targets"]
    noise_std: Float[np.ndarray, "components rows targets"]
    squeeze: bool = True

    # Of the noise in units of its deviation. `rows` selects rows of the components, and
    # what is evaluated may have an axis of levels between rows and targets.

    @abstractmethod
    def _noise_cdf(self, z: NDArray[np.float64], rows: slice) -> NDArray[np.float64]:
        """Return the distribution function of each component's noise."""

    @abstractmethod
    def _noise_quantiles(
        self, levels: NDArray[np.float64], rows: slice
    ) -> NDArray[np.float64]:
        """Return quantiles at levels (a, 1), broadcasting to (S, n, a, k)."""

    @abstractmethod
    def _noise_log_density(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log density of each component's noise."""

    @abstractmethod
    def _draw_noise(
        self, draws: NDArray[np.intp], random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Draw the noise of these components, (draws, n, k)."""

    def _out(self, values: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.squeeze(values, axis=axis) if self.squeeze else values

    def mean(self) -> NDArray[np.float64]:
        """Return the mean, (n[, k])."""
        return self._out(self.means.mean(0))

    def std(self) -> NDArray[np.float64]:
        """Return the standard deviation of an observation, (n[, k])."""
        variance = self.means.var(0) + np.square(self.noise_std).mean(0)
        return self._out(np.sqrt(variance))

    def std_parts(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (epistemic, aleatoric) deviations; their squares add up."""
        aleatoric = np.sqrt(np.square(self.noise_std).mean(0))
        return self._out(self.means.std(0)), self._out(aleatoric)

    def cov(self) -> NDArray[np.float64]:
        """Return the covariance of observations over rows, (n, n[, k])."""
        centred = self.means - self.means.mean(0)
        covariance = np.einsum("sik,sjk->ijk", centred, centred) / len(self.means)
        rows = np.arange(covariance.shape[0])
        covariance[rows, rows] += np.square(self.noise_std).mean(0)
        return self._out(covariance)

    def cdf(self, y: Float[np.ndarray, "rows targets"]) -> NDArray[np.float64]:
        """Return the distribution function at y, (n, k)."""
        z = (y - self.means) / self.noise_std
        return self._noise_cdf(z[:, :, None], slice(None))[:, :, 0].mean(0)

    def quantiles(self, alpha: ArrayLike) -> NDArray[np.float64]:
        """Return quantiles by bisection of the distribution function, (n, a[, k])."""
        levels = check_levels(alpha)
        n_rows = self.means.shape[1]
        step = max(1, _CHUNK // max(self.means[:, :1].size * len(levels), 1))
        chunks = [
            self._chunk_quantiles(slice(start, start + step), levels)
            for start in range(0, n_rows, step)
        ]
        return self._out(np.concatenate(chunks, axis=0))

    def _chunk_quantiles(
        self, rows: slice, levels: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        # Axes: component, row, level, target.
        means = self.means[:, rows, None, :]
        scales = self.noise_std[:, rows, None, :]
        target = levels[:, None]
        single = means + scales * self._noise_quantiles(target, rows)
        # A mixture's quantile lies between its components' quantiles.
        low, high = single.min(0), single.max(0)
        if len(self.means) == 1:
            return low
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            z = (middle - means) / scales
            below = self._noise_cdf(z, rows).mean(0) < target
            low = np.where(below, middle, low)
            high = np.where(below, high, middle)
        return 0.5 * (low + high)

    def log_prob(self, y: Float[np.ndarray, "rows targets"]) -> NDArray[np.float64]:
        """Return the log density of each row, summed over targets, (n,)."""
        z = (y - self.means) / self.noise_std
        per_component = self._noise_log_density(z) - np.log(self.noise_std)
        # A component is one function of all targets: its densities multiply first.
        joint = per_component.sum(-1)
        return special.logsumexp(joint, axis=0) - np.log(len(self.means))

    def sample_functions(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Draw functions, all rows of a draw from one component, (n[, k], draws)."""
        draws = shuffled_rounds(len(self.means), n_samples, random_state)
        return self._out(np.moveaxis(self.means[draws], 0, -1), axis=1)

    def sample_observations(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Draw observations: a function and noise, (n[, k], draws)."""
        draws = shuffled_rounds(len(self.means), n_samples, random_state)
        noise = self._draw_noise(draws, random_state)
        values = np.moveaxis(self.means[draws] + self.noise_std[draws] * noise, 0, -1)
        return self._out(values, axis=1)
