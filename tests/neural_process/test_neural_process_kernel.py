"""Kernels that are inferred in one pass: joint predictions in closed form."""

import numpy as np
import pytest
import torch
from scipy import stats

import skfunc
from skfunc.neural_process import _functions
from skfunc.neural_process._functions import ClosedFormFunctions

LIKELIHOODS = ("gaussian", "mixture")
X_NEW = np.linspace(-1.5, 1.5, 7)[:, None]


@pytest.fixture(scope="module")
def fitted(learner, measured):
    """Return a regressor of each likelihood; the prior has hardly been trained."""
    known = {}

    def fit(name):
        if name not in known:
            prior = learner(variant="kernel", likelihood=name).fit(*measured).prior_
            model = skfunc.NeuralProcessRegressor(prior=prior, random_state=0)
            known[name] = model.fit(measured[0][:6], measured[1][:6])
        return known[name]

    return fit


@pytest.fixture(params=LIKELIHOODS)
def model(request, fitted):
    return fitted(request.param)


def posterior(model, X):
    """Return weights, and each kernel's mean, covariance and noise in units of y."""
    prior = model.prior_
    x = (X - prior.moments("x_mean")) / prior.moments("x_scale")
    joint = prior.network().joint_posterior(model._state(), torch.as_tensor(x)[None])
    scale = prior.moments("y_scale")[0]
    return (
        joint.log_weights[0].exp().numpy(),
        prior.moments("y_mean")[0] + scale * joint.mean[0, 0].numpy(),
        scale**2 * joint.covariance[0, 0].numpy(),
        scale * joint.noise[0, 0].numpy(),
    )


def test_covariance_is_that_of_the_mixture_of_processes(model):
    weights, means, covariances, noise = posterior(model, X_NEW)
    assert len(weights) == 4
    expected_mean = weights @ means
    # The second moment of the mixture, less the square of its mean.
    seconds = covariances + means[:, :, None] * means[:, None, :]
    seconds = seconds + np.square(noise)[:, None, None] * np.eye(len(X_NEW))
    second = np.einsum("k,kij->ij", weights, seconds)
    mean, cov = model.predict(X_NEW, return_cov=True)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-9)
    expected = second - np.outer(expected_mean, expected_mean)
    np.testing.assert_allclose(cov, expected, rtol=1e-6, atol=1e-8)
    # Rows far from each other still vary together.
    assert np.abs(cov[0, 1:]).max() > 1e-3
    assert isinstance(model._predictive_of(X_NEW).functions, ClosedFormFunctions)


def test_density_is_that_of_the_likelihood(model):
    weights, means, covariances, noise = posterior(model, X_NEW)
    total = np.sqrt(np.einsum("kii->ki", covariances) + np.square(noise)[:, None])
    y = np.linspace(1.0, 5.0, len(X_NEW))
    if model.prior_.likelihood == "mixture":
        expected = np.log(weights @ stats.norm.pdf(y, means, total))
    else:
        mean, std = model.predict(X_NEW, return_std=True)
        expected = stats.norm.logpdf(y, mean, std)
    np.testing.assert_allclose(model.log_prob(X_NEW, y), expected, rtol=1e-6)


def test_draws_have_the_exact_moments(model):
    n = 20_000
    mean, cov = model.predict(X_NEW, return_cov=True)
    epistemic, aleatoric = model.predict_std_parts(X_NEW)
    functions = model.sample_y(X_NEW, n, random_state=1)
    within = cov - np.diag(np.square(aleatoric))
    close = {"rtol": 0.1, "atol": 0.05 * cov.max()}
    np.testing.assert_allclose(functions.mean(1), mean, atol=6 * np.sqrt(cov.max() / n))
    np.testing.assert_allclose(np.cov(functions), within, **close)
    np.testing.assert_allclose(functions.std(1), epistemic, rtol=0.05)
    observations = model.sample(X_NEW, n, random_state=1)
    np.testing.assert_allclose(np.cov(observations), cov, **close)


def test_draws_follow_from_the_seed(model):
    one, same = (model.sample_y(X_NEW, 3, random_state=2) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - model.sample_y(X_NEW, 3, random_state=3)).max() > 1e-3


def test_variance_in_parts(model, monkeypatch):
    whole = model.predict_std_parts(X_NEW)
    monkeypatch.setattr(_functions, "_ROWS", 3)
    np.testing.assert_allclose(model.predict_std_parts(X_NEW), whole, rtol=1e-9)


def test_several_targets():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(20, 2))
    y = np.c_[X[:, 0], 100 + 50 * X[:, 1]]
    for name in LIKELIHOODS:
        model = skfunc.NeuralProcessRegressor(
            "self",
            variant="kernel",
            likelihood=name,
            hidden_size=8,
            n_layers=1,
            max_iter=5,
            random_state=0,
        ).fit(X, y)
        mean, std = model.predict(X, return_std=True)
        cov = model.predict(X, return_cov=True)[1]
        assert mean.shape == (20, 2) and cov.shape == (20, 20, 2)
        np.testing.assert_allclose(np.einsum("iik->ik", cov), std**2, rtol=1e-9)
        draws = model.sample_y(X, 2000)
        np.testing.assert_allclose(draws.mean(-1), mean, atol=0.2 * std.max(0).max())
        assert model.log_prob(X, y).shape == (20,)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_files(name, fitted, tmp_path):
    path = tmp_path / "model.safetensors"
    fitted(name).save(path)
    again = skfunc.load(path)
    np.testing.assert_array_equal(
        again.sample_y(X_NEW, 3), fitted(name).sample_y(X_NEW, 3)
    )
    np.testing.assert_array_equal(
        again.predict_quantiles(X_NEW), fitted(name).predict_quantiles(X_NEW)
    )


def test_deviations_of_rows_kept_out_scale_the_whole_process(model):
    again = skfunc.NeuralProcessRegressor(prior=model.prior_, random_state=0)
    again.fit([[0.0]], [3.0])
    mean, cov = again.predict(X_NEW, return_cov=True)
    again.std_scale_ = np.array([1.5])
    same, wide = again.predict(X_NEW, return_cov=True)
    np.testing.assert_allclose(same, mean, rtol=1e-12)
    np.testing.assert_allclose(wide, 1.5**2 * cov, rtol=1e-9, atol=1e-9)


def test_classes_have_no_kernel(labelled):
    with pytest.raises(ValueError, match="predicts numbers, not classes"):
        skfunc.NeuralProcessClassifier("self", variant="kernel").fit(*labelled)
