"""Kernel matrices of a network of infinite width, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skfunc._shapes import Float
from skfunc.infinite_width._kernel_block import KernelBlock, Pairs, RowVariances
from skfunc.infinite_width._layers_base import Layer
from skfunc.infinite_width._layers_networks import chain

# Numbers in a block: two or three of them stay in a core's cache; on a GPU a block
# must fill the device instead.
_BLOCK_NUMBERS = {"cpu": 2**17, "cuda": 2**25}


class KernelMatrices(NamedTuple):
    """The NNGP and the NTK of a network; None where not asked for."""

    nngp: Tensor | None
    ntk: Tensor | None


def kernel_matrices(
    net: Layer,
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
    net : Layer
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
    nets: Sequence[Layer],
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
    nets : sequence of Layer
        The networks.

    Returns
    -------
    list of KernelMatrices
        (nngp, ntk) of each network.
    """
    rows1 = _rows(X1, "X1", dtype, device)
    rows2 = None if X2 is None else _rows(X2, "X2", rows1.dtype, rows1.device)
    blocks = _blocks(nets, rows1, rows2, image_shape, kind, block_rows)
    n1, n2 = len(rows1), len(rows1 if rows2 is None else rows2)
    series = [
        KernelMatrices(
            rows1.new_empty(n1, n2) if kind != "ntk" else None,
            rows1.new_empty(n1, n2) if kind != "nngp" else None,
        )
        for _ in nets
    ]
    for first, second, parts in blocks:
        for matrices, block in zip(series, parts, strict=True):
            for whole, part in zip(matrices, (block.nngp, block.ntk), strict=True):
                if whole is None:
                    continue
                part = torch.zeros_like(block.nngp) if part is None else part
                whole[first, second] = part
                if rows2 is None and first != second:
                    whole[second, first] = part.mT
    return series


def kernel_blocks(
    net: Layer,
    X1,
    X2=None,
    *,
    image_shape: tuple[int, int, int] | None = None,
    kind: str = "both",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    block_rows: int | None = None,
) -> Iterator[tuple[slice, slice, KernelBlock]]:
    """Iterate over blocks of the kernel matrices, without storing them.

    The parameters are those of `kernel_matrices`. With X2=None only blocks on and above
    the diagonal are met.

    Yields
    ------
    tuple of (slice, slice, KernelBlock)
        Rows, columns, and the block, whose ``nngp`` and ``ntk`` are tensors that the
        caller may keep.
    """
    rows1 = _rows(X1, "X1", dtype, device)
    rows2 = None if X2 is None else _rows(X2, "X2", rows1.dtype, rows1.device)
    for first, second, blocks in _blocks(
        [net], rows1, rows2, image_shape, kind, block_rows
    ):
        yield first, second, blocks[0]


def kernel_diagonal(
    net: Layer,
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
    _, diagonals = _row_variances([net], rows, image_shape, True, block_rows)
    return diagonals[0]


def check_network(
    net: Layer, n_features: int, image_shape: tuple[int, int, int] | None
) -> tuple[int, ...]:
    """Return (height, width) of the input, or (); raise if the network cannot take it.

    Parameters
    ----------
    net : Layer
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
    if not isinstance(net, Layer):
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
    if output := net.output_shape(shape):
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


def _blocks(
    nets: Sequence[Layer],
    rows1: Tensor,
    rows2: Tensor | None,
    image_shape: tuple[int, int, int] | None,
    kind: str,
    block_rows: int | None,
) -> Iterator[tuple[slice, slice, list[KernelBlock]]]:
    """Iterate over blocks of pairs of rows, one block for each network."""
    for net in nets:
        check_network(net, rows1.shape[1], image_shape)
    if rows2 is not None and rows2.shape[1] != rows1.shape[1]:
        raise ValueError(
            f"X1 has {rows1.shape[1]} columns and X2 has {rows2.shape[1]}: both must "
            "have the same."
        )
    if kind not in ("both", "nngp", "ntk"):
        raise ValueError(f"kind={kind!r} is unknown; choose 'both', 'nngp' or 'ntk'.")
    tangent = kind != "nngp"
    same = rows2 is None
    first, diagonals = _row_variances(nets, rows1, image_shape, tangent, block_rows)
    second = first
    if rows2 is None:
        rows2 = rows1
    else:
        second, _ = _row_variances(nets, rows2, image_shape, tangent, block_rows)
    pairs = _input_pairs(nets, image_shape)
    units1, units2 = _units(rows1, image_shape), _units(rows2, image_shape)
    in_place = not (torch.is_grad_enabled() and _differentiated(nets, rows1, rows2))
    height, width = _block_shape(rows1, pairs, image_shape, block_rows)
    for i in range(0, len(rows1), height):
        some1 = slice(i, min(i + height, len(rows1)))
        for j in range(i if same else 0, len(rows2), width):
            some2 = slice(j, min(j + width, len(rows2)))
            coincident = same and i == j
            block = KernelBlock(
                _covariances(units1[..., some1, :], units2[..., some2, :], pairs),
                None,
                pairs,
                tangent=tangent,
                in_place=in_place,
                variances=(
                    first.rows(some1.start, some1.stop),
                    second.rows(some2.start, some2.stop),
                ),
                coincident=coincident,
            )
            if coincident and in_place:
                block.unit_diagonal(block.nngp).copy_(
                    units1[..., some1, :].square().mean(-1)
                )
            blocks = _propagate(nets, block)
            if coincident:
                # Rounding differs between (i, j) and (j, i).
                blocks = [
                    part.apply(lambda values: values.triu() + values.triu(1).mT)
                    for part in blocks
                ]
            if coincident and in_place:
                for part, exact in zip(blocks, diagonals, strict=True):
                    for values, whole in zip((part.nngp, part.ntk), exact, strict=True):
                        if values is not None and whole is not None:
                            values.diagonal().copy_(whole[some1])
            yield some1, some2, blocks


def _propagate(nets: Sequence[Layer], block: KernelBlock) -> list[KernelBlock]:
    """Return the block after each of the networks."""
    chains = {position: chain(net) for position, net in enumerate(nets)}
    ends = dict(_walk(chains, block))
    return [ends[position] for position in range(len(nets))]


def _walk(
    chains: dict[int, tuple[Layer, ...]], block: KernelBlock
) -> Iterator[tuple[int, KernelBlock]]:
    """Take the block up the tree of chains of layers; yield it where chains end."""
    branches: list[tuple[Layer, dict[int, tuple[Layer, ...]]]] = []
    for position, layers in chains.items():
        if not layers:
            yield position, block.copy() if len(chains) > 1 else block
            continue
        layer, rest = layers[0], layers[1:]
        for other, others in branches:
            if other == layer:
                others[position] = rest
                break
        else:
            branches.append((layer, {position: rest}))
    for branch, (layer, rest_of) in enumerate(branches):
        above = max(_pairs_below(rest) for rest in rest_of.values())
        part = block if branch == len(branches) - 1 else block.copy()
        part = part.restrict(layer._pairs_below(above))
        yield from _walk(rest_of, layer._propagate(part, above))


def _pairs_below(layers: tuple[Layer, ...]) -> Pairs:
    """Return the pairs of pixels that a chain of layers reads."""
    pairs = Pairs.NONE
    for layer in reversed(layers):
        pairs = layer._pairs_below(pairs)
    return pairs


def _input_pairs(
    nets: Sequence[Layer], image_shape: tuple[int, int, int] | None
) -> Pairs:
    """Return the pairs of pixels of the input that the networks read."""
    if image_shape is None:
        return Pairs.NONE
    return max(_pairs_below(chain(net)) for net in nets)


def _row_variances(
    nets: Sequence[Layer],
    rows: Tensor,
    image_shape: tuple[int, int, int] | None,
    tangent: bool,
    block_rows: int | None,
) -> tuple[RowVariances, list[KernelMatrices]]:
    """Pair each row with itself: variances below each layer, and both kernels."""
    if block_rows is not None and block_rows < 1:
        raise ValueError(f"block_rows={block_rows!r} must be positive.")
    pairs = _input_pairs(nets, image_shape)
    units = _units(rows, image_shape)
    in_place = not (torch.is_grad_enabled() and _differentiated(nets, rows))
    numbers = _numbers_per_pair(pairs, image_shape)
    step = block_rows or max(_block_numbers(rows) // numbers, 1)
    entries: list[list[Tensor]] = []
    parts: list[list[KernelBlock]] = []
    for i in range(0, max(len(rows), 1), step):
        some = units[..., i : i + step, :]
        recorded = RowVariances([])
        if pairs is Pairs.ALL:
            nngp = (some[:, None, :, None] * some[None, :, None]).mean(-1)
        else:
            nngp = some.square().mean(-1)
        block = KernelBlock(
            nngp,
            None,
            pairs,
            tangent=tangent,
            in_place=in_place,
            recorded=recorded,
            coincident=True,
        )
        parts.append(_propagate(nets, block))
        entries.append(recorded.entries)
    joined = [torch.cat(layer, dim=-1) for layer in zip(*entries, strict=True)]
    diagonals = []
    for blocks in zip(*parts, strict=True):
        nngp = torch.cat([part.nngp for part in blocks])
        ntks = [
            torch.zeros_like(part.nngp) if part.ntk is None else part.ntk
            for part in blocks
        ]
        diagonals.append(KernelMatrices(nngp, torch.cat(ntks) if tangent else None))
    return RowVariances(joined), diagonals


def _units(
    rows: Tensor, image_shape: tuple[int, int, int] | None
) -> Float[Tensor, "*pixels rows channels"]:
    """Return the input's units, pixels first."""
    if image_shape is None:
        return rows
    return rows.reshape(-1, *image_shape).permute(2, 3, 0, 1).contiguous()


def _covariances(units1: Tensor, units2: Tensor, pairs: Pairs) -> Tensor:
    """Return the means of products over channels of pairs of rows."""
    scale = 1.0 / units1.shape[-1]
    if pairs is Pairs.ALL:
        units1 = units1[:, None, :, None]
        units2 = units2[None, :, None]
    return torch.matmul(units1 * scale, units2.mT)


def _numbers_per_pair(pairs: Pairs, image_shape: tuple[int, int, int] | None) -> int:
    """Return how many numbers a block holds for each pair of rows."""
    return 1 if image_shape is None else math.prod(image_shape[1:]) ** (pairs // 2)


def _block_numbers(rows: Tensor) -> int:
    """Return how many numbers a block should hold on the data's device."""
    return _BLOCK_NUMBERS.get(rows.device.type, _BLOCK_NUMBERS["cuda"])


def _block_shape(
    rows: Tensor,
    pairs: Pairs,
    image_shape: tuple[int, int, int] | None,
    block_rows: int | None,
) -> tuple[int, int]:
    """Return rows and columns of a block."""
    if block_rows is not None:
        return block_rows, block_rows
    numbers = _block_numbers(rows) / _numbers_per_pair(pairs, image_shape)
    side = max(int(math.sqrt(numbers)), 1)
    return side, side


def _differentiated(nets: Sequence[Layer], *rows: Tensor) -> bool:
    """Return whether a derivative may pass through the kernel.

    Standard deviations given as tensors say so: forward-mode tangents show no
    ``requires_grad``.
    """
    return any(part.requires_grad for part in rows) or any(
        isinstance(value, Tensor) for net in nets for value in _values(net)
    )


def _values(net: Layer) -> Iterator[object]:
    """Iterate over the fields of a network and of the layers in it."""
    for value in vars(net).values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Layer):
                yield from _values(item)
            else:
                yield item
