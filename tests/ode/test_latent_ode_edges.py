"""Series at the edge of what there is: a right answer, or a clear error."""

import numpy as np
import pytest

from skfunc import LatentODE
from skfunc.ode import Panel

SMALL = {
    "latent_size": 3,
    "encoder_size": 6,
    "hidden_layer_sizes": (8,),
    "n_steps": 4,
    "n_draws": 4,
    "max_iter": 3,
    "random_state": 0,
}


@pytest.fixture(scope="module")
def mixed():
    """A model of series of 0 to 40 observations, two of them at one time."""
    rng = np.random.default_rng(0)
    lengths = [0, 1, 2, 40, 7]
    pairs = [(np.sort(rng.uniform(0, 1, n)), rng.normal(size=n)) for n in lengths]
    pairs[2] = (np.array([0.5, 0.5]), np.array([-1.0, 1.0]))
    return LatentODE(window=(0, 1), poisson=True, **SMALL).fit(pairs), pairs


class TestMixedLengths:
    def test_every_answer_has_the_series_length(self, mixed):
        model, pairs = mixed
        lengths = [len(times) for times, _ in pairs]
        mean, std = model.predict(pairs, return_std=True)
        for parts in (mean, std, model.intensity(pairs), model.sample_paths(pairs)):
            assert [len(part) for part in parts] == lengths
            assert all(np.isfinite(part).all() for part in parts)
        assert np.isfinite(model.score_samples(pairs)).all()

    def test_none_observed_is_the_prior(self, mixed):
        model, pairs = mixed
        np.testing.assert_array_equal(model.transform(pairs)[0], 0)
        alone = model.predict([pairs[0]], [0.3])
        np.testing.assert_allclose(alone, model.predict(pairs, [0.3])[:1], rtol=1e-12)
        # Nothing happened: the likelihood of that, exp of minus the expected number.
        expected = model.cumulative_intensity([pairs[0]], [1.0])[0]
        assert -1.5 * expected < model.score_samples([pairs[0]])[0] < 0

    def test_one_observed(self, mixed):
        model, pairs = mixed
        codes = model.transform(pairs)
        assert (codes[1] != 0).all() and not np.allclose(codes[1], codes[3])

    def test_repeated_times_share_a_prediction(self, mixed):
        model, pairs = mixed
        assert np.ptp(model.predict(pairs)[2]) == 0

    def test_order_of_the_series(self, mixed):
        model, pairs = mixed
        order = [3, 0, 4, 2, 1]
        scores = model.score_samples(pairs)
        np.testing.assert_allclose(
            model.score_samples([pairs[i] for i in order]), scores[order], rtol=1e-10
        )


def test_decreasing_times():
    with pytest.raises(ValueError, match="series 1 must not decrease; position 2"):
        LatentODE(**SMALL).fit([([0.0], [1.0]), ([0.0, 2.0, 1.0], [1.0, 2.0, 3.0])])


def test_channel_unobserved_in_some_series_or_in_new_ones():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(6, 5, 2))
    X[:3, :, 1] = np.nan
    model = LatentODE(n_channels=2, **SMALL).fit(X.reshape(6, -1))
    X[..., 1] = np.nan
    filled = model.impute(X.reshape(6, -1))
    assert np.isfinite(filled).all()
    assert np.isfinite(model.score(X.reshape(6, -1)))


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_scales_of_time(scale):
    rng = np.random.default_rng(0)
    times = np.linspace(0, 1, 6)
    X = rng.normal(size=(8, 6))
    options = SMALL | {"poisson": True}
    model = LatentODE(times=times, **options).fit(X)
    other = LatentODE(times=times * scale, **options).fit(X)
    np.testing.assert_allclose(other.predict(X), model.predict(X), rtol=1e-9)
    later = 1.5
    np.testing.assert_allclose(
        other.predict(X, [later * scale]), model.predict(X, [later]), rtol=1e-9
    )
    np.testing.assert_allclose(
        other.intensity(X) * scale, model.intensity(X), rtol=1e-9
    )
    np.testing.assert_allclose(
        other.score(X) + np.log(scale), model.score(X), rtol=1e-9
    )


class TestOwnWindows:
    def streams(self, n=20, rate=10.0):
        rng = np.random.default_rng(0)
        pairs, windows = [], []
        for _ in range(n):
            start = rng.uniform(0, 2)
            end = start + rng.uniform(1, 3)
            times = np.sort(rng.uniform(start, end, rng.poisson(rate * (end - start))))
            pairs.append((times, rng.normal(size=len(times))))
            windows.append((start, end))
        return pairs, windows

    def test_rates_do_not_fall_where_nobody_watched(self):
        pairs, windows = self.streams()
        settings = SMALL | {"max_iter": 25, "poisson": True}
        grid = np.linspace(0.5, 4, 8)
        own = LatentODE(**settings).fit(Panel(pairs, windows=windows))
        rate = own.intensity(Panel(pairs, windows=windows), grid).mean()
        assert rate == pytest.approx(10, rel=0.2)
        whole = LatentODE(**settings).fit(pairs).intensity(pairs, grid).mean()
        assert whole < 0.7 * rate

    def test_window_counts_in_the_score(self):
        pairs, windows = self.streams(n=4)
        panel = Panel(pairs, windows=windows)
        model = LatentODE(**(SMALL | {"poisson": True})).fit(panel)
        np.testing.assert_allclose(
            model.window_, [np.min(windows), np.max(windows)], rtol=1e-15
        )
        longer = [(start, end + 0.5) for start, end in windows]
        longer[int(np.argmax([end for _, end in windows]))] = windows[
            int(np.argmax([end for _, end in windows]))
        ]
        scores = model.score_samples(panel)
        others = model.score_samples(
            Panel(pairs, windows=np.minimum(longer, model.window_[1]))
        )
        assert (others <= scores).all() and (others < scores).sum() == 3
        expected = model.cumulative_intensity(panel, [model.window_[1]])
        assert (expected > 0).all()
        drawn = model.sample_events(panel, 2, random_state=0)
        for own, (start, end) in zip(drawn, windows, strict=True):
            assert all(((t >= start) & (t <= end)).all() for t in own)

    def test_refused_windows(self):
        pairs, windows = self.streams(n=3)
        panel = Panel(pairs, windows=windows)
        assert panel[1:].windows.shape == (2, 2)
        with pytest.raises(ValueError, match="for each of the 3 series"):
            Panel(pairs, windows=windows[:2])
        with pytest.raises(ValueError, match="outside of its window"):
            Panel(pairs, windows=[(0, 0.1)] * 3)
        with pytest.raises(ValueError, match="must start before it ends"):
            Panel(pairs, windows=[(1, 1)] * 3)
        settings = SMALL | {"poisson": True, "window": (0, 9)}
        model = LatentODE(**settings).fit(panel)
        with pytest.raises(ValueError, match=r"outside of the model's \(0.0, 9.0\)"):
            model.predict(Panel(pairs, windows=[(0, 10)] * 3))


@pytest.mark.parametrize(("n_channels", "size"), [(1, 8), (6, 12), (20, 32)])
def test_state_grows_with_the_channels(n_channels, size):
    X = np.random.default_rng(0).normal(size=(5, 3 * n_channels))
    settings = SMALL | {"latent_size": "auto", "max_iter": 1, "n_channels": n_channels}
    model = LatentODE(**settings).fit(X)
    assert model.transform(X).shape == (5, size)
    assert model.sample_paths(X, n_samples=2).shape[-1] == 2
