"""Intensive care, set a of the PhysioNet challenge 2012: gaps filled, deaths foretold.

    python benchmarks/latent_ode_physionet.py
    python benchmarks/latent_ode_physionet.py --tasks mortality --splits 0 1 2
    python benchmarks/latent_ode_physionet.py --quick

4000 stays of 48 hours, 37 variables, means within each hour; a fifth tests. Filling: a
fifth of the hours that have observations is hidden from a test stay, and what was
observed in them is judged, as the mean squared error in units of each variable's range
over the training stays (values beyond its 99.9 % cut), and as the negative log
likelihood of standardized values. Beside `LatentODE` stand a recurrent network in both
directions with decaying inputs after GRU-D, trained for as many CPU-seconds, the last
value, and the mean. Mortality: the area under the curve of `LatentODEClassifier`, and
of gradient boosting and a forest on each variable's summaries over the stay.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.metrics import log_loss, roc_auc_score

from _data import data_folder
from _measure import library_versions, one_thread
from _recurrent_peers import TwoWayImputer, gaussian_loss, train_for
from skfunc import LatentODE, LatentODEClassifier

RESULTS = Path(__file__).resolve().parent / "results" / "latent_ode_physionet.csv"
N_HOURS, HIDDEN_SHARE, TEST_SHARE = 48, 0.2, 0.2
TASKS = ("filling", "mortality")
RATES = (1e-3, 5e-3)
WIDTH, BATCH = 64, 100
CUTS = (0.05, 99.95)


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return hourly means (stays, hours, variables), static facts and deaths."""
    with np.load(data_folder() / "timeseries" / "physionet2012_set_a.npz") as arrays:
        parts = {name: arrays[name] for name in arrays.files}
    n_stays, n_variables = len(parts["in_hospital_death"]), len(parts["variable_names"])
    hour = np.minimum(parts["minute"] // 60, N_HOURS - 1).astype(int)
    cell = (parts["record"].astype(int) * N_HOURS + hour) * n_variables + parts[
        "variable"
    ]
    size = n_stays * N_HOURS * n_variables
    total = np.bincount(cell, parts["value"].astype(float), size)
    count = np.bincount(cell, minlength=size)
    with np.errstate(invalid="ignore"):
        values = (total / count).reshape(n_stays, N_HOURS, n_variables)
    return values, parts["static"].astype(float), parts["in_hospital_death"].astype(int)


def split(n_stays: int, seed: int, quick: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the training and the test stays."""
    order = np.random.default_rng(seed).permutation(n_stays)
    n_test = round(TEST_SHARE * n_stays)
    train, test = order[n_test:], order[:n_test]
    return (train[:150], test[:60]) if quick else (train, test)


def cut(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Cut what lies far outside the training stays, such as slips of a key."""
    low, high = np.nanpercentile(values[train], CUTS, axis=(0, 1))
    return np.clip(values, low, high)


def hide(values: np.ndarray, seed: int) -> np.ndarray:
    """Return which hours of each stay are hidden."""
    rng = np.random.default_rng(seed)
    seen = np.isfinite(values).any(2)
    return seen & (rng.uniform(size=seen.shape) < HIDDEN_SHARE)


class Filling:
    """The task of filling hidden hours, in standardized units."""

    def __init__(self, values: np.ndarray, train: np.ndarray, test: np.ndarray) -> None:
        values = cut(values, train)
        known = values[train]
        self.mean, self.std = np.nanmean(known, (0, 1)), np.nanstd(known, (0, 1))
        self.std = np.where(self.std > 0, self.std, 1.0)
        self.range = (np.nanmax(known, (0, 1)) - np.nanmin(known, (0, 1))) / self.std
        self.range = np.where(self.range > 0, self.range, np.inf)
        scaled = (values - self.mean) / self.std
        self.train, self.truth = scaled[train], scaled[test]
        self.given = self.truth.copy()
        self.given[hide(self.truth, 7)] = np.nan
        # A variable that is constant where it is recorded would only tell how small
        # a noise each model allows.
        varies = np.isfinite(self.range)
        self.judged = np.isfinite(self.truth) & np.isnan(self.given) & varies

    def figures(self, mean: np.ndarray, std: np.ndarray) -> dict:
        """Return errors at the hidden values."""
        residual = (mean - self.truth)[self.judged]
        spread = np.broadcast_to(std, self.truth.shape)[self.judged]
        units = np.broadcast_to(self.range, self.truth.shape)[self.judged]
        terms = 0.5 * (residual / spread) ** 2 + np.log(spread)
        return {
            "mse": float(np.mean((residual / units) ** 2)),
            "nll": float(terms.mean() + 0.5 * np.log(2 * np.pi)),
        }

    def latent_ode(self, quick: bool, epochs: int):
        """Fill by a latent ODE."""
        n_channels = self.train.shape[2]
        model = LatentODE(
            times=np.arange(N_HOURS) + 0.5,
            n_channels=n_channels,
            latent_size=20,
            encoder_size=WIDTH,
            decoder_layer_sizes=(64,),
            observation_dropout=0.4,
            max_iter=1 if quick else epochs,
            random_state=0,
        )
        start = time.process_time()
        model.fit(self.train.reshape(len(self.train), -1))
        seconds = time.process_time() - start
        flat = self.given.reshape(len(self.given), -1)
        return *model.predict(flat, return_std=True), seconds

    def recurrent(self, seconds: float):
        """Fill by a recurrent network, at the better of two rates."""
        truth = torch.as_tensor(self.train, dtype=torch.float32)
        seen = torch.isfinite(truth)
        filled = torch.where(seen, truth, 0.0)
        rng = np.random.default_rng(1)
        quiet = hide(self.train, 2)

        def inputs(x, given):
            mask = given.to(x.dtype)
            return x * mask, mask, torch.full_like(x, 1 / 12)

        def loss(network, rows):
            hidden = quiet[rows]
            if network.training:
                hidden = rng.uniform(size=hidden.shape) < HIDDEN_SHARE
            hidden = torch.as_tensor(hidden)[..., None]
            mean = network(*inputs(filled[rows], seen[rows] & ~hidden))
            judged = (seen[rows] & hidden).float()
            return gaussian_loss(mean, network.log_std, filled[rows], judged)

        fits = []
        for rate in RATES:
            torch.manual_seed(0)
            network = TwoWayImputer(truth.shape[2], WIDTH)
            best, _ = train_for(
                network,
                lambda rows, network=network: loss(network, rows),
                len(truth),
                seconds,
                rate=rate,
                batch_size=BATCH,
                seed=0,
            )
            fits.append((best, network))
        network = min(fits, key=lambda fit: fit[0])[1]
        given = torch.as_tensor(self.given, dtype=torch.float32)
        known = torch.isfinite(given)
        with torch.no_grad():
            mean = network(*inputs(torch.where(known, given, 0.0), known))
        return mean.double().numpy(), network.log_std.detach().exp().double().numpy()

    def last_value(self, series: np.ndarray) -> np.ndarray:
        """Return the last value of each variable, the mean before the first."""
        last, means = np.zeros((len(series), series.shape[2])), []
        for hour in range(series.shape[1]):
            now = series[:, hour]
            last = np.where(np.isfinite(now), now, last)
            means.append(last)
        return np.stack(means, 1)

    def rule_spread(self, answer) -> np.ndarray:
        """Return each variable's error of a rule on hidden training hours."""
        given = self.train.copy()
        hidden = hide(given, 3)
        given[hidden] = np.nan
        residual = np.where(hidden[..., None], answer(given) - self.train, np.nan)
        spread = np.sqrt(np.nanmean(residual**2, axis=(0, 1)))
        return np.where(np.isfinite(spread) & (spread > 0), spread, 1.0)


def fill(values, train, test, quick, epochs) -> list[dict]:
    """Return the rows of the task of filling."""
    task = Filling(values, train, test)
    mean, std, seconds = task.latent_ode(quick, epochs)
    answers = {"LatentODE": (mean, std, seconds)}
    answers["two-way GRU"] = *task.recurrent(seconds), seconds
    rules = {"last value": task.last_value, "mean": np.zeros_like}
    for name, rule in rules.items():
        answers[name] = rule(task.given), task.rule_spread(rule), 0.0
    return [
        {"model": name, **task.figures(mean, std), "seconds": seconds}
        for name, (mean, std, seconds) in answers.items()
    ]


def summaries(values: np.ndarray, static: np.ndarray) -> np.ndarray:
    """Return summaries of each variable over a stay, and the static facts."""
    seen = np.isfinite(values)
    count = seen.sum(1)
    none = count == 0
    filled = np.where(none[:, None], 0.0, values)
    hours = np.arange(values.shape[1])[None, :, None]
    first = np.where(seen, hours, values.shape[1]).argmin(1)
    last = np.where(seen, hours, -1).argmax(1)
    clock = np.where(seen, hours / values.shape[1], np.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        since = clock - np.nanmean(clock, 1, keepdims=True)
    moved = np.nansum(since * filled, 1)
    parts = [
        moved / (np.nansum(since**2, 1) + 1e-2 * np.maximum(count, 1)),
        last / values.shape[1],
        np.nanmean(filled, 1),
        np.nanmin(filled, 1),
        np.nanmax(filled, 1),
        np.nanstd(filled, 1),
        np.take_along_axis(filled, first[:, None], 1)[:, 0],
        np.take_along_axis(filled, last[:, None], 1)[:, 0],
    ]
    parts = [np.where(none, np.nan, part) for part in parts]
    return np.concatenate([*parts, count, static], 1)


def foretell(values, static, deaths, train, test, quick) -> list[dict]:
    """Return the rows of the task of mortality."""
    told = summaries(values, static)
    series = cut(values, train)
    # What a stay carries besides its series is a channel observed at its start.
    facts = np.full((len(values), N_HOURS, static.shape[1]), np.nan)
    facts[:, 0] = static
    flat = np.concatenate([series, facts], 2)
    n_channels = flat.shape[2]
    flat = flat.reshape(len(flat), -1)
    models = {
        "LatentODEClassifier": (
            LatentODEClassifier(
                times=np.arange(N_HOURS) + 0.5,
                n_channels=n_channels,
                max_iter=1 if quick else "auto",
                random_state=0,
            ),
            flat,
        ),
        "gradient boosting": (HistGradientBoostingClassifier(random_state=0), told),
        "gradient boosting, small steps": (
            HistGradientBoostingClassifier(
                learning_rate=0.03, max_leaf_nodes=8, random_state=0
            ),
            told,
        ),
        "random forest": (
            RandomForestClassifier(500, min_samples_leaf=3, random_state=0),
            np.nan_to_num(told, nan=-1e3),
        ),
    }
    rows = []
    for name, (model, X) in models.items():
        start = time.process_time()
        model.fit(X[train], deaths[train])
        seconds = time.process_time() - start
        proba = model.predict_proba(X[test])[:, 1]
        figures = {
            "auc": float(roc_auc_score(deaths[test], proba)),
            "log loss": float(log_loss(deaths[test], proba)),
        }
        rows.append({"model": name, **figures, "seconds": seconds})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, writes nothing")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--splits", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=30, help="of filling")
    options = parser.parse_args()
    values, static, deaths = load()
    columns = ("task", "split", "model", "mse", "nll", "auc", "log loss", "seconds")
    kept = []
    if RESULTS.exists() and not options.quick:
        with RESULTS.open(newline="") as file:
            kept = list(csv.DictReader(file))
    for number in options.splits:
        train, test = split(len(values), number, options.quick)
        for task in options.tasks:
            with one_thread():
                if task == "filling":
                    rows = fill(values, train, test, options.quick, options.epochs)
                else:
                    rows = foretell(values, static, deaths, train, test, options.quick)
            key = {"task": task, "split": str(number)}
            kept = [row for row in kept if key.items() - row.items()]
            for row in rows:
                line = dict.fromkeys(columns, "") | key | row
                print(line, flush=True)
                kept.append({**line, "versions": library_versions()})
            if not options.quick:
                with RESULTS.open("w", newline="") as file:
                    names = [*columns, "versions"]
                    writer = csv.DictWriter(file, names, lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(kept)


if __name__ == "__main__":
    main()
