"""Means, bands, draws and observations on the axes."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import BayesianRidge

from skfunc.plotting import PredictiveBandDisplay


@pytest.fixture(scope="module")
def curve():
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, size=(15, 1))
    y = np.sin(X[:, 0])
    return GaussianProcessRegressor(alpha=0.01).fit(X, y), X, y


@pytest.fixture(scope="module")
def table():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(1)
    X = pd.DataFrame(rng.normal(size=(30, 3)), columns=["a", "b", "c"])
    y = X["a"].to_numpy() + rng.normal(size=30)
    return BayesianRidge().fit(X, y), X, y


def extents(band):
    """Vertical extent of a band at each abscissa."""
    vertices = np.concatenate([path.vertices for path in band.get_paths()])
    return {
        x: (
            vertices[vertices[:, 0] == x, 1].min(),
            vertices[vertices[:, 0] == x, 1].max(),
        )
        for x in np.unique(vertices[:, 0])
    }


def test_one_feature_is_drawn_on_a_grid(curve):
    model, X, y = curve
    display = PredictiveBandDisplay.from_estimator(model, X, y, coverages=(0.9, 0.5))
    x = display.line_.get_xdata()
    np.testing.assert_array_equal(x, np.linspace(X.min(), X.max(), 200))
    mean, std = model.predict(x[:, None], return_std=True)
    np.testing.assert_allclose(display.line_.get_ydata(), mean)
    for band, coverage in zip(display.bands_, (0.9, 0.5), strict=True):
        assert isinstance(band, PolyCollection)
        low, high = extents(band)[x[7]]
        z = norm.ppf(0.5 + coverage / 2)
        assert (low, high) == pytest.approx(
            (mean[7] - z * std[7], mean[7] + z * std[7])
        )
    np.testing.assert_array_equal(
        display.scatter_.get_offsets(), np.column_stack([X[:, 0], y])
    )
    labels = display.ax_.get_legend_handles_labels()[1]
    assert set(labels) == {
        "90% interval",
        "50% interval",
        "GaussianProcessRegressor",
        "Observations",
    }


def test_narrow_bands_lie_over_wide_ones_and_are_darker(curve):
    display = PredictiveBandDisplay.from_estimator(*curve, coverages=(0.5, 0.95, 0.8))
    narrow, wide, middle = display.bands_
    drawn = [artist for artist in display.ax_.collections if artist in display.bands_]
    assert drawn == [wide, middle, narrow]
    assert wide.get_alpha() < middle.get_alpha() < narrow.get_alpha()


def test_rows_are_sorted_without_a_grid(curve):
    model, X, _ = curve
    display = PredictiveBandDisplay.from_estimator(model, X, grid_resolution=None)
    order = np.argsort(X[:, 0])
    np.testing.assert_array_equal(display.line_.get_xdata(), X[order, 0])
    np.testing.assert_array_equal(display.line_.get_ydata(), model.predict(X)[order])
    assert display.scatter_ is None


def test_draws_are_functions_at_the_points(curve):
    model, X, y = curve
    display = PredictiveBandDisplay.from_estimator(
        model, X, y, n_draws=4, grid_resolution=50, random_state=3
    )
    draws = model.sample_y(display.line_.get_xdata()[:, None], 4, random_state=3)
    assert len(display.draw_lines_) == 4
    for line, draw in zip(display.draw_lines_, draws.T, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), draw)
    assert display.ax_.get_legend_handles_labels()[1].count("Draws") == 1


def test_many_features_are_drawn_by_rank(table):
    model, X, y = table
    display = PredictiveBandDisplay.from_estimator(model, X, y)
    mean = model.predict(X)
    np.testing.assert_array_equal(display.line_.get_xdata(), np.arange(1, 31))
    np.testing.assert_array_equal(display.line_.get_ydata(), np.sort(mean))
    np.testing.assert_array_equal(
        display.scatter_.get_offsets()[:, 1], y[np.argsort(mean)]
    )
    assert display.ax_.get_xlabel() == "Rank of the prediction"


@pytest.mark.parametrize("feature", ["b", 1, -2])
def test_one_feature_of_many_is_drawn_by_bars(table, feature):
    model, X, y = table
    display = PredictiveBandDisplay.from_estimator(model, X, y, feature=feature)
    mean, std = model.predict(X, return_std=True)
    order = np.argsort(X["b"].to_numpy())
    np.testing.assert_array_equal(display.line_.get_xdata(), X["b"].to_numpy()[order])
    np.testing.assert_array_equal(display.line_.get_ydata(), mean[order])
    assert display.line_.get_linestyle() == "None"
    bars = display.bands_[1]
    assert isinstance(bars, LineCollection) and len(bars.get_segments()) == 30
    z = norm.ppf(0.95)
    row = order[4]
    np.testing.assert_allclose(
        bars.get_segments()[4],
        np.column_stack([[X["b"][row]] * 2, mean[row] + z * std[row] * np.r_[-1, 1]]),
    )
    assert display.ax_.get_xlabel() == "b"


def test_a_frame_of_one_column_keeps_its_name(table):
    _, X, y = table
    model = BayesianRidge().fit(X[["a"]], y)
    display = PredictiveBandDisplay.from_estimator(model, X[["a"]], y)
    assert display.ax_.get_xlabel() == "a" and len(display.line_.get_xdata()) == 200


def test_arrays_number_their_features(table):
    model, X, y = table
    model = BayesianRidge().fit(X.to_numpy(), y)
    display = PredictiveBandDisplay.from_estimator(model, X.to_numpy(), y, feature=2)
    assert display.ax_.get_xlabel() == "Feature 2"


def test_predictions_against_a_variable():
    x, mean = np.array([2.0, 0.0, 1.0]), np.array([5.0, 6.0, 7.0])
    display = PredictiveBandDisplay.from_predictions(
        mean + 1, mean, np.ones(3), x=x, x_label="time", coverages=[0.9]
    )
    np.testing.assert_array_equal(display.line_.get_xydata(), [[0, 6], [1, 7], [2, 5]])
    offsets = sorted(map(tuple, display.scatter_.get_offsets()))
    assert offsets == [(0, 7), (1, 8), (2, 6)]
    assert display.ax_.get_xlabel() == "time"


def test_styles_reach_their_artists(curve):
    display = PredictiveBandDisplay.from_estimator(
        *curve,
        n_draws=2,
        band_kwargs={"alpha": 0.1, "fc": "red"},
        draw_kwargs={"ls": ":"},
        scatter_kwargs={"s": 99},
    )
    assert all(band.get_alpha() == 0.1 for band in display.bands_)
    assert display.draw_lines_[0].get_linestyle() == ":"
    assert display.scatter_.get_sizes() == [99]


def test_legend_has_room_above_the_data(curve):
    display = PredictiveBandDisplay.from_estimator(*curve)
    display.figure_.canvas.draw()
    legend = display.ax_.get_legend().get_window_extent()
    legend = legend.transformed(display.ax_.transData.inverted())
    assert legend.y0 > display.ax_.dataLim.y1


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (
            {"feature": "d"},
            r"`feature` 'd' is no column of X; it has \['a', 'b', 'c'\]",
        ),
        ({"feature": 3}, "`feature` must be a column of X, which has 3; got 3"),
        ({"feature": 0.5}, "`feature` must be a column of X"),
        ({"coverages": [1.5]}, "`coverage` must lie strictly"),
        ({"y": [1.0]}, "`y` must have one target for each of the 30 rows"),
    ],
)
def test_bad_input_is_named(table, keywords, message):
    model, X, _ = table
    with pytest.raises(ValueError, match=message):
        PredictiveBandDisplay.from_estimator(model, X, **keywords)


def test_rows_must_be_a_table(table):
    with pytest.raises(ValueError, match=r"`X` must have shape .* got \(30,\)"):
        PredictiveBandDisplay.from_estimator(table[0], np.zeros(30))


def test_draws_need_a_method(table):
    with pytest.raises(TypeError, match="estimator with `sample_y` is needed"):
        PredictiveBandDisplay.from_estimator(*table, n_draws=1)
