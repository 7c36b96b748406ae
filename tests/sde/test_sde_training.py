"""How SDE-BNNs train: weights, held-out parts, solvers, warm starts, Ctrl-C."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.utils._testing import assert_allclose
from torch import nn

import skfunc
from skfunc.solvers import TORCHSDE_METHODS
from skfunc.training import MemberAdam


def test_same_random_state_same_fit(regressor, measured):
    X, y = measured
    first, second = regressor().fit(X, y), regressor().fit(X, y)
    np.testing.assert_array_equal(first.parameters_, second.parameters_)
    assert (first.path_seed_, first.elbo_) == (second.path_seed_, second.elbo_)
    np.testing.assert_array_equal(first.predict(X), second.predict(X))
    other = regressor(random_state=1).fit(X, y)
    assert other.path_seed_ != first.path_seed_
    assert (other.parameters_ != first.parameters_).any()


def test_global_generators_are_left_alone(classifier, labelled):
    torch.manual_seed(5)
    np.random.seed(5)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    model = classifier(initial_weights="gaussian").fit(*labelled)
    model.predict_proba(labelled[0])
    model.sample_proba(labelled[0], 3, random_state=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_inputs_are_left_alone(regressor, measured):
    X, y = measured[0].copy(), measured[1].copy()
    weights = np.ones(60)
    for array in (X, y, weights):
        array.flags.writeable = False
    model = regressor(max_iter=2).fit(X, y, sample_weight=weights)
    model.predict(X, return_cov=True)
    np.testing.assert_array_equal(X, measured[0])


@pytest.mark.parametrize("early_stopping", ["auto", False])
def test_integer_weight_is_repeated_rows(regressor, measured, early_stopping):
    X, y = measured[0][:40], measured[1][:40]
    counts = np.random.default_rng(0).integers(0, 3, 40)
    assert counts.sum() <= 64
    options = {"early_stopping": early_stopping, "n_train_paths": 2}
    weighted = regressor(**options).fit(X, y, sample_weight=counts)
    repeated = regressor(**options).fit(np.repeat(X, counts, 0), np.repeat(y, counts))
    assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-7)
    assert weighted.elbo_ == pytest.approx(repeated.elbo_, rel=1e-7)
    assert weighted.kl_ == pytest.approx(repeated.kl_, rel=1e-7)


def test_weights_of_a_classifier(classifier, labelled):
    X, y = labelled[0][::2], labelled[1][::2]
    counts = np.tile([1, 2, 0], 10)
    weighted = classifier().fit(X, y, sample_weight=counts)
    repeated = classifier().fit(np.repeat(X, counts, 0), np.repeat(y, counts))
    assert_allclose(
        weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-6, atol=1e-9
    )
    assert weighted.elbo_ == pytest.approx(repeated.elbo_, rel=1e-7)


def test_rows_of_weight_zero_do_not_matter(regressor, measured):
    X, y = measured
    weights = np.ones(60)
    weights[40:] = 0.0
    broken = y.copy()
    broken[40:] = 1e9
    weighted = regressor().fit(X, broken, sample_weight=weights)
    plain = regressor().fit(X[:40], y[:40])
    np.testing.assert_array_equal(weighted.predict(X), plain.predict(X))
    assert (weighted.elbo_, weighted.kl_) == (plain.elbo_, plain.kl_)


@pytest.mark.parametrize("early_stopping", [True, False, "auto"])
def test_early_stopping(regressor, measured, early_stopping):
    model = regressor(early_stopping=early_stopping).fit(*measured)
    assert len(model.loss_curve_) == model.n_iter_ == 5
    if early_stopping is False:
        assert model.validation_scores_ is None
        assert (model.noise_scale_ == 1).all()
    else:
        assert len(model.validation_scores_) == 5
        assert model.noise_scale_ != 1
    assert model.best_iter_.shape == model.n_retries_.shape == (3,)


def test_stops_early(regressor, measured):
    model = regressor(max_iter=300, n_iter_no_change=3, learning_rate_init=0.05)
    model.fit(*measured)
    assert model.n_iter_ < 300
    assert (model.best_iter_ <= model.n_iter_ - 3).all()


@pytest.mark.parametrize("n_train_paths", [2, 3])
def test_more_paths_in_a_step(regressor, measured, n_train_paths):
    X, y = measured
    model = regressor(n_train_paths=n_train_paths).fit(X, y)
    one = regressor().fit(X, y)
    assert (model.parameters_ != one.parameters_).any()
    assert np.isfinite(model.predict(X)).all()


class TestWarmStart:
    def test_goes_on_from_the_last_weights(self, regressor, measured):
        X, y = measured
        options = {"max_iter": 40, "early_stopping": False}
        model = regressor(warm_start=True, **options)
        first = model.fit(X, y).loss_curve_
        second = model.fit(X, y).loss_curve_
        assert second[0] < first[0] and second[0] < 1.2 * first[-1] + 0.1
        cold = regressor(**options).fit(X, y)
        np.testing.assert_array_equal(cold.loss_curve_, first)

    @pytest.mark.parametrize("change", [{"n_members": 2}, {"drift": "lowrank"}])
    def test_refuses_another_network(self, regressor, measured, change):
        model = regressor(warm_start=True).fit(*measured)
        with pytest.raises(ValueError, match="warm_start=True needs the network"):
            model.set_params(**change).fit(*measured)

    def test_refuses_other_classes(self, classifier, labelled):
        X, y = labelled
        model = classifier(warm_start=True).fit(X, y)
        with pytest.raises(ValueError, match="'cedar'.*y has.*'yew'"):
            model.fit(X, np.where(y == "cedar", "yew", y))


class Interrupt:
    """Raise KeyboardInterrupt at one step of the optimizer."""

    def __init__(self, monkeypatch, at):
        self.at, self.steps = at, 0
        step = MemberAdam.step

        def interrupting(optimizer, *arguments):
            self.steps += 1
            if self.steps == self.at:
                raise KeyboardInterrupt
            return step(optimizer, *arguments)

        monkeypatch.setattr(MemberAdam, "step", interrupting)


@pytest.mark.parametrize("at", [1, 9])
def test_interrupted_fit_leaves_a_fitted_estimator(
    regressor, measured, monkeypatch, at
):
    X, y = measured
    threads = torch.get_num_threads()
    model = regressor(max_iter=50)
    with monkeypatch.context() as patched:
        Interrupt(patched, at)
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, y)
    assert torch.get_num_threads() == threads
    assert model.n_iter_ == at - 1
    mean, std = model.predict(X, return_std=True)
    assert np.isfinite(mean).all() and (std > 0).all()
    assert np.isfinite([model.elbo_, model.kl_]).all()
    assert model.solver_report_["status"] == "success"
    # It can be trained again.
    np.testing.assert_array_equal(
        model.set_params(max_iter=3).fit(X, y).predict(X),
        regressor(max_iter=3).fit(X, y).predict(X),
    )


def test_interrupted_classifier(classifier, labelled, monkeypatch):
    X, y = labelled
    model = classifier(max_iter=50)
    with monkeypatch.context() as patched:
        Interrupt(patched, 20)
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, y)
    assert model.predict_proba(X).shape == (60, 3)


def test_loss_that_is_not_finite_is_recovered_from(measured):
    X, y = measured

    class FirstNaN(skfunc.SDEBNNRegressor):
        calls = 0

        def _training_loss(self, module, batch):
            FirstNaN.calls += 1
            losses, divergence = super()._training_loss(module, batch)
            return losses * (float("nan") if FirstNaN.calls <= 2 else 1.0), divergence

    model = FirstNaN(state_size=4, n_members=2, max_iter=6, random_state=0).fit(X, y)
    assert (model.n_retries_ == 2).all()
    assert np.isfinite([model.elbo_, model.kl_]).all()


@pytest.mark.parametrize("drift", ["affine", "lowrank", "affine+lowrank", "mlp"])
def test_drifts(classifier, labelled, drift):
    X, y = labelled
    model = classifier(drift=drift, rank=2, max_iter=20).fit(X, y)
    assert model.kl_ > 0
    assert model.score(X, y) > 0.5


@pytest.mark.parametrize(
    "solver",
    ["euler", "heun", "midpoint", "reversible_heun", "adaptive_heun"]
    + [m for m in ("torchsde:midpoint", "torchsde:srk") if m in TORCHSDE_METHODS],
)
def test_solvers(regressor, measured, solver):
    X, y = measured
    options = {"max_iter": 3, "early_stopping": False, "rtol": 0.05, "atol": 0.05}
    model = regressor(solver=solver, **options).fit(X, y)
    assert model.solver_report_["status"] == "success"
    assert model.solver_report_["method"] == solver
    assert model.nfe_ > 0
    # Few steps apart from the default's.
    default = regressor(**options).fit(X, y)
    assert_allclose(model.predict(X), default.predict(X), atol=0.3 * y.std())
    assert np.isfinite([model.elbo_, model.kl_]).all()


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_gradients(regressor, measured, gradient):
    X, y = measured
    options = {"n_steps": 8, "max_iter": 5, "early_stopping": False}
    model = regressor(gradient=gradient, **options).fit(X, y)
    plain = regressor(**options).fit(X, y)
    rtol = 1e-6 if gradient == "checkpoint" else 0.05
    assert_allclose(model.loss_curve_, plain.loss_curve_, rtol=rtol)
    assert_allclose(model.predict(X), plain.predict(X), rtol=rtol)


def test_evaluations_of_the_default(fitted_regressor, measured):
    fitted_regressor.predict(measured[0])
    report = fitted_regressor.solver_report_
    # Heun's method takes two to a step.
    assert (report["method"], report["n_steps"], report["nfe"]) == ("ou", 2, 4.0)


class Spring(nn.Module):
    """A user's field."""

    def __init__(self, size):
        super().__init__()
        self.linear = nn.Linear(size, size)

    def forward(self, t, h):
        return torch.tanh(self.linear(h))


def test_users_field(regressor, measured, tmp_path):
    X, y = measured
    model = regressor(field=Spring, max_iter=20).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert (model.predict_std_parts(X)[0] > 0).all()
    with pytest.raises(ValueError, match="cannot save the parameter field"):
        model.save(tmp_path / "model")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_fit_on_cuda_is_as_good_as_one_on_the_cpu(regressor, measured):
    X, y = measured
    scores = [
        regressor(device=device, max_iter=40).fit(X, y).log_prob(X, y).mean()
        for device in ("cpu", "cuda")
    ]
    assert scores[1] == pytest.approx(scores[0], abs=0.1)
