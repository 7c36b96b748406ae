"""Priors over tasks: seeds, shapes, composition, and what the draws look like."""

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis
from sklearn.base import clone

from skfunc.neural_process.priors import (
    AdditivePrior,
    ClassificationPrior,
    GaussianProcessPrior,
    InputDistribution,
    LinearPrior,
    MixturePrior,
    NetworkPrior,
    NoiseDistribution,
    TreePrior,
)

EXACT = NoiseDistribution(kinds=("none",))
FUNCTIONS = {
    "gaussian process": GaussianProcessPrior(),
    "network": NetworkPrior(),
    "tree": TreePrior(),
    "additive": AdditivePrior(),
    "linear": LinearPrior(),
}
PRIORS = {
    **FUNCTIONS,
    "mixture": 2 * GaussianProcessPrior() + TreePrior(),
    "classification": ClassificationPrior(NetworkPrior() + TreePrior()),
}


@pytest.fixture(params=PRIORS)
def prior(request):
    return PRIORS[request.param]


def test_shapes_and_finite(prior):
    for n_points, n_features in ((2, 1), (7, 30), (200, 3)):
        tasks = prior.sample(40, n_points, n_features, random_state=0)
        assert tasks.X.shape == (40, n_points, n_features)
        assert tasks.y.shape == (40, n_points)
        assert tasks.X.dtype == tasks.y.dtype == np.float64
        assert np.isfinite(tasks.X).all() and np.isfinite(tasks.y).all()
        assert len(tasks) == 40
        X, y = tasks[3]
        assert X.shape == (n_points, n_features) and y.shape == (n_points,)


def test_seed(prior):
    first, again, other = (prior.sample(6, 20, 2, random_state=s) for s in (1, 1, 2))
    assert np.array_equal(first.X, again.X) and np.array_equal(first.y, again.y)
    assert not np.array_equal(first.X, other.X)
    assert not np.array_equal(first.y, other.y)


def test_global_seeds_do_not_matter_and_stay(prior):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1]
    first = prior.sample(4, 10, 2, random_state=1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    torch.manual_seed(1)
    assert np.array_equal(first.y, prior.sample(4, 10, 2, random_state=1).y)


def test_number_of_features_is_drawn():
    widths = {LinearPrior().sample(1, 5, random_state=s).X.shape[2] for s in range(60)}
    assert min(widths) == 1 and 12 <= max(widths) <= 16


def test_clone_and_repr(prior):
    copy = clone(prior)
    assert copy is not prior
    assert repr(copy) == repr(prior)
    drawn = copy.sample(3, 9, 2, random_state=0)
    assert np.array_equal(drawn.y, prior.sample(3, 9, 2, random_state=0).y)


def test_tensors_are_what_sample_gives(prior):
    generator = torch.Generator().manual_seed(7)
    tasks = prior._draw(5, 12, 3, generator, "cpu")
    assert tasks.X.dtype == tasks.y.dtype == torch.float32
    assert tasks.X.shape == (5, 12, 3) and tasks.n_classes.shape == (5,)
    # The generator moves on.
    assert not torch.equal(tasks.X, prior._draw(5, 12, 3, generator).X)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tasks_are_independent(name):
    # Over many pairs of tasks the functions' values have no common part.
    tasks = FUNCTIONS[name].sample(2000, 6, 3, random_state=3)
    y = tasks.y - tasks.y.mean(1, keepdims=True)
    y /= np.maximum(y.std(1, keepdims=True), 1e-9)
    products = (y[::2] * y[1::2]).mean(1)
    assert abs(products.mean()) < 4 * products.std() / np.sqrt(len(products))
    columns = tasks.X[::2, 0, 0] * tasks.X[1::2, 0, 0]
    assert abs(columns.mean()) < 4 * columns.std() / np.sqrt(len(columns))


@pytest.mark.parametrize("name", ["network", "tree", "additive", "linear"])
def test_functions_are_centred_and_scaled(name):
    prior = clone(FUNCTIONS[name]).set_params(noise=EXACT)
    y = prior.sample(100, 80, 4, random_state=0).y
    varies = y.std(1) > 0
    assert varies.mean() > 0.8
    assert np.abs(y.mean(1)).max() < 1e-4
    assert np.abs(y.std(1)[varies] - 1).max() < 1e-3


def test_linear_functions_are_linear():
    tasks = LinearPrior(noise=EXACT).sample(20, 30, 4, random_state=0)
    for X, y in tasks:
        design = np.column_stack([X, np.ones(len(X))])
        coefficients, *_ = np.linalg.lstsq(design, y, rcond=None)
        assert np.abs(design @ coefficients - y).max() < 1e-3


def test_sparse_functions_leave_columns_out():
    sparse, dense = (
        LinearPrior(
            sparsity=s, noise=EXACT, inputs=InputDistribution(kinds=("gaussian",))
        ).sample(200, 40, 8, random_state=0)
        for s in (1.0, 0.0)
    )

    def columns_used(tasks):
        weights = np.array([np.linalg.lstsq(X - X.mean(0), y)[0] for X, y in tasks])
        return (np.abs(weights) > 1e-3).sum(1)

    assert columns_used(dense).mean() > 7.9
    used = columns_used(sparse)
    assert used.min() == 1
    # A uniform share of eight columns, one at least: 4 and a half on average.
    assert used.mean() == pytest.approx(4.4, abs=0.5)


def test_additive_functions_without_interactions_are_additive():
    prior = AdditivePrior(
        n_components=(8, 8),
        interactions=0.0,
        noise=EXACT,
        inputs=InputDistribution(kinds=("discrete",), max_levels=2, correlated=0.0),
    )
    # On two levels a column, a sum of functions of single columns is linear.
    for X, y in prior.sample(20, 60, 4, random_state=0):
        design = np.column_stack([X, np.ones(len(X))])
        assert np.abs(design @ np.linalg.lstsq(design, y)[0] - y).max() < 1e-3
    prior.set_params(interactions=1.0, shapes=("sigmoid",))
    residuals = []
    for X, y in prior.sample(20, 60, 4, random_state=0):
        design = np.column_stack([X, np.ones(len(X))])
        residuals.append(np.abs(design @ np.linalg.lstsq(design, y)[0] - y).max())
    assert max(residuals) > 0.1


def test_trees_have_few_values():
    prior = TreePrior(depth=(3, 3), n_trees=(1, 1), noise=EXACT)
    y = prior.sample(50, 200, 3, random_state=0).y
    n_values = np.array([len(np.unique(row)) for row in y])
    assert n_values.max() <= 8
    assert n_values.mean() > 3


def test_a_constant_function_stays_finite():
    levels = InputDistribution(kinds=("discrete",), max_levels=2)
    tasks = LinearPrior(inputs=levels).sample(200, 2, 1, random_state=0)
    constant = np.ptp(tasks.X[..., 0], axis=1) == 0
    assert constant.any()
    assert not tasks.y[constant].any()


def test_one_point():
    assert np.isfinite(GaussianProcessPrior().sample(50, 1, 2, random_state=0).y).all()
    assert not LinearPrior().sample(5, 1, 2, random_state=0).y.any()


def test_weights_of_a_mixture():
    one_level = {"correlated": 0.0, "max_levels": 2}
    coins = InputDistribution(kinds=("discrete",), **one_level)
    bounded = InputDistribution(kinds=("uniform",), **one_level)
    mixture = 3 * LinearPrior(inputs=coins) + TreePrior(inputs=bounded)
    X = mixture.sample(2000, 40, 1, random_state=0).X
    is_coin = np.array([len(np.unique(task)) <= 2 for task in X])
    assert is_coin.mean() == pytest.approx(0.75, abs=0.04)
    # Tasks of the parts are mixed, not in blocks.
    assert 0.6 < is_coin[:1000].mean() < 0.9


def test_algebra_of_mixtures():
    a, b, c = LinearPrior(), TreePrior(), NetworkPrior()
    mixture = 2 * (a + 3 * b) + c * 0.5
    assert mixture.priors == [a, b, c]
    assert mixture.weights == [2.0, 6.0, 0.5]
    assert MixturePrior([a, b])._shares() == [1.0, 1.0]
    with pytest.raises(TypeError):
        a + 1
    with pytest.raises(TypeError):
        a * "b"


def test_a_weight_of_zero_is_never_drawn():
    prior = 0 * LinearPrior(inputs=InputDistribution(max_levels=0)) + TreePrior()
    prior.priors[0].set_params(inputs=None)
    tasks = prior.sample(50, 10, 2, random_state=0)
    assert np.isfinite(tasks.y).all()
    weights = torch.bincount(
        torch.cat([rows * 0 + i for i, (_, rows) in enumerate(assigned(prior))])
    )
    assert weights.tolist() == [50]


def assigned(prior):
    from skfunc.neural_process.priors._draws import Draws

    return list(prior._assign(50, Draws(torch.Generator().manual_seed(0))))


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        ("gaussian", lambda x: abs(kurtosis(x)) < 0.1),
        ("uniform", lambda x: np.abs(x).max() < 1.7321 and kurtosis(x) < -1.1),
        ("heavy_tailed", lambda x: kurtosis(x) > 0.5),
        ("skewed", lambda x: np.median(x) < -0.05),
        ("discrete", lambda x: len(np.unique(x.round(4))) < 60),
    ],
)
def test_marginals(kind, check):
    inputs = InputDistribution(kinds=(kind,), correlated=0.0)
    X = LinearPrior(inputs=inputs).sample(400, 100, 2, random_state=0).X
    assert check(X.ravel())
    tolerance = 0.15 if kind == "discrete" else 0.05
    assert abs(X.mean()) < tolerance
    assert X.std() == pytest.approx(1.0, abs=tolerance)


def test_levels_of_discrete_columns():
    inputs = InputDistribution(kinds=("discrete",), max_levels=5)
    X = LinearPrior(inputs=inputs).sample(200, 300, 2, random_state=0).X
    counts = [len(np.unique(task[:, 0])) for task in X]
    assert min(counts) >= 1 and max(counts) == 5
    assert set(counts) >= {2, 3, 4, 5}


def test_correlation_of_columns():
    def strength(correlated):
        inputs = InputDistribution(kinds=("gaussian",), correlated=correlated)
        X = LinearPrior(inputs=inputs).sample(100, 300, 2, random_state=0).X
        return np.array([abs(np.corrcoef(task.T)[0, 1]) for task in X])

    assert strength(0.0).mean() < 0.07
    assert strength(1.0).max() > 0.8


@pytest.mark.parametrize("kind", ["gaussian", "heteroscedastic", "student_t"])
def test_noise_has_its_standard_deviation(kind):
    inputs = InputDistribution(kinds=("gaussian",))
    noise = NoiseDistribution(kinds=(kind,), std=(0.5, 0.5))
    # The residual of a linear fit is the noise, in units of a function of spread one.
    ratios = []
    for X, y in LinearPrior(inputs=inputs, noise=noise).sample(60, 400, 2, 0):
        design = np.column_stack([X, np.ones(len(X))])
        ratios.append((design @ np.linalg.lstsq(design, y)[0] - y).std())
    assert np.mean(ratios) == pytest.approx(0.5, rel=0.1)


def test_kinds_of_noise_differ():
    def residuals(kind):
        noise = NoiseDistribution(kinds=(kind,), std=(1.0, 1.0))
        inputs = InputDistribution(kinds=("gaussian",))
        prior = LinearPrior(inputs=inputs, noise=noise)
        out = []
        for X, y in prior.sample(40, 400, 1, random_state=0):
            design = np.column_stack([X, np.ones(len(X))])
            out.append(design @ np.linalg.lstsq(design, y)[0] - y)
        return X, np.array(out)

    assert abs(kurtosis(residuals("gaussian")[1].ravel())) < 0.2
    assert kurtosis(residuals("student_t")[1].ravel()) > 0.5
    halves = []
    noise = NoiseDistribution(kinds=("heteroscedastic",), std=(1.0, 1.0))
    inputs = InputDistribution(kinds=("gaussian",))
    for X, y in LinearPrior(inputs=inputs, noise=noise).sample(40, 400, 1, 0):
        left = X[:, 0] < 0
        halves.append(np.log(y[left].std() / y[~left].std()))
    assert np.abs(halves).mean() > 0.3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (LinearPrior(sparsity=2.0), "sparsity"),
        (GaussianProcessPrior(kernels=("cubic",)), "kernels='cubic' is unknown"),
        (GaussianProcessPrior(kernels="rbf"), "sequence of names"),
        (GaussianProcessPrior(lengthscale=(1.0, 0.5)), "lengthscale"),
        (GaussianProcessPrior(scale=1.0), "scale must be two numbers"),
        (NetworkPrior(depth=(0, 2)), "depth"),
        (NetworkPrior(activations=()), "activations"),
        (TreePrior(decay=0.0), "decay"),
        (AdditivePrior(shapes=("round",)), "shapes"),
        (LinearPrior(inputs=InputDistribution(kinds=("odd",))), "kinds='odd'"),
        (LinearPrior(inputs=InputDistribution(max_levels=1)), "max_levels"),
        (LinearPrior(noise=NoiseDistribution(std=(0.0, 1.0))), "std"),
        (LinearPrior(noise=NoiseDistribution(kinds="none")), "kinds must be"),
        (MixturePrior([]), "at least one prior"),
        (MixturePrior([LinearPrior()], weights=[1, 2]), "2 entries for 1"),
        (MixturePrior([LinearPrior()], weights=[0]), "all zero"),
        (MixturePrior([LinearPrior()], weights=[-1]), r"weights\[0\]"),
        (MixturePrior(["a"]), "TaskPrior objects"),
        (ClassificationPrior("a"), "base must be"),
        (ClassificationPrior(LinearPrior(), max_classes=1), "max_classes"),
        (ClassificationPrior(LinearPrior(sparsity=-1)), "sparsity"),
    ],
)
def test_bad_parameters(bad, message):
    with pytest.raises(ValueError, match=message):
        bad.sample(2, 5, 2)


@pytest.mark.parametrize("sizes", [(0, 5, 2), (2, 0, 2), (2, 5, 0), (2, 5.0, 2)])
def test_bad_sizes(sizes):
    with pytest.raises(ValueError, match="must be an integer"):
        LinearPrior().sample(*sizes)
