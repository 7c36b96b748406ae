"""Leave-one-out residuals and the choice of a ridge, from parts of the rows."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from skfunc._shapes import Int
from skfunc.infinite_width._inference import Decomposition
from skfunc.infinite_width._inference_scores import LeaveOneOut, leave_one_out
from skfunc.infinite_width._iterative_operator import KernelOperator
from skfunc.infinite_width._iterative_preconditioner import BLOCK_ROWS

Array = NDArray[np.float64]

# Rows of a neighbourhood, and of the kernel columns computed at a time.
N_NEIGHBORS = 256
COLUMNS = 64

# Rows on which candidates for the ridge are compared exactly.
N_SELECTION = 3000


def sample_rows(n: int, size: int, random_state: int) -> NDArray[np.int64]:
    """Return sorted distinct rows, all of them when there are no more than `size`."""
    if n <= size:
        return np.arange(n)
    return np.sort(np.random.default_rng(random_state).choice(n, size, replace=False))


def local_leave_one_out(
    operator: KernelOperator,
    alphas: ArrayLike,
    ridge: float,
    rows: ArrayLike,
    *,
    n_neighbors: int = N_NEIGHBORS,
) -> LeaveOneOut:
    r"""Return leave-one-out residuals and variances of some training rows.

    The residual a / p of a row needs its coefficient a, which the solver gives, and its
    entry p of the diagonal of :math:`(S + \lambda I)^{-1}`, which is taken from the
    inverse among the rows most correlated with it. That p is never above the exact
    one, so that residuals and variances are never below the exact ones.

    Parameters
    ----------
    operator : KernelOperator
        S.
    alphas : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Dual coefficients of all rows.
    ridge : float
        Ridge, positive.
    rows : array-like of int of shape (n_rows,)
        Which rows.
    n_neighbors : int, default=256
        Rows of a neighbourhood, the row itself among them.

    Returns
    -------
    LeaveOneOut
        Of those rows.
    """
    chosen = torch.as_tensor(rows, dtype=torch.long, device=operator.device)
    size = min(n_neighbors, operator.shape[0])
    scale = operator.diagonal().sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    entries = []
    for part in chosen.split(COLUMNS):
        columns = operator.columns(part) / scale[:, None]
        # A row is its own neighbour, also among many copies of it.
        columns[part, torch.arange(len(part), device=part.device)] = torch.inf
        nearest = torch.topk(columns, size, dim=0).indices
        entries += [_inverse_entry(operator, near, ridge) for near in nearest.T]
    index = chosen.numpy(force=True)
    return leave_one_out(
        np.asarray(alphas)[index],
        np.array(entries),
        np.asarray(ridge),
        operator.weight[chosen].numpy(force=True),
    )


def grouped_leave_one_out(
    operator: KernelOperator,
    alphas: ArrayLike,
    ridge: float,
    landmarks: Int[torch.Tensor, " marks"],
    *,
    n_neighbors: int = N_NEIGHBORS,
) -> LeaveOneOut:
    """Return leave-one-out residuals and variances of all training rows.

    As `local_leave_one_out`, but the rows nearest to one landmark share the inverse of
    one neighbourhood, that of the landmark. So the cost grows with the landmarks.

    Parameters
    ----------
    operator : KernelOperator
        S.
    alphas : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Dual coefficients.
    ridge : float
        Ridge, positive.
    landmarks : Tensor of int of shape (n_landmarks,)
        Rows that centre neighbourhoods.
    n_neighbors : int, default=256
        Rows of a neighbourhood.

    Returns
    -------
    LeaveOneOut
        Of all rows, in their order.
    """
    n = operator.shape[0]
    size = min(n_neighbors, n)
    scale = operator.diagonal().sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    lengths = (scale / operator.root_weight)[landmarks]
    centres = torch.cat(
        [
            (operator.test_columns(rows, landmarks) / lengths).argmax(dim=1)
            for rows in operator.rows.split(BLOCK_ROWS)
        ]
    )
    entries = torch.empty_like(scale)
    used = torch.unique(centres)
    nearest = operator.neighbors(landmarks[used], size)
    for centre, neighbors in zip(used, nearest, strict=True):
        members = torch.nonzero(centres == centre)[:, 0]
        # Half of a neighbourhood at least is neighbours of those judged.
        for part in members.split(max(size // 2, 1)):
            others = neighbors[torch.isin(neighbors, part, invert=True)]
            near = torch.cat([part, others])[:size]
            block = operator.principal_block(near)
            block.diagonal().add_(ridge)
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(block))
            entries[part] = inverse.diagonal()[: len(part)]
    return leave_one_out(
        np.asarray(alphas),
        entries.numpy(force=True),
        np.asarray(ridge),
        operator.weight.numpy(force=True),
    )


def ridge_of_subset(
    operator: KernelOperator,
    targets: Array,
    ridges: Array,
    *,
    score: str = "lml",
    n_rows: int = N_SELECTION,
    random_state: int = 0,
) -> float:
    """Return the ridge that is best on a random part of the rows, solved exactly.

    The ridge is a variance of noise, which does not change with the number of rows.
    Scores of Nystrom features are for another model, whose best ridge also makes up
    for what the features miss: on 4 000 rows of diamonds it was 5.4 where 0.001 was
    best.

    Parameters
    ----------
    operator : KernelOperator
        The rows, their weights and kernel.
    targets : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    ridges : ndarray of shape (n_ridges,)
        Candidates.
    score : {"lml", "loo"}, default="lml"
        The highest log marginal likelihood, or the lowest mean squared leave-one-out
        error. The latter falls with the number of rows and asks for more ridge on a
        part of them.
    n_rows : int, default=3000
        Rows of the part.
    random_state : int, default=0
        Seed of the part.

    Returns
    -------
    float
        One of the candidates.
    """
    rows = sample_rows(operator.shape[0], n_rows, random_state)
    index = torch.as_tensor(rows, device=operator.device)
    kernel = operator.test_columns(operator.rows[index], index).numpy(force=True)
    weight = operator.weight[index].numpy(force=True)
    solution = Decomposition(kernel, targets[rows], weight, overwrite=True)
    if score == "lml":
        scores = solution.log_marginal_likelihood(ridges)
    else:
        scores = -solution.leave_one_out(ridges).mean_squared_error()
    return float(ridges[np.argmax(scores)])


def _inverse_entry(
    operator: KernelOperator, near: Int[torch.Tensor, " near"], ridge: float
) -> float:
    """Return the first entry of the inverse's diagonal among some rows."""
    block = operator.principal_block(near)
    block.diagonal().add_(ridge)
    first = torch.zeros(len(near), 1, dtype=block.dtype, device=block.device)
    first[0] = 1.0
    return float(torch.linalg.solve(block, first)[0, 0])
