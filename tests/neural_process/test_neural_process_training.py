"""Seeds, interruption, printing, and what is refused before any training."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

import skfunc
from skfunc.neural_process._training import MetaTraining
from skfunc.training import StreamTrainer

X_NEW = np.linspace(-2, 2, 9)[:, None]


@pytest.fixture
def regressor():
    return skfunc.NeuralProcessRegressor(
        "self", hidden_size=16, n_layers=2, max_iter=40, random_state=0, device="cpu"
    )


@pytest.fixture
def interrupt(monkeypatch):
    """Return what lets Ctrl-C come before a step of training."""

    def at(step):
        advance = StreamTrainer.advance

        def interrupted(self, batch):
            if self.step == step:
                raise KeyboardInterrupt
            return advance(self, batch)

        monkeypatch.setattr(StreamTrainer, "advance", interrupted)

    return at


@pytest.mark.parametrize("step", [0, 1, 25])
def test_interrupted_fit_is_fitted(regressor, measured, interrupt, step):
    interrupt(step)
    with pytest.raises(KeyboardInterrupt):
        regressor.fit(*measured)
    check_is_fitted(regressor)
    assert regressor.n_iter_ == len(regressor.loss_curve_) == step
    assert regressor.prior_.training["n_steps"] == step
    mean, std = regressor.predict(X_NEW, return_std=True)
    assert np.isfinite(mean).all() and (std > 0).all()
    regressor.partial_fit(*measured)
    assert len(regressor.X_context_) == 50


def test_interrupted_weights_are_those_so_far(regressor, measured, monkeypatch):
    # Told to stop after 25 steps, and interrupted there: the same weights.
    run = MetaTraining.run

    def stopped(self, draw, **options):
        return run(self, draw, **options | {"on_step": lambda step, loss: step == 25})

    with monkeypatch.context() as patched:
        patched.setattr(MetaTraining, "run", stopped)
        expected = clone(regressor).fit(*measured)

    def interrupted(self, draw, **options):
        def on_step(step, loss):
            if step == 25:
                raise KeyboardInterrupt

        return run(self, draw, **options | {"on_step": on_step})

    monkeypatch.setattr(MetaTraining, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        regressor.fit(*measured)
    np.testing.assert_array_equal(regressor.loss_curve_, expected.loss_curve_)
    # Deviations alone differ: nothing was judged after an interruption.
    np.testing.assert_array_equal(regressor.predict(X_NEW), expected.predict(X_NEW))
    np.testing.assert_array_equal(regressor.std_scale_, [1.0])


def test_interrupted_classifier(labelled, interrupt):
    interrupt(3)
    model = skfunc.NeuralProcessClassifier("self", max_iter=20, random_state=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(*labelled)
    assert model.predict_proba(labelled[0]).shape == (60, 3)


def test_interrupted_learner(learner, measured, interrupt):
    interrupt(3)
    model = learner(variant="cnp")
    with pytest.raises(KeyboardInterrupt):
        model.fit(*measured)
    assert model.n_iter_ == model.prior_.training["n_steps"] == 3
    regressor = skfunc.NeuralProcessRegressor(prior=model.prior_).fit(*measured)
    assert np.isfinite(regressor.predict(X_NEW)).all()


def test_failed_fit_is_not_fitted(regressor, measured, monkeypatch):
    def fail(self, batch):
        raise FloatingPointError("the loss became nan")

    monkeypatch.setattr(StreamTrainer, "advance", fail)
    with pytest.raises(FloatingPointError, match="nan"):
        regressor.fit(*measured)
    with pytest.raises(NotFittedError):
        regressor.predict(X_NEW)


@pytest.mark.parametrize("kind", ["regressor", "classifier", "learner"])
def test_failed_refit_keeps_the_earlier_fit(
    kind, regressor, learner, measured, labelled, monkeypatch
):
    X, y = measured
    model, first, second = {
        "regressor": (regressor, (X, y), (X, 2 * y)),
        "classifier": (
            skfunc.NeuralProcessClassifier("self", max_iter=5, random_state=0),
            labelled,
            (labelled[0][:, :1], np.array(["oak", "pine"] * 30)),
        ),
        "learner": (learner(variant="cnp"), (X, y), ([(X, y)],)),
    }[kind]
    model.fit(*first)
    before = dict(vars(model))

    def fail(self, batch):
        raise FloatingPointError("the loss became nan")

    with monkeypatch.context() as patched:
        patched.setattr(StreamTrainer, "advance", fail)
        with pytest.raises(FloatingPointError, match="nan"):
            model.fit(*second)
    after = vars(model)
    assert set(after) == set(before)
    assert all(after[name] is before[name] for name in before)
    # So does what is refused before any training.
    with pytest.raises(ValueError, match="NaN"):
        model.fit(first[0] * np.nan, first[1])
    with pytest.raises(ValueError, match="hidden_size"):
        model.set_params(hidden_size=0).fit(*first)
    assert all(vars(model)[name] is before[name] for name in before if name[-1] == "_")


def test_refit_leaves_nothing_of_an_earlier_fit(regressor, priors, measured):
    regressor.fit(*measured)
    assert regressor.n_iter_ > 0
    regressor.set_params(prior=priors["cnp"]).fit(*measured)
    assert regressor.n_iter_ == 1
    assert not hasattr(regressor, "loss_curve_")


def test_refit_interrupted_before_training_keeps_the_earlier_fit(
    regressor, measured, monkeypatch
):
    expected = regressor.fit(*measured).predict(X_NEW)

    def early(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(MetaTraining, "run", early)
    with pytest.raises(KeyboardInterrupt):
        regressor.fit(measured[0], -measured[1])
    np.testing.assert_array_equal(regressor.predict(X_NEW), expected)


def test_interrupted_before_training(regressor, measured, monkeypatch):
    def early(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(MetaTraining, "run", early)
    with pytest.raises(KeyboardInterrupt):
        regressor.fit(*measured)
    with pytest.raises(NotFittedError):
        regressor.predict(X_NEW)


@pytest.mark.parametrize(
    "variant", ["anp", "cnp", "convcnp", "kernel", "lbanp", "np", "tnp"]
)
def test_seeds(regressor, measured, variant):
    models = [
        clone(regressor)
        .set_params(variant=variant, max_iter=5, n_heads=2, random_state=seed)
        .fit(*measured)
        for seed in (0, 0, 1)
    ]
    one, same, other = (model.predict(X_NEW) for model in models)
    np.testing.assert_array_equal(one, same)
    assert models[0].loss_curve_ == models[1].loss_curve_
    assert np.abs(one - other).max() > 1e-6


def test_global_seed_is_left_alone(regressor, measured):
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    regressor.fit(*measured).sample_y(X_NEW, 2)
    assert np.random.random() == expected


@pytest.mark.parametrize("objective", ["likelihood", "elbo", "importance_weighted"])
def test_objectives_of_a_latent(regressor, measured, objective):
    regressor.set_params(variant="np", objective=objective, max_iter=100)
    losses = regressor.fit(*measured).loss_curve_
    assert np.isfinite(losses).all()
    assert np.mean(losses[-20:]) < np.mean(losses[:20])


def test_auto_objective_of_a_latent_is_the_elbo(regressor, measured):
    regressor.set_params(variant="np", max_iter=3)
    auto = regressor.fit(*measured).loss_curve_
    assert auto == regressor.set_params(objective="elbo").fit(*measured).loss_curve_
    other = regressor.set_params(objective="likelihood").fit(*measured).loss_curve_
    assert auto != other


def test_verbose(regressor, learner, measured, capsys):
    regressor.set_params(max_iter=200).fit(*measured)
    assert capsys.readouterr().out == ""
    regressor.set_params(max_iter=200, verbose=True).fit(*measured)
    assert "step 100: loss" in capsys.readouterr().out
    learner(variant="cnp", max_iter=100, verbose=True).fit(*measured)
    assert "step 100: loss" in capsys.readouterr().out


def test_steps_of_auto(regressor, measured, monkeypatch):
    taken = []
    monkeypatch.setattr(
        StreamTrainer, "done", property(lambda self: taken.append(self) or True)
    )
    with warnings.catch_warnings():
        regressor.set_params(max_iter="auto").fit(*measured)
    # Eight times 25 rows.
    assert taken[0].options.n_steps == 200


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"variant": "dnp"}, "variant"),
        ({"objective": "map"}, "objective"),
        ({"objective": "elbo"}, "needs a latent variable"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"n_layers": 1.5}, "n_layers"),
        ({"n_heads": 3}, "n_heads=3 must divide hidden_size=16"),
        ({"n_inducing": -1}, "n_inducing"),
        ({"latent_size": 0}, "latent_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"n_draws": 0}, "n_draws"),
        ({"max_iter": "many"}, "max_iter"),
        ({"max_iter": 0}, "max_iter"),
        ({"learning_rate_init": 0.0}, "learning_rate_init"),
        ({"alpha": -1.0}, "alpha"),
        ({"min_std": 0.0}, "min_std"),
        ({"device": "abacus"}, "device"),
    ],
)
def test_parameters_are_checked_first(regressor, measured, monkeypatch, changes, text):
    monkeypatch.setattr(MetaTraining, "run", None)
    with pytest.raises(ValueError, match=text):
        regressor.set_params(**changes).fit(*measured)


def test_convolution_takes_one_column(regressor, measured):
    X, y = measured
    with pytest.raises(ValueError, match="takes one feature.*X has 2"):
        regressor.set_params(variant="convcnp").fit(np.c_[X, X], y)


def test_bad_rows(regressor, measured):
    X, y = measured
    with pytest.raises(ValueError, match="NaN"):
        regressor.fit(np.where(X > 1, np.nan, X), y)
    regressor.fit(X, y)
    with pytest.raises(ValueError, match="2 features.*expecting 1"):
        regressor.predict(np.c_[X, X])
    with pytest.raises(ValueError, match="2 features.*expecting 1"):
        regressor.partial_fit(np.c_[X, X], y)


def test_one_row(regressor):
    regressor.fit([[1.0]], [2.0])
    assert np.isfinite(regressor.predict([[1.0], [3.0]])).all()
