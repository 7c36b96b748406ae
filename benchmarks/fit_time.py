"""Time the default fit of every estimator at 1000 x 10, against scikit-learn's own.

One thread, CPU-seconds, the repeats of all models interleaved. Where an estimator
trains several members in one pass (``n_members``), ten members are also timed against
ten separate fits of one member::

    python benchmarks/fit_time.py
    python benchmarks/fit_time.py --models ODENetRegressor --repeats 5

Written to ``benchmarks/results/fit_time.csv`` and ``fit_time.md``.
"""

from __future__ import annotations

import argparse
import csv
import sys
import warnings
from pathlib import Path

import numpy as np
from sklearn.datasets import make_classification, make_friedman1
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.neural_network import MLPClassifier, MLPRegressor

from _measure import cpu_seconds, library_versions, one_thread
from _models import SKFUNC, available, import_class
from _table import markdown

RESULTS = Path(__file__).resolve().parent / "results"
N_ROWS, N_FEATURES, N_MEMBERS = 1000, 10, 10
NOISE_STD = 1.0
COLUMNS = ("task", "model", "what", "repeat", "cpu_s", "versions")

REFERENCE = {"regression": "MLPRegressor", "classification": "MLPClassifier"}
PEERS = {
    "regression": {
        "MLPRegressor": MLPRegressor,
        "RandomForestRegressor": RandomForestRegressor,
        "HistGradientBoostingRegressor": HistGradientBoostingRegressor,
        "GaussianProcessRegressor": lambda: GaussianProcessRegressor(
            RBF() + WhiteKernel(), normalize_y=True
        ),
    },
    "classification": {
        "MLPClassifier": MLPClassifier,
        "RandomForestClassifier": RandomForestClassifier,
        "HistGradientBoostingClassifier": HistGradientBoostingClassifier,
    },
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", help="skfunc estimators; default all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    rows = []
    for task in SKFUNC:
        rows += time_task(task, options.models, options.repeats)
    write(rows, options.results)


def problem(task: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the 1000 x 10 problem of a task."""
    if task == "regression":
        return make_friedman1(N_ROWS, N_FEATURES, noise=NOISE_STD, random_state=0)
    return make_classification(N_ROWS, N_FEATURES, n_informative=5, random_state=0)


def time_task(task: str, names: list[str] | None, repeats: int) -> list[dict]:
    """Rows of one task, peers included."""
    X, y = problem(task)
    ours = [name for name in available(task, names) if name in SKFUNC[task]]
    builders = PEERS[task] | {n: import_class(SKFUNC[task][n]) for n in ours}
    jobs = [(name, "default fit") for name in builders]
    for name in ours:
        if "n_members" in builders[name]().get_params():
            jobs += [(name, "ten members"), (name, "ten fits")]
    rows = []
    with warnings.catch_warnings(), one_thread():
        warnings.simplefilter("ignore")
        for build in builders.values():
            time_fits(build, "warm-up", 0, X[:50], y[:50])
        for repeat in range(repeats):
            for name, what in jobs:
                seconds = time_fits(builders[name], what, repeat, X, y)
                print(f"{task} {name}, {what}: {seconds:.3g} CPU-s", flush=True)
                rows.append(
                    {
                        "task": task,
                        "model": name,
                        "what": what,
                        "repeat": repeat,
                        "cpu_s": seconds,
                    }
                )
    return rows


def time_fits(build, what: str, repeat: int, X, y) -> float:
    """CPU-seconds of one default fit, of ten members at once, or of ten fits.

    A fit that fails is told, and its time is not a number.
    """
    if what == "ten fits":
        estimators = [build().set_params(n_members=1) for _ in range(N_MEMBERS)]
    elif what == "ten members":
        estimators = [build().set_params(n_members=N_MEMBERS)]
    else:
        estimators = [build()]
    begin = cpu_seconds()
    for offset, estimator in enumerate(estimators):
        if "random_state" in estimator.get_params():
            estimator.set_params(random_state=repeat * N_MEMBERS + offset)
        try:
            estimator.fit(X, y)
        except Exception as error:
            name = type(estimator).__name__
            print(f"{name} failed: {type(error).__name__}: {error}")
            return float("nan")
    return cpu_seconds() - begin


def write(rows: list[dict], folder: Path) -> None:
    """Save the rows, print and save the medians."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = library_versions()
    with open(folder / "fit_time.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            cpu_s = format(row["cpu_s"], ".6g")
            writer.writerow(row | {"cpu_s": cpu_s, "versions": versions})
    text = summarize(rows)
    (folder / "fit_time.md").write_text(text)
    print("\n" + text)


def summarize(rows: list[dict]) -> str:
    """Markdown of the medians and their ratios."""
    seconds: dict[tuple, list[float]] = {}
    for row in rows:
        seconds.setdefault((row["task"], row["model"], row["what"]), []).append(
            row["cpu_s"]
        )
    median = {key: float(np.median(values)) for key, values in seconds.items()}
    lines = []
    for (task, model, what), value in sorted(median.items(), key=lambda item: item[1]):
        if what != "default fit":
            continue
        reference = median[task, REFERENCE[task], what]
        together = median.get((task, model, "ten members"))
        ratio = ""
        if together is not None:
            ratio = f"{together / median[task, model, 'ten fits']:.2f}"
        lines.append([task, model, f"{value:.3g}", f"{value / reference:.2f}", ratio])
    header = [
        "task",
        "model",
        "median CPU-s",
        "times MLP",
        "ten members / ten fits",
    ]
    lines.sort(key=lambda line: line[0])
    return (
        f"# Default fit at {N_ROWS} x {N_FEATURES}\n\n"
        "Written by `benchmarks/fit_time.py`. One thread, CPU-seconds of `fit`.\n\n"
        f"{markdown(header, lines)}\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
