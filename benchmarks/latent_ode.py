"""Spirals in two directions, continued beyond what was seen.

1000 series of 100 points with noise, of which 30, 50 or 100 at random are given; a test
series is continued for another 100 points, and judged by the root mean squared error
from the spiral without noise. `LatentODE` against a recurrent network that gets the
time gaps as an input and feeds its predictions back, in every other step of training
too, each with the same seconds of training on one core; of two learning rates, the
network has the one that is better on training series kept out.

    python benchmarks/latent_ode.py
    python benchmarks/latent_ode.py --quick
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from skfunc import LatentODE
from skfunc.datasets import make_spirals
from skfunc.training import one_thread

RESULTS = Path(__file__).parent / "results" / "latent_ode_spirals.csv"
# Chen et al. 2018, table 2: observations, latent ODE, recurrent network.
PUBLISHED = {30: (0.1642, 0.3937), 50: (0.1502, 0.3202), 100: (0.1346, 0.1813)}


def observed_points(points, n_observed, seed):
    """Return rows with NaN for points that are not given."""
    rng = np.random.default_rng(seed)
    points = points.copy()
    for series in points:
        hidden = rng.permutation(points.shape[1])[n_observed:]
        series[hidden] = np.nan
    return points


class GapNetwork(nn.Module):
    """Gated recurrent unit: a point and the time to the next one, to the next point."""

    def __init__(self, width):
        super().__init__()
        self.unit = nn.GRU(3, width, batch_first=True)
        self.output = nn.Linear(width, 4)

    def forward(self, points, gaps, state=None):
        h, state = self.unit(torch.cat([points, gaps], -1), state)
        step, raw = self.output(h).chunk(2, -1)
        return points + step, raw, state


def compact(rows, times):
    """Return given points and their times, (series, given, ...)."""
    seen = np.isfinite(rows[..., 0])
    given = [row[s] for row, s in zip(rows, seen, strict=True)]
    return np.stack(given), np.stack([times[s] for s in seen])


class GapForecast:
    """Trains a `GapNetwork` for some seconds, and continues series with it.

    A tenth of the training series judge: their second halves, continued from the first
    by feeding predictions back, as test series are.
    """

    def __init__(self, train, times):
        self.mean, self.scale = np.nanmean(train, (0, 1)), np.nanstd(train, (0, 1))
        # Gaps are in tens of the steps between points.
        self.unit = 10 * (times[1] - times[0])
        points, own = compact((train - self.mean) / self.scale, times)
        self.points = torch.tensor(points, dtype=torch.float32)
        self.own = torch.tensor(own, dtype=torch.float32)
        self.gaps = torch.diff(self.own, dim=1)[..., None] / self.unit
        self.n_judging = max(1, len(train) // 10)

    def fit(self, seconds, rate, seed=0):
        """Return the best network on judging series, its error, and its steps."""
        torch.manual_seed(seed)
        network = GapNetwork(64)
        optimizer = torch.optim.Adam(network.parameters(), lr=rate)
        start, n_steps, best, kept = time.process_time(), 0, math.inf, None
        n_train, n_points = len(self.points) - self.n_judging, self.points.shape[1]
        while (spent := time.process_time() - start) < seconds:
            for group in optimizer.param_groups:
                group["lr"] = rate * 0.5 * (1 + np.cos(np.pi * spent / seconds))
            rows = torch.randint(n_train, (100,))
            # One step ahead over the series, or from a point on by feeding back.
            if n_steps % 2:
                predicted, raw, _ = network(self.points[rows, :-1], self.gaps[rows])
                known = 1
            else:
                known = int(torch.randint(n_points // 4, n_points - 1, ()))
                predicted, raw = self.go_on(
                    network,
                    self.points[rows, :known],
                    self.gaps[rows, :known],
                    self.gaps[rows, known:],
                )
            residual = (self.points[rows, known:] - predicted) * torch.exp(-raw)
            loss = (0.5 * residual**2 + raw).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            n_steps += 1
            if n_steps % 50 == 0 and (judged := self.judge(network)) < best:
                best, kept = judged, copy.deepcopy(network)
        return kept or network, best, n_steps

    def judge(self, network):
        """Return the error of the second halves of judging series."""
        half = self.points.shape[1] // 2
        rows = slice(len(self.points) - self.n_judging, None)
        points, gaps = self.points[rows], self.gaps[rows]
        with torch.no_grad():
            answers, _ = self.go_on(
                network, points[:, :half], gaps[:, :half], gaps[:, half:]
            )
        return float((answers - points[:, half:]).square().mean())

    @staticmethod
    def go_on(network, points, gaps, later):
        """Return predictions after points, and the logarithms of their deviations.

        Gaps are those from each point to the next, and those from there on.
        """
        predicted, raw, state = network(points, gaps)
        point = predicted[:, -1:]
        answers, raws = [point], [raw[:, -1:]]
        for k in range(later.shape[1]):
            point, raw, state = network(point, later[:, k : k + 1], state)
            answers.append(point)
            raws.append(raw)
        return torch.cat(answers, 1), torch.cat(raws, 1)

    def predict(self, network, test, times, future_times):
        """Continue test series at later times.

        What is fed back lies as far apart as given points do, as in training; times
        between are answered from the last of those.
        """
        points, own = compact((test - self.mean) / self.scale, times)
        points = torch.tensor(points, dtype=torch.float32)
        gaps = torch.tensor(np.diff(own)[..., None] / self.unit, dtype=torch.float32)
        stride = round(test.shape[1] / points.shape[1])
        last, answers = torch.tensor(own[:, -1:, None], dtype=torch.float32), []
        with torch.no_grad():
            _, _, state = network(points[:, :-1], gaps)
            point = points[:, -1:]
            for start in range(0, len(future_times), stride):
                for t in future_times[start : start + stride]:
                    gap = (float(t) - last) / self.unit
                    answer, _, later = network(point, gap, state)
                    answers.append(answer)
                point, state = answer, later
                last = torch.full_like(last, float(t))
        return torch.cat(answers, 1).numpy() * self.scale + self.mean


def recurrent_forecast(train, test, times, later, seconds, seed=0):
    """Train at two rates; continue the test series by the one that judges better."""
    forecast = GapForecast(train, times)
    fits = [forecast.fit(seconds, rate, seed) for rate in (1e-3, 5e-3)]
    network, _, n_steps = min(fits, key=lambda fit: fit[1])
    return forecast.predict(network, test, times, later), n_steps


def compare(n_observed, n_train, n_test, epochs, seed=0):
    """Return errors of both, with the latent ODE's seconds as the budget."""
    train = make_spirals(n_train, n_future=0, random_state=seed)
    test = make_spirals(n_test, random_state=1000 + seed)
    rows = observed_points(train.observed, n_observed, seed)
    rows_test = observed_points(test.observed, n_observed, 1000 + seed)
    model = LatentODE(
        times=train.times,
        n_channels=2,
        latent_size=4,
        n_steps=20,
        max_iter=epochs,
        random_state=seed,
    )
    start = time.process_time()
    with one_thread():
        model.fit(rows.reshape(n_train, -1))
        seconds = time.process_time() - start
        flat = rows_test.reshape(n_test, -1)
        inside = model.predict(flat)
        beyond = model.predict(flat, test.future_times)
        peer, n_steps = recurrent_forecast(
            rows, rows_test, train.times, test.future_times, seconds, seed
        )

    def error(points, truth):
        return float(np.sqrt(np.mean((points - truth) ** 2)))

    each = np.sqrt(((beyond - test.future) ** 2).mean((1, 2)))
    return {
        "observed": n_observed,
        "epochs": model.n_iter_,
        "seconds": seconds,
        "interpolation": error(inside, test.truth),
        "extrapolation": error(beyond, test.future),
        "median of series": float(np.median(each)),
        "gap GRU": error(peer, test.future),
        "gap GRU steps": n_steps,
        "published": PUBLISHED[n_observed][0],
        "published RNN": PUBLISHED[n_observed][1],
    }


def main():
    """Run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--observed", type=int, nargs="+", default=[30, 50, 100])
    options = parser.parse_args()
    sizes = (60, 20, 2) if options.quick else (1000, 200, options.epochs)
    lines = []
    for n_observed in options.observed:
        row = compare(n_observed, *sizes)
        print(
            ", ".join(f"{key} {value:.4g}" for key, value in row.items()),
            flush=True,
        )
        lines.append(row)
        if not options.quick:
            RESULTS.parent.mkdir(exist_ok=True)
            header = ",".join(lines[0])
            body = [",".join(f"{v:.6g}" for v in line.values()) for line in lines]
            RESULTS.write_text("\n".join([header, *body]) + "\n")


if __name__ == "__main__":
    main()
