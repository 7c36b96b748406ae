"""Scoring rules of real targets against definitions, integrals and one another."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from skfunc.metrics import (
    _checks,
    crps_ensemble,
    crps_gaussian,
    gaussian_nll,
    interval_score,
)


@pytest.fixture
def gaussian():
    """Targets with Gaussian predictions that are neither right nor hopeless."""
    rng = np.random.default_rng(0)
    return rng.normal(size=7), rng.normal(size=7), rng.uniform(0.2, 3, size=7)


def crps_integral(y, distribution):
    """Gneiting and Raftery (2007), equation 20: the squared distance of the cdfs."""
    below, _ = quad(lambda x: distribution.cdf(x) ** 2, -np.inf, y)
    above, _ = quad(lambda x: distribution.sf(x) ** 2, y, np.inf)
    return below + above


def test_gaussian_nll_is_minus_the_log_density(gaussian):
    y, mean, std = gaussian
    expected = -norm.logpdf(y, mean, std).mean()
    assert gaussian_nll(y, mean, std) == pytest.approx(expected, rel=1e-14)


def test_crps_gaussian_is_its_integral(gaussian):
    expected = [
        crps_integral(y, norm(mean, std))
        for y, mean, std in zip(*gaussian, strict=True)
    ]
    assert crps_gaussian(*gaussian) == pytest.approx(np.mean(expected), rel=1e-7)


@pytest.mark.parametrize("z", [-1e6, -40.0, 0.0, 40.0, 1e6])
def test_crps_gaussian_far_from_the_mean(z):
    # E|X - y| tends to |y - mean|, and E|X - X'| / 2 is std / sqrt(pi).
    score = crps_gaussian([3 + 2 * z], [3.0], [2.0])
    if z == 0:
        assert score == pytest.approx(2 * (np.sqrt(2) - 1) / np.sqrt(np.pi))
    else:
        assert score == pytest.approx(2 * (abs(z) - 1 / np.sqrt(np.pi)), rel=1e-14)


def test_crps_gaussian_of_a_narrow_prediction_is_the_absolute_error(gaussian):
    y, mean, _ = gaussian
    narrow = np.full_like(y, 1e-9)
    assert crps_gaussian(y, mean, narrow) == pytest.approx(np.abs(y - mean).mean())


@pytest.mark.parametrize("fair", [False, True])
def test_crps_ensemble_is_its_double_sum(fair):
    rng = np.random.default_rng(1)
    y, draws = rng.normal(size=5), rng.normal(size=(5, 8)).round(1)
    expected = []
    for target, ensemble in zip(y, draws, strict=True):
        pairs = np.abs(ensemble[:, None] - ensemble).sum()
        divisor = 2 * 8 * (7 if fair else 8)
        expected.append(np.abs(ensemble - target).mean() - pairs / divisor)
    assert crps_ensemble(y, draws, fair=fair) == pytest.approx(np.mean(expected))


def test_crps_ensemble_of_many_draws_is_the_closed_form(gaussian):
    y, mean, std = gaussian
    # Quantiles at the midpoints of equal slices: an ensemble without sampling error.
    levels = (np.arange(20_000) + 0.5) / 20_000
    draws = norm.ppf(levels, mean[:, None], std[:, None])
    assert crps_ensemble(y, draws) == pytest.approx(
        crps_gaussian(y, mean, std), rel=1e-4
    )


def test_fair_crps_does_not_depend_on_the_number_of_draws():
    rng = np.random.default_rng(2)
    n = 40_000
    y = rng.normal(size=n)
    truth = crps_gaussian(y, np.zeros(n), np.ones(n))
    few = rng.normal(size=(n, 3))
    assert crps_ensemble(y, few, fair=True) == pytest.approx(truth, abs=0.01)
    # The plain score charges a third of the mean half-distance E|X - X'| / 2.
    bias = crps_ensemble(y, few) - truth
    assert bias == pytest.approx(1 / np.sqrt(np.pi) / 3, abs=0.01)


def test_crps_of_one_draw_is_the_absolute_error():
    assert crps_ensemble([1.0, 2.0], [[3.0], [2.5]]) == pytest.approx(1.25)
    with pytest.raises(ValueError, match="`draws` must hold at least two"):
        crps_ensemble([1.0], [[3.0]], fair=True)


def test_crps_ensemble_keeps_its_digits_at_a_high_level():
    rng = np.random.default_rng(3)
    y, draws = rng.integers(0, 99, 4), rng.integers(0, 99, (4, 50))
    assert crps_ensemble(y + 10**12, draws + 10**12) == crps_ensemble(y, draws)


def test_crps_ensemble_works_in_blocks(monkeypatch):
    rng = np.random.default_rng(4)
    y, draws = rng.normal(size=(33, 2)), rng.normal(size=(33, 2, 10))
    whole = crps_ensemble(y, draws, multioutput="raw_values")
    monkeypatch.setattr(_checks, "BLOCK_ELEMENTS", 70)
    blocks = crps_ensemble(y, draws, multioutput="raw_values")
    np.testing.assert_array_equal(whole, blocks)


def test_crps_ensemble_needs_little_memory_beside_the_draws():
    draws = np.zeros((40_000, 200), dtype=np.float32)
    tracemalloc.start()
    crps_ensemble(np.zeros(40_000), draws)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The draws as doubles would take 64 MB.
    assert peak < 40e6


def test_interval_score_by_hand():
    y = np.array([-1.0, 0.0, 0.5, 1.0, 4.0])
    score = interval_score(y, np.zeros(5), np.ones(5), 0.2)
    expected = np.mean([1 + 2 / 0.2 * 1, 1, 1, 1, 1 + 2 / 0.2 * 3])
    assert score == pytest.approx(expected, rel=1e-15)


def test_interval_score_of_an_unbounded_interval_is_infinite():
    assert interval_score([0.0, 1.0], [-np.inf, 0.0], [np.inf, 1.0]) == np.inf
    weighted = interval_score(
        [0.0, 1.0], [-np.inf, 0.0], [np.inf, 1.0], sample_weight=[0, 1]
    )
    assert weighted == 1.0


@pytest.mark.parametrize("score", [gaussian_nll, crps_gaussian])
def test_expected_score_is_smallest_at_the_truth(score):
    # A fine grid of quantiles of N(1, 2) stands for the distribution of the target.
    y = norm.ppf((np.arange(4000) + 0.5) / 4000, 1.0, 2.0)

    def expected(mean, std):
        return score(y, np.full_like(y, mean), np.full_like(y, std))

    truth = expected(1.0, 2.0)
    for mean, std in [(0.8, 2.0), (1.2, 2.0), (1.0, 1.8), (1.0, 2.2), (3.0, 4.0)]:
        assert expected(mean, std) > truth


def test_expected_interval_score_is_smallest_at_the_quantiles():
    y = norm.ppf((np.arange(4000) + 0.5) / 4000)
    low, high = norm.ppf([0.1, 0.9])

    def expected(lower, upper):
        return interval_score(y, np.full_like(y, lower), np.full_like(y, upper), 0.2)

    truth = expected(low, high)
    for shift in (-0.1, 0.1):
        assert expected(low + shift, high) > truth
        assert expected(low, high + shift) > truth


def test_expected_ensemble_score_is_smallest_at_the_truth():
    y = norm.ppf((np.arange(2000) + 0.5) / 2000)
    draws = norm.ppf((np.arange(500) + 0.5) / 500)

    def expected(shift, scale):
        return crps_ensemble(y, np.tile(shift + scale * draws, (2000, 1)))

    truth = expected(0.0, 1.0)
    for shift, scale in [(-0.1, 1.0), (0.1, 1.0), (0.0, 0.9), (0.0, 1.1)]:
        assert expected(shift, scale) > truth


def scores_of(rng, shape):
    """Every score of this file as a function of rows and weights."""
    y, mean = rng.normal(size=shape), rng.normal(size=shape)
    std = rng.uniform(0.5, 2, size=shape)
    draws = rng.normal(size=(*shape, 6))
    return [
        (gaussian_nll, (y, mean, std)),
        (crps_gaussian, (y, mean, std)),
        (crps_ensemble, (y, draws)),
        (interval_score, (y, mean - std, mean + std)),
    ]


@pytest.mark.parametrize("shape", [(9,), (9, 2)])
@pytest.mark.parametrize("which", range(4))
def test_weights_are_repeats(shape, which):
    score, arrays = scores_of(np.random.default_rng(5), shape)[which]
    repeats = np.array([0, 1, 2, 3, 1, 0, 4, 1, 2])
    repeated = [array.repeat(repeats, axis=0) for array in arrays]
    assert score(*arrays, sample_weight=repeats) == pytest.approx(
        score(*repeated), rel=1e-13
    )


@pytest.mark.parametrize("which", range(4))
def test_outputs_are_scored_one_by_one(which):
    score, arrays = scores_of(np.random.default_rng(6), (9, 3))[which]
    single = [score(*(array[:, k] for array in arrays)) for k in range(3)]
    np.testing.assert_allclose(score(*arrays, multioutput="raw_values"), single)
    assert score(*arrays) == pytest.approx(np.mean(single))
    weighted = score(*arrays, multioutput=[1.0, 0.0, 3.0])
    assert weighted == pytest.approx((single[0] + 3 * single[2]) / 4)


@pytest.mark.parametrize("score", [gaussian_nll, crps_gaussian])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, np.nan], [0.0, 0.0], [1.0, 1.0]), "`y` must be finite; got nan in row"),
        (([1.0, 2.0], [0.0, np.inf], [1.0, 1.0]), "`mean` must be finite; got inf"),
        (([1.0, 2.0], [0.0], [1.0, 1.0]), r"`mean` must have the shape of `y`, \(2,\)"),
        (([1.0, 2.0], [0.0, 0.0], [[1.0], [1.0]]), "`std` must have the shape of `y`"),
        (([1.0, 2.0], [0.0, 0.0], [1.0, 0.0]), "`std` must be positive; got 0.0"),
        (([1.0, 2.0], [0.0, 0.0], [-1.0, 1.0]), "`std` must be positive; got -1.0"),
        (([], [], []), "`y` must have shape .* at least one sample"),
        ((["a", "b"], [0.0, 0.0], [1.0, 1.0]), "`y` must be an array of real numbers"),
        (([1.0, None], [0.0, 0.0], [1.0, 1.0]), "`y`"),
        (([[1.0], [1.0, 2.0]], [0.0], [1.0]), "`y` must be a rectangular array"),
        (([1.0, 1j], [0.0, 0.0], [1.0, 1.0]), "`y` must be an array of real numbers"),
    ],
)
def test_bad_gaussians_are_named(score, arguments, message):
    with pytest.raises(ValueError, match=message):
        score(*arguments)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"sample_weight": [1.0]}, r"`sample_weight` must have shape \(2,\)"),
        ({"sample_weight": [1.0, -1.0]}, "`sample_weight` must be non-negative"),
        ({"sample_weight": [0.0, 0.0]}, "`sample_weight` must be non-negative"),
        ({"sample_weight": [1.0, np.nan]}, "`sample_weight` must be finite"),
        ({"multioutput": "median"}, "`multioutput` must be one of"),
        ({"multioutput": [1.0, 2.0]}, "`multioutput` must be .* each of the 1 outputs"),
        ({"multioutput": [-1.0]}, "`multioutput` must be"),
    ],
)
def test_bad_averages_are_named(keywords, message):
    with pytest.raises(ValueError, match=message):
        gaussian_nll([1.0, 2.0], [0.0, 0.0], [1.0, 1.0], **keywords)


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        ([[0.0, 1.0]], r"`draws` must have shape \(2, n_draws\).*got \(1, 2\)"),
        ([0.0, 1.0], r"`draws` must have shape \(2, n_draws\)"),
        ([[], []], r"`draws` must have shape \(2, n_draws\)"),
        ([[0.0, np.nan], [0.0, 1.0]], "`draws` must be finite; got nan in row 0"),
    ],
)
def test_bad_draws_are_named(draws, message):
    with pytest.raises(ValueError, match=message):
        crps_ensemble([0.0, 1.0], draws)


@pytest.mark.parametrize(
    ("lower", "upper", "alpha", "message"),
    [
        ([0.0, 2.0], [1.0, 1.0], 0.1, "`lower` must not exceed `upper`.*in row 1"),
        ([0.0, np.nan], [1.0, 1.0], 0.1, "`lower` must be finite or -inf; got nan"),
        ([0.0, np.inf], [1.0, np.inf], 0.1, "`lower` must be finite or -inf; got inf"),
        ([0.0], [1.0, 1.0], 0.1, "`lower` must have the shape of `y`"),
        ([0.0, 0.0], [1.0, 1.0], 1.0, r"`alpha` must lie strictly in \(0, 1\)"),
        ([0.0, 0.0], [1.0, 1.0], np.nan, "`alpha` must lie strictly"),
        ([0.0, 0.0], [1.0, 1.0], "0.1", "`alpha` must be a number"),
    ],
)
def test_bad_intervals_are_named(lower, upper, alpha, message):
    with pytest.raises(ValueError, match=message):
        interval_score([0.5, 0.5], lower, upper, alpha)


def test_column_and_row_targets_are_not_mixed():
    with pytest.raises(ValueError, match="`mean` must have the shape of `y`"):
        gaussian_nll(np.zeros((3, 1)), np.zeros(3), np.ones(3))
