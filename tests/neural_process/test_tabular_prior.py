"""The shipped priors: any table, no network, no training, gaps as information."""

import pickle
import socket

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict, train_test_split

import skfunc
from skfunc.neural_process._shipped import WEIGHTS, shipped_prior


@pytest.fixture(scope="module")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return train_test_split(X, y, random_state=0)


@pytest.fixture(scope="module")
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return train_test_split(X, y, random_state=0)


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_weights_are_small_and_say_what_they_are(task):
    assert (WEIGHTS / f"{task}.safetensors").stat().st_size < 10e6
    card = shipped_prior(task).training
    assert card["task"] == task
    assert card["steps"] > 0
    assert "no real data" in card["data"]


def test_the_default_needs_no_network(diabetes, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    shipped_prior.cache_clear()
    X, X_new, y, y_new = diabetes
    model = skfunc.NeuralProcessRegressor().fit(X, y)
    assert model.score(X_new, y_new) > 0.3


def test_regression_is_calibrated(diabetes):
    X, X_new, y, y_new = diabetes
    model = skfunc.NeuralProcessRegressor().fit(X, y)
    low, high = model.predict_interval(X_new, 0.9).T
    assert 0.82 < ((low < y_new) & (y_new < high)).mean() < 0.97
    # The gain over a Gaussian that knows nothing of X; a linear model has .23.
    known = model.log_prob(X_new, y_new).mean()
    nothing = norm.logpdf(y_new, y.mean(), y.std()).mean()
    assert known - nothing > 0.15


def test_classes(cancer):
    X, X_new, y, y_new = cancer
    model = skfunc.NeuralProcessClassifier().fit(X, y)
    assert log_loss(y_new, model.predict_proba(X_new)) < 0.15
    X, y = load_iris(return_X_y=True)
    proba = cross_val_predict(
        skfunc.NeuralProcessClassifier(), X, y, cv=3, method="predict_proba"
    )
    assert log_loss(y, proba) < 0.25


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_neither_order_of_rows_nor_of_columns_matters(kind, diabetes, cancer):
    if kind == "regression":
        X, X_new, y, _ = diabetes
        model = skfunc.NeuralProcessRegressor()
    else:
        X, X_new, y, _ = cancer
        model = skfunc.NeuralProcessClassifier(random_state=0)
    X, y, X_new = X[:150], y[:150], X_new[:20]
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(150), rng.permutation(X.shape[1])

    def predict(fitted, given):
        if kind == "regression":
            return np.stack(fitted.predict(given, return_std=True))
        return fitted.predict_proba(given)

    expected = predict(model.fit(X, y), X_new)
    other = clone(model).fit(X[rows][:, columns], y[rows])
    np.testing.assert_array_equal(predict(other, X_new[:, columns]), expected)
    single = np.concatenate([predict(model, row[None]) for row in X_new], axis=-1)
    if kind == "regression":
        np.testing.assert_allclose(single, expected, rtol=1e-9)
    shifted = clone(model).fit(1e3 * X - 5.0, y)
    np.testing.assert_allclose(
        predict(shifted, 1e3 * X_new - 5.0), expected, rtol=1e-3, atol=1e-4
    )


def test_missing_values_are_information():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    is_missing = rng.uniform(size=200) < 0.4
    y = X[:, 0] + 2.0 * is_missing + 0.1 * rng.normal(size=200)
    X[is_missing, 1] = np.nan
    model = skfunc.NeuralProcessRegressor().fit(X[:150], y[:150])
    assert model.score(X[150:], y[150:]) > 0.95
    mean = model.predict([[0.0, np.nan, 0.0], [0.0, 0.0, 0.0]])
    assert mean[0] - mean[1] == pytest.approx(2.0, abs=0.3)
    labels = is_missing.astype(int)
    classifier = skfunc.NeuralProcessClassifier().fit(X[:150], labels[:150])
    assert classifier.score(X[150:], labels[150:]) > 0.95


def test_several_targets_and_partial_fit(diabetes):
    X, X_new, y, _ = diabetes
    X, y, X_new = X[:120], y[:120], X_new[:10]
    both = skfunc.NeuralProcessRegressor().fit(X, np.c_[y, -3.0 * y])
    mean, std = both.predict(X_new, return_std=True)
    assert mean.shape == std.shape == (10, 2)
    model = skfunc.NeuralProcessRegressor().fit(X[:60], y[:60])
    before = model.predict(X_new, return_std=True)[1].mean()
    assert model.partial_fit(X[60:], y[60:]) is model
    assert len(model.X_context_) == 120
    assert model.predict(X_new, return_std=True)[1].mean() < 1.1 * before


def test_functions_are_coherent(diabetes):
    X, X_new, y, _ = diabetes
    model = skfunc.NeuralProcessRegressor().fit(X[:150], y[:150])
    draws = model.sample_y(X_new[:5], 4000, random_state=0)
    covariance = model.predict(X_new[:5], return_cov=True)[1]
    epistemic, aleatoric = model.predict_std_parts(X_new[:5])
    np.testing.assert_allclose(draws.std(axis=1), epistemic, rtol=0.1)
    np.testing.assert_allclose(
        np.sqrt(np.diag(covariance)), np.hypot(epistemic, aleatoric), rtol=1e-6
    )


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_pickles_saves_and_loads(kind, diabetes, cancer, tmp_path):
    if kind == "regression":
        X, X_new, y, _ = diabetes
        model = skfunc.NeuralProcessRegressor().fit(X[:80], y[:80])
    else:
        X, X_new, y, _ = cancer
        model = skfunc.NeuralProcessClassifier().fit(X[:80], y[:80])
    expected = model.predict(X_new)
    model.save(tmp_path / "model.safetensors")
    for again in (
        pickle.loads(pickle.dumps(model)),
        skfunc.load(tmp_path / "model.safetensors"),
    ):
        np.testing.assert_array_equal(again.predict(X_new), expected)


def test_finetuning_climbs_the_evidence(diabetes):
    X, X_new, y, y_new = diabetes
    plain = skfunc.NeuralProcessRegressor().fit(X[:100], y[:100])
    tuned = skfunc.NeuralProcessRegressor(finetune_steps=10).fit(X[:100], y[:100])
    evidence = [model._state().evidence.max() for model in (plain, tuned)]
    assert evidence[1] > evidence[0]
    with pytest.raises(ValueError, match="finetune_steps"):
        skfunc.NeuralProcessRegressor(finetune_steps=-1).fit(X, y)


def test_warns_beyond_the_stated_range():
    X = np.random.default_rng(0).normal(size=(20, 120))
    with pytest.warns(UserWarning, match="not trained for 120 features"):
        skfunc.NeuralProcessRegressor().fit(X, X[:, 0])


def test_a_column_that_never_varies_is_no_harm(diabetes):
    X, X_new, y, _ = diabetes
    X, y, X_new = X[:80], y[:80], X_new[:5]
    expected = skfunc.NeuralProcessRegressor().fit(X, y).predict(X_new)
    wider = np.c_[X, np.full(80, 3.0)]
    model = skfunc.NeuralProcessRegressor().fit(wider, y)
    np.testing.assert_array_equal(model.predict(np.c_[X_new, np.zeros(5)]), expected)


def test_draws_of_probabilities_have_the_prediction_as_their_mean(cancer):
    X, X_new, y, _ = cancer
    model = skfunc.NeuralProcessClassifier(n_draws=64).fit(X[:60], y[:60])
    proba, std = model.predict_proba(X_new, return_std=True)
    state, network = model._state(), model.prior_.network()
    scaled = model._standardized(model.prior_, X_new)
    with torch.no_grad():
        expected = network.decode(state, torch.as_tensor(scaled[None]))[0].exp()
    np.testing.assert_allclose(proba, expected, rtol=1e-9, atol=1e-12)
    # What is unsure is unsure of itself, and more rows make it less so.
    unsure = np.abs(proba[:, 0] - 0.5) < 0.3
    assert std[unsure, 0].mean() > 2 * std[~unsure, 0].mean()
    more = skfunc.NeuralProcessClassifier(n_draws=64).fit(X, y)
    assert more.predict_proba(X_new, return_std=True)[1].mean() < std.mean()


def test_estimators_are_readings_that_compete(diabetes, cancer):
    X, X_new, y, _ = diabetes
    model = skfunc.NeuralProcessRegressor(n_estimators=3).fit(X[:100], y[:100])
    assert model._state().evidence.shape == (1, 12)
    mean, std = model.predict(X_new, return_std=True)
    low, high = model.predict_interval(X_new, 0.8).T
    assert ((low < mean) & (mean < high)).all()
    assert (std > 0).all()
    X, X_new, y, _ = cancer
    classifier = skfunc.NeuralProcessClassifier(n_estimators=2).fit(X[:80], y[:80])
    assert classifier._state().log_weights.shape[1] == 8
    np.testing.assert_allclose(classifier.predict_proba(X_new).sum(axis=1), 1.0)
    with pytest.raises(ValueError, match="n_estimators"):
        skfunc.NeuralProcessRegressor(n_estimators=0).fit(X, y)


def test_a_misspelt_prior_is_named(diabetes):
    X, _, y, _ = diabetes
    with pytest.raises(FileNotFoundError, match="'tabulr' is neither 'tabular' nor"):
        skfunc.NeuralProcessRegressor("tabulr").fit(X, y)
