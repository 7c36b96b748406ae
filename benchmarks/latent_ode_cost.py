"""Cost of an epoch on series that share no time, beside a union of all times.

    python benchmarks/latent_ode_cost.py
    python benchmarks/latent_ode_cost.py --quick

Public implementations of latent ODEs (after Rubanova et al. 2019) merge the times of a
batch into one grid, and solve from each of its points to the next, whichever series was
observed there. That peer is written here with torchdiffeq: an ODE-RNN that takes an
Euler step and reads what was observed at every point of the grid, backwards, and a
decoder solved through all its points. It has the widths, batches, draws and losses of
`LatentODE(encoder="ode_rnn")`, whose solves do not depend on how times interleave; the
default encoder stands beside it. CPU-seconds of an epoch on one thread, medians of
three.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torchdiffeq
from torch import nn

from _measure import library_versions, one_thread
from _table import markdown
from skfunc import LatentODE

RESULTS = Path(__file__).resolve().parent / "results"
LATENT, WIDTH, HIDDEN, BATCH = 8, 32, 64, 50


def ragged_sines(n_series: int, n_observed: int, seed: int) -> list[tuple]:
    """Return series at random times of their own, in [0, 1], apart in float32."""
    rng = np.random.default_rng(seed)
    series = []
    for _ in range(n_series):
        times = np.sort(rng.uniform(0, 1, n_observed).round(5))
        values = np.sin(8 * times + rng.uniform(0, 6)) + 0.1 * rng.normal(
            size=n_observed
        )
        series.append((times, values[:, None]))
    return series


def perceptron(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    """Return a multilayer perceptron."""
    widths, layers = (inputs, *hidden), []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


class UnionGrid(nn.Module):
    """A latent ODE whose solves stop at every time of any series of a batch."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method
        self.encoder_field = perceptron(WIDTH, (WIDTH,), WIDTH)
        self.unit = nn.GRUCell(2, WIDTH)
        self.readout = perceptron(WIDTH, (WIDTH,), 2 * LATENT)
        self.field = perceptron(LATENT, (HIDDEN, HIDDEN), LATENT)
        self.decoder = nn.Linear(LATENT, 1)

    def loss(self, batch: list[tuple]) -> torch.Tensor:
        """Return the negative lower bound per value of a batch."""
        union = np.unique(np.concatenate([times for times, _ in batch]))
        values = np.zeros((len(batch), len(union)), dtype=np.float32)
        mask = np.zeros_like(values)
        for row, (times, own) in enumerate(batch):
            index = np.searchsorted(union, times)
            values[row, index], mask[row, index] = own[:, 0], 1.0
        x, seen = torch.as_tensor(values), torch.as_tensor(mask)
        grid = torch.as_tensor(union, dtype=torch.float32)
        h = torch.zeros(len(batch), WIDTH)
        for i in reversed(range(len(union))):
            if i + 1 < len(union):
                h = h - (grid[i + 1] - grid[i]) * self.encoder_field(h)
            read = self.unit(torch.stack([x[:, i], seen[:, i]], -1), h)
            h = torch.lerp(h, read, seen[:, i : i + 1])
        mean, raw = self.readout(h).chunk(2, -1)
        std = nn.functional.softplus(raw)
        start = mean + std * torch.randn_like(std)
        path = torchdiffeq.odeint(
            lambda t, z: self.field(z),
            start,
            grid,
            method=self.method,
            rtol=1e-3,
            atol=1e-4,
        )
        residual = (x - self.decoder(path)[..., 0].T) * seen
        divergence = 0.5 * (mean**2 + std**2 - 1 - 2 * torch.log(std)).sum()
        return (residual.square().sum() / 0.02 + divergence) / seen.sum()

    def epoch_seconds(self, series: list[tuple]) -> float:
        """Return the CPU-seconds of one epoch."""
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        start = time.process_time()
        for first in range(0, len(series), BATCH):
            loss = self.loss(series[first : first + BATCH])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return time.process_time() - start


def our_seconds(series: list[tuple], encoder: str) -> float:
    """Return the CPU-seconds of one epoch: what ten more add."""
    spent = []
    for epochs in (1, 11):
        model = LatentODE(
            encoder=encoder,
            latent_size=LATENT,
            encoder_size=WIDTH,
            hidden_layer_sizes=(HIDDEN, HIDDEN),
            batch_size=BATCH,
            window=(0.0, 1.0),
            early_stopping=False,
            max_iter=epochs,
            random_state=0,
        )
        start = time.process_time()
        model.fit(series)
        spent.append(time.process_time() - start)
    return (spent[1] - spent[0]) / 10


def compare(n_series: int, n_observed: int, repeats: int) -> dict[str, float]:
    """Return median seconds of an epoch by implementation."""
    series = ragged_sines(n_series, n_observed, 0)
    torch.manual_seed(0)
    runs = {
        "LatentODE, ode_rnn": lambda: our_seconds(series, "ode_rnn"),
        "LatentODE, gru": lambda: our_seconds(series, "gru"),
        "union, dopri5": lambda: UnionGrid("dopri5").epoch_seconds(series),
        "union, rk4": lambda: UnionGrid("rk4").epoch_seconds(series),
    }
    return {
        name: float(np.median([run() for _ in range(repeats)]))
        for name, run in runs.items()
    }


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, writes nothing")
    options = parser.parse_args()
    sizes = [(100, 10)] if options.quick else [(200, 10), (200, 50), (200, 100)]
    lines, names = [], []
    with one_thread():
        for n_series, n_observed in sizes:
            row = compare(n_series, n_observed, 1 if options.quick else 3)
            names = list(row)
            ratio = row["union, dopri5"] / row["LatentODE, ode_rnn"]
            lines.append(
                [
                    f"{n_series} x {n_observed}",
                    *(f"{value:.3g}" for value in row.values()),
                    f"{ratio:.0f}",
                ]
            )
            print(lines[-1], flush=True)
    header = ["series x observations", *names, "dopri5 union / ours, ode_rnn"]
    text = f"{markdown(header, lines)}\n\n{library_versions()}"
    print(text)
    if not options.quick:
        title = "# Cost of an epoch on ragged series\n\nCPU-seconds.\n\n"
        (RESULTS / "latent_ode_cost.md").write_text(title + text + "\n")


if __name__ == "__main__":
    main()
