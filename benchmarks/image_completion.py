"""Completions of images by a neural process, as more and more pixels are seen.

The protocol of Garnelo et al. 2018 (arXiv 1807.01613, 1807.01622) on MNIST and on faces
of 32 x 32 grey pixels: one `ImageCompleter` each, trained for a budget of CPU-seconds,
judged on test images by mean squared error and log-likelihood of the pixels that were
not seen. And scikit-learn's digits: the default fit beside the imputers of
scikit-learn, by cross-validation over images.

    python benchmarks/image_completion.py
    python benchmarks/image_completion.py --sets mnist --seconds 3600

Checkpoints lie in ``$SKFUNC_CACHE`` or ``~/.cache/skfunc``; a run that was stopped goes
on. Writes ``benchmarks/results/image_completion.md`` and ``.csv``, and
``docs/_static/image_completion_<set>.png``.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.linear_model import BayesianRidge
from sklearn.model_selection import KFold

from _data import data_folder
from _image_figure import draw_figure
from _image_training import train
from _measure import library_versions, one_thread
from _table import markdown
from skfunc import ImageCompleter

RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parents[1] / "docs" / "_static"
# File, CPU-seconds of training, and sizes of the context.
SETS = {
    "mnist": ("mnist.npz", 280.0, (0, 10, 30, 100, 300, 600)),
    "faces": ("faces_gray32.npz", 120.0, (0, 10, 30, 100, 300, 600)),
}
SHOWN = (10, 100, 300, None)
# The floor of the standard deviation; it bounds the log-likelihood of a pixel by 2.077.
MIN_STD = 0.05
DIGITS_SHARES = (0.1, 0.3, 0.7)
COLUMNS = ("set", "context", "MSE", "error", "log-likelihood", "error", "images")


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return training and test images as rows of values in [-.5, .5]."""
    path = data_folder() / "images" / SETS[name][0]
    with np.load(path, allow_pickle=False) as arrays:
        parts = [arrays[f"X_{part}"] for part in ("train", "test")]
    train_part, test_part = (p.reshape(len(p), -1) / 255.0 - 0.5 for p in parts)
    return train_part.astype(np.float32), test_part


def mask(X: np.ndarray, n_context: int, seed: int) -> np.ndarray:
    """Return images of which so many random pixels are seen; more for more."""
    keys = np.random.default_rng(seed).random(X.shape)
    ranks = keys.argsort(axis=1).argsort(axis=1)
    return np.where(ranks < n_context, X, np.nan)


def unseen_scores(
    completer: ImageCompleter, X: np.ndarray, n_context: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return squared error and log-likelihood of each image, means over pixels."""
    masked = mask(X, n_context, seed=0)
    filled, std = completer.transform(masked, return_std=True)
    missing = np.isnan(masked)
    squares = np.square(filled - X)
    std = np.where(missing, std, 1.0)
    logs = -0.5 * (squares / std**2 + np.log(2 * np.pi)) - np.log(std)
    n_missing = missing.sum(1)
    return (
        (squares * missing).sum(1) / n_missing,
        (logs * missing).sum(1) / n_missing,
    )


def by_context(name: str, completer: ImageCompleter, X: np.ndarray) -> list[list]:
    lines = []
    for n_context in SETS[name][2]:
        line = [name, n_context]
        for values in unseen_scores(completer, X, n_context):
            error = values.std(ddof=1) / np.sqrt(len(values))
            line += [float(values.mean()), float(error)]
        lines.append([*line, len(X)])
        print(*lines[-1], flush=True)
    return lines


def digits_folds(n_folds: int, seed: int) -> list[tuple[str, list[float], float]]:
    """Return errors of each model by share of pixels seen, and its CPU-seconds.

    In squared units of the digits, 0 to 16, means over folds. The imputers are fitted
    on whole training images; the iterative one, which learns from gaps alone, on
    training images and masked ones together.
    """
    X = load_digits().data
    errors: dict[str, list[list[float]]] = {}
    seconds: dict[str, list[float]] = {}
    folds = KFold(n_folds, shuffle=True, random_state=seed)
    for fold, (train_rows, test_rows) in enumerate(folds.split(X)):
        learn, whole = X[train_rows], X[test_rows]
        began = time.process_time()
        completer = ImageCompleter(image_shape=(1, 8, 8), random_state=fold).fit(learn)
        fit_seconds = time.process_time() - began
        models = {
            "**ImageCompleter**, defaults": completer.transform,
            "KNNImputer, 5 neighbours": KNNImputer(keep_empty_features=True)
            .fit(learn)
            .transform,
            "KNNImputer, 15 neighbours, by distance": KNNImputer(
                n_neighbors=15, weights="distance", keep_empty_features=True
            )
            .fit(learn)
            .transform,
            "IterativeImputer, BayesianRidge": lambda masked, learn=learn: (
                IterativeImputer(
                    BayesianRidge(), random_state=0, keep_empty_features=True
                ).fit_transform(np.vstack([learn, masked]))[len(learn) :]
            ),
            "mean of seen neighbours": neighbour_means,
            "mean image": lambda masked, learn=learn: np.where(
                np.isnan(masked), learn.mean(0), masked
            ),
        }
        for name, fill in models.items():
            began = time.process_time()
            values = []
            for share in DIGITS_SHARES:
                masked = mask(whole, round(64 * share), seed=100 + fold)
                missing = np.isnan(masked)
                values.append(float(np.mean((fill(masked) - whole)[missing] ** 2)))
            used = time.process_time() - began
            used += fit_seconds if name.startswith("**") else 0.0
            errors.setdefault(name, []).append(values)
            seconds.setdefault(name, []).append(used)
            print(fold, name, *np.round(values, 3), f"{used:.1f} CPU-s", flush=True)
    return [
        (name, list(np.mean(errors[name], axis=0)), float(np.mean(seconds[name])))
        for name in errors
    ]


def neighbour_means(masked: np.ndarray) -> np.ndarray:
    """Fill with Gaussian-weighted means of seen pixels, one pixel wide."""
    places = np.stack(np.divmod(np.arange(64), 8), axis=1)
    squares = np.square(places[:, None] - places).sum(-1)
    weights = np.exp(-0.5 * squares) + 1e-9
    seen = ~np.isnan(masked)
    sums = np.where(seen, masked, 0.0) @ weights
    return np.where(seen, masked, sums / (seen @ weights))


def write(lines: list[list], digits: list, facts: list, results: Path) -> str:
    rows = [
        [name, f"{n}", f"{mse:.4f} ± {e:.4f}", f"{log:.3f} ± {f:.3f}"]
        for name, n, mse, e, log, f, _ in lines
    ]
    shares = [f"{100 * share:.0f} % seen" for share in DIGITS_SHARES]
    table = [
        [name, *(f"{v:.2f}" for v in values), f"{used:.1f}"]
        for name, values, used in digits
    ]
    text = (
        "# Completion of images\n\n"
        "Test images never trained on; values in [-.5, .5], random pixels seen. Mean "
        "squared error and marginal Gaussian log-likelihood in nats, both per pixel "
        "that was not seen, means over images ± standard errors. Standard deviations "
        f"have a floor of {MIN_STD:g}, which bounds the log-likelihood by "
        f"{-np.log(MIN_STD) - 0.5 * np.log(2 * np.pi):.3f}. With all pixels seen "
        "nothing is left to predict.\n\n"
        + markdown(
            ["set", "parameters", "images stored", "CPU-s of training", "steps"], facts
        )
        + "\n\n"
        + markdown(["set", "pixels seen", "MSE", "log-likelihood"], rows)
    )
    if digits:
        text += (
            "\n\nscikit-learn's digits (8 x 8, values 0 to 16), cross-validation over "
            "images, squared error per pixel not seen, and CPU-seconds of a fold "
            "(learning, and three completions of the test images):\n\n"
            + markdown(["model", *shares, "CPU-s"], table)
        )
    text += f"\n\n{library_versions()}\n"
    results.mkdir(parents=True, exist_ok=True)
    (results / "image_completion.md").write_text(text)
    with (results / "image_completion.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for line in lines:
            writer.writerow([f"{v:.5f}" if isinstance(v, float) else v for v in line])
    return text


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--seconds", type=float, help="CPU-seconds of every training")
    parser.add_argument("--images", type=int, default=300, help="test images")
    parser.add_argument("--folds", type=int, default=2, help="of the digits; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    arguments = parser.parse_args(argv)
    folder = Path(os.environ.get("SKFUNC_CACHE", Path.home() / ".cache" / "skfunc"))
    lines, facts = [], []
    with one_thread():
        for name in arguments.sets:
            X, X_test = load(name)
            side = round(X.shape[1] ** 0.5)
            completer = ImageCompleter(
                image_shape=(1, side, side),
                min_std=MIN_STD,
                random_state=arguments.seed,
            )
            seconds = arguments.seconds or SETS[name][1]
            file = f"{name}-{seconds:g}s-seed{arguments.seed}.pt"
            trained = train(completer, X, seconds, folder / "image_completion" / file)
            stored = min(completer.n_exemplars, len(X))
            used = f"{trained.seconds:.0f}"
            counts = f"{trained.parameters}", f"{stored}", used, f"{trained.steps}"
            facts.append([name, *counts])
            arguments.figures.mkdir(parents=True, exist_ok=True)
            path = arguments.figures / f"image_completion_{name}.png"
            draw_figure(trained.completer, X_test[-100:], SHOWN, mask, path)
            judged = X_test[: arguments.images]
            lines += by_context(name, trained.completer, judged)
        digits = (
            digits_folds(arguments.folds, arguments.seed) if arguments.folds else []
        )
    print(write(lines, digits, facts, arguments.results))


if __name__ == "__main__":
    main()
