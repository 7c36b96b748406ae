"""Expectation maximization of Gaussian mixtures, as scikit-learn's but quicker.

The log density of a Gaussian is linear in the products of a row's columns. A step over
all components is then two matrix products with a table of these, formed once.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

Array = NDArray[np.float64]

# Steps at most, and the gain in mean log likelihood that ends them: the defaults of
# `sklearn.mixture.GaussianMixture`.
_MOST_STEPS, _LEAST_GAIN = 100, 1e-3
# Keeps the weight of a component without rows from being zero.
_LEAST_WEIGHT = 10 * np.finfo(float).eps


class ProductTable:
    """Rows with the products of their columns: 1, x_i, x_i x_j.

    Parameters
    ----------
    rows : ndarray of shape (rows, size)
        About centred and of unit variance, so that no digits are lost.
    is_diagonal : bool
        Whether squares are enough.
    """

    def __init__(self, rows: Array, is_diagonal: bool) -> None:
        n, self.size = rows.shape
        each = np.arange(self.size)
        self.pairs = (each, each) if is_diagonal else np.triu_indices(self.size)
        i, j = self.pairs
        self.values = np.concatenate(
            [np.ones((n, 1)), rows, rows[:, i] * rows[:, j]], 1
        )

    @staticmethod
    def count(n_rows: int, size: int) -> int:
        """Return how many numbers a table has."""
        return n_rows * (1 + size + size * (size + 1) // 2)

    def moments(self, responsibilities: Array) -> tuple[Array, Array, Array]:
        """Return weights, means, and means of products, of each component.

        The last is of shape (components, size, size).
        """
        sums = responsibilities.T @ self.values
        weights = sums[:, 0] + _LEAST_WEIGHT
        sums = sums / weights[:, None]
        return weights, sums[:, 1 : self.size + 1], self._squared(sums)

    def _squared(self, sums: Array) -> Array:
        products = np.zeros((len(sums), self.size, self.size))
        i, j = self.pairs
        products[:, i, j] = products[:, j, i] = sums[:, self.size + 1 :]
        return products

    def log_densities(self, weights: Array, means: Array, covariances: Array) -> Array:
        """Return log weighted densities, (rows, components)."""
        i, j = self.pairs
        precisions = np.linalg.inv(covariances)
        log_determinants = np.linalg.slogdet(covariances)[1]
        pulls = (precisions @ means[:, :, None])[:, :, 0]
        constants = np.log(weights) - 0.5 * (
            self.size * np.log(2 * np.pi) + log_determinants + (pulls * means).sum(1)
        )
        # A pair stands for both of its orders.
        factors = np.where(i == j, -0.5, -1.0)
        squares = np.broadcast_to(
            precisions[:, i, j] * factors, (len(means), len(factors))
        )
        coefficients = np.concatenate([constants[:, None], pulls, squares], axis=1)
        return self.values @ coefficients.T


def fit_mixture(
    rows: Array,
    n_components: int,
    covariance_type: str,
    regularization: float,
    seed: int,
) -> tuple[Array, Array, Array]:
    """Return weights, means and covariances of a Gaussian mixture.

    Parameters
    ----------
    rows : ndarray of shape (rows, size)
        Of about unit variance.
    n_components : int
        Number of Gaussians.
    covariance_type : {"full", "diag", "tied", "spherical"}
        What the covariances may be.
    regularization : float
        Added to all variances.
    seed : int
        Of the k-means start.

    Returns
    -------
    weights : ndarray of shape (components,)
        Sum to 1.
    means : ndarray of shape (components, size)
        Centres.
    covariances : ndarray of shape (components, size, size) or (1, size, size)
        One where they are tied.
    """
    is_diagonal = covariance_type in ("diag", "spherical")
    table = ProductTable(rows, is_diagonal)
    eye = np.eye(rows.shape[1])
    responsibilities = np.eye(n_components)[_start(rows, n_components, seed)]
    before, has_settled = -np.inf, False
    for step in range(_MOST_STEPS + 1):
        weights, means, products = table.moments(responsibilities)
        covariances = products - means[:, :, None] * means[:, None, :]
        if covariance_type == "tied":
            covariances = np.tensordot(weights / weights.sum(), covariances, 1)[None]
        elif is_diagonal:
            variances = np.maximum(np.einsum("kii->ki", covariances), 0.0)
            if covariance_type == "spherical":
                variances = variances.mean(1, keepdims=True)
            covariances = variances[:, :, None] * eye
        covariances = covariances + regularization * eye
        weights = weights / weights.sum()
        if has_settled or step == _MOST_STEPS:
            break
        logs = table.log_densities(weights, means, covariances)
        highest = logs.max(axis=1, keepdims=True)
        responsibilities = np.exp(np.subtract(logs, highest, out=logs), out=logs)
        totals = responsibilities.sum(axis=1, keepdims=True)
        responsibilities /= totals
        likelihood = float((np.log(totals) + highest).mean())
        has_settled = abs(likelihood - before) < _LEAST_GAIN
        before = likelihood
    return weights, means, covariances


def _start(rows: Array, n_components: int, seed: int) -> NDArray[np.intp]:
    """Return the cluster of each row."""
    if n_components == 1:
        return np.zeros(len(rows), dtype=np.intp)
    random = np.random.RandomState(seed)
    # The k-means start has no other array library's form.
    with warnings.catch_warnings(), config_context(array_api_dispatch=False):
        # Fewer distinct rows than components leave some of these empty.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = KMeans(n_components, n_init=1, random_state=random).fit_predict(rows)
    return labels.astype(np.intp)
