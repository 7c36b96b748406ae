"""Scorers that judge the predictive distribution of an estimator.

Each is an object `scorer(estimator, X, y, sample_weight=None)` for `scoring=` in
scikit-learn's searches and cross-validation; greater is better.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn import get_config
from sklearn.utils.metadata_routing import MetadataRequest

from skfunc.metrics._calibration import expected_calibration_error, interval_coverage
from skfunc.metrics._checks import (
    as_numbers,
    average_rows,
    check_finite,
)
from skfunc.metrics._responses import (
    central_intervals,
    final_estimator,
    mean_and_std,
    observation_draws,
    require_method,
)
from skfunc.metrics._scoring_rules import (
    crps_ensemble,
    crps_gaussian,
    gaussian_nll,
    interval_score,
)


class DistributionScorer:
    """
    Score of an estimator's predictive distribution; greater is better.

    `skfunc.metrics.get_scorer` builds these. They pickle, and they take part in
    scikit-learn's metadata routing.

    Parameters
    ----------
    name : str
        Name in `skfunc.metrics.SCORERS`.

    evaluate : callable
        Called as `evaluate(estimator, X, y, sample_weight, **options)`. Its
        keyword-only parameters are the options of the scorer.

    **options : dict
        Values for some of these options.

    See Also
    --------
    get_scorer : Build a scorer from its name.

    Examples
    --------
    >>> from skfunc.metrics import get_scorer
    >>> get_scorer("neg_interval_score", coverage=0.5)
    get_scorer('neg_interval_score', coverage=0.5)
    """

    def __init__(
        self, name: str, evaluate: Callable[..., float], **options: Any
    ) -> None:
        accepted = [
            parameter.name
            for parameter in inspect.signature(evaluate).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        ]
        unknown = sorted(set(options) - set(accepted))
        if unknown:
            raise TypeError(
                f"Scorer {name!r} has no option {unknown[0]!r}; it accepts "
                f"{accepted or 'none'}."
            )
        # Read by scikit-learn's displays to label the axis of scores.
        self.__name__ = name
        self._evaluate = evaluate
        self._options = options
        self._weight_request: bool | str | None = None

    def __call__(
        self,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """
        Score a fitted estimator on data.

        Parameters
        ----------
        estimator : object
            Fitted estimator, a Pipeline that ends in one, or a search over one.

        X : array-like of shape (n_samples, n_features)
            Rows to predict.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Observed targets.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        float
            Score; greater is better.
        """
        if y is None:
            raise ValueError(f"Scorer {self.__name__!r} needs `y`; got None.")
        return float(self._evaluate(estimator, X, y, sample_weight, **self._options))

    def __repr__(self) -> str:
        options = "".join(f", {key}={value!r}" for key, value in self._options.items())
        return f"get_scorer({self.__name__!r}{options})"

    def set_score_request(
        self, *, sample_weight: bool | str | None
    ) -> DistributionScorer:
        """
        Say whether this scorer wants the sample weights that a caller routes.

        Parameters
        ----------
        sample_weight : bool, str or None
            True to ask for them, False to ignore them, None to raise where they are
            given, or the name under which the caller gives them.

        Returns
        -------
        DistributionScorer
            The scorer itself, changed. `get_scorer` returns a new one each time.
        """
        if not get_config()["enable_metadata_routing"]:
            raise RuntimeError(
                "Metadata routing is off; turn it on by "
                "sklearn.set_config(enable_metadata_routing=True)."
            )
        self._weight_request = sample_weight
        return self

    def get_metadata_routing(self) -> MetadataRequest:
        """
        Return the metadata that this scorer asks for.

        Returns
        -------
        MetadataRequest
            Request for `sample_weight` by the method `score`.
        """
        request = MetadataRequest(owner=self)
        request.score.add_request(param="sample_weight", alias=self._weight_request)
        return request

    def _accept_sample_weight(self) -> bool:
        # Searches ask scorers this by name before they pass weights on unrouted.
        return True


def _neg_gaussian_nll(estimator: Any, X: Any, y: Any, sample_weight: Any) -> float:
    mean, std = mean_and_std(estimator, X)
    return -float(gaussian_nll(y, mean, std, sample_weight=sample_weight))


def _neg_crps(estimator: Any, X: Any, y: Any, sample_weight: Any) -> float:
    mean, std = mean_and_std(estimator, X)
    return -float(crps_gaussian(y, mean, std, sample_weight=sample_weight))


def _neg_crps_ensemble(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    *,
    n_draws: int = 200,
    random_state: int | None = 0,
) -> float:
    draws = observation_draws(estimator, X, n_draws, random_state)
    return -float(crps_ensemble(y, draws, fair=True, sample_weight=sample_weight))


def _neg_interval_score(
    estimator: Any, X: Any, y: Any, sample_weight: Any, *, coverage: float = 0.9
) -> float:
    (lower,), (upper,) = central_intervals(estimator, X, [coverage])
    return -float(
        interval_score(y, lower, upper, 1 - coverage, sample_weight=sample_weight)
    )


def _neg_coverage_error(
    estimator: Any, X: Any, y: Any, sample_weight: Any, *, coverage: float = 0.9
) -> float:
    (lower,), (upper,) = central_intervals(estimator, X, [coverage])
    observed = interval_coverage(
        y, lower, upper, sample_weight=sample_weight, multioutput="raw_values"
    )
    return -float(np.mean(np.abs(observed - coverage)))


def _neg_expected_calibration_error(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    *,
    n_bins: int = 15,
    strategy: str = "uniform",
    norm: str = "top-label",
) -> float:
    estimator, X = final_estimator(estimator, X)
    require_method(estimator, "predict_proba")
    return -expected_calibration_error(
        y,
        estimator.predict_proba(X),
        n_bins=n_bins,
        strategy=strategy,
        norm=norm,
        labels=estimator.classes_,
        sample_weight=sample_weight,
    )


def _mean_log_prob(estimator: Any, X: Any, y: Any, sample_weight: Any) -> float:
    estimator, X = final_estimator(estimator, X)
    require_method(estimator, "log_prob")
    log_densities = as_numbers(estimator.log_prob(X, y), "log_prob(X, y)")
    check_finite(log_densities, "log_prob(X, y)", infinite=-np.inf)
    return float(average_rows(log_densities, sample_weight, "uniform_average"))


neg_gaussian_nll_scorer = DistributionScorer("neg_gaussian_nll", _neg_gaussian_nll)
neg_crps_scorer = DistributionScorer("neg_crps", _neg_crps)
neg_crps_ensemble_scorer = DistributionScorer("neg_crps_ensemble", _neg_crps_ensemble)
neg_interval_score_scorer = DistributionScorer(
    "neg_interval_score", _neg_interval_score
)
neg_coverage_error_scorer = DistributionScorer(
    "neg_coverage_error", _neg_coverage_error
)
neg_expected_calibration_error_scorer = DistributionScorer(
    "neg_expected_calibration_error", _neg_expected_calibration_error
)
mean_log_prob_scorer = DistributionScorer("mean_log_prob", _mean_log_prob)

SCORERS: dict[str, DistributionScorer] = {
    scorer.__name__: scorer
    for scorer in (
        neg_gaussian_nll_scorer,
        neg_crps_scorer,
        neg_crps_ensemble_scorer,
        neg_interval_score_scorer,
        neg_coverage_error_scorer,
        neg_expected_calibration_error_scorer,
        mean_log_prob_scorer,
    )
}


def get_scorer(name: str, **options: Any) -> DistributionScorer:
    r"""
    Return a new scorer of predictive distributions.

    Parameters
    ----------
    name : str
        One of the names in `skfunc.metrics.SCORERS`:

        - "neg_gaussian_nll" and "neg_crps" score the Gaussian of
          `predict(X, return_std=True)`;
        - "neg_crps_ensemble" scores draws of `sample(X, n_samples, random_state)`,
          with options `n_draws=200` and `random_state=0`;
        - "neg_interval_score" scores `predict_interval(X, coverage)`, or else the
          interval of the Gaussian, with option `coverage=0.9`;
        - "neg_coverage_error" is minus the distance from nominal to observed coverage
          of these intervals, with option `coverage=0.9`;
        - "neg_expected_calibration_error" scores `predict_proba`, with options
          `n_bins=15`, `strategy="uniform"` and `norm="top-label"`;
        - "mean_log_prob" is the mean of `log_prob(X, y)`.

    **options : dict
        Options of that scorer.

    Returns
    -------
    DistributionScorer
        Callable as `scorer(estimator, X, y, sample_weight=None)`; greater is better.

    Raises
    ------
    ValueError
        If there is no scorer of that name.

    TypeError
        If the scorer has no such option.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.gaussian_process import GaussianProcessRegressor
    >>> from sklearn.gaussian_process.kernels import RBF, WhiteKernel
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skfunc.metrics import get_scorer
    >>> X, y = load_diabetes(return_X_y=True)
    >>> kernel = RBF(length_scale=5.0, length_scale_bounds="fixed") + WhiteKernel(
    ...     noise_level=0.5, noise_level_bounds="fixed"
    ... )
    >>> model = make_pipeline(
    ...     StandardScaler(), GaussianProcessRegressor(kernel, normalize_y=True)
    ... )
    >>> scorer = get_scorer("neg_coverage_error", coverage=0.8)
    >>> scores = cross_val_score(model, X, y, scoring=scorer, cv=3)
    >>> bool(scores.min() > -0.1)
    True
    """
    if not isinstance(name, str) or name not in SCORERS:
        raise ValueError(f"`name` must be one of {sorted(SCORERS)}; got {name!r}.")
    return DistributionScorer(name, SCORERS[name]._evaluate, **options)
