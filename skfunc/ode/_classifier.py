"""The ODE-Net classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor, nn

from skfunc._member_classifier import MemberClassifier
from skfunc._shapes import Float
from skfunc.ode._odenet import BaseODENet, document_odenet


@document_odenet
class ODENetClassifier(MemberClassifier, BaseODENet):
    """Classifier of continuous depth that says how sure it is.

    Each of `n_members` networks maps a row to a state h(0), carries it along
    dh/dt = f(t, h) to t = 1, and reads off the logits of the classes. X is standardized
    inside.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    temperature_ : float
        Divides the logits; fitted to rows that members never saw [4]_.
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
    ODENetRegressor : The same for numbers.
    sklearn.neural_network.MLPClassifier : One network of discrete layers.

    Notes
    -----
    `predict_proba` averages the members' probabilities [3]_; `return_std` gives their
    standard deviation over the members.

    References
    ----------
    {references}
    .. [4] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural
           networks", 2017, arXiv:1706.04599.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skfunc import ODENetClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> model = ODENetClassifier(random_state=0).fit(X[::2], y[::2])
    >>> proba, std = model.predict_proba(X[1::2], return_std=True)
    >>> proba.shape, std.shape
    ((89, 3), (89, 3))
    >>> model.score(X[1::2], y[1::2]) > 0.9
    True
    """

    def _row_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> Float[Tensor, "members rows"]:
        """Negative log likelihood of the classes."""
        rows, labels = batch
        logits, _ = module(rows, self._training_solver())
        return self._label_losses(logits, labels)

    def predict_proba(
        self,
        X: ArrayLike,
        return_std: bool = False,
        *,
        rtol: float | None = None,
        n_steps: int | None = None,
    ) -> Any:
        """Predict class probabilities, averaged over the members.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to predict for.
        return_std : bool, default=False
            Also return their standard deviation over the members (epistemic).
        {predict_options}

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        std : ndarray of shape (n_samples, n_classes)
            Only with `return_std`.

        Raises
        ------
        ValueError
            If `rtol` and `n_steps` are both given.
        """
        return self._predict_proba(X, return_std, rtol=rtol, n_steps=n_steps)

    def _scores_at(
        self, X: ArrayLike, y: ArrayLike, **options: Any
    ) -> tuple[float, float]:
        categorical = self._categorical_of(X, **options)
        mean = categorical.mean()
        positions = self._label_positions(y, len(mean))
        accuracy = np.mean(mean.argmax(axis=1) == positions)
        return float(accuracy), float(categorical.log_prob(positions).mean())
