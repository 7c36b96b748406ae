"""Mixtures of Student-t distributions: closed forms, brute force, Gaussian limit."""

import numpy as np
import pytest
from scipy import integrate, stats

from skfunc.predictive import GaussianMixture, StudentMixture

LEVELS = np.array([0.001, 0.05, 0.25, 0.5, 0.9, 0.999])


def mixture(components=4, rows=5, targets=2, seed=0, squeeze=False, freedom=None):
    generator = np.random.default_rng(seed)
    shape = (components, rows, targets)
    means = generator.normal(0.0, 2.0, shape)
    scales = generator.uniform(0.2, 1.5, shape)
    drawn = generator.uniform(4.5, 12.0, shape)
    drawn = drawn if freedom is None else np.full(shape, freedom)
    return StudentMixture(means, scales, squeeze=squeeze, freedom=drawn)


def laws(value):
    """Return the components as scipy has them: by scale, not by deviation."""
    scale = value.noise_std * np.sqrt((value.freedom - 2) / value.freedom)
    return stats.t(value.freedom, value.means, scale)


def test_noise_std_is_that_of_the_components():
    value = mixture()
    np.testing.assert_allclose(laws(value).std(), value.noise_std, rtol=1e-12)


def test_density_is_that_of_scipy():
    value = mixture()
    y = value.mean() + 0.7
    joint = laws(value).pdf(y).prod(-1).mean(0)
    np.testing.assert_allclose(value.log_prob(y), np.log(joint), rtol=1e-12)


def test_density_is_one_in_all_and_has_the_moments():
    value = mixture(rows=1, targets=1)

    def moment(p):
        def density(y):
            return y**p * np.exp(value.log_prob(np.array([[y]]))[0])

        halves = [(-np.inf, 0.0), (0.0, np.inf)]
        return sum(integrate.quad(density, *half, limit=300)[0] for half in halves)

    mean, variance = moment(1), moment(2) - moment(1) ** 2
    assert moment(0) == pytest.approx(1.0, abs=1e-8)
    assert value.mean()[0, 0] == pytest.approx(mean, abs=1e-7)
    assert value.std()[0, 0] == pytest.approx(np.sqrt(variance), rel=1e-5)


def test_distribution_function_is_that_of_scipy():
    value = mixture()
    y = value.mean() - 0.4
    np.testing.assert_allclose(value.cdf(y), laws(value).cdf(y).mean(0), rtol=1e-12)


@pytest.mark.parametrize("components", [1, 4])
def test_quantiles_invert_the_distribution_function(components):
    value = mixture(components=components, rows=20)
    quantiles = value.quantiles(LEVELS)
    assert quantiles.shape == (20, len(LEVELS), 2)
    for i, level in enumerate(LEVELS):
        np.testing.assert_allclose(value.cdf(quantiles[:, i]), level, rtol=1e-9)


def test_quantiles_do_not_depend_on_the_chunks(monkeypatch):
    value = mixture(rows=23)
    whole = value.quantiles(LEVELS)
    monkeypatch.setattr("skfunc.predictive._mixture._CHUNK", 150)
    np.testing.assert_array_equal(value.quantiles(LEVELS), whole)


def test_draws_of_observations_have_the_predictive_moments():
    value = mixture(rows=3)
    draws = value.sample_observations(100_000, np.random.RandomState(0))
    assert draws.shape == (3, 2, 100_000)
    np.testing.assert_allclose(draws.mean(-1), value.mean(), atol=0.03)
    np.testing.assert_allclose(draws.std(-1), value.std(), rtol=0.03)
    shares = (draws[:, None] < value.quantiles(LEVELS)[..., None]).mean(-1)
    np.testing.assert_allclose(
        shares, np.broadcast_to(LEVELS[:, None], shares.shape), atol=0.006
    )


def test_tails_are_heavier_than_a_gaussians():
    value = mixture(components=1, rows=1, targets=1, freedom=3.0)
    gaussian = GaussianMixture(value.means, value.noise_std, squeeze=False)
    np.testing.assert_allclose(value.std(), gaussian.std(), rtol=1e-14)
    far = value.mean() + 8 * value.std()
    assert value.log_prob(far)[0] > gaussian.log_prob(far)[0] + 10


def test_many_degrees_of_freedom_are_a_gaussian():
    value = mixture(freedom=1e9)
    gaussian = GaussianMixture(value.means, value.noise_std, squeeze=False)
    y = value.mean() + 0.3
    np.testing.assert_allclose(value.log_prob(y), gaussian.log_prob(y), rtol=1e-6)
    np.testing.assert_allclose(
        value.quantiles(LEVELS), gaussian.quantiles(LEVELS), atol=1e-6
    )


def test_deviations_add_up_and_functions_are_components():
    value = mixture()
    epistemic, aleatoric = value.std_parts()
    np.testing.assert_allclose(epistemic**2 + aleatoric**2, value.std() ** 2)
    diagonal = np.einsum("iik->ik", value.cov())
    np.testing.assert_allclose(diagonal, value.std() ** 2, rtol=1e-12)
    draws = value.sample_functions(4, np.random.RandomState(0))
    np.testing.assert_allclose(draws.mean(-1), value.means.mean(0), rtol=1e-12)


def test_shapes_of_one_target():
    value = mixture(targets=1, squeeze=True)
    assert value.mean().shape == value.std().shape == (5,)
    assert value.cov().shape == (5, 5)
    assert value.quantiles([0.1, 0.9]).shape == (5, 2)
    assert value.sample_observations(3, np.random.RandomState(0)).shape == (5, 3)
    assert value.log_prob(np.zeros((5, 1))).shape == (5,)


@pytest.mark.parametrize("freedom", [2.0, 1.0, np.nan])
def test_noise_without_a_variance_is_refused(freedom):
    with pytest.raises(ValueError, match="freedom must be above 2"):
        mixture(freedom=freedom)
    with pytest.raises(ValueError, match="freedom"):
        StudentMixture(np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
