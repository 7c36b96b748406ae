"""How the ODE-Nets train: weights, held-out parts, warm starts, callbacks, Ctrl-C."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.callback import ScoringMonitor
from sklearn.utils._testing import assert_allclose
from torch import nn

import skfunc
from skfunc._members import FEWEST_ROWS_TO_SPLIT
from skfunc.training import MemberAdam


def test_same_random_state_same_fit(regressor, measured):
    X, y = measured
    first, second = regressor().fit(X, y), regressor().fit(X, y)
    np.testing.assert_array_equal(first.parameters_, second.parameters_)
    np.testing.assert_array_equal(first.predict(X), second.predict(X))
    other = regressor(random_state=1).fit(X, y)
    assert (other.parameters_ != first.parameters_).any()
    generator = np.random.RandomState(0)
    third = regressor(random_state=generator).fit(X, y)
    fourth = regressor(random_state=generator).fit(X, y)
    assert (third.parameters_ != fourth.parameters_).any()


def test_global_generators_are_left_alone(classifier, labelled):
    torch.manual_seed(5)
    np.random.seed(5)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    model = classifier().fit(*labelled)
    model.predict_proba(labelled[0])
    model.sample(labelled[0], random_state=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
    torch.manual_seed(6)
    again = classifier().fit(*labelled)
    np.testing.assert_array_equal(again.parameters_, model.parameters_)


def test_inputs_are_left_alone(regressor, measured):
    X, y = measured[0].copy(), measured[1].copy()
    weights = np.ones(90)
    for array in (X, y, weights):
        array.flags.writeable = False
    model = regressor(max_iter=2).fit(X, y, sample_weight=weights)
    model.predict(X, return_cov=True)
    np.testing.assert_array_equal(X, measured[0])


def test_members_differ(fitted_regressor, measured):
    X, _ = measured
    draws = fitted_regressor.sample_y(X, 3)
    assert (draws.std(-1) > 0).all()


def test_one_member(regressor, classifier, measured, labelled):
    X, y = measured
    model = regressor(n_members=1).fit(X, y)
    epistemic, aleatoric = model.predict_std_parts(X)
    assert (epistemic == 0).all() and (aleatoric > 0).all()
    assert model.parameters_.shape[0] == 1
    np.testing.assert_allclose(model.sample_y(X, 2).std(-1), 0.0, atol=1e-12)
    X, y = labelled
    _, std = classifier(n_members=1).fit(X, y).predict_proba(X, return_std=True)
    assert (std == 0).all()


@pytest.mark.parametrize("early_stopping", [True, False, "auto"])
def test_early_stopping(regressor, measured, early_stopping):
    X, y = measured
    model = regressor(early_stopping=early_stopping).fit(X, y)
    assert len(model.loss_curve_) == model.n_iter_ == 6
    if early_stopping is False:
        assert model.validation_scores_ is None
        assert (model.best_iter_ == 6).all() and (model.noise_scale_ == 1).all()
    else:
        assert len(model.validation_scores_) == 6
        assert (model.noise_scale_ > 0).all()
    assert model.best_iter_.shape == model.n_retries_.shape == (3,)


def test_auto_keeps_nothing_out_of_a_few_rows(regressor, measured):
    X, y = measured
    few, enough = FEWEST_ROWS_TO_SPLIT - 1, FEWEST_ROWS_TO_SPLIT
    assert regressor().fit(X[:few], y[:few]).validation_scores_ is None
    assert regressor().fit(X[:enough], y[:enough]).validation_scores_ is not None
    # Copies are no more rows than their originals.
    copies = np.repeat(np.arange(few), 3)
    assert regressor().fit(X[copies], y[copies]).validation_scores_ is None
    stopped = regressor(early_stopping=True).fit(X[:few], y[:few])
    assert stopped.validation_scores_ is not None


def test_stops_early_and_keeps_the_best_epoch(regressor, measured):
    X, y = measured
    model = regressor(max_iter=300, n_iter_no_change=3, learning_rate_init=0.05)
    model.fit(X, y)
    assert model.n_iter_ < 300
    assert (model.best_iter_ <= model.n_iter_ - 3).all()


@pytest.mark.parametrize("n_rows", [40, 90])
def test_integer_weight_is_repeated_rows(regressor, measured, n_rows):
    X, y = measured[0][:n_rows], measured[1][:n_rows]
    counts = np.random.default_rng(0).integers(0, 3, n_rows)
    options = {"batch_size": 200}
    weighted = regressor(**options).fit(X, y, sample_weight=counts)
    repeated = regressor(**options).fit(np.repeat(X, counts, 0), np.repeat(y, counts))
    # More than 64 rows train in single precision.
    tolerance = 1e-7 if counts.sum() <= 64 else 1e-2
    assert_allclose(weighted.predict(X), repeated.predict(X), rtol=tolerance)


def test_weights_of_a_classifier(classifier, labelled):
    X, y = labelled[0][::3], labelled[1][::3]
    counts = np.tile([1, 2, 0], 10)
    weighted = classifier().fit(X, y, sample_weight=counts)
    repeated = classifier().fit(np.repeat(X, counts, 0), np.repeat(y, counts))
    assert_allclose(
        weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("n_rows", [40, 90])
@pytest.mark.parametrize("magnitude", [1e-300, 1e-3, 1e5, 1e300])
def test_magnitude_of_the_weights_changes_the_penalty_only(
    regressor, measured, n_rows, magnitude
):
    X, y = measured[0][:n_rows], measured[1][:n_rows]
    weights = np.full(n_rows, magnitude)
    scaled = regressor(alpha=0.0).fit(X, y, sample_weight=weights)
    plain = regressor(alpha=0.0).fit(X, y)
    assert_allclose(scaled.parameters_, plain.parameters_, rtol=1e-3, atol=1e-5)
    assert_allclose(scaled.predict(X), plain.predict(X), rtol=1e-3)


def test_penalty_is_divided_by_the_weights_but_never_by_less_than_one(
    regressor, measured
):
    X, y = measured[0][:40], measured[1][:40]

    def parameters(alpha, weight):
        model = regressor(alpha=alpha, early_stopping=False)
        return model.fit(X, y, sample_weight=np.full(40, weight)).parameters_

    assert_allclose(parameters(3.0, 1e300), parameters(0.0, 1.0), rtol=1e-9)
    assert_allclose(parameters(3.0, 5.0), parameters(0.6, 1.0), rtol=1e-9)
    # All rows together count less than one: the penalty counts as for one.
    for weight in (1e-300, 1e-9, 1 / 80):
        assert_allclose(parameters(3.0, weight), parameters(120.0, 1.0), rtol=1e-9)


@pytest.mark.parametrize("n_rows", [40, 90])
@pytest.mark.parametrize(
    ("heavy", "light"), [(1e60, 1), (1e300, 1e-300), (1e-6, 1e-60)]
)
def test_one_row_that_outweighs_all(regressor, measured, n_rows, heavy, light):
    X, y = measured[0][:n_rows], measured[1][:n_rows]
    weights = np.full(n_rows, float(light))
    weights[3] = heavy
    # Ten members: one of them never sees the heavy row.
    model = regressor(n_members=10).fit(X, y, sample_weight=weights)
    assert (model.n_retries_ == 0).all()
    mean, std = model.predict(X, return_std=True)
    assert np.isfinite(mean).all() and (std > 0).all()


@pytest.mark.parametrize("alpha", [1e6, 1e300])
def test_penalty_of_any_strength(classifier, labelled, alpha):
    X, y = labelled
    model = classifier(alpha=alpha, early_stopping=False, max_iter=40).fit(X, y)
    assert (model.n_retries_ == 0).all()
    assert_allclose(model.predict_proba(X), 1 / 3, atol=0.05)


def test_rows_of_weight_zero_do_not_matter(regressor, measured):
    X, y = measured
    weights = np.ones(90)
    weights[60:] = 0.0
    broken = y.copy()
    broken[60:] = 1e9
    weighted = regressor().fit(X, broken, sample_weight=weights)
    np.testing.assert_array_equal(
        weighted.predict(X), regressor().fit(X[:60], y[:60]).predict(X)
    )


def test_order_of_the_rows_matters_little(regressor, measured):
    X, y = measured[0][:50], measured[1][:50]
    order = np.random.default_rng(0).permutation(50)
    assert_allclose(
        regressor().fit(X, y).predict(X),
        regressor().fit(X[order], y[order]).predict(X),
        rtol=1e-8,
    )


class TestWarmStart:
    def test_goes_on_from_the_last_weights(self, regressor, measured):
        X, y = measured
        model = regressor(max_iter=40, warm_start=True, early_stopping=False)
        first = model.fit(X, y).loss_curve_
        second = model.fit(X, y).loss_curve_
        assert second[0] < first[0] and second[0] < 1.2 * first[-1] + 0.1
        cold = regressor(max_iter=40, early_stopping=False).fit(X, y)
        np.testing.assert_array_equal(cold.loss_curve_, first)

    def test_without_it_a_fit_starts_anew(self, regressor, measured):
        model = regressor()
        first = model.fit(*measured).parameters_.copy()
        np.testing.assert_array_equal(model.fit(*measured).parameters_, first)

    def test_refuses_other_classes(self, classifier, labelled):
        X, y = labelled
        model = classifier(warm_start=True).fit(X, y)
        with pytest.raises(ValueError, match="'cedar'.*y has.*'yew'"):
            model.fit(X, np.where(y == "cedar", "yew", y))
        np.testing.assert_array_equal(model.fit(X, y).classes_, np.unique(y))
        cold = model.set_params(warm_start=False)
        assert cold.fit(X[y != "ash"], y[y != "ash"]).classes_.tolist() == [
            "beech",
            "cedar",
        ]

    @pytest.mark.parametrize(
        "change", [{"n_members": 2}, {"state_size": 7}, {"hidden_layer_sizes": (9,)}]
    )
    def test_refuses_another_network(self, regressor, measured, change):
        model = regressor(warm_start=True).fit(*measured)
        with pytest.raises(ValueError, match="warm_start=True needs the network"):
            model.set_params(**change).fit(*measured)

    def test_refuses_another_number_of_classes(self, classifier, labelled):
        X, y = labelled
        model = classifier(warm_start=True).fit(X, y)
        with pytest.raises(ValueError, match="warm_start"):
            model.fit(X[y != "cedar"], y[y != "cedar"])


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
    model = regressor(max_iter=50, batch_size=200)
    with monkeypatch.context() as patched:
        Interrupt(patched, at)
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, y)
    assert torch.get_num_threads() == threads
    assert model.n_iter_ == at - 1
    mean, std = model.predict(X, return_std=True)
    assert np.isfinite(mean).all() and (std > 0).all()
    assert model.solver_report_["status"] == "success"
    # It can be trained again.
    np.testing.assert_array_equal(
        model.set_params(max_iter=3).fit(X, y).predict(X),
        regressor(max_iter=3, batch_size=200).fit(X, y).predict(X),
    )


def test_interrupted_classifier(classifier, labelled, monkeypatch):
    X, y = labelled
    model = classifier(max_iter=50)
    with monkeypatch.context() as patched:
        Interrupt(patched, 20)
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, y)
    assert model.predict_proba(X).shape == (90, 3)


class StopAfter:
    """A callback of scikit-learn's protocol that watches every epoch."""

    def __init__(self, epochs, error=None):
        self.epochs, self.error, self.seen, self.models = epochs, error, 0, []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(
        self,
        estimator,
        context,
        *,
        X=None,
        y=None,
        metadata=None,
        fitted_estimator=None,
    ):
        pass

    def on_fit_task_end(
        self,
        estimator,
        context,
        *,
        X=None,
        y=None,
        metadata=None,
        fitted_estimator=None,
    ):
        if context.task_name != "epoch":
            return False
        self.seen += 1
        self.models.append(fitted_estimator.predict(X))
        if self.error is not None and self.seen == self.epochs:
            raise self.error
        return self.seen == self.epochs


def test_callback_raising_keyboard_interrupt(regressor, measured):
    X, y = measured
    model = regressor(max_iter=50).set_callbacks(StopAfter(4, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert model.n_iter_ == 4
    assert np.isfinite(model.predict(X)).all()


def test_callback_stops_the_fit_and_sees_fitted_models(regressor, measured):
    X, y = measured
    callback = StopAfter(5)
    model = regressor(max_iter=50, early_stopping=False)
    model.set_callbacks(callback).fit(X, y)
    assert callback.seen == model.n_iter_ == 5
    np.testing.assert_array_equal(callback.models[-1], model.predict(X))
    assert (callback.models[0] != callback.models[-1]).any()


def test_monitor_scores_every_epoch(classifier, labelled):
    X, y = labelled
    monitor = ScoringMonitor(scoring="accuracy")
    model = classifier(early_stopping=False).set_callbacks(monitor).fit(X, y)
    log = monitor.get_logs()
    assert log
    plain = classifier(early_stopping=False).fit(X, y)
    np.testing.assert_array_equal(model.parameters_, plain.parameters_)


@pytest.mark.filterwarnings("ignore:CUDA ran out of memory")
def test_out_of_memory_shows_a_callback_no_more_epochs(measured):
    X, y = measured

    class Crowded(skfunc.ODENetRegressor):
        def _training_loss(self, module, batch):
            if batch[0].shape[1] > 20:
                raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
            return super()._training_loss(module, batch)

    callback = StopAfter(100)
    model = Crowded(
        state_size=4, n_members=2, max_iter=4, batch_size=90, early_stopping=False
    )
    model.set_callbacks(callback).fit(X, y)
    assert callback.seen == model.n_iter_ == 4


def test_verbose_prints_every_epoch(regressor, measured, capsys):
    regressor(verbose=True, max_iter=3).fit(*measured)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1", "epoch 2", "epoch 3"]
    assert all("loss" in line and "held out" in line for line in lines)
    regressor(max_iter=3).fit(*measured)
    assert capsys.readouterr().out == ""


def test_loss_that_is_not_finite_is_recovered_from(measured):
    X, y = measured

    class FirstNaN(skfunc.ODENetRegressor):
        calls = 0

        def _training_loss(self, module, batch):
            FirstNaN.calls += 1
            losses = super()._training_loss(module, batch)
            return losses * (float("nan") if FirstNaN.calls <= 2 else 1.0)

    model = FirstNaN(
        state_size=4, n_members=2, max_iter=8, batch_size=200, random_state=0
    ).fit(X, y)
    assert (model.n_retries_ == 2).all()
    assert np.isnan(model.loss_curve_[:2]).all()
    assert np.isfinite(model.loss_curve_[2:]).all()
    assert np.isfinite(model.validation_scores_).all()
    assert np.isfinite(model.predict(X)).all()


def test_loss_that_stays_not_finite_is_an_error(measured):
    class AlwaysNaN(skfunc.ODENetRegressor):
        def _training_loss(self, module, batch):
            return super()._training_loss(module, batch) * float("nan")

    threads = torch.get_num_threads()
    model = AlwaysNaN(state_size=4, n_members=2, max_iter=8, random_state=0)
    with pytest.raises(FloatingPointError, match="learning_rate_init"):
        model.fit(*measured)
    assert torch.get_num_threads() == threads


def test_augmentation_widens_the_state(regressor, measured):
    X, y = measured
    plain = regressor(max_iter=2).fit(X, y)
    wide = regressor(max_iter=2, n_augment=3).fit(X, y)
    # The field's and the head's inputs grow with the state, the stem's output does not.
    grown = 2 * 3 * 8 + 3 + 3 * 2
    assert wide.parameters_.shape[1] == plain.parameters_.shape[1] + grown
    assert np.isfinite(wide.predict(X)).all()


class SharedKernel(nn.Module):
    """A user's field that uses one matrix twice."""

    def __init__(self, size):
        super().__init__()
        self.there, self.back = nn.Linear(size, size), nn.Linear(size, size)
        self.back.weight = self.there.weight

    def forward(self, t, h):
        return self.back(torch.tanh(self.there(h)))


def test_shared_weights_of_a_field_are_trained_as_one(regressor, measured):
    X, y = measured[0][:40], measured[1][:40]
    model = regressor(field=SharedKernel, early_stopping=False).fit(X, y)
    field = 6 * 6 + 6 + 6
    assert model.parameters_.shape == (3, field + (3 * 6 + 6) + (6 * 2 + 2))
    assert (np.diff(model.loss_curve_) < 0).all()
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
