"""Continuous flows of growing width beside planar flows of growing depth.

    python benchmarks/density_growth.py
    python benchmarks/density_growth.py --quick

Two circles and two moons, as in figures 4 and 5 of Chen et al. 2018: a continuous flow
with 4, 16 and 64 hidden units in each of two layers, `CNFDensity(base="normal")`, and
normalizing flows of 2, 8 and 32 planar layers (Rezende and Mohamed 2015), both by
maximum likelihood on the same rows. Every planar flow trains for as many CPU-seconds as
the widest continuous flow took, and keeps its best epoch on held-out rows as that does.
The table goes to ``benchmarks/results/density_growth.md``, the pictures to
``docs/_static``.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import make_circles, make_moons
from torch import nn
from torch.nn.functional import softplus

from _measure import library_versions, one_thread
from _table import markdown
from skfunc import CNFDensity

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PICTURES = ROOT / "docs" / "_static"
WIDTHS, DEPTHS = (4, 16, 64), (2, 8, 32)
N_TRAIN, N_TEST, HELD_OUT = 2000, 5000, 300
BATCH, EPOCH_STEPS = 256, 25
# Steps of Adam that were tried for the planar flows on held-out rows: the best is kept.
LEARNING_RATES = (3e-3, 1e-2)


def circles(n_rows: int, seed: int) -> np.ndarray:
    """Draw two circles of about unit variance."""
    return 2 * make_circles(n_rows, noise=0.06, factor=0.5, random_state=seed)[0]


def moons(n_rows: int, seed: int) -> np.ndarray:
    """Draw two moons of about unit variance."""
    rows = make_moons(n_rows, noise=0.08, random_state=seed)[0]
    return (rows - [0.5, 0.25]) * [1.15, 2.0]


SETS = {"circles": circles, "moons": moons}


class PlanarFlow(nn.Module):
    """Layers x + u tanh(w x + b), from rows to a normal."""

    def __init__(self, depth: int, size: int = 2) -> None:
        super().__init__()
        self.w = nn.Parameter(0.5 * torch.randn(depth, size))
        self.u = nn.Parameter(0.1 * torch.randn(depth, size))
        self.b = nn.Parameter(0.5 * torch.randn(depth))
        self.shift = nn.Parameter(torch.zeros(size))
        self.log_scale = nn.Parameter(torch.zeros(size))

    def path(self, rows: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the rows after each layer, and the log-determinant of all."""
        # Layers are invertible where w u > -1.
        inner = (self.w * self.u).sum(1)
        excess = softplus(inner) - 1 - inner
        u = self.u + (excess / (self.w**2).sum(1).clamp_min(1e-6))[:, None] * self.w
        states, log_det = [rows], self.log_scale.sum().expand(len(rows))
        for w, step, b in zip(self.w, u, self.b, strict=True):
            h = torch.tanh(rows @ w + b)
            rows = rows + h[:, None] * step
            log_det = log_det + torch.log1p((1 - h * h) * (w @ step)).clamp_min(-30)
            states.append(rows)
        states.append((rows + self.shift) * self.log_scale.exp())
        return states, log_det

    def log_prob(self, rows: torch.Tensor) -> torch.Tensor:
        """Return log densities."""
        states, log_det = self.path(rows)
        squares = (states[-1] ** 2).sum(1)
        return log_det - 0.5 * squares - 0.5 * rows.shape[1] * math.log(2 * math.pi)


def fit_planar(
    depth: int, rows: np.ndarray, seconds: float, rate: float, seed: int
) -> tuple[PlanarFlow, float, int]:
    """Train for some CPU-seconds; return the best epoch, its held-out NLL and steps."""
    torch.manual_seed(seed)
    flow = PlanarFlow(depth)
    tensor = torch.as_tensor(rows, dtype=torch.float32)
    held_out, train = tensor[:HELD_OUT], tensor[HELD_OUT:]
    optimizer = torch.optim.Adam(flow.parameters(), lr=rate)
    best, kept, n_steps = np.inf, copy.deepcopy(flow.state_dict()), 0
    start = time.process_time()
    while (spent := (time.process_time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * spent))
        for _ in range(EPOCH_STEPS):
            loss = -flow.log_prob(train[torch.randint(len(train), (BATCH,))]).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
            optimizer.step()
            n_steps += 1
        with torch.no_grad():
            judged = -float(flow.log_prob(held_out).mean())
        if judged < best:
            best, kept = judged, copy.deepcopy(flow.state_dict())
    flow.load_state_dict(kept)
    return flow, best, n_steps


def compare(name: str, quick: bool, seed: int = 0) -> tuple[list[dict], dict]:
    """Return rows of the table, and the models by size."""
    n_rows = 400 if quick else N_TRAIN
    rows, test = SETS[name](n_rows, seed), SETS[name](N_TEST, 100 + seed)
    table, models, seconds = [], {}, 0.0
    for width in reversed(WIDTHS):
        model = CNFDensity(
            base="normal",
            hidden_layer_sizes=(width, width),
            learning_rate_init=1e-2,
            max_iter=5 if quick else 600,
            n_iter_no_change=100,
            random_state=seed,
        )
        start = time.process_time()
        model.fit(rows)
        spent = time.process_time() - start
        seconds = max(seconds, spent)
        models["continuous", width] = model
        table.append(
            {
                "set": name,
                "flow": f"continuous, {width} wide",
                "parameters": model.parameters_.size,
                "nll": -model.score(test),
                "seconds": spent,
            }
        )
        print(table[-1], flush=True)
    for depth in DEPTHS:
        fits = [
            fit_planar(depth, rows, 0.2 if quick else seconds, rate, seed)
            for rate in LEARNING_RATES
        ]
        flow = min(fits, key=lambda fit: fit[1])[0]
        models["planar", depth] = flow
        with torch.no_grad():
            logs = flow.log_prob(torch.as_tensor(test, dtype=torch.float32))
        table.append(
            {
                "set": name,
                "flow": f"planar, {depth} deep",
                "parameters": sum(p.numel() for p in flow.parameters()),
                "nll": -float(logs.mean()),
                "seconds": seconds,
            }
        )
        print(table[-1], flush=True)
    return table, models


def log_density(model: CNFDensity | PlanarFlow, rows: np.ndarray) -> np.ndarray:
    """Return log densities of rows."""
    if isinstance(model, CNFDensity):
        return model.score_samples(rows)
    with torch.no_grad():
        return model.log_prob(torch.as_tensor(rows, dtype=torch.float32)).numpy()


def draw_growth(models: dict, tables: dict, path: Path) -> None:
    """Draw densities of growing flows, with their negative log likelihoods."""
    import matplotlib.pyplot as plt

    down, across = np.mgrid[-3:3:160j, -3:3:160j]
    grid = np.column_stack([across.ravel(), down.ravel()])
    figure, axes = plt.subplots(4, 4, figsize=(9, 9.4), layout="constrained")
    for i, name in enumerate(SETS):
        nll = {row["flow"]: row["nll"] for row in tables[name]}
        rows = SETS[name](1500, 7)
        for j, (kind, sizes, word) in enumerate(
            (("continuous", WIDTHS, "wide"), ("planar", DEPTHS, "deep"))
        ):
            line = axes[2 * i + j]
            for axis, size in zip(line, sizes, strict=False):
                density = np.exp(log_density(models[name][kind, size], grid))
                axis.imshow(
                    density.reshape(down.shape) ** 0.5,
                    origin="lower",
                    extent=(-3, 3, -3, 3),
                    cmap="Blues",
                )
                label = f"{kind}, {size} {word}"
                axis.set_title(f"{label}\nNLL {nll[label]:.2f}", fontsize=9)
            line[3].plot(*rows.T, ".", markersize=1, color="black")
            line[3].set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
            line[3].set_title("rows", fontsize=9)
            for axis in line:
                axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=70)
    plt.close(figure)


def draw_paths(models: dict, path: Path) -> None:
    """Draw how noise becomes the rows: in time, and layer by layer."""
    import matplotlib.pyplot as plt

    shares = np.linspace(0, 1, 6)
    figure, axes = plt.subplots(4, 6, figsize=(11, 7.6), layout="constrained")
    for i, name in enumerate(SETS):
        flow = models[name]["continuous", WIDTHS[-1]]
        times = flow.trajectories(3000, shares, random_state=0)
        planar = models[name]["planar", DEPTHS[-1]]
        rows = torch.as_tensor(SETS[name](3000, 8), dtype=torch.float32)
        with torch.no_grad():
            states = planar.path(rows)[0][::-1]
        layers = [states[round(s * (len(states) - 1))].numpy() for s in shares]
        kinds = (("continuous", times, "t"), ("planar", layers, "layer"))
        for line, (kind, clouds, word) in zip(axes[2 * i :], kinds, strict=False):
            for axis, share, cloud in zip(line, shares, clouds, strict=True):
                axis.plot(*cloud.T, ".", markersize=0.8, color="tab:blue")
                mark = share if word == "t" else round(share * DEPTHS[-1])
                axis.set_title(f"{kind}, {word} = {mark:g}", fontsize=9)
                axis.set(xlim=(-3.4, 3.4), ylim=(-3.4, 3.4), aspect="equal")
                axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=70)
    plt.close(figure)


def main() -> None:
    """Train, print and write the table and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, writes nothing")
    options = parser.parse_args()
    tables, models = {}, {}
    with one_thread():
        for name in SETS:
            tables[name], models[name] = compare(name, options.quick)
    header = ["set", "flow", "parameters", "test NLL", "CPU-s"]
    lines = [
        [
            row["set"],
            row["flow"],
            str(row["parameters"]),
            f"{row['nll']:.3f}",
            f"{row['seconds']:.1f}",
        ]
        for table in tables.values()
        for row in table
    ]
    text = f"{markdown(header, lines)}\n\n{library_versions()}"
    print(text)
    if options.quick:
        return
    title = "# Continuous and planar flows\n\nWritten by `density_growth.py`.\n\n"
    (RESULTS / "density_growth.md").write_text(title + text + "\n")
    draw_growth(models, tables, PICTURES / "density_growth.png")
    draw_paths(models, PICTURES / "density_paths.png")


if __name__ == "__main__":
    main()
