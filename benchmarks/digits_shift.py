"""Digits, clean and corrupted: an SDE-BNN beside ODE-Nets, ensembles and dropout.

scikit-learn's digits (8 x 8), 70 % for training, stratified, a split per seed; six
corruptions of the test images at five severities (`_corruptions.py`), after figure 7 of
Xu, Chen, Li, Duvenaud 2022 (arXiv 2102.06559). Every model has the pixels as columns
and its defaults; nothing is chosen by the test rows. One thread, CPU-seconds.

Estimators of skfunc standardize every column, which blows up noise in pixels that are
almost never lit; so does a StandardScaler ("standardized"). "One scale" is the same
model with one mean and one scale for all pixels, as dropout has.

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
from sklearn.preprocessing import StandardScaler

from _image_peers import MCDropoutClassifier, OneScale, one_scale_per_channel
from _measure import library_versions, one_thread
from _models import display_name
from _peers import MLPEnsembleClassifier
from _rows import RowFile
from _shift import (
    OURS,
    Candidate,
    Images,
    collect,
    draw,
    report,
    run_candidate,
    sde_bnn,
)
from skfunc import ODENetClassifier

RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parents[1] / "docs" / "_static"
BASE = "digits"
TEST_SHARE = 0.3
# Chosen among .05, .1, .2 and .4 by a quarter of the training rows, splits 0 to 2.
DROPOUT = 0.4
ODE_NET = "ODENetClassifier"
ONE_SCALE = ", one scale"
SINGLE, DEFAULT = "1 member", "8 members"
EQUAL = " members for the cost of the SDE-BNN" + ONE_SCALE
MOST_MEMBERS = 64
DROPOUT_NAME = "MC dropout"


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


ALIKE = one_scale_per_channel(ODENetClassifier)


def ode_net(estimator: type, n_members: int, seed: int):
    return estimator(n_members=n_members, random_state=seed)


def mlps(scaler: type, seed: int):
    return make_pipeline(scaler(), MLPEnsembleClassifier(random_state=seed))


def candidates() -> list[Candidate]:
    """List the peers, and the SDE-BNN where it can be imported."""
    found = []
    ours = sde_bnn()
    if ours is not None:
        alike = one_scale_per_channel(ours)
        found += [
            Candidate(OURS, "", lambda seed: ours(random_state=seed)),
            Candidate(OURS, ONE_SCALE[2:], lambda seed: alike(random_state=seed)),
        ]
    for label, n_members in ((SINGLE, 1), (DEFAULT, 8)):
        found += [
            Candidate(ODE_NET, label, partial(ode_net, ODENetClassifier, n_members)),
            Candidate(ODE_NET, label + ONE_SCALE, partial(ode_net, ALIKE, n_members)),
        ]
    return [
        *found,
        *(
            Candidate("5 MLPClassifiers", label, partial(mlps, scaler))
            for label, scaler in (
                ("standardized", StandardScaler),
                (ONE_SCALE[2:], OneScale),
            )
        ),
        Candidate(
            DROPOUT_NAME,
            "32 passes",
            lambda seed: MCDropoutClassifier(dropout=DROPOUT, random_state=seed),
        ),
    ]


def members_of_equal_cost(rows: list[dict]) -> int | None:
    """Return how many members cost what the SDE-BNN does, fit and prediction.

    The cost is taken to be a line through those of one member and of eight.
    """
    cost = {}
    one_scale = ONE_SCALE[2:]
    compared = [(ODE_NET, SINGLE + ONE_SCALE), (ODE_NET, DEFAULT + ONE_SCALE)]
    for model, label in (*compared, (OURS, one_scale)):
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
    rows = RowFile(options.results / "digits_shift.csv")
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
            equal = Candidate(ODE_NET, label, partial(ode_net, ALIKE, members))
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
            f"that of the clean test rows.{equal_cost} {library_versions()}",
            report(shift),
        ]
    )
    print(text)
    (options.results / "digits_shift.md").write_text(text + "\n")
    options.figures.mkdir(parents=True, exist_ok=True)
    # Errors of columns scaled one by one are so large that the others would look alike.
    shown = [m for m in shift.models if ONE_SCALE[2:] in m or DROPOUT_NAME in m]
    draw({BASE: shift}, options.figures / "digits_shift.png", shown)


if __name__ == "__main__":
    main()
