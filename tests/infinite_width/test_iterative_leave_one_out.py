"""Residuals of rows left out, and ridges, from parts of the rows."""

import numpy as np
import pytest
import torch

from skfunc.infinite_width import layers as L
from skfunc.infinite_width._inference import Decomposition
from skfunc.infinite_width._iterative_leave_one_out import (
    grouped_leave_one_out,
    local_leave_one_out,
    ridge_of_subset,
    sample_rows,
)
from skfunc.infinite_width._iterative_operator import KernelOperator
from skfunc.infinite_width._iterative_preconditioner import pivoted_cholesky

NET = L.Serial(
    L.Dense(1.5, 0.05), L.Relu(), L.Dense(1.5, 0.05), L.Relu(), L.Dense(1.5, 0.05)
)


def problem(n=400, outputs=None):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 4))
    y = np.sin(2 * X[:, 0]) + 0.1 * rng.normal(size=n)
    if outputs is not None:
        y = y[:, None] * rng.normal(size=outputs)
    weight = np.resize([1, 2, 0.5, 4], n)
    operator = KernelOperator(NET, X, sample_weight=weight)
    return operator, y, Decomposition(NET.kernel(X), y, weight)


@pytest.mark.parametrize("outputs", [None, 2])
def test_all_neighbours_are_exact(outputs):
    operator, _, exact = problem(outputs=outputs)
    rows = [3, 17, 399]
    found = local_leave_one_out(
        operator, exact.alphas(0.1), 0.1, rows, n_neighbors=1000
    )
    expected = exact.leave_one_out(0.1)
    np.testing.assert_allclose(found.residuals, expected.residuals[rows], rtol=1e-8)
    np.testing.assert_allclose(found.variances, expected.variances[rows], rtol=1e-8)


@pytest.mark.parametrize("ridge", [0.001, 0.1, 1.0])
def test_neighbours_bound_the_variances_closely(ridge):
    operator, _, exact = problem()
    rows = sample_rows(400, 100, 0)
    found = local_leave_one_out(
        operator, exact.alphas(ridge), ridge, rows, n_neighbors=100
    )
    ratio = found.variances / exact.leave_one_out(ridge).variances[rows]
    assert ratio.min() > 1 - 1e-9
    assert np.median(ratio) < 1.1


@pytest.mark.parametrize("outputs", [None, 2])
def test_groups_give_all_rows(outputs):
    operator, _, exact = problem(outputs=outputs)
    marks = pivoted_cholesky(operator, 60).landmarks
    for ridge in (0.001, 0.1):
        expected = exact.leave_one_out(ridge)
        alphas = exact.alphas(ridge)
        whole = grouped_leave_one_out(operator, alphas, ridge, marks, n_neighbors=400)
        np.testing.assert_allclose(whole.residuals, expected.residuals, rtol=1e-7)
        found = grouped_leave_one_out(operator, alphas, ridge, marks, n_neighbors=100)
        ratio = found.variances / expected.variances
        assert ratio.min() > 1 - 1e-9
        assert np.median(ratio) < 1.2
        np.testing.assert_allclose(
            found.residual_variance(), expected.residual_variance(), rtol=0.3
        )


def test_a_group_larger_than_its_neighbourhood():
    operator, _, exact = problem()
    found = grouped_leave_one_out(
        operator, exact.alphas(0.1), 0.1, torch.tensor([0]), n_neighbors=50
    )
    assert np.isfinite(found.residuals).all()
    assert (found.variances > exact.leave_one_out(0.1).variances * (1 - 1e-9)).all()


def test_repeated_rows_are_their_own_neighbours():
    operator, y, _ = problem(n=20)
    X = operator.rows.repeat(5, 1)
    repeated = KernelOperator(NET, X)
    exact = Decomposition(NET.kernel(X), np.tile(y, 5))
    found = local_leave_one_out(
        repeated, exact.alphas(0.1), 0.1, [0, 40], n_neighbors=5
    )
    expected = exact.leave_one_out(0.1).variances[[0, 40]]
    np.testing.assert_allclose(found.variances, expected, rtol=0.05)


@pytest.mark.parametrize("score", ["lml", "loo"])
def test_the_ridge_of_all_rows_is_exact(score):
    operator, y, exact = problem()
    grid = np.geomspace(1e-3, 10, 9)
    if score == "lml":
        scores = exact.log_marginal_likelihood(grid)
    else:
        scores = -exact.leave_one_out(grid).mean_squared_error()
    assert ridge_of_subset(operator, y, grid, score=score) == grid[scores.argmax()]


def test_the_ridge_of_a_part_is_seeded():
    operator, y, _ = problem()
    grid = np.geomspace(1e-3, 10, 9)
    ridges = {
        ridge_of_subset(operator, y, grid, n_rows=100, random_state=1) for _ in range(2)
    }
    assert len(ridges) == 1 and ridges < set(grid)


def test_rows_are_distinct():
    rows = sample_rows(100, 30, 0)
    assert len(set(rows)) == 30 and (np.diff(rows) > 0).all()
    assert len(sample_rows(20, 30, 0)) == 20
    assert torch.as_tensor(rows).max() < 100
