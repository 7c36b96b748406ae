"""Closed-form inference for one ridge at t = inf, by a Cholesky factor."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import lapack, solve_triangular

from skfunc.infinite_width._inference_scores import (
    LeaveOneOut,
    check_targets,
    leave_one_out,
)
from skfunc.infinite_width._spectrum import (
    check_kernel_matrix,
    check_nonnegative,
    check_weights,
    jitters,
    warn_of_jitter,
    weighted_matrix,
)

Array = NDArray[np.float64]


class RidgeSolution:
    r"""Ridge regression in one kernel, for one ridge, trained to the end.

    Factors :math:`W^{1/2} G W^{1/2} + \lambda I = L L^T` (Rasmussen and Williams 2006,
    algorithm 2.1). When the factor fails, or its condition leaves no digit, the ridge
    is raised to a jitter that grows tenfold until it holds, with one
    `scipy.linalg.LinAlgWarning`.

    Parameters
    ----------
    kernel_matrix : array-like of shape (n_samples, n_samples)
        Symmetric positive semi-definite; any float dtype, factored in float64.
    targets : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets y, centred by the caller.
    ridge : float
        Ridge, in units of the kernel; zero is accepted.
    sample_weight : array-like of shape (n_samples,), default=None
        Positive weights: so many equal rows, or noise of variance ridge / weight.
    overwrite : bool, default=False
        Whether the memory of `kernel_matrix` may be used.
    warn : bool, default=True
        Whether to warn when the ridge is raised; for candidates that are compared, and
        not kept, there is nothing to warn of.

    Attributes
    ----------
    alphas : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        :math:`(G + \lambda W^{-1})^{-1} y`.
    ridge : float
        The ridge that was used, jitter included.
    targets : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Targets in float64.
    n_outputs : int
        c, 1 when targets have one dimension.
    weight : ndarray of shape (n_samples,)
        Weights.

    Raises
    ------
    ValueError
        On bad shapes, numbers that are not finite, or a matrix that no jitter makes
        positive definite.

    See Also
    --------
    skfunc.infinite_width._inference.Decomposition : Many ridges, and training times.
    """

    def __init__(
        self,
        kernel_matrix: ArrayLike,
        targets: ArrayLike,
        ridge: float,
        sample_weight: ArrayLike | None = None,
        *,
        overwrite: bool = False,
        warn: bool = True,
    ):
        matrix = check_kernel_matrix(kernel_matrix)
        n = len(matrix)
        self.targets = check_targets(targets, n)
        self.n_outputs = math.prod(self.targets.shape[1:])
        self.weight = check_weights(sample_weight, n)
        self._root_weight = np.sqrt(self.weight)
        asked = float(check_nonnegative("ridge", ridge, allow_inf=False))
        S = weighted_matrix(matrix, self._root_weight, overwrite=overwrite)
        self.ridge, self._factor = _factor(S, asked, self.weight, warn=warn)
        columns = (self._root_weight * self.targets.T).T.reshape(n, -1)
        whitened, _ = lapack.dtrtrs(self._factor, columns, lower=1)
        self._quadratic = float(np.square(whitened).sum())
        dual, _ = lapack.dtrtrs(self._factor, whitened, lower=1, trans=1)
        dual = dual.reshape(self.targets.shape)
        self.alphas = np.ascontiguousarray((self._root_weight * dual.T).T)

    def mean(self, test_train: ArrayLike) -> Array:
        """Return G_*x alphas, of shape (n_test,) or (n_test, n_outputs)."""
        return self._check_test_train(test_train) @ self.alphas

    def smoother(self, test_train: ArrayLike) -> Array:
        r"""Return :math:`G_{*x} (G + \lambda W^{-1})^{-1}`, (n_test, n_samples).

        It maps targets to means, and with an NTK it enters `ensemble_covariance` and
        `ensemble_variance`.
        """
        kernel = self._check_test_train(test_train)
        solved, _ = lapack.dpotrs(self._factor, (kernel * self._root_weight).T, lower=1)
        return solved.T * self._root_weight

    def posterior_covariance(
        self, test_train: ArrayLike, test_test: ArrayLike
    ) -> Array:
        r"""Return :math:`K_{**} - K_{*x} (K + \lambda W^{-1})^{-1} K_{x*}`."""
        whitened = self._whitened(test_train)
        return np.asarray(test_test, dtype=np.float64) - whitened.T @ whitened

    def posterior_variance(
        self, test_train: ArrayLike, test_diagonal: ArrayLike
    ) -> Array:
        """Return the diagonal of `posterior_covariance`, from the kernel's diagonal."""
        explained = np.square(self._whitened(test_train)).sum(axis=0)
        return np.maximum(np.asarray(test_diagonal, dtype=np.float64) - explained, 0.0)

    def log_determinant(self) -> float:
        r"""Return :math:`\log\det(S + \lambda I) + (\sum w - n) \log\lambda`."""
        value = 2 * float(np.log(np.diag(self._factor)).sum())
        excess = float(self.weight.sum()) - len(self.weight)
        return value + excess * math.log(self.ridge) if excess else value

    def log_marginal_likelihood(self) -> float:
        """Return the log marginal likelihood, as `Decomposition` defines it."""
        constant = float(self.weight.sum()) * math.log(2 * math.pi)
        determinant = self.log_determinant()
        return -0.5 * (self._quadratic + self.n_outputs * (determinant + constant))

    def leave_one_out(self) -> LeaveOneOut:
        """Return residuals and variances of every row, predicted without it.

        Of a row of weight w > 1 one of w copies is left out, of others all. Costs
        O(n^3 / 3), for the diagonal of the inverse.
        """
        inverse, _ = lapack.dtrtri(self._factor, lower=1)
        diagonal = np.array(
            [np.square(inverse[i:, i]).sum() for i in range(len(inverse))]
        )
        return leave_one_out(self.alphas, diagonal, np.asarray(self.ridge), self.weight)

    def _check_test_train(self, test_train: ArrayLike) -> Array:
        kernel = np.asarray(test_train, dtype=np.float64)
        if kernel.ndim != 2 or kernel.shape[1] != len(self.targets):
            raise ValueError(
                f"test_train must be of shape (n_test, {len(self.targets)}); "
                f"got {kernel.shape}"
            )
        return kernel

    def _whitened(self, test_train: ArrayLike) -> Array:
        """Return L^-1 W^(1/2) K_x*."""
        kernel = self._check_test_train(test_train) * self._root_weight
        return solve_triangular(
            self._factor, kernel.T, lower=True, overwrite_b=True, check_finite=False
        )


def _factor(
    S: Array, ridge: float, weight: NDArray[np.float64], *, warn: bool
) -> tuple[float, Array]:
    """Return the ridge used and the factor of S + ridge I, in the place of S.

    The factor is the lower triangle; the upper one keeps S for another attempt.
    """
    diagonal = S.diagonal().copy()
    scale = float(diagonal.sum() / weight.sum())
    eps = np.finfo(np.float64).eps
    # With no noise, a row of weight above one is a row that repeats.
    attempts = [] if ridge == 0 and (weight > 1).any() else [ridge]
    attempts += [jitter for jitter in jitters(scale) if jitter > ridge]
    for attempt in attempts:
        np.fill_diagonal(S, diagonal + attempt)
        norm = lapack.dlange("1", S)
        S, info = lapack.dpotrf(S, lower=1, clean=0, overwrite_a=1)
        if info == 0:
            reciprocal_condition, _ = lapack.dpocon(S, norm, uplo="L")
            if reciprocal_condition > len(S) * eps:
                if warn and attempt != ridge:
                    warn_of_jitter(attempt, stacklevel=3)
                return attempt, S
        _mirror_upper(S)
    raise ValueError(
        "kernel_matrix must be positive semi-definite; a ridge of "
        f"{attempts[-1]:.3g} does not make it so"
    )


def _mirror_upper(S: Array) -> None:
    """Copy the upper triangle onto the lower one, column by column."""
    for j in range(len(S) - 1):
        S[j + 1 :, j] = S[j, j + 1 :]
