"""The benchmark of solvers: its floor computes what the estimator computes."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

pytestmark = pytest.mark.skipif(
    not (BENCHMARKS / "sde_solvers.py").exists(), reason="needs the benchmarks folder"
)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("sde_solvers")


@pytest.fixture
def data(script):
    generator = np.random.default_rng(0)
    X = generator.normal(size=(24, 3))
    y = X[:, 0] + 0.1 * generator.normal(size=24)
    return script.Split(X[:16], y[:16], X[16:], y[16:])


def test_floor_has_the_losses_and_gradients_of_the_estimator(script, data):
    model = script.estimator("ou/backprop", 1)
    problem = script.Problem(data, 16)
    # Raises where the losses differ.
    problem.floor(model)
    expected = problem.step(model)()
    stack, flat = problem.network(model)
    loop = script.TightLoop(stack.split(flat), script.N_STEPS, model.sigma)
    gradients = loop.gradients(problem.x, problem.y, loop.draw_as_skfunc(1))
    found = torch.cat([value.flatten(1) for value in gradients], dim=1)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-4


def test_rows_are_kept_and_not_computed_again(script, data, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "N_STEPS", 2)
    monkeypatch.setattr(script, "BATCHES", (8, 16))
    path = tmp_path / "rows.csv"
    for setting in (script.FLOOR, "ou/backprop", "heun/checkpoint"):
        script.append(path, script.measure(setting, data, 2, 1))
    script.append(path, {"setting": "ou/adjoint", "status": "failed: why"})
    rows = script.read(path)
    assert list(rows) == [
        script.FLOOR,
        "ou/backprop",
        "heun/checkpoint",
        "ou/adjoint",
    ]
    assert all(float(rows["ou/backprop"][name]) for name in script.TITLES)
    text = script.report(rows, 1)
    assert "ou/adjoint (failed: why)" in text and script.FLOOR in text
