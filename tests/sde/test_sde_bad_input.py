"""A clear error, at once, that names what is wrong; and nothing lost by it."""

import numpy as np
import pytest
from torch import nn

import skfunc
from skfunc.training import MemberStack

ESTIMATORS = {
    "classifier": skfunc.SDEBNNClassifier,
    "regressor": skfunc.SDEBNNRegressor,
}


@pytest.fixture(params=ESTIMATORS)
def case(request, classifier, regressor, labelled, measured):
    """Return what makes a small estimator, with rows and targets for it."""
    if request.param == "classifier":
        return classifier, *labelled
    return regressor, *measured


@pytest.fixture
def no_training(monkeypatch):
    """Fail where a network is built or trained: the error must come first."""

    def refuse(*arguments, **options):
        raise AssertionError("training started")

    monkeypatch.setattr(MemberStack, "__init__", refuse)
    monkeypatch.setattr("skfunc._members.train", refuse)


INVALID = [
    ("hidden_layer_sizes", ()),
    ("hidden_layer_sizes", (0,)),
    ("hidden_layer_sizes", (8, 2.5)),
    ("hidden_layer_sizes", "large"),
    ("hidden_layer_sizes", None),
    ("state_size", 0),
    ("state_size", 2.5),
    ("n_augment", -1),
    ("n_augment", None),
    ("field", "resnet"),
    ("field", None),
    ("field", "conv"),
    ("activation", "swish"),
    ("activation", None),
    ("image_shape", (2, 2)),
    ("image_shape", (1, 50, 50)),
    ("image_shape", (0, 2, 2)),
    ("image_shape", "square"),
    ("n_members", 0),
    ("n_members", "many"),
    ("n_members", True),
    ("n_steps", 0),
    ("n_steps", 1.5),
    ("rtol", 0.0),
    ("rtol", -1e-3),
    ("rtol", np.nan),
    ("atol", -1e-3),
    ("atol", np.inf),
    ("gradient", "autodiff"),
    ("max_nfe", 0),
    ("alpha", -1.0),
    ("alpha", np.nan),
    ("alpha", "auto"),
    ("batch_size", 0),
    ("batch_size", "all"),
    ("batch_size", 12.5),
    ("learning_rate_init", 0.0),
    ("learning_rate_init", np.inf),
    ("max_iter", 0),
    ("max_iter", 10.0),
    ("tol", -1e-4),
    ("n_iter_no_change", 0),
    ("early_stopping", "never"),
    ("early_stopping", None),
    ("validation_fraction", 0.0),
    ("validation_fraction", 1.0),
    ("device", "gpu"),
    ("device", None),
    ("device", "meta"),
    ("device", "mps"),
    ("warm_start", "no"),
    ("warm_start", 1),
    ("solver", "rk5"),
    ("solver", None),
    ("solver", "torchsde:x"),
    ("drift", "linear"),
    ("drift", None),
    ("rank", 0),
    ("rank", 1.5),
    ("sigma", 0.0),
    ("sigma", -0.1),
    ("sigma", np.nan),
    ("sigma", "learn"),
    ("sigma", None),
    ("mean_reversion", -1.0),
    ("mean_reversion", np.inf),
    ("prior_mean", "w0"),
    ("prior_mean", 0.0),
    ("initial_weights", "normal"),
    ("initial_weights", None),
    ("n_train_paths", 0),
    ("n_train_paths", 1.0),
    ("n_predict_paths", 0),
    ("n_predict_paths", "all"),
    ("kl_weight", -1.0),
    ("kl_weight", np.nan),
    ("kl_warmup", -0.1),
    ("kl_warmup", 1.5),
    ("stl", "yes"),
    ("stl", None),
]


@pytest.mark.parametrize(("name", "value"), INVALID)
def test_invalid_parameter_is_named_before_training(case, no_training, name, value):
    make, X, y = case
    with pytest.raises(ValueError, match=name):
        make(**{name: value}).fit(X, y)


@pytest.mark.parametrize("value", ["laplace", None, 3])
def test_invalid_likelihood(regressor, measured, no_training, value):
    with pytest.raises(ValueError, match="likelihood.*'student_t'"):
        regressor(likelihood=value).fit(*measured)


def test_every_parameter_has_an_invalid_value_here():
    checked = {name for name, _ in INVALID} | {"likelihood"}
    # Any value of these is a truth value or is checked by what it goes to.
    free = {"verbose", "random_state"}
    names = set(skfunc.SDEBNNClassifier().get_params()) | {"likelihood"}
    assert names == set(skfunc.SDEBNNRegressor().get_params()) == checked | free


def test_gaussian_initial_weights_need_a_pull(case, no_training):
    make, X, y = case
    with pytest.raises(ValueError, match="mean_reversion"):
        make(mean_reversion=0.0, initial_weights="gaussian").fit(X, y)


def test_weights_may_diffuse_without_a_pull(case):
    make, X, y = case
    model = make(mean_reversion=0.0).fit(X, y)
    assert np.isfinite([model.elbo_, model.kl_]).all()


@pytest.mark.parametrize("solver", ["rk5", "", None, 4, "torchsde:", "torchsde:x"])
def test_unknown_solver_lists_the_valid_ones(case, no_training, solver):
    make, X, y = case
    with pytest.raises(ValueError, match="^solver=") as caught:
        make(solver=solver).fit(X, y)
    for valid in ("ou", "euler", "heun", "reversible_heun", "torchsde:srk"):
        assert valid in str(caught.value)


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("activation", "silu"),
        ("field", "conv"),
        ("gradient", "checkpoint"),
        ("drift", "affine\\+lowrank"),
        ("prior_mean", "zero"),
        ("initial_weights", "gaussian"),
        ("early_stopping", "auto"),
    ],
)
def test_unknown_option_lists_the_valid_ones(case, no_training, name, valid):
    make, X, y = case
    with pytest.raises(ValueError, match=f"{name}='unknown'.*'{valid}'"):
        make(**{name: "unknown"}).fit(X, y)


def test_random_state_is_checked(case):
    make, X, y = case
    with pytest.raises(ValueError, match="seed"):
        make(random_state="zero").fit(X, y)


def test_image_shape_that_does_not_multiply_to_the_width(case, no_training):
    make, X, y = case
    width = X.shape[1]
    with pytest.raises(ValueError, match=f"multiplies to 50, but X has {width} feat"):
        make(field="conv", image_shape=(2, 5, 5)).fit(X, y)


def test_a_convolutional_field_needs_the_shape_of_images(case, no_training):
    make, X, y = case
    with pytest.raises(ValueError, match="field='conv' needs image_shape"):
        make(field="conv").fit(X, y)


class Widening(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.linear = nn.Linear(size, size + 1)

    def forward(self, t, h):
        return self.linear(h)


def test_field_of_another_output_shape(case):
    make, X, y = case
    with pytest.raises(ValueError, match="field.* must return a tensor of h's shape"):
        make(field=Widening).fit(X, y)


def test_field_that_builds_no_module(case):
    make, X, y = case
    with pytest.raises(TypeError, match="field must build a torch"):
        make(field=lambda size: size).fit(X, y)


@pytest.mark.parametrize("method", ["predict", "sample"])
def test_rows_to_predict_for_are_checked(case, method):
    make, X, y = case
    model = make(max_iter=1).fit(X, y)
    predict = getattr(model, method)
    broken = X.copy()
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        predict(broken)
    with pytest.raises(ValueError, match=f"{X.shape[1] + 1} features"):
        predict(np.column_stack([X, X[:, 0]]))
    with pytest.raises(ValueError, match="2D"):
        predict(X[0])
    with pytest.raises(ValueError, match="0 sample"):
        predict(X[:0])


def test_one_class_of_positive_weight(classifier, labelled, no_training):
    X, y = labelled
    with pytest.raises(ValueError, match="one class.*'ash'.*positive weight"):
        classifier().fit(X, y, sample_weight=(y == "ash").astype(float))


def test_two_rows(regressor, classifier, measured):
    X, y = measured
    for early_stopping in (True, False, "auto"):
        options = {"early_stopping": early_stopping}
        assert np.isfinite(regressor(**options).fit(X[:2], y[:2]).predict(X)).all()
        proba = classifier(**options).fit(X[:2], ["b", "a"]).predict_proba(X)
        np.testing.assert_allclose(proba.sum(1), 1.0)


@pytest.mark.parametrize("constant", [0.0, 1e30])
def test_constant_target(regressor, measured, constant):
    X, _ = measured
    model = regressor(max_iter=30).fit(X, np.full(60, constant))
    mean, std = model.predict(X, return_std=True)
    assert np.isfinite(mean).all() and (std > 0).all()
    np.testing.assert_allclose(mean, constant, atol=max(1.0, 1e-3 * abs(constant)))


def test_outlier_far_away(case):
    make, X, y = case
    model = make(max_iter=1).fit(X, y)
    predict = model.predict_proba if hasattr(model, "classes_") else model.predict
    for factor in (1e6, 1e150, 1e300):
        mean, std = predict(factor * X, return_std=True)
        assert np.isfinite(mean).all() and np.isfinite(std).all()


def test_failed_fit_loses_nothing(case):
    make, X, y = case
    model = make(max_iter=2).fit(X, y)
    before = model.sample(X, random_state=0)
    for wrong in ({"sigma": -1.0}, {"n_members": 0}, {"alpha": -1}):
        with pytest.raises(ValueError):
            model.set_params(**wrong).fit(X, y)
        model.set_params(**{name: getattr(make(), name) for name in wrong})
        np.testing.assert_array_equal(model.sample(X, random_state=0), before)
    with pytest.raises(ValueError):
        model.fit(X, y, sample_weight=-np.ones(60))
    np.testing.assert_array_equal(model.sample(X, random_state=0), before)


@pytest.mark.parametrize("n_samples", [0, -1, 1.5, None])
def test_numbers_of_draws(
    fitted_classifier, fitted_regressor, labelled, measured, n_samples
):
    for draw, X in (
        (fitted_classifier.sample_proba, labelled[0]),
        (fitted_classifier.sample, labelled[0]),
        (fitted_regressor.sample_y, measured[0]),
        (fitted_regressor.sample, measured[0]),
    ):
        with pytest.raises(ValueError, match="n_samples must be"):
            draw(X, n_samples=n_samples)
