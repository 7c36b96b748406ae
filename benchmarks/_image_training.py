"""Completers of images, trained for a time, with checkpoints.

Training is counted in CPU-seconds of one thread; a checkpoint a minute lets it stop and
go on. The network, its objective and its batches are those of `ImageCompleter.fit`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skfunc import ImageCompleter
from skfunc.neural_process import NeuralProcessPrior
from skfunc.neural_process._images import (
    ImageTasks,
    as_points,
    choose_exemplars,
    coordinates,
    grid_network,
)
from skfunc.neural_process._training import SEPARATE_STD
from skfunc.nn import (
    NEURAL_PROCESSES,
    GaussianLikelihood,
    draw_module,
    separate_log_likelihood,
)
from skfunc.training import StreamOptions, StreamTrainer

SECONDS_BETWEEN_CHECKPOINTS = 60


@dataclass
class Trained:
    """A fitted completer and what its training took."""

    completer: ImageCompleter
    seconds: float
    steps: int
    parameters: int


def train(
    completer: ImageCompleter, X: np.ndarray, seconds: float, file: Path
) -> Trained:
    """Fit a completer for so many CPU-seconds, or go on where the file stopped.

    Values of X lie in [-.5, .5] and are not scaled further.
    """
    shape = completer.image_shape
    points = as_points(X, shape)
    seed = completer.random_state
    exemplars = choose_exemplars(
        points, completer.n_exemplars, np.random.RandomState(seed)
    )
    variant, parameters = grid_network(
        shape, completer.hidden_size, completer.n_layers, len(exemplars)
    )
    likelihood = GaussianLikelihood(completer.min_std)
    n_raw = likelihood.n_raw(shape[0])
    network: Any = NEURAL_PROCESSES[variant](2, shape[0], n_raw, **parameters)
    draw_module(network, torch.Generator().manual_seed(seed))
    if network.exemplars is not None:
        network.exemplars.store(torch.as_tensor(exemplars.swapaxes(1, 2)))
    tasks = ImageTasks(
        points,
        coordinates(shape),
        completer.context_share,
        completer.target_size,
        is_padded=True,
    )

    def loss(module: Any, batch: Any) -> torch.Tensor:
        values = separate_log_likelihood(module, likelihood, batch, std=SEPARATE_STD)
        return -values.mean()

    options = StreamOptions(1, completer.learning_rate_init, averaging=0.995)
    trainer: StreamTrainer = StreamTrainer(network, loss, options)
    used = 0.0
    if file.exists():
        state = torch.load(file, weights_only=True)
        trainer.load_state_dict(state["trainer"])
        used = state["seconds"]
    # The stream of batches differs after a pause; none of it repeats.
    generator = np.random.default_rng([seed, trainer.step])
    began = saved = time.process_time()
    before = used
    while used < seconds:
        # The schedule follows the time that is used up, not a number of steps.
        n_steps = trainer.step * seconds / used if trainer.step else 1e6
        trainer.options = replace(options, n_steps=max(int(n_steps), trainer.step + 1))
        trainer.advance(tasks.draw(completer.batch_size, generator, torch.float32))
        used = before + time.process_time() - began
        now = time.process_time()
        if used >= seconds or now - saved > SECONDS_BETWEEN_CHECKPOINTS:
            saved = now
            save(file, trainer, used)
            recent = -np.mean(trainer.losses[-500:])
            print(
                f"{file.stem}: {trainer.step} steps, {used:.0f} CPU-s, objective "
                f"{recent:.3f}",
                flush=True,
            )
    trainer.use_average()
    channels = shape[0]
    completer.prior_ = NeuralProcessPrior(
        variant=variant,
        likelihood="gaussian",
        n_features=2,
        n_targets=channels,
        network_parameters=parameters,
        min_std=completer.min_std,
        weights={k: v.numpy() for k, v in network.state_dict().items()},
        moments={
            "x_mean": np.zeros(2),
            "x_scale": np.ones(2),
            "y_mean": np.zeros(channels),
            "y_scale": np.ones(channels),
        },
    )
    completer.image_shape_ = shape
    completer.n_features_in_ = X.shape[1]
    completer.loss_curve_, completer.n_iter_ = trainer.losses, trainer.step
    n_parameters = sum(p.numel() for p in network.parameters())
    return Trained(completer, used, trainer.step, n_parameters)


def save(file: Path, trainer: StreamTrainer, seconds: float) -> None:
    """Write a checkpoint beside the old one and put it in its place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    torch.save({"trainer": trainer.state_dict(), "seconds": seconds}, fresh)
    fresh.replace(file)
