"""The ODE-Net regressor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.metrics import r2_score
from torch import Tensor, nn

from skfunc._member_regressor import MemberRegressor
from skfunc._shapes import Float
from skfunc.ode._odenet import BaseODENet, document_odenet

# The paper's beta.
_VARIANCE_POWER = 0.5


def weigh_by_variance(nll: Tensor, log_var: Tensor) -> Tensor:
    """Weight Gaussian losses by a power of the predicted variance of each target.

    Seitzer et al. 2022, On the pitfalls of heteroscedastic uncertainty estimation with
    probabilistic neural networks (arXiv 2203.09168): the plain likelihood forgets rows
    that it once called noisy, and is unstable where noise is small.
    """
    return (nll * torch.exp(_VARIANCE_POWER * log_var.detach())).sum(-1)


@document_odenet
class ODENetRegressor(MemberRegressor, BaseODENet):
    """Regressor of continuous depth that predicts a distribution.

    Each of `n_members` networks maps a row to a state h(0), carries it along
    dh/dt = f(t, h) to t = 1, and reads off a mean and a standard deviation. X and y are
    standardized inside; several targets are predicted independently given the network.

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
    ODENetClassifier : The same for classes.
    sklearn.gaussian_process.GaussianProcessRegressor : The exact process; costs grow as
        the cube of the sample size.

    Notes
    -----
    The prediction is the mixture of the members' Gaussians [3]_. `predict` gives its
    mean and standard deviation, `predict_std_parts` the standard deviation between
    members (epistemic) and within them (aleatoric).

    References
    ----------
    {references}

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skfunc import ODENetRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = ODENetRegressor(random_state=0).fit(X[:400], y[:400])
    >>> mean, std = model.predict(X[400:], return_std=True)
    >>> mean.shape, std.shape
    ((42,), (42,))
    >>> model.predict_interval(X[400:], coverage=0.9).shape
    (42, 2)
    >>> model.score(X[400:], y[400:]) > 0.5
    True
    """

    def _row_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> Float[Tensor, "members rows"]:
        """Negative log density of a Gaussian, up to a constant."""
        return self._target_losses(module, batch)[0].sum(-1)

    def _training_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> Float[Tensor, "members rows"]:
        return weigh_by_variance(*self._target_losses(module, batch))

    def _target_losses(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        rows, targets = batch
        outputs, _ = module(rows, self._training_solver())
        return self._gaussian_losses(outputs, targets)

    def predict(
        self,
        X: ArrayLike,
        return_std: bool = False,
        return_cov: bool = False,
        *,
        rtol: float | None = None,
        n_steps: int | None = None,
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
        {predict_options}

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
            If `return_std` and `return_cov` are both asked for.
        ValueError
            If `rtol` and `n_steps` are both given.
        """
        return self._predict(X, return_std, return_cov, rtol=rtol, n_steps=n_steps)

    def _scores_at(
        self, X: ArrayLike, y: ArrayLike, **options: Any
    ) -> tuple[float, float]:
        predictive = self._predictive_of(X, **options)
        targets = np.asarray(y, dtype=np.float64)
        score = r2_score(targets, predictive.mean())
        log_prob = predictive.log_prob(targets.reshape(len(targets), -1)).mean()
        return float(score), float(log_prob)
