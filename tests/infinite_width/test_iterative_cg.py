"""Conjugate gradients: the direct solvers' numbers, and what happens at the limits."""

import numpy as np
import pytest
import torch
from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning

from skfunc.infinite_width import layers as L
from skfunc.infinite_width._inference_cholesky import RidgeSolution
from skfunc.infinite_width._iterative_cg import ConjugateGradientSolution
from skfunc.infinite_width._iterative_operator import KernelOperator
from skfunc.infinite_width._iterative_preconditioner import pivoted_cholesky

NET = L.Serial(
    L.Dense(1.5, 0.05), L.Relu(), L.Dense(1.5, 0.05), L.Relu(), L.Dense(1.5, 0.05)
)
DOUBLE = torch.float64


def problem(n=300, outputs=None, weighted=False):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 4))
    y = np.sin(2 * X[:, 0]) + 0.1 * rng.normal(size=n)
    if outputs is not None:
        y = y[:, None] * rng.normal(size=outputs) + 0.1 * rng.normal(size=(n, outputs))
    weight = np.resize([1, 2, 0.5, 4], n) if weighted else None
    return X, y, weight, rng.normal(size=(30, 4))


@pytest.mark.parametrize("preconditioned", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("outputs", [None, 3])
def test_agrees_with_cholesky(outputs, weighted, preconditioned):
    X, y, weight, X_test = problem(outputs=outputs, weighted=weighted)
    operator = KernelOperator(NET, X, dtype=DOUBLE, sample_weight=weight, tile_rows=64)
    low_rank = pivoted_cholesky(operator, 60) if preconditioned else None
    found = ConjugateGradientSolution(operator, y, 0.05, low_rank, tol=1e-11)
    expected = RidgeSolution(NET.kernel(X), y, 0.05, weight)
    assert found.report.converged and found.ridge == 0.05
    np.testing.assert_allclose(found.alphas, expected.alphas, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(
        found.mean(X_test), expected.mean(NET.kernel(X_test, X)), atol=1e-8
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_float32_reaches_the_tolerance(weighted):
    X, y, weight, X_test = problem(weighted=weighted)
    operator = KernelOperator(NET, X, sample_weight=weight, tile_rows=64)
    low_rank = pivoted_cholesky(operator, 60)
    found = ConjugateGradientSolution(operator, y, 0.05, low_rank, tol=1e-6)
    assert found.report.residuals.max() <= 1e-6
    expected = RidgeSolution(NET.kernel(X), y, 0.05, weight)
    np.testing.assert_allclose(
        found.mean(X_test), expected.mean(NET.kernel(X_test, X)), atol=1e-4
    )


def test_the_preconditioner_saves_iterations():
    X, y, _, _ = problem()
    operator = KernelOperator(NET, X, dtype=DOUBLE)
    counts = [
        ConjugateGradientSolution(
            operator, y, 0.1, pivoted_cholesky(operator, rank) if rank else None
        ).report.n_iter
        for rank in (0, 30, 150, 300)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[2] < counts[0] / 3
    assert counts[3] <= 2


def test_columns_do_not_disturb_each_other():
    X, y, _, _ = problem(outputs=3)
    # Columns of other sizes, one of zeros.
    y = y * np.array([1e-6, 1.0, 1e6])
    y = np.c_[y, np.zeros(len(y))]
    operator = KernelOperator(NET, X, dtype=DOUBLE)
    low_rank = pivoted_cholesky(operator, 60)
    together = ConjugateGradientSolution(operator, y, 0.05, low_rank, tol=1e-11)
    for column in range(3):
        alone = ConjugateGradientSolution(
            operator, y[:, column], 0.05, low_rank, tol=1e-11
        )
        scale = np.abs(alone.alphas).max()
        np.testing.assert_allclose(
            together.alphas[:, column] / scale, alone.alphas / scale, atol=1e-8
        )
    np.testing.assert_array_equal(together.alphas[:, 3], 0.0)
    assert together.report.history.shape == (together.report.n_iter + 1, 4)
    assert together.report.peak_bytes > operator.stored_bytes


def test_too_few_iterations_warn_once_and_stay_finite():
    X, y, _, _ = problem(outputs=2)
    operator = KernelOperator(NET, X)
    with pytest.warns(
        ConvergenceWarning, match="3 iterations .* residual of"
    ) as record:
        found = ConjugateGradientSolution(operator, y, 1e-3, max_iter=3)
    assert len(record) == 1
    assert not found.report.converged and found.report.n_iter == 3
    assert np.isfinite(found.alphas).all()


def test_a_tolerance_beyond_the_digits_stops_with_a_warning():
    X, y, _, _ = problem()
    operator = KernelOperator(NET, X)
    low_rank = pivoted_cholesky(operator, 60)
    with pytest.warns(ConvergenceWarning, match="residual of"):
        found = ConjugateGradientSolution(operator, y, 0.05, low_rank, tol=1e-18)
    assert found.report.residuals.max() < 1e-10
    assert found.report.n_iter < 500


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_repeated_rows_without_ridge(dtype):
    X, y, _, X_test = problem(n=100)
    X, y = np.r_[X, X[:30]], np.r_[y, y[:30]]
    operator = KernelOperator(NET, X, dtype=dtype)
    low_rank = pivoted_cholesky(operator, 130)
    with pytest.warns(LinAlgWarning, match="raised") as record:
        found = ConjugateGradientSolution(operator, y, 0.0, low_rank, tol=1e-4)
    assert len(record) == 1
    assert found.ridge > 0
    assert np.isfinite(found.alphas).all() and np.isfinite(found.mean(X_test)).all()
    np.testing.assert_allclose(found.mean(X), y, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tol": 0.0}, "tol"),
        ({"max_iter": 0}, "max_iter"),
        ({"ridge": -1.0}, "ridge"),
        ({"targets": np.ones(3)}, "targets"),
        ({"targets": np.full(50, np.nan)}, "NaN"),
    ],
)
def test_bad_input_is_named(change, message):
    X, y, _, _ = problem(n=50)
    arguments = {"targets": y, "ridge": 0.1} | change
    with pytest.raises(ValueError, match=message):
        ConjugateGradientSolution(KernelOperator(NET, X), **arguments)


@pytest.mark.parametrize("spread", [0.1, 0.2])
def test_a_ridge_below_the_rounding_of_float32_products_is_solved_for(spread):
    # Rows so alike that the largest eigenvalue is nearly n times the diagonal, and a
    # tolerance beyond what products in float32 with it can show.
    rng = np.random.default_rng(0)
    X = 1 + spread * rng.normal(size=(600, 3))
    y = X[:, 0] - X[:, 0].mean()
    net = L.Serial(*[L.Dense(1.0, 1.0), L.Relu()] * 2, L.Dense(1.0, 1.0))
    operator = KernelOperator(net, X, tile_rows=128)
    ridge = 1e-4 * float(operator.diagonal().mean())
    low_rank = pivoted_cholesky(operator, 3)
    solution = ConjugateGradientSolution(operator, y, ridge, low_rank, tol=1e-6)
    dense = np.asarray(operator.product(torch.eye(600, dtype=torch.float64)))
    system = dense + ridge * np.eye(600)
    residual = np.linalg.norm(system @ solution.alphas - y) / np.linalg.norm(y)
    assert residual < 2e-6
    assert solution.report.residuals.max() <= solution.report.history[0].max() == 1.0


def test_exact_products_take_over_from_noisy_ones():
    class Noisy(KernelOperator):
        def product(self, V, *, exact=False):
            product = super().product(V, exact=exact)
            noise = torch.as_tensor(np.random.default_rng(1).normal(size=V.shape))
            return product + (0 if exact else 0.2 * product.norm() * noise)

    operator = Noisy(NET, np.random.default_rng(0).normal(size=(80, 3)))
    solution = ConjugateGradientSolution(
        operator, np.ones(80), 0.01 * float(operator.diagonal().mean()), tol=1e-5
    )
    assert solution.report.converged
