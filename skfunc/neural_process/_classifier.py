"""The neural process classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.callback import with_callbacks
from sklearn.utils.multiclass import check_classification_targets

from skfunc._docstrings import fill_docstrings
from skfunc.base import FunctionClassifierMixin
from skfunc.neural_process._documentation import (
    ESTIMATOR_ATTRIBUTES,
    ESTIMATOR_PARAMETERS,
)
from skfunc.neural_process._estimator import BaseNeuralProcess
from skfunc.neural_process._label_functions import draw_probabilities
from skfunc.neural_process._refit import whole_or_unchanged
from skfunc.nn import KernelLabelProcess
from skfunc.training import thread_limits

Array = NDArray[np.float64]


@fill_docstrings(parameters=ESTIMATOR_PARAMETERS, attributes=ESTIMATOR_ATTRIBUTES)
class NeuralProcessClassifier(FunctionClassifierMixin, BaseNeuralProcess):
    """Classifier that conditions a learned distribution over functions on the data.

    As `NeuralProcessRegressor`, with probabilities of classes in the place of a
    Gaussian.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    {attributes}

    Raises
    ------
    FloatingPointError
        By fit, if the loss stays non-finite through three restarts.

    See Also
    --------
    NeuralProcessRegressor : The same for numbers.

    Notes
    -----
    The standard deviation of probabilities is that over draws: of the process that the
    tabular prior conditions, or of the latent of the variants "np" and "anp". With the
    other variants there is one function, and it is zero.

    References
    ----------
    .. [1] M. Garnelo, D. Rosenbaum, C. J. Maddison, T. Ramalho, D. Saxton,
           M. Shanahan, Y. W. Teh, D. J. Rezende, S. M. A. Eslami, "Conditional neural
           processes", 2018, arXiv:1807.01613.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skfunc.neural_process import NeuralProcessClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = NeuralProcessClassifier(random_state=0).fit(X[::2], y[::2])
    >>> model.predict_proba(X[1::2]).shape
    (75, 3)
    """

    _likelihoods = ("categorical",)
    _task = "classification"

    def _likelihood(self, values: Array) -> tuple[str, dict[str, Any]]:
        return "categorical", {}

    def _check_parameters(self, n_features: int) -> None:
        super()._check_parameters(n_features)
        if self.variant == "kernel":
            raise ValueError(
                "variant='kernel' predicts numbers, not classes; use another variant"
            )

    @with_callbacks
    def fit(self, X: ArrayLike, y: ArrayLike) -> NeuralProcessClassifier:
        """Learn the prior if it is the data set's own, and condition it on the data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows. With ``prior="tabular"``, NaN where a value is missing; a
            DataFrame may have columns of categories.
        y : array-like of shape (n_samples,)
            Class labels.

        Returns
        -------
        self : NeuralProcessClassifier
            The fitted estimator.
        """
        with whole_or_unchanged(self):
            rows, labels = self._checked(X, y, reset=True)
            check_classification_targets(labels)
            self._check_parameters(rows.shape[1])
            self.classes_ = np.unique(labels)
            if len(self.classes_) < 2:
                raise ValueError(
                    "Classifier can't train when only one class is present: "
                    f"{self.classes_[0]!r}"
                )
            context = self._init_callback_context()
            context.call_on_fit_task_begin(estimator=self, X=X, y=y)
            self._fit_context(rows, self._indicators(labels))
            context.call_on_fit_task_end(
                estimator=self, X=X, y=y, reconstruction_attributes=dict
            )
        return self

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None
    ) -> NeuralProcessClassifier:
        """Add rows to the context, without training; a first call is `fit`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Further rows.
        y : array-like of shape (n_samples,)
            Their labels, out of those seen in the first call.
        classes : array-like of shape (n_classes,), optional
            Not used: the first call must see all classes.

        Returns
        -------
        self : NeuralProcessClassifier
            The estimator.
        """
        if not hasattr(self, "prior_"):
            return self.fit(X, y)
        rows, labels = self._checked(X, y, reset=False)
        self._label_positions(labels, len(rows))
        self._extend_context(rows, self._indicators(labels))
        return self

    def _indicators(self, labels: NDArray[Any]) -> Array:
        return (labels[:, None] == self.classes_).astype(np.float64)

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        return (*super()._fitted_attributes(), "classes_")

    def _check_fitted_state(self) -> None:
        super()._check_fitted_state()
        if len(self.classes_) != self.prior_.n_targets:
            raise ValueError(
                f"there are {len(self.classes_)} classes and a prior of "
                f"{self.prior_.n_targets}"
            )

    def _class_probabilities(self, X: Array, **options: Any) -> Array:
        prior, network = self.prior_, self.prior_.network()
        scaled = self._standardized(prior, X)
        if not isinstance(network, KernelLabelProcess):
            return prior.likelihood_module().mean(self._raw(scaled)).numpy()
        state, normals = self._state(), torch.as_tensor(self.normals_)
        with torch.no_grad(), thread_limits(small=True):
            parts = [
                draw_probabilities(
                    network, state, torch.as_tensor(scaled[rows][None]), normals
                )
                for rows in self._chunks(len(scaled))
            ]
        return torch.cat(parts, dim=1).numpy()
