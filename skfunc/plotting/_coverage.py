"""Nominal against observed coverage of central prediction intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from skfunc.metrics import interval_coverage
from skfunc.metrics._checks import (
    check_fraction,
    check_like_target,
    check_std,
    check_target,
)
from skfunc.metrics._responses import central_intervals
from skfunc.plotting._artists import (
    BAND_COLOR,
    BAND_LABEL,
    REFERENCE_COLOR,
    binomial_band,
    check_one_target,
    effective_size,
    estimator_name,
    has_label,
    merge_style,
    new_axes,
    next_color,
)

REFERENCE_LABEL = "Calibrated"


class CoverageDisplay:
    """
    Nominal against observed coverage of a regressor's central intervals.

    On the diagonal a model is calibrated; below it, its intervals are too narrow;
    above it, too wide. Make one by `from_estimator` or `from_predictions`.

    Parameters
    ----------
    nominal : ndarray of shape (n_coverages,)
        Nominal coverages of the intervals, in (0, 1).

    observed : ndarray of shape (n_coverages,)
        Share of the targets inside the intervals.

    n_samples : int, default=None
        Number of rows behind it. If given, a band shows how far from the diagonal a
        calibrated model may be found by chance, at each coverage by itself.

    estimator_name : str, default=None
        Name of the curve in the legend.

    Attributes
    ----------
    line_ : matplotlib Artist
        Curve of observed coverage.

    ref_line_ : matplotlib Artist or None
        Diagonal. None with `ref_line=False`, or where the axes had one already.

    band_ : matplotlib Artist or None
        Band around the diagonal.

    ax_ : matplotlib Axes
        Axes that hold the curve.

    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    PITDisplay : Which tail the coverage is lost in.
    skfunc.metrics.interval_coverage : Coverage of one set of intervals.

    References
    ----------
    .. [1] V. Kuleshov, N. Fenner, S. Ermon, "Accurate Uncertainties for Deep Learning
       Using Calibrated Regression", ICML 2018. https://arxiv.org/abs/1807.00263

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import BayesianRidge
    >>> from skfunc.plotting import CoverageDisplay
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = BayesianRidge().fit(X[:300], y[:300])
    >>> display = CoverageDisplay.from_estimator(model, X[300:], y[300:])
    >>> display.ax_.get_ylabel()
    'Observed coverage'
    """

    def __init__(
        self,
        nominal: ArrayLike,
        observed: ArrayLike,
        *,
        n_samples: int | None = None,
        estimator_name: str | None = None,
    ) -> None:
        self.nominal = nominal
        self.observed = observed
        self.n_samples = n_samples
        self.estimator_name = estimator_name

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        ref_line: bool = True,
        **kwargs: Any,
    ) -> CoverageDisplay:
        """
        Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; several models may share them. By default new ones.

        name : str, default=None
            Name in the legend, by default `estimator_name`.

        ref_line : bool, default=True
            Whether to draw the diagonal, and the band if `n_samples` is known.

        **kwargs : dict
            Keywords for matplotlib's `plot` of the curve.

        Returns
        -------
        CoverageDisplay
            The display, with the artists as attributes.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.figure_, self.ax_ = new_axes(ax, f"{type(self).__name__}.plot")
        self.ref_line_: Any = None
        self.band_: Any = None
        if ref_line and not has_label(self.ax_, REFERENCE_LABEL):
            self._plot_reference()

        color = next_color(self.ax_)
        defaults = {"color": color, "marker": "o", "markersize": 4}
        name = self.estimator_name if name is None else name
        if name is not None:
            defaults["label"] = name
        style = merge_style("line", defaults, kwargs)
        (self.line_,) = self.ax_.plot(self.nominal, self.observed, **style)

        self.ax_.set(
            xlabel="Nominal coverage of central intervals",
            ylabel="Observed coverage",
            xlim=(0, 1),
            ylim=(0, 1),
            aspect="equal",
        )
        if self.ax_.get_legend_handles_labels()[1]:
            self.ax_.legend(loc="upper left", frameon=False)
        return self

    def _plot_reference(self) -> None:
        if self.n_samples is not None:
            levels = np.linspace(0, 1, 201)
            low, high = binomial_band(levels, self.n_samples)
            self.band_ = self.ax_.fill_between(
                levels, low, high, color=BAND_COLOR, linewidth=0, label=BAND_LABEL
            )
        (self.ref_line_,) = self.ax_.plot(
            [0, 1], [0, 1], color=REFERENCE_COLOR, linestyle="--", label=REFERENCE_LABEL
        )

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        coverages: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ax: Any = None,
        ref_line: bool = True,
        **kwargs: Any,
    ) -> CoverageDisplay:
        """
        Draw the coverage of a fitted regressor on held-out data.

        Parameters
        ----------
        estimator : estimator instance
            Fitted regressor, or a Pipeline or search that holds one, with
            `predict_interval(X, coverage)`, or else with `predict(X, return_std=True)`,
            whose intervals are then Gaussian.

        X : array-like of shape (n_samples, n_features)
            Rows that the regressor was not fitted on.

        y : array-like of shape (n_samples,)
            Their targets.

        coverages : array-like of shape (n_coverages,), default=None
            Nominal coverages, in (0, 1). By default 0.05 to 0.95 in steps of 0.05.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        name : str, default=None
            Name in the legend, by default that of the estimator's class.

        ax : matplotlib Axes, default=None
            Axes to draw on, by default new ones.

        ref_line : bool, default=True
            Whether to draw the diagonal and its band.

        **kwargs : dict
            Keywords for matplotlib's `plot` of the curve.

        Returns
        -------
        CoverageDisplay
            The display, with the artists as attributes.

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn.linear_model import BayesianRidge
        >>> from skfunc.plotting import CoverageDisplay
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = BayesianRidge().fit(X[:300], y[:300])
        >>> display = CoverageDisplay.from_estimator(
        ...     model, X[300:], y[300:], coverages=[0.5, 0.9]
        ... )
        >>> display.observed.round(2)
        array([0.55, 0.91])
        """
        nominal = _check_coverages(coverages)
        lower, upper = central_intervals(estimator, X, nominal)
        return cls._from_bounds(
            y,
            lower,
            upper,
            nominal,
            sample_weight=sample_weight,
            name=estimator_name(estimator, name),
        ).plot(ax, ref_line=ref_line, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        mean: ArrayLike,
        std: ArrayLike,
        *,
        coverages: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ax: Any = None,
        ref_line: bool = True,
        **kwargs: Any,
    ) -> CoverageDisplay:
        """
        Draw the coverage of Gaussian predictions.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            Observed targets.

        mean : array-like of shape (n_samples,)
            Predicted means.

        std : array-like of shape (n_samples,)
            Predicted standard deviations of an observation, positive.

        coverages : array-like of shape (n_coverages,), default=None
            Nominal coverages, in (0, 1). By default 0.05 to 0.95 in steps of 0.05.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        name : str, default=None
            Name in the legend.

        ax : matplotlib Axes, default=None
            Axes to draw on, by default new ones.

        ref_line : bool, default=True
            Whether to draw the diagonal and its band.

        **kwargs : dict
            Keywords for matplotlib's `plot` of the curve.

        Returns
        -------
        CoverageDisplay
            The display, with the artists as attributes.

        Examples
        --------
        >>> import numpy as np
        >>> from skfunc.plotting import CoverageDisplay
        >>> y = np.random.default_rng(0).normal(size=100)
        >>> display = CoverageDisplay.from_predictions(y, np.zeros(100), np.ones(100))
        >>> display.nominal[[0, -1]]
        array([0.05, 0.95])
        """
        nominal = _check_coverages(coverages)
        y = check_target(y_true, "y_true")
        center = check_like_target(mean, "mean", y, of="y_true")
        deviations = check_std(std, y, of="y_true")
        half_widths = np.multiply.outer(ndtri(0.5 + nominal / 2), deviations)
        return cls._from_bounds(
            y,
            center - half_widths,
            center + half_widths,
            nominal,
            sample_weight=sample_weight,
            name=name,
        ).plot(ax, ref_line=ref_line, **kwargs)

    @classmethod
    def _from_bounds(
        cls,
        y: ArrayLike,
        lower: Any,
        upper: Any,
        nominal: Any,
        *,
        sample_weight: ArrayLike | None,
        name: str | None,
    ) -> CoverageDisplay:
        check_one_target(np.shape(y), cls.__name__)
        observed = [
            interval_coverage(y, low, high, sample_weight=sample_weight)
            for low, high in zip(lower, upper, strict=True)
        ]
        return cls(
            nominal,
            np.array(observed),
            n_samples=effective_size(sample_weight, len(lower[0])),
            estimator_name=name,
        )


def _check_coverages(coverages: ArrayLike | None) -> Any:
    if coverages is None:
        return np.arange(1, 20) / 20
    return np.array([check_fraction(c, "coverages") for c in np.atleast_1d(coverages)])
