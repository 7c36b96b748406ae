"""The benchmark of intensive care: what is hidden, judged and summed up."""

import importlib
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(
    not (BENCHMARKS / "latent_ode_physionet.py").exists(),
    reason="needs the benchmarks folder",
)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("latent_ode_physionet")


@pytest.fixture
def stays():
    """Ward of 40 stays, 3 variables, the last of them constant."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 48, 3)).cumsum(1)
    values[..., 2] = 1.0
    values[rng.uniform(size=values.shape) < 0.5] = np.nan
    return values


def test_hidden_hours_are_judged_and_not_given(script, stays):
    task = script.Filling(stays, np.arange(30), np.arange(30, 40))
    assert task.judged[..., :2].any() and not task.judged[..., 2].any()
    assert np.isnan(task.given[task.judged]).all()
    # A whole hour is hidden at a time.
    hidden = np.isfinite(task.truth) & np.isnan(task.given)
    given = np.isfinite(task.given).any(2)
    assert not (hidden.any(2) & given).any()
    right = task.figures(np.nan_to_num(task.truth), np.ones(3))
    assert right["mse"] == 0
    assert right["nll"] == pytest.approx(0.5 * np.log(2 * np.pi))


def test_last_value_is_carried_forward(script, stays):
    task = script.Filling(stays, np.arange(30), np.arange(30, 40))
    series = np.full((1, 4, 1), np.nan)
    series[0, 1] = 3.0
    np.testing.assert_array_equal(task.last_value(series)[0, :, 0], [0, 3, 3, 3])


def test_summaries_of_a_line(script):
    values = np.full((1, 48, 2), np.nan)
    values[0, 12:37:12, 0] = [1.0, 2.0, 3.0]
    told = script.summaries(values, np.array([[7.0]]))[0]
    slope, last, mean, least, largest, std, first, latest, count = told[:18:2]
    assert slope == pytest.approx(0.5 / (0.125 + 0.03))
    assert (last, mean, least, largest) == (0.75, 2, 1, 3)
    assert (std, first, latest, count) == (pytest.approx(np.std([1, 2, 3])), 1, 3, 3)
    assert np.isnan(told[1:17:2]).all() and told[17] == 0 and told[18] == 7


def test_quick_form(script, monkeypatch, capsys):
    if not (script.data_folder() / "timeseries").exists():
        pytest.skip("needs the data sets, see SKFUNC_DATA")
    values, static, deaths = script.load()
    assert values.shape == (4000, 48, 37) and deaths.sum() == 554
    values, static, deaths = values[:200], static[:200], deaths[:200]
    train, test = np.arange(140), np.arange(140, 200)
    rows = script.foretell(values, static, deaths, train, test, quick=True)
    assert all(0 <= row["auc"] <= 1 for row in rows)
    rows = script.fill(values, train, test[:20], True, 1)
    assert [row["model"] for row in rows][-2:] == ["last value", "mean"]
    assert all(np.isfinite(row["nll"]) for row in rows)
