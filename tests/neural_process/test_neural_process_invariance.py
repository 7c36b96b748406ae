"""A prediction depends on the set of context points, and on nothing else."""

import pickle

import numpy as np
import pytest

import skfunc
from skfunc.neural_process import _estimator

VARIANTS = ("anp", "cnp", "convcnp", "kernel", "lbanp", "np", "tnp")
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


@pytest.fixture(params=VARIANTS)
def prior(request, priors):
    return priors[request.param]


@pytest.fixture
def conditioned(prior, measured):
    """Return what conditions the prior on rows; it draws the same latents each time."""

    def fit(rows=slice(None)):
        model = skfunc.NeuralProcessRegressor(prior=prior, random_state=0)
        return model.fit(measured[0][rows], measured[1][rows])

    return fit


X_NEW = np.linspace(-2.5, 2.5, 23)[:, None]


def answer(model, X=X_NEW):
    return np.stack(model.predict(X, return_std=True))


def test_order_of_the_context(conditioned, measured):
    order = np.random.default_rng(3).permutation(len(measured[0]))
    np.testing.assert_allclose(
        answer(conditioned()), answer(conditioned(order)), **CLOSE
    )


def test_context_matters(conditioned):
    few, many = answer(conditioned(slice(0, 5))), answer(conditioned())
    assert np.abs(few - many).max() > 1e-4


def test_targets_alone_and_together(conditioned):
    model = conditioned()
    single = [answer(model, row[None]) for row in X_NEW]
    np.testing.assert_allclose(np.concatenate(single, 1), answer(model), **CLOSE)


def test_chunks_of_targets(conditioned, monkeypatch):
    whole = answer(conditioned())
    monkeypatch.setattr(_estimator, "_CHUNK_NUMBERS", 5 * (25 + 64))
    model = conditioned()
    assert len(list(model._chunks(len(X_NEW)))) == 5
    np.testing.assert_allclose(answer(model), whole, **CLOSE)


def test_order_of_targets(conditioned):
    model = conditioned()
    np.testing.assert_allclose(
        answer(model, X_NEW[::-1])[:, ::-1], answer(model), **CLOSE
    )


def test_cached_context(conditioned):
    model = conditioned()
    first, second = answer(model), answer(model)
    model._runtime.state = None
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, answer(model))
    np.testing.assert_array_equal(first, answer(pickle.loads(pickle.dumps(model))))


@pytest.mark.parametrize("warm", [False, True])
def test_partial_fit_is_fit_of_all_rows(conditioned, measured, warm):
    X, y = measured
    model = conditioned(slice(0, 7))
    if warm:
        # The context that this encodes is out of date afterwards.
        answer(model)
    model.partial_fit(X[7:12], y[7:12]).partial_fit(X[12:], y[12:])
    np.testing.assert_allclose(answer(model), answer(conditioned()), **CLOSE)


def test_first_partial_fit_is_fit(prior, measured, conditioned):
    model = skfunc.NeuralProcessRegressor(prior=prior, random_state=0)
    np.testing.assert_array_equal(
        answer(model.partial_fit(*measured)), answer(conditioned())
    )


def test_classifier(labelled):
    X, y = labelled
    own = skfunc.NeuralProcessClassifier("self", max_iter=20, random_state=0).fit(X, y)
    order = np.random.default_rng(3).permutation(len(X))

    def conditioned(rows):
        model = skfunc.NeuralProcessClassifier(prior=own.prior_, random_state=0)
        return model.fit(X[rows], y[rows])

    whole = conditioned(order)
    expected = whole.predict_proba(X)
    np.testing.assert_allclose(own.predict_proba(X), expected, **CLOSE)
    # The first call sees all classes, whatever the order.
    seen, more = np.r_[0:5, 20:25, 40:45], np.r_[5:20, 25:40, 45:60]
    grown = conditioned(seen).partial_fit(X[more], y[more])
    np.testing.assert_allclose(grown.predict_proba(X), expected, **CLOSE)
    single = np.concatenate([whole.predict_proba(row[None]) for row in X])
    np.testing.assert_allclose(single, expected, **CLOSE)
