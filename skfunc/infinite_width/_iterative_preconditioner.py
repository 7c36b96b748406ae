"""Randomly pivoted Cholesky factors: the preconditioner and the Nystrom features."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from skfunc._shapes import Float, Int
from skfunc.infinite_width._iterative_operator import KernelOperator

# A diagonal entry that fell below this fraction of its start is rounding: half of the
# digits of float64 are left to divide by its root.
SPENT = 1e-10

# Rank as a multiple of the root of the number of rows: the factor's O(n rank^2) then
# costs as much as RANK_PER_ROOT^2 products with one vector.
RANK_PER_ROOT = 8
# Up to so many rows the factor is the whole matrix, which costs next to nothing.
SMALLEST_RANK = 500

# Share of the memory that the factor, and the temporaries beside it, may take.
SHARE_OF_MEMORY = 0.4
TEMPORARIES = 1.5

# Rows that are rotated at a time, so that no second n x rank matrix is made.
BLOCK_ROWS = 4096


@dataclass(frozen=True)
class LowRank:
    r"""A Nystrom approximation :math:`U \mathrm{diag}(s) U^T` of a kernel operator.

    With landmarks P, :math:`F = S_{:P} L^{-T}` where :math:`S_{PP} = L L^T`, and
    :math:`F V = U \mathrm{diag}(\sqrt s)`. It never exceeds S: S - F F' is positive
    semi-definite.

    Attributes
    ----------
    basis : Tensor of shape (n_samples, rank)
        U, orthonormal columns.
    eigenvalues : Tensor of shape (rank,)
        s, descending and positive.
    landmarks : Tensor of shape (n_landmarks,)
        Rows P, in the order in which they were chosen.
    corner : Tensor of shape (n_landmarks, n_landmarks)
        The lower triangular Cholesky factor of the unweighted kernel :math:`G_{PP}`.
    rotation : Tensor of shape (n_landmarks, rank)
        V.
    residual : Tensor of shape (n_samples,)
        The diagonal of S - F F', not negative.
    """

    basis: Float[Tensor, "rows rank"]
    eigenvalues: Float[Tensor, " rank"]
    landmarks: Int[Tensor, " marks"]
    corner: Float[Tensor, "marks marks"]
    rotation: Float[Tensor, "marks rank"]
    residual: Float[Tensor, " rows"]

    @property
    def rank(self) -> int:
        """The number of columns of the basis."""
        return len(self.eigenvalues)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        parts = vars(self).values()
        return sum(part.numel() * part.element_size() for part in parts)

    def without_basis(self) -> LowRank:
        """Return what features of new rows need, without any n_samples x rank matrix.

        `solve`, `fitted_diagonal` and `residual` are empty then.
        """
        return replace(self, basis=self.basis[:0].clone(), residual=self.residual[:0])

    def solve(self, V: Float[Tensor, "rows k"], ridge: float) -> Tensor:
        r"""Return :math:`(F F^T + \lambda I)^{-1} V`.

        Woodbury's identity in the eigenbasis, so that every ridge is served.
        """
        shrink = self.eigenvalues / (self.eigenvalues + ridge)
        inside = shrink[:, None] * (self.basis.mT @ V)
        return torch.addmm(V, self.basis, inside, alpha=-1.0).div_(ridge)

    def fitted_diagonal(self, ridge: float) -> Float[Tensor, " rows"]:
        r"""Return the diagonal of :math:`F F^T (F F^T + \lambda I)^{-1}`."""
        shrink = self.eigenvalues / (self.eigenvalues + ridge)
        parts = [part.square() @ shrink for part in self.basis.split(BLOCK_ROWS)]
        return torch.cat(parts).clamp_(0.0, 1.0)

    def features(
        self, kernel_with_landmarks: Float[Tensor, "test marks"]
    ) -> Float[Tensor, "test rank"]:
        """Return the coordinates of rows, from their kernel with the landmarks.

        In these coordinates the approximate kernel of two rows is a scalar product.
        """
        return self.raw_features(kernel_with_landmarks) @ self.rotation

    def raw_features(
        self, kernel_with_landmarks: Float[Tensor, "test marks"]
    ) -> Float[Tensor, "test marks"]:
        """Return the coordinates before the rotation."""
        return torch.linalg.solve_triangular(
            self.corner, kernel_with_landmarks.mT, upper=False
        ).mT


def default_rank(n: int, max_memory: int | None = None) -> int:
    """Return the rank that balances the cost of the factor and of iterations.

    Parameters
    ----------
    n : int
        Rows.
    max_memory : int, default=None
        Bytes of everything; two fifths of it go to the factor.

    Returns
    -------
    int
        At least 1, at most n.
    """
    rank = max(RANK_PER_ROOT * math.isqrt(max(n, 1)), SMALLEST_RANK)
    if max_memory is not None:
        rank = min(rank, int(SHARE_OF_MEMORY * max_memory / (8 * TEMPORARIES * n)))
    return max(min(rank, n), 1)


def pivoted_cholesky(
    operator: KernelOperator,
    rank: int,
    *,
    random_state: int | np.random.Generator = 0,
    block: int | None = None,
) -> LowRank:
    r"""Return a low-rank approximation by randomly pivoted Cholesky.

    Landmarks are drawn one after another, with probabilities proportional to the
    diagonal of what is left of the matrix. Proposals come in blocks and are thinned by
    rejection, so that the landmarks follow the same law as one by one, while the work
    is in matrix products. Costs rank columns of the kernel, in float64, and
    O(n rank^2).

    Parameters
    ----------
    operator : KernelOperator
        The matrix.
    rank : int
        Landmarks at most; fewer when they leave nothing but rounding.
    random_state : int or numpy.random.Generator, default=0
        Seed of the landmarks.
    block : int, default=None
        Proposals at a time.

    Returns
    -------
    LowRank
        The approximation, on the operator's device, in float64.

    Raises
    ------
    ValueError
        If the matrix has no positive diagonal entry.

    References
    ----------
    Chen, Epperly, Tropp, Webber (2022). Randomly pivoted Cholesky: practical
    approximation of a kernel matrix with few entry evaluations. arXiv:2207.06503.

    Epperly, Tropp, Webber (2024). Embrace rejection: kernel matrix approximation by
    accelerated randomly pivoted Cholesky. arXiv:2410.03969.

    Diaz, Epperly, Frangella, Tropp, Webber (2023). Robust, randomized preconditioning
    for kernel ridge regression. arXiv:2304.12465.

    Examples
    --------
    >>> import numpy as np
    >>> from skfunc.infinite_width import layers as L
    >>> from skfunc.infinite_width._iterative_operator import KernelOperator
    >>> from skfunc.infinite_width._iterative_preconditioner import pivoted_cholesky
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> operator = KernelOperator(L.Serial(L.Dense(), L.Relu(), L.Dense()), X)
    >>> low_rank = pivoted_cholesky(operator, 50)
    >>> low_rank.rank
    50
    >>> bool(low_rank.residual.sum() < 0.1 * operator.diagonal().sum())
    True
    """
    n = operator.shape[0]
    rank = min(rank, n)
    generator = np.random.default_rng(random_state)
    start = operator.diagonal()
    left = start.clone()
    if not bool((left > 0).any()):
        raise ValueError(
            "the kernel is zero on every row, so that no row can be a landmark; check "
            "the network's weight_std and bias_std"
        )
    block = block or min(max(rank // 8, 32), 256)
    factor = left.new_empty(n, rank)
    landmarks = torch.empty(rank, dtype=torch.long, device=left.device)
    k = 0
    while k < rank:
        left[left <= SPENT * start] = 0.0
        chances = left.numpy(force=True)
        total = chances.sum()
        if total <= 0:
            break
        drawn = torch.as_tensor(
            generator.choice(n, size=block, p=chances / total), device=left.device
        )
        known = factor[drawn, :k]
        remainder = operator.principal_block(drawn) - known @ known.mT
        accepted, corner = _thin(
            remainder.numpy(force=True),
            chances[drawn.numpy(force=True)],
            SPENT * start[drawn].numpy(force=True),
            generator,
        )
        accepted, corner = accepted[: rank - k], corner[: rank - k, : rank - k]
        if not len(accepted):
            # Rounding alone was left of the first proposal.
            left[drawn[0]] = 0.0
            continue
        chosen = drawn[torch.as_tensor(accepted, device=left.device)]
        fresh = operator.columns(chosen)
        fresh.addmm_(factor[:, :k], factor[chosen, :k].mT, alpha=-1.0)
        triangle = torch.as_tensor(corner, device=left.device)
        fresh = torch.linalg.solve_triangular(triangle, fresh.mT, upper=False).mT
        stop = k + len(accepted)
        factor[:, k:stop] = fresh
        left = (left - fresh.square().sum(dim=1)).clamp_(min=0.0)
        left[chosen] = 0.0
        landmarks[k:stop] = chosen
        k = stop
    factor, landmarks = factor[:, :k], landmarks[:k]
    corner_of_all = (factor[landmarks] / operator.root_weight[landmarks, None]).tril()
    eigenvalues, rotation = _rotate(factor)
    return LowRank(
        factor[:, : len(eigenvalues)],
        eigenvalues,
        landmarks,
        corner_of_all,
        rotation,
        left,
    )


def _thin(
    remainder: np.ndarray,
    proposed: np.ndarray,
    spent: np.ndarray,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return which proposals are accepted, and the Cholesky factor of their block.

    A proposal drawn with chance `proposed` is accepted with the share of it that the
    accepted ones before it leave. A proposal drawn twice has nothing left.
    """
    size = len(remainder)
    columns = np.zeros((size, size))
    accepted: list[int] = []
    left = remainder.diagonal().copy()
    thresholds = generator.random(size) * proposed
    for i in range(size):
        if left[i] <= max(thresholds[i], spent[i]):
            continue
        a = len(accepted)
        column = remainder[:, i] - columns[:, :a] @ columns[i, :a]
        columns[:, a] = column / math.sqrt(left[i])
        left -= np.square(columns[:, a])
        accepted.append(i)
    rows = np.array(accepted, dtype=np.int64)
    return rows, np.tril(columns[rows, : len(rows)])


def _rotate(
    factor: Float[Tensor, "rows marks"],
) -> tuple[Float[Tensor, " rank"], Float[Tensor, "marks rank"]]:
    """Turn F into its left singular vectors, in place; return squares and rotation."""
    values, vectors = torch.linalg.eigh(factor.mT @ factor)
    values, vectors = values.flip(0), vectors.flip(1)
    # Below this the Gram matrix, whose condition is that of F squared, is rounding.
    floor = len(values) * torch.finfo(values.dtype).eps * values[0]
    kept = int((values > floor).sum())
    values, vectors = values[:kept], vectors[:, :kept].contiguous()
    scaled = vectors / values.sqrt()
    for part in factor.split(BLOCK_ROWS):
        part[:, :kept] = part @ scaled
    return values, vectors
