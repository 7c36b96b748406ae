"""What the benchmarks of latent ODEs compare with is right."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(
    not (BENCHMARKS / "latent_ode.py").exists(), reason="needs the benchmarks folder"
)


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_values_are_carried_forward(load):
    peers = load("_recurrent_peers")
    values = torch.tensor([[[9.0, 0.0], [0.0, 3.0], [5.0, 0.0]]])
    mask = (values != 0).float()
    last, since = peers.carried_forward(values, mask, torch.full_like(values, 0.5))
    assert last[0].tolist() == [[9, 0], [9, 3], [5, 3]]
    assert since[0].tolist() == [[0, 0.5], [0.5, 0], [0, 0.5]]


def test_recurrent_network_goes_on_from_the_last_point(load):
    spirals = load("latent_ode")
    times = np.linspace(0, 1, 30)
    rng = np.random.default_rng(0)
    rows = spirals.observed_points(rng.normal(size=(20, 30, 2)), 15, 0)
    points, own = spirals.compact(rows, times)
    assert points.shape == (20, 15, 2) and (np.diff(own) > 0).all()
    forecast = spirals.GapForecast(rows, times)
    network = spirals.GapNetwork(8)
    # A step of (.1, -.2) whatever was read.
    torch.nn.init.zeros_(network.output.weight)
    with torch.no_grad():
        network.output.bias.copy_(torch.tensor([0.1, -0.2, 0.0, 0.0]))
    found = forecast.predict(network, rows, times, np.array([1.1, 1.2, 1.4]))
    # Given points are two steps apart: so far apart are those that are fed back.
    steps = np.array([1, 1, 2])[:, None] * [0.1, -0.2] * forecast.scale
    np.testing.assert_allclose(found, points[:, -1:] + steps, atol=1e-5)
    scaled = (points[-2:] - forecast.mean) / forecast.scale
    ahead = scaled[:, 6:7] + np.arange(1, 9)[:, None] * [0.1, -0.2]
    expected = np.mean((ahead - scaled[:, 7:]) ** 2)
    assert forecast.judge(network) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("task", ["interpolation", "extrapolation"])
def test_judged_points_are_not_given(load, task):
    hopper = load("latent_ode_hopper")
    series = np.random.default_rng(0).normal(size=(20, 100, 3))
    given = hopper.hide(series, task, 0)
    judged = hopper.judged(given, task)
    assert not (given & judged).any()
    assert judged.sum(axis=1).tolist() == [50] * 20
    last = hopper.simple(series, given, "last")
    np.testing.assert_array_equal(last[given], series[given])


def test_growth_is_what_a_season_leaves(load):
    carbon = load("latent_ode_co2")
    years = np.arange(1980, 1999, 0.04)
    ppm = 300 + 1.7 * (years - 1980) + 3 * np.sin(2 * np.pi * years)
    t, y, line = carbon.window(years, ppm, 1990.0)
    assert t.min() == pytest.approx(0, abs=0.04) and t.max() < 8
    season = 3 * np.sin(2 * np.pi * t)
    np.testing.assert_allclose(y - line, season, atol=0.1)
    ((mean, std),) = carbon.seasonal(years, ppm, [1990.0])
    np.testing.assert_allclose(mean, y[t >= carbon.CONTEXT], atol=0.05)
    assert std.max() < 0.05


def test_union_grid_reads_every_value_once(load):
    cost = load("latent_ode_cost")
    torch.manual_seed(0)
    series = cost.ragged_sines(3, 4, 0)
    union = cost.UnionGrid("rk4")
    first = union.loss(series)
    torch.manual_seed(1)
    second = union.loss(series[::-1])
    assert torch.isfinite(first) and torch.isfinite(second)
    # A series alone and among others has one encoding: the grid adds no reading.
    states = []
    union.readout.register_forward_hook(lambda *given: states.append(given[2]))
    union.loss(series[:1])
    union.loss(series)
    assert torch.allclose(states[0][0], states[1][0], atol=0.02)
