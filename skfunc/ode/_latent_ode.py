"""The estimator of latent ODEs: series observed at any times."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted

from skfunc._validation import check_integer
from skfunc.ode._latent_ode_documentation import document_series
from skfunc.ode._latent_ode_estimator import BaseLatentODE, _Runtime
from skfunc.ode._latent_ode_training import SeriesTraining, train_series
from skfunc.ode._panel import PaddedSeries, Panel, is_ragged
from skfunc.training import TrainingResult, resolve_device, thread_limits

Array = NDArray[np.float64]

# Series from which "auto" keeps some out: fewer would be too few to judge by.
_FEWEST_SERIES_TO_SPLIT = 40
# Series up to which a fit on the CPU is in double precision.
_FEW_SERIES = 64
# Share of the epochs over which the divergence's weight rises.
_DIVERGENCE_WARMUP = 0.2
# Observed values in a batch up to which a fit runs on one thread.
_SMALL_FIT = 200_000


@document_series
class LatentODE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseLatentODE):
    r"""Series observed at any times, as paths of a latent ODE.

    A series is a path of z' = f(z) from a random start, seen through a decoder and
    noise. A recurrent network reads what was observed, backwards in time, and says
    where the path may have started. So gaps are filled, series are continued with a
    band around them, compared by their latent codes, and drawn.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    to_panel : Ragged series out of a long table.
    CNFDensity : Density of rows that are no series.

    Notes
    -----
    Training maximizes, for each series with mask M,

    .. math:: E_q \Big[ \sum_{ic} M_{ic} \log N(x_{ic}; g_c(z(t_i)), s_c^2)
        + \sum_{ic} M_{ic} \log \lambda_c(t_i) - \sum_c \int \lambda_c(t)\, dt \Big]
        - \beta\, \mathrm{KL}(q(z_0) \,\|\, N(0, I)),

    the terms of the rates lambda with `poisson` alone [1]_. The state is solved on one
    even grid over the window, by classical Runge-Kutta, and read at each series' own
    times by cubic interpolation of the same order: the cost does not depend on how the
    times of different series interleave. Integrals of rates are by Simpson's rule.

    References
    ----------
    .. [1] R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, "Neural ordinary
           differential equations", 2018, arXiv:1806.07366, section 5.
    .. [2] Y. Rubanova, R. T. Q. Chen, D. Duvenaud, "Latent ODEs for irregularly-sampled
           time series", 2019, arXiv:1907.03907.

    Examples
    --------
    >>> import numpy as np
    >>> from skfunc import LatentODE
    >>> rng = np.random.default_rng(0)
    >>> times = np.linspace(0, 10, 20)
    >>> X = np.sin(times + rng.uniform(0, 6, size=(30, 1)))
    >>> X[rng.uniform(size=X.shape) < 0.3] = np.nan
    >>> model = LatentODE(times=times, max_iter=20, random_state=0).fit(X)
    >>> bool(np.isnan(model.impute(X)).any())
    False
    >>> mean, std = model.predict(X, times=[11.0, 12.0], return_std=True)
    >>> mean.shape, model.transform(X).shape
    ((30, 2), (30, 8))
    """

    def fit(self, X: Any, y: Any = None) -> LatentODE:
        """Fit the model to series.

        Parameters
        ----------
        {series}
        y : None
            Ignored.

        Returns
        -------
        self : LatentODE
            The fitted estimator.

        Raises
        ------
        ValueError
            If times decrease, or lie before the window, or nothing is observed.
        FloatingPointError
            If the loss stays non-finite through three restarts.

        Warns
        -----
        UserWarning
            If a channel has no observation: its predictions are NaN.
        """
        self._check_parameters()
        series = self._read(X, reset=True)
        self._learn_scales(series)
        if not self.channel_observed_.all():
            channels = np.flatnonzero(~self.channel_observed_).tolist()
            warnings.warn(
                f"X has no observation of channels {channels}: NaN is predicted there",
                UserWarning,
                stacklevel=2,
            )
        random_state = check_random_state(self.random_state)
        options = self._options(series, int(random_state.randint(2**31 - 1)))
        held_out = self._held_out(len(series), random_state)
        self.draw_seed_ = int(random_state.randint(2**31 - 1))
        self.n_steps_ = self._solver_steps(series)
        self._runtime = _Runtime()
        inner = self._inner(series)
        numbers = options.batch_size * inner.mask[0].size
        with thread_limits(small=numbers < _SMALL_FIT):
            result = train_series(
                self._stack(),
                int(self.latent_size),
                inner,
                self._windows(series),
                held_out,
                options,
                self._report,
            )
        self._keep(result)
        if result.interrupted:
            raise KeyboardInterrupt
        return self

    def _options(self, series: PaddedSeries, seed: int) -> SeriesTraining:
        device = resolve_device(self.device)
        exact = len(series) <= _FEW_SERIES and device.type == "cpu"
        return SeriesTraining(
            learning_rate=float(self.learning_rate_init),
            alpha=float(self.alpha),
            beta=float(self.beta),
            divergence_warmup=_DIVERGENCE_WARMUP,
            max_iter=self._epochs(series),
            batch_size=self._batch(len(series)),
            n_iter_no_change=int(self.n_iter_no_change),
            context_end=self._context_end(),
            most_hidden=float(self.observation_dropout),
            device=device,
            dtype=torch.float64 if exact else torch.float32,
            seed=seed,
        )

    def _held_out(
        self, n_series: int, random_state: np.random.RandomState
    ) -> NDArray[np.bool_]:
        held_out = np.zeros(n_series, dtype=bool)
        if self.early_stopping is False or n_series < 2:
            return held_out
        if self.early_stopping == "auto" and n_series < _FEWEST_SERIES_TO_SPLIT:
            return held_out
        n_held_out = max(1, round(float(self.validation_fraction) * n_series))
        chosen = random_state.permutation(n_series)[: min(n_held_out, n_series - 1)]
        held_out[chosen] = True
        return held_out

    def _report(self, result: TrainingResult) -> bool:
        if self.verbose:
            line = f"epoch {result.n_iter}: loss {result.losses[-1][0]:.5f}"
            if result.validation_losses:
                line += f", held out {result.validation_losses[-1][0]:.5f}"
            print(line)
        return False

    def _keep(self, result: TrainingResult) -> None:
        self.parameters_ = result.flat.detach().cpu().double().numpy()
        self.n_iter_ = max(1, result.n_iter)
        self.best_iter_ = int(result.best_epochs[0])
        self.loss_curve_ = [float(row[0]) for row in result.losses]
        judged = [-float(row[0]) for row in result.validation_losses]
        self.validation_scores_ = judged or None
        self.n_retries_ = int(result.n_retries[0])

    def transform(self, X: Any) -> Array:
        """Return latent codes: the posterior means of the initial states.

        Parameters
        ----------
        {series}

        Returns
        -------
        ndarray of shape (n_series, latent_size)
            One code for each series; zero, the prior's mean, where nothing is observed.
        """
        check_is_fitted(self)
        series = self._inner(self._read(X, reset=False))
        return self._answers().means(series, self._windows(series))

    def predict(
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
        mean : ndarray of shape (n_series, n_times[, n_channels])
            Without the last axis for one channel. For ragged X without `times`, a list
            of one array for each series.
        std : ndarray of the same shape, or list
            Only with `return_std`.

        Raises
        ------
        ValueError
            If a time is before the window's start.
        """
        mean, variance, lengths = self._moments(X, times)
        mean = self._shaped(mean * self.channel_scale_ + self.channel_mean_, lengths)
        if not return_std:
            return mean
        variance = variance + self._noise_std() ** 2
        return mean, self._shaped(np.sqrt(variance) * self.channel_scale_, lengths)

    def impute(self, X: Any) -> Any:
        """Fill what was not observed with predictions.

        Parameters
        ----------
        {series}

        Returns
        -------
        ndarray of X's shape, or Panel
            Observed values as they were.
        """
        predicted = self.predict(X)
        if not is_ragged(X):
            rows = np.array(X, dtype=np.float64)
            return np.where(np.isnan(rows), predicted.reshape(rows.shape), rows)
        panel = X if isinstance(X, Panel) else Panel(X)
        filled = [
            (t, np.where(np.isnan(x), p.reshape(x.shape), x))
            for t, x, p in zip(panel.times, panel.values, predicted, strict=True)
        ]
        return Panel(filled, panel.ids)

    def intensity(self, X: Any, times: ArrayLike | None = None) -> Any:
        """Return the rates at which the channels are observed.

        Parameters
        ----------
        {series}
        times : array-like of shape (n_times,), default=None
            When. None: the series' own times.

        Returns
        -------
        ndarray of shape (n_series, n_times[, n_channels]), or list
            Posterior means, in observations per unit of time.

        Raises
        ------
        ValueError
            Without `poisson=True`.
        """
        check_is_fitted(self)
        if self.event_rates_ is None:
            raise ValueError("intensity needs a model fitted with poisson=True")
        rate, _, lengths = self._moments(X, times, rates=True)
        return self._shaped(rate / np.diff(self.window_), lengths, every_channel=True)

    def sample_paths(
        self,
        X: Any,
        times: ArrayLike | None = None,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = 0,
    ) -> Any:
        """Draw paths that series may have followed, without noise.

        Parameters
        ----------
        {series}
        times : array-like of shape (n_times,), default=None
            When. None: the series' own times.
        n_samples : int, default=1
            How many paths of each series.
        random_state : int, RandomState or None, default=0
            Which.

        Returns
        -------
        ndarray of shape (n_series, n_times[, n_channels], n_samples), or list
            In units of X.
        """
        check_is_fitted(self)
        shape = (check_integer("n_samples", n_samples), int(self.latent_size))
        noise = torch.as_tensor(check_random_state(random_state).normal(size=shape))
        series, wanted, lengths = self._wanted(X, times)
        paths = np.concatenate(
            [
                chunk
                for _, chunk in self._answers().paths(
                    series, self._windows(series), wanted, noise
                )
            ],
            axis=1,
        )
        paths = paths * self.channel_scale_ + self.channel_mean_
        shaped = [self._shaped(path, lengths) for path in paths]
        if lengths is None:
            return np.stack(shaped, axis=-1)
        return [np.stack(series, axis=-1) for series in zip(*shaped, strict=True)]

    def sample(
        self,
        n_samples: int = 1,
        times: ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> Array:
        """Draw new series, with noise.

        Parameters
        ----------
        n_samples : int, default=1
            How many.
        times : array-like of shape (n_times,), default=None
            When they are observed. None: `times_`.
        random_state : int, RandomState or None, default=None
            Which.

        Returns
        -------
        ndarray of shape (n_samples, n_times[, n_channels])
            In units of X.
        """
        check_is_fitted(self)
        rng = check_random_state(random_state)
        shape = (1, check_integer("n_samples", n_samples), int(self.latent_size))
        starts = torch.as_tensor(rng.normal(size=shape))
        inner = self._checked_times(self.times_ if times is None else times)
        path = self._answers().at(starts, np.tile(inner, (shape[1], 1)))[0]
        path = path + self._noise_std() * rng.normal(size=path.shape)
        return self._shaped(path * self.channel_scale_ + self.channel_mean_, None)

    def score_samples(self, X: Any) -> Array:
        """Return a lower bound of the log likelihood of each series.

        Parameters
        ----------
        {series}

        Returns
        -------
        ndarray of shape (n_series,)
            Nats, for densities in units of X; importance-weighted with `n_draws` draws.
        """
        check_is_fitted(self)
        series = self._read(X, reset=False)
        return self._scores(series)

    def _scores(self, series: PaddedSeries) -> Array:
        inner = self._inner(series)
        bounds = self._answers().bounds(inner, self._windows(series))
        counts = series.mask.sum(axis=1)
        bounds = bounds - counts @ np.log(self.channel_scale_)
        if self.event_rates_ is not None:
            bounds = bounds - counts.sum(axis=1) * np.log(np.diff(self.window_)[0])
        return bounds

    def score(self, X: Any, y: Any = None) -> float:
        """Return the bound of the log likelihood per observed value.

        Parameters
        ----------
        {series}
        y : None
            Ignored.

        Returns
        -------
        float
            Nats per observation.
        """
        check_is_fitted(self)
        series = self._read(X, reset=False)
        return float(self._scores(series).sum() / max(1, series.mask.sum()))

    def _checked_times(self, times: ArrayLike) -> Array:
        """Return times in units of the window."""
        wanted = np.asarray(times, dtype=np.float64)
        if wanted.ndim != 1 or not len(wanted) or not np.isfinite(wanted).all():
            raise ValueError(
                f"times must be finite numbers, of shape (n_times,); got {times!r}"
            )
        if wanted.min() < self.window_[0]:
            raise ValueError(
                f"times must not be before the window's start {self.window_[0]:g}; "
                f"got {wanted.min():g}"
            )
        return self._inner_times(wanted)

    def _wanted(
        self, X: Any, times: ArrayLike | None
    ) -> tuple[PaddedSeries, Array, list[int] | None]:
        """Return series, times (rows, times) in the window's units, and lengths."""
        series = self._inner(self._read(X, reset=False))
        if times is None and is_ragged(X):
            panel = X if isinstance(X, Panel) else Panel(X)
            lengths = [len(own) for own in panel.times]
            wanted = np.zeros((len(panel), max(1, *lengths)))
            for row, own in zip(wanted, panel.times, strict=True):
                if len(own):
                    row[: len(own)] = self._checked_times(own)
            return series, wanted, lengths
        inner = self._checked_times(self.times_ if times is None else times)
        return series, np.tile(inner, (len(series), 1)), None

    def _moments(
        self, X: Any, times: ArrayLike | None, *, rates: bool = False
    ) -> tuple[Array, Array, list[int] | None]:
        """Return means and variances over draws, (rows, times, channels)."""
        check_is_fitted(self)
        series, wanted, lengths = self._wanted(X, times)
        mean = np.empty((*wanted.shape, self.n_channels_))
        variance = np.empty_like(mean)
        answers = self._answers()
        for rows, paths in answers.paths(
            series, self._windows(series), wanted, rates=rates
        ):
            mean[rows], variance[rows] = paths.mean(axis=0), paths.var(axis=0)
        return mean, variance, lengths

    def _shaped(
        self, values: Array, lengths: list[int] | None, every_channel: bool = False
    ) -> Any:
        """Return values as users see them: one channel has no axis, ragged a list."""
        if not every_channel:
            values = np.where(self.channel_observed_, values, np.nan)
        if self.n_channels_ == 1:
            values = values[..., 0]
        if lengths is None:
            return values
        return [row[:n] for row, n in zip(values, lengths, strict=True)]

    @property
    def _n_features_out(self) -> int:
        return int(self.latent_size)

    def __sklearn_tags__(self) -> Tags:
        """Return the tags: NaN is welcome, codes are float64."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64"]
        return tags
