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

from skfunc.neural_process._pretraining_tasks import (
    PretrainConfig,
    TaskStream,
    draw_batch,
    tabular_prior,
)
from skfunc.neural_process._prior import NeuralProcessPrior
from skfunc.neural_process.priors import TaskPrior
from skfunc.nn import (
    KernelLabelProcess,
    KernelNeuralProcess,
    MixtureLikelihood,
    TaskBatch,
    draw_module,
)
from skfunc.persistence import load
from skfunc.training import StreamOptions, StreamTrainer, resolve_device

# Seconds between two checkpoints, and steps between two lines of the log.
_CHECKPOINT_SECONDS, _LOG_STEPS = 60.0, 200
_WARMUP_STEPS = 300
# Nats per target beyond which a loss is compressed.
_BAD_LOSS = 5.0
# Rows whose evidence guides corrections once the network is trained, and the columns
# up to which its answers were checked.
_CORRECTION_ROWS, MOST_FEATURES = 512, 100
# Tasks that judge: context rows, columns, and the most classes where there are any.
_JUDGE_SEED = 987_654_321
_JUDGE_SIZES = ((16, 2, 2), (64, 4, 3), (128, 8, 5), (192, 12, 10))
# A log probability below is taken for it.
_LARGEST_LOSS = 30.0


def _compressed(losses: torch.Tensor) -> torch.Tensor:
    """Return losses that grow like a logarithm beyond what a bad guess costs.

    One task without noise, missed by a confident network, would outweigh a batch.
    """
    excess = (losses - _BAD_LOSS).clamp(min=0.0)
    return losses.clamp(max=_BAD_LOSS) + torch.log1p(excess)


def build_network(config: PretrainConfig) -> KernelNeuralProcess | KernelLabelProcess:
    """Return the network of a configuration."""
    options: dict[str, Any] = {
        "kernels": config.kernels,
        "min_std": config.min_std,
        **config.network_parameters,
    }
    if config.task == "classification":
        return KernelLabelProcess(1, 2, 2, **options)
    n_raw = MixtureLikelihood(len(config.kernels)).n_raw(1)
    return KernelNeuralProcess(1, 1, n_raw, **options)


def log_likelihoods(
    network: nn.Module, batch: TaskBatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-likelihoods of targets, the hypotheses' mean and their mixture's."""
    if isinstance(network, KernelLabelProcess):
        state = network.encode(batch.context_x, batch.context_y, batch.context_mask)
        logs = network.log_probabilities(state, batch.target_x)
        known = (logs.clamp(min=-_LARGEST_LOSS) * batch.target_y[:, None, None]).sum(-1)
        weights = state.log_weights
        own = torch.log_softmax(weights, dim=2).unsqueeze(-1)
        single = torch.logsumexp(known + own, dim=2).mean(1)
        return single, torch.logsumexp(known + weights.unsqueeze(-1), dim=(1, 2))
    assert isinstance(network, KernelNeuralProcess)
    likelihood = MixtureLikelihood(len(network.kernels), network.min_std)
    log_weights, means, stds = likelihood.parameters_of(network(batch))
    normal = torch.distributions.Normal(means, stds)
    logs = normal.log_prob(batch.target_y.unsqueeze(-2))[..., 0]
    return logs.mean(-1), torch.logsumexp(log_weights + logs, dim=-1)


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
        self.prior_of_tasks = tabular_prior() if prior is None else prior
        self.network = build_network(config)
        draw_module(self.network, torch.Generator().manual_seed(config.seed))
        self.network.to(device)
        self.stream = TaskStream(self.prior_of_tasks, config, device)
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
        # Of the run whose weights this one began with.
        self.steps_before, self.seconds_before = 0, 0.0
        self.log: list[dict[str, float]] = []

    def _loss(self, module: nn.Module, batch: TaskBatch) -> torch.Tensor:
        single, mixture = log_likelihoods(module, batch)
        # By the mixture alone a hypothesis that loses early would never learn.
        share = self.config.single_weight
        losses = -share * single - (1.0 - share) * mixture
        return _compressed(losses)[batch.target_mask].mean()

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
            for n, d, n_classes in _JUDGE_SIZES:
                if self.config.task == "regression":
                    n_classes = 1
                batch = draw_batch(
                    self.prior_of_tasks,
                    self.config.judge_tasks,
                    n,
                    self.config.n_target,
                    d,
                    n_classes,
                    generator,
                )
                _, logs = log_likelihoods(self.network, batch)
                losses.append(-float(logs[batch.target_mask].mean()))
            for parameter, value in zip(self.trainer.parameters, own, strict=True):
                parameter.copy_(value)
        return float(np.mean(losses))

    def start_from(self, path: Path) -> None:
        """Take the weights of another run, or of a prior; the other task's will do.

        Parameters
        ----------
        path : Path
            A checkpoint, whose averaged weights are taken, or a saved prior
            (``.safetensors``), such as those that the package ships.

        Raises
        ------
        ValueError
            If its network has inference of another shape.
        """
        other: Any
        if path.suffix == ".safetensors":
            loaded: Any = load(path)
            other, card = loaded.network(), loaded.training
            self.steps_before = card["steps"] + card["steps_before"]
            self.seconds_before = 3600.0 * (card["hours"] + card["hours_before"])
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            other = build_network(PretrainConfig(**state["config"]))
            averages = state["trainer"]["average"]
            for parameter, value in zip(other.parameters(), averages, strict=True):
                parameter.data = value
            self.steps_before = state["trainer"]["step"] + state.get("steps_before", 0)
            self.seconds_before = state["seconds"] + state.get("seconds_before", 0.0)
        try:
            if type(other) is type(self.network):
                self.network.load_state_dict(other.state_dict(), strict=False)
            self.network.inference.load_state_dict(other.inference.state_dict())
        except RuntimeError as error:
            raise ValueError(f"{path} holds another network: {error}") from error
        self.trainer.average = [p.detach().clone() for p in self.trainer.parameters]

    def prior(self, n_corrections: int) -> NeuralProcessPrior:
        """Return the averaged weights as a prior for any table, in float16.

        Parameters
        ----------
        n_corrections : int
            Corrections of its predictions.
        """
        config, is_classes = self.config, self.config.task == "classification"
        names = [name for name, _ in self.network.named_parameters()]
        weights = dict(zip(names, self.trainer.average, strict=True))
        parameters = dict(config.network_parameters)
        parameters |= {
            "kernels": list(config.kernels),
            "min_std": config.min_std,
            "n_corrections": n_corrections,
            "correction_rows": _CORRECTION_ROWS,
        }
        return NeuralProcessPrior(
            variant="kernel_labels" if is_classes else "kernel",
            likelihood="categorical" if is_classes else "mixture",
            n_features=0,
            n_targets=0,
            network_parameters=parameters,
            min_std=config.min_std,
            weights={
                name: value.cpu().numpy().astype(np.float16)
                for name, value in weights.items()
            },
            moments={},
            training=self.model_card(),
            likelihood_parameters=(
                {} if is_classes else {"n_components": len(config.kernels)}
            ),
        )

    def model_card(self) -> dict[str, Any]:
        """Return what is known of the run."""
        return {
            "task": self.config.task,
            "data": "random functions of skfunc.neural_process.priors; no real data",
            "prior": repr(self.prior_of_tasks),
            "steps": self.trainer.step,
            "steps_before": self.steps_before,
            "hours": round(self.seconds / 3600, 2),
            "hours_before": round(self.seconds_before / 3600, 2),
            "device": str(self.device),
            "held_out_nll": self.log[-1]["held_out"] if self.log else None,
            "most_features": MOST_FEATURES,
            "config": dataclasses.asdict(self.config),
        }

    def save(self, path: Path) -> None:
        """Write the checkpoint, at once and whole."""
        state = {
            "config": dataclasses.asdict(self.config),
            "trainer": self.trainer.state_dict(),
            "stream": self.stream.state_dict(),
            "seconds": self.seconds,
            "steps_before": self.steps_before,
            "seconds_before": self.seconds_before,
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
        self.steps_before = state.get("steps_before", 0)
        self.seconds_before = state.get("seconds_before", 0.0)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="file to go on from")
    add("--task", default="regression", choices=("regression", "classification"))
    add("--start-from", type=Path, help="checkpoint or prior, for its weights")
    add("--seconds", type=float, default=float("inf"), help="of this call")
    add("--steps", type=int, default=PretrainConfig.n_steps)
    add("--corrections", type=int, default=4, help="most of them that are trained")
    add("--learning-rate", type=float, default=PretrainConfig.learning_rate)
    add("--seed", type=int, default=PretrainConfig.seed)
    add("--export", type=Path, help="file for the prior in the end")
    add("--device", default="auto")
    add("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    config = PretrainConfig(task=options.task, n_steps=options.steps, seed=options.seed)
    training = Pretraining(config, resolve_device(options.device))
    if options.start_from is not None and not options.checkpoint.exists():
        training.start_from(options.start_from)
    training.run(options.seconds, options.checkpoint)
    if options.export is not None:
        training.prior(options.corrections).save(options.export)


if __name__ == "__main__":
    main()
