import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

pytestmark = pytest.mark.skipif(
    not (BENCHMARKS / "density_growth.py").exists(), reason="needs the benchmarks"
)


@pytest.fixture
def growth(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("density_growth")


def test_planar_density_integrates_to_one(growth):
    torch.manual_seed(0)
    flow = growth.PlanarFlow(8)
    with torch.no_grad():
        # Steps large enough to matter, some against the bound of invertibility.
        flow.u.mul_(20)
        flow.log_scale.copy_(torch.tensor([0.3, -0.4]))
    axis = np.linspace(-25, 25, 501)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    mass = np.exp(growth.log_density(flow, grid)).sum() * (axis[1] - axis[0]) ** 2
    assert mass == pytest.approx(1, abs=0.01)


def test_planar_training_keeps_the_best_epoch(growth):
    rows = growth.moons(500, 0)
    flow, judged, n_steps = growth.fit_planar(2, rows, 0.2, 1e-2, 0)
    held_out = growth.log_density(flow, rows[: growth.HELD_OUT])
    assert -held_out.mean() == pytest.approx(judged, abs=1e-4)
    assert n_steps >= growth.EPOCH_STEPS
