"""The benchmarks of decisions run, and write what they say."""

import csv
import importlib
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(
    not (BENCHMARKS / "wheel_bandit.py").exists(), reason="needs the benchmarks folder"
)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_bayesian_optimization(script, tmp_path):
    module = script("bayesian_optimization")
    options = ["--functions", "3", "--results", str(tmp_path)]
    module.main(["--models", "true GP", *options])
    rows = rows_of(tmp_path / "bayesian_optimization.csv")
    assert [int(row["function"]) for row in rows] == [0, 1, 2]
    steps = {name: [int(row[name]) for row in rows] for name in ("random", "true GP")}
    assert np.mean(steps["true GP"]) < np.mean(steps["random"])
    assert max(steps["random"]) <= len(module.GRID)
    text = (tmp_path / "bayesian_optimization.md").read_text()
    assert f"{np.mean(steps['random']):.1f}" in text


def test_ratio_of_means(script):
    ratio = script("bayesian_optimization").ratio
    rng = np.random.default_rng(0)
    steps, reference = rng.uniform(1, 2, (2, 4000))
    value, error = ratio(steps, reference)
    assert value == pytest.approx(steps.mean() / reference.mean())
    # The delta method, for independent numerator and denominator.
    relative = [x.std() / x.mean() / np.sqrt(4000) for x in (steps, reference)]
    assert error == pytest.approx(value * np.hypot(*relative), rel=0.05)
    # A model of few functions is held against the same ones.
    few, _ = ratio(steps[:10], reference)
    assert few == pytest.approx(steps[:10].mean() / reference[:10].mean())


def test_table_of_a_slow_model(script, tmp_path, monkeypatch):
    module = script("bayesian_optimization")
    monkeypatch.setitem(module.FUNCTIONS_OF_SLOW, "true GP", 2)
    options = ["--functions", "3", "--results", str(tmp_path)]
    module.main(["--models", "true GP", *options])
    rows = rows_of(tmp_path / "bayesian_optimization.csv")
    assert [bool(row["true GP"]) for row in rows] == [True, True, False]
    assert all(row["random"] for row in rows)


def test_wheel_bandit(script, tmp_path):
    module = script("wheel_bandit")
    options = ["--trials", "2", "--rounds", "600", "--deltas", "0.5"]
    module.main(["--agents", "uniform", "exact", *options, "--results", str(tmp_path)])
    rows = rows_of(tmp_path / "wheel_bandit.csv")
    assert [row["agent"] for row in rows] == ["uniform"] * 2 + ["exact"] * 2
    regret = [float(row["regret"]) for row in rows]
    assert np.mean(regret[:2]) == pytest.approx(100, abs=15)
    assert np.mean(regret[2:]) < 10
    assert "delta 0.5" in (tmp_path / "wheel_bandit.md").read_text()


def test_tasks_of_wheels(script):
    tasks = script("wheel_bandit").wheel_tasks(0)
    assert len(tasks) == 64
    X, y = tasks[0]
    assert X.shape == (562, 7) and y.shape == (562,)
    assert (X[:, 2:].sum(1) == 1).all()
