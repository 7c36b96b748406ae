"""Compute kernels on request: one side of ``infinite_width.py``, in its own process.

It runs in the environment of the library that it is named after, reads requests from
standard input and answers on standard output, a line of JSON each.

    python _infinite_width_worker.py neural-tangents float64
"""

from __future__ import annotations

import json
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

STDS = (1.5, 0.05)
# Name: layers, head (None for fully connected), shape of a row (channels last).
CASES: dict[str, tuple[int, str | None, tuple[int, ...]]] = {
    "FC, 5 ReLU, 100 inputs": (5, None, (100,)),
    "conv 3 x 3, 3 ReLU, Flatten, 16 x 16": (3, "Flatten", (16, 16, 3)),
    "conv 3 x 3, 3 ReLU, Flatten, 32 x 32": (3, "Flatten", (32, 32, 3)),
    "conv 3 x 3, 3 ReLU, GlobalAvgPool, 8 x 8": (3, "GlobalAvgPool", (8, 8, 3)),
    "conv 3 x 3, 3 ReLU, GlobalAvgPool, 16 x 16": (3, "GlobalAvgPool", (16, 16, 3)),
}
WARM_UP_ROWS = 8


def rows(shape: tuple[int, ...], n: int, dtype: str) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, *shape)).astype(dtype)


def neural_tangents(name: str, n: int, dtype: str) -> Callable[[], np.ndarray]:
    """Return what computes the NTK by neural-tangents, compiled when first called."""
    # Its experimental part asks for TensorFlow, which nothing here needs.
    stub = "neural_tangents.experimental"
    sys.modules.setdefault(stub, types.ModuleType(stub))
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from neural_tangents import stax
    depth, head, shape = CASES[name]
    stds = dict(zip(("W_std", "b_std"), STDS, strict=True))
    if head is None:
        layers = [stax.Dense(1, **stds), stax.Relu()] * depth
    else:
        conv = stax.Conv(1, (3, 3), padding="SAME", **stds)
        layers = [*[conv, stax.Relu()] * depth, getattr(stax, head)()]
    _, _, kernel_fn = stax.serial(*layers, stax.Dense(1, **stds))
    compiled = jax.jit(lambda x: kernel_fn(x, None, "ntk"))
    x = jax.numpy.asarray(rows(shape, n, dtype))
    return lambda: compiled(x).block_until_ready()


def skfunc(name: str, n: int, dtype: str) -> Callable[[], np.ndarray]:
    """Return what computes the NTK of rows with themselves by skfunc."""
    import torch

    from skfunc.infinite_width import layers as L
    from skfunc.infinite_width._kernel_matrices import kernel_matrices

    torch.set_num_threads(1)
    depth, head, shape = CASES[name]
    image_shape = None
    x = rows(shape, n, dtype)
    if head is None:
        layers = [L.Dense(*STDS), L.Relu()] * depth
    else:
        layers = [*[L.Conv(*STDS), L.Relu()] * depth, getattr(L, head)()]
        x = np.moveaxis(x, -1, 1)
        image_shape = x.shape[1:]
    net = L.Serial(*layers, L.Dense(*STDS))
    flat = torch.tensor(x.reshape(n, -1))
    return lambda: kernel_matrices(net, flat, image_shape=image_shape, kind="ntk").ntk


def resident(peak: bool) -> int:
    """Bytes of memory in use, or the most since `forget_peak`."""
    entry = "VmHWM:" if peak else "VmRSS:"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(entry):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no memory figures on this system")


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    side, dtype = sys.argv[1:]
    make = {"neural-tangents": neural_tangents, "skfunc": skfunc}[side]
    compute: Callable[[], np.ndarray] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, float] = {}
        if request["do"] == "prepare":
            compute = make(request["case"], request["n"], dtype)
            compute()
        elif request["do"] == "memory":
            # Libraries are loaded and set up by a small problem.
            make(request["case"], WARM_UP_ROWS, dtype)()
            compute = make(request["case"], request["n"], dtype)
            forget_peak()
            before = resident(peak=False)
            compute()
            answer["bytes"] = resident(peak=True) - before
        elif compute is None:
            raise ValueError(f"{request['do']!r} came before 'prepare'")
        elif request["do"] == "time":
            # Of all threads, and no matter what else the machine does.
            started = time.process_time()
            compute()
            answer["seconds"] = time.process_time() - started
        elif request["do"] == "save":
            np.save(request["path"], np.asarray(compute()))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
