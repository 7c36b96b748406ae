"""Agents: posteriors in closed form, and regrets on the wheel."""

import numpy as np
import pytest
from scipy import stats

from skfunc.datasets import WheelBandit
from skfunc.decision import (
    BanditAgent,
    LinearThompsonAgent,
    UniformAgent,
    WheelThompsonAgent,
    run_bandit,
)

# Exact Thompson sampling over delta, 2 000 rounds, per cent of the regret of chance.
RECORDED = {0.5: 0.33, 0.7: 0.46, 0.9: 1.06, 0.95: 2.17, 0.99: 5.44}


def started(agent, n_arms=2, n_features=3, seed=0):
    agent.start(n_arms, n_features, np.random.RandomState(seed))
    return agent


def test_linear_posterior():
    agent = started(LinearThompsonAgent(precision=0.5, shape=3.0, rate=2.0))
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 3)), rng.normal(size=30)
    for context, reward in zip(X, y, strict=True):
        agent.update(context, 1, reward)
    # Normal-inverse-gamma, by the textbook and all rows at once.
    design = np.column_stack([X, np.ones(30)])
    precision = design.T @ design + 0.5 * np.eye(4)
    mean = np.linalg.solve(precision, design.T @ y)
    rate = 2.0 + 0.5 * (y @ y - mean @ precision @ mean)
    assert np.allclose(agent._means[1], mean)
    assert np.allclose(agent._roots[1] @ agent._roots[1].T, np.linalg.inv(precision))
    assert agent._shapes.tolist() == [3.0, 18.0]
    assert agent._rates == pytest.approx([2.0, rate])
    assert not agent._means[0].any()


def test_linear_draws_have_the_posterior_of_a_mean():
    agent = started(LinearThompsonAgent(n_initial_pulls=0), n_features=1)
    rng = np.random.default_rng(1)
    for arm in (0, 1):
        for context in rng.normal(size=(8, 1)):
            agent.update(context, arm, 0.5 * arm + context[0] + rng.normal())
    context = np.array([0.3])
    share = np.mean([agent.choose(context) for _ in range(4000)])
    row = np.array([0.3, 1.0])
    # The difference of two independent Student t variables, by many draws.
    draws = np.array(
        [
            stats.t.rvs(
                2 * agent._shapes[arm],
                loc=agent._means[arm] @ row,
                scale=np.sqrt(agent._rates[arm] / agent._shapes[arm])
                * np.linalg.norm(agent._roots[arm].T @ row),
                size=40_000,
                random_state=arm,
            )
            for arm in (0, 1)
        ]
    )
    assert share == pytest.approx((draws[1] > draws[0]).mean(), abs=0.03)


def test_linear_pulls_each_arm_first():
    result = run_bandit(LinearThompsonAgent(n_initial_pulls=3), WheelBandit(0.5), 15, 0)
    assert result.arms.tolist() == [0, 1, 2, 3, 4] * 3


def test_linear_learns():
    wheel = WheelBandit(0.5)
    runs = [run_bandit(LinearThompsonAgent(), wheel, 1000, seed) for seed in range(3)]
    share = np.mean([run.regrets.mean() for run in runs]) / wheel.uniform_regret
    assert 0.02 < share < 0.25


def test_linear_starts_anew():
    agent = LinearThompsonAgent()
    first = run_bandit(agent, WheelBandit(0.7), 100, 3)
    again = run_bandit(agent, WheelBandit(0.7), 100, 3)
    assert np.array_equal(first.arms, again.arms)


@pytest.mark.parametrize("name", ["precision", "shape", "rate"])
def test_linear_bad_parameters(name):
    with pytest.raises(ValueError, match=name):
        run_bandit(LinearThompsonAgent(**{name: 0.0}), WheelBandit(0.5), 5)


def test_wheel_agent_narrows_delta():
    agent = started(WheelThompsonAgent(), 5, 2)
    agent.update(np.array([0.3, 0.4]), 1, 1.0)
    assert (agent._inside, agent._outside) == (0.5, 1.0)
    agent.update(np.array([-0.6, 0.6]), 2, 50.0)
    assert agent._outside == pytest.approx(0.6 * np.sqrt(2))
    # Arm 0 and arms of other quadrants tell nothing.
    agent.update(np.array([0.55, 0.0]), 0, 1.2)
    agent.update(np.array([0.55, 0.1]), 3, 1.0)
    assert agent._inside == 0.5
    assert agent.choose(np.array([0.1, 0.1])) == 0
    assert agent.choose(np.array([0.9, -0.1])) == 4
    with pytest.raises(ValueError, match="a wheel has 5 arms"):
        started(WheelThompsonAgent(), 3, 2)


@pytest.mark.parametrize("delta", [0.7, 0.95])
def test_exact_thompson_sampling(delta):
    wheel = WheelBandit(delta)
    shares = np.array(
        [
            100 * run_bandit(WheelThompsonAgent(), wheel, 2000, seed).regrets.mean()
            for seed in range(40)
        ]
    )
    shares /= wheel.uniform_regret
    # The recorded figure has an error of its own, taken to be as large.
    error = np.sqrt(2) * shares.std() / np.sqrt(len(shares))
    assert abs(shares.mean() - RECORDED[delta]) < 3 * error


def test_result():
    wheel = WheelBandit(0.9)
    result = run_bandit(UniformAgent(), wheel, 4000, random_state=0)
    assert result.arms.shape == result.rewards.shape == result.regrets.shape == (4000,)
    assert np.array_equal(result.cumulative_regret, np.cumsum(result.regrets))
    assert result.simple_regret(100) == result.regrets[-100:].mean()
    error = result.regrets.std() / np.sqrt(4000)
    assert abs(result.regrets.mean() - wheel.uniform_regret) < 4 * error


def test_rounds_of_a_seed_are_the_same_for_all_agents():
    class Fixed(BanditAgent):
        def start(self, n_arms, n_features, rng):
            super().start(n_arms, n_features, rng)
            self.seen = []

        def choose(self, context):
            self.seen.append(context)
            return 0

    class Greedy(Fixed):
        def choose(self, context):
            self._rng.uniform()
            return super().choose(context)

    agents = Fixed(), Greedy()
    for agent in agents:
        run_bandit(agent, WheelBandit(0.5), 10, random_state=4)
    assert np.array_equal(agents[0].seen, agents[1].seen)


def test_an_arm_that_there_is_not():
    class Wrong(BanditAgent):
        def choose(self, context):
            return 5

    with pytest.raises(ValueError, match="arm 5 of arms 0 to 4"):
        run_bandit(Wrong(), WheelBandit(0.5), 3)
