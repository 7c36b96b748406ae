"""Ensembles of finite networks against the closed form of their infinite limit."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.datasets import load_digits, make_friedman1

import skfunc
from skfunc import FiniteEnsemble
from skfunc.infinite_width import empirical_ntk
from skfunc.infinite_width import layers as L
from skfunc.infinite_width._finite_training import FiniteNetworks, descend
from skfunc.infinite_width._inference import Decomposition
from skfunc.infinite_width._inference_ensemble import ensemble_variance

RNG = np.random.default_rng(0)
X, X_NEW = RNG.normal(size=(15, 3)), RNG.normal(size=(6, 3))
Y = np.column_stack([np.sin(2 * X[:, 0]) + X[:, 1], X[:, 2] ** 2])
SMALL = {"width": 12, "n_members": 3, "max_iter": 8, "random_state": 0}


def limit(model, y, sample_weight=None):
    """Return mean and variance of the infinite ensemble at new rows, in units of y."""
    rows, new = ((part - model.X_mean_) / model.X_scale_ for part in (X, X_NEW))
    targets = (y.reshape(len(y), -1) - model.y_mean_) / model.y_scale_
    net = model._network()
    nngp = {
        "nngp_train_train": net.kernel(rows, kind="nngp"),
        "nngp_test_train": net.kernel(new, rows, kind="nngp"),
        "nngp_test_diagonal": net.kernel(new, kind="nngp").diagonal(),
    }
    kind = "nngp" if model.train == "last" else "ntk"
    solution = Decomposition(net.kernel(rows, kind=kind), targets, sample_weight)
    cross = net.kernel(new, rows, kind=kind)
    at = {"ridge": model.alpha, "time": model.training_time_}
    variance = ensemble_variance(solution.smoother(cross, **at), **nngp)
    mean = model.y_mean_ + model.y_scale_ * solution.mean(cross, **at)
    return mean, variance[:, None] * model.y_scale_**2


CASES = {
    "all": {"training_time": 4.0, "learning_rate": 0.2},
    "early": {"training_time": 0.3},
    "late": {"training_time": 25.0, "learning_rate": 0.4},
    "last": {"training_time": 10.0, "train": "last"},
    "penalty": {"training_time": 10.0, "learning_rate": 0.2, "alpha": 1.5},
    "relu": {"training_time": 3.0, "activation": "relu", "depth": 1},
    "layers": {
        "training_time": 3.0,
        "architecture": L.Serial(L.Dense(1.2, 0.3), L.Gelu(), L.Dense(1.1, 0.2)),
    },
}


@pytest.mark.parametrize("name", CASES)
def test_mean_and_variance_are_those_of_the_limit(name):
    y = Y[:, 0] if name in ("early", "last", "relu", "late") else Y
    n_members = 100
    options = {"activation": "erf", "depth": 2, "learning_rate": 0.1} | CASES[name]
    model = FiniteEnsemble(width=128, n_members=n_members, random_state=1, **options)
    model.fit(X, y)
    mean, variance = limit(model, y)
    found = model.predict(X_NEW).reshape(mean.shape)
    spread = model.predict_std_parts(X_NEW)[0].reshape(mean.shape)
    # Monte-Carlo error of a mean: a z of 4 among 6 to 12 rows is one in a thousand.
    # The rest is the error of a finite width and rate, about 1 % of y.
    allowed = 4 * np.sqrt(variance / n_members) + 0.02 * model.y_scale_
    assert (np.abs(found - mean) < allowed).all()
    # The relative error of a standard deviation is 1 / sqrt(2 M).
    ratio = spread / np.sqrt(variance)
    assert np.abs(ratio - 1).max() < 4 / np.sqrt(2 * n_members) + 0.05


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_last_layer_descends_as_its_kernel_says(alpha):
    """With the body fixed the network is linear: each step has a closed form."""
    model = FiniteEnsemble(**SMALL, depth=1, train="last", alpha=alpha)
    y = Y[:, 0]
    model.fit(X, y)
    rows, new = ((part - model.X_mean_) / model.X_scale_ for part in (X, X_NEW))
    targets = (y - model.y_mean_) / model.y_scale_
    networks = model._networks()
    step = model.learning_rate_ / len(X)
    seeds = np.random.RandomState(0).randint(2**31 - 1, size=3)
    flat = networks.initial([int(seed) for seed in seeds])
    outputs = networks.outputs(torch.as_tensor(model.parameters_), torch.tensor(new))
    for member, seed in enumerate(seeds):
        module = model._network().to_module(
            12, 3, random_state=int(seed), dtype=torch.float64
        )
        first = torch.nn.utils.parameters_to_vector(module.parameters())
        torch.testing.assert_close(first.detach(), flat[member])
        for parameter in module[:-1].parameters():
            parameter.requires_grad_(False)
        G = empirical_ntk(module, rows) + alpha * np.eye(len(rows))
        start = module(torch.tensor(rows)).detach().numpy()[:, 0]
        kept = np.linalg.matrix_power(np.eye(len(rows)) - step * G, model.n_iter_)
        # Sum of the powers applied so far, which stays finite where G is singular.
        powers = sum(
            np.linalg.matrix_power(np.eye(len(rows)) - step * G, k)
            for k in range(model.n_iter_)
        )
        np.testing.assert_allclose(kept, np.eye(len(rows)) - step * G @ powers)
        alphas = step * powers @ (targets - start)
        expected = module(torch.tensor(new)).detach().numpy()[:, 0]
        expected = expected + empirical_ntk(module, new, rows) @ alphas
        np.testing.assert_allclose(outputs[member, :, 0], expected, rtol=1e-9)


def test_small_steps_are_the_flow():
    options = SMALL | {"activation": "erf", "training_time": 2.0}
    fits = [
        FiniteEnsemble(**options, learning_rate=rate).fit(X, Y[:, 0]).predict(X_NEW)
        for rate in (0.2, 0.05, 0.004)
    ]
    errors = [np.abs(fit - fits[-1]).max() for fit in fits[:-1]]
    assert errors[0] > 3 * errors[1]


def test_a_weight_is_so_many_copies():
    weights = RNG.integers(0, 4, size=len(X))
    copies = np.repeat(np.arange(len(X)), weights)
    model = FiniteEnsemble(**SMALL)
    weighted = clone(model).fit(X, Y, sample_weight=weights)
    repeated = clone(model).fit(X[copies], Y[copies])
    for name in ("parameters_", "training_time_", "n_iter_"):
        ours, theirs = getattr(weighted, name), getattr(repeated, name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    # A minimum is found to the root of the precision.
    np.testing.assert_allclose(weighted.noise_std_, repeated.noise_std_, rtol=1e-4)
    scaled = clone(model).fit(X, Y, sample_weight=1e-3 * weights)
    assert scaled.n_iter_ > 0


def test_chunks_of_rows_change_nothing():
    networks = FiniteNetworks(L.preset("mlp", 2), 8, 3, None, 2)
    start = networks.initial([0, 1])
    data = [torch.tensor(part) for part in (X, Y, np.linspace(0.5, 1.5, len(X)))]
    options = {"time": 1.0, "n_steps": 5, "ridge": 0.3}
    whole = descend(networks, start, *data, chunk=100, **options)
    parts = descend(networks, start, *data, chunk=4, **options)
    torch.testing.assert_close(whole.flat, parts.flat, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(whole.losses, parts.losses, rtol=1e-12)
    assert len(whole.losses) == 6 and whole.n_steps == 5
    assert not torch.equal(whole.flat, start)


def test_random_state_decides_and_first_members_stay():
    fits = [
        FiniteEnsemble(**SMALL | changes).fit(X, Y)
        for changes in ({}, {}, {"random_state": 1}, {"n_members": 5})
    ]
    same, again, other, more = (fit.parameters_ for fit in fits)
    np.testing.assert_array_equal(same, again)
    assert (same != other).any()
    np.testing.assert_allclose(same, more[:3], rtol=1e-9)


def test_time_and_rate_are_what_was_asked():
    model = FiniteEnsemble(**SMALL, training_time=2.0, learning_rate=0.3).fit(X, Y)
    assert model.n_iter_ == 7
    assert model.training_time_ == pytest.approx(2.0)
    assert model.learning_rate_ == pytest.approx(2.0 / 7)
    assert len(model.loss_curve_) == 8
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    exact = FiniteEnsemble(**SMALL, training_time=0.3, learning_rate=0.1).fit(X, Y)
    assert exact.n_iter_ == 3


def test_auto_time_stops_early_in_noise():
    rows, y = make_friedman1(100, noise=20.0, random_state=0)
    options = SMALL | {"max_iter": 100}
    noisy = FiniteEnsemble(**options).fit(rows, y)
    clean = FiniteEnsemble(**options).fit(*make_friedman1(100, random_state=0))
    assert noisy.training_time_ < clean.training_time_
    assert clean.n_iter_ <= 100


def test_noise_is_that_of_the_data():
    rows, y = make_friedman1(600, noise=3.0, random_state=0)
    model = FiniteEnsemble(width=32, random_state=0).fit(rows[:300], y[:300])
    # The error of the mean is in it besides.
    assert 2.7 < model.noise_std_[0] < 4.2
    lower, upper = model.predict_interval(rows[300:], 0.9).T
    assert 0.84 < ((lower < y[300:]) & (y[300:] < upper)).mean() < 0.96


def test_divergence_halves_the_rate_and_keeps_the_time():
    first = FiniteEnsemble(**SMALL, training_time=20.0).fit(X, Y)
    rate = 3 * first.max_learning_rate_
    model = clone(first).set_params(learning_rate=rate, training_time=20 * rate)
    model.fit(X, Y)
    assert 1 <= model.n_retries_ <= 3
    assert model.training_time_ == pytest.approx(20 * rate)
    assert model.learning_rate_ == pytest.approx(rate / 2**model.n_retries_)
    assert model.n_iter_ == 20 * 2**model.n_retries_
    hopeless = clone(model).set_params(learning_rate=1e6, training_time=1e8)
    with pytest.raises(FloatingPointError, match="diverges"):
        hopeless.fit(X, Y)


@pytest.mark.parametrize(
    "options",
    [
        {"architecture": "conv", "depth": 1},
        {"architecture": "wide_resnet", "depth": 1, "width": 4},
        {"architecture": "mlp"},
        {"architecture": "conv", "train": "last"},
    ],
)
def test_images(options):
    images, y = load_digits(return_X_y=True)
    settings = SMALL | {"max_iter": 4} | options
    model = FiniteEnsemble(**settings, image_shape=(1, 8, 8)).fit(images[:20], y[:20])
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    assert np.isfinite(model.predict(images[20:25])).all()


def test_without_hidden_layers_the_last_is_all():
    options = SMALL | {"depth": 0, "training_time": 1.0}
    all_layers = FiniteEnsemble(**options).fit(X, Y)
    last = FiniteEnsemble(**options, train="last").fit(X, Y)
    np.testing.assert_allclose(all_layers.predict(X), last.predict(X))


def test_constant_target_and_single_row():
    model = FiniteEnsemble(**SMALL).fit(X, np.full(len(X), 3.0))
    assert np.isfinite(model.log_prob(X, np.full(len(X), 3.0))).all()
    assert FiniteEnsemble(**SMALL).fit(X[:1], [2.0]).predict(X).shape == (15,)
    zero = FiniteEnsemble(**SMALL, bias_std=0.0).fit(np.ones((4, 2)), np.arange(4.0))
    np.testing.assert_allclose(zero.predict(np.ones((2, 2))), 1.5)


def test_many_rows_plan_on_some(monkeypatch):
    monkeypatch.setattr("skfunc.infinite_width._finite_plan._KERNEL_ROWS", 10)
    model = FiniteEnsemble(**SMALL).fit(X, Y)
    again = FiniteEnsemble(**SMALL).fit(X, Y)
    np.testing.assert_array_equal(model.predict(X), again.predict(X))


def test_saved_and_pickled_models_predict_the_same(tmp_path):
    model = FiniteEnsemble(**SMALL).fit(X, Y)
    model.save(tmp_path / "model.safetensors")
    loaded = skfunc.load(tmp_path / "model.safetensors")
    for again in (loaded, pickle.loads(pickle.dumps(model))):
        for ours, theirs in zip(
            model.predict(X_NEW, return_std=True),
            again.predict(X_NEW, return_std=True),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)
    own = FiniteEnsemble(L.Serial(L.Dense(), L.Relu(), L.Dense()), **SMALL).fit(X, Y)
    own.save(tmp_path / "own.safetensors")
    np.testing.assert_array_equal(
        skfunc.load(tmp_path / "own.safetensors").predict(X_NEW), own.predict(X_NEW)
    )


def test_file_of_another_width_is_refused(tmp_path):
    model = FiniteEnsemble(**SMALL).fit(X, Y)
    model.width = 10**6
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="parameters_ has shape"):
        skfunc.load(tmp_path / "model.safetensors")


class Interrupt:
    """Ctrl-C after some steps, by scikit-learn's callback protocol."""

    def __init__(self, at):
        self.left = at

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context, **data):
        pass

    def on_fit_task_end(self, estimator, context, **data):
        self.left -= context.task_name == "step"
        if not self.left:
            raise KeyboardInterrupt


def test_interrupted_fit_leaves_a_fitted_estimator():
    model = FiniteEnsemble(**SMALL, training_time=2.0, learning_rate=0.1)
    model.set_callbacks(Interrupt(5))
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y)
    assert model.n_iter_ == 5
    assert model.training_time_ == pytest.approx(0.5)
    assert np.isfinite(model.predict(X)).all()


def test_monitor_scores_every_step():
    monitor = ScoringMonitor(scoring="r2")
    model = FiniteEnsemble(**SMALL, training_time=1.0, learning_rate=0.1)
    watched = clone(model).set_callbacks(monitor).fit(X, Y)
    assert monitor.get_logs()
    plain = model.fit(X, Y)
    np.testing.assert_array_equal(watched.parameters_, plain.parameters_)


@pytest.mark.parametrize(
    "options, error, match",
    [
        ({"width": 0}, ValueError, "width"),
        ({"n_members": 2.5}, ValueError, "n_members"),
        ({"train": "first"}, ValueError, "train='first'"),
        ({"training_time": 0.0}, ValueError, "training_time"),
        ({"training_time": "soon"}, ValueError, "training_time"),
        ({"learning_rate": np.inf}, ValueError, "learning_rate"),
        ({"alpha": -1.0}, ValueError, "alpha"),
        ({"max_iter": 0}, ValueError, "max_iter"),
        ({"depth": -1}, ValueError, "depth"),
        ({"weight_std": -1.0}, ValueError, "weight_std"),
        ({"device": "tpu"}, ValueError, "device='tpu'"),
        ({"activation": "step"}, ValueError, "activation='step'"),
        ({"architecture": "transformer"}, ValueError, "'transformer' is unknown"),
        ({"architecture": lambda x, y: x}, TypeError, "finite twins"),
        ({"architecture": L.Serial(L.Dense(), L.Relu())}, ValueError, "end in Dense"),
        ({"architecture": "conv"}, ValueError, "image_shape"),
        ({"image_shape": (1, 2, 2)}, ValueError, "image_shape"),
    ],
)
def test_bad_parameters_are_named(options, error, match):
    with pytest.raises(error, match=match):
        FiniteEnsemble(**SMALL | options).fit(X, Y)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu():
    options = SMALL | {"training_time": 1.0, "learning_rate": 0.1}
    cpu = FiniteEnsemble(**options, device="cpu").fit(X, Y)
    cuda = FiniteEnsemble(**options, device="cuda").fit(X, Y)
    np.testing.assert_allclose(cpu.predict(X), cuda.predict(X), rtol=1e-9)
