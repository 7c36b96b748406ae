"""Digits, clean and corrupted: an SDE-BNN beside ODE-Nets, ensembles and dropout.

scikit-learn's digits (8 x 8), 70 % for training, stratified, a split per seed; six
corruptions of the test images at five severities (`_corruptions.py`), after figure 7 of
Xu, Chen, Li, Duvenaud 2022 (arXiv 2102.06559). Every model has its defaults, and a
network of dense layers; nothing is chosen by the test rows. One thread, CPU-seconds.

All pixels share one mean and one scale, in skfunc because `image_shape` says that the
columns are pixels. "As columns" is the same model without it: every column has a scale
of its own, which blows up noise in pixels that are almost never lit.

Rows that are in ``benchmarks/results/digits_shift.csv`` are not computed again::

    python benchmarks/digits_shift.py --seeds 5

One variant of the ODE-Net has as many members as cost what the SDE-BNN costs, known
once the latter has rows. Writes ``digits_shift.md`` beside the rows, and
``docs/_static/digits_shift.png``.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from _image_peers import MCDropoutClassifier, OneScale
from _measure import library_versions, one_thread
from _models import display_name
from _peers import MLPEnsembleClassifier
from _rows import RowFile
from _shift import (
    FLOOR,
    OURS,
    Candidate,
    Images,
    collect,
    draw,
    report,
    run_candidate,
)
from skfunc import ODENetClassifier, SDEBNNClassifier

RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parents[1] / "docs" / "_static"
BASE = "digits"
TEST_SHARE = 0.3
# Chosen among .05, .1, .2 and .4 by a quarter of the training rows, splits 0 to 2.
DROPOUT = 0.4
ODE_NET = "ODENetClassifier"
PIXELS = {"image_shape": (1, 8, 8), "field": "mlp"}
SINGLE, DEFAULT = "1 member", "8 members"
AS_COLUMNS = ", as columns"
EQUAL = " members for the cost of the SDE-BNN"
MOST_MEMBERS = 64


def load(seed: int) -> Images:
    """Return one split."""
    digits = load_digits()
    X, X_test, y, y_test = train_test_split(
        digits.data / 16.0,
        digits.target,
        test_size=TEST_SHARE,
        stratify=digits.target,
        random_state=seed,
    )
    return Images(X, y, X_test, y_test, (1, 8, 8))


def network(estimator: type, n_members: int, options: dict, seed: int):
    return estimator(n_members=n_members, random_state=seed, **options)


def mlps(seed: int):
    return make_pipeline(OneScale(), MLPEnsembleClassifier(random_state=seed))


def candidates() -> list[Candidate]:
    """List the models, but for the ODE-Net of equal cost."""
    networks = [
        Candidate(name, label, partial(network, estimator, n_members, options))
        for name, estimator in ((OURS, SDEBNNClassifier), (ODE_NET, ODENetClassifier))
        for label, n_members, options in (
            (SINGLE, 1, PIXELS),
            (DEFAULT, 8, PIXELS),
            (DEFAULT + AS_COLUMNS, 8, {}),
        )
    ]
    return [
        *networks,
        Candidate("5 MLPClassifiers", "", mlps),
        Candidate(
            "MC dropout",
            "32 passes",
            lambda seed: MCDropoutClassifier(dropout=DROPOUT, random_state=seed),
        ),
    ]


def members_of_equal_cost(rows: list[dict]) -> int | None:
    """Return how many members cost what the SDE-BNN does, fit and prediction.

    The cost is taken to be a line through those of one member and of eight.
    """
    cost = {}
    for model, label in ((ODE_NET, SINGLE), (ODE_NET, DEFAULT), (OURS, DEFAULT)):
        seconds = [
            row["cpu_s"]
            for row in rows
            if (row["model"], row["label"], row["dataset"], row["status"])
            == (model, label, BASE, "ok")
        ]
        if not seconds:
            return None
        cost[model, label] = float(np.mean(seconds))
    one, eight, goal = cost.values()
    slope = (eight - one) / 7
    if slope <= 0:
        return MOST_MEMBERS
    members = 1 + (goal - one) / slope
    return int(np.clip(round(members), 1, MOST_MEMBERS))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--models", nargs="*", help="names; default: all")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    options = parser.parse_args(arguments)
    rows = RowFile(options.results / "digits_shift.csv", [FLOOR])
    compared = candidates()
    chosen = [c for c in compared if not options.models or c.name in options.models]
    with one_thread():
        for seed in range(options.seeds):
            images = load(seed)
            for candidate in chosen:
                run_candidate(candidate, BASE, images, seed, rows)
        members = members_of_equal_cost(rows.read())
        if members is not None and (not options.models or ODE_NET in options.models):
            label = f"{members}{EQUAL}"
            build = partial(network, ODENetClassifier, members, PIXELS)
            equal = Candidate(ODE_NET, label, build)
            compared.append(equal)
            for seed in range(options.seeds):
                run_candidate(equal, BASE, load(seed), seed, rows)
    order = [display_name(c.name, c.label) for c in compared]
    # Rows for a cost that the SDE-BNN no longer has are left out.
    current = [
        row
        for row in rows.read()
        if EQUAL not in row["label"] or row["label"] == f"{members}{EQUAL}"
    ]
    shift = collect(current, BASE, order, len(load(0).y))
    if shift is None:
        raise SystemExit("there is no complete row")
    equal_cost = "" if members is None else f" The SDE-BNN costs as {members} members."
    text = "\n\n".join(
        [
            "# Digits, clean and corrupted",
            "Written by `benchmarks/digits_shift.py`. Means over "
            f"{len(shift.splits)} stratified splits (± standard error), "
            f"{shift.n_train} training and {shift.n_test} test rows; shifted: a mean "
            "over six corruptions and severities 1 to 5. One thread; the prediction is "
            "that of the clean test rows. The floor of the ECE is what the model would "
            "show on as many rows if its probabilities were true."
            f"{equal_cost} {library_versions()}",
            report(shift),
        ]
    )
    print(text)
    (options.results / "digits_shift.md").write_text(text + "\n")
    options.figures.mkdir(parents=True, exist_ok=True)
    # Errors of columns scaled one by one are so large that the others would look alike.
    shown = [m for m in shift.models if AS_COLUMNS not in m]
    draw({BASE: shift}, options.figures / "digits_shift.png", shown)


if __name__ == "__main__":
    main()
