"""The kernel in scikit-learn's kernel machines, and its exact gradient."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.svm import SVC

from skfunc.infinite_width import NeuralKernel
from skfunc.infinite_width import layers as L
from skfunc.infinite_width._inference import Decomposition

IMAGE_SHAPE = (2, 4, 3)
NET = L.preset("mlp", 2, "erf", 1.3, 0.2)
KERNELS = {
    "mlp": NeuralKernel(),
    "erf": NeuralKernel(depth=2, activation="erf", weight_std=1.3, bias_std=0.2),
    "conv": NeuralKernel("conv", depth=2, bias_std=0.3, image_shape=IMAGE_SHAPE),
    "resnet": NeuralKernel(
        "wide_resnet", depth=1, weight_std=1.1, image_shape=IMAGE_SHAPE
    ),
    "no bias": NeuralKernel(bias_std=0.0),
    "weights fixed": NeuralKernel(weight_std_bounds="fixed"),
    "layers": NeuralKernel(NET),
    "function": NeuralKernel(lambda x1, x2, get: NET.kernel(x1, x2, get)),
}
FREE = {"mlp": 2, "erf": 2, "conv": 2, "resnet": 2, "no bias": 1, "weights fixed": 1}


def data(n=9, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 24))
    return X, np.sin(X[:, 0]) + 0.1 * rng.normal(size=n)


def of_kind(name, kind):
    return clone(KERNELS[name]).set_params(kind=kind)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("name", KERNELS)
def test_gradient_is_that_of_finite_differences(name, kind):
    kernel, (X, _) = of_kind(name, kind), data()
    matrix, gradient = kernel(X, eval_gradient=True)
    np.testing.assert_allclose(matrix, kernel(X), rtol=1e-12)
    assert gradient.shape == (9, 9, FREE.get(name, 0)) == (9, 9, kernel.n_dims)
    for position in range(kernel.n_dims):
        step = np.zeros(kernel.n_dims)
        step[position] = 1e-5
        ahead, behind = (
            kernel.clone_with_theta(kernel.theta + sign * step)(X) for sign in (1, -1)
        )
        np.testing.assert_allclose(
            gradient[..., position],
            (ahead - behind) / 2e-5,
            rtol=1e-6,
            atol=1e-8 * np.abs(matrix).max(),
        )


def test_gradient_over_several_blocks(monkeypatch):
    kernel, (X, _) = KERNELS["erf"], data()
    whole = kernel(X, eval_gradient=True)
    monkeypatch.setattr("skfunc.infinite_width._neural_kernel._BLOCK_ROWS", 4)
    for one, two in zip(whole, kernel(X, eval_gradient=True), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("name", KERNELS)
def test_diagonal_and_other_rows(name, kind):
    kernel, (X, _) = of_kind(name, kind), data()
    matrix = kernel(X)
    np.testing.assert_allclose(kernel.diag(X), np.diag(matrix), rtol=1e-12)
    np.testing.assert_allclose(kernel(X[:4], X[4:]), matrix[:4, 4:], rtol=1e-10)
    assert not kernel.is_stationary()


def test_theta_and_bounds():
    kernel = clone(KERNELS["erf"])
    np.testing.assert_allclose(np.exp(kernel.theta), [0.2, 1.3])
    np.testing.assert_allclose(np.exp(kernel.bounds), [[1e-3, 10.0], [0.1, 10.0]])
    kernel.theta = np.log([0.4, 1.1])
    assert (kernel.bias_std, kernel.weight_std) == pytest.approx((0.4, 1.1))
    assert KERNELS["layers"].theta.shape == (0,)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_process_is_the_decomposition(kind):
    X, y = data(30)
    noise, kernel = 0.1, of_kind("mlp", kind)
    model = GaussianProcessRegressor(
        kernel + WhiteKernel(noise), optimizer=None, alpha=0.0
    ).fit(X[:25], y[:25])
    solution = Decomposition(kernel(X[:25]), y[:25])
    np.testing.assert_allclose(
        model.log_marginal_likelihood_value_,
        solution.log_marginal_likelihood(noise),
        rtol=1e-10,
    )
    mean, covariance = model.predict(X[25:], return_cov=True)
    cross = kernel(X[25:], X[:25])
    np.testing.assert_allclose(mean, solution.mean(cross, noise), rtol=1e-9)
    expected = solution.posterior_covariance(cross, kernel(X[25:]), noise)
    np.testing.assert_allclose(
        covariance, expected + noise * np.eye(5), rtol=1e-9, atol=1e-12
    )


def test_process_learns_the_stds():
    X, y = load_diabetes(return_X_y=True)
    X, y = scale(X[:100]), scale(y[:100])
    kernel = NeuralKernel(depth=2) + WhiteKernel(0.1)
    before = GaussianProcessRegressor(kernel, optimizer=None).fit(X, y)
    after = GaussianProcessRegressor(kernel).fit(X, y)
    gain = after.log_marginal_likelihood_value_ - before.log_marginal_likelihood_value_
    assert gain > 1.0
    learned = after.kernel_.k1
    assert learned.weight_std != 1.5
    assert learned.depth == 2
    _, gradient = after.log_marginal_likelihood(after.kernel_.theta, eval_gradient=True)
    assert np.abs(gradient).max() < 0.05


def test_fixed_networks_are_kernels_of_processes():
    X, y = data(20)
    for name in ("layers", "function"):
        model = GaussianProcessRegressor(KERNELS[name] + WhiteKernel(0.1, "fixed")).fit(
            X, y
        )
        assert np.isfinite(model.predict(X, return_std=True)).all()


def test_sums_products_and_powers():
    X, _ = data()
    neural, rbf = KERNELS["erf"], RBF(3.0)
    composed = 2.0 * neural * rbf + neural**2
    expected = 2.0 * neural(X) * rbf(X) + neural(X) ** 2
    np.testing.assert_allclose(composed(X), expected)
    np.testing.assert_allclose(composed.diag(X), np.diag(expected))
    assert composed(X, eval_gradient=True)[1].shape == (9, 9, 6)


def test_classifiers():
    X, y = data(40)
    labels = y > 0
    X_train, X_test = X[:30], X[30:]
    kernel = KERNELS["erf"]
    machine = SVC(kernel=kernel).fit(X_train, labels[:30])
    precomputed = SVC(kernel="precomputed").fit(kernel(X_train), labels[:30])
    np.testing.assert_allclose(
        machine.decision_function(X_test),
        precomputed.decision_function(kernel(X_test, X_train)),
    )
    process = GaussianProcessClassifier(kernel, optimizer=None).fit(X, labels)
    assert process.score(X, labels) > 0.9


def test_kernel_ridge_is_the_decomposition():
    X, y = data(20)
    kernel = KERNELS["mlp"]
    model = KernelRidge(alpha=0.3, kernel=kernel).fit(X, y)
    solution = Decomposition(kernel(X), y)
    np.testing.assert_allclose(model.predict(X), solution.mean(kernel(X), 0.3))


def test_search_in_a_pipeline():
    X, y = data(40)
    pipeline = make_pipeline(StandardScaler(), SVC(kernel=NeuralKernel(depth=1)))
    search = GridSearchCV(
        pipeline,
        {
            "svc__kernel": [NeuralKernel(depth=1), NeuralKernel(kind="ntk")],
            "svc__C": [0.1, 10.0],
        },
        cv=3,
    ).fit(X, y > 0)
    assert len(search.cv_results_["params"]) == 4
    assert search.best_estimator_.predict(X).shape == (40,)


@pytest.mark.parametrize("name", KERNELS)
def test_copies(name):
    kernel = KERNELS[name]
    again = clone(kernel)
    assert again is not kernel
    assert again == kernel
    if name != "function":
        stored = pickle.loads(pickle.dumps(kernel))
        assert stored == kernel
        np.testing.assert_array_equal(stored(data()[0]), kernel(data()[0]))


def test_text():
    assert repr(KERNELS["erf"]) == (
        "NeuralKernel('mlp', kind='nngp', depth=2, activation='erf', weight_std=1.3, "
        "bias_std=0.2)"
    )
    assert "Serial(Dense(" in repr(KERNELS["layers"])
    with pytest.raises(ValueError, match="Invalid parameter width"):
        NeuralKernel().set_params(width=3)


@pytest.mark.parametrize(
    "kernel, error, message",
    [
        (NeuralKernel(kind="gp"), ValueError, "kind='gp' is unknown"),
        (NeuralKernel("vit"), ValueError, "'vit' is unknown"),
        (NeuralKernel(L.Relu), TypeError, r"Write Relu\(\)"),
        (NeuralKernel(weight_std=-1.0), ValueError, "weight_std=-1.0"),
        (NeuralKernel("conv"), ValueError, "needs image_shape"),
        (NeuralKernel(image_shape=(2, 2, 2)), ValueError, "the rows have 24"),
    ],
)
def test_bad_parameters(kernel, error, message):
    X, _ = data()
    for evaluate in (kernel, kernel.diag, lambda X: kernel(X, eval_gradient=True)):
        with pytest.raises(error, match=message):
            evaluate(X)


def test_gradient_needs_one_set_of_rows():
    X, _ = data()
    with pytest.raises(ValueError, match="Y is given"):
        NeuralKernel()(X, X, eval_gradient=True)
