"""CPU-seconds to a likelihood: the recipe of FFJORD beside the flow of `CNFDensity`.

    python benchmarks/density_ffjord.py
    python benchmarks/density_ffjord.py --quick

The recipe is that of Grathwohl et al. 2019 (arXiv 1810.01367): a softplus field of 64
and 64 units with time at each layer, Hutchinson's estimate of the trace with one probe
a solve, dopri5 and the continuous adjoint of torchdiffeq at tolerances 1e-5, Adam at
1e-3, batches of 256. It runs for given CPU-seconds; at times its field is copied and
judged on test rows by the exact trace, off the clock, and its *best* judgement counts.
`CNFDensity(base="normal")` is fitted to the same rows with growing ``max_iter``; its
clock holds the whole fit, held-out judgements and the second fit to all rows among it.
The curves go to ``benchmarks/results/density_ffjord.csv``, the table of the CPU-seconds
that each took to where the recipe ends to ``density_ffjord.md``.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import softplus

import _density_sets
from _measure import library_versions, one_thread
from _table import markdown

RESULTS = Path(__file__).resolve().parent / "results"
SETS = ("moons", "digits_pca")
COLUMNS = ("dataset", "model", "steps", "cpu_s", "nll")
WIDTH, BATCH, TOLERANCE, RATE = 64, 256, 1e-5, 1e-3
# Judgements of the recipe, evenly over its time.
N_JUDGEMENTS = 20
# Steps of maximum likelihood that ours is stopped after.
OURS = (3, 10, 30, 100, 300)


class Field(nn.Module):
    """Three layers, each with time as one more input; softplus between them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        widths = (size, WIDTH, WIDTH, size)
        self.layers = nn.ModuleList(
            nn.Linear(a + 1, b) for a, b in zip(widths, widths[1:], strict=False)
        )

    def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        for k, layer in enumerate(self.layers):
            if k:
                x = softplus(x)
            x = layer(torch.cat([x, t.expand(len(x), 1)], dim=1))
        return x


class Traced(nn.Module):
    """The field with the trace of its Jacobian: estimated by a probe, or exact."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field
        self.probe: torch.Tensor | None = None

    def forward(
        self, t: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            x = state[0].requires_grad_(True)
            v = self.field(t, x)
            if self.probe is not None:
                back = torch.autograd.grad(v, x, self.probe, create_graph=True)[0]
                return v, (back * self.probe).sum(1)
            trace = sum(
                torch.autograd.grad(v[:, i].sum(), x, retain_graph=True)[0][:, i]
                for i in range(x.shape[1])
            )
        return v.detach(), trace


def log_prob(traced: Traced, rows: torch.Tensor) -> torch.Tensor:
    """Return log densities by torchdiffeq, with the adjoint's gradient."""
    from torchdiffeq import odeint_adjoint

    start = (rows, torch.zeros(len(rows)))
    times = torch.tensor([1.0, 0.0])
    options = {"rtol": TOLERANCE, "atol": TOLERANCE, "method": "dopri5"}
    ends = odeint_adjoint(traced, start, times, **options)
    z, log_det = (end[-1] for end in ends)
    constant = 0.5 * rows.shape[1] * math.log(2 * math.pi)
    return log_det - 0.5 * (z**2).sum(1) - constant


def run_recipe(
    train: np.ndarray, test: np.ndarray, seconds: float, seed: int = 0
) -> list[dict]:
    """Train for some CPU-seconds and return the curve."""
    torch.manual_seed(seed)
    rows, unseen = (torch.as_tensor(a, dtype=torch.float32) for a in (train, test))
    traced = Traced(Field(rows.shape[1]))
    optimizer = torch.optim.Adam(traced.parameters(), lr=RATE)
    curve: list[dict] = []
    spent, n_steps = 0.0, 0
    while spent < seconds:
        began = time.process_time()
        batch = rows[torch.randint(len(rows), (min(BATCH, len(rows)),))]
        traced.probe = torch.randint(0, 2, batch.shape).float() * 2 - 1
        loss = -log_prob(traced, batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        spent += time.process_time() - began
        n_steps += 1
        if spent >= seconds * (len(curve) + 1) / N_JUDGEMENTS or spent >= seconds:
            traced.probe = None
            with torch.no_grad():
                nll = -float(log_prob(traced, unseen).mean())
            curve.append({"steps": n_steps, "cpu_s": spent, "nll": nll})
    return curve


def run_ours(train: np.ndarray, test: np.ndarray, steps: tuple[int, ...]) -> list[dict]:
    """Fit with growing numbers of steps and return the curve."""
    from skfunc import CNFDensity

    curve = []
    for n_steps in steps:
        began = time.process_time()
        model = CNFDensity(base="normal", max_iter=n_steps, random_state=0).fit(train)
        spent = time.process_time() - began
        nll = -model.score(test)
        curve.append({"steps": n_steps, "cpu_s": spent, "nll": nll})
    return curve


def summarize(curves: dict[str, dict[str, list[dict]]]) -> str:
    """Return the table of CPU-seconds to the best likelihood of the recipe."""
    lines = []
    for dataset, curve in curves.items():
        best = min(curve["recipe"], key=lambda point: point["nll"])
        reached = [p for p in curve["ours"] if p["nll"] <= best["nll"]]
        first = min(reached, key=lambda point: point["cpu_s"], default=None)
        end = min(curve["ours"], key=lambda point: point["nll"])
        lines.append(
            [
                dataset,
                f"{best['nll']:.3f}",
                f"{best['cpu_s']:.3g}",
                f"{first['nll']:.3f}" if first else "not reached",
                f"{first['cpu_s']:.3g}" if first else "",
                f"{best['cpu_s'] / first['cpu_s']:.3g}" if first else "",
                f"{end['nll']:.3f} in {end['cpu_s']:.3g}",
            ]
        )
    header = ["set", "recipe: NLL", "CPU-s", "CNFDensity: NLL", "CPU-s"]
    return markdown([*header, "ratio", "its best, CPU-s"], lines)


def main() -> None:
    """Train, print and write the curves and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--datasets", nargs="+", choices=list(_density_sets.SETS), default=SETS)
    add("--seconds", type=float, default=300.0, help="CPU-seconds of the recipe")
    add("--quick", action="store_true", help="a second each; writes nothing")
    add("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.quick:
        options.datasets, options.seconds = ["moons"], 1.0
    curves: dict[str, dict[str, list[dict]]] = {}
    with one_thread():
        for dataset in options.datasets:
            train, test = _density_sets.load_split(dataset, 0)
            if options.quick:
                train = train[:200]
            steps = OURS[:1] if options.quick else OURS
            ours = run_ours(train, test, steps)
            recipe = run_recipe(train, test, options.seconds)
            curves[dataset] = {"ours": ours, "recipe": recipe}
            print(dataset, curves[dataset], flush=True)
    text = f"{summarize(curves)}\n\n{library_versions()}"
    print(text)
    if options.quick:
        return
    options.results.mkdir(parents=True, exist_ok=True)
    with (options.results / "density_ffjord.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for dataset, curve in curves.items():
            for model, points in curve.items():
                for point in points:
                    row = {"dataset": dataset, "model": model, "steps": point["steps"]}
                    row |= {k: f"{point[k]:.6g}" for k in ("cpu_s", "nll")}
                    writer.writerow(row)
    (options.results / "density_ffjord.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
