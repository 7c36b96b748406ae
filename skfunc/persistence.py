"""Save and load fitted estimators in one safetensors file, without pickle.

The file holds the arrays of the fitted state as tensors, and a JSON header with the
class name, the parameters, the remaining attributes, library versions, and a checksum
over everything. Reading it parses JSON and copies numbers: nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import sys
import warnings
from dataclasses import fields as _fields
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    from skfunc.base import FunctionEstimator

# The classes that a file may name, and where they live: nothing else is imported.
ESTIMATORS = {
    "CNFDensity": "skfunc.ode",
    "ConditionalCNFRegressor": "skfunc.ode",
    "FiniteEnsemble": "skfunc.infinite_width",
    "ImageCompleter": "skfunc.neural_process",
    "InfiniteWidthClassifier": "skfunc.infinite_width",
    "InfiniteWidthRegressor": "skfunc.infinite_width",
    "LatentODE": "skfunc.ode",
    "LatentODEClassifier": "skfunc.ode",
    "NeuralProcessClassifier": "skfunc.neural_process",
    "NeuralProcessMetaLearner": "skfunc.neural_process",
    "NeuralProcessRegressor": "skfunc.neural_process",
    "ODENetClassifier": "skfunc.ode",
    "ODENetRegressor": "skfunc.ode",
    "SDEBNNClassifier": "skfunc.sde",
    "SDEBNNRegressor": "skfunc.sde",
}
# Values that are no estimators: saved alone, or as a parameter or attribute of one.
VALUES = {"NeuralProcessPrior": "skfunc.neural_process"}
# Where the layers live that a network given as a parameter may be made of.
_LAYERS = "skfunc.infinite_width.layers"
_FORMAT = "skfunc-1"
_HEADER = "skfunc"
# Kinds of arrays that safetensors stores: bool, signed and unsigned ints, floats.
_TENSOR_KINDS = "biuf"


def save(estimator: FunctionEstimator, path: str | Path) -> None:
    """Write a fitted estimator to a file; see `skfunc.base.FunctionEstimator.save`."""
    check_is_fitted(estimator)
    name = type(estimator).__name__
    if ESTIMATORS.get(name) is None or type(estimator) is not _find_class(name):
        raise ValueError(
            f"cannot save {type(estimator).__name__}: skfunc files hold only "
            f"{sorted(ESTIMATORS)}; pickle or joblib can store subclasses"
        )
    tensors: dict[str, np.ndarray] = {}
    state: Any = estimator.__getstate__()
    parameters = estimator.get_params(deep=False)
    fitted = {
        key: value
        for key, value in state.items()
        if key not in parameters
        and key != "_sklearn_version"
        # A callback watches fits of this session; it is no part of the model.
        and not key.startswith("_skl_callback")
    }
    content: dict[str, Any] = {
        "class": name,
        "parameters": {
            key: _describe(value, f"the parameter {key}", tensors)
            for key, value in parameters.items()
        },
        "fitted": {
            key: _describe(value, f"the attribute {key}", tensors)
            for key, value in fitted.items()
        },
        "versions": _versions(),
    }
    _write(content, tensors, path)


def save_value(value: Any, path: str | Path) -> None:
    """Write a value that is no estimator, such as a neural process's prior."""
    tensors: dict[str, np.ndarray] = {}
    described = _describe(value, "the value", tensors)
    content = {
        "class": type(value).__name__,
        "value": described,
        "versions": _versions(),
    }
    _write(content, tensors, path)


def _write(
    content: dict[str, Any], tensors: dict[str, np.ndarray], path: str | Path
) -> None:
    text = json.dumps(content, allow_nan=False)
    metadata = {
        "format": _FORMAT,
        _HEADER: text,
        "checksum": _checksum(text, tensors),
    }
    Path(path).write_bytes(save_tensors(tensors, metadata=metadata))


def load(path: str | Path) -> FunctionEstimator:
    """Read an estimator written by its `save` method.

    Parameters
    ----------
    path : str or Path
        File to read.

    Returns
    -------
    estimator
        The fitted estimator; its predictions equal those of the saved one bit by bit.

    Raises
    ------
    ValueError
        If the file is truncated, was edited, or is no skfunc file. Nothing in a file is
        ever executed.
    FileNotFoundError
        If there is no such file.

    Warns
    -----
    InconsistentVersionWarning
        If the file was written by another version of scikit-learn.

    Examples
    --------
    >>> import tempfile, pathlib, skfunc
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = skfunc.ODENetClassifier(max_iter=5, random_state=0).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "iris.safetensors"
    ...     model.save(path)
    ...     again = skfunc.load(path)
    >>> bool((again.predict_proba(X) == model.predict_proba(X)).all())
    True
    """
    data = Path(path).read_bytes()
    try:
        return _restore(data)
    except ValueError as error:
        raise ValueError(f"cannot load {str(path)!r}: {error}") from error


def _restore(data: bytes) -> FunctionEstimator:
    content, tensors = _read(data)
    name = content.get("class")
    if isinstance(name, str) and name in VALUES:
        return _rebuild(content.get("value"), tensors)
    if not isinstance(name, str) or name not in ESTIMATORS:
        raise ValueError(f"it names the class {name!r}; known are {sorted(ESTIMATORS)}")
    cls = _find_class(name)
    parts = {}
    for part in ("parameters", "fitted"):
        values = content.get(part)
        if not isinstance(values, dict):
            raise ValueError(f"its header has no {part}")
        parts[part] = {key: _rebuild(value, tensors) for key, value in values.items()}
    estimator = cls()
    known = set(estimator.get_params(deep=False))
    if set(parts["parameters"]) != known:
        unlike = sorted(set(parts["parameters"]) ^ known)
        raise ValueError(f"its parameters are not those of {name}: {unlike}")
    unknown = set(parts["fitted"]) - set(cls._fitted_attributes())
    if unknown:
        raise ValueError(f"{name} has no attributes {sorted(unknown)}")
    estimator.set_params(**parts["parameters"])
    try:
        estimator.__setstate__(estimator.__dict__ | parts["fitted"])
        estimator._check_fitted_state()
    except (
        ArithmeticError,
        AttributeError,
        KeyError,
        RuntimeError,
        TypeError,
    ) as error:
        raise ValueError(f"its fitted state does not fit together: {error}") from error
    written = content.get("versions", {})
    if isinstance(written, dict) and written.get("sklearn") != _versions()["sklearn"]:
        warnings.warn(
            InconsistentVersionWarning(
                estimator_name=name,
                current_sklearn_version=_versions()["sklearn"],
                original_sklearn_version=str(written.get("sklearn")),
            ),
            stacklevel=3,
        )
    return estimator


def _read(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the checked header and the tensors of a file's bytes."""
    try:
        tensors = load_tensors(data)
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"it is truncated or no safetensors file ({error})") from error
    # The metadata stand in the JSON header, whose length the first 8 bytes give.
    length = int.from_bytes(data[:8], "little")
    try:
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError("its header is no JSON") from error
    if metadata.get("format") != _FORMAT or _HEADER not in metadata:
        raise ValueError("it is a safetensors file, but not one that skfunc wrote")
    text = metadata[_HEADER]
    if metadata.get("checksum") != _checksum(text, tensors):
        raise ValueError("its checksum does not match: it was edited or damaged")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("its skfunc header is no JSON") from error
    if not isinstance(content, dict):
        raise ValueError("its skfunc header is no JSON object")
    return content, tensors


def _find_class(name: str) -> Any:
    return getattr(importlib.import_module((ESTIMATORS | VALUES)[name]), name)


def _versions() -> dict[str, str]:
    import sklearn
    import torch

    import skfunc

    return {
        "skfunc": skfunc.__version__,
        "sklearn": sklearn.__version__,
        "torch": str(torch.__version__),
    }


def _checksum(text: str, tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}:{array.dtype.str}:{array.shape}:".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _describe(value: Any, what: str, tensors: dict[str, np.ndarray]) -> Any:
    """Return JSON for a value, arrays moved to the tensors.

    A plain JSON value stands for itself; everything else is a tagged object.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        return {
            "scalar": _describe(value.item(), what, tensors),
            "dtype": value.dtype.str,
        }
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, (list, tuple)):
        items = [_describe(item, what, tensors) for item in value]
        return {"list" if isinstance(value, list) else "tuple": items}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {k: _describe(v, what, tensors) for k, v in value.items()}}
    if isinstance(value, np.ndarray):
        if value.dtype.kind in _TENSOR_KINDS:
            name = f"array{len(tensors)}"
            tensors[name] = np.ascontiguousarray(value)
            return {"array": name, "shape": list(value.shape)}
        if value.dtype.kind in "OU" and value.ndim == 1:
            items = [_describe(item, what, tensors) for item in value.tolist()]
            return {"strings": items, "dtype": value.dtype.str}
    if _layer_class(type(value).__name__) is type(value) and is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in _fields(value)}
        return {
            "layer": type(value).__name__,
            "fields": {k: _describe(v, what, tensors) for k, v in fields.items()},
        }
    kind = type(value).__name__
    if kind in VALUES and type(value) is _find_class(kind):
        return {"value": kind, "state": _describe(value._saved_state(), what, tensors)}
    name = getattr(value, "__qualname__", type(value).__name__)
    raise ValueError(
        f"cannot save {what}: {name} has no description in a safetensors file; pickle "
        "or joblib can store it"
    )


def _rebuild(value: Any, tensors: dict[str, np.ndarray]) -> Any:
    """Return the value that `_describe` described."""
    if value is None or isinstance(value, (bool, str, int, float)):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"its header holds an unexpected {type(value).__name__}")
    try:
        if "scalar" in value:
            dtype = _plain_dtype(value["dtype"])
            return dtype.type(_rebuild(value["scalar"], tensors))
        if "float" in value:
            return float(value["float"])
        if "list" in value:
            return [_rebuild(item, tensors) for item in value["list"]]
        if "tuple" in value:
            return tuple(_rebuild(item, tensors) for item in value["tuple"])
        if "dict" in value:
            return {k: _rebuild(v, tensors) for k, v in value["dict"].items()}
        if "layer" in value:
            return _rebuild_layer(value["layer"], value["fields"], tensors)
        if "value" in value:
            return _rebuild_value(value["value"], value["state"], tensors)
        if "array" in value:
            return tensors[value["array"]].reshape(value["shape"]).copy()
        if "strings" in value:
            items = [_rebuild(item, tensors) for item in value["strings"]]
            dtype = np.dtype(value["dtype"])
            if dtype.kind not in "OU":
                raise ValueError("its header holds an array of an unexpected type")
            # The strings give the width, not the file: it could ask for any amount.
            return np.array(items, dtype=object if dtype.kind == "O" else str)
    except (
        AttributeError,
        KeyError,
        TypeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise ValueError(f"its header is malformed ({error!r})") from error
    raise ValueError(f"its header holds an unknown entry {sorted(value)[:3]}")


def _layer_class(name: str) -> type | None:
    """Return the layer of that name; None where no layers were imported, or unknown."""
    module = sys.modules.get(_LAYERS)
    if module is None or name not in module.__all__ or name in ("Layer", "preset"):
        return None
    return getattr(module, name)


def _rebuild_layer(name: Any, fields: Any, tensors: dict[str, np.ndarray]) -> Any:
    """Return the layer that `_describe` described; its own checks hold."""
    importlib.import_module(_LAYERS)
    cls = _layer_class(name) if isinstance(name, str) else None
    if cls is None or not is_dataclass(cls):
        raise ValueError(f"its header names an unknown layer {name!r}")
    values = {key: _rebuild(value, tensors) for key, value in fields.items()}
    if set(values) != {field.name for field in _fields(cls)}:
        raise ValueError(f"its header gives {name} unknown fields {sorted(values)}")
    # A chain takes its layers one by one.
    return cls(*values["layers"]) if "layers" in values else cls(**values)


def _rebuild_value(name: Any, state: Any, tensors: dict[str, np.ndarray]) -> Any:
    """Return the value that `_describe` described; its own checks hold."""
    if not isinstance(name, str) or name not in VALUES:
        raise ValueError(f"its header names an unknown value {name!r}")
    return _find_class(name)._from_saved_state(_rebuild(state, tensors))


def _plain_dtype(text: Any) -> np.dtype:
    dtype = np.dtype(str(text))
    if dtype.kind not in _TENSOR_KINDS:
        raise ValueError("its header holds a number of an unexpected type")
    return dtype
