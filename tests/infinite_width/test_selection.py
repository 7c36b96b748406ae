"""Hyperparameters: the evidence and its gradient, and what is chosen by it."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize
from scipy.stats import multivariate_normal
from sklearn.datasets import make_friedman1

from skfunc import InfiniteWidthClassifier, InfiniteWidthRegressor
from skfunc.infinite_width import layers as L
from skfunc.infinite_width._classifier import left_out_log_loss, softmax_loss
from skfunc.infinite_width._evidence import amplitudes, evidence
from skfunc.infinite_width._hyperparameters import CONTINUOUS, DEPTHS, Hyperparameters
from skfunc.infinite_width._inference import Decomposition
from skfunc.infinite_width._search import Rows, _Problem, maximize_evidence
from skfunc.infinite_width._selection import (
    RIDGES,
    Selection,
    left_out_densities,
    left_out_errors,
    marginal_likelihoods,
)

CPU = torch.device("cpu")
WEIGHTS = {
    "ones": np.ones(12),
    "copies": np.array([1, 2, 1, 3, 1, 1, 2, 1, 1, 1, 4, 1.0]),
    "fractions": np.linspace(0.2, 2.7, 12),
}


def problem(outputs=2, seed=0):
    """Return a kernel of full rank and targets."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(12, 3))
    squares = np.square(X[:, None] - X[None]).sum(-1)
    kernel = 1.7 * np.exp(-0.5 * squares) + 0.1 * (X @ X.T)
    return kernel, rng.normal(size=(12, outputs))


def rows(n=40, d=3, weight=None, seed=0, image_shape=None):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    targets = np.sin(2 * X[:, [0]]) + 0.1 * rng.normal(size=(n, 1))
    targets = (targets - targets.mean()) / targets.std()
    return Rows(X, targets, np.ones(n) if weight is None else weight, image_shape)


def selection(criterion="lml", name="mlp", kind="nngp", **changes):
    options = {
        "fixed": {},
        "relevance": False,
        "shared": False,
        "random_state": np.random.RandomState(0),
        "device": CPU,
    }
    return Selection(name, kind, criterion, **(options | changes))


class TestEvidence:
    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("weight", WEIGHTS)
    def test_gradient_is_that_of_finite_differences(self, weight, shared):
        (kernel, targets), w, ridge = problem(), WEIGHTS[weight], 0.3

        def value(matrix, log_ridge):
            found = evidence(matrix, targets, math.exp(log_ridge), w, shared=shared)
            return found.value

        found = evidence(kernel, targets, ridge, w, shared=shared)
        np.testing.assert_allclose(found.by_kernel, found.by_kernel.T, rtol=1e-12)
        step, log_ridge = 1e-5, math.log(ridge)
        rng = np.random.default_rng(1)
        for _ in range(5):
            direction = rng.normal(size=kernel.shape)
            direction += direction.T
            ahead = value(kernel + step * direction, log_ridge)
            behind = value(kernel - step * direction, log_ridge)
            np.testing.assert_allclose(
                (found.by_kernel * direction).sum(),
                (ahead - behind) / (2 * step),
                rtol=1e-6,
            )
        ahead, behind = (value(kernel, log_ridge + sign * step) for sign in (1, -1))
        expected = (ahead - behind) / (2 * step)
        np.testing.assert_allclose(found.by_log_ridge, expected, rtol=1e-6)

    @pytest.mark.parametrize("shared", [False, True])
    def test_value_is_the_density_at_the_best_amplitudes(self, shared):
        kernel, targets = problem()
        copies = WEIGHTS["copies"].astype(int)
        index = np.repeat(np.arange(12), copies)
        ridge, total = 0.3, copies.sum()
        covariance = kernel[np.ix_(index, index)] + ridge * np.eye(total)

        def loss(logs):
            scales = np.exp(np.broadcast_to(logs, 2))
            return -sum(
                multivariate_normal(cov=scale * covariance).logpdf(column[index])
                for scale, column in zip(scales, targets.T, strict=True)
            )

        best = optimize.minimize(loss, np.zeros(1 if shared else 2))
        weighted = evidence(kernel, targets, ridge, copies.astype(float), shared=shared)
        np.testing.assert_allclose(weighted.value, -best.fun, rtol=1e-9)
        repeated = evidence(
            kernel[np.ix_(index, index)],
            targets[index],
            ridge,
            np.ones(total),
            shared=shared,
        )
        np.testing.assert_allclose(weighted.value, repeated.value, rtol=1e-12)
        # The derivative by an entry is the sum over its copies.
        summed = np.zeros((12, 12))
        np.add.at(summed, np.ix_(index, index), repeated.by_kernel)
        np.testing.assert_allclose(weighted.by_kernel, summed, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(weighted.by_log_ridge, repeated.by_log_ridge)

    def test_singular_matrix_has_none(self):
        kernel, targets = problem()
        assert evidence(-kernel, targets, 1e-3, np.ones(12), shared=False) is None

    def test_amplitude_of_a_perfect_fit_is_in_units_of_the_kernel(self):
        kernel, targets = problem()
        for unit in (1e-20, 1.0, 1e20):
            one = evidence(unit * kernel, targets, unit, np.ones(12), shared=False)
            two = evidence(kernel, targets, 1.0, np.ones(12), shared=False)
            np.testing.assert_allclose(one.value, two.value, rtol=1e-10)
            held = amplitudes(np.zeros(2), 12.0, shared=False, unit=unit)
            np.testing.assert_allclose(held, 1e-14 / unit)

    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("weight", WEIGHTS)
    def test_ridges_of_a_decomposition(self, weight, shared):
        (kernel, targets), w = problem(), WEIGHTS[weight]
        ridges = np.geomspace(1e-3, 10, 5)
        got = marginal_likelihoods(
            Decomposition(kernel, targets, w), ridges, shared=shared
        )
        expected = [
            evidence(kernel, targets, r, w, shared=shared).value for r in ridges
        ]
        np.testing.assert_allclose(got, expected, rtol=1e-10)


class TestScoresOfRowsLeftOut:
    def test_density_is_at_its_best_amplitude(self):
        kernel, targets = problem()
        left_out = Decomposition(kernel, targets, WEIGHTS["copies"]).leave_one_out(0.3)
        got = left_out_densities(left_out, shared=False)

        def density(scales):
            terms = np.square(left_out.residuals) / left_out.variances[:, None] / scales
            terms += np.log(2 * math.pi * left_out.variances[:, None] * scales)
            return -0.5 * float(left_out.sample_weight @ terms.sum(axis=1))

        best = optimize.minimize(lambda logs: -density(np.exp(logs)), np.zeros(2))
        np.testing.assert_allclose(got, -best.fun, rtol=1e-9)

    def test_errors_are_those_of_a_constant_variance(self):
        kernel, targets = problem()
        left_out = Decomposition(kernel, targets).leave_one_out([0.1, 0.3])
        variances = np.square(left_out.residuals).mean(axis=1, keepdims=True)
        squares = np.square(left_out.residuals) / variances
        terms = -0.5 * (squares + np.log(2 * math.pi * variances))
        np.testing.assert_allclose(
            left_out_errors(left_out), terms.sum(axis=(1, 2)), rtol=1e-10
        )

    def test_log_loss_is_at_its_best_temperature(self):
        kernel, _ = problem()
        labels = np.arange(12) % 3
        targets = np.eye(3)[labels] - 1 / 3
        decomposition = Decomposition(kernel, targets, WEIGHTS["copies"])
        some = Rows(np.zeros((12, 1)), targets, WEIGHTS["copies"], None)
        ridges = [0.01, 1.0]
        got = left_out_log_loss(decomposition.leave_one_out(ridges), some)
        for value, ridge in zip(got, ridges, strict=True):
            left_out = decomposition.leave_one_out(ridge)

            def loss(log_sharpness, left_out=left_out):
                scores = targets - left_out.residuals
                terms = softmax_loss(scores, np.asarray(log_sharpness), labels)
                return float(terms @ WEIGHTS["copies"])

            best = optimize.minimize_scalar(loss, bounds=(-3, 6), method="bounded")
            np.testing.assert_allclose(value, -best.fun, rtol=1e-4)


class TestSearch:
    @pytest.mark.parametrize("kind", ["nngp", "ntk"])
    @pytest.mark.parametrize("activation", ["relu", "erf", "gelu", "rbf"])
    def test_gradient_is_that_of_finite_differences(self, activation, kind):
        some = rows(15, weight=np.linspace(0.5, 2, 15))
        start = Hyperparameters(activation, 2)
        free = frozenset(CONTINUOUS) | {"relevance"}
        loss = _Problem(some, start, free, "mlp", kind, False, CPU)
        assert len(loss.start) == 4 + 3 == len(loss.bounds)
        point = loss.start + np.linspace(-0.3, 0.3, 7)
        _, gradient = loss(point)
        expected = optimize.approx_fprime(point, lambda p: loss(p)[0], 1e-6)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("kind", ["nngp", "ntk"])
    def test_it_improves_and_keeps_what_is_fixed(self, kind):
        some, start = rows(), Hyperparameters("erf", 2, linear_std=0.7)
        options = {"name": "mlp", "kind": kind, "shared": False, "device": CPU}
        nothing, before = maximize_evidence(
            some, start, free=frozenset(), max_iter=20, **options
        )
        assert nothing == start
        free = frozenset({"weight_std", "bias_std", "ridge"})
        best, after = maximize_evidence(some, start, free=free, max_iter=20, **options)
        assert after > before + 0.05
        assert (best.activation, best.depth, best.linear_std) == ("erf", 2, 0.7)
        for name in free:
            low, high = CONTINUOUS[name][2]
            assert low <= getattr(best, name) <= high
        # The score is the evidence and the prior at what is returned.
        again = _Problem(some, best, free, *options.values())
        np.testing.assert_allclose(-again(again.start)[0], after, rtol=1e-12)

    def test_kernel_without_a_derivative_keeps_the_start(self):
        # P - k^2 of a gelu loses all digits at variances of 1e12.
        start = Hyperparameters("gelu", 2, weight_std=1e3)
        free = frozenset({"bias_std", "linear_std", "ridge"})
        best, _ = maximize_evidence(
            rows(),
            start,
            free=free,
            name="mlp",
            kind="nngp",
            shared=False,
            max_iter=5,
            device=CPU,
        )
        assert all(math.isfinite(getattr(best, name)) for name in free)

    @pytest.mark.parametrize("kind", ["nngp", "ntk"])
    def test_relevance_finds_the_columns_that_matter(self, kind):
        X, y = make_friedman1(150, 10, noise=0.5, random_state=0)
        model = InfiniteWidthRegressor(kernel=kind, activation="erf", depth=1)
        model.fit(X, y)
        # The last column that matters is linear and weak, and needs no larger factor.
        assert model.relevance_[:4].min() > 1.3 * model.relevance_[5:].max()
        assert model.relevance_[5:].max() < 0.7
        plain = InfiniteWidthRegressor(
            kernel=kind, activation="erf", depth=1, relevance=None
        ).fit(X, y)
        np.testing.assert_array_equal(plain.relevance_, 1.0)
        X_new, y_new = make_friedman1(400, 10, noise=0.5, random_state=1)
        errors = [np.square(m.predict(X_new) - y_new).mean() for m in (model, plain)]
        assert errors[0] < 0.8 * errors[1]
        assert model.candidates_[-1]["relevance"]


class TestChoice:
    @pytest.mark.parametrize("criterion", ["lml", "loo"])
    def test_it_does_not_depend_on_the_order_of_rows(self, criterion):
        rng = np.random.default_rng(0)
        # Enough rows that the search sees a part of them.
        X = rng.normal(size=(330, 2))
        y = np.sin(2 * X[:, 0]) + 0.2 * rng.normal(size=330)
        order = rng.permutation(330)

        def fit(rows, seed):
            model = InfiniteWidthRegressor(
                depth=1, activation="erf", selection=criterion, random_state=seed
            )
            return model.fit(X[rows], y[rows])

        first, again, permuted = fit(slice(None), 0), fit(slice(None), 0), fit(order, 0)
        for other in (again, permuted):
            assert other.candidates_ == first.candidates_
            assert other.alpha_ == first.alpha_
            np.testing.assert_array_equal(other.predict(X), first.predict(X))
        assert fit(slice(None), 1).candidates_ != first.candidates_

    @pytest.mark.parametrize("criterion", ["lml", "loo"])
    def test_best_candidate_wins(self, criterion):
        chosen = selection(criterion)
        found = chosen.choose(rows())
        scores = [candidate["score"] for candidate in chosen.candidates_]
        best = chosen.candidates_[int(np.argmax(scores))]
        assert len(scores) == 4
        assert (found.activation, found.depth, found.ridge, found.weight_std) == (
            best["activation"],
            best["depth"],
            best["alpha"],
            best["weight_std"],
        )

    def test_given_values_stay(self):
        fixed = {"activation": "erf", "weight_std": 0.8, "ridge": 0.02}
        chosen = selection(fixed=fixed)
        found = chosen.choose(rows())
        assert (found.activation, found.weight_std, found.ridge) == ("erf", 0.8, 0.02)
        assert {c["depth"] for c in chosen.candidates_} == set(DEPTHS)

    def test_nothing_is_chosen_without_a_criterion(self):
        chosen = selection(None, fixed={"bias_std": 0.9})
        assert chosen.choose(rows()) == Hyperparameters(bias_std=0.9)
        assert chosen.candidates_ == []

    @pytest.mark.parametrize("criterion", ["lml", "loo"])
    @pytest.mark.parametrize("kind", ["nngp", "ntk"])
    def test_ridge_of_a_given_network(self, kind, criterion):
        net = L.Serial(L.Dense(1.5, 0.3), L.Erf(), L.Dense(1.5, 0.3))
        some = rows()
        model = InfiniteWidthRegressor(net, kernel=kind, selection=criterion)
        model.fit(some.X, some.targets[:, 0])
        solution = Decomposition(net.kernel(model.X_train_, kind=kind), model.y_train_)
        scale = np.trace(net.kernel(model.X_train_, kind=kind)) / len(some)
        if criterion == "lml":
            scores = marginal_likelihoods(solution, RIDGES * scale, shared=False)
        else:
            score = left_out_densities if kind == "nngp" else left_out_errors
            options = {"shared": False} if kind == "nngp" else {}
            scores = score(solution.leave_one_out(RIDGES * scale), **options)
        assert model.alpha_ == RIDGES[np.argmax(scores)]
        np.testing.assert_allclose(model.ridge_, model.alpha_ * scale, rtol=1e-12)

    @pytest.mark.parametrize("kind", ["nngp", "ntk"])
    def test_images_compare_depths_and_ridges(self, kind):
        some = rows(20, 18, image_shape=(2, 3, 3))
        chosen = selection(name="conv", kind=kind)
        found = chosen.choose(some)
        scores = {c["depth"]: c["score"] for c in chosen.candidates_}
        assert set(scores) == set(DEPTHS) and found.depth == max(scores, key=scores.get)
        net = found.network("conv", some.image_shape)
        gram = net.kernel(some.X, kind=kind, image_shape=some.image_shape)
        likelihoods = marginal_likelihoods(
            Decomposition(gram, some.targets),
            RIDGES * np.mean(np.diag(gram)),
            shared=False,
        )
        assert found.ridge == RIDGES[np.argmax(likelihoods)]
        np.testing.assert_allclose(max(likelihoods) / 20, scores[found.depth])

    def test_weights_are_copies(self):
        X, y = rows(25).X, rows(25).targets[:, 0]
        copies = np.arange(25) % 3
        index = np.repeat(np.arange(25), copies)
        labels = np.where(y > 0, "up", "down")
        for model, targets in (
            (InfiniteWidthRegressor(), y),
            (InfiniteWidthClassifier(), labels),
        ):
            model.fit(X, targets, copies)
            weighted = model.candidates_, model.alpha_
            model.fit(X[index], targets[index])
            assert weighted == (model.candidates_, model.alpha_)
