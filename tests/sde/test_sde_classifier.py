"""The classifier: labels, probabilities, spread; images."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skfunc


def test_probabilities(fitted_classifier, labelled):
    X, y = labelled
    proba, std = fitted_classifier.predict_proba(X, return_std=True)
    assert proba.shape == std.shape == (60, 3)
    assert proba.dtype == np.float64
    np.testing.assert_allclose(proba.sum(1), 1.0, rtol=1e-12)
    assert (proba >= 0).all() and (std > 0).all()
    np.testing.assert_array_equal(fitted_classifier.predict_proba(X), proba)
    best = fitted_classifier.classes_[proba.argmax(1)]
    np.testing.assert_array_equal(fitted_classifier.predict(X), best)
    positions = np.searchsorted(fitted_classifier.classes_, y)
    np.testing.assert_allclose(
        fitted_classifier.log_prob(X, y),
        np.log(proba[np.arange(60), positions]),
        rtol=1e-12,
    )


def test_probabilities_are_averages_over_paths(fitted_classifier, labelled):
    X, _ = labelled
    paths = fitted_classifier._class_probabilities(X)
    assert paths.shape == (6, 60, 3)
    proba, std = fitted_classifier.predict_proba(X, return_std=True)
    np.testing.assert_allclose(proba, paths.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, paths.std(0), rtol=1e-10)


@pytest.mark.parametrize(
    "labels",
    [
        np.array([7, -3, 100]),
        np.array(["b", "a", "c"], dtype=object),
        np.array([True, False]),
    ],
)
def test_kinds_of_labels(classifier, labelled, labels):
    X, _ = labelled
    y = labels[np.arange(60) % len(labels)]
    model = classifier(max_iter=2).fit(X, y)
    np.testing.assert_array_equal(model.classes_, np.unique(labels))
    assert set(model.predict(X)) <= set(labels)
    assert np.isfinite(model.log_prob(X, y)).all()


def test_draws_of_labels(fitted_classifier, labelled):
    X, _ = labelled
    draws = fitted_classifier.sample(X, n_samples=3000, random_state=0)
    frequency = np.stack([(draws == k).mean(1) for k in fitted_classifier.classes_], 1)
    np.testing.assert_allclose(frequency, fitted_classifier.predict_proba(X), atol=0.05)


def test_accurate_on_breast_cancer():
    X, y = load_breast_cancer(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, random_state=0, stratify=y)
    model = skfunc.SDEBNNClassifier(
        n_members=2, n_predict_paths=8, max_iter=15, random_state=0
    )
    assert model.fit(X, y).score(X_test, y_test) > 0.94


def test_images():
    X, y = load_digits(return_X_y=True)
    X, y = X[y < 3][:150], y[y < 3][:150]
    model = skfunc.SDEBNNClassifier(
        image_shape=(1, 8, 8),
        state_size=4,
        n_members=2,
        n_predict_paths=4,
        max_iter=20,
        learning_rate_init=0.05,
        random_state=0,
    ).fit(X[:100], y[:100])
    assert model.score(X[100:], y[100:]) > 0.85
    proba, std = model.predict_proba(X[100:], return_std=True)
    assert (std > 0).any()
    draws = model.sample_proba(X[100:], 3)
    np.testing.assert_allclose(
        model.sample_proba(X[110:120], 3), draws[10:20], rtol=1e-11
    )


def test_search_in_a_pipeline(classifier, labelled):
    X, y = labelled
    pipeline = make_pipeline(StandardScaler(), classifier(max_iter=3))
    grid = {
        "sdebnnclassifier__sigma": [0.05, "auto"],
        "sdebnnclassifier__n_steps": [1, 2],
    }
    search = GridSearchCV(pipeline, grid, cv=2, scoring="neg_log_loss").fit(X, y)
    assert len(search.cv_results_["params"]) == 4
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.predict_proba(X).shape == (60, 3)
