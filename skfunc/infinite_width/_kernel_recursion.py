"""Blocks of the kernels of networks of infinite width: the recursion over layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from skfunc._shapes import Float
from skfunc.infinite_width._kernel_block import (
    KernelBlock,
    Pairs,
    RowVariances,
    Scratch,
)
from skfunc.infinite_width._layers_base import Layer
from skfunc.infinite_width._layers_networks import chain

# Numbers in a block: a block and what is made of it stay in a core's caches; on a GPU
# a block must fill the device instead.
_BLOCK_NUMBERS = {"cpu": 2**18, "cuda": 2**25}
# Columns of a block over its rows. Images leave few rows to a block, and the runs of
# memory in which variances of rows meet those of columns are as long as its columns;
# and the flatter a block, the less of a square on the diagonal is computed twice.
_ELONGATION = 4.0


class KernelMatrices(NamedTuple):
    """The NNGP and the NTK of a network; None where not asked for."""

    nngp: Tensor | None
    ntk: Tensor | None


def blocks_of_pairs(
    nets: Sequence[Layer],
    rows1: Tensor,
    rows2: Tensor | None,
    image_shape: tuple[int, int, int] | None,
    kind: str,
    block_rows: int | None,
    keep: bool,
) -> Iterator[tuple[slice, slice, list[KernelBlock]]]:
    """Iterate over blocks of pairs of rows, one block for each network.

    Parameters
    ----------
    nets : sequence of Layer
        The networks, checked.
    rows1, rows2 : Tensor of shape (n, n_features)
        Rows; None stands for the first and for blocks on and above the diagonal alone.
    image_shape : tuple of int (channels, height, width) or None
        The images' shape.
    kind : {"both", "nngp", "ntk"}
        What is wanted.
    block_rows : int or None
        Rows and columns of a block; None for what suits the device.
    keep : bool
        Whether a block outlives the next one; if not, its memory is used again.

    Yields
    ------
    tuple of (slice, slice, list of KernelBlock)
        Rows, columns, and a block for each network.
    """
    tangent = kind != "nngp"
    same = rows2 is None
    first, diagonals = row_variances(nets, rows1, image_shape, tangent, block_rows)
    second = first
    if rows2 is None:
        rows2 = rows1
    else:
        second, _ = row_variances(nets, rows2, image_shape, tangent, block_rows)
    pairs = _input_pairs(nets, image_shape)
    units1, units2 = _units(rows1, image_shape), _units(rows2, image_shape)
    in_place = not _differentiated(nets, rows1, rows2)
    scratch = Scratch(in_place, keep)
    height, width = _block_shape(rows1, pairs, image_shape, block_rows)
    for i in range(0, len(rows1), height):
        some1 = slice(i, min(i + height, len(rows1)))
        for some2 in _columns(some1, len(rows2), width, same):
            coincident = same and some2 == some1
            scratch.next_block()
            block = KernelBlock(
                _covariances(
                    units1[..., some1, :], units2[..., some2, :], pairs, scratch
                ),
                None,
                pairs,
                tangent=tangent,
                scratch=scratch,
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


def row_variances(
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
    scratch = Scratch(not _differentiated(nets, rows))
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
            scratch=scratch,
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


def _covariances(
    units1: Tensor, units2: Tensor, pairs: Pairs, scratch: Scratch
) -> Tensor:
    """Return the means of products over channels of pairs of rows."""
    scaled = units1 * (1.0 / units1.shape[-1])
    if pairs is not Pairs.ALL:
        shape = (*scaled.shape[:-1], units2.shape[-2])
        return torch.matmul(scaled, units2.mT, out=scratch.claim("nngp", scaled, shape))
    # One large product, whose axes are then put in order.
    products = scaled.flatten(0, -2) @ units2.flatten(0, -2).mT
    products = products.view(*scaled.shape[:-1], *units2.shape[:-1])
    products = products.permute(0, 3, 1, 4, 2, 5)
    memory = scratch.claim("nngp", scaled, tuple(products.shape))
    return products.contiguous() if memory is None else memory.copy_(products)


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
    height = max(int(math.sqrt(numbers / _ELONGATION)), 1)
    return height, max(int(numbers / height), 1)


def _columns(rows: slice, n: int, width: int, same: bool) -> Iterator[slice]:
    """Iterate over the columns of blocks; a block on the diagonal is a square."""
    if same:
        yield rows
    for start in range(rows.stop if same else 0, n, width):
        yield slice(start, min(start + width, n))


def _differentiated(nets: Sequence[Layer], *rows: Tensor) -> bool:
    """Return whether a derivative may pass through the kernel.

    Standard deviations given as tensors say so: forward-mode tangents show no
    ``requires_grad``.
    """
    return (
        (torch.is_grad_enabled() and any(part.requires_grad for part in rows))
        or any(forward_ad.unpack_dual(part).tangent is not None for part in rows)
        or any(isinstance(value, Tensor) for net in nets for value in _values(net))
    )


def _values(net: Layer) -> Iterator[object]:
    """Iterate over the fields of a network and of the layers in it."""
    for value in vars(net).values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Layer):
                yield from _values(item)
            else:
                yield item
