"""Classifiers of images under corruption: rows, tables and the picture."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np

from _corruptions import CORRUPTIONS, SEVERITIES, corrupt
from _measure import cpu_seconds, expected_calibration_error, library_versions
from _models import display_name
from _peers import align_classes, log_loss
from _rows import RowFile, row_key
from _table import markdown

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullLocator

METRICS = ("error", "log_loss", "ece")
TITLES = {"error": "error", "log_loss": "NLL", "ece": "ECE"}
OURS = "SDEBNNClassifier"
# The calibration error that sampling alone would cause, beside the usual figures.
FLOOR = "ece_floor"
FLOOR_DRAWS = 200


@dataclass(frozen=True)
class Images:
    """Flattened rows in [0, 1], labels, and the shape of a row."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    image_shape: tuple[int, int, int]


@dataclass(frozen=True)
class Candidate:
    """A classifier under a name; `build` takes the seed."""

    name: str
    label: str
    build: Callable[[int], object]


def with_known(estimator, **parameters):
    """Set those parameters that the estimator has."""
    known = estimator.get_params()
    return estimator.set_params(**{k: v for k, v in parameters.items() if k in known})


def dataset_name(base: str, kind: str, severity: int) -> str:
    """Name of a corrupted set in the file of rows; severity 0 is the set itself."""
    return f"{base}, {kind} {severity}" if severity else base


def conditions() -> list[tuple[str, int]]:
    """List all corruptions and severities, the clean images first."""
    pairs = [(kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES[1:]]
    return [("", 0), *pairs]


def run_candidate(
    candidate: Candidate, base: str, images: Images, split: int, rows: RowFile
) -> None:
    """Fit once and judge under every corruption, unless all rows are there."""
    fixed = {
        "task": "classification",
        "split": split,
        "model": candidate.name,
        "label": candidate.label,
        "max_train": len(images.y),
    }
    title = (base, split, candidate.name, candidate.label)
    names = {pair: dataset_name(base, *pair) for pair in conditions()}
    done = rows.done(failures=False)
    if all(row_key(fixed | {"dataset": name}) in done for name in names.values()):
        return
    fixed |= {
        "n_train": len(images.y),
        "n_test": len(images.y_test),
        "n_features": images.X.shape[1],
        "versions": library_versions(),
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for pair, figures in judge(candidate.build(split), images, split):
                rows.append(fixed | figures | {"dataset": names[pair], "status": "ok"})
                if pair == ("", 0):
                    print(*title, figures, flush=True)
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        status = f"failed: {type(error).__name__}: {text}"
        rows.append(fixed | {"dataset": base, "status": status})
        print(*title, status, flush=True)


def judge(model, images: Images, seed: int):
    """Fit and yield (corruption, severity) and figures, the clean images first.

    The seed is that of the corruptions. CPU-seconds are those of the fit, and of the
    fit with one prediction.
    """
    begin = cpu_seconds()
    model.fit(images.X, images.y)
    fit_s = cpu_seconds() - begin
    for kind, severity in conditions():
        X = corrupted(images, kind, severity, seed)
        begin = cpu_seconds()
        proba = np.asarray(model.predict_proba(X))
        cost = {"fit_s": fit_s, "cpu_s": fit_s + cpu_seconds() - begin}
        yield (kind, severity), figures_of(proba, model.classes_, images) | cost


def judge_fitted(
    model, images: Images, kind: str, severity: int, seed: int
) -> dict[str, float]:
    """Return what the model's probabilities for corrupted test images are worth."""
    proba = np.asarray(model.predict_proba(corrupted(images, kind, severity, seed)))
    return figures_of(proba, model.classes_, images)


def corrupted(images: Images, kind: str, severity: int, seed: int) -> np.ndarray:
    """Return flattened test images; severity 0 leaves them as they are."""
    X = images.X_test
    if not severity:
        return X
    return corrupt(X.reshape(-1, *images.image_shape), kind, severity, seed).reshape(
        X.shape
    )


def figures_of(
    proba: np.ndarray, known: np.ndarray, images: Images
) -> dict[str, float]:
    """Return what probabilities of the `known` classes say of the test labels."""
    classes = np.unique(np.concatenate([images.y, images.y_test]))
    proba = align_classes(proba, known, classes)
    right = classes[proba.argmax(axis=1)] == images.y_test
    confidence = proba.max(axis=1)
    return {
        "accuracy": float(right.mean()),
        "log_loss": float(log_loss(images.y_test, proba, classes)),
        "ece": float(expected_calibration_error(confidence, right)),
        FLOOR: calibration_floor(confidence),
    }


def calibration_floor(confidence: np.ndarray) -> float:
    """Return the expected calibration error if the probabilities were true.

    Labels drawn from the model's own probabilities are right as often as it says, and
    a finite number of them still leaves a gap in every bin.
    """
    rng = np.random.default_rng(0)
    right = rng.random((FLOOR_DRAWS, len(confidence))) < confidence
    return float(np.mean([expected_calibration_error(confidence, r) for r in right]))


@dataclass(frozen=True)
class Shift:
    """Figures of models on one set, over the splits that all models share.

    ``figures[metric]`` has shape (models, splits, corruptions, severities); at severity
    0 all corruptions are the clean images. `floor` is that of the calibration error,
    not a number where rows lack it, of the same shape.
    """

    models: list[str]
    splits: list[str]
    n_train: int
    n_test: int
    figures: dict[str, np.ndarray]
    floor: np.ndarray
    fit_s: np.ndarray
    predict_s: np.ndarray
    left_out: list[str]


def collect(
    rows: Iterable[dict], base: str, order: list[str], n_train: int
) -> Shift | None:
    """Return the figures of the models that have complete splits, or None.

    Rows of other numbers of training rows do not count. A model with less than half of
    the splits of the fullest one is left out. `order` is that of the models in tables;
    names that it lacks come last.
    """
    cells: dict[str, dict[str, dict[str, dict]]] = {}
    left_out = []
    for row in rows:
        name = display_name(row["model"], row["label"])
        of_base = row["dataset"].split(", ")[0] == base
        if of_base and row["status"] != "ok":
            left_out.append(f"{name}, split {row['split']}: {row['status']}")
        elif of_base and row["n_train"] == n_train:
            by_split = cells.setdefault(name, {}).setdefault(str(row["split"]), {})
            by_split[row["dataset"]] = row
    names = [dataset_name(base, *pair) for pair in conditions()]
    complete = {
        model: {s for s, found in splits.items() if all(n in found for n in names)}
        for model, splits in cells.items()
    }
    most = max(map(len, complete.values()), default=0)
    left_out += [
        f"{model}: {len(found)} of {most} splits"
        for model, found in complete.items()
        if len(found) < most
    ]
    complete = {m: s for m, s in complete.items() if len(s) * 2 >= most and s}
    shared = set.intersection(*complete.values()) if complete else set()
    if not shared:
        return None
    splits = sorted(shared, key=int)
    models = sorted(
        complete, key=lambda m: (order.index(m) if m in order else len(order), m)
    )

    shape = (len(models), len(splits), len(CORRUPTIONS), len(SEVERITIES))
    found = [
        cells[model][split][dataset_name(base, kind, severity)]
        for model, split, kind, severity in product(
            models, splits, CORRUPTIONS, SEVERITIES
        )
    ]

    def values(name: str) -> np.ndarray:
        return np.array([row.get(name, np.nan) for row in found]).reshape(shape)

    first = cells[models[0]][splits[0]][base]
    fit = values("fit_s")[:, :, 0, 0]
    return Shift(
        models=models,
        splits=splits,
        n_train=int(first["n_train"]),
        n_test=int(first["n_test"]),
        figures={
            "error": 1.0 - values("accuracy"),
            "log_loss": values("log_loss"),
            "ece": values("ece"),
        },
        floor=values(FLOOR),
        fit_s=fit,
        predict_s=values("cpu_s")[:, :, 0, 0] - fit,
        left_out=left_out,
    )


def report(shift: Shift) -> str:
    """Return tables: clean and shifted means, by severity, by corruption."""
    clean = {m: shift.figures[m][:, :, 0, 0] for m in METRICS}
    shifted = {m: shift.figures[m][:, :, :, 1:].mean(axis=(2, 3)) for m in METRICS}
    floors = (shift.floor[:, :, 0, 0], shift.floor[:, :, :, 1:].mean(axis=(2, 3)))
    n = len(shift.splits)
    lines = []
    for i, model in enumerate(shift.models):
        cells = [model]
        for part, floor in zip((clean, shifted), floors, strict=True):
            error = 100 * part["error"][i]
            spread = f" ± {error.std(ddof=1) / n**0.5:.2f}" if n > 1 else ""
            cells += [f"{100 - error.mean():.2f}{spread}"]
            cells += [f"{part[m][i].mean():.4f}" for m in ("log_loss", "ece")]
            cells += ["" if np.isnan(floor[i]).any() else f"{floor[i].mean():.4f}"]
        cells += [f"{s[i].mean():.3g}" for s in (shift.fit_s, shift.predict_s)]
        lines.append(cells)
    header = ["model", "accuracy, %", "NLL", "ECE", "its floor"]
    header += [f"shifted: {name}" for name in header[1:]]
    parts = [markdown([*header, "fit, CPU-s", "predict, CPU-s"], lines)]
    for metric in METRICS:
        values = shift.figures[metric].mean(axis=(1, 2))
        title = TITLES[metric]
        parts += [
            f"{title} by severity, a mean over corruptions:",
            _by_model(shift.models, values, [str(s) for s in SEVERITIES], "severity"),
            f"{title} by corruption, a mean over severities 1 to 5:",
            _by_model(
                shift.models,
                shift.figures[metric][:, :, :, 1:].mean(axis=(1, 3)),
                list(CORRUPTIONS),
                "corruption",
            ),
        ]
    if shift.left_out:
        parts += ["Not in the means:", "\n".join(f"- {t}" for t in shift.left_out)]
    return "\n\n".join(parts)


def _by_model(models, values, columns, title) -> str:
    is_best = values == values.min(axis=0)
    lines = [
        [
            model,
            *(f"**{v:.3f}**" if b else f"{v:.3f}" for v, b in zip(*line, strict=True)),
        ]
        for model, *line in zip(models, values, is_best, strict=True)
    ]
    return markdown([f"model, {title}", *columns], lines)


def draw(
    shifts: dict[str, Shift], path: Path, shown: Iterable[str] | None = None
) -> None:
    """Draw error, NLL and ECE against severity, a line of panels for each set.

    `shown` names the models to draw, all by default.
    """
    figure, axes = plt.subplots(
        len(shifts),
        len(METRICS),
        figsize=(9.5, 2.7 * len(shifts) + 1.0),
        layout="constrained",
        squeeze=False,
    )
    models = list(dict.fromkeys(m for shift in shifts.values() for m in shift.models))
    if shown is not None:
        chosen = set(shown)
        models = [m for m in models if m in chosen]
    for line, (base, shift) in zip(axes, shifts.items(), strict=True):
        for axis, metric in zip(line, METRICS, strict=True):
            for model, values in zip(shift.models, shift.figures[metric], strict=True):
                if model not in models:
                    continue
                ours = model.startswith(OURS)
                axis.plot(
                    SEVERITIES,
                    values.mean(axis=(0, 1)),
                    "o-" if ours else ".-",
                    color=f"C{models.index(model)}",
                    linewidth=1.8 if ours else 1.2,
                    zorder=3 if ours else 2,
                    label=model,
                )
            axis.set(title=f"{base}: {TITLES[metric]}", yscale="log")
            axis.set_xticks(SEVERITIES)
            axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_locator(NullLocator())
    for axis in axes[-1]:
        axis.set_xlabel("severity")
    found: dict[str, object] = {}
    for axis in axes[:, 0]:
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=2,
        fontsize=8,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
