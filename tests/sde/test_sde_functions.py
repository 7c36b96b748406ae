"""Functions of weight paths: draws, moments, batches, threads."""

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed, parallel_config
from sklearn.model_selection import cross_val_predict
from torch import nn

import skfunc


class Swirl(nn.Module):
    """A user's field."""

    def __init__(self, size):
        super().__init__()
        self.map = nn.Linear(size, size)

    def forward(self, t, h):
        return torch.tanh(self.map(h))


def test_one_weight_path_is_one_function(fitted_regressor, measured):
    X, _ = measured
    draws = fitted_regressor.sample_y(X, 7, random_state=3)
    assert draws.shape == (60, 7)
    shared = fitted_regressor.sample_y(X[20:30], 7, random_state=3)
    np.testing.assert_allclose(shared, draws[20:30], rtol=1e-12)
    other = fitted_regressor.sample_y(X, 7, random_state=4)
    assert (np.abs(other - draws) > 0).all()
    # Each of the seven is another path, of members in turn.
    assert (np.diff(np.sort(draws, axis=1), axis=1) > 0).all()


def test_one_weight_path_is_one_function_of_probabilities(fitted_classifier, labelled):
    X, _ = labelled
    draws = fitted_classifier.sample_proba(X, 5, random_state=3)
    assert draws.shape == (60, 3, 5)
    np.testing.assert_allclose(draws.sum(1), 1.0, rtol=1e-12)
    shared = fitted_classifier.sample_proba(X[7:9], 5, random_state=3)
    np.testing.assert_allclose(shared, draws[7:9], rtol=1e-12)
    prior = fitted_classifier.sample_proba(X, 5, random_state=3, prior=True)
    assert (prior != draws).any()
    np.testing.assert_allclose(prior.sum(1), 1.0, rtol=1e-12)


def test_draws_of_prior_and_posterior_differ(fitted_regressor, measured):
    X, _ = measured
    posterior = fitted_regressor.sample_y(X, 6)
    prior = fitted_regressor.sample_y(X, 6, prior=True)
    assert prior.shape == posterior.shape
    assert (prior != posterior).all()
    again = fitted_regressor.sample_y(X, 6, prior=True, random_state=0)
    np.testing.assert_array_equal(prior, again)
    with pytest.raises(ValueError, match="prior"):
        fitted_regressor.sample_y(X, 6, prior="yes")


def test_moments_of_the_draws_are_those_predicted(regressor, measured):
    X, y = measured
    model = regressor(n_predict_paths=3000, sigma=0.3, max_iter=20).fit(X, y)
    draws = model.sample_y(X, 3000)
    epistemic, _ = model.predict_std_parts(X)
    # Both are averages of 3000 paths.
    error = 5 * epistemic * np.sqrt(2 / 3000)
    assert (np.abs(draws.mean(1) - model.predict(X)) < error).all()
    np.testing.assert_allclose(draws.std(1), epistemic, rtol=0.12)


def test_moments_of_the_probabilities(classifier, labelled):
    X, y = labelled
    model = classifier(n_predict_paths=3000, sigma=0.3, max_iter=20).fit(X, y)
    draws = model.sample_proba(X, 3000)
    mean, std = model.predict_proba(X, return_std=True)
    assert (np.abs(draws.mean(-1) - mean) < 5 * std * np.sqrt(2 / 3000)).all()
    np.testing.assert_allclose(draws.std(-1), std, rtol=0.2)


@pytest.mark.parametrize(("n_predict_paths", "functions"), [(1, 4), (5, 4), (64, 64)])
def test_paths_are_shared_out_among_members(
    regressor, measured, n_predict_paths, functions
):
    X, y = measured
    model = regressor(n_members=4, n_predict_paths=n_predict_paths, max_iter=2)
    means = model.fit(X, y)._predictive(X).means
    assert means.shape == (functions, 60, 1)
    assert len(np.unique(means[:, 0])) == functions


@pytest.mark.parametrize("n_samples", [1, 2, 3, 8])
def test_few_draws_are_of_different_members(regressor, measured, n_samples):
    X, y = measured
    # Hardly any diffusion: the paths of one member are one function.
    model = regressor(sigma=1e-9, max_iter=2).fit(X, y)
    draws = model.sample_y(X[:1], n_samples)[0]
    assert len(np.unique(draws.round(4))) == min(n_samples, 3)


def test_without_diffusion_members_are_all_the_spread(regressor, measured):
    X, y = measured
    model = regressor(sigma=1e-9, n_members=1).fit(X, y)
    np.testing.assert_allclose(model.predict_std_parts(X)[0], 0.0, atol=1e-5)
    assert (regressor(n_members=1).fit(X, y).predict_std_parts(X)[0] > 1e-3).all()


@pytest.mark.parametrize("solver", ["ou", "heun", "reversible_heun"])
def test_rows_do_not_depend_on_their_batch(regressor, measured, monkeypatch, solver):
    X, y = measured
    model = regressor(solver=solver).fit(X, y)
    whole = np.column_stack(model.predict(X, return_std=True))
    rows = [
        np.column_stack(model.predict(X[i : i + 1], return_std=True)) for i in range(8)
    ]
    np.testing.assert_allclose(np.concatenate(rows), whole[:8], rtol=1e-12)
    order = np.random.default_rng(0).permutation(60)
    mixed = np.column_stack(model.predict(X[order], return_std=True))
    np.testing.assert_allclose(mixed, whole[order], rtol=1e-12)
    monkeypatch.setattr("skfunc._members._PREDICT_NUMBERS", 2000)
    chunked = np.column_stack(model.predict(X, return_std=True))
    np.testing.assert_allclose(chunked, whole, rtol=1e-12)


def test_probabilities_do_not_depend_on_their_batch(fitted_classifier, labelled):
    X, _ = labelled
    whole = np.stack(fitted_classifier.predict_proba(X, return_std=True))
    rows = [
        np.stack(fitted_classifier.predict_proba(X[i : i + 1], return_std=True))
        for i in range(8)
    ]
    np.testing.assert_allclose(np.concatenate(rows, axis=1), whole[:, :8], rtol=1e-12)


@pytest.mark.parametrize("field", ["auto", "user"])
def test_threads_that_share_a_model(regressor, measured, field):
    X, y = measured
    kind = {} if field == "auto" else {"field": Swirl}
    model = regressor(n_steps=6, **kind).fit(X, y)
    seeds = list(range(6)) * 4
    expected = [model.sample_y(X, 9, random_state=seed) for seed in seeds]
    found = Parallel(n_jobs=4, backend="threading")(
        delayed(model.sample_y)(X, 9, random_state=seed) for seed in seeds
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_fits_do_not_depend_on_their_threads(measured):
    X, y = measured
    model = skfunc.SDEBNNRegressor(
        state_size=4, hidden_layer_sizes=(5,), max_iter=3, random_state=0
    )
    alone = cross_val_predict(model, X, y, cv=3)
    with parallel_config("threading", n_jobs=3):
        together = cross_val_predict(model, X, y, cv=3, n_jobs=3)
    np.testing.assert_array_equal(together, alone)
