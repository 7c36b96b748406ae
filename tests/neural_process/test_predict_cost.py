"""The benchmark of the cost of predictions: its slopes, and that it runs."""

import importlib
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(
    not (BENCHMARKS / "predict_cost.py").exists(), reason="needs the benchmarks folder"
)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("predict_cost")


def test_slope_is_the_exponent_at_the_largest_sizes(script):
    sizes = [125, 250, 500, 1000, 2000, 4000]
    cubes = [1e-9 * n**3 + 1e-6 * (n < 1000) for n in sizes]
    assert script.slope(sizes, cubes) == pytest.approx(3.0)
    assert script.slope(sizes[:4], list(np.array(sizes[:4]))) == pytest.approx(1.0)


def test_benchmark_runs(script, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "VARIANTS", ("cnp", "tnp"))
    monkeypatch.setattr(script, "SIZES", (10, 20, 30))
    monkeypatch.setattr(script, "LARGEST", {"tnp": 20})
    monkeypatch.setattr(script, "FLOOR_SIZES", (20,))
    monkeypatch.setattr(script, "REPEATS", 1)
    monkeypatch.setattr(script, "QUICK_SIZES", (10, 20))
    files = ["--results", str(tmp_path), "--figures", str(tmp_path)]
    script.main(files)
    text = (tmp_path / "predict_cost.md").read_text()
    for name in (*script.VARIANTS, script.PROCESS):
        assert text.count(f"| {name} ") == 2
    assert (tmp_path / "predict_cost.png").stat().st_size > 10_000
    script.main(["--quick", "--results", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()
