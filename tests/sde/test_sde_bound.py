"""The evidence lower bound and its parts, computed again by other means."""

import math

import numpy as np
import pytest
from scipy import special, stats

from skfunc.nn import DRIFTS


def affine_drift(model):
    """Return shift and pull of every member."""
    names = dict(model._bound_module().named_parameters())
    return names["drift.shift"].numpy(), names["drift.pull"].numpy()


def test_bound_of_a_regressor(regressor, measured):
    X, y = measured
    weights = np.random.default_rng(0).uniform(0.0, 3.0, len(y))
    model = regressor(early_stopping=False, max_iter=20).fit(X, y, weights)
    functions = model._predictive(X)
    densities = stats.norm.logpdf(
        y, functions.means[..., 0], functions.noise_std[..., 0]
    )
    # Two paths of each of three members; the mean of logs, not the log of a mean.
    expected = (densities * weights).sum(1).mean() - model.kl_
    assert model.elbo_ == pytest.approx(expected, rel=1e-10)


def test_bound_of_two_targets(regressor, measured):
    X, y = measured
    Y = np.column_stack([y, X[:, 0] - 2.0])
    model = regressor(early_stopping=False).fit(X, Y)
    functions = model._predictive(X)
    densities = stats.norm.logpdf(Y, functions.means, functions.noise_std)
    expected = densities.sum((1, 2)).mean() - model.kl_
    assert model.elbo_ == pytest.approx(expected, rel=1e-10)


def test_bound_of_a_student(regressor, measured):
    X, y = measured
    model = regressor(early_stopping=False, likelihood="student_t").fit(X, y)
    functions = model._predictive(X)
    freedom = functions.freedom[..., 0]
    scale = functions.noise_std[..., 0] * np.sqrt((freedom - 2) / freedom)
    densities = stats.t.logpdf(y, freedom, functions.means[..., 0], scale)
    expected = densities.sum(1).mean() - model.kl_
    assert model.elbo_ == pytest.approx(expected, rel=1e-10)


def test_bound_of_a_classifier(classifier, labelled):
    X, y = labelled
    weights = np.random.default_rng(0).uniform(0.1, 3.0, len(y))
    model = classifier(early_stopping=False).fit(X, y, weights)
    logits = model._member_outputs(model._scaled(X))
    log_p = special.log_softmax(logits, axis=-1)
    chosen = log_p[:, np.arange(len(y)), np.searchsorted(model.classes_, y)]
    expected = (chosen * weights).sum(1).mean() - model.kl_
    assert model.elbo_ == pytest.approx(expected, rel=1e-10)


def test_bound_is_that_of_the_rows_that_a_member_trained_on(classifier, labelled):
    X, y = labelled
    # One member, two folds: half of the rows are kept out, before any calibration.
    options = {"n_members": 1, "validation_fraction": 0.5, "max_iter": 1}
    model = classifier(learning_rate_init=1e-9, **options).fit(X, y)
    logits = model._member_outputs(model._scaled(X))
    log_p = special.log_softmax(logits, axis=-1)
    chosen = log_p[:, np.arange(60), np.searchsorted(model.classes_, y)].mean(0)
    assert model.temperature_ != 1.0 and model.kl_ < 1e-9
    low, high = np.sort(chosen)[:30].sum(), np.sort(chosen)[30:].sum()
    assert low <= model.elbo_ <= high


@pytest.mark.parametrize("early_stopping", [True, False])
def test_bound_is_in_units_of_the_target(regressor, measured, early_stopping):
    X, y = measured
    weights = np.random.default_rng(0).integers(1, 3, len(y))
    options = {"early_stopping": early_stopping, "n_members": 1}
    plain = regressor(**options).fit(X, y, weights)
    scaled = regressor(**options).fit(X, 10.0 * y, weights)
    assert scaled.kl_ == pytest.approx(plain.kl_, rel=1e-5)
    lower = (plain.elbo_ - scaled.elbo_) / math.log(10.0)
    if early_stopping:
        # The whole number that the rows of the member weigh.
        assert 0.7 * weights.sum() < lower < 0.99 * weights.sum()
        assert lower == pytest.approx(round(lower), abs=1e-4)
    else:
        assert lower == pytest.approx(weights.sum(), rel=1e-6)


def test_divergence_of_one_step_in_closed_form(regressor, measured):
    rate = 0.8
    model = regressor(n_steps=1, mean_reversion=rate, max_iter=20).fit(*measured)
    shift, _ = affine_drift(model)
    first = shift[:, : shift.shape[1] // 2]
    energy = 2.0 / rate * math.tanh(rate / 2.0)
    expected = 0.5 * energy * (first**2).sum(1).mean()
    assert model.kl_ == pytest.approx(expected, rel=1e-10)
    assert model.kl_ > 0


def test_divergence_of_two_steps_by_its_expectation(regressor, measured):
    model = regressor(n_steps=2, n_predict_paths=6000, max_iter=40).fit(*measured)
    shift, pull = affine_drift(model)
    first, last = np.split(shift, 2, axis=1)
    h = 0.5
    q = math.exp(-h)
    energy = 2.0 * math.tanh(h / 2.0)
    # After the first step, z is Gaussian about (1 - q) b(0).
    mean, variance = (1 - q) * first, (1 - q**2) / 2
    second = (0.5 * (first + last) - pull * mean) ** 2 + pull**2 * variance
    expected = 0.5 * energy * (first**2 + second).sum(1).mean()
    assert model.kl_ == pytest.approx(expected, rel=0.02)


def test_a_fresh_posterior_has_no_divergence(regressor, measured):
    for drift in DRIFTS:
        model = regressor(max_iter=1, learning_rate_init=1e-12, drift=drift)
        assert model.fit(*measured).kl_ < 1e-12


def test_weight_of_the_divergence(regressor, measured):
    def divergence(**options):
        options = {"early_stopping": False, "max_iter": 60} | options
        return regressor(**options).fit(*measured).kl_

    free, bound, tight = (divergence(kl_weight=w) for w in (0.0, 1.0, 1e3))
    assert free > 2 * bound > 0
    assert tight < 0.05 * bound
    # The factor rises from zero: what it holds back comes late.
    assert divergence(kl_warmup=1.0) > bound


def test_divergence_is_weighed_by_the_data(regressor, measured):
    X, y = measured
    options = {"early_stopping": False, "max_iter": 60, "alpha": 0.0}
    few = regressor(**options).fit(X, y)
    many = regressor(**options).fit(X, y, np.full(len(y), 100.0))
    same = regressor(**options, kl_weight=0.01).fit(X, y)
    assert many.kl_ > few.kl_
    np.testing.assert_allclose(many.predict(X), same.predict(X), rtol=1e-8)


def test_gradients_stick_the_landing_or_not(regressor, measured):
    X, y = measured
    on, off = regressor(stl=True).fit(X, y), regressor(stl=False).fit(X, y)
    assert (on.parameters_ != off.parameters_).any()
    for model in (on, off):
        assert np.isfinite(model.loss_curve_).all() and model.kl_ > 0


def test_learned_sigma(regressor, measured):
    X, y = measured
    model = regressor(sigma="auto", n_members=1, max_iter=20).fit(X, y)
    names = [name for name, _ in model._bound_module().named_parameters()]
    sizes = [value.numel() for value in model._bound_module().parameters()]
    place = sum(sizes[: names.index("log_sigma")])
    assert model.parameters_[0, place] != math.log(0.1)
    learned = np.exp(model.parameters_[0, place])
    # The same functions as with that sigma given.
    fixed = regressor(sigma=learned, n_members=1).fit(X, y)
    fixed.parameters_ = np.delete(model.parameters_, place, axis=1)
    for prior in (False, True):
        np.testing.assert_allclose(
            fixed.sample_y(X, 4, prior=prior),
            model.sample_y(X, 4, prior=prior),
            rtol=1e-10,
        )
    assert model.sample_y(X, 20, prior=True).std(-1).min() > 0
    model.parameters_[0, place] = -40.0
    np.testing.assert_allclose(
        model.sample_y(X, 20, prior=True).std(-1), 0.0, atol=1e-9
    )


@pytest.mark.parametrize("initial_weights", ["point", "gaussian"])
@pytest.mark.parametrize("prior_mean", ["initial", "zero"])
def test_kinds_of_priors(regressor, measured, initial_weights, prior_mean):
    X, y = measured
    model = regressor(initial_weights=initial_weights, prior_mean=prior_mean)
    model.fit(X, y)
    assert np.isfinite([model.kl_, model.elbo_]).all()
    if (initial_weights, prior_mean) == ("gaussian", "zero"):
        # Weights of a useful size are improbable under N(0, sigma^2 / 2).
        assert model.kl_ > 50
    assert np.isfinite(model.predict(X)).all()
