"""A network of infinite width conditioned on more rows than memory holds pairs of."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from skfunc.infinite_width._inference_scores import LeaveOneOut
from skfunc.infinite_width._iterative_operator import KernelOperator
from skfunc.infinite_width._iterative_regression import IterativeSolution

Array = NDArray[np.float64]

# Relative residual of conjugate gradients: means are off by thousandths of the targets'
# standard deviation, far below the noise of any table that is this large.
_TOLERANCE = 1e-3


class IterativeProcess:
    """The posterior or ensemble of `NetworkProcess`, by solvers of bounded memory.

    Only trained to the end. Nothing is computed before it is needed, and all of it
    follows from the data and a seed, so that a stored model computes the same again.

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
        The kernel.
    image_shape : tuple of int or None
        (channels, height, width).
    solver : {"cg", "nystrom"}
        Conjugate gradients, or a kernel of low rank.
    max_memory : int
        Bytes for the kernel's tiles, factors and vectors.
    dtype : torch.dtype
        Of the tiles.
    device : torch.device
        Where everything is computed.
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
        solver: str,
        max_memory: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self.net, self.kind, self.image_shape = net, kind, image_shape
        self.X, self.targets, self.weight, self.ridge = X, targets, weight, ridge
        self.solver, self.max_memory = solver, max_memory
        self.dtype, self.device = dtype, torch.device(device)
        self._solution: IterativeSolution | None = None
        self._left_out: LeaveOneOut | None = None

    def solution(self) -> IterativeSolution:
        """Return the solution, computed when first asked for."""
        if self._solution is None:
            self._solution = IterativeSolution(
                self.net,
                self.X,
                self.targets,
                self.ridge,
                solver=self.solver,
                kind=self.kind,
                image_shape=self.image_shape,
                sample_weight=self.weight,
                max_memory=self.max_memory,
                dtype=self.dtype,
                device=self.device,
                tol=_TOLERANCE,
            )
        return self._solution

    def alphas(self, time: float) -> Array:
        """Return the dual coefficients at t = inf."""
        self._check_time(time)
        return self.solution().alphas

    def used_ridge(self) -> float:
        """Return the ridge that was used, raised above rounding."""
        return self.solution().ridge

    def log_determinant(self) -> float:
        """Raise: a determinant needs a factor of the whole matrix."""
        raise AttributeError(
            f"solver={self.solver!r} has no log_marginal_likelihood_: it needs a "
            "factor of the whole kernel matrix; use solver='cholesky' or 'eigh'"
        )

    def means(self, X: Array, alphas: Array) -> Array:
        """Return the means of rows, (n_test, n_outputs)."""
        if self.solver == "nystrom":
            return self.solution().mean(X)
        if self._solution is not None:
            operator = self._solution.operator
        else:
            # Coefficients are at hand: no factor is needed to predict with them.
            operator = KernelOperator(
                self.net,
                self.X,
                kind=self.kind,
                image_shape=self.image_shape,
                dtype=self.dtype,
                device=self.device,
                max_memory=self.max_memory,
                sample_weight=self.weight,
            )
        return operator.test_product(X, alphas).numpy(force=True)

    def variances(self, X: Array, time: float) -> Array:
        """Return the variance of the function at every row; see `PosteriorSpread`."""
        self._check_time(time)
        return self.solution().variance(X)

    def covariance(self, X: Array, time: float) -> Array:
        """Return the covariance of the function, of shape (n_test, n_test)."""
        self._check_time(time)
        return self.solution().covariance(X)

    def leave_one_out(self, time: float) -> tuple[Array, Array]:
        """Return residuals and variances of rows, predicted by their neighbours."""
        self._check_time(time)
        if self._left_out is None:
            self._left_out = self.solution().leave_one_out()
        return self._left_out._columns(), self._left_out.variances

    def max_learning_rate(self) -> float:
        """Return the rate above which discrete gradient descent diverges."""
        raise AttributeError(
            f"solver={self.solver!r} has no max_learning_rate_: it needs the whole "
            "kernel matrix; use solver='eigh' or 'cholesky'"
        )

    def _check_time(self, time: float) -> None:
        if not math.isinf(time):
            raise ValueError(
                f"training_time={time!r} needs a decomposition of the kernel matrix; "
                f"solver={self.solver!r} only trains to the end. Use solver='eigh' or "
                "a larger max_memory"
            )
