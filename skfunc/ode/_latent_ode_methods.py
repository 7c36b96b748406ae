"""What fitted latent ODEs say of the values of series."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted

from skfunc._validation import check_integer
from skfunc.nn import ChannelNoise
from skfunc.ode._latent_ode_documentation import document_series
from skfunc.ode._latent_ode_fit import SeriesFit
from skfunc.ode._panel import PaddedSeries, Panel, is_ragged

Array = NDArray[np.float64]


@document_series
class SeriesMethods(ClassNamePrefixFeaturesOutMixin, TransformerMixin, SeriesFit):
    """Codes, gaps filled and paths of series."""

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
        if self._of_events:
            answers = self._event_answers()
            codes = answers.means(self._event_streams(X))
            return np.concatenate(list(codes), axis=1)
        series = self._inner(self._read(X, reset=False))
        return self._answers().means(series, self._windows(series))

    def _predict_series(self, X: Any, times: ArrayLike | None, return_std: bool) -> Any:
        mean, variance, lengths = self._moments(X, times)
        mean = self._shaped(mean * self.channel_scale_ + self.channel_mean_, lengths)
        if not return_std:
            return mean
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
        predicted = self._predict_series(X, None, False)
        if not is_ragged(X):
            rows = np.array(X, dtype=np.float64)
            return np.where(np.isnan(rows), predicted.reshape(rows.shape), rows)
        panel = X if isinstance(X, Panel) else Panel(X)
        filled = [
            (t, np.where(np.isnan(x), p.reshape(x.shape), x))
            for t, x, p in zip(panel.times, panel.values, predicted, strict=True)
        ]
        return Panel(filled, panel.ids, panel.windows)

    def sample_paths(
        self,
        X: Any,
        times: ArrayLike | None = None,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = 0,
    ) -> Any:
        """Draw paths that series may have followed, without white noise.

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
        shape = (check_integer("n_samples", n_samples), self._latent_size)
        rng = check_random_state(random_state)
        noise = torch.as_tensor(rng.normal(size=shape))
        seed = int(rng.randint(2**31 - 1))
        series, wanted, lengths = self._wanted(X, times)
        chunks = self._answers().observations(
            series, self._windows(series), wanted, noise, seed
        )
        paths = np.concatenate([chunk for _, chunk, _ in chunks], axis=1)
        paths = paths * self.channel_scale_ + self.channel_mean_
        shaped = [self._shaped(path, lengths) for path in paths]
        if lengths is None:
            return np.stack(shaped, axis=-1)
        return [np.stack(series, axis=-1) for series in zip(*shaped, strict=True)]

    @property
    def noise_std_(self) -> Array:
        """Deviation of each channel's noise, in units of X; (n_channels,)."""
        return self._noise()().numpy()[0] * self.channel_scale_

    @property
    def noise_share_(self) -> Array:
        """Share of each channel's noise variance that lasts; zero if none does."""
        noise = self._noise()
        if not noise.correlated:
            return np.zeros(self.n_channels_)
        return noise.share().numpy()[0]

    @property
    def noise_length_(self) -> Array:
        """Time after which the part that lasts has a correlation of 1/e."""
        noise = self._noise()
        if not noise.correlated:
            return np.zeros(self.n_channels_)
        return noise.length().numpy()[0] * np.diff(self.window_)[0]

    def _noise(self) -> ChannelNoise:
        check_is_fitted(self)
        self._check_values()
        return self._answers().network.noise.requires_grad_(False)

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
        self, X: Any, times: ArrayLike | None
    ) -> tuple[Array, Array, list[int] | None]:
        """Return means and variances of observations, (rows, times, channels)."""
        check_is_fitted(self)
        series, wanted, lengths = self._wanted(X, times)
        mean = np.empty((*wanted.shape, self.n_channels_))
        variance = np.empty_like(mean)
        answers = self._answers()
        windows = self._windows(series)
        for rows, means, around in answers.observations(series, windows, wanted):
            mean[rows] = means.mean(axis=0)
            variance[rows] = means.var(axis=0) + around
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
        return self._latent_size * len(self.parameters_)

    def __sklearn_tags__(self) -> Tags:
        """Return the tags: NaN is welcome, codes are float64."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64"]
        return tags
