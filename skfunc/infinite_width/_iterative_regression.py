"""Regression past memory: factor, ridge, conjugate gradients and variances in one."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from skfunc.infinite_width._inference_scores import LeaveOneOut, check_targets
from skfunc.infinite_width._iterative_cg import (
    WORKING_BLOCKS,
    ConjugateGradientSolution,
    SolverReport,
    safe_ridge,
)
from skfunc.infinite_width._iterative_leave_one_out import (
    grouped_leave_one_out,
    local_leave_one_out,
    ridge_of_subset,
    sample_rows,
)
from skfunc.infinite_width._iterative_nystrom import NystromSolution, features_product
from skfunc.infinite_width._iterative_operator import KernelOperator
from skfunc.infinite_width._iterative_preconditioner import (
    TEMPORARIES,
    default_rank,
    pivoted_cholesky,
)
from skfunc.infinite_width._iterative_spread import N_NEIGHBORS, PosteriorSpread
from skfunc.infinite_width._layers_base import Layer

Array = NDArray[np.float64]


class IterativeSolution:
    """Ridge regression in the kernel of a network, in bounded memory, at t = inf.

    A randomly pivoted Cholesky factor is the preconditioner of conjugate gradients
    (``solver="cg"``), or is the model itself (``solver="nystrom"``).

    Parameters
    ----------
    net : Layer
        The network.
    X : array-like of shape (n_samples, n_features)
        Rows.
    targets : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets, centred by the caller.
    ridges : float or array-like of shape (n_ridges,)
        The ridge, or candidates among which `selection` chooses.
    solver : {"cg", "nystrom"}, default="cg"
        How coefficients are computed.
    selection : {"lml", "loo"}, default="lml"
        Score of the ridge: of the Nystrom features where they are the model, else of
        an exact solution for part of the rows, as `ridge_of_subset`.
    kind : {"ntk", "nngp"}, default="ntk"
        Which kernel.
    image_shape : tuple of int (channels, height, width), default=None
        The images' shape; None for plain vectors.
    sample_weight : array-like of shape (n_samples,), default=None
        Positive weights.
    max_memory : int, default=None
        Bytes for factor, vectors and tiles; None for no limit.
    rank : int, default=None
        Landmarks; None for what suits rows and memory.
    tol, max_iter
        As `ConjugateGradientSolution`.
    n_neighbors : int, default=512
        As `PosteriorSpread`.
    dtype : torch.dtype, default=torch.float32
        Type of the tiles.
    device : torch.device or str, default="cpu"
        Where everything lives.
    random_state : int, default=0
        Seed of landmarks and of parts of the rows.

    Attributes
    ----------
    ridge : float
        The ridge used.
    alphas : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Dual coefficients.
    low_rank : LowRank
        The factor.
    report : SolverReport or None
        What conjugate gradients did; None without them.

    Raises
    ------
    ValueError
        On bad input, or when the memory holds not even the vectors.

    Examples
    --------
    >>> import numpy as np
    >>> from skfunc.infinite_width import layers as L
    >>> from skfunc.infinite_width._iterative_regression import IterativeSolution
    >>> X = np.random.default_rng(0).normal(size=(400, 2))
    >>> y = np.sin(X[:, 0])
    >>> net = L.Serial(L.Dense(1.5, 0.1), L.Relu(), L.Dense())
    >>> solution = IterativeSolution(net, X, y, [1e-3, 1e-2], max_memory=2**24)
    >>> bool(abs(solution.mean(X[:5]) - y[:5]).max() < 0.05)
    True
    """

    def __init__(
        self,
        net: Layer,
        X: ArrayLike | Tensor,
        targets: ArrayLike,
        ridges: ArrayLike,
        *,
        solver: str = "cg",
        selection: str = "lml",
        kind: str = "ntk",
        image_shape: tuple[int, int, int] | None = None,
        sample_weight: ArrayLike | None = None,
        max_memory: int | None = None,
        rank: int | None = None,
        tol: float = 1e-4,
        max_iter: int = 500,
        n_neighbors: int = N_NEIGHBORS,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        random_state: int = 0,
    ):
        if selection not in ("lml", "loo"):
            raise ValueError(
                f"selection={selection!r} is unknown; choose 'lml' or 'loo'."
            )
        if solver not in ("cg", "nystrom"):
            raise ValueError(f"solver={solver!r} is unknown; choose 'cg' or 'nystrom'.")
        rows = torch.as_tensor(X, dtype=torch.float64)
        n = len(rows)
        targets = check_targets(targets, n)
        rank = rank or default_rank(n, max_memory)
        columns = targets.size // n
        self.operator = KernelOperator(
            net,
            rows,
            kind=kind,
            image_shape=image_shape,
            dtype=dtype,
            device=device,
            max_memory=_memory_of_tiles(max_memory, n, rank, columns),
            sample_weight=sample_weight,
        )
        self.low_rank = pivoted_cholesky(self.operator, rank, random_state=random_state)
        self._nystrom: NystromSolution | None = NystromSolution(
            self.operator, self.low_rank, targets
        )
        candidates = np.atleast_1d(np.asarray(ridges, dtype=np.float64))
        if len(candidates) == 1:
            ridge = float(candidates[0])
        elif solver == "cg":
            ridge = ridge_of_subset(
                self.operator,
                targets,
                candidates,
                score=selection,
                random_state=random_state,
            )
        else:
            ridge = self._nystrom.best_ridge(candidates, score=selection)
        self.ridge = safe_ridge(self.operator, ridge)
        self.report: SolverReport | None = None
        if solver == "cg":
            found = ConjugateGradientSolution(
                self.operator,
                targets,
                self.ridge,
                self.low_rank,
                tol=tol,
                max_iter=max_iter,
            )
            self.alphas, self.report = found.alphas, found.report
        else:
            self.alphas = self._nystrom.alphas(self.ridge)
        self.operator.release()
        self._coefficients = self._nystrom.coefficients(self.ridge)
        self._random_state = random_state
        self._uses_features = solver == "nystrom"
        self.spread = PosteriorSpread(
            self.operator, self.low_rank, self.ridge, n_neighbors=n_neighbors
        )

    def mean(self, X_test: ArrayLike) -> Array:
        """Return predictions, of shape (n_test,) or (n_test, n_outputs)."""
        shape = self.alphas.shape[1:]
        if self._uses_features:
            test = torch.as_tensor(
                X_test, dtype=torch.float64, device=self.operator.device
            )
            mean = features_product(
                self.operator, self.low_rank, test, self._coefficients
            )
        else:
            columns = self.alphas.reshape(len(self.alphas), -1)
            mean = self.operator.test_product(X_test, columns)
        array = mean.numpy(force=True)
        return array.reshape(len(array), *shape)

    def variance(self, X_test: ArrayLike) -> Array:
        """Return variances of the function, (n_test,); see `PosteriorSpread`."""
        return self.spread.variance(X_test)

    def covariance(self, X_test: ArrayLike) -> Array:
        """Return the covariance of the function, (n_test, n_test)."""
        return self.spread.covariance(X_test)

    def leave_one_out(self, n_rows: int | None = None) -> LeaveOneOut:
        """Return leave-one-out residuals and variances.

        Parameters
        ----------
        n_rows : int, default=None
            With conjugate gradients: None for all rows, each seen in the neighbourhood
            of its landmark, else so many rows drawn at random, each seen in its own
            neighbourhood.

        Returns
        -------
        LeaveOneOut
            Of all rows, or of `sample_rows(n_samples, n_rows, random_state)`.

        Raises
        ------
        RuntimeError
            With Nystrom features, after `compact`.
        """
        if self._uses_features:
            if self._nystrom is None:
                raise RuntimeError("leave_one_out must be asked for before compact")
            return self._nystrom.leave_one_out(self.ridge)
        if n_rows is None:
            return grouped_leave_one_out(
                self.operator, self.alphas, self.ridge, self.low_rank.landmarks
            )
        rows = sample_rows(len(self.alphas), n_rows, self._random_state)
        return local_leave_one_out(self.operator, self.alphas, self.ridge, rows)

    def compact(self) -> None:
        """Keep what predictions need: no matrix of n_samples x rank."""
        self.spread.prepare()
        self.low_rank = self.low_rank.without_basis()
        self.spread.low_rank = self.low_rank
        self._nystrom = None


def _memory_of_tiles(
    max_memory: int | None, n: int, rank: int, columns: int
) -> int | None:
    """Return what factor and vectors leave of the memory."""
    if max_memory is None:
        return None
    taken = int(8 * n * (rank * TEMPORARIES + WORKING_BLOCKS * columns))
    if taken >= max_memory:
        raise ValueError(
            f"max_memory={max_memory!r} bytes are too few for {n} rows, a factor of "
            f"rank {rank} and {columns} columns, which take {taken}"
        )
    return max_memory - taken
