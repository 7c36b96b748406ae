"""The SDE-BNN regressor."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from skfunc._member_regressor import MemberRegressor
from skfunc._shapes import Float
from skfunc.sde._sdebnn import BaseSDEBNN, document_sde_bnn

_HALF_LOG_2PI = 0.5 * float(np.log(2.0 * np.pi))


@document_sde_bnn
class SDEBNNRegressor(MemberRegressor, BaseSDEBNN):
    """Infinitely deep Bayesian network for numbers.

    A row's state h follows dh/dt = f(t, h; w_t) from t = 0 to 1, as in an ODE-Net, but
    the weights w_t follow a stochastic process, the prior; fit learns the posterior
    process, by its evidence lower bound [1]_. The mean and the deviation of an
    observation are read off h(1). X and y are standardized inside.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}
    noise_scale_ : ndarray of shape (n_targets,)
        Factor on the predicted noise, fitted to rows that members never saw.
    noise_range_ : ndarray of shape (2, n_members, n_targets)
        Smallest and largest noise (raw outputs) of each member on the training rows;
        predictions stay within.
    y_mean_, y_scale_ : ndarray of shape (n_targets,)
        Weighted moments that y is standardized by.
    n_targets_ : int
        Columns of y.

    Raises
    ------
    FloatingPointError
        By fit, if the loss stays non-finite through three restarts, each from the best
        finite weights and with the learning rate halved.

    See Also
    --------
    SDEBNNClassifier : The same for classes.
    ODENetRegressor : Its limit sigma = 0.

    Notes
    -----
    The prediction is a mixture of one Gaussian for each of `n_predict_paths` weight
    paths. `predict` gives its mean and standard deviation, `predict_std_parts` the
    standard deviation between the paths (epistemic) and within them (aleatoric).

    References
    ----------
    {references}

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skfunc import SDEBNNRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SDEBNNRegressor(random_state=0).fit(X[:400], y[:400])
    >>> mean, std = model.predict(X[400:], return_std=True)
    >>> mean.shape, std.shape
    ((42,), (42,))
    >>> model.sample_y(X[400:], n_samples=3).shape
    (42, 3)
    >>> model.score(X[400:], y[400:]) > 0.5
    True
    """

    def _path_losses(
        self, outputs: Float[Tensor, "functions rows outputs"], targets: Tensor
    ) -> Float[Tensor, "functions rows"]:
        losses = self._gaussian_losses(outputs, targets)[0]
        return (losses + _HALF_LOG_2PI).sum(-1)

    def _finish_fit(
        self,
        outputs: NDArray[np.float64],
        targets: NDArray[Any],
        weights: NDArray[np.float64],
    ) -> None:
        super()._finish_fit(outputs, targets, weights)
        # The density of y in its own units.
        total = weights.sum(axis=1).mean()
        self.elbo_ -= float(total * np.log(self.y_scale_).sum())

    def sample_y(
        self,
        X: ArrayLike,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = 0,
        *,
        prior: bool = False,
    ) -> NDArray[np.float64]:
        """Draw functions, without observation noise.

        Parameters
        ----------
        X : array-like of shape (n_samples_X, n_features)
            Rows to evaluate the functions at.
        n_samples : int, default=1
            How many functions; each is a new weight path.
        random_state : int, RandomState or None, default=0
            Which draws.
        prior : bool, default=False
            Whether to draw weight paths from the prior instead of the posterior.

        Returns
        -------
        ndarray of shape (n_samples_X, n_samples) or (n_samples_X, n_targets, n_samples)
            The rows of one draw belong to one function.
        """
        draws = self._draw_outputs(X, n_samples, random_state, prior)
        means = np.moveaxis(draws[..., : self.n_targets_], 0, -1)
        scaled = self.y_mean_[:, None] + self.y_scale_[:, None] * means
        return scaled[:, 0] if self.n_targets_ == 1 else scaled
