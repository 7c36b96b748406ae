"""Predictive distributions as values.

A regressor returns a `GaussianMixture` (one component per member, weight path or
permutation), a `Gaussian` (a process with a covariance over rows) or a
`SampledGaussian` (Gaussian rows, joint functions by drawing), a classifier a
`Categorical`. What a user may ask of a prediction is computed here, once.

Shapes: n rows, k targets, S components, c classes. One target is kept as an axis of
length 1 inside; `squeeze` says whether the user sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from skfunc._shapes import Float

__all__ = [
    "Categorical",
    "Gaussian",
    "GaussianMixture",
    "SampledGaussian",
    "coverage_levels",
]

_LOG_2PI = float(np.log(2.0 * np.pi))
# Bisection halves the bracket each time: 60 steps reach the spacing of float64.
_BISECTIONS = 60
# Largest array (in numbers) that one chunk of a mixture's distribution function takes.
_CHUNK = 4_000_000


def _levels(alpha: ArrayLike) -> NDArray[np.float64]:
    levels = np.atleast_1d(np.asarray(alpha, dtype=float))
    if levels.ndim != 1 or not ((levels > 0.0) & (levels < 1.0)).all():
        raise ValueError(
            f"alpha must be a level or a list of levels in (0, 1); got {alpha!r}"
        )
    return levels


def _draw_count(n_samples: int) -> int:
    if not isinstance(n_samples, (int, np.integer)) or n_samples < 1:
        raise ValueError(f"n_samples must be a positive integer; got {n_samples!r}")
    return int(n_samples)


def _shuffled_rounds(
    n_components: int, n_samples: int, random_state: np.random.RandomState
) -> NDArray[np.intp]:
    """Draw components, none twice before all came once."""
    rounds = -(-_draw_count(n_samples) // n_components)
    order = [random_state.permutation(n_components) for _ in range(rounds)]
    return np.concatenate(order)[:n_samples]


def coverage_levels(coverage: float) -> tuple[float, float]:
    """Return the two quantile levels of a central interval.

    Parameters
    ----------
    coverage : float
        Probability of the interval, in (0, 1).

    Returns
    -------
    tuple of float
        Lower and upper level.

    Raises
    ------
    ValueError
        If the coverage is not in (0, 1).
    """
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"coverage must be in (0, 1); got {coverage!r}")
    return (1.0 - coverage) / 2.0, (1.0 + coverage) / 2.0


@dataclass(frozen=True)
class GaussianMixture:
    """Equally weighted Gaussians; component s is one function plus its noise.

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
        return special.ndtr((y - self.means) / self.noise_std).mean(0)

    def quantiles(self, alpha: ArrayLike) -> NDArray[np.float64]:
        """Return quantiles by bisection of the distribution function, (n, a[, k])."""
        levels = _levels(alpha)
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
        single = means + scales * special.ndtri(target)
        # A mixture's quantile lies between its components' quantiles.
        low, high = single.min(0), single.max(0)
        if len(self.means) == 1:
            return low
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            below = special.ndtr((middle - means) / scales).mean(0) < target
            low = np.where(below, middle, low)
            high = np.where(below, high, middle)
        return 0.5 * (low + high)

    def log_prob(self, y: Float[np.ndarray, "rows targets"]) -> NDArray[np.float64]:
        """Return the log density of each row, summed over targets, (n,)."""
        z = (y - self.means) / self.noise_std
        per_component = -0.5 * (z * z + _LOG_2PI) - np.log(self.noise_std)
        # A component is one function of all targets: its densities multiply first.
        joint = per_component.sum(-1)
        return special.logsumexp(joint, axis=0) - np.log(len(self.means))

    def sample_functions(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Draw functions, all rows of a draw from one component, (n[, k], draws)."""
        draws = _shuffled_rounds(len(self.means), n_samples, random_state)
        return self._out(np.moveaxis(self.means[draws], 0, -1), axis=1)

    def sample_observations(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Draw observations: a function and noise, (n[, k], draws)."""
        draws = _shuffled_rounds(len(self.means), n_samples, random_state)
        noise = random_state.standard_normal((len(draws), *self.means.shape[1:]))
        values = np.moveaxis(self.means[draws] + self.noise_std[draws] * noise, 0, -1)
        return self._out(values, axis=1)


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
        z = special.ndtri(_levels(alpha))[:, None]
        return self._out(self.means[:, None] + z * self._std()[:, None])

    def log_prob(self, y: Float[np.ndarray, "rows targets"]) -> NDArray[np.float64]:
        """Return the log density of each row, summed over targets, (n,)."""
        return stats.norm.logpdf(y, self.means, self._std()).sum(-1)

    def sample_functions(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Draw functions jointly over rows, (n[, k], draws)."""
        noise = random_state.standard_normal(
            (*self.means.shape, _draw_count(n_samples))
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


@dataclass(frozen=True)
class SampledGaussian:
    """Gaussian marginals, with functions that are drawn where they are asked for.

    For models that give every row's mean and standard deviation in closed form, and
    joint functions only by drawing them.

    Parameters
    ----------
    means : ndarray of shape (n, k)
        Means of an observation.
    stds : ndarray of shape (n, k)
        Its standard deviations, noise included.
    draw : callable
        ``draw(n_samples, random_state)`` returns functions without noise, of shape
        (n, k, n_samples).
    squeeze : bool
        Whether results leave out the target axis.
    n_draws : int
        Draws that covariances and the epistemic part are estimated from.
    """

    means: Float[np.ndarray, "rows targets"]
    stds: Float[np.ndarray, "rows targets"]
    draw: Callable[
        [int, np.random.RandomState], Float[np.ndarray, "rows targets draws"]
    ]
    squeeze: bool = True
    n_draws: int = 64

    def _out(self, values: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.squeeze(values, axis=axis) if self.squeeze else values

    @cached_property
    def _centred(self) -> Float[np.ndarray, "rows targets draws"]:
        # The same draws at every call: a prediction asked for twice is the same.
        draws = self.draw(self.n_draws, np.random.RandomState(0))
        return draws - draws.mean(axis=-1, keepdims=True)

    @cached_property
    def _function_variance(self) -> Float[np.ndarray, "rows targets"]:
        # An observation varies at least as much as the function.
        variance = np.square(self._centred).mean(axis=-1)
        return np.minimum(variance, np.square(self.stds))

    def mean(self) -> NDArray[np.float64]:
        """Return the mean, (n[, k])."""
        return self._out(self.means)

    def std(self) -> NDArray[np.float64]:
        """Return the standard deviation of an observation, (n[, k])."""
        return self._out(self.stds)

    def std_parts(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (epistemic, aleatoric) deviations; their squares add up."""
        epistemic = self._function_variance
        aleatoric = np.square(self.stds) - epistemic
        return self._out(np.sqrt(epistemic)), self._out(np.sqrt(aleatoric))

    def cov(self) -> NDArray[np.float64]:
        """Return the covariance of observations over rows, (n, n[, k])."""
        spread = np.sqrt(np.square(self._centred).mean(axis=-1))
        shrunk = (
            self._centred
            * (np.sqrt(self._function_variance) / np.where(spread > 0, spread, 1.0))[
                ..., None
            ]
        )
        covariance = np.einsum("iks,jks->ijk", shrunk, shrunk) / self.n_draws
        rows = np.arange(len(covariance))
        covariance[rows, rows] = np.square(self.stds)
        return self._out(covariance)

    def cdf(self, y: Float[np.ndarray, "rows targets"]) -> NDArray[np.float64]:
        """Return the distribution function at y, (n, k)."""
        return special.ndtr((y - self.means) / self.stds)

    def quantiles(self, alpha: ArrayLike) -> NDArray[np.float64]:
        """Return quantiles, (n, a[, k])."""
        z = special.ndtri(_levels(alpha))[:, None]
        return self._out(self.means[:, None] + z * self.stds[:, None])

    def log_prob(self, y: Float[np.ndarray, "rows targets"]) -> NDArray[np.float64]:
        """Return the log density of each row, summed over targets, (n,)."""
        return stats.norm.logpdf(y, self.means, self.stds).sum(-1)

    def sample_functions(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Draw functions jointly over rows, (n[, k], draws)."""
        return self._out(self.draw(_draw_count(n_samples), random_state), axis=1)

    def sample_observations(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Draw observations: a function and noise, (n[, k], draws)."""
        functions = self.draw(_draw_count(n_samples), random_state)
        noise = np.sqrt(np.square(self.stds) - self._function_variance)[..., None]
        values = functions + noise * random_state.standard_normal(functions.shape)
        return self._out(values, axis=1)


Predictive = GaussianMixture | Gaussian | SampledGaussian


@dataclass(frozen=True)
class Categorical:
    """Class probabilities of S equally weighted functions.

    Parameters
    ----------
    probabilities : ndarray of shape (S, n, c)
        Rows sum to one.
    """

    probabilities: Float[np.ndarray, "components rows classes"]

    def mean(self) -> NDArray[np.float64]:
        """Return the predictive probabilities, (n, c)."""
        return self.probabilities.mean(0)

    def std(self) -> NDArray[np.float64]:
        """Return their standard deviation over the functions (epistemic), (n, c)."""
        return self.probabilities.std(0)

    def log_prob(self, labels: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the log probability of each row's label (a class position), (n,)."""
        chosen = self.mean()[np.arange(len(labels)), labels]
        return np.log(np.clip(chosen, np.finfo(float).tiny, None))

    def sample_functions(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Draw functions: each draw is one component's probabilities, (n, c, draws)."""
        draws = _shuffled_rounds(len(self.probabilities), n_samples, random_state)
        return np.moveaxis(self.probabilities[draws], 0, -1)

    def sample_labels(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.intp]:
        """Draw class positions from the predictive probabilities, (n, draws)."""
        functions = self.sample_functions(n_samples, random_state)
        edges = np.cumsum(functions, axis=1)[:, :-1]
        uniform = random_state.uniform(size=(functions.shape[0], 1, functions.shape[2]))
        return (uniform > edges).sum(axis=1)
