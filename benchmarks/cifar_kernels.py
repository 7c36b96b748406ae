"""CIFAR-10 by infinitely wide networks: fully connected, convolutional, pooled.

Accuracy and calibration against the number of training images, after the comparison of
architectures in Novak et al. 2020 (Neural Tangents, arXiv 1912.02803). Networks are
fixed; `InfiniteWidthClassifier` chooses the ridge and its link by rows left out.

A kernel that pools sees every pair of pixels of every pair of images: on 32 x 32 images
it costs tens of milliseconds a pair, on images averaged to 8 x 8 a fifth of one. So all
three networks are compared on 8 x 8, and those without pooling also on 32 x 32.

Every kernel is computed once, in float32, for nested sets of images, and kept in
``$SKFUNC_CACHE`` or ``~/.cache/skfunc``; the classifiers take it as a kernel function.
Cells that have a row in ``benchmarks/results/cifar_kernels.csv`` are not run again::

    python benchmarks/cifar_kernels.py --rows 2000 --pooled-rows 1000

Writes ``benchmarks/results/cifar_kernels.md`` and ``docs/_static/cifar_kernels.png``.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch

from _data import data_folder
from _measure import expected_calibration_error as top_label_error
from _measure import library_versions, one_thread
from _rows import RowFile
from _table import markdown
from skfunc import InfiniteWidthClassifier
from skfunc.infinite_width import layers as L
from skfunc.infinite_width._kernel_matrices import kernel_diagonal, kernel_matrices
from skfunc.metrics import expected_calibration_error

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parents[1] / "docs" / "_static" / "cifar_kernels.png"
SIDES = (8, 32)
SIZES = (125, 250, 500, 1000, 2000, 4000)
KINDS = ("nngp", "ntk")
TEST_IMAGES = 1000
# Weights that keep the variance of ReLU units from layer to layer, and small biases.
WEIGHT_STD, BIAS_STD = 2**0.5, 0.1
FC, CONV, POOLED = "FC, 5 layers", "conv, 5 layers, Flatten", "wide resnet, pooling"
PRESETS = {FC: ("mlp", 5), CONV: ("conv", 5), POOLED: ("wide_resnet", 1)}
COLORS = dict(zip(PRESETS, ("tab:gray", "tab:blue", "tab:red"), strict=True))
TITLES = {"nngp": "Gaussian process (NNGP)", "ntk": "ensemble (NTK)"}


@dataclass(frozen=True)
class Images:
    """Standardized rows in the order (channels, height, width), and labels."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    image_shape: tuple[int, int, int]


def load(side: int, n_test: int = TEST_IMAGES) -> Images:
    """Return images averaged over squares, each channel of mean 0 and variance 1."""
    path = data_folder() / "images" / "cifar10_10k2k.npz"
    with np.load(path, allow_pickle=False) as file:
        train, test = file["X_train"], file["X_test"][:n_test]
        y, y_test = file["y_train"].astype(int), file["y_test"][:n_test].astype(int)
    step = train.shape[1] // side

    def averaged(images: np.ndarray) -> np.ndarray:
        blocks = images.reshape(len(images), side, step, side, step, 3)
        return blocks.mean(axis=(2, 4)).transpose(0, 3, 1, 2)

    train, test = averaged(train), averaged(test)
    used = train[: SIZES[-1]]
    mean, std = used.mean(axis=(0, 2, 3)), used.std(axis=(0, 2, 3))
    rows, test_rows = (
        ((part - mean[:, None, None]) / std[:, None, None]).reshape(len(part), -1)
        for part in (train, test)
    )
    return Images(rows, y, test_rows, y_test, (3, side, side))


def network(name: str, image_shape: tuple[int, int, int]) -> L.Serial:
    preset, depth = PRESETS[name]
    return L.preset(preset, depth, "relu", WEIGHT_STD, BIAS_STD, image_shape)


@dataclass
class StoredKernel:
    """Both kernels of training images, and of test images with them.

    A kernel function of rows that hold nothing but an image's position: first those of
    the training images, then those of the test images. `model` is the classifier, which
    standardizes even these.
    """

    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    test_diagonal: dict[str, np.ndarray]
    seconds: float
    model: InfiniteWidthClassifier | None = None

    def __call__(self, x1: np.ndarray, x2: np.ndarray | None, get: str) -> np.ndarray:
        first = self._positions(x1)
        second = first if x2 is None else self._positions(x2)
        n = len(self.train[get])
        if (second >= n).any():
            if x2 is not None or (second < n).any():
                raise ValueError("of two different test images no kernel is stored")
            # Only the diagonal of this block is read.
            return np.diag(self.test_diagonal[get][first - n])
        if (first < n).all():
            return self.train[get][np.ix_(first, second)]
        return self.test[get][np.ix_(first - n, second)]

    def _positions(self, x: np.ndarray) -> np.ndarray:
        assert self.model is not None
        positions = x * self.model.X_scale_ + self.model.X_mean_
        return np.rint(positions[:, 0]).astype(int)


def compute_part(
    net: L.Serial, images: Images, start: int, stop: int, device: str
) -> dict[str, np.ndarray]:
    """Return the kernels that training images [start, stop) bring."""
    rows, test = (
        torch.as_tensor(part, dtype=torch.float32, device=device)
        for part in (images.X[:stop], images.X_test)
    )
    options = dict(image_shape=images.image_shape, kind="both")
    new = rows[start:]
    began = time.process_time()
    among = kernel_matrices(net, new, **options)
    before = kernel_matrices(net, new, rows[:start], **options) if start else None
    across = kernel_matrices(net, test, new, **options)
    part = {"seconds": np.array(time.process_time() - began)}
    diagonal = kernel_diagonal(net, test, image_shape=images.image_shape)
    for kind in KINDS:
        own = getattr(among, kind)
        if before is not None:
            own = torch.cat([getattr(before, kind), own], dim=1)
        part[f"{kind}_train"] = own.numpy(force=True)
        part[f"{kind}_test"] = getattr(across, kind).numpy(force=True)
        part[f"{kind}_diagonal"] = getattr(diagonal, kind).numpy(force=True)
    return part


def join(parts: list[dict[str, np.ndarray]]) -> StoredKernel:
    """Put the results of `compute_part` for consecutive images together."""
    train, test = {}, {}
    for kind in KINDS:
        blocks = [part[f"{kind}_train"] for part in parts]
        n = blocks[-1].shape[1]
        matrix = np.zeros((n, n), dtype=np.float32)
        for block in blocks:
            stop = block.shape[1]
            start = stop - len(block)
            matrix[start:stop, :stop] = block
            matrix[:stop, start:stop] = block.T
        train[kind] = matrix
        test[kind] = np.hstack([part[f"{kind}_test"] for part in parts])
    diagonal = {kind: parts[0][f"{kind}_diagonal"] for kind in KINDS}
    return StoredKernel(
        train, test, diagonal, sum(float(part["seconds"]) for part in parts)
    )


class KernelStore:
    """Parts of kernels on disk, each computed once.

    Parameters
    ----------
    name : str
        A network.
    images : Images
        The images.
    device : str
        Where missing parts are computed.
    """

    def __init__(self, name: str, images: Images, device: str) -> None:
        self.images, self.device = images, device
        self.net = network(name, images.image_shape)
        cache = Path(os.environ.get("SKFUNC_CACHE", Path.home() / ".cache" / "skfunc"))
        side, n_test = images.image_shape[1], len(images.X_test)
        self.folder = cache / "cifar_kernels" / f"{PRESETS[name][0]}-{side}-{n_test}"

    def kernel(self, n: int) -> StoredKernel:
        """Return the kernels of the first n training images."""
        edges = [0, *(size for size in SIZES if size < n), n]
        return join([self._part(*ends) for ends in zip(edges, edges[1:], strict=False)])

    def _part(self, start: int, stop: int) -> dict[str, np.ndarray]:
        path = self.folder / f"{start}-{stop}.npz"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            part = compute_part(self.net, self.images, start, stop, self.device)
            unfinished = path.with_suffix(".part")
            with open(unfinished, "wb") as file:
                np.savez(file, **part)
            unfinished.rename(path)
        with np.load(path, allow_pickle=False) as file:
            return dict(file)


def classifier(kernel: StoredKernel, kind: str, y: np.ndarray):
    """Return the classifier fitted with a kernel of its training images."""
    model = InfiniteWidthClassifier(kernel, kernel=kind, random_state=0)
    kernel.model = model
    return model.fit(np.arange(len(y), dtype=float)[:, None], y)


def judge(kernel: StoredKernel, images: Images, kind: str) -> dict[str, float]:
    """Fit the classifier with a kernel and judge its probabilities."""
    n, y = len(kernel.train[kind]), images.y_test
    began = time.process_time()
    model = classifier(kernel, kind, images.y[:n])
    fitted = time.process_time()
    proba = model.predict_proba(np.arange(n, n + len(y), dtype=float)[:, None])
    right = model.classes_[proba.argmax(axis=1)] == y
    chosen = proba[np.arange(len(y)), np.searchsorted(model.classes_, y)]
    ece = expected_calibration_error(y, proba, labels=model.classes_)
    own = top_label_error(proba.max(axis=1), right)
    if not np.isclose(ece, own, atol=1e-9):
        raise ArithmeticError(f"two calibration errors differ: {ece} and {own}")
    return {
        "accuracy": float(right.mean()),
        "log_loss": float(-np.log(chosen).mean()),
        "ece": float(ece),
        "fit_s": fitted - began,
        "cpu_s": time.process_time() - began + kernel.seconds,
    }


def largest_gap(n: int = 200, n_test: int = 100) -> float:
    """Hold the stored kernels against the estimator that computes its own, in float64.

    Returns
    -------
    float
        The largest difference of probabilities, over networks without pooling.
    """
    whole = load(SIDES[0], n_test)
    # Standardized by these images alone, as the estimator does.
    pixels = whole.X[:n].reshape(n, 3, -1)
    mean, std = pixels.mean(axis=(0, 2)), pixels.std(axis=(0, 2))
    X, X_test = (
        ((part.reshape(len(part), 3, -1) - mean[:, None]) / std[:, None]).reshape(
            len(part), -1
        )
        for part in (whole.X[:n], whole.X_test)
    )
    images = Images(X, whole.y[:n], X_test, whole.y_test, whole.image_shape)
    gaps = []
    for name in (FC, CONV):
        net = network(name, images.image_shape)
        kernel = join([compute_part(net, images, 0, n, "cpu")])
        for kind in KINDS:
            stored = classifier(kernel, kind, images.y)
            positions = np.arange(n, n + n_test, dtype=float)[:, None]
            direct = InfiniteWidthClassifier(
                net, kernel=kind, image_shape=images.image_shape, random_state=0
            ).fit(X, images.y)
            gap = stored.predict_proba(positions) - direct.predict_proba(X_test)
            gaps.append(float(np.abs(gap).max()))
    return max(gaps)


def run(rows: RowFile, largest: dict[str, int], device: str) -> None:
    """Compute the cells that are missing, small ones first."""
    done = rows.done()
    versions = library_versions()
    for n in SIZES:
        for side in SIDES:
            images = load(side)
            for name, limit in largest.items():
                if n > limit or (name == POOLED and side != SIDES[0]):
                    continue
                cells = [cell(side, name, kind, n) for kind in KINDS]
                if all(tuple(map(str, c.values())) in done for c in cells):
                    continue
                kernel = KernelStore(name, images, device).kernel(n)
                for kind, row in zip(KINDS, cells, strict=True):
                    figures = judge(kernel, images, kind)
                    rows.append(
                        row
                        | figures
                        | {
                            "status": "ok",
                            "n_train": n,
                            "n_test": len(images.y_test),
                            "n_features": images.X.shape[1],
                            "versions": versions,
                        }
                    )
                    print(row, figures, flush=True)


def cell(side: int, name: str, kind: str, n: int) -> dict[str, object]:
    return {
        "task": "classification",
        "dataset": f"cifar10, {side} x {side}",
        "split": 0,
        "model": name,
        "label": kind,
        "max_train": n,
    }


def curves(rows: list[dict]) -> dict[tuple[int, str, str], dict[int, dict]]:
    """Return the rows of every resolution, network and kernel by training images."""
    found: dict[tuple[int, str, str], dict[int, dict]] = {}
    for side in SIDES:
        for name in PRESETS:
            for kind in KINDS:
                curve = {
                    int(row["n_train"]): row
                    for row in rows
                    if row["dataset"] == f"cifar10, {side} x {side}"
                    and (row["model"], row["label"]) == (name, kind)
                }
                if curve:
                    found[side, name, kind] = curve
    return found


def report(rows: list[dict]) -> str:
    """Return the table: a line for each network, kernel and resolution."""
    found = curves(rows)
    sizes = [n for n in SIZES if any(n in curve for curve in found.values())]
    common = max(n for n in sizes if all(n in curve for curve in found.values()))
    lines = []
    for (side, name, kind), curve in found.items():
        accuracies = (
            f"{100 * curve[n]['accuracy']:.1f}" if n in curve else "" for n in sizes
        )
        figures = curve[common]
        lines.append(
            [
                f"{side} x {side}",
                name,
                kind.upper(),
                *accuracies,
                f"{figures['ece']:.3f}",
                f"{figures['log_loss']:.3f}",
                f"{figures['cpu_s']:.0f}",
            ]
        )
    header = ["images", "network", "kernel", *(f"n = {n}" for n in sizes)]
    last = [f"{what}, {common}" for what in ("ECE", "log-loss", "CPU-s")]
    return markdown([*header, *last], lines)


def draw(rows: list[dict], path: Path) -> None:
    """Draw accuracy and calibration against the number of training images."""
    figure, axes = plt.subplots(
        2, 2, figsize=(8, 6.4), sharex=True, sharey="row", layout="constrained"
    )
    sizes = set()
    for (side, name, kind), curve in curves(rows).items():
        n = sorted(curve)
        sizes.update(n)
        style = "o-" if side == SIDES[0] else "s:"
        label = f"{name}, {side} x {side}"
        column = KINDS.index(kind)
        for row, values in enumerate(
            (
                [100 * curve[size]["accuracy"] for size in n],
                [curve[size]["ece"] for size in n],
            )
        ):
            axes[row, column].semilogx(
                n, values, style, color=COLORS[name], label=label
            )
    for column, kind in enumerate(KINDS):
        axes[0, column].set_title(TITLES[kind])
        axes[1, column].set_xlabel("training images")
        axes[1, column].set_xticks(sorted(sizes), map(str, sorted(sizes)))
        axes[1, column].minorticks_off()
    axes[0, 0].set_ylabel("test accuracy, %")
    axes[1, 0].set_ylabel("expected calibration error")
    axes[1, 0].set_ylim(bottom=0)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--pooled-rows", type=int, default=1000)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    rows = RowFile(RESULTS / "cifar_kernels.csv")
    largest = {FC: options.rows, CONV: options.rows, POOLED: options.pooled_rows}
    with one_thread():
        run(rows, largest, options.device)
        gap = largest_gap()
    found = rows.read()
    text = "\n\n".join(
        [
            "# CIFAR-10 by infinitely wide networks",
            "Written by `benchmarks/cifar_kernels.py`. Accuracy in % on "
            f"{TEST_IMAGES} test images by the number n of training images, each set "
            "in the next; calibration error, log-loss and CPU-seconds (one thread; "
            "both kernels of training and test images, fit, prediction) at the largest "
            f"n of all lines. ReLU, weight_std {WEIGHT_STD:.3g}, bias_std "
            f"{BIAS_STD:g}, 3 x 3 convolutions; ridge and link by rows left out; "
            "kernels in float32 "
            f"(those in float64 change probabilities by up to {gap:.0e}, by 200 images "
            "without pooling). Images of 8 x 8 are averages of the 32 x 32. Standard "
            "error of an "
            f"accuracy: about {100 * (0.24 / TEST_IMAGES) ** 0.5:.1f}. "
            f"{library_versions()}",
            report(found),
        ]
    )
    print(text)
    (RESULTS / "cifar_kernels.md").write_text(text + "\n")
    draw(found, PICTURE)


if __name__ == "__main__":
    main()
