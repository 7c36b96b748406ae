"""Compare conditional densities of unseen targets with those of peers.

    python benchmarks/conditional_density.py
    python benchmarks/conditional_density.py --models ConditionalCNFRegressor

Three sets: the motorcycle accidents (ten random splits of nine tenths), red wine's
quality, and two noisy branches drawn here, of which y takes either. Wine's grades are
whole numbers, on which a density can be made as high as one likes: the set comes once
as it is and once with every grade spread evenly over its gap, for all models alike.
Each model gives the negative log density of the test targets in units of the
standardized training target, the continuous ranked probability score by 200 quantiles,
and its CPU time to fit, and to give densities and quantiles of the test rows. Rows go
to ``benchmarks/results/conditional_density_rows.csv`` as they are done, the tables to
``conditional_density.md`` beside it.

The quantile forest has the weighted training targets of its leaves for a distribution;
its density is that of a normal kernel around each, with Scott's bandwidth of them.
"""

from __future__ import annotations

import argparse
import csv
import warnings
from pathlib import Path

import numpy as np
from scipy.special import logsumexp
from sklearn.ensemble import RandomForestRegressor

import _data
from _measure import (
    N_QUANTILES,
    cpu_seconds,
    crps_gaussian,
    crps_quantiles,
    gaussian_nll,
    library_versions,
    one_thread,
)
from _models import Model

RESULTS = Path(__file__).resolve().parent / "results"
SPLITS = {
    "two branches": range(3),
    "mcycle": range(10),
    "wine, spread": range(3),
    "wine": range(3),
}
MODELS = (
    "ConditionalCNFRegressor",
    "ODENetRegressor",
    "GP-RBF",
    "NGBoost-stopped",
    "quantile forest",
)
FIGURES = ("nll", "crps", "fit_s", "predict_s")
COLUMNS = ("dataset", "split", "model", *FIGURES, "flow", "versions")
LEVELS = (np.arange(N_QUANTILES) + 0.5) / N_QUANTILES


def branches(n_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw two branches around a sine, the lower one a third of the time."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, size=n_rows)
    side = np.where(rng.uniform(size=n_rows) < 0.35, -1, 1)
    y = (
        np.sin(1.5 * x)
        + side * (0.4 + 0.5 * np.abs(x))
        + 0.12 * rng.normal(size=n_rows)
    )
    return x[:, None], y


def load(dataset: str, split: int) -> _data.Split:
    """Return a split whose target is standardized by its training part."""
    if dataset == "wine":
        return _data.load_split("regression", "wine", split)
    if dataset == "wine, spread":
        grades = load("wine", split)
        X = np.concatenate([grades.X_train, grades.X_test])
        y = np.concatenate([grades.y_train, grades.y_test])
        gap = np.diff(np.unique(y)).min()
        y = y + gap * np.random.default_rng(split).uniform(-0.5, 0.5, size=len(y))
        test = np.arange(len(y)) >= len(grades.y_train)
    elif dataset == "mcycle":
        path = _data.data_folder() / "tabular" / "mcycle.csv"
        table = np.genfromtxt(path, delimiter=",", names=True)
        X, y = table["times"][:, None], table["accel"]
        order = np.random.default_rng(split).permutation(len(y))
        test = np.isin(np.arange(len(y)), order[: len(y) // 10])
    else:
        parts = branches(500, split), branches(1000, 100 + split)
        X, y = (np.concatenate(part) for part in zip(*parts, strict=True))
        test = np.arange(len(y)) >= 500
    mean, std = y[~test].mean(), y[~test].std()
    y = (y - mean) / std
    return _data.Split(X[~test], y[~test], X[test], y[test])


class QuantileForest:
    """A forest that remembers its targets (Meinshausen 2006)."""

    def __init__(self, seed: int) -> None:
        self.forest = RandomForestRegressor(
            300, min_samples_leaf=5, random_state=seed, n_jobs=1
        )

    def fit(self, X, y):
        """Grow the forest and keep what lies in its leaves."""
        self.forest.fit(X, y)
        self.leaves, self.y = self.forest.apply(X), y
        return self

    def weights(self, X):
        """Weights of the training targets, (rows, training rows)."""
        total = np.zeros((len(X), len(self.y)))
        for own, known in zip(self.forest.apply(X).T, self.leaves.T, strict=True):
            same = own[:, None] == known
            total += same / same.sum(1, keepdims=True)
        return total / total.sum(1, keepdims=True)

    def log_prob(self, X, y):
        """Log density, by a kernel around the targets in the leaves."""
        weights = self.weights(X)
        mean = weights @ self.y
        spread = np.sqrt(weights @ self.y**2 - mean**2)
        width = np.maximum(spread, 1e-3) * (1 / (weights**2).sum(1)) ** -0.2
        z = (y[:, None] - self.y) / width[:, None]
        logs = -0.5 * (z * z + np.log(2 * np.pi)) - np.log(width)[:, None]
        return logsumexp(logs, axis=1, b=weights)

    def predict_quantiles(self, X, levels):
        """Quantiles of the weighted targets."""
        order = np.argsort(self.y)
        cumulative = self.weights(X)[:, order].cumsum(1)
        index = [
            np.searchsorted(row, levels).clip(max=len(order) - 1) for row in cumulative
        ]
        return self.y[order][np.array(index)]


def evaluate(name: str, data: _data.Split, split: int) -> dict:
    """Fit a model and return its figures."""
    if name == "quantile forest":
        model = QuantileForest(split)
    else:
        model = Model("regression", name).build(data.X_train.shape[1], split)
    begin = cpu_seconds()
    model.fit(data.X_train, data.y_train)
    fitted = cpu_seconds()
    if hasattr(model, "log_prob"):
        nll = -np.mean(model.log_prob(data.X_test, data.y_test))
        quantiles = np.asarray(model.predict_quantiles(data.X_test, LEVELS))
        crps = crps_quantiles(data.y_test, quantiles, LEVELS)
    else:
        mean, std = model.predict(data.X_test, return_std=True)
        nll = gaussian_nll(data.y_test, mean, std)
        crps = crps_gaussian(data.y_test, mean, std)
    return {
        "nll": f"{nll:.5g}",
        "crps": f"{crps:.5g}",
        "fit_s": f"{fitted - begin:.3g}",
        "predict_s": f"{cpu_seconds() - fitted:.3g}",
        "flow": getattr(model, "has_flow_", ""),
    }


def main() -> None:
    options = parse()
    path = options.results / "conditional_density_rows.csv"
    rows = read(path)
    versions = library_versions()
    for dataset in options.datasets:
        for split in SPLITS[dataset]:
            data = load(dataset, split)
            for name in options.models:
                key = dataset, str(split), name
                if key in rows and not options.refresh:
                    continue
                with one_thread(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    figures = evaluate(name, data, split)
                row = dict(zip(COLUMNS, key, strict=False)) | figures
                rows[key] = {k: str(v) for k, v in row.items()} | {"versions": versions}
                print(*rows[key].values(), flush=True)
                write(path, rows)
    table = summarize(rows)
    (options.results / "conditional_density.md").write_text(table + "\n")
    print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--datasets", nargs="+", choices=list(SPLITS), default=list(SPLITS))
    add("--models", nargs="+", choices=MODELS, default=MODELS)
    add("--refresh", action="store_true", help="compute done cells again")
    add("--results", type=Path, default=RESULTS, help="folder of the rows and table")
    return parser.parse_args()


def read(path: Path) -> dict[tuple, dict[str, str]]:
    """Return the rows by set, split and model."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["dataset"], row["split"], row["model"]): row for row in rows}


def write(path: Path, rows: dict[tuple, dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())


def figures_of(rows: dict[tuple, dict[str, str]], dataset: str, name: str, figure: str):
    """Return a model's figure in every split of a set."""
    return np.array(
        [
            float(rows[dataset, str(split), name][figure])
            for split in SPLITS[dataset]
            if (dataset, str(split), name) in rows
        ]
        or [np.nan]
    )


def summarize(rows: dict[tuple, dict[str, str]]) -> str:
    """Return the table of means over splits, and that of differences to the flow."""
    header = ["| model | " + " | ".join(SPLITS) + " |"]
    header.append("| --- |" + " ---: |" * len(SPLITS))
    lines = [
        "# Conditional densities",
        "",
        "Written by `benchmarks/conditional_density.py`. NLL / CRPS / CPU-seconds of a "
        "fit / of a prediction, means over splits; y is standardized.",
        "",
        *header,
    ]
    for name in MODELS:
        cells = [
            "{:.3f} / {:.3f} / {:.1f} / {:.2f}".format(
                *(figures_of(rows, dataset, name, figure).mean() for figure in FIGURES)
            )
            for dataset in SPLITS
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"NLL / CRPS beyond that of {MODELS[0]}, and the standard error over splits.",
        "",
        *header,
    ]
    for name in MODELS[1:]:
        cells = []
        for dataset in SPLITS:
            beyond = []
            for figure in ("nll", "crps"):
                own, other = (
                    figures_of(rows, dataset, model, figure)
                    for model in (MODELS[0], name)
                )
                if own.shape != other.shape:
                    other = np.full_like(own, np.nan)
                error = np.std(other - own, ddof=len(own) > 1) / np.sqrt(len(own))
                beyond.append(f"{(other - own).mean():+.3f} ({error:.3f})")
            cells.append(" / ".join(beyond))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
