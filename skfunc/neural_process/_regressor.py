"""The neural process regressor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.callback import with_callbacks
from sklearn.utils.validation import validate_data

from skfunc._docstrings import fill_docstrings
from skfunc._validation import check_integer
from skfunc.base import FunctionRegressorMixin
from skfunc.neural_process._documentation import (
    ESTIMATOR_ATTRIBUTES,
    ESTIMATOR_PARAMETERS,
)
from skfunc.neural_process._estimator import BaseNeuralProcess, context_tensors, seeded
from skfunc.nn import GaussianLikelihood, autoregressive_sample
from skfunc.predictive import GaussianMixture, Predictive, SampledGaussian

Array = NDArray[np.float64]


@fill_docstrings(parameters=ESTIMATOR_PARAMETERS, attributes=ESTIMATOR_ATTRIBUTES)
class NeuralProcessRegressor(FunctionRegressorMixin, BaseNeuralProcess):
    """Regressor that conditions a learned distribution over functions on the data.

    With a `prior` that was learned from many tasks, fit stores and encodes the rows,
    without any training, and a prediction is one pass of a network. With
    ``prior="self"`` the prior is learned from random contexts and targets of the one
    data set, as Garnelo et al. [1]_ do.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}
    n_targets_ : int
        Columns of y.

    Raises
    ------
    FloatingPointError
        By fit, if the loss stays non-finite through three restarts.

    See Also
    --------
    NeuralProcessMetaLearner : Learns a prior from many tasks.
    NeuralProcessClassifier : The same for classes.

    Notes
    -----
    There is no `sample_weight`: training draws rows at random at every size.
    Functions of a variant with a latent are draws of the latent. The others are drawn
    row by row, each row a part of the context of the next [2]_, at a cost that grows
    with the square of the number of rows or faster; a smooth function is the prediction
    given such a draw.

    References
    ----------
    .. [1] M. Garnelo, J. Schwarz, D. Rosenbaum, F. Viola, D. J. Rezende,
           S. M. A. Eslami, Y. W. Teh, "Neural processes", 2018, arXiv:1807.01622.
    .. [2] W. P. Bruinsma, S. Markou, J. Requeima, A. Y. K. Foong, T. R. Andersson,
           A. Vaughan, A. Buonomo, J. S. Hosking, R. E. Turner, "Autoregressive
           conditional neural processes", 2023, arXiv:2303.14468.

    Examples
    --------
    >>> import numpy as np
    >>> from skfunc.neural_process import NeuralProcessRegressor
    >>> X = np.linspace(-2, 2, 60)[:, None]
    >>> y = np.sin(3 * X[:, 0])
    >>> model = NeuralProcessRegressor(random_state=0).fit(X, y)
    >>> mean, std = model.predict([[0.1], [0.5]], return_std=True)
    >>> mean.shape, std.shape
    ((2,), (2,))
    """

    @with_callbacks
    def fit(self, X: ArrayLike, y: ArrayLike) -> NeuralProcessRegressor:
        """Learn the prior if it is the data set's own, and condition it on the data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.

        Returns
        -------
        self : NeuralProcessRegressor
            The fitted estimator.
        """
        rows, targets = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True
        )
        self._check_parameters(rows.shape[1])
        context = self._init_callback_context()
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        targets = np.asarray(targets, dtype=np.float64).reshape(len(rows), -1)
        self.n_targets_ = targets.shape[1]
        self._fit_context(rows, targets)
        context.call_on_fit_task_end(
            estimator=self, X=X, y=y, reconstruction_attributes=dict
        )
        return self

    def partial_fit(self, X: ArrayLike, y: ArrayLike) -> NeuralProcessRegressor:
        """Add rows to the context, without training; a first call is `fit`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Further rows.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Their targets.

        Returns
        -------
        self : NeuralProcessRegressor
            The estimator.
        """
        if not hasattr(self, "prior_"):
            return self.fit(X, y)
        rows, targets = validate_data(
            self,
            X,
            y,
            dtype=np.float64,
            multi_output=True,
            y_numeric=True,
            reset=False,
        )
        targets = np.asarray(targets, dtype=np.float64).reshape(len(rows), -1)
        if targets.shape[1] != self.n_targets_:
            raise ValueError(
                f"y has {targets.shape[1]} targets; the fit had {self.n_targets_}"
            )
        more_x, more_y = self._standardized(rows, targets)
        self.X_context_ = np.concatenate([self.X_context_, more_x])
        self.y_context_ = np.concatenate([self.y_context_, more_y])
        self._runtime.state = None
        return self

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        return (*super()._fitted_attributes(), "n_targets_")

    def _check_fitted_state(self) -> None:
        check_integer("n_targets_", self.n_targets_)
        super()._check_fitted_state()

    def _predictive(self, X: Array, **options: Any) -> Predictive:
        prior = self.prior_
        likelihood = prior.likelihood_module()
        assert isinstance(likelihood, GaussianLikelihood)
        scaled = (X - prior.moments("x_mean")) / prior.moments("x_scale")
        raw = self._raw(scaled)
        mean, std = (part.numpy() for part in likelihood.parameters_of(raw))
        mean, std = self._unscaled(mean), std * prior.moments("y_scale")
        std = std * self.std_scale_
        squeeze = self.n_targets_ == 1
        if prior.network().is_latent:
            return GaussianMixture(mean, std, squeeze=squeeze)
        return SampledGaussian(
            mean[0],
            std[0],
            lambda n, random_state: self._functions(scaled, n, random_state),
            squeeze=squeeze,
        )

    def _unscaled(self, values: Array) -> Array:
        prior = self.prior_
        return prior.moments("y_mean") + prior.moments("y_scale") * values

    def _functions(
        self, X: Array, n_samples: int, random_state: np.random.RandomState
    ) -> Array:
        """Draw functions row by row, (n, k, n_samples)."""
        network, likelihood = self.prior_.network(), self.prior_.likelihood_module()
        x, y, mask = context_tensors(self.X_context_, self.y_context_)
        target = torch.as_tensor(X[None])
        with torch.no_grad():
            seen = autoregressive_sample(
                network,
                likelihood,
                x,
                y,
                mask,
                target,
                n_samples=n_samples,
                generator=seeded(random_state),
            )[:, 0]
            # The prediction given a draw is the function without its noise.
            state = network.encode(
                torch.cat([x, target], dim=1).expand(n_samples, -1, -1),
                torch.cat([y.expand(n_samples, -1, -1), seen], dim=1),
                torch.ones(n_samples, x.shape[1] + len(X), dtype=torch.bool),
            )
            raw = network.decode(state, target.expand(n_samples, -1, -1))
            means = likelihood.mean(raw).numpy()
        return np.moveaxis(self._unscaled(means), 0, -1)
