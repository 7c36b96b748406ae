"""The log marginal likelihood of a kernel matrix, and its derivative by the matrix."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import lapack

Array = NDArray[np.float64]

# Below this share of its target's variance a fit is perfect, and the likelihood's
# amplitude is held so that its logarithm stays finite.
_SMALLEST_AMPLITUDE = 1e-14


def amplitudes(
    quadratic: Array,
    total_weight: float,
    *,
    shared: bool,
    unit: ArrayLike = 1.0,
) -> Array:
    r"""Return the amplitudes that maximize the likelihood, one an output.

    With the kernel :math:`s^2 G` and the noise :math:`s^2 \lambda / w`, the maximum is
    :math:`s^2 = y^T (G + \lambda W^{-1})^{-1} y / \sum w`, or its mean over outputs if
    they share one.

    Parameters
    ----------
    quadratic : ndarray of shape (..., n_outputs)
        The quadratic forms.
    total_weight : float
        Sum of the weights.
    shared : bool
        Whether outputs share one amplitude.
    unit : float or array-like of shape (...,), default=1.0
        Variance of an observation at amplitude one: the mean of the kernel's diagonal
        and the ridge.
    """
    values = quadratic / total_weight
    if shared:
        values = np.broadcast_to(values.mean(axis=-1, keepdims=True), values.shape)
    return np.maximum(values, _SMALLEST_AMPLITUDE / np.asarray(unit)[..., None])


def profiled(
    quadratic: Array,
    log_determinant: Array,
    total_weight: float,
    *,
    shared: bool,
    unit: ArrayLike = 1.0,
) -> Array:
    """Return the log marginal likelihood at the best amplitudes.

    Parameters
    ----------
    quadratic : ndarray of shape (..., n_outputs)
        y' (G + ridge / w)^-1 y of every output.
    log_determinant : ndarray of shape (...,)
        log det(S + ridge I) + (sum w - n) log ridge.
    total_weight : float
        Sum of the weights.
    shared : bool
        Whether outputs share one amplitude.
    unit : float or array-like of shape (...,), default=1.0
        As in `amplitudes`.
    """
    best = amplitudes(quadratic, total_weight, shared=shared, unit=unit)
    n_outputs = quadratic.shape[-1]
    logs = total_weight * np.log(best).sum(axis=-1)
    fit = (quadratic / best).sum(axis=-1)
    constant = n_outputs * total_weight * math.log(2 * math.pi)
    return -0.5 * (logs + fit + n_outputs * log_determinant + constant)


class Evidence(NamedTuple):
    """A log marginal likelihood and its derivatives.

    Attributes
    ----------
    value : float
        The likelihood at the best amplitudes, in nats.
    by_kernel : ndarray of shape (n_samples, n_samples)
        Its derivative by the kernel matrix G, symmetric.
    by_log_ridge : float
        Its derivative by the logarithm of the ridge.
    """

    value: float
    by_kernel: Array
    by_log_ridge: float


def evidence(
    kernel: Array, targets: Array, ridge: float, weight: Array, *, shared: bool
) -> Evidence | None:
    r"""Return the profiled likelihood and its derivatives; None if G is singular.

    With :math:`A = S + \lambda I`, :math:`S = W^{1/2} G W^{1/2}` and
    :math:`a = A^{-1} W^{1/2} y`, :math:`\partial L / \partial A = (\sum_j a_j a_j^T /
    s_j^2 - c A^{-1}) / 2` (Rasmussen and Williams 2006, equation 5.9); the amplitudes
    are at their maximum and add nothing.

    Parameters
    ----------
    kernel : ndarray of shape (n_samples, n_samples)
        G.
    targets : ndarray of shape (n_samples, n_outputs)
        y, centred.
    ridge : float
        Positive ridge.
    weight : ndarray of shape (n_samples,)
        Positive weights.
    shared : bool
        Whether outputs share one amplitude.
    """
    root = np.sqrt(weight)
    n_outputs = targets.shape[1]
    total = float(weight.sum())
    A = root[:, None] * kernel * root
    A[np.diag_indices_from(A)] += ridge
    factor, failed = lapack.dpotrf(A.T, lower=1, clean=1, overwrite_a=1)
    if failed or not np.isfinite(factor.diagonal()).all():
        return None
    whitened_targets = root[:, None] * targets
    a, _ = lapack.dpotrs(factor, whitened_targets, lower=1)
    quadratic = np.einsum("ij,ij->j", whitened_targets, a)
    excess = total - len(weight)
    log_determinant = 2 * float(np.log(factor.diagonal()).sum())
    if excess:
        log_determinant += excess * math.log(ridge)
    unit = float(np.average(kernel.diagonal(), weights=weight)) + ridge
    value = profiled(
        quadratic, np.asarray(log_determinant), total, shared=shared, unit=unit
    )
    best = amplitudes(quadratic, total, shared=shared, unit=unit)
    inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
    inverse = np.tril(inverse)
    inverse += np.tril(inverse, -1).T
    by_A = 0.5 * ((a / best) @ a.T - n_outputs * inverse)
    by_log_ridge = float(np.trace(by_A)) * ridge - 0.5 * n_outputs * excess
    by_A *= root[:, None]
    by_A *= root
    return Evidence(float(value), by_A, by_log_ridge)
