"""A Brownian path that is a function of a seed: queried at any time, never stored."""

from __future__ import annotations

import bisect
import math
import numbers
from collections.abc import Sequence

import torch
from torch import Tensor

from skfunc._shapes import Float

# A cell between two knots is halved at most so many times: a query is answered at the
# nearest multiple of the cell's length over 2 ** MAX_LEVEL.
MAX_LEVEL = 30
CELL_TICKS = 1 << MAX_LEVEL

# Increments of one cell's parts that are kept, as the parents of those asked for next.
KEPT_PARTS = 64

_MASK = (1 << 64) - 1


def mix(state: int, word: int) -> int:
    """Hash a word into a 64-bit state.

    The finalizer of SplitMix64 (Steele, Lea and Flood 2014, Fast splittable
    pseudorandom number generators, OOPSLA).
    """
    z = (state + 0x9E3779B97F4A7C15 * (word + 1)) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


class BrownianPath:
    r"""A Brownian path that its seed determines, with increments at any times.

    Nothing of the path is stored: an increment is computed from the seed whenever it is
    asked for, always with the same result, in whichever order.

    Parameters
    ----------
    shape : sequence of int
        Shape of the path's value at one time.
    knots : Tensor or sequence of float
        At least two increasing times. The increment from each to the next is one draw,
        so they are best the grid of a solver. Between knots, Brownian bridges halve the
        cell down to the time asked for.
    seed : int or sequence of int
        One seed for the whole, or one for each entry along the first axis, whose path
        then depends on its own seed and on no other entry.
    dtype : torch.dtype, default=None
        Type of the increments, torch's default when None.
    device : str or torch.device, default="cpu"
        Where the numbers are drawn. Each kind of device has numbers of its own. A path
        of the CPU serves states on a GPU too, at the price of a copy at each step.

    Raises
    ------
    ValueError
        If the knots do not increase, or the seeds are not as many as the first axis is
        long.

    Notes
    -----
    The bridge over an interval of length :math:`\ell` with increment :math:`\Delta`
    gives its left half :math:`\Delta / 2 + \sqrt{\ell} \xi / 2`, and its right half the
    rest, with :math:`\xi` standard normal (Levy's construction). Times are rounded to
    a fraction :math:`2^{-30}` of their cell.

    References
    ----------
    X. Li, T.-K. L. Wong, R. T. Q. Chen, D. Duvenaud 2020, Scalable Gradients for
    Stochastic Differential Equations, arXiv:2001.01328 (the virtual Brownian tree).

    Examples
    --------
    >>> from skfunc.solvers import BrownianPath
    >>> path = BrownianPath((2, 3), [0.0, 0.5, 1.0], seed=[7, 8])
    >>> whole = path.increment(0.1, 0.9)
    >>> parts = path.increment(0.1, 0.3) + path.increment(0.3, 0.9)
    >>> bool((whole - parts).abs().max() < 1e-5)
    True
    >>> alone = BrownianPath((1, 3), [0.0, 0.5, 1.0], seed=[8])
    >>> bool((alone.increment(0.1, 0.9) == whole[1:]).all())
    True
    """

    def __init__(
        self,
        shape: Sequence[int],
        knots: Tensor | Sequence[float],
        seed: int | Sequence[int],
        *,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.shape = tuple(shape)
        values = knots.tolist() if hasattr(knots, "tolist") else list(knots)
        self.knots = [float(value) for value in values]
        increasing = all(
            a < b for a, b in zip(self.knots, self.knots[1:], strict=False)
        )
        if len(self.knots) < 2 or not increasing:
            raise ValueError(
                f"knots must be at least two increasing times, got {self.knots}."
            )
        self.dtype = torch.get_default_dtype() if dtype is None else dtype
        self.device = torch.device(device)
        self.seed = seed
        self._per_row = not isinstance(seed, numbers.Integral)
        seeds = [seed] if isinstance(seed, (int, numbers.Integral)) else list(seed)
        self._keys = [mix(0, int(s)) for s in seeds]
        if self._per_row and self.shape[:1] != (len(seeds),):
            raise ValueError(
                "seed must be an integer or one for each entry along the first axis "
                f"of shape {self.shape}; got {len(seeds)} seeds."
            )
        self._cell = -1
        self._parts: dict[int, Tensor] = {}

    def increment(self, start: float, end: float) -> Float[Tensor, "*shape"]:
        """Return the path's increment between two times.

        Parameters
        ----------
        start, end : float
            Times between the first knot and the last. The increment changes its sign
            with their order.

        Returns
        -------
        Tensor
            The increment, of the path's shape. It must not be changed in place.
        """
        low, high = self._ticks(start), self._ticks(end)
        if low > high:
            return -self._between(high, low)
        return self._between(low, high)

    def _ticks(self, time: float) -> int:
        """Return a time as a whole number of the smallest parts of cells."""
        knots = self.knots
        slack = 1e-6 * (knots[-1] - knots[0])
        if not knots[0] - slack <= time <= knots[-1] + slack:
            raise ValueError(
                f"The path is known from {knots[0]} to {knots[-1]}, got time {time}."
            )
        cell = min(max(bisect.bisect_right(knots, time) - 1, 0), len(knots) - 2)
        fraction = (time - knots[cell]) / (knots[cell + 1] - knots[cell])
        return cell * CELL_TICKS + round(min(max(fraction, 0.0), 1.0) * CELL_TICKS)

    def _between(self, low: int, high: int) -> Tensor:
        parts = []
        while low < high:
            cell, offset = divmod(low, CELL_TICKS)
            end = min(high - cell * CELL_TICKS, CELL_TICKS)
            parts += self._cover(cell, 1, CELL_TICKS, offset, end)
            low = cell * CELL_TICKS + end
        if not parts:
            return torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _cover(
        self, cell: int, part: int, size: int, low: int, high: int
    ) -> list[Tensor]:
        """Return the increments of the largest parts that make up [low, high].

        Parts of a cell are numbered as a heap: 1 the whole, ``2 i`` and ``2 i + 1`` the
        halves of ``i``.
        """
        if low == 0 and high == size:
            return [self._increment_of(cell, part)]
        half = size // 2
        found = []
        if low < half:
            found += self._cover(cell, 2 * part, half, low, min(high, half))
        if high > half:
            start = max(low - half, 0)
            found += self._cover(cell, 2 * part + 1, half, start, high - half)
        return found

    def _increment_of(self, cell: int, part: int) -> Tensor:
        if cell != self._cell:
            self._cell = cell
            self._parts = {}
        known = self._parts.get(part)
        if known is not None:
            return known
        length = self.knots[cell + 1] - self.knots[cell]
        if part == 1:
            value = self._normal(cell, 0) * math.sqrt(length)
        else:
            parent = part // 2
            whole = self._increment_of(cell, parent)
            length *= 2.0 ** (1 - parent.bit_length())
            sign = -0.5 if part % 2 else 0.5
            bridge = self._normal(cell, parent)
            value = torch.add(0.5 * whole, bridge, alpha=sign * math.sqrt(length))
        if len(self._parts) >= KEPT_PARTS:
            del self._parts[next(iter(self._parts))]
        self._parts[part] = value
        return value

    def _normal(self, cell: int, part: int) -> Tensor:
        """Return the standard normal numbers of a part: a function of the seed."""
        generator = torch.Generator(self.device)
        numbers_ = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        rows = numbers_ if self._per_row else [numbers_]
        for row, key in zip(rows, self._keys, strict=True):
            generator.manual_seed(mix(mix(key, cell), part))
            row.normal_(generator=generator)
        return numbers_

    @property
    def entropy(self) -> int:
        """A number made of all seeds."""
        total = 0
        for key in self._keys:
            total = mix(total, key)
        return total

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cell": -1, "_parts": {}}
