"""The shipped tabular priors: what a prediction costs, and what each part is worth.

Three tables: the time of the first fit and prediction beside peers; long tables; and
the regression prior with fewer or more corrections and steps of fine-tuning, by the
mean negative log-likelihood of a fifth of the rows of the *training* part of the first
split of each UCI regression set (its test part is left to `tabular.py`).

    python benchmarks/tabular_prior.py
    python benchmarks/tabular_prior.py --quick

The UCI sets and California housing lie in ``SKFUNC_DATA`` (default ``../shared/data``);
without them these tables are left out. Writes ``benchmarks/results/tabular_prior.md``.
"""

from __future__ import annotations

import argparse
import gzip
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes, make_friedman1
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.metrics import root_mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import _data
from _measure import library_versions, one_thread
from _table import markdown
from skfunc import NeuralProcessRegressor
from skfunc.neural_process._shipped import shipped_prior

RESULTS = Path(__file__).parent / "results"
LOAD = (
    "import time, skfunc.neural_process._shipped as s, skfunc.persistence;"
    "t = time.process_time(); s.shipped_prior('regression');"
    "print(time.process_time() - t)"
)
# Corrections and steps of fine-tuning.
PARTS = ((0, 0), (2, 0), (4, 0), (6, 0), (8, 0), (12, 0), (0, 10), (8, 10), (0, 30))
LONG = (1000, 3000, 10_000)


def ard_process(n_features: int) -> GaussianProcessRegressor:
    kernel = ConstantKernel() * RBF(np.ones(n_features)) + WhiteKernel(0.1)
    model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
    return make_pipeline(StandardScaler(), model)


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Return the median of CPU-seconds."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return float(np.median(times))


def cost(repeats: int) -> str:
    """Return the table of times at 442 x 10."""
    X, y = load_diabetes(return_X_y=True)
    NeuralProcessRegressor().fit(X[:50], y[:50]).predict(X[:5])
    fitted = NeuralProcessRegressor().fit(X, y)
    fitted.predict(X)
    loads = [
        float(subprocess.check_output([sys.executable, "-c", LOAD], text=True))
        for _ in range(repeats)
    ]

    def both(model) -> Callable[[], object]:
        return lambda: model.fit(X, y).predict(X)

    rows = [
        ["load the weights", f"{np.median(loads):.3f}"],
        ["fit and predict", f"{seconds(both(NeuralProcessRegressor()), repeats):.3f}"],
        ["predict again", f"{seconds(lambda: fitted.predict(X), repeats):.3f}"],
        ["GP-ARD, fit and predict", f"{seconds(both(ard_process(10)), 1):.3f}"],
        ["forest", f"{seconds(both(RandomForestRegressor(random_state=0)), 1):.3f}"],
        ["boosting", f"{seconds(both(HistGradientBoostingRegressor()), 1):.3f}"],
    ]
    return markdown(["442 rows of 10 columns, predicted at all", "CPU-s"], rows)


def long_tables(sizes: tuple[int, ...]) -> str | None:
    """Return the table of California housing, log prices, by number of rows."""
    path = _data.data_folder() / "tabular" / "california_housing.csv.gz"
    if not path.exists():
        return None
    with gzip.open(path, "rt") as file:
        names = file.readline().strip().split(",")
        columns = [i for i, name in enumerate(names) if name != "ocean_proximity"]
        table = np.genfromtxt(file, delimiter=",", usecols=columns)
    kept = [names[i] for i in columns]
    target = kept.index("median_house_value")
    y, X = np.log(table[:, target]), np.delete(table, target, axis=1)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order], y[order]
    X_test, y_test = X[-3000:], y[-3000:]
    rows = []
    for n in sizes:
        line = [str(n)]
        for model in (NeuralProcessRegressor(), HistGradientBoostingRegressor()):
            started = time.process_time()
            score = model.fit(X[:n], y[:n]).score(X_test, y_test)
            line += [f"{score:.3f}", f"{time.process_time() - started:.2f}"]
            if isinstance(model, NeuralProcessRegressor):
                line.append(f"{-model.log_prob(X_test, y_test).mean():.3f}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        rows.append([*line, f"{peak:.2f}"])
    header = ["rows", "R2", "CPU-s", "NLL", "boosting R2", "CPU-s", "peak GB so far"]
    return markdown(header, rows)


def validation_sets(quick: bool) -> dict[str, tuple[np.ndarray, ...]]:
    """Return training rows, divided once more."""
    sets = {}
    names = _data.dataset_names("regression")
    for name in _data.QUICK_SETS["regression"] if quick and names else names:
        split = _data.load_split("regression", name, 0)
        sets[name] = (split.X_train, split.y_train)
    sets["diabetes"] = load_diabetes(return_X_y=True)
    sets["friedman1"] = make_friedman1(300, 10, noise=1.0, random_state=0)
    divided = {}
    for name, (X, y) in sets.items():
        order = np.random.default_rng(0).permutation(len(X))
        kept, judged = np.split(order, [int(0.8 * len(X))])
        divided[name] = (X[kept], y[kept], X[judged], y[judged])
    return divided


def parts(quick: bool) -> str:
    """Return the table of what corrections and fine-tuning are worth."""
    sets = validation_sets(quick)
    rows = []
    shipped = shipped_prior("regression")
    for corrections, steps in PARTS[:3] if quick else PARTS:
        prior = shipped.for_any_table(n_corrections=corrections)
        figures = []
        for X, y, X_out, y_out in sets.values():
            started = time.process_time()
            model = NeuralProcessRegressor(prior, finetune_steps=steps).fit(X, y)
            log_prob = model.log_prob(X_out, y_out).mean()
            spent = time.process_time() - started
            error = root_mean_squared_error(y_out, model.predict(X_out)) / y.std()
            figures.append((-log_prob - np.log(y.std()), error, spent))
        nll, error, spent = np.mean(figures, axis=0)
        rows.append([str(corrections), str(steps), nll, error, spent])
        print(rows[-1], flush=True)
    if not quick:
        rows.append(["GP-ARD", "", *_peer(sets)])
    text = [
        [*row[:2], f"{row[2]:.3f}", f"{row[3]:.3f}", f"{row[4]:.2f}"] for row in rows
    ]
    header = ["corrections", "fine-tuning steps", "NLL", "RMSE", "CPU-s"]
    return f"{len(sets)} sets.\n\n{markdown(header, text)}"


def _peer(sets: dict[str, tuple[np.ndarray, ...]]) -> list[float]:
    figures = []
    for X, y, X_out, y_out in sets.values():
        started = time.process_time()
        mean, std = ard_process(X.shape[1]).fit(X, y).predict(X_out, return_std=True)
        spent = time.process_time() - started
        z = (y_out - mean) / std
        nll = np.mean(0.5 * z**2 + np.log(std / y.std()) + 0.5 * np.log(2 * np.pi))
        error = root_mean_squared_error(y_out, mean) / y.std()
        figures.append((min(nll, 5.0), error, spent))
    return list(np.mean(figures, axis=0))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, to a trial folder")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    with one_thread():
        card = shipped_prior("regression").training
        steps = card["steps_before"] + card["steps"]
        text = (
            "# The shipped tabular prior\n\nWritten by `benchmarks/tabular_prior.py`; "
            "one thread, CPU-seconds, medians. Regression weights after "
            f"{steps} steps.\n\n{cost(1 if options.quick else 5)}\n\n"
        )
        long = long_tables(LONG[:1] if options.quick else LONG)
        if long is not None:
            text += (
                "California housing, logarithm of the price, 3 000 rows to test "
                f"on:\n\n{long}\n\n"
            )
        text += (
            "Rows kept out of the training parts, standardized units, mean over "
            f"{parts(options.quick)}\n\n{library_versions()}\n"
        )
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "tabular_prior.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
