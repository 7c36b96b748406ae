"""Proper scoring rules of predictive distributions of a real target."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erf

from skfunc.metrics._checks import (
    FloatArray,
    average_rows,
    check_bounds,
    check_draws,
    check_finite,
    check_fraction,
    check_like_target,
    check_std,
    check_target,
    row_blocks,
)


def gaussian_nll(
    y: ArrayLike,
    mean: ArrayLike,
    std: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    multioutput: str | ArrayLike = "uniform_average",
) -> float | FloatArray:
    r"""
    Compute the mean negative log-likelihood of a Gaussian prediction.

    The score is proper: its expectation is smallest for the true mean and the true
    standard deviation. Outputs are scored one by one, as independent targets.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Observed target values.

    mean : array-like of the shape of `y`
        Predicted means.

    std : array-like of the shape of `y`
        Predicted standard deviations of an observation, positive.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows. A weight of two counts as a row given twice.

    multioutput : str or array-like of shape (n_outputs,), default="uniform_average"
        Mean over the outputs, one value per output, or a mean with these weights.

    Returns
    -------
    float or ndarray of shape (n_outputs,)
        Negative log-likelihood in nats; an array for `multioutput="raw_values"`.

    Raises
    ------
    ValueError
        If shapes differ, a value is not finite, or a standard deviation or weight is
        out of range.

    See Also
    --------
    crps_gaussian : A proper score in the units of the target, milder on outliers.

    Notes
    -----
    The loss of a row is
    :math:`\log(\sigma\sqrt{2\pi}) + (y - \mu)^2 / (2\sigma^2)`.

    References
    ----------
    .. [1] T. Gneiting, A. E. Raftery, "Strictly Proper Scoring Rules, Prediction, and
       Estimation", Journal of the American Statistical Association 102 (2007),
       359-378. https://doi.org/10.1198/016214506000001437

    Examples
    --------
    >>> from skfunc.metrics import gaussian_nll
    >>> loss = gaussian_nll([0.0, 1.0], mean=[0.0, 0.0], std=[1.0, 1.0])
    >>> round(loss, 4)
    1.1689
    """
    y = check_target(y)
    mean = check_like_target(mean, "mean", y)
    std = check_std(std, y)
    losses = 0.5 * np.log(2 * np.pi) + np.log(std) + 0.5 * ((y - mean) / std) ** 2
    return average_rows(losses, sample_weight, multioutput)


def crps_gaussian(
    y: ArrayLike,
    mean: ArrayLike,
    std: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    multioutput: str | ArrayLike = "uniform_average",
) -> float | FloatArray:
    r"""
    Compute the continuous ranked probability score of a Gaussian prediction.

    The score is proper, lower is better, and it has the units of the target: as the
    standard deviation goes to zero it becomes the absolute error of the mean.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Observed target values.

    mean : array-like of the shape of `y`
        Predicted means.

    std : array-like of the shape of `y`
        Predicted standard deviations of an observation, positive.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows. A weight of two counts as a row given twice.

    multioutput : str or array-like of shape (n_outputs,), default="uniform_average"
        Mean over the outputs, one value per output, or a mean with these weights.

    Returns
    -------
    float or ndarray of shape (n_outputs,)
        Mean score; an array for `multioutput="raw_values"`.

    Raises
    ------
    ValueError
        If shapes differ, a value is not finite, or a standard deviation or weight is
        out of range.

    See Also
    --------
    crps_ensemble : The same score for any distribution that is given by draws.

    Notes
    -----
    With :math:`z = (y - \mu) / \sigma`, the standard normal density :math:`\varphi`
    and distribution function :math:`\Phi`, the score of a row is (equation 21 of [1]_)

    .. math:: \sigma \left[ z (2\Phi(z) - 1) + 2\varphi(z) - 1/\sqrt{\pi} \right].

    References
    ----------
    .. [1] T. Gneiting, A. E. Raftery, "Strictly Proper Scoring Rules, Prediction, and
       Estimation", Journal of the American Statistical Association 102 (2007),
       359-378. https://doi.org/10.1198/016214506000001437

    Examples
    --------
    >>> from skfunc.metrics import crps_gaussian
    >>> score = crps_gaussian([0.0, 1.0], mean=[0.0, 0.0], std=[1.0, 1.0])
    >>> round(score, 4)
    0.4181
    """
    y = check_target(y)
    mean = check_like_target(mean, "mean", y)
    std = check_std(std, y)
    z = (y - mean) / std
    # 2 Phi(z) - 1 = erf(z / sqrt(2)) and 2 phi(z) = sqrt(2 / pi) exp(-z^2 / 2).
    losses = std * (
        z * erf(z / np.sqrt(2))
        + np.sqrt(2 / np.pi) * np.exp(-0.5 * z**2)
        - 1 / np.sqrt(np.pi)
    )
    return average_rows(losses, sample_weight, multioutput)


def crps_ensemble(
    y: ArrayLike,
    draws: ArrayLike,
    *,
    fair: bool = False,
    sample_weight: ArrayLike | None = None,
    multioutput: str | ArrayLike = "uniform_average",
) -> float | FloatArray:
    r"""
    Compute the continuous ranked probability score of an ensemble of draws.

    Rows are sorted in blocks, so that time grows as S log S with the number S of
    draws and memory does not grow with the number of rows.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Observed target values.

    draws : array-like of shape (n_samples, [n_outputs,] n_draws)
        Draws from the predictive distribution of each row.

    fair : bool, default=False
        Whether to remove the bias of a finite ensemble. If True, the score is an
        unbiased estimate of that of the distribution behind the draws; use it to
        judge a model by a handful of draws. If False, the score is that of the
        ensemble itself, taken as a discrete distribution.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows. A weight of two counts as a row given twice.

    multioutput : str or array-like of shape (n_outputs,), default="uniform_average"
        Mean over the outputs, one value per output, or a mean with these weights.

    Returns
    -------
    float or ndarray of shape (n_outputs,)
        Mean score; an array for `multioutput="raw_values"`.

    Raises
    ------
    ValueError
        If shapes differ, a value is not finite, a weight is out of range, or `fair`
        is asked of a single draw.

    See Also
    --------
    crps_gaussian : The closed form for a Gaussian prediction.

    Notes
    -----
    The score of a row with draws :math:`x_1, \dots, x_S` is

    .. math:: \frac{1}{S} \sum_i |x_i - y| - \frac{1}{2 S D} \sum_{i, j} |x_i - x_j|,

    where :math:`D` is :math:`S`, or :math:`S - 1` for the fair score [2]_. In sorted
    order the double sum is :math:`2 \sum_i (2 i - S - 1) x_{(i)}`.

    References
    ----------
    .. [1] T. Gneiting, A. E. Raftery, "Strictly Proper Scoring Rules, Prediction, and
       Estimation", Journal of the American Statistical Association 102 (2007),
       359-378. https://doi.org/10.1198/016214506000001437

    .. [2] C. A. T. Ferro, "Fair scores for ensemble forecasts", Quarterly Journal of
       the Royal Meteorological Society 140 (2014), 1917-1923.
       https://doi.org/10.1002/qj.2270

    Examples
    --------
    >>> from skfunc.metrics import crps_ensemble
    >>> crps_ensemble([0.0], draws=[[-1.0, 0.0, 4.0]])
    0.5555555555555556
    """
    y = check_target(y)
    draws = check_draws(draws, y)
    n_draws = draws.shape[-1]
    if fair and n_draws < 2:
        raise ValueError("`draws` must hold at least two draws a row for fair=True.")
    divisor = n_draws * (n_draws - 1 if fair else n_draws)
    coefficients = 2.0 * np.arange(1, n_draws + 1) - n_draws - 1

    targets = y.reshape(-1)
    ensembles = draws.reshape(-1, n_draws)
    losses = np.empty_like(targets)
    for rows in row_blocks(len(targets), n_draws):
        check_finite(ensembles[rows], "draws")
        # Centred on the target first: the spread is then a sum of like magnitudes,
        # whatever the level of the series.
        errors = ensembles[rows].astype(np.float64) - targets[rows, None]
        errors.sort(axis=1)
        spread = errors @ coefficients / divisor
        losses[rows] = np.abs(errors).mean(axis=1) - spread
    return average_rows(losses.reshape(y.shape), sample_weight, multioutput)


def interval_score(
    y: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    alpha: float = 0.1,
    *,
    sample_weight: ArrayLike | None = None,
    multioutput: str | ArrayLike = "uniform_average",
) -> float | FloatArray:
    r"""
    Compute the interval score of central prediction intervals.

    The width of the interval, plus a penalty for each target outside it. The score is
    proper, lower is better, and it has the units of the target.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Observed target values.

    lower : array-like of the shape of `y`
        Lower bounds, the predicted quantiles at level `alpha / 2`.

    upper : array-like of the shape of `y`
        Upper bounds, the predicted quantiles at level `1 - alpha / 2`.

    alpha : float, default=0.1
        One minus the nominal coverage of the intervals, in (0, 1).

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows. A weight of two counts as a row given twice.

    multioutput : str or array-like of shape (n_outputs,), default="uniform_average"
        Mean over the outputs, one value per output, or a mean with these weights.

    Returns
    -------
    float or ndarray of shape (n_outputs,)
        Mean score, infinite where an interval is unbounded; an array for
        `multioutput="raw_values"`.

    Raises
    ------
    ValueError
        If shapes differ, a bound is NaN or above its partner, or `alpha` or a weight
        is out of range.

    See Also
    --------
    interval_coverage : The share of targets inside their intervals.

    Notes
    -----
    The score of a row is (equation 43 of [1]_)

    .. math::
        (u - l) + \frac{2}{\alpha} \max(l - y, 0) + \frac{2}{\alpha} \max(y - u, 0).

    References
    ----------
    .. [1] T. Gneiting, A. E. Raftery, "Strictly Proper Scoring Rules, Prediction, and
       Estimation", Journal of the American Statistical Association 102 (2007),
       359-378. https://doi.org/10.1198/016214506000001437

    Examples
    --------
    >>> from skfunc.metrics import interval_score
    >>> interval_score([0.5, 3.0], lower=[0.0, 0.0], upper=[1.0, 2.0], alpha=0.5)
    3.5
    """
    y = check_target(y)
    lower, upper = check_bounds(lower, upper, y)
    alpha = check_fraction(alpha, "alpha")
    outside = np.maximum(lower - y, 0) + np.maximum(y - upper, 0)
    return average_rows(
        (upper - lower) + 2 / alpha * outside, sample_weight, multioutput
    )
