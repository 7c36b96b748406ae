"""Priors over tasks: what functions look like before any data are seen."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from torch import Tensor

from skfunc._shapes import Float, Int
from skfunc._validation import check_integer, check_real
from skfunc.neural_process.priors._draws import Draws
from skfunc.neural_process.priors._inputs import InputDistribution
from skfunc.neural_process.priors._noise import NoiseDistribution

# A call that leaves the number of features open draws one up to this.
_MOST_FEATURES = 16
_SEED_LIMIT = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Tasks(Sequence):
    """Tasks of one size, drawn from a prior.

    It is a sequence of the pairs (X, y) of single tasks.

    Parameters
    ----------
    X : ndarray of shape (n_tasks, n_points, n_features)
        Inputs.
    y : ndarray of shape (n_tasks, n_points)
        Observations; labels 0, 1, ... of classification tasks.
    n_classes : ndarray of int of shape (n_tasks,)
        Number of classes, 0 for regression.

    See Also
    --------
    TaskPrior : Draws them.

    Examples
    --------
    >>> from skfunc.neural_process.priors import LinearPrior
    >>> tasks = LinearPrior().sample(3, 10, 2, random_state=0)
    >>> [(X.shape, y.shape) for X, y in tasks]
    [((10, 2), (10,)), ((10, 2), (10,)), ((10, 2), (10,))]
    """

    X: NDArray[np.float64]
    y: NDArray[np.float64]
    n_classes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, index):
        return self.X[index], self.y[index]


class TensorTasks(NamedTuple):
    """Tasks as tensors, for training: X and y in float32."""

    X: Float[Tensor, "tasks points features"]
    y: Float[Tensor, "tasks points"]
    n_classes: Int[Tensor, " tasks"]


class TaskPrior(BaseEstimator):
    """Base of the priors over tasks.

    A prior draws tasks: inputs, a function, noise. Priors are composed with numbers
    and ``+``: ``2 * a + b`` draws a task from `a` twice as often as from `b`. They
    clone and print as scikit-learn's estimators do.

    A subclass with parameters `inputs` and `noise` brings ``_functions(X, draws)``.

    See Also
    --------
    MixturePrior : What a composition is.

    Examples
    --------
    >>> from skfunc.neural_process.priors import LinearPrior, TreePrior
    >>> prior = 2 * LinearPrior() + TreePrior()
    >>> prior.weights
    [2.0, 1.0]
    >>> prior.sample(10, 50, 4, random_state=0).X.shape
    (10, 50, 4)
    """

    inputs: InputDistribution | None
    noise: NoiseDistribution | None

    def sample(
        self,
        n_tasks: int,
        n_points: int,
        n_features: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> Tasks:
        """Draw tasks of one size.

        Parameters
        ----------
        n_tasks : int
            How many.
        n_points : int
            Rows of each.
        n_features : int or None, default=None
            Columns of each; None draws one number for all, log-uniform on 1, ..., 16.
        random_state : int, RandomState or None, default=None
            Which draws.

        Returns
        -------
        Tasks
            Inputs, observations and numbers of classes.

        Raises
        ------
        ValueError
            If a size is not a positive integer, or a parameter of the prior is bad.
        """
        check_integer("n_tasks", n_tasks)
        check_integer("n_points", n_points)
        if n_features is not None:
            check_integer("n_features", n_features)
        self._check()
        seed = check_random_state(random_state).randint(_SEED_LIMIT)
        generator = torch.Generator().manual_seed(int(seed))
        if n_features is None:
            n_features = int(Draws(generator).log_integers(1, _MOST_FEATURES))
        drawn = self._draw(n_tasks, n_points, n_features, generator)
        return Tasks(
            drawn.X.numpy().astype(np.float64),
            drawn.y.numpy().astype(np.float64),
            drawn.n_classes.numpy(),
        )

    def __add__(self, other: TaskPrior) -> MixturePrior:
        if not isinstance(other, TaskPrior):
            return NotImplemented
        parts = [*_parts(self), *_parts(other)]
        return MixturePrior([p for p, _ in parts], weights=[w for _, w in parts])

    def __mul__(self, weight: float) -> MixturePrior:
        if not isinstance(weight, numbers.Real):
            return NotImplemented
        parts = _parts(self)
        weights = [float(weight) * w for _, w in parts]
        return MixturePrior([p for p, _ in parts], weights=weights)

    __rmul__ = __mul__

    def _check(self) -> None:
        """Raise ValueError if a parameter is bad."""
        for part in (self.inputs, self.noise):
            if part is not None:
                part._check()

    def _draw(
        self,
        n_tasks: int,
        n_points: int,
        n_features: int,
        generator: torch.Generator,
        device: torch.device | str | None = None,
    ) -> TensorTasks:
        """Draw tasks on the generator's device, and move them to another if given."""
        draws = Draws(generator)
        tasks = self._draw_tasks(n_tasks, n_points, n_features, draws)
        target = generator.device if device is None else device
        return TensorTasks(*(values.to(target) for values in tasks))

    def _draw_tasks(
        self, n_tasks: int, n_points: int, n_features: int, draws: Draws
    ) -> TensorTasks:
        one = torch.ones(n_tasks, dtype=torch.int64, device=draws.device)
        X, functions = self._draw_functions(one, n_points, n_features, draws)
        noise = self.noise or NoiseDistribution()
        return TensorTasks(X, noise._add(functions[:, 0], X, draws), 0 * one)

    def _draw_functions(
        self,
        counts: Int[Tensor, " tasks"],
        n_points: int,
        n_features: int,
        draws: Draws,
    ) -> tuple[
        Float[Tensor, "tasks points features"], Float[Tensor, "tasks functions points"]
    ]:
        """Draw inputs, and functions of them, without noise.

        `counts` says how many functions each task has; further places are zero.
        """
        inputs = self.inputs or InputDistribution()
        X = inputs._draw(len(counts), n_points, n_features, draws)
        values = self._functions(X.repeat_interleave(counts, dim=0), draws)
        there = torch.arange(int(counts.max()), device=X.device) < counts[:, None]
        functions = values.new_zeros(*there.shape, n_points)
        functions[there] = values
        return X, functions

    def _functions(
        self, X: Float[Tensor, "tasks points features"], draws: Draws
    ) -> Float[Tensor, "tasks points"]:
        """Draw one function for each task's inputs."""
        raise NotImplementedError


class MixturePrior(TaskPrior):
    """Prior that draws each task from one of several.

    Parameters
    ----------
    priors : sequence of TaskPrior
        What to draw from.
    weights : sequence of float or None, default=None
        How often, in proportion; None for equally often.

    See Also
    --------
    TaskPrior : ``2 * a + b`` makes a mixture.

    Examples
    --------
    >>> from skfunc.neural_process.priors import (
    ...     GaussianProcessPrior, MixturePrior, NetworkPrior
    ... )
    >>> prior = MixturePrior([GaussianProcessPrior(), NetworkPrior()], weights=[3, 1])
    >>> prior.sample(4, 30, 2, random_state=0).y.shape
    (4, 30)
    """

    def __init__(
        self, priors: Sequence[TaskPrior], *, weights: Sequence[float] | None = None
    ):
        self.priors = priors
        self.weights = weights

    def _check(self) -> None:
        if not len(self.priors):
            raise ValueError("priors must hold at least one prior")
        for prior in self.priors:
            if not isinstance(prior, TaskPrior):
                raise ValueError(f"priors must be TaskPrior objects; got {prior!r}")
            prior._check()
        weights = self._shares()
        if len(weights) != len(self.priors):
            raise ValueError(
                f"weights has {len(weights)} entries for {len(self.priors)} priors"
            )
        for i, weight in enumerate(weights):
            check_real(f"weights[{i}]", weight, 0.0)
        if not sum(weights) > 0:
            raise ValueError("weights are all zero; at least one prior must count")

    def _shares(self) -> Sequence[float]:
        return [1.0] * len(self.priors) if self.weights is None else self.weights

    def _draw_tasks(
        self, n_tasks: int, n_points: int, n_features: int, draws: Draws
    ) -> TensorTasks:
        X = torch.empty(n_tasks, n_points, n_features, device=draws.device)
        y = torch.empty(n_tasks, n_points, device=draws.device)
        n_classes = torch.empty(n_tasks, dtype=torch.int64, device=draws.device)
        for prior, rows in self._assign(n_tasks, draws):
            part = prior._draw_tasks(len(rows), n_points, n_features, draws)
            X[rows], y[rows], n_classes[rows] = part
        return TensorTasks(X, y, n_classes)

    def _draw_functions(
        self,
        counts: Int[Tensor, " tasks"],
        n_points: int,
        n_features: int,
        draws: Draws,
    ) -> tuple[
        Float[Tensor, "tasks points features"], Float[Tensor, "tasks functions points"]
    ]:
        X = torch.empty(len(counts), n_points, n_features, device=draws.device)
        most = int(counts.max())
        functions = torch.zeros(len(counts), most, n_points, device=draws.device)
        for prior, rows in self._assign(len(counts), draws):
            X[rows], part = prior._draw_functions(
                counts[rows], n_points, n_features, draws
            )
            functions[rows, : part.shape[1]] = part
        return X, functions

    def _assign(
        self, n_tasks: int, draws: Draws
    ) -> Iterator[tuple[TaskPrior, Int[Tensor, " chosen"]]]:
        chosen = draws.choices(self._shares(), n_tasks)
        for position, prior in enumerate(self.priors):
            rows = torch.nonzero(chosen == position)[:, 0]
            if len(rows):
                yield prior, rows


def _parts(prior: TaskPrior) -> list[tuple[TaskPrior, float]]:
    if isinstance(prior, MixturePrior):
        weights = map(float, prior._shares())
        return list(zip(prior.priors, weights, strict=True))
    return [(prior, 1.0)]
