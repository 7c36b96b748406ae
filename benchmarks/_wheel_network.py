"""A neural process for bandits: units that look for extreme points, and its agent.

What an agent must remember of the wheel is two numbers, the largest radius known to be
inside and the smallest known to be outside. The mean of encoded points is a poor place
for them; a maximum holds them exactly, and a new point costs the same after any number
of rounds.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from skfunc._shapes import Float, Int
from skfunc.decision import BanditAgent
from skfunc.nn import MLP, BinsLikelihood, Linear

N_ARMS = 5
N_COLUMNS = 5
# Bins over asinh of rewards, which brings 1, 1.2 and 50 to like scales; standardized
# by a mean and a deviation of that order.
EDGES = (-1.0, 3.0, 41)
MEAN, SCALE = 1.5, 1.2
# Differences to the extreme points are seen at these magnifications.
MAGNIFICATIONS = (1.0, 10.0, 100.0, 1000.0)


def quadratic(x: Float[Tensor, "*points two"]) -> Float[Tensor, "*points columns"]:
    """Return coordinates, squares and product, with variances of order one."""
    a, b = x.unbind(-1)
    return torch.stack([2 * a, 2 * b, 3 * a * a, 3 * b * b, 6 * a * b], dim=-1)


def squashed(rewards: Tensor) -> Tensor:
    """Return rewards as the network sees them; the order of rewards stays."""
    return (torch.asinh(rewards) - MEAN) / SCALE


class ExtremePoolingProcess(nn.Module):
    """Conditional neural process over rounds (context, arm, reward) of a bandit.

    Each of the pooled units is a linear function of a point less a penalty, which a
    perceptron of point, arm and reward says; its maximum is the extreme point in a
    learned direction among those that matter. A target is compared with the extremes
    by the same linear functions, so that the comparison is sharp. The prediction is a
    histogram for the reward of every arm.

    Parameters
    ----------
    width : int, default=64
        Width of hidden layers.
    n_units : int, default=32
        Pooled units.
    n_hidden : int, default=3
        Hidden layers of encoder and decoder each.
    """

    def __init__(self, width: int = 64, n_units: int = 32, n_hidden: int = 3) -> None:
        super().__init__()
        sizes = {"width": width, "n_hidden": n_hidden, "activation": "gelu"}
        self.likelihood = BinsLikelihood(torch.linspace(*EDGES))
        self.directions = Linear(N_COLUMNS, n_units)
        self.penalty = MLP([N_COLUMNS, N_ARMS, 1], n_units, **sizes)
        self.start = Linear(1, n_units)
        inputs = [N_COLUMNS, n_units, *[n_units] * len(MAGNIFICATIONS)]
        self.decoder = MLP(inputs, self.likelihood.n_raw(N_ARMS), **sizes)

    def nothing(self, n_tasks: int) -> Float[Tensor, "tasks units"]:
        """Return the units before the first round."""
        return self.start(self.start.weight.new_ones(n_tasks, 1))

    def tokens(
        self,
        contexts: Float[Tensor, "*rounds two"],
        arms: Int[Tensor, "*rounds"],
        rewards: Float[Tensor, "*rounds"],
    ) -> Float[Tensor, "*rounds units"]:
        """Return what each round offers to the units."""
        columns = quadratic(contexts)
        pulled = 2.0 * functional.one_hot(arms, N_ARMS).to(contexts.dtype)
        paid = squashed(rewards).unsqueeze(-1)
        penalty = functional.softplus(self.penalty(columns, pulled, paid))
        return self.directions(columns) - penalty

    def encode(
        self,
        contexts: Float[Tensor, "tasks rounds two"],
        arms: Int[Tensor, "tasks rounds"],
        rewards: Float[Tensor, "tasks rounds"],
    ) -> Float[Tensor, "tasks units"]:
        """Return the units after the rounds."""
        first = self.nothing(len(contexts)).unsqueeze(1)
        return torch.cat([first, self.tokens(contexts, arms, rewards)], 1).amax(1)

    def decode(
        self, units: Float[Tensor, "tasks units"], x: Float[Tensor, "tasks points two"]
    ) -> Float[Tensor, "tasks points raw"]:
        """Return raw parameters of the likelihood of all arms' squashed rewards."""
        columns, units = quadratic(x), units.unsqueeze(1)
        gap = self.directions(columns) - units
        seen = [torch.tanh(factor * gap) for factor in MAGNIFICATIONS]
        return self.decoder(columns, units, *seen)

    def draw_arms(
        self,
        units: Float[Tensor, "tasks units"],
        x: Float[Tensor, "tasks two"],
        generator: torch.Generator,
    ) -> Int[Tensor, " tasks"]:
        """Return the best arm of rewards that are drawn from their predictions."""
        raw = self.decode(units, x.unsqueeze(1)).squeeze(1)
        return self.likelihood.sample(raw, generator).argmax(-1)

    @torch.no_grad()
    def play(
        self,
        contexts: Float[Tensor, "tasks rounds two"],
        rewards: Float[Tensor, "tasks rounds arms"],
        generator: torch.Generator,
    ) -> Int[Tensor, "tasks rounds"]:
        """Play many bandits side by side by Thompson sampling; return the arms."""
        units, chosen = self.nothing(len(contexts)), []
        for x, paid in zip(contexts.unbind(1), rewards.unbind(1), strict=True):
            arms = self.draw_arms(units, x, generator)
            units = torch.maximum(units, self.tokens(x, arms, of_arms(paid, arms)))
            chosen.append(arms)
        return torch.stack(chosen, dim=1)


def of_arms(rewards: Tensor, arms: Tensor) -> Tensor:
    """Return the rewards of the chosen arms."""
    return rewards.gather(-1, arms.unsqueeze(-1)).squeeze(-1)


class ExtremePoolingAgent(BanditAgent):
    """Thompson sampling by a trained network: one draw of rewards a round."""

    def __init__(self, network: ExtremePoolingProcess) -> None:
        self.network = network

    def start(self, n_arms: int, n_features: int, rng: np.random.RandomState) -> None:
        """Forget all rounds."""
        super().start(n_arms, n_features, rng)
        self._generator = torch.Generator().manual_seed(int(rng.randint(2**31 - 1)))
        with torch.no_grad():
            self._units = self.network.nothing(1)

    def choose(self, context: NDArray[np.float64]) -> int:
        """Choose the arm of the largest drawn reward."""
        x = torch.as_tensor(context[None], dtype=torch.float32)
        with torch.no_grad():
            return int(self.network.draw_arms(self._units, x, self._generator))

    def update(self, context: NDArray[np.float64], arm: int, reward: float) -> None:
        """Let the units see the round."""
        x = torch.as_tensor(context[None], dtype=torch.float32)
        pulled, paid = torch.tensor([arm]), torch.tensor([reward], dtype=x.dtype)
        with torch.no_grad():
            token = self.network.tokens(x, pulled, paid)
        self._units = torch.maximum(self._units, token)
