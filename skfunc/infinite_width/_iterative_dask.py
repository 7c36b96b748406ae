"""Kernel matrices as dask arrays, one task a block, for clusters of machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from skfunc.infinite_width._kernel_matrices import check_network, kernel_matrices
from skfunc.infinite_width._layers_base import Layer

if TYPE_CHECKING:
    import dask.array as da


def kernel_dask(
    net: Layer,
    X1: ArrayLike,
    X2: ArrayLike | None = None,
    *,
    kind: str = "ntk",
    image_shape: tuple[int, int, int] | None = None,
    dtype: Any = np.float64,
    block_rows: int = 4096,
) -> da.Array:
    """Return the kernel matrix of a network as a dask array, computed block by block.

    Nothing is computed before dask is asked for it. With X2=None, blocks below the
    diagonal are transposes of those above, which dask computes once as long as it
    holds them.

    Parameters
    ----------
    net : Layer
        The network.
    X1, X2 : array-like of shape (n, n_features)
        Rows. X2=None stands for X1.
    kind : {"ntk", "nngp"}, default="ntk"
        Which kernel.
    image_shape : tuple of int (channels, height, width), default=None
        The images' shape; None for plain vectors.
    dtype : numpy dtype, default=float64
        float32 or float64, of the computation and of the result.
    block_rows : int, default=4096
        Rows and columns of a block.

    Returns
    -------
    dask.array.Array of shape (n1, n2)
        The matrix. ``(kernel_dask(net, X) @ V).compute()`` is a product that holds no
        more than a few blocks a worker.

    Raises
    ------
    ImportError
        If dask is not installed.
    ValueError
        On an unknown kind, another dtype, or rows that the network cannot take.

    Examples
    --------
    >>> import numpy as np
    >>> from skfunc.infinite_width import layers as L
    >>> from skfunc.infinite_width._iterative_dask import kernel_dask
    >>> X = np.random.default_rng(0).normal(size=(10, 3))
    >>> net = L.Serial(L.Dense(), L.Relu(), L.Dense())
    >>> kernel = kernel_dask(net, X, block_rows=4)
    >>> kernel.numblocks
    (3, 3)
    >>> bool(np.allclose(kernel.compute(scheduler="sync"), net.kernel(X)))
    True
    """
    try:
        import dask
        import dask.array as da
    except ImportError as error:
        raise ImportError(
            "kernel_dask needs dask: pip install 'skfunc[dask]'"
        ) from error
    if kind not in ("ntk", "nngp"):
        raise ValueError(f"kind={kind!r} is unknown; choose 'ntk' or 'nngp'.")
    dtype = np.dtype(dtype)
    if dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype={dtype} is no float32 or float64")
    if block_rows < 1:
        raise ValueError(f"block_rows={block_rows!r} must be positive.")
    rows1 = np.asarray(X1, dtype=dtype)
    rows2 = rows1 if X2 is None else np.asarray(X2, dtype=dtype)
    for name, rows in (("X1", rows1), ("X2", rows2)):
        if rows.ndim != 2 or not rows.size:
            raise ValueError(f"{name} has the shape {rows.shape}; it needs two axes")
        check_network(net, rows.shape[1], image_shape)
    # Rows travel to a worker once, not with every block that reads them.
    parts1 = [dask.delayed(part, pure=False) for part in _parts(rows1, block_rows)]
    parts2 = parts1
    if X2 is not None:
        parts2 = [dask.delayed(part, pure=False) for part in _parts(rows2, block_rows)]
    block = dask.delayed(_block, pure=False)
    grid: list[list[da.Array]] = []
    for i, first in enumerate(parts1):
        line = []
        for j, second in enumerate(parts2):
            if X2 is None and j < i:
                line.append(grid[j][i].T)
                continue
            same = X2 is None and i == j
            task = block(net, first, None if same else second, kind, image_shape)
            shape = (
                min(block_rows, len(rows1) - i * block_rows),
                min(block_rows, len(rows2) - j * block_rows),
            )
            line.append(da.from_delayed(task, shape=shape, dtype=dtype))
        grid.append(line)
    return da.block(grid)


def _parts(rows: NDArray[Any], block_rows: int) -> list[NDArray[Any]]:
    return [rows[i : i + block_rows] for i in range(0, len(rows), block_rows)]


def _block(
    net: Layer,
    first: NDArray[Any],
    second: NDArray[Any] | None,
    kind: str,
    image_shape: tuple[int, int, int] | None,
) -> NDArray[Any]:
    """Return one block, on a worker."""
    matrices = kernel_matrices(
        net,
        torch.tensor(first),
        None if second is None else torch.tensor(second),
        image_shape=image_shape,
        kind=kind,
    )
    return getattr(matrices, kind).numpy(force=True)
