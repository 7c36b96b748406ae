"""Predictive distributions: closed forms, brute force, and how the parts add up."""

import numpy as np
import pytest
from scipy import integrate, special, stats

from skfunc.predictive import (
    Categorical,
    Gaussian,
    GaussianMixture,
    SampledProcess,
    coverage_levels,
)

LEVELS = np.array([0.001, 0.05, 0.25, 0.5, 0.9, 0.999])


def mixture(components=5, rows=4, targets=2, seed=0, squeeze=False):
    generator = np.random.default_rng(seed)
    means = generator.normal(0.0, 2.0, (components, rows, targets))
    scales = generator.uniform(0.2, 1.5, (components, rows, targets))
    return GaussianMixture(means, scales, squeeze=squeeze)


def process(rows=6, targets=2, seed=0, squeeze=False):
    generator = np.random.default_rng(seed)
    root = generator.normal(size=(rows, rows, targets))
    covariance = np.einsum("iak,jak->ijk", root, root)
    return Gaussian(
        generator.normal(size=(rows, targets)),
        np.einsum("iik->ik", covariance).copy(),
        generator.uniform(0.1, 2.0, (rows, targets)),
        lambda: covariance,
        squeeze=squeeze,
    )


def state(seed=0):
    return np.random.RandomState(seed)


class TestGaussianMixture:
    def test_moments_are_those_of_the_density(self):
        value = mixture()
        for row in range(4):
            for target in range(2):
                means = value.means[:, row, target]
                scales = value.noise_std[:, row, target]

                def density(y, means=means, scales=scales):
                    return stats.norm.pdf(y, means, scales).mean()

                moments = [
                    integrate.quad(
                        lambda y, p=p: y**p * density(y), -30, 30, limit=500
                    )[0]
                    for p in range(3)
                ]
                assert moments[0] == pytest.approx(1.0, abs=1e-8)
                assert value.mean()[row, target] == pytest.approx(moments[1], abs=1e-7)
                std = np.sqrt(moments[2] - moments[1] ** 2)
                assert value.std()[row, target] == pytest.approx(std, abs=1e-7)

    def test_moments_agree_with_brute_force(self):
        value = mixture()
        generator = np.random.default_rng(1)
        n_draws = 400_000
        component = generator.integers(5, size=n_draws)
        noise = generator.standard_normal((n_draws, 4, 2))
        draws = value.means[component] + value.noise_std[component] * noise
        np.testing.assert_allclose(value.mean(), draws.mean(0), atol=0.02)
        np.testing.assert_allclose(value.std(), draws.std(0), atol=0.02)
        centred = draws - draws.mean(0)
        covariance = np.einsum("dik,djk->ijk", centred, centred) / n_draws
        np.testing.assert_allclose(value.cov(), covariance, atol=0.06)

    def test_covariance_is_that_of_components_plus_noise(self):
        value = mixture(rows=7)
        for target in range(2):
            expected = np.cov(value.means[:, :, target].T, bias=True)
            expected += np.diag((value.noise_std[:, :, target] ** 2).mean(0))
            np.testing.assert_allclose(value.cov()[..., target], expected, rtol=1e-12)

    def test_squared_std_is_the_diagonal_and_the_sum_of_parts(self):
        value = mixture()
        variance = value.std() ** 2
        diagonal = np.einsum("iik->ik", value.cov())
        np.testing.assert_allclose(diagonal, variance, rtol=1e-12)
        epistemic, aleatoric = value.std_parts()
        np.testing.assert_allclose(epistemic**2 + aleatoric**2, variance, rtol=1e-12)

    def test_covariance_is_positive_semidefinite(self):
        value = mixture(components=3, rows=10)
        for target in range(2):
            assert np.linalg.eigvalsh(value.cov()[..., target]).min() > 0

    def test_distribution_function_is_the_integral_of_the_density(self):
        value = mixture(rows=1, targets=1)
        for y in (-3.0, -0.2, 1.7):
            integral, _ = integrate.quad(
                lambda x: np.exp(value.log_prob(np.array([[x]]))[0]), -40, y, limit=500
            )
            assert value.cdf(np.array([[y]]))[0, 0] == pytest.approx(integral, abs=1e-8)

    def test_quantiles_invert_the_distribution_function(self):
        value = mixture(rows=30)
        quantiles = value.quantiles(LEVELS)
        assert quantiles.shape == (30, len(LEVELS), 2)
        for i, level in enumerate(LEVELS):
            np.testing.assert_allclose(value.cdf(quantiles[:, i]), level, rtol=1e-11)
        y = value.mean()
        levels = value.cdf(y)
        for row in range(30):
            again = value.quantiles(levels[row])[row]
            np.testing.assert_allclose(np.diag(again), y[row], atol=1e-11)

    def test_quantiles_of_distant_narrow_components(self):
        means = np.array([-1e6, 0.0, 1e6]).reshape(3, 1, 1)
        value = GaussianMixture(means, np.full((3, 1, 1), 1e-3))
        low, middle, high = value.quantiles([1 / 6, 1 / 2, 5 / 6])[0]
        np.testing.assert_allclose([low, middle, high], means.ravel(), atol=1e-8)

    def test_quantiles_do_not_depend_on_the_chunks(self, monkeypatch):
        value = mixture(rows=23)
        whole = value.quantiles(LEVELS)
        monkeypatch.setattr("skfunc.predictive._mixture._CHUNK", 150)
        np.testing.assert_array_equal(value.quantiles(LEVELS), whole)

    def test_quantiles_rise_with_the_level(self):
        quantiles = mixture(rows=50).quantiles(np.linspace(0.01, 0.99, 40))
        assert (np.diff(quantiles, axis=1) > 0).all()

    def test_one_component_is_a_gaussian(self):
        value = mixture(components=1)
        mean, scale = value.means[0], value.noise_std[0]
        y = mean + 0.3
        np.testing.assert_allclose(value.std(), scale, rtol=1e-14)
        np.testing.assert_allclose(value.cdf(y), stats.norm.cdf(y, mean, scale))
        np.testing.assert_allclose(
            value.log_prob(y), stats.norm.logpdf(y, mean, scale).sum(1)
        )
        expected = stats.norm.ppf(LEVELS[None, :, None], mean[:, None], scale[:, None])
        np.testing.assert_allclose(value.quantiles(LEVELS), expected)

    def test_log_prob_multiplies_targets_within_a_component(self):
        value = mixture()
        y = value.mean() + 0.1
        densities = stats.norm.pdf(y, value.means, value.noise_std)
        joint = densities.prod(-1).mean(0)
        np.testing.assert_allclose(value.log_prob(y), np.log(joint), rtol=1e-12)

    def test_log_prob_far_away_stays_finite(self):
        value = mixture(rows=1, targets=1, squeeze=True)
        assert np.isfinite(value.log_prob(np.array([[1e6]]))).all()

    def test_draw_of_a_function_is_one_component(self):
        value = mixture(components=5, rows=8)
        draws = value.sample_functions(5, state())
        assert draws.shape == (8, 2, 5)
        components = np.moveaxis(value.means, 0, -1)
        taken = [
            next(s for s in range(5) if (draws[..., d] == components[..., s]).all())
            for d in range(5)
        ]
        # None comes twice before all came once.
        assert sorted(taken) == list(range(5))

    def test_draws_of_functions_have_the_moments_of_the_components(self):
        value = mixture(components=4, rows=3)
        draws = value.sample_functions(400, state())
        np.testing.assert_allclose(draws.mean(-1), value.means.mean(0), rtol=1e-12)
        np.testing.assert_allclose(draws.std(-1), value.std_parts()[0], rtol=1e-12)

    def test_draws_of_observations_have_the_predictive_moments(self):
        value = mixture(components=4, rows=3)
        draws = value.sample_observations(100_000, state())
        assert draws.shape == (3, 2, 100_000)
        np.testing.assert_allclose(draws.mean(-1), value.mean(), atol=0.03)
        np.testing.assert_allclose(draws.std(-1), value.std(), atol=0.03)
        covariance = np.cov(draws[:, 0])
        np.testing.assert_allclose(covariance, value.cov()[..., 0], atol=0.1)

    def test_shapes_follow_the_number_of_targets(self):
        one = mixture(targets=1, squeeze=True)
        assert one.mean().shape == one.std().shape == (4,)
        assert one.std_parts()[0].shape == one.std_parts()[1].shape == (4,)
        assert one.cov().shape == (4, 4)
        assert one.quantiles([0.1, 0.9]).shape == (4, 2)
        assert one.sample_functions(3, state()).shape == (4, 3)
        assert one.sample_observations(3, state()).shape == (4, 3)
        assert one.log_prob(np.zeros((4, 1))).shape == (4,)
        several = mixture(targets=3)
        assert several.mean().shape == several.std().shape == (4, 3)
        assert several.cov().shape == (4, 4, 3)
        assert several.quantiles(0.1).shape == (4, 1, 3)
        assert several.sample_functions(2, state()).shape == (4, 3, 2)
        assert several.log_prob(np.zeros((4, 3))).shape == (4,)

    def test_one_row_keeps_its_axis(self):
        value = mixture(rows=1, targets=1, squeeze=True)
        assert value.mean().shape == (1,)
        assert value.cov().shape == (1, 1)
        assert value.sample_functions(1, state()).shape == (1, 1)


class TestGaussian:
    def test_agrees_with_scipy(self):
        value = process()
        scale = np.sqrt(value.function_variance + value.noise_variance)
        y = value.means + 0.7
        np.testing.assert_array_equal(value.mean(), value.means)
        np.testing.assert_allclose(value.std(), scale)
        np.testing.assert_allclose(value.cdf(y), stats.norm.cdf(y, value.means, scale))
        expected = stats.norm.ppf(
            LEVELS[None, :, None], value.means[:, None], scale[:, None]
        )
        np.testing.assert_allclose(value.quantiles(LEVELS), expected, rtol=1e-12)
        for row in range(len(y)):
            density = stats.multivariate_normal(
                value.means[row], np.diag(scale[row] ** 2)
            )
            assert value.log_prob(y)[row] == pytest.approx(density.logpdf(y[row]))

    def test_squared_std_is_the_diagonal_and_the_sum_of_parts(self):
        value = process()
        variance = value.std() ** 2
        np.testing.assert_allclose(
            np.einsum("iik->ik", value.cov()), variance, rtol=1e-12
        )
        epistemic, aleatoric = value.std_parts()
        np.testing.assert_allclose(epistemic**2 + aleatoric**2, variance, rtol=1e-12)

    def test_covariance_is_built_only_when_asked_for(self):
        def refuse():
            raise AssertionError("covariance asked for")

        value = Gaussian(
            np.zeros((3, 1)), np.ones((3, 1)), np.ones((3, 1)), refuse, squeeze=True
        )
        value.mean(), value.std(), value.std_parts(), value.quantiles(0.5)
        value.log_prob(np.zeros((3, 1)))
        with pytest.raises(AssertionError, match="covariance"):
            value.cov()

    def test_covariance_leaves_the_functions_covariance_alone(self):
        value = process()
        before = value.function_cov().copy()
        value.cov()
        np.testing.assert_array_equal(value.function_cov(), before)

    def test_draws_of_functions_have_the_covariance_over_rows(self):
        value = process()
        draws = value.sample_functions(200_000, state())
        assert draws.shape == (6, 2, 200_000)
        for target in range(2):
            expected = value.function_cov()[..., target]
            np.testing.assert_allclose(
                np.cov(draws[:, target]), expected, atol=0.03 * expected.max()
            )
        np.testing.assert_allclose(draws.mean(-1), value.means, atol=0.05)

    def test_draws_of_a_degenerate_process_stay_on_it(self):
        # A random constant function: all rows of a draw are the same number.
        value = Gaussian(
            np.zeros((20, 1)),
            np.ones((20, 1)),
            np.full((20, 1), 0.1),
            lambda: np.ones((20, 20, 1)),
        )
        draws = value.sample_functions(50, state())
        np.testing.assert_allclose(draws, np.tile(draws[:1], (20, 1)), atol=1e-6)
        assert draws[0].std() > 0.5

    def test_draws_of_observations_add_independent_noise(self):
        value = process()
        draws = value.sample_observations(200_000, state())
        for target in range(2):
            expected = value.cov()[..., target]
            np.testing.assert_allclose(
                np.cov(draws[:, target]), expected, atol=0.03 * expected.max()
            )

    def test_shapes_of_one_target(self):
        value = process(targets=1, squeeze=True)
        assert value.mean().shape == value.std().shape == (6,)
        assert value.cov().shape == (6, 6)
        assert value.quantiles([0.1, 0.2, 0.3]).shape == (6, 3)
        assert value.sample_functions(4, state()).shape == (6, 4)
        assert value.sample_observations(4, state()).shape == (6, 4)


class TestCategorical:
    def value(self, components=6, rows=5, classes=3, seed=0):
        generator = np.random.default_rng(seed)
        return Categorical(
            special.softmax(generator.normal(size=(components, rows, classes)), axis=-1)
        )

    def test_mean_and_std_are_those_of_the_functions(self):
        value = self.value()
        np.testing.assert_allclose(value.mean(), value.probabilities.mean(0))
        np.testing.assert_allclose(value.mean().sum(1), 1.0, rtol=1e-12)
        np.testing.assert_allclose(value.std(), value.probabilities.std(0))

    def test_log_prob_is_that_of_the_mean(self):
        value = self.value()
        labels = np.array([0, 2, 1, 1, 0])
        expected = np.log([value.mean()[i, k] for i, k in enumerate(labels)])
        np.testing.assert_allclose(value.log_prob(labels), expected, rtol=1e-12)

    def test_log_prob_of_an_impossible_label_is_finite(self):
        value = Categorical(np.array([[[1.0, 0.0]]]))
        assert np.isfinite(value.log_prob(np.array([1]))).all()

    def test_draw_of_a_function_is_one_component(self):
        value = self.value()
        draws = value.sample_functions(6, state())
        assert draws.shape == (5, 3, 6)
        np.testing.assert_allclose(draws.sum(1), 1.0, rtol=1e-12)
        for d in range(6):
            assert (draws[..., d] == value.probabilities).all((1, 2)).sum() == 1

    def test_labels_come_at_the_predictive_frequencies(self):
        value = self.value()
        labels = value.sample_labels(120_000, state())
        assert labels.shape == (5, 120_000)
        for k in range(3):
            np.testing.assert_allclose(
                (labels == k).mean(1), value.mean()[:, k], atol=0.01
            )

    def test_labels_of_certain_rows(self):
        certain = np.eye(4)[None, [3, 0, 2, 1]]
        labels = Categorical(certain).sample_labels(100, state())
        np.testing.assert_array_equal(labels, np.tile([[3], [0], [2], [1]], 100))


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1.1, [0.5, 2.0], np.nan, [[0.5]]])
@pytest.mark.parametrize("make", [mixture, process])
def test_level_outside_is_refused(make, alpha):
    with pytest.raises(ValueError, match="alpha"):
        make().quantiles(alpha)


@pytest.mark.parametrize("n_samples", [0, -1, 1.5, "2", None])
@pytest.mark.parametrize("make", [mixture, process])
def test_number_of_draws_is_checked(make, n_samples):
    with pytest.raises(ValueError, match="n_samples"):
        make().sample_functions(n_samples, state())


@pytest.mark.parametrize("make", [mixture, process])
def test_draws_follow_the_random_state(make):
    for draw in ("sample_functions", "sample_observations"):
        first = getattr(make(), draw)(7, state(3))
        np.testing.assert_array_equal(first, getattr(make(), draw)(7, state(3)))
        assert (first != getattr(make(), draw)(7, state(4))).any()


def test_coverage_levels_are_central():
    assert coverage_levels(0.9) == pytest.approx((0.05, 0.95))
    for coverage in (0.0, 1.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="coverage"):
            coverage_levels(coverage)


class LaplaceRows:
    """Laplace distributions about zero, of given deviations."""

    def __init__(self, stds):
        self.stds = stds
        self.law = stats.laplace(scale=stds / np.sqrt(2.0))

    def mean(self):
        return np.zeros_like(self.stds)

    def std(self):
        return self.stds

    def cdf(self, y):
        return self.law.cdf(y)

    def quantiles(self, levels):
        return np.stack([self.law.ppf(level) for level in levels], axis=1)

    def log_prob(self, y):
        return self.law.logpdf(y).sum(-1)


class Lines:
    """Functions a * x with a standard normal, and noise of deviation 0.3."""

    def __init__(self, x, n_targets):
        self.x, self.n_targets = x, n_targets

    def draw(self, n_samples, random_state):
        a = random_state.standard_normal((self.n_targets, n_samples))
        return self.x[:, None, None] * a

    def draw_observations(self, n_samples, random_state):
        functions = self.draw(n_samples, random_state)
        return functions + 0.3 * random_state.standard_normal(functions.shape)

    def variance(self):
        return np.square(self.x)[:, None] * np.ones(self.n_targets)

    def covariance(self):
        return np.outer(self.x, self.x)[..., None] * np.ones(self.n_targets)


def lines(n_rows=5, n_targets=2, factor=1.0):
    x = np.linspace(-1.0, 1.0, n_rows)
    stds = factor * np.sqrt(x[:, None] ** 2 + 0.09) * np.ones(n_targets)
    rows, functions = LaplaceRows(stds), Lines(x, n_targets)
    return x, SampledProcess(rows, functions, squeeze=n_targets == 1)


def test_sampled_process_covariance_is_that_of_its_functions():
    x, value = lines(n_targets=1)
    covariance = value.cov()
    np.testing.assert_allclose(covariance.diagonal(), value.std() ** 2)
    off = ~np.eye(len(x), dtype=bool)
    np.testing.assert_allclose(covariance[off], np.outer(x, x)[off])
    assert lines()[1].cov().shape == (5, 5, 2)


def test_sampled_process_parts_add_up():
    x, value = lines()
    epistemic, aleatoric = value.std_parts()
    np.testing.assert_allclose(epistemic, np.abs(x)[:, None] * np.ones(2))
    np.testing.assert_allclose(aleatoric, 0.3)


def test_sampled_process_never_has_more_epistemic_than_total():
    _, narrow = lines(factor=0.1)
    epistemic, aleatoric = narrow.std_parts()
    assert (epistemic <= narrow.std()).all()
    assert (aleatoric >= 0.0).all()
    assert np.linalg.eigvalsh(narrow.cov()[..., 0]).min() > -1e-12


def test_sampled_process_draws():
    _, value = lines()
    draws = value.sample_observations(6000, np.random.RandomState(1))
    assert draws.shape == (5, 2, 6000)
    np.testing.assert_allclose(draws.std(axis=-1), value.std(), rtol=0.05)
    functions = value.sample_functions(3, np.random.RandomState(1))
    assert functions.shape == (5, 2, 3)
    with pytest.raises(ValueError, match="n_samples"):
        value.sample_functions(0, np.random.RandomState(1))


def test_sampled_process_rows_are_those_of_its_marginals():
    _, value = lines()
    rows = value.marginals
    quantiles = value.quantiles([0.05, 0.95])
    assert quantiles.shape == (5, 2, 2)
    np.testing.assert_allclose(rows.cdf(quantiles[:, 0]), 0.05)
    y = np.full((5, 2), 0.4)
    np.testing.assert_allclose(value.log_prob(y), rows.law.logpdf(y).sum(-1))
    np.testing.assert_allclose(value.cdf(y), rows.cdf(y))
    np.testing.assert_array_equal(value.mean(), 0.0)
    with pytest.raises(ValueError, match="alpha"):
        value.quantiles([0.0])
