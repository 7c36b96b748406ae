"""Agents that stand on a regressor."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.linear_model import BayesianRidge, LinearRegression, SGDRegressor
from sklearn.neighbors import KNeighborsRegressor

from skfunc.datasets import BanditSample, WheelBandit
from skfunc.decision import EstimatorAgent, run_bandit


class TwoLines:
    """Two arms whose rewards cross at zero."""

    n_arms, n_features = 2, 1

    def sample(self, n_rounds, random_state=None):
        rng = np.random.default_rng(random_state)
        contexts = rng.uniform(-1, 1, (n_rounds, 1))
        means = np.column_stack([contexts[:, 0], -contexts[:, 0]])
        rewards = means + 0.1 * rng.standard_normal(means.shape)
        return BanditSample(contexts, rewards, means)


class Counting(RegressorMixin, BaseEstimator):
    """Predicts zero; its class counts calls."""

    calls = []

    def fit(self, X, y):
        Counting.calls.append(("fit", X.copy(), y.copy()))
        return self

    def partial_fit(self, X, y):
        Counting.calls.append(("partial_fit", X.copy(), y.copy()))
        return self

    def predict(self, X):
        return np.zeros(len(X))

    def sample_y(self, X, n_samples=1, random_state=0):
        return np.random.RandomState(random_state).normal(size=(len(X), n_samples))


def share_of_regret(agent, n_steps=200):
    # Chance loses the mean of |x|, a half.
    return run_bandit(agent, TwoLines(), n_steps, 0).regrets[20:].mean() / 0.5


@pytest.mark.parametrize(
    ("estimator", "options", "strategy"),
    [
        (
            GaussianProcessRegressor(RBF() + WhiteKernel(0.01), optimizer=None),
            {},
            "sample",
        ),
        (BayesianRidge(), {}, "std"),
        (LinearRegression(), {}, "bootstrap"),
        (LinearRegression(), {"strategy": "epsilon_greedy"}, "epsilon_greedy"),
        (KNeighborsRegressor(5), {"shared": True}, "bootstrap"),
        (
            SGDRegressor(learning_rate="constant", eta0=0.1),
            {"incremental": True},
            "epsilon_greedy",
        ),
    ],
)
def test_learns(estimator, options, strategy):
    agent = EstimatorAgent(estimator, n_initial_pulls=5, **options)
    assert share_of_regret(agent) < 0.35
    assert agent._strategy == strategy


def test_each_arm_has_rows_of_its_own():
    Counting.calls = []
    agent = EstimatorAgent(Counting(), refit_growth=1.0, n_initial_pulls=1)
    result = run_bandit(agent, TwoLines(), 30, random_state=0)
    for arm, model in enumerate(agent._models):
        assert len(model.y) == (result.arms == arm).sum()
        assert np.array_equal(model.y, result.rewards[result.arms == arm])
    assert {X.shape[1] for _, X, _ in Counting.calls} == {1}


def test_a_shared_model_sees_contexts_and_arms():
    Counting.calls = []
    agent = EstimatorAgent(Counting(), shared=True, refit_growth=1.0)
    result = run_bandit(agent, WheelBandit(0.5), 20, random_state=0)
    _, X, y = Counting.calls[-1]
    assert X.shape == (19, 2 + 5)
    assert np.array_equal(X[:, 2:].argmax(1), result.arms[:19])
    assert np.array_equal(y, result.rewards[:19])


def test_schedule_of_fits():
    Counting.calls = []
    agent = EstimatorAgent(Counting(), shared=True, refit_growth=1.5)
    run_bandit(agent, TwoLines(), 40, random_state=0)
    assert [len(y) for _, _, y in Counting.calls] == [4, 6, 9, 14, 21, 32]


def test_incremental_gives_new_rows_only():
    Counting.calls = []
    agent = EstimatorAgent(Counting(), shared=True, incremental=True)
    result = run_bandit(agent, TwoLines(), 12, random_state=0)
    names = [name for name, _, _ in Counting.calls]
    assert names == ["fit"] + 7 * ["partial_fit"]
    assert [len(y) for _, _, y in Counting.calls] == [4] + 7 * [1]
    seen = np.concatenate([y for _, _, y in Counting.calls])
    assert np.array_equal(seen, result.rewards[:11])


def test_ties_are_broken_at_random():
    agent = EstimatorAgent(KNeighborsRegressor(1), n_initial_pulls=1)
    agent.start(3, 1, np.random.RandomState(0))
    context = np.zeros(1)
    for arm in range(3):
        agent.update(context, arm, 0.0)
    arms = [agent.choose(context) for _ in range(300)]
    assert min(np.bincount(arms, minlength=3)) > 70


def test_bootstraps_differ():
    agent = EstimatorAgent(KNeighborsRegressor(1), n_bootstraps=4)
    run_bandit(agent, TwoLines(), 60, random_state=0)
    models = agent._models[0].estimators
    assert len(models) == 4
    grid = np.linspace(-1, 1, 50)[:, None]
    predictions = np.array([model.predict(grid) for model in models])
    assert predictions.std(0).max() > 0


def test_seed_and_clone():
    estimator = BayesianRidge()
    agent = EstimatorAgent(estimator)
    first = run_bandit(agent, TwoLines(), 40, 2).arms
    assert np.array_equal(first, run_bandit(agent, TwoLines(), 40, 2).arms)
    assert not hasattr(estimator, "coef_")


@pytest.mark.parametrize(
    ("estimator", "options", "message"),
    [
        (LinearRegression(), {"strategy": "ucb"}, "strategy='ucb' is unknown"),
        (LinearRegression(), {"strategy": "std"}, "not possible with LinearRegression"),
        (LinearRegression(), {"strategy": "sample"}, "not possible"),
        (LinearRegression(), {"incremental": True}, "no partial_fit"),
        (
            SGDRegressor(),
            {"incremental": True, "strategy": "bootstrap"},
            "not possible",
        ),
        (LinearRegression(), {"refit_growth": 0.5}, "refit_growth"),
        (LinearRegression(), {"n_initial_pulls": 0}, "n_initial_pulls"),
        (LinearRegression(), {"n_bootstraps": 0}, "n_bootstraps"),
        (LinearRegression(), {"epsilon": 2.0}, "epsilon"),
    ],
)
def test_bad_parameters(estimator, options, message):
    with pytest.raises(ValueError, match=message):
        run_bandit(EstimatorAgent(estimator, **options), TwoLines(), 5)
