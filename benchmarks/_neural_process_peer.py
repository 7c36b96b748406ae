"""The convolutional neural process of the package neuralprocesses, W. Bruinsma.

A script of its own, since the package lives in an environment of its own:

    pip install torch neuralprocesses
    python _neural_process_peer.py tasks.npz scores.npz --seconds 300

Reads training and test tasks, trains for so many CPU-seconds of one thread, and writes
the log-likelihood per target of every test task. Its network has the grid and the
U-Net of the one it is compared with; the rest are the package's defaults. Rate and
schedule of learning are those of the other as well.
"""

from __future__ import annotations

import argparse
import math
import time
from importlib.metadata import version

import lab.torch  # noqa: F401  (makes the package's functions know torch)
import neuralprocesses.torch as nps
import numpy as np
import torch

LEARNING_RATE, WARMUP, AVERAGING, MAX_NORM = 1e-3, 0.05, 0.999, 1.0


def rate(progress: float) -> float:
    """Return the factor of the learning rate: a rise, then half a cosine."""
    if progress < WARMUP:
        return max(progress / WARMUP, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


def train(model: torch.nn.Module, X, y, sizes, seconds: float) -> dict:
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    parameters = list(model.parameters())
    average = [p.detach().clone() for p in parameters]
    began, used, step, losses = time.process_time(), 0.0, 0, []
    while used < seconds:
        i = step % len(X)
        n = int(sizes[i])
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate(used / seconds)
        optimizer.zero_grad(set_to_none=True)
        loss = -nps.loglik(
            model,
            X[i][:, None, :n],
            y[i][:, None, :n],
            X[i][:, None, n:],
            y[i][:, None, n:],
            normalise=True,
        ).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimizer.step()
        step += 1
        decay = min(AVERAGING, (1 + step) / (10 + step))
        with torch.no_grad():
            for a, p in zip(average, parameters, strict=True):
                a.lerp_(p, 1 - decay)
        losses.append(float(loss.detach()))
        used = time.process_time() - began
        if step % 500 == 0:
            recent = -np.mean(losses[-500:])
            print(f"peer: {step} steps, {used:.0f} CPU-s, {recent:.3f}", flush=True)
    with torch.no_grad():
        for a, p in zip(average, parameters, strict=True):
            p.copy_(a)
    return {"steps": step, "seconds": used, "passes": step / len(X)}


def score(model: torch.nn.Module, X, y, n_context, n_target) -> np.ndarray:
    """Return the log-likelihood per target of every task, targets independent."""
    values = np.empty(len(X))
    for i, (n, m) in enumerate(zip(n_context, n_target, strict=True)):
        parts = [v[i][None, None, a:b] for a, b in ((0, n), (n, n + m)) for v in (X, y)]
        with torch.no_grad():
            values[i] = float(nps.loglik(model, *parts, normalise=True))
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks")
    parser.add_argument("scores")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--points-per-unit", type=int, default=32)
    parser.add_argument("--levels", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tasks = np.load(arguments.tasks)
    X, y, test_X, test_y = (
        torch.tensor(tasks[name], dtype=torch.float32)
        for name in ("X", "y", "test_X", "test_y")
    )
    model = nps.construct_convgnp(
        dim_x=1,
        dim_y=1,
        likelihood="het",
        points_per_unit=arguments.points_per_unit,
        unet_channels=(64,) * arguments.levels,
    )
    # The package makes some parameters when it first sees data.
    nps.loglik(
        model, X[0][:, None, :9], y[0][:, None, :9], X[0][:, None], y[0][:, None]
    )
    facts = train(model, X, y, tasks["sizes"], arguments.seconds)
    values = score(model, test_X, test_y, tasks["n_context"], tasks["n_target"])
    facts["parameters"] = sum(p.numel() for p in model.parameters())
    np.savez(
        arguments.scores,
        log_likelihood=values,
        version=version("neuralprocesses"),
        **facts,
    )


if __name__ == "__main__":
    main()
