"""Solvers and gradients of an SDE-BNN: what each costs, and what it reaches.

After figure 5 of Xu, Chen, Li, Duvenaud 2022 (arXiv 2102.06559), on one regression set:
every setting trains the same `SDEBNNRegressor` for the same number of epochs, on the
same rows and grid. A training step of each is also timed over the floor, the same
arithmetic written out as one loop in plain torch (`_sde_floor.py`), in turns with it,
and its memory is measured. One thread.

Rows that are in ``benchmarks/results/sde_solvers.csv`` are not computed again::

    python benchmarks/sde_solvers.py --settings ou/backprop heun/backprop

Writes ``sde_solvers.md`` beside the rows. ``--quick`` is for a first look and leaves
them alone.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from _data import Split, load_split
from _measure import cpu_seconds, one_thread
from _sde_floor import TightLoop, as_step
from _table import markdown
from skfunc import SDEBNNRegressor
from skfunc.training import MemberStack
from solvers import LiveBytes, SavedBytes

RESULTS = Path(__file__).parent / "results"
DATASET, SPLIT = "energy", 0
N_STEPS, N_MEMBERS, EPOCHS = 20, 4, 30
BATCHES = (43, 256)
REPEATS = 25
FLOOR = "tight loop"
SETTINGS = (
    "ou/backprop",
    "ou/checkpoint",
    "ou/adjoint",
    "euler/backprop",
    "heun/backprop",
    "midpoint/backprop",
    "reversible_heun/backprop",
    "reversible_heun/adjoint",
    "adaptive_heun/backprop",
    "torchsde:midpoint/backprop",
    "torchsde:reversible_heun/backprop",
    "torchsde:reversible_heun/adjoint",
)
TITLES = {
    "ratio_small": f"step over the floor, {BATCHES[0]} rows",
    "ratio_large": f"{BATCHES[1]} rows",
    "saved_mb": "saved for the way back, MB",
    "live_mb": "peak of a step, MB",
    "fit_s": "fit, CPU-s",
    "elbo": "final ELBO",
    "kl": "divergence",
    "nll": "test NLL",
    "nfe": "evaluations",
}
FORMATS = {"fit_s": ".0f", "elbo": ".1f", "kl": ".1f", "nll": ".3f", "nfe": ".0f"}
COLUMNS = ("setting", "status", *TITLES)

Step = Callable[[], object]


def estimator(setting: str, epochs: int) -> SDEBNNRegressor:
    """Return the model of one setting; all else is the same."""
    solver, gradient = setting.split("/")
    return SDEBNNRegressor(
        solver=solver,
        gradient=gradient,
        n_steps=N_STEPS,
        n_members=N_MEMBERS,
        hidden_layer_sizes=(64,),
        state_size=64,
        drift="affine",
        sigma=0.1,
        n_train_paths=1,
        n_predict_paths=32,
        rtol=1e-2,
        atol=1e-2,
        max_iter=epochs,
        early_stopping=False,
        random_state=0,
        device="cpu",
    )


class Problem:
    """One batch, and the network with the weights that a fit starts from."""

    def __init__(self, data: Split, n_rows: int) -> None:
        X = (data.X_train - data.X_train.mean(0)) / data.X_train.std(0)
        rows = np.resize(np.arange(len(X)), n_rows)
        x = torch.as_tensor(X[rows], dtype=torch.float32)
        y = torch.as_tensor(data.y_train[rows, None], dtype=torch.float32)
        self.x = x.expand(N_MEMBERS, *x.shape)
        self.y = y.expand(N_MEMBERS, *y.shape)

    def network(self, model: SDEBNNRegressor) -> tuple[MemberStack, Tensor]:
        """Return a model's network and first weights, the drift moved from zero."""
        width = self.x.shape[-1]
        stack = MemberStack(lambda: model._build_module(width, 2), model._draw)
        flat = stack.initial(range(N_MEMBERS)).float()
        generator = torch.Generator().manual_seed(0)
        return stack, flat + 0.05 * torch.randn(flat.shape, generator=generator)

    def step(self, model: SDEBNNRegressor) -> Step:
        """Return a training step of the estimator, up to the gradient."""
        stack, flat = self.network(model)
        flat = flat.requires_grad_()
        stack.module.first_seed = stack.module.last_seed = 0

        def step() -> Tensor:
            module = stack.bind(flat)
            losses, divergence = model._training_loss(module, [self.x, self.y])
            total = losses.mean(1).sum() + divergence.sum() / self.x.shape[1]
            return torch.autograd.grad(total, flat)[0]

        return step

    def floor(self, model: SDEBNNRegressor) -> Step:
        """Return the same by hand; the losses of both must agree."""
        stack, flat = self.network(model)
        loop = TightLoop(stack.split(flat), N_STEPS, model.sigma)
        stack.module.first_seed = stack.module.last_seed = 6
        with torch.no_grad():
            ours = model._training_loss(stack.bind(flat), [self.x, self.y])
            theirs = loop.loss(self.x, self.y, loop.draw_as_skfunc(7))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
        return as_step(loop, self.x, self.y)


def seconds(steps: dict[str, Step], repeats: int) -> dict[str, float]:
    """Return median CPU-seconds of steps that run in turns."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 2):
        for name, step in steps.items():
            begin = time.process_time()
            step()
            if turn >= 2:
                taken[name].append(time.process_time() - begin)
    return {name: statistics.median(values) for name, values in taken.items()}


def memory(step: Step) -> dict[str, float]:
    """Return the peaks of what autograd holds, and of all tensors alive."""
    step()
    saved = SavedBytes()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda x: x):
        step()
    with LiveBytes() as live:
        step()
    return {"saved_mb": saved.peak / 1e6, "live_mb": live.peak / 1e6}


def measure(setting: str, data: Split, repeats: int, epochs: int) -> dict:
    """Return the row of one setting."""
    exact = estimator("ou/backprop", epochs)
    model = exact if setting == FLOOR else estimator(setting, epochs)
    row: dict = {"setting": setting}
    for name, n_rows in zip(("ratio_small", "ratio_large"), BATCHES, strict=True):
        problem = Problem(data, n_rows)
        floor = problem.floor(exact)
        step = floor if setting == FLOOR else problem.step(model)
        taken = seconds({"floor": floor, "step": step}, repeats)
        row[name] = taken["step"] / taken["floor"]
    row |= memory(step)
    if setting != FLOOR:
        begin = cpu_seconds()
        model.fit(data.X_train, data.y_train)
        row |= {"fit_s": cpu_seconds() - begin, "elbo": model.elbo_, "kl": model.kl_}
        row["nll"] = -model.log_prob(data.X_test, data.y_test).mean()
        row["nfe"] = model.nfe_
    return row | {"status": "ok"}


def read(path: Path) -> dict[str, dict]:
    """Return the latest row of every setting."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["setting"]: row for row in csv.DictReader(file)}


def append(path: Path, row: dict) -> None:
    """Write one row to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow({k: f"{v:.5g}" if _is_real(v) else v for k, v in row.items()})


def _is_real(value: object) -> bool:
    return isinstance(value, (float, np.floating))


def report(rows: dict[str, dict], epochs: int) -> str:
    """Return the table, in the order of the settings."""
    lines = []
    for setting in (FLOOR, *SETTINGS):
        row = rows.get(setting)
        if row is not None:
            figures = [
                format(float(row[name]), FORMATS.get(name, ".3g")) if row[name] else ""
                for name in TITLES
            ]
            note = "" if row["status"] == "ok" else f" ({row['status']})"
            lines.append([setting + note, *figures])
    return "\n\n".join(
        (
            "# Solvers and gradients of an SDE-BNN",
            f"The {DATASET} set, split {SPLIT}: `SDEBNNRegressor` with "
            f"{N_MEMBERS} members, {N_STEPS} steps, {epochs} epochs, no row kept out; "
            "the adaptive solver with tolerances of .01. Steps are timed in turns with "
            "the floor; memory is that of a step of "
            f"{BATCHES[1]} rows. The ELBO is that of the solver's own grid.",
            markdown(["setting", *TITLES.values()], lines),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", nargs="+", default=[FLOOR, *SETTINGS])
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    repeats, epochs = (3, 2) if arguments.quick else (REPEATS, EPOCHS)
    folder = Path(tempfile.mkdtemp()) if arguments.quick else RESULTS
    path = folder / "sde_solvers.csv"
    data = load_split("regression", DATASET, SPLIT)
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for setting in arguments.settings:
            if setting in read(path):
                continue
            try:
                row = measure(setting, data, repeats, epochs)
            except Exception as error:
                text = " ".join(str(error).split())[:100]
                status = f"failed: {type(error).__name__}: {text}"
                row = {"setting": setting, "status": status}
            append(path, row)
            print(row, flush=True)
    text = report(read(path), epochs)
    print(text)
    (folder / "sde_solvers.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
