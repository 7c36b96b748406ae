"""Meta-training: a network learns to predict targets from contexts, task after task."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skfunc.neural_process._likelihoods import build_likelihood
from skfunc.neural_process._prior import NeuralProcessPrior, build_network
from skfunc.nn import (
    Likelihood,
    NeuralProcess,
    TaskBatch,
    conditional_log_likelihood,
    draw_module,
    evidence_lower_bound,
    importance_weighted_log_likelihood,
    separate_log_likelihood,
)
from skfunc.training import StreamOptions, StreamTrainer

Array = NDArray[np.float64]

# Deviation for means of the objective "separate": it weighs them against deviations.
SEPARATE_STD = 0.1
OBJECTIVES = ("auto", "likelihood", "elbo", "importance_weighted")


@dataclass
class MetaTraining:
    """How a network is trained on tasks.

    Attributes
    ----------
    variant, likelihood, likelihood_parameters, min_std, network_parameters
        As in `NeuralProcessPrior`.
    objective : str
        "likelihood" of the targets; for networks with a latent "elbo" or
        "importance_weighted"; "auto" is the elbo with a latent, else the likelihood;
        "separate" is the likelihood of Gaussians with gradients of its own for means.
    n_steps, batch_size : int
        Steps, and tasks in each.
    learning_rate, weight_decay : float
        Of AdamW.
    n_draws : int
        Draws of the latent for a step.
    """

    variant: str
    likelihood: str
    network_parameters: dict[str, Any]
    min_std: float
    objective: str
    n_steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    n_draws: int = 1
    likelihood_parameters: dict[str, Any] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)

    def build_likelihood(self) -> Likelihood:
        """Return what reads the network's raw outputs."""
        return build_likelihood(
            self.likelihood, self.min_std, self.likelihood_parameters
        )

    def run(
        self,
        draw: Callable[[int, np.random.Generator, torch.dtype], TaskBatch],
        *,
        n_features: int,
        n_targets: int,
        moments: dict[str, Array],
        seed: int,
        device: torch.device,
        judge: Callable[[NeuralProcess], float] | None = None,
        judge_every: int = 50,
        patience: int = 0,
        on_step: Callable[[int, float], bool] | None = None,
        prepare: Callable[[Any], None] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> NeuralProcessPrior:
        """Train a network on batches of tasks.

        Parameters
        ----------
        draw : callable
            ``draw(n_tasks, generator, dtype)`` returns a `TaskBatch`.
        n_features, n_targets : int
            Widths of the tasks.
        moments : dict of ndarray
            What the tasks were standardized by, kept with the prior.
        seed : int
            Of initial weights, batches and draws of the latent.
        device : torch.device
            Where to train.
        judge : callable or None
            ``judge(network)`` returns a loss of the averaged weights on what training
            never sees; the best weights are kept.
        judge_every : int
            Steps between two such judgements.
        patience : int
            Judgements without improvement that end the training; 0 for none.
        on_step : callable or None
            ``on_step(step, loss)`` is told of every step; True ends the training.
        prepare : callable or None
            ``prepare(network)`` sets what the network holds beside its parameters.

        Returns
        -------
        NeuralProcessPrior
            The trained prior.

        Raises
        ------
        FloatingPointError
            If the loss stays without a finite value.
        KeyboardInterrupt
            Passed on after the prior so far is set as its attribute `prior`.
        """
        begun = time.perf_counter()
        likelihood = self.build_likelihood().to(device=device, dtype=dtype)
        network = build_network(
            self.variant, likelihood, n_features, n_targets, self.network_parameters
        )
        generator = torch.Generator().manual_seed(seed)
        draw_module(network, generator)
        if prepare is not None:
            prepare(network)
        network.to(device=device, dtype=dtype)
        rows = np.random.default_rng(seed)
        noise = torch.Generator(device=device).manual_seed(seed)
        trainer: StreamTrainer[TaskBatch] = StreamTrainer(
            network,
            self._loss(likelihood, noise),
            StreamOptions(
                self.n_steps, self.learning_rate, weight_decay=self.weight_decay
            ),
        )
        best: tuple[float, list[Tensor]] | None = None
        waited = 0

        def finish() -> NeuralProcessPrior:
            if best is not None:
                trainer.average = best[1]
            trainer.use_average()
            self.losses = trainer.losses
            return NeuralProcessPrior(
                variant=self.variant,
                likelihood=self.likelihood,
                likelihood_parameters=self.likelihood_parameters,
                n_features=n_features,
                n_targets=n_targets,
                network_parameters=self.network_parameters,
                min_std=self.min_std,
                weights={
                    name: value.detach().to("cpu", torch.float32).numpy()
                    for name, value in network.state_dict().items()
                },
                moments=moments,
                training={
                    "n_steps": trainer.step,
                    "seconds": round(time.perf_counter() - begun, 1),
                    "n_retries": trainer.n_retries,
                    # Without a step there is no loss to tell.
                    "loss": float(np.mean(trainer.losses[-50:] or [np.nan])),
                },
            )

        try:
            while not trainer.done:
                batch = draw(self.batch_size, rows, dtype).to(device)
                value = trainer.advance(batch)
                if on_step is not None and on_step(trainer.step, value):
                    break
                if judge is not None and trainer.step % judge_every == 0:
                    held_out = self._judged(trainer, judge)
                    if best is None or held_out < best[0]:
                        best = (held_out, [a.clone() for a in trainer.average])
                        waited = 0
                    else:
                        waited += 1
                        if patience and waited >= patience:
                            break
        except KeyboardInterrupt as interrupt:
            interrupt.prior = finish()  # type: ignore[attr-defined]
            raise
        return finish()

    def _judged(
        self, trainer: StreamTrainer[TaskBatch], judge: Callable[[Any], float]
    ) -> float:
        """Return the judgement of the averaged weights, and go on with the others."""
        current = [p.detach().clone() for p in trainer.parameters]
        trainer.use_average()
        with torch.no_grad():
            value = judge(trainer.module)
            for parameter, own in zip(trainer.parameters, current, strict=True):
                parameter.copy_(own)
        return value

    def _loss(
        self, likelihood: Any, noise: torch.Generator
    ) -> Callable[[nn.Module, TaskBatch], Tensor]:
        def loss(module: nn.Module, batch: TaskBatch) -> Tensor:
            network: Any = module
            objective = self.objective
            if objective == "auto":
                objective = "elbo" if network.is_latent else "likelihood"
            if objective == "elbo":
                values = evidence_lower_bound(
                    network,
                    likelihood,
                    batch,
                    n_samples=self.n_draws,
                    generator=noise,
                )
            elif objective == "importance_weighted":
                values = importance_weighted_log_likelihood(
                    network,
                    likelihood,
                    batch,
                    n_samples=max(self.n_draws, 2),
                    generator=noise,
                )
            elif objective == "separate":
                values = separate_log_likelihood(
                    network, likelihood, batch, std=SEPARATE_STD
                )
            else:
                values = conditional_log_likelihood(network, likelihood, batch)
            return -values.mean()

        return loss
