"""The regressor: closed forms first, then what its methods promise."""

import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel

from skfunc import InfiniteWidthRegressor
from skfunc.infinite_width import NeuralKernel
from skfunc.infinite_width import layers as L
from skfunc.infinite_width._inference import Decomposition
from skfunc.infinite_width._inference_ensemble import (
    ensemble_covariance,
    ensemble_variance,
)
from skfunc.infinite_width._process import NetworkProcess
from skfunc.infinite_width._rows import merge_rows

RECORDED = np.load(Path(__file__).resolve().parents[1] / "data" / "neural_tangents.npz")
TIMES = {"0.1": 0.1, "1.0": 1.0, "10.0": 10.0, "1000.0": 1000.0, "inf": math.inf}
STDS = (1.5, 0.05)
NET = L.Serial(L.Dense(1.4, 0.3), L.Erf(), L.Dense(1.4, 0.3), L.Gelu(), L.Dense(1.2))
KINDS = ["nngp", "ntk"]


def dense_net(activation, depth, stds=STDS):
    return L.Serial(*[L.Dense(*stds), activation] * depth, L.Dense(*stds))


BLOCK = L.Residual(L.Serial(L.Relu(), L.Dense(*STDS)))
RECORDED_NETS = {
    "fc_relu_1": dense_net(L.Relu(), 1),
    "fc_relu_5": dense_net(L.Relu(), 5, (1.41421356, 0.1)),
    "fc_erf_3": dense_net(L.Erf(), 3),
    "fc_gelu_2": dense_net(L.Gelu(), 2),
    "fc_residual": L.Serial(L.Dense(*STDS), BLOCK, BLOCK, L.Relu(), L.Dense(*STDS)),
}


def data(n=24, outputs=None, seed=0):
    rng = np.random.default_rng(seed)
    X = 3 + rng.normal(size=(n + 6, 3)) * [1.0, 20.0, 0.1]
    y = 7 + np.sin(X[:, [0]]) * [[2.0, -1.0]] + 0.3 * rng.normal(size=(n + 6, 2))
    y = y if outputs else y[:, 0]
    return X[:n], y[:n], X[n:]


def fixed(net=NET, **changes):
    """Return a regressor that chooses nothing."""
    options = {"selection": None, "relevance": None, "amplitude": 1.0, "alpha": 0.05}
    return InfiniteWidthRegressor(net, **(options | changes))


def standardized(X, y, X_new):
    columns = y.reshape(len(y), -1)
    mean, std = X.mean(axis=0), X.std(axis=0)
    return (
        (X - mean) / std,
        (columns - columns.mean(axis=0)) / columns.std(axis=0),
        (X_new - mean) / std,
    )


@pytest.mark.parametrize("time", [0.0, 3.0, 200.0, math.inf])
@pytest.mark.parametrize("outputs", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_prediction_is_the_closed_form(kind, outputs, time):
    X, y, X_new = data(outputs=outputs)
    model = fixed(kernel=kind, training_time=time, learning_rate=0.7).fit(X, y)
    Z, targets, Z_new = standardized(X, y, X_new)
    gram, cross = NET.kernel(Z, kind=kind), NET.kernel(Z_new, Z, kind)
    ridge = 0.05 * gram.diagonal().mean()
    options = {"ridge": ridge, "time": time, "learning_rate": 0.7}
    solution = Decomposition(gram, targets)
    mean = solution.mean(cross, **options)
    test = NET.kernel(Z_new, kind="nngp")
    if kind == "nngp":
        covariance = solution.posterior_covariance(cross, test, **options)
        noise = np.full(targets.shape[1], ridge)
    else:
        nngp = NET.kernel(Z, kind="nngp"), NET.kernel(Z_new, Z, "nngp")
        smoother = solution.smoother(cross, **options)
        covariance = ensemble_covariance(smoother, *nngp, test)
        noise = np.square(solution.leave_one_out_residuals(**options)).mean(axis=0)
        np.testing.assert_allclose(
            ensemble_variance(smoother, *nngp, test.diagonal()), np.diag(covariance)
        )
    location, scale = (f(y.reshape(len(y), -1), axis=0) for f in (np.mean, np.std))
    expected = location + scale * mean
    expected_cov = scale**2 * (covariance[:, :, None] + np.eye(6)[:, :, None] * noise)
    if outputs is None:
        expected, expected_cov = expected[:, 0], expected_cov[..., 0]
    got, cov = model.predict(X_new, return_cov=True)
    np.testing.assert_allclose(got, expected, rtol=1e-10)
    np.testing.assert_allclose(cov, expected_cov, rtol=1e-8, atol=1e-10)
    _, std = model.predict(X_new, return_std=True)
    diagonal = np.einsum("ii...->i...", cov)
    np.testing.assert_allclose(std**2, diagonal, rtol=1e-9)
    epistemic, aleatoric = model.predict_std_parts(X_new)
    np.testing.assert_allclose(epistemic**2 + aleatoric**2, std**2, rtol=1e-12)
    for row in np.broadcast_to(aleatoric, std.shape):
        np.testing.assert_allclose(np.atleast_1d(row), np.sqrt(noise) * scale)


@pytest.mark.parametrize("label", TIMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RECORDED_NETS)
def test_process_gives_the_recorded_ensembles(name, kind, label):
    train, test = RECORDED["vectors_train"], RECORDED["vectors_test"]
    process = NetworkProcess(
        RECORDED_NETS[name],
        train,
        RECORDED["targets"],
        np.ones(len(train)),
        1e-3,
        kind=kind,
        image_shape=None,
    )
    time, recorded = TIMES[label], f"{name}/gd/{kind}/t={label}"
    covariance = RECORDED[f"{recorded}/cov"]
    close = {"rtol": 0, "atol": 1e-11}
    mean = process.means(test, process.alphas(time))
    np.testing.assert_allclose(mean, RECORDED[f"{recorded}/mean"], **close)
    np.testing.assert_allclose(process.covariance(test, time), covariance, **close)
    np.testing.assert_allclose(
        process.variances(test, time), covariance.diagonal(), **close
    )


def test_preset_is_the_network_of_its_layers():
    X, y, X_new = data()
    named = fixed(
        "mlp", depth=2, activation="erf", weight_std=1.3, bias_std=0.2, linear_std=0
    ).fit(X, y)
    built = fixed(L.preset("mlp", 2, "erf", 1.3, 0.2)).fit(X, y)
    assert named.network_ == built.network_
    for one, two in zip(
        named.predict(X_new, return_cov=True),
        built.predict(X_new, return_cov=True),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)


def test_linear_path_adds_a_linear_kernel():
    X, y, X_new = data()
    model = fixed("mlp", depth=1, weight_std=1.5, bias_std=0.3, linear_std=0.7)
    model.fit(X, y)
    Z, targets, Z_new = standardized(X, y, X_new)
    net = L.preset("mlp", 1, "relu", 1.5, 0.3)
    gram = net.kernel(Z, kind="nngp") + 0.49 * Z @ Z.T / 3
    cross = net.kernel(Z_new, Z, "nngp") + 0.49 * Z_new @ Z.T / 3
    mean = Decomposition(gram, targets).mean(cross, 0.05 * gram.diagonal().mean())
    expected = y.mean() + y.std() * mean[:, 0]
    np.testing.assert_allclose(model.predict(X_new), expected, rtol=1e-10)


class TestAgainstGaussianProcess:
    """scikit-learn's process with the kernel of the fitted network, in units of y."""

    def peer(self, model, output=0, weight=None):
        unit = float(model.amplitude_[output] * model.y_scale_[output] ** 2)
        kernel = NeuralKernel(model.network_, kind=model.kernel)
        noise = unit * model.ridge_ / (1.0 if weight is None else weight)
        return GaussianProcessRegressor(
            ConstantKernel(unit) * kernel, alpha=noise, optimizer=None
        )

    @pytest.mark.parametrize("outputs", [None, 2])
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("architecture", ["mlp", NET])
    def test_likelihood_and_predictions(self, architecture, kind, outputs):
        X, y, X_new = data(outputs=outputs)
        model = InfiniteWidthRegressor(architecture, kernel=kind, relevance=None)
        model.fit(X, y)
        Z, _, Z_new = standardized(X, y, X_new)
        columns = y.reshape(len(y), -1)
        likelihood = 0.0
        got, std = (
            values.reshape(6, -1) for values in model.predict(X_new, return_std=True)
        )
        for output, column in enumerate(columns.T):
            peer = self.peer(model, output).fit(Z, column - column.mean())
            likelihood += peer.log_marginal_likelihood_value_
            mean, spread = peer.predict(Z_new, return_std=True)
            np.testing.assert_allclose(got[:, output], column.mean() + mean, rtol=1e-7)
            if kind == "nngp":
                observed = np.sqrt(spread**2 + peer.alpha)
                np.testing.assert_allclose(std[:, output], observed, rtol=1e-6)
        np.testing.assert_allclose(model.log_marginal_likelihood_, likelihood)

    @pytest.mark.parametrize("solver", ["cholesky", "eigh"])
    @pytest.mark.parametrize("outputs", [None, 2])
    def test_rows_left_out_are_refits(self, outputs, solver):
        X, y, _ = data(12, outputs)
        # A row twice, one repeated with another target, one that does not count.
        X, y = np.concatenate([X, X[:3]]), np.concatenate([y, y[:3]])
        y[-1] += 1.0
        weight = np.array([1, 2.5, 0.3, 3, 1, 1, 0.8, 1, 0, 2, 1, 1, 1, 1, 1])
        model = fixed(amplitude="auto", solver=solver).fit(X, y, weight)
        got, got_std = model.loo_predict(return_std=True)
        columns = y.reshape(len(y), -1)
        rows, _, merged, index = merge_rows(X, columns, weight)
        Z = (rows - model.X_mean_) / model.X_scale_
        expected = np.full((2, *columns.shape), np.nan)
        for row, position in enumerate(index):
            if position < 0:
                continue
            left = merged.copy()
            left[position] -= min(merged[position], 1.0)
            kept = left > 0
            for output in range(columns.shape[1]):
                peer = self.peer(model, output, left[kept])
                peer.fit(Z[kept], model.y_train_[kept, output] * model.y_scale_[output])
                mean, std = peer.predict(Z[[position]], return_std=True)
                unit = model.amplitude_[output] * model.y_scale_[output] ** 2
                removed = min(merged[position], 1.0)
                noise = unit * model.ridge_ / removed
                expected[0, row, output] = model.y_mean_[output] + mean[0]
                expected[1, row, output] = math.sqrt(std[0] ** 2 + noise)
        expected = expected.reshape(2, *y.shape)
        assert np.isnan(got[8]).all() and np.isfinite(np.delete(got, 8, axis=0)).all()
        np.testing.assert_allclose(got, expected[0], rtol=1e-8)
        np.testing.assert_allclose(got_std, expected[1], rtol=1e-8)

    def test_likelihood_of_weights_is_that_of_copies(self):
        X, y, _ = data(10, outputs=2)
        copies = np.array([1, 3, 2, 1, 1, 4, 1, 1, 2, 1])
        model = fixed(amplitude="auto").fit(X, y, copies)
        Z, targets = np.repeat(X, copies, axis=0), np.repeat(y, copies, axis=0)
        Z, targets, _ = standardized(Z, targets, X)
        likelihood = sum(
            self.peer(model, output)
            .fit(Z, targets[:, output] * model.y_scale_[output])
            .log_marginal_likelihood_value_
            for output in range(2)
        )
        np.testing.assert_allclose(model.log_marginal_likelihood_, likelihood)


@pytest.mark.parametrize("kind", KINDS)
class TestTime:
    def test_before_training_it_is_the_prior(self, kind):
        X, y, X_new = data()
        model = fixed(kernel=kind, training_time=0).fit(X, y)
        np.testing.assert_allclose(model.predict(X_new), y.mean(), rtol=1e-15)
        _, _, Z_new = standardized(X, y, X_new)
        prior = y.std() * np.sqrt(NET.kernel(Z_new, kind="nngp").diagonal())
        epistemic, _ = model.predict_std_parts(X_new)
        np.testing.assert_allclose(epistemic, prior, rtol=1e-12)

    def test_early_and_late_times_meet_the_limits(self, kind):
        X, y, X_new = data()
        model = fixed(kernel=kind).fit(X, y)
        times = [0.0, 1e-12, 1e12, math.inf]
        mean, std = model.predict(X_new, return_std=True, training_time=times)
        for position in (0, 2):
            np.testing.assert_allclose(mean[position], mean[position + 1], rtol=1e-9)
            np.testing.assert_allclose(std[position], std[position + 1], rtol=1e-6)
        assert np.abs(mean[3] - mean[0]).max() > 0.1 * y.std()

    @pytest.mark.parametrize("outputs", [None, 2])
    def test_path_is_made_of_single_times(self, kind, outputs):
        X, y, X_new = data(outputs=outputs)
        model = fixed(kernel=kind, training_time=20.0).fit(X, y)
        times = [0.5, 20.0, math.inf]
        for option in ("return_std", "return_cov"):
            path = model.predict(X_new, training_time=times, **{option: True})
            assert path[0].shape == (3, *y[:6].shape)
            for position, time in enumerate(times):
                single = model.predict(X_new, training_time=time, **{option: True})
                for one, two in zip(path, single, strict=True):
                    np.testing.assert_allclose(one[position], two, rtol=1e-12)
        means = model.predict(X_new, training_time=np.array(times))
        np.testing.assert_allclose(means, path[0], rtol=1e-12)
        np.testing.assert_allclose(means[1], model.predict(X_new), rtol=1e-12)
        # An estimator that was fitted with another time says the same.
        other = fixed(kernel=kind, training_time=0.5).fit(X, y)
        for one, two in zip(
            other.predict(X_new, return_std=True),
            model.predict(X_new, return_std=True, training_time=0.5),
            strict=True,
        ):
            np.testing.assert_allclose(one, two, rtol=1e-10)

    def test_chosen_time_predicts_rows_left_out_best(self, kind):
        X, y, _ = data()
        # Without ridge the noise is fitted by long training.
        model = fixed(kernel=kind, alpha=1e-6, training_time="auto").fit(X, y)
        assert 0 < model.training_time_ < math.inf
        left_out = np.square(y - model.loo_predict()).mean()
        for time in (model.training_time_ * 10, model.training_time_ / 10, math.inf):
            other = fixed(kernel=kind, alpha=1e-6, training_time=time).fit(X, y)
            assert left_out <= np.square(y - other.loo_predict()).mean()


def test_both_at_once_is_an_error():
    X, y, X_new = data()
    model = fixed().fit(X, y)
    for time in (None, 1.0, [1.0, 2.0]):
        with pytest.raises(RuntimeError, match="return_std and return_cov"):
            model.predict(X_new, True, True, training_time=time)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outputs", [None, 2])
def test_draws_are_coherent_functions(kind, outputs):
    X, y, X_new = data(outputs=outputs)
    model = fixed(kernel=kind).fit(X, y)
    mean, cov = model.predict(X_new, return_cov=True)
    draws = model.sample_y(X_new, 20_000, random_state=0)
    assert draws.shape == (*mean.shape, 20_000)
    _, aleatoric = model.predict_std_parts(X_new)
    noise = np.broadcast_to(aleatoric**2, mean.shape)
    draws = draws.reshape(6, -1, 20_000)
    for output in range(draws.shape[1]):
        expected = cov.reshape(6, 6, -1)[..., output].copy()
        expected -= np.diag(noise.reshape(6, -1)[:, output])
        centred = draws[:, output] - mean.reshape(6, -1)[:, [output]]
        # Five standard errors of a sample covariance.
        scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        error = np.abs(centred @ centred.T / 20_000 - expected)
        assert (error < 5 * math.sqrt(2 / 20_000) * scale).all()


def test_draws_of_observations_add_noise():
    X, y, X_new = data()
    model = fixed().fit(X, y)
    draws = model.sample(X_new, 20_000, random_state=0)
    _, std = model.predict(X_new, return_std=True)
    np.testing.assert_allclose(draws.std(axis=1), std, rtol=0.03)
