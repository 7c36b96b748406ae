"""The estimators inside what scikit-learn, joblib and Dask offer."""

import contextlib
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.ensemble import BaggingRegressor, StackingClassifier, VotingRegressor
from sklearn.feature_selection import SequentialFeatureSelector
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import (
    GridSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import skfunc
from skfunc import metrics

SMALL = {
    "hidden_layer_sizes": (8,),
    "state_size": 8,
    "n_members": 2,
    "max_iter": 12,
    "learning_rate_init": 0.03,
    "random_state": 0,
    "device": "cpu",
}


def classifier(**changes):
    return skfunc.ODENetClassifier(**(SMALL | changes))


def regressor(**changes):
    return skfunc.ODENetRegressor(**(SMALL | changes))


@pytest.fixture(scope="module")
def labelled():
    generator = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 30)
    centres = generator.normal(0.0, 1.5, (3, 4))
    return centres[y] + generator.normal(size=(90, 4)), y


@pytest.fixture(scope="module")
def measured():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(90, 3))
    return X, 7 * X[:, 0] + np.sin(X[:, 1]) + 0.2 * generator.normal(size=90)


def test_pipeline(labelled, measured):
    X, y = labelled
    pipeline = make_pipeline(StandardScaler(), classifier()).fit(X, y)
    assert pipeline.score(X, y) > 0.7
    assert pipeline.predict_proba(X).shape == (90, 3)
    X, y = measured
    pipeline = make_pipeline(StandardScaler(), regressor()).fit(X, y)
    mean, std = pipeline.predict(X, return_std=True)
    assert mean.shape == std.shape == (90,)
    # A scaler in front changes nothing but rounding.
    alone = regressor().fit(X, y).predict(X)
    np.testing.assert_allclose(mean, alone, rtol=1e-3, atol=1e-3)


@contextlib.contextmanager
def backend(name):
    if name != "dask":
        with joblib.parallel_config(name, n_jobs=2):
            yield
        return
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            dashboard_address=None,
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config("dask"),
    ):
        yield


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed")
@pytest.mark.parametrize("name", ["loky", "threading", "dask"])
def test_grid_search_by_every_backend(measured, name):
    X, y = measured
    grid = {"alpha": [0.1, 100.0], "state_size": [4, 8]}

    def search():
        return GridSearchCV(regressor(), grid, cv=2).fit(X, y)

    alone = search()
    with backend(name):
        together = search()
    assert together.best_params_ == alone.best_params_
    for column in ("split0_test_score", "split1_test_score"):
        np.testing.assert_allclose(
            together.cv_results_[column], alone.cv_results_[column], rtol=1e-3
        )
    np.testing.assert_allclose(together.predict(X), alone.predict(X), rtol=1e-3)


def test_threads_are_as_before_after_a_search_by_threads(measured):
    import torch

    threads = torch.get_num_threads()
    with backend("threading"):
        cross_val_score(regressor(max_iter=2), *measured, cv=4)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
def test_calibrated_classifier(labelled, method):
    X, y = labelled
    calibrated = CalibratedClassifierCV(classifier(), method=method, cv=2).fit(X, y)
    proba = calibrated.predict_proba(X)
    np.testing.assert_allclose(proba.sum(1), 1.0)
    assert calibrated.score(X, y) > 0.6


def test_calibrated_classifier_of_two_classes(labelled):
    X, y = labelled[0][:60], labelled[1][:60]
    for method in ("sigmoid", "isotonic", "temperature"):
        model = CalibratedClassifierCV(classifier(), method=method, cv=2).fit(X, y)
        assert model.predict_proba(X).shape == (60, 2)


def test_voting_regressor(measured):
    X, y = measured
    voting = VotingRegressor([("ode", regressor()), ("line", LinearRegression())])
    voting.fit(X, y)
    expected = 0.5 * sum(member.predict(X) for member in voting.estimators_)
    np.testing.assert_allclose(voting.predict(X), expected)


def test_stacking_classifier(labelled):
    X, y = labelled
    stacking = StackingClassifier(
        [("ode", classifier()), ("logistic", LogisticRegression())], cv=2
    ).fit(X, y)
    assert stacking.score(X, y) > 0.7
    assert stacking.transform(X).shape == (90, 6)


def test_bagging_regressor(measured):
    X, y = measured
    bagging = BaggingRegressor(regressor(max_iter=3), n_estimators=3, random_state=0)
    assert np.isfinite(bagging.fit(X, y).predict(X)).all()


def test_permutation_importance(measured):
    X, y = measured
    model = regressor(max_iter=40).fit(X, y)
    result = permutation_importance(model, X, y, n_repeats=2, random_state=0)
    assert result.importances_mean.argmax() == 0


def test_partial_dependence(measured):
    X, y = measured
    model = regressor(max_iter=40).fit(X, y)
    curve = partial_dependence(model, X, [0], grid_resolution=5)["average"][0]
    assert (np.diff(curve) > 0).all()


def test_sequential_feature_selector(measured):
    X, y = measured
    selector = SequentialFeatureSelector(
        regressor(max_iter=20), n_features_to_select=1, cv=2
    ).fit(X, y)
    assert selector.get_support().tolist() == [True, False, False]


class TestNames:
    """pandas in, pandas through a pipeline, and what the names are good for."""

    def frame(self, X):
        return pd.DataFrame(X, columns=[f"column {i}" for i in range(X.shape[1])])

    def test_names_are_kept(self, measured):
        X, y = measured
        model = regressor().fit(self.frame(X), y)
        assert model.feature_names_in_.tolist() == ["column 0", "column 1", "column 2"]
        np.testing.assert_array_equal(
            model.predict(self.frame(X)), regressor().fit(X, y).predict(X)
        )

    def test_other_names_are_an_error(self, measured):
        X, y = measured
        model = regressor(max_iter=1).fit(self.frame(X), y)
        with pytest.raises(ValueError, match="feature names should match"):
            model.predict(self.frame(X).rename(columns={"column 1": "other"}))
        with pytest.raises(ValueError, match="same order"):
            model.predict(self.frame(X)[["column 1", "column 0", "column 2"]])

    def test_missing_names_warn(self, measured):
        X, y = measured
        model = regressor(max_iter=1).fit(self.frame(X), y)
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            model.predict(X)
        model = regressor(max_iter=1).fit(X, y)
        with pytest.warns(UserWarning, match="fitted without feature names"):
            model.predict(self.frame(X))

    @pytest.mark.parametrize("output", ["pandas", "default"])
    def test_set_output_of_a_pipeline(self, measured, output):
        X, y = measured
        pipeline = make_pipeline(StandardScaler(), regressor())
        pipeline.set_output(transform=output).fit(self.frame(X), y)
        assert pipeline[:-1].transform(self.frame(X)).shape == (90, 3)
        assert hasattr(pipeline[-1], "feature_names_in_") == (output == "pandas")
        assert pipeline.predict(self.frame(X)).shape == (90,)

    def test_columns_of_several_kinds(self, measured):
        X, y = measured
        frame = self.frame(X).assign(kind=np.where(X[:, 1] > 0, "a", "b"))
        columns = make_column_transformer(
            (OneHotEncoder(), ["kind"]), remainder="passthrough"
        )
        pipeline = make_pipeline(columns, regressor()).fit(frame, pd.Series(y))
        assert pipeline.predict(frame).shape == (90,)

    def test_labels_of_a_series(self, labelled):
        X, y = labelled
        labels = pd.Series(np.array(["a", "b", "c"])[y], index=np.arange(90)[::-1])
        model = classifier().fit(self.frame(X), labels)
        assert model.score(self.frame(X), labels) > 0.6


class TestCallbacks:
    def epochs(self, monitor, select="most_recent"):
        """Return the scores that a monitor recorded after epochs."""
        log = monitor.get_logs(select=select)
        runs = log if select == "all" else [log]
        return [
            [row[name] for row in run.data if row["task_name"] == "epoch"]
            for run in runs
            for name in ("r2", "accuracy")
            if run.data and name in run.data[0]
        ]

    def test_monitor_alone(self, measured):
        X, y = measured
        monitor = ScoringMonitor(scoring="r2")
        model = regressor(early_stopping=False).set_callbacks(monitor).fit(X, y)
        (scores,) = self.epochs(monitor)
        assert len(scores) == model.n_iter_ == 12
        assert scores[-1] == pytest.approx(model.score(X, y))
        assert scores[-1] > scores[0]
        np.testing.assert_array_equal(
            model.parameters_, regressor(early_stopping=False).fit(X, y).parameters_
        )

    def test_monitor_with_a_held_out_part_sees_the_best_weights(self, measured):
        X, y = measured
        monitor = ScoringMonitor(scoring="r2")
        model = regressor().set_callbacks(monitor).fit(X, y)
        (scores,) = self.epochs(monitor)
        assert scores[-1] == pytest.approx(model.score(X, y))

    def test_monitor_in_a_search(self, labelled):
        X, y = labelled
        monitor = ScoringMonitor(scoring="accuracy")
        estimator = classifier(early_stopping=False).set_callbacks(monitor)
        search = GridSearchCV(estimator, {"alpha": [0.1, 1.0]}, cv=2).fit(X, y)
        (scores,) = self.epochs(monitor)
        # Two candidates on two folds, and the refit, twelve epochs each.
        assert len(scores) == 5 * 12
        assert hasattr(search, "best_estimator_")

    def test_bar_alone(self, measured, capsys):
        pytest.importorskip("rich")
        plain = regressor().fit(*measured)
        model = regressor().set_callbacks(ProgressBar()).fit(*measured)
        np.testing.assert_array_equal(model.parameters_, plain.parameters_)
        assert "ODENetRegressor" in capsys.readouterr().out

    def test_bar_in_a_search(self, measured, capsys):
        pytest.importorskip("rich")
        search = GridSearchCV(regressor(max_iter=2), {"alpha": [0.1, 1.0]}, cv=2)
        search.set_callbacks(ProgressBar(max_propagation_depth=2)).fit(*measured)
        assert "GridSearchCV" in capsys.readouterr().out

    def test_callback_is_kept_by_a_clone(self, measured):
        monitor = ScoringMonitor(scoring="r2")
        clone(regressor().set_callbacks(monitor)).fit(*measured)
        assert self.epochs(monitor)


def test_cross_val_predict(labelled, measured):
    X, y = labelled
    proba = cross_val_predict(classifier(), X, y, cv=3, method="predict_proba")
    assert proba.shape == (90, 3) and (proba.argmax(1) == y).mean() > 0.6
    X, y = measured
    assert r2_score(y, cross_val_predict(regressor(max_iter=40), X, y, cv=3)) > 0.7


def test_cross_validate_with_scorers_of_skfunc(measured, labelled):
    scoring = {
        "r2": "r2",
        "nll": metrics.neg_gaussian_nll_scorer,
        "crps": metrics.neg_crps_scorer,
    }
    result = cross_validate(regressor(), *measured, cv=2, scoring=scoring)
    for name in scoring:
        assert np.isfinite(result[f"test_{name}"]).all()


def test_search_by_a_scorer_of_skfunc(measured, labelled):
    search = GridSearchCV(
        regressor(),
        {"alpha": [0.1, 1e4]},
        cv=2,
        scoring=metrics.neg_gaussian_nll_scorer,
    ).fit(*measured)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_randomized_search(labelled):
    search = RandomizedSearchCV(
        make_pipeline(StandardScaler(), classifier(max_iter=2)),
        {"odenetclassifier__learning_rate_init": [1e-3, 1e-2, 1e-1]},
        n_iter=2,
        cv=2,
        random_state=0,
        scoring="neg_log_loss",
    ).fit(*labelled)
    assert np.isfinite(search.best_score_)


def test_learning_curve(measured):
    sizes, train, test = learning_curve(
        regressor(max_iter=30), *measured, train_sizes=[10, 40], cv=2
    )
    assert sizes.tolist() == [10, 40]
    assert train.shape == test.shape == (2, 2)
    assert test.min() > 0.8


def test_validation_curve(measured):
    train, test = validation_curve(
        regressor(max_iter=2),
        *measured,
        param_name="n_members",
        param_range=[1, 3],
        cv=2,
    )
    assert np.isfinite(train).all() and np.isfinite(test).all()


def test_transformed_target(measured):
    X, y = measured
    positive = np.exp(0.1 * y)
    model = TransformedTargetRegressor(regressor(), func=np.log, inverse_func=np.exp)
    model.fit(X, positive)
    assert (model.predict(X) > 0).all()
    inner = regressor().fit(X, np.log(positive)).predict(X)
    np.testing.assert_allclose(model.predict(X), np.exp(inner), rtol=1e-4)


def test_multi_output_regressor(measured):
    X, y = measured
    both = np.column_stack([y, -y])
    each = MultiOutputRegressor(regressor(max_iter=2)).fit(X, both)
    assert each.predict(X).shape == (90, 2)


def test_clone(measured):
    X, y = measured
    model = regressor(alpha=3.0).fit(X, y)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "parameters_")
    np.testing.assert_array_equal(copy.fit(X, y).predict(X), model.predict(X))


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


class TestRouting:
    def test_weights_reach_the_fit(self, measured, routing):
        X, y = measured
        weights = np.random.default_rng(0).uniform(0.1, 3.0, 90)
        pipeline = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=False),
            regressor().set_fit_request(sample_weight=True),
        )
        weighted = pipeline.fit(X, y, sample_weight=weights).predict(X)
        scaled = StandardScaler().fit_transform(X)
        expected = regressor().fit(scaled, y, sample_weight=weights).predict(scaled)
        np.testing.assert_array_equal(weighted, expected)
        plain = clone(pipeline).fit(X, y).predict(X)
        assert np.abs(plain - weighted).max() > 1e-3

    def test_unrequested_weights_are_an_error(self, measured, routing):
        X, y = measured
        with pytest.raises(ValueError, match="sample_weight"):
            GridSearchCV(regressor(), {"alpha": [1.0]}, cv=2).fit(
                X, y, sample_weight=np.ones(90)
            )

    def test_weights_reach_the_fits_of_a_search(self, labelled, routing):
        X, y = labelled
        weights = np.where(y == 2, 1e-9, 1.0)
        estimator = classifier().set_fit_request(sample_weight=True)
        estimator.set_score_request(sample_weight=True)
        search = GridSearchCV(estimator, {"alpha": [1.0]}, cv=2)
        search.fit(X, y, sample_weight=weights)
        assert (search.predict(X) != 2).mean() > 0.95

    @pytest.mark.parametrize("make", [classifier, regressor])
    def test_how_to_predict_is_no_metadata(self, make, routing):
        request = make().get_metadata_routing()
        for method in ("predict", "predict_proba", "predict_log_proba"):
            assert not getattr(request, method).requests
        assert set(request.fit.requests) == {"sample_weight"}
        assert set(request.score.requests) == {"sample_weight"}
        assert not hasattr(make(), "set_predict_request")
        assert not hasattr(make(), "set_predict_proba_request")


def test_weights_without_routing(measured):
    X, y = measured
    weights = np.random.default_rng(0).uniform(0.1, 3.0, 90)
    pipeline = make_pipeline(StandardScaler(), regressor())
    pipeline.fit(X, y, odenetregressor__sample_weight=weights)
    assert np.isfinite(pipeline.predict(X)).all()


def test_search_needs_no_scaler_and_warns_of_nothing(labelled):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GridSearchCV(classifier(), {"alpha": [0.1, 1.0]}, cv=2).fit(*labelled)
