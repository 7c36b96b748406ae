"""Covariance over an infinite ensemble of networks trained in their tangent kernel."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def ensemble_covariance(
    smoother: ArrayLike,
    nngp_train_train: ArrayLike,
    nngp_test_train: ArrayLike,
    nngp_test_test: ArrayLike,
) -> Array:
    r"""Return the covariance over an infinite ensemble of trained networks.

    .. math:: K_{**} + B K_{xx} B^T - B K_{x*} - (B K_{x*})^T, \quad B = T_{*x} A_T(t),

    with the NNGP kernel K, without ridge, and the NTK T. No noise of observation is
    in it.

    Parameters
    ----------
    smoother : array-like of shape (n_test, n_samples)
        B, from `Decomposition.smoother` of the NTK.
    nngp_train_train, nngp_test_train, nngp_test_test : array-like
        The blocks of K.

    Returns
    -------
    ndarray of shape (n_test, n_test)
        Symmetric.
    """
    B = np.asarray(smoother, dtype=np.float64)
    half = (
        0.5 * (B @ np.asarray(nngp_train_train)) - np.asarray(nngp_test_train)
    ) @ B.T
    return np.asarray(nngp_test_test, dtype=np.float64) + (half + half.T)


def ensemble_variance(
    smoother: ArrayLike,
    nngp_train_train: ArrayLike,
    nngp_test_train: ArrayLike,
    nngp_test_diagonal: ArrayLike,
) -> Array:
    """Return the diagonal of `ensemble_covariance`, of shape (n_test,).

    Takes the diagonal of the test rows' kernel and builds no matrix of n_test x
    n_test. What rounding would make negative is zero.
    """
    B = np.asarray(smoother, dtype=np.float64)
    inner = B @ np.asarray(nngp_train_train) - 2 * np.asarray(nngp_test_train)
    variance = np.asarray(nngp_test_diagonal) + np.einsum("ij,ij->i", inner, B)
    return np.maximum(variance, 0.0)
