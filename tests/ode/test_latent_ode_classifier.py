"""LatentODEClassifier: labels from paths, from what is missing, in every form."""

import pickle

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score

import skfunc
from skfunc import LatentODEClassifier
from skfunc.ode import Panel
from skfunc.ode._latent_ode_summaries import scaled_summaries, summarize
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
                ([0.0, 0.2, 0.9], [[1.0, nan], [3.0, 2.0], [-1.0, nan]]),
                ([0.5], [[nan, nan]]),
            ]
        )
        told = summarize(padded(panel), np.inf).reshape(2, 10, 2)
        deviation = np.std([1, 3, -1])
        times = np.array([0.0, 0.2, 0.9]) - 1.1 / 3
        slope = times @ [1, 3, -1] / (times @ times + 3 * 0.01)
        np.testing.assert_allclose(
            told[0].T,
            [
                [1, np.log(4), 1, -1, 3, 1, -1, deviation, slope, 0.9],
                [1, np.log(2), 2, 2, 2, 2, 2, 0, 0, 0.2],
            ],
        )
        np.testing.assert_array_equal(told[1], 0)
        early = summarize(padded(panel), 0.5).reshape(2, 10, 2)
        np.testing.assert_allclose(early[0, 2:7, 0], [2, 1, 3, 1, 3])
        np.testing.assert_allclose(early[0, 9], 0.2)

    def test_distances_of_summaries_from_their_means(self):
        told = np.random.default_rng(0).normal(size=(20_000, 2))
        told[0] = [100.0, -100.0]
        scaled = scaled_summaries(told, np.zeros(2), np.ones(2)) * 2
        np.testing.assert_allclose(scaled.mean(0), 0, atol=0.03)
        np.testing.assert_allclose(scaled.std(0), 1, atol=0.03)
        np.testing.assert_allclose(scaled[0, :2], [4, -4])
        np.testing.assert_allclose(scaled[0, 2], scaled[0, 3])

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
        with pytest.raises(ValueError, match="summary_dropout must be a number"):
            model.set_params(summary_dropout=1.0).fit(X, y)
        with pytest.raises(ValueError, match="none of the classes"):
            fitted.log_prob(X, np.repeat("sideways", 6))
