"""The regressor: means, deviations, covariances, draws; one target and several."""

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_diabetes
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.model_selection import train_test_split

import skfunc
from skfunc._member_regressor import log_variance


@pytest.fixture(params=["one target", "two targets"])
def case(request, fitted_regressor, fitted_pair, measured):
    """Return a fitted regressor, its rows and targets, and the shape of one row."""
    X, y = measured
    if request.param == "one target":
        return fitted_regressor, X[:12], y[:12], ()
    return fitted_pair, X[:12], np.column_stack([y, X[:, 0] - 2.0])[:12], (2,)


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
    assert model.predict_quantiles(X, 0.3).shape == (12, 1, *k)
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


def test_both_deviation_and_covariance_are_refused(case):
    model, X, _, _ = case
    with pytest.raises(RuntimeError, match="return_std and return_cov"):
        model.predict(X, return_std=True, return_cov=True)


def test_deviations_add_up(case):
    model, X, _, _ = case
    _, std = model.predict(X, return_std=True)
    _, cov = model.predict(X, return_cov=True)
    epistemic, aleatoric = model.predict_std_parts(X)
    np.testing.assert_allclose(np.einsum("ii...->i...", cov), std**2, rtol=1e-12)
    np.testing.assert_allclose(epistemic**2 + aleatoric**2, std**2, rtol=1e-12)
    assert (epistemic > 0).all() and (aleatoric > 0).all()


def test_draws_are_functions(case):
    model, X, _, k = case
    draws = model.sample_y(X, n_samples=3)
    # Three draws from three members take each once.
    np.testing.assert_allclose(draws.mean(-1), model.predict(X), rtol=1e-12)
    epistemic, _ = model.predict_std_parts(X)
    np.testing.assert_allclose(draws.std(-1), epistemic, rtol=1e-9)
    np.testing.assert_allclose(model.sample_y(X[3:7], 3), draws[3:7], rtol=1e-11)
    np.testing.assert_array_equal(draws, model.sample_y(X, 3, random_state=0))


def test_covariance_is_that_of_the_draws_plus_noise(case):
    model, X, _, k = case
    draws = model.sample_y(X, n_samples=3).reshape(12, -1, 3)
    _, aleatoric = model.predict_std_parts(X)
    _, cov = model.predict(X, return_cov=True)
    cov = cov.reshape(12, 12, -1)
    for j in range(draws.shape[1]):
        expected = np.cov(draws[:, j], bias=True)
        expected += np.diag(aleatoric.reshape(12, -1)[:, j] ** 2)
        np.testing.assert_allclose(cov[..., j], expected, rtol=1e-9, atol=1e-12)


def test_draws_of_observations_have_the_predictive_moments(case):
    model, X, _, _ = case
    draws = model.sample(X, n_samples=6000, random_state=0)
    mean, std = model.predict(X, return_std=True)
    np.testing.assert_allclose(draws.mean(-1), mean, atol=0.06 * std.max())
    np.testing.assert_allclose(draws.std(-1), std, rtol=0.06)
    again = model.sample(X, n_samples=6000, random_state=0)
    np.testing.assert_array_equal(draws, again)


def test_interval_is_two_quantiles(case):
    model, X, _, _ = case
    interval = model.predict_interval(X, coverage=0.8)
    expected = model.predict_quantiles(X, [0.1, 0.9])
    np.testing.assert_allclose(interval, expected, rtol=1e-12)
    assert (interval[:, 0] < interval[:, 1]).all()
    wide = model.predict_interval(X, coverage=0.99)
    assert (wide[:, 0] < interval[:, 0]).all() and (wide[:, 1] > interval[:, 1]).all()


def test_log_prob_is_that_of_the_mixture(regressor, measured):
    X, y = measured
    model = regressor(n_members=1).fit(X, y)
    mean, std = model.predict(X, return_std=True)
    np.testing.assert_allclose(model.log_prob(X, y), stats.norm.logpdf(y, mean, std))


def test_targets_of_log_prob_are_checked(case):
    model, X, y, _ = case
    for wrong in (y[:5], np.column_stack([y, y, y])):
        with pytest.raises(ValueError, match="y has shape"):
            model.log_prob(X, wrong)


def test_column_of_targets_is_a_vector(regressor, measured):
    X, y = measured
    vector = regressor(max_iter=2).fit(X, y).predict(X)
    column = regressor(max_iter=2).fit(X, y[:, None])
    assert column.predict(X).reshape(-1) == pytest.approx(vector)


def test_predictions_follow_units_of_the_target(regressor, measured):
    X, y = measured
    plain = regressor().fit(X, y).predict(X, return_std=True)
    scaled = regressor().fit(X, 1e6 - 250.0 * y).predict(X, return_std=True)
    # The sign of the target turns the fit's head around, so only its size is compared.
    moved = regressor().fit(X, 1e3 + 8.0 * y).predict(X, return_std=True)
    np.testing.assert_allclose(moved[0], 1e3 + 8.0 * plain[0], rtol=1e-3)
    np.testing.assert_allclose(moved[1], 8.0 * plain[1], rtol=1e-2)
    assert scaled[1].mean() == pytest.approx(250.0 * plain[1].mean(), rel=0.5)


def test_predictions_follow_units_of_the_rows(regressor, measured):
    X, y = measured
    plain = regressor().fit(X, y).predict(X)
    moved = regressor().fit(2.0**10 * X, y).predict(2.0**10 * X)
    np.testing.assert_allclose(moved, plain, rtol=1e-6)


def test_noise_follows_the_rows(measured):
    X, y = measured
    model = skfunc.ODENetRegressor(n_members=4, max_iter=60, random_state=0).fit(X, y)
    _, aleatoric = model.predict_std_parts(X)
    assert aleatoric[X[:, 2] > 0.3].mean() > 1.3 * aleatoric[X[:, 2] < -0.3].mean()


def test_unsure_far_away(measured):
    X, y = measured
    model = skfunc.ODENetRegressor(n_members=4, max_iter=40, random_state=0).fit(X, y)
    near, _ = model.predict_std_parts(X)
    far, _ = model.predict_std_parts(X * 8)
    assert np.median(far) > 3 * np.median(near)


def test_accurate_on_diabetes():
    X, y = load_diabetes(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, random_state=0)
    model = skfunc.ODENetRegressor(n_members=4, max_iter=30, random_state=0).fit(X, y)
    assert model.score(X_test, y_test) > 0.3
    low, high = model.predict_interval(X_test, coverage=0.9).T
    assert 0.8 < ((low < y_test) & (y_test < high)).mean() < 0.98
    # Better than the normal distribution of the training targets.
    baseline = stats.norm.logpdf(y_test, y.mean(), y.std()).mean()
    assert model.log_prob(X_test, y_test).mean() > baseline + 0.1


def test_noise_far_from_the_data_stays_within_what_was_seen():
    """Rows far outside get no smaller noise than any training row, nor a larger one."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 2))
    y = X[:, 0] + (0.1 + np.abs(X[:, 1])) * rng.normal(size=120)
    model = skfunc.ODENetRegressor(n_members=2, max_iter=40, random_state=0).fit(X, y)
    seen = model.predict_std_parts(X)[1]
    far = model.predict_std_parts(50.0 * X)[1]
    assert np.ptp(seen) > 0.1
    low, high = np.exp(0.5 * log_variance(model.noise_range_)) * model.noise_scale_
    scale = model.y_scale_
    assert (far >= scale * np.sqrt(np.mean(low**2)) * (1 - 1e-12)).all()
    assert (far <= scale * np.sqrt(np.mean(high**2)) * (1 + 1e-12)).all()
