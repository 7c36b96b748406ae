"""Tasks from Gaussian processes, and the likelihood of the process itself."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from sklearn.gaussian_process import GaussianProcessRegressor, kernels

from skfunc.datasets import GPTasks, gp_log_likelihood, make_gp_tasks
from skfunc.datasets._gp_tasks import KERNELS, covariances

# Exact Gaussian processes on the protocol of arXiv 2207.04179, marginal and joint, each
# with a standard error of .013.
RECORDED = {
    "rbf": (1.492, 1.793),
    "matern52": (1.094, 1.373),
    "periodic": (1.143, 1.468),
}
RECORDED_ERROR = 0.013


def test_shapes_and_masks():
    tasks = make_gp_tasks(400, random_state=0)
    assert tasks.X.shape == (400, 49, 1)
    assert tasks.y.shape == tasks.context_mask.shape == (400, 49)
    n_context, n_target = tasks.context_mask.sum(1), tasks.target_mask.sum(1)
    assert n_context.min() == 3 and n_context.max() == 46
    assert n_target.min() == 3 and (n_context + n_target).max() == 49
    assert not (tasks.context_mask & tasks.target_mask).any()
    unused = ~(tasks.context_mask | tasks.target_mask)
    assert not tasks.X[unused].any() and not tasks.y[unused].any()
    assert np.abs(tasks.X).max() <= 2
    for name, (low, high) in {
        "lengthscale": (0.1, 0.6),
        "scale": (0.1, 1.0),
        "period": (0.1, 0.5),
    }.items():
        values = getattr(tasks, name)
        assert low <= values.min() and values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, rel=0.1)


def test_seed():
    first, again, other = (make_gp_tasks(5, random_state=s) for s in (3, 3, 4))
    assert np.array_equal(first.y, again.y)
    assert not np.array_equal(first.y, other.y)
    generator = np.random.default_rng(0)
    draws = [make_gp_tasks(5, random_state=generator).y for _ in range(2)]
    assert not np.array_equal(*draws)
    legacy = [
        make_gp_tasks(5, random_state=np.random.RandomState(0)).y for _ in range(2)
    ]
    assert np.array_equal(*legacy)


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("rbf", kernels.RBF(0.3)),
        ("matern12", kernels.Matern(0.3, nu=0.5)),
        ("matern32", kernels.Matern(0.3, nu=1.5)),
        ("matern52", kernels.Matern(0.3, nu=2.5)),
        ("periodic", kernels.ExpSineSquared(0.3, 0.4)),
    ],
)
def test_covariance_is_that_of_scikit_learn(name, peer):
    X = np.random.default_rng(0).uniform(-2, 2, (1, 12, 1))
    one = np.ones(1)
    found = covariances(X, np.array([name]), 0.3 * one, 0.7 * one, 0.4 * one)
    assert np.allclose(found[0], 0.49 * peer(X[0]), atol=1e-12)


def test_draws_have_the_covariance_of_the_kernel():
    one = (0.4, 0.4)
    tasks = make_gp_tasks(
        4000, "matern52", lengthscale=one, scale=(1, 1), random_state=0
    )
    used = tasks.context_mask | tasks.target_mask
    pair = used[:, 0] & used[:, 1]
    distance = np.abs(tasks.X[pair, 0, 0] - tasks.X[pair, 1, 0])
    product = tasks.y[pair, 0] * tasks.y[pair, 1]
    expected = KERNELS["matern52"](distance, np.array(0.4), np.array(1.0))
    gap = (product - expected).reshape(-1)
    for low, high in ((0, 0.3), (0.3, 1.0), (1.0, 4.0)):
        near = (distance >= low) & (distance < high)
        error = gap[near].std() / np.sqrt(near.sum())
        assert abs(gap[near].mean()) < 4 * error


def test_several_kernels():
    tasks = make_gp_tasks(600, ("rbf", "periodic"), random_state=0)
    names, counts = np.unique(tasks.kernel, return_counts=True)
    assert names.tolist() == ["periodic", "rbf"]
    assert counts.min() > 250


def test_likelihood_is_that_of_a_gaussian_process():
    tasks = make_gp_tasks(6, ("rbf", "matern32"), random_state=2)
    marginal = gp_log_likelihood(tasks)
    joint = gp_log_likelihood(tasks, joint=True)
    for i in range(len(tasks)):
        context_X, context_y, X, y = tasks.task(i)
        correlation = {
            "rbf": kernels.RBF(tasks.lengthscale[i]),
            "matern32": kernels.Matern(tasks.lengthscale[i], nu=1.5),
        }[str(tasks.kernel[i])]
        process = GaussianProcessRegressor(
            tasks.scale[i] ** 2 * correlation, alpha=tasks.noise_std**2, optimizer=None
        ).fit(context_X, context_y)
        mean, covariance = process.predict(X, return_cov=True)
        covariance += tasks.noise_std**2 * np.eye(len(X))
        std = np.sqrt(np.diag(covariance))
        assert marginal[i] == pytest.approx(norm.logpdf(y, mean, std).mean(), abs=1e-6)
        together = multivariate_normal.logpdf(y, mean, covariance) / len(y)
        assert joint[i] == pytest.approx(together, abs=1e-6)


@pytest.mark.parametrize("name", RECORDED)
def test_likelihood_of_the_protocol(name):
    tasks = make_gp_tasks(3000, name, random_state=1)
    for joint, recorded in zip((False, True), RECORDED[name], strict=True):
        values = gp_log_likelihood(tasks, joint=joint)
        error = np.hypot(values.std() / np.sqrt(len(values)), RECORDED_ERROR)
        assert abs(values.mean() - recorded) < 3 * error


def test_what_lies_outside_the_masks_does_not_matter():
    tasks = make_gp_tasks(5, random_state=0)
    X, y = tasks.X.copy(), tasks.y.copy()
    unused = ~(tasks.context_mask | tasks.target_mask)
    X[unused], y[unused] = 1.7, 50.0
    changed = GPTasks(**{**vars(tasks), "X": X, "y": y})
    for joint in (False, True):
        assert np.array_equal(
            gp_log_likelihood(tasks, joint=joint),
            gp_log_likelihood(changed, joint=joint),
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "sawtooth"}, "kernel=.*sawtooth.* is unknown"),
        ({"kernel": ()}, "one or more"),
        ({"n_tasks": 0}, "n_tasks"),
        ({"min_points": 30}, "min_points"),
        ({"noise_std": 0.0}, "noise_std"),
        ({"lengthscale": (0.6, 0.1)}, "lengthscale"),
        ({"scale": (0.0, 0.1)}, "scale"),
        ({"x_range": (1.0, np.inf)}, "x_range"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        make_gp_tasks(**{"n_tasks": 2, **options})
