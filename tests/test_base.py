"""What the bases make of `_predictive` and `_class_probabilities`, model aside."""

import numpy as np
import pytest
from scipy import stats
from sklearn.base import is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.utils import get_tags
from sklearn.utils.validation import validate_data

from skfunc.base import (
    FunctionClassifierMixin,
    FunctionEstimator,
    FunctionRegressorMixin,
)
from skfunc.predictive import Gaussian, GaussianMixture


class Lines(FunctionRegressorMixin, FunctionEstimator):
    """Two lines through the first column, with noise of known size."""

    def __init__(self, n_targets=1):
        self.n_targets = n_targets

    def fit(self, X, y):
        validate_data(self, X, y, multi_output=True)
        self.slopes_ = np.array([1.0, 3.0])
        return self

    def _predictive(self, X, shift=0.0):
        line = X[:, :1] * np.arange(1, self.n_targets + 1) + shift
        means = self.slopes_[:, None, None] * line
        return GaussianMixture(means, np.full_like(means, 0.5), self.n_targets == 1)


class WhiteNoise(FunctionRegressorMixin, FunctionEstimator):
    """A process of independent rows, as its covariance says."""

    def fit(self, X, y):
        validate_data(self, X, y)
        self.scale_ = 2.0
        return self

    def _predictive(self, X):
        ones = np.ones((len(X), 1))
        covariance = self.scale_**2 * np.eye(len(X))[..., None]
        return Gaussian(0 * ones, 4 * ones, ones, lambda: covariance)


class Votes(FunctionClassifierMixin, FunctionEstimator):
    """Two functions that give fixed probabilities."""

    def fit(self, X, y):
        validate_data(self, X, y)
        self.classes_ = np.unique(y)
        return self

    def _class_probabilities(self, X):
        votes = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
        return np.tile(votes[:, None], (1, len(X), 1))


X = np.linspace(1.0, 2.0, 5)[:, None]


@pytest.fixture
def lines():
    return Lines().fit(X, X[:, 0])


@pytest.fixture
def votes():
    return Votes().fit(np.tile(X, (3, 1)), np.repeat(["a", "b", "c"], 5))


def test_regressor_by_hand(lines):
    mean, std = lines.predict(X, return_std=True)
    np.testing.assert_allclose(mean, 2 * X[:, 0])
    np.testing.assert_allclose(std, np.sqrt(X[:, 0] ** 2 + 0.25))
    _, cov = lines.predict(X, return_cov=True)
    np.testing.assert_allclose(cov, X @ X.T + 0.25 * np.eye(5))
    epistemic, aleatoric = lines.predict_std_parts(X)
    np.testing.assert_allclose(epistemic, X[:, 0])
    np.testing.assert_allclose(aleatoric, 0.5)
    # By symmetry the median is the mean, and quantiles lie evenly about it.
    low, middle, high = lines.predict_quantiles(X).T
    np.testing.assert_allclose(middle, mean)
    np.testing.assert_allclose(high - middle, middle - low)
    np.testing.assert_allclose(lines.predict_interval(X), np.stack([low, high], 1))
    y = X[:, 0]
    expected = np.log(
        0.5 * stats.norm.pdf(y, y, 0.5) + 0.5 * stats.norm.pdf(y, 3 * y, 0.5)
    )
    np.testing.assert_allclose(lines.log_prob(X, y), expected)
    np.testing.assert_allclose(lines.log_prob(X, y[:, None]), expected)


def test_draws_of_a_regressor(lines):
    draws = lines.sample_y(X, 2)
    np.testing.assert_allclose(np.sort(draws, 1), X * [1.0, 3.0])
    np.testing.assert_array_equal(lines.sample_y(X, 2, random_state=0), draws)
    observed = lines.sample(X, 4000, random_state=0)
    np.testing.assert_allclose(observed.std(1), lines.predict(X, True)[1], rtol=0.05)
    assert (lines.sample(X, 3) != lines.sample(X, 3)).any()
    state = np.random.RandomState(0)
    assert (lines.sample_y(X, 1, state) == lines.sample_y(X, 1, 0)).all()


def test_several_targets():
    model = Lines(n_targets=2).fit(X, np.hstack([X, X]))
    assert model.predict(X).shape == (5, 2)
    np.testing.assert_allclose(model.predict(X)[:, 1], 2 * model.predict(X)[:, 0])
    assert model.predict_interval(X).shape == (5, 2, 2)
    assert model.log_prob(X, np.hstack([X, X])).shape == (5,)
    with pytest.raises(ValueError, match=r"y has shape \(5, 1\); expected \(5, 2\)"):
        model.log_prob(X, X[:, 0])


def test_process():
    model = WhiteNoise().fit(X, X[:, 0])
    mean, cov = model.predict(X, return_cov=True)
    np.testing.assert_array_equal(mean, 0.0)
    np.testing.assert_allclose(cov, 5 * np.eye(5))
    np.testing.assert_allclose(model.predict_std_parts(X), np.repeat([[2], [1]], 5, 1))
    assert model.sample_y(X, 3).shape == (5, 3)
    draws = model.sample_y(X, 5000)
    np.testing.assert_allclose(np.cov(draws), 4 * np.eye(5), atol=0.3)


def test_classifier_by_hand(votes):
    proba, std = votes.predict_proba(X, return_std=True)
    np.testing.assert_allclose(proba, np.tile([0.4, 0.5, 0.1], (5, 1)))
    np.testing.assert_allclose(std, np.tile([0.3, 0.3, 0.0], (5, 1)), atol=1e-15)
    assert votes.predict(X).tolist() == ["b"] * 5
    np.testing.assert_allclose(votes.predict_log_proba(X), np.log(proba))
    labels = ["a", "b", "c", "a", "b"]
    np.testing.assert_allclose(
        votes.log_prob(X, labels), np.log([0.4, 0.5, 0.1, 0.4, 0.5])
    )
    assert votes.score(X, labels) == 0.4


def test_draws_of_a_classifier(votes):
    draws = votes.sample_proba(X, 2)
    assert draws.shape == (5, 3, 2)
    np.testing.assert_allclose(np.sort(draws[:, 0], 1), [[0.1, 0.7]] * 5)
    # All rows of a draw come from one function.
    assert (draws == draws[:1]).all()
    labels = votes.sample(X, 4000, random_state=0)
    np.testing.assert_allclose((labels == "b").mean(1), 0.5, atol=0.04)


def test_unfitted_estimators_say_so():
    for call in (
        lambda: Lines().predict(X),
        lambda: Lines().predict_std_parts(X),
        lambda: Lines().sample_y(X),
        lambda: Lines().log_prob(X, X[:, 0]),
        lambda: Votes().predict(X),
        lambda: Votes().predict_proba(X),
        lambda: Votes().sample(X),
        lambda: Votes().log_prob(X, ["a"] * 5),
    ):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            call()


def test_rows_are_checked(lines, votes):
    for model, method in ((lines, "predict"), (votes, "predict_proba")):
        with pytest.raises(ValueError, match="2 features"):
            getattr(model, method)(np.ones((3, 2)))
        with pytest.raises(ValueError, match="NaN"):
            getattr(model, method)(np.full((3, 1), np.nan))


def test_rows_of_single_precision_are_computed_in_double(lines):
    mean = lines.predict(X.astype(np.float32))
    assert mean.dtype == np.float64
    np.testing.assert_allclose(mean, 2 * X[:, 0], rtol=1e-6)


def test_both_deviation_and_covariance_are_refused(lines):
    with pytest.raises(RuntimeError, match="return_std and return_cov"):
        lines.predict(X, return_std=True, return_cov=True)


def test_options_reach_the_model(lines):
    mean = lines._predict(X, False, False, shift=1.0)
    np.testing.assert_allclose(mean, 2 * (X[:, 0] + 1.0))


def test_tags():
    assert is_regressor(Lines()) and not is_classifier(Lines())
    assert is_classifier(Votes()) and not is_regressor(Votes())
    assert get_tags(Lines()).target_tags.multi_output
    assert not get_tags(Votes()).target_tags.multi_output


def test_estimators_of_others_are_not_saved(lines, tmp_path):
    with pytest.raises(ValueError, match="cannot save Lines"):
        lines.save(tmp_path / "model")
    with pytest.raises(NotFittedError):
        Lines().save(tmp_path / "model")
