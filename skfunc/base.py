"""Estimator bases: everything a user asks of a prediction, written once.

A regressor brings `_predictive(X)`, a classifier `_class_probabilities(X)`; the mixins
here turn them into the methods that every skfunc estimator has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    MultiOutputMixin,
    RegressorMixin,
)
from sklearn.callback import CallbackSupportMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import (
    check_array,
    check_is_fitted,
    validate_data,
)

from skfunc._sklearn import UnroutedOptionsMixin
from skfunc.predictive import Categorical, Predictive, coverage_levels


class FunctionEstimator(UnroutedOptionsMixin, CallbackSupportMixin, BaseEstimator):
    """Base of every skfunc estimator: input checks, callbacks, saving."""

    def _check_rows(self, X: ArrayLike) -> NDArray[np.float64]:
        """Check rows to predict for: fitted, right width, finite; return float64."""
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64)

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        """Return the names of the attributes that a saved file may set."""
        raise NotImplementedError

    def _check_fitted_state(self) -> None:
        """Raise ValueError if loaded attributes do not make a fitted estimator."""
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to one safetensors file, without pickle.

        Parameters
        ----------
        path : str or Path
            File to write.

        Raises
        ------
        ValueError
            If a parameter or attribute cannot be described in such a file (a class of
            yours given as a parameter, a RandomState); the error names it.
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.

        See Also
        --------
        skfunc.load : Read the file.
        """
        from skfunc.persistence import save

        save(self, path)


class FunctionRegressorMixin(MultiOutputMixin, RegressorMixin):
    """Methods of regressors that predict a distribution over functions.

    A subclass implements ``_predictive(X, **options)`` for checked rows and returns a
    value of `skfunc.predictive`.
    """

    def _predictive(self, X: NDArray[np.float64], **options: Any) -> Predictive:
        raise NotImplementedError

    def predict(
        self, X: ArrayLike, return_std: bool = False, return_cov: bool = False
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

        Returns
        -------
        mean : ndarray of shape (n_samples,) or (n_samples, n_targets)
            In units of y.
        std : ndarray of shape (n_samples,) or (n_samples, n_targets)
            Only with `return_std`.
        cov : ndarray of shape (n_samples, n_samples) or \
(n_samples, n_samples, n_targets)
            Only with `return_cov`.

        Raises
        ------
        RuntimeError
            If both are asked for.
        """
        return self._predict(X, return_std, return_cov)

    def _predict(
        self, X: ArrayLike, return_std: bool, return_cov: bool, **options: Any
    ) -> Any:
        if return_std and return_cov:
            raise RuntimeError("return_std and return_cov cannot both be asked for")
        predictive = self._predictive_of(X, **options)
        if return_std:
            return predictive.mean(), predictive.std()
        if return_cov:
            return predictive.mean(), predictive.cov()
        return predictive.mean()

    def _predictive_of(self, X: ArrayLike, **options: Any) -> Predictive:
        return self._predictive(self._check_rows(X), **options)

    def predict_std_parts(
        self, X: ArrayLike
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Split the predictive standard deviation in two.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to predict for.

        Returns
        -------
        epistemic : ndarray of shape (n_samples,) or (n_samples, n_targets)
            What more data would reduce: the spread of the functions.
        aleatoric : ndarray of the same shape
            The noise of an observation. The squares add up to the squared `std`.
        """
        return self._predictive_of(X).std_parts()

    def predict_quantiles(
        self, X: ArrayLike, alpha: ArrayLike = (0.05, 0.5, 0.95)
    ) -> NDArray[np.float64]:
        """Predict quantiles of an observation.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to predict for.
        alpha : float or array-like of shape (n_levels,), default=(0.05, 0.5, 0.95)
            Levels in (0, 1).

        Returns
        -------
        ndarray of shape (n_samples, n_levels) or (n_samples, n_levels, n_targets)
            Quantiles in units of y.

        Raises
        ------
        ValueError
            If a level is outside (0, 1).
        """
        return self._predictive_of(X).quantiles(alpha)

    def predict_interval(
        self, X: ArrayLike, coverage: float = 0.9
    ) -> NDArray[np.float64]:
        """Predict a central interval that an observation falls into.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to predict for.
        coverage : float, default=0.9
            Probability of the interval, in (0, 1).

        Returns
        -------
        ndarray of shape (n_samples, 2) or (n_samples, 2, n_targets)
            Lower and upper ends in units of y.

        Raises
        ------
        ValueError
            If the coverage is outside (0, 1).
        """
        return self._predictive_of(X).quantiles(coverage_levels(coverage))

    def log_prob(self, X: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Return the log predictive density of observed targets.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Their targets.

        Returns
        -------
        ndarray of shape (n_samples,)
            Nats, for y in its own units; summed over targets.
        """
        predictive = self._predictive_of(X)
        targets = check_array(y, ensure_2d=False, dtype=np.float64)
        targets = targets.reshape(len(targets), -1)
        expected = self._target_shape(predictive)
        if targets.shape != expected:
            raise ValueError(f"y has shape {targets.shape}; expected {expected}")
        return predictive.log_prob(targets)

    def _target_shape(self, predictive: Predictive) -> tuple[int, ...]:
        """Return (rows, targets)."""
        mean = np.asarray(predictive.mean())
        return mean.reshape(len(mean), -1).shape

    def sample_y(
        self,
        X: ArrayLike,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = 0,
    ) -> NDArray[np.float64]:
        """Draw functions, without observation noise.

        Parameters
        ----------
        X : array-like of shape (n_samples_X, n_features)
            Rows to evaluate the functions at.
        n_samples : int, default=1
            How many functions.
        random_state : int, RandomState or None, default=0
            Which draws.

        Returns
        -------
        ndarray of shape (n_samples_X, n_samples) or (n_samples_X, n_targets, n_samples)
            The rows of one draw belong to one function.
        """
        generator = check_random_state(random_state)
        return self._predictive_of(X).sample_functions(n_samples, generator)

    def sample(
        self,
        X: ArrayLike,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = None,
    ) -> NDArray[np.float64]:
        """Draw observations: functions with noise.

        Parameters
        ----------
        X : array-like of shape (n_samples_X, n_features)
            Rows to draw for.
        n_samples : int, default=1
            How many draws.
        random_state : int, RandomState or None, default=None
            Which draws.

        Returns
        -------
        ndarray of shape (n_samples_X, n_samples) or (n_samples_X, n_targets, n_samples)
            Observations in units of y.
        """
        generator = check_random_state(random_state)
        return self._predictive_of(X).sample_observations(n_samples, generator)


class FunctionClassifierMixin(ClassifierMixin):
    """Methods of classifiers that predict a distribution over functions.

    A subclass implements ``_class_probabilities(X, **options)`` for checked rows and
    returns an array of shape (S, n_samples, n_classes).
    """

    classes_: NDArray[Any]

    def _class_probabilities(
        self, X: NDArray[np.float64], **options: Any
    ) -> NDArray[np.float64]:
        raise NotImplementedError

    def _categorical_of(self, X: ArrayLike, **options: Any) -> Categorical:
        rows = self._check_rows(X)
        return Categorical(self._class_probabilities(rows, **options))

    def predict_proba(self, X: ArrayLike, return_std: bool = False) -> Any:
        """Predict class probabilities, averaged over the functions.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to predict for.
        return_std : bool, default=False
            Also return their standard deviation over the functions (epistemic).

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        std : ndarray of shape (n_samples, n_classes)
            Only with `return_std`.
        """
        return self._predict_proba(X, return_std)

    def _predict_proba(self, X: ArrayLike, return_std: bool, **options: Any) -> Any:
        categorical = self._categorical_of(X, **options)
        if return_std:
            return categorical.mean(), categorical.std()
        return categorical.mean()

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict the most probable class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to predict for.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels out of `classes_`.
        """
        positions = self._categorical_of(X).mean().argmax(axis=1)
        return self.classes_[positions]

    def predict_log_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the logarithm of `predict_proba`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to predict for.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Log probabilities.
        """
        probabilities = self._categorical_of(X).mean()
        return np.log(np.clip(probabilities, np.finfo(float).tiny, None))

    def log_prob(self, X: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Return the log predictive probability of observed labels.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,)
            Their labels.

        Returns
        -------
        ndarray of shape (n_samples,)
            Nats.

        Raises
        ------
        ValueError
            If a label was not seen in fit.
        """
        categorical = self._categorical_of(X)
        return categorical.log_prob(self._label_positions(y, len(categorical.mean())))

    def _label_positions(self, y: ArrayLike, n_rows: int) -> NDArray[np.intp]:
        """Return the position in `classes_` of each row's label."""
        labels = column_or_1d(y)
        if len(labels) != n_rows:
            raise ValueError(f"y has {len(labels)} labels for {n_rows} rows of X")
        known = np.isin(labels, self.classes_)
        if not known.all():
            raise ValueError(
                f"y holds {labels[~known][0]!r}, which is none of the classes seen in "
                f"fit: {self.classes_.tolist()}"
            )
        return np.searchsorted(self.classes_, labels)

    def sample_proba(
        self,
        X: ArrayLike,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = 0,
    ) -> NDArray[np.float64]:
        """Draw functions: class probabilities of single members of the posterior.

        Parameters
        ----------
        X : array-like of shape (n_samples_X, n_features)
            Rows to evaluate the functions at.
        n_samples : int, default=1
            How many functions.
        random_state : int, RandomState or None, default=0
            Which draws.

        Returns
        -------
        ndarray of shape (n_samples_X, n_classes, n_samples)
            The rows of one draw belong to one function.
        """
        generator = check_random_state(random_state)
        return self._categorical_of(X).sample_functions(n_samples, generator)

    def sample(
        self,
        X: ArrayLike,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = None,
    ) -> NDArray[Any]:
        """Draw labels.

        Parameters
        ----------
        X : array-like of shape (n_samples_X, n_features)
            Rows to draw for.
        n_samples : int, default=1
            How many draws.
        random_state : int, RandomState or None, default=None
            Which draws.

        Returns
        -------
        ndarray of shape (n_samples_X, n_samples)
            Labels out of `classes_`.
        """
        generator = check_random_state(random_state)
        positions = self._categorical_of(X).sample_labels(n_samples, generator)
        return self.classes_[positions]
