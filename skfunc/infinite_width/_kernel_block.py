"""Covariances between the units of a layer, for a block of pairs of rows.

A block holds the NNGP covariance and the NTK of one layer. Its axes are those of the
layer's pixels, then those of the rows, so that a convolution shifts outer axes and
leaves long contiguous runs inside:

==================  =============================  ==========================
pixel pairs         two sets of rows               each row with itself
==================  =============================  ==========================
none (vectors)      ``(rows1, rows2)``             ``(rows,)``
``(p, p)`` only     ``(h, w, rows1, rows2)``       ``(h, w, rows)``
all ``(p, q)``      ``(h, h', w, w', r1, r2)``     ``(h, h', w, w', rows)``
==================  =============================  ==========================
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum

import torch
from torch import Tensor

from skfunc._shapes import Float


class Pairs(IntEnum):
    """Which pairs of pixels a block holds; the number of its pixel axes."""

    NONE = 0
    SAME = 2
    ALL = 4


@dataclass
class RowVariances:
    """Variances of each row's units before every layer that asks for them.

    They are recorded while each row is paired with itself, in the order in which the
    layers are met, and read in that order by every block of two sets of rows.
    """

    entries: list[Float[Tensor, "*pixels rows"]]

    def rows(self, start: int, stop: int) -> Iterator[Float[Tensor, "*pixels rows"]]:
        """Iterate over the layers' variances of the rows from start to stop."""
        return (entry[..., start:stop] for entry in self.entries)


class Scratch:
    """Memory that all blocks of one call use again.

    Fresh pages from the system cost more than the sums that are written to them.

    Parameters
    ----------
    in_place : bool, default=True
        Whether there is anything to use again: what is to be differentiated is kept,
        and every tensor is new.
    keep : bool, default=False
        Whether the kernels themselves are kept by the caller, and so are new.
    """

    def __init__(self, in_place: bool = True, keep: bool = False) -> None:
        self.in_place = in_place
        self._keep = keep
        self._slots: dict[str, Tensor] = {}
        self._claimed: set[str] = set()

    def next_block(self) -> None:
        """Free the kernels of the block before."""
        self._claimed.clear()

    def like(
        self, name: str, values: Tensor, shape: tuple[int, ...] | None = None
    ) -> Tensor | None:
        """Return memory for what is read before the layer ends; None if kept."""
        if not self.in_place:
            return None
        shape = tuple(values.shape) if shape is None else shape
        n = math.prod(shape)
        slot = self._slots.get(name)
        if slot is None or len(slot) < n:
            slot = self._slots[name] = values.new_empty(n)
        return slot[:n].view(shape)

    def claim(
        self, name: str, values: Tensor, shape: tuple[int, ...] | None = None
    ) -> Tensor | None:
        """Return memory for one of a block's kernels; None if it needs to be new."""
        if self._keep or name in self._claimed:
            return None
        self._claimed.add(name)
        return self.like(name, values, shape)

    def over(self, values: Tensor) -> Tensor | None:
        """Return the tensor itself if it may be written over, else None."""
        return values if self.in_place else None


@dataclass
class KernelBlock:
    """NNGP and NTK of one layer for a block of pairs of rows.

    Attributes
    ----------
    nngp : Tensor
        Covariances of the layer's units.
    ntk : Tensor or None
        Neural tangent kernel; None stands for zero.
    pairs : Pairs
        The pairs of pixels held.
    tangent : bool
        Whether the NTK is wanted.
    scratch : Scratch
        Memory for intermediate results, and whether tensors may be overwritten.
    recorded : RowVariances or None
        Where variances are recorded when each row is paired with itself; None in a
        block of two sets of rows.
    variances : tuple of two iterators
        The recorded variances of both sets of rows.
    coincident : bool
        Whether both sets are the same rows: the diagonal has a closed form.
    """

    nngp: Tensor
    ntk: Tensor | None
    pairs: Pairs
    tangent: bool = True
    scratch: Scratch = field(default_factory=Scratch)
    recorded: RowVariances | None = None
    variances: tuple[Iterator[Tensor], Iterator[Tensor]] | None = None
    coincident: bool = False

    @property
    def in_place(self) -> bool:
        """Whether the tensors may be overwritten: nothing is to be differentiated."""
        return self.scratch.in_place

    def unit_variances(self) -> tuple[Tensor, Tensor]:
        """Return the variances of both sets of units, one value per row and pixel."""
        if self.recorded is not None:
            variance = self.nngp if self.pairs < Pairs.ALL else diagonal(self.nngp)
            variance = variance.clone()
            self.recorded.entries.append(variance)
            return variance, variance
        assert self.variances is not None
        return next(self.variances[0]), next(self.variances[1])

    def broadcast(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return values per row and pixel, with axes that pair as the block does."""
        if self.pairs is Pairs.ALL:
            first = first.unsqueeze(1).unsqueeze(3)
            second = second.unsqueeze(0).unsqueeze(2)
        if self.recorded is None:
            first, second = first.unsqueeze(-1), second.unsqueeze(-2)
        return first, second

    def unit_diagonal(self, values: Tensor) -> Tensor:
        """Return the view of values where a unit is paired with itself."""
        if self.recorded is None:
            values = values.diagonal(dim1=-2, dim2=-1)
        return diagonal(values) if self.pairs is Pairs.ALL else values

    def affine(self, scale: float, shift: float) -> KernelBlock:
        """Return the block after weights and biases of variances scale and shift.

        k' = scale k + shift and t' = k' + scale t.
        """
        if not self.in_place:
            nngp = self.nngp * scale + shift
            ntk = nngp if self.ntk is None else self.ntk * scale + nngp
            return replace(self, nngp=nngp, ntk=ntk if self.tangent else None)
        moved = torch.tensor(shift, dtype=self.nngp.dtype)
        torch.add(moved, self.nngp, alpha=scale, out=self.nngp)
        if self.tangent and self.ntk is None:
            memory = self.scratch.claim("ntk", self.nngp)
            self.ntk = torch.empty_like(self.nngp) if memory is None else memory
            self.ntk.copy_(self.nngp)
        elif self.ntk is not None:
            torch.add(self.nngp, self.ntk, alpha=scale, out=self.ntk)
        return self

    def apply(self, function, pairs: Pairs | None = None) -> KernelBlock:
        """Return the block after one linear map of both kernels."""
        ntk = None if self.ntk is None else function(self.ntk)
        pairs = self.pairs if pairs is None else pairs
        return replace(self, nngp=function(self.nngp), ntk=ntk, pairs=pairs)

    def restrict(self, pairs: Pairs) -> KernelBlock:
        """Return the block with no more pairs of pixels than asked for."""
        if self.pairs is Pairs.ALL and pairs is Pairs.SAME:
            return self.apply(lambda values: diagonal(values).contiguous(), pairs)
        return self

    def copy(self) -> KernelBlock:
        """Return a block whose tensors may be overwritten without changing this one."""
        return self.apply(torch.clone) if self.in_place else replace(self)

    def add(self, other: KernelBlock) -> KernelBlock:
        """Return the kernels of the sum of two independent branches."""
        if self.in_place:
            nngp = self.nngp.add_(other.nngp)
        else:
            nngp = self.nngp + other.nngp
        if self.ntk is None or other.ntk is None:
            ntk = other.ntk if self.ntk is None else self.ntk
        else:
            ntk = self.ntk + other.ntk
        return replace(self, nngp=nngp, ntk=ntk)


def diagonal(values: Tensor) -> Tensor:
    """Return the view of the pixel pairs (p, p): (h, h, w, w, ...) to (h, w, ...)."""
    by_height = values.diagonal(dim1=0, dim2=1)
    return by_height.diagonal(dim1=0, dim2=1).movedim((-2, -1), (0, 1))


@dataclass(frozen=True)
class Window:
    """The window of a convolution or of a pooling along one axis of an image."""

    size: int
    stride: int
    padding: str
    n: int

    @property
    def n_out(self) -> int:
        """The number of windows."""
        if self.padding == "SAME":
            return -(-self.n // self.stride)
        return (self.n - self.size) // self.stride + 1

    @property
    def margins(self) -> tuple[int, int]:
        """Zeros before and after: XLA's, which puts the odd one after."""
        if self.padding == "VALID":
            return 0, 0
        total = max((self.n_out - 1) * self.stride + self.size - self.n, 0)
        return total // 2, total - total // 2

    def slices(self, offset: int) -> tuple[slice, slice]:
        """Return the windows whose element `offset` is inside, and those elements."""
        shift = offset - self.margins[0]
        first = max(0, -(shift // self.stride))
        last = min(self.n_out - 1, (self.n - 1 - shift) // self.stride)
        inside = slice(first * self.stride + shift, last * self.stride + shift + 1)
        n_inside = max(last + 1 - first, 0)
        if n_inside == 0:
            return slice(0, 0), slice(0, 0)
        return slice(first, last + 1), slice(inside.start, inside.stop, self.stride)

    def sum(
        self, values: Tensor, axes: tuple[int, ...], out: Tensor | None = None
    ) -> Tensor:
        """Return sums over windows, with the same offset along all the axes given."""
        # The offset that no margin shifts is inside of every window.
        whole = self.margins[0]
        offsets = [offset for offset in range(self.size) if offset != whole]
        unshifted = values[self._boxes(whole, axes, values.dim())[1]]
        if out is None:
            total = unshifted.clone()
        else:
            total = out
            self._start(total, unshifted, values, axes, offsets)
            del offsets[:1]
        for offset in offsets:
            into, from_ = self._boxes(offset, axes, values.dim())
            total[into] += values[from_]
        return total

    def _start(
        self,
        total: Tensor,
        unshifted: Tensor,
        values: Tensor,
        axes: tuple[int, ...],
        offsets: list[int],
    ) -> None:
        """Write the sum over the unshifted offset and the first other one."""
        if not offsets:
            total.copy_(unshifted)
            return
        into, from_ = self._boxes(offsets[0], axes, values.dim())
        torch.add(unshifted[into], values[from_], out=total[into])
        # What the box leaves is its margins along one axis after the other.
        margin = [slice(None)] * values.dim()
        for axis in axes:
            for side in (slice(into[axis].start), slice(into[axis].stop, None)):
                margin[axis] = side
                total[tuple(margin)] = unshifted[tuple(margin)]
            margin[axis] = into[axis]

    def _boxes(
        self, offset: int, axes: tuple[int, ...], n_axes: int
    ) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Return `slices` along the axes given, and all of the others."""
        targets, sources = [slice(None)] * n_axes, [slice(None)] * n_axes
        for axis in axes:
            targets[axis], sources[axis] = self.slices(offset)
        return tuple(targets), tuple(sources)

    def shape(self, values: Tensor, axes: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of sums over windows."""
        return tuple(
            self.n_out if axis in axes else size
            for axis, size in enumerate(values.shape)
        )
