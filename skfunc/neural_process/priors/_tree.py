"""Functions of random trees and forests."""

from __future__ import annotations

import torch
from torch import Tensor

from skfunc._shapes import Float
from skfunc._validation import check_real
from skfunc.neural_process.priors._base import TaskPrior
from skfunc.neural_process.priors._checks import check_integer_range
from skfunc.neural_process.priors._draws import Draws, draw_relevance
from skfunc.neural_process.priors._inputs import InputDistribution
from skfunc.neural_process.priors._noise import NoiseDistribution
from skfunc.neural_process.priors._values import unit_spread


class TreePrior(TaskPrior):
    """Tasks whose functions are random trees, or sums of them.

    A tree splits a random relevant column at one of the task's values. Its nodes carry
    random numbers which add up from the root to the leaf, so that leaves with common
    ancestors resemble each other. Functions are centred and of unit standard deviation
    over a task's points.

    Parameters
    ----------
    depth : tuple of two ints, default=(1, 6)
        Range of a task's depth of trees, uniform.
    n_trees : tuple of two ints, default=(1, 16)
        Range of the number of trees that add up, log-uniform.
    decay : float, default=0.8
        Standard deviation of a node's number, relative to its parent's.
    sparsity : float, default=0.5
        Probability that a task leaves out columns; the share kept is uniform.
    inputs : InputDistribution or None, default=None
        Distribution of X; None for the default one.
    noise : NoiseDistribution or None, default=None
        Distribution of the noise; None for the default one.

    See Also
    --------
    AdditivePrior : Sums of functions of single columns.

    Examples
    --------
    >>> from skfunc.neural_process.priors import TreePrior
    >>> TreePrior(n_trees=(1, 1)).sample(8, 64, 5, random_state=0).y.shape
    (8, 64)
    """

    def __init__(
        self,
        *,
        depth: tuple[int, int] = (1, 6),
        n_trees: tuple[int, int] = (1, 16),
        decay: float = 0.8,
        sparsity: float = 0.5,
        inputs: InputDistribution | None = None,
        noise: NoiseDistribution | None = None,
    ):
        self.depth = depth
        self.n_trees = n_trees
        self.decay = decay
        self.sparsity = sparsity
        self.inputs = inputs
        self.noise = noise

    def _check(self) -> None:
        super()._check()
        check_integer_range("depth", self.depth)
        check_integer_range("n_trees", self.n_trees)
        check_real("decay", self.decay, 0.0, inclusive=False)
        check_real("sparsity", self.sparsity, 0.0, 1.0)

    def _functions(
        self, X: Float[Tensor, "tasks points features"], draws: Draws
    ) -> Float[Tensor, "tasks points"]:
        n_tasks, n_points, n_features = X.shape
        n_levels, most = self.depth[1], self.n_trees[1]
        depth = draws.integers(*self.depth, n_tasks, 1, 1)
        n_trees = draws.log_integers(*self.n_trees, n_tasks, 1)
        relevant = draw_relevance(n_tasks, n_features, self.sparsity, draws)
        task = torch.arange(n_tasks, device=X.device)[:, None, None]
        point = torch.arange(n_points, device=X.device)
        node = torch.zeros(n_tasks, most, n_points, dtype=torch.int64, device=X.device)
        value = torch.zeros(n_tasks, most, n_points, device=X.device)
        for level in range(n_levels):
            # Nodes of a level are numbered 0, ..., 2^level - 1 in each tree.
            shape = (n_tasks, most, 2**level)
            column = self._columns(relevant, shape, draws)
            row = draws.integers(0, n_points - 1, *shape)
            threshold = X[task, row, column]
            right = X[task, point, column.gather(2, node)] > threshold.gather(2, node)
            node = 2 * node + right
            number = draws.normal(n_tasks, most, 2 ** (level + 1))
            step = self.decay**level * number.gather(2, node)
            value = value + torch.where(level < depth, step, 0.0)
        counted = torch.arange(most, device=X.device) < n_trees
        return unit_spread((value * counted[..., None]).sum(1))

    def _columns(
        self, relevant: Tensor, shape: tuple[int, int, int], draws: Draws
    ) -> Tensor:
        """Draw one relevant column for each node."""
        n_nodes = shape[1] * shape[2]
        drawn = torch.multinomial(
            relevant.float(), n_nodes, replacement=True, generator=draws.generator
        )
        return drawn.reshape(shape)
