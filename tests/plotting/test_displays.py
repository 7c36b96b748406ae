"""What every display does alike."""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.linear_model import BayesianRidge, LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skfunc import plotting
from skfunc.plotting import CoverageDisplay, PITDisplay, PredictiveBandDisplay

DISPLAYS = [CoverageDisplay, PITDisplay, PredictiveBandDisplay]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 2))
    return X, X[:, 0] + 0.5 * rng.normal(size=80)


@pytest.fixture(scope="module")
def model(data):
    return BayesianRidge().fit(*data)


def main_artist(display):
    return display.bars_[0] if hasattr(display, "bars_") else display.line_


def test_public_names():
    assert set(plotting.__all__) == {display.__name__ for display in DISPLAYS}


@pytest.mark.parametrize("Display", DISPLAYS)
def test_estimator_and_predictions_agree(Display, data, model):
    X, y = data
    one = Display.from_estimator(model, X, y)
    two = Display.from_predictions(y, *model.predict(X, return_std=True))
    assert one.figure_ is not two.figure_
    if Display is PITDisplay:
        np.testing.assert_array_equal(one.pit_values, two.pit_values)
    else:
        np.testing.assert_array_equal(one.line_.get_xydata(), two.line_.get_xydata())
    names = [d.ax_.get_legend_handles_labels()[1] for d in (one, two)]
    assert "BayesianRidge" in names[0] and "BayesianRidge" not in names[1]


@pytest.mark.parametrize("Display", DISPLAYS)
def test_axes_and_names_are_taken(Display, data, model):
    _, ax = plt.subplots()
    display = Display.from_estimator(model, *data, ax=ax, name="mine")
    assert display.ax_ is ax and display.figure_ is ax.figure
    again = display.plot(name="other")
    assert again is display and display.ax_ is not ax
    assert "mine" in ax.get_legend_handles_labels()[1]
    assert "other" in display.ax_.get_legend_handles_labels()[1]


@pytest.mark.parametrize("Display", DISPLAYS)
def test_keywords_and_their_aliases_reach_the_artist(Display, data, model):
    key = "fc" if Display is PITDisplay else "c"
    display = Display.from_estimator(model, *data, **{key: "#00ff00", "lw": 3})
    artist = main_artist(display)
    assert artist.get_linewidth() == 3
    color = artist.get_facecolor() if key == "fc" else artist.get_color()
    assert plt.matplotlib.colors.same_color(color[:3] if key == "fc" else color, "lime")


@pytest.mark.parametrize("Display", DISPLAYS)
def test_second_display_on_the_same_axes_differs_in_colour(Display, data, model):
    one = Display.from_estimator(model, *data)
    two = Display.from_estimator(model, *data, ax=one.ax_, name="two")

    def color(display):
        artist = main_artist(display)
        return artist.get_facecolor() if Display is PITDisplay else artist.get_color()

    assert color(one) != color(two)
    labels = one.ax_.get_legend_handles_labels()[1]
    assert labels.count("Calibrated") <= 1


@pytest.mark.parametrize("Display", DISPLAYS)
def test_pipelines_and_searches(Display, data, model):
    X, y = data
    pipeline = make_pipeline(StandardScaler(), BayesianRidge())
    search = GridSearchCV(pipeline, {"bayesianridge__tol": [1e-3]}, cv=2).fit(X, y)
    display = Display.from_estimator(search, X, y)
    expected = Display.from_estimator(search.best_estimator_, X, y)
    assert "GridSearchCV" in display.ax_.get_legend_handles_labels()[1]
    if Display is PITDisplay:
        np.testing.assert_array_equal(display.pit_values, expected.pit_values)
    else:
        np.testing.assert_array_equal(
            display.line_.get_ydata(), expected.line_.get_ydata()
        )


@pytest.mark.parametrize("Display", DISPLAYS)
def test_several_targets_are_an_error(Display, data):
    X, y = data
    with pytest.raises(ValueError, match=f"{Display.__name__} shows one target"):
        Display.from_predictions(*np.ones((3, 80, 2)))
    model = LinearRegression().fit(X, np.column_stack([y, y]))
    with pytest.raises((ValueError, TypeError), match="one target|return_std"):
        Display.from_estimator(model, X, np.column_stack([y, y]))


@pytest.mark.parametrize("Display", DISPLAYS)
def test_missing_matplotlib_says_how_to_install(Display, data, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    message = rf"{Display.__name__}.plot needs .* `pip install skfunc\[plot\]`"
    with pytest.raises(ImportError, match=message):
        Display.from_estimator(model, *data)


def test_importing_the_displays_does_not_import_matplotlib():
    import subprocess

    code = "import sys, skfunc.plotting; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("Display", DISPLAYS)
def test_figures_can_be_drawn(Display, data, model):
    Display.from_estimator(model, *data).figure_.canvas.draw()
