"""When things happen: rates of real events against two classical estimates.

    python benchmarks/latent_ode_events.py
    python benchmarks/latent_ode_events.py --quick

Dates of British coal mining disasters, and of Californian earthquakes. Three tenths of
the events are drawn at random to test: what remains of a Poisson process thinned at
random is a Poisson process with .7 of the rate, so that .3 / .7 of a rate fitted to the
rest is the rate of the test events. Judged by their log likelihood, per event, and by
the gaps between them once time is rescaled by the rate: exponential, if it is right
(Kolmogorov and Smirnov's test). Beside `LatentODE.fit_events` stand the even rate, a
Gaussian kernel whose bandwidth has the highest leave-one-out likelihood, its mass cut
at the window's ends, and parts of the model: the members of either clock, those of the
clock that left-out events prefer, and, to say what the network adds, a clock alone.
"""

from __future__ import annotations

import argparse
import csv
import time
from copy import copy, deepcopy
from pathlib import Path

import numpy as np
from scipy.special import ndtr
from scipy.stats import kstest

from _data import data_folder
from _measure import library_versions, one_thread
from skfunc import LatentODE

RESULTS = Path(__file__).resolve().parent / "results" / "latent_ode_events.csv"
TEST_SHARE = 0.3
BANDWIDTHS = np.geomspace(1e-6, 0.5, 80)
# Sets, and draws of each.
DRAWS = {"coal": 30, "earthquakes": 10}
SETS = tuple(DRAWS)
CLOCKS, N_FOLDS = ("even", "events"), 5
# Days of the catalogue that the figure shows.
BURSTS = (17_900.0, 18_700.0)


def load(name: str) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the times of a set, and its window."""
    folder = data_folder() / "events"
    if name == "coal":
        times = np.loadtxt(folder / "coal_mining_disasters.csv", skiprows=1)
        return np.sort(times), (1851.0, 1963.0)
    table = np.genfromtxt(
        folder / "earthquakes_torchetas.csv.gz", delimiter=",", names=True
    )
    times = np.sort(table["time"])
    # The catalogue says no more of its window than its first and last event.
    return times, (float(times[0]), float(times[-1]))


class Kernel:
    """Density of Gaussian kernels, each cut at the window's ends."""

    def __init__(self, times, window):
        self.start, self.length = window[0], window[1] - window[0]
        self.times = self._inner(times)
        self.h = max(BANDWIDTHS, key=self._left_out)

    def _inner(self, times):
        return (np.asarray(times) - self.start) / self.length

    def _weights(self, h):
        mass = ndtr((1 - self.times) / h) - ndtr(-self.times / h)
        return 1 / (mass * len(self.times))

    def _left_out(self, h):
        away = (self.times[:, None] - self.times) / h
        values = np.exp(-0.5 * away**2) * self._weights(h)
        np.fill_diagonal(values, 0)
        n = len(self.times)
        density = values.sum(1) * n / (n - 1) / (h * np.sqrt(2 * np.pi))
        return np.log(np.maximum(density, 1e-300)).sum()

    def rate(self, times):
        """Return the rate of all training events."""
        away = (self._inner(times)[:, None] - self.times) / self.h
        density = np.exp(-0.5 * away**2) @ self._weights(self.h)
        density /= self.h * np.sqrt(2 * np.pi)
        return np.maximum(density, 1e-300) * len(self.times) / self.length

    def expected(self, times):
        """Return how many training events are expected up to times."""
        away = (self._inner(times)[:, None] - self.times) / self.h
        below = ndtr(away) - ndtr(-self.times / self.h)
        return below @ self._weights(self.h) * len(self.times)


class Even:
    """The same rate at all times."""

    def __init__(self, times, window):
        self.window, self.n = window, len(times)

    def rate(self, times):
        """Return the rate of all training events."""
        return np.full(len(times), self.n / (self.window[1] - self.window[0]))

    def expected(self, times):
        """Return how many training events are expected up to times."""
        return self.rate(times) * (np.asarray(times) - self.window[0])


class Latent:
    """`LatentODE.fit_events`."""

    def __init__(self, times, window, seed, clock, **options):
        self.times = times
        self.model = LatentODE(random_state=seed, **options)
        self.model.fit_events([times], window, clock=clock)

    def rate(self, times):
        """Return the rate of all training events."""
        return self.model.intensity([self.times], times)[0]

    def expected(self, times):
        """Return how many training events are expected up to times."""
        return self.model.cumulative_intensity([self.times], times)[0]


def by_one_clock(latent, clock, seed, **options):
    """Return the members of one clock as a model; fitted, where they were left out."""
    shares = latent.model.clock_shares_
    if not shares[clock]:
        window = latent.model.window_
        return Latent(latent.times, window, seed, CLOCKS[clock], **options)
    one = copy(latent)
    one.model = deepcopy(latent.model)
    kept = np.repeat(np.flatnonzero(shares) == clock, N_FOLDS)
    one.model.parameters_ = one.model.parameters_[kept]
    one.model.clock_weights_ = one.model.clock_weights_[kept]
    events = latent.model.clock_events_
    one.model.clock_events_ = [events[m] for m in np.flatnonzero(kept)]
    one.model.clock_shares_ = np.eye(2)[clock]
    return one


class ClockAlone:
    """The mean speed of a fitted model's clocks, times the number of events."""

    def __init__(self, latent):
        self.model, self.n = latent.model, len(latent.times)

    def _mean(self, times, what):
        start, end = self.model.window_
        inner = (np.asarray(times) - start) / (end - start)
        clocks = self.model._event_clocks()
        return self.n * np.mean([getattr(c, what)(inner) for c in clocks], axis=0)

    def rate(self, times):
        """Return the rate of all training events."""
        return self._mean(times, "speed") / np.diff(self.model.window_)[0]

    def expected(self, times):
        """Return how many training events are expected up to times."""
        return self._mean(times, "at")


def judge(model, test, window) -> dict:
    """Return figures of test events."""
    share = TEST_SHARE / (1 - TEST_SHARE)
    total = share * model.expected(np.array([window[1]]))[0]
    logs = np.log(share * model.rate(test))
    rescaled = share * np.concatenate([[0.0], model.expected(test)])
    return {
        "log likelihood": (logs.sum() - total) / len(test),
        "ks": kstest(np.diff(rescaled), "expon").pvalue,
    }


def compare(name: str, seed: int, quick: bool) -> list[dict]:
    """Return a row for each model."""
    times, window = load(name)
    drawn = np.random.default_rng(seed).uniform(size=len(times)) < TEST_SHARE
    known, test = times[~drawn], times[drawn]
    options = {"max_iter": 2} if quick else {}
    rows = []

    def run(label, build):
        start = time.process_time()
        model = build()
        seconds = time.process_time() - start
        figures = judge(model, test, window)
        rows.append({"set": name, "seed": seed, "model": label, **figures})
        rows[-1]["seconds"] = seconds
        return model

    run("even rate", lambda: Even(known, window))
    run("kernel", lambda: Kernel(known, window))
    latent = run("LatentODE", lambda: Latent(known, window, seed, "auto", **options))
    fits = [
        run(
            f"clock={CLOCKS[clock]!r}",
            lambda clock=clock: by_one_clock(latent, clock, seed, **options),
        )
        for clock in range(2)
    ]
    run("likelier clock", lambda: fits[latent.model.clock_shares_.argmax()])
    run("clock of events alone", lambda: ClockAlone(fits[1]))
    for row in rows:
        row["share of even clock"] = latent.model.clock_shares_[0]
    return rows


def summarize(rows: list[dict]) -> str:
    """Return a table of means, and of differences from the kernel."""
    lines = [
        "| set | model | log likelihood per event | over the kernel "
        "| tests passed | CPU-s |",
        "| --- | --- | --: | --: | --: | --: |",
    ]
    for name in SETS:
        mine = [row for row in rows if row["set"] == name]
        kernel = {
            r["seed"]: r["log likelihood"] for r in mine if r["model"] == "kernel"
        }
        for label in dict.fromkeys(row["model"] for row in mine):
            own = [row for row in mine if row["model"] == label]
            logs = np.array([row["log likelihood"] for row in own])
            over = logs - np.array([kernel[row["seed"]] for row in own])
            error = over.std() / np.sqrt(max(1, len(own) - 1))
            passed = sum(row["ks"] > 0.05 for row in own)
            seconds = np.mean([row["seconds"] for row in own])
            lines.append(
                f"| {name} | {label} | {logs.mean():.3f} | {over.mean():+.3f} "
                f"± {error:.3f} | {passed} of {len(own)} | {seconds:.1f} |"
            )
    return "\n".join(lines)


def figure():
    """Return a figure of the rates of both sets, with a band of 90 %."""
    import matplotlib.pyplot as plt

    canvas, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    for axis, name, unit in zip(axes, SETS, ("a year", "a day"), strict=True):
        times, window = load(name)
        model = LatentODE(random_state=0).fit_events([times], window)
        shown = window if name == "coal" else BURSTS
        grid = np.linspace(*shown, 2000)
        low, high = (x[0] for x in model.intensity_interval([times], grid))
        axis.fill_between(grid, low, high, alpha=0.3, linewidth=0)
        rate = model.intensity([times], grid)[0]
        axis.plot(grid, rate, label="LatentODE")
        axis.plot(grid, Kernel(times, window).rate(grid), "--k", lw=0.8, label="kernel")
        marks = times[(times >= shown[0]) & (times <= shown[1])]
        at_the_foot = axis.get_xaxis_transform()
        axis.plot(marks, np.full(len(marks), 0.03), "|k", transform=at_the_foot)
        axis.set_title(f"{name}, events {unit}")
        if name == "earthquakes":
            axis.set_yscale("log")
            axis.set_ylim(3e-3, 3e2)
            axis.set_xlabel("day of the catalogue")
        axis.legend()
    return canvas


def main() -> None:
    """Run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, writes nothing")
    parser.add_argument("--seeds", type=int, help="draws of each set")
    options = parser.parse_args()
    rows: list[dict] = []
    with one_thread():
        for name in SETS:
            draws = options.seeds or DRAWS[name]
            for seed in range(1 if options.quick else draws):
                rows += compare(name, seed, options.quick)
                print(rows[-1]["set"], seed, flush=True)
                if options.quick:
                    continue
                with RESULTS.open("w", newline="") as file:
                    names = [*rows[0], "versions"]
                    writer = csv.DictWriter(file, names, lineterminator="\n")
                    writer.writeheader()
                    versions = library_versions()
                    writer.writerows({**row, "versions": versions} for row in rows)
    print(summarize(rows))


if __name__ == "__main__":
    main()
