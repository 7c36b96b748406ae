"""Training on a stream of batches that never repeat: tasks drawn from a prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from skfunc.training._loop import MAX_RETRIES
from skfunc.training._optimizer import schedule_factor

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class StreamOptions:
    """How to train on a stream.

    Attributes
    ----------
    n_steps : int
        Steps in all; the schedule ends there.
    learning_rate : float
        Peak learning rate of AdamW.
    weight_decay : float
        Decoupled weight decay, on matrices alone.
    warmup : float
        Share of the steps in which the rate rises.
    schedule : {"constant", "cosine"}
        What it does afterwards.
    max_gradient_norm : float
        Longer gradients are scaled down to it.
    averaging : float
        Decay of the exponential average of the weights, after a warm-up; 0 for none.
    """

    n_steps: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup: float = 0.05
    schedule: str = "cosine"
    max_gradient_norm: float = 1.0
    averaging: float = 0.99


class StreamTrainer(Generic[Batch]):
    """One module, trained step by step; stops and goes on anywhere.

    Parameters
    ----------
    module : nn.Module
        Trained in place.
    loss : callable
        ``loss(module, batch)`` returns a scalar tensor.
    options : StreamOptions
        How to train.

    Attributes
    ----------
    step : int
        Steps taken.
    losses : list of float
        The loss of every step.
    n_retries : int
        How often a loss that was not finite led back to the last good weights.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[nn.Module, Batch], Tensor],
        options: StreamOptions,
    ) -> None:
        self.module, self.loss, self.options = module, loss, options
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        # Biases, scales of norms and single numbers are not drawn to zero.
        matrices = [p for p in self.parameters if p.dim() > 1]
        others = [p for p in self.parameters if p.dim() <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": options.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=options.learning_rate,
        )
        self.average = [p.detach().clone() for p in self.parameters]
        self.step = 0
        self.losses: list[float] = []
        self.n_retries = 0
        self._scale = 1.0

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""
        return self.step >= self.options.n_steps

    def advance(self, batch: Batch) -> float:
        """Take one step on a batch; return the loss.

        Raises
        ------
        FloatingPointError
            If the loss is not finite once more after three returns to the averaged
            weights, each with half the learning rate.
        """
        options = self.options
        progress = self.step / options.n_steps
        factor = schedule_factor(options.schedule, progress, options.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * self._scale * factor
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.module, batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, options.max_gradient_norm)
        value = float(loss.detach())
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            self._restore(value)
            return value
        self.optimizer.step()
        self.step += 1
        self._update_average()
        self.losses.append(value)
        return value

    def use_average(self) -> None:
        """Put the averaged weights in the module."""
        with torch.no_grad():
            for parameter, average in zip(self.parameters, self.average, strict=True):
                parameter.copy_(average)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a later run needs to go on as if there had been no pause."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "losses": self.losses,
            "n_retries": self.n_retries,
            "scale": self._scale,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for mine, theirs in zip(self.average, state["average"], strict=True):
                mine.copy_(theirs)
        self.step, self.losses = state["step"], list(state["losses"])
        self.n_retries, self._scale = state["n_retries"], state["scale"]

    def _update_average(self) -> None:
        # Early weights are forgotten faster, so that a short training has an average.
        decay = min(self.options.averaging, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for average, parameter in zip(self.average, self.parameters, strict=True):
                average.lerp_(parameter, 1.0 - decay)

    def _restore(self, value: float) -> None:
        self.n_retries += 1
        if self.n_retries > MAX_RETRIES:
            raise FloatingPointError(
                f"the loss became {value} at step {self.step + 1}; {MAX_RETRIES} "
                "restarts from the averaged weights, each with half the learning "
                f"rate (now {self.options.learning_rate * self._scale:g}), did not "
                "help. Lower learning_rate_init, or look for extreme values in the "
                "tasks"
            )
        self._scale *= 0.5
        self.use_average()
        # Moments that hold an infinity would spoil every later step.
        self.optimizer.state.clear()
