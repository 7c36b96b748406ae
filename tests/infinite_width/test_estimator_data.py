"""Nothing is silent: a right and finite answer, or an error that names its cause."""

import math
import warnings

import numpy as np
import pytest
from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning

from skfunc import InfiniteWidthClassifier, InfiniteWidthRegressor
from skfunc.infinite_width import layers as L

NET = L.preset("mlp", 2, "erf", 1.3, 0.4)
KINDS = ["nngp", "ntk"]
ESTIMATORS = [InfiniteWidthRegressor, InfiniteWidthClassifier]
ACTIVATIONS = "relu leaky_relu abs erf gelu sin cos rbf sigmoid".split()


def data(n=24, d=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, np.sin(2 * X[:, 0]) + 0.1 * rng.normal(size=n)


def of(estimator, y):
    """Return targets for an estimator."""
    return np.where(y > np.median(y), "up", "down") if is_classifier(estimator) else y


def is_classifier(estimator):
    return issubclass(estimator, InfiniteWidthClassifier)


def answers(model, X):
    """Return everything that a model says, all of it finite."""
    if is_classifier(type(model)):
        found = [*model.predict_proba(X, return_std=True), model.sample_proba(X, 2)]
        np.testing.assert_allclose(found[0].sum(axis=1), 1.0, rtol=1e-9)
    else:
        found = [*model.predict(X, return_std=True), *model.predict_std_parts(X)]
        found += [model.sample_y(X, 2), *model.loo_predict(return_std=True)]
        found.append(np.array(model.log_marginal_likelihood_))
    assert all(np.isfinite(values).all() for values in found)
    return found


def heard(estimator, X, y, X_new=None, **options):
    """Return a fitted model and its answers, after at most one warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = estimator(**({"random_state": 0} | options)).fit(X, y)
        found = answers(model, X[:5] if X_new is None else X_new)
    assert len(caught) <= 1, [str(warning.message) for warning in caught]
    for warning in caught:
        assert issubclass(warning.category, (LinAlgWarning, ConvergenceWarning))
    return model, found


class TestScales:
    """What has no scale of its own cannot matter."""

    @pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_units_of_columns(self, estimator, scale):
        X, y = data()
        options = {"depth": 1, "activation": "erf"}
        _, expected = heard(estimator, X, of(estimator, y), **options)
        _, got = heard(estimator, X * scale, of(estimator, y), **options)
        for one, two in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-9)

    @pytest.mark.parametrize("scale", [1e-140, 1e140])
    @pytest.mark.parametrize("kind", KINDS)
    def test_units_of_targets(self, kind, scale):
        X, y = data()
        model, (mean, std, *_) = heard(InfiniteWidthRegressor, X, y, kernel=kind)
        other, got = heard(InfiniteWidthRegressor, X, y * scale, kernel=kind)
        np.testing.assert_allclose(got[0], mean * scale, rtol=1e-6)
        np.testing.assert_allclose(got[1], std * scale, rtol=1e-6)
        np.testing.assert_allclose(
            other.log_marginal_likelihood_,
            model.log_marginal_likelihood_ - 24 * math.log(scale),
            rtol=1e-9,
        )

    @pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
    def test_targets_whose_squares_are_no_numbers(self, scale):
        X, y = data()
        with pytest.raises(ValueError, match="y has the standard deviation .*units"):
            InfiniteWidthRegressor().fit(X, y * scale)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("solver", ["cholesky", "eigh", "cg", "nystrom"])
    def test_units_of_weights_of_a_homogeneous_network(self, solver, kind):
        # Without biases a relu network's kernel only grows with its weights.
        X, y = data()
        found = []
        for weight_std in (1.0, 1e3):
            net = L.preset("mlp", 3, "relu", weight_std, 0.0)
            model = InfiniteWidthRegressor(net, kernel=kind, alpha=0.1, solver=solver)
            model.fit(X, y)
            found.append(model.predict(X[:5] + 0.1, return_std=True))
            if solver in ("cholesky", "eigh"):
                found[-1] += (model.log_marginal_likelihood_,)
        rtol = 1e-6 if solver in ("cholesky", "eigh") else 2e-3
        for one, two in zip(*found, strict=True):
            np.testing.assert_allclose(one, two, rtol=rtol)

    @pytest.mark.parametrize("criterion", ["lml", "loo"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_ridge_of_a_network_of_large_weights(self, kind, criterion):
        X, y = data()
        chosen = [
            InfiniteWidthRegressor(
                L.preset("mlp", 3, "relu", weight_std, 0.0),
                kernel=kind,
                selection=criterion,
            ).fit(X, y)
            for weight_std in (1.0, 1e3)
        ]
        assert chosen[0].alpha_ == chosen[1].alpha_ > 1e-6

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_large_weights(self, activation, kind):
        X, y = data()
        options = {"activation": activation, "kernel": kind, "weight_std": 1e3}
        _, found = heard(InfiniteWidthRegressor, X, y, **options)
        # Sure or not, predictions stay near the targets.
        assert np.abs(found[0]).max() < 3 and found[1].max() < 3

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_kernels_of_large_weights_are_finite_at_rows_met_again(
        self, activation, kind
    ):
        # Rounding makes the correlation of equal rows exceed one.
        X, _ = data()
        for weight_std in (1.0, 1e3, 1e6, 1e9):
            net = L.preset("mlp", 3, activation, weight_std, 0.1)
            gram, cross = net.kernel(X, kind=kind), net.kernel(X, X.copy(), kind)
            assert np.isfinite(gram).all() and np.isfinite(cross).all()
            # The arcsine near one keeps half of the digits.
            assert np.abs(cross).max() <= gram.max() * (1 + 1e-4)

    @pytest.mark.parametrize("value", [1e50, 1e100, 1e154])
    @pytest.mark.parametrize("selection", ["lml", "loo", None])
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_weights_that_overflow(self, estimator, selection, value):
        X, y = data()
        # A saturating activation would bear them.
        options = {"selection": selection, "depth": 3, "activation": "relu"}
        model = estimator(weight_std=value, **options)
        with pytest.raises(ValueError, match="overflows"):
            model.fit(X, of(estimator, y))

    @pytest.mark.parametrize("name", ["weight_std", "bias_std", "linear_std"])
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_weights_whose_squares_overflow(self, estimator, name):
        X, y = data()
        model = estimator(**{name: 1e200})
        with pytest.raises(ValueError, match=rf"{name} must be a number in \[0, 1e"):
            model.fit(X, of(estimator, y))
        with pytest.raises(ValueError, match="weight_std=1e.200 .*square"):
            L.Dense(1e200)

    @pytest.mark.parametrize("activation", ["relu", "erf", "sin"])
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_rows_too_far_away(self, estimator, kind, activation):
        X, y = data()
        model = estimator(kernel=kind, activation=activation, selection=None)
        model.fit(X, of(estimator, y))
        answers(model, X[:3] * 1e60)
        rows = np.concatenate([X[:1], X[:2] * 1e160, X[:1] * 1e300])
        for method in (
            "predict_std_parts",
            "sample_y",
            "predict_proba",
            "sample_proba",
        ):
            if hasattr(model, method):
                with pytest.raises(ValueError, match="overflows in row 1 of X"):
                    getattr(model, method)(rows)

    @pytest.mark.parametrize("alpha", [1e-300, 1e10, 1e300])
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_extreme_ridges(self, estimator, alpha):
        X, y = data()
        _, found = heard(estimator, X, of(estimator, y), alpha=alpha)
        if alpha > 1 and estimator is InfiniteWidthRegressor:
            np.testing.assert_allclose(found[0], y.mean(), atol=1e-8)
            np.testing.assert_allclose(found[1], y.std(), rtol=1e-6)


class TestFewAndRepeatedRows:
    @pytest.mark.parametrize("time", [None, "auto", 3.0])
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_few_rows(self, n, kind, time):
        X, y = data(n)
        options = {"kernel": kind, "training_time": time}
        _, found = heard(InfiniteWidthRegressor, X, y, **options)
        low, high = y.min() - 1e-6, y.max() + 1e-6
        assert ((low <= found[0]) & (found[0] <= high)).all()
        if n > 1:
            heard(InfiniteWidthClassifier, X, np.arange(n) % 2, **options)

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    @pytest.mark.parametrize("kind", KINDS)
    def test_fewer_rows_than_columns(self, kind, estimator):
        X, y = data(8, 60)
        heard(estimator, X, of(estimator, y), kernel=kind)

    @pytest.mark.parametrize("selection", ["lml", "loo", None])
    @pytest.mark.parametrize("solver", ["cholesky", "eigh"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_equal_rows_of_unlike_targets_without_ridge(self, kind, solver, selection):
        X, y = data(12)
        twice = np.concatenate([X, X])
        targets = np.concatenate([y + 0.2, y - 0.2])
        options = {"alpha": 0.0, "kernel": kind, "activation": "relu", "depth": 1}
        options |= {"selection": selection, "relevance": None, "solver": solver}
        with pytest.warns(LinAlgWarning, match="the ridge was raised") as caught:
            model = InfiniteWidthRegressor(**options).fit(twice, targets)
            found = answers(model, X)
        assert len(caught) == 1
        # Between them is the best that can be said.
        np.testing.assert_allclose(found[0], y, atol=1e-3)
        if kind == "nngp":
            assert (found[1] > 0).all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_without_ridge_targets_are_met(self, kind):
        X, y = data()
        model, found = heard(InfiniteWidthRegressor, X, y, alpha=0.0, kernel=kind)
        np.testing.assert_allclose(found[0], y[:5], atol=1e-6)
        assert model.ridge_ == 0
        if kind == "nngp":
            np.testing.assert_allclose(found[1], 0, atol=1e-5)

    @pytest.mark.parametrize("time", [None, 3.0])
    @pytest.mark.parametrize("value", [0.0, -3.5, 1e200])
    @pytest.mark.parametrize("kind", KINDS)
    def test_constant_targets(self, kind, value, time):
        X, y = data()
        options = {"kernel": kind, "training_time": time}
        _, found = heard(
            InfiniteWidthRegressor, X, np.full_like(y, value), X + 5, **options
        )
        np.testing.assert_allclose(found[0], value, rtol=1e-12)
        np.testing.assert_allclose(found[1], 0, atol=1e-4)

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_constant_columns(self, estimator):
        X, y = data()
        wide = np.column_stack([X, np.full(24, 1e9), np.zeros(24), np.full(24, 0.1)])
        options = {"selection": None, "linear_std": 0.0}
        model, _ = heard(estimator, wide, of(estimator, y), **options)
        np.testing.assert_array_equal(model.X_train_[:, 3:], 0.0)
        np.testing.assert_array_equal(model.X_scale_[3:], 1.0)

    @pytest.mark.parametrize("value", [0.0, 7.0])
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_columns_that_say_nothing(self, estimator, value):
        X, y = data()
        labels = of(estimator, y)
        model, found = heard(estimator, np.full_like(X, value), labels, alpha=0.1)
        if estimator is InfiniteWidthRegressor:
            np.testing.assert_allclose(found[0], y.mean(), atol=1e-3)
        else:
            np.testing.assert_allclose(found[0], 0.5, atol=0.05)

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_weights_of_every_size(self, estimator):
        X, y = data()
        model = estimator(selection=None, alpha=0.1)
        for weight in (
            np.full(24, 1e-300),
            np.full(24, 1e300),
            np.geomspace(0.01, 9, 24),
        ):
            answers(model.fit(X, of(estimator, y), weight), X)


class TestSolvers:
    def data(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(150, 4))
        y = np.sin(2 * X[:, 0]) + X[:, 1] + 0.3 * rng.normal(size=150)
        return X[:120], y[:120], X[120:]

    # Conjugate gradients stop at a residual of 1e-3; the kernel of low rank is another
    # model, close for a smooth network.
    @pytest.mark.parametrize(
        ("solver", "mean_error", "std_error"),
        [("eigh", 1e-10, 1e-10), ("cg", 5e-3, 5e-3), ("nystrom", 0.3, 0.1)],
    )
    @pytest.mark.parametrize("kind", KINDS)
    def test_they_agree(self, kind, solver, mean_error, std_error):
        X, y, X_new = self.data()
        options = {"kernel": kind, "selection": None, "alpha": 0.1}
        exact = InfiniteWidthRegressor(NET, solver="cholesky", **options).fit(X, y)
        other = InfiniteWidthRegressor(NET, solver=solver, **options).fit(X, y)
        assert other.solver_ == solver
        pairs = [
            [model.predict(X_new, return_std=True), model.loo_predict(return_std=True)]
            for model in (exact, other)
        ]
        for one, two in zip(*pairs, strict=True):
            assert np.sqrt(np.square(one[0] - two[0]).mean()) < mean_error
            assert np.sqrt(np.square(one[1] - two[1]).mean()) < std_error
        _, cov = other.predict(X_new, return_cov=True)
        np.testing.assert_allclose(np.sqrt(np.diag(cov)), pairs[1][0][1], rtol=1e-5)

    def test_memory_decides(self):
        X, y, X_new = self.data()
        # Three matrices of 120 x 120 in float64.
        needed = 3 * 8 * 120**2
        options = {"selection": None, "alpha": 0.1}
        solvers = [
            InfiniteWidthRegressor(NET, max_memory=memory, **options).fit(X, y).solver_
            for memory in (needed, needed - 1)
        ]
        assert solvers == ["cholesky", "cg"]
        for time in (1.0, "auto"):
            model = InfiniteWidthRegressor(NET, training_time=time, **options)
            assert model.fit(X, y).solver_ == "eigh"
        with pytest.raises(ValueError, match="max_memory=1000 bytes are too few"):
            InfiniteWidthRegressor(NET, max_memory=1000, **options).fit(X, y)

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    @pytest.mark.parametrize("solver", ["cg", "nystrom"])
    def test_past_memory_only_the_end_is_known(self, solver, estimator):
        X, y, X_new = self.data()
        labels = of(estimator, y)
        for time in (1.0, "auto", 0):
            model = estimator(NET, solver=solver, training_time=time, alpha=0.1)
            with pytest.raises(ValueError, match=f"training_time.*solver='{solver}'"):
                model.fit(X, labels)
        model = estimator(NET, solver=solver, alpha=0.1).fit(X, labels)
        if estimator is InfiniteWidthRegressor:
            with pytest.raises(ValueError, match="training_time=2.0 needs a decompo"):
                model.predict(X_new, training_time=[2.0, math.inf])
            np.testing.assert_array_equal(
                model.predict(X_new, training_time=math.inf), model.predict(X_new)
            )
            with pytest.raises(AttributeError, match="has no log_marginal_likelihood_"):
                _ = model.log_marginal_likelihood_


VALID = {
    "architecture": ("transformer", "'mlp', 'conv', 'wide_resnet'"),
    "kernel": ("rbf", "'nngp', 'ntk'"),
    "activation": ("tanh", ", ".join(f"'{name}'" for name in ACTIVATIONS)),
    "selection": ("bic", "'lml', 'loo', None"),
    "solver": ("qr", "'auto', 'cholesky', 'eigh', 'cg', 'nystrom'"),
    "relevance": (True, "'auto', None"),
    "dtype": ("float16", "'auto', 'float32', 'float64'"),
}
OTHER = {
    "depth": [-1, 1.5, "two", True],
    "weight_std": [-1, "a", math.nan, math.inf, None],
    "bias_std": [-0.1],
    "linear_std": [-0.1],
    "alpha": [-1e-9, "big", math.inf],
    "amplitude": [0, -1, "big"],
    "training_time": [-1, math.nan, "never", [1, 2], -math.inf],
    "learning_rate": [0, -1, math.inf, "fast"],
    "max_memory": [0, -1, 1.5, "1 GB"],
    "image_shape": [(1, 2, 2), (3,), (3, 1), "3", (3, 0, 1), (3.0, 1, 1)],
    "device": ["tpu"],
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
class TestOptions:
    @pytest.mark.parametrize("name", VALID)
    def test_unknown_ones_come_with_those_that_are_known(self, estimator, name):
        X, y = data()
        value, known = VALID[name]
        with pytest.raises(ValueError) as error:
            estimator(**{name: value}).fit(X, of(estimator, y))
        assert f"{name}={value!r} is unknown" in str(error.value)
        assert known in str(error.value)

    @pytest.mark.parametrize(
        ("name", "value"), [(n, value) for n in OTHER for value in OTHER[n]]
    )
    def test_values_out_of_range(self, estimator, name, value):
        X, y = data()
        with pytest.raises(ValueError, match=name):
            estimator(**{name: value}).fit(X, of(estimator, y))

    @pytest.mark.parametrize("name", ["conv", "wide_resnet"])
    def test_images_need_their_shape(self, estimator, name):
        X, y = data()
        with pytest.raises(ValueError, match="needs image_shape=.channels, height"):
            estimator(name).fit(X, of(estimator, y))
        net = L.Serial(L.Conv(), L.Relu(), L.Flatten(), L.Dense())
        with pytest.raises(ValueError, match="needs images and was given vectors"):
            estimator(net).fit(X, of(estimator, y))

    @pytest.mark.parametrize(
        "option",
        [
            {"depth": 2},
            {"activation": "erf"},
            {"weight_std": 1.0},
            {"bias_std": 0.1},
            {"linear_std": 0.0},
        ],
    )
    def test_layers_have_their_own(self, estimator, option):
        X, y = data()
        (name,) = option
        with pytest.raises(ValueError, match=f"{name} belongs to the networks made by"):
            estimator(NET, **option).fit(X, of(estimator, y))

    @pytest.mark.parametrize("net", [3, L.Relu, None, [L.Dense()]])
    def test_no_networks(self, estimator, net):
        X, y = data()
        with pytest.raises(TypeError, match="is no network: pass 'mlp'"):
            estimator(net).fit(X, of(estimator, y))

    def test_bad_rows(self, estimator):
        X, y = data()
        labels = of(estimator, y)
        model = estimator(NET, alpha=0.1, selection=None)
        for bad in (math.nan, math.inf):
            broken = X.copy()
            broken[3, 1] = bad
            with pytest.raises(ValueError, match="X contains"):
                model.fit(broken, labels)
            with pytest.raises(ValueError, match="X contains"):
                model.fit(X, labels).predict(broken)
        with pytest.raises(ValueError, match="sample_weight.*row 5"):
            model.fit(X, labels, np.where(np.arange(24) == 5, -1.0, 1.0))
        with pytest.raises(ValueError, match="at least one non-zero number"):
            model.fit(X, labels, np.zeros(24))
        with pytest.raises(ValueError, match="features"):
            model.fit(X, labels).predict(X[:, :2])


@pytest.mark.parametrize("time", [-1.0, math.nan, "end", [1.0, -1.0], [], [[1.0]]])
def test_times_to_predict_at(time):
    X, y = data()
    model = InfiniteWidthRegressor(NET, alpha=0.1, selection=None).fit(X, y)
    with pytest.raises(ValueError, match="training_time must be a number or a list"):
        model.predict(X, training_time=time)
