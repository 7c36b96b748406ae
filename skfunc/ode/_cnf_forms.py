"""Parts of a flow's base: Gaussians, mixtures, kernel densities, fitted to rows.

Each is a mixture of Gaussians; see `skfunc.nn.GaussianComponents`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from skfunc.nn import GaussianComponents, StackedComponents
from skfunc.training import thread_limits

Array = NDArray[np.float64]

# Added to the variances of a mixture, for rows of about unit variance.
_REGULARIZATION = 1e-6
# Rows that mixtures are fitted to at most; more do not move a few components.
MIXTURE_ROWS = 5000
# Numbers in a block of distances.
_BLOCK_NUMBERS = 4_000_000
# A local covariance is drawn towards a round one by this share.
_ROUND_SHARE = 0.1


@dataclass(frozen=True)
class Part:
    """A mixture of Gaussians that stands in a base, and what it was fitted as."""

    kind: str
    means: Array
    weights: Array
    cholesky: Array

    def components(self) -> GaussianComponents:
        """Return the distribution, in float64 on the CPU."""
        return GaussianComponents(
            *(torch.as_tensor(a) for a in (self.means, self.weights, self.cholesky))
        )


@dataclass(frozen=True)
class Base:
    """Parts of a fitted base, and their shares."""

    parts: tuple[Part, ...]
    shares: Array

    def components(self) -> StackedComponents:
        """Return the distribution, in float64 on the CPU."""
        return StackedComponents(
            [part.components() for part in self.parts],
            torch.as_tensor(self.shares),
            self.kernels,
        )

    @property
    def kernels(self) -> list[bool]:
        """Which parts have a component at each training row."""
        return [part.kind.endswith("kernel") for part in self.parts]

    @property
    def n_components(self) -> int:
        """Components of all parts."""
        return sum(len(part.means) for part in self.parts)

    def log_prob(self, rows: Array) -> Array:
        """Return log densities, in bounded memory."""
        components = self.components()
        step = max(1, _BLOCK_NUMBERS // (self.n_components * rows.shape[1]))
        parts = [
            components.log_prob(torch.as_tensor(rows[start : start + step])).numpy()
            for start in range(0, max(len(rows), 1), step)
        ]
        return np.concatenate(parts)


@dataclass(frozen=True)
class MixtureForm:
    """Number of components, the kind of their covariances, and which random start."""

    n_components: int
    covariance_type: str
    start: int = 0

    def fit(self, rows: Array, seed: int) -> GaussianMixture:
        """Return the fitted mixture."""
        mixture = GaussianMixture(
            self.n_components,
            covariance_type=self.covariance_type,
            reg_covar=_REGULARIZATION,
            random_state=seed + self.start,
        )
        # The k-means start has no other array library's form.
        with warnings.catch_warnings(), config_context(array_api_dispatch=False):
            # EM that has not settled is a mixture too, and is judged by its likelihood.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return mixture.fit(rows)

    def part(self, rows: Array, seed: int) -> Part:
        """Return the mixture fitted to rows."""
        mixture = self.fit(at_most(rows, MIXTURE_ROWS, seed), seed)
        size = rows.shape[1]
        covariances = mixture.covariances_
        if self.covariance_type == "diag":
            covariances = np.stack([np.diag(row) for row in covariances])
        elif self.covariance_type == "tied":
            covariances = covariances[None]
        elif self.covariance_type == "spherical":
            covariances = np.stack([v * np.eye(size) for v in covariances])
        cholesky = np.linalg.cholesky(covariances)
        return Part("mixture", mixture.means_, mixture.weights_, cholesky)


@dataclass(frozen=True)
class KernelForm:
    """Bandwidth of a Gaussian kernel, alike in all directions or as the rows vary."""

    bandwidth: float
    follows_covariance: bool

    def factor(self, rows: Array) -> Array:
        """Return the Cholesky factor of the covariance at bandwidth 1."""
        size = rows.shape[1]
        if not self.follows_covariance:
            return np.eye(size)
        covariance = np.cov(rows.T, ddof=0).reshape(size, size)
        covariance = covariance + _REGULARIZATION * np.eye(size)
        return np.linalg.cholesky(covariance).astype(np.float64)

    def part(self, rows: Array, seed: int = 0) -> Part:
        """Return the kernel density of rows."""
        del seed
        weights = np.full(len(rows), 1.0 / len(rows))
        return Part("kernel", rows, weights, self.bandwidth * self.factor(rows)[None])


@dataclass(frozen=True)
class LocalKernelForm:
    """Gaussian kernels, each shaped like the nearest neighbours of its row.

    Vincent and Bengio 2003, Manifold Parzen windows.

    Attributes
    ----------
    neighbours_per_column : float
        How many neighbours shape a kernel, for each column.
    bandwidth : float
        Factor on the neighbours' deviations.
    """

    neighbours_per_column: float
    bandwidth: float

    def part(self, rows: Array, seed: int = 0) -> Part:
        """Return the kernel density of rows."""
        del seed
        n, size = rows.shape
        n_neighbours = min(int(self.neighbours_per_column * size) + 3, n - 1)
        near = NearestNeighbors(n_neighbors=n_neighbours).fit(rows)
        apart = rows[near.kneighbors(return_distance=False)] - rows[:, None]
        covariances = apart.transpose(0, 2, 1) @ apart / n_neighbours
        spread = np.trace(covariances, axis1=1, axis2=2) / size
        round_ones = spread[:, None, None] * np.eye(size)
        covariances = (1 - _ROUND_SHARE) * covariances + _ROUND_SHARE * round_ones
        covariances = self.bandwidth**2 * covariances + _REGULARIZATION * np.eye(size)
        weights = np.full(n, 1.0 / n)
        return Part("local kernel", rows, weights, np.linalg.cholesky(covariances))


@dataclass(frozen=True)
class BackgroundForm:
    """A wide Gaussian around all rows: a rare row costs no more than its rarity."""

    factor: float = 3.0

    def part(self, rows: Array, seed: int = 0) -> Part:
        """Return the Gaussian fitted to rows, widened."""
        del seed
        factor = KernelForm(1.0, True).factor(rows)
        means = rows.mean(axis=0, keepdims=True)
        return Part("background", means, np.ones(1), self.factor * factor[None])


@dataclass(frozen=True)
class NormalForm:
    """A normal of independent columns, whatever the rows."""

    scale: float = 1.0

    def part(self, rows: Array, seed: int = 0) -> Part:
        """Return the normal."""
        del seed
        size = rows.shape[1]
        cholesky = self.scale * np.eye(size)[None]
        return Part("normal", np.zeros((1, size)), np.ones(1), cholesky)


Form = MixtureForm | KernelForm | LocalKernelForm | BackgroundForm | NormalForm


@dataclass(frozen=True)
class BaseForm:
    """What a base is made of, chosen on some rows, to be fitted to others."""

    forms: tuple[Form, ...]
    shares: Array
    log_prob: Array | None = None

    def fit(self, rows: Array, seed: int) -> Base:
        """Return the base fitted to rows."""
        with thread_limits(small=True):
            parts = tuple(form.part(rows, seed) for form in self.forms)
        return Base(parts, self.shares)


def at_most(rows: Array, limit: int, seed: int) -> Array:
    """Return so many of the rows, at random, or all of them."""
    if len(rows) <= limit:
        return rows
    chosen = np.random.default_rng(seed).choice(len(rows), limit, replace=False)
    return rows[chosen]
