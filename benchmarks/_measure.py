"""One cell of the comparison: fit, predict, and every figure of merit.

The figures are computed here and not by ``skfunc.metrics``, so that no mistake of the
library judges itself; the tests hold the two against each other.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
import warnings
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from scipy.stats import norm
from threadpoolctl import threadpool_limits

import _data
from _models import Model

COVERAGE = 0.9
N_CALIBRATION_BINS = 15
N_QUANTILES = 200
MIN_STD = 1e-6
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

REGRESSION_METRICS = ("rmse", "nll", "nll_gauss", "crps", "cov90")
CLASSIFICATION_METRICS = ("accuracy", "log_loss", "ece")
METRICS = {
    "regression": REGRESSION_METRICS,
    "classification": CLASSIFICATION_METRICS,
}


def cpu_seconds() -> float:
    """CPU time of this process, its threads and its finished children."""
    finished_children = sum(os.times()[2:4])
    return time.process_time() + finished_children


@contextmanager
def one_thread():
    """Hold BLAS, OpenMP and torch to one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def limit_threads_of_children() -> None:
    """Environment for the worker processes, read when they import numpy."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))


def library_versions() -> str:
    """Versions that a row was computed with, and the commit of this repository."""
    parts = [f"python={platform.python_version()}"]
    for package in ("skfunc", "scikit-learn", "numpy", "scipy", "torch", "ngboost"):
        try:
            parts.append(f"{package}={version(package)}")
        except PackageNotFoundError:
            continue
    git = ["git", "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(
            git, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
        parts.append(f"commit={commit.stdout.strip()}")
    except (OSError, subprocess.CalledProcessError):
        pass
    return " ".join(parts)


def run_cell(model: Model, dataset: str, split: int, max_train: int | None) -> dict:
    """Figures of one model on one split; a failure is a status, not an exception."""
    data = _data.load_split(model.task, dataset, split, max_train)
    row = {
        "task": model.task,
        "dataset": dataset,
        "split": split,
        "model": model.name,
        "label": model.label,
        "max_train": max_train or "",
    }
    return row | measure(model, data, split)


def measure(model: Model, data: _data.Split, seed: int) -> dict:
    """Figures of one model on given parts; a failure is a status, not an exception."""
    row = {
        "n_train": len(data.y_train),
        "n_test": len(data.y_test),
        "n_features": data.X_train.shape[1],
    }
    evaluate = _regression if model.task == "regression" else _classification
    with warnings.catch_warnings(), one_thread():
        warnings.simplefilter("ignore")
        try:
            for figures in evaluate(model, data, seed):
                row |= figures
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            stage = (
                "predict" if "cpu_s" in row else "fit" if "fit_s" in row else "start"
            )
            row["status"] = f"failed after {stage}: {type(error).__name__}: {text}"
            return row
    figures = [row[name] for name in METRICS[model.task]]
    row["status"] = "ok" if np.all(np.isfinite(figures)) else "not finite"
    return row


def warm_up(model: Model) -> None:
    """Fit a tiny problem once, so that lazy imports and set-up are not timed."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(32, 3))
    y = X[:, 0] if model.task == "regression" else (X[:, 0] > 0).astype(int)
    with warnings.catch_warnings(), one_thread():
        warnings.simplefilter("ignore")
        try:
            estimator = model.build(3, 0).fit(X, y)
            if model.task == "regression":
                estimator.predict(X, return_std=True)
            else:
                estimator.predict_proba(X)
        except Exception as error:
            print(f"{model.name}: the warm-up failed, the cells will tell: {error}")


def _regression(model, data, split):
    estimator = model.build(data.X_train.shape[1], split)
    begin = cpu_seconds()
    estimator.fit(data.X_train, data.y_train)
    fitted = cpu_seconds()
    yield {"fit_s": fitted - begin}
    mean, std = estimator.predict(data.X_test, return_std=True)
    end = cpu_seconds()
    y = data.y_test
    nll = gaussian_nll(y, mean, std)
    yield {
        "cpu_s": end - begin,
        "rmse": np.sqrt(np.mean((y - mean) ** 2)),
        "nll_gauss": nll,
    }
    if hasattr(estimator, "log_prob"):
        nll = -np.mean(estimator.log_prob(data.X_test, y))
    yield {"nll": nll}
    if hasattr(estimator, "predict_interval"):
        interval = estimator.predict_interval(data.X_test, coverage=COVERAGE)
        low, high = np.asarray(interval).T
    else:
        half = norm.ppf(0.5 + COVERAGE / 2) * std
        low, high = mean - half, mean + half
    yield {"cov90": np.mean((low <= y) & (y <= high))}
    if hasattr(estimator, "predict_quantiles"):
        levels = (np.arange(N_QUANTILES) + 0.5) / N_QUANTILES
        quantiles = estimator.predict_quantiles(data.X_test, levels)
        crps = crps_quantiles(y, np.asarray(quantiles), levels)
    else:
        crps = crps_gaussian(y, mean, std)
    yield {"crps": crps}


def _classification(model, data, split):
    from _peers import align_classes, log_loss

    estimator = model.build(data.X_train.shape[1], split)
    begin = cpu_seconds()
    estimator.fit(data.X_train, data.y_train)
    fitted = cpu_seconds()
    yield {"fit_s": fitted - begin}
    proba = np.asarray(estimator.predict_proba(data.X_test))
    end = cpu_seconds()
    classes = np.unique(np.concatenate([data.y_train, data.y_test]))
    proba = align_classes(proba, estimator.classes_, classes)
    label = classes[proba.argmax(1)]
    yield {
        "cpu_s": end - begin,
        "accuracy": np.mean(label == data.y_test),
        "log_loss": log_loss(data.y_test, proba, classes),
        "ece": expected_calibration_error(proba.max(1), label == data.y_test),
    }


def gaussian_nll(y, mean, std):
    """Mean negative log density of a Gaussian per row."""
    return -np.mean(norm.logpdf(y, mean, np.maximum(std, MIN_STD)))


def crps_gaussian(y, mean, std):
    """Mean continuous ranked probability score of a Gaussian, in closed form."""
    std = np.maximum(std, MIN_STD)
    z = (y - mean) / std
    score = z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - np.pi**-0.5
    return np.mean(std * score)


def crps_quantiles(y, quantiles, levels):
    """Mean continuous ranked probability score: twice the mean pinball loss."""
    error = y[:, None] - quantiles
    return 2 * np.mean(np.maximum(levels * error, (levels - 1) * error))


def expected_calibration_error(confidence, is_right):
    """Gap of confidence and accuracy, over 15 equal bins of the top probability."""
    bins = np.clip(
        np.ceil(confidence * N_CALIBRATION_BINS).astype(int) - 1,
        0,
        N_CALIBRATION_BINS - 1,
    )
    gaps = np.bincount(bins, weights=confidence - is_right)
    return np.abs(gaps).sum() / len(confidence)
