"""LatentODEClassifier: labels from paths, from what is missing, in every form."""

import pickle

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score

import skfunc
from skfunc import LatentODEClassifier
from skfunc.ode import Panel
from skfunc.ode._latent_ode_summaries import (
    N_QUANTILES,
    PER_CHANNEL,
    normal_scores,
    summarize,
    summary_quantiles,
)
from skfunc.ode._latent_ode_training import Labels
from skfunc.ode._panel import padded

TIMES = np.linspace(0, 6, 16)
SMALL = {
    "latent_size": 4,
    "encoder_size": 10,
    "hidden_layer_sizes": (16,),
    "n_steps": 6,
    "n_draws": 6,
    "max_iter": 40,
    "early_stopping": False,
    "random_state": 0,
}


def turns(n=60, seed=0, missing=0.2):
    """Return sines of random phase, their second half up or down."""
    rng = np.random.default_rng(seed)
    rising = np.arange(n) % 2 == 0
    drift = np.where(rising, 1.0, -1.0)[:, None] * np.maximum(TIMES - 3, 0)
    X = np.sin(TIMES + rng.uniform(0, 6, size=(n, 1))) + drift
    X += 0.1 * rng.normal(size=X.shape)
    X[rng.uniform(size=X.shape) < missing] = np.nan
    return X, np.where(rising, "up", "down")


@pytest.fixture(scope="module")
def fitted():
    X, y = turns()
    return LatentODEClassifier(times=TIMES, summaries=False, **SMALL).fit(X, y)


class TestLabels:
    def test_from_the_latent_path_alone(self, fitted):
        X, y = turns(seed=1, n=100)
        assert fitted.classes_.tolist() == ["down", "up"]
        assert fitted.score(X, y) > 0.95
        proba, std = fitted.predict_proba(X, return_std=True)
        assert proba.shape == std.shape == (100, 2) and (std >= 0).all()
        np.testing.assert_allclose(proba.sum(1), 1)
        chosen = proba[np.arange(100), (y == "up").astype(int)]
        np.testing.assert_allclose(fitted.log_prob(X, y), np.log(chosen))
        assert set(np.unique(fitted.sample(X, 2, random_state=0))) == {"up", "down"}

    def test_the_series_are_learned_too(self, fitted):
        X, _ = turns(seed=2, missing=0.0)
        gaps = X.copy()
        gaps[:, 5::4] = np.nan
        filled = fitted.impute(gaps)
        hidden = np.isnan(gaps)
        error = (filled - X)[hidden].std()
        assert error < 0.6 * (np.nanmean(gaps) - X)[hidden].std()
        mean, std = fitted.predict_series(gaps, [6.5], return_std=True)
        assert mean.shape == std.shape == (60, 1)
        assert fitted.transform(gaps).shape == (60, 4)
        assert fitted.get_feature_names_out()[0] == "latentodeclassifier0"

    def test_series_alone_and_together(self, fitted):
        X, _ = turns(n=5)
        proba = fitted.predict_proba(X)
        for i in range(5):
            np.testing.assert_allclose(
                fitted.predict_proba(X[i : i + 1])[0], proba[i], rtol=1e-10
            )

    def test_nothing_observed(self, fitted):
        X, _ = turns(n=3)
        X[1] = np.nan
        proba = fitted.predict_proba(X)
        assert np.isfinite(proba).all()
        assert proba[1].max() < proba[[0, 2]].max(1).min()

    def test_heads(self):
        X, y = turns(n=30)
        options = SMALL | {"max_iter": 8}
        model = LatentODEClassifier(times=TIMES, n_heads=3, **options).fit(X, y)
        draws = model.sample_proba(X[:4], 500)
        # Draws of heads and of initial states.
        assert len(np.unique(draws[0, 0])) > SMALL["n_draws"]
        affine = LatentODEClassifier(
            times=TIMES, classifier_layer_sizes=(), n_heads=1, **options
        ).fit(X, y)
        assert affine.parameters_.size < model.parameters_.size
        deep = LatentODEClassifier(
            times=TIMES, classifier_layer_sizes=(5, 4), n_heads=2, **options
        ).fit(X, y)
        for each in (affine, deep):
            np.testing.assert_allclose(each.predict_proba(X).sum(1), 1)

    def test_how_many_judge_and_how_long(self):
        X, y = turns(n=60)
        model = LatentODEClassifier(times=TIMES, **SMALL)
        model.set_params(early_stopping=True, n_iter_no_change=1000, max_iter=1)
        model.fit(X, y)
        series = model._read(X, reset=False)
        judges = model._held_out(
            60, np.random.RandomState(0), Labels((y == "up").astype(int), X, 0)
        )
        assert judges.sum() == 12 and (y[judges] == "up").sum() == 6
        # Two steps in an epoch, 200 without progress at most.
        assert model._options(series, 0).n_iter_no_change == 100
        model.set_params(n_iter_no_change=5)
        assert model._options(series, 0).n_iter_no_change == 5

    def test_what_is_missing_tells(self):
        rng = np.random.default_rng(0)
        y = np.arange(180) % 3
        X = rng.normal(size=(180, 32))
        shares = np.array([0.1, 0.5, 0.9])[y]
        X[:, ::2][rng.uniform(size=(180, 16)) < shares[:, None]] = np.nan
        options = SMALL | {"n_channels": 2, "max_iter": 50, "n_steps": 2}
        model = LatentODEClassifier(times=TIMES, **options).fit(X[:120], y[:120])
        assert model.score(X[120:], y[120:]) > 0.8

    def test_what_is_constant_is_not_lost(self):
        rng = np.random.default_rng(0)
        static = rng.normal(size=80)
        pairs = []
        for value in static:
            values = np.column_stack([rng.normal(size=8), np.full(8, np.nan)])
            values[0, 1] = value
            pairs.append((np.sort(rng.uniform(0, 1, size=8)), values))
        y = (static > 0).astype(int)
        options = SMALL | {"max_iter": 25}
        model = LatentODEClassifier(**options).fit(pairs[:60], y[:60])
        assert model.score(pairs[60:], y[60:]) > 0.85

    def test_weight_of_the_labels(self):
        X, y = turns(n=20)
        options = SMALL | {"times": TIMES, "max_iter": 3, "summaries": False}
        without = LatentODEClassifier(label_weight=0.0, **options).fit(X, y)
        series = skfunc.LatentODE(
            **{k: v for k, v in options.items() if k != "summaries"}
        )
        series.fit(X)
        # Labels without weight leave the series' part as it is.
        np.testing.assert_allclose(
            without.loss_curve_[0], series.loss_curve_[0], rtol=0.3
        )
        heavy = LatentODEClassifier(label_weight=5.0, **options).fit(X, y)
        assert heavy.loss_curve_[0] > without.loss_curve_[0] + 1


class TestForms:
    @pytest.mark.parametrize(
        "labels",
        [
            np.array([3, -1]),
            np.array([True, False]),
            np.array(["a", "b"], dtype=object),
            np.array([0.5, 2.0]).astype(int),
        ],
    )
    def test_labels_of_any_type(self, labels, tmp_path):
        X, y = turns(n=12)
        y = labels[(y == "up").astype(int)]
        options = SMALL | {"max_iter": 2}
        model = LatentODEClassifier(times=TIMES, poisson=True, **options).fit(X, y)
        assert model.predict(X).dtype == y.dtype
        assert set(model.predict(X)) <= set(labels)
        model.save(tmp_path / "model.safetensors")
        for again in (
            skfunc.load(tmp_path / "model.safetensors"),
            pickle.loads(pickle.dumps(model)),
        ):
            np.testing.assert_array_equal(
                again.predict_proba(X), model.predict_proba(X)
            )
            np.testing.assert_array_equal(again.intensity(X), model.intensity(X))

    def test_table_and_pairs_are_the_same_series(self):
        X, y = turns(n=12)
        pairs = [(TIMES, row) for row in X]
        options = SMALL | {"max_iter": 2}
        by_rows = LatentODEClassifier(times=TIMES, **options).fit(X, y)
        by_pairs = LatentODEClassifier(window=(0, 6), **options).fit(Panel(pairs), y)
        np.testing.assert_array_equal(by_rows.parameters_, by_pairs.parameters_)
        np.testing.assert_allclose(
            by_pairs.predict_proba(pairs), by_rows.predict_proba(X), rtol=1e-12
        )
        assert isinstance(by_pairs.impute(pairs), Panel)

    def test_held_out_series_are_stratified(self):
        X, y = turns(n=45)
        y[:] = "down"
        y[[3, 9]] = "up"
        y[20] = "sideways"
        options = SMALL | {"max_iter": 2, "early_stopping": True}
        model = LatentODEClassifier(times=TIMES, **options).fit(X, y)
        assert len(model.validation_scores_) == 2
        # Judged by labels alone.
        assert max(model.validation_scores_) < 0

    def test_in_a_cross_validation(self):
        X, y = turns(n=16)
        model = LatentODEClassifier(times=TIMES, **(SMALL | {"max_iter": 2}))
        scores = cross_val_score(model, X, y, cv=2, scoring="neg_log_loss")
        assert np.isfinite(scores).all()

    def test_summaries(self):
        nan = np.nan
        panel = Panel(
            [
                ([0.0, 0.2, 0.8, 0.9], [[1, nan], [3, 2], [4, nan], [-1, nan]]),
                ([0.5], [[nan, nan]]),
            ]
        )
        window = np.tile([0.0, 1.0], (2, 1))
        told = summarize(padded(panel), window, np.inf).reshape(2, PER_CHANNEL, 2)
        values, times = np.array([1, 3, 4, -1]), np.array([0.0, 0.2, 0.8, 0.9])
        since = times - times.mean()
        slope = since @ values / (since @ since + 4 * 0.01)
        of_all = [1.75, -1, 4, 1, -1, np.std(values), slope, 0.9]
        np.testing.assert_allclose(
            told[0].T,
            [
                [1, np.log(5), np.log(3), *of_all, 1.5],
                [1, np.log(2), 0, 2, 2, 2, 2, 2, 0, 0, 0.2, nan],
            ],
        )
        np.testing.assert_array_equal(told[1, :3], 0)
        assert np.isnan(told[1, 3:]).all()
        # The last quarter of what is read, for each window.
        early = summarize(padded(panel), window, 0.5).reshape(2, PER_CHANNEL, 2)
        np.testing.assert_allclose(early[0, 3:8, 0], [2, 1, 3, 1, 3])
        assert early[0, 2, 0] == 0 and np.isnan(early[0, -1, 0])
        short = summarize(padded(panel), window * 0.25, 0.25)
        assert short.reshape(2, PER_CHANNEL, 2)[0, -1, 0] == 3

    def test_summaries_become_normal(self):
        rng = np.random.default_rng(0)
        normal = rng.normal(size=20_000)
        # A heavy tail, two values alone, one, and none at all.
        told = np.column_stack([np.exp(3 * normal), normal > 0, 0 * normal, normal])
        told[::2, 3] = np.nan
        quantiles = summary_quantiles(told)
        assert quantiles.shape == (N_QUANTILES, 4)
        scores = normal_scores(told, quantiles)
        near = np.abs(normal) < 2.5
        np.testing.assert_allclose(scores[near, 0], normal[near], atol=0.1)
        assert np.abs(scores).max() < 3 + 1e-9
        low, high = np.unique(scores[:, 1])
        # Knots are an eighth apart.
        np.testing.assert_allclose([low, high], [-0.674, 0.674], atol=0.1)
        np.testing.assert_allclose(scores[:, 2], 0, atol=1e-12)
        np.testing.assert_array_equal(scores[::2, 3], 0)
        # Their distances have mean 0, and a missing one is not far.
        np.testing.assert_allclose(scores[:, [4, 7]].mean(0), 0, atol=0.03)
        np.testing.assert_array_equal(scores[::2, 7], 0)
        # Beyond all quantiles, and where a fit saw nothing.
        far = normal_scores(np.array([[1e300, 2.0, -5.0, -1e300]]), quantiles)
        np.testing.assert_allclose(far[0, :4], [3, 3, -3, -3])
        unseen = summary_quantiles(np.full((3, 1), np.nan))
        assert np.isfinite(normal_scores(np.ones((1, 1)), unseen)).all()

    def test_summaries_by_any_monotone_scale(self):
        rng = np.random.default_rng(1)
        told = rng.normal(size=(400, 1))
        scores = normal_scores(told, summary_quantiles(told))
        other = normal_scores(np.exp(told), summary_quantiles(np.exp(told)))
        np.testing.assert_allclose(scores, other, atol=0.05)

    def test_unusual_on_either_side(self):
        rng = np.random.default_rng(0)
        level = rng.normal(size=(240, 1))
        X = level + 0.3 * rng.normal(size=(240, 16))
        y = (np.abs(level[:, 0]) > 0.7).astype(int)
        options = SMALL | {"max_iter": 30, "n_steps": 2}
        model = LatentODEClassifier(times=TIMES, **options).fit(X[:140], y[:140])
        # A line in the mean would do no better than the larger class.
        assert model.score(X[140:], y[140:]) > 0.85

    def test_refusals(self, fitted):
        X, y = turns(n=6)
        model = LatentODEClassifier(times=TIMES, **SMALL)
        with pytest.raises(ValueError, match="y has one class only"):
            model.fit(X, np.zeros(6))
        with pytest.raises(ValueError, match="5 labels for 6 series"):
            model.fit([(TIMES, row) for row in X], y[:5])
        with pytest.raises(ValueError, match="label_weight must be a number"):
            model.set_params(label_weight=-1).fit(X, y)
        model.set_params(label_weight=1.0)
        with pytest.raises(ValueError, match="classifier_dropout must be a number"):
            model.set_params(classifier_dropout=1.0).fit(X, y)
        model.set_params(classifier_dropout=0.5)
        with pytest.raises(ValueError, match="n_heads must be"):
            model.set_params(n_heads=0).fit(X, y)
        with pytest.raises(ValueError, match="none of the classes"):
            fitted.log_prob(X, np.repeat("sideways", 6))
