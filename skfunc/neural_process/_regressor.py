"""The neural process regressor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.callback import with_callbacks

from skfunc._docstrings import fill_docstrings
from skfunc._validation import check_integer
from skfunc.base import FunctionRegressorMixin
from skfunc.neural_process._documentation import (
    ESTIMATOR_ATTRIBUTES,
    REGRESSOR_PARAMETERS,
)
from skfunc.neural_process._estimator import BaseNeuralProcess
from skfunc.neural_process._functions import (
    ClosedFormFunctions,
    LatentFunctions,
    RowByRowFunctions,
)
from skfunc.neural_process._likelihoods import CONTINUOUS
from skfunc.neural_process._marginals import LikelihoodMarginals
from skfunc.neural_process._parameters import (
    check_likelihood_parameters,
    likelihood_parameters,
)
from skfunc.neural_process._refit import whole_or_unchanged
from skfunc.nn import ContinuousLikelihood, KernelNeuralProcess
from skfunc.predictive import Functions, GaussianMixture, Predictive, SampledProcess

Array = NDArray[np.float64]


@fill_docstrings(parameters=REGRESSOR_PARAMETERS, attributes=ESTIMATOR_ATTRIBUTES)
class NeuralProcessRegressor(FunctionRegressorMixin, BaseNeuralProcess):
    """Regressor that conditions a learned distribution over functions on the data.

    The default prior, of functions of tables, comes with the package. With a `prior`
    that was learned from many tasks, fit stores and encodes the rows, without any
    training, and a prediction is one pass of a network. With
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
    Functions of a variant with a latent are draws of the latent; those of "kernel" are
    draws of one of its Gaussian processes, in closed form. The others are drawn row by
    row in a random order, each row a part of the context of the next [2]_, at a cost
    that grows with the square of the number of rows or faster; a smooth function is the
    prediction given such a draw.

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

    _likelihoods = CONTINUOUS
    _task = "regression"

    def __init__(
        self,
        prior: Any = "tabular",
        *,
        variant: str = "cnp",
        likelihood: str = "gaussian",
        n_components: int = 5,
        n_bins: int = 50,
        hidden_size: int = 128,
        n_layers: int = 3,
        n_heads: int = 4,
        latent_size: int | None = None,
        n_inducing: int = 32,
        min_std: float = 1e-2,
        objective: str = "auto",
        max_iter: int | str = "auto",
        batch_size: int = 8,
        learning_rate_init: float = 3e-3,
        alpha: float = 0.0,
        n_draws: int = 16,
        n_estimators: int = 1,
        finetune_steps: int = 0,
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        super().__init__(
            prior,
            variant=variant,
            hidden_size=hidden_size,
            n_layers=n_layers,
            n_heads=n_heads,
            latent_size=latent_size,
            n_inducing=n_inducing,
            min_std=min_std,
            objective=objective,
            max_iter=max_iter,
            batch_size=batch_size,
            learning_rate_init=learning_rate_init,
            alpha=alpha,
            n_draws=n_draws,
            n_estimators=n_estimators,
            finetune_steps=finetune_steps,
            verbose=verbose,
            random_state=random_state,
            device=device,
        )
        self.likelihood = likelihood
        self.n_components = n_components
        self.n_bins = n_bins

    @with_callbacks
    def fit(self, X: ArrayLike, y: ArrayLike) -> NeuralProcessRegressor:
        """Learn the prior if it is the data set's own, and condition it on the data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows. With ``prior="tabular"``, NaN where a value is missing; a
            DataFrame may have columns of categories.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.

        Returns
        -------
        self : NeuralProcessRegressor
            The fitted estimator.
        """
        with whole_or_unchanged(self):
            rows, targets = self._checked(
                X, y, reset=True, multi_output=True, y_numeric=True
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
        rows, targets = self._checked(
            X, y, reset=False, multi_output=True, y_numeric=True
        )
        targets = np.asarray(targets, dtype=np.float64).reshape(len(rows), -1)
        if targets.shape[1] != self.n_targets_:
            raise ValueError(
                f"y has {targets.shape[1]} targets; the fit had {self.n_targets_}"
            )
        self._extend_context(rows, targets)
        return self

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        return (*super()._fitted_attributes(), "n_targets_")

    def _check_fitted_state(self) -> None:
        check_integer("n_targets_", self.n_targets_)
        super()._check_fitted_state()

    def _check_parameters(self, n_features: int) -> None:
        super()._check_parameters(n_features)
        check_likelihood_parameters(self)

    def _likelihood(self, values: Array) -> tuple[str, dict[str, Any]]:
        return self.likelihood, likelihood_parameters(self, values)

    def _predictive(self, X: Array, **options: Any) -> Predictive:
        prior = self.prior_
        network, likelihood = prior.network(), prior.likelihood_module()
        assert isinstance(likelihood, ContinuousLikelihood)
        scaled = self._standardized(prior, X)
        marginals = LikelihoodMarginals(
            likelihood,
            self._raw(scaled),
            prior.moments("y_mean"),
            prior.moments("y_scale"),
            self.std_scale_,
        )
        squeeze = self.n_targets_ == 1
        if network.is_latent and prior.likelihood == "gaussian":
            means, stds = marginals.means(), marginals.stds()
            return GaussianMixture(means, stds, squeeze=squeeze)
        functions: Functions
        if network.is_latent:
            functions = LatentFunctions(marginals)
        elif isinstance(network, KernelNeuralProcess):
            functions = ClosedFormFunctions(network, self._state(), scaled, marginals)
        else:
            context = (self.X_context_, self.y_context_)
            functions = RowByRowFunctions(network, context, scaled, marginals)
        return SampledProcess(marginals, functions, squeeze=squeeze)
