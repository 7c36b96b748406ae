"""What a fitted estimator says about the distribution of its target."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline

from skfunc.metrics._checks import FloatArray, check_fraction


def final_estimator(estimator: Any, X: Any) -> tuple[Any, Any]:
    """Return the estimator inside pipelines and searches, and X as it sees it.

    A Pipeline has no `predict_interval`, `sample` or `log_prob`, a search takes no
    `return_std`, and under metadata routing neither does a Pipeline.
    """
    while True:
        if isinstance(estimator, Pipeline):
            if len(estimator) > 1:
                X = estimator[:-1].transform(X)
            estimator = estimator[-1]
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        else:
            return estimator, X


def require_method(estimator: Any, method: str) -> None:
    """Raise unless the estimator has that method."""
    if not hasattr(estimator, method):
        raise TypeError(
            f"An estimator with `{method}` is needed; {type(estimator).__name__} has "
            "none."
        )


def mean_and_std(estimator: Any, X: Any) -> tuple[FloatArray, FloatArray]:
    """Return the predictive means and standard deviations."""
    estimator, X = final_estimator(estimator, X)
    require_method(estimator, "predict")
    if isinstance(estimator, TransformedTargetRegressor):
        raise TypeError(
            "TransformedTargetRegressor does not transform standard deviations back; "
            "use its regressor on the transformed target."
        )
    parameters = inspect.signature(estimator.predict).parameters.values()
    if not any(
        parameter.name == "return_std" or parameter.kind is parameter.VAR_KEYWORD
        for parameter in parameters
    ):
        raise TypeError(
            "An estimator with `predict(X, return_std=True)` is needed; "
            f"{type(estimator).__name__} has no `return_std`."
        )
    mean, std = estimator.predict(X, return_std=True)
    return np.asarray(mean), np.asarray(std)


def central_intervals(
    estimator: Any, X: Any, coverages: Sequence[float] | FloatArray
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return lower and upper bounds, each of shape (n_coverages, *target shape)."""
    levels = np.array([check_fraction(coverage, "coverage") for coverage in coverages])
    estimator, X = final_estimator(estimator, X)
    if not hasattr(estimator, "predict_interval"):
        mean, std = mean_and_std(estimator, X)
        half_widths = np.multiply.outer(ndtri(0.5 + levels / 2), std)
        return mean - half_widths, mean + half_widths
    if len(levels) > 1 and hasattr(estimator, "predict_quantiles"):
        # One pass over X in place of one per coverage.
        tails = np.concatenate([0.5 - levels / 2, 0.5 + levels / 2])
        order = np.argsort(tails)
        sorted_quantiles = estimator.predict_quantiles(X, tails[order])
        quantiles = np.empty_like(np.moveaxis(sorted_quantiles, 1, 0))
        quantiles[order] = np.moveaxis(sorted_quantiles, 1, 0)
        return quantiles[: len(levels)], quantiles[len(levels) :]
    bounds = np.stack(
        [estimator.predict_interval(X, coverage=level) for level in levels.tolist()]
    )
    return bounds[:, :, 0], bounds[:, :, 1]


def observation_draws(
    estimator: Any, X: Any, n_draws: int, random_state: Any
) -> NDArray[Any]:
    """Return draws of observations, with the axis of draws last."""
    estimator, X = final_estimator(estimator, X)
    require_method(estimator, "sample")
    if hasattr(estimator, "classes_"):
        raise TypeError(
            f"A regressor is needed; {type(estimator).__name__} is a classifier."
        )
    return np.asarray(estimator.sample(X, n_samples=n_draws, random_state=random_state))
