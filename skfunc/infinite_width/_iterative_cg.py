"""Ridge regression by preconditioned conjugate gradients, several columns at once."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skfunc._shapes import Float
from skfunc.infinite_width._inference_scores import check_targets
from skfunc.infinite_width._iterative_operator import KernelOperator
from skfunc.infinite_width._iterative_preconditioner import LowRank
from skfunc.infinite_width._spectrum import JITTER_START, check_nonnegative

Array = NDArray[np.float64]

# The recursion's residual drifts from the true one by rounding of the products. It is
# replaced by the true one, from a product in float64, each time it fell by this much.
REPLACE_AFTER = {torch.float32: 1e-3, torch.float64: 1e-9}

# A replacement that lowers the true residual by less than this has met its floor.
STAGNATION = 0.5

# Where the true residual is this many times the recursion's, or the recursion's has
# grown this much, products in float32 have lost it: their error is that of the largest
# eigenvalue, some n times the mean diagonal, which the ridge may be far below.
LOST, GROWN = 2.0, 100.0

# Blocks of n x k numbers that the iteration holds: targets, solution, residual and
# its predecessor, preconditioned residual, direction, product and its scaled input; the
# best solution and its residual.
WORKING_BLOCKS = 10


@dataclass(frozen=True)
class SolverReport:
    """What conjugate gradients did.

    Attributes
    ----------
    n_iter : int
        Iterations, products with the kernel for directions.
    n_products : int
        All products, those for true residuals included.
    residuals : ndarray of shape (n_columns,)
        True residual norms over those of the targets.
    history : ndarray of shape (n_iter + 1, n_columns)
        Residuals of the recursion, relative too.
    converged : bool
        Whether every residual met the tolerance.
    seconds : float
        Wall time.
    peak_bytes : int
        Bytes of tiles, factor and vectors: an estimate of the memory used beside the
        data.
    """

    n_iter: int
    n_products: int
    residuals: Array
    history: Array
    converged: bool
    seconds: float
    peak_bytes: int


def safe_ridge(operator: KernelOperator, ridge: float) -> float:
    """Return the ridge, raised with one LinAlgWarning where rounding would hide it.

    In float64 the floor is the jitter of the direct solvers. Entries rounded to
    float32 move the eigenvalues by up to about eps sqrt(n) times the mean diagonal.

    Parameters
    ----------
    operator : KernelOperator
        The matrix.
    ridge : float
        The ridge asked for, finite and at least 0.

    Returns
    -------
    float
        The ridge to use, positive.
    """
    ridge = float(check_nonnegative("ridge", ridge, allow_inf=False))
    scale = float(operator.diagonal().sum() / operator.weight.sum()) or 1.0
    floor = JITTER_START * scale
    if operator.dtype != torch.float64:
        eps = torch.finfo(operator.dtype).eps
        floor = max(floor, eps * math.sqrt(operator.shape[0]) * scale)
    if ridge >= floor:
        return ridge
    name = str(operator.dtype).removeprefix("torch.")
    warnings.warn(
        f"ridge={ridge:.3g} is lost in the rounding of kernels in {name}; it was "
        f"raised to {floor:.3g}. Give a larger ridge"
        + ("" if operator.dtype == torch.float64 else ", or kernels in float64"),
        LinAlgWarning,
        stacklevel=3,
    )
    return floor


class ConjugateGradientSolution:
    r"""Ridge regression with a kernel operator, for one ridge, trained to the end.

    Solves :math:`(S + \lambda I) B = W^{1/2} Y` with
    :math:`S = W^{1/2} G W^{1/2}`; the dual coefficients are
    :math:`W^{1/2} B = (G + \lambda W^{-1})^{-1} Y`. Every column has its own step sizes
    and stops on its own true residual.

    Parameters
    ----------
    operator : KernelOperator
        S.
    targets : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets, centred by the caller.
    ridge : float
        Ridge, in units of the kernel; raised with one `scipy.linalg.LinAlgWarning`
        where rounding would hide it.
    low_rank : LowRank, default=None
        The preconditioner; None for none.
    tol : float, default=1e-6
        Residual norm at which a column is done, relative to its targets.
    max_iter : int, default=500
        Iterations at most.

    Attributes
    ----------
    alphas : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Dual coefficients; a prediction is ``operator.test_product(X, alphas)``.
    ridge : float
        The ridge used.
    report : SolverReport
        Iterations, residuals, seconds, bytes.

    Raises
    ------
    ValueError
        On bad shapes, a tolerance that is not positive, or numbers not finite.

    Warns
    -----
    sklearn.exceptions.ConvergenceWarning
        Once, with the largest residual, when a column misses the tolerance.

    References
    ----------
    Hestenes, Stiefel (1952). Methods of conjugate gradients for solving linear
    systems. Journal of Research of the National Bureau of Standards 49(6).

    van der Vorst, Ye (2000). Residual replacement strategies for Krylov subspace
    iterative methods for the convergence of true residuals. SIAM Journal on Scientific
    Computing 22(3).

    Notay (2000). Flexible conjugate gradients. SIAM Journal on Scientific Computing
    22(4).

    Examples
    --------
    >>> import numpy as np
    >>> from skfunc.infinite_width import layers as L
    >>> from skfunc.infinite_width._iterative_cg import ConjugateGradientSolution
    >>> from skfunc.infinite_width._iterative_operator import KernelOperator
    >>> from skfunc.infinite_width._iterative_preconditioner import pivoted_cholesky
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> operator = KernelOperator(L.Serial(L.Dense(), L.Relu(), L.Dense()), X)
    >>> low_rank = pivoted_cholesky(operator, 50)
    >>> solution = ConjugateGradientSolution(operator, X[:, 0], 0.1, low_rank)
    >>> solution.report.converged
    True
    """

    def __init__(
        self,
        operator: KernelOperator,
        targets: ArrayLike,
        ridge: float,
        low_rank: LowRank | None = None,
        *,
        tol: float = 1e-6,
        max_iter: int = 500,
    ):
        self.operator, self.low_rank = operator, low_rank
        self.targets = check_targets(targets, operator.shape[0])
        self.ridge = safe_ridge(operator, ridge)
        root = operator.root_weight[:, None]
        columns = torch.as_tensor(
            self.targets.reshape(len(self.targets), -1), device=operator.device
        )
        solved, self.report = conjugate_gradients(
            operator, root * columns, self.ridge, low_rank, tol=tol, max_iter=max_iter
        )
        alphas = root * solved
        self.alphas = alphas.numpy(force=True).reshape(self.targets.shape)

    def mean(self, X_test: ArrayLike) -> Array:
        """Return the predictions, (n_test,) or (n_test, n_outputs)."""
        alphas = self.alphas.reshape(len(self.alphas), -1)
        mean = self.operator.test_product(X_test, alphas).numpy(force=True)
        return mean.reshape(len(mean), *self.alphas.shape[1:])


def conjugate_gradients(
    operator: KernelOperator,
    right_sides: Float[Tensor, "rows k"],
    ridge: float,
    low_rank: LowRank | None = None,
    *,
    tol: float = 1e-6,
    max_iter: int = 500,
) -> tuple[Float[Tensor, "rows k"], SolverReport]:
    r"""Solve :math:`(S + \lambda I) X = R` for several columns at once.

    The parameters are those of `ConjugateGradientSolution`, for columns that are
    weighted already and a positive ridge.

    Returns
    -------
    tuple of (Tensor of shape (n_samples, k), SolverReport)
        The solution in float64, and what was done.
    """
    if not 0 < tol < math.inf:
        raise ValueError(f"tol must be finite and positive; got {tol!r}")
    if max_iter < 1:
        raise ValueError(f"max_iter must be at least 1; got {max_iter!r}")
    began = time.perf_counter()
    products = operator.n_products
    scale = right_sides.norm(dim=0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    # Columns of unit norm keep clear of the ends of float32's range.
    goal = right_sides / scale
    solution = torch.zeros_like(goal)
    truth = goal.norm(dim=0)
    active = torch.nonzero(truth > tol)[:, 0]
    history = [truth.numpy(force=True).copy()]
    drop = REPLACE_AFTER.get(operator.dtype, 1e-3)
    peak_columns = len(truth)
    n_iter = 0
    residual = goal[:, active]
    passed = _precondition(low_rank, residual, ridge)
    direction = passed.clone()
    energy = (residual * passed).sum(dim=0)
    best, best_residual = solution.clone(), goal.clone()
    wide = operator.dtype == torch.float64
    while len(active) and n_iter < max_iter:
        n_iter += 1
        product = operator.product(direction, exact=wide)
        product.add_(direction, alpha=ridge)
        curvature = (direction * product).sum(dim=0)
        # Rounding of float32 entries may leave a direction without curvature.
        sound = (curvature > 0) & (energy > 0)
        step = torch.where(sound, energy / curvature, torch.zeros_like(energy))
        solution[:, active] += step * direction
        previous = residual
        residual = residual - step * product
        norms = residual.norm(dim=0)
        seen = history[-1].copy()
        seen[active.numpy(force=True)] = norms.numpy(force=True)
        history.append(seen)
        going = sound
        restarted = torch.zeros_like(sound)
        low = torch.clamp(drop * truth[active], min=tol)
        due = norms <= low
        if not wide:
            due |= norms > GROWN * truth[active]
        if bool((due | ~sound).any()):
            exact = operator.product(solution[:, active], exact=True)
            exact.add_(solution[:, active], alpha=ridge)
            residual = goal[:, active] - exact
            claimed, norms = norms, residual.norm(dim=0)
            stuck = due & (norms > STAGNATION * truth[active])
            lost = (due & (norms > LOST * claimed)) | stuck | ~sound
            worse = norms > truth[active]
            solution[:, active[worse]] = best[:, active[worse]]
            residual[:, worse] = best_residual[:, active[worse]]
            norms = torch.minimum(norms, truth[active])
            best[:, active] = solution[:, active]
            best_residual[:, active] = residual
            truth[active] = norms
            going = norms > tol
            restarted = worse
            if wide:
                going &= sound & ~stuck
            elif bool((lost & going).any()):
                # The directions so far are not conjugate to those of better products.
                wide, restarted = True, torch.ones_like(sound)
        passed = _precondition(low_rank, residual, ridge)
        # The flexible form of beta allows for a residual that was replaced.
        change = (passed * (residual - previous)).sum(dim=0)
        beta = (change / energy).clamp_(min=0.0)
        beta[restarted] = 0.0
        energy = (residual * passed).sum(dim=0)
        direction = passed + beta * direction
        if not bool(going.all()):
            active, energy = active[going], energy[going]
            residual, direction = residual[:, going], direction[:, going]
    if len(active):
        exact = operator.product(solution[:, active], exact=True)
        exact.add_(solution[:, active], alpha=ridge)
        norms = (goal[:, active] - exact).norm(dim=0)
        worse = norms > truth[active]
        solution[:, active[worse]] = best[:, active[worse]]
        truth[active] = torch.minimum(norms, truth[active])
    residuals = truth.numpy(force=True)
    report = SolverReport(
        n_iter=n_iter,
        n_products=operator.n_products - products,
        residuals=residuals,
        history=np.array(history),
        converged=bool((residuals <= tol).all()),
        seconds=time.perf_counter() - began,
        peak_bytes=operator.stored_bytes
        + operator.working_bytes()
        + (0 if low_rank is None else low_rank.nbytes)
        + WORKING_BLOCKS * 8 * operator.shape[0] * peak_columns,
    )
    if not report.converged:
        _warn_of_residual(report, tol, max_iter, operator.dtype)
    return solution * scale, report


def _precondition(low_rank: LowRank | None, V: Tensor, ridge: float) -> Tensor:
    return V / ridge if low_rank is None else low_rank.solve(V, ridge)


def _warn_of_residual(
    report: SolverReport, tol: float, max_iter: int, dtype: torch.dtype
) -> None:
    advice = (
        "give more iterations, a preconditioner of larger rank, or a larger ridge"
        if report.n_iter >= max_iter
        else f"{dtype} holds no more digits: give a larger ridge or float64"
    )
    warnings.warn(
        f"conjugate gradients stopped after {report.n_iter} iterations with a relative "
        f"residual of {report.residuals.max():.3g}, above tol={tol:.3g}; {advice}",
        ConvergenceWarning,
        stacklevel=4,
    )
