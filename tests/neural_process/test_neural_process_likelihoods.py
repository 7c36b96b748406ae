"""What a network says of an observation: densities, their quantiles, their draws."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone

import skfunc
from skfunc.neural_process._likelihoods import bin_edges, build_likelihood
from skfunc.neural_process._marginals import LikelihoodMarginals, best_factor

NEAR = np.array([[0.0], [0.3]])
# A sum over a fine line misses a little at the jumps of a density of bins.
RTOL = 5e-3
NOT_GAUSSIAN = ("mixture", "bins")


def settings(name, variant, **changes):
    small = {"hidden_size": 16, "n_layers": 2, "max_iter": 40, "n_draws": 4}
    kind = {"variant": variant, "likelihood": name, "n_bins": 12}
    return small | kind | {"random_state": 0, "device": "cpu"} | changes


@pytest.fixture(scope="module")
def fitted(measured):
    """Return what fits every kind once."""
    known = {}

    def fit(name, variant):
        if (name, variant) not in known:
            model = skfunc.NeuralProcessRegressor("self", **settings(name, variant))
            known[name, variant] = model.fit(*measured)
        return known[name, variant]

    return fit


@pytest.fixture(params=[(name, v) for name in NOT_GAUSSIAN for v in ("cnp", "np")])
def model(request, fitted):
    return fitted(*request.param)


def density_on_a_line(model, X):
    """Return a fine line of y, and the density of each row along it."""
    mean, std = model.predict(X, return_std=True)
    y = np.linspace((mean - 8 * std).min(), (mean + 8 * std).max(), 4001)
    rows = [np.full((len(y), X.shape[1]), row) for row in X]
    return y, np.stack([np.exp(model.log_prob(row, y)) for row in rows])


def test_density_integrates_to_one_and_has_the_stated_moments(model):
    y, density = density_on_a_line(model, NEAR)
    step = y[1] - y[0]
    np.testing.assert_allclose(density.sum(1) * step, 1.0, rtol=RTOL)
    mean, std = model.predict(NEAR, return_std=True)
    np.testing.assert_allclose(density @ y * step, mean, rtol=RTOL)
    second = ((y - mean[:, None]) ** 2 * density).sum(1) * step
    np.testing.assert_allclose(np.sqrt(second), std, rtol=2 * RTOL)


def test_quantiles_invert_the_distribution_function(model):
    levels = np.array([0.01, 0.05, 0.3, 0.5, 0.9, 0.99])
    quantiles = model.predict_quantiles(NEAR, levels)
    assert (np.diff(quantiles, axis=1) > 0).all()
    value = model._predictive_of(NEAR)
    for i, level in enumerate(levels):
        np.testing.assert_allclose(value.cdf(quantiles[:, [i]]), level, rtol=1e-6)
    # The same by the density alone.
    y, density = density_on_a_line(model, NEAR)
    below = np.cumsum(density, axis=1) * (y[1] - y[0])
    for row in range(len(NEAR)):
        reached = np.interp(quantiles[row], y, below[row])
        np.testing.assert_allclose(reached, levels, atol=RTOL)


def test_draws_have_the_stated_moments(model):
    # Of one row: those of several hang together.
    draws = model.sample(NEAR[:1], 4000, random_state=0)[0]
    mean, std = model.predict(NEAR[:1], return_std=True)
    assert abs(draws.mean() - mean[0]) < 5 * std[0] / np.sqrt(4000)
    assert draws.std() == pytest.approx(std[0], rel=0.1)
    low, high = model.predict_interval(NEAR[:1], 0.8)[0]
    assert np.mean((low < draws) & (draws < high)) == pytest.approx(0.8, abs=0.03)
    epistemic, aleatoric = model.predict_std_parts(NEAR)
    _, std = model.predict(NEAR, return_std=True)
    np.testing.assert_allclose(np.hypot(epistemic, aleatoric), std, rtol=1e-12)
    assert model.sample_y(NEAR, 5).shape == (2, 5)


def test_files_and_pickles(model, tmp_path):
    path = tmp_path / "model.safetensors"
    model.save(path)
    again = skfunc.load(path)
    y = model.predict(NEAR) + 0.5
    for a, b in (
        (model.log_prob(NEAR, y), again.log_prob(NEAR, y)),
        (model.predict_quantiles(NEAR), again.predict_quantiles(NEAR)),
        (model.sample(NEAR, 2, random_state=1), again.sample(NEAR, 2, random_state=1)),
    ):
        np.testing.assert_array_equal(a, b)
    assert again.likelihood == model.likelihood == again.prior_.likelihood


@pytest.mark.parametrize("name", NOT_GAUSSIAN)
def test_learner_makes_a_prior_of_the_likelihood(name, learner, measured, tmp_path):
    learned = learner(variant="cnp", likelihood=name, n_bins=12, n_components=3)
    prior = learned.fit(*measured).prior_
    assert prior.likelihood == name
    path = tmp_path / "prior.safetensors"
    prior.save(path)
    # The parameter is idle with a prior that is given.
    models = [
        skfunc.NeuralProcessRegressor(prior=p).fit(*measured) for p in (prior, path)
    ]
    one, other = (m.predict_quantiles(NEAR) for m in models)
    np.testing.assert_array_equal(one, other)
    learned.save(tmp_path / "learner.safetensors")
    again = skfunc.load(tmp_path / "learner.safetensors")
    np.testing.assert_array_equal(
        clone(models[0]).set_params(prior=again.prior_).fit(*measured).predict(NEAR),
        models[0].predict(NEAR),
    )


@pytest.mark.parametrize("name", NOT_GAUSSIAN)
def test_two_modes_are_seen(name):
    generator = np.random.default_rng(0)
    X = generator.normal(size=(150, 1))
    y = generator.choice([-1.0, 1.0], size=150) + 0.05 * generator.normal(size=150)
    options = {"hidden_size": 32, "max_iter": 300, "random_state": 0}
    models = [
        skfunc.NeuralProcessRegressor("self", likelihood=kind, **options).fit(
            X[:100], y[:100]
        )
        for kind in ("gaussian", name)
    ]
    gaussian, own = (model.log_prob(X[100:], y[100:]).mean() for model in models)
    assert own > gaussian + 0.5


@pytest.mark.parametrize("name", ["gaussian", *NOT_GAUSSIAN])
def test_several_targets(name):
    generator = np.random.default_rng(0)
    X = generator.normal(size=(30, 2))
    y = np.c_[X[:, 0], 100 + 50 * X[:, 1]]
    model = skfunc.NeuralProcessRegressor("self", **settings(name, "cnp")).fit(X, y)
    assert model.predict_quantiles(X[:4]).shape == (4, 3, 2)
    assert model.log_prob(X, y).shape == (30,)
    assert model.sample(X[:4], 3).shape == model.sample_y(X[:4], 3).shape == (4, 2, 3)
    assert model.predict(X[:4], return_cov=True)[1].shape == (4, 4, 2)
    assert model.std_scale_.shape == (2,)


@pytest.mark.parametrize("name", NOT_GAUSSIAN)
def test_few_or_constant_targets(name):
    for X, y in (([[1.0]], [2.0]), (np.arange(12.0)[:, None], np.zeros(12))):
        model = skfunc.NeuralProcessRegressor(
            "self", **settings(name, "cnp", max_iter=3)
        )
        assert np.isfinite(model.fit(X, y).log_prob(X, y)).all()


def test_factor_of_gaussians_is_that_of_their_residuals():
    generator = np.random.default_rng(0)
    likelihood = build_likelihood("gaussian", 1e-3)
    raw = torch.as_tensor(generator.normal(size=(1, 40, 4)))
    ones = np.ones(2)
    stated = LikelihoodMarginals(likelihood, raw, 0 * ones, ones, ones)
    y = stated.mean() + np.array([0.3, 2.5]) * stated.std() * generator.normal(
        size=(40, 2)
    )
    z = (y - stated.mean()) / stated.std()
    expected = np.sqrt((np.square(z).sum(0) + 10) / (40 + 10))
    np.testing.assert_allclose(best_factor(stated, y, 10), expected, rtol=1e-4)


@pytest.mark.parametrize("name", NOT_GAUSSIAN)
def test_factor_on_deviations(name, fitted):
    model = clone(fitted(name, "cnp")).set_params(prior=fitted(name, "cnp").prior_)
    model.fit([[0.0]], [1.0])
    mean, std = model.predict(NEAR, return_std=True)
    quantiles = model.predict_quantiles(NEAR)
    model.std_scale_ = np.array([2.0])
    same, twice = model.predict(NEAR, return_std=True)
    np.testing.assert_allclose(same, mean, rtol=1e-12)
    np.testing.assert_allclose(twice, 2 * std, rtol=1e-12)
    np.testing.assert_allclose(
        model.predict_quantiles(NEAR) - mean[:, None],
        2 * (quantiles - mean[:, None]),
        rtol=1e-9,
    )
    y, density = density_on_a_line(model, NEAR)
    np.testing.assert_allclose(density.sum(1) * (y[1] - y[0]), 1.0, rtol=RTOL)


def test_edges_of_bins():
    values = np.random.default_rng(0).normal(size=2000)
    edges = np.array(bin_edges(values, 20, 1e-3))
    assert len(edges) == 21
    share = np.histogram(values, edges)[0] / len(values)
    np.testing.assert_allclose(share, 1 / 20, atol=1e-3)
    assert len(bin_edges(values[:100], 50, 1e-3)) == 11
    # No density beyond a Gaussian's at the floor of its deviation.
    often = np.concatenate([values, np.zeros(2000)])
    narrow = np.diff(bin_edges(often, 50, 0.05))
    assert narrow.min() >= 0.05 * np.sqrt(2 * np.pi)
    for few in (np.zeros(5), np.array([1.0, 1.01]), np.array([0.0])):
        edges = np.array(bin_edges(few, 10, 1e-2))
        np.testing.assert_allclose(edges[1:-1], stats.norm.ppf([0.2, 0.4, 0.6, 0.8]))
        assert np.isfinite(edges).all()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"likelihood": "cauchy"}, "likelihood"),
        ({"likelihood": "categorical"}, "likelihood"),
        ({"n_components": 0}, "n_components"),
        ({"n_bins": 2}, "n_bins"),
        ({"likelihood": "bins", "variant": "kernel"}, "'gaussian' or 'mixture'"),
    ],
)
def test_parameters_are_checked(changes, text, measured, learner):
    with pytest.raises(ValueError, match=text):
        skfunc.NeuralProcessRegressor("self", **changes).fit(*measured)
    with pytest.raises(ValueError, match=text):
        learner(**changes).fit(*measured)
