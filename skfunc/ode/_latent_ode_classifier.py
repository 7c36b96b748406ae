"""The classifier of series by their latent paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from skfunc._validation import check_option, check_real, check_shape, check_sizes
from skfunc.base import FunctionClassifierMixin
from skfunc.ode._latent_ode_documentation import document_series
from skfunc.ode._latent_ode_rates import RateMethods
from skfunc.ode._latent_ode_summaries import (
    PER_CHANNEL,
    scaled_summaries,
    summarize,
    summary_moments,
)
from skfunc.ode._latent_ode_training import Labels
from skfunc.ode._panel import PaddedSeries
from skfunc.predictive import Categorical

Array = NDArray[np.float64]


@document_series
class LatentODEClassifier(FunctionClassifierMixin, RateMethods):
    r"""Classifier of series observed at any times, by their latent paths.

    The encoder of a `LatentODE` says where a series' path may have started; the class
    is read from there, and from what sums the series up. Series and labels are learned
    together, so that gaps are filled and series continued by the same model.

    Parameters
    ----------
    label_weight : float, default=1.0
        Weight of the labels' cross-entropy, per series, beside the negative bound of
        the series, per observed value.
    classifier_layer_sizes : int or sequence of int, default=()
        Hidden widths of what reads the class. () makes it linear.
    summaries : bool, default=True
        Whether the class is also read from summaries of each channel: whether and how
        often it was observed, its mean, least, largest, first and last value, their
        standard deviation and slope, when the last was; and how far each of these is
        from its mean. So what is constant in a series, or missing, or unusual, tells
        as well.
    summary_dropout : float, default=0.5
        Share of the summaries that are left out in a step of training, at most 0.95.
    {parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    summary_mean_, summary_scale_ : ndarray of shape (n_summaries,)
        What summaries are standardized by.
    {attributes}

    See Also
    --------
    LatentODE : The same without labels.
    ODENetClassifier : Classifier of rows that are no series.

    Notes
    -----
    Training minimizes

    .. math:: -\frac{\mathrm{ELBO}}{\text{observed values}}
        - w \log E_q \big[ p(y \mid z_0, \text{summaries}) \big],

    with w the `label_weight` [2]_; the bound is that of `LatentODE`. Held-out series
    are judged by their labels alone. Probabilities average over draws of z0, the same
    draws for all series; `return_std` gives their standard deviation over the draws.

    Training draws latent states and gaps at random, so that a weight of a series would
    not be the same as copies of it: there is no `sample_weight`.

    References
    ----------
    .. [1] R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, "Neural ordinary
           differential equations", 2018, arXiv:1806.07366, section 5.
    .. [2] Y. Rubanova, R. T. Q. Chen, D. Duvenaud, "Latent ODEs for irregularly-sampled
           time series", 2019, arXiv:1907.03907.

    Examples
    --------
    >>> import numpy as np
    >>> from skfunc import LatentODEClassifier
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["slow", "quick"], 20)
    >>> speed = np.where(y == "quick", 2.0, 1.0)[:, None]
    >>> X = np.sin(speed * np.linspace(0, 6, 15) + rng.uniform(0, 6, size=(40, 1)))
    >>> X[rng.uniform(size=X.shape) < 0.2] = np.nan
    >>> model = LatentODEClassifier(random_state=0).fit(X, y)
    >>> model.score(X, y) > 0.9
    True
    >>> model.predict_proba(X).shape, model.impute(X).shape
    ((40, 2), (40, 15))
    """

    def __init__(
        self,
        *,
        label_weight: float = 1.0,
        classifier_layer_sizes: Sequence[int] = (),
        summaries: bool = True,
        summary_dropout: float = 0.5,
        times: ArrayLike | None = None,
        n_channels: int = 1,
        window: tuple[float, float] | None = None,
        context_end: float | None = None,
        poisson: bool = False,
        latent_size: int | Literal["auto"] = "auto",
        encoder: str = "gru",
        encoder_size: int = 32,
        hidden_layer_sizes: Sequence[int] = (64, 64),
        decoder_layer_sizes: Sequence[int] = (),
        activation: str = "silu",
        periods: ArrayLike | Literal["auto"] | None = "auto",
        n_steps: int | Literal["auto"] = "auto",
        n_draws: int = 32,
        observation_dropout: float = 0.5,
        beta: float = 1.0,
        alpha: float = 0.0,
        batch_size: int | Literal["auto"] = "auto",
        learning_rate_init: float = 2e-2,
        max_iter: int | Literal["auto"] = "auto",
        n_iter_no_change: int = 50,
        early_stopping: bool | Literal["auto"] = "auto",
        validation_fraction: float = 0.1,
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
    ) -> None:
        super().__init__(
            times=times,
            n_channels=n_channels,
            window=window,
            context_end=context_end,
            poisson=poisson,
            latent_size=latent_size,
            encoder=encoder,
            encoder_size=encoder_size,
            hidden_layer_sizes=hidden_layer_sizes,
            decoder_layer_sizes=decoder_layer_sizes,
            activation=activation,
            periods=periods,
            n_steps=n_steps,
            n_draws=n_draws,
            observation_dropout=observation_dropout,
            beta=beta,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate_init=learning_rate_init,
            max_iter=max_iter,
            n_iter_no_change=n_iter_no_change,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            verbose=verbose,
            random_state=random_state,
            device=device,
        )
        self.label_weight = label_weight
        self.classifier_layer_sizes = classifier_layer_sizes
        self.summaries = summaries
        self.summary_dropout = summary_dropout

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_real("label_weight", self.label_weight, 0)
        check_sizes(
            "classifier_layer_sizes", self.classifier_layer_sizes, allow_empty=True
        )
        check_option("summaries", self.summaries, (True, False))
        check_real("summary_dropout", self.summary_dropout, 0, 0.95)

    def fit(self, X: Any, y: ArrayLike) -> LatentODEClassifier:
        """Fit the model to series and their labels.

        Parameters
        ----------
        {series}
        y : array-like of shape (n_series,)
            Class labels.

        Returns
        -------
        self : LatentODEClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If there is one class only, times decrease, or lie before the window, or
            nothing is observed.
        FloatingPointError
            If the loss stays non-finite through three restarts.

        Warns
        -----
        UserWarning
            If a channel has no observation: its predictions are NaN.
        """
        self._check_parameters()
        series, given = self._read_labelled(X, y)
        check_classification_targets(given)
        classes, positions = np.unique(given, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"y has one class only ({classes[0]!r}); a classifier needs at least "
                "two classes"
            )
        self.classes_ = classes
        self._learn_scales(series)
        summaries = self._summaries(series)
        self.summary_mean_, self.summary_scale_ = summary_moments(summaries)
        told = self._scaled_summaries(summaries)
        labels = Labels(positions, told, float(self.summary_dropout))
        self._fit_series(series, check_random_state(self.random_state), labels)
        return self

    def _read_labelled(self, X: Any, y: ArrayLike) -> tuple[PaddedSeries, Any]:
        series = self._read(X, reset=True, y=y)
        labels = column_or_1d(y, warn=True)
        if len(labels) != len(series):
            raise ValueError(f"y has {len(labels)} labels for {len(series)} series")
        return series, labels

    def _summaries(self, series: PaddedSeries) -> Array:
        if not self.summaries:
            return np.zeros((len(series), 0))
        return summarize(self._inner(series), self._context_end())

    def _scaled_summaries(self, summaries: Array) -> Array:
        if not self.summaries:
            return summaries
        return scaled_summaries(summaries, self.summary_mean_, self.summary_scale_)

    def _n_summaries(self) -> int:
        return PER_CHANNEL * self.n_channels_ if self.summaries else 0

    def _classifier_sizes(self) -> dict[str, Any]:
        return {
            "n_classes": len(self.classes_),
            "n_summaries": 2 * self._n_summaries(),
            "classifier_layer_sizes": check_sizes(
                "classifier_layer_sizes", self.classifier_layer_sizes, allow_empty=True
            ),
        }

    def _categorical_of(self, X: ArrayLike, **options: Any) -> Categorical:
        check_is_fitted(self)
        series = self._read(X, reset=False)
        told = self._scaled_summaries(self._summaries(series))
        inner = self._inner(series)
        return Categorical(
            self._answers().class_probabilities(inner, self._windows(series), told)
        )

    def predict_series(
        self, X: Any, times: ArrayLike | None = None, return_std: bool = False
    ) -> Any:
        """Predict series at any times, between and after what was observed.

        Parameters
        ----------
        {series}
        times : array-like of shape (n_times,), default=None
            Not before the window's start. None: the series' own times.
        return_std : bool, default=False
            Also return the standard deviation of an observation.

        Returns
        -------
        mean : ndarray of shape (n_series, n_times[, n_channels]), or list
            As `LatentODE.predict`.
        std : ndarray of the same shape, or list
            Only with `return_std`.

        Raises
        ------
        ValueError
            If a time is before the window's start.
        """
        return self._predict_series(X, times, return_std)

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        own = ("classes_", "summary_mean_", "summary_scale_")
        return (*super()._fitted_attributes(), *own)

    def _check_fitted_state(self) -> None:
        classes = self.classes_
        if not isinstance(classes, np.ndarray) or classes.ndim != 1:
            raise ValueError("classes_ must be a vector")
        if self._of_events:
            raise ValueError("a classifier is not fitted to events alone")
        super()._check_fitted_state()
        for name in ("summary_mean_", "summary_scale_"):
            check_shape(name, getattr(self, name), (self._n_summaries(),))
