"""The cost of an ODE-Net's training step, over the network evaluations alone.

One training step is a solve and its backward pass. Its floor is as many plain forward
and backward passes of the same network as the solve evaluates it. Every method gets
the tolerance, or the number of steps, that brings its gradient to the same error
against a float64 reference. All run in this process, on one thread, in turns.

Peers are torchdiffeq, and diffrax and torchode where they can be imported.
Writes ``benchmarks/results/solvers.csv`` and ``solvers.md``. ``--quick`` is for a
first look.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import time
import weakref
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import torch
import torchdiffeq
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from skfunc.solvers import odeint

RESULTS = Path(__file__).parent / "results"
HIDDEN = 64
TARGET_ERROR = 1e-4
TOLERANCES = [10 ** (-2 - k / 4) for k in range(21)]
STEP_COUNTS = [2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64]
SETTINGS = [
    ("rk4", "backprop"),
    ("rk4", "checkpoint"),
    ("rk4", "adjoint"),
    ("dopri5", "backprop"),
    ("dopri5", "checkpoint"),
    ("dopri5", "adjoint"),
    ("tsit5", "backprop"),
    ("tsit5", "checkpoint"),
    ("tsit5", "adjoint"),
]
PEERS = [
    ("rk4", "odeint"),
    ("rk4", "odeint_adjoint"),
    ("dopri5", "odeint"),
    ("dopri5", "odeint_adjoint"),
]

# A training step: the gradients of the network and of the first state.
Step = Callable[[], list[Tensor]]


class Field(nn.Module):
    """Two layers with tanh between, drawn wide enough that the flow is not linear."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN)
        )
        for layer in (self.net[0], self.net[2]):
            nn.init.normal_(layer.weight, std=1.5 / HIDDEN**0.5)
        self.nfe = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt."""
        self.nfe += 1
        return self.net(y)


class Problem:
    """One field, first states and a linear loss, and the reference gradient."""

    def __init__(self, n_rows: int) -> None:
        torch.manual_seed(0)
        self.n_rows = n_rows
        self.field = Field()
        self.y0 = torch.randn(n_rows, HIDDEN, requires_grad=True)
        self.weight = torch.randn(n_rows, HIDDEN) / n_rows
        self.inputs = [self.y0, *self.field.parameters()]
        reference = Field().double()
        reference.load_state_dict(self.field.state_dict())
        y0 = self.y0.detach().double().requires_grad_()
        solution = odeint(reference, y0, [0.0, 1.0], rtol=1e-10, atol=1e-10)
        loss = (solution.y[-1] * self.weight).sum()
        self.reference = torch.autograd.grad(loss, [y0, *reference.parameters()])

    def gradients(self, final: Tensor) -> list[Tensor]:
        """Return the gradients of every input."""
        loss = (final * self.weight).sum()
        return list(torch.autograd.grad(loss, self.inputs))

    def error(self, gradients: list[Tensor]) -> float:
        """Largest relative error of the gradient of any input."""
        return max(
            ((g.double() - r).norm() / r.norm()).item()
            for g, r in zip(gradients, self.reference, strict=True)
        )

    def ours(self, method: str, gradient: str, level: float) -> Step:
        """Return a training step by this package."""
        setting = (
            {"n_steps": int(level)}
            if method == "rk4"
            else {"rtol": level, "atol": level}
        )

        def step() -> list[Tensor]:
            solution = odeint(
                self.field,
                self.y0,
                [0.0, 1.0],
                method=method,
                gradient=gradient,
                **setting,
            )
            return self.gradients(solution.y[-1])

        return step

    def torchdiffeq(self, method: str, function: str, level: float) -> Step:
        """Return a training step by torchdiffeq."""
        solve = getattr(torchdiffeq, function)
        t = torch.tensor([0.0, 1.0])
        setting = (
            {"options": {"step_size": 1 / level}}
            if method == "rk4"
            else {"rtol": level, "atol": level}
        )

        def step() -> list[Tensor]:
            return self.gradients(
                solve(self.field, self.y0, t, method=method, **setting)[-1]
            )

        return step

    def torchode(self, method: str, level: float) -> Step:
        """Return a training step by torchode, which has steps per row."""
        import torchode

        term = torchode.ODETerm(self.field)
        name = {"dopri5": "Dopri5", "tsit5": "Tsit5"}[method]
        solver = torchode.AutoDiffAdjoint(
            getattr(torchode, name)(term=term),
            torchode.IntegralController(atol=level, rtol=level, term=term),
        )
        ends = torch.zeros(self.n_rows), torch.ones(self.n_rows)

        def step() -> list[Tensor]:
            problem = torchode.InitialValueProblem(
                y0=self.y0, t_start=ends[0], t_end=ends[1]
            )
            return self.gradients(solver.solve(problem).ys[:, -1])

        return step

    def diffrax(self, method: str, level: float) -> Step:
        """Return a training step by diffrax, compiled."""
        import diffrax
        import jax
        import jax.numpy as jnp

        weights = [jnp.asarray(p.detach().numpy()) for p in self.field.parameters()]
        y0 = jnp.asarray(self.y0.detach().numpy())
        weight = jnp.asarray(self.weight.numpy())

        def field(t, y, args):
            w1, b1, w2, b2 = args
            return jnp.tanh(y @ w1.T + b1) @ w2.T + b2

        solver = {"dopri5": diffrax.Dopri5(), "tsit5": diffrax.Tsit5()}[method]

        def loss(y, args):
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(field),
                solver,
                0.0,
                1.0,
                None,
                y,
                args,
                stepsize_controller=diffrax.PIDController(rtol=level, atol=level),
                max_steps=256,
            )
            return (solution.ys[-1] * weight).sum()

        gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))

        def step() -> list[Tensor]:
            of_y0, of_args = jax.block_until_ready(gradient(y0, weights))
            return [torch.tensor(g.__array__()) for g in (of_y0, *of_args)]

        return step

    def floor(self, nfe: int) -> Step:
        """Return as many plain forward and backward passes."""
        time_zero = torch.zeros(())

        def step() -> list[Tensor]:
            y = self.y0
            for _ in range(nfe):
                y = self.field(time_zero, y)
            return self.gradients(y)

        return step


def loosest(problem: Problem, make: Callable[[float], Step], levels: list) -> float:
    """Return the first level at which the gradient's error meets the target."""
    for level in levels:
        if problem.error(make(level)()) <= TARGET_ERROR:
            return level
    return levels[-1]


def importable(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def cost_rows(n_rows: int, repeats: int, found: dict) -> list[dict]:
    """Return cost over the floor of every method at one number of rows.

    The level that meets the error is sought once, at the fewest rows, and kept in
    ``found``: it depends little on the rows.
    """
    problem = Problem(n_rows)
    makers = {}
    for method, gradient in SETTINGS:
        makers["skfunc", method, gradient] = lambda level, m=method, g=gradient: (
            problem.ours(m, g, level)
        )
    for method, function in PEERS:
        makers["torchdiffeq", method, function] = lambda level, m=method, f=function: (
            problem.torchdiffeq(m, f, level)
        )
    for package, make in (("torchode", problem.torchode), ("diffrax", problem.diffrax)):
        if importable(package):
            for method in ("dopri5", "tsit5"):
                makers[package, method, "backprop"] = (
                    lambda level, m=method, make=make: make(m, level)
                )
    steps, rows = {}, {}
    for key, make in makers.items():
        levels = STEP_COUNTS if key[1] == "rk4" else TOLERANCES
        coarse = levels[::4] if key[0] == "diffrax" else levels
        if key not in found:
            found[key] = loosest(problem, make, coarse)
        level = found[key]
        step = make(level)
        problem.field.nfe = 0
        error = problem.error(step())
        rows[key] = {
            "rows": n_rows,
            "package": key[0],
            "method": key[1],
            "gradient": key[2],
            "level": level,
            "gradient_error": error,
            "calls": problem.field.nfe or None,
        }
        steps[key] = step
        if key[0] == "skfunc":
            # The floor counts the solve's own evaluations, not those of the way back.
            problem.field.nfe = 0
            report = odeint(
                problem.field,
                problem.y0,
                [0.0, 1.0],
                method=key[1],
                **(
                    {"n_steps": int(level)}
                    if key[1] == "rk4"
                    else {"rtol": level, "atol": level}
                ),
            ).report
            rows[key]["nfe"] = int(report.nfe)
            steps["floor", *key] = problem.floor(int(report.nfe))
    samples: dict = {key: [] for key in steps}
    for _ in range(repeats):
        for key, step in steps.items():
            begin = time.process_time()
            step()
            samples[key].append(time.process_time() - begin)
    for key, row in rows.items():
        row["ms"] = 1e3 * statistics.median(samples[key])
        floor = samples.get(("floor", *key))
        if floor is not None:
            # Turns are paired, so that a slow spell of the machine falls on both.
            pairs = zip(samples[key], floor, strict=True)
            row["over_floor"] = statistics.median(a / b for a, b in pairs)
    return list(rows.values())


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors alive that were made inside, now and at the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self._watch(value)
        return result

    def _watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        n_bytes = storage.nbytes()
        self._known.add(key)
        self.now += n_bytes
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, key, n_bytes)

    def _release(self, key: int, n_bytes: int) -> None:
        self._known.discard(key)
        self.now -= n_bytes


class SavedBytes:
    """Peak bytes that autograd holds for its backward passes."""

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor for as long as it is held."""
        held = tensor.detach()
        n_bytes = held.nbytes
        self.now += n_bytes
        self.peak = max(self.peak, self.now)
        weakref.finalize(held, self._release, n_bytes)
        return held

    def _release(self, n_bytes: int) -> None:
        self.now -= n_bytes


def memory_rows(step_counts: list[int]) -> list[dict]:
    """Return peak memory of the three gradients against the number of steps."""
    problem = Problem(256)
    rows = []
    for n_steps in step_counts:
        for gradient in ("backprop", "checkpoint", "adjoint"):
            step = problem.ours("rk4", gradient, n_steps)
            saved = SavedBytes()
            with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda x: x):
                step()
            with LiveBytes() as live:
                step()
            rows.append(
                {
                    "steps": n_steps,
                    "gradient": gradient,
                    "saved_mb": saved.peak / 1e6,
                    "live_mb": live.peak / 1e6,
                }
            )
    return rows


def cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else str(value)


def table(rows: list[dict], columns: list[str]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell(r.get(c)) for c in columns) + " |" for r in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    costs: list[dict] = []
    found: dict = {}
    for n_rows, repeats in ((256, 41), (1024, 21), (4096, 11)):
        costs += cost_rows(n_rows, max(repeats // 4, 3) if quick else repeats, found)
    for row in costs:
        same = [r for r in costs if r["rows"] == row["rows"] and "over_floor" in r]
        best = min(r["ms"] for r in same if r["method"] != "rk4")
        row["over_ours"] = row["ms"] / best
    memory = memory_rows([10, 100, 1000] if quick else [10, 30, 100, 300, 1000])
    columns = [
        "rows",
        "package",
        "method",
        "gradient",
        "level",
        "gradient_error",
        "nfe",
        "calls",
        "ms",
        "over_floor",
        "over_ours",
    ]
    text = "\n\n".join(
        (
            "# Solvers: the cost of a training step",
            f"A field of two layers and tanh, {HIDDEN} wide, on [0, 1], float32, one "
            f"thread. `level` is the tolerance, or the number of steps, at which the "
            f"gradient's relative error is at most {TARGET_ERROR:g} at 256 rows "
            "(diffrax, which compiles at each, tries whole decades). `calls` counts "
            "the network's evaluations with those of the way back, `over_floor` is "
            "over `nfe` plain forward and backward passes, `over_ours` is over the "
            "quickest adaptive row of skfunc at the same number of rows.",
            table(costs, columns),
            "Peak memory of a training step by rk4, 256 rows: of the tensors that "
            "autograd saves, and of all tensors alive.",
            table(memory, ["steps", "gradient", "saved_mb", "live_mb"]),
        )
    )
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "solvers.md").write_text(text + "\n")
    with (RESULTS / "solvers.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns, "steps", "saved_mb", "live_mb"])
        writer.writeheader()
        writer.writerows(costs + memory)


if __name__ == "__main__":
    main()
