"""Adaptive steps on a given Brownian path: halves of halves, never a skipped one.

The path is fixed by its seed before any step is tried, so that a rejected step throws
no noise away and the law of the path does not depend on what was rejected (Gaines and
Lyons 1997, Variable step size control in the numerical solution of stochastic
differential equations, SIAM Journal on Applied Mathematics 57(5)). Steps are dyadic
parts of the interval, the times at which the path's bridges are drawn anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from skfunc.solvers._adaptive import Tally
from skfunc.solvers._controller import Tolerance
from skfunc.solvers._sde_steps import Method, Parts, SDEField, SDEStep

# The smallest step is the interval over 2 ** SMALLEST.
SMALLEST = 20

# An interval is finished in 64 parts when the evaluations ran out.
FINISH_TICKS = (1 << SMALLEST) // 64

# Below this error the step is doubled: of Heun's local error, of order 3/2 for diagonal
# noise, a step of twice the length then has below 2 ** 1.5 / 4 = 0.7.
DOUBLE_BELOW = 0.25

# The Brownian increment of a step.
Noise = Callable[[SDEStep], Tensor]


class Holder:
    """Keeps entries along the first axis at their last finite state, from then on."""

    def __init__(self) -> None:
        self.alive: Tensor | None = None

    def __call__(self, new: Parts, old: Parts) -> Parts:
        """Return the new parts, but the old ones where any part is not finite."""
        finite = [
            # A sum is finite only where all its terms are.
            torch.isfinite(part.flatten(1).sum(1) if part.ndim > 1 else part)
            for part in new
        ]
        alive = torch.stack(finite).all(dim=0)
        self.alive = alive if self.alive is None else self.alive & alive
        parts = []
        for a, b in zip(new, old, strict=True):
            rows = self.alive.reshape([*self.alive.shape, *[1] * (a.ndim - 1)])
            parts.append(torch.where(rows, a, b))
        return tuple(parts)

    @property
    def held(self) -> bool:
        """Whether anything has been held; asks the device."""
        return self.alive is not None and not bool(self.alive.all().item())


class DyadicIntegrator:
    """Step doubling: one step is compared with two of half its length, which are kept.

    Parameters
    ----------
    field : SDEField
        Drift and diffusion.
    method : Method
        A method that carries the state alone.
    tolerance : Tolerance
        Tolerances; each part has its norm, and the largest decides.
    max_nfe : int
        Evaluations after which the interval is finished in equal steps.
    noise : callable
        Increments of the Brownian path.
    """

    def __init__(
        self,
        field: SDEField,
        method: Method,
        tolerance: Tolerance,
        max_nfe: int,
        noise: Noise,
    ) -> None:
        self.field = field
        self.method = method
        self.tolerance = tolerance
        self.max_nfe = max_nfe
        self.noise = noise
        self.tally = Tally()
        self.hold = Holder()
        self._level = 0

    @torch.no_grad()
    def interval(self, y: Parts, t0: float, t1: float) -> tuple[Parts, list[SDEStep]]:
        """Return the state at ``t1`` and the steps that lead there."""
        taken: list[SDEStep] = []
        whole = 1 << SMALLEST
        position, level = 0, self._level
        known = self.field(t0, y)
        coarse: Parts | None = None

        def time(tick: int) -> float:
            return t1 if tick == whole else t0 + (t1 - t0) * (tick / whole)

        def step(start: int, size: int, y: Parts) -> tuple[SDEStep, Parts]:
            part = SDEStep(time(start), time(start + size))
            first = known if start == position else None
            return part, self.method.step(self.field, part, y, self.noise(part), first)[
                0
            ]

        while position < whole:
            if level == SMALLEST or self.field.nfe >= self.max_nfe:
                self.tally.status = "capped"
                while position < whole:
                    size = FINISH_TICKS - position % FINISH_TICKS
                    part, new = step(position, size, y)
                    y = self.hold(new, y)
                    known = self.field(part.end, y)
                    position += size
                    taken.append(part)
                break
            size = whole >> level
            if coarse is None:
                coarse = step(position, size, y)[1]
            half = size // 2
            first, middle = step(position, half, y)
            second, fine = step(position + half, half, middle)
            ratio = self._error_ratio(y, coarse, fine)
            if not ratio <= 1.0:
                self.tally.n_rejected += 1
                level += 1
                coarse = middle
                continue
            taken += [first, second]
            y, coarse = fine, None
            position += size
            # A doubled step must be a dyadic part as well.
            if ratio < DOUBLE_BELOW and level > 0 and position % (2 * size) == 0:
                level -= 1
            if position < whole:
                known = self.field(second.end, y)
        self.tally.n_steps += len(taken)
        self._level = min(level, SMALLEST - 1)
        return y, taken

    def _error_ratio(self, y: Parts, coarse: Parts, fine: Parts) -> float:
        ratios = [
            self.tolerance.norm((a - b) / self.tolerance.scale(start, b))
            for start, a, b in zip(y, coarse, fine, strict=True)
            if start.numel()
        ]
        ratio = torch.stack(ratios).amax().item() if ratios else 0.0
        return ratio if math.isfinite(ratio) else math.inf
