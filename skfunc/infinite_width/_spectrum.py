"""The eigendecomposition of a weighted kernel matrix, and functions of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgWarning, eigh

# Jitter starts at this fraction of the mean of the diagonal and grows tenfold. The
# start leaves half of the digits of float64 to the solution of a singular system.
JITTER_START = 1e-10
JITTER_STEPS = 10

# A matrix whose lowest eigenvalue is below minus this fraction of the largest one is
# no kernel with rounding errors, float32 included, but no kernel at all.
INDEFINITE = 1e-2

# Rows of eigenvectors that are squared at a time, so that no n x n temporary is made.
BLOCK_ROWS = 512


def jitters(scale: float) -> Iterator[float]:
    """Yield jitter in growing steps, for a matrix whose mean diagonal is `scale`."""
    scale = scale if scale > 0 else 1.0
    for step in range(JITTER_STEPS):
        yield JITTER_START * 10.0**step * scale


def warn_of_jitter(jitter: float, *, stacklevel: int) -> None:
    """Say that a ridge was raised for the sake of a singular matrix."""
    warnings.warn(
        f"the kernel matrix is singular to working precision; the ridge was raised to "
        f"{jitter:.3g}. Rows that repeat cause this: give a positive ridge, or "
        "merge the rows into one with a weight",
        LinAlgWarning,
        stacklevel=stacklevel + 1,
    )


def check_kernel_matrix(matrix: ArrayLike) -> NDArray[Any]:
    """Return a square array, or raise ValueError; its entries are checked later."""
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(
            f"kernel_matrix must be of shape (n_samples, n_samples); got {matrix.shape}"
        )
    return matrix


def check_weights(sample_weight: ArrayLike | None, n: int) -> NDArray[np.float64]:
    """Return positive float64 weights, ones by default, or raise ValueError."""
    if sample_weight is None:
        return np.ones(n)
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (n,):
        raise ValueError(
            f"sample_weight must be of shape ({n},), one weight a row of the kernel "
            f"matrix; got {weight.shape}"
        )
    if not (np.isfinite(weight).all() and (weight > 0).all()):
        raise ValueError(
            "sample_weight must be finite and positive; drop rows of weight zero first"
        )
    return weight


def check_nonnegative(name: str, values: ArrayLike, *, allow_inf: bool) -> NDArray:
    """Return a float64 array of numbers >= 0, or raise ValueError."""
    array = np.asarray(values, dtype=np.float64)
    good = (array >= 0) & (np.isfinite(array) | allow_inf)
    if not good.all():
        accepted = "inf or finite" if allow_inf else "finite"
        raise ValueError(
            f"{name} must be {accepted} and at least 0; got {array[~good].flat[0]}"
        )
    return array


def weighted_matrix(
    matrix: NDArray[Any], root_weight: NDArray[np.float64], *, overwrite: bool
) -> NDArray[np.float64]:
    """Return W^(1/2) G W^(1/2) in LAPACK's order of columns, in G's place if asked.

    G is symmetric, so that its transpose, which is in LAPACK's order when G is in
    numpy's, stands for it.
    """
    transposed = matrix.T if matrix.flags.c_contiguous else matrix
    in_place = overwrite and matrix.dtype == np.float64 and matrix.flags.writeable
    if not (in_place and transposed.flags.f_contiguous):
        transposed = np.array(transposed, dtype=np.float64, order="F")
    transposed *= root_weight
    transposed *= root_weight[:, None]
    if not np.isfinite(transposed).all():
        raise ValueError("kernel_matrix holds NaN or inf, or overflows when weighted")
    return transposed


def flow(x: NDArray[np.float64], steps: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Return :math:`(1 - e^{-x \tau}) / x`; its limit tau at x = 0."""
    x, tau = np.broadcast_arrays(x, steps)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(x > 0, -np.expm1(-x * tau) / x, tau)


class Spectrum:
    r"""Eigendecomposition of :math:`S = W^{1/2} G W^{1/2} = U \mathrm{diag}(s) U^T`.

    A row of integer weight w stands for w equal rows. With R the matrix that
    repeats rows, :math:`R^T R = W`, so :math:`R = Q W^{1/2}` with orthonormal columns
    Q, and for every function f of the matrix of repeated rows

    .. math:: R^T f(R G R^T) R = W^{1/2} f(S) W^{1/2}.

    Hence one decomposition of S serves every ridge and every training time, with
    weights as without: the ridge moves s and leaves U as it is.

    Parameters
    ----------
    kernel_matrix : array-like of shape (n_samples, n_samples)
        Symmetric positive semi-definite matrix G; one triangle is read. Decomposed in
        float64 whatever its dtype.
    sample_weight : array-like of shape (n_samples,), default=None
        Positive weights.
    overwrite : bool, default=False
        Whether the memory of `kernel_matrix` may be used.

    Attributes
    ----------
    eigenvalues : ndarray of shape (n_samples,)
        s, ascending; what rounding made negative is zero.
    eigenvectors : ndarray of shape (n_samples, n_samples)
        U.
    weight, root_weight : ndarray of shape (n_samples,)
        The diagonals of W and of its root.
    total_weight : float
        The number of rows that the weights stand for.

    Raises
    ------
    ValueError
        If the matrix is not square, not finite or far from positive semi-definite,
        or if a weight is not positive.
    """

    def __init__(
        self,
        kernel_matrix: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        overwrite: bool = False,
    ):
        matrix = check_kernel_matrix(kernel_matrix)
        n = len(matrix)
        self.weight = check_weights(sample_weight, n)
        self.root_weight = np.sqrt(self.weight)
        self.total_weight = float(self.weight.sum())
        S = weighted_matrix(matrix, self.root_weight, overwrite=overwrite)
        self._scale = float(np.trace(S)) / self.total_weight
        s, self.eigenvectors = eigh(S, overwrite_a=True, check_finite=False)
        lowest, largest = float(s[0]), float(max(s[-1], 0.0))
        if lowest < -INDEFINITE * largest or largest == 0 > lowest:
            raise ValueError(
                "kernel_matrix must be positive semi-definite; its eigenvalues range "
                f"from {lowest:.3g} to {s[-1]:.3g}"
            )
        self.eigenvalues = np.maximum(s, 0.0)
        eps = np.finfo(np.float64).eps
        # The error of an eigenvalue: of the decomposition, and as a negative one shows.
        self._error = max(n * eps * largest, -2 * lowest, np.finfo(np.float64).tiny)
        self._warned = False

    def safe_ridge(
        self,
        ridge: NDArray[np.float64],
        steps: NDArray[np.float64] | float = np.inf,
        *,
        repeats: bool = False,
    ) -> NDArray[np.float64]:
        r"""Return the ridges, raised where :math:`S + \lambda I` is singular.

        Training for `steps` = eta t / N touches no eigenvalue below 1 / `steps`, so
        that early times need no jitter. With `repeats`, a weight above one counts as
        rows that repeat, which make the matrix of all rows singular.
        """
        lowest = self.eigenvalues[0]
        if repeats and (self.weight > 1).any():
            lowest = 0.0
        singular = (ridge + lowest < self._error) & (steps > 1 / self._error)
        if not singular.any():
            return ridge
        for jitter in jitters(self._scale):
            if jitter + lowest >= 2 * self._error:
                break
        if not self._warned:
            self._warned = True
            warn_of_jitter(jitter, stacklevel=4)
        return np.where(singular, np.maximum(ridge, jitter), ridge)

    def response(
        self, ridge: NDArray[np.float64], steps: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        r"""Return :math:`\varphi(s) = (1 - e^{-(s + \lambda) \tau}) / (s + \lambda)`.

        tau is `steps`, eta t / N; inf gives :math:`1 / (s + \lambda)`. Shape
        (\*grid, n_samples), with the grid to which ridge and steps broadcast.
        """
        ridge = self.safe_ridge(ridge, steps)
        return flow(self.eigenvalues + ridge[..., None], steps[..., None])

    def residual_response(
        self, ridge: NDArray[np.float64], steps: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        r"""Return :math:`1 - s \varphi(s)`, what training leaves of a target."""
        ridge = self.safe_ridge(ridge, steps)[..., None]
        x, tau = np.broadcast_arrays(self.eigenvalues + ridge, steps[..., None])
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            left = (ridge + self.eigenvalues * np.exp(-x * tau)) / x
        return np.where(x > 0, left, 1.0)

    def diagonal(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        r"""Return the diagonals of :math:`U \mathrm{diag}(v) U^T`, (\*grid, n)."""
        n = len(self.eigenvalues)
        flat = values.reshape(-1, n).T
        out = np.empty((n, flat.shape[1]))
        for start in range(0, n, BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            out[rows] = np.square(self.eigenvectors[rows]) @ flat
        return out.T.reshape(values.shape)
