"""Closed-form inference by one eigendecomposition: every ridge, every training time."""

from __future__ import annotations

import copy
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh

from skfunc.infinite_width._inference_scores import (
    LeaveOneOut,
    check_targets,
    leave_one_out,
)
from skfunc.infinite_width._spectrum import (
    Spectrum,
    check_kernel_matrix,
    check_nonnegative,
    check_weights,
    flow,
    weighted_matrix,
)

Array = NDArray[np.float64]


class Decomposition:
    r"""Ridge regression and gradient flow in one kernel, for every ridge and time.

    With G a kernel matrix (NNGP or NTK) of n rows, c outputs, weights W,
    :math:`S = W^{1/2} G W^{1/2}`, ridge :math:`\lambda` and N = c sum(w) (the loss is
    half the mean over N entries), the prediction at training time t is

    .. math::
        f_*(t) = G_{*x} A(t) y, \qquad
        A(t) = W^{1/2} (S + \lambda I)^{-1}
               \left(I - e^{-\eta (S + \lambda I) t / N}\right) W^{1/2},

    and :math:`A(\infty) = (G + \lambda W^{-1})^{-1}`. A weight is so many equal rows,
    or noise of variance :math:`\lambda / w`. One eigendecomposition, O(n^3), gives all
    that follows at O(n^2) for each ridge and time.

    Parameters
    ----------
    kernel_matrix : array-like of shape (n_samples, n_samples)
        Symmetric positive semi-definite; any float dtype, decomposed in float64.
    targets : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets y, centred by the caller.
    sample_weight : array-like of shape (n_samples,), default=None
        Positive weights; drop rows of weight zero.
    overwrite : bool, default=False
        Whether the memory of `kernel_matrix` may be used.

    Attributes
    ----------
    spectrum : Spectrum
        The eigendecomposition of S.
    targets : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Targets in float64.
    n_outputs : int
        c, 1 when targets have one dimension.

    See Also
    --------
    skfunc.infinite_width._inference_cholesky.RidgeSolution : One ridge at t = inf,
        at a fraction of the cost.

    Notes
    -----
    `ridge` and `time` are numbers or arrays; they broadcast together to a grid whose
    axes come first in what is returned. `time` is inf by default. N grows with the
    number of outputs, so a given time means less progress with more of them.

    A ridge too small for a singular matrix is raised, with one
    `scipy.linalg.LinAlgWarning` for each decomposition.

    References
    ----------
    Lee, Xiao, Schoenholz, Bahri, Novak, Sohl-Dickstein, Pennington (2019). Wide
    neural networks of any depth evolve as linear models under gradient descent.
    arXiv:1902.06720.

    Rasmussen, Williams (2006). Gaussian Processes for Machine Learning, chapters 2
    and 5.

    Golub, Heath, Wahba (1979). Generalized cross-validation as a method for choosing
    a good ridge parameter. Technometrics 21(2).

    Examples
    --------
    >>> import numpy as np
    >>> from skfunc.infinite_width._inference import Decomposition
    >>> kernel = np.array([[2.0, 1.0], [1.0, 2.0]])
    >>> solution = Decomposition(kernel, [1.0, 0.0])
    >>> solution.alphas(1.0)
    array([ 0.375, -0.125])
    >>> solution.mean(kernel, ridge=[0.0, 1.0]).round(3)
    array([[1.   , 0.   ],
           [0.625, 0.125]])
    """

    def __init__(
        self,
        kernel_matrix: ArrayLike,
        targets: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        overwrite: bool = False,
    ):
        matrix = check_kernel_matrix(kernel_matrix)
        check_targets(targets, len(matrix))
        self.spectrum = Spectrum(matrix, sample_weight, overwrite=overwrite)
        self._set_targets(targets)

    def _set_targets(self, targets: ArrayLike) -> None:
        spectrum = self.spectrum
        self.targets = check_targets(targets, len(spectrum.weight))
        columns = self.targets.reshape(len(self.targets), -1)
        self.n_outputs = columns.shape[1]
        root_weight = spectrum.root_weight[:, None]
        self._projected = spectrum.eigenvectors.T @ (root_weight * columns)

    def with_targets(self, targets: ArrayLike) -> Decomposition:
        """Return the same decomposition with other targets, at O(n^2)."""
        other = copy.copy(self)
        other._set_targets(targets)
        return other

    def alphas(
        self,
        ridge: ArrayLike,
        time: ArrayLike = math.inf,
        *,
        learning_rate: float = 1.0,
    ) -> Array:
        r"""Return the dual coefficients :math:`A(t) y`.

        Parameters
        ----------
        ridge : float or array-like
            Ridge, in units of the kernel.
        time : float or array-like, default=inf
            Training time, in steps of gradient descent when the rate is small.
        learning_rate : float, default=1.0
            Rate eta.

        Returns
        -------
        ndarray of shape (\*grid, n_samples) or (\*grid, n_samples, n_outputs)
            The coefficients; a prediction is ``test_train @ alphas``.
        """
        response = self.spectrum.response(*self._grid(ridge, time, learning_rate))
        return self._from_projected(response, self.spectrum.root_weight)

    def mean(
        self,
        test_train: ArrayLike,
        ridge: ArrayLike,
        time: ArrayLike = math.inf,
        *,
        learning_rate: float = 1.0,
    ) -> Array:
        r"""Return the mean :math:`G_{*x} A(t) y` of the posterior or of the ensemble.

        Parameters
        ----------
        test_train : array-like of shape (n_test, n_samples)
            Kernel of the test rows with the training rows.
        ridge, time, learning_rate
            As in `alphas`.

        Returns
        -------
        ndarray of shape (\*grid, n_test) or (\*grid, n_test, n_outputs)
            The means.
        """
        kernel = self._check_test_train(test_train)
        alphas = self.alphas(ridge, time, learning_rate=learning_rate)
        grid = alphas.shape[: alphas.ndim - self.targets.ndim]
        columns = np.moveaxis(
            alphas.reshape(-1, len(self.targets), self.n_outputs), 1, 0
        )
        means = kernel @ columns.reshape(len(self.targets), -1)
        means = np.moveaxis(
            means.reshape(len(kernel), math.prod(grid), self.n_outputs), 0, 1
        )
        return means.reshape(grid + (len(kernel),) + self.targets.shape[1:])

    def smoother(
        self,
        test_train: ArrayLike,
        ridge: float,
        time: float = math.inf,
        *,
        learning_rate: float = 1.0,
    ) -> Array:
        r"""Return :math:`B = G_{*x} A(t)`, of shape (n_test, n_samples).

        It maps targets to means, and with an NTK it enters
        `ensemble_covariance` and `ensemble_variance`. One ridge and one time.
        """
        ridges, steps = self._grid(ridge, time, learning_rate)
        response = self.spectrum.response(ridges, steps)
        features = self._features(test_train) * response
        return (features @ self.spectrum.eigenvectors.T) * self.spectrum.root_weight

    def posterior_covariance(
        self,
        test_train: ArrayLike,
        test_test: ArrayLike,
        ridge: float,
        time: float = math.inf,
        *,
        learning_rate: float = 1.0,
    ) -> Array:
        r"""Return :math:`K_{**} - K_{*x} A_K(2t) K_{x*}`, of shape (n_test, n_test).

        The covariance over an ensemble of networks whose last layer alone is trained,
        for time t; at t = inf the posterior of a Gaussian process. `kernel_matrix`
        is the NNGP's. No noise of observation is in it. One ridge and one time.
        """
        response = self._doubled_response(ridge, time, learning_rate)
        half = self._features(test_train) * np.sqrt(response)
        return np.asarray(test_test, dtype=np.float64) - half @ half.T

    def posterior_variance(
        self,
        test_train: ArrayLike,
        test_diagonal: ArrayLike,
        ridge: ArrayLike,
        time: ArrayLike = math.inf,
        *,
        learning_rate: float = 1.0,
    ) -> Array:
        r"""Return the diagonal of `posterior_covariance`, (\*grid, n_test).

        Takes the diagonal of the test rows' kernel and builds no matrix of
        n_test x n_test. What rounding would make negative is zero.
        """
        response = self._doubled_response(ridge, time, learning_rate)
        explained = np.square(self._features(test_train)) @ np.moveaxis(
            np.atleast_2d(response), -1, 0
        ).reshape(len(self.targets), -1)
        explained = explained.T.reshape(response.shape[:-1] + (len(explained),))
        return np.maximum(np.asarray(test_diagonal, dtype=np.float64) - explained, 0.0)

    def log_marginal_likelihood(self, ridge: ArrayLike) -> Array:
        r"""Return the log marginal likelihood of a Gaussian process, over ridges.

        .. math::
            -\tfrac12 y^T (G + \lambda W^{-1})^{-1} y
            - \tfrac12 \left[\log\det(S + \lambda I)
            + (\textstyle\sum w - n) \log\lambda\right]
            - \tfrac12 \textstyle\sum w \log 2\pi,

        summed over outputs. It is the likelihood of a Gaussian process whose kernel
        is G, also when G is an NTK, whose ensemble is none. A weight that is no
        integer raises the likelihood of its row to that power.

        Returns
        -------
        ndarray of shape (\*grid,)
            One value a ridge.
        """
        spectrum = self.spectrum
        excess = spectrum.total_weight - len(spectrum.weight)
        ridges = check_nonnegative("ridge", ridge, allow_inf=False)
        ridges = spectrum.safe_ridge(ridges, repeats=True)
        shifted = spectrum.eigenvalues + ridges[..., None]
        quadratic = (np.square(self._projected).sum(axis=1) / shifted).sum(axis=-1)
        log_determinant = np.log(shifted).sum(axis=-1)
        if excess:
            log_determinant = log_determinant + excess * np.log(ridges)
        constant = spectrum.total_weight * math.log(2 * math.pi)
        return -0.5 * (quadratic + self.n_outputs * (log_determinant + constant))

    def leave_one_out(self, ridge: ArrayLike) -> LeaveOneOut:
        r"""Return residuals and variances of every row, predicted without it.

        Exact at t = inf: with :math:`P = (G + \lambda W^{-1})^{-1}` and equal weights,
        residual :math:`[P y]_i / P_{ii}` and variance :math:`1 / P_{ii}`, of an
        observation. Of a row of weight w > 1 one of w copies is left out, of a row of
        weight w <= 1 all.

        Parameters
        ----------
        ridge : float or array-like
            Ridges.

        Returns
        -------
        LeaveOneOut
            With `residuals`, `variances` and the scores made of them.
        """
        spectrum = self.spectrum
        ridges = check_nonnegative("ridge", ridge, allow_inf=False)
        ridges = spectrum.safe_ridge(ridges, repeats=True)
        inverse = 1 / (spectrum.eigenvalues + ridges[..., None])
        return leave_one_out(
            self._from_projected(inverse, spectrum.root_weight),
            spectrum.diagonal(inverse),
            ridges,
            spectrum.weight,
        )

    def leave_one_out_residuals(
        self,
        ridge: ArrayLike,
        time: ArrayLike = math.inf,
        *,
        learning_rate: float = 1.0,
    ) -> Array:
        r"""Return leave-one-out residuals at a training time.

        The target of row i is replaced by the one that makes its coefficient zero at
        time t, so that the prediction of the row does without it. With the matrix H
        that maps targets to fitted values and equal weights,

        .. math:: r_i = (y - H y)_i + H_{ii} [A(t) y]_i / A(t)_{ii}.

        Exact at t = inf, where it is `leave_one_out`, and to first order at early
        times; an approximation between. It stays accurate without ridge, where
        :math:`(y - H y)_i / (1 - H_{ii})` divides by numbers that vanish with time. Of
        a weight above one, one copy is left out.

        Parameters
        ----------
        ridge, time, learning_rate
            As in `alphas`.

        Returns
        -------
        ndarray of shape (\*grid, n_samples) or (\*grid, n_samples, n_outputs)
            Target minus prediction.
        """
        spectrum = self.spectrum
        ridges, steps = self._grid(ridge, time, learning_rate)
        ridges = spectrum.safe_ridge(ridges, steps, repeats=True)
        response = spectrum.response(ridges, steps)
        alphas = self._from_projected(response, spectrum.root_weight)
        # y - H y, scaled back from S to the rows.
        left = self._from_projected(
            spectrum.residual_response(ridges, steps), 1 / spectrum.root_weight
        )
        removed = np.minimum(spectrum.weight, 1.0)
        kept = spectrum.weight - removed
        coefficient = removed * spectrum.diagonal(response)
        if kept.any():
            coefficient = coefficient + kept * flow(ridges, steps)[..., None]
        fitted = removed * spectrum.diagonal(spectrum.eigenvalues * response)
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = fitted / (spectrum.weight * coefficient)
        # Before training there is nothing to leave out.
        factor = np.where(coefficient > 0, factor, 0.0)
        extra = (1,) * (self.targets.ndim - 1)
        return left + alphas * factor.reshape(factor.shape + extra)

    def generalized_cross_validation(
        self,
        ridge: ArrayLike,
        time: ArrayLike = math.inf,
        *,
        learning_rate: float = 1.0,
    ) -> Array:
        r"""Return the GCV score, the mean over outputs.

        With M = sum(w) rows and the matrix H that maps targets to fitted values of all
        of them, :math:`M \lVert y - H y \rVert^2 / \mathrm{tr}(I - H)^2`. Weights that
        sum to less than the number of rows count as that number.

        Returns
        -------
        ndarray of shape (\*grid,)
            One score for each ridge and time; it estimates a mean squared error.
        """
        spectrum = self.spectrum
        n = len(spectrum.weight)
        rows = max(spectrum.total_weight, n)
        ridges, steps = self._grid(ridge, time, learning_rate)
        left = spectrum.residual_response(ridges, steps)
        left_of_rest = np.ones(ridges.shape)
        # At t = inf both parts are taken over the ridge, which may be zero.
        at_infinity = np.isinf(steps)
        if at_infinity.any():
            safe = spectrum.safe_ridge(ridges[at_infinity], repeats=True)
            left[at_infinity] = 1 / (spectrum.eigenvalues + safe[..., None])
            with np.errstate(divide="ignore"):
                left_of_rest[at_infinity] = 1 / safe
        trace = left.sum(axis=-1)
        if rows > n:
            trace = trace + (rows - n) * left_of_rest
        squares = np.square(self._projected).sum(axis=1) / self.n_outputs
        return rows * (np.square(left) @ squares) / np.square(trace)

    def max_learning_rate(self, ridge: float = 0.0) -> float:
        r"""Return :math:`2 N / (\lambda_{max}(S) + \lambda)`.

        Above it discrete gradient descent diverges, and training time no longer
        counts its steps.
        """
        largest = float(self.spectrum.eigenvalues[-1]) + ridge
        entries = self.spectrum.total_weight * self.n_outputs
        return 2 * entries / largest if largest > 0 else math.inf

    def _grid(
        self, ridge: ArrayLike, time: ArrayLike, learning_rate: float
    ) -> tuple[Array, Array]:
        """Return ridges and eta t / N, broadcast together."""
        if not 0 < learning_rate < math.inf:
            raise ValueError(
                f"learning_rate must be finite and positive; got {learning_rate!r}"
            )
        ridges = check_nonnegative("ridge", ridge, allow_inf=False)
        times = check_nonnegative("time", time, allow_inf=True)
        entries = self.spectrum.total_weight * self.n_outputs
        with np.errstate(over="ignore"):
            steps = times * (learning_rate / entries)
        ridges, steps = np.broadcast_arrays(ridges, steps)
        return ridges, steps

    def _doubled_response(
        self, ridge: ArrayLike, time: ArrayLike, learning_rate: float
    ) -> Array:
        """Return the response at twice the time."""
        ridges, steps = self._grid(ridge, time, learning_rate)
        with np.errstate(over="ignore"):
            return self.spectrum.response(ridges, 2 * steps)

    def _from_projected(self, values: Array, row_scale: Array) -> Array:
        """Return D U diag(v) U' W^(1/2) y for every v of the grid."""
        n, grid = len(self.targets), values.shape[:-1]
        scaled = values.reshape(-1, n).T[:, :, None] * self._projected[:, None, :]
        product = self.spectrum.eigenvectors @ scaled.reshape(n, -1)
        product *= row_scale[:, None]
        product = np.moveaxis(product.reshape(n, -1, self.n_outputs), 0, 1)
        return product.reshape(grid + self.targets.shape)

    def _check_test_train(self, test_train: ArrayLike) -> Array:
        kernel = np.asarray(test_train, dtype=np.float64)
        if kernel.ndim != 2 or kernel.shape[1] != len(self.targets):
            raise ValueError(
                f"test_train must be of shape (n_test, {len(self.targets)}); "
                f"got {kernel.shape}"
            )
        return kernel

    def _features(self, test_train: ArrayLike) -> Array:
        """Return G_*x W^(1/2) U."""
        kernel = self._check_test_train(test_train)
        return (kernel * self.spectrum.root_weight) @ self.spectrum.eigenvectors


def max_learning_rate(
    kernel_matrix: ArrayLike,
    n_outputs: int = 1,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Return :math:`2 N / \lambda_{max}` of an NTK, without a full decomposition.

    Parameters
    ----------
    kernel_matrix : array-like of shape (n_samples, n_samples)
        The NTK of the training rows.
    n_outputs : int, default=1
        Outputs c; N = c sum(w).
    sample_weight : array-like of shape (n_samples,), default=None
        Positive weights.

    Returns
    -------
    float
        The rate above which discrete gradient descent diverges.
    """
    matrix = check_kernel_matrix(kernel_matrix)
    weight = check_weights(sample_weight, len(matrix))
    S = weighted_matrix(matrix, np.sqrt(weight), overwrite=False)
    last = len(matrix) - 1
    largest = eigh(
        S, eigvals_only=True, subset_by_index=[last, last], overwrite_a=True
    )[0]
    entries = float(weight.sum()) * n_outputs
    return 2 * entries / float(largest) if largest > 0 else math.inf
