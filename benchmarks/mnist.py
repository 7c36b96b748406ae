"""MNIST: a convolutional ODE-Net beside a residual network of equal budget.

Both have the same stem and head and are trained by the same loop, for the same
CPU-seconds: the number of epochs follows from the measured cost of one. The paper
(Chen et al. 2018, table 1, the full data) has 0.42 % for 0.22 M parameters and 0.41 %
for 0.60 M. Also the trade of tolerance against accuracy and evaluations, as a picture.

    python benchmarks/mnist.py --rows 6000 --seconds 240
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import nn

from skfunc import ODENetClassifier
from skfunc.metrics import expected_calibration_error
from skfunc.nn import Conv2d, GroupNorm
from skfunc.nn._layers import activation_gain
from skfunc.nn._odenet import ImageHead, ImageStem
from skfunc.solvers import SolverReport

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("SKFUNC_DATA", ROOT.parent / "shared" / "data"))
RESULTS = Path(__file__).parent / "results"
N_BLOCKS = 6
SHARED = dict(
    image_shape=(1, 28, 28),
    field="conv",
    activation="relu",
    n_members=1,
    early_stopping=False,
    n_iter_no_change=10_000,
    batch_size=64,
    learning_rate_init=2e-3,
    alpha=1.0,
    random_state=0,
)


class ResidualBlock(nn.Module):
    """h + conv(relu(norm(conv(relu(norm(h)))))): one Euler step of the field."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        gain = activation_gain("relu")
        self.norms = nn.ModuleList(GroupNorm(channels) for _ in range(2))
        self.first = Conv2d(channels, channels, 3, gain=gain)
        self.second = Conv2d(channels, channels, 3, gain=0.1 * gain)

    def forward(self, h):
        x = self.first(torch.relu(self.norms[0](h)))
        return h + self.second(torch.relu(self.norms[1](x)))


class ResidualNet(nn.Module):
    """The ODE-Net's stem and head around six residual blocks."""

    def __init__(self, n_outputs: int, channels: int) -> None:
        super().__init__()
        self.stem = ImageStem((1, 28, 28), channels, "relu")
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(N_BLOCKS)))
        self.head = ImageHead(channels, n_outputs, "relu")

    def forward(self, x, solver):
        h = self.blocks(self.stem(x.unflatten(-1, (1, 28, 28))))
        report = SolverReport(
            "residual", N_BLOCKS, N_BLOCKS, None, N_BLOCKS, 0, "success"
        )
        return self.head(h), report


class ResNetClassifier(ODENetClassifier):
    """The peer, in the same training loop."""

    def _build_module(self, n_features, n_outputs):
        return ResidualNet(n_outputs, self.state_size)


def load(rows: int):
    with np.load(DATA / "images" / "mnist.npz", allow_pickle=False) as file:
        train = file["X_train"].reshape(60000, -1) / 255.0, file["y_train"]
        test = file["X_test"].reshape(10000, -1) / 255.0, file["y_test"]
    chosen = np.random.default_rng(0).permutation(60000)[:rows]
    return train[0][chosen], train[1][chosen], *test


def epochs_within(model, X, y, seconds: float) -> int:
    """Measure the cost of an epoch on a tenth of the rows."""
    part = len(X) // 10
    model.set_params(max_iter=1).fit(X[:part], y[:part])
    started = time.process_time()
    model.fit(X[:part], y[:part])
    cost = (time.process_time() - started) * len(X) / part
    return max(1, round(seconds / cost))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--test-rows", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    X, y, X_test, y_test = load(args.rows)
    X_test, y_test = X_test[: args.test_rows], y_test[: args.test_rows]
    shared = SHARED | dict(state_size=args.channels, device=args.device)
    models = {
        "ODE-Net (rk4, 2 steps)": ODENetClassifier(solver="rk4", n_steps=2, **shared),
        "ODE-Net (midpoint, 2 steps)": ODENetClassifier(
            solver="midpoint", n_steps=2, **shared
        ),
        f"residual network ({N_BLOCKS} blocks)": ResNetClassifier(**shared),
    }
    lines = [
        f"MNIST, {args.rows} training rows, {len(X_test)} test rows, one network each, "
        f"about {args.seconds:.0f} CPU-seconds of training each.",
        "",
        "| model | parameters | epochs | test error | log-loss | ECE | fit CPU-s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(lines), flush=True)
    fitted = {}
    for name, model in models.items():
        model.set_params(max_iter=epochs_within(model, X, y, args.seconds))
        started = time.process_time()
        model.fit(X, y)
        seconds = time.process_time() - started
        proba = model.predict_proba(X_test)
        error = np.mean(model.classes_[proba.argmax(1)] != y_test)
        loss = -np.mean(np.log(np.clip(proba[np.arange(len(y_test)), y_test], 1e-6, 1)))
        ece = expected_calibration_error(y_test, proba, labels=model.classes_)
        lines.append(
            f"| {name} | {model.parameters_.shape[1]} | {model.n_iter_} | "
            f"{100 * error:.2f} % | {loss:.4f} | {ece:.4f} | {seconds:.0f} |"
        )
        print(lines[-1], flush=True)
        fitted[name] = model
    first = next(iter(fitted.values()))
    curve = first.tolerance_curve(X_test[:500], y_test[:500])
    lines += ["", "| rtol | accuracy | mean log prob | NFE | seconds |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for row in zip(
        curve.rtol, curve.score, curve.log_prob, curve.nfe, curve.seconds, strict=True
    ):
        lines.append("| " + " | ".join(f"{value:.4g}" for value in row) + " |")
    print("\n".join(lines[-len(curve.rtol) - 2 :]))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "mnist.md").write_text("\n".join(lines) + "\n")
    draw(curve, ROOT / "docs" / "_static" / "mnist_tolerance.png")


def draw(curve, path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    left.semilogx(curve.rtol, curve.score, "o-")
    left.set(xlabel="relative tolerance", ylabel="test accuracy", ylim=(0, 1.02))
    right.semilogx(curve.rtol, curve.nfe, "o-", color="tab:orange")
    right.set(xlabel="relative tolerance", ylabel="evaluations of the field per row")
    for axis in (left, right):
        axis.invert_xaxis()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
