"""Which rows a step of the training takes, and which judge it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from skfunc._shapes import Int


class RowBatches:
    """Mini-batches of each member's own rows, in its own order."""

    def __init__(
        self,
        weights: Tensor,
        generators: Sequence[np.random.Generator],
        batch_size: int,
    ) -> None:
        self.rows = [row.nonzero().flatten().cpu().numpy() for row in weights]
        self.generators = list(generators)
        self.n_rows = weights.shape[1]
        longest = max(len(rows) for rows in self.rows)
        self.full = longest <= batch_size
        self.n_batches = max(1, math.ceil(longest / batch_size))
        self.size = math.ceil(longest / self.n_batches)

    def epoch(self) -> Int[np.ndarray, "members batches size"] | None:
        """Return one epoch's positions, or None where a batch is all rows."""
        if self.full:
            return None
        length = self.n_batches * self.size
        orders = [
            np.resize(generator.permutation(rows), length)
            for rows, generator in zip(self.rows, self.generators, strict=True)
        ]
        return np.stack(orders).reshape(len(orders), self.n_batches, self.size)

    def keep(self, members: np.ndarray) -> None:
        """Keep the members at these positions."""
        self.rows = [self.rows[i] for i in members]
        self.generators = [self.generators[i] for i in members]


class HeldOutRows:
    """The rows that judge each member, padded to one length."""

    def __init__(self, weights: Tensor) -> None:
        rows = [row.nonzero().flatten() for row in weights]
        self.index = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        self.weights = weights.gather(1, self.index)
        length = torch.arange(self.index.shape[1], device=weights.device)
        sizes = torch.tensor([len(r) for r in rows], device=weights.device)
        self.weights = self.weights * (length < sizes.unsqueeze(1))

    def keep(self, members: Tensor) -> None:
        """Keep the members at these positions."""
        self.index, self.weights = self.index[members], self.weights[members]
