"""Fit an infinitely wide network to more rows than an exact solve has memory for.

Diamonds (log price, 9 columns, the three grades as their ranks) and a network of three
ReLU layers, as a Gaussian process and as an ensemble, by conjugate gradients in bounded
memory; then with the network chosen too. Choices are made on up to 2 000 of the rows.
On a subset small enough, the solver is held against an exact Cholesky solve of the same
network and ridge::

    python benchmarks/large_n.py
    python benchmarks/large_n.py --quick

Written to ``benchmarks/results/large_n.md``.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from _data import data_folder
from _measure import cpu_seconds, gaussian_nll, library_versions
from _table import markdown
from skfunc import InfiniteWidthRegressor
from skfunc.infinite_width import layers as L

RESULTS = Path(__file__).resolve().parent / "results"
NET = L.preset("mlp", depth=3, weight_std=1.5, bias_std=0.05)
# From worst to best.
GRADES = {
    "cut": ("Fair", "Good", "Very Good", "Premium", "Ideal"),
    "color": tuple("JIHGFED"),
    "clarity": ("I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"),
}
TEST_ROWS = 2000
MODELS: dict[str, dict[str, Any]] = {
    "Gaussian process (NNGP)": dict(architecture=NET, kernel="nngp"),
    "ensemble (NTK)": dict(architecture=NET, kernel="ntk"),
    "NNGP, network chosen": dict(kernel="nngp"),
}
BOOSTED = "HistGradientBoostingRegressor"


@dataclass(frozen=True)
class Setting:
    """What is fitted, and within what."""

    rows: int
    subset: int
    threads: int
    max_memory: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--subset", type=int, default=6_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-memory", type=float, default=8.0, help="GB")
    parser.add_argument("--quick", action="store_true", help="few rows, no file")
    options = parser.parse_args()
    rows, subset = (3000, 1500) if options.quick else (options.rows, options.subset)
    memory = int(1e9 * options.max_memory)
    setting = Setting(rows, subset, options.threads, memory)
    whole = [apart(fit_all, setting, name) for name in MODELS]
    whole.append(apart(fit_boosted, setting, BOOSTED))
    parts = [apart(fit_subset, setting, name) for name in MODELS]
    text = "\n\n".join(
        [
            "# An infinitely wide network past memory",
            "Written by `benchmarks/large_n.py`: `InfiniteWidthRegressor(net, "
            f'solver="cg", max_memory={memory:.3g})`, {rows} rows of diamonds, 9 '
            f"columns, log price in units of its std, {TEST_ROWS} test rows; threads: "
            f"{setting.threads}. The network is {NET!r}, or chosen as by default. An "
            f"exact solve would need {24e-9 * rows**2:.0f} GB. {library_versions()}",
            table([*MODELS, BOOSTED], whole),
            f"## {subset} of the rows, against an exact solve",
            "The same estimator with the solvers cg and cholesky, of the same network "
            "and ridge.",
            table(list(MODELS), parts),
        ]
    )
    print(text)
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "large_n.md").write_text(text + "\n")


def table(header: list[str], columns: list[dict[str, str]]) -> str:
    names = dict.fromkeys(name for column in columns for name in column)
    lines = [[name, *(column.get(name, "") for column in columns)] for name in names]
    return markdown(["", *header], lines)


def apart(
    action: Callable[[Setting, str], dict[str, str]], setting: Setting, name: str
) -> dict[str, str]:
    """Run in a process of its own, so that its peak of memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        column = pool.submit(limited, action, setting, name).result()
    for what, value in column.items():
        print(f"{name} | {what} | {value}", flush=True)
    return column


def limited(
    action: Callable[[Setting, str], dict[str, str]], setting: Setting, name: str
) -> dict[str, str]:
    torch.set_num_threads(setting.threads)
    with threadpool_limits(setting.threads), warnings.catch_warnings():
        warnings.simplefilter("always")
        return action(setting, name)


def diamonds(rows: int) -> tuple[np.ndarray, ...]:
    """Rows and standardized log prices: training, then test."""
    data = pd.read_csv(data_folder() / "tabular" / "diamonds.csv.gz")
    data = data.sample(frac=1.0, random_state=0)
    y = np.log(data.pop("price").to_numpy(float))
    for name, grades in GRADES.items():
        data[name] = data[name].map({grade: i for i, grade in enumerate(grades)})
    X = data.to_numpy(float)
    y = (y - y[:rows].mean()) / y[:rows].std()
    test = slice(rows, rows + TEST_ROWS)
    return X[:rows], y[:rows], X[test], y[test]


def model(setting: Setting, name: str, **options: Any) -> InfiniteWidthRegressor:
    settings = dict(solver="cg", max_memory=setting.max_memory, random_state=0)
    return InfiniteWidthRegressor(**(settings | MODELS[name] | options))


def fit_all(setting: Setting, name: str) -> dict[str, str]:
    """Figures of the fit to all rows."""
    X, y, X_test, y_test = diamonds(setting.rows)
    before = peak_bytes()
    with Stopwatch() as fit:
        fitted = model(setting, name).fit(X, y)
    peak = peak_bytes()
    with Stopwatch() as mean_alone:
        fitted.predict(X_test)
    with Stopwatch() as both:
        mean, std = fitted.predict(X_test, return_std=True)
    solution = fitted._process().solution()
    report = solution.report
    return {
        "fit, seconds": f"{fit.wall:.0f}",
        "fit, CPU-seconds": f"{fit.cpu:.0f}",
        "of these conjugate gradients, seconds": f"{report.seconds:.0f}",
        "rank of the preconditioner": str(len(solution.low_rank.landmarks)),
        "iterations": str(report.n_iter),
        "products with the kernel": str(report.n_products),
        "relative residual": f"{report.residuals.max():.1e}",
        "ridge, of the mean diagonal": f"{fitted.alpha_:.2g}",
        "peak resident memory, GB": f"{peak / 1e9:.1f}",
        "of these before the fit, GB": f"{before / 1e9:.1f}",
        "mean of the test rows, seconds": f"{mean_alone.wall:.1f}",
        "mean and std of the test rows, seconds": f"{both.wall:.1f}",
        **accuracy(y_test, mean),
        "test NLL": f"{gaussian_nll(y_test, mean, std):.3f}",
        "coverage of 90 %": f"{coverage(y_test, mean, std):.3f}",
    }


def fit_boosted(setting: Setting, name: str) -> dict[str, str]:
    """Figures of the tree ensemble that most would use for so many rows."""
    X, y, X_test, y_test = diamonds(setting.rows)
    with Stopwatch() as fit:
        boosted = HistGradientBoostingRegressor(random_state=0).fit(X, y)
    return {
        "fit, seconds": f"{fit.wall:.0f}",
        "fit, CPU-seconds": f"{fit.cpu:.0f}",
        **accuracy(y_test, boosted.predict(X_test)),
    }


def fit_subset(setting: Setting, name: str) -> dict[str, str]:
    """Differences from the exact solve at the same ridge."""
    X, y, X_test, y_test = diamonds(setting.rows)
    X, y = X[: setting.subset], y[: setting.subset]
    with Stopwatch() as iterative:
        fitted = model(setting, name).fit(X, y)
    mean, std = fitted.predict(X_test, return_std=True)
    same: dict[str, Any] = dict(solver="cholesky")
    if "architecture" in MODELS[name]:
        # Of a given network the solvers choose the ridge from different rows; all else
        # they choose alike.
        same["alpha"] = fitted.alpha_
    with Stopwatch() as direct:
        exact = model(setting, name, **same).fit(X, y)
    if exact.alpha_ != fitted.alpha_:
        raise ArithmeticError(f"ridges {exact.alpha_} and {fitted.alpha_} differ")
    exact_mean, exact_std = exact.predict(X_test, return_std=True)
    function = fitted.predict_std_parts(X_test)[0]
    exact_function = exact.predict_std_parts(X_test)[0]
    gap = np.abs(mean - exact_mean)
    return {
        "cg, choices included, CPU-seconds": f"{iterative.cpu:.1f}",
        "cholesky, the same ridge, CPU-seconds": f"{direct.cpu:.1f}",
        "iterations": str(fitted._process().solution().report.n_iter),
        "difference of means, largest": f"{gap.max():.1e}",
        "difference of means, root mean square": f"{np.sqrt(np.mean(gap**2)):.1e}",
        "std of the function over exact, 5, 50, 95 %": ratios(function, exact_function),
        "std of an observation over exact, 5, 50, 95 %": ratios(std, exact_std),
        "test RMSE, cg and exact": f"{rmse(y_test, mean):.4f}, "
        f"{rmse(y_test, exact_mean):.4f}",
        "test NLL, cg and exact": f"{gaussian_nll(y_test, mean, std):.4f}, "
        f"{gaussian_nll(y_test, exact_mean, exact_std):.4f}",
    }


def accuracy(y: np.ndarray, mean: np.ndarray) -> dict[str, str]:
    return {"test RMSE": f"{rmse(y, mean):.4f}"}


def rmse(y: np.ndarray, mean: np.ndarray) -> float:
    return float(np.sqrt(np.mean((y - mean) ** 2)))


def coverage(y: np.ndarray, mean: np.ndarray, std: np.ndarray) -> float:
    return float(np.mean(np.abs(y - mean) <= norm.ppf(0.95) * std))


def ratios(first: np.ndarray, second: np.ndarray) -> str:
    quantiles = np.quantile(first / second, [0.05, 0.5, 0.95])
    return ", ".join(f"{value:.3f}" for value in quantiles)


def peak_bytes() -> int:
    """Largest resident memory of this process so far (Linux counts in KiB)."""
    unit = 1024 if os.uname().sysname == "Linux" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Stopwatch:
    """Wall and CPU seconds of a block."""

    def __enter__(self) -> Stopwatch:
        self._begun = time.perf_counter(), cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self._begun[0]
        self.cpu = cpu_seconds() - self._begun[1]


if __name__ == "__main__":
    main()
