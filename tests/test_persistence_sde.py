"""Saved SDE-BNNs: the same weight paths back, or one clear ValueError."""

import json
import pickle

import joblib
import numpy as np
import pytest
import skops.io
from safetensors import numpy as safetensors_numpy
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skfunc
from skfunc.persistence import _checksum

SMALL = {
    "hidden_layer_sizes": (5,),
    "state_size": 4,
    "n_members": 2,
    "n_predict_paths": 4,
    "max_iter": 2,
    "random_state": 0,
}


def rows(n_columns=3):
    return np.random.default_rng(0).normal(size=(40, n_columns))


def classifier(**changes):
    X = rows()
    labels = np.where(X[:, 0] > 0, "ja", "нет")
    return skfunc.SDEBNNClassifier(**(SMALL | changes)).fit(X, labels), X


def regressor(**changes):
    X = rows()
    return skfunc.SDEBNNRegressor(**(SMALL | changes)).fit(X, X[:, 0]), X


def images():
    X = rows(16)
    options = SMALL | {"image_shape": [1, 4, 4], "state_size": 3}
    return skfunc.SDEBNNClassifier(**options).fit(X, np.arange(40) % 3), X


MODELS = {
    "classifier": classifier,
    "regressor": regressor,
    "heavy tails": lambda: regressor(likelihood="student_t"),
    "learned sigma": lambda: regressor(sigma="auto", prior_mean="zero"),
    "Gaussian start": lambda: classifier(initial_weights="gaussian"),
    "network drift": lambda: classifier(drift="affine+lowrank", rank=np.int64(2)),
    "another solver": lambda: regressor(solver="torchsde:midpoint"),
    "images": images,
}


def answers(model, X):
    """Return what a model predicts, in every way."""
    fitted = [model.kl_, model.elbo_, model.path_seed_]
    if hasattr(model, "classes_"):
        return [
            *fitted,
            *model.predict_proba(X, return_std=True),
            model.predict(X),
            model.sample_proba(X, 3),
            model.sample_proba(X, 3, prior=True),
        ]
    return [
        *fitted,
        *model.predict(X, return_std=True),
        model.predict_quantiles(X),
        model.sample_y(X, 3),
        model.sample_y(X, 3, prior=True),
    ]


def assert_same(model, again, X):
    assert type(again) is type(model)
    assert repr(again.get_params()) == repr(model.get_params())
    for one, other in zip(answers(model, X), answers(again, X), strict=True):
        np.testing.assert_array_equal(one, other)


def by_file(model, folder):
    model.save(folder / "model.safetensors")
    return skfunc.load(folder / "model.safetensors")


def by_pickle(model, folder):
    return pickle.loads(pickle.dumps(model))


def by_joblib(model, folder):
    joblib.dump(model, folder / "model.joblib")
    return joblib.load(folder / "model.joblib")


def by_skops(model, folder):
    data = skops.io.dumps(model)
    trusted = skops.io.get_untrusted_types(data=data)
    assert all(name.startswith("skfunc.") for name in trusted)
    return skops.io.loads(data, trusted=trusted)


@pytest.mark.parametrize("way", [by_file, by_pickle, by_joblib, by_skops])
@pytest.mark.parametrize("name", MODELS)
def test_round_trip_is_bit_equal(name, way, tmp_path):
    model, X = MODELS[name]()
    assert_same(model, way(model, tmp_path), X)


def test_pipeline_pickles():
    X = rows()
    pipeline = make_pipeline(StandardScaler(), skfunc.SDEBNNRegressor(**SMALL))
    again = pickle.loads(pickle.dumps(pipeline.fit(X, X[:, 0])))
    np.testing.assert_array_equal(again.predict(X), pipeline.predict(X))


EDITS = {
    "another class": lambda c: c.update({"class": "SDEBNNRegressor"}),
    "an ODE-Net": lambda c: c.update({"class": "ODENetClassifier"}),
    "another drift": lambda c: c["parameters"].update({"drift": "mlp"}),
    "unknown drift": lambda c: c["parameters"].update({"drift": "os.system"}),
    "fixed sigma": lambda c: c["parameters"].update({"sigma": 0.1}),
    "negative sigma": lambda c: c["parameters"].update({"sigma": -1.0}),
    "unknown solver": lambda c: c["parameters"].update({"solver": "rk5"}),
    "Gaussian start": lambda c: c["parameters"].update({"initial_weights": "gaussian"}),
    "no seed": lambda c: c["fitted"].pop("path_seed_"),
    "no report": lambda c: c["fitted"].pop("_fit_report"),
    "seed that is text": lambda c: c["fitted"].update({"path_seed_": "0"}),
    "seed below zero": lambda c: c["fitted"].update({"path_seed_": -1}),
    "huge rank": lambda c: c["parameters"].update({"drift": "lowrank", "rank": 10**15}),
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_header(name, tmp_path):
    path = tmp_path / "model"
    classifier()[0].save(path)
    data = path.read_bytes()
    arrays = safetensors_numpy.load(data)
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    content = json.loads(metadata["skfunc"])
    EDITS[name](content)
    text = json.dumps(content)
    metadata |= {"skfunc": text, "checksum": _checksum(text, arrays)}
    path.write_bytes(safetensors_numpy.save(arrays, metadata=metadata))
    with pytest.raises(ValueError, match="cannot load"):
        skfunc.load(path)
