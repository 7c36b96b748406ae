"""Bandits of data sets."""

import numpy as np
import pytest

from skfunc.datasets import WheelBandit
from skfunc.decision import (
    ClassificationBandit,
    ContextualBandit,
    LinearThompsonAgent,
    MushroomBandit,
    run_bandit,
)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(5, 3, (60, 2)), np.ones(60)])
    return X, np.array(["b", "a", "c"])[rng.integers(3, size=60)]


def test_all_are_contextual_bandits(data):
    X, y = data
    for bandit in (
        WheelBandit(0.5),
        ClassificationBandit(X, y),
        MushroomBandit(X, y == "a"),
    ):
        assert isinstance(bandit, ContextualBandit)
        sample = bandit.sample(7, random_state=0)
        assert sample.contexts.shape == (7, bandit.n_features)
        assert sample.rewards.shape == sample.means.shape == (7, bandit.n_arms)
        again = bandit.sample(7, random_state=0)
        assert np.array_equal(sample.rewards, again.rewards)
    assert not isinstance(object(), ContextualBandit)


def test_classification_pays_for_the_right_class(data):
    X, y = data
    bandit = ClassificationBandit(X, y)
    sample = bandit.sample(60, random_state=1)
    assert bandit.classes_.tolist() == ["a", "b", "c"]
    # Each row once; find it again by its context.
    scaled = (X - X.mean(0)) / np.where(X.std(0) > 0, X.std(0), 1)
    for context, reward in zip(sample.contexts, sample.rewards, strict=True):
        row = np.abs(scaled - context).sum(1).argmin()
        assert bandit.classes_[reward.argmax()] == y[row]
        assert reward.sum() == 1
    assert len(np.unique(sample.contexts[:, 0])) == 60
    assert np.abs(sample.contexts.mean(0)).max() < 1e-12


def test_rows_begin_anew(data):
    sample = ClassificationBandit(*data).sample(150, random_state=0)
    values, counts = np.unique(sample.contexts[:, 0], return_counts=True)
    assert len(values) == 60 and set(counts) == {2, 3}


def test_mushrooms(data):
    X, y = data
    bandit = MushroomBandit(X, y == "a")
    sample = bandit.sample(6000, random_state=2)
    assert not sample.rewards[:, 0].any()
    edible = sample.means[:, 1] == 5
    assert set(sample.rewards[edible, 1]) == {5.0}
    assert set(sample.means[~edible, 1]) == {-15.0}
    assert set(sample.rewards[~edible, 1]) == {5.0, -35.0}
    assert sample.rewards[~edible, 1].mean() == pytest.approx(-15, abs=1.5)
    assert sample.optimal_means.min() == 0


def test_an_agent_learns_to_leave_poison():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2))
    result = run_bandit(LinearThompsonAgent(), MushroomBandit(X, X[:, 0] > 0), 1000, 0)
    assert result.regrets[-300:].mean() < 0.3 * result.regrets[:100].mean()


def test_bad_input(data):
    X, y = data
    with pytest.raises(ValueError, match="inconsistent numbers"):
        ClassificationBandit(X, y[:-1])
    with pytest.raises(ValueError, match="edible must be booleans"):
        MushroomBandit(X, y)
