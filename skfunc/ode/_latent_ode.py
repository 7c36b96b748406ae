"""The estimator of latent ODEs: series observed at any times."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skfunc._validation import check_integer
from skfunc.ode._latent_ode_documentation import document_series
from skfunc.ode._latent_ode_events import EventFit

Array = NDArray[np.float64]


@document_series
class LatentODE(EventFit):
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
    event_kinds_ : ndarray of shape (n_channels,) or None
        After `fit_events`, the kinds of events.
    held_out_score_ : float or None
        After `fit_events`, the log likelihood per event, in units of time, of events
        that members never saw, thinned to one in `n_folds`.
    clock_shares_ : ndarray of shape (2,) or None
        After `fit_events`, the shares in the rates of members by the even clock and by
        the clock of events; zero where there are none.
    clock_bandwidths_ : ndarray of shape (n_bandwidths,) or None
        After `fit_events`, of the clocks' kernels, in lengths of the window.
    clock_weights_ : ndarray of shape (n_members, n_bandwidths + 1) or None
        Of the even part and of each bandwidth in every member's clock.
    clock_events_ : list of ndarray or None
        Where the kernels of every member's clock are, in [0, 1].

    See Also
    --------
    LatentODEClassifier : Labels learned together with the series.
    to_panel : Ragged series out of a long table.
    CNFDensity : Density of rows that are no series.

    Notes
    -----
    Training maximizes, for each series with mask M,

    .. math:: E_q \Big[ \sum_{ic} M_{ic} \log N(x_{ic}; g_c(z(t_i)), s_c^2)
        + \sum_{ic} M_{ic} \log \lambda_c(t_i) - \sum_c \int \lambda_c(t)\, dt \Big]
        - \beta\, \mathrm{KL}(q(z_0) \,\|\, N(0, I)),

    the terms of the rates lambda with `poisson` alone [1]_. Predictions, draws and
    scores take part of that noise, of which s is the whole deviation, for an
    Ornstein-Uhlenbeck process; its share and its length are fitted to the residuals of
    the path, in pairs, and do not change the path. The state is solved on one
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
        self._forget_events()
        series = self._read(X, reset=True)
        self._fit_series(series, check_random_state(self.random_state))
        return self

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
        return self._predict_series(X, times, return_std)

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

        Raises
        ------
        ValueError
            After `fit_events`: `sample_events` draws those.
        """
        check_is_fitted(self)
        self._check_values()
        rng = check_random_state(random_state)
        shape = (1, check_integer("n_samples", n_samples), self._latent_size)
        starts = torch.as_tensor(rng.normal(size=shape))
        inner = self._checked_times(self.times_ if times is None else times)
        answers = self._answers()
        path = answers.at(starts, np.tile(inner, (shape[1], 1)))[0]
        path = path + answers.noise_draws(inner, rng.normal(size=(2, *path.shape)))
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
        return self._scores(X)[0]

    def _scores(self, X: Any) -> tuple[Array, int]:
        """Return the bounds, and how many values or events were observed in all."""
        check_is_fitted(self)
        if self._of_events:
            streams = self._event_streams(X)
            return self._event_scores(streams), int(streams.real.sum())
        series = self._read(X, reset=False)
        inner = self._inner(series)
        bounds = self._answers().bounds(inner, self._windows(series))
        counts = series.mask.sum(axis=1)
        bounds = bounds - counts @ np.log(self.channel_scale_)
        if self.event_rates_ is not None:
            bounds = bounds - counts.sum(axis=1) * np.log(np.diff(self.window_)[0])
        return bounds, int(counts.sum())

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
        bounds, count = self._scores(X)
        return float(bounds.sum() / max(1, count))
