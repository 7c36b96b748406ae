"""The benchmark of events: its peers and its judgement against closed forms."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(
    not (BENCHMARKS / "latent_ode_events.py").exists(),
    reason="needs the benchmarks folder",
)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("latent_ode_events")


def test_even_rate_has_the_likelihood_of_a_poisson_process(script):
    known, test = np.linspace(1, 9, 70), np.array([2.0, 4.0, 7.0])
    figures = script.judge(script.Even(known, (0, 10)), test, (0, 10))
    rate = 7.0 * 3 / 7
    exact = np.log(rate) - rate * 10 / 3
    assert figures["log likelihood"] == pytest.approx(exact)


def test_kernel_integrates_to_the_count(script):
    known = np.random.default_rng(0).beta(2, 5, size=60) * 10
    kernel = script.Kernel(known, (0, 10))
    fine = np.linspace(0, 10, 20_001)
    area = np.trapezoid(kernel.rate(fine), fine)
    assert area == pytest.approx(60, rel=1e-3)
    np.testing.assert_allclose(kernel.expected(np.array([0.0, 10.0])), [0, 60])
    # The bandwidth is the likeliest of the grid, each event left out in turn.
    left_out = []
    for h in script.BANDWIDTHS[::8]:
        total = 0.0
        for i in range(60):
            others = np.delete(known, i) / 10
            mass = norm.cdf((1 - others) / h) - norm.cdf(-others / h)
            density = norm.pdf((known[i] / 10 - others) / h) / (h * mass)
            total += np.log(max(density.mean(), 1e-300))
        left_out.append(total)
    direct = [kernel._left_out(h) for h in script.BANDWIDTHS[::8]]
    np.testing.assert_allclose(direct[4:], left_out[4:], rtol=1e-6)
    assert kernel._left_out(kernel.h) >= max(direct)


def test_quick_form(script, monkeypatch):
    times = np.sort(np.random.default_rng(0).uniform(0, 10, size=60))
    monkeypatch.setattr(script, "load", lambda name: (times, (0.0, 10.0)))
    rows = script.compare("coal", 0, quick=True)
    assert [row["model"] for row in rows][:2] == ["even rate", "kernel"]
    assert all(np.isfinite(row["log likelihood"]) for row in rows)
    own = {row["model"]: row["log likelihood"] for row in rows}
    assert own["likelier clock"] in (own["clock='even'"], own["clock='events'"])
    assert 0 <= rows[0]["share of even clock"] <= 1
    table = script.summarize(rows)
    assert "| coal | kernel |" in table and "1 of 1" in table


def test_sets_have_their_recorded_sizes(script):
    if not (script.data_folder() / "events").exists():
        pytest.skip("needs the data sets, see SKFUNC_DATA")
    for name, size in (("coal", 191), ("earthquakes", 526)):
        times, window = script.load(name)
        assert len(times) == size and (np.diff(times) >= 0).all()
        assert window[0] <= times[0] and times[-1] <= window[1]
