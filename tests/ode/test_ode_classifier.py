"""The classifier: labels, probabilities, draws."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

import skfunc


def test_probabilities(fitted_classifier, labelled):
    X, _ = labelled
    proba, std = fitted_classifier.predict_proba(X, return_std=True)
    assert proba.shape == std.shape == (90, 3)
    assert proba.dtype == np.float64
    np.testing.assert_allclose(proba.sum(1), 1.0, rtol=1e-12)
    assert (proba >= 0).all() and (std >= 0).all() and (std > 0).any()
    np.testing.assert_array_equal(fitted_classifier.predict_proba(X), proba)
    np.testing.assert_allclose(
        fitted_classifier.predict_log_proba(X), np.log(proba), rtol=1e-12
    )


def test_labels_are_those_of_fit(fitted_classifier, labelled):
    X, y = labelled
    assert fitted_classifier.classes_.tolist() == ["ash", "beech", "cedar"]
    predicted = fitted_classifier.predict(X)
    assert predicted.dtype == y.dtype
    best = fitted_classifier.predict_proba(X).argmax(1)
    np.testing.assert_array_equal(predicted, fitted_classifier.classes_[best])


@pytest.mark.parametrize(
    "labels",
    [
        np.array([7, -3, 100]),
        np.array(["b", "a", "c"], dtype=object),
        np.array([2.0, 1.0, 0.0]),
        np.array([True, False]),
    ],
)
def test_kinds_of_labels(classifier, labelled, labels):
    X, _ = labelled
    y = labels[np.arange(90) % len(labels)]
    model = classifier(max_iter=2).fit(X, y)
    np.testing.assert_array_equal(model.classes_, np.unique(labels))
    assert set(model.predict(X)) <= set(labels)
    assert np.isfinite(model.log_prob(X, y)).all()


def test_names_of_the_labels_do_not_matter(classifier, labelled):
    X, y = labelled
    numbers = np.unique(y, return_inverse=True)[1]
    np.testing.assert_array_equal(
        classifier().fit(X, y).predict_proba(X),
        classifier().fit(X, numbers).predict_proba(X),
    )


def test_log_prob(fitted_classifier, labelled):
    X, y = labelled
    positions = np.searchsorted(fitted_classifier.classes_, y)
    expected = np.log(fitted_classifier.predict_proba(X)[np.arange(90), positions])
    np.testing.assert_allclose(fitted_classifier.log_prob(X, y), expected, rtol=1e-12)


def test_log_prob_of_an_unseen_label_names_it(fitted_classifier, labelled):
    X, y = labelled
    with pytest.raises(ValueError, match="'yew'.*'ash', 'beech', 'cedar'"):
        fitted_classifier.log_prob(X[:2], ["ash", "yew"])
    with pytest.raises(ValueError, match="3 labels for 2 rows"):
        fitted_classifier.log_prob(X[:2], y[:3])


def test_log_prob_takes_a_column_of_labels(fitted_classifier, labelled):
    X, y = labelled
    column = fitted_classifier.log_prob(X, y[:, None])
    np.testing.assert_array_equal(column, fitted_classifier.log_prob(X, y))
    with pytest.raises(ValueError, match="1d"):
        fitted_classifier.log_prob(X, np.column_stack([y, y]))


def test_draws_of_functions_are_members(fitted_classifier, labelled):
    X, _ = labelled
    draws = fitted_classifier.sample_proba(X, n_samples=3)
    assert draws.shape == (90, 3, 3)
    np.testing.assert_allclose(draws.sum(1), 1.0, rtol=1e-12)
    proba, std = fitted_classifier.predict_proba(X, return_std=True)
    # Three draws from three members take each once.
    np.testing.assert_allclose(draws.mean(-1), proba, rtol=1e-12)
    np.testing.assert_allclose(draws.std(-1), std, rtol=1e-9, atol=1e-14)
    # A function drawn for some rows is the same function on others.
    part = fitted_classifier.sample_proba(X[20:30], n_samples=3)
    np.testing.assert_allclose(part, draws[20:30], rtol=1e-12)


def test_draws_of_labels(fitted_classifier, labelled):
    X, _ = labelled
    draws = fitted_classifier.sample(X, n_samples=3000, random_state=0)
    assert draws.shape == (90, 3000)
    assert set(np.unique(draws)) <= set(fitted_classifier.classes_)
    frequency = np.stack([(draws == k).mean(1) for k in fitted_classifier.classes_], 1)
    np.testing.assert_allclose(frequency, fitted_classifier.predict_proba(X), atol=0.05)
    again = fitted_classifier.sample(X, n_samples=3000, random_state=0)
    np.testing.assert_array_equal(draws, again)
    assert fitted_classifier.sample(X).shape == (90, 1)


def test_accurate_on_breast_cancer():
    X, y = load_breast_cancer(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, random_state=0, stratify=y)
    model = skfunc.ODENetClassifier(n_members=4, max_iter=30, random_state=0)
    model.fit(X, y)
    assert model.score(X_test, y_test) > 0.94
