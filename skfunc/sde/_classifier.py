"""The SDE-BNN classifier."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from skfunc._member_classifier import MemberClassifier
from skfunc._shapes import Float
from skfunc.sde._sdebnn import BaseSDEBNN, document_sde_bnn


@document_sde_bnn
class SDEBNNClassifier(MemberClassifier, BaseSDEBNN):
    """Infinitely deep Bayesian network for classes.

    A row's state h follows dh/dt = f(t, h; w_t) from t = 0 to 1, as in an ODE-Net, but
    the weights w_t follow a stochastic process, the prior; fit learns the posterior
    process, by its evidence lower bound [1]_. X is standardized inside.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    temperature_ : float
        Divides the logits; fitted to rows that members never saw.
    label_noise_ : float
        Share of the class frequencies in the probabilities, fitted likewise: how often
        a label is none that the networks can foresee.
    class_prior_ : ndarray of shape (n_classes,)
        Smoothed weighted class frequencies.

    Raises
    ------
    FloatingPointError
        By fit, if the loss stays non-finite through three restarts, each from the best
        finite weights and with the learning rate halved.

    See Also
    --------
    SDEBNNRegressor : The same for numbers.
    ODENetClassifier : Its limit sigma = 0.

    Notes
    -----
    `predict_proba` averages the probabilities over `n_predict_paths` weight paths;
    `return_std` gives their standard deviation over the paths.

    References
    ----------
    {references}

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skfunc import SDEBNNClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> model = SDEBNNClassifier(random_state=0).fit(X[::2], y[::2])
    >>> proba, std = model.predict_proba(X[1::2], return_std=True)
    >>> proba.shape, std.shape
    ((89, 3), (89, 3))
    >>> model.score(X[1::2], y[1::2]) > 0.9
    True
    """

    def _path_losses(
        self, outputs: Float[Tensor, "functions rows outputs"], targets: Tensor
    ) -> Float[Tensor, "functions rows"]:
        return self._label_losses(outputs, targets)

    def sample_proba(
        self,
        X: ArrayLike,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = 0,
        *,
        prior: bool = False,
    ) -> NDArray[np.float64]:
        """Draw functions: class probabilities along single weight paths.

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
        ndarray of shape (n_samples_X, n_classes, n_samples)
            The rows of one draw belong to one function.
        """
        draws = self._draw_outputs(X, n_samples, random_state, prior)
        return np.moveaxis(self._probabilities(draws), 0, -1)
