"""Meta-training of the wheel's neural process, from wheels it may learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from _wheel_network import N_ARMS, ExtremePoolingProcess, of_arms, squashed
from skfunc.datasets import WheelBandit
from skfunc.nn import draw_module
from skfunc.training import StreamOptions, StreamTrainer

WHEELS, CONTEXT_ROUNDS, TARGET_ROUNDS = 64, 512, 50
# Wheels of a step, and steps after which the network plays anew.
BATCH, STEPS_BETWEEN_GAMES = 32, 200


class Step(NamedTuple):
    """Rounds that were played, and rounds whose rewards of all arms are asked for."""

    contexts: Tensor
    arms: Tensor
    rewards: Tensor
    target_contexts: Tensor
    target_rewards: Tensor


def wheel_rounds(
    n_wheels: int, n_rounds: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return contexts and rewards of all arms; delta is uniform on (0, 1)."""
    samples = [
        WheelBandit(rng.uniform()).sample(n_rounds, rng) for _ in range(n_wheels)
    ]
    contexts = np.stack([sample.contexts for sample in samples])
    rewards = np.stack([sample.rewards for sample in samples])
    return torch.as_tensor(contexts).float(), torch.as_tensor(rewards).float()


@dataclass
class Wheels:
    """Source of training steps.

    Half of the contexts have arms at random, in proportions at random; the other half
    are games that the network itself has played, up to some round.

    Parameters
    ----------
    rng : Generator
        Of all that is drawn.
    fresh : bool
        Whether every step has wheels of its own; otherwise there are 64 in all.
    n_played : int
        Rounds of a game.
    """

    rng: np.random.Generator
    fresh: bool
    n_played: int = CONTEXT_ROUNDS

    def __post_init__(self) -> None:
        """Draw the 64 wheels."""
        self.generator = torch.Generator().manual_seed(int(self.rng.integers(2**31)))
        self.games: tuple[Tensor, Tensor, Tensor] | None = None
        if not self.fresh:
            n_rounds = CONTEXT_ROUNDS + TARGET_ROUNDS
            self.rounds = wheel_rounds(WHEELS, n_rounds, self.rng)

    def take(self, n_wheels: int, n_rounds: int) -> tuple[Tensor, Tensor]:
        """Return rounds in random order of wheels at random."""
        if self.fresh:
            return wheel_rounds(n_wheels, n_rounds, self.rng)
        x, rewards = self.rounds
        chosen = self.rng.permutation(WHEELS)[:n_wheels]
        order = self.rng.permuted(np.tile(np.arange(x.shape[1]), (n_wheels, 1)), axis=1)
        wheels, order = torch.as_tensor(chosen)[:, None], order[:, :n_rounds]
        return x[wheels, order], rewards[wheels, order]

    def play(self, network: ExtremePoolingProcess) -> None:
        """Let the network play; later steps take their contexts from the games."""
        x, rewards = self.take(WHEELS, self.n_played + TARGET_ROUNDS)
        n = self.n_played
        arms = network.play(x[:, :n], rewards[:, :n], self.generator)
        self.games = (x, rewards, arms)

    def draw(self) -> Step:
        """Return one step."""
        if self.games is not None and self.rng.uniform() < 0.5:
            n = self._size(self.n_played)
            chosen = torch.as_tensor(self.rng.permutation(WHEELS)[:BATCH])
            x, rewards, arms = (part[chosen] for part in self.games)
            arms, first_target = arms[:, :n], self.n_played
        else:
            n = first_target = self._size(CONTEXT_ROUNDS)
            x, rewards = self.take(BATCH, n + TARGET_ROUNDS)
            shares = self.rng.dirichlet(np.ones(N_ARMS), BATCH).cumsum(axis=1)
            ranks = self.rng.uniform(size=(BATCH, n, 1)) > shares[:, None, :-1]
            arms = torch.as_tensor(ranks.sum(axis=-1))
        return Step(
            x[:, :n],
            arms,
            of_arms(rewards[:, :n], arms),
            x[:, first_target:],
            rewards[:, first_target:],
        )

    def _size(self, most: int) -> int:
        """Return a number from 0 to the most; its logarithm is uniform."""
        return int(np.exp(self.rng.uniform(0.0, np.log(most + 1)))) - 1


def loss(module: nn.Module, step: Step) -> Tensor:
    """Return minus the log-likelihood of the targets' rewards, per round."""
    network: ExtremePoolingProcess = module  # type: ignore[assignment]
    units = network.encode(step.contexts, step.arms, step.rewards)
    raw = network.decode(units, step.target_contexts)
    return -network.likelihood.log_prob(raw, squashed(step.target_rewards)).mean()


def learn(
    *, fresh: bool, n_steps: int, n_played: int = CONTEXT_ROUNDS, random_state: int = 0
) -> ExtremePoolingProcess:
    """Return a network that has learned from wheels."""
    wheels = Wheels(np.random.default_rng(random_state), fresh, n_played)
    network = ExtremePoolingProcess()
    draw_module(network, torch.Generator().manual_seed(random_state))
    options = StreamOptions(n_steps, learning_rate=2e-3)
    trainer: StreamTrainer[Step] = StreamTrainer(network, loss, options)
    while not trainer.done:
        if trainer.step and trainer.step % STEPS_BETWEEN_GAMES == 0:
            wheels.play(network)
        trainer.advance(wheels.draw())
    trainer.use_average()
    return network
