"""Carbon dioxide over Mauna Loa, two years ahead.

    python benchmarks/latent_ode_co2.py
    python benchmarks/latent_ode_co2.py --quick

Every other weekly mean. `LatentODE` learns from windows of six years that end before
2000, one for every other week: four years, less their growth, are read, and two follow.
From every January of 2000 to 2018 the next two years are forecast from the four before.
Beside it: last year's values plus the mean growth of the four years, with the spread of
the errors that this rule made before 2000, and a Gaussian process with a trend, a
slowly varying season and short irregularities, whose parameters are those of the years
to 2000, and which sees all years before the forecast. Root mean squared error, negative
log likelihood, coverage of the 90 % band, in ppm. The settings of `LatentODE` were
chosen on forecasts of 1994 to 1998 from the years before.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import (
    RBF,
    ConstantKernel,
    ExpSineSquared,
    RationalQuadratic,
    WhiteKernel,
)

from _data import data_folder
from _measure import library_versions, one_thread
from skfunc import LatentODE

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "latent_ode_co2.csv"
PICTURE = ROOT / "docs" / "_static" / "latent_ode_co2.png"
CONTEXT, HORIZON, SPLIT = 4.0, 2.0, 2000.0
STRIDE = 0.04
# The windows overlap, so that there is little to learn from: a small network, and a
# heavy divergence against learning them by heart.
SETTINGS = {
    "latent_size": 6,
    "hidden_layer_sizes": (16,),
    "encoder_size": 16,
    "beta": 4.0,
    "max_iter": 60,
}
HALF_BAND = norm.ppf(0.95)


def load() -> tuple[np.ndarray, np.ndarray]:
    """Return times in years and concentrations, every other week."""
    path = next((data_folder() / "timeseries").glob("mauna_loa_co2_weekly.csv*"))
    table = pd.read_csv(path).dropna(subset=["ppm"])
    table = table[table["ppm"] > 0]
    dates = pd.to_datetime(table["date"])
    years = dates.dt.year + (dates.dt.dayofyear - 1) / 365.25
    return years.to_numpy(float)[::2], table["ppm"].to_numpy(float)[::2]


def window(years, ppm, origin):
    """Return a window's times from its start, values, and the growth of its context.

    The growth is a line through the mean of the last year before the origin, with the
    mean slope from each year to the next: a season cancels in both.
    """
    inside = (years >= origin - CONTEXT) & (years < origin + HORIZON)
    t, y = years[inside] - (origin - CONTEXT), ppm[inside]
    later = (t >= 1) & (t < CONTEXT)
    slope = np.mean(y[later] - np.interp(t[later] - 1, t, y))
    last = (t >= CONTEXT - 1) & (t < CONTEXT)
    return t, y, y[last].mean() + slope * (t - t[last].mean())


def latent_ode(years, ppm, origins, quick):
    """Forecast each origin's next years by windows learned from."""
    starts = np.arange(years[0] + CONTEXT, SPLIT - HORIZON, STRIDE)
    panel = []
    for origin in starts[:12] if quick else starts:
        t, y, line = window(years, ppm, origin)
        panel.append((t, (y - line)[:, None]))
    model = LatentODE(
        window=(0.0, CONTEXT + HORIZON),
        context_end=CONTEXT,
        **SETTINGS | ({"max_iter": 2} if quick else {}),
        random_state=0,
    )
    model.fit(panel)
    answers = []
    for origin in origins:
        t, y, line = window(years, ppm, origin)
        seen = t < CONTEXT
        given = [(t[seen], (y - line)[seen, None])]
        mean, std = model.predict(given, times=t[~seen], return_std=True)
        answers.append((mean[0] + line[~seen], std[0]))
    return answers


def seasonal(years, ppm, origins):
    """Repeat the last year, with the mean growth of the years before."""

    def forecast(origin):
        past = years < origin
        t, y = years[past], ppm[past]
        recent = t >= origin - CONTEXT
        # A year against the one before, and so on: the season cancels.
        old = t[recent] - 1
        growth = np.mean(y[recent] - np.interp(old, t, y))
        later = years[(years >= origin) & (years < origin + HORIZON)]
        back = np.ceil(later - origin + 1e-9)
        return np.interp(later - back, t, y) + growth * back, later

    errors = []
    for origin in np.arange(years[0] + CONTEXT + 1, SPLIT - HORIZON, STRIDE):
        mean, later = forecast(origin)
        errors.append((mean - np.interp(later, years, ppm)) ** 2)
    std = np.sqrt(np.mean(np.concatenate(errors)))
    return [(mean, np.full(len(mean), std)) for mean, _ in map(forecast, origins)]


def gaussian_process(years, ppm, origins, quick):
    """Forecast by a process fitted to the years before the split."""
    kernel = (
        ConstantKernel(50.0**2, (1e2, 1e5)) * RBF(50.0, (5, 500))
        + ConstantKernel(2.0**2, (0.1, 100))
        * RBF(100.0, (10, 1000))
        * ExpSineSquared(1.0, 1.0, periodicity_bounds="fixed")
        + ConstantKernel(0.5**2, (1e-3, 10)) * RationalQuadratic(1.0, 1.0)
        + WhiteKernel(0.1, (1e-3, 1.0))
    )
    past = years < (years[0] + 6 if quick else SPLIT)
    level = ppm[past].mean()
    model = GaussianProcessRegressor(
        kernel, optimizer=None if quick else "fmin_l_bfgs_b"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(years[past][:, None], ppm[past] - level)
    answers = []
    for origin in origins:
        known = years < origin
        fixed = GaussianProcessRegressor(model.kernel_, optimizer=None)
        fixed.fit(years[known][:, None], ppm[known] - level)
        later = years[(years >= origin) & (years < origin + HORIZON)]
        mean, std = fixed.predict(later[:, None], return_std=True)
        answers.append((mean + level, std))
    return answers


def figures(answers, truths) -> dict:
    """Return the errors of all forecasts together."""
    mean, std = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    z = (np.concatenate(truths) - mean) / std
    return {
        "rmse": float(np.sqrt(np.mean((z * std) ** 2))),
        "nll": float(np.mean(0.5 * z * z + np.log(std)) + 0.5 * np.log(2 * np.pi)),
        "coverage": float(np.mean(np.abs(z) < HALF_BAND)),
    }


def draw(years, ppm, origins, answers) -> None:
    """Draw some forecasts of the latent ODE over the record."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 3.6), layout="constrained")
    shown = years > SPLIT - CONTEXT
    axis.plot(years[shown], ppm[shown], ".", color="black", markersize=2, label="weeks")
    for origin, (mean, std) in list(zip(origins, answers, strict=True))[::4]:
        later = years[(years >= origin) & (years < origin + HORIZON)]
        axis.plot(later, mean, color="tab:blue")
        axis.fill_between(
            later,
            mean - HALF_BAND * std,
            mean + HALF_BAND * std,
            color="tab:blue",
            alpha=0.3,
        )
    axis.set(xlabel="year", ylabel="CO2, ppm")
    axis.set_title("forecasts of two years from the four before, 90 % bands")
    figure.savefig(PICTURE, dpi=75)
    plt.close(figure)


def main() -> None:
    """Measure, print and write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, writes nothing")
    options = parser.parse_args()
    years, ppm = load()
    origins = np.arange(SPLIT, years[-1] - HORIZON, 1.0)
    origins = origins[:2] if options.quick else origins
    truths = [ppm[(years >= o) & (years < o + HORIZON)] for o in origins]
    models = {
        "LatentODE": lambda: latent_ode(years, ppm, origins, options.quick),
        "last year and growth": lambda: seasonal(years, ppm, origins),
        "Gaussian process": lambda: gaussian_process(
            years, ppm, origins, options.quick
        ),
    }
    lines, answers = [], {}
    with one_thread():
        for name, forecast in models.items():
            start = time.process_time()
            answers[name] = forecast()
            row = {"model": name, **figures(answers[name], truths)}
            row["seconds"] = time.process_time() - start
            print(row, flush=True)
            lines.append({**row, "versions": library_versions()})
    if not options.quick:
        with RESULTS.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
        draw(years, ppm, origins, answers["LatentODE"])


if __name__ == "__main__":
    main()
