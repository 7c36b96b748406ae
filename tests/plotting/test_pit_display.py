"""The histogram of PIT values, its line and its band."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, expon
from sklearn.linear_model import LogisticRegression

from skfunc.metrics import pit_values
from skfunc.plotting import PITDisplay


class Exponential:
    """Draws from the exponential distribution; no mean, no deviation."""

    def sample(self, X, n_samples=1, random_state=None):
        rng = np.random.RandomState(random_state)
        return rng.exponential(size=(len(X), n_samples))


def heights(display):
    return np.array([bar.get_height() for bar in display.bars_])


def test_bars_are_the_density_of_the_values():
    values = np.array([0.0, 0.05, 0.3, 0.6, 0.99, 1.0])
    display = PITDisplay(values, n_bins=4).plot()
    np.testing.assert_allclose(heights(display), np.array([2, 1, 1, 2]) / 6 * 4)
    assert [bar.get_x() for bar in display.bars_] == [0.0, 0.25, 0.5, 0.75]
    assert display.ax_.get_xlim() == (0, 1)
    assert display.ax_.get_ylim()[1] > heights(display).max()


def test_line_and_band_are_those_of_a_calibrated_model():
    display = PITDisplay(np.linspace(0, 1, 200), n_bins=10).plot()
    np.testing.assert_array_equal(display.ref_line_.get_ydata(), [1, 1])
    edges = display.band_.get_paths()[0].get_extents().intervaly
    np.testing.assert_allclose(edges, binom.ppf([0.025, 0.975], 200, 0.1) / 20)
    assert ((edges[0] <= heights(display)) & (heights(display) <= edges[1])).all()


def test_reference_can_be_left_out():
    display = PITDisplay([0.2, 0.7]).plot(ref_line=False)
    assert display.ref_line_ is None and display.band_ is None


def test_weights_are_repeats():
    values, repeats = np.array([0.1, 0.4, 0.8]), np.array([1, 3, 2])
    weighted = PITDisplay(values, n_bins=5, sample_weight=repeats).plot()
    repeated = PITDisplay(values.repeat(repeats), n_bins=5).plot()
    np.testing.assert_allclose(heights(weighted), heights(repeated))


def test_draws_of_the_estimator_come_first():
    rng = np.random.default_rng(0)
    X, y = np.zeros((400, 1)), rng.exponential(size=400)
    display = PITDisplay.from_estimator(Exponential(), X, y, n_draws=50)
    draws = Exponential().sample(X, n_samples=50, random_state=0)
    np.testing.assert_array_equal(display.pit_values, pit_values(y, draws=draws))
    assert heights(display).max() < 1.5


def test_predictions_by_distribution_function():
    y = np.random.default_rng(1).exponential(size=50)
    display = PITDisplay.from_predictions(y, cdf=expon().cdf, n_bins=3)
    np.testing.assert_allclose(display.pit_values, expon.cdf(y))
    assert len(display.bars_) == 3


def test_neighbours_with_a_common_axis_both_fit():
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, 2, sharey=True)
    PITDisplay(np.full(9, 0.5)).plot(axes[0])
    PITDisplay(np.linspace(0, 1, 9)).plot(axes[1])
    assert axes[0].get_ylim()[1] > 10


@pytest.mark.parametrize("n_bins", [0, 2.5, True])
def test_bad_bins_are_named(n_bins):
    with pytest.raises(ValueError, match="`n_bins` must be an integer of at least 1"):
        PITDisplay([0.5], n_bins=n_bins).plot()


def test_classifiers_are_an_error():
    class Labels(LogisticRegression):
        def sample(self, X, n_samples=1, random_state=None):
            raise AssertionError

    X, y = np.eye(2), [0, 1]
    with pytest.raises(TypeError, match="Labels is a classifier"):
        PITDisplay.from_estimator(Labels().fit(X, y), X, y)
