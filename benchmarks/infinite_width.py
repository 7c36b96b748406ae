"""Kernels of infinitely wide networks, beside neural-tangents.

Both compute the neural tangent kernel of the same rows with themselves, each in a
process of its own, on one thread, in turns; neural-tangents after its compilation. Its
release 0.6.5 needs an older jax, so it gets an environment of its own, built once in
``$SKFUNC_CACHE`` or ``~/.cache/skfunc``, without TensorFlow.

Then the cost of leave-one-out over thirty ridges, and over one.

Writes ``benchmarks/results/infinite_width.md``. ``--quick`` is for a first look.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from _infinite_width_worker import CASES
from _measure import library_versions, limit_threads_of_children, one_thread
from _table import markdown

RESULTS = Path(__file__).parent / "results"
WORKER = Path(__file__).parent / "_infinite_width_worker.py"
# The newest jax that neural-tangents 0.6.5 imports with; it is installed without its
# dependencies, which name TensorFlow.
JAX = ["jax==0.5.3", "jaxlib==0.5.3", "numpy==2.4.6"]
PEER = ["neural-tangents==0.6.5", "frozendict==2.5.1", "absl-py==2.5.1"]
DTYPES = ("float32", "float64")
SIDES = ("neural-tangents", "skfunc")
FC, FLATTEN_16, FLATTEN_32, POOL_8, POOL_16 = CASES
# Case, rows, repeats.
TIMED = [
    (FC, 1000, 7),
    (FC, 2000, 5),
    (FC, 4000, 5),
    (FLATTEN_16, 200, 5),
    (FLATTEN_32, 100, 5),
    (POOL_8, 32, 5),
    (POOL_16, 16, 3),
]
SPEED_GOAL = 5.0
MEMORY_CASES = [(FC, 4000), (FLATTEN_16, 400)]
MEMORY_GOAL = 3.0
AGREEMENT_ROWS = {FC: 1000, FLATTEN_16: 50, FLATTEN_32: 20, POOL_8: 12, POOL_16: 6}
RIDGES, RIDGE_GOAL = 30, 1.3


def peer_python() -> Path:
    """Return the interpreter that has neural-tangents, its folder built if missing."""
    cache = Path(os.environ.get("SKFUNC_CACHE", Path.home() / ".cache" / "skfunc"))
    folder = cache / "neural-tangents"
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        print(f"building {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *JAX], check=True)
        subprocess.run([*pip, "--no-deps", *PEER], check=True)
        complete.touch()
    return python


class Worker:
    """A process that computes the kernels of one library in one type."""

    def __init__(self, side: str, dtype: str) -> None:
        python = str(peer_python()) if side == "neural-tangents" else sys.executable
        self._process = subprocess.Popen(
            [python, str(WORKER), side, dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def ask(self, do: str, **request: object) -> dict[str, float]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker ended at {do!r} {request}; see its error")
        return json.loads(answer)


def seconds(case: str, n: int, repeats: int) -> dict[tuple[str, str], float]:
    """Median CPU time of each side and type, measured in turns."""
    workers = {(s, d): Worker(s, d) for d in DTYPES for s in SIDES}
    times: dict[tuple[str, str], list[float]] = {key: [] for key in workers}
    try:
        for worker in workers.values():
            worker.ask("prepare", case=case, n=n)
        for _ in range(repeats):
            for key, worker in workers.items():
                times[key].append(worker.ask("time")["seconds"])
    finally:
        for worker in workers.values():
            worker.__exit__()
    return {key: statistics.median(values) for key, values in times.items()}


def speed_table(quick: bool) -> str:
    lines = []
    for case, n, repeats in TIMED:
        n, repeats = (max(n // 4, 4), 1) if quick else (n, repeats)
        medians = seconds(case, n, repeats)
        quickest = min(medians["neural-tangents", dtype] for dtype in DTYPES)
        for dtype in DTYPES:
            theirs, ours = (medians[side, dtype] for side in SIDES)
            lines.append(
                [
                    case,
                    str(n),
                    dtype,
                    f"{theirs:.3g}",
                    f"{ours:.3g}",
                    f"{theirs / ours:.1f}",
                    f"{quickest / ours:.1f}",
                ]
            )
            print(" | ".join(lines[-1]), flush=True)
    header = [
        "kernel",
        "rows",
        "type",
        "neural-tangents, CPU-s",
        "skfunc, CPU-s",
        "ratio",
        "ratio to its faster type",
    ]
    return markdown(header, lines)


def memory_table(quick: bool) -> str:
    lines = []
    for case, n in MEMORY_CASES:
        n = n // 4 if quick else n
        for dtype in DTYPES:
            matrix = n * n * np.dtype(dtype).itemsize
            peaks = []
            for side in SIDES:
                with Worker(side, dtype) as worker:
                    peaks.append(worker.ask("memory", case=case, n=n)["bytes"])
            megabytes = [f"{peak / 2**20:.0f}" for peak in peaks]
            matrices = [f"{p / matrix:.2f}" if case == FC else "" for p in peaks]
            lines.append([case, str(n), dtype, *megabytes, *matrices])
            print(" | ".join(lines[-1]), flush=True)
    header = ["kernel", "rows", "type"]
    header += [f"{side}, {unit}" for unit in ("MB", "matrices") for side in SIDES]
    return markdown(header, lines)


def agreement_table() -> str:
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        paths = {side: str(Path(folder) / f"{side}.npy") for side in SIDES}
        for case, n in AGREEMENT_ROWS.items():
            for side, path in paths.items():
                with Worker(side, "float64") as worker:
                    worker.ask("prepare", case=case, n=n)
                    worker.ask("save", path=path)
            theirs, ours = (np.load(path) for path in paths.values())
            error = np.abs(ours - theirs) / np.abs(theirs)
            off = ~np.eye(n, dtype=bool)
            worst = [f"{error[where].max():.1e}" for where in (off, ~off)]
            lines.append([case, str(n), *worst])
            print(" | ".join(lines[-1]), flush=True)
    return markdown(["kernel", "rows", "off the diagonal", "on it"], lines)


def ridge_table(quick: bool) -> str:
    """Leave-one-out over ridges, by one decomposition."""
    from skfunc.infinite_width import layers as L
    from skfunc.infinite_width._inference import Decomposition

    lines = []
    rng = np.random.default_rng(0)
    ridges = np.logspace(-6, 0, RIDGES)
    for n in (250, 500) if quick else (1000, 2000):
        X = rng.normal(size=(n, 10))
        y = np.sin(X[:, 0]) + 0.1 * rng.normal(size=n)
        kernel = L.preset("mlp", 3).kernel(X)
        with one_thread():
            started = time.process_time()
            solution = Decomposition(kernel, y)
            decomposed = time.process_time() - started
            times: dict[int, list[float]] = {1: [], RIDGES: []}
            for _ in range(3 if quick else 9):
                for count, found in times.items():
                    started = time.process_time()
                    solution.leave_one_out(ridges[:count])
                    found.append(time.process_time() - started)
        one, many = (statistics.median(found) for found in times.values())
        lines.append(
            [
                str(n),
                f"{decomposed:.3g}",
                f"{one:.3g}",
                f"{many:.3g}",
                f"{many / one:.2f}",
                f"{(decomposed + many) / (decomposed + one):.3f}",
            ]
        )
        print(" | ".join(lines[-1]), flush=True)
    header = [
        "rows",
        "eigendecomposition, CPU-s",
        "one ridge, CPU-s",
        f"{RIDGES} ridges, CPU-s",
        "ratio",
        "ratio with the decomposition",
    ]
    return markdown(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    limit_threads_of_children()
    os.environ["XLA_FLAGS"] = (
        "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    )
    peer_python()
    text = "\n\n".join(
        (
            "# Kernels of infinitely wide networks, beside neural-tangents",
            "The neural tangent kernel of standard normal rows with themselves, "
            f"weight_std 1.5, bias_std 0.05; {library_versions()}, {', '.join(JAX)}, "
            f"{PEER[0]}. One thread each, in turns, after compilation; medians of CPU-"
            "seconds.",
            f"## Time\n\nGoals: a ratio of at least {SPEED_GOAL:g} for fully connected "
            "networks at 4000 rows in both types, and for convolutions against the "
            "faster type of neural-tangents.",
            speed_table(quick),
            "## Memory\n\nThe most that is resident during the computation over what "
            "was before it, each in a fresh process; for fully connected networks also "
            "in matrices of rows x rows, of which images need as many as pixels in "
            f"neural-tangents. Goal: at most {MEMORY_GOAL:g} matrices.",
            memory_table(quick),
            "## Agreement\n\nLargest relative difference in float64. On the diagonal "
            "skfunc has closed forms, where neural-tangents loses digits.",
            agreement_table(),
            f"## Ridges\n\nLeave-one-out of {RIDGES} ridges and of one, by one "
            f"decomposition. Goal: a ratio of at most {RIDGE_GOAL:g}.",
            ridge_table(quick),
        )
    )
    print(text)
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "infinite_width.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
