"""The regressor of infinite width."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.callback import with_callbacks
from sklearn.utils.validation import check_is_fitted, validate_data

from skfunc._validation import check_integer, check_weights
from skfunc.base import FunctionRegressorMixin
from skfunc.infinite_width._documentation import document_infinite_width
from skfunc.infinite_width._estimator import BaseInfiniteWidth
from skfunc.infinite_width._rows import times_of
from skfunc.predictive import Gaussian

Array = NDArray[np.float64]


@document_infinite_width(kernel="nngp", selection="lml")
class InfiniteWidthRegressor(FunctionRegressorMixin, BaseInfiniteWidth):
    r"""Regressor that is a neural network of infinite width, in closed form.

    At infinite width a network is a Gaussian process, and training it is linear: the
    mean and the covariance of an ensemble of infinitely many trained networks have a
    closed form at every training time. X and y are standardized inside. Depth,
    activation, standard deviations of weights and biases, the relevance of every
    column and the ridge are chosen within the fit, in closed form or by the gradient
    of the log marginal likelihood.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}
    y_mean_, y_scale_ : ndarray of shape (n_targets,)
        The same of y.
    n_targets_ : int
        Columns of y.

    Raises
    ------
    ValueError
        By fit, on an unknown option, a network that does not fit the data, or a kernel
        that overflows.

    Warns
    -----
    scipy.linalg.LinAlgWarning
        If the kernel matrix is singular and the ridge had to be raised.

    See Also
    --------
    InfiniteWidthClassifier : The same for classes.
    NeuralKernel : The kernel for scikit-learn's own Gaussian processes.
    sklearn.gaussian_process.GaussianProcessRegressor : Gaussian processes with kernels
        of a fixed form.

    Notes
    -----
    With a kernel G, ridge :math:`\lambda`, rate :math:`\eta` and N entries of y, the
    mean at time t is :math:`G_{*x} (G + \lambda I)^{-1} (I - e^{-\eta (G + \lambda I)
    t / N}) y` [1]_. A given time means less progress with more targets, since the loss
    is a mean over all entries of y.

    The standard deviation is that of an observation: it adds the ridge's noise to the
    posterior of "nngp", and the mean square of residuals of rows left out to the
    ensemble of "ntk", in which there is no noise. A row of weight w stands for w
    copies, which is noise of variance :math:`\lambda / w`; equal rows are merged.

    References
    ----------
    {references}

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skfunc import InfiniteWidthRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = InfiniteWidthRegressor(random_state=0).fit(X[:400], y[:400])
    >>> mean, std = model.predict(X[400:], return_std=True)
    >>> mean.shape, std.shape
    ((42,), (42,))
    >>> model.score(X[400:], y[400:]) > 0.5
    True
    >>> model.predict(X[400:], training_time=[10, 1000, float("inf")]).shape
    (3, 42)
    """

    @with_callbacks
    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> InfiniteWidthRegressor:
        """Choose hyperparameters and condition the network on the data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,), optional
            Weights of the rows; a weight of k means the same as k copies, and any
            weight w the noise of an observation divided by w.

        Returns
        -------
        self : InfiniteWidthRegressor
            The fitted estimator.
        """
        rows, targets = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True
        )
        weights = check_weights(sample_weight, rows)
        self._check_parameters(rows.shape[1])
        context = self._init_callback_context()
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        targets = np.asarray(targets, dtype=np.float64).reshape(len(rows), -1)
        self.n_targets_ = targets.shape[1]
        self._fit_process(rows, targets, weights, scale_targets=True)
        context.call_on_fit_task_end(
            estimator=self, X=X, y=y, reconstruction_attributes=dict
        )
        return self

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        return (*super()._fitted_attributes(), "n_targets_")

    def _check_fitted_state(self) -> None:
        check_integer("n_targets_", self.n_targets_)
        super()._check_fitted_state()

    def _predictive(self, X: Array, **options: Any) -> Gaussian:
        time = options.get("training_time")
        times = [self.training_time_] if time is None else times_of(time)
        return self._path(X, times)[0]

    def _path(self, X: Array, times: list[float]) -> list[Gaussian]:
        """Return the predictive distribution at every time."""
        seen = self._seen(X)
        process = self._process()
        alphas = [
            self.alphas_ if time == self.training_time_ else process.alphas(time)
            for time in times
        ]
        means = self._means(seen, np.hstack(alphas))
        return [
            self._gaussian(seen, mean, time)
            for mean, time in zip(
                np.split(means, len(times), axis=1), times, strict=True
            )
        ]

    def _gaussian(self, X: Array, mean: Array, time: float) -> Gaussian:
        scale = self.amplitude_ * np.square(self.y_scale_)
        noise = self.noise_variance_
        if self.kernel == "ntk" and time != self.training_time_:
            noise = self._left_out_variance(self._process(), time)
        return Gaussian(
            self.y_mean_ + self.y_scale_ * mean,
            lambda: self._variances(X, time)[:, None] * scale,
            np.broadcast_to(np.square(self.y_scale_) * noise, mean.shape),
            lambda: self._covariance(X, time)[:, :, None] * scale,
            squeeze=self.n_targets_ == 1,
        )

    def predict(
        self,
        X: ArrayLike,
        return_std: bool = False,
        return_cov: bool = False,
        *,
        training_time: ArrayLike | None = None,
    ) -> Any:
        """Predict the mean, and how sure it is.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to predict for.
        return_std : bool, default=False
            Also return the standard deviation of an observation.
        return_cov : bool, default=False
            Also return the covariance of observations over rows; its diagonal is the
            squared standard deviation.
        training_time : float or list of float, default=None
            Predict as after this time of training instead of the fit's, inf for the
            end. A list gives all results a leading axis of times.

        Returns
        -------
        mean : ndarray of shape ([n_times,] n_samples[, n_targets])
            In units of y.
        std : ndarray of shape ([n_times,] n_samples[, n_targets])
            Only with `return_std`.
        cov : ndarray of shape ([n_times,] n_samples, n_samples[, n_targets])
            Only with `return_cov`.

        Raises
        ------
        RuntimeError
            If `return_std` and `return_cov` are both asked for.
        ValueError
            If a time is negative or no number.
        """
        if training_time is None or np.ndim(training_time) == 0:
            return self._predict(X, return_std, return_cov, training_time=training_time)
        if return_std and return_cov:
            raise RuntimeError("return_std and return_cov cannot both be asked for")
        path = self._path(self._check_rows(X), times_of(training_time))
        means = np.stack([predictive.mean() for predictive in path])
        if return_std:
            return means, np.stack([predictive.std() for predictive in path])
        if return_cov:
            return means, np.stack([predictive.cov() for predictive in path])
        return means

    def loo_predict(self, return_std: bool = False) -> Any:
        """Predict every training row from the others, without fitting again.

        Of a row that was given more than once, or with a weight above one, one copy is
        left out. At a finite training time it is an approximation, exact in the limits
        of no and of endless training. Hyperparameters stay as they are.

        Parameters
        ----------
        return_std : bool, default=False
            Also return the standard deviation of the observation left out.

        Returns
        -------
        mean : ndarray of shape (n_samples,) or (n_samples, n_targets)
            Predictions for the rows given to fit, in their order; for rows of weight
            zero NaN.
        std : ndarray of the same shape
            Only with `return_std`.
        """
        check_is_fitted(self)
        residuals, variances = self._process().leave_one_out(self.training_time_)
        mean = self.y_mean_ + self.y_scale_ * (self.y_train_ - residuals)
        if self.kernel == "nngp" and variances is not None:
            std = np.sqrt(self.amplitude_ * variances[:, None])
        else:
            std = np.broadcast_to(
                np.sqrt(self._left_out_variance(self._process(), self.training_time_)),
                mean.shape,
            )
        if not return_std:
            return self._in_given_order(mean)
        return self._in_given_order(mean), self._in_given_order(std * self.y_scale_)

    def _in_given_order(self, values: Array) -> Array:
        values = np.where(
            (self.row_index_ >= 0)[:, None], values[self.row_index_], math.nan
        )
        return values[:, 0] if self.n_targets_ == 1 else values

    @property
    def log_marginal_likelihood_(self) -> float:
        """Log density of y under the Gaussian process with the fitted kernel.

        In nats, for y in its own units, summed over targets; `amplitude_` and the
        ridge included. For an NTK it is the likelihood of a Gaussian process with that
        kernel, not of the ensemble.
        """
        process = self._process()
        total = float(self.sample_weight_.sum())
        alphas = self.alphas_
        if not math.isinf(self.training_time_):
            alphas = process.alphas(math.inf)
        quadratic = np.einsum("ij,ij->j", self.y_train_, alphas)
        value = -0.5 * float(
            (quadratic / self.amplitude_).sum()
            + self.n_targets_ * (process.log_determinant() + total * _LOG_2PI)
            + total * np.log(self.amplitude_).sum()
        )
        return value - total * float(np.log(self.y_scale_).sum())


_LOG_2PI = math.log(2 * math.pi)
