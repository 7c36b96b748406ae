"""Compare the densities of unseen rows with those of peers, on twelve sets.

    python benchmarks/density.py
    python benchmarks/density.py --datasets moons power --models CNFDensity mixture-BIC

Every model sees the same training rows; zuko's flows train for as many CPU-seconds as
`CNFDensity` took on the same split, so it runs first. The data lie in the folder
``SKFUNC_DATA`` (default ``../shared/data`` beside the repository). Every cell goes to
``benchmarks/results/density_rows.csv`` as soon as it is done, with the paired
comparison of each model with `CNFDensity`, and a later run goes on from there. The
table goes to ``benchmarks/results/density.md``.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

import _density_peers
import _density_sets
from _measure import library_versions, one_thread
from _table import markdown

RESULTS = Path(__file__).resolve().parent / "results"
COLUMNS = (
    "dataset",
    "split",
    "model",
    "n_train",
    "n_features",
    "nll",
    "minus_ours",
    "paired_error",
    "fit_s",
    "score_s",
    "status",
    "versions",
)
OURS = "CNFDensity"
RIVALS = ("mixture-BIC", "mixture-CV", "kernel-CV")


def main() -> None:
    options = parse()
    path = options.results / "density_rows.csv"
    rows = read(path)
    if not options.summary_only:
        done = {(row["dataset"], row["split"], row["model"]) for row in rows}
        for split in options.splits:
            for dataset in options.datasets:
                names = [m for m in options.models if m != OURS]
                if any((dataset, str(split), m) not in done for m in [OURS, *names]):
                    measure(dataset, split, [OURS, *names], path, options.refresh)
        rows = read(path)
    table = summarize(rows)
    (options.results / "density.md").write_text(table + "\n")
    print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    names = list(_density_peers.MODELS)
    add("--datasets", nargs="+", choices=list(_density_sets.SETS), default=None)
    add("--models", nargs="+", choices=names, default=names)
    add("--splits", nargs="+", type=int, default=[0])
    add("--refresh", action="store_true", help="compute done cells again")
    add("--results", type=Path, default=RESULTS, help="folder of the rows and table")
    add("--summary-only", action="store_true", help="run nothing, print the table")
    options = parser.parse_args()
    options.datasets = options.datasets or list(_density_sets.SETS)
    return options


def measure(
    dataset: str, split: int, models: list[str], path: Path, refresh: bool
) -> None:
    """Fit the models on one split, ours first, and write a row of each."""
    train, test = _density_sets.load_split(dataset, split)
    versions = library_versions()
    ours, seconds = None, 0.0
    for name in models:
        row = dict.fromkeys(COLUMNS, "")
        row |= {"dataset": dataset, "split": split, "model": name}
        row |= {"n_train": len(train), "n_features": train.shape[1]}
        row |= {"status": "ok", "versions": versions}
        try:
            with one_thread():
                logs, fit_s, score_s = _density_peers.log_densities(
                    name, train, test, split, seconds
                )
        except Exception as error:
            text = " ".join(str(error).split())[:150]
            row["status"] = f"failed: {type(error).__name__}: {text}"
        else:
            if name == OURS:
                ours, seconds = logs, fit_s
            assert ours is not None
            worse = ours - logs
            row |= {
                "nll": f"{-logs.mean():.6g}",
                "minus_ours": f"{worse.mean():.6g}",
                "paired_error": f"{worse.std(ddof=1) / len(worse) ** 0.5:.6g}",
                "fit_s": f"{fit_s:.4g}",
                "score_s": f"{score_s:.4g}",
            }
        append(path, row)
        print(f"{dataset} {split} {name}: {row['nll'] or row['status']}", flush=True)


def append(path: Path, row: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


def read(path: Path) -> list[dict[str, str]]:
    """Return the latest row of every cell."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        latest = {
            (row["dataset"], row["split"], row["model"]): row
            for row in csv.DictReader(file)
        }
    return list(latest.values())


def summarize(rows: list[dict[str, str]]) -> str:
    """Return the table of negative log likelihoods, means over splits, and the counts.

    A model is compared with ours over the splits that both ran on.
    """
    rows = [row for row in rows if row["status"] == "ok"]
    models = [m for m in _density_peers.MODELS if any(r["model"] == m for r in rows)]
    sets = [s for s in _density_sets.SETS if any(r["dataset"] == s for r in rows)]
    lines, table, seconds = [], [], {m: [] for m in models}
    lost: dict[str, list[str]] = {m: [] for m in models}
    behind: dict[str, list[str]] = {m: [] for m in models}
    for name in sets:
        of_set = [row for row in rows if row["dataset"] == name]
        values = []
        for model in models:
            own = [row for row in of_set if row["model"] == model]
            values.append(np.mean([float(row["nll"]) for row in own] or [np.nan]))
            seconds[model] += [float(row["fit_s"]) for row in own]
            if own and model != OURS:
                gain = np.mean([float(row["minus_ours"]) for row in own])
                errors = [float(row["paired_error"]) for row in own]
                if gain < -2 * np.sqrt(np.square(errors).sum()) / len(own):
                    lost[model].append(name)
                if gain <= 0:
                    behind[model].append(name)
        table.append(values)
        ours = [row for row in of_set if row["model"] == OURS]
        size = f"{of_set[0]['n_train']} x {of_set[0]['n_features']}"
        best = np.nanmin(values)
        marked = [f"**{v:.3f}**" if v == best else f"{v:.3f}" for v in values]
        lines.append([name, size, str(len(ours)), *marked])
    values = np.array(table)
    shared = np.isfinite(values).all(axis=1)
    for title, part in (
        (f"mean of the {shared.sum()} sets of all models", values[shared]),
        ("mean of all sets", values),
    ):
        lines.append([title, "", "", *(f"{v:.3f}" for v in part.mean(0))])
    middle = [f"{np.median(seconds[m]):.3g}" for m in models]
    lines.append(["median CPU-s of a fit", "", "", *middle])
    worse = {name for model in RIVALS for name in lost.get(model, [])}
    note = [
        "Negative log likelihood of test rows in nats, lower is better; means over "
        f"splits. {OURS} is not worse than any mixture or the kernel density by more "
        "than 2 paired standard errors, over the splits pooled, on "
        f"{len(sets) - len(worse)} of {len(sets)} sets"
        + (f" (worse on {', '.join(sorted(worse))})." if worse else ".")
    ]
    for model in models:
        if model != OURS:
            ran = sum(
                any(r["model"] == model for r in rows if r["dataset"] == s)
                for s in sets
            )
            names = f" (not on {', '.join(behind[model])})" if behind[model] else ""
            note.append(
                f"- {OURS} is better than {model} in the mean on "
                f"{ran - len(behind[model])} of {ran} sets{names}."
            )
    header = markdown(["set", "rows", "splits", *models], lines)
    return "\n".join(note).replace("\n-", "\n\n-", 1) + f"\n\n{header}"


if __name__ == "__main__":
    main()
