"""The Cholesky path: the same numbers as the decomposition, and the jitter."""

import numpy as np
import pytest
from scipy.linalg import LinAlgWarning

from skfunc.infinite_width._inference import Decomposition
from skfunc.infinite_width._inference_cholesky import RidgeSolution


def problem(n=15, m=6, outputs=None):
    rng = np.random.default_rng(2)
    X = rng.normal(size=(n + m, 3))
    squares = np.square(X[:, None] - X[None]).sum(-1)
    kernel = 2.1 * np.exp(-0.5 * squares)
    shape = (n,) if outputs is None else (n, outputs)
    return kernel[:n, :n], kernel[n:, :n], kernel[n:, n:], rng.normal(size=shape)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("outputs", [None, 3])
def test_agrees_with_the_decomposition(outputs, weighted):
    K, K_s, K_ss, y = problem(outputs=outputs)
    weight = np.resize([1, 2, 0.5, 4], len(K)) if weighted else None
    solution = RidgeSolution(K, y, 0.1, weight)
    expected = Decomposition(K, y, weight)
    pairs = [
        (solution.alphas, expected.alphas(0.1)),
        (solution.mean(K_s), expected.mean(K_s, 0.1)),
        (solution.smoother(K_s), expected.smoother(K_s, 0.1)),
        (
            solution.posterior_covariance(K_s, K_ss),
            expected.posterior_covariance(K_s, K_ss, 0.1),
        ),
        (
            solution.posterior_variance(K_s, K_ss.diagonal()),
            expected.posterior_variance(K_s, K_ss.diagonal(), 0.1),
        ),
        (solution.log_marginal_likelihood(), expected.log_marginal_likelihood(0.1)),
        (solution.leave_one_out().residuals, expected.leave_one_out(0.1).residuals),
        (solution.leave_one_out().variances, expected.leave_one_out(0.1).variances),
    ]
    for found, wanted in pairs:
        np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-11)
    assert solution.ridge == 0.1


def test_no_ridge_interpolates_without_jitter():
    K, _, _, y = problem()
    solution = RidgeSolution(K, y, 0.0)
    assert solution.ridge == 0.0
    np.testing.assert_allclose(solution.mean(K), y, atol=1e-9)


@pytest.mark.parametrize("ridge", [0.0, 1e-17])
def test_repeated_rows_raise_the_ridge_with_one_warning(ridge):
    K, K_s, K_ss, y = problem()
    rows = np.repeat(np.arange(15), [3, 2] + [1] * 13)
    targets = np.random.default_rng(1).normal(size=len(rows))
    with pytest.warns(LinAlgWarning, match="ridge was raised") as record:
        solution = RidgeSolution(K[np.ix_(rows, rows)], targets, ridge)
        left = solution.leave_one_out()
        found = [
            solution.alphas,
            solution.mean(K_s[:, rows]),
            solution.posterior_variance(K_s[:, rows], K_ss.diagonal()),
            solution.log_marginal_likelihood(),
            left.residuals,
            left.log_density(),
        ]
    assert len(record) == 1
    assert 0 < solution.ridge < 1e-6 and all(np.isfinite(f).all() for f in found)
    fitted = solution.mean(K[np.ix_(rows, rows)])
    np.testing.assert_allclose(fitted[:3], targets[:3].mean(), atol=1e-4)


def test_jitter_escalates_over_rounding_of_float32():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2)).astype(np.float32)
    with pytest.warns(LinAlgWarning) as record:
        solution = RidgeSolution(X @ X.T, X[:, 0], 0.0)
    assert len(record) == 1
    assert solution.ridge > 1e-9
    assert np.isfinite(solution.alphas).all()
    np.testing.assert_allclose(solution.mean(X @ X.T), X[:, 0], atol=1e-2)


def test_weights_without_ridge_are_repeats():
    K, _, _, y = problem()
    with pytest.warns(LinAlgWarning):
        solution = RidgeSolution(K, y, 0.0, np.full(15, 2.0))
    assert solution.ridge > 0
    assert np.isfinite(solution.log_marginal_likelihood())
    assert np.isfinite(solution.leave_one_out().log_density())


def test_a_kernel_of_zeros():
    with pytest.warns(LinAlgWarning):
        solution = RidgeSolution(np.zeros((3, 3)), np.ones(3), 0.0)
    np.testing.assert_array_equal(solution.mean(np.zeros((2, 3))), 0)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_of_the_kernel(overwrite, order):
    K, _, _, y = problem()
    given = np.array(K, order=order)
    solution = RidgeSolution(given, y, 0.1, overwrite=overwrite)
    np.testing.assert_allclose((K + 0.1 * np.eye(15)) @ solution.alphas, y, atol=1e-12)
    assert np.array_equal(given, K) != overwrite


def test_bad_input():
    K, K_s, _, y = problem()
    with pytest.raises(ValueError, match="positive semi-definite"):
        RidgeSolution(-K, y, 0.0)
    with pytest.raises(ValueError, match="kernel_matrix holds NaN"):
        RidgeSolution(K * np.inf, y, 0.0)
    with pytest.raises(ValueError, match="ridge must be finite"):
        RidgeSolution(K, y, np.inf)
    with pytest.raises(ValueError, match="test_train must be of shape"):
        RidgeSolution(K, y, 0.1).mean(K_s.T)
