"""Networks of neural processes, trained on draws of Gaussian processes for a time.

Every batch is new. Training is counted in CPU-seconds of one thread; a checkpoint a
minute lets it stop and go on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skfunc.datasets._gp_tasks import covariances
from skfunc.nn import (
    NEURAL_PROCESSES,
    GaussianLikelihood,
    Likelihood,
    MixtureLikelihood,
    NeuralProcess,
    TaskBatch,
    conditional_log_likelihood,
    draw_module,
    evidence_lower_bound,
)
from skfunc.training import StreamOptions, StreamTrainer

# The protocol of one-dimensional regression; ranges are uniform distributions.
KERNELS = ("rbf", "matern52", "periodic")
LENGTHSCALE, SCALE, PERIOD = (0.1, 0.6), (0.1, 1.0), (0.1, 0.5)
NOISE_STD, X_RANGE, MIN_POINTS, MAX_POINTS = 0.02, (-2.0, 2.0), 3, 49

# Half the noise: the best prediction is never that sure.
MIN_STD = 0.01
BATCHES_AT_ONCE = 64
SECONDS_BETWEEN_CHECKPOINTS = 60


@dataclass(frozen=True)
class Setup:
    """A network and how it is trained."""

    variant: str
    seconds: float
    parameters: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 1e-3
    batch_size: int = 16

    def network(self) -> NeuralProcess:
        n_raw = self.likelihood().n_raw(1)
        return NEURAL_PROCESSES[self.variant](1, 1, n_raw, **self.parameters)

    def likelihood(self) -> Likelihood:
        """Return a mixture over the kernels of a network that has several."""
        if "kernels" in self.parameters:
            return MixtureLikelihood(len(self.parameters["kernels"]), MIN_STD)
        return GaussianLikelihood(MIN_STD)


def draw_arrays(
    n_batches: int, batch_size: int, random_state: Any
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield X, y of shape (batch_size, 49) and the number of context points.

    Tasks of a batch share it, so that nothing is padded; all other points are targets,
    more than the protocol asks for: the optimum is the same, and noise is less.
    """
    rng = np.random.default_rng(random_state)
    n_tasks = n_batches * batch_size
    X = rng.uniform(*X_RANGE, (n_tasks, MAX_POINTS, 1))
    covariance = covariances(
        X,
        rng.choice(KERNELS, n_tasks),
        rng.uniform(*LENGTHSCALE, n_tasks),
        rng.uniform(*SCALE, n_tasks),
        rng.uniform(*PERIOD, n_tasks),
    )
    covariance += NOISE_STD**2 * np.eye(MAX_POINTS)
    noise = rng.standard_normal((n_tasks, MAX_POINTS, 1))
    y = np.linalg.cholesky(covariance) @ noise
    sizes = rng.integers(MIN_POINTS, MAX_POINTS - MIN_POINTS, n_batches, endpoint=True)
    for i, n_context in enumerate(sizes):
        rows = slice(i * batch_size, (i + 1) * batch_size)
        yield X[rows, :, 0], y[rows, :, 0], int(n_context)


def training_batches(batch_size: int, seed: int, first: int) -> Iterator[TaskBatch]:
    """Yield batches without end, from a given one on; the same for the same seed."""
    pool, offset = divmod(first, BATCHES_AT_ONCE)
    while True:
        for X, y, n in draw_arrays(BATCHES_AT_ONCE, batch_size, [seed, pool]):
            if offset:
                offset -= 1
                continue
            x, values = (
                torch.tensor(a, dtype=torch.float32)[..., None] for a in (X, y)
            )
            yield TaskBatch.without_padding(
                x[:, :n], values[:, :n], x[:, n:], values[:, n:]
            )
        pool += 1


@dataclass
class Trained:
    """A trained network and what its training took."""

    network: NeuralProcess
    likelihood: Likelihood
    seconds: float
    steps: int
    retries: int


def train(name: str, setup: Setup, cache: Path, seed: int) -> Trained:
    """Train a network for its CPU-seconds, or go on where it stopped."""
    network = setup.network()
    generator = torch.Generator().manual_seed(seed)
    draw_module(network, generator)
    likelihood = setup.likelihood()

    def loss(module: Any, batch: TaskBatch) -> torch.Tensor:
        if module.is_latent:
            objective = evidence_lower_bound(
                module, likelihood, batch, generator=generator
            )
        else:
            objective = conditional_log_likelihood(module, likelihood, batch)
        return -objective.mean()

    options = StreamOptions(1, setup.learning_rate, averaging=0.999)
    trainer: StreamTrainer[TaskBatch] = StreamTrainer(network, loss, options)
    file = cache / f"{name}-{setup.seconds:g}s-seed{seed}.pt"
    used = 0.0
    if file.exists():
        state = torch.load(file, weights_only=True)
        trainer.load_state_dict(state["trainer"])
        generator.set_state(state["generator"])
        used = state["seconds"]
    batches = training_batches(setup.batch_size, seed, trainer.step)
    began = saved = time.process_time()
    before = used
    while used < setup.seconds:
        # The schedule follows the time that is used up, not a number of steps.
        n_steps = trainer.step * setup.seconds / used if used else 1e6
        trainer.options = replace(options, n_steps=max(int(n_steps), trainer.step + 1))
        trainer.advance(next(batches))
        used = before + time.process_time() - began
        is_last = used >= setup.seconds
        if is_last or time.process_time() - saved > SECONDS_BETWEEN_CHECKPOINTS:
            saved = time.process_time()
            save(file, trainer, generator, used)
            recent = -np.mean(trainer.losses[-500:])
            print(
                f"{name}: {trainer.step} steps, {used:.0f} CPU-s, objective "
                f"{recent:.3f}",
                flush=True,
            )
    trainer.use_average()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return Trained(network, likelihood, used, trainer.step, trainer.n_retries)


def save(
    file: Path,
    trainer: StreamTrainer[TaskBatch],
    generator: torch.Generator,
    seconds: float,
) -> None:
    """Write a checkpoint beside the old one and put it in its place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    state = {
        "trainer": trainer.state_dict(),
        "generator": generator.get_state(),
        "seconds": seconds,
    }
    torch.save(state, fresh)
    fresh.replace(file)
