"""The one-dimensional benchmark: its references, its training, and that it runs."""

import csv
import importlib
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp

from skfunc.datasets import gp_log_likelihood, make_gp_tasks

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(
    not (BENCHMARKS / "neural_process_1d.py").exists(),
    reason="needs the benchmarks folder",
)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def parts(tasks, i):
    n, m = int(tasks.context_mask[i].sum()), int(tasks.target_mask[i].sum())
    return tasks.X[i, : n + m, 0], tasks.y[i, : n + m], n, m


def true_place(module, tasks, i):
    values = np.array([tasks.lengthscale[i], tasks.scale[i], tasks.period[i]])
    return (values - module._RANGES[:, 0]) / np.ptp(module._RANGES, axis=1)


@pytest.mark.parametrize("k", range(3))
def test_condition_at_the_truth_is_the_exact_process(script, k):
    module = script("_gp_posterior")
    tasks = make_gp_tasks(5, module.KERNELS[k], random_state=k)
    marginal = gp_log_likelihood(tasks)
    joint = gp_log_likelihood(tasks, joint=True)
    for i in range(5):
        X, y, n, m = parts(tasks, i)
        place = true_place(module, tasks, i)[None]
        draws = module.condition(np.array([k]), place, X, y, n)
        error = (y[n:] - draws.mean[0]) ** 2 / draws.variance[0]
        logs = -0.5 * (np.log(2 * np.pi * draws.variance[0]) + error)
        assert logs.mean() == pytest.approx(marginal[i], abs=1e-6)
        assert draws.joint[0] / m == pytest.approx(joint[i], abs=1e-6)


def test_mixture_density_is_that_of_its_draws(script):
    module = script("_gp_posterior")
    rng = np.random.default_rng(0)
    kind = rng.integers(3, size=400)
    place = rng.uniform(0.3, 0.7, (400, 3))
    draws = module.Draws(kind, place, *[np.zeros(400)] * 2, *[np.zeros((400, 1))] * 2)
    log_weights = -5 * (kind != 0) - 20 * (place[:, 0] - 0.5) ** 2
    mixture = module.Mixture.around(draws, log_weights, 0, rng)
    n = 20_000
    of_kind, drawn = mixture.sample(n, rng)
    # Integrated over a box by Monte Carlo, the density is the share of draws in it.
    for k in range(3):
        low, high = np.array([0.4, 0.35, 0.0]), np.array([0.5, 0.6, 1.0])
        uniform = low + (high - low) * rng.uniform(size=(n, 3))
        density = np.exp(mixture.log_density(np.full(n, k), uniform))
        inside = (of_kind == k) & ((drawn >= low) & (drawn <= high)).all(1)
        expected = density.mean() * np.prod(high - low)
        assert inside.sum() / n == pytest.approx(expected, abs=0.015)


def test_posterior_agrees_with_many_draws_of_the_prior(script):
    module = script("_gp_posterior")
    rng = np.random.default_rng(1)
    tasks = make_gp_tasks(30, "rbf", random_state=3)
    # Few context points, so that plain importance sampling converges.
    i = int(np.argmin(tasks.context_mask.sum(1)))
    X, y, n, m = parts(tasks, i)
    draws, log_weights = module.posterior(X, y, n, rng)
    assert logsumexp(log_weights) == pytest.approx(0, abs=1e-9)
    many = 20_000
    plain = module.condition(
        rng.integers(3, size=many), rng.uniform(size=(many, 3)), X, y, n
    )
    plain_weights = plain.log_evidence - logsumexp(plain.log_evidence)
    for weights in (log_weights, plain_weights):
        assert np.exp(-logsumexp(2 * weights)) > 200
    mean = np.exp(log_weights) @ draws.mean
    expected = np.exp(plain_weights) @ plain.mean
    np.testing.assert_allclose(mean, expected, atol=0.05)
    joint = logsumexp(log_weights + draws.joint) / m
    assert joint == pytest.approx(logsumexp(plain_weights + plain.joint) / m, abs=0.1)


def test_batches_and_finished_trainings_are_found_again(script, tmp_path):
    module = script("_gp_training")
    batches = module.training_batches(2, 0, 0)
    first = [next(batches) for _ in range(70)]
    later = next(module.training_batches(2, 0, 69))
    assert later.context_x.equal(first[69].context_x)
    assert later.target_y.equal(first[69].target_y)
    setup = module.Setup("cnp", 0.3, {"width": 8}, batch_size=2)
    trained = module.train("cnp", setup, tmp_path, 0)
    again = module.train("cnp", setup, tmp_path, 0)
    assert trained.steps == again.steps > 0
    for one, other in zip(
        trained.network.parameters(), again.network.parameters(), strict=True
    ):
        assert one.equal(other)


def test_benchmark_runs(script, tmp_path, monkeypatch):
    monkeypatch.setenv("SKFUNC_CACHE", str(tmp_path / "cache"))
    module = script("neural_process_1d")
    options = ["--seconds", "0.3", "--tasks", "12", "--few", "2", "--no-peer"]
    folders = ["--results", str(tmp_path), "--figures", str(tmp_path)]
    module.main(["--models", "cnp", "np", *options, *folders])
    with (tmp_path / "neural_process_1d.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    of_exact = [r for r in rows if r["model"] == "exact GP" and r["kernel"] == "rbf"]
    assert len({row["context"] for row in of_exact}) > 1
    exact = gp_log_likelihood(make_gp_tasks(12, "rbf", random_state=1000)).mean()
    assert f"{exact:.3f}" in (tmp_path / "neural_process_1d.md").read_text()
    assert (tmp_path / "neural_process_1d.png").stat().st_size > 10_000
