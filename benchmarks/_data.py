"""UCI regression and classification sets, with their own splits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]

REGRESSION_SETS = (
    "autompg",
    "autos",
    "boston",
    "concreteslump",
    "energy",
    "forest",
    "machine",
    "naval",
    "pendulum",
    "protein",
    "solar",
    "wine",
    "yacht",
)
MAX_REGRESSION_ROWS = 1000
MAX_CLASSIFICATION_ROWS = 2500

# One fixed split, whose training and test parts were scaled by different constants.
INCONSISTENTLY_SCALED = frozenset(
    {
        "annealing",
        "hayes-roth",
        "horse-colic",
        "image-segmentation",
        "soybean",
        "spect",
        "spectf",
    }
)

DEFAULT_SPLITS = {"regression": (0, 1, 2), "classification": (0, 1)}
QUICK_SETS = {
    "regression": ("boston", "concreteslump", "yacht"),
    "classification": ("heart-cleveland", "pima", "wine"),
}
FOLDERS = {
    "regression": ("uci_regression", "uci_regression_extra"),
    "classification": ("uci_classification",),
}


@dataclass(frozen=True)
class Split:
    """Training and test part of one split, in float64."""

    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def data_folder() -> Path:
    """Folder of the data sets: ``SKFUNC_DATA``, or ``../shared/data``."""
    return Path(os.environ.get("SKFUNC_DATA", REPOSITORY / ".." / "shared" / "data"))


def _file(task: str, name: str) -> Path:
    candidates = [data_folder() / folder / f"{name}.npz" for folder in FOLDERS[task]]
    for path in candidates:
        if path.exists():
            return path
    raise FileNotFoundError(
        f"No {task} set {name!r} in {data_folder()}: set SKFUNC_DATA to the folder "
        f"that holds {' and '.join(FOLDERS[task])}."
    )


def dataset_names(task: str) -> list[str]:
    """List the sets of a task that the comparison uses and that are at hand."""
    if task == "regression":
        return [name for name in REGRESSION_SETS if _has(task, name)]
    names = []
    for path in sorted((data_folder() / FOLDERS[task][0]).glob("*.npz")):
        if path.stem in INCONSISTENTLY_SCALED:
            continue
        with np.load(path, allow_pickle=False) as arrays:
            if len(arrays["y"]) <= MAX_CLASSIFICATION_ROWS:
                names.append(path.stem)
    return names


def _has(task: str, name: str) -> bool:
    try:
        _file(task, name)
    except FileNotFoundError:
        return False
    return True


def n_splits(task: str, name: str) -> int:
    """Return how many splits the set comes with."""
    with np.load(_file(task, name), allow_pickle=False) as arrays:
        return len(arrays["test_mask"])


def load_split(task: str, name: str, split: int, max_train: int | None = None) -> Split:
    """Rows of one split; a regression target is standardized by its training part.

    Regression keeps at most 1000 training and 1000 test rows, drawn in this order by
    ``default_rng(split)``; classification keeps all rows unless ``max_train`` is given.
    """
    with np.load(_file(task, name), allow_pickle=False) as arrays:
        X, y = arrays["X"].astype(np.float64), arrays["y"]
        test = np.flatnonzero(arrays["test_mask"][split])
        in_train = ~arrays["test_mask"][split]
        if "train_mask" in arrays.files:
            in_train &= arrays["train_mask"][split]
        train = np.flatnonzero(in_train)
    rng = np.random.default_rng(split)
    if task == "regression":
        train = _at_most(train, max_train or MAX_REGRESSION_ROWS, rng)
        test = _at_most(test, MAX_REGRESSION_ROWS, rng)
        y = (y - y[train].mean()) / y[train].std()
    elif max_train is not None:
        train = _at_most(train, max_train, rng)
    return Split(X[train], y[train], X[test], y[test])


def _at_most(rows: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= limit else rng.choice(rows, limit, replace=False)
