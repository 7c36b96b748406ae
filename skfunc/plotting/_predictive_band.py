"""Predictive mean and bands of a regressor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from skfunc.metrics._checks import (
    check_fraction,
    check_like_target,
    check_std,
    check_target,
)
from skfunc.metrics._responses import central_intervals, final_estimator, require_method
from skfunc.plotting._artists import (
    check_one_target,
    estimator_name,
    legend_above,
    merge_style,
    new_axes,
    next_color,
)
from skfunc.plotting._features import (
    as_table,
    feature_label,
    feature_position,
    feature_values,
)

RANK_LABEL = "Rank of the prediction"
# Opacity of the widest and of the narrowest band.
BAND_ALPHAS = (0.2, 0.4)
OBSERVATION_COLOR = "#262626"


class PredictiveBandDisplay:
    """
    Predictive mean of a regressor, with central bands around it.

    Against one feature, or for many features against the rank of the prediction. Make
    one by `from_estimator` or `from_predictions`.

    Parameters
    ----------
    x : ndarray of shape (n_points,)
        Abscissae of the predictions, in increasing order.
    mean : ndarray of shape (n_points,)
        Predicted means.
    lower : ndarray of shape (n_coverages, n_points)
        Lower bounds of the bands.
    upper : ndarray of shape (n_coverages, n_points)
        Upper bounds of the bands.
    coverages : sequence of float
        Nominal coverage of each band.
    x_observed : ndarray of shape (n_samples,), default=None
        Abscissae of the observations, by default `x`.
    y_observed : ndarray of shape (n_samples,), default=None
        Observations to draw as points.
    draws : ndarray of shape (n_points, n_draws), default=None
        Draws of the function to draw as thin lines.
    joined : bool, default=True
        Whether neighbouring points belong together: bands and mean are then drawn
        across them, else one bar and one point for each.
    x_label : str, default="Feature"
        Label of the horizontal axis.
    estimator_name : str, default=None
        Name of the mean in the legend.

    Attributes
    ----------
    line_ : matplotlib Artist
        Predictive mean.
    bands_ : list of matplotlib Artist
        Bands, in the order of `coverages`.
    draw_lines_ : list of matplotlib Artist
        Draws of the function.
    scatter_ : matplotlib Artist or None
        Observations.
    ax_ : matplotlib Axes
        Axes that hold the bands.
    figure_ : matplotlib Figure
        Figure that holds the axes.

    See Also
    --------
    CoverageDisplay : Whether the bands hold what they promise.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.gaussian_process import GaussianProcessRegressor
    >>> from skfunc.plotting import PredictiveBandDisplay
    >>> X = np.array([[0.0], [1.0], [3.0]])
    >>> y = np.sin(X[:, 0])
    >>> model = GaussianProcessRegressor().fit(X, y)
    >>> display = PredictiveBandDisplay.from_estimator(model, X, y, n_draws=3)
    >>> len(display.bands_), len(display.draw_lines_)
    (2, 3)
    """

    def __init__(
        self,
        x: ArrayLike,
        mean: ArrayLike,
        lower: ArrayLike,
        upper: ArrayLike,
        coverages: Sequence[float],
        *,
        x_observed: ArrayLike | None = None,
        y_observed: ArrayLike | None = None,
        draws: ArrayLike | None = None,
        joined: bool = True,
        x_label: str = "Feature",
        estimator_name: str | None = None,
    ) -> None:
        self.x = x
        self.mean = mean
        self.lower = lower
        self.upper = upper
        self.coverages = coverages
        self.x_observed = x_observed
        self.y_observed = y_observed
        self.draws = draws
        self.joined = joined
        self.x_label = x_label
        self.estimator_name = estimator_name

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        band_kwargs: dict[str, Any] | None = None,
        draw_kwargs: dict[str, Any] | None = None,
        scatter_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> PredictiveBandDisplay:
        """
        Draw bands, draws, mean and observations, from back to front.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on, by default new ones.
        name : str, default=None
            Name of the mean in the legend, by default `estimator_name`, or "Mean".
        band_kwargs : dict, default=None
            Keywords for matplotlib's `fill_between` of each band, or `vlines`.
        draw_kwargs : dict, default=None
            Keywords for matplotlib's `plot` of the draws.
        scatter_kwargs : dict, default=None
            Keywords for matplotlib's `scatter` of the observations.
        **kwargs : dict
            Keywords for matplotlib's `plot` of the mean.

        Returns
        -------
        PredictiveBandDisplay
            The display, with the artists as attributes.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.figure_, self.ax_ = new_axes(ax, f"{type(self).__name__}.plot")
        name = self.estimator_name if name is None else name
        color = next_color(self.ax_)
        mean_style = merge_style(
            "line",
            {
                "color": color,
                "label": "Mean" if name is None else name,
                **({} if self.joined else {"linestyle": "", "marker": "_"}),
            },
            kwargs,
        )
        color = mean_style["color"]
        self.bands_ = self._plot_bands(color, band_kwargs)
        self.draw_lines_ = []
        if self.draws is not None:
            draw_style = merge_style(
                "line", {"color": color, "linewidth": 0.7, "alpha": 0.6}, draw_kwargs
            )
            self.draw_lines_ = self.ax_.plot(self.x, self.draws, **draw_style)
            self.draw_lines_[0].set_label("Draws")
        (self.line_,) = self.ax_.plot(self.x, self.mean, **mean_style)
        self.scatter_ = None
        if self.y_observed is not None:
            scatter_style = merge_style(
                "collection",
                {
                    "color": OBSERVATION_COLOR,
                    "s": 12,
                    "linewidth": 0,
                    "zorder": 3,
                    "label": "Observations",
                },
                scatter_kwargs,
            )
            x_observed = self.x if self.x_observed is None else self.x_observed
            self.scatter_ = self.ax_.scatter(
                x_observed, self.y_observed, **scatter_style
            )

        self.ax_.set(xlabel=self.x_label, ylabel="Target")
        legend_above(self.ax_)
        return self

    def _plot_bands(self, color: Any, given: dict[str, Any] | None) -> list[Any]:
        draw = self.ax_.fill_between if self.joined else self.ax_.vlines
        levels = np.asarray(self.coverages, dtype=np.float64)
        alphas = np.interp(
            levels, [levels.min(), levels.max() + 1e-9], BAND_ALPHAS[::-1]
        )
        lower, upper = np.asarray(self.lower), np.asarray(self.upper)
        bands = {}
        # From back to front, so that each band keeps its own shade.
        for k in np.argsort(-levels):
            defaults = {
                "color": color,
                "alpha": alphas[k],
                "linewidth": 0 if self.joined else 2,
                "label": f"{100 * levels[k]:.3g}% interval",
            }
            style = merge_style("collection", defaults, given)
            bands[int(k)] = draw(self.x, lower[k], upper[k], **style)
        return [bands[k] for k in range(len(levels))]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike | None = None,
        *,
        feature: int | str | None = None,
        coverages: Sequence[float] = (0.5, 0.9),
        n_draws: int = 0,
        random_state: int | np.random.RandomState | None = 0,
        grid_resolution: int | None = 200,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> PredictiveBandDisplay:
        """
        Draw the predictions of a fitted regressor.

        Parameters
        ----------
        estimator : estimator instance
            Fitted regressor, or a Pipeline or search that holds one, with
            `predict_interval(X, coverage)`, or else with `predict(X, return_std=True)`,
            whose bands are then Gaussian.
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows to predict for.
        y : array-like of shape (n_samples,), default=None
            Their observed targets, drawn as points.
        feature : int or str, default=None
            Column to draw against: its position, or its name in a DataFrame. By
            default the only column, or for several columns the rank of the prediction.
            One column of several is drawn by a bar for each row, since neighbours in
            it differ in the others.
        coverages : sequence of float, default=(0.5, 0.9)
            Nominal coverages of the bands, in (0, 1).
        n_draws : int, default=0
            Number of draws of the function by `sample_y(X, n_samples, random_state)`.
        random_state : int, RandomState instance or None, default=0
            Seed of the draws.
        grid_resolution : int, default=200
            If X has one column, predict at this many points evenly spaced over its
            range, rather than at the rows themselves. None for the rows.
        name : str, default=None
            Name in the legend, by default that of the estimator's class.
        ax : matplotlib Axes, default=None
            Axes to draw on, by default new ones.
        **kwargs : dict
            Keywords for `plot`.

        Returns
        -------
        PredictiveBandDisplay
            The display, with the artists as attributes.

        Raises
        ------
        ValueError
            If there is no such feature, the target has several columns, or shapes
            differ.

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn.linear_model import BayesianRidge
        >>> from skfunc.plotting import PredictiveBandDisplay
        >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
        >>> model = BayesianRidge().fit(X, y)
        >>> by_rank = PredictiveBandDisplay.from_estimator(model, X, y)
        >>> by_rank.ax_.get_xlabel()
        'Rank of the prediction'
        >>> by_mass = PredictiveBandDisplay.from_estimator(model, X, y, feature="bmi")
        >>> by_mass.ax_.get_xlabel()
        'bmi'
        """
        table, columns = as_table(X)
        position = feature_position(feature, columns, table.shape[1])
        x_observed = None if position is None else feature_values(table, position)
        if y is not None:
            y = check_target(y)
            check_one_target(y.shape, cls.__name__)
            if len(y) != len(table):
                raise ValueError(
                    f"`y` must have one target for each of the {len(table)} rows of "
                    f"`X`; got {len(y)}."
                )

        points, x = table, x_observed
        if table.shape[1] == 1 and x is not None and grid_resolution is not None:
            x = np.linspace(x.min(), x.max(), grid_resolution)
            points = type(X)({X.columns[0]: x}) if columns else x[:, None]

        model, rows = final_estimator(estimator, points)
        require_method(model, "predict")
        mean = np.asarray(model.predict(rows))
        check_one_target(mean.shape, cls.__name__)
        lower, upper = central_intervals(model, rows, coverages)
        draws = None
        if n_draws:
            require_method(model, "sample_y")
            draws = model.sample_y(rows, n_samples=n_draws, random_state=random_state)
        label = RANK_LABEL
        if position is not None:
            label = feature_label(table, columns, position)
        return cls._sorted(
            x,
            mean,
            lower,
            upper,
            coverages,
            x_observed=x_observed,
            y=y,
            draws=draws,
            joined=position is None or table.shape[1] == 1,
            x_label=label,
            name=estimator_name(estimator, name),
        ).plot(ax, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike | None,
        mean: ArrayLike,
        std: ArrayLike,
        *,
        x: ArrayLike | None = None,
        coverages: Sequence[float] = (0.5, 0.9),
        joined: bool = True,
        x_label: str = "Feature",
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> PredictiveBandDisplay:
        """
        Draw Gaussian predictions.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,) or None
            Observed targets, drawn as points.
        mean : array-like of shape (n_samples,)
            Predicted means.
        std : array-like of shape (n_samples,)
            Predicted standard deviations of an observation, positive.
        x : array-like of shape (n_samples,), default=None
            Values to draw against, by default the rank of the prediction.
        coverages : sequence of float, default=(0.5, 0.9)
            Nominal coverages of the bands, in (0, 1).
        joined : bool, default=True
            Whether neighbouring points belong together: bands and mean are then drawn
            across them, else one bar and one point for each.
        x_label : str, default="Feature"
            Label of the horizontal axis, if `x` is given.
        name : str, default=None
            Name in the legend.
        ax : matplotlib Axes, default=None
            Axes to draw on, by default new ones.
        **kwargs : dict
            Keywords for `plot`.

        Returns
        -------
        PredictiveBandDisplay
            The display, with the artists as attributes.

        Examples
        --------
        >>> import numpy as np
        >>> from skfunc.plotting import PredictiveBandDisplay
        >>> x = np.linspace(0, 1, 5)
        >>> display = PredictiveBandDisplay.from_predictions(
        ...     None, mean=x**2, std=np.full(5, 0.1), x=x, coverages=[0.95]
        ... )
        >>> display.lower.shape
        (1, 5)
        """
        center = check_target(mean, "mean")
        check_one_target(center.shape, cls.__name__)
        deviations = check_std(std, center, of="mean")
        levels = np.array([check_fraction(level, "coverages") for level in coverages])
        half_widths = np.multiply.outer(ndtri(0.5 + levels / 2), deviations)
        abscissae = None if x is None else check_like_target(x, "x", center, of="mean")
        return cls._sorted(
            abscissae,
            center,
            center - half_widths,
            center + half_widths,
            coverages,
            x_observed=abscissae,
            y=None
            if y_true is None
            else check_like_target(y_true, "y_true", center, of="mean"),
            draws=None,
            joined=joined,
            x_label=RANK_LABEL if x is None else x_label,
            name=name,
        ).plot(ax, **kwargs)

    @classmethod
    def _sorted(
        cls,
        x: NDArray[Any] | None,
        mean: NDArray[Any],
        lower: NDArray[Any],
        upper: NDArray[Any],
        coverages: Sequence[float],
        *,
        x_observed: NDArray[Any] | None,
        y: NDArray[Any] | None,
        draws: NDArray[Any] | None,
        joined: bool,
        x_label: str,
        name: str | None,
    ) -> PredictiveBandDisplay:
        """Sort the points by `x`, or where it is None by the prediction."""
        order = np.argsort(mean if x is None else x, kind="stable")
        if x is None:
            ordered = np.arange(1, len(mean) + 1)
            x_observed = ordered
            y = None if y is None else y[order]
        else:
            ordered = x[order]
        return cls(
            ordered,
            mean[order],
            lower[:, order],
            upper[:, order],
            tuple(coverages),
            x_observed=x_observed,
            y_observed=y,
            draws=None if draws is None else draws[order],
            joined=joined,
            x_label=x_label,
            estimator_name=name,
        )
