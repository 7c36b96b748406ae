"""Choices in the SDE-BNN, by rows kept out of training parts.

The defaults were chosen here, not by any test part: of each set, the training part of
split 0 (at most 800 rows) is split again, three quarters to fit and one to judge. The
peer is `ODENetRegressor` or `ODENetClassifier`, the limit without noise. One thread.

Cells that are in ``benchmarks/results/sde_ablation.csv`` are not computed again::

    python benchmarks/sde_ablation.py --task regression --variants default lowrank

Writes ``sde_ablation.md`` beside them: means over the sets that all variants share.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import _measure
from _data import Split, dataset_names, load_split
from _models import Model
from _rows import RowFile, row_key
from _table import markdown

RESULTS = Path(__file__).resolve().parent / "results"
MOST_ROWS = 800
CLASSIFICATION_SETS = (
    "balance-scale",
    "blood",
    "breast-cancer",
    "car",
    "conn-bench-sonar-mines-rocks",
    "contrac",
    "credit-approval",
    "heart-cleveland",
    "ionosphere",
    "iris",
    "parkinsons",
    "pima",
    "statlog-vehicle",
    "tic-tac-toe",
    "wine",
    "digits",
)
NAMES = {"regression": "SDEBNNRegressor", "classification": "SDEBNNClassifier"}
PEERS = {"regression": "ODENetRegressor", "classification": "ODENetClassifier"}
VARIANTS: dict[str, dict] = {
    "default": {},
    "sigma .03": {"sigma": 0.03},
    "sigma .1": {"sigma": 0.1},
    "sigma .3": {"sigma": 0.3},
    "4 members": {"n_members": 4},
    "1 step": {"n_steps": 1},
    "4 steps": {"n_steps": 4},
    "2 training paths": {"n_train_paths": 2},
    "no sticking": {"stl": False},
    "lowrank": {"drift": "lowrank"},
    "affine+lowrank": {"drift": "affine+lowrank"},
    "mean 0": {"prior_mean": "zero"},
    "Gaussian start": {"initial_weights": "gaussian"},
    "no divergence": {"kl_weight": 0.0},
}
FIGURES = {
    "regression": ("nll", "rmse", "crps", "cov90", "fit_s"),
    "classification": ("log_loss", "accuracy", "ece", "fit_s"),
}


def kept_out(task: str, name: str) -> Split:
    """Return a training part split in what is fitted and what judges."""
    if name == "digits":
        X, y = load_digits(return_X_y=True)
        X, _, y, _ = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
    else:
        data = load_split(task, name, 0)
        X, y = data.X_train, data.y_train
    rows = np.random.default_rng(0).permutation(len(X))[:MOST_ROWS]
    X, y = X[rows], y[rows]
    stratify = y if task == "classification" else None
    parts = train_test_split(X, y, test_size=0.25, random_state=1, stratify=stratify)
    X_fit, X_judge, y_fit, y_judge = parts
    if task == "regression":
        mean, scale = y_fit.mean(), y_fit.std()
        y_fit, y_judge = (y_fit - mean) / scale, (y_judge - mean) / scale
    return Split(X_fit, y_fit, X_judge, y_judge)


def cells(task: str, variants: list[str]) -> list[tuple[Model, str]]:
    """Return what is to be computed: the peer, and the variants, on every set."""
    sets = CLASSIFICATION_SETS if task == "classification" else dataset_names(task)
    models = [Model(task, PEERS[task])]
    models += [Model(task, NAMES[task], v, VARIANTS[v]) for v in variants]
    return [(model, name) for model in models for name in sets]


def compute(model: Model, name: str) -> dict:
    """Fit and judge one model on one set."""
    data = kept_out(model.task, name)
    row = {"task": model.task, "dataset": name, "split": "0 kept out"}
    row |= {"model": model.name, "label": model.label, "max_train": MOST_ROWS}
    return row | _measure.measure(model, data, 0)


def table(rows: list[dict], task: str) -> str:
    """Return the means over the sets that all variants have."""
    by_variant: dict[str, dict[str, dict]] = {}
    for row in rows:
        if row["task"] == task and row["status"] == "ok":
            name = row["label"] or row["model"]
            by_variant.setdefault(name, {})[row["dataset"]] = row
    if not by_variant:
        return ""
    most = max(map(len, by_variant.values()))
    by_variant = {k: v for k, v in by_variant.items() if len(v) == most}
    shared = set.intersection(*(set(v) for v in by_variant.values()))
    figures = FIGURES[task]
    lines = []
    for name, found in by_variant.items():
        means = [np.mean([found[s][f] for s in sorted(shared)]) for f in figures]
        lines.append([name, *(f"{value:.3f}" for value in means)])
    return f"## {task}, {len(shared)} sets\n\n" + markdown(["", *figures], lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=tuple(NAMES), nargs="+", default=list(NAMES))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    file = RowFile(options.results / "sde_ablation.csv")
    done = file.done()
    for task in options.task:
        for model, name in cells(task, options.variants):
            key = {"task": task, "dataset": name, "split": "0 kept out"}
            key |= {"model": model.name, "label": model.label, "max_train": MOST_ROWS}
            if row_key(key) in done:
                continue
            row = compute(model, name)
            file.append(row | {"versions": _measure.library_versions()})
            print(model.label or model.name, name, row.get("nll", row.get("log_loss")))
    text = "\n\n".join(filter(None, (table(file.read(), task) for task in NAMES)))
    head = "# Choices in the SDE-BNN\n\nWritten by `benchmarks/sde_ablation.py`.\n\n"
    (options.results / "sde_ablation.md").write_text(head + text + "\n")
    print(text)


if __name__ == "__main__":
    main()
