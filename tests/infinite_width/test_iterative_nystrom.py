"""Pivoted Cholesky, Nystrom features, and local variances, against dense algebra."""

import numpy as np
import pytest
import torch
from scipy.linalg import LinAlgWarning

from skfunc.infinite_width import layers as L
from skfunc.infinite_width._inference import Decomposition
from skfunc.infinite_width._inference_cholesky import RidgeSolution
from skfunc.infinite_width._inference_ensemble import ensemble_covariance
from skfunc.infinite_width._iterative_nystrom import NystromSolution
from skfunc.infinite_width._iterative_operator import KernelOperator
from skfunc.infinite_width._iterative_preconditioner import (
    default_rank,
    pivoted_cholesky,
)
from skfunc.infinite_width._iterative_spread import PosteriorSpread

NET = L.Serial(
    L.Dense(1.5, 0.05), L.Relu(), L.Dense(1.5, 0.05), L.Relu(), L.Dense(1.5, 0.05)
)


def problem(n=120, outputs=None, weighted=False, kind="nngp"):
    rng = np.random.default_rng(0)
    X, X_test = rng.normal(size=(n, 4)), rng.normal(size=(30, 4))
    y = np.sin(2 * X[:, 0]) + 0.1 * rng.normal(size=n)
    if outputs is not None:
        y = y[:, None] * rng.normal(size=outputs) + 0.1 * rng.normal(size=(n, outputs))
    weight = np.resize([1, 2, 0.5, 4], n) if weighted else None
    operator = KernelOperator(NET, X, kind=kind, sample_weight=weight)
    return operator, X, y, weight, X_test


def dense(operator):
    """Return S, from columns in float64."""
    return operator.columns(torch.arange(operator.shape[0])).numpy()


@pytest.mark.parametrize("weighted", [False, True])
def test_the_factor_is_a_nystrom_approximation(weighted):
    operator, X, _, _, X_test = problem(weighted=weighted)
    S = dense(operator)
    low_rank = pivoted_cholesky(operator, 40, block=16)
    marks = low_rank.landmarks.numpy()
    assert len(set(marks)) == low_rank.rank == 40
    nystrom = S[:, marks] @ np.linalg.solve(S[np.ix_(marks, marks)], S[marks])
    basis, values = low_rank.basis.numpy(), low_rank.eigenvalues.numpy()
    np.testing.assert_allclose((basis * values) @ basis.T, nystrom, atol=1e-9)
    np.testing.assert_allclose(basis.T @ basis, np.eye(40), atol=1e-9)
    np.testing.assert_allclose(
        low_rank.residual, (S - nystrom).diagonal(), atol=1e-9 * S.max()
    )
    assert np.linalg.eigvalsh(S - nystrom)[0] > -1e-9
    features = low_rank.features(operator.test_columns(X, low_rank.landmarks))
    np.testing.assert_allclose(
        operator.root_weight[:, None] * features, basis * np.sqrt(values), atol=1e-8
    )
    inverse = np.linalg.inv(nystrom + 0.3 * np.eye(len(S)))
    solved = low_rank.solve(torch.eye(len(S), dtype=torch.float64), 0.3)
    np.testing.assert_allclose(solved, inverse, atol=1e-8)
    np.testing.assert_allclose(
        (1 - low_rank.fitted_diagonal(0.3)) / 0.3, inverse.diagonal(), atol=1e-8
    )


def test_landmarks_follow_the_law_of_one_by_one():
    operator, X, _, _, _ = problem(n=5)
    S = dense(operator)
    # Chances of the first two landmarks, in order.
    first = S.diagonal() / np.trace(S)
    chances = np.empty((5, 5))
    for i in range(5):
        left = (S - np.outer(S[:, i], S[i]) / S[i, i]).diagonal().clip(0)
        chances[i] = first[i] * left / left.sum()
    counts = np.zeros((5, 5))
    generator = np.random.default_rng(0)
    for _ in range(600):
        marks = pivoted_cholesky(operator, 2, random_state=generator, block=4).landmarks
        counts[tuple(marks.numpy())] += 1
    error = np.abs(counts / 600 - chances)
    assert error.max() < 4 * np.sqrt(chances.max() / 600)


def test_a_seed_fixes_the_landmarks():
    operator, *_ = problem()
    first, second, other = (
        pivoted_cholesky(operator, 30, random_state=seed).landmarks.tolist()
        for seed in (3, 3, 4)
    )
    assert first == second != other


def test_repeated_rows_end_the_factor_early():
    _, X, y, _, _ = problem(n=20)
    operator = KernelOperator(NET, np.repeat(X, 5, axis=0), kind="nngp")
    low_rank = pivoted_cholesky(operator, 100)
    assert len(low_rank.landmarks) == 20
    solution = NystromSolution(operator, low_rank, np.repeat(y, 5))
    with pytest.warns(LinAlgWarning, match="raised"):
        mean = solution.mean(X, 0.0)
    np.testing.assert_allclose(mean, y, atol=1e-3)


def test_many_small_ridges_warn_once():
    operator, _, y, _, _ = problem(n=30)
    solution = NystromSolution(operator, pivoted_cholesky(operator, 10), y)
    for score in ("lml", "loo"):
        with pytest.warns(LinAlgWarning, match="raised") as record:
            assert solution.best_ridge([0.0, 1e-12, 1e-11], score=score) < 1e-10
        assert len(record) == 1


def test_a_kernel_of_zeros_is_refused():
    net = L.Serial(L.Dense(), L.Relu(), L.Dense())
    with pytest.raises(ValueError, match="zero on every row"):
        pivoted_cholesky(KernelOperator(net, np.zeros((5, 2))), 3)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("outputs", [None, 2])
def test_full_rank_is_exact(outputs, weighted):
    operator, X, y, weight, X_test = problem(outputs=outputs, weighted=weighted)
    solution = NystromSolution(operator, pivoted_cholesky(operator, 120), y)
    exact = Decomposition(NET.kernel(X, kind="nngp"), y, weight)
    across = NET.kernel(X_test, X, kind="nngp")
    prior = NET.kernel(X_test, kind="nngp")
    ridge = 0.05
    found, expected = solution.leave_one_out(ridge), exact.leave_one_out(ridge)
    pairs = [
        (solution.mean(X_test, ridge), exact.mean(across, ridge)),
        (solution.alphas(ridge), exact.alphas(ridge)),
        (
            solution.posterior_variance(X_test, ridge),
            exact.posterior_variance(across, prior.diagonal(), ridge),
        ),
        (
            solution.posterior_covariance(X_test, ridge),
            exact.posterior_covariance(across, prior, ridge),
        ),
        (found.residuals, expected.residuals),
        (found.variances, expected.variances),
        (
            solution.log_marginal_likelihood([0.05, 0.5]),
            exact.log_marginal_likelihood([0.05, 0.5]),
        ),
    ]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-7)
    grid = np.geomspace(1e-3, 1, 7)
    assert (
        solution.best_ridge(grid) == grid[exact.log_marginal_likelihood(grid).argmax()]
    )
    errors = exact.leave_one_out(grid).mean_squared_error()
    assert solution.best_ridge(grid, score="loo") == grid[errors.argmin()]


def test_the_penalized_likelihood_is_a_lower_bound():
    operator, X, y, weight, _ = problem(weighted=True)
    solution = NystromSolution(operator, pivoted_cholesky(operator, 30), y)
    exact = Decomposition(NET.kernel(X, kind="nngp"), y, weight)
    grid = np.geomspace(1e-3, 10, 9)
    bound = solution.log_marginal_likelihood(grid, penalized=True)
    assert (bound <= exact.log_marginal_likelihood(grid)).all()


def test_the_variance_far_away_is_the_prior():
    operator, _, y, _, _ = problem()
    solution = NystromSolution(operator, pivoted_cholesky(operator, 30), y)
    near, far = solution.posterior_variance([[0.0] * 4, [30.0, -30.0, 30.0, 30.0]], 0.1)
    assert near < 0.1 and far > 10


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_spread_with_all_rows_is_exact(kind, weighted):
    operator, X, y, weight, X_test = problem(weighted=weighted, kind=kind)
    spread = PosteriorSpread(operator, pivoted_cholesky(operator, 120), 0.05)
    solution = RidgeSolution(NET.kernel(X, kind=kind), y, 0.05, weight)
    K = [NET.kernel(A, B, kind="nngp") for A, B in ((X_test, X), (X_test, None))]
    if kind == "nngp":
        expected = solution.posterior_covariance(*K)
    else:
        smoother = solution.smoother(NET.kernel(X_test, X))
        expected = ensemble_covariance(smoother, NET.kernel(X, kind="nngp"), *K)
    scale = expected.diagonal().max()
    np.testing.assert_allclose(spread.variance(X_test), expected.diagonal(), rtol=1e-7)
    np.testing.assert_allclose(
        spread.covariance(X_test), expected, atol=1e-5 * scale, rtol=0
    )


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_spread_of_neighbours_is_close(kind):
    operator, X, y, _, X_test = problem(n=500, kind=kind)
    spread = PosteriorSpread(
        operator, pivoted_cholesky(operator, 200), 0.05, n_neighbors=150
    )
    everything = PosteriorSpread(operator, spread.low_rank, 0.05)
    ratio = np.sqrt(spread.variance(X_test) / everything.variance(X_test))
    if kind == "nngp":
        assert ratio.min() >= 1.0
    assert abs(np.median(ratio) - 1) < 0.05
    covariance = spread.covariance(X_test)
    np.testing.assert_array_equal(covariance.diagonal(), spread.variance(X_test))
    np.testing.assert_array_equal(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance)[0] > -1e-8


def test_spread_of_a_row_ignores_the_rows_beside_it():
    operator, _, _, _, X_test = problem(kind="ntk")
    spread = PosteriorSpread(
        operator, pivoted_cholesky(operator, 30), 0.05, n_neighbors=20
    )
    alone = [spread.variance(row[None])[0] for row in X_test]
    np.testing.assert_allclose(spread.variance(X_test), alone, rtol=1e-11)


def test_rank_by_rows_and_memory():
    assert default_rank(10) == 10
    assert default_rank(10_000) == 800
    small = default_rank(10_000, max_memory=2**25)
    assert 1 <= small < 800 and 8 * small * 10_000 < 2**25


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.best_ridge([0.1], score="aic"), "score='aic'"),
        (lambda s: s.best_ridge([]), "n_ridges"),
        (lambda s: s.mean(np.zeros((1, 4)), -1.0), "ridge"),
        (lambda s: PosteriorSpread(s.operator, s.low_rank, 0.0), "ridge"),
        (
            lambda s: PosteriorSpread(s.operator, s.low_rank, 1.0, n_neighbors=0),
            "n_neighbors",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    operator, _, y, _, _ = problem(n=30)
    solution = NystromSolution(operator, pivoted_cholesky(operator, 10), y)
    with pytest.raises(ValueError, match=message):
        call(solution)
