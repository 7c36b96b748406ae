"""The wheel's geometry, its rewards and the regret of chance."""

import numpy as np
import pytest

from skfunc.datasets import WheelBandit
from skfunc.datasets._random_state import as_generator


def test_mean_rewards_by_the_definition():
    wheel = WheelBandit(0.5)
    contexts = [[0.1, 0.2], [0.6, 0.6], [-0.6, 0.6], [-0.6, -0.6], [0.6, -0.6]]
    expected = np.full((5, 5), 1.0)
    expected[:, 0] = 1.2
    expected[[1, 2, 3, 4], [1, 2, 3, 4]] = 50.0
    assert np.array_equal(wheel.mean_rewards(contexts), expected)


def test_contexts_fill_the_disc_evenly():
    contexts = WheelBandit(0.5).sample(20_000, random_state=0).contexts
    radius = np.hypot(*contexts.T)
    assert radius.max() <= 1
    for r in (0.3, 0.5, 0.9):
        assert (radius <= r).mean() == pytest.approx(r**2, abs=0.015)
    assert np.abs(contexts.mean(0)).max() < 0.02


def test_rewards_scatter_around_their_means():
    sample = WheelBandit(0.9).sample(5000, random_state=1)
    noise = sample.rewards - sample.means
    assert noise.std() == pytest.approx(0.01, rel=0.03)
    assert np.abs(noise.mean(0)).max() < 0.001
    assert np.array_equal(sample.optimal_means, sample.means.max(1))


@pytest.mark.parametrize("delta", [0.0, 0.5, 0.95, 1.0])
def test_uniform_regret(delta):
    wheel = WheelBandit(delta)
    sample = wheel.sample(40_000, random_state=2)
    arms = np.random.default_rng(0).integers(5, size=40_000)
    regret = wheel.expected_regret(sample.contexts, arms)
    error = regret.std() / np.sqrt(len(regret))
    assert abs(regret.mean() - wheel.uniform_regret) < 4 * error
    expected = 0.16 * delta**2 + 39.16 * (1 - delta**2)
    assert wheel.uniform_regret == pytest.approx(expected)
    best = sample.means.argmax(1)
    assert not wheel.expected_regret(sample.contexts, best).any()


def test_seed_and_repr():
    wheel = WheelBandit(0.7)
    first, again = (wheel.sample(3, random_state=5) for _ in range(2))
    assert np.array_equal(first.rewards, again.rewards)
    assert repr(wheel) == "WheelBandit(delta=0.7)"
    generator = np.random.default_rng(0)
    assert as_generator(generator) is generator


def test_bad_input():
    with pytest.raises(ValueError, match="delta must be"):
        WheelBandit(1.5)
    with pytest.raises(ValueError, match="shape"):
        WheelBandit(0.5).mean_rewards(np.zeros((3, 3)))
