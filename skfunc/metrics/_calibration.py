"""How far stated probabilities agree with what happened."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr
from sklearn.utils import check_random_state

from skfunc.metrics._checks import (
    FloatArray,
    as_numbers,
    average_rows,
    check_bounds,
    check_draws,
    check_finite,
    check_like_target,
    check_option,
    check_std,
    check_target,
    check_weights,
    row_blocks,
)

# By how much a row of probabilities may miss one: rounding of a softmax over a
# thousand classes in single precision.
SUM_TOLERANCE = 1e-5


def interval_coverage(
    y: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    multioutput: str | ArrayLike = "uniform_average",
) -> float | FloatArray:
    """
    Compute the share of targets that lie inside their prediction intervals.

    A calibrated model has a coverage near the nominal one. Coverage alone is no proper
    score, since wide intervals cover everything: read it beside `interval_score`.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Observed target values.

    lower : array-like of the shape of `y`
        Lower bounds, included in the interval; may be minus infinity.

    upper : array-like of the shape of `y`
        Upper bounds, included in the interval; may be infinity.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows. A weight of two counts as a row given twice.

    multioutput : str or array-like of shape (n_outputs,), default="uniform_average"
        Mean over the outputs, one value per output, or a mean with these weights.

    Returns
    -------
    float or ndarray of shape (n_outputs,)
        Coverage in [0, 1]; an array for `multioutput="raw_values"`.

    Raises
    ------
    ValueError
        If shapes differ, a bound is NaN or above its partner, or a weight is out of
        range.

    See Also
    --------
    interval_score : A proper score of intervals.

    References
    ----------
    .. [1] T. Gneiting, F. Balabdaoui, A. E. Raftery, "Probabilistic Forecasts,
       Calibration and Sharpness", Journal of the Royal Statistical Society B 69
       (2007), 243-268. https://doi.org/10.1111/j.1467-9868.2007.00587.x

    Examples
    --------
    >>> from skfunc.metrics import interval_coverage
    >>> interval_coverage([0.0, 1.0, 2.0, 3.0], lower=[0] * 4, upper=[2] * 4)
    0.75
    """
    y = check_target(y)
    lower, upper = check_bounds(lower, upper, y)
    inside = ((lower <= y) & (y <= upper)).astype(np.float64)
    return average_rows(inside, sample_weight, multioutput)


def pit_values(
    y: ArrayLike,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    *,
    draws: ArrayLike | None = None,
    cdf: Callable[[FloatArray], ArrayLike] | None = None,
    random_state: int | np.random.RandomState | None = 0,
) -> FloatArray:
    r"""
    Compute the probability integral transform of the targets.

    Each target is mapped to its probability level under the predictive distribution.
    If that distribution is right, the values are uniform on [0, 1]: a hump in their
    histogram tells of too wide a prediction, a bowl of too narrow, a slope of a bias.

    Say what the predictive distribution is in one of three ways: `mean` and `std` for
    a Gaussian, `draws` for an ensemble, or its distribution function `cdf`.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Observed target values.

    mean : array-like of the shape of `y`, default=None
        Means of a Gaussian prediction.

    std : array-like of the shape of `y`, default=None
        Standard deviations of a Gaussian prediction, positive.

    draws : array-like of shape (n_samples, [n_outputs,] n_draws), default=None
        Draws of observations from the predictive distribution of each row.

    cdf : callable, default=None
        Called as `cdf(y)`; returns the predictive distribution function of each row at
        that row's target, with the shape of `y`. The `cdf` of a frozen distribution of
        scipy with one parameter per row will do.

    random_state : int, RandomState instance or None, default=0
        Where among its neighbours a target's rank falls is drawn at random, so that
        the values are uniform and not only so in the limit of many draws. Used with
        `draws` alone. None draws anew on each call.

    Returns
    -------
    ndarray of the shape of `y`
        Values in [0, 1].

    Raises
    ------
    ValueError
        If not exactly one predictive distribution is given, shapes differ, a value is
        not finite, a standard deviation is not positive, or `cdf` leaves [0, 1].

    See Also
    --------
    skfunc.plotting.PITDisplay : Their histogram.

    Notes
    -----
    With :math:`S` draws of which :math:`r` are below the target and :math:`t` equal to
    it, the value is :math:`(r + (t + 1) u) / (S + 1)` with :math:`u` uniform on
    [0, 1). It is exactly uniform when target and draws are exchangeable.

    References
    ----------
    .. [1] A. P. Dawid, "Present Position and Potential Developments: Some Personal
       Views: Statistical Theory: The Prequential Approach", Journal of the Royal
       Statistical Society A 147 (1984), 278-292. https://doi.org/10.2307/2981683

    .. [2] T. Gneiting, F. Balabdaoui, A. E. Raftery, "Probabilistic Forecasts,
       Calibration and Sharpness", Journal of the Royal Statistical Society B 69
       (2007), 243-268. https://doi.org/10.1111/j.1467-9868.2007.00587.x

    Examples
    --------
    >>> from scipy.stats import norm
    >>> from skfunc.metrics import pit_values
    >>> pit_values([0.0, 2.0], mean=[0.0, 2.0], std=[1.0, 3.0])
    array([0.5, 0.5])
    >>> pit_values([0.0, 2.0], cdf=norm(loc=[0.0, 2.0], scale=[1.0, 3.0]).cdf)
    array([0.5, 0.5])
    """
    y = check_target(y)
    gaussian = mean is not None or std is not None
    if gaussian + (draws is not None) + (cdf is not None) != 1:
        raise ValueError(
            "Give exactly one predictive distribution: `mean` and `std`, `draws`, or "
            "`cdf`."
        )
    if draws is not None:
        return _rank_levels(y, check_draws(draws, y), random_state)
    if cdf is not None:
        levels = check_like_target(cdf(y), "cdf(y)", y)
        if levels.min() < 0 or levels.max() > 1:
            raise ValueError(
                "`cdf` must return values in [0, 1]; got values from "
                f"{levels.min()} to {levels.max()}."
            )
        return levels
    if mean is None or std is None:
        raise ValueError(
            "`mean` and `std` go together; "
            f"got no `{'mean' if mean is None else 'std'}`."
        )
    mean = check_like_target(mean, "mean", y)
    return ndtr((y - mean) / check_std(std, y))


def _rank_levels(
    y: FloatArray,
    draws: NDArray[Any],
    random_state: int | np.random.RandomState | None,
) -> FloatArray:
    n_draws = draws.shape[-1]
    uniform = check_random_state(random_state).uniform(size=y.size)
    targets, ensembles = y.reshape(-1), draws.reshape(-1, n_draws)
    levels = np.empty_like(targets)
    for rows in row_blocks(len(targets), n_draws):
        ensemble, target = ensembles[rows], targets[rows, None]
        check_finite(ensemble, "draws")
        below = (ensemble < target).sum(axis=1)
        tied = (ensemble == target).sum(axis=1)
        levels[rows] = (below + (tied + 1) * uniform[rows]) / (n_draws + 1)
    return levels.reshape(y.shape)


def expected_calibration_error(
    y: ArrayLike,
    proba: ArrayLike,
    *,
    n_bins: int = 15,
    strategy: str = "uniform",
    norm: str = "top-label",
    labels: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""
    Compute the expected calibration error of predicted class probabilities.

    Rows are put into bins by predicted probability; the error is the mean gap between
    the predicted probability and the observed frequency, over bins weighted by their
    rows. Lower is better; zero is no proof of a good classifier, since the class
    frequencies alone are calibrated.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Observed class labels.

    proba : array-like of shape (n_samples, n_classes) or (n_samples,)
        Predicted probabilities, rows summing to one. One dimension is read as the
        probability of the second of two classes.

    n_bins : int, default=15
        Number of bins.

    strategy : {"uniform", "quantile"}, default="uniform"
        Bins of the same width, or bins that hold the same weight of rows. Equal
        probabilities share a bin, so that ties leave quantile bins uneven.

    norm : {"top-label", "classwise"}, default="top-label"
        Compare the highest probability of each row with how often it is right [2]_, or
        average the error over the probabilities of every class [3]_.

    labels : array-like of shape (n_classes,), default=None
        Class of each column of `proba`, such as the `classes_` of a classifier. By
        default the sorted classes in `y`, which must then all occur.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows. A weight of two counts as a row given twice.

    Returns
    -------
    float
        Error in [0, 1].

    Raises
    ------
    ValueError
        If shapes differ, a row of `proba` is no distribution, a class of `y` is not in
        `labels`, or an option is unknown.

    See Also
    --------
    sklearn.calibration.CalibrationDisplay : The curve behind it, for two classes.

    Notes
    -----
    For bins :math:`B_b` with weight :math:`w_b` that sum to one,

    .. math:: \sum_b w_b \, | \mathrm{frequency}(B_b) - \mathrm{probability}(B_b) |.

    A bin includes its right edge and not its left one, but for the first.

    References
    ----------
    .. [1] M. P. Naeini, G. F. Cooper, M. Hauskrecht, "Obtaining Well Calibrated
       Probabilities Using Bayesian Binning", AAAI 2015.
       https://doi.org/10.1609/aaai.v29i1.9602

    .. [2] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern
       Neural Networks", ICML 2017. https://arxiv.org/abs/1706.04599

    .. [3] M. Kull, M. Perello-Nieto, M. Kängsepp, T. Silva Filho, H. Song, P. Flach,
       "Beyond temperature scaling: Obtaining well-calibrated multiclass probabilities
       with Dirichlet calibration", NeurIPS 2019. https://arxiv.org/abs/1910.12656

    Examples
    --------
    >>> from skfunc.metrics import expected_calibration_error
    >>> proba = [[0.75, 0.25], [0.75, 0.25], [0.75, 0.25], [0.75, 0.25]]
    >>> expected_calibration_error(["a", "a", "a", "b"], proba)
    0.0
    >>> expected_calibration_error(["a", "a", "b", "b"], proba)
    0.25
    """
    check_option(strategy, "strategy", ("uniform", "quantile"))
    check_option(norm, "norm", ("top-label", "classwise"))
    if isinstance(n_bins, bool) or not isinstance(n_bins, Integral) or n_bins < 1:
        raise ValueError(f"`n_bins` must be an integer of at least 1; got {n_bins!r}.")
    probabilities = _check_proba(proba)
    n_samples, n_classes = probabilities.shape
    columns = _class_columns(y, n_samples, n_classes, labels)
    weights = check_weights(sample_weight, n_samples)

    if norm == "top-label":
        top = probabilities.argmax(axis=1)
        predicted = probabilities[np.arange(n_samples), top][:, None]
        observed = (top == columns).astype(np.float64)[:, None]
    else:
        predicted = probabilities
        observed = (columns[:, None] == np.arange(n_classes)).astype(np.float64)
    errors = [
        _calibration_gap(p, hit, weights, int(n_bins), strategy)
        for p, hit in zip(predicted.T, observed.T, strict=True)
    ]
    return float(np.mean(errors))


def _calibration_gap(
    predicted: FloatArray,
    observed: FloatArray,
    weights: FloatArray,
    n_bins: int,
    strategy: str,
) -> float:
    levels = np.arange(1, n_bins) / n_bins
    if strategy == "uniform":
        inner_edges = levels
    else:
        order = np.argsort(predicted, kind="stable")
        cumulative = np.cumsum(weights[order])
        # Rounding of the sums must not push a level that they meet past the row.
        shares = cumulative / cumulative[-1] + 4 * np.finfo(float).eps
        inner_edges = predicted[order][np.searchsorted(shares, levels)]
    bins = np.searchsorted(inner_edges, predicted, side="left")
    gaps = np.bincount(bins, weights=weights * (observed - predicted), minlength=n_bins)
    return float(np.abs(gaps).sum() / weights.sum())


def _check_proba(proba: ArrayLike) -> FloatArray:
    probabilities = as_numbers(proba, "proba").astype(np.float64)
    if probabilities.ndim == 1:
        probabilities = np.column_stack([1 - probabilities, probabilities])
    if probabilities.ndim != 2 or len(probabilities) == 0 or probabilities.shape[1] < 2:
        raise ValueError(
            "`proba` must have shape (n_samples,) or (n_samples, n_classes) with at "
            f"least one sample and two classes; got {probabilities.shape}."
        )
    check_finite(probabilities, "proba")
    outside = (probabilities < -SUM_TOLERANCE) | (probabilities > 1 + SUM_TOLERANCE)
    if outside.any():
        row = int(np.argwhere(outside)[0][0])
        raise ValueError(
            f"`proba` must lie in [0, 1]; got {probabilities[row].tolist()} in row "
            f"{row}."
        )
    totals = probabilities.sum(axis=1)
    uneven = np.abs(totals - 1) > SUM_TOLERANCE
    if uneven.any():
        row = int(np.flatnonzero(uneven)[0])
        raise ValueError(
            f"`proba` must have rows that sum to one; row {row} sums to {totals[row]}."
        )
    return probabilities


def _class_columns(
    y: ArrayLike, n_samples: int, n_classes: int, labels: ArrayLike | None
) -> NDArray[np.intp]:
    """Return the column of `proba` that holds each row's class."""
    observed = np.asarray(y)
    if observed.shape != (n_samples,):
        raise ValueError(
            f"`y` must have shape ({n_samples},), one label per row of `proba`; got "
            f"{observed.shape}."
        )
    if observed.dtype.kind == "f" and not np.isfinite(observed).all():
        raise ValueError("`y` must not contain NaN or infinity.")
    if labels is None:
        try:
            classes = np.unique(observed)
        except TypeError as error:
            raise ValueError(f"`y` must hold labels of one type: {error}.") from error
    else:
        classes = np.asarray(labels)
        if classes.ndim != 1 or len(set(classes.tolist())) != len(classes):
            raise ValueError("`labels` must be a list of distinct class labels.")
    if len(classes) != n_classes:
        source = "classes occur in `y`; give `labels`" if labels is None else "`labels`"
        raise ValueError(
            f"`proba` has {n_classes} columns but there are {len(classes)} {source}."
        )
    column_of = {label: column for column, label in enumerate(classes.tolist())}
    unknown = set(observed.tolist()) - set(column_of)
    if unknown:
        raise ValueError(
            f"`y` holds classes that are not in `labels`: {sorted(unknown, key=str)}."
        )
    return np.array([column_of[label] for label in observed.tolist()], dtype=np.intp)
