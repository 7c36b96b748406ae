"""Adam for a stack of members, each with its own learning rate and clock."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skfunc._shapes import Float

# Kingma & Ba 2015 (arXiv 1412.6980), algorithm 1.
# The second moment forgets faster than the paper's .999: fits of some hundred steps,
# chosen on the recorded sets.
BETA1, BETA2, EPSILON = 0.9, 0.95, 1e-8
# Steps that the average of the weights looks back on, once it has warmed up.
AVERAGED_STEPS = 50
_AVERAGE_WARM_UP = 20


class MemberAdam:
    """Adam with decoupled weight decay, and an average of the weights.

    What may differ between members is a vector over them.

    `torch.optim.AdamW` has one learning rate per tensor and one clock; a stack needs
    one per row. With equal rows the updates are those of `torch.optim.AdamW`. The
    exponential average of the weights (Polyak & Juditsky 1992) is what a fit keeps: it
    is as good at a high learning rate as the weights are after annealing.

    Parameters
    ----------
    flat : Tensor of shape (members, parameters)
        Updated in place.
    learning_rate : Tensor of shape (members,)
        Peak learning rates.
    decay : Tensor of shape (members, parameters) or (members, 1)
        Weight decay per unit of learning rate.
    """

    def __init__(
        self,
        flat: Float[Tensor, "members parameters"],
        learning_rate: Float[Tensor, " members"],
        decay: Float[Tensor, "members _"],
    ) -> None:
        self.flat = flat
        self.learning_rate = learning_rate.reshape(-1, 1).to(flat, copy=True)
        self.decay = decay.to(flat)
        self.has_decay = bool((decay != 0).any())
        self.first = torch.zeros_like(flat)
        self.second = torch.zeros_like(flat)
        self.beta1_power = torch.ones_like(self.learning_rate)
        self.beta2_power = torch.ones_like(self.learning_rate)
        self.average = flat.clone()
        self.clock = torch.zeros_like(self.learning_rate)

    def step(
        self, gradient: Float[Tensor, "members parameters"], scale: float | Tensor
    ) -> None:
        """Update the parameters; `scale` is the schedule's factor on the rates."""
        rate = self.learning_rate * scale
        if self.has_decay:
            # A penalty of any strength takes the weights to 0, never beyond.
            shrinkage = (self.decay * rate).clamp_(max=1.0)
            self.flat.addcmul_(self.flat, shrinkage, value=-1.0)
        self.first.lerp_(gradient, 1.0 - BETA1)
        self.second.mul_(BETA2).addcmul_(gradient, gradient, value=1.0 - BETA2)
        self.beta1_power.mul_(BETA1)
        self.beta2_power.mul_(BETA2)
        # The corrections of the moments stand in the rate and in epsilon, which are
        # numbers per member: fewer passes over the parameters.
        correction = (1.0 - self.beta2_power).sqrt_()
        root = self.second.sqrt().add_(correction * EPSILON)
        rate = rate * correction / (self.beta1_power - 1.0)
        self.flat.addcdiv_(self.first * rate, root)
        self.clock.add_(1.0)
        newest = (_AVERAGE_WARM_UP / (_AVERAGE_WARM_UP + self.clock)).clamp_(
            min=1.0 / AVERAGED_STEPS
        )
        self.average.lerp_(self.flat, newest)

    def restart(self, members: Tensor, rate_factor: float) -> None:
        """Forget the moments of some members (a boolean mask) and scale their rates."""
        self.first[members] = 0.0
        self.second[members] = 0.0
        self.average[members] = self.flat[members]
        self.clock[members] = 0.0
        self.beta1_power[members] = 1.0
        self.beta2_power[members] = 1.0
        self.learning_rate[members] *= rate_factor

    def keep(self, members: Tensor) -> None:
        """Keep these members (a vector of positions) and drop the others."""
        for name in (
            "flat",
            "learning_rate",
            "decay",
            "first",
            "second",
            "beta1_power",
            "beta2_power",
            "average",
            "clock",
        ):
            setattr(self, name, getattr(self, name)[members].contiguous())


def schedule_factor(schedule: str, progress: float, warmup: float) -> float:
    """Return the factor on the learning rate at a fraction of the training.

    Linear from 0 during the first `warmup` of it, then constant or half a cosine
    (Loshchilov & Hutter 2017, arXiv 1608.03983) down to 1 % of the peak.
    """
    if progress < warmup:
        return max(progress / warmup, 0.02)
    if schedule == "constant":
        return 1.0
    done = (progress - warmup) / max(1.0 - warmup, 1e-12)
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
