"""Scorers in scikit-learn's own tools, with scikit-learn's own estimators."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy.stats import norm
from sklearn import config_context
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_iris
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.inspection import permutation_importance
from sklearn.linear_model import BayesianRidge, LinearRegression, LogisticRegression
from sklearn.metrics import check_scoring
from sklearn.model_selection import (
    GridSearchCV,
    LearningCurveDisplay,
    RandomizedSearchCV,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skfunc import metrics
from skfunc.metrics import SCORERS, get_scorer

REGRESSION = ["neg_gaussian_nll", "neg_crps", "neg_interval_score"]
REGRESSION += ["neg_coverage_error"]


@pytest.fixture(scope="module")
def sines():
    rng = np.random.default_rng(0)
    X = rng.uniform(-3, 3, size=(60, 2))
    return X, np.sin(X[:, 0]) + 0.1 * rng.normal(size=60)


def gaussian_process(length_scale=1.0):
    kernel = RBF(length_scale, "fixed") + WhiteKernel(0.01, "fixed")
    return GaussianProcessRegressor(kernel, normalize_y=True)


class Laplace(RegressorMixin, BaseEstimator):
    """A regressor with intervals, draws and densities, and no `return_std`."""

    def __init__(self, shift=0.0):
        self.shift = shift

    def fit(self, X, y, sample_weight=None):
        self.scale_ = np.average(np.abs(y), weights=sample_weight)
        return self

    def predict(self, X):
        return np.full(len(X), self.shift)

    def predict_interval(self, X, coverage=0.9):
        half_width = -self.scale_ * np.log(1 - coverage)
        return self.shift + np.tile([-half_width, half_width], (len(X), 1))

    def sample(self, X, n_samples=1, random_state=None):
        rng = np.random.default_rng(random_state)
        return rng.laplace(self.shift, self.scale_, size=(len(X), n_samples))

    def log_prob(self, X, y):
        return -np.log(2 * self.scale_) - np.abs(y - self.shift) / self.scale_


def test_scores_are_those_of_the_metrics(sines):
    X, y = sines
    model = gaussian_process().fit(X[:40], y[:40])
    X, y = X[40:], y[40:]
    mean, std = model.predict(X, return_std=True)
    z = norm.ppf(0.95)
    bounds = mean - z * std, mean + z * std
    coverage = metrics.interval_coverage(y, *bounds)
    expected = {
        "neg_gaussian_nll": -metrics.gaussian_nll(y, mean, std),
        "neg_crps": -metrics.crps_gaussian(y, mean, std),
        "neg_interval_score": -metrics.interval_score(y, *bounds, alpha=0.1),
        "neg_coverage_error": -abs(coverage - 0.9),
    }
    for name, value in expected.items():
        assert SCORERS[name](model, X, y) == pytest.approx(value)


def test_scores_of_intervals_draws_and_densities(sines):
    X, y = sines
    model = Laplace().fit(X, y)
    bounds = model.predict_interval(X, coverage=0.5).T
    draws = model.sample(X, n_samples=200, random_state=0)
    expected = {
        get_scorer("neg_interval_score", coverage=0.5): -metrics.interval_score(
            y, *bounds, alpha=0.5
        ),
        get_scorer("neg_coverage_error", coverage=0.5): -abs(
            metrics.interval_coverage(y, *bounds) - 0.5
        ),
        get_scorer("neg_crps_ensemble"): -metrics.crps_ensemble(y, draws, fair=True),
        get_scorer("mean_log_prob"): model.log_prob(X, y).mean(),
    }
    for scorer, value in expected.items():
        assert scorer(model, X, y) == pytest.approx(value)


def test_calibration_scorer_knows_classes_that_a_fold_lacks():
    X, y = load_iris(return_X_y=True)
    y = np.array(["setosa", "versicolor", "virginica"])[y]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    rows = y != "versicolor"
    score = SCORERS["neg_expected_calibration_error"](model, X[rows], y[rows])
    expected = -metrics.expected_calibration_error(
        y[rows], model.predict_proba(X[rows]), labels=model.classes_
    )
    assert score == expected


def test_grid_search_over_a_pipeline_finds_the_length_scale(sines):
    pipeline = make_pipeline(StandardScaler(), gaussian_process())
    grid = {
        "gaussianprocessregressor": [gaussian_process(s) for s in (0.01, 1.0, 100.0)]
    }
    for name in REGRESSION[:3]:
        search = GridSearchCV(pipeline, grid, scoring=SCORERS[name], cv=3)
        search.fit(*sines)
        assert search.best_index_ == 1
        # The search itself, scored from outside, is its best estimator.
        assert SCORERS[name](search, *sines) == search.score(*sines)


def test_randomized_search_clones_with_a_scorer(sines):
    search = RandomizedSearchCV(
        gaussian_process(),
        {"alpha": [1e-10, 1e-2]},
        n_iter=2,
        cv=2,
        scoring=get_scorer("neg_crps"),
        random_state=0,
    )
    assert np.isfinite(clone(search).fit(*sines).best_score_)


def test_cross_validate_with_a_dict_and_two_workers(sines):
    model = make_pipeline(StandardScaler(), gaussian_process())
    scoring = {name: SCORERS[name] for name in REGRESSION} | {"r2": "r2"}
    scores = cross_validate(
        model, *sines, scoring=scoring, cv=3, n_jobs=2, error_score="raise"
    )
    for name in REGRESSION:
        single = cross_val_score(model, *sines, scoring=SCORERS[name], cv=3)
        np.testing.assert_allclose(scores[f"test_{name}"], single)


def test_permutation_importance_finds_the_feature(sines):
    model = gaussian_process().fit(*sines)
    importance = permutation_importance(
        model,
        *sines,
        scoring=SCORERS["neg_crps"],
        n_repeats=3,
        random_state=0,
        sample_weight=np.ones(60),
    )
    assert importance.importances_mean[0] > 10 * abs(importance.importances_mean[1])


@pytest.mark.parametrize("name", sorted(SCORERS))
def test_scorers_pickle_and_print(name):
    scorer = pickle.loads(pickle.dumps(SCORERS[name]))
    assert repr(scorer) == f"get_scorer({name!r})"
    assert repr(eval(repr(scorer))) == repr(scorer)
    assert check_scoring(LinearRegression(), scoring=scorer) is scorer
    assert getattr(metrics, f"{name}_scorer") is SCORERS[name]


def test_options_survive_pickling(sines):
    X, y = sines
    model = Laplace().fit(X, y)
    scorer = get_scorer("neg_interval_score", coverage=0.3)
    copied = pickle.loads(pickle.dumps(scorer))
    assert copied(model, X, y) == scorer(model, X, y)
    assert copied(model, X, y) != SCORERS["neg_interval_score"](model, X, y)


@pytest.mark.parametrize("name", [*REGRESSION, "neg_crps_ensemble", "mean_log_prob"])
def test_weights_are_repeats(sines, name):
    class Model(Laplace):
        def predict(self, X, return_std=False):
            mean = super().predict(X)
            return (mean, 1 + X[:, 0] ** 2) if return_std else mean

        def sample(self, X, n_samples=1, random_state=None):
            return X[:, :1] + np.linspace(-1, 1, n_samples)

    X, y = sines
    model = Model().fit(X, y)
    repeats = np.arange(60) % 4
    weighted = SCORERS[name](model, X, y, sample_weight=repeats)
    repeated = SCORERS[name](model, X.repeat(repeats, axis=0), y.repeat(repeats))
    assert weighted == pytest.approx(repeated)


def test_searches_pass_weights_to_every_scorer(sines):
    X, y = sines
    weights = np.where(X[:, 0] > 0, 1.0, 0.0)
    scoring = {name: SCORERS[name] for name in ("mean_log_prob", "neg_crps_ensemble")}
    search = GridSearchCV(
        Laplace(), {"shift": [0.0, 1.0]}, scoring=scoring, refit="mean_log_prob", cv=2
    )
    search.fit(X, y, sample_weight=weights)
    assert search.best_params_ == {"shift": 1.0}
    half = X[:, 0] > 0
    log_prob = search.best_estimator_.log_prob(X[half], y[half]).mean()
    assert SCORERS["mean_log_prob"](
        search, X, y, sample_weight=weights
    ) == pytest.approx(log_prob)


def test_metadata_routing_gives_weights_by_request(sines):
    X, y = sines
    weights = np.where(X[:, 0] > 0, 1.0, 0.0)
    name = "mean_log_prob"
    plain = cross_validate(Laplace(), X, y, scoring=SCORERS[name], cv=2)["test_score"]
    with config_context(enable_metadata_routing=True):
        model = Laplace().set_fit_request(sample_weight=False)
        scoring = {
            "mass": get_scorer(name).set_score_request(sample_weight="mass"),
            "same": get_scorer(name).set_score_request(sample_weight=True),
            "none": get_scorer(name).set_score_request(sample_weight=False),
        }
        params = {"mass": weights, "sample_weight": weights}
        routed = cross_validate(model, X, y, scoring=scoring, cv=2, params=params)
        with pytest.raises(ValueError, match="sample_weight"):
            cross_validate(
                model,
                X,
                y,
                scoring=get_scorer(name),
                cv=2,
                params={"sample_weight": weights},
            )
    np.testing.assert_array_equal(routed["test_none"], plain)
    np.testing.assert_array_equal(routed["test_mass"], routed["test_same"])
    assert (routed["test_mass"] != plain).all()


def test_pipelines_score_under_metadata_routing(sines):
    model = make_pipeline(StandardScaler(), gaussian_process())
    plain = cross_val_score(model, *sines, scoring=SCORERS["neg_crps"], cv=2)
    with config_context(enable_metadata_routing=True):
        routed = cross_val_score(model, *sines, scoring=SCORERS["neg_crps"], cv=2)
    np.testing.assert_array_equal(plain, routed)


def test_request_without_routing_is_an_error():
    with pytest.raises(RuntimeError, match="enable_metadata_routing=True"):
        get_scorer("neg_crps").set_score_request(sample_weight=True)


def test_scorers_go_through_pipelines_of_one_step(sines):
    X, y = sines
    model = make_pipeline(Laplace()).fit(X, y)
    scorer = SCORERS["mean_log_prob"]
    assert scorer(model, X, y) == scorer(model[-1], X, y)


def test_two_outputs(sines):
    X, y = sines
    Y = np.column_stack([y, -2 * y])
    model = gaussian_process().fit(X, Y)
    for name in REGRESSION:
        assert np.isfinite(SCORERS[name](model, X, Y))


def test_displays_read_the_name(sines):
    pytest.importorskip("matplotlib").use("Agg")
    display = LearningCurveDisplay.from_estimator(
        BayesianRidge(), *sines, scoring=SCORERS["neg_crps"], cv=2, train_sizes=[0.5, 1]
    )
    assert display.ax_.get_ylabel() == "Negative crps"
    import matplotlib.pyplot as plt

    plt.close(display.figure_)


@pytest.mark.parametrize(
    ("name", "estimator", "message"),
    [
        ("neg_crps", LinearRegression(), "LinearRegression has no `return_std`"),
        ("neg_interval_score", LinearRegression(), "has no `return_std`"),
        ("mean_log_prob", LinearRegression(), "n estimator with `log_prob`"),
        (
            "neg_crps_ensemble",
            LinearRegression(),
            "n estimator with `sample` is needed",
        ),
        (
            "neg_expected_calibration_error",
            LinearRegression(),
            "n estimator with `predict_proba`",
        ),
        (
            "neg_crps",
            TransformedTargetRegressor(BayesianRidge()),
            "TransformedTargetRegressor does not transform standard deviations",
        ),
    ],
)
def test_estimators_without_a_distribution_are_named(sines, name, estimator, message):
    with pytest.raises(TypeError, match=message):
        SCORERS[name](estimator.fit(*sines), *sines)


def test_bad_names_and_options_are_named(sines):
    with pytest.raises(ValueError, match="`name` must be one of .*'neg_crps'"):
        get_scorer("crps")
    with pytest.raises(TypeError, match="no option 'alpha'; it accepts .'coverage'."):
        get_scorer("neg_interval_score", alpha=0.1)
    with pytest.raises(TypeError, match="it accepts none"):
        get_scorer("neg_crps", alpha=0.1)
    model = BayesianRidge().fit(*sines)
    with pytest.raises(ValueError, match="`coverage` must lie strictly"):
        get_scorer("neg_interval_score", coverage=1.5)(model, *sines)
    with pytest.raises(ValueError, match="needs `y`"):
        SCORERS["neg_crps"](model, sines[0], None)


def test_a_density_of_zero_scores_minus_infinity(sines):
    class Impossible(Laplace):
        def log_prob(self, X, y):
            return np.full(len(X), -np.inf)

    model = Impossible().fit(*sines)
    assert SCORERS["mean_log_prob"](model, *sines) == -np.inf
