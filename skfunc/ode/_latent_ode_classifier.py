"""The classifier of series by their latent paths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from skfunc._validation import (
    check_integer,
    check_option,
    check_real,
    check_shape,
    check_sizes,
)
from skfunc.base import FunctionClassifierMixin
from skfunc.ode._latent_ode_documentation import document_series
from skfunc.ode._latent_ode_rates import RateMethods
from skfunc.ode._latent_ode_summaries import (
    N_QUANTILES,
    PER_CHANNEL,
    normal_scores,
    summarize,
    summary_moments,
    summary_quantiles,
)
from skfunc.ode._latent_ode_training import Labels, SeriesTraining
from skfunc.ode._panel import PaddedSeries
from skfunc.predictive import Categorical

Array = NDArray[np.float64]

# Steps without progress after which training ends, and the fewest epochs of them.
_PATIENCE_STEPS, _FEWEST_PATIENT_EPOCHS = 200, 8
# A summary's score farther from its mean than so many deviations is moved there.
_FARTHEST = 5.0


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
    classifier_layer_sizes : int or sequence of int, default=(64,)
        Hidden widths of each head, a network that reads the class. () makes it affine.
    n_heads : int, default=8
        Heads, whose probabilities are averaged.
    classifier_dropout : float, default=0.5
        Share of the summaries, and of the heads' hidden units, that are left out in a
        step of training, at most 0.95.
    summaries : bool, default=True
        Whether the class is also read from summaries of each channel: whether and how
        often it was observed, its mean, least, largest, first and last value, their
        standard deviation and slope, when the last was, its mean and number of values
        in the last quarter of the window; each mapped to a normal distribution, and how
        far it is from the middle of that. So what is constant in a series, or missing,
        or unusual, tells as well.
    {parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    summary_quantiles_ : ndarray of shape (49, n_summaries)
        Quantiles by which summaries are mapped to a normal distribution.
    summary_mean_, summary_scale_ : ndarray of shape (2 * n_summaries,)
        What the mapped summaries, then their distances, are standardized by.
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

    with w the `label_weight` [2]_ and the mean of the second term over the heads; the
    bound is that of `LatentODE`. Held-out series are judged by their labels alone;
    there are at least 50 of them, or a fifth of all. Training ends after
    `n_iter_no_change` epochs without progress, or as many as make 200 steps if those
    are fewer, but not before eight. Probabilities average over heads and draws of z0,
    the same draws for all series; `return_std` gives their standard deviation over
    both.

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
        classifier_layer_sizes: Sequence[int] = (64,),
        n_heads: int = 8,
        classifier_dropout: float = 0.5,
        summaries: bool = True,
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
        noise: str = "ou",
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
            noise=noise,
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
        self.n_heads = n_heads
        self.classifier_dropout = classifier_dropout
        self.summaries = summaries

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_real("label_weight", self.label_weight, 0)
        check_sizes(
            "classifier_layer_sizes", self.classifier_layer_sizes, allow_empty=True
        )
        check_integer("n_heads", self.n_heads)
        check_real("classifier_dropout", self.classifier_dropout, 0, 0.95)
        check_option("summaries", self.summaries, (True, False))

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
        self.summary_quantiles_ = summary_quantiles(summaries)
        scores = normal_scores(summaries, self.summary_quantiles_)
        self.summary_mean_, self.summary_scale_ = summary_moments(scores)
        told = self._scaled(summaries)
        labels = Labels(positions, told, float(self.classifier_dropout))
        self._fit_series(series, check_random_state(self.random_state), labels)
        return self

    def _options(self, series: PaddedSeries, seed: int) -> SeriesTraining:
        options = super()._options(series, seed)
        per_epoch = math.ceil(len(series) / options.batch_size)
        most = max(_FEWEST_PATIENT_EPOCHS, math.ceil(_PATIENCE_STEPS / per_epoch))
        patience = min(options.n_iter_no_change, most)
        return replace(options, n_iter_no_change=patience)

    def _read_labelled(self, X: Any, y: ArrayLike) -> tuple[PaddedSeries, Any]:
        series = self._read(X, reset=True, y=y)
        labels = column_or_1d(y, warn=True)
        if len(labels) != len(series):
            raise ValueError(f"y has {len(labels)} labels for {len(series)} series")
        return series, labels

    def _summaries(self, series: PaddedSeries) -> Array:
        if not self.summaries:
            return np.zeros((len(series), 0))
        inner, window = self._inner(series), self._windows(series)
        return summarize(inner, window, self._context_end())

    def _scaled(self, summaries: Array) -> Array:
        """Return standardized normal scores of summaries, and their distances."""
        scores = normal_scores(summaries, self.summary_quantiles_)
        scaled = (scores - self.summary_mean_) / self.summary_scale_
        return np.clip(scaled, -_FARTHEST, _FARTHEST)

    def _n_summaries(self) -> int:
        return PER_CHANNEL * self.n_channels_ if self.summaries else 0

    def _classifier_sizes(self) -> dict[str, Any]:
        return {
            "n_classes": len(self.classes_),
            "n_summaries": 2 * self._n_summaries(),
            "classifier_layer_sizes": check_sizes(
                "classifier_layer_sizes", self.classifier_layer_sizes, allow_empty=True
            ),
            "n_heads": int(self.n_heads),
        }

    def _categorical_of(self, X: ArrayLike, **options: Any) -> Categorical:
        check_is_fitted(self)
        series = self._read(X, reset=False)
        told = self._scaled(self._summaries(series))
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
        own = ("classes_", "summary_quantiles_", "summary_mean_", "summary_scale_")
        return (*super()._fitted_attributes(), *own)

    def _check_fitted_state(self) -> None:
        classes = self.classes_
        if not isinstance(classes, np.ndarray) or classes.ndim != 1:
            raise ValueError("classes_ must be a vector")
        if self._of_events:
            raise ValueError("a classifier is not fitted to events alone")
        super()._check_fitted_state()
        n = self._n_summaries()
        check_shape("summary_quantiles_", self.summary_quantiles_, (N_QUANTILES, n))
        for name in ("summary_mean_", "summary_scale_"):
            check_shape(name, getattr(self, name), (2 * n,))
