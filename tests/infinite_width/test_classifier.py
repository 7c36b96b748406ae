"""The classifier: scores in closed form, the link, and calibrated probabilities."""

import math

import numpy as np
import pytest
from scipy import special
from sklearn.datasets import load_digits, make_classification
from sklearn.metrics import log_loss

from skfunc import InfiniteWidthClassifier
from skfunc.infinite_width import layers as L
from skfunc.infinite_width._classifier import link
from skfunc.infinite_width._inference import Decomposition

NET = L.preset("mlp", 2, "erf", 1.3, 0.4)
KINDS = ["nngp", "ntk"]


def data(n=60, classes=3, noise=0.0, seed=0):
    X, y = make_classification(
        n + 40,
        5,
        n_informative=4,
        n_redundant=0,
        n_classes=classes,
        n_clusters_per_class=1,
        flip_y=noise,
        random_state=seed,
    )
    return X[:n], y[:n], X[n:], y[n:]


def fixed(net=NET, **changes):
    options = {"selection": None, "alpha": 0.05}
    return InfiniteWidthClassifier(net, **(options | changes))


def scores_left_out(model):
    """Return scores of rows predicted without them, and their classes."""
    residuals, _ = model._process().leave_one_out(model.training_time_)
    return model.y_mean_ + model.y_train_ - residuals, model.y_train_.argmax(axis=1)


class TestLink:
    def test_small_scale_returns_proportions(self):
        scores = np.array([[0.5, 0.3, 0.2], [0.9, 0.4, -0.3]])
        got = special.softmax(link(scores, 1e-3, 1.0), axis=-1)
        positive = np.maximum(scores, 0)
        expected = positive / positive.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(got, expected, atol=1e-12)

    def test_large_scale_is_a_softmax(self):
        scores = np.random.default_rng(0).normal(size=(20, 4))
        scale, power = 1e5, 3e5
        temperature = 2 * scale * math.log(2) / power
        got = special.softmax(link(scores, scale, power), axis=-1)
        expected = special.softmax(scores / temperature, axis=-1)
        np.testing.assert_allclose(got, expected, rtol=1e-4)

    def test_power_sharpens(self):
        scores = np.array([[0.5, 0.3, 0.2]])
        got = special.softmax(link(scores, 1e-3, 2.0), axis=-1)
        np.testing.assert_allclose(got, scores**2 / np.square(scores).sum())

    def test_far_scores_are_finite(self):
        scores = np.array([[-1e6, 0.0, 1e6], [-1e6, -1e6, -1e6]])
        assert np.isfinite(link(scores, 0.01, 400.0)).all()


@pytest.mark.parametrize("time", [20.0, math.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_averages_over_draws_of_closed_form_scores(kind, time):
    X, y, X_new, _ = data()
    model = fixed(kernel=kind, training_time=time).fit(X, y)
    mean, std = X.mean(axis=0), X.std(axis=0)
    Z, Z_new = (X - mean) / std, (X_new - mean) / std
    targets = np.eye(3)[y]
    centre = targets.mean(axis=0)
    gram = NET.kernel(Z, kind=kind)
    ridge = 0.05 * gram.diagonal().mean()
    solution = Decomposition(gram, targets - centre)
    scores = centre + solution.mean(NET.kernel(Z_new, Z, kind), ridge, time)
    variances = model._process().variances(model._seen(X_new), time)
    if kind == "nngp":
        expected = solution.posterior_variance(
            NET.kernel(Z_new, Z, kind),
            NET.kernel(Z_new, kind=kind).diagonal(),
            ridge,
            time,
        )
        np.testing.assert_allclose(variances, expected, rtol=1e-8)
    draws = scores + model.normals_[:, None] * np.sqrt(
        model.amplitude_ * variances[:, None]
    )
    softplus = np.log1p(np.exp(draws / model.link_scale_))
    power = softplus**model.link_power_
    inside = power / power.sum(axis=-1, keepdims=True)
    noise = model.label_noise_
    members = (1 - noise) * inside + noise * centre
    proba, spread = model.predict_proba(X_new, return_std=True)
    np.testing.assert_allclose(proba, members.mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(spread, members.std(axis=0), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(model.normals_.mean(axis=0), 0, atol=1e-15)
    np.testing.assert_allclose(model.class_prior_, centre)


@pytest.mark.parametrize("labels", [["no", "yes"], [3, -1], ["c", "a", "b"], range(6)])
def test_labels_of_any_kind(labels):
    X, y, X_new, y_new = data(120, len(labels))
    labels = np.array(labels)
    model = InfiniteWidthClassifier(depth=2).fit(X, labels[y])
    np.testing.assert_array_equal(model.classes_, np.unique(labels))
    proba, std = model.predict_proba(X_new, return_std=True)
    assert proba.shape == std.shape == (40, len(labels))
    np.testing.assert_allclose(proba.sum(axis=1), 1.0, rtol=1e-12)
    assert (proba > 0).all() and (std >= 0).all()
    np.testing.assert_array_equal(
        model.predict(X_new), model.classes_[proba.argmax(axis=1)]
    )
    assert model.score(X_new, labels[y_new]) > 0.7
    if len(labels) == 2:
        np.testing.assert_allclose(std[:, 0], std[:, 1], rtol=1e-9)


class TestCalibration:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("noise", [0.0, 0.3])
    def test_it_beats_a_plain_softmax_on_rows_left_out_and_new_ones(self, kind, noise):
        X, y, X_new, y_new = data(120, noise=noise)
        model = InfiniteWidthClassifier(kernel=kind, depth=2).fit(X, y)
        scores, labels = scores_left_out(model)
        linked = special.softmax(
            link(scores, model.link_scale_, model.link_power_), axis=1
        )
        share = model.label_noise_
        linked = (1 - share) * linked + share * model.class_prior_
        plain = special.softmax(scores, axis=1)
        assert log_loss(labels, linked) < log_loss(labels, plain) - 0.1
        proba = model.predict_proba(X_new)
        seen = model._means(model._seen(X_new), model.alphas_)
        plain = special.softmax(model.y_mean_ + seen, axis=1)
        assert log_loss(y_new, proba) < log_loss(y_new, plain) - 0.1

    def test_wrong_labels_make_rows_less_sure(self):
        X, y, X_new, _ = data(150, 2)
        clean = InfiniteWidthClassifier(depth=1).fit(X, y)
        wrong = y.copy()
        wrong[::5] = 1 - wrong[::5]
        noisy = InfiniteWidthClassifier(depth=1).fit(X, wrong)
        assert noisy.label_noise_ > clean.label_noise_
        # Rows are as sure as they are right.
        for model, right in ((clean, 1 - clean.label_noise_), (noisy, 0.8)):
            sure = model.predict_proba(X_new).max(axis=1).mean()
            assert abs(sure - right) < 0.1, (sure, right)

    def test_far_from_the_rows_the_process_is_less_sure(self):
        X, y, X_new, _ = data(classes=2)
        model = fixed(L.preset("mlp", 1, "rbf", 1.0, 0.1), kernel="nngp").fit(X, y)
        _, near = model.predict_proba(X, return_std=True)
        _, far = model.predict_proba(X_new + 6, return_std=True)
        assert far.min() > near.mean()


class TestDraws:
    @pytest.mark.parametrize("kind", KINDS)
    def test_rows_of_a_draw_belong_to_one_function(self, kind):
        X, y, X_new, _ = data()
        model = fixed(kernel=kind).fit(X, y)
        rows = np.concatenate([X_new[:3], X_new[:3], X_new[3:4] + 1e-7])
        draws = model.sample_proba(rows, 500, random_state=0)
        assert draws.shape == (7, 3, 500)
        np.testing.assert_allclose(draws.sum(axis=1), 1.0, rtol=1e-12)
        np.testing.assert_allclose(draws[:3], draws[3:6], atol=1e-5)
        # Draws differ, by what predict_proba says.
        proba, std = model.predict_proba(rows, return_std=True)
        np.testing.assert_allclose(draws.mean(axis=2), proba, atol=0.02)
        spread = draws.std(axis=2)
        assert 0.5 < spread.mean() / std.mean() < 2
        np.testing.assert_array_equal(
            draws, model.sample_proba(rows, 500, random_state=0)
        )
        other = model.sample_proba(rows, 500, random_state=1)
        assert not np.array_equal(draws, other)

    @pytest.mark.parametrize("kind", KINDS)
    def test_scores_of_draws_have_the_covariance(self, kind, monkeypatch):
        X, y, X_new, _ = data()
        model = fixed(kernel=kind).fit(X, y)
        monkeypatch.setattr(model, "_probabilities", lambda scores: scores)
        scores = model.sample_proba(X_new[:4], 20_000, random_state=0)
        covariance = model._covariance(model._seen(X_new[:4]), math.inf)
        scale = np.sqrt(np.outer(covariance.diagonal(), covariance.diagonal()))
        for amplitude, draws in zip(
            model.amplitude_, scores.transpose(1, 0, 2), strict=True
        ):
            # Five standard errors of a sample covariance.
            error = np.abs(np.cov(draws) / amplitude - covariance)
            assert (error < 5 * math.sqrt(2 / 20_000) * scale).all()


def test_weights_are_copies():
    X, y, X_new, _ = data()
    copies = np.arange(60) % 3
    index = np.repeat(np.arange(60), copies)
    weighted = InfiniteWidthClassifier(depth=1).fit(X, y, copies)
    repeated = InfiniteWidthClassifier(depth=1).fit(X[index], y[index])
    np.testing.assert_array_equal(
        weighted.predict_proba(X_new), repeated.predict_proba(X_new)
    )
    assert weighted.label_noise_ == repeated.label_noise_


def test_class_of_weight_zero_is_none():
    X, y, X_new, _ = data()
    model = fixed().fit(X, y, (y != 1).astype(float))
    np.testing.assert_array_equal(model.classes_, [0, 2])
    assert model.predict_proba(X_new).shape == (40, 2)
    with pytest.raises(ValueError, match="only one class is present: 1"):
        fixed().fit(X, y, (y == 1).astype(float))


def test_numbers_are_no_classes():
    X, _, _, _ = data()
    with pytest.raises(ValueError, match="continuous"):
        fixed().fit(X, X[:, 0])


@pytest.mark.parametrize("options", [{}, {"depth": 2}, {"kernel": "nngp"}])
def test_images(options):
    digits, labels = load_digits(return_X_y=True)
    some = np.flatnonzero(labels < 3)[:140]
    X, y = digits[some], labels[some]
    model = InfiniteWidthClassifier("conv", image_shape=(1, 8, 8), **options)
    model.fit(X[:60], y[:60])
    assert model.score(X[60:], y[60:]) > 0.9
    # The pixels of a channel share their moments.
    assert len(np.unique(model.X_mean_)) == len(np.unique(model.X_scale_)) == 1
    np.testing.assert_array_equal(model.relevance_, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_before_training_classes_are_as_frequent_as_in_the_data(kind):
    X, y, X_new, _ = data()
    X, y = X[:50], np.repeat([0, 1], [40, 10])
    model = fixed(kernel=kind, training_time=0).fit(X, y)
    scores = model.y_mean_ + model._means(model._seen(X_new), model.alphas_)
    np.testing.assert_allclose(scores, np.tile([0.8, 0.2], (40, 1)), rtol=1e-12)
    assert (model.predict(X_new) == 0).all()
