"""What is predicted: draws that hang together, deviations that add up."""

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

import skfunc
from skfunc.predictive import GaussianMixture, SampledProcess

NEAR = np.linspace(0.0, 0.3, 4)[:, None]
LATENT = ("anp", "np")
DIAGONAL = ("cnp", "convcnp", "kernel", "lbanp", "tnp")


@pytest.fixture
def smooth(smooth_prior):
    """Return a regressor that knows sine waves and has seen one point of one."""
    return skfunc.NeuralProcessRegressor(prior=smooth_prior).fit([[-1.9]], [3.0])


@pytest.fixture
def fitted(priors, measured):
    def fit(name, **changes):
        model = skfunc.NeuralProcessRegressor(
            prior=priors[name], random_state=0, **changes
        )
        return model.fit(*measured)

    return fit


def test_draws_are_functions(smooth):
    draws = smooth.sample_y(NEAR, 200, random_state=1)
    assert draws.shape == (4, 200)
    # Waves of another phase pass here, each of them smooth.
    assert draws.std(axis=1).min() > 0.4
    assert np.corrcoef(draws)[0, 1] > 0.9
    # Draws of rows alone have nothing to do with each other.
    alone = np.concatenate(
        [smooth.sample_y(row[None], 200, random_state=i) for i, row in enumerate(NEAR)]
    )
    assert np.abs(np.corrcoef(alone)[0, 1:]).max() < 0.3


def test_draws_go_through_the_context(smooth_prior, measured):
    X, y = measured
    model = skfunc.NeuralProcessRegressor(prior=smooth_prior).fit(X, y)
    draws = model.sample_y(X[:6], 50)
    # Waves of amplitude 2, by a prior of little training.
    assert np.abs(draws - y[:6, None]).mean() < 0.4
    assert draws.std(axis=1).max() < 0.2
    assert model.score(X, y) > 0.95


def test_draws_follow_from_the_seed(smooth):
    one, same, other = (smooth.sample_y(NEAR, 3, random_state=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3
    np.testing.assert_array_equal(smooth.sample_y(NEAR, 3), one)


@pytest.mark.parametrize("name", [*LATENT, *DIAGONAL])
def test_parts_of_the_deviation(fitted, name):
    model = fitted(name)
    mean, std = model.predict(NEAR, return_std=True)
    also, cov = model.predict(NEAR, return_cov=True)
    np.testing.assert_array_equal(mean, also)
    np.testing.assert_allclose(np.diag(cov), std**2, rtol=1e-12)
    np.testing.assert_allclose(cov, cov.T, rtol=1e-12)
    assert np.linalg.eigvalsh(cov).min() > 0
    epistemic, aleatoric = model.predict_std_parts(NEAR)
    np.testing.assert_allclose(np.hypot(epistemic, aleatoric), std, rtol=1e-12)
    with pytest.raises(RuntimeError, match="both"):
        model.predict(NEAR, return_std=True, return_cov=True)


@pytest.mark.parametrize("name", DIAGONAL)
def test_without_latent_a_row_is_gaussian(fitted, name):
    model = fitted(name)
    assert isinstance(model._predictive_of(NEAR), SampledProcess)
    mean, std = model.predict(NEAR, return_std=True)
    y = mean + 0.7
    np.testing.assert_allclose(
        model.log_prob(NEAR, y), stats.norm.logpdf(y, mean, std), rtol=1e-12
    )
    ends = np.stack(stats.norm.interval(0.9, mean, std), axis=1)
    np.testing.assert_allclose(model.predict_interval(NEAR), ends, rtol=1e-9)
    assert model.sample(NEAR, 5, random_state=0).shape == (4, 5)


@pytest.mark.parametrize("name", LATENT)
def test_components_of_a_latent(fitted, name):
    model = fitted(name, n_draws=7)
    predictive = model._predictive_of(NEAR)
    assert isinstance(predictive, GaussianMixture)
    assert predictive.means.shape == (7, 4, 1)
    assert model.normals_.shape == (7, 16)
    # A function is one draw of the latent, at every row.
    draws = model.sample_y(NEAR, 7)
    order = np.argsort(draws[0])
    means = predictive.means[..., 0].T
    np.testing.assert_array_equal(draws[:, order], means[:, np.argsort(means[0])])
    np.testing.assert_allclose(model.predict(NEAR), means.mean(1), rtol=1e-12)
    assert means.std(1).min() > 0


def test_latents_are_the_same_in_every_call(fitted):
    model = fitted("np")
    np.testing.assert_array_equal(model.predict(NEAR), model.predict(NEAR))
    np.testing.assert_array_equal(model.normals_, fitted("np").normals_)


@pytest.mark.parametrize("name", ["cnp", "np"])
def test_several_targets(name):
    X = np.random.default_rng(0).normal(size=(30, 2))
    y = np.c_[X[:, 0], 100 + 50 * X[:, 1]]
    model = skfunc.NeuralProcessRegressor(
        "self", variant=name, max_iter=60, random_state=0
    )
    mean, std = model.fit(X, y).predict(X, return_std=True)
    assert mean.shape == std.shape == (30, 2)
    assert model.predict(X, return_cov=True)[1].shape == (30, 30, 2)
    assert model.sample_y(X[:5], 3).shape == (5, 2, 3)
    assert model.log_prob(X, y).shape == (30,)
    # Each in its own units.
    assert std[:, 1].mean() > 10 * std[:, 0].mean()
    with pytest.raises(ValueError, match="y has 1 targets; the fit had 2"):
        model.partial_fit(X, y[:, 0])


def test_units_do_not_matter():
    X = np.random.default_rng(0).normal(size=(40, 1))
    y = np.sin(X[:, 0])
    settings = {"max_iter": 30, "random_state": 0}
    mean, std = (
        skfunc.NeuralProcessRegressor("self", **settings)
        .fit(X, y)
        .predict(X, return_std=True)
    )
    scaled = skfunc.NeuralProcessRegressor("self", **settings).fit(
        1e3 * X + 5, 1e-4 * y - 7
    )
    mean2, std2 = scaled.predict(1e3 * X + 5, return_std=True)
    # Training is in float32, in which rounding grows over the steps.
    np.testing.assert_allclose((mean2 + 7) * 1e4, mean, atol=1e-2)
    np.testing.assert_allclose(std2 * 1e4, std, rtol=1e-2)


def test_deviations_of_rows_kept_out(measured):
    model = skfunc.NeuralProcessRegressor("self", max_iter=20, random_state=0).fit(
        *measured
    )
    assert model.std_scale_.shape == (1,)
    std = model.predict(NEAR, return_std=True)[1]
    model.std_scale_ = 2.0 * model.std_scale_
    np.testing.assert_allclose(
        model.predict(NEAR, return_std=True)[1], 2 * std, rtol=1e-12
    )


def test_default_learns_a_smooth_function():
    generator = np.random.default_rng(0)
    X = generator.uniform(-2, 2, size=(80, 1))
    y = np.sin(3 * X[:, 0]) + 0.1 * generator.normal(size=80)
    model = skfunc.NeuralProcessRegressor("self", random_state=0).fit(X[:60], y[:60])
    assert model.score(X[60:], y[60:]) > 0.7


@pytest.mark.parametrize("variant", ["cnp", "np", "tnp"])
def test_classes(variant):
    X, y = load_iris(return_X_y=True)
    model = skfunc.NeuralProcessClassifier(
        "self",
        variant=variant,
        hidden_size=32,
        n_layers=2,
        max_iter=120,
        random_state=0,
    ).fit(X[::2], y[::2])
    proba, std = model.predict_proba(X[1::2], return_std=True)
    np.testing.assert_allclose(proba.sum(1), 1.0, rtol=1e-12)
    frequency = log_loss(y[1::2], np.full((75, 3), 1 / 3))
    assert log_loss(y[1::2], proba) < 0.5 * frequency
    assert model.score(X[1::2], y[1::2]) > 0.85
    if variant == "np":
        assert std.max() > 0
    else:
        assert np.all(std == 0)
    assert model.sample_proba(X[:4], 3).shape == (4, 3, 3)
    assert set(model.sample(X[:4], 3).ravel()) <= {0, 1, 2}


def test_labels(labelled):
    X, y = labelled
    model = skfunc.NeuralProcessClassifier("self", max_iter=30, random_state=0).fit(
        X, y
    )
    assert list(model.classes_) == ["ash", "beech", "cedar"]
    # A sanity bound: a linear model separates most of these.
    linear = LogisticRegression().fit(X, y).score(X, y)
    assert model.score(X, y) > linear - 0.1
    with pytest.raises(ValueError, match="'oak'.*none of the classes"):
        model.partial_fit(X[:1], ["oak"])
    with pytest.raises(ValueError, match="one class"):
        model.fit(X[:5], y[:5])
