"""The ODE-Net regressor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import optimize
from sklearn.callback import with_callbacks
from sklearn.metrics import r2_score
from sklearn.utils.validation import validate_data
from torch import Tensor, nn

from skfunc._members import weighted_moments
from skfunc._shapes import Float
from skfunc._validation import check_integer, check_shape, check_weights
from skfunc.base import FunctionRegressorMixin
from skfunc.ode._odenet import BaseODENet, document_odenet
from skfunc.predictive import GaussianMixture

# Log variances of standardized targets stay within this magnitude (std 3e-4 to 3e3).
_LARGEST_LOG_VARIANCE = 16.0
# Diverged outputs are held where their squares are finite.
_LARGEST_OUTPUT = 1e100
# The paper's beta.
_VARIANCE_POWER = 0.5
# Factors on the noise that the calibration may choose, as powers of e.
_LOG_NOISE_SCALES = (-1.5, 1.5)


def _log_variance(raw: Any) -> Any:
    tanh = torch.tanh if isinstance(raw, Tensor) else np.tanh
    return _LARGEST_LOG_VARIANCE * tanh(raw / _LARGEST_LOG_VARIANCE)


def _best_scale(
    squared: NDArray[np.float64],
    noise: NDArray[np.float64],
    spread: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> float:
    """Return the c whose variance c^2 noise + spread makes residuals most likely."""

    def loss(log_scale: float) -> float:
        variance = np.exp(2 * log_scale) * noise + spread
        return np.average(np.log(variance) + squared / variance, weights=weights)

    best = optimize.minimize_scalar(loss, bounds=_LOG_NOISE_SCALES, method="bounded")
    return float(np.exp(best.x))


@document_odenet
class ODENetRegressor(FunctionRegressorMixin, BaseODENet):
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

    @with_callbacks
    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> ODENetRegressor:
        """Train the members.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,), optional
            Weights of the rows; a weight of k means the same as k copies.

        Returns
        -------
        self : ODENetRegressor
            The fitted estimator.
        """
        rows, targets = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True
        )
        weights = check_weights(sample_weight, rows)
        self._check_parameters(rows.shape[1])
        counted = weights > 0
        rows, weights = rows[counted], weights[counted]
        targets = np.asarray(targets, dtype=np.float64)[counted]
        targets = targets.reshape(len(targets), -1)
        fixed: dict[str, Any] = {}
        fixed["X_mean_"], fixed["X_scale_"] = weighted_moments(rows, weights)
        fixed["y_mean_"], fixed["y_scale_"] = weighted_moments(targets, weights)
        fixed["n_targets_"] = targets.shape[1]
        fixed["noise_scale_"] = np.ones(targets.shape[1])
        # Open until the trained members are known.
        shape = (self.n_members, targets.shape[1])
        fixed["noise_range_"] = np.stack(
            [np.full(shape, -np.inf), np.full(shape, np.inf)]
        )
        rows = (rows - fixed["X_mean_"]) / fixed["X_scale_"]
        targets = (targets - fixed["y_mean_"]) / fixed["y_scale_"]
        self._fit_members(rows, targets, weights, 2 * targets.shape[1], fixed, (X, y))
        return self

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        own = ("n_targets_", "y_mean_", "y_scale_", "noise_scale_", "noise_range_")
        return (*super()._fitted_attributes(), *own)

    def _check_fitted_state(self) -> None:
        check_integer("n_targets_", self.n_targets_)
        super()._check_fitted_state()
        for name in ("y_mean_", "y_scale_", "noise_scale_"):
            check_shape(name, getattr(self, name), (self.n_targets_,))
        shape = (2, self.n_members, self.n_targets_)
        check_shape("noise_range_", self.noise_range_, shape)

    def _n_outputs(self) -> int:
        return 2 * self.n_targets_

    def _row_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> Float[Tensor, "members rows"]:
        """Negative log density of a Gaussian, up to a constant."""
        return self._target_losses(module, batch)[0].sum(-1)

    def _training_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> Float[Tensor, "members rows"]:
        """Weight the same by a power of the predicted variance of each target.

        Seitzer et al. 2022, On the pitfalls of heteroscedastic uncertainty estimation
        with probabilistic neural networks (arXiv 2203.09168): the plain likelihood
        forgets rows that it once called noisy, and is unstable where noise is small.
        """
        nll, log_variance = self._target_losses(module, batch)
        return (nll * torch.exp(_VARIANCE_POWER * log_variance.detach())).sum(-1)

    def _target_losses(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        rows, targets = batch
        outputs, _ = module(rows, self._training_solver())
        mean, raw = outputs.chunk(2, dim=-1)
        log_variance = _log_variance(raw)
        squared = (targets - mean) ** 2
        return 0.5 * (log_variance + squared * torch.exp(-log_variance)), log_variance

    def _finish_fit(self, outputs: NDArray[np.float64]) -> None:
        super()._finish_fit(outputs)
        raw = np.split(outputs, 2, axis=-1)[1]
        self.noise_range_ = np.stack([raw.min(axis=1), raw.max(axis=1)])

    def _calibrate(
        self,
        outputs: NDArray[np.float64],
        held_out: NDArray[np.float64],
        targets: NDArray[Any],
    ) -> dict[str, Any]:
        """Scale the noise by its likelihood on held-out rows.

        The variance of a held-out residual is that of the noise and of the spread of
        the members, so that the spread is not counted twice in the mixture.
        """
        mean, raw = np.split(outputs, 2, axis=-1)
        spread = mean.var(axis=0)
        members, rows = np.nonzero(held_out)
        weights = held_out[members, rows]
        squared = (targets[rows] - mean[members, rows]) ** 2
        noise = np.exp(_log_variance(raw[members, rows]))
        scales = [
            _best_scale(squared[:, j], noise[:, j], spread[rows, j], weights)
            for j in range(targets.shape[1])
        ]
        return {"noise_scale_": np.asarray(scales)}

    def _predictive(self, X: NDArray[np.float64], **options: Any) -> GaussianMixture:
        outputs = self._member_outputs(self._scaled(X), **options)
        outputs = np.clip(outputs, -_LARGEST_OUTPUT, _LARGEST_OUTPUT)
        mean, raw = np.split(outputs, 2, axis=-1)
        # Far from the training rows a network's noise may be anything: it stays within
        # what the same network predicts for them.
        raw = np.clip(raw, *self.noise_range_[:, :, None])
        noise = np.exp(0.5 * _log_variance(raw)) * self.noise_scale_
        return GaussianMixture(
            self.y_mean_ + self.y_scale_ * mean,
            self.y_scale_ * noise,
            squeeze=self.n_targets_ == 1,
        )

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
