"""Summary tables of the rows, over the cells that all models share."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from _models import SKFUNC, display_name

NLL_CEILING = 5.0
MIN_SHARE_OF_CELLS = 0.5

LOSS = {"regression": "nll", "classification": "log_loss"}
SECOND = {"regression": "rmse", "classification": "accuracy"}
TITLES = {
    "rmse": "RMSE",
    "nll": "NLL",
    "nll_gauss": "NLL of a Gaussian",
    "crps": "CRPS",
    "cov90": "coverage of 90 %",
    "accuracy": "accuracy",
    "log_loss": "log-loss",
    "ece": "ECE",
}
MEANS = {
    "regression": ("nll", "nll_gauss", "crps", "rmse", "cov90"),
    "classification": ("log_loss", "accuracy", "ece"),
}
HIGHER_IS_BETTER = {"accuracy"}


@dataclass
class Comparison:
    """The models of one task and the figures of their shared cells.

    ``figures[metric]`` has a row per shared (dataset, split) cell and a column per
    model.
    """

    task: str
    models: list[str]
    ours: list[bool]
    cells: list[tuple[str, str]]
    figures: dict[str, np.ndarray]
    failures: list[tuple[str, str, str, str]]
    left_out: list[tuple[str, int, int]]


def compare(rows: list[dict], task: str, named: list[str] | None = None) -> Comparison:
    """Collect the cells in which every model has finite figures.

    A model with less than half of the cells of the fullest one is left out, unless it
    was named, and listed.
    """
    by_model: dict[str, dict] = defaultdict(dict)
    attempts: dict[str, int] = defaultdict(int)
    failures, is_ours = [], {}
    for row in rows:
        if row["task"] != task:
            continue
        name = display_name(row["model"], row["label"])
        is_ours[name] = row["model"] in SKFUNC[task]
        attempts[name] += 1
        if row["status"] == "ok":
            by_model[name][row["dataset"], row["split"]] = row
        else:
            failures.append((name, row["dataset"], row["split"], row["status"]))
    most = max(attempts.values(), default=0)
    models, left_out = [], []
    for name in sorted(attempts):
        enough = attempts[name] >= MIN_SHARE_OF_CELLS * most
        if by_model[name] and (enough or (named and name.split("[")[0] in named)):
            models.append(name)
        else:
            left_out.append((name, len(by_model[name]), most))
    shared = set.intersection(*(set(by_model[m]) for m in models)) if models else set()
    cells = sorted(shared)
    figures = {
        metric: np.array([[by_model[m][c][metric] for m in models] for c in cells])
        for metric in (*MEANS[task], "cpu_s")
    }
    for metric in ("nll", "nll_gauss"):
        if metric in figures:
            figures[metric] = np.minimum(figures[metric], NLL_CEILING)
    ours = [is_ours[m] for m in models]
    return Comparison(task, models, ours, cells, figures, failures, left_out)


def summarize(rows: list[dict], task: str, named: list[str] | None = None) -> str:
    """Markdown of one task: means, per-set losses, wins, failures."""
    comparison = compare(rows, task, named)
    parts = [f"## {task.capitalize()}"]
    if comparison.cells:
        parts += [
            _means(comparison),
            _per_dataset(comparison),
            _wins(comparison),
        ]
    else:
        parts.append("No cell is shared by all models.")
    parts.append(_omissions(comparison))
    return "\n\n".join(part for part in parts if part) + "\n"


def _set_means(comparison: Comparison, metric: str) -> tuple[list[str], np.ndarray]:
    names = sorted({dataset for dataset, _ in comparison.cells})
    owner = np.array([dataset for dataset, _ in comparison.cells])
    values = comparison.figures[metric]
    return names, np.array([values[owner == name].mean(0) for name in names])


def _means(comparison: Comparison) -> str:
    task = comparison.task
    names, losses = _set_means(comparison, LOSS[task])
    ranks = rankdata(comparison.figures[LOSS[task]], axis=1).mean(0)
    columns = [_set_means(comparison, metric)[1].mean(0) for metric in MEANS[task]]
    seconds = np.median(comparison.figures["cpu_s"], axis=0)
    fastest = max(seconds.min(), 1e-6)
    header = [
        "model",
        *(TITLES[metric] for metric in MEANS[task]),
        "mean rank",
        "median CPU-s",
        "times the fastest",
    ]
    order = np.argsort(losses.mean(0))
    lines = [
        [
            comparison.models[i],
            *(f"{column[i]:.3f}" for column in columns),
            f"{ranks[i]:.2f}",
            f"{seconds[i]:.3g}",
            f"{seconds[i] / fastest:.3g}",
        ]
        for i in order
    ]
    clipped = f" NLL is clipped at {NLL_CEILING:g}." if task == "regression" else ""
    note = (
        f"Means over {len(names)} sets ({len(comparison.cells)} splits that all models "
        f"share), sorted and ranked by {TITLES[LOSS[task]]}; one thread, CPU-seconds "
        f"of fit and predict.{clipped}"
    )
    return f"{note}\n\n{markdown(header, lines)}"


def _per_dataset(comparison: Comparison) -> str:
    names, losses = _set_means(comparison, LOSS[comparison.task])
    lines = []
    for name, values in zip(names, losses, strict=True):
        best = values.min()
        cells = [f"**{v:.3f}**" if v == best else f"{v:.3f}" for v in values]
        lines.append([name, *cells])
    title = TITLES[LOSS[comparison.task]]
    table = markdown(["set", *comparison.models], lines)
    return f"### {title[0].upper()}{title[1:]} by set\n\n{table}"


def _wins(comparison: Comparison) -> str:
    if not any(comparison.ours) or all(comparison.ours):
        return ""
    peers = [i for i, ours in enumerate(comparison.ours) if not ours]
    lines = []
    for i, ours in enumerate(comparison.ours):
        if not ours:
            continue
        for metric in (LOSS[comparison.task], SECOND[comparison.task]):
            _, values = _set_means(comparison, metric)
            sign = 1 if metric in HIGHER_IS_BETTER else -1
            gains = [sign * (values[:, i] - values[:, j]) for j in peers]
            counts = [
                f"{(g > 0).sum()}-{(g == 0).sum()}-{(g < 0).sum()}" for g in gains
            ]
            lines.append([comparison.models[i], TITLES[metric], *counts])
    header = ["skfunc", "by", *(comparison.models[j] for j in peers)]
    table = markdown(header, lines)
    return f"### Sets won-tied-lost against each peer\n\n{table}"


def _omissions(comparison: Comparison) -> str:
    lines = [
        f"- failed: {name} on {dataset}, split {split}: {status}"
        for name, dataset, split, status in comparison.failures
    ]
    lines += [
        f"- left out of the tables: {name}, with {n} of {most} splits"
        for name, n, most in comparison.left_out
    ]
    return "### Not in the means\n\n" + "\n".join(lines) if lines else ""


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """Markdown table whose columns line up in plain text."""
    cells = [header, *lines]
    widths = [max(len(line[k]) for line in cells) for k in range(len(header))]
    rule = ["-" * w if k == 0 else "-" * (w - 1) + ":" for k, w in enumerate(widths)]
    return "\n".join(
        "| "
        + " | ".join(
            text.ljust(w) if k == 0 else text.rjust(w)
            for k, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in [header, rule, *lines]
    )
