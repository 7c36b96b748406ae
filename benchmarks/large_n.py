"""Fit an infinitely wide network to more rows than an exact solve has memory for.

Diamonds (log price, 9 columns), NTK of three ReLU layers, in bounded memory. The ridge
is chosen among 16 by the log marginal likelihood of 3 000 rows. On a subset small
enough, the same solver is held against an exact Cholesky solve at the same ridge::

    python benchmarks/large_n.py --rows 50000 --subset 6000 --threads 2
    python benchmarks/large_n.py --rows 3000 --subset 2000 --no-write

Written to ``benchmarks/results/large_n.md``.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from _data import data_folder
from _measure import cpu_seconds, gaussian_nll, library_versions
from _table import markdown
from skfunc.infinite_width import layers as L
from skfunc.infinite_width._inference_cholesky import RidgeSolution
from skfunc.infinite_width._inference_ensemble import ensemble_variance
from skfunc.infinite_width._iterative_regression import IterativeSolution

RESULTS = Path(__file__).resolve().parent / "results"
NET = L.Serial(*[L.Dense(1.5, 0.05), L.Relu()] * 3, L.Dense(1.5, 0.05))
# From worst to best.
GRADES = {
    "cut": ("Fair", "Good", "Very Good", "Premium", "Ideal"),
    "color": tuple("JIHGFED"),
    "clarity": ("I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"),
}
RIDGES = np.geomspace(1e-3, 10, 16)
# At 8 000 rows this leaves means within 0.004 of the exact ones, for y of std 1, and
# takes a third fewer iterations than 1e-4.
TOLERANCE = 1e-3
N_UNCERTAIN = 500
N_LEFT_OUT = 512


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--subset", type=int, default=6_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-memory", type=float, default=8.0, help="GB")
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with threadpool_limits(options.threads), warnings.catch_warnings():
        warnings.simplefilter("always")
        data = diamonds(options.rows)
        memory = int(options.max_memory * 1e9)
        lines = [*whole(data, memory)]
        parts = [
            "# An infinitely wide network past memory",
            f"Written by `benchmarks/large_n.py`. {options.threads} threads, "
            f"max_memory {options.max_memory:g} GB; {library_versions()}.",
            f"{len(data[0])} rows of diamonds, {data[0].shape[1]} columns, "
            f"{len(data[2])} test rows.",
            markdown(["", "value"], lines),
            f"## {options.subset} of the rows, against an exact Cholesky solve",
            markdown(["", "value"], subset(data, options.subset, memory)),
        ]
    text = "\n\n".join(parts) + "\n"
    print(text)
    if not options.no_write:
        (RESULTS / "large_n.md").write_text(text)


def diamonds(rows: int) -> tuple[np.ndarray, ...]:
    """Standardized rows and log prices: training, then test."""
    table = pd.read_csv(data_folder() / "tabular" / "diamonds.csv.gz")
    table = table.sample(frac=1.0, random_state=0)
    y = np.log(table.pop("price").to_numpy(float))
    for name, grades in GRADES.items():
        table[name] = table[name].map({grade: i for i, grade in enumerate(grades)})
    X = table.to_numpy(float)
    X, y = X - X[:rows].mean(0), y - y[:rows].mean()
    X, y = X / X[:rows].std(0), y / y[:rows].std()
    return X[:rows], y[:rows], X[rows:], y[rows:]


def whole(data: tuple[np.ndarray, ...], memory: int) -> list[list[str]]:
    """Figures of the fit to all rows."""
    X, y, X_test, y_test = data
    baseline = peak_bytes()
    with Stopwatch() as fit:
        solution = IterativeSolution(
            NET, X, y, RIDGES, max_memory=memory, tol=TOLERANCE
        )
    with Stopwatch() as left_out:
        noise = solution.leave_one_out(N_LEFT_OUT).residual_variance()
    report = solution.report
    fitted_peak = peak_bytes()
    print(f"fitted in {fit.wall:.0f} s, {report.n_iter} iterations", flush=True)
    solution.compact()
    with Stopwatch() as predict:
        mean = solution.mean(X_test)
    some = slice(0, N_UNCERTAIN)
    with Stopwatch() as uncertain:
        variance = solution.variance(X_test[some])
    std = np.sqrt(variance + noise)
    error = y_test - mean
    half = norm.ppf(0.95) * std
    boosted = HistGradientBoostingRegressor(random_state=0).fit(X, y)
    return [
        ["fit, seconds", f"{fit.wall:.0f}"],
        ["fit, CPU-seconds", f"{fit.cpu:.0f}"],
        ["of these conjugate gradients, seconds", f"{report.seconds:.0f}"],
        ["ridge chosen", f"{solution.ridge:.3g}"],
        ["rank of the preconditioner", str(len(solution.low_rank.landmarks))],
        ["iterations", str(report.n_iter)],
        ["relative residual", f"{report.residuals.max():.1e}"],
        ["noise by leave-one-out, seconds", f"{left_out.wall:.0f}"],
        ["peak resident memory, GB", f"{fitted_peak / 1e9:.1f}"],
        ["of these before the fit, GB", f"{baseline / 1e9:.1f}"],
        ["estimate of the report, GB", f"{report.peak_bytes / 1e9:.1f}"],
        [f"mean of {len(X_test)} rows, seconds", f"{predict.wall:.1f}"],
        [f"std of {N_UNCERTAIN} rows, seconds", f"{uncertain.wall:.1f}"],
        ["test RMSE, y standardized", f"{np.sqrt(np.mean(error**2)):.4f}"],
        [
            "test RMSE of HistGradientBoostingRegressor",
            f"{np.sqrt(np.mean((y_test - boosted.predict(X_test)) ** 2)):.4f}",
        ],
        [
            f"test NLL of a Gaussian, {N_UNCERTAIN} rows",
            f"{gaussian_nll(y_test[some], mean[some], std):.3f}",
        ],
        [
            f"coverage of 90 %, {N_UNCERTAIN} rows",
            f"{np.mean(np.abs(error[some]) <= half):.3f}",
        ],
    ]


def subset(data: tuple[np.ndarray, ...], rows: int, memory: int) -> list[list[str]]:
    """Differences from the exact solve at the same ridge."""
    X, y, X_test, _ = data
    X, y, X_test = X[:rows], y[:rows], X_test[:N_UNCERTAIN]
    with Stopwatch() as iterative:
        solution = IterativeSolution(
            NET, X, y, RIDGES, max_memory=memory, tol=TOLERANCE
        )
    mean, variance = solution.mean(X_test), solution.variance(X_test)
    noise = solution.leave_one_out(N_LEFT_OUT).residual_variance()
    with Stopwatch() as direct:
        exact = RidgeSolution(NET.kernel(X), y, solution.ridge)
    across = NET.kernel(X_test, X)
    exact_mean = exact.mean(across)
    exact_noise = exact.leave_one_out().residual_variance()
    exact_variance = ensemble_variance(
        exact.smoother(across),
        NET.kernel(X, kind="nngp"),
        NET.kernel(X_test, X, kind="nngp"),
        NET.kernel(X_test, kind="nngp").diagonal(),
    )
    ratio = np.sqrt(variance / exact_variance)
    total = np.sqrt((variance + noise) / (exact_variance + exact_noise))
    return [
        ["iterative fit with a choice of ridges, seconds", f"{iterative.wall:.1f}"],
        ["exact fit at one ridge, seconds", f"{direct.wall:.1f}"],
        ["iterations", str(solution.report.n_iter)],
        ["largest difference of means, y of std 1", f"{gap(mean, exact_mean):.1e}"],
        ["std of the function over exact, 5, 50, 95 %", quantiles(ratio)],
        ["std of an observation over exact, 5, 50, 95 %", quantiles(total)],
        ["noise std over exact", f"{np.sqrt(noise / exact_noise):.3f}"],
    ]


def gap(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).max())


def quantiles(values: np.ndarray) -> str:
    return ", ".join(f"{value:.3f}" for value in np.quantile(values, [0.05, 0.5, 0.95]))


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
