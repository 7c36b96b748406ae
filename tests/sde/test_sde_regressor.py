"""The regressor: means, deviations, quantiles; one target and several; heavy tails."""

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.datasets import load_diabetes
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.model_selection import train_test_split

import skfunc


@pytest.fixture(params=["one target", "two targets", "heavy tails"])
def case(request, fitted_regressor, fitted_pair, fitted_tails, measured):
    """Return a fitted regressor, its rows and targets, and the shape of one row."""
    X, y = measured
    if request.param == "two targets":
        return fitted_pair, X[:12], np.column_stack([y, X[:, 0] - 2.0])[:12], (2,)
    tails = request.param == "heavy tails"
    return fitted_tails if tails else fitted_regressor, X[:12], y[:12], ()


def test_shapes(case):
    model, X, y, k = case
    mean, std = model.predict(X, return_std=True)
    again, cov = model.predict(X, return_cov=True)
    assert mean.shape == std.shape == (12, *k)
    assert cov.shape == (12, 12, *k)
    np.testing.assert_array_equal(mean, again)
    np.testing.assert_array_equal(mean, model.predict(X))
    epistemic, aleatoric = model.predict_std_parts(X)
    assert epistemic.shape == aleatoric.shape == (12, *k)
    assert model.predict_quantiles(X).shape == (12, 3, *k)
    assert model.predict_interval(X).shape == (12, 2, *k)
    assert model.log_prob(X, y).shape == (12,)
    assert model.sample_y(X).shape == model.sample(X).shape == (12, *k, 1)
    assert model.sample_y(X, 5).shape == model.sample(X, 5).shape == (12, *k, 5)


def test_shapes_are_those_of_a_gaussian_process(case):
    model, X, y, _ = case
    process = GaussianProcessRegressor(optimizer=None).fit(X, y)
    for arguments in ({"return_std": True}, {"return_cov": True}):
        ours, theirs = model.predict(X, **arguments), process.predict(X, **arguments)
        assert [a.shape for a in ours] == [a.shape for a in theirs]
    assert model.sample_y(X, 4).shape == process.sample_y(X, 4).shape


def test_deviations_add_up(case):
    model, X, _, _ = case
    _, std = model.predict(X, return_std=True)
    _, cov = model.predict(X, return_cov=True)
    epistemic, aleatoric = model.predict_std_parts(X)
    np.testing.assert_allclose(epistemic**2 + aleatoric**2, std**2, rtol=1e-12)
    np.testing.assert_allclose(np.einsum("ii...->i...", cov), std**2, rtol=1e-12)
    assert (epistemic > 0).all() and (aleatoric > 0).all()


def test_draws_of_observations_have_the_predictive_moments(case):
    model, X, _, _ = case
    draws = model.sample(X, n_samples=6000, random_state=0)
    mean, std = model.predict(X, return_std=True)
    np.testing.assert_allclose(draws.mean(-1), mean, atol=0.06 * std.max())
    np.testing.assert_allclose(draws.std(-1), std, rtol=0.1)


def test_interval_is_two_quantiles(case):
    model, X, _, _ = case
    interval = model.predict_interval(X, coverage=0.8)
    expected = model.predict_quantiles(X, [0.1, 0.9])
    np.testing.assert_allclose(interval, expected, rtol=1e-12)
    assert (interval[:, 0] < interval[:, 1]).all()


def test_density_of_one_row_is_one(fitted_regressor, fitted_tails, measured):
    X, _ = measured
    angles = np.linspace(-np.pi / 2, np.pi / 2, 6001)[1:-1]
    for model in (fitted_regressor, fitted_tails):
        mean, std = model.predict(X[:1], return_std=True)
        y = mean + std * np.tan(angles)
        density = np.exp(model.log_prob(np.tile(X[:1], (len(y), 1)), y))
        slope = std / np.cos(angles) ** 2
        total = integrate.trapezoid(density * slope, angles)
        assert total == pytest.approx(1.0, abs=1e-4)


def test_quantiles_of_heavy_tails_are_shares_of_draws(fitted_tails, measured):
    X, _ = measured
    levels = [0.01, 0.3, 0.99]
    quantiles = fitted_tails.predict_quantiles(X[:3], levels)
    draws = fitted_tails.sample(X[:3], 20_000, random_state=0)
    shares = (draws[:, None] < quantiles[..., None]).mean(-1)
    np.testing.assert_allclose(shares, np.tile(levels, (3, 1)), atol=0.015)


def test_heavy_tails_are_predicted_better_by_a_student():
    generator = np.random.default_rng(0)
    X = generator.uniform(-2.0, 2.0, (1000, 1))
    y = np.sin(2 * X[:, 0]) + 0.15 * generator.standard_t(2.2, 1000)
    scores = {}
    for likelihood in ("gaussian", "student_t"):
        model = skfunc.SDEBNNRegressor(
            likelihood=likelihood,
            hidden_layer_sizes=(16,),
            state_size=16,
            n_members=2,
            n_predict_paths=8,
            max_iter=80,
            learning_rate_init=0.03,
            random_state=0,
        ).fit(X[:200], y[:200])
        scores[likelihood] = model.log_prob(X[200:], y[200:]).mean()
    assert scores["student_t"] > scores["gaussian"] + 0.1
    tails = model._predictive(X).freedom
    assert (tails > 2.0).all() and np.median(tails) < 15


def test_noise_scale_is_a_factor_on_both_likelihoods(regressor, measured):
    X, y = measured
    for likelihood in ("gaussian", "student_t"):
        model = regressor(likelihood=likelihood).fit(X, y)
        before = model.predict_std_parts(X)
        model.noise_scale_ = 2.0 * model.noise_scale_
        after = model.predict_std_parts(X)
        np.testing.assert_allclose(after[0], before[0], rtol=1e-12)
        np.testing.assert_allclose(after[1], 2.0 * before[1], rtol=1e-12)


def test_single_precision_rows(regressor, measured):
    X, y = measured
    narrow = X.astype(np.float32)
    model = regressor().fit(narrow, y.astype(np.float32))
    wide = regressor().fit(narrow.astype(np.float64), y.astype(np.float32))
    prediction = model.predict(narrow)
    assert prediction.dtype == np.float64
    np.testing.assert_allclose(prediction, wide.predict(narrow), rtol=1e-12)


def test_accurate_on_diabetes():
    X, y = load_diabetes(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, random_state=0)
    model = skfunc.SDEBNNRegressor(
        n_members=2, n_predict_paths=8, max_iter=20, random_state=0
    ).fit(X, y)
    assert model.score(X_test, y_test) > 0.3
    low, high = model.predict_interval(X_test, coverage=0.9).T
    assert 0.8 < ((low < y_test) & (y_test < high)).mean() < 0.98
    baseline = stats.norm.logpdf(y_test, y.mean(), y.std()).mean()
    assert model.log_prob(X_test, y_test).mean() > baseline + 0.1
