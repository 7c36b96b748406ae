"""A tour on data that scikit-learn ships: ``python -m skfunc.demo``.

It cross-validates the estimators beside scikit-learn's own, searches a parameter on two
processes, calibrates a classifier, prints a table of every measure, and draws pictures
of what the predictions say of themselves.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
    cross_validate,
    train_test_split,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from skfunc.metrics import (
    interval_coverage,
    neg_crps_scorer,
    neg_expected_calibration_error_scorer,
    neg_gaussian_nll_scorer,
)
from skfunc.ode import ODENetClassifier, ODENetRegressor
from skfunc.plotting import CoverageDisplay, PITDisplay, PredictiveBandDisplay

# Column of the table -> scorer, and the sign that makes the measure of its score.
Scorers = Mapping[str, tuple[str | Callable[..., float], int]]
Split = Sequence[NDArray[Any]]

COVERAGE = 0.9
CALIBRATED = "ODENet, calibrated"
POINT_FORECASTS = ("HistGradientBoosting", "RandomForest")
ALPHAS = (0.1, 10.0, 1000.0)
RTOLS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
# Data set -> loader, and how to split: digits takes one split, to save time.
CLASSIFICATION_SETS = {
    "wine": (load_wine, StratifiedKFold(3)),
    "breast cancer": (load_breast_cancer, StratifiedKFold(3)),
    "digits": (load_digits, StratifiedShuffleSplit(1, test_size=0.25, random_state=0)),
}


def interval_coverage_scorer(estimator: Any, X: Any, y: Any) -> float:
    """Return the share of targets inside the central Gaussian intervals."""
    mean, std = estimator.predict(X, return_std=True)
    half_width = norm.ppf(0.5 + COVERAGE / 2) * std
    return float(interval_coverage(y, mean - half_width, mean + half_width))


CLASSIFICATION: Scorers = {
    "accuracy": ("accuracy", 1),
    "log-loss": ("neg_log_loss", -1),
    "ECE": (neg_expected_calibration_error_scorer, -1),
}
POINT: Scorers = {"RMSE": ("neg_root_mean_squared_error", -1)}
REGRESSION: Scorers = {
    **POINT,
    "NLL": (neg_gaussian_nll_scorer, -1),
    "CRPS": (neg_crps_scorer, -1),
    "coverage": (interval_coverage_scorer, 1),
}


def scaled(estimator: Any) -> Pipeline:
    """Return a pipeline that standardizes the features first."""
    return make_pipeline(StandardScaler(), estimator)


def classifiers(**options: Any) -> dict[str, Any]:
    """Return the classifiers of the table; the options are those of the ODE-Net."""
    return {
        "ODENetClassifier": scaled(ODENetClassifier(random_state=0, **options)),
        "HistGradientBoosting": HistGradientBoostingClassifier(random_state=0),
        "RandomForest": RandomForestClassifier(random_state=0),
    }


def regressors(**options: Any) -> dict[str, Any]:
    """Return the regressors of the table; the options are those of the ODE-Net."""
    kernel = ConstantKernel() * RBF(3.0) + WhiteKernel()
    return {
        "ODENetRegressor": scaled(ODENetRegressor(random_state=0, **options)),
        "GaussianProcess": scaled(GaussianProcessRegressor(kernel, normalize_y=True)),
        "HistGradientBoosting": HistGradientBoostingRegressor(random_state=0),
        "RandomForest": RandomForestRegressor(random_state=0),
    }


def measure(model: Any, X: Any, y: Any, scorers: Scorers, cv: Any) -> dict[str, float]:
    """Cross-validate a model; return the mean measures and the CPU seconds."""
    started = time.process_time()
    scoring = {name: scorer for name, (scorer, _) in scorers.items()}
    scores = cross_validate(model, X, y, cv=cv, scoring=scoring, error_score="raise")
    row = {
        name: sign * float(scores[f"test_{name}"].mean())
        for name, (_, sign) in scorers.items()
    }
    return row | {"CPU s": time.process_time() - started}


def print_table(
    name: str, X: Any, y: Any, models: Mapping[str, Any], scorers: Scorers, cv: Any
) -> dict[str, dict[str, float]]:
    """Print a line for each model as soon as it is measured; return the measures."""

    def line(cells: Sequence[str]) -> str:
        head = f"{cells[0]:<15}{cells[1]:<22}"
        return head + "".join(f"{cell:>10}" for cell in cells[2:])

    columns = [*scorers, "CPU s"]
    print("\n" + line(["data", "model", *columns]))
    rows = {}
    for label, model in models.items():
        is_point = scorers is REGRESSION and label in POINT_FORECASTS
        rows[label] = measure(model, X, y, POINT if is_point else scorers, cv)
        cells = [f"{rows[label][c]:.3f}" if c in rows[label] else "-" for c in columns]
        print(line([name, label, *cells]), flush=True)
    return rows


def search_alpha(X: Any, y: Any, *, n_jobs: int = 2, **options: Any) -> GridSearchCV:
    """Search the L2 penalty by log-loss, on two processes."""
    search = GridSearchCV(
        scaled(ODENetClassifier(random_state=0, **options)),
        {"odenetclassifier__alpha": ALPHAS},
        scoring="neg_log_loss",
        cv=3,
        n_jobs=n_jobs,
    )
    return search.fit(X, y)


def calibrated(**options: Any) -> CalibratedClassifierCV:
    """Return an ODE-Net whose probabilities scikit-learn calibrates once more."""
    model = scaled(ODENetClassifier(random_state=0, **options))
    return CalibratedClassifierCV(model, method="sigmoid", cv=3)


def draw_calibration(
    models: Mapping[str, Any],
    split: Split,
    classifiers: Mapping[str, Any],
    tumours: Split,
) -> Any:
    """Draw coverage and PIT values of regressors, reliability of classifiers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.8), layout="constrained")
    axes = figure.subplots(1, 3)
    _, X, _, y = split
    for name, model in models.items():
        CoverageDisplay.from_estimator(model, X, y, name=name, ax=axes[0])
    first = next(iter(models))
    PITDisplay.from_estimator(models[first], X, y, name=first, ax=axes[1])
    _, X, _, y = tumours
    for name, model in classifiers.items():
        CalibrationDisplay.from_estimator(
            model, X, y, name=name, n_bins=5, strategy="quantile", ax=axes[2]
        )
    titles = ("Intervals on diabetes", "Where the targets fall", "Tumours: reliability")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title)
    return figure


def draw_bands(model: Any, split: Split) -> Any:
    """Draw predictive bands by rank, and against the body mass index."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.8), layout="constrained")
    axes = figure.subplots(1, 2)
    _, X, _, y = split
    PredictiveBandDisplay.from_estimator(model, X, y, ax=axes[0], name="Mean")
    PredictiveBandDisplay.from_estimator(
        model, X, y, feature="bmi", ax=axes[1], name="Mean"
    )
    for ax in axes:
        ax.set_ylabel("Disease progression after one year")
    return figure


def draw_tolerance(model: Any, split: Split) -> Any:
    """Draw what the tolerance of a fitted ODE-Net does to accuracy and cost."""
    from matplotlib.figure import Figure

    net, rows = model[-1], model[:-1].transform(split[1])[:200]
    curve = net.tolerance_curve(rows, split[3][:200], RTOLS)
    exact = net.predict_proba(rows, rtol=RTOLS[-1] / 10)
    errors = [np.abs(net.predict_proba(rows, rtol=r) - exact).max() for r in RTOLS]
    figure = Figure(figsize=(14, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    axes[0].plot(curve.rtol, curve.score, "o-")
    axes[0].set(ylabel="Accuracy on 200 held-out digits", ylim=(0.9, 1.0))
    axes[1].plot(curve.rtol, curve.nfe, "o-", color="#D55E00")
    axes[1].set(ylabel="Evaluations of the field per row", ylim=(0, None))
    axes[2].loglog(curve.rtol, errors, "o-", color="#009E73")
    axes[2].set(ylabel="Largest error of a probability")
    for ax in axes:
        ax.set(xlabel="Relative tolerance, set after training", xscale="log")
        ax.invert_xaxis()
    return figure


def draw_digits(model: Any, split: Split) -> Any:
    """Draw how far members disagree on right and wrong digits, and the worst digits."""
    from matplotlib.figure import Figure

    _, X, _, y = split
    proba, std = model.predict_proba(X, return_std=True)
    chosen = proba.argmax(axis=1)
    spread = std[np.arange(len(X)), chosen]
    said = model.classes_[chosen]
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(5, 6))
    left, right = parts
    ax = left.subplots()
    bins = np.linspace(0, spread.max(), 16)
    for label, rows in (("right", said == y), ("wrong", said != y)):
        shares = np.full(rows.sum(), 1 / max(rows.sum(), 1))
        name = f"{label} ({rows.sum()})"
        ax.hist(spread[rows], bins, weights=shares, alpha=0.6, label=name)
    ax.set(xlabel="Std of the top probability over members", ylabel="Share of digits")
    ax.legend(frameon=False)
    right.suptitle("The digits that members agree on least")
    order = np.argsort(-spread)
    for ax, row in zip(right.subplots(2, 5).ravel(), order, strict=False):
        ax.imshow(X[row].reshape(8, 8), cmap="gray_r")
        ax.set_title(f"is {y[row]}, said {said[row]}", fontsize=9)
        ax.set_axis_off()
    return figure


def draw_pictures(folder: Path, **options: Any) -> Iterator[Path]:
    """Fit on one part of each set and draw the other; yield each file written."""
    folder.mkdir(parents=True, exist_ok=True)

    def save(figure: Any, name: str) -> Path:
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=110)
        return path

    data = load_diabetes(return_X_y=True, as_frame=True)
    diabetes = train_test_split(*data, random_state=0)
    models = regressors(**options)
    models = {k: models[k] for k in ("ODENetRegressor", "GaussianProcess")}
    for model in models.values():
        model.fit(diabetes[0], diabetes[2])
    yield save(draw_bands(models["ODENetRegressor"], diabetes), "bands")

    tumours = train_test_split(*load_breast_cancer(return_X_y=True), random_state=0)
    binary = classifiers(**options)
    for model in binary.values():
        model.fit(tumours[0], tumours[2])
    yield save(draw_calibration(models, diabetes, binary, tumours), "calibration")

    digits = train_test_split(*load_digits(return_X_y=True), random_state=0)
    net = scaled(ODENetClassifier(random_state=0, **options))
    net.fit(digits[0], digits[2])
    yield save(draw_tolerance(net, digits), "tolerance")
    yield save(draw_digits(net, digits), "digits")


def run(folder: Path, **options: Any) -> None:
    """Make the table and the pictures; the options are those of the ODE-Nets."""
    print("Means over 3 folds (digits: one split), with the CPU seconds of all folds.")
    # OpenMP's threads wait for each other where cores are busy with other work.
    with threadpool_limits(1):
        for name, (load, cv) in CLASSIFICATION_SETS.items():
            X, y = load(return_X_y=True)
            models = classifiers(**options)
            if name == "wine":
                models[CALIBRATED] = calibrated(**options)
            print_table(name, X, y, models, CLASSIFICATION, cv)
        X, y = load_diabetes(return_X_y=True)
        models = regressors(**options)
        print_table("diabetes", X, y, models, REGRESSION, KFold(3))
    print(f"NLL is that of a Gaussian; coverage, that of {COVERAGE:.0%} intervals.")

    print("\nGridSearchCV over alpha on wine, n_jobs=2:", flush=True)
    search = search_alpha(*load_wine(return_X_y=True), **options)
    losses = -search.cv_results_["mean_test_score"]
    for alpha, loss in zip(ALPHAS, losses, strict=True):
        print(f"  alpha={alpha:<5g} log-loss {loss:.3f}")

    if importlib.util.find_spec("matplotlib") is None:
        print("\nNo pictures: matplotlib is missing; `pip install skfunc[plot]`.")
        return
    print("\nPictures:", flush=True)
    for path in draw_pictures(folder, **options):
        print(f"  {path}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run the tour."""
    parser = argparse.ArgumentParser(
        prog="python -m skfunc.demo",
        description="A tour of skfunc on data that scikit-learn ships.",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("skfunc-demo"),
        help="where the pictures go (default: ./skfunc-demo)",
    )
    folder = parser.parse_args(arguments).folder
    started = time.perf_counter()
    run(folder)
    print(f"\nDone in {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
