"""Twelve sets for densities: two curves, and tables of 133 to 3000 rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.decomposition import PCA

from _data import data_folder

# Rows drawn at most from a large table, and the share that tests.
MAX_ROWS = 3000
TEST_SHARE = 0.3
POWER_COLUMNS = [0, 2, 4, 5, 6]


def _table(name: str, columns: list[str], folder: str = "tabular") -> np.ndarray:
    path = next((data_folder() / folder).glob(f"{name}.csv*"))
    return pd.read_csv(path)[columns].dropna().to_numpy(dtype=float)


def _digits() -> np.ndarray:
    return PCA(6).fit_transform(datasets.load_digits().data)


def _power() -> np.ndarray:
    with np.load(data_folder() / "density" / "power_household.npz") as arrays:
        X = arrays["X"].astype(float)[:, POWER_COLUMNS]
        return np.column_stack([X, arrays["minute_of_day"]])


def _boston() -> np.ndarray:
    with np.load(data_folder() / "uci_regression" / "boston.npz") as arrays:
        return np.column_stack([arrays["X"], arrays["y"]])


SETS: dict[str, Callable[[], np.ndarray]] = {
    "moons": lambda: datasets.make_moons(1500, noise=0.1, random_state=0)[0],
    "circles": lambda: datasets.make_circles(
        1500, noise=0.06, factor=0.5, random_state=0
    )[0],
    "iris": lambda: datasets.load_iris().data,
    "wine": lambda: datasets.load_wine().data,
    "breast_cancer": lambda: datasets.load_breast_cancer().data[:, :10],
    "digits_pca": _digits,
    "diabetes": lambda: datasets.load_diabetes().data,
    "penguins": lambda: _table(
        "penguins",
        ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"],
    ),
    "mcycle": lambda: _table("mcycle", ["times", "accel"]),
    "boston": _boston,
    "california": lambda: datasets_california(),
    "power": _power,
}


def datasets_california() -> np.ndarray:
    """Return the columns of the houses that are numbers."""
    path = next((data_folder() / "tabular").glob("california_housing.csv*"))
    return pd.read_csv(path).select_dtypes("number").dropna().to_numpy(dtype=float)


def load_split(name: str, split: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the training and the test rows of a split.

    Rounded columns are made continuous: a value with copies is spread over one gap to
    the next, as densities of atoms are infinite. The columns are standardized by the
    training rows, so that all models see, and are judged in, the same units.
    """
    random = np.random.default_rng([split, len(name)])
    X = SETS[name]()
    if len(X) > MAX_ROWS:
        X = X[random.choice(len(X), MAX_ROWS, replace=False)]
    X = np.column_stack([_spread(column, random) for column in X.T])
    order = random.permutation(len(X))
    n_test = round(TEST_SHARE * len(X))
    train, test = X[order[n_test:]], X[order[:n_test]]
    mean, scale = train.mean(0), train.std(0)
    return (train - mean) / scale, (test - mean) / scale


def _spread(column: np.ndarray, random: np.random.Generator) -> np.ndarray:
    values = np.unique(column)
    if len(values) == len(column):
        return column
    gaps = np.diff(values)
    gap = gaps[gaps > 1e-9 * np.ptp(values)].min()
    return column + gap * random.uniform(-0.5, 0.5, len(column))
