"""Coverage, PIT values and calibration error against counts done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import expon, kstest, norm

from skfunc.metrics import expected_calibration_error, interval_coverage, pit_values


def test_coverage_counts_the_edges():
    y = [0.0, 1.0, 2.0, 2.1]
    assert interval_coverage(y, [0.0] * 4, [2.0] * 4) == 0.75
    assert interval_coverage(y, [-np.inf] * 4, [np.inf] * 4) == 1.0


def test_coverage_weights_and_outputs():
    y = np.array([[0.0, 5.0], [1.0, 0.5], [9.0, 0.5]])
    lower, upper = np.zeros((3, 2)), np.ones((3, 2))
    both = interval_coverage(
        y, lower, upper, sample_weight=[2, 1, 1], multioutput="raw_values"
    )
    np.testing.assert_array_equal(both, [0.75, 0.5])
    assert interval_coverage(y, lower, upper) == pytest.approx(2 / 3)


def test_coverage_of_crossed_bounds_is_an_error():
    with pytest.raises(ValueError, match="`lower` must not exceed `upper`"):
        interval_coverage([0.0], [1.0], [0.0])


def test_pit_of_a_gaussian_is_its_distribution_function():
    rng = np.random.default_rng(0)
    y, mean = rng.normal(size=(2, 6, 2))
    std = rng.uniform(0.5, 2, size=(6, 2))
    expected = norm.cdf(y, mean, std)
    np.testing.assert_allclose(pit_values(y, mean, std), expected, rtol=1e-13)
    np.testing.assert_allclose(pit_values(y, cdf=norm(mean, std).cdf), expected)


def test_pit_is_uniform_for_the_right_model():
    rng = np.random.default_rng(1)
    scale = rng.uniform(0.5, 3, size=2000)
    y = rng.exponential(scale)
    draws = rng.exponential(scale[:, None], size=(2000, 9))
    assert kstest(pit_values(y, cdf=expon(scale=scale).cdf), "uniform").pvalue > 0.1
    assert kstest(pit_values(y, draws=draws), "uniform").pvalue > 0.1
    # A Gaussian of the same mean and deviation is not the right model.
    assert kstest(pit_values(y, scale, scale), "uniform").pvalue < 1e-6


def test_pit_of_draws_with_ties_is_uniform():
    rng = np.random.default_rng(2)
    y, draws = rng.poisson(2.0, size=4000), rng.poisson(2.0, size=(4000, 5))
    assert kstest(pit_values(y, draws=draws), "uniform").pvalue > 0.1


def test_pit_of_draws_is_a_rank():
    draws = np.array([[0.0, 1.0, 2.0]] * 3)
    values = pit_values([-1.0, 0.5, 5.0], draws=draws)
    np.testing.assert_array_equal(np.floor(values * 4), [0, 1, 3])
    np.testing.assert_array_equal(values, pit_values([-1.0, 0.5, 5.0], draws=draws))
    other = pit_values([-1.0, 0.5, 5.0], draws=draws, random_state=1)
    assert (other != values).all()


def test_pit_of_draws_takes_outputs():
    rng = np.random.default_rng(3)
    y, draws = rng.normal(size=(50, 2)), rng.normal(size=(50, 2, 4))
    values = pit_values(y, draws=draws)
    assert values.shape == (50, 2)
    below = (draws < y[..., None]).sum(axis=-1)
    np.testing.assert_array_equal(np.floor(values * 5), below)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, "exactly one predictive distribution"),
        ({"mean": [0.0], "std": [1.0], "draws": [[0.0]]}, "exactly one predictive"),
        ({"mean": [0.0]}, "got no `std`"),
        ({"std": [1.0]}, "got no `mean`"),
        ({"mean": [0.0], "std": [0.0]}, "`std` must be positive"),
        ({"draws": [[np.nan]]}, "`draws` must be finite"),
        ({"draws": [0.0]}, r"`draws` must have shape \(1, n_draws\)"),
        ({"cdf": lambda y: y + 2}, r"`cdf` must return values in \[0, 1\]"),
        ({"cdf": lambda y: 0.5}, r"`cdf\(y\)` must have the shape of `y`"),
    ],
)
def test_bad_predictive_distributions_are_named(keywords, message):
    with pytest.raises(ValueError, match=message):
        pit_values([1.0], **keywords)


def reference_error(y, proba, n_bins, weights):
    """Top-label error over uniform bins, one row at a time."""
    total = [0.0] * n_bins
    for label, row, weight in zip(y, proba, weights, strict=True):
        top = max(range(len(row)), key=lambda column: row[column])
        for b in range(n_bins):
            if b / n_bins < row[top] <= (b + 1) / n_bins:
                total[b] += weight * ((top == label) - row[top])
    return sum(abs(gap) for gap in total) / sum(weights)


@pytest.mark.parametrize("n_bins", [1, 7, 15])
def test_calibration_error_is_its_loop(n_bins):
    rng = np.random.default_rng(4)
    proba = rng.dirichlet([0.5, 1, 2], size=200)
    y = rng.integers(0, 3, size=200)
    weights = rng.uniform(size=200)
    error = expected_calibration_error(y, proba, n_bins=n_bins, sample_weight=weights)
    assert error == pytest.approx(reference_error(y, proba, n_bins, weights))


def test_calibration_error_by_hand():
    # Bins (0.5, 0.75] and (0.75, 1]: two rows at 0.6, one right; three at 0.9, all
    # right. 2/5 of |0.5 - 0.6| and 3/5 of |1 - 0.9|.
    proba = np.array([[0.6, 0.4], [0.4, 0.6], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])
    y = np.array(["no", "no", "no", "no", "yes"])
    assert expected_calibration_error(y, proba, n_bins=4) == pytest.approx(0.1)
    # Column "no": bins of 0.1, 0.4, 0.6, 0.9 with frequencies 0, 1, 1, 1.
    by_class = (0.1 + 0.6 + 0.4 + 2 * 0.1) / 5
    error = expected_calibration_error(y, proba, n_bins=10, norm="classwise")
    assert error == pytest.approx(by_class)


def test_one_column_is_the_second_class():
    y, p = ["a", "b", "b"], np.array([0.2, 0.7, 0.4])
    two = np.column_stack([1 - p, p])
    assert expected_calibration_error(y, p) == expected_calibration_error(y, two)


def test_quantile_bins_hold_equal_weight():
    # Ten distinct confidences in two bins of five: within a bin, gaps cancel.
    confidence = np.linspace(0.55, 0.95, 10)
    proba = np.column_stack([1 - confidence, confidence])
    y = np.array([1, 0, 1, 1, 0, 1, 1, 1, 0, 1])
    gaps = (y == 1) - confidence
    expected = (abs(gaps[:5].sum()) + abs(gaps[5:].sum())) / 10
    error = expected_calibration_error(y, proba, n_bins=2, strategy="quantile")
    assert error == pytest.approx(expected)


def test_quantile_bins_do_not_split_ties():
    proba = np.full((8, 2), 0.5)
    y = np.array([0, 1] * 4)
    error = expected_calibration_error(y, proba, n_bins=5, strategy="quantile")
    assert error == 0.0


@pytest.mark.parametrize("norm", ["top-label", "classwise"])
@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_calibration_weights_are_repeats(norm, strategy, scale):
    rng = np.random.default_rng(5)
    proba = rng.dirichlet([1, 1, 1], size=60)
    y = rng.integers(0, 3, size=60)
    repeats = rng.integers(0, 4, size=60)
    options = {"n_bins": 6, "norm": norm, "strategy": strategy, "labels": [0, 1, 2]}
    weighted = expected_calibration_error(
        y, proba, sample_weight=scale * repeats, **options
    )
    repeated = expected_calibration_error(
        y.repeat(repeats), proba.repeat(repeats, axis=0), **options
    )
    assert weighted == pytest.approx(repeated, rel=1e-10)


def test_calibration_error_of_the_truth_vanishes():
    rng = np.random.default_rng(6)
    proba = rng.dirichlet([1, 1, 1], size=50_000)
    y = (rng.uniform(size=(50_000, 1)) > proba.cumsum(axis=1)).sum(axis=1)
    for norm_ in ("top-label", "classwise"):
        assert expected_calibration_error(y, proba, norm=norm_) < 0.01
        sharper = proba**2 / (proba**2).sum(axis=1, keepdims=True)
        assert expected_calibration_error(y, sharper, norm=norm_) > 0.05


def test_labels_order_the_columns():
    proba = [[0.9, 0.1], [0.8, 0.2]]
    assert expected_calibration_error(
        ["z", "z"], proba, labels=["z", "a"]
    ) == pytest.approx(0.15)
    assert expected_calibration_error(
        ["z", "z"], proba, labels=["a", "z"]
    ) == pytest.approx(0.85)


def test_probabilities_in_single_precision_pass():
    rng = np.random.default_rng(7)
    logits = rng.normal(size=(50, 1000)).astype(np.float32)
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = rng.integers(0, 1000, size=50)
    assert expected_calibration_error(y, proba, labels=range(1000)) >= 0


@pytest.mark.parametrize(
    ("y", "proba", "keywords", "message"),
    [
        ([0, 1], [[0.5, 0.6], [0.5, 0.5]], {}, "`proba` must have rows that sum to"),
        ([0, 1], [[1.5, -0.5], [0.5, 0.5]], {}, r"`proba` must lie in \[0, 1\]"),
        ([0, 1], [[np.nan, 1.0], [0.5, 0.5]], {}, "`proba` must be finite"),
        ([0, 1], [[1.0], [1.0]], {}, r"`proba` must have shape"),
        ([0, 1, 1], [[0.5, 0.5]] * 2, {}, r"`y` must have shape \(2,\)"),
        ([0.0, np.nan], [[0.5, 0.5]] * 2, {}, "`y` must not contain NaN"),
        ([0, 0], [[0.5, 0.5]] * 2, {}, "give `labels`"),
        ([0, 1], [[0.5, 0.5]] * 2, {"labels": [0, 1, 2]}, "3 `labels`"),
        ([0, 1], [[0.5, 0.5]] * 2, {"labels": [0, 0]}, "`labels` must be a list of"),
        ([0, 1], [[0.5, 0.5]] * 2, {"labels": [0, 2]}, r"not in `labels`: \[1\]"),
        ([0, 1], [[0.5, 0.5]] * 2, {"n_bins": 0}, "`n_bins` must be an integer"),
        ([0, 1], [[0.5, 0.5]] * 2, {"n_bins": 2.0}, "`n_bins` must be an integer"),
        ([0, 1], [[0.5, 0.5]] * 2, {"strategy": "kmeans"}, "`strategy` must be one of"),
        ([0, 1], [[0.5, 0.5]] * 2, {"norm": "l2"}, "`norm` must be one of"),
        ([0, 1], [[0.5, 0.5]] * 2, {"sample_weight": [1]}, "`sample_weight` must have"),
    ],
)
def test_bad_probabilities_are_named(y, proba, keywords, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(y, proba, **keywords)


def test_labels_of_mixed_types_are_named():
    y = np.array([0, "b"], dtype=object)
    with pytest.raises(ValueError, match="`y` must hold labels of one type"):
        expected_calibration_error(y, [[0.5, 0.5]] * 2)
