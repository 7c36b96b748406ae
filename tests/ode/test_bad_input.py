"""A clear error, at once, that names what is wrong; and nothing lost by it."""

import warnings

import numpy as np
import pytest
from torch import nn

import skfunc
from skfunc.training import MemberStack

ESTIMATORS = {
    "classifier": skfunc.ODENetClassifier,
    "regressor": skfunc.ODENetRegressor,
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
    ("per_row", "yes"),
    ("per_row", None),
    ("warm_start", "no"),
    ("warm_start", 1),
    ("cuda_graph", "auto"),
    ("solver", "rk5"),
    ("solver", None),
]


@pytest.mark.parametrize(("name", "value"), INVALID)
def test_invalid_parameter_is_named_before_training(case, no_training, name, value):
    make, X, y = case
    with pytest.raises(ValueError, match=name):
        make(**{name: value}).fit(X, y)


def test_every_parameter_has_an_invalid_value_here():
    checked = {name for name, _ in INVALID}
    # Any value of these is a truth value or is checked by what it goes to.
    free = {"verbose", "random_state"}
    for estimator in ESTIMATORS.values():
        assert set(estimator().get_params()) == checked | free


@pytest.mark.parametrize(
    "solver", ["rk5", "", None, 4, "torchdiffeq:", "torchdiffeq:x"]
)
def test_unknown_solver_lists_the_valid_ones(case, no_training, solver):
    make, X, y = case
    with pytest.raises(ValueError, match="^solver=") as caught:
        make(solver=solver).fit(X, y)
    for valid in ("euler", "midpoint", "rk4", "dopri5", "tsit5", "torchdiffeq:dopri8"):
        assert valid in str(caught.value)


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("activation", "silu"),
        ("field", "conv"),
        ("gradient", "checkpoint"),
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


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite(case, no_training, value):
    make, X, y = case
    X = X.copy()
    X[3, 1] = value
    with pytest.raises(ValueError, match="NaN|infinity"):
        make().fit(X, y)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_targets_that_are_not_finite(regressor, measured, no_training, value):
    X, y = measured
    y = y.copy()
    y[3] = value
    with pytest.raises(ValueError, match="NaN|infinity"):
        regressor().fit(X, y)


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


@pytest.mark.parametrize(
    ("rows", "targets", "match"),
    [
        (slice(0, 0), slice(0, 0), "0 sample"),
        (slice(0, 5), slice(0, 4), "inconsistent"),
        (slice(0, 4), slice(0, 5), "inconsistent"),
    ],
)
def test_numbers_of_rows(case, no_training, rows, targets, match):
    make, X, y = case
    with pytest.raises(ValueError, match=match):
        make().fit(X[rows], y[targets])


def test_no_columns(case, no_training):
    make, X, y = case
    with pytest.raises(ValueError, match="0 feature"):
        make().fit(X[:, :0], y)


def test_rows_that_are_no_numbers(case, no_training):
    make, X, y = case
    with pytest.raises(ValueError):
        make().fit(np.full(X.shape, "x"), y)


def test_missing_targets(case, no_training):
    make, X, _ = case
    with pytest.raises((ValueError, TypeError), match="y"):
        make().fit(X, None)


def test_one_class(classifier, labelled, no_training):
    X, _ = labelled
    with pytest.raises(ValueError, match="one class"):
        classifier().fit(X, np.full(90, "ash"))


def test_one_class_of_positive_weight(classifier, labelled, no_training):
    X, y = labelled
    with pytest.raises(ValueError, match="one class.*'ash'.*positive weight"):
        classifier().fit(X, y, sample_weight=(y == "ash").astype(float))


def test_targets_of_a_regression_are_no_classes(classifier, measured, no_training):
    X, y = measured
    with pytest.raises(ValueError, match="Unknown label type"):
        classifier().fit(X, y)


def test_one_row(regressor, classifier, measured):
    X, y = measured
    model = regressor().fit(X[:1], y[:1])
    mean, std = model.predict(X, return_std=True)
    assert np.isfinite(mean).all() and (std > 0).all()
    with pytest.raises(ValueError, match="class"):
        classifier().fit(X[:1], ["ash"])


def test_two_rows(regressor, classifier, measured):
    X, y = measured
    for early_stopping in (True, False, "auto"):
        options = {"early_stopping": early_stopping}
        assert np.isfinite(regressor(**options).fit(X[:2], y[:2]).predict(X)).all()
        proba = classifier(**options).fit(X[:2], ["b", "a"]).predict_proba(X)
        np.testing.assert_allclose(proba.sum(1), 1.0)


def test_equal_rows(regressor, classifier, measured):
    X = np.tile(measured[0][:1], (30, 1))
    for early_stopping in (True, "auto"):
        options = {"early_stopping": early_stopping}
        y = measured[1][:30]
        assert np.isfinite(regressor(**options).fit(X, y).predict(X)).all()
        labels = np.tile(["a", "b"], 15)
        proba = classifier(**options).fit(X, labels).predict_proba(X)
        np.testing.assert_allclose(proba.sum(1), 1.0)


def test_class_of_one_row(classifier, labelled):
    X, y = labelled
    y = y.astype(object)
    y[0] = "yew"
    model = classifier(n_members=10).fit(X, y)
    assert model.predict_proba(X).shape == (90, 4)


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (-1.0, "sample_weight must not be negative; row 7"),
        (np.nan, "NaN"),
        (np.inf, "infinity"),
    ],
)
def test_weights(case, no_training, weights, match):
    make, X, y = case
    sample_weight = np.ones(90)
    sample_weight[7] = weights
    with pytest.raises(ValueError, match=match):
        make().fit(X, y, sample_weight=sample_weight)


@pytest.mark.parametrize("sample_weight", [np.zeros(90), np.ones(89), np.ones((90, 2))])
def test_weights_of_another_kind(case, no_training, sample_weight):
    make, X, y = case
    with pytest.raises(ValueError, match="(?i)sample.weight"):
        make().fit(X, y, sample_weight=sample_weight)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_scale_of_the_rows_does_not_matter(case, scale):
    make, X, y = case
    plain, scaled = make().fit(X, y), make().fit(scale * X, y)
    method = "predict_proba" if hasattr(plain, "classes_") else "predict"
    np.testing.assert_allclose(
        getattr(scaled, method)(scale * X), getattr(plain, method)(X), rtol=1e-3
    )


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e100])
def test_scale_of_the_targets_does_not_matter(regressor, measured, scale):
    X, y = measured
    plain = regressor().fit(X, y).predict(X, return_std=True)
    mean, std = regressor().fit(X, scale * y).predict(X, return_std=True)
    np.testing.assert_allclose(mean / scale, plain[0], rtol=1e-3)
    np.testing.assert_allclose(std / scale, plain[1], rtol=1e-2)


@pytest.mark.parametrize("constant", [0.0, 1.0, -0.1, 1e-30, 1e8])
def test_constant_columns_do_not_matter(case, constant):
    make, X, y = case
    X = np.column_stack([X, np.full(90, constant)])
    weights = np.random.default_rng(0).uniform(0.1, 2.0, 90)
    model = make().fit(X, y, sample_weight=weights)
    np.testing.assert_array_less(np.abs((X - model.X_mean_) / model.X_scale_)[:, -1], 1)
    moved = X + np.array([0.0] * (X.shape[1] - 1) + [1e-3 * constant])
    method = "predict_proba" if hasattr(model, "classes_") else "predict"
    assert np.isfinite(getattr(model, method)(moved)).all()


@pytest.mark.parametrize("constant", [1e30, -1e30, 1e15, 0.1])
def test_constant_columns_are_standardized_to_nothing(case, constant):
    make, X, y = case
    X = np.column_stack([X, np.full(90, constant)])
    weights = np.random.default_rng(0).uniform(0.1, 2.0, 90)
    model = make(max_iter=1).fit(X, y, sample_weight=weights)
    assert (model.X_mean_[-1], model.X_scale_[-1]) == (constant, 1.0)


def test_nothing_but_constant_columns(case):
    make, X, y = case
    model = make().fit(np.ones((90, 2)), y)
    assert len(model.predict(np.ones((4, 2)))) == 4


@pytest.mark.parametrize("constant", [0.0, 5.0, 1e30, -1e-30])
def test_constant_target(regressor, measured, constant):
    X, _ = measured
    model = regressor(max_iter=30).fit(X, np.full(90, constant))
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


def test_outlier_far_away_of_tiny_rows(case):
    make, X, y = case
    model = make(max_iter=1).fit(1e-20 * X, y)
    predict = model.predict_proba if hasattr(model, "classes_") else model.predict
    mean, std = predict(1e300 * X, return_std=True)
    assert np.isfinite(mean).all() and np.isfinite(std).all()


def test_failed_fit_loses_nothing(case):
    make, X, y = case
    model = make(max_iter=2).fit(X, y)
    before = model.sample(X, random_state=0)
    for wrong in ({"solver": "rk5"}, {"n_members": 0}, {"alpha": -1}):
        with pytest.raises(ValueError):
            model.set_params(**wrong).fit(X, y)
        model.set_params(**{name: getattr(make(), name) for name in wrong})
        np.testing.assert_array_equal(model.sample(X, random_state=0), before)
    with pytest.raises(ValueError):
        model.fit(X, y, sample_weight=-np.ones(90))
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
        with pytest.raises(ValueError, match="n_samples must be a positive integer"):
            draw(X, n_samples=n_samples)


def test_levels_and_coverage(fitted_regressor, measured):
    X, _ = measured
    for alpha in (0.0, 1.0, [0.1, 1.2], np.nan):
        with pytest.raises(ValueError, match="alpha must be"):
            fitted_regressor.predict_quantiles(X, alpha)
    for coverage in (0.0, 1.0, 90):
        with pytest.raises(ValueError, match="coverage must be"):
            fitted_regressor.predict_interval(X, coverage)


def test_bad_input_warns_of_nothing_else(case):
    make, X, y = case
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError):
            make().fit(np.full_like(X, 1e400), y)
