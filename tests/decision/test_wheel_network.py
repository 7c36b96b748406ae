"""The benchmark's neural process: its invariances, its agent and its training."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from skfunc.datasets import WheelBandit
from skfunc.decision import run_bandit
from skfunc.nn import draw_module

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(
    not (BENCHMARKS / "_wheel_network.py").exists(), reason="needs the benchmarks"
)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def network(script):
    network = script("_wheel_network").ExtremePoolingProcess(width=16, n_units=8)
    draw_module(network, torch.Generator().manual_seed(0))
    return network.double()


@pytest.fixture
def rounds():
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.rand(3, 12, 2, generator=generator, dtype=torch.float64) - 1
    arms = torch.randint(5, (3, 12), generator=generator)
    rewards = torch.rand(3, 12, generator=generator, dtype=torch.float64) * 50
    return x, arms, rewards


def test_rounds_have_no_order_and_add_up(network, rounds):
    x, arms, rewards = rounds
    units = network.encode(x, arms, rewards)
    assert torch.equal(units, network.encode(x.flip(1), arms.flip(1), rewards.flip(1)))
    later = network.tokens(x[:, 5:], arms[:, 5:], rewards[:, 5:]).amax(1)
    first = network.encode(x[:, :5], arms[:, :5], rewards[:, :5])
    torch.testing.assert_close(units, torch.maximum(first, later))
    assert torch.equal(
        network.encode(*(part[:, :0] for part in rounds)), network.nothing(3)
    )


def test_targets_do_not_see_each_other(network, rounds):
    units = network.encode(*rounds)
    raw = network.decode(units, rounds[0])
    alone = network.decode(units, rounds[0][:, 4:5])
    torch.testing.assert_close(raw[:, 4:5], alone)


def test_agent_plays_as_the_network_does(script, network):
    # Sure predictions, so that draws do not matter: units of a bin are apart.
    module = script("_wheel_network")
    with torch.no_grad():
        network.decoder.layers[-1].weight.mul_(1e3)
    sample = WheelBandit(0.6).sample(40, 0)
    x, rewards = torch.as_tensor(sample.contexts), torch.as_tensor(sample.rewards)
    arms = network.play(x[None], rewards[None], torch.Generator().manual_seed(0))[0]

    class Rounds(WheelBandit):
        def sample(self, n_rounds, random_state=None):
            return sample

    agent = module.ExtremePoolingAgent(network.float())
    result = run_bandit(agent, Rounds(0.6), 40, random_state=0)
    assert len(set(result.arms.tolist())) > 1
    assert (result.arms == arms.numpy()).mean() > 0.9


def test_games_side_by_side_have_the_rounds_of_the_agent(script, network):
    # An agent that never leaves arm 2 loses the same in both.
    class Stubborn(type(network)):
        def draw_arms(self, units, x, generator):
            return torch.full((len(x),), 2)

    network = network.float()
    network.__class__ = Stubborn
    wheel = WheelBandit(0.8)
    regrets = script("wheel_bandit").side_by_side(network, wheel, 2, 30)
    agent = script("_wheel_network").ExtremePoolingAgent(network)
    for trial in range(2):
        alone = run_bandit(agent, wheel, 30, random_state=trial)
        assert (regrets[trial] == alone.regrets).all()


def test_wheels_of_a_step(script):
    module = script("_wheel_training")
    wheels = module.Wheels(np.random.default_rng(0), fresh=False, n_played=64)
    known = {tuple(x) for x in wheels.rounds[0].reshape(-1, 2).tolist()}
    network = script("_wheel_network").ExtremePoolingProcess(width=16, n_units=8)
    draw_module(network, torch.Generator().manual_seed(0))
    wheels.play(network)
    for _ in range(6):
        step = wheels.draw()
        n_rounds = step.arms.shape[1]
        assert step.contexts.shape == (32, n_rounds, 2) and n_rounds <= 512
        assert step.target_rewards.shape == (32, 50, 5)
        seen = {tuple(x) for x in step.contexts[0].tolist()}
        asked = {tuple(x) for x in step.target_contexts[0].tolist()}
        assert not seen & asked
        assert asked < known
        # Every reward is one of the arm that was pulled.
        means = np.array([1.0, 1.2, 50.0])
        gaps = np.abs(step.rewards.numpy()[..., None] - means).min(-1)
        assert gaps.size == 0 or gaps.max() < 0.06


def test_learning_starts(script):
    module = script("_wheel_training")
    rng = np.random.default_rng(3)
    step = module.Wheels(rng, fresh=True).draw()
    trained = module.learn(fresh=True, n_steps=25)
    untrained = script("_wheel_network").ExtremePoolingProcess()
    draw_module(untrained, torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert module.loss(trained, step) < module.loss(untrained, step) - 1
