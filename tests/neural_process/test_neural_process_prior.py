"""A prior is a parameter: clones keep it, searches choose it, files hold it."""

import pickle

import joblib
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skfunc

X_NEW = np.linspace(-2, 2, 9)[:, None]


@pytest.fixture
def regressor(priors):
    return skfunc.NeuralProcessRegressor(prior=priors["tnp"], random_state=0)


def test_clone_keeps_the_prior(regressor, priors):
    assert clone(priors["tnp"]) is priors["tnp"]
    assert clone(regressor).prior is priors["tnp"]


def test_fit_takes_the_prior_as_it_is(regressor, priors, measured):
    assert regressor.fit(*measured).prior_ is priors["tnp"]
    assert not hasattr(regressor, "loss_curve_")


def test_prior_is_immutable(priors):
    prior = priors["cnp"]
    with pytest.raises(ValueError, match="read-only"):
        prior.moments("x_mean")[0] = 1.0
    prior.training["loss"] = 0.0
    assert prior.training["loss"] != 0.0
    with pytest.raises(AttributeError):
        prior.variant = "np"


def test_what_is_known_of_the_training(priors):
    known = priors["cnp"].training
    assert known["n_steps"] == 10
    assert known["n_retries"] == 0
    assert np.isfinite(known["loss"])


def test_search_over_priors(regressor, priors, smooth_prior, measured):
    choices = [priors["tnp"], smooth_prior, "self"]
    search = GridSearchCV(
        regressor.set_params(max_iter=20, device="cpu"), {"prior": choices}, cv=3
    )
    search.fit(*measured)
    # The prior of sine waves predicts a sine wave better than the others.
    assert search.best_params_["prior"] is smooth_prior
    assert search.best_score_ > 0.9


def test_pipeline_and_workers(regressor, measured):
    model = make_pipeline(StandardScaler(with_std=False), regressor)
    alone = cross_val_score(model, *measured, cv=3)
    with joblib.parallel_backend("threading", n_jobs=2):
        np.testing.assert_array_equal(alone, cross_val_score(model, *measured, cv=3))


def test_pickle(priors, regressor, measured):
    prior = pickle.loads(pickle.dumps(priors["tnp"]))
    again = clone(regressor).set_params(prior=prior).fit(*measured)
    np.testing.assert_array_equal(
        again.predict(X_NEW), regressor.fit(*measured).predict(X_NEW)
    )


@pytest.mark.parametrize(
    "name", ["anp", "cnp", "convcnp", "kernel", "lbanp", "np", "tnp"]
)
def test_file_of_a_prior(name, priors, measured, tmp_path):
    path = tmp_path / "prior.safetensors"
    priors[name].save(path)
    loaded = skfunc.load(path)
    assert repr(loaded) == repr(priors[name])
    assert loaded.training == priors[name].training
    for prior in (loaded, path, str(path)):
        models = [
            skfunc.NeuralProcessRegressor(prior=p, random_state=0).fit(*measured)
            for p in (priors[name], prior)
        ]
        one, other = (m.predict(X_NEW, return_std=True) for m in models)
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["np", "tnp"])
def test_file_of_a_regressor(name, priors, measured, tmp_path):
    path = tmp_path / "model.safetensors"
    model = skfunc.NeuralProcessRegressor(prior=priors[name], random_state=0)
    model.fit(*measured).save(path)
    again = skfunc.load(path)
    np.testing.assert_array_equal(
        model.predict(X_NEW, return_std=True), again.predict(X_NEW, return_std=True)
    )
    np.testing.assert_array_equal(model.sample_y(X_NEW, 3), again.sample_y(X_NEW, 3))
    # What was loaded goes on: more rows, another fit.
    np.testing.assert_array_equal(
        model.partial_fit(*measured).predict(X_NEW),
        again.partial_fit(*measured).predict(X_NEW),
    )


def test_file_of_a_classifier(labelled, tmp_path):
    X, y = labelled
    path = tmp_path / "model.safetensors"
    model = skfunc.NeuralProcessClassifier(
        "self", variant="np", max_iter=10, random_state=0
    )
    model.fit(X, y).save(path)
    again = skfunc.load(path)
    np.testing.assert_array_equal(
        model.predict_proba(X, return_std=True), again.predict_proba(X, return_std=True)
    )
    assert again.predict(X[:1])[0] in y


def test_file_of_a_learner(learner, measured, tmp_path):
    path = tmp_path / "learner.safetensors"
    model = learner(variant="cnp").fit(*measured)
    model.save(path)
    again = skfunc.load(path)
    assert again.loss_curve_ == model.loss_curve_
    prior = pickle.loads(pickle.dumps(model.prior_))
    np.testing.assert_array_equal(
        again.prior_.moments("y_mean"), prior.moments("y_mean")
    )


def test_edited_or_truncated_file(priors, tmp_path):
    path = tmp_path / "prior.safetensors"
    priors["cnp"].save(path)
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(ValueError, match="cannot load"):
        skfunc.load(path)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match="checksum"):
        skfunc.load(path)
    path.write_bytes(data.replace(b"gaussian", b"gauss1an", 1))
    with pytest.raises(ValueError, match="checksum"):
        skfunc.load(path)


def test_path_of_something_else(regressor, measured, tmp_path):
    path = tmp_path / "model.safetensors"
    regressor.fit(*measured).save(path)
    with pytest.raises(ValueError, match="holds no NeuralProcessPrior"):
        clone(regressor).set_params(prior=path).fit(*measured)
    with pytest.raises(FileNotFoundError):
        clone(regressor).set_params(prior=tmp_path / "none").fit(*measured)
    other = tmp_path / "other.safetensors"
    safetensors_numpy.save_file({"a": np.ones(2)}, other)
    with pytest.raises(ValueError, match="cannot load"):
        clone(regressor).set_params(prior=other).fit(*measured)


def content(prior, **changes):
    return dict(prior._saved_state()) | changes


def test_state_that_does_not_fit_together(priors):
    prior = priors["cnp"]
    cls = skfunc.NeuralProcessPrior
    with pytest.raises(ValueError, match="variant='dnp' is unknown"):
        cls(**content(prior, variant="dnp"))
    with pytest.raises(ValueError, match="likelihood='cauchy' is unknown"):
        cls(**content(prior, likelihood="cauchy"))
    narrow = {k: v[..., :-1] for k, v in content(prior)["weights"].items()}
    with pytest.raises(ValueError, match="weights are not those of the network"):
        cls._from_saved_state(content(prior, weights=narrow))


def test_prior_that_does_not_fit_the_data(regressor, measured, labelled):
    X, y = measured
    with pytest.raises(ValueError, match="of 1 columns of X; got 2"):
        regressor.fit(np.c_[X, X], y)
    with pytest.raises(ValueError, match="of 1 targets; got 2"):
        regressor.fit(X, np.c_[y, y])
    with pytest.raises(ValueError, match="likelihood='gaussian'.*needs 'categorical'"):
        skfunc.NeuralProcessClassifier(prior=regressor.prior).fit(X, y > 3)
    three = skfunc.NeuralProcessClassifier("self", max_iter=2, random_state=0).fit(
        *labelled
    )
    two = labelled[1] != "ash"
    with pytest.raises(ValueError, match="of 3 targets; got 2"):
        skfunc.NeuralProcessClassifier(prior=three.prior_).fit(
            labelled[0][two], labelled[1][two]
        )
    with pytest.raises(ValueError, match="needs 'gaussian' or 'mixture' or 'bins'"):
        skfunc.NeuralProcessRegressor(prior=three.prior_).fit(*np.ones((2, 5, 1)))


@pytest.mark.parametrize("prior", [None, 3, object])
def test_no_prior(prior, measured):
    with pytest.raises(ValueError, match="prior=.* is unknown; use 'tabular', 'self'"):
        skfunc.NeuralProcessRegressor(prior=prior).fit(*measured)
