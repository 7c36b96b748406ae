"""Random tensors from one generator, on its device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from skfunc._shapes import Bool


class Draws:
    """Draws of one `torch.Generator`: the order of the calls is the seed's meaning."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.device = generator.device

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers, float32."""
        return torch.randn(shape, generator=self.generator, device=self.device)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return numbers uniform on [low, high), float32."""
        unit = torch.rand(shape, generator=self.generator, device=self.device)
        return low + (high - low) * unit

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return numbers whose logarithm is uniform, float32."""
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Return integers uniform on low, ..., high, both included."""
        return torch.randint(
            low, high + 1, shape, generator=self.generator, device=self.device
        )

    def log_integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Return integers on low, ..., high, about uniform in their logarithm."""
        # Rounding down from high + 1 gives both ends their share; float32 may round
        # the exponential up to high + 1 itself.
        return self.log_uniform(float(low), high + 1.0, *shape).long().clamp(low, high)

    def choices(self, weights: Sequence[float], n: int) -> Tensor:
        """Return n positions, each with probability in proportion to its weight."""
        shares = torch.tensor(list(weights), dtype=torch.float32, device=self.device)
        return torch.multinomial(shares, n, replacement=True, generator=self.generator)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """Return booleans that are true with a probability."""
        return self.uniform(0.0, 1.0, *shape) < probability

    def permutations(self, n: int, *shape: int) -> Tensor:
        """Return permutations of 0, ..., n - 1 along a new last axis."""
        return self.uniform(0.0, 1.0, *shape, n).argsort(-1)


def draw_relevance(
    n_tasks: int, n_features: int, sparsity: float, draws: Draws
) -> Bool[Tensor, "tasks features"]:
    """Draw which columns a task's function depends on; one of them at least.

    With probability `sparsity` a task keeps a share of the columns, itself uniform.
    """
    share = draws.uniform(0.0, 1.0, n_tasks, 1)
    kept = draws.uniform(0.0, 1.0, n_tasks, n_features) < share
    kept |= ~draws.chance(sparsity, n_tasks, 1)
    one = draws.integers(0, n_features - 1, n_tasks, 1)
    return kept.scatter(1, one, True)
