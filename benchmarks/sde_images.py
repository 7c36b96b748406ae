"""Images, clean and corrupted: a convolutional SDE-BNN for the cost of its peers.

MNIST, CIFAR-10 and, where its file is there, Fashion-MNIST, at the sizes that two cores
allow; after table 1 and figure 7 of Xu, Chen, Li, Duvenaud 2022 (arXiv 2102.06559). All
networks have the same stem, head and width, and train for the same CPU-seconds, but for
the ensemble of residual networks, each member of which does: the number of epochs
follows from the measured cost of one. All see pixels on one scale per channel. One
thread.

Rows that are in ``benchmarks/results/sde_images.csv`` are not computed again::

    python benchmarks/sde_images.py --sets mnist cifar10

Writes ``sde_images.md`` beside the rows, and ``docs/_static/sde_images.png``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from _data import data_folder
from _image_peers import MCDropoutClassifier, ResidualNet, ResNetClassifier
from _measure import cpu_seconds, library_versions, one_thread
from _models import display_name
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
# The first file that is there; by default, training rows, test rows, side and
# CPU-seconds.
SETS = {
    "mnist": (("mnist",), 6000, 500, 14, 30),
    "fashion_mnist": (("fashion_mnist",), 6000, 500, 14, 30),
    "cifar10": (("cifar10_full", "cifar10_10k2k"), 4000, 500, 16, 30),
}
# As in `mnist.py`, but with rows kept out, which also calibrate the probabilities.
SHARED = {
    "activation": "relu",
    "batch_size": 64,
    "learning_rate_init": 2e-3,
    "n_iter_no_change": 10_000,
}
# One step as well as the SDE-BNN's: more epochs in the time (rows kept out of MNIST).
SOLVER = {"solver": "midpoint", "n_steps": 1}
CHANNELS = 16
N_MEMBERS = 4
N_NETWORKS = 5
DROPOUT = 0.1
# Weight paths of the SDE-BNN of one member, and passes of dropout, in a prediction.
N_DRAWS = 16
# Label, members and weight paths of the SDE-BNNs. All rows go along up to four paths of
# each member when a fit is calibrated: with four members that would be most of the
# budget, so that they have one each.
SDE_NETS = (
    ("1 member", 1, N_DRAWS),
    (f"{N_MEMBERS} members", N_MEMBERS, N_MEMBERS),
)


def path_of(name: str) -> Path | None:
    """Return the first file of a set that is there."""
    candidates = (data_folder() / "images" / f"{stem}.npz" for stem in SETS[name][0])
    return next((path for path in candidates if path.exists()), None)


def load(name: str, rows: int, test_rows: int, side: int, seed: int = 0) -> Images:
    """Return random images, averaged over squares; the test images are always the same.

    `rows` and `test_rows` are the most; a `side` that does not divide the images' is an
    error.
    """
    path = path_of(name)
    if path is None:
        raise FileNotFoundError(f"no file of {name} in {data_folder() / 'images'}")
    with np.load(path, allow_pickle=False) as file:
        train, test = file["X_train"], file["X_test"]
        y, y_test = file["y_train"].astype(int), file["y_test"].astype(int)
    chosen = np.random.default_rng(seed).permutation(len(train))[:rows]
    judged = np.random.default_rng(0).permutation(len(test))[:test_rows]

    def averaged(images: np.ndarray) -> np.ndarray:
        images = images.reshape(*images.shape[:3], -1)
        n, whole, _, channels = images.shape
        step, left = divmod(whole, side)
        if left:
            raise ValueError(f"images of side {whole} have no averages of side {side}")
        blocks = images.reshape(n, side, step, side, step, channels) / 255.0
        return blocks.mean(axis=(2, 4)).transpose(0, 3, 1, 2)

    X, X_test = averaged(train[chosen]), averaged(test[judged])
    return Images(
        X.reshape(len(X), -1),
        y[chosen],
        X_test.reshape(len(X_test), -1),
        y_test[judged],
        X.shape[1:],
    )


def epochs_within(model, images: Images, seconds: float) -> int:
    """Return how many epochs take so many CPU-seconds, from fits of a tenth.

    What a fit costs besides its epochs, such as the calibration by rows kept out, grows
    with the rows as well, and is a part of the budget.
    """
    part = min(max(len(images.y) // 10, 64), len(images.y))
    X, y = images.X[:part], images.y[:part]
    model.set_params(max_iter=1).fit(X, y)
    cost = {}
    for epochs in (1, 5):
        begin = cpu_seconds()
        model.set_params(max_iter=epochs).fit(X, y)
        cost[epochs] = (cpu_seconds() - begin) * len(images.y) / part
    per_epoch = max((cost[5] - cost[1]) / 4, 1e-9)
    besides = max(cost[1] - per_epoch, 0.0)
    return max(1, round((seconds - besides) / per_epoch))


def sde_bnn(build: Callable, n_members: int, n_paths: int, seed: int):
    # One step, as cheap as half of the ODE-Net's: better than two on rows kept out.
    return build(
        n_members=n_members, n_predict_paths=n_paths, n_steps=1, random_state=seed
    )


def builders(
    image_shape: tuple[int, int, int], channels: int, device: str = "cpu"
) -> dict[tuple[str, str], tuple[float, Callable[[int], object]]]:
    """Return by name and label: the share of the budget, and what takes the seed."""
    shared = SHARED | {
        "image_shape": image_shape,
        "state_size": channels,
        "device": device,
    }
    ode_net = partial(ODENetClassifier, **shared, **SOLVER)
    resnet = partial(ResNetClassifier, **shared)
    sde_net = partial(SDEBNNClassifier, **shared)

    def residual(n_features: int, n_classes: int, dropout: float) -> ResidualNet:
        return ResidualNet(n_classes, channels, image_shape, dropout)

    ours = {
        (OURS, label): (1.0, partial(sde_bnn, sde_net, n_members, n_paths))
        for label, n_members, n_paths in SDE_NETS
    }
    return ours | {
        ("ODENetClassifier", "1 member"): (
            1.0,
            lambda seed: ode_net(n_members=1, random_state=seed),
        ),
        ("ODENetClassifier", f"{N_MEMBERS} members"): (
            1.0,
            lambda seed: ode_net(n_members=N_MEMBERS, random_state=seed),
        ),
        ("residual network", ""): (
            1.0,
            lambda seed: resnet(n_members=1, random_state=seed),
        ),
        ("MC dropout", "residual network"): (
            1.0,
            lambda seed: MCDropoutClassifier(
                residual,
                dropout=DROPOUT,
                n_passes=N_DRAWS,
                batch_size=SHARED["batch_size"],
                learning_rate_init=SHARED["learning_rate_init"],
                device=device,
                random_state=seed,
            ),
        ),
        (f"{N_NETWORKS} residual networks", f"{N_NETWORKS} times the cost"): (
            float(N_NETWORKS),
            lambda seed: resnet(n_members=N_NETWORKS, random_state=seed),
        ),
    }


def candidates(images: Images, channels: int, seconds: float) -> list[Candidate]:
    """List the models, each trained for its share of the CPU-seconds."""

    def within(share: float, build: Callable[[int], object], seed: int):
        model = build(seed)
        epochs = epochs_within(model, images, share * seconds)
        print(f"{epochs} epochs", flush=True)
        return model.set_params(max_iter=epochs)

    return [
        Candidate(name, label, partial(within, share, build))
        for (name, label), (share, build) in builders(
            images.image_shape, channels
        ).items()
    ]


def table_name(candidate: Candidate) -> str:
    return display_name(candidate.name, candidate.label)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument(
        "--models", nargs="*", help="names, of tables or without labels"
    )
    parser.add_argument("--rows", type=int, help="training rows; default: by set")
    parser.add_argument("--test-rows", type=int, help="default: by set")
    parser.add_argument("--side", type=int, help="default: by set")
    parser.add_argument("--seconds", type=float, help="default: by set")
    parser.add_argument("--channels", type=int, default=CHANNELS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    options = parser.parse_args(arguments)
    rows = RowFile(options.results / "sde_images.csv", [FLOOR])
    order: list[str] = []
    shifts = {}
    budgets = {}
    for name in options.sets:
        if path_of(name) is None:
            print(f"{name} is skipped, there is no file of it")
            continue
        given = (options.rows, options.test_rows, options.side, options.seconds)
        *sizes, seconds = (a or b for a, b in zip(given, SETS[name][1:], strict=True))
        title = f"{name} {sizes[2]} x {sizes[2]}"
        base = f"{title} {options.channels} channels {seconds:g} s"
        with one_thread():
            for seed in range(options.seeds):
                images = load(name, *sizes, seed=seed)
                compared = candidates(images, options.channels, seconds)
                order = [table_name(c) for c in compared]
                for candidate in compared:
                    names = {candidate.name, table_name(candidate)}
                    if not options.models or names & set(options.models):
                        run_candidate(candidate, base, images, seed, rows)
        shift = collect(rows.read(), base, order, len(images.y))
        if shift is not None:
            shifts[title] = shift
            budgets[title] = seconds
    if not shifts:
        raise SystemExit("there is no complete row")
    parts = [
        "# Images, clean and corrupted",
        f"Written by `benchmarks/sde_images.py`. {options.channels} channels, one "
        "thread; shifted: a mean over six corruptions and severities 1 to 5; the "
        "prediction is that of the clean test rows. The floor of the ECE is what the "
        "model would show on as many rows if its probabilities were true. "
        f"{library_versions()}",
    ]
    for title, shift in shifts.items():
        parts += [
            f"## {title}",
            f"{shift.n_train} training and {shift.n_test} test rows, "
            f"{len(shift.splits)} seeds; about {budgets[title]:g} CPU-seconds of "
            "training each.",
            report(shift),
        ]
    text = "\n\n".join(parts)
    print(text)
    (options.results / "sde_images.md").write_text(text + "\n")
    options.figures.mkdir(parents=True, exist_ok=True)
    draw(shifts, options.figures / "sde_images.png")


if __name__ == "__main__":
    main()
