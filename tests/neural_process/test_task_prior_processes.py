"""Gaussian process prior: its covariances, against closed forms and Monte Carlo."""

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import kernels

from skfunc.neural_process.priors import (
    GaussianProcessPrior,
    InputDistribution,
    NoiseDistribution,
)
from skfunc.neural_process.priors._draws import Draws
from skfunc.neural_process.priors._kernels import (
    KERNELS,
    KernelParameters,
    correlation,
    root,
)

EXACT = NoiseDistribution(kinds=("none",))


def parameters(name, n_features):
    one = torch.ones(1, dtype=torch.float64)
    inverse = torch.linspace(0.5, 1.5, n_features, dtype=torch.float64)[None]
    kind = torch.tensor([list(KERNELS).index(name)])
    return KernelParameters(kind, inverse, 0.9 * one, 0.7 * one, 1.3 * one, 0.2 * one)


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("rbf", kernels.RBF()),
        ("matern12", kernels.Matern(nu=0.5)),
        ("matern32", kernels.Matern(nu=1.5)),
        ("matern52", kernels.Matern(nu=2.5)),
        ("rational_quadratic", kernels.RationalQuadratic(alpha=1.3)),
    ],
)
def test_kernels_are_those_of_scikit_learn(name, peer):
    X = np.random.default_rng(0).normal(size=(1, 15, 3))
    p = parameters(name, 3)
    found = correlation(torch.as_tensor(X), p)[0].numpy()
    assert np.allclose(found, peer(X[0] * p.inverse_lengthscale.numpy()), atol=1e-7)


def test_periodic_kernel():
    X = torch.as_tensor(np.random.default_rng(0).normal(size=(1, 15, 2)))
    p = parameters("periodic", 2)
    found = correlation(X, p)[0].numpy()
    Z = (X * p.inverse_lengthscale)[0].numpy()
    expected = np.ones((15, 15))
    for column in range(2):
        expected *= kernels.ExpSineSquared(0.7, 0.9)(Z[:, [column]])
    assert np.allclose(found, expected, atol=1e-12)
    # A column without relevance does not count.
    p.inverse_lengthscale[0, 1] = 0.0
    alone = kernels.ExpSineSquared(0.7, 0.9)(Z[:, [0]])
    assert np.allclose(correlation(X, p)[0].numpy(), alone, atol=1e-12)


def test_linear_kernel():
    X = np.random.default_rng(0).normal(size=(1, 10, 2))
    p = parameters("linear", 2)
    Z = X[0] * p.inverse_lengthscale.numpy()
    total = (p.inverse_lengthscale**2).sum().item()
    expected = (0.2 + Z @ Z.T / total) / 1.2
    assert np.allclose(correlation(torch.as_tensor(X), p)[0].numpy(), expected)


def test_composites_are_sums_and_products():
    prior = GaussianProcessPrior(
        kernels=("rbf",),
        composite=1.0,
        lengthscale=(1.0, 1.0),
        ard=0.0,
        scale=(2.0, 2.0),
        sparsity=0.0,
    )
    X = torch.as_tensor(np.random.default_rng(0).normal(size=(1, 8, 1)))
    draws = Draws(torch.Generator().manual_seed(0))
    found = prior._covariance(X.expand(40, -1, -1), draws).numpy() / 4
    rbf = kernels.RBF()(X[0].numpy())
    is_mean = np.array([np.allclose(k, rbf, atol=1e-6) for k in found])
    is_product = np.array([np.allclose(k, rbf**2, atol=1e-6) for k in found])
    assert (is_mean | is_product).all()
    assert 8 < is_mean.sum() < 32


@pytest.mark.parametrize("name", KERNELS)
def test_draws_have_the_covariance_of_the_kernel(name):
    # One kernel's hyper-parameters for all draws: ranges of no width, one column.
    prior = GaussianProcessPrior(kernels=(name,), composite=0.0)
    n_draws, n_points = 20_000, 5
    X = torch.linspace(-1.5, 2.0, n_points, dtype=torch.float64)[None, :, None]
    draws = Draws(torch.Generator().manual_seed(1))
    covariance = prior._covariance(X, draws)
    white = draws.normal(n_draws, n_points, 1).double()
    f = (root(covariance) @ white)[..., 0].numpy()
    expected = covariance[0].numpy()
    products = f[:, :, None] * f[:, None, :]
    error = products.std(0) / np.sqrt(n_draws)
    assert (np.abs(products.mean(0) - expected) < 4.5 * error).all()
    assert np.abs(f.mean(0)).max() < 4.5 * np.sqrt(expected.max() / n_draws)


def test_sampled_tasks_have_the_covariance_of_the_kernel():
    prior = GaussianProcessPrior(
        kernels=("rbf",),
        composite=0.0,
        lengthscale=(0.8, 0.8),
        ard=0.0,
        scale=(1.5, 1.5),
        sparsity=0.0,
        inputs=InputDistribution(kinds=("uniform",), correlated=0.0),
        noise=EXACT,
    )
    tasks = prior.sample(20_000, 2, 3, random_state=0)
    squared = ((tasks.X[:, 0] - tasks.X[:, 1]) ** 2).sum(1)
    # Three relevant columns: the lengthscale grows by their root.
    expected = 1.5**2 * np.exp(-0.5 * squared / (3 * 0.8**2))
    gap = tasks.y[:, 0] * tasks.y[:, 1] - expected
    for low, high in ((0.0, 1.0), (1.0, 4.0), (4.0, 40.0)):
        near = (squared >= low) & (squared < high)
        assert abs(gap[near].mean()) < 4 * gap[near].std() / np.sqrt(near.sum())
    assert tasks.y.var() == pytest.approx(2.25, rel=0.05)


def test_equal_rows_need_no_more_than_jitter():
    X = torch.zeros(3, 40, 2, dtype=torch.float64)
    covariance = GaussianProcessPrior()._covariance(
        X, Draws(torch.Generator().manual_seed(0))
    )
    factor = root(covariance)
    assert torch.isfinite(factor).all()
    gap = (factor @ factor.mT - covariance).abs().amax((1, 2))
    assert (gap < 1e-4 * covariance.amax((1, 2))).all()


def test_a_matrix_that_is_no_covariance():
    with pytest.raises(FloatingPointError, match="positive definite"):
        root(torch.tensor([[[1.0, 3.0], [3.0, 1.0]]], dtype=torch.float64))
