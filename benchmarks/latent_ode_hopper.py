"""A hopping robot's 14 channels, half of the points missing: filled and continued.

    python benchmarks/latent_ode_hopper.py
    python benchmarks/latent_ode_hopper.py --quick

1500 series of 100 points, scaled to [0, 1] by channel, four fifths for training. Half
of the points of a series are hidden at random. Interpolation: all other points are
given, and hidden ones judged. Extrapolation: points of the first half of time alone are
given, and all of the second half judged. Mean squared errors and negative log
likelihoods of `LatentODE`, of gated recurrent units that train for as many CPU-seconds
(the rate of two that does best on held-out series), of the last value carried forward,
and of straight lines between neighbours.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch

from _data import data_folder
from _measure import library_versions, one_thread
from _recurrent_peers import Forecaster, TwoWayImputer, gaussian_loss, train_for
from skfunc import LatentODE

RESULTS = Path(__file__).resolve().parent / "results" / "latent_ode_hopper.csv"
TASKS = ("interpolation", "extrapolation")
RATES = (3e-3, 1e-2)
WIDTH, BATCH = 100, 100
# Chosen on training series kept out: errors of .0075 at a state of 8, .0039 of 16,
# .0029 of these.
SETTINGS = {
    "latent_size": 24,
    "encoder_size": 96,
    "learning_rate_init": 1e-2,
    "max_iter": 120,
}


def load(quick: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return training and test series, scaled by the training part."""
    with np.load(data_folder() / "timeseries" / "hopper_mujoco.npz") as arrays:
        X = arrays["X"].astype(float)
    order = np.random.default_rng(0).permutation(len(X))
    train, test = X[order[: 4 * len(X) // 5]], X[order[4 * len(X) // 5 :]]
    low, high = train.min((0, 1)), train.max((0, 1))
    train, test = (train - low) / (high - low), (test - low) / (high - low)
    return (train[:60], test[:20]) if quick else (train, test)


def hide(series: np.ndarray, task: str, seed: int) -> np.ndarray:
    """Return which points are given, (series, times)."""
    rng = np.random.default_rng(seed)
    n_times = series.shape[1]
    given = np.zeros(series.shape[:2], dtype=bool)
    for row in given:
        row[rng.permutation(n_times)[: n_times // 2]] = True
    if task == "extrapolation":
        given[:, n_times // 2 :] = False
    return given


def judged(given: np.ndarray, task: str) -> np.ndarray:
    """Return which points are judged."""
    if task == "interpolation":
        return ~given
    later = np.zeros_like(given)
    later[:, given.shape[1] // 2 :] = True
    return later


def figures(mean: np.ndarray, std, truth: np.ndarray, points: np.ndarray) -> dict:
    """Return the errors at the judged points."""
    residual = (mean - truth)[points]
    found = {"mse": float(np.mean(residual**2))}
    if std is not None:
        spread = np.broadcast_to(std, truth.shape)[points]
        terms = 0.5 * (residual / spread) ** 2 + np.log(spread)
        found["nll"] = float(terms.mean() + 0.5 * np.log(2 * np.pi))
    return found


def latent_ode(train, test, given, task, quick, options):
    """Return mean and deviation of the test series, and the seconds of the fit."""
    rows = train.copy()
    if task == "interpolation":
        rows[~hide(train, task, 0)] = np.nan
    else:
        # The half that is seen has gaps; what follows is there to learn from.
        first = hide(train, task, 0)
        first[:, train.shape[1] // 2 :] = True
        rows[~first] = np.nan
    n_times, n_channels = train.shape[1:]
    model = LatentODE(
        times=np.arange(n_times),
        n_channels=n_channels,
        context_end=n_times // 2 - 1 if task == "extrapolation" else None,
        random_state=0,
        **SETTINGS | ({"max_iter": 2} if quick else {}) | options,
    )
    start = time.process_time()
    model.fit(rows.reshape(len(rows), -1))
    seconds = time.process_time() - start
    asked = np.where(given[..., None], test, np.nan).reshape(len(test), -1)
    mean, std = model.predict(asked, return_std=True)
    return mean, std, seconds, model.n_iter_


def recurrent(train, test, given, task, seconds):
    """Return mean and deviation of the test series, by the better of two rates."""
    n_series, n_times, n_channels = train.shape
    values = torch.as_tensor(train, dtype=torch.float32)
    center = values.mean((0, 1))
    half = n_times // 2
    rng = np.random.default_rng(1)

    def inputs(x, seen):
        mask = torch.as_tensor(seen, dtype=torch.float32)[..., None].expand(x.shape)
        return (x - center) * mask, mask, torch.full_like(x, 0.1)

    def loss(network, rows):
        x = values[rows]
        seen = hide(x, task, int(rng.integers(2**31)) if network.training else 2)
        points = torch.as_tensor(judged(seen, task), dtype=torch.float32)
        if task == "interpolation":
            mean = network(*inputs(x, seen)) + center
            return gaussian_loss(mean, network.log_std, x, points[..., None])
        context = inputs(x[:, :half], seen[:, :half])
        mean = network(*context, n_times - half) + center
        later = points[:, half:, None]
        return gaussian_loss(mean, network.log_std, x[:, half:], later)

    fits = []
    for rate in RATES:
        torch.manual_seed(0)
        kind = TwoWayImputer if task == "interpolation" else Forecaster
        network = kind(n_channels, WIDTH)
        best, n_steps = train_for(
            network,
            lambda rows, network=network: loss(network, rows),
            n_series,
            seconds,
            rate=rate,
            batch_size=BATCH,
            seed=0,
        )
        fits.append((best, n_steps, network))
    _, n_steps, network = min(fits, key=lambda fit: fit[0])
    x = torch.as_tensor(test, dtype=torch.float32)
    with torch.no_grad():
        if task == "interpolation":
            mean = (network(*inputs(x, given)) + center).numpy()
        else:
            context = inputs(x[:, :half], given[:, :half])
            later = network(*context, n_times - half) + center
            mean = np.concatenate([test[:, :half], later.numpy()], 1)
        std = network.log_std.exp().numpy()
    return mean, std, n_steps


def simple(test, given, kind):
    """Return means by the last value, or by lines between neighbours."""
    times = np.arange(test.shape[1])
    mean = np.empty_like(test)
    for own, seen, out in zip(test, given, mean, strict=True):
        if kind == "lines":
            for c in range(test.shape[2]):
                out[:, c] = np.interp(times, times[seen], own[seen, c])
        else:
            last = np.maximum.accumulate(np.where(seen, times, -1))
            out[:] = own[np.where(last < 0, np.flatnonzero(seen)[0], last)]
    return mean


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, writes nothing")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--params", default="", help="name=number pairs of LatentODE")
    options = parser.parse_args()
    pairs = dict(pair.split("=") for pair in options.params.split())
    params = {k: float(v) if "." in v or "e" in v else int(v) for k, v in pairs.items()}
    train, test = load(options.quick)
    lines = []
    for task in options.tasks:
        given = hide(test, task, 3)
        points = judged(given, task)
        with one_thread():
            mean, std, seconds, epochs = latent_ode(
                train, test, given, task, options.quick, params
            )
            answers = {"LatentODE": (mean, std, seconds, epochs)}
            mean, std, n_steps = recurrent(train, test, given, task, seconds)
            answers["gated recurrent unit"] = mean, std, seconds, n_steps
        answers["last value"] = simple(test, given, "last"), None, 0.0, 0
        if task == "interpolation":
            answers["lines"] = simple(test, given, "lines"), None, 0.0, 0
        for name, (mean, std, spent, n_iter) in answers.items():
            row = {"task": task, "model": name, "mse": "", "nll": ""}
            row |= figures(mean, std, test, points)
            row |= {"seconds": spent, "epochs or steps": n_iter}
            lines.append({**row, "versions": library_versions()})
            print({k: v for k, v in row.items()}, flush=True)
        if not (options.quick or options.params):
            write(lines)


def write(lines: list[dict]) -> None:
    """Replace the recorded rows of the tasks that were run."""
    kept = []
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            kept = list(csv.DictReader(file))
    done = {row["task"] for row in lines}
    rows = [row for row in kept if row["task"] not in done] + lines
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
