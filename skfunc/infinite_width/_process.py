"""A network of infinite width conditioned on data, at any training time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from skfunc.infinite_width._inference import Decomposition
from skfunc.infinite_width._inference import max_learning_rate as largest_rate
from skfunc.infinite_width._inference_cholesky import RidgeSolution
from skfunc.infinite_width._inference_ensemble import (
    ensemble_covariance,
    ensemble_variance,
)
from skfunc.infinite_width._kernel_matrices import (
    KernelMatrices,
    kernel_diagonal,
    kernel_matrices,
)
from skfunc.training import thread_limits

Array = NDArray[np.float64]

# Pairs of rows up to which one thread is quicker.
_SMALL_PAIRS = 4_000_000
# Numbers of a block of test rows against the training rows.
_BLOCK_NUMBERS = 2**23


class NetworkProcess:
    """The exact posterior or ensemble, with unit amplitude.

    Matrices of the training rows are computed when first needed, and kept.

    Parameters
    ----------
    net : Layer or foreign kernel
        The network.
    X : ndarray of shape (n_samples, n_features)
        Training rows as the network sees them.
    targets : ndarray of shape (n_samples, n_outputs)
        Centred targets.
    weight : ndarray of shape (n_samples,)
        Positive weights.
    ridge : float
        Ridge in units of the kernel.
    kind : {"nngp", "ntk"}
        "nngp": a Gaussian process, or networks whose last layer alone is trained;
        "ntk": an ensemble of networks whose layers are all trained.
    image_shape : tuple of int or None
        (channels, height, width).
    learning_rate : float
        Rate of gradient descent, in whose steps time is counted.
    dtype : torch.dtype
        Of the kernel; factored in float64.
    device : torch.device
        Where the kernel is computed.
    solver : {"cholesky", "eigh"}
        What solves for the coefficients at t = inf.
    """

    def __init__(
        self,
        net,
        X: Array,
        targets: Array,
        weight: Array,
        ridge: float,
        *,
        kind: str,
        image_shape: tuple[int, int, int] | None,
        learning_rate: float = 1.0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        solver: str = "cholesky",
    ) -> None:
        self.net, self.kind, self.image_shape = net, kind, image_shape
        self.X, self.targets, self.weight = X, targets, weight
        self.ridge, self.learning_rate = ridge, learning_rate
        self.dtype, self.device = dtype, torch.device(device)
        self.solver = solver
        self._rows = torch.as_tensor(X, dtype=dtype, device=self.device)
        self._matrices: dict[str, Array] = {}
        self._last: tuple[Array, dict[str, Array]] | None = None
        self._ridge_solution: RidgeSolution | None = None
        self._decomposition: Decomposition | None = None

    def train_kernel(self, kind: str) -> Array:
        """Return the kernel matrix of the training rows."""
        if kind not in self._matrices:
            self._matrices[kind] = self._kernel(self._rows, None, kind)
        return self._matrices[kind]

    def decomposition(self) -> Decomposition:
        """Return the eigendecomposition of the training rows' kernel."""
        if self._decomposition is None:
            self._decomposition = Decomposition(
                self.train_kernel(self.kind), self.targets, self.weight
            )
        return self._decomposition

    def solution(self) -> RidgeSolution:
        """Return the factor of the training rows' kernel at the ridge."""
        if self._ridge_solution is None:
            self._ridge_solution = RidgeSolution(
                self.train_kernel(self.kind), self.targets, self.ridge, self.weight
            )
        return self._ridge_solution

    def alphas(self, time: float) -> Array:
        """Return the coefficients whose product with a kernel block is the mean."""
        if math.isinf(time):
            if self.solver == "cholesky":
                return self.solution().alphas
            return self.decomposition().alphas(self.ridge)
        return self.decomposition().alphas(
            self.ridge, time, learning_rate=self.learning_rate
        )

    def used_ridge(self) -> float:
        """Return the ridge that was used at t = inf, jitter included."""
        if self.solver == "cholesky":
            return self.solution().ridge
        spectrum = self.decomposition().spectrum
        return float(spectrum.safe_ridge(np.asarray(self.ridge), repeats=True))

    def log_determinant(self) -> float:
        """Return log det(S + ridge I) + (sum w - n) log ridge."""
        return self.solution().log_determinant()

    def means(self, X: Array, alphas: Array) -> Array:
        """Return the means of rows for stacked coefficients.

        Parameters
        ----------
        X : ndarray of shape (n_test, n_features)
            Rows as the network sees them.
        alphas : ndarray of shape (n_samples, m)
            Coefficients.

        Returns
        -------
        ndarray of shape (n_test, m)
            The means.
        """
        means = np.empty((len(X), alphas.shape[1]))
        with thread_limits(small=self._is_small(X)):
            for rows, some in self._chunks(X):
                means[rows] = self._cross(X, rows, some, (self.kind,))[0] @ alphas
        return means

    def variances(self, X: Array, time: float) -> Array:
        """Return the variance of the function at every row, of shape (n_test,)."""
        variances = np.empty(len(X))
        with thread_limits(small=self._is_small(X)):
            for rows, some in self._chunks(X):
                variances[rows] = self._variance(X, rows, some, time)
        return variances

    def covariance(self, X: Array, time: float) -> Array:
        """Return the covariance of the function, of shape (n_test, n_test)."""
        test = torch.as_tensor(X, dtype=self.dtype, device=self.device)
        nngp = self._kernel(test, None, "nngp")
        if self.kind == "nngp":
            cross = self._kernel(test, self._rows, "nngp")
            if self._exact(time):
                return self.solution().posterior_covariance(cross, nngp)
            return self.decomposition().posterior_covariance(
                cross, nngp, self.ridge, time, learning_rate=self.learning_rate
            )
        both = self._both(test)
        smoother = self._smoother(_numbers(both.ntk), time)
        return ensemble_covariance(
            smoother, self.train_kernel("nngp"), _numbers(both.nngp), nngp
        )

    def leave_one_out(self, time: float) -> tuple[Array, Array | None]:
        """Return every row's residual without it, and variances at t = inf.

        Returns
        -------
        residuals : ndarray of shape (n_samples, n_outputs)
            Target minus prediction; an approximation at finite times.
        variances : ndarray of shape (n_samples,) or None
            Of the observation left out, as a Gaussian process; None at finite times.
        """
        if self._exact(time):
            left_out = self.solution().leave_one_out()
            return left_out.residuals, left_out.variances
        residuals = self.decomposition().leave_one_out_residuals(
            self.ridge, time, learning_rate=self.learning_rate
        )
        return residuals, None

    def max_learning_rate(self) -> float:
        """Return the rate above which discrete gradient descent diverges."""
        if self._decomposition is not None and self.kind == "ntk":
            return self._decomposition.max_learning_rate()
        return largest_rate(
            self.train_kernel("ntk"), self.targets.shape[1], self.weight
        )

    def _is_small(self, X: Array) -> bool:
        """Return whether threads would cost more than they save."""
        return max(len(X), len(self.X)) * len(self.X) <= _SMALL_PAIRS

    def _exact(self, time: float) -> bool:
        """Return whether the Cholesky factor answers."""
        return math.isinf(time)

    def _variance(
        self, X: Array, rows: slice, test: torch.Tensor, time: float
    ) -> Array:
        diagonal = _numbers(
            kernel_diagonal(self.net, test, image_shape=self.image_shape).nngp
        )
        if self.kind == "nngp":
            (cross,) = self._cross(X, rows, test, ("nngp",))
            if self._exact(time):
                return self.solution().posterior_variance(cross, diagonal)
            return self.decomposition().posterior_variance(
                cross, diagonal, self.ridge, time, learning_rate=self.learning_rate
            )
        nngp, ntk = self._cross(X, rows, test, ("nngp", "ntk"))
        smoother = self._smoother(ntk, time)
        return ensemble_variance(smoother, self.train_kernel("nngp"), nngp, diagonal)

    def _cross(
        self, X: Array, rows: slice, test: torch.Tensor, kinds: tuple[str, ...]
    ) -> list[Array]:
        """Return kernels of some rows of X with the training rows.

        The training rows' own are at hand; those of rows that are asked for twice, for
        a mean and then a variance or the other way round, are computed once.
        """
        if X is self.X:
            return [self.train_kernel(kind)[rows] for kind in kinds]
        known: dict[str, Array] = {}
        if self._last is not None and self._last[0] is X:
            known = self._last[1]
        missing = [kind for kind in kinds if kind not in known]
        if len(missing) == 2:
            both = self._both(test)
            known = {"nngp": _numbers(both.nngp), "ntk": _numbers(both.ntk)}
        elif missing:
            known[missing[0]] = self._kernel(test, self._rows, missing[0])
        # Rows in one chunk alone: memory stays bounded.
        self._last = (X, known) if missing and len(test) == len(X) else None
        return [known[kind] for kind in kinds]

    def _smoother(self, cross: Array, time: float) -> Array:
        if self._exact(time):
            return self.solution().smoother(cross)
        return self.decomposition().smoother(
            cross, self.ridge, time, learning_rate=self.learning_rate
        )

    def _both(self, test: torch.Tensor) -> KernelMatrices:
        return kernel_matrices(
            self.net, test, self._rows, image_shape=self.image_shape, kind="both"
        )

    def _kernel(
        self, first: torch.Tensor, second: torch.Tensor | None, kind: str
    ) -> Array:
        matrices = kernel_matrices(
            self.net, first, second, image_shape=self.image_shape, kind=kind
        )
        return _numbers(matrices.nngp if kind == "nngp" else matrices.ntk)

    def _chunks(self, X: Array) -> Iterator[tuple[slice, torch.Tensor]]:
        step = max(1, _BLOCK_NUMBERS // max(len(self.X), 1))
        for start in range(0, len(X), step):
            rows = slice(start, start + step)
            yield (
                rows,
                torch.as_tensor(X[rows], dtype=self.dtype, device=self.device),
            )


def _numbers(values: torch.Tensor | None) -> Array:
    """Return a tensor as a float64 array."""
    assert values is not None
    return values.detach().to("cpu", torch.float64).numpy()
