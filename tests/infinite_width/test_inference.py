"""Closed-form inference against recorded arrays, closed forms and brute force."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import LinAlgWarning, expm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import PairwiseKernel

from skfunc.infinite_width._inference import Decomposition, max_learning_rate
from skfunc.infinite_width._inference_ensemble import (
    ensemble_covariance,
    ensemble_variance,
)

RECORDED = np.load(Path(__file__).resolve().parents[1] / "data" / "neural_tangents.npz")
# The ridge and the rate with which the arrays were recorded.
RIDGE, RATE = 1e-3, 1.0
TIMES = {"0.1": 0.1, "1.0": 1.0, "10.0": 10.0, "1000.0": 1000.0, "inf": math.inf}
RIDGES = np.geomspace(1e-3, 10, 7)


def rectified(k, vv, a, b):
    angle = np.arctan2(np.sqrt(np.maximum(vv - k**2, 0)), k)
    slope = (a**2 + b**2) / 2 - (a - b) ** 2 * angle / (2 * np.pi)
    root = np.sqrt(np.maximum(vv - k**2, 0))
    return (a - b) ** 2 * root / (2 * np.pi) + slope * k


def gelu(k, v1, v2):
    P = (1 + v1) * (1 + v2)
    d = np.sqrt(P - k**2)
    inner = (k**2 + v1 * v2 * d**2) / (P * d) + k * np.arctan2(k, d)
    return k / 4 + inner / (2 * np.pi)


# NNGP of an activation from the covariance k and the variances of both rows.
ACTIVATIONS = {
    "relu": lambda k, v1, v2: rectified(k, v1 * v2, 0, 1),
    "abs": lambda k, v1, v2: rectified(k, v1 * v2, -1, 1),
    "leaky": lambda k, v1, v2: rectified(k, v1 * v2, 0.1, 1),
    "erf": lambda k, v1, v2: (
        2 / np.pi * np.arcsin(2 * k / np.sqrt((1 + 2 * v1) * (1 + 2 * v2)))
    ),
    "sin": lambda k, v1, v2: np.exp(-(v1 + v2) / 2) * np.sinh(k),
    "rbf": lambda k, v1, v2: np.exp(-(v1 + v2 - 2 * k)),
    "gelu": gelu,
}
NETS = (
    "fc_relu_1 fc_relu_5 fc_erf_3 fc_sin_2 fc_abs_2 fc_leaky_2 fc_gelu_2 fc_rbf_2 "
    "fc_residual"
).split()


def fully_connected_nngp(name, X):
    """NNGP of the recorded net of that name, which was not recorded for test rows."""
    weight, bias = (1.41421356, 0.1) if name == "fc_relu_5" else (1.5, 0.05)

    def dense(k):
        return weight**2 * k + bias**2

    def activate(k, activation):
        v = k.diagonal()
        return ACTIVATIONS[activation](k, v[:, None], v[None, :])

    k = dense(X @ X.T / X.shape[1])
    if name == "fc_residual":
        for _ in range(2):
            k = k + dense(activate(k, "relu"))
        return dense(activate(k, "relu"))
    _, activation, depth = name.split("_")
    for _ in range(int(depth)):
        k = dense(activate(k, activation))
    return k


def blocks(name, kind):
    return tuple(RECORDED[f"{name}/{kind}/{b}"] for b in ("train_train", "test_train"))


def test_test_nngp(name):
    X = np.concatenate([RECORDED["vectors_train"], RECORDED["vectors_test"]])
    k, n = fully_connected_nngp(name, X), len(RECORDED["vectors_train"])
    np.testing.assert_allclose(k[n:, :n], blocks(name, "nngp")[1], rtol=1e-12, atol=0)
    return k[n:, n:]


test_test_nngp.__test__ = False


def problem(n=20, m=7, outputs=None, seed=0):
    """Return a full-rank kernel of n training and m test rows, and targets."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n + m, 3))
    squares = np.square(X[:, None] - X[None]).sum(-1)
    kernel = 1.7 * np.exp(-0.5 * squares) + 0.1 * (X @ X.T)
    shape = (n,) if outputs is None else (n, outputs)
    return kernel[:n, :n], kernel[n:, :n], kernel[n:, n:], rng.normal(size=shape)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("name", NETS)
def test_recorded_means(name, kind):
    train_train, test_train = blocks(name, kind)
    solution = Decomposition(train_train, RECORDED["targets"])
    path = solution.mean(test_train, RIDGE, list(TIMES.values()), learning_rate=RATE)
    for mean, label in zip(path, TIMES, strict=True):
        expected = RECORDED[f"{name}/gd/{kind}/t={label}/mean"]
        np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("label", TIMES)
@pytest.mark.parametrize("name", NETS)
def test_recorded_covariances_of_the_nngp(name, label):
    train_train, test_train = blocks(name, "nngp")
    test_test = test_test_nngp(name)
    solution = Decomposition(train_train, RECORDED["targets"])
    expected = RECORDED[f"{name}/gd/nngp/t={label}/cov"]
    options = {"ridge": RIDGE, "time": TIMES[label], "learning_rate": RATE}
    covariance = solution.posterior_covariance(test_train, test_test, **options)
    np.testing.assert_allclose(covariance, expected, rtol=0, atol=1e-11)
    variance = solution.posterior_variance(test_train, test_test.diagonal(), **options)
    np.testing.assert_allclose(variance, expected.diagonal(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("label", TIMES)
@pytest.mark.parametrize("name", NETS)
def test_recorded_covariances_of_the_tangent_ensemble(name, label):
    nngp = blocks(name, "nngp")
    train_train, test_train = blocks(name, "ntk")
    test_test = test_test_nngp(name)
    solution = Decomposition(train_train, RECORDED["targets"])
    B = solution.smoother(test_train, RIDGE, TIMES[label], learning_rate=RATE)
    expected = RECORDED[f"{name}/gd/ntk/t={label}/cov"]
    covariance = ensemble_covariance(B, *nngp, test_test)
    np.testing.assert_allclose(covariance, expected, rtol=0, atol=1e-11)
    np.testing.assert_array_equal(covariance, covariance.T)
    variance = ensemble_variance(B, *nngp, test_test.diagonal())
    np.testing.assert_allclose(variance, expected.diagonal(), rtol=0, atol=1e-11)


def test_time_zero_is_the_prior():
    K, K_s, K_ss, y = problem()
    solution = Decomposition(K, y)
    np.testing.assert_array_equal(solution.mean(K_s, 0.1, 0.0), 0)
    np.testing.assert_array_equal(
        solution.posterior_covariance(K_s, K_ss, 0.1, 0), K_ss
    )
    B = solution.smoother(K_s, 0.1, 0.0)
    np.testing.assert_array_equal(ensemble_covariance(B, K, K_s, K_ss), K_ss)
    np.testing.assert_allclose(solution.mean(K_s, 0.1, 1e-12), 0, atol=1e-11)


@pytest.mark.parametrize("time", [1e12, math.inf])
def test_late_times_are_the_ridge_solution(time):
    K, K_s, K_ss, y = problem(outputs=2)
    inverse = np.linalg.inv(K + 0.3 * np.eye(len(K)))
    solution = Decomposition(K, y)
    np.testing.assert_allclose(solution.alphas(0.3, time), inverse @ y, rtol=1e-10)
    np.testing.assert_allclose(
        solution.mean(K_s, 0.3, time), K_s @ inverse @ y, atol=1e-12
    )
    np.testing.assert_allclose(
        solution.posterior_covariance(K_s, K_ss, 0.3, time),
        K_ss - K_s @ inverse @ K_s.T,
        atol=1e-12,
    )


@pytest.mark.parametrize("ridge", [0.0, 0.2])
def test_finite_time_is_the_matrix_exponential(ridge):
    K, K_s, _, y = problem(n=8, outputs=3)
    G = K + ridge * np.eye(8)
    rate, time = 0.7, 40.0
    A = np.linalg.solve(G, np.eye(8) - expm(-rate * G * time / y.size))
    solution = Decomposition(K, y)
    alphas = solution.alphas(ridge, time, learning_rate=rate)
    np.testing.assert_allclose(alphas, A @ y, rtol=1e-9, atol=1e-12)
    smoother = solution.smoother(K_s, ridge, time, learning_rate=rate)
    np.testing.assert_allclose(smoother, K_s @ A, atol=1e-11)


def test_gradient_descent_below_the_largest_rate_approaches_the_flow():
    K, _, _, y = problem(n=6)
    solution = Decomposition(K, y)
    rate = solution.max_learning_rate() / 1000
    fitted = np.zeros(6)
    for _ in range(2000):
        fitted += rate / 6 * K @ (y - fitted)
    flow = solution.mean(K, 0.0, 2000, learning_rate=rate)
    np.testing.assert_allclose(fitted, flow, atol=1e-3)


@pytest.mark.parametrize(("factor", "stable"), [(0.99, True), (1.01, False)])
def test_max_learning_rate_is_where_descent_diverges(factor, stable):
    K, _, _, y = problem(n=6, outputs=2)
    solution = Decomposition(K, y)
    rate = solution.max_learning_rate()
    assert rate == pytest.approx(max_learning_rate(K, n_outputs=2), rel=1e-12)
    residual = y
    for _ in range(3000):
        residual = residual - factor * rate / y.size * K @ residual
    assert (np.abs(residual).max() < 10 * np.abs(y).max()) == stable


@pytest.mark.parametrize("outputs", [None, 3])
def test_shapes_of_a_grid(outputs):
    K, K_s, K_ss, y = problem(outputs=outputs)
    solution = Decomposition(K, y)
    grid = RIDGES[:, None], np.array([1.0, 10.0, math.inf])
    alphas = solution.alphas(*grid)
    assert alphas.shape == (7, 3, *y.shape)
    means, residuals = (
        solution.mean(K_s, *grid),
        solution.leave_one_out_residuals(*grid),
    )
    assert means.shape == (7, 3, 7, *y.shape[1:])
    variances = solution.posterior_variance(K_s, K_ss.diagonal(), *grid)
    assert variances.shape == (7, 3, 7)
    scores = solution.generalized_cross_validation(*grid)
    for i, ridge in enumerate(RIDGES):
        for j, time in enumerate(grid[1]):
            one = ridge, time
            np.testing.assert_allclose(alphas[i, j], solution.alphas(*one), atol=1e-12)
            np.testing.assert_allclose(
                means[i, j], solution.mean(K_s, *one), atol=1e-12
            )
            np.testing.assert_allclose(
                variances[i, j],
                solution.posterior_covariance(K_s, K_ss, *one).diagonal(),
                atol=1e-12,
            )
            np.testing.assert_allclose(
                residuals[i, j], solution.leave_one_out_residuals(*one), atol=1e-12
            )
            score = solution.generalized_cross_validation(*one)
            assert scores[i, j] == pytest.approx(score, rel=1e-12)
    left = solution.leave_one_out(RIDGES)
    assert left.residuals.shape == (7, *y.shape)
    assert left.variances.shape == (7, len(y))
    assert left.mean_squared_error().shape == left.log_density().shape == (7,)
    assert left.residual_variance().shape == (7, *y.shape[1:])
    assert solution.log_marginal_likelihood(RIDGES).shape == (7,)


@pytest.mark.parametrize("outputs", [None, 2])
def test_leave_one_out_is_refitting(outputs):
    K, _, _, y = problem(outputs=outputs)
    left = Decomposition(K, y).leave_one_out([0.01, 0.5])
    for j, ridge in enumerate([0.01, 0.5]):
        for i in range(len(y)):
            others = np.delete(np.arange(len(y)), i)
            refit = Decomposition(K[np.ix_(others, others)], y[others])
            k = K[i, others][None]
            np.testing.assert_allclose(
                left.residuals[j, i], y[i] - refit.mean(k, ridge)[0], atol=1e-11
            )
            variance = refit.posterior_variance(k, K[i, i], ridge)[0] + ridge
            assert left.variances[j, i] == pytest.approx(variance, rel=1e-10)


def test_leave_one_out_scores():
    K, _, _, y = problem(outputs=2)
    left = Decomposition(K, y).leave_one_out(0.5)
    assert left.mean_squared_error() == pytest.approx((left.residuals**2).mean())
    np.testing.assert_allclose(left.residual_variance(), (left.residuals**2).mean(0))
    v = left.variances[:, None]
    density = -0.5 * (left.residuals**2 / v + np.log(2 * np.pi * v)).sum()
    assert left.log_density() == pytest.approx(density)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize("time", [1.0, 10.0, 100.0, 1e3, 1e4])
def test_leave_one_out_at_finite_times_is_near_refitting(ridge, time):
    K, _, _, y = problem(n=60, seed=3)
    residuals = Decomposition(K, y).leave_one_out_residuals(ridge, time)
    exact = np.empty(60)
    for i in range(60):
        others = np.delete(np.arange(60), i)
        refit = Decomposition(K[np.ix_(others, others)], y[others])
        # The others keep their rates: N counts one row less.
        options = {"ridge": ridge, "time": time * 59 / 60}
        exact[i] = y[i] - refit.mean(K[i, others][None], **options)[0]
    error = np.sqrt(np.square(residuals - exact).mean() / np.square(exact).mean())
    assert error < (1e-3 if time == 1.0 else 0.1)


def test_leave_one_out_residuals_begin_with_targets_and_end_exact():
    K, _, _, y = problem(outputs=2)
    solution = Decomposition(K, y, np.resize([1, 3, 0.5], len(y)))
    path = solution.leave_one_out_residuals(0.1, [0.0, 1e12, math.inf])
    np.testing.assert_allclose(path[0], y, rtol=1e-12)
    exact = solution.leave_one_out(0.1).residuals
    np.testing.assert_allclose(path[1:], [exact, exact], atol=1e-11)


@pytest.mark.parametrize("time", [5.0, math.inf])
def test_generalized_cross_validation(time):
    K, _, _, y = problem(outputs=2)
    solution = Decomposition(K, y)
    H = solution.smoother(K, 0.3, time)
    left = np.eye(len(K)) - H
    expected = len(y) * np.square(left @ y).sum(0).mean() / np.trace(left) ** 2
    score = solution.generalized_cross_validation(0.3, time)
    assert score == pytest.approx(expected, rel=1e-10)
    if time == math.inf:
        limit = solution.generalized_cross_validation([0.0, 1e-9])
        assert limit[0] == pytest.approx(limit[1], rel=1e-5)


@pytest.mark.parametrize("outputs", [None, 2])
def test_log_marginal_likelihood_is_that_of_scikit_learn(outputs):
    rng = np.random.default_rng(5)
    X = rng.normal(size=(25, 4))
    y = rng.normal(size=25 if outputs is None else (25, outputs))
    solution = Decomposition(X @ X.T, y)
    ridges = np.array([0.01, 1.0])
    values = solution.log_marginal_likelihood(ridges)
    for ridge, value in zip(ridges, values, strict=True):
        peer = GaussianProcessRegressor(
            PairwiseKernel(metric="linear"), alpha=ridge, optimizer=None
        ).fit(X, y)
        assert value == pytest.approx(peer.log_marginal_likelihood_value_, rel=1e-11)


def repeated(weight, K, K_s, y):
    rows = np.repeat(np.arange(len(weight)), weight)
    return rows, K[np.ix_(rows, rows)], K_s[:, rows], y[rows]


@pytest.mark.parametrize("outputs", [None, 2])
@pytest.mark.parametrize("time", [3.0, 100.0, math.inf])
def test_integer_weights_are_repeats(outputs, time):
    K, K_s, K_ss, y = problem(n=10, outputs=outputs)
    weight = np.array([1, 2, 3, 1, 1, 4, 1, 2, 1, 7])
    rows, K_rep, K_s_rep, y_rep = repeated(weight, K, K_s, y)
    weighted, full = Decomposition(K, y, weight), Decomposition(K_rep, y_rep)
    grid = np.array([0.05, 1.0]), time
    np.testing.assert_allclose(
        weighted.mean(K_s, *grid), full.mean(K_s_rep, *grid), atol=1e-12
    )
    np.testing.assert_allclose(
        weighted.posterior_covariance(K_s, K_ss, 0.05, time),
        full.posterior_covariance(K_s_rep, K_ss, 0.05, time),
        atol=1e-12,
    )
    nngp = K + 0.5
    np.testing.assert_allclose(
        ensemble_variance(weighted.smoother(K_s, 0.05, time), nngp, K_s, np.diag(K_ss)),
        ensemble_variance(
            full.smoother(K_s_rep, 0.05, time),
            nngp[np.ix_(rows, rows)],
            K_s_rep,
            np.diag(K_ss),
        ),
        atol=1e-12,
    )
    np.testing.assert_allclose(
        weighted.leave_one_out_residuals(*grid)[:, rows],
        full.leave_one_out_residuals(*grid),
        atol=1e-11,
    )
    np.testing.assert_allclose(
        weighted.generalized_cross_validation(*grid),
        full.generalized_cross_validation(*grid),
        rtol=1e-11,
    )
    assert weighted.max_learning_rate() == pytest.approx(full.max_learning_rate())
    rate = max_learning_rate(K, weighted.n_outputs, weight)
    assert rate == pytest.approx(full.max_learning_rate())


def test_likelihoods_of_integer_weights_are_those_of_repeats():
    K, K_s, _, y = problem(n=10, outputs=2)
    weight = np.array([1, 2, 3, 1, 1, 4, 1, 2, 1, 7])
    rows, K_rep, _, y_rep = repeated(weight, K, K_s, y)
    weighted, full = Decomposition(K, y, weight), Decomposition(K_rep, y_rep)
    np.testing.assert_allclose(
        weighted.log_marginal_likelihood(RIDGES),
        full.log_marginal_likelihood(RIDGES),
        rtol=1e-11,
    )
    one, other = weighted.leave_one_out(RIDGES), full.leave_one_out(RIDGES)
    np.testing.assert_allclose(one.residuals[:, rows], other.residuals, atol=1e-11)
    np.testing.assert_allclose(one.variances[:, rows], other.variances, rtol=1e-10)
    np.testing.assert_allclose(one.log_density(), other.log_density(), rtol=1e-11)
    np.testing.assert_allclose(one.mean_squared_error(), other.mean_squared_error())
    np.testing.assert_allclose(one.residual_variance(), other.residual_variance())


def test_the_formulas_of_weights():
    """Leave-one-out of one copy and the likelihood, as matrices without a root of W."""
    K, _, _, y = problem(n=10)
    w, ridge = np.array([1.0, 2, 3, 1, 1, 4, 1, 2, 1, 7]), 0.2
    noisy = K + ridge * np.diag(1 / w)
    a = np.linalg.solve(noisy, y)
    hat = np.diag(K @ np.linalg.inv(w[:, None] * K + ridge * np.eye(10)))
    solution = Decomposition(K, y, w)
    np.testing.assert_allclose(
        solution.leave_one_out(ridge).residuals, a / w * ridge / (1 - hat), rtol=1e-10
    )
    logdet = np.linalg.slogdet(noisy)[1] + np.log(w).sum()
    logdet += (w.sum() - 10) * np.log(ridge)
    expected = -0.5 * (y @ a + logdet + w.sum() * np.log(2 * np.pi))
    value = solution.log_marginal_likelihood(ridge)
    assert value == pytest.approx(expected, rel=1e-12)


def test_fractional_weights_leave_the_whole_row_out():
    K, _, _, y = problem(n=10)
    weight, ridge = np.linspace(0.1, 1.0, 10), 0.3
    left = Decomposition(K, y, weight).leave_one_out(ridge)
    for i in range(10):
        others = np.delete(np.arange(10), i)
        refit = Decomposition(K[np.ix_(others, others)], y[others], weight[others])
        k = K[i, others][None]
        residual = y[i] - refit.mean(k, ridge)[0]
        assert left.residuals[i] == pytest.approx(residual, abs=1e-11)
        variance = refit.posterior_variance(k, K[i, i], ridge)[0] + ridge / weight[i]
        assert left.variances[i] == pytest.approx(variance, rel=1e-10)


def test_other_targets_share_the_decomposition():
    K, K_s, _, y = problem()
    solution = Decomposition(K, y)
    other = solution.with_targets(np.stack([y, -2 * y], axis=1))
    assert other.spectrum is solution.spectrum and solution.n_outputs == 1
    expected = np.stack([solution.mean(K_s, 0.1), -2 * solution.mean(K_s, 0.1)], 1)
    np.testing.assert_allclose(other.mean(K_s, 0.1), expected, atol=1e-12)


def test_more_outputs_mean_less_progress():
    K, K_s, _, y = problem()
    two = Decomposition(K, np.stack([y, y], axis=1))
    one = Decomposition(K, y)
    np.testing.assert_allclose(
        two.mean(K_s, 0.1, 20.0)[:, 0], one.mean(K_s, 0.1, 10.0), atol=1e-12
    )


def singular_problem():
    """Return a kernel in which three rows repeat, with targets that disagree."""
    K, K_s, K_ss, y = problem(n=10)
    _, K_rep, K_s_rep, _ = repeated(np.array([3, 2] + [1] * 8), K, K_s, y)
    return K_rep, K_s_rep, K_ss, np.random.default_rng(1).normal(size=len(K_rep))


def test_a_singular_matrix_warns_once_and_stays_finite():
    K, K_s, K_ss, y = singular_problem()
    solution = Decomposition(K, y)
    with pytest.warns(LinAlgWarning, match="ridge was raised") as record:
        mean = solution.mean(K_s, [0.0, 1e-3])
        left = solution.leave_one_out([0.0, 1e-3])
        found = [
            mean,
            left.residuals,
            left.variances,
            left.log_density(),
            solution.alphas(0.0),
            solution.posterior_variance(K_s, K_ss.diagonal(), 0.0),
            solution.log_marginal_likelihood(0.0),
            solution.generalized_cross_validation([0.0, 1e-3]),
            solution.leave_one_out_residuals(0.0, [1.0, math.inf]),
        ]
    assert len(record) == 1
    assert all(np.isfinite(values).all() for values in found)
    # Rows that repeat share the mean of their targets.
    np.testing.assert_allclose(solution.mean(K, 1e-8)[:3], y[:3].mean(), atol=1e-4)
    assert np.abs(mean[0] - solution.mean(K_s, 1e-7)).max() < 1e-3


def test_early_times_need_no_jitter():
    K, K_s, _, y = singular_problem()
    solution = Decomposition(K, y)
    A = np.eye(len(K)) * 0
    for k in range(1, 60):  # The series of (1 - exp(-x)) / x.
        term = np.linalg.matrix_power(-K / len(K), k - 1)
        A += term / len(K) / math.factorial(k)
    np.testing.assert_allclose(solution.mean(K_s, 0.0, 1.0), K_s @ A @ y, atol=1e-10)


def test_weights_without_ridge_count_as_repeats_in_likelihoods():
    K, _, _, y = problem(n=6)
    solution = Decomposition(K, y, [2, 1, 1, 1, 1, 1])
    with pytest.warns(LinAlgWarning):
        value = solution.log_marginal_likelihood(0.0)
    assert np.isfinite(value)
    left = solution.leave_one_out(0.0)
    assert np.isfinite(left.log_density()) and np.isfinite(left.residuals).all()


def test_a_kernel_of_zeros():
    solution = Decomposition(np.zeros((4, 4)), np.ones(4))
    np.testing.assert_array_equal(solution.mean(np.zeros((2, 4)), 0.1), 0)
    with pytest.warns(LinAlgWarning):
        assert np.isfinite(solution.alphas(0.0)).all()
    assert solution.max_learning_rate() == math.inf
    assert max_learning_rate(np.zeros((4, 4))) == math.inf


def test_float32_kernels_are_decomposed_in_float64():
    K, K_s, _, y = problem(n=100)
    single = Decomposition(K.astype(np.float32), y.astype(np.float32))
    assert single.alphas(0.1).dtype == np.float64
    expected = Decomposition(K, y).mean(K_s, 0.1)
    np.testing.assert_allclose(single.mean(K_s, 0.1), expected, atol=1e-4)
    with pytest.warns(LinAlgWarning):
        rounded = Decomposition((K[:, :1] @ K[:1]).astype(np.float32), y)
        assert np.isfinite(rounded.alphas(0.0)).all()


def test_overwrite_uses_the_memory_of_the_kernel():
    K, _, _, y = problem()
    kept, given = K.copy(), K.copy()
    expected = Decomposition(K, y).alphas(0.1)
    np.testing.assert_array_equal(K, kept)
    overwritten = Decomposition(given, y, overwrite=True).alphas(0.1)
    np.testing.assert_allclose(overwritten, expected, atol=1e-12)
    assert not np.array_equal(given, kept)


def test_no_test_rows():
    K, _, _, y = problem(outputs=2)
    solution, none = Decomposition(K, y), np.empty((0, len(y)))
    assert solution.mean(none, RIDGES).shape == (7, 0, 2)
    assert solution.posterior_variance(none, np.empty(0), RIDGES).shape == (7, 0)


def test_bad_input():
    K, K_s, _, y = problem(n=5)
    with pytest.raises(ValueError, match=r"shape \(n_samples, n_samples\)"):
        Decomposition(K[:, :3], y)
    with pytest.raises(ValueError, match="targets must be of shape"):
        Decomposition(K, y[:3])
    with pytest.raises(ValueError, match="targets hold NaN"):
        Decomposition(K, [1, 2, 3, 4, np.nan])
    with pytest.raises(ValueError, match="kernel_matrix holds NaN"):
        Decomposition(K * np.nan, y)
    with pytest.raises(ValueError, match="positive semi-definite"):
        Decomposition(-K, y)
    with pytest.raises(ValueError, match="one weight a row"):
        Decomposition(K, y, [1.0])
    with pytest.raises(ValueError, match="drop rows of weight zero"):
        Decomposition(K, y, [1, 1, 1, 0, 1])
    solution = Decomposition(K, y)
    with pytest.raises(ValueError, match="ridge must be finite and at least 0; got -1"):
        solution.alphas([0.1, -1.0])
    with pytest.raises(ValueError, match="time must be inf or finite and at least 0"):
        solution.alphas(0.1, np.nan)
    with pytest.raises(ValueError, match="learning_rate"):
        solution.alphas(0.1, learning_rate=0.0)
    with pytest.raises(ValueError, match=r"test_train must be of shape \(n_test, 5\)"):
        solution.mean(K_s[:, :2], 0.1)
