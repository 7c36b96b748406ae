"""Streams of events: known rates recovered, clocks, and what is refused."""

import pickle
from copy import deepcopy

import numpy as np
import pytest
from scipy.stats import kstest

import skfunc
from skfunc import LatentODE
from skfunc.ode import EventStreams
from skfunc.ode._latent_ode_clock import EventClock
from skfunc.ode._latent_ode_event_stacking import clock_shares
from skfunc.ode._latent_ode_rates import thinned_events

SMALL = {
    "latent_size": 3,
    "encoder_size": 6,
    "hidden_layer_sizes": (8,),
    "n_steps": 6,
    "n_draws": 4,
    "random_state": 0,
}


def process(rate, top, end, seed=0):
    """Return a Poisson process on [0, end] whose rate is at most `top`."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0, end, size=rng.poisson(top * end)))
    return times[rng.uniform(size=len(times)) * top < rate(times)]


def wave(times):
    return 20 * (1 + 0.9 * np.sin(2 * np.pi * times / 10))


@pytest.fixture(scope="module")
def sinusoid():
    times = process(wave, 38, 20, seed=1)
    model = LatentODE(**(SMALL | {"max_iter": 50})).fit_events([times], (0, 20))
    return model, times


class TestOneStream:
    def test_constant_rate_is_count_over_length(self):
        times = process(lambda t: np.full(len(t), 30.0), 30, 10)
        model = LatentODE(**(SMALL | {"max_iter": 25})).fit_events([times], (0, 10))
        grid = np.linspace(0, 10, 50)
        rate = model.intensity([times], grid)[0]
        assert np.abs(rate / (len(times) / 10) - 1).max() < 0.35
        expected = model.cumulative_intensity([times], [10.0])[0, 0]
        assert expected == pytest.approx(len(times), rel=0.1)

    def test_sinusoid(self, sinusoid):
        model, times = sinusoid
        grid = np.linspace(0.5, 19.5, 60)
        rate, std = model.intensity([times], grid, return_std=True)
        error = np.sqrt(np.mean((rate[0] - wave(grid)) ** 2))
        assert error < 0.4 * wave(grid).std()
        low, high = (x[0] for x in model.intensity_interval([times], grid, 0.9))
        assert (low < rate[0]).all() and (rate[0] < high).all() and (std > 0).all()
        inside = (low < wave(grid)) & (wave(grid) < high)
        assert inside.mean() > 0.7

    def test_rescaled_gaps_of_new_events_are_exponential(self, sinusoid):
        model, times = sinusoid
        new = process(wave, 38, 20, seed=3)
        rescaled = model.cumulative_intensity([times], new)[0]
        assert kstest(np.diff(rescaled, prepend=0), "expon").pvalue > 0.05
        raw = np.diff(new) * len(new) / 20
        assert kstest(raw, "expon").pvalue < 0.01

    def test_integral_of_the_rate(self, sinusoid):
        model, times = sinusoid
        fine = np.linspace(0, 20, 4001)
        rate = model.intensity([times], fine)[0]
        whole = model.cumulative_intensity([times], [5.0, 20.0])[0]
        np.testing.assert_allclose(np.trapezoid(rate, fine), whole[1], rtol=2e-3)
        part = fine <= 5
        np.testing.assert_allclose(
            np.trapezoid(rate[part], fine[part]), whole[0], rtol=5e-3
        )

    def test_scores(self, sinusoid):
        model, times = sinusoid
        even = np.log(len(times) / 20) - 1
        # Of thinned events the rate is a fifth.
        assert even - np.log(5) + 0.05 < model.held_out_score_
        new = process(wave, 38, 20, seed=2)
        true = np.log(wave(new)).mean() - 20 * 20 / len(new)
        score = model.score([new])
        assert even < score < true + 0.05
        both = model.score_samples([new, times])
        assert both[0] == pytest.approx(score * len(new))

    def test_drawn_events(self, sinusoid):
        model, times = sinusoid
        drawn = model.sample_events([times], 30, random_state=0)
        assert len(drawn) == 1 and len(drawn[0]) == 30
        together = np.concatenate(drawn[0])
        assert all((np.diff(own) >= 0).all() for own in drawn[0])
        expected = model.cumulative_intensity([times], np.arange(1, 21.0))[0]
        counts = np.histogram(together, np.arange(21))[0] / 30
        shares = np.diff(expected, prepend=0)
        np.testing.assert_allclose(counts, shares, atol=0.25 * shares.max())
        assert len(model.sample_events(n_samples=2)) == 2

    @pytest.mark.parametrize("scale", [1e-9, 1e9])
    def test_unit_of_time(self, sinusoid, scale):
        model, times = sinusoid
        options = SMALL | {"max_iter": 1}
        one = LatentODE(**options).fit_events(times, (0, 20))
        other = LatentODE(**options).fit_events(times * scale, (0, 20 * scale))
        np.testing.assert_allclose(
            other.intensity([times * scale], [3 * scale, 20 * scale]) * scale,
            one.intensity([times], [3.0, 20.0]),
            rtol=1e-6,
        )
        gain = np.log(scale)
        assert other.held_out_score_ + gain == pytest.approx(one.held_out_score_)
        assert other.score([times * scale]) + gain == pytest.approx(one.score([times]))

    @pytest.mark.parametrize("scale", [1e-200, 1e200])
    def test_deviations_in_extreme_units(self, scale):
        times = np.linspace(1, 9, 12)
        options = SMALL | {"max_iter": 1}
        parts = [
            LatentODE(**options)
            .fit_events([times * unit], (0, 10 * unit))
            .intensity([times * unit], [5 * unit], return_std=True)
            for unit in (1.0, scale)
        ]
        for plain, extreme in zip(*parts, strict=True):
            np.testing.assert_allclose(extreme * scale, plain, rtol=1e-6)


class TestManyStreams:
    def test_streams_have_rates_of_their_own(self):
        rng = np.random.default_rng(0)
        level = np.repeat([4.0, 40.0], 10)
        streams = [np.sort(rng.uniform(0, 1, size=rng.poisson(n))) for n in level]
        model = LatentODE(**(SMALL | {"max_iter": 35})).fit_events(
            streams, (0, 1), clock="even"
        )
        expected = model.cumulative_intensity(streams, [1.0])[:, 0]
        assert np.corrcoef(expected, level)[0, 1] > 0.9
        assert model.transform(streams).shape == (20, 15)
        alone = model.cumulative_intensity(streams[3:4], [1.0])
        np.testing.assert_allclose(alone, expected[3:4, None], rtol=1e-10)

    def test_kinds_and_own_windows(self):
        rng = np.random.default_rng(0)
        pairs, windows = [], []
        for _ in range(6):
            end = rng.uniform(2, 6)
            times = np.sort(rng.uniform(0, end, size=rng.poisson(12 * end)))
            kinds = np.where(rng.uniform(size=len(times)) < 0.25, "rare", "often")
            pairs.append((times, kinds))
            windows.append((0, end))
        streams = EventStreams(pairs, windows)
        model = LatentODE(**(SMALL | {"max_iter": 15})).fit_events(streams)
        assert model.event_kinds_.tolist() == ["often", "rare"]
        rate = model.intensity(streams, [0.5, 1.5])
        assert rate.shape == (6, 2, 2)
        # Windows that end early are no lack of events.
        np.testing.assert_allclose(rate.mean((0, 1)), [9, 3], rtol=0.3)
        own = model.intensity(streams)
        assert [x.shape for x in own] == [(len(times), 2) for times, _ in pairs]
        drawn = model.sample_events(streams, 3, random_state=0)
        for (times, kinds), (_, end) in zip(
            (d[0] for d in drawn), windows, strict=True
        ):
            assert (times <= end).all() and set(kinds) <= {"often", "rare"}
        with pytest.raises(ValueError, match="kind 'new'"):
            model.intensity([([1.0], ["new"])])
        with pytest.raises(ValueError, match="streams has none"):
            model.intensity([[1.0]])
        part = streams[2:4]
        np.testing.assert_allclose(model.intensity(part, [0.5]), rate[2:4, :1])
        assert len(part) == 2 and streams[0][1].dtype.kind == "U"


class TestClock:
    def test_reading_is_the_integral_of_the_speed(self):
        times = np.sort(np.random.default_rng(0).beta(2, 5, size=50))
        bandwidths = EventClock.usual_bandwidths(times)
        clock = EventClock.of_events(times, np.zeros(50, dtype=int), bandwidths)
        fine = np.linspace(0, 1, 40_001)
        np.testing.assert_allclose(np.trapezoid(clock.speed(fine), fine), 1, atol=1e-3)
        reading = clock.at(np.array([0.0, 0.3, 1.0]))
        np.testing.assert_allclose(reading[[0, 2]], [0, 1], atol=1e-12)
        part = fine <= 0.3
        area = np.trapezoid(clock.speed(fine[part]), fine[part])
        np.testing.assert_allclose(reading[1], area, atol=1e-3)
        np.testing.assert_allclose(clock.times(reading), [0, 0.3, 1], atol=1e-9)

    def test_even_events_have_an_even_clock(self):
        times = np.random.default_rng(0).uniform(size=400)
        clock = EventClock.of_events(
            times, np.zeros(400, dtype=int), EventClock.usual_bandwidths(times)
        )
        grid = np.linspace(0.05, 0.95, 50)
        assert np.abs(clock.speed(grid) - 1).max() < 0.3

    def test_rounded_times_get_no_sharp_kernels(self):
        times = np.round(np.random.default_rng(0).uniform(size=300), 2)
        assert EventClock.usual_bandwidths(times).min() >= 0.1
        assert not len(EventClock.usual_bandwidths(times[:5]))


class TestShares:
    def test_equal_likelihoods_count_alike(self):
        rates = np.full((2, 30), 3.0)
        np.testing.assert_allclose(clock_shares(rates, np.full(2, 10.0)), [0.5, 0.5])

    def test_the_likelier_counts_more_and_hopeless_ones_nothing(self):
        rates = np.stack([np.full(30, 3.0), np.full(30, 3.3)])
        first, second = clock_shares(rates, np.full(2, 30.0))
        odds = np.exp(0.2 * 30 * np.log(1.1))
        assert second / first == pytest.approx(odds)
        # More expected events are less likely, all else equal.
        assert clock_shares(rates[[0, 0]], np.array([30.0, 32.0]))[1] < 0.5
        rates[0] /= 10
        assert clock_shares(rates, np.full(2, 30.0)).tolist() == [0, 1]

    def test_rates_are_the_weighted_mean_of_both_clocks(self):
        times = np.random.default_rng(0).beta(2, 3, size=40) * 20
        times.sort()
        model = LatentODE(**(SMALL | {"max_iter": 2})).fit_events([times], (0, 20))
        shares = model.clock_shares_
        assert shares.sum() == pytest.approx(1) and (shares > 0).all()
        assert len(model.parameters_) == 10
        rate = model.intensity([times], [3.0, 8.0])
        total = 0
        for clock, share in enumerate(shares):
            one = deepcopy(model)
            own = slice(5 * clock, 5 * clock + 5)
            one.parameters_ = model.parameters_[own]
            one.clock_events_ = model.clock_events_[own]
            one.clock_weights_ = model.clock_weights_[own]
            one.clock_shares_ = np.eye(2)[clock]
            total = total + share * one.intensity([times], [3.0, 8.0])
        np.testing.assert_allclose(rate, total, rtol=1e-10)
        codes = model.transform([times])
        assert codes.shape[1] == len(model.get_feature_names_out()) == 30

    def test_spoiled_shares_are_refused(self, sinusoid):
        model = deepcopy(sinusoid[0])
        model.clock_shares_ = np.array([0.5, 0.6])
        with pytest.raises(ValueError, match="sum to one"):
            model._check_fitted_state()


def test_thinning_of_a_known_rate():
    def rates(times):
        return np.stack([300 * times, np.full(len(times), 50.0)], axis=1)

    random_state = np.random.RandomState(0)
    times, kinds = thinned_events(rates, 1.0, 3.0, random_state)
    expected = np.array([1200, 100])
    assert (np.abs(np.bincount(kinds) - expected) < 4 * np.sqrt(expected)).all()
    first = times[kinds == 0]
    assert kstest(np.sort(first), lambda t: (t**2 - 1) / 8).pvalue > 0.01


class TestForms:
    def test_edges(self):
        few = LatentODE(**(SMALL | {"max_iter": 2}))
        assert np.isfinite(few.fit_events([2.0]).intensity([2.0], [2.0])).all()
        model = few.fit_events([[1.0, 1.0, 1.0], [], [4.0]], (0, 5))
        rate = model.intensity([[], [1.0, 1.0]], [0.0, 5.0])
        assert rate.shape == (2, 2) and (rate > 0).all() and np.isfinite(rate).all()
        assert [len(x) for x in model.cumulative_intensity([[], [2.0]])] == [0, 1]

    def test_saved_and_pickled(self, sinusoid, tmp_path):
        model, times = sinusoid
        model.save(tmp_path / "model.safetensors")
        for again in (
            skfunc.load(tmp_path / "model.safetensors"),
            pickle.loads(pickle.dumps(model)),
        ):
            np.testing.assert_array_equal(
                again.intensity([times]), model.intensity([times])
            )

    def test_a_fit_to_series_forgets_events(self):
        model = LatentODE(**(SMALL | {"max_iter": 2})).fit_events([1.0, 2.0], (0, 3))
        with pytest.raises(ValueError, match="fitted to events without values"):
            model.predict(np.eye(4))
        with pytest.raises(ValueError, match="fitted to events without values"):
            model.sample(2)
        model.fit(np.eye(4))
        assert model.event_kinds_ is None and model.event_rates_ is None
        assert model.predict(np.eye(4)).shape == (4, 4)

    @pytest.mark.parametrize(
        ("streams", "options", "message"),
        [
            ([], {}, "streams must be a list"),
            ([[], []], {}, "no event at all"),
            ([[2.0, 1.0]], {}, "stream 0 must not decrease; position 1"),
            ([[1.0, np.nan]], {}, "must be finite"),
            ([["soon"]], {}, "stream 0 has times that are no numbers"),
            ([[1.0, 2.0]], {"window": (1.5, 3)}, "time 1, outside of its window"),
            ([[1.0]], {"window": (3, 3)}, "start before end"),
            ([[1.0]], {"window": [(0, 2), (0, 2)]}, "each of the 1 stream"),
            ([[1.0], ([1.0], ["a"])], {}, "either all streams have kinds"),
            ([[1.0]], {"n_folds": 1}, "n_folds must be an integer of at least 2"),
            ([[1.0]], {"clock": "sun"}, "clock='sun' is unknown"),
        ],
    )
    def test_refusals(self, streams, options, message):
        with pytest.raises(ValueError, match=message):
            LatentODE(**(SMALL | {"max_iter": 1})).fit_events(streams, **options)

    def test_refused_times(self, sinusoid):
        model, times = sinusoid
        with pytest.raises(ValueError, match="not be after the end of the window"):
            model.intensity([times], [21.0])
        with pytest.raises(ValueError, match="outside of the model's"):
            model.intensity(EventStreams([times], [(0, 30)]))
