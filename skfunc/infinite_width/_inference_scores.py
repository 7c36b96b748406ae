"""Leave-one-out residuals and variances, and the scores made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def check_targets(targets: ArrayLike, n: int) -> Array:
    """Return float64 targets, one row for each of the kernel's, or raise ValueError."""
    array = np.asarray(targets, dtype=np.float64)
    if array.ndim not in (1, 2) or len(array) != n or not array.size:
        raise ValueError(
            f"targets must be of shape ({n},) or ({n}, n_outputs), one row a row of "
            f"the kernel matrix; got {array.shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError("targets hold NaN or inf")
    return array


@dataclass(frozen=True)
class LeaveOneOut:
    """Every row predicted from the others.

    Attributes
    ----------
    residuals : ndarray of shape (*grid, n_samples) or (*grid, n_samples, n_outputs)
        Target minus prediction.
    variances : ndarray of shape (*grid, n_samples)
        Variance of the observation left out, noise included.
    sample_weight : ndarray of shape (n_samples,)
        How many copies every row stands for.
    """

    residuals: Array
    variances: Array
    sample_weight: Array

    def mean_squared_error(self) -> Array:
        """Return the weighted mean of squared residuals over rows and outputs."""
        squares = np.square(self._columns()).mean(axis=-1)
        return squares @ self.sample_weight / self.sample_weight.sum()

    def residual_variance(self) -> Array:
        """Return the weighted mean square of every output, (*grid[, n_outputs])."""
        weight = self.sample_weight / self.sample_weight.sum()
        squares = np.einsum("...ij,i->...j", np.square(self._columns()), weight)
        return squares[..., 0] if self._single_output() else squares

    def log_density(self) -> Array:
        """Return the weighted sum of log predictive densities over rows and outputs.

        The log pseudo-likelihood of Rasmussen and Williams (2006), equation 5.11.
        """
        columns = self._columns()
        terms = np.square(columns).sum(axis=-1) / self.variances
        terms += columns.shape[-1] * np.log(2 * math.pi * self.variances)
        return -0.5 * (terms @ self.sample_weight)

    def _single_output(self) -> bool:
        return self.residuals.ndim == self.variances.ndim

    def _columns(self) -> Array:
        return self.residuals[..., None] if self._single_output() else self.residuals


def leave_one_out(
    alphas: Array, inverse_diagonal: Array, ridge: Array, weight: Array
) -> LeaveOneOut:
    r"""Return leave-one-out residuals and variances from the inverse's diagonal.

    With a = A(inf) y, p the diagonal of :math:`(W^{1/2} G W^{1/2} + \lambda I)^{-1}`
    and :math:`\delta_i = \min(w_i, 1)` the weight left out of row i,

    .. math::
        d_i = (w_i - \delta_i) / \lambda + \delta_i p_i, \quad
        r_i = a_i / d_i, \quad v_i = (w_i / \delta_i) / d_i.

    Leaving out a whole row gives r = a / (w p) and v = 1 / (w p), the case of
    Rasmussen and Williams (2006), equation 5.12; the general one conditions that
    prediction on the weight that stays, as an observation of noise lambda / (w - d).

    Parameters
    ----------
    alphas : ndarray of shape (*grid, n_samples) or (*grid, n_samples, n_outputs)
        Dual coefficients a.
    inverse_diagonal : ndarray of shape (*grid, n_samples)
        p.
    ridge : ndarray of shape (*grid,)
        Ridges, positive where a weight is above one.
    weight : ndarray of shape (n_samples,)
        Positive weights.
    """
    removed = np.minimum(weight, 1.0)
    kept = weight - removed
    denominator = removed * inverse_diagonal
    if kept.any():
        denominator = denominator + kept / ridge[..., None]
    variances = weight / removed / denominator
    extra = (1,) * (alphas.ndim - inverse_diagonal.ndim)
    residuals = alphas / denominator.reshape(denominator.shape + extra)
    return LeaveOneOut(residuals, variances, weight)
