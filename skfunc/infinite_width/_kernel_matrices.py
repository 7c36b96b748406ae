"""Kernel matrices of a network of infinite width, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from skfunc._shapes import Float
from skfunc.infinite_width._foreign import ForeignKernel
from skfunc.infinite_width._kernel_block import KernelBlock, Scratch
from skfunc.infinite_width._kernel_recursion import (
    KernelMatrices,
    blocks_of_pairs,
    row_variances,
)
from skfunc.infinite_width._layers_base import Layer


def kernel_matrices(
    net: Layer | ForeignKernel,
    X1,
    X2=None,
    *,
    image_shape: tuple[int, int, int] | None = None,
    kind: str = "both",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    block_rows: int | None = None,
) -> KernelMatrices:
    """Return the kernel matrices of all pairs of rows.

    Parameters
    ----------
    net : Layer or ForeignKernel
        The network.
    X1, X2 : array-like or Tensor of shape (n, n_features)
        Rows. X2=None stands for X1: then only the upper blocks are computed, and the
        diagonal comes from closed forms.
    image_shape : tuple of int (channels, height, width), default=None
        The images' shape; None for plain vectors.
    kind : {"both", "nngp", "ntk"}, default="both"
        What is stored; the NNGP alone also costs less.
    dtype : torch.dtype, default=None
        None for X1's own if it is a tensor, else float64.
    device : torch.device or str, default=None
        None for X1's own if it is a tensor, else the CPU.
    block_rows : int, default=None
        Rows and columns of a block; None for what suits the device.

    Returns
    -------
    KernelMatrices
        (nngp, ntk) of shape (n1, n2).
    """
    return kernel_series(
        [net],
        X1,
        X2,
        image_shape=image_shape,
        kind=kind,
        dtype=dtype,
        device=device,
        block_rows=block_rows,
    )[0]


def kernel_series(
    nets: Sequence[Layer | ForeignKernel],
    X1,
    X2=None,
    *,
    image_shape: tuple[int, int, int] | None = None,
    kind: str = "both",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    block_rows: int | None = None,
) -> list[KernelMatrices]:
    """Return the kernel matrices of several networks, shared first layers done once.

    So a scan over depths costs little more than the deepest network. The other
    parameters are those of `kernel_matrices`.

    Parameters
    ----------
    nets : sequence of Layer or ForeignKernel
        The networks.

    Returns
    -------
    list of KernelMatrices
        (nngp, ntk) of each network.
    """
    rows1 = _rows(X1, "X1", dtype, device)
    rows2 = None if X2 is None else _rows(X2, "X2", rows1.dtype, rows1.device)
    _check(nets, rows1, rows2, image_shape, kind)
    n1, n2 = len(rows1), len(rows1 if rows2 is None else rows2)
    series = [
        KernelMatrices(
            _empty(rows1, n1, n2) if kind != "ntk" else None,
            _empty(rows1, n1, n2) if kind != "nngp" else None,
        )
        for _ in nets
    ]
    native = [net for net in nets if isinstance(net, Layer)]
    of_natives = [
        whole for net, whole in zip(nets, series, strict=True) if isinstance(net, Layer)
    ]
    blocks = blocks_of_pairs(
        native, rows1, rows2, image_shape, kind, block_rows, keep=False
    )
    for first, second, parts in blocks if native else ():
        for matrices, block in zip(of_natives, parts, strict=True):
            part = _in_matrices(block, kind)
            _store(matrices, first, second, part, rows2 is None, block.scratch)
    for net, matrices in zip(nets, series, strict=True):
        if isinstance(net, ForeignKernel):
            for first, second, part in net.blocks(
                rows1, rows2, image_shape, kind, block_rows
            ):
                _store(matrices, first, second, part, rows2 is None, Scratch(False))
    return series


def kernel_blocks(
    net: Layer | ForeignKernel,
    X1,
    X2=None,
    *,
    image_shape: tuple[int, int, int] | None = None,
    kind: str = "both",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    block_rows: int | None = None,
) -> Iterator[tuple[slice, slice, KernelMatrices]]:
    """Iterate over blocks of the kernel matrices, without storing them.

    The parameters are those of `kernel_matrices`. With X2=None only blocks on and above
    the diagonal are met.

    Yields
    ------
    tuple of (slice, slice, KernelMatrices)
        Rows, columns, and the block of (nngp, ntk), which the caller may keep.
    """
    rows1 = _rows(X1, "X1", dtype, device)
    rows2 = None if X2 is None else _rows(X2, "X2", rows1.dtype, rows1.device)
    _check([net], rows1, rows2, image_shape, kind)
    if isinstance(net, ForeignKernel):
        yield from net.blocks(rows1, rows2, image_shape, kind, block_rows)
        return
    for first, second, blocks in blocks_of_pairs(
        [net], rows1, rows2, image_shape, kind, block_rows, keep=True
    ):
        yield first, second, _in_matrices(blocks[0], kind)


def kernel_diagonal(
    net: Layer | ForeignKernel,
    X,
    *,
    image_shape: tuple[int, int, int] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    block_rows: int | None = None,
) -> KernelMatrices:
    """Return the kernels of each row with itself, without the matrix.

    The parameters are those of `kernel_matrices`.

    Returns
    -------
    KernelMatrices
        (nngp, ntk) of shape (n,).
    """
    rows = _rows(X, "X", dtype, device)
    check_network(net, rows.shape[1], image_shape)
    if isinstance(net, ForeignKernel):
        return net.diagonal(rows, image_shape)
    _, diagonals = row_variances([net], rows, image_shape, True, block_rows)
    return diagonals[0]


def check_network(
    net: Layer | ForeignKernel,
    n_features: int,
    image_shape: tuple[int, int, int] | None,
) -> tuple[int, ...]:
    """Return (height, width) of the input, or (); raise if the network cannot take it.

    Parameters
    ----------
    net : Layer or ForeignKernel
        The network.
    n_features : int
        Columns of the data.
    image_shape : tuple of int or None
        (channels, height, width).

    Returns
    -------
    tuple of int
        (height, width), () for vectors.
    """
    if not isinstance(net, (Layer, ForeignKernel)):
        raise TypeError(
            f"{net!r} is not a network; build one from skfunc.infinite_width.layers."
        )
    shape: tuple[int, ...] = ()
    if image_shape is not None:
        if len(image_shape) != 3 or any(size < 1 for size in image_shape):
            raise ValueError(
                f"image_shape={image_shape!r} must be three positive integers, "
                "(channels, height, width)."
            )
        if math.prod(image_shape) != n_features:
            raise ValueError(
                f"image_shape={tuple(image_shape)} has {math.prod(image_shape)} values "
                f"and the rows have {n_features}."
            )
        shape = tuple(image_shape[1:])
    if isinstance(net, Layer) and (output := net.output_shape(shape)):
        raise ValueError(
            f"The network ends in images of {output}: end it in Flatten() or "
            "GlobalAvgPool(), and Dense()."
        )
    return shape


def _rows(
    X, name: str, dtype: torch.dtype | None, device: torch.device | str | None
) -> Float[Tensor, "rows features"]:
    """Return the data as a tensor; raise if it is no finite matrix."""
    if not isinstance(X, Tensor):
        X = torch.from_numpy(np.array(X, dtype=np.float64))
    elif not X.is_floating_point():
        X = X.to(torch.float64)
    X = X.to(device=device, dtype=dtype)
    if X.dim() != 2 or X.shape[1] == 0:
        raise ValueError(
            f"{name} has the shape {tuple(X.shape)}; pass (n_samples, n_features) with "
            "at least one column."
        )
    finite = torch.isfinite(X).all(dim=1)
    if not finite.all():
        bad = int(torch.nonzero(~finite)[0, 0])
        raise ValueError(f"{name} has NaN or infinity in row {bad}.")
    return X


def _in_matrices(block: KernelBlock, kind: str) -> KernelMatrices:
    """Return what is wanted of a block; an NTK that no weight has met is zero."""
    ntk = block.ntk
    if kind == "nngp":
        ntk = None
    elif ntk is None:
        ntk = torch.zeros_like(block.nngp)
    return KernelMatrices(block.nngp if kind != "ntk" else None, ntk)


def _empty(rows: Tensor, n1: int, n2: int) -> Tensor:
    """Return memory for a matrix.

    NumPy asks the system for large pages, which a matrix fills four times as quickly.
    """
    if rows.device.type != "cpu":
        return rows.new_empty(n1, n2)
    name = str(rows.dtype).removeprefix("torch.")
    return torch.from_numpy(np.empty((n1, n2), dtype=name))


def _store(
    matrices: KernelMatrices,
    first: slice,
    second: slice,
    parts: KernelMatrices,
    mirrored: bool,
    scratch: Scratch,
) -> None:
    """Write a block to its place and, if mirrored, to the place across the diagonal."""
    for whole, part in zip(matrices, parts, strict=True):
        if whole is None or part is None:
            continue
        whole[first, second] = part
        if mirrored and first != second:
            # Into memory without gaps torch transposes tile by tile.
            memory = scratch.like("mirror", part.mT)
            whole[second, first] = part.mT if memory is None else memory.copy_(part.mT)


def _check(
    nets: Sequence[Layer | ForeignKernel],
    rows1: Tensor,
    rows2: Tensor | None,
    image_shape: tuple[int, int, int] | None,
    kind: str,
) -> None:
    """Raise unless the networks can take the rows."""
    for net in nets:
        check_network(net, rows1.shape[1], image_shape)
    if rows2 is not None and rows2.shape[1] != rows1.shape[1]:
        raise ValueError(
            f"X1 has {rows1.shape[1]} columns and X2 has {rows2.shape[1]}: both must "
            "have the same."
        )
    if kind not in ("both", "nngp", "ntk"):
        raise ValueError(f"kind={kind!r} is unknown; choose 'both', 'nngp' or 'ntk'.")
