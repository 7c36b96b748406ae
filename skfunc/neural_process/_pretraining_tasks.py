"""Tasks that tabular priors are trained on, and what fixes a run."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from skfunc.neural_process.priors import (
    AdditivePrior,
    ClassificationPrior,
    GaussianProcessPrior,
    LinearPrior,
    NetworkPrior,
    TaskPrior,
    TreePrior,
)
from skfunc.nn import TaskBatch

# Standardized values are held within this many deviations of the context.
LARGEST = 8.0


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """What a run is fixed by.

    Attributes
    ----------
    task : {"regression", "classification"}
        What the tasks ask for.
    kernels : tuple of str
        Hypotheses of the network.
    network_parameters : dict
        Its further arguments.
    n_steps : int
        Most steps of the run; the learning rate is constant and the weights are
        averaged, so that a run may stop anywhere.
    batch_size : tuple of int
        Fewest and most tasks of a step; they are of one size.
    batch_cells : int
        Context rows times columns, summed over tasks, that a step aims at.
    batch_pairs : int
        And squares of context rows, which kernels cost.
    learning_rate : float
        Learning rate, after a short rise.
    context : tuple of int
        Fewest and most context rows, log-uniform.
    n_target : int
        Target rows of a task.
    features : tuple of int
        Fewest and most columns, log-uniform.
    max_cells : int
        Most context rows times columns of a task; larger draws give up rows.
    max_classes : int
        Most classes of a classification task.
    min_std : float
        Floor of the noise's standard deviation.
    single_weight : float
        Share of the loss that scores every hypothesis by itself; the rest scores their
        mixture.
    judge_tasks : int
        Tasks of each size that judge the weights; none of them is trained on.
    seed : int
        Of weights and tasks.
    """

    task: str = "regression"
    kernels: tuple[str, ...] = ("matern52", "rbf", "matern12", "arcsine")
    network_parameters: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {
            "width": 48,
            "n_layers": 6,
            "n_corrections": 4,
            "correction_rows": 160,
        }
    )
    n_steps: int = 100_000
    batch_size: tuple[int, int] = (4, 64)
    batch_cells: int = 16_384
    batch_pairs: int = 400_000
    learning_rate: float = 1e-3
    context: tuple[int, int] = (8, 384)
    n_target: int = 32
    features: tuple[int, int] = (1, 32)
    max_cells: int = 4096
    max_classes: int = 10
    min_std: float = 1e-3
    single_weight: float = 0.5
    judge_tasks: int = 64
    seed: int = 0


def tabular_prior() -> TaskPrior:
    """Return the tasks that the tabular prior is trained on."""
    smooth = GaussianProcessPrior() * 3 + NetworkPrior() * 2
    return smooth + AdditivePrior() + TreePrior() + LinearPrior()


def labelled_batch(
    X: torch.Tensor, labels: torch.Tensor, n_context: int, n_classes: int
) -> TaskBatch:
    """Return classification tasks, split into context and targets.

    Parameters
    ----------
    X : Tensor of shape (tasks, points, features)
        Inputs.
    labels : Tensor of shape (tasks, points)
        Classes 0, 1, ...
    n_context : int
        The first so many points are the context. A target whose class the context
        lacks is left out.
    n_classes : int
        Number of classes of the batch.
    """
    indicators = torch.nn.functional.one_hot(labels.long(), n_classes).to(X.dtype)
    batch = standardized_batch(X, X[..., 0], n_context)
    context, target = indicators[:, :n_context], indicators[:, n_context:]
    known = (target * context.sum(1, keepdim=True)).sum(-1) > 0.0
    return TaskBatch(
        batch.context_x,
        context,
        batch.context_mask,
        batch.target_x,
        target,
        known,
    )


def standardized_batch(X: torch.Tensor, y: torch.Tensor, n_context: int) -> TaskBatch:
    """Return tasks standardized by their context, split into context and targets.

    Parameters
    ----------
    X : Tensor of shape (tasks, points, features)
        Inputs.
    y : Tensor of shape (tasks, points)
        Observations.
    n_context : int
        The first so many points are the context.
    """

    def scaled(values: torch.Tensor) -> torch.Tensor:
        context = values[:, :n_context]
        mean = context.mean(1, keepdim=True)
        scale = context.std(1, unbiased=False, keepdim=True)
        scale = torch.where(scale > 1e-6, scale, torch.ones_like(scale))
        return ((values - mean) / scale).clamp(-LARGEST, LARGEST)

    x, outputs = scaled(X), scaled(y.unsqueeze(-1))
    return TaskBatch.without_padding(
        x[:, :n_context],
        outputs[:, :n_context],
        x[:, n_context:],
        outputs[:, n_context:],
    )


def draw_batch(
    prior: TaskPrior,
    n_tasks: int,
    n_context: int,
    n_target: int,
    n_features: int,
    n_classes: int,
    generator: torch.Generator,
) -> TaskBatch:
    """Draw tasks of at most so many classes, or of regression if it is one."""
    n_points = n_context + n_target
    if n_classes == 1:
        tasks = prior._draw(n_tasks, n_points, n_features, generator)
        return standardized_batch(tasks.X, tasks.y, n_context)
    classes = ClassificationPrior(prior, max_classes=n_classes)
    tasks = classes._draw(n_tasks, n_points, n_features, generator)
    return labelled_batch(tasks.X, tasks.y, n_context, n_classes)


class TaskStream:
    """Batches of a prior, whose sizes are drawn for every batch.

    Parameters
    ----------
    prior : TaskPrior
        Where tasks come from.
    config : PretrainConfig
        Their sizes.
    device : torch.device
        Where tasks are drawn.
    """

    def __init__(
        self, prior: TaskPrior, config: PretrainConfig, device: torch.device
    ) -> None:
        self.prior, self.config = prior, config
        self.sizes = np.random.default_rng(config.seed)
        self.generator = torch.Generator(device=device).manual_seed(config.seed)

    def draw_corrections(self) -> int:
        """Return how many corrections the next step trains."""
        most = int(self.config.network_parameters.get("n_corrections", 0))
        return int(self.sizes.integers(0, most + 1))

    def draw(self) -> TaskBatch:
        """Return the next batch."""
        config = self.config
        d = _log_uniform(self.sizes, *config.features)
        n = _log_uniform(self.sizes, *config.context)
        n = max(min(n, config.max_cells // d), config.context[0])
        n_classes = 1
        if config.task == "classification":
            n_classes = _log_uniform(self.sizes, 2, config.max_classes)
        fewest, most = config.batch_size
        cells = config.batch_cells // (n * d * n_classes)
        size = max(fewest, min(most, cells, config.batch_pairs // n**2))
        return draw_batch(
            self.prior, size, n, config.n_target, d, n_classes, self.generator
        )

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream is."""
        return {
            "sizes": self.sizes.bit_generator.state,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.sizes.bit_generator.state = state["sizes"]
        self.generator.set_state(state["generator"].cpu())


def _log_uniform(generator: np.random.Generator, low: int, high: int) -> int:
    return int(np.exp(generator.uniform(np.log(low), np.log(high + 1))))
