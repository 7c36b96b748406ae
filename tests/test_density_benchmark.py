"""Benchmarks of densities: the recipe of FFJORD, and how the table counts."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

pytestmark = pytest.mark.skipif(
    not (BENCHMARKS / "density_ffjord.py").exists(), reason="needs the benchmarks"
)


@pytest.fixture
def ffjord(monkeypatch):
    pytest.importorskip("torchdiffeq")
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("density_ffjord")


@pytest.fixture
def density(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("density")


def rows_of(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 2)) * [1.0, 0.5]


def test_trace_of_the_recipe_is_the_jacobians(ffjord):
    torch.manual_seed(0)
    field = ffjord.Field(3).double()
    traced = ffjord.Traced(field)
    x, t = torch.randn(4, 3).double(), torch.tensor(0.3).double()
    jacobians = torch.stack(
        [
            torch.autograd.functional.jacobian(lambda y: field(t, y[None])[0], row)
            for row in x
        ]
    )
    exact = jacobians.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(traced(t, (x.clone(), None))[1], exact)
    estimates = []
    for signs in torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 3):
        traced.probe = signs.expand_as(x)
        estimates.append(traced(t, (x.clone(), None))[1])
    torch.testing.assert_close(torch.stack(estimates).mean(0), exact)


def test_field_that_stands_still_is_the_normal(ffjord):
    traced = ffjord.Traced(ffjord.Field(2))
    for value in traced.parameters():
        value.data.zero_()
    rows = torch.as_tensor(rows_of(5), dtype=torch.float32)
    expected = -0.5 * (rows**2).sum(1) - math.log(2 * math.pi)
    torch.testing.assert_close(ffjord.log_prob(traced, rows), expected)


def test_quick_curves_of_both(ffjord):
    train, test = rows_of(100), rows_of(50, 1)
    recipe = ffjord.run_recipe(train, test, 0.3)
    ours = ffjord.run_ours(train, test, (1,))
    assert recipe[-1]["cpu_s"] >= 0.3 and recipe[-1]["steps"] >= 1
    assert all(math.isfinite(point["nll"]) for point in [*recipe, *ours])


def test_seconds_to_the_recipes_best(ffjord):
    def points(*pairs):
        return [{"cpu_s": s, "nll": v} for s, v in pairs]

    curve = {
        "recipe": points((10, 3.0), (20, 2.0), (30, 2.1)),
        "ours": points((1, 2.5), (2, 1.9), (8, 1.5)),
    }
    line = ffjord.summarize({"moons": curve}).splitlines()[-1]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells == ["moons", "2.000", "20", "1.900", "2", "10", "1.500 in 8"]
    curve["ours"] = points((1, 2.5))
    assert "not reached" in ffjord.summarize({"moons": curve})


def test_counts_pool_the_splits(density):
    def row(model, split, nll, gain, error):
        figures = {"nll": nll, "minus_ours": gain, "paired_error": error, "fit_s": 1}
        cell = {"dataset": "moons", "split": split, "model": model, "status": "ok"}
        return cell | figures | {"n_train": 10, "n_features": 2}

    rows = [row("CNFDensity", k, 2.0, 0.0, 0.0) for k in (0, 1)]
    rows += [row("mixture-BIC", 0, 1.8, -0.2, 0.09)]
    rows += [row("zuko-NSF", 0, 3.0, 1.0, 0.1)]
    text = density.summarize(rows)
    assert "on 0 of 1 sets (worse on moons)" in text
    assert "better than zuko-NSF in the mean on 1 of 1 sets." in text
    # The second split makes up for the first.
    rows += [row("mixture-BIC", 1, 2.3, 0.3, 0.09)]
    text = density.summarize(rows)
    assert "pooled, on 1 of 1 sets." in text
    assert "better than mixture-BIC in the mean on 1 of 1 sets." in text
