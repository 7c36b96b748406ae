"""Networks of infinite width in saved files: layers by name, nothing else."""

import functools
import json
import pickle
import struct

import numpy as np
import pandas as pd
import pytest
from safetensors import numpy as safetensors_numpy
from scipy.linalg import LinAlgWarning
from sklearn.base import clone

import skfunc
from skfunc.infinite_width import layers as L
from skfunc.persistence import _checksum

IMAGE_SHAPE = (2, 4, 4)
DENSE = L.Serial(L.Dense(1.5, 0.05), L.Relu(), L.Dense())
EVERY_LAYER = L.Serial(
    L.Conv(1.2, 0.1, filter_shape=(3, 2), strides=(1, 1), padding="SAME"),
    L.LayerNorm(1e-6),
    L.Residual(L.Serial(L.Relu(), L.Conv(1.0, 0.1), L.LeakyRelu(0.2))),
    L.Residual(L.Serial(L.Abs(), L.Conv()), L.Conv(0.9, 0.2, padding="SAME")),
    L.AvgPool(),
    L.Gelu(),
    L.Flatten(),
    L.Dense(1.1, 0.2),
    L.Erf(1.0, 0.5, 0.1),
    L.Identity(),
    L.Dense(),
    L.Sin(),
    L.Dense(1.3),
    L.Cos(),
    L.Dense(),
    L.Rbf(0.7),
    L.Dense(),
    L.Sigmoid(),
    L.Dense(),
)
POOLED = L.Serial(L.Conv(1.2, 0.1), L.Relu(), L.GlobalAvgPool(), L.Dense())


def kernel_fn(x1, x2, get):
    """Kernel function as neural-tangents gives them."""
    return DENSE.kernel(x1, x2, get)


def rows(n=20, d=3, seed=0):
    X = np.random.default_rng(seed).normal(size=(n, d))
    return X, np.sin(2 * X[:, 0]) + 0.1 * X[:, 1]


def regressor(architecture="mlp", d=3, **options):
    X, y = rows(d=d)
    model = skfunc.InfiniteWidthRegressor(architecture, **options)
    return model.fit(X, y), rows(6, d, seed=1)[0]


def classifier(architecture="mlp", d=3, **options):
    X, y = rows(30, d)
    labels = np.array(["low", "middle", "high"])[np.digitize(y, [-0.4, 0.4])]
    model = skfunc.InfiniteWidthClassifier(architecture, **options)
    return model.fit(X, labels), rows(6, d, seed=1)[0]


def several_targets():
    X, y = rows()
    model = skfunc.InfiniteWidthRegressor(depth=1, activation="erf")
    return model.fit(X, np.stack([y, X[:, 2]], axis=1)), rows(6, seed=1)[0]


def weights_and_names():
    X, y = rows()
    frame = pd.DataFrame(X, columns=["width", "Höhe", "глубина"])
    model = skfunc.InfiniteWidthRegressor(depth=1, random_state=0)
    model.fit(frame, y, np.arange(20) % 3)
    return model, frame.iloc[:6]


def jittered():
    X, y = rows()
    model = skfunc.InfiniteWidthRegressor(DENSE, alpha=0.0, selection=None)
    with pytest.warns(LinAlgWarning):
        model.fit(np.concatenate([X, X]), np.concatenate([y, -y]))
    return model, rows(6, seed=1)[0]


IMAGES = {"d": 32, "image_shape": IMAGE_SHAPE}
MODELS = {
    "regressor": regressor,
    "classifier": classifier,
    "several targets": several_targets,
    "weights and names of columns": weights_and_names,
    "tangents": lambda: regressor(kernel="ntk", selection="loo"),
    "process of classes": lambda: classifier(kernel="nngp", selection="lml"),
    "decomposed": lambda: regressor(solver="eigh"),
    "stopped early": lambda: regressor(kernel="ntk", training_time=30.0),
    "stopped by rows left out": lambda: classifier(training_time="auto"),
    "gradients past memory": lambda: regressor(DENSE, solver="cg"),
    "low rank": lambda: regressor(DENSE, solver="nystrom"),
    "single precision": lambda: regressor(DENSE, dtype="float32"),
    "raised ridge": jittered,
    "layers": lambda: regressor(DENSE),
    "layers of a classifier": lambda: classifier(DENSE),
    "every layer": lambda: regressor(EVERY_LAYER, **IMAGES),
    "pooled images": lambda: regressor(POOLED, kernel="ntk", **IMAGES),
    "images": lambda: classifier("conv", depth=2, **IMAGES),
    "numbers of numpy": lambda: regressor(
        L.Serial(L.Dense(np.float64(1.5), np.float32(0.5)), L.Relu(), L.Dense()),
        alpha=np.float32(0.1),
        training_time=np.int64(3),
        random_state=np.int64(1),
    ),
}


def answers(model, X):
    """Return what a model says, in every way."""
    if hasattr(model, "classes_"):
        return [
            *model.predict_proba(X, return_std=True),
            model.sample_proba(X, 3, random_state=0),
            model.sample(X, 3, random_state=0),
        ]
    found = [
        *model.predict(X, return_std=True),
        model.predict(X, return_cov=True)[1],
        *model.loo_predict(return_std=True),
        model.sample_y(X, 3, random_state=0),
    ]
    if model.solver_ in ("cholesky", "eigh"):
        found.append(np.array(model.log_marginal_likelihood_))
        found += model.predict(X, return_std=True, training_time=[2.0, np.inf])
    return found


def assert_same(model, again, X):
    assert type(again) is type(model)
    for one, other in zip(answers(model, X), answers(again, X), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def by_file(model, folder):
    model.save(folder / "model.safetensors")
    return skfunc.load(folder / "model.safetensors")


def by_pickle(model, folder):
    return pickle.loads(pickle.dumps(model))


@functools.cache
def fitted(name):
    return MODELS[name]()


@pytest.mark.parametrize("name", MODELS)
def test_round_trips_are_bit_equal(name, tmp_path):
    model, X = fitted(name)
    again = by_file(model, tmp_path)
    assert_same(model, again, X)
    # A model that has predicted goes through the other way as well.
    assert_same(model, by_pickle(again, tmp_path), X)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_attributes_come_back(name, tmp_path):
    model, _ = fitted(name)
    again = by_file(model, tmp_path)
    for key, value in model.get_params().items():
        np.testing.assert_equal(again.get_params()[key], value)
        assert type(again.get_params()[key]) is type(value), key
    assert again.network_ == model.network_
    for key in set(model._fitted_attributes()) & set(vars(model)):
        np.testing.assert_equal(getattr(again, key), getattr(model, key))


def test_loaded_network_fits_again(tmp_path):
    model, X = fitted("every layer")
    again = clone(by_file(model, tmp_path)).fit(*rows(d=32))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_pickle_leaves_kernel_matrices_behind():
    X, y = rows(200)
    model = skfunc.InfiniteWidthRegressor(DENSE).fit(X, y)
    model.predict(X, return_std=True)
    assert len(pickle.dumps(model)) < 8 * 200 * 20 + 6000


class Dense(L.Dense):
    """A user's layer of the same name."""


class TestRefusals:
    @pytest.mark.parametrize("fit", [regressor, classifier])
    def test_kernel_function_is_named_and_pickles(self, fit, tmp_path):
        model, X = fit(kernel_fn)
        with pytest.raises(ValueError, match="the parameter architecture: kernel_fn"):
            model.save(tmp_path / "model")
        assert not list(tmp_path.iterdir())
        assert_same(model, by_pickle(model, tmp_path), X)

    @pytest.mark.parametrize(
        "net", [Dense(), L.Serial(Dense(), L.Relu()), L.Residual(Dense())]
    )
    def test_layers_of_the_user(self, net, tmp_path):
        model, _ = regressor(net)
        with pytest.raises(ValueError, match="the parameter architecture: Dense has"):
            model.save(tmp_path / "model")
        assert not list(tmp_path.iterdir())


def read(data):
    """Return the tensors and the metadata of a file's bytes."""
    (length,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    return safetensors_numpy.load(data), metadata


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the bytes of a small saved regressor, made of layers."""
    path = tmp_path_factory.mktemp("saved") / "model"
    regressor(DENSE)[0].save(path)
    return path.read_bytes()


@pytest.fixture
def load_edited(saved, tmp_path, monkeypatch):
    """Load a file whose header was changed, with the checksum made right again."""

    def refuse(*arguments, **options):
        raise AssertionError("something in the file was executed")

    for target in ("pickle.load", "pickle.loads", "os.system", "subprocess.Popen"):
        monkeypatch.setattr(target, refuse)

    def load(change):
        arrays, metadata = read(saved)
        content = json.loads(metadata["skfunc"])
        change(content)
        text = json.dumps(content)
        metadata |= {"skfunc": text, "checksum": _checksum(text, arrays)}
        path = tmp_path / "edited"
        path.write_bytes(safetensors_numpy.save(arrays, metadata=metadata))
        return skfunc.load(path)

    return load


def network(change):
    """Return an edit of the described network."""

    def edit(content):
        net = content["parameters"]["architecture"]
        content["parameters"]["architecture"] = change(net) or net

    return edit


def in_part(part, key, value):
    def edit(content):
        assert key in content[part]
        content[part][key] = value

    return edit


def field_of_dense(name, value):
    return network(
        lambda net: net["fields"]["layers"]["tuple"][0]["fields"].update({name: value})
    )


def another_layer(value):
    return network(lambda net: net["fields"]["layers"]["tuple"].append(value))


NET_EDITS = {
    "unknown layer": network(lambda net: net.update(layer="Evil")),
    "function of the module": network(lambda net: net.update(layer="preset")),
    "base of layers": network(lambda net: {"layer": "Layer", "fields": {}}),
    "private name": network(lambda net: net.update(layer="__builtins__")),
    "path": network(lambda net: net.update(layer="os.system")),
    "layer that is no name": network(lambda net: net.update(layer=["Serial"])),
    "no fields": network(lambda net: net.pop("fields") and None),
    "fields that are a list": network(lambda net: net.update(fields=[1])),
    "field missing": network(
        lambda net: {"layer": "Dense", "fields": {"weight_std": 1.0}}
    ),
    "field too many": field_of_dense("shape", 3),
    "private field": field_of_dense("__class__", "x"),
    "field of another layer": network(lambda net: net.update(layer="Residual")),
    "chain of text": network(lambda net: net["fields"].update(layers="abc")),
    "chain of a number": network(lambda net: net["fields"].update(layers=5)),
    "number among layers": another_layer(3),
    "text among layers": another_layer("Dense"),
    "unknown layer within": another_layer({"layer": "Evil", "fields": {}}),
    "negative weights": field_of_dense("weight_std", -1.0),
    "weights that are text": field_of_dense("weight_std", "1.5"),
    "weights that are NaN": field_of_dense("weight_std", {"float": "nan"}),
    "weights that are infinite": field_of_dense("bias_std", {"float": "inf"}),
    "weights that are none": field_of_dense("bias_std", None),
    "weights that overflow": field_of_dense("weight_std", 1e200),
    "network of images": network(
        lambda net: {
            "layer": "Conv",
            "fields": {
                "weight_std": 1.0,
                "bias_std": 0.0,
                "filter_shape": {"tuple": [0, 3]},
                "strides": {"tuple": [1, 1]},
                "padding": "SAME",
            },
        }
    ),
    "name of a network": in_part("parameters", "architecture", "transformer"),
    "network that is a number": in_part("parameters", "architecture", 3),
    "network that is a list": in_part("parameters", "architecture", {"list": [1]}),
    "name of a function": in_part("parameters", "architecture", "kernel_fn"),
}
STATE_EDITS = {
    "unknown solver": in_part("fitted", "solver_", "qr"),
    "solver of the parameters": in_part("fitted", "solver_", "auto"),
    "unknown activation": in_part("fitted", "activation_", "swish"),
    "depth that is no number": in_part("fitted", "depth_", "2"),
    "negative depth": in_part("fitted", "depth_", -1),
    "negative ridge": in_part("fitted", "ridge_", -1.0),
    "ridge that is NaN": in_part("fitted", "ridge_", {"float": "nan"}),
    "negative time": in_part("fitted", "training_time_", -1.0),
    "time that is text": in_part("fitted", "training_time_", "inf"),
    "another width": in_part("fitted", "n_features_in_", 4),
    "no targets": in_part("fitted", "n_targets_", 0),
    "rows that are text": in_part("fitted", "row_index_", "0"),
    "alphas that are none": in_part("fitted", "alphas_", None),
    "process": lambda content: content["fitted"].update(_process_cache=1),
    "no alphas": lambda content: content["fitted"].pop("alphas_"),
    "no rows": lambda content: content["fitted"].pop("X_train_"),
    "unknown kernel": in_part("parameters", "kernel", "rbf"),
    "depth of a network of layers": in_part("parameters", "depth", 3),
    "images": in_part("parameters", "image_shape", {"tuple": [3, 3, 3]}),
}


def test_unedited_file_loads(load_edited):
    model = load_edited(lambda content: None)
    assert model.network_ == DENSE
    # Another valid layer is just another network.
    model = load_edited(field_of_dense("weight_std", 2.0))
    assert model.network_ == L.Serial(L.Dense(2.0, 0.05), L.Relu(), L.Dense())


@pytest.mark.parametrize("name", NET_EDITS | STATE_EDITS)
def test_edited_file_is_refused(load_edited, name):
    with pytest.raises(ValueError, match="cannot load .*edited"):
        load_edited((NET_EDITS | STATE_EDITS)[name])


def test_network_of_endless_nesting(load_edited):
    def nest(net):
        for _ in range(400):
            net = {
                "layer": "Residual",
                "fields": {
                    "body": net,
                    "shortcut": {"layer": "Identity", "fields": {}},
                },
            }
        return net

    with pytest.raises(ValueError, match="cannot load"):
        load_edited(network(nest))


def test_array_index_outside_of_the_rows(saved, load_edited):
    def beyond(content):
        # Float weights where positions belong.
        content["fitted"]["row_index_"] = content["fitted"]["sample_weight_"]

    with pytest.raises(ValueError, match="row_index_ does not point"):
        load_edited(beyond)
