"""LatentODE: real answers, forms of input, and what they must not depend on."""

import pickle

import numpy as np
import pytest

import skfunc
from skfunc import LatentODE
from skfunc.ode import Panel

TIMES = np.linspace(0, 8, 24)
LATER = np.array([8.5, 9.0, 10.0])
SMALL = {
    "latent_size": 3,
    "encoder_size": 8,
    "hidden_layer_sizes": (8,),
    "decoder_layer_sizes": (),
    "n_steps": 4,
    "n_draws": 6,
    "max_iter": 3,
    "random_state": 0,
}


def waves(n=60, seed=0, missing=0.4):
    """Return sines of random phase with gaps and noise, phases, and what is missing."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, size=(n, 1))
    X = 3 * np.sin(TIMES + phase) + 10 + 0.3 * rng.normal(size=(n, len(TIMES)))
    X[rng.uniform(size=X.shape) < missing] = np.nan
    return X, phase


@pytest.fixture(scope="module")
def fitted():
    X, _ = waves()
    model = LatentODE(
        times=TIMES,
        latent_size=4,
        n_steps=6,
        max_iter=130,
        early_stopping=False,
        random_state=0,
    )
    return model.fit(X)


def ragged(n=8, n_channels=2, seed=0):
    rng = np.random.default_rng(seed)
    pairs = []
    for length in rng.integers(1, 7, size=n):
        times = np.sort(rng.uniform(2, 12, size=length))
        values = rng.normal(size=(length, n_channels))
        values[rng.uniform(size=values.shape) < 0.2] = np.nan
        pairs.append((times, values))
    return pairs


class TestWaves:
    def test_gaps_are_filled(self, fitted):
        X, phase = waves(seed=1)
        truth = 3 * np.sin(TIMES + phase) + 10
        filled = fitted.impute(X)
        missing = np.isnan(X)
        np.testing.assert_array_equal(filled[~missing], X[~missing])
        error = np.sqrt(((filled - truth)[missing] ** 2).mean())
        assert error < 0.5

    def test_forecast_and_band(self, fitted):
        X, phase = waves(seed=2, n=100)
        mean, std = fitted.predict(X, LATER, return_std=True)
        truth = 3 * np.sin(LATER + phase) + 10
        assert mean.shape == std.shape == (100, 3)
        assert np.sqrt(((mean - truth) ** 2).mean()) < 0.9
        noisy = truth + 0.3 * np.random.default_rng(0).normal(size=truth.shape)
        inside = np.abs(noisy - mean) < 1.96 * std
        assert inside.mean() > 0.75

    def test_score_is_below_the_true_density_and_above_white_noise(self, fitted):
        X, phase = waves(seed=3)
        seen = ~np.isnan(X)
        residual = (X - 3 * np.sin(TIMES + phase) - 10)[seen]
        true = -0.5 * (residual / 0.3) ** 2 - np.log(0.3 * np.sqrt(2 * np.pi))
        white = -0.5 - np.log(X[seen].std() * np.sqrt(2 * np.pi))
        score = fitted.score(X)
        assert white + 0.7 < score < true.mean()
        per_series = fitted.score_samples(X)
        np.testing.assert_allclose(per_series.sum() / seen.sum(), score)

    def test_codes_tell_the_phase(self, fitted):
        X, phase = waves(seed=4, n=200)
        codes = fitted.transform(X)
        design = np.column_stack([codes, codes**2, np.ones(200)])
        for target in (np.sin(phase[:, 0]), np.cos(phase[:, 0])):
            weights, *_ = np.linalg.lstsq(design, target, rcond=None)
            assert np.var(target - design @ weights) < 0.3 * np.var(target)

    def test_draws_look_like_the_data(self, fitted):
        drawn = fitted.sample(200, random_state=0)
        assert drawn.shape == (200, len(TIMES))
        X, _ = waves()
        assert abs(drawn.mean() - np.nanmean(X)) < 0.6
        assert 0.6 < drawn.std() / np.nanstd(X) < 1.5

    def test_paths_average_to_the_prediction(self, fitted):
        X, _ = waves(seed=5, n=4)
        paths = fitted.sample_paths(X, LATER, 2000)
        assert paths.shape == (4, 3, 2000)
        mean, std = fitted.predict(X, LATER, return_std=True)
        np.testing.assert_allclose(paths.mean(-1), mean, atol=0.3)
        assert (paths.std(-1) < std * 1.1).all()

    def test_nothing_observed_is_the_prior(self, fitted):
        X, _ = waves(n=3)
        X[1] = np.nan
        np.testing.assert_array_equal(fitted.transform(X)[1], 0.0)
        assert fitted.score_samples(X)[1] == pytest.approx(0.0, abs=1e-12)
        _, std = fitted.predict(X, return_std=True)
        assert (std[1] > 2 * std[0]).mean() > 0.8

    def test_series_alone_and_together(self, fitted):
        X, _ = waves(n=5)
        mean, std = fitted.predict(X, LATER, return_std=True)
        for i in range(5):
            one, other = fitted.predict(X[i : i + 1], LATER, return_std=True)
            np.testing.assert_allclose(one[0], mean[i], rtol=1e-12)
            np.testing.assert_allclose(other[0], std[i], rtol=1e-11)


class TestForms:
    def test_rows_and_pairs_are_the_same_series(self):
        X = np.random.default_rng(0).normal(size=(6, 10))
        X[0, :3], X[1] = np.nan, np.nan
        X[1, 4] = 2.0
        times = np.array([0.0, 1.0, 1.5, 1.5, 4.0])
        pairs = [(times, row.reshape(5, 2)) for row in X]
        by_rows = LatentODE(times=times, n_channels=2, **SMALL).fit(X)
        by_pairs = LatentODE(window=(0, 4), **SMALL).fit(pairs)
        np.testing.assert_array_equal(by_rows.parameters_, by_pairs.parameters_)
        table = by_rows.predict(X)
        assert table.shape == (6, 5, 2)
        np.testing.assert_allclose(np.stack(by_pairs.predict(pairs)), table)
        np.testing.assert_allclose(by_pairs.transform(pairs), by_rows.transform(X))
        np.testing.assert_allclose(by_rows.transform(pairs), by_rows.transform(X))
        filled = by_pairs.impute(pairs)
        assert isinstance(filled, Panel)
        np.testing.assert_allclose(
            np.stack(filled.values).reshape(6, 10), by_rows.impute(X)
        )

    def test_shapes_of_ragged_series(self):
        pairs = ragged()
        model = LatentODE(poisson=True, window=(2, 12), **SMALL).fit(pairs)
        mean, std = model.predict(pairs, return_std=True)
        lengths = [len(times) for times, _ in pairs]
        for parts in (mean, std, model.intensity(pairs)):
            assert [part.shape for part in parts] == [(n, 2) for n in lengths]
        paths = model.sample_paths(pairs, n_samples=3)
        assert [path.shape for path in paths] == [(n, 2, 3) for n in lengths]
        assert model.predict(pairs, [3.0, 20.0]).shape == (8, 2, 2)
        assert model.sample(4).shape == (4, 100, 2)
        assert model.score_samples(pairs).shape == (8,)

    def test_time_and_value_units(self):
        pairs = ragged()
        model = LatentODE(**SMALL).fit(pairs)
        for stretch, shift in ((1e12, -5e13), (1e-9, 0.0), (86400.0, 1e6)):
            # Powers of two keep the channels' moments to the last digit.
            scaled = [(t * stretch + shift, 1024 * x) for t, x in pairs]
            other = LatentODE(**SMALL).fit(scaled)
            np.testing.assert_allclose(
                np.concatenate(other.predict(scaled)),
                1024 * np.concatenate(model.predict(pairs)),
                rtol=1e-5,
            )
            n_values = sum(np.isfinite(x).sum() for _, x in pairs)
            np.testing.assert_allclose(
                other.score(scaled), model.score(pairs) - np.log(1024), rtol=1e-5
            )
            assert n_values > 0

    def test_constant_events_have_the_mean_rate(self):
        rng = np.random.default_rng(0)
        pairs = []
        for _ in range(30):
            times = np.sort(rng.uniform(0, 5, size=rng.poisson(8)))
            pairs.append((times, np.zeros(len(times))))
        settings = SMALL | {"max_iter": 30}
        model = LatentODE(poisson=True, window=(0, 5), **settings).fit(pairs)
        rate = sum(len(t) for t, _ in pairs) / (30 * 5)
        predicted = model.intensity(pairs, np.linspace(0, 5, 7))
        assert predicted.shape == (30, 7)
        assert abs(predicted.mean() / rate - 1) < 0.15

    def test_context_end(self):
        X, _ = waves(n=10)
        model = LatentODE(times=TIMES, context_end=4.0, **SMALL).fit(X)
        changed = X.copy()
        changed[:, TIMES > 4] += 1.0
        np.testing.assert_array_equal(model.predict(X), model.predict(changed))
        assert not np.allclose(model.score_samples(X), model.score_samples(changed))

    def test_channel_that_was_never_observed(self):
        pairs = [
            (t, np.column_stack([x, np.full(len(x), np.nan)])) for t, x in ragged()
        ]
        with pytest.warns(UserWarning, match=r"no observation of channels \[2\]"):
            model = LatentODE(**SMALL).fit(pairs)
        mean, std = model.predict(pairs, [5.0], return_std=True)
        assert np.isfinite(mean[..., :2]).all() and np.isnan(mean[..., 2]).all()
        assert np.isfinite(std[..., :2]).all() and np.isnan(std[..., 2]).all()
        assert np.isfinite(model.score(pairs))

    def test_one_observation(self):
        model = LatentODE(**SMALL).fit([([3.0], [2.0])])
        assert model.predict([([3.0], [2.0])])[0].shape == (1,)
        assert np.isfinite(model.predict([([3.0], [2.0])], [3.5])).all()
        assert LatentODE(**SMALL).fit([[1.0], [2.0]]).predict([[1.5]]).shape == (1, 1)

    def test_repeated_times(self):
        pairs = [([1.0, 1.0, 2.0], [0.0, 1.0, 2.0]), ([1.0] * 4, [1.0, 2.0, 3.0, 4.0])]
        model = LatentODE(**SMALL).fit(pairs)
        first = model.predict(pairs)[1]
        assert np.isfinite(first).all() and np.ptp(first) == 0


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"times": [0.0, 1.0]}, "times has shape"),
            ({"times": [0.0, 2.0, 1.0, 3.0]}, "times must not decrease; position 2"),
            ({"times": [0.0, 1.0, 2.0, np.nan]}, "times must be finite"),
            ({"n_channels": 3}, "no multiple of n_channels=3"),
            ({"encoder": "lstm"}, "encoder='lstm' is unknown"),
            ({"window": (1.0, 1.0)}, "window must be"),
            ({"window": (0.5, 2.0)}, "series 0 was observed at 0, before the window"),
            ({"window": (0.0, 0.5), "poisson": True}, "after the window's end"),
            ({"n_steps": 0}, "n_steps must be an integer"),
            ({"max_iter": "many"}, "max_iter must be an integer"),
            ({"context_end": np.inf}, "context_end must be a number"),
        ],
    )
    def test_parameters(self, changes, message):
        with pytest.raises(ValueError, match=message):
            LatentODE(**(SMALL | changes)).fit(np.eye(4))

    def test_input(self):
        model = LatentODE(**SMALL).fit(np.eye(4))
        with pytest.raises(ValueError, match="only NaN"):
            LatentODE(**SMALL).fit(np.full((3, 2), np.nan))
        with pytest.raises(ValueError, match="infinity"):
            model.predict(np.full((3, 4), np.inf))
        with pytest.raises(ValueError, match="X has 2 channels"):
            model.predict([([0.0], [[1.0, 2.0]])])
        with pytest.raises(ValueError, match="before the window's start 0; got -1"):
            model.predict(np.eye(4), [-1.0])
        with pytest.raises(ValueError, match="must be finite numbers"):
            model.predict(np.eye(4), [np.nan])
        with pytest.raises(ValueError, match="poisson=True"):
            model.intensity(np.eye(4))
        by_pairs = LatentODE(**SMALL).fit(ragged(n_channels=1))
        with pytest.raises(ValueError, match="times of their own; give a Panel"):
            by_pairs.predict(np.eye(4))


@pytest.mark.parametrize("settings", [{}, {"poisson": True, "encoder": "ode_rnn"}])
def test_saved_and_pickled(settings, tmp_path):
    X, _ = waves(n=8)
    for data, form in ((X, {"times": TIMES}), (ragged(), {})):
        model = LatentODE(**form, **settings, **SMALL).fit(data)
        model.save(tmp_path / "model.safetensors")
        for again in (
            skfunc.load(tmp_path / "model.safetensors"),
            pickle.loads(pickle.dumps(model)),
        ):
            np.testing.assert_array_equal(again.transform(data), model.transform(data))
            for one, other in zip(
                again.predict(data, LATER, return_std=True),
                model.predict(data, LATER, return_std=True),
                strict=True,
            ):
                np.testing.assert_array_equal(one, other)
            np.testing.assert_array_equal(again.score(data), model.score(data))


def test_held_out_series_choose_the_epoch():
    X, _ = waves(n=50)
    model = LatentODE(times=TIMES, **SMALL).fit(X)
    assert len(model.validation_scores_) == model.n_iter_ == 3
    assert model.best_iter_ == 1 + int(np.argmax(model.validation_scores_))
    model.set_params(early_stopping=False).fit(X)
    assert model.validation_scores_ is None and model.best_iter_ == 3
