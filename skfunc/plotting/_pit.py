"""Histogram of the probability integral transform."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from skfunc.metrics import pit_values as compute_pit_values
from skfunc.metrics._checks import check_weights
from skfunc.metrics._responses import final_estimator, mean_and_std, observation_draws
from skfunc.plotting._artists import (
    BAND_COLOR,
    BAND_LABEL,
    REFERENCE_COLOR,
    binomial_band,
    check_one_target,
    effective_size,
    estimator_name,
    has_label,
    legend_above,
    merge_style,
    new_axes,
    next_color,
)

REFERENCE_LABEL = "Calibrated"


class PITDisplay:
    """
    Histogram of the probability integral transform of the targets.

    A calibrated model has a flat histogram. A bowl tells of too narrow predictions, a
    hump of too wide ones, a slope of a bias. Make one by `from_estimator` or
    `from_predictions`.

    Parameters
    ----------
    pit_values : ndarray of shape (n_samples,)
        Probability levels of the targets, in [0, 1].

    n_bins : int, default=10
        Number of bins.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows.

    estimator_name : str, default=None
        Name of the histogram in the legend.

    Attributes
    ----------
    bars_ : matplotlib BarContainer
        Bars, of mean height one.

    ref_line_ : matplotlib Artist or None
        Line at one. None with `ref_line=False`, or where the axes had one already.

    band_ : matplotlib Artist or None
        Band that holds each bar of a calibrated model with probability 0.95.

    ax_ : matplotlib Axes
        Axes that hold the histogram.

    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    skfunc.metrics.pit_values : The values themselves.
    CoverageDisplay : Coverage of central intervals.

    References
    ----------
    .. [1] T. Gneiting, F. Balabdaoui, A. E. Raftery, "Probabilistic Forecasts,
       Calibration and Sharpness", Journal of the Royal Statistical Society B 69
       (2007), 243-268. https://doi.org/10.1111/j.1467-9868.2007.00587.x

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import BayesianRidge
    >>> from skfunc.plotting import PITDisplay
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = BayesianRidge().fit(X[:300], y[:300])
    >>> display = PITDisplay.from_estimator(model, X[300:], y[300:])
    >>> len(display.bars_)
    10
    """

    def __init__(
        self,
        pit_values: ArrayLike,
        *,
        n_bins: int = 10,
        sample_weight: ArrayLike | None = None,
        estimator_name: str | None = None,
    ) -> None:
        self.pit_values = pit_values
        self.n_bins = n_bins
        self.sample_weight = sample_weight
        self.estimator_name = estimator_name

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        ref_line: bool = True,
        **kwargs: Any,
    ) -> PITDisplay:
        """
        Draw the histogram.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on, by default new ones.

        name : str, default=None
            Name in the legend, by default `estimator_name`.

        ref_line : bool, default=True
            Whether to draw the line of a calibrated model and its band.

        **kwargs : dict
            Keywords for matplotlib's `bar`.

        Returns
        -------
        PITDisplay
            The display, with the artists as attributes.

        Raises
        ------
        ImportError
            If matplotlib is not installed.

        ValueError
            If `n_bins` is no positive integer.
        """
        self.figure_, self.ax_ = new_axes(ax, f"{type(self).__name__}.plot")
        n_bins = self.n_bins
        if isinstance(n_bins, bool) or not isinstance(n_bins, Integral) or n_bins < 1:
            raise ValueError(
                f"`n_bins` must be an integer of at least 1; got {n_bins!r}."
            )
        values = np.asarray(self.pit_values)
        weights = check_weights(self.sample_weight, len(values))
        heights, edges = np.histogram(
            values, bins=n_bins, range=(0, 1), weights=weights, density=True
        )

        color = next_color(self.ax_)
        defaults = {"color": color, "alpha": 0.6, "edgecolor": "white"}
        name = self.estimator_name if name is None else name
        if name is not None:
            defaults["label"] = name
        style = merge_style("patch", defaults, kwargs)
        self.bars_ = self.ax_.bar(
            edges[:-1], heights, width=1 / n_bins, align="edge", **style
        )

        self.ref_line_: Any = None
        self.band_: Any = None
        if ref_line and not has_label(self.ax_, REFERENCE_LABEL):
            self._plot_reference(effective_size(self.sample_weight, len(values)))
        self.ax_.set(
            xlabel="Probability integral transform",
            ylabel="Density",
            xlim=(0, 1),
        )
        legend_above(self.ax_, bottom=0.0)
        return self

    def _plot_reference(self, n_samples: int) -> None:
        low, high = self.n_bins * binomial_band(1 / self.n_bins, n_samples)
        self.band_ = self.ax_.fill_between(
            [0, 1], low, high, color=BAND_COLOR, linewidth=0, zorder=0, label=BAND_LABEL
        )
        (self.ref_line_,) = self.ax_.plot(
            [0, 1], [1, 1], color=REFERENCE_COLOR, linestyle="--", label=REFERENCE_LABEL
        )

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        n_bins: int = 10,
        n_draws: int = 500,
        random_state: int | np.random.RandomState | None = 0,
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ax: Any = None,
        ref_line: bool = True,
        **kwargs: Any,
    ) -> PITDisplay:
        """
        Draw the histogram of a fitted regressor on held-out data.

        Parameters
        ----------
        estimator : estimator instance
            Fitted regressor, or a Pipeline or search that holds one. Where it has
            `sample(X, n_samples, random_state)`, targets are ranked among draws, which
            needs no Gaussian; else `predict(X, return_std=True)` is used.

        X : array-like of shape (n_samples, n_features)
            Rows that the regressor was not fitted on.

        y : array-like of shape (n_samples,)
            Their targets.

        n_bins : int, default=10
            Number of bins.

        n_draws : int, default=500
            Number of draws of each row, where the regressor has them.

        random_state : int, RandomState instance or None, default=0
            Seed of the draws.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        name : str, default=None
            Name in the legend, by default that of the estimator's class.

        ax : matplotlib Axes, default=None
            Axes to draw on, by default new ones.

        ref_line : bool, default=True
            Whether to draw the line of a calibrated model and its band.

        **kwargs : dict
            Keywords for matplotlib's `bar`.

        Returns
        -------
        PITDisplay
            The display, with the artists as attributes.

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn.linear_model import BayesianRidge
        >>> from skfunc.plotting import PITDisplay
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = BayesianRidge().fit(X[:300], y[:300])
        >>> display = PITDisplay.from_estimator(model, X[300:], y[300:], n_bins=5)
        >>> display.pit_values.shape
        (142,)
        """
        predictive: dict[str, Any]
        model, rows = final_estimator(estimator, X)
        if hasattr(model, "sample"):
            draws = observation_draws(model, rows, n_draws, random_state)
            predictive = {"draws": draws}
        else:
            mean, std = mean_and_std(model, rows)
            predictive = {"mean": mean, "std": std}
        return cls.from_predictions(
            y,
            **predictive,
            n_bins=n_bins,
            random_state=random_state,
            sample_weight=sample_weight,
            name=estimator_name(estimator, name),
            ax=ax,
            ref_line=ref_line,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        mean: ArrayLike | None = None,
        std: ArrayLike | None = None,
        *,
        draws: ArrayLike | None = None,
        cdf: Callable[..., ArrayLike] | None = None,
        n_bins: int = 10,
        random_state: int | np.random.RandomState | None = 0,
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ax: Any = None,
        ref_line: bool = True,
        **kwargs: Any,
    ) -> PITDisplay:
        """
        Draw the histogram of predictive distributions given in one of three ways.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            Observed targets.

        mean : array-like of shape (n_samples,), default=None
            Means of a Gaussian prediction.

        std : array-like of shape (n_samples,), default=None
            Standard deviations of a Gaussian prediction, positive.

        draws : array-like of shape (n_samples, n_draws), default=None
            Draws of observations from the predictive distribution of each row.

        cdf : callable, default=None
            Predictive distribution function of each row, called as `cdf(y_true)`.

        n_bins : int, default=10
            Number of bins.

        random_state : int, RandomState instance or None, default=0
            Seed that spreads ranks among `draws`; see `skfunc.metrics.pit_values`.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        name : str, default=None
            Name in the legend.

        ax : matplotlib Axes, default=None
            Axes to draw on, by default new ones.

        ref_line : bool, default=True
            Whether to draw the line of a calibrated model and its band.

        **kwargs : dict
            Keywords for matplotlib's `bar`.

        Returns
        -------
        PITDisplay
            The display, with the artists as attributes.

        Examples
        --------
        >>> import numpy as np
        >>> from skfunc.plotting import PITDisplay
        >>> y = np.random.default_rng(0).normal(size=100)
        >>> display = PITDisplay.from_predictions(y, np.zeros(100), np.ones(100))
        >>> display.ax_.get_xlabel()
        'Probability integral transform'
        """
        check_one_target(np.shape(y_true), cls.__name__)
        values = compute_pit_values(
            y_true, mean, std, draws=draws, cdf=cdf, random_state=random_state
        )
        display = cls(
            values, n_bins=n_bins, sample_weight=sample_weight, estimator_name=name
        )
        return display.plot(ax, ref_line=ref_line, **kwargs)
