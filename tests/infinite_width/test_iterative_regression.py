"""The whole path past memory: as the direct one, within its limit, and picklable."""

import pickle

import numpy as np
import pytest
import torch

from skfunc.infinite_width import layers as L
from skfunc.infinite_width._inference import Decomposition
from skfunc.infinite_width._iterative_regression import IterativeSolution

NET = L.Serial(
    L.Dense(1.5, 0.05), L.Relu(), L.Dense(1.5, 0.05), L.Relu(), L.Dense(1.5, 0.05)
)


def problem(n=300, outputs=None):
    rng = np.random.default_rng(0)
    X, X_test = rng.normal(size=(n, 3)), rng.normal(size=(20, 3))
    y = np.sin(2 * X[:, 0]) + 0.1 * rng.normal(size=n)
    if outputs is not None:
        y = y[:, None] * rng.normal(size=outputs)
    return X, y, np.resize([1, 2, 0.5], n), X_test


@pytest.mark.parametrize("solver", ["cg", "nystrom"])
@pytest.mark.parametrize("outputs", [None, 2])
def test_full_rank_is_exact(outputs, solver):
    X, y, weight, X_test = problem(outputs=outputs)
    grid = np.geomspace(1e-3, 1, 7)
    found = IterativeSolution(
        NET,
        X,
        y,
        grid,
        solver=solver,
        selection="loo",
        sample_weight=weight,
        rank=300,
        tol=1e-10,
        dtype=torch.float64,
    )
    exact = Decomposition(NET.kernel(X), y, weight)
    errors = exact.leave_one_out(grid).mean_squared_error()
    assert found.ridge == grid[errors.argmin()]
    np.testing.assert_allclose(
        found.mean(X_test), exact.mean(NET.kernel(X_test, X), found.ridge), atol=1e-7
    )
    np.testing.assert_allclose(
        found.leave_one_out().residual_variance(),
        exact.leave_one_out(found.ridge).residual_variance(),
        rtol=1e-2,
    )


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("solver", ["cg", "nystrom"])
def test_compact_and_pickle_change_nothing(solver, kind):
    X, y, _, X_test = problem()
    solution = IterativeSolution(
        NET, X, y, 0.05, solver=solver, kind=kind, rank=60, n_neighbors=40
    )
    before = [
        solution.mean(X_test),
        solution.variance(X_test),
        solution.covariance(X_test),
    ]
    assert (solution.report is None) == (solver == "nystrom")
    solution.compact()
    restored = pickle.loads(pickle.dumps(solution))
    after = [
        restored.mean(X_test),
        restored.variance(X_test),
        restored.covariance(X_test),
    ]
    for first, second in zip(before, after, strict=True):
        np.testing.assert_array_equal(first, second)
    assert not restored.low_rank.basis.numel()
    assert restored.operator.stored_bytes == 0
    if solver == "nystrom":
        with pytest.raises(RuntimeError, match="before compact"):
            restored.leave_one_out()
    else:
        assert restored.leave_one_out(n_rows=5).residuals.shape == (5,)


def test_images():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 27)), rng.normal(size=40)
    net = L.Serial(L.Conv(), L.Relu(), L.Flatten(), L.Dense())
    solution = IterativeSolution(net, X, y, 0.1, image_shape=(3, 3, 3), rank=20)
    alphas = Decomposition(net.kernel(X, image_shape=(3, 3, 3)), y).alphas(0.1)
    np.testing.assert_allclose(solution.alphas, alphas, atol=2e-3)
    assert (solution.variance(X[:3]) >= 0).all()


def test_memory_is_shared_out():
    X, y, _, _ = problem(n=500)
    solution = IterativeSolution(NET, X, y, [0.01, 0.1], max_memory=2**21)
    assert solution.report.peak_bytes <= 2**21
    with pytest.raises(ValueError, match="too few for 500 rows"):
        IterativeSolution(NET, X, y, 0.1, max_memory=10_000)
    with pytest.raises(ValueError, match="solver='lu'"):
        IterativeSolution(NET, X, y, 0.1, solver="lu")
