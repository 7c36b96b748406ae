"""A kernel matrix as a linear operator: tiles kept to a limit, the rest made anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from skfunc._shapes import Float, Int
from skfunc.infinite_width._kernel_matrices import kernel_diagonal, kernel_matrices
from skfunc.infinite_width._layers_base import Layer
from skfunc.infinite_width._spectrum import check_weights

Array = NDArray[np.float64]

# A tile of float32 on a CPU fills 2 MB, so that its second use, transposed, finds it
# in the cache. It is two blocks of the kernel's recursion wide. On other devices a
# tile must fill the device.
TILE_ROWS = {"cpu": 724}
TILE_ROWS_OF_DEVICES = 4096
SMALLEST_TILE = 32

# Tiles that exist beside the kept ones: the one at work, its float64 copy, and what
# the kernel's recursion holds.
WORKING_TILES = 4

# Numbers of float64 kernels with all rows at a time, where neighbours are sought.
NEIGHBOR_NUMBERS = 2**22


class KernelOperator:
    r"""The matrix :math:`S = W^{1/2} G W^{1/2}` of a network, never held as a whole.

    G is the NNGP or NTK of n rows and W the diagonal of weights. Only tiles on and
    above the diagonal are computed. As many as `max_memory` allows are kept after the
    first product, the others are computed again for every product.

    Parameters
    ----------
    net : Layer
        The network.
    X : array-like of shape (n_samples, n_features)
        Rows.
    kind : {"ntk", "nngp"}, default="ntk"
        Which kernel.
    image_shape : tuple of int (channels, height, width), default=None
        The images' shape; None for plain vectors.
    dtype : torch.dtype, default=torch.float32
        Type in which tiles are computed, kept and multiplied. Sums over tiles are in
        float64.
    device : torch.device or str, default="cpu"
        Where tiles live.
    max_memory : int, default=None
        Bytes of all tiles, kept or at work; None keeps every tile.
    sample_weight : array-like of shape (n_samples,), default=None
        Positive weights.
    tile_rows : int, default=None
        Rows and columns of a tile; None for what suits device and memory.

    Attributes
    ----------
    shape : tuple of int
        (n_samples, n_samples).
    stored_bytes : int
        Bytes of tiles that are kept now.
    weight, root_weight : Tensor of shape (n_samples,)
        The diagonals of W and of its root, float64.
    n_products : int
        Products with the whole matrix so far.

    Raises
    ------
    ValueError
        On data or weights that are not finite, an unknown kind, or a limit of memory
        below the smallest tile.

    Examples
    --------
    >>> import numpy as np
    >>> from skfunc.infinite_width import layers as L
    >>> from skfunc.infinite_width._iterative_operator import KernelOperator
    >>> net = L.Serial(L.Dense(), L.Relu(), L.Dense())
    >>> X = np.random.default_rng(0).normal(size=(100, 3))
    >>> operator = KernelOperator(net, X, max_memory=2**20)
    >>> bool(np.allclose(operator @ np.ones(100), net.kernel(X).sum(1), rtol=1e-5))
    True
    """

    def __init__(
        self,
        net: Layer,
        X: ArrayLike | Tensor,
        *,
        kind: str = "ntk",
        image_shape: tuple[int, int, int] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        max_memory: int | None = None,
        sample_weight: ArrayLike | None = None,
        tile_rows: int | None = None,
    ):
        if kind not in ("ntk", "nngp"):
            raise ValueError(f"kind={kind!r} is unknown; choose 'ntk' or 'nngp'.")
        self.net, self.kind, self.image_shape = net, kind, image_shape
        self.dtype, self.device = dtype, torch.device(device)
        self.rows = torch.as_tensor(X, dtype=torch.float64, device=self.device)
        self._diagonal = getattr(
            kernel_diagonal(net, self.rows, image_shape=image_shape), kind
        )
        n = len(self.rows)
        self.shape = (n, n)
        self.weight = torch.as_tensor(
            check_weights(sample_weight, n), device=self.device
        )
        self.root_weight = self.weight.sqrt()
        self.max_memory = max_memory
        self.tile_rows = tile_rows or self._tile_rows()
        self._low_rows = self.rows.to(dtype)
        self._kept: dict[tuple[int, int], Tensor] = {}
        self.stored_bytes = 0
        self.n_products = 0

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without tiles, which are computed again when needed."""
        return vars(self) | {"_kept": {}, "stored_bytes": 0}

    def __matmul__(self, V: ArrayLike) -> Array:
        """Return S V in float64, for an array of shape (n,) or (n, k)."""
        array = np.asarray(V, dtype=np.float64)
        if array.ndim not in (1, 2) or len(array) != self.shape[0]:
            raise ValueError(
                f"the operator is of shape {self.shape} and was multiplied with an "
                f"array of shape {array.shape}"
            )
        columns = torch.as_tensor(array.reshape(len(array), -1), device=self.device)
        return self.product(columns).numpy(force=True).reshape(array.shape)

    def product(
        self, V: Float[Tensor, "rows columns"], *, exact: bool = False
    ) -> Float[Tensor, "rows columns"]:
        """Return S V in float64.

        Parameters
        ----------
        V : Tensor of shape (n_samples, k)
            Float64 columns.
        exact : bool, default=False
            Whether tiles are raised to float64 before they are multiplied. What is
            left is the rounding of their entries.

        Returns
        -------
        Tensor of shape (n_samples, k)
            The product.
        """
        self.n_products += 1
        V = self.root_weight[:, None] * V
        wide = exact or self.dtype == torch.float64
        factor = V if wide else V.to(self.dtype)
        out = torch.zeros_like(V)
        for first, second, tile in self._tiles():
            raised = tile.double() if wide else tile
            out[first] += raised @ factor[second]
            if first != second:
                out[second] += raised.mT @ factor[first]
        return out.mul_(self.root_weight[:, None])

    def test_product(
        self, X_test: ArrayLike | Tensor, V: ArrayLike | Tensor
    ) -> Float[Tensor, "test columns"]:
        """Return G(X_test, X) V in float64, without weights and without storing G.

        Parameters
        ----------
        X_test : array-like of shape (n_test, n_features)
            Rows.
        V : array-like of shape (n_samples, k)
            Columns, such as dual coefficients.

        Returns
        -------
        Tensor of shape (n_test, k)
            The product.
        """
        test = torch.as_tensor(X_test, device=self.device).to(self.dtype)
        factor = torch.as_tensor(V, dtype=torch.float64, device=self.device)
        out = torch.zeros(
            len(test), factor.shape[1], dtype=torch.float64, device=self.device
        )
        for i in range(0, len(test), self.tile_rows):
            some = slice(i, i + self.tile_rows)
            for second in self._slices():
                tile = self._kernel(test[some], self._low_rows[second])
                out[some] += tile.double() @ factor[second]
        return out

    def diagonal(self) -> Float[Tensor, " rows"]:
        """Return the diagonal of S in float64."""
        return self.weight * self._diagonal

    def columns(self, indices: Int[Tensor, " some"]) -> Float[Tensor, "rows some"]:
        """Return columns of S, computed in float64."""
        kernel = self._kernel(self.rows, self.rows[indices])
        return kernel.mul_(self.root_weight[:, None]).mul_(self.root_weight[indices])

    def principal_block(self, indices: Int[Tensor, " some"]) -> Float[Tensor, "a a"]:
        """Return the rows and columns `indices` of S, computed in float64."""
        rows = self.rows[indices]
        kernel = self._kernel(rows, rows)
        scale = self.root_weight[indices]
        kernel.mul_(scale[:, None]).mul_(scale)
        kernel.diagonal().copy_(self.diagonal()[indices])
        return 0.5 * (kernel + kernel.mT)

    def test_columns(
        self, X_test: ArrayLike | Tensor, indices: Int[Tensor, " some"]
    ) -> Float[Tensor, "test some"]:
        """Return G(X_test, X[indices]) in float64, without weights."""
        test = torch.as_tensor(X_test, dtype=torch.float64, device=self.device)
        return self._kernel(test, self.rows[indices])

    def neighbors(
        self, indices: Int[Tensor, " some"], size: int
    ) -> Int[Tensor, "some size"]:
        """Return the rows most correlated with each of some rows, nearest first.

        Parameters
        ----------
        indices : Tensor of int of shape (some,)
            Rows that neighbours are sought for.
        size : int
            How many neighbours, at most n_samples.

        Returns
        -------
        Tensor of int of shape (some, size)
            Neighbours, the row itself or copies of it among them.
        """
        norms = self._diagonal.sqrt()
        # A row of norm zero correlates with nothing.
        norms = torch.where(norms > 0, norms, torch.ones_like(norms))
        # Several at a time: a kernel of one column costs many times its share.
        step = max(NEIGHBOR_NUMBERS // self.shape[0], 1)
        nearest = [
            torch.topk(self._kernel(self.rows[some], self.rows) / norms, size).indices
            for some in indices.split(step)
        ]
        return torch.cat(nearest)

    def test_diagonal(self, X_test: ArrayLike | Tensor) -> Float[Tensor, " test"]:
        """Return the kernel of each test row with itself, in float64."""
        test = torch.as_tensor(X_test, dtype=torch.float64, device=self.device)
        diagonals = kernel_diagonal(self.net, test, image_shape=self.image_shape)
        return getattr(diagonals, self.kind)

    def working_bytes(self) -> int:
        """Return the bytes of tiles at work beside the kept ones."""
        return WORKING_TILES * self._tile_bytes(self.tile_rows)

    def release(self) -> None:
        """Forget all tiles."""
        self._kept.clear()
        self.stored_bytes = 0

    def _tile_bytes(self, side: int) -> int:
        return side * side * self.dtype.itemsize

    def _tile_rows(self) -> int:
        """Return the side of a tile; raise if not even a small one fits."""
        side = min(
            TILE_ROWS.get(self.device.type, TILE_ROWS_OF_DEVICES),
            max(self.shape[0], SMALLEST_TILE),
        )
        if self.max_memory is None:
            return side
        # Half of the memory is for tiles that are kept.
        while WORKING_TILES * self._tile_bytes(side) > self.max_memory // 2:
            if side == SMALLEST_TILE:
                need = 2 * WORKING_TILES * self._tile_bytes(side)
                raise ValueError(
                    f"max_memory={self.max_memory!r} bytes are too few; give at least "
                    f"{need}"
                )
            side = max(side // 2, SMALLEST_TILE)
        return side

    def _slices(self) -> list[slice]:
        n = self.shape[0]
        return [
            slice(i, min(i + self.tile_rows, n)) for i in range(0, n, self.tile_rows)
        ]

    def _tiles(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Iterate over the upper tiles; keep those that fit."""
        parts = self._slices()
        for i, first in enumerate(parts):
            for j in range(i, len(parts)):
                tile = self._kept.get((i, j))
                if tile is None:
                    tile = self._tile(first, None if i == j else parts[j])
                    self._keep((i, j), tile)
                yield first, parts[j], tile

    def _tile(self, first: slice, second: slice | None) -> Tensor:
        other = None if second is None else self._low_rows[second]
        return self._kernel(self._low_rows[first], other)

    def _keep(self, place: tuple[int, int], tile: Tensor) -> None:
        size = tile.numel() * tile.element_size()
        limit = self.max_memory
        if limit is None or self.stored_bytes + size + self.working_bytes() <= limit:
            self._kept[place] = tile
            self.stored_bytes += size

    def _kernel(self, rows1: Tensor, rows2: Tensor | None) -> Tensor:
        matrices = kernel_matrices(
            self.net, rows1, rows2, image_shape=self.image_shape, kind=self.kind
        )
        return getattr(matrices, self.kind)
