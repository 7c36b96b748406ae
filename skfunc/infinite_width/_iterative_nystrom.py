"""Ridge regression in Nystrom features: every ridge at O(n rank) after one factor."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from skfunc._shapes import Float
from skfunc.infinite_width._inference_scores import (
    LeaveOneOut,
    check_targets,
    leave_one_out,
)
from skfunc.infinite_width._iterative_cg import safe_ridge
from skfunc.infinite_width._iterative_operator import KernelOperator
from skfunc.infinite_width._iterative_preconditioner import LowRank

Array = NDArray[np.float64]

# Test rows at a time: their kernel with the landmarks is held, nothing larger.
TEST_ROWS = 2048


class NystromSolution:
    r"""Ridge regression with :math:`S \approx F F^T`, trained to the end.

    With :math:`F F^T = U \mathrm{diag}(s) U^T`, training rows enter through
    :math:`(F F^T + \lambda I)^{-1}` and test rows through the same features. This is
    the deterministic training conditional of Gaussian processes: the mean is that of
    the degenerate kernel, and the variance adds, for each test row, the part of its
    kernel that the landmarks do not see.

    Parameters
    ----------
    operator : KernelOperator
        The kernel operator, with its weights.
    low_rank : LowRank
        Its approximation, from `pivoted_cholesky`.
    targets : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets, centred by the caller.

    Attributes
    ----------
    targets : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Targets in float64.
    n_outputs : int
        1 when targets have one dimension.

    Notes
    -----
    `ridge` is a number, or where said an array of them; arrays come first in what is
    returned. Ridges that rounding would hide are raised with one
    `scipy.linalg.LinAlgWarning`.

    The variance is no bound of the exact one: it takes the training rows' unseen parts
    for zero, which lowers it, and the test row's as unknown, which raises it. Far from
    the data it is the prior's, never less. With all rows as landmarks it is exact. The
    fully independent training conditional (FITC) would change the mean too, and
    give every row a noise of its own.

    References
    ----------
    Quinonero-Candela, Rasmussen (2005). A unifying view of sparse approximate Gaussian
    process regression. Journal of Machine Learning Research 6.

    Williams, Seeger (2000). Using the Nystrom method to speed up kernel machines.
    Advances in Neural Information Processing Systems 13.

    Examples
    --------
    >>> import numpy as np
    >>> from skfunc.infinite_width import layers as L
    >>> from skfunc.infinite_width._iterative_nystrom import NystromSolution
    >>> from skfunc.infinite_width._iterative_operator import KernelOperator
    >>> from skfunc.infinite_width._iterative_preconditioner import pivoted_cholesky
    >>> X = np.random.default_rng(0).normal(size=(300, 2))
    >>> y = np.sin(X[:, 0])
    >>> net = L.Serial(L.Dense(1.5, 0.5), L.Relu(), L.Dense())
    >>> operator = KernelOperator(net, X)
    >>> solution = NystromSolution(operator, pivoted_cholesky(operator, 60), y)
    >>> ridge = solution.best_ridge([1e-3, 1e-2, 1e-1], score="lml")
    >>> bool(abs(solution.mean(X, ridge) - y).mean() < 0.05)
    True
    """

    def __init__(
        self, operator: KernelOperator, low_rank: LowRank, targets: ArrayLike
    ) -> None:
        self.operator, self.low_rank = operator, low_rank
        self.targets = check_targets(targets, operator.shape[0])
        columns = torch.as_tensor(
            self.targets.reshape(len(self.targets), -1), device=operator.device
        )
        self.n_outputs = columns.shape[1]
        self._weighted = operator.root_weight[:, None] * columns
        self._projected = low_rank.basis.mT @ self._weighted
        self._total_weight = float(operator.weight.sum())

    def alphas(self, ridge: float) -> Array:
        r"""Return :math:`W^{1/2} (F F^T + \lambda I)^{-1} W^{1/2} y`.

        They are the residuals of the fit, w (y - f) / ridge. Predictions come from
        `mean`: a product of the exact kernel with them is another, less stable
        estimator.

        Parameters
        ----------
        ridge : float
            Ridge, in units of the kernel.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            The coefficients.
        """
        return self._alphas(safe_ridge(self.operator, ridge))

    def mean(self, X_test: ArrayLike, ridge: float) -> Array:
        """Return predictions, of shape (n_test,) or (n_test, n_outputs).

        Parameters
        ----------
        X_test : array-like of shape (n_test, n_features)
            Rows.
        ridge : float
            Ridge.

        Returns
        -------
        ndarray of shape (n_test,) or (n_test, n_outputs)
            Posterior means.
        """
        test = torch.as_tensor(X_test, dtype=torch.float64, device=self.operator.device)
        mean = features_product(
            self.operator, self.low_rank, test, self.coefficients(ridge)
        ).numpy(force=True)
        return mean.reshape(len(mean), *self.targets.shape[1:])

    def coefficients(self, ridge: float) -> Float[Tensor, "rank outputs"]:
        """Return the weights of the features, which `features_product` takes.

        Parameters
        ----------
        ridge : float
            Ridge.

        Returns
        -------
        Tensor of shape (rank, n_outputs)
            Weights.
        """
        ridge = safe_ridge(self.operator, ridge)
        values = self.low_rank.eigenvalues
        return (values.sqrt() / (values + ridge))[:, None] * self._projected

    def posterior_variance(self, X_test: ArrayLike, ridge: float) -> Array:
        r"""Return the variance of the function at test rows, without noise.

        .. math:: k_{**} - \phi_*^T \phi_*
            + \lambda \phi_*^T (F^T F + \lambda I)^{-1} \phi_*.

        Parameters
        ----------
        X_test : array-like of shape (n_test, n_features)
            Rows.
        ridge : float
            Ridge, the variance of the noise of a row of weight one.

        Returns
        -------
        ndarray of shape (n_test,)
            Not negative.
        """
        ridge = safe_ridge(self.operator, ridge)
        left = ridge / (self.low_rank.eigenvalues + ridge)
        parts = []
        for some in self._test_parts(X_test):
            kernel = self._kernel_with_landmarks(some)
            raw = self.low_rank.raw_features(kernel)
            unseen = self.operator.test_diagonal(some) - raw.square().sum(dim=1)
            seen = (raw @ self.low_rank.rotation).square() @ left
            parts.append(unseen.clamp(min=0.0) + seen)
        return torch.cat(parts).numpy(force=True)

    def posterior_covariance(self, X_test: ArrayLike, ridge: float) -> Array:
        """Return the covariance whose diagonal is `posterior_variance`.

        The part that landmarks do not see keeps its prior covariance, K** - Q**.

        Parameters
        ----------
        X_test : array-like of shape (n_test, n_features)
            Rows.
        ridge : float
            Ridge.

        Returns
        -------
        ndarray of shape (n_test, n_test)
            Symmetric.
        """
        ridge = safe_ridge(self.operator, ridge)
        operator = self.operator
        test = torch.as_tensor(X_test, dtype=torch.float64, device=operator.device)
        prior = operator._kernel(test, None)
        features = self._features(test)
        share = self.low_rank.eigenvalues / (self.low_rank.eigenvalues + ridge)
        covariance = prior - (features * share) @ features.mT
        return (0.5 * (covariance + covariance.mT)).numpy(force=True)

    def leave_one_out(self, ridge: float) -> LeaveOneOut:
        r"""Return residuals and variances of every row, predicted without it.

        Exact for the kernel F F', whose landmarks stay. That kernel knows rows better
        than S does: its variances are too small where S - F F' is not. Costs O(n rank).

        Parameters
        ----------
        ridge : float
            Ridge.

        Returns
        -------
        LeaveOneOut
            As `Decomposition.leave_one_out`.
        """
        ridge = safe_ridge(self.operator, ridge)
        # Where landmarks explain a row to the last digit, rounding must not make zero.
        smallest = torch.finfo(torch.float64).eps
        left = (1.0 - self.low_rank.fitted_diagonal(ridge)).clamp_(min=smallest)
        return leave_one_out(
            self._alphas(ridge),
            (left / ridge).numpy(force=True),
            np.asarray(ridge),
            self.operator.weight.numpy(force=True),
        )

    def log_marginal_likelihood(
        self, ridge: ArrayLike, *, penalized: bool = False
    ) -> Array:
        r"""Return the log marginal likelihood of F F' + noise, over ridges, O(rank).

        Parameters
        ----------
        ridge : float or array-like
            Ridges.
        penalized : bool, default=False
            Whether to subtract :math:`\mathrm{tr}(S - F F^T) / (2 \lambda)` for each
            output. That makes it a lower bound of the exact log marginal likelihood
            (Titsias 2009), which does not favour a ridge below the part unseen.

        Returns
        -------
        ndarray of shape (\*grid,)
            As `Decomposition.log_marginal_likelihood`.

        References
        ----------
        Titsias (2009). Variational learning of inducing variables in sparse Gaussian
        processes. Proceedings of Machine Learning Research 5.
        """
        ridges = np.asarray(ridge, dtype=np.float64)
        flat = self._safe_ridges(ridges.ravel())
        values = self.low_rank.eigenvalues.numpy(force=True)
        squares = self._projected.square().sum(dim=1).numpy(force=True)
        total = float(self._weighted.square().sum())
        shifted = values + flat[:, None]
        quadratic = (total - (values / shifted) @ squares) / flat
        rest = self._total_weight - len(values)
        log_determinant = np.log(shifted).sum(axis=1) + rest * np.log(flat)
        constant = self._total_weight * math.log(2 * math.pi)
        terms = log_determinant + constant
        if penalized:
            terms = terms + float(self.low_rank.residual.sum()) / flat
        likelihood = -0.5 * (quadratic + self.n_outputs * terms)
        return likelihood.reshape(ridges.shape)

    def best_ridge(self, ridges: ArrayLike, *, score: str = "lml") -> float:
        """Return the ridge of the best score.

        Parameters
        ----------
        ridges : array-like of shape (n_ridges,)
            Candidates.
        score : {"lml", "loo"}, default="lml"
            "lml" takes the highest penalized log marginal likelihood, "loo" the lowest
            mean squared leave-one-out error.

        Returns
        -------
        float
            One of the candidates.
        """
        if score not in ("lml", "loo"):
            raise ValueError(f"score={score!r} is unknown; choose 'lml' or 'loo'.")
        candidates = np.asarray(ridges, dtype=np.float64)
        if candidates.ndim != 1 or not candidates.size:
            raise ValueError(
                f"ridges must be of shape (n_ridges,); got {candidates.shape}"
            )
        if score == "lml":
            scores = self.log_marginal_likelihood(candidates, penalized=True)
        else:
            scores = np.array(
                [
                    -self.leave_one_out(ridge).mean_squared_error()
                    for ridge in self._safe_ridges(candidates)
                ]
            )
        return float(candidates[np.argmax(scores)])

    def _safe_ridges(self, ridges: Array) -> Array:
        """Return ridges, raised where needed, with one warning for all of them."""
        return np.maximum(ridges, safe_ridge(self.operator, float(ridges.min())))

    def _alphas(self, ridge: float) -> Array:
        solved = self.low_rank.solve(self._weighted, ridge)
        solved *= self.operator.root_weight[:, None]
        return solved.numpy(force=True).reshape(self.targets.shape)

    def _test_parts(self, X_test: ArrayLike) -> tuple[Tensor, ...]:
        test = torch.as_tensor(X_test, dtype=torch.float64, device=self.operator.device)
        return test.split(TEST_ROWS)

    def _kernel_with_landmarks(self, test: Tensor) -> Float[Tensor, "test marks"]:
        return self.operator.test_columns(test, self.low_rank.landmarks)

    def _features(self, test: Tensor) -> Float[Tensor, "test rank"]:
        return self.low_rank.features(self._kernel_with_landmarks(test))


def features_product(
    operator: KernelOperator,
    low_rank: LowRank,
    test: Float[Tensor, "test columns"],
    coefficients: Float[Tensor, "rank outputs"],
) -> Float[Tensor, "test outputs"]:
    """Return the product of test rows' features with coefficients, by blocks.

    Parameters
    ----------
    operator : KernelOperator
        The training rows.
    low_rank : LowRank
        Landmarks and their factor; its basis is not read.
    test : Tensor of shape (n_test, n_features)
        Rows.
    coefficients : Tensor of shape (rank, n_outputs)
        From `NystromSolution.coefficients`.

    Returns
    -------
    Tensor of shape (n_test, n_outputs)
        Predictions.
    """
    parts = []
    for some in test.split(TEST_ROWS):
        kernel = operator.test_columns(some, low_rank.landmarks)
        parts.append(low_rank.features(kernel) @ coefficients)
    return torch.cat(parts)
