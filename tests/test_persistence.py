"""One file, no pickle: bit-equal predictions back, or one clear ValueError."""

import hashlib
import io
import json
import pickle
import struct
import tracemalloc

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from safetensors import numpy as safetensors_numpy
from safetensors import torch as safetensors_torch
from sklearn.base import clone
from sklearn.exceptions import InconsistentVersionWarning, NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import skfunc
from skfunc.persistence import ESTIMATORS, _checksum

SMALL = {
    "hidden_layer_sizes": (8,),
    "state_size": 6,
    "n_members": 2,
    "max_iter": 2,
    "random_state": 0,
}


def rows(n_columns=3, seed=0):
    return np.random.default_rng(seed).normal(size=(40, n_columns))


def classifier(**changes):
    X = rows()
    labels = np.where(X[:, 0] > 0, "yes", "no")
    return skfunc.ODENetClassifier(**(SMALL | changes)).fit(X, labels), X


def regressor(**changes):
    X = rows()
    return skfunc.ODENetRegressor(**(SMALL | changes)).fit(X, X[:, 0]), X


def several_targets():
    X = rows()
    return skfunc.ODENetRegressor(**SMALL).fit(X, X[:, :2]), X


def conditional_flow():
    X = rows()
    model = skfunc.ConditionalCNFRegressor(**SMALL, flow=True, flow_hidden_size=4)
    return model.fit(X, X[:, 0]), X


def with_names():
    X = pd.DataFrame(rows(), columns=["width", "Höhe", "глубина"])
    labels = pd.Series(np.where(X["width"] > 0, "ja", "нет"), dtype=object)
    return skfunc.ODENetClassifier(**SMALL).fit(X, labels), X


def images():
    X = rows(16)
    options = SMALL | {"field": "conv", "image_shape": [1, 4, 4], "state_size": 3}
    return skfunc.ODENetClassifier(**options).fit(X, np.arange(40) % 3), X


def unusual_parameters():
    options = {
        "hidden_layer_sizes": np.array([5, 4]),
        "alpha": np.float32(0.5),
        "rtol": np.float64(1e-4),
        "solver": "dopri5",
        "random_state": np.int64(3),
        "early_stopping": False,
        "max_iter": np.int32(2),
    }
    return regressor(**options)


MODELS = {
    "classifier": classifier,
    "regressor": regressor,
    "several targets": several_targets,
    "a conditional flow": conditional_flow,
    "names of columns and labels": with_names,
    "images": images,
    "unusual parameters": unusual_parameters,
}


def answers(model, X):
    """Return what a model predicts, in every way."""
    if hasattr(model, "classes_"):
        return [
            *model.predict_proba(X, return_std=True),
            model.predict(X),
            model.predict_proba(X, rtol=1e-5),
            model.sample(X, random_state=0),
        ]
    return [
        *model.predict(X, return_std=True),
        *model.predict_std_parts(X),
        model.predict_quantiles(X, [0.1, 0.6]),
        *([model.predict(X, rtol=1e-5)] if hasattr(model, "rtol") else []),
        model.sample(X, 3, random_state=0),
    ]


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
    again = way(model, tmp_path)
    assert_same(model, again, X)
    # A second trip from what came back is the same again.
    assert_same(model, way(again, tmp_path), X)


@pytest.mark.parametrize("name", MODELS)
def test_file_keeps_parameters_and_attributes(name, tmp_path):
    model, _ = MODELS[name]()
    again = by_file(model, tmp_path)
    for key, value in model.get_params().items():
        np.testing.assert_equal(again.get_params()[key], value)
        assert type(again.get_params()[key]) is type(value), key
    names = {n for n in vars(model) if n.endswith("_")} - set(model.get_params())
    assert {n for n in vars(again) if n.endswith("_")} >= names
    for key in names:
        np.testing.assert_equal(getattr(again, key), getattr(model, key))
    assert again.solver_report_ == model.solver_report_


def test_loaded_model_is_an_ordinary_one(tmp_path):
    model, X = classifier()
    again = by_file(model, tmp_path)
    y = model.predict(X)
    np.testing.assert_array_equal(
        clone(again).fit(X, y).predict_proba(X), clone(model).fit(X, y).predict_proba(X)
    )
    assert_same(model, by_pickle(again, tmp_path), X)


def test_model_after_predicting_saves_the_same(tmp_path):
    model, X = regressor()
    model.save(tmp_path / "before")
    model.predict(X, rtol=1e-6)
    model.save(tmp_path / "after")
    (arrays, header), (arrays_after, header_after) = (
        read((tmp_path / name).read_bytes()) for name in ("before", "after")
    )
    assert header == header_after
    np.testing.assert_equal(arrays_after, arrays)


def test_path_may_be_a_string(tmp_path):
    model, X = regressor()
    model.save(str(tmp_path / "model.safetensors"))
    assert_same(model, skfunc.load(str(tmp_path / "model.safetensors")), X)


def test_file_is_read_by_safetensors_and_json(tmp_path):
    model, _ = classifier()
    path = tmp_path / "model.safetensors"
    model.save(path)
    tensors = safetensors_numpy.load_file(path)
    assert any(np.array_equal(t, model.parameters_) for t in tensors.values())
    header = json.loads(read(path.read_bytes())[1]["skfunc"])
    assert header["class"] == "ODENetClassifier"
    assert header["versions"]["skfunc"] == skfunc.__version__


def test_pickle_is_small_and_holds_no_module():
    model, X = classifier(state_size=32, hidden_layer_sizes=(64,))
    model.predict_proba(X)
    data = pickle.dumps(model)
    assert len(data) < model.parameters_.nbytes + 6000
    assert b"torch" not in data
    unpickler = pickle.Unpickler(io.BytesIO(data))
    seen = set()
    unpickler_find = unpickler.find_class

    class Recorder(pickle.Unpickler):
        def find_class(self, module, name):
            seen.add(module.split(".")[0])
            return unpickler_find(module, name)

    Recorder(io.BytesIO(data)).load()
    assert seen <= {"skfunc", "numpy", "sklearn", "builtins"}


def test_unfitted_estimator_is_not_saved(tmp_path):
    for estimator in (skfunc.ODENetClassifier(), skfunc.ODENetRegressor()):
        with pytest.raises(NotFittedError):
            estimator.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_every_saved_class_is_public():
    assert set(ESTIMATORS) <= set(skfunc.__all__)


class Spring(nn.Module):
    """A user's field."""

    def __init__(self, size):
        super().__init__()
        self.linear = nn.Linear(size, size)

    def forward(self, t, h):
        return self.linear(h)


class Subclass(skfunc.ODENetRegressor):
    """A user's estimator."""


class TestRefusals:
    def test_field_of_the_user_is_named_and_pickles(self, tmp_path):
        model, X = regressor(field=Spring)
        with pytest.raises(ValueError, match="cannot save the parameter field"):
            model.save(tmp_path / "model")
        assert not list(tmp_path.iterdir())
        assert_same(model, by_pickle(model, tmp_path), X)

    def test_random_state_object_is_named_and_pickles(self, tmp_path):
        model, X = regressor(random_state=np.random.RandomState(0))
        with pytest.raises(ValueError, match="parameter random_state: .*RandomState"):
            model.save(tmp_path / "model")
        assert_same(model, by_pickle(model, tmp_path), X)

    def test_subclass_is_named(self, tmp_path):
        model = Subclass(**SMALL).fit(rows(), rows()[:, 0])
        with pytest.raises(ValueError, match="cannot save Subclass"):
            model.save(tmp_path / "model")

    def test_impostor_of_the_same_name(self, tmp_path):
        impostor = type("ODENetRegressor", (skfunc.ODENetRegressor,), {})
        model = impostor(**SMALL).fit(rows(), rows()[:, 0])
        with pytest.raises(ValueError, match="cannot save ODENetRegressor"):
            model.save(tmp_path / "model")

    def test_refusal_leaves_an_older_file_alone(self, tmp_path):
        path = tmp_path / "model"
        model, X = regressor()
        model.save(path)
        with pytest.raises(ValueError):
            regressor(field=Spring)[0].save(path)
        assert_same(model, skfunc.load(path), X)


def read(data):
    """Return the tensors and the metadata of a file's bytes."""
    (length,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    return safetensors_numpy.load(data), metadata


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the bytes of a small saved classifier."""
    path = tmp_path_factory.mktemp("saved") / "model"
    classifier(hidden_layer_sizes=(2,), state_size=2)[0].save(path)
    return path.read_bytes()


@pytest.fixture
def load_bytes(tmp_path):
    def load(data):
        path = tmp_path / "edited.safetensors"
        path.write_bytes(data)
        return skfunc.load(path)

    return load


@pytest.fixture
def no_pickle(monkeypatch):
    """Fail on any way to run code from a file."""

    def refuse(*arguments, **options):
        raise AssertionError("something in the file was executed")

    for target in ("pickle.load", "pickle.loads", "pickle.Unpickler", "numpy.load"):
        monkeypatch.setattr(target, refuse)
    for target in ("torch.load", "joblib.load", "os.system", "subprocess.Popen"):
        monkeypatch.setattr(target, refuse)


def edit(data, change, tensors=None):
    """Return a file whose header was changed, with the checksum made right again."""
    arrays, metadata = read(data)
    arrays.update(tensors or {})
    content = json.loads(metadata["skfunc"])
    change(content)
    text = json.dumps(content)
    checksum = _checksum(text, arrays)
    return safetensors_numpy.save(
        arrays, metadata=metadata | {"skfunc": text, "checksum": checksum}
    )


OTHER_FILES = {
    "nothing": b"",
    "zeros": b"\0" * 8,
    "ones": b"\xff" * 64,
    "text": b"not a model at all",
    "empty header": struct.pack("<Q", 2) + b"{}",
    "header that is null": struct.pack("<Q", 4) + b"null",
    "endless header": struct.pack("<Q", 2**63) + b"{}",
    "pickle": pickle.dumps({"a": 1}),
    "pickle that runs a command": b"cos\nsystem\n(S'echo executed'\ntR.",
    "tensors alone": safetensors_numpy.save({"weight": np.ones(3)}),
    "another library's": safetensors_numpy.save(
        {"w": np.ones(3)}, metadata={"format": "pt"}
    ),
    "no header of ours": safetensors_numpy.save({}, metadata={"format": "skfunc-1"}),
    "a type that numpy lacks": safetensors_torch.save(
        {"w": nn.Linear(2, 2).bfloat16().weight.detach()}
    ),
}


@pytest.mark.usefixtures("no_pickle")
class TestDamage:
    def test_unedited_file_loads(self, saved, load_bytes):
        assert load_bytes(saved).predict(rows()).shape == (40,)
        assert load_bytes(edit(saved, lambda content: None)) is not None

    def test_truncated_anywhere(self, saved, load_bytes):
        lengths = {*range(20), *range(20, len(saved), 131), len(saved) - 1}
        for length in sorted(lengths):
            with pytest.raises(ValueError, match="cannot load"):
                load_bytes(saved[:length])

    def test_one_byte_changed_anywhere(self, saved, load_bytes):
        (header,) = struct.unpack("<Q", saved[:8])
        positions = {*range(8), *range(8, 8 + header, 23)}
        positions |= set(range(8 + header, len(saved), 97))
        for position in sorted(positions):
            damaged = bytearray(saved)
            damaged[position] ^= 0xFF
            with pytest.raises(ValueError, match="cannot load"):
                load_bytes(bytes(damaged))

    @pytest.mark.parametrize("bit", range(8))
    def test_one_bit_changed(self, saved, load_bytes, bit):
        for position in range(bit, len(saved), 211):
            damaged = bytearray(saved)
            damaged[position] ^= 1 << bit
            with pytest.raises(ValueError, match="cannot load"):
                load_bytes(bytes(damaged))

    def test_bytes_added(self, saved, load_bytes):
        for data in (saved + b"\0", saved + saved, b"\0" + saved):
            with pytest.raises(ValueError, match="cannot load"):
                load_bytes(data)

    @pytest.mark.parametrize("name", OTHER_FILES)
    def test_other_files(self, load_bytes, name):
        with pytest.raises(ValueError, match="cannot load .*edited.safetensors"):
            load_bytes(OTHER_FILES[name])

    def test_pickled_model_is_not_run(self, load_bytes, tmp_path):
        target = tmp_path / "executed"
        code = f"open({str(target)!r}, 'w')".encode()
        with pytest.raises(ValueError, match="cannot load"):
            load_bytes(b"cbuiltins\neval\n(S'" + code.replace(b"'", b'"') + b"'\ntR.")
        assert not target.exists()


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        skfunc.load(tmp_path / "nothing.safetensors")


def set_in(part, key, value):
    def change(content):
        content[part][key] = value

    return change


def drop_from(part, key):
    def change(content):
        del content[part][key]

    return change


EDITS = {
    "class outside the list": lambda c: c.update({"class": "os.system"}),
    "class of scikit-learn": lambda c: c.update({"class": "LogisticRegression"}),
    "class that is no name": lambda c: c.update({"class": ["ODENetClassifier"]}),
    "another class of the list": lambda c: c.update({"class": "ODENetRegressor"}),
    "no class": lambda c: c.pop("class"),
    "no parameters": lambda c: c.pop("parameters"),
    "parameters that are a list": lambda c: c.update({"parameters": []}),
    "no fitted state": lambda c: c.update({"fitted": {}}),
    "unknown attribute": set_in("fitted", "predict", 1),
    "private attribute": set_in("fitted", "__class__", "x"),
    "runtime": set_in("fitted", "_runtime", "x"),
    "unknown parameter": set_in("parameters", "callbacks", 1),
    "missing parameter": drop_from("parameters", "solver"),
    "missing weights": drop_from("fitted", "parameters_"),
    "missing classes": drop_from("fitted", "classes_"),
    "missing scale": drop_from("fitted", "X_scale_"),
    "field of another module": set_in("parameters", "field", "torch.nn.Linear"),
    "field that is an object": set_in("parameters", "field", {"dict": {"a": 1}}),
    "unknown solver": set_in("parameters", "solver", "rk5"),
    "unknown activation": set_in("parameters", "activation", "swish"),
    "another width": set_in("fitted", "n_features_in_", 4),
    "width that is no number": set_in("fitted", "n_features_in_", "3"),
    "negative width": set_in("fitted", "n_features_in_", -3),
    "other members": set_in("parameters", "n_members", 3),
    "another state": set_in("parameters", "state_size", 3),
    "other hidden layers": set_in("parameters", "hidden_layer_sizes", {"tuple": [3]}),
    "hidden layers as text": set_in("parameters", "hidden_layer_sizes", "2"),
    "temperature of zero": set_in("fitted", "temperature_", 0.0),
    "temperature of infinity": set_in("fitted", "temperature_", {"float": "inf"}),
    "classes as text": set_in("fitted", "classes_", "yes"),
    "other classes": set_in("fitted", "classes_", {"strings": ["a"], "dtype": "<U3"}),
    "unknown tag": set_in("fitted", "n_iter_", {"python": "1 + 1"}),
    "unknown array": set_in("fitted", "X_mean_", {"array": "array99", "shape": [3]}),
    "array of another shape": set_in(
        "fitted", "X_mean_", {"array": "array0", "shape": [10**12]}
    ),
    "array without a shape": set_in("fitted", "X_mean_", {"array": "array0"}),
    "array of objects": set_in("fitted", "n_iter_", {"scalar": 1, "dtype": "|O"}),
    "scalar of no type": set_in("fitted", "n_iter_", {"scalar": 1, "dtype": "evil"}),
    "scalar too large": set_in("fitted", "n_iter_", {"scalar": 10**9, "dtype": "|i1"}),
}


@pytest.mark.usefixtures("no_pickle")
class TestEdits:
    """Edits by someone who makes the checksum right again."""

    @pytest.mark.parametrize("name", EDITS)
    def test_edited_header(self, saved, load_bytes, name):
        with pytest.raises(ValueError, match="cannot load"):
            load_bytes(edit(saved, EDITS[name]))

    def test_edited_header_without_the_checksum(self, saved, load_bytes):
        arrays, metadata = read(saved)
        metadata["skfunc"] = metadata["skfunc"].replace('"alpha": ', '"alpha": 1')
        with pytest.raises(ValueError, match="checksum does not match"):
            load_bytes(safetensors_numpy.save(arrays, metadata=metadata))

    def test_edited_weights_without_the_checksum(self, saved, load_bytes):
        arrays, metadata = read(saved)
        name = max(arrays, key=lambda name: arrays[name].nbytes)
        arrays[name][0, 0] += 1e-9
        with pytest.raises(ValueError, match="checksum does not match"):
            load_bytes(safetensors_numpy.save(arrays, metadata=metadata))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_weights_that_are_not_finite(self, saved, load_bytes, value):
        arrays, _ = read(saved)
        name = max(arrays, key=lambda name: arrays[name].nbytes)
        broken = np.full_like(arrays[name], value)
        with pytest.raises(ValueError, match="parameters_.* not finite"):
            load_bytes(edit(saved, lambda content: None, {name: broken}))

    def test_weights_of_another_shape(self, saved, load_bytes):
        def change(content):
            content["fitted"]["parameters_"]["shape"] = list(wider.shape)

        arrays, _ = read(saved)
        name = max(arrays, key=lambda name: arrays[name].nbytes)
        wider = np.zeros((2, arrays[name].shape[1] + 1))
        with pytest.raises(ValueError, match="parameters_ has shape"):
            load_bytes(edit(saved, change, {name: wider}))

    @pytest.mark.parametrize(
        "change",
        [
            set_in("parameters", "hidden_layer_sizes", {"tuple": [10**9, 10**9]}),
            set_in("parameters", "hidden_layer_sizes", {"tuple": [2**62] * 3}),
            set_in("parameters", "hidden_layer_sizes", {"tuple": [10**30]}),
            set_in("parameters", "state_size", 10**12),
            set_in("parameters", "n_members", 10**15),
            set_in("parameters", "n_augment", 10**12),
            set_in("fitted", "n_features_in_", 10**15),
            set_in("fitted", "classes_", {"strings": ["no"], "dtype": "<U200000000"}),
        ],
    )
    def test_huge_sizes_allocate_nothing(self, saved, load_bytes, change):
        data = edit(saved, change)
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match="cannot load"):
                load_bytes(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 20_000_000

    def test_deeply_nested_header(self, saved, load_bytes):
        arrays, metadata = read(saved)
        text = "[" * 100_000 + "]" * 100_000
        digest = _checksum(text, arrays)
        metadata |= {"skfunc": text, "checksum": digest}
        with pytest.raises(ValueError, match="cannot load"):
            load_bytes(safetensors_numpy.save(arrays, metadata=metadata))

    def test_header_that_is_no_object(self, saved, load_bytes):
        arrays, metadata = read(saved)
        for text in ("[]", "null", "1", "{", ""):
            metadata |= {"skfunc": text, "checksum": _checksum(text, arrays)}
            with pytest.raises(ValueError, match="cannot load"):
                load_bytes(safetensors_numpy.save(arrays, metadata=metadata))

    def test_another_format_is_refused(self, saved, load_bytes):
        arrays, metadata = read(saved)
        metadata["format"] = "skfunc-99"
        with pytest.raises(ValueError, match="not one that skfunc wrote"):
            load_bytes(safetensors_numpy.save(arrays, metadata=metadata))

    def test_file_of_another_scikit_learn_warns(self, saved, load_bytes):
        data = edit(saved, lambda c: c["versions"].update({"sklearn": "0.1"}))
        with pytest.warns(InconsistentVersionWarning, match="0.1"):
            assert load_bytes(data).predict(rows()).shape == (40,)


def test_checksum_covers_names_types_shapes_and_values():
    base = {"a": np.arange(6.0), "b": np.arange(3)}
    variants = [
        ("text", base),
        ("texts", base),
        ("text", {"a": base["a"]}),
        ("text", {"a": base["a"], "c": base["b"]}),
        ("text", base | {"a": base["a"].reshape(2, 3)}),
        ("text", base | {"a": base["a"].astype(np.float32)}),
        ("text", base | {"a": base["a"][::-1]}),
        ("text", base | {"a": base["a"].view(np.int64)}),
    ]
    digests = {_checksum(*variant) for variant in variants}
    assert len(digests) == len(variants)
    assert all(len(digest) == hashlib.sha256().digest_size * 2 for digest in digests)


def test_pipeline_pickles(tmp_path):
    X = rows()
    pipeline = make_pipeline(StandardScaler(), skfunc.ODENetRegressor(**SMALL))
    pipeline.fit(X, X[:, 0])
    for way in (by_pickle, by_joblib, by_skops):
        again = way(pipeline, tmp_path)
        np.testing.assert_array_equal(again.predict(X), pipeline.predict(X))


def test_watched_model_is_saved_without_its_callbacks(tmp_path):
    from sklearn.callback import ScoringMonitor

    X = rows()
    model = skfunc.ODENetRegressor(**SMALL)
    model.set_callbacks(ScoringMonitor(scoring="r2")).fit(X, X[:, 0])
    assert_same(model, by_file(model, tmp_path), X)
