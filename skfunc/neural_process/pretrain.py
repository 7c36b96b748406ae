"""Pre-train the tabular prior: ``python -m skfunc.neural_process.pretrain``.

The network learns from tasks of random functions alone; no real data enter. A run is
fixed by its configuration and seed, writes a checkpoint every minute, and goes on from
it when it is started again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from skfunc.neural_process.priors import (
    AdditivePrior,
    GaussianProcessPrior,
    LinearPrior,
    NetworkPrior,
    TaskPrior,
    TreePrior,
)
from skfunc.nn import (
    KernelNeuralProcess,
    MixtureLikelihood,
    TaskBatch,
    conditional_log_likelihood,
    draw_module,
)
from skfunc.training import StreamOptions, StreamTrainer, resolve_device

# Standardized values are held within this many deviations of the context.
LARGEST = 8.0
# Seconds between two checkpoints, and steps between two lines of the log.
_CHECKPOINT_SECONDS, _LOG_STEPS = 60.0, 200
_WARMUP_STEPS = 300
# Nats per target beyond which a loss is compressed.
_BAD_LOSS = 5.0
# Tasks of one size that judge the weights; none of them is trained on.
_JUDGE_TASKS, _JUDGE_SEED = 64, 987_654_321
_JUDGE_SIZES = ((16, 2), (64, 4), (128, 8), (192, 12))


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """What a run is fixed by.

    Attributes
    ----------
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
    min_std : float
        Floor of the noise's standard deviation.
    single_weight : float
        Share of the loss that scores every hypothesis by itself; the rest scores their
        mixture.
    seed : int
        Of weights and tasks.
    """

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
    min_std: float = 1e-3
    single_weight: float = 0.5
    seed: int = 0


def tabular_prior() -> TaskPrior:
    """Return the tasks that the tabular prior is trained on."""
    smooth = GaussianProcessPrior() * 3 + NetworkPrior() * 2
    return smooth + AdditivePrior() + TreePrior() + LinearPrior()


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
        fewest, most = config.batch_size
        size = min(config.batch_cells // (n * d), config.batch_pairs // n**2)
        size = max(fewest, min(most, size))
        tasks = self.prior._draw(size, n + config.n_target, d, self.generator)
        return standardized_batch(tasks.X, tasks.y, n)

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


def _compressed(losses: torch.Tensor) -> torch.Tensor:
    """Return losses that grow like a logarithm beyond what a bad guess costs.

    One task without noise, missed by a confident network, would outweigh a batch.
    """
    excess = (losses - _BAD_LOSS).clamp(min=0.0)
    return losses.clamp(max=_BAD_LOSS) + torch.log1p(excess)


def _log_uniform(generator: np.random.Generator, low: int, high: int) -> int:
    return int(np.exp(generator.uniform(np.log(low), np.log(high + 1))))


class Pretraining:
    """A run: network, stream, trainer, and their checkpoint.

    Parameters
    ----------
    config : PretrainConfig
        What fixes the run.
    device : torch.device
        Where it runs.
    prior : TaskPrior or None
        Where tasks come from; None for `tabular_prior`.
    """

    def __init__(
        self,
        config: PretrainConfig,
        device: torch.device,
        prior: TaskPrior | None = None,
    ) -> None:
        self.config, self.device = config, device
        self.prior = tabular_prior() if prior is None else prior
        self.likelihood = MixtureLikelihood(len(config.kernels), config.min_std)
        self.network = KernelNeuralProcess(
            1,
            1,
            self.likelihood.n_raw(1),
            kernels=config.kernels,
            min_std=config.min_std,
            **config.network_parameters,
        )
        draw_module(self.network, torch.Generator().manual_seed(config.seed))
        self.network.to(device)
        self.stream = TaskStream(self.prior, config, device)
        self.trainer: StreamTrainer[TaskBatch] = StreamTrainer(
            self.network,
            self._loss,
            StreamOptions(
                config.n_steps,
                config.learning_rate,
                warmup=_WARMUP_STEPS / config.n_steps,
                schedule="constant",
                averaging=0.999,
            ),
        )
        self.seconds = 0.0
        self.log: list[dict[str, float]] = []

    def _loss(self, module: nn.Module, batch: TaskBatch) -> torch.Tensor:
        log_weights, means, stds = self.likelihood.parameters_of(module(batch))
        single = torch.distributions.Normal(means, stds).log_prob(
            batch.target_y.unsqueeze(-2)
        )[..., 0]
        mixture = torch.logsumexp(log_weights + single, dim=-1)
        # By the mixture alone a hypothesis that loses early would never learn.
        share = self.config.single_weight
        losses = -share * single.mean(-1) - (1.0 - share) * mixture
        return _compressed(losses).mean()

    def run(self, seconds: float, checkpoint: Path | None = None) -> None:
        """Train until the steps are done or the seconds spent.

        Parameters
        ----------
        seconds : float
            Seconds of this call.
        checkpoint : Path or None
            File to go on from, and to write to.
        """
        if checkpoint is not None and checkpoint.exists():
            self.load(checkpoint)
        begun = saved = time.monotonic()
        before = self.seconds
        while not self.trainer.done:
            self.advance()
            now = time.monotonic()
            self.seconds = before + now - begun
            if self.trainer.step % _LOG_STEPS == 0:
                self._write_line()
            if checkpoint is not None and now - saved > _CHECKPOINT_SECONDS:
                self.save(checkpoint)
                saved = now
            if now - begun > seconds:
                break
        if checkpoint is not None:
            self.save(checkpoint)

    def advance(self) -> None:
        """Take one step, on the prediction after a random number of corrections."""
        most = self.network.n_corrections
        self.network.n_corrections = self.stream.draw_corrections()
        self.trainer.advance(self.stream.draw().to(self.device))
        self.network.n_corrections = most

    def _write_line(self) -> None:
        line = {
            "step": self.trainer.step,
            "seconds": round(self.seconds, 1),
            "loss": float(np.mean(self.trainer.losses[-_LOG_STEPS:])),
            "held_out": self.judge(),
        }
        self.log.append(line)
        print(json.dumps(line), flush=True)

    def judge(self) -> float:
        """Return the averaged weights' NLL per target on tasks kept for judging."""
        own = [p.detach().clone() for p in self.trainer.parameters]
        self.trainer.use_average()
        losses = []
        generator = torch.Generator(device=self.device).manual_seed(_JUDGE_SEED)
        with torch.no_grad():
            for n, d in _JUDGE_SIZES:
                tasks = self.prior._draw(
                    _JUDGE_TASKS, n + self.config.n_target, d, generator
                )
                batch = standardized_batch(tasks.X, tasks.y, n)
                logs = conditional_log_likelihood(self.network, self.likelihood, batch)
                losses.append(-float(logs.mean()))
            for parameter, value in zip(self.trainer.parameters, own, strict=True):
                parameter.copy_(value)
        return float(np.mean(losses))

    def save(self, path: Path) -> None:
        """Write the checkpoint, at once and whole."""
        state = {
            "config": dataclasses.asdict(self.config),
            "trainer": self.trainer.state_dict(),
            "stream": self.stream.state_dict(),
            "seconds": self.seconds,
            "log": self.log,
        }
        partial = path.with_suffix(".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same configuration.

        Raises
        ------
        ValueError
            If it is of another configuration.
        """
        state = torch.load(path, map_location="cpu", weights_only=True)
        given = json.loads(json.dumps(dataclasses.asdict(self.config)))
        stored = json.loads(json.dumps(state["config"]))
        if stored != given:
            unlike = sorted(key for key in given if stored.get(key) != given[key])
            raise ValueError(
                f"{path} holds a run that differs in {unlike}; give another file"
            )
        self.trainer.load_state_dict(state["trainer"])
        self.stream.load_state_dict(state["stream"])
        self.seconds, self.log = state["seconds"], state["log"]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="file to go on from")
    add("--seconds", type=float, default=float("inf"), help="of this call")
    add("--steps", type=int, default=PretrainConfig.n_steps)
    add("--seed", type=int, default=PretrainConfig.seed)
    add("--device", default="auto")
    add("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    config = PretrainConfig(n_steps=options.steps, seed=options.seed)
    training = Pretraining(config, resolve_device(options.device))
    training.run(options.seconds, options.checkpoint)


if __name__ == "__main__":
    main()
