"""The coverage curve and its band."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm

from skfunc.metrics import interval_coverage
from skfunc.plotting import CoverageDisplay


class Uniform:
    """Predicts the uniform distribution on [0, 1], and counts its passes."""

    passes = 0

    def predict(self, X):
        return np.full(len(X), 0.5)

    def predict_interval(self, X, coverage=0.9):
        self.passes += 1
        return np.tile([0.5 - coverage / 2, 0.5 + coverage / 2], (len(X), 1))


class UniformQuantiles(Uniform):
    def predict_quantiles(self, X, alpha):
        self.passes += 1
        assert (np.diff(alpha) > 0).all()
        return np.tile(alpha, (len(X), 1))


def test_curve_is_the_share_inside():
    y = np.array([0.0, 1.0, -2.0, 0.5])
    display = CoverageDisplay.from_predictions(
        y, np.zeros(4), np.ones(4), coverages=[0.5, 0.9]
    )
    z = norm.ppf([0.75, 0.95])
    expected = [(np.abs(y) <= half_width).mean() for half_width in z]
    np.testing.assert_array_equal(display.observed, expected)
    np.testing.assert_array_equal(display.line_.get_xdata(), [0.5, 0.9])
    np.testing.assert_array_equal(display.line_.get_ydata(), expected)
    assert display.ax_.get_xlim() == display.ax_.get_ylim() == (0, 1)


@pytest.mark.parametrize(
    ("model", "passes"), [(Uniform(), 19), (UniformQuantiles(), 1)]
)
def test_intervals_of_the_estimator_come_first(model, passes):
    X, y = np.zeros((1000, 1)), (np.arange(1000) + 0.5) / 1000
    display = CoverageDisplay.from_estimator(model, X, y)
    np.testing.assert_allclose(display.observed, display.nominal, atol=1e-3)
    assert model.passes == passes


def test_weights_enter_the_curve_and_the_band():
    y, weights = np.array([0.0, 5.0, 0.1]), np.array([1.0, 3.0, 0.0])
    display = CoverageDisplay.from_predictions(
        y, np.zeros(3), np.ones(3), coverages=[0.9], sample_weight=weights
    )
    assert display.observed[0] == 0.25
    assert display.n_samples == round(16 / 10)


def test_band_is_binomial_around_the_diagonal():
    rng = np.random.default_rng(0)
    y = rng.normal(size=50)
    display = CoverageDisplay.from_predictions(y, np.zeros(50), np.ones(50))
    np.testing.assert_array_equal(display.ref_line_.get_xydata(), [[0, 0], [1, 1]])
    vertices = display.band_.get_paths()[0].vertices
    at_half = vertices[np.isclose(vertices[:, 0], 0.5), 1]
    np.testing.assert_allclose(
        [at_half.min(), at_half.max()], binom.ppf([0.025, 0.975], 50, 0.5) / 50
    )


def test_reference_can_be_left_out():
    display = CoverageDisplay([0.5], [0.4], n_samples=10).plot(ref_line=False)
    assert display.ref_line_ is None and display.band_ is None
    assert len(display.ax_.lines) == 1 and display.ax_.get_legend() is None
    bare = CoverageDisplay([0.5], [0.4]).plot()
    assert bare.ref_line_ is not None and bare.band_ is None


def test_curve_and_metric_agree():
    rng = np.random.default_rng(1)
    y, mean, std = rng.normal(size=30), rng.normal(size=30), rng.uniform(1, 2, 30)
    display = CoverageDisplay.from_predictions(y, mean, std, coverages=0.8)
    z = norm.ppf(0.9)
    expected = interval_coverage(y, mean - z * std, mean + z * std)
    assert display.observed == [expected]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"coverages": [0.5, 1.0]}, "`coverages` must lie strictly"),
        ({"std": np.zeros(5)}, "`std` must be positive"),
        ({"mean": np.zeros(4)}, "`mean` must have the shape of `y_true`"),
    ],
)
def test_bad_input_is_named(keywords, message):
    arguments = {"y_true": np.zeros(5), "mean": np.zeros(5), "std": np.ones(5)}
    with pytest.raises(ValueError, match=message):
        CoverageDisplay.from_predictions(**{**arguments, **keywords})
