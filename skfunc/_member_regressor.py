"""Regressors whose members are networks: everything but the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import optimize
from sklearn.callback import with_callbacks
from sklearn.utils.validation import validate_data
from torch import Tensor

from skfunc._members import MemberNetworkEstimator
from skfunc._moments import weighted_moments
from skfunc._shapes import Float
from skfunc._validation import check_integer, check_shape, check_weights
from skfunc.base import FunctionRegressorMixin
from skfunc.predictive import GaussianMixture, Predictive

# Log variances of standardized targets stay within this magnitude (std 3e-4 to 3e3).
_LARGEST_LOG_VARIANCE = 16.0
# Diverged outputs are held where their squares are finite.
_LARGEST_OUTPUT = 1e100
# Factors on the noise that the calibration may choose, as powers of e.
_LOG_NOISE_SCALES = (-1.5, 1.5)


def log_variance(raw: Any) -> Any:
    """Return the log variance that a network's output stands for, held in bounds."""
    tanh = torch.tanh if isinstance(raw, Tensor) else np.tanh
    return _LARGEST_LOG_VARIANCE * tanh(raw / _LARGEST_LOG_VARIANCE)


# Takes squared residuals and variances, returns a loss up to a constant, of each row.
ResidualLoss = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def gaussian_residual_loss(
    squared: NDArray[np.float64], variance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return twice the negative log density of Gaussian residuals."""
    return np.log(variance) + squared / variance


def _best_scale(
    squared: NDArray[np.float64],
    noise: NDArray[np.float64],
    spread: NDArray[np.float64],
    weights: NDArray[np.float64],
    residual_loss: ResidualLoss,
) -> float:
    """Return the c whose variance c^2 noise + spread makes residuals most likely."""

    def loss(log_scale: float) -> float:
        variance = np.exp(2 * log_scale) * noise + spread
        return np.average(residual_loss(squared, variance), weights=weights)

    best = optimize.minimize_scalar(loss, bounds=_LOG_NOISE_SCALES, method="bounded")
    return float(np.exp(best.x))


class MemberRegressor(FunctionRegressorMixin, MemberNetworkEstimator):
    """Base of regressors whose members say one or several functions each.

    A member's functions follow each other in what `_network_outputs` returns, of shape
    (members * functions, rows, outputs): the targets' means, then what gives their log
    variances.
    """

    @with_callbacks
    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Self:
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
        self : object
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
        fixed["X_mean_"], fixed["X_scale_"] = self._input_moments(rows, weights)
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
        n_outputs = self._outputs_per_target() * targets.shape[1]
        self._fit_members(rows, targets, weights, n_outputs, fixed, (X, y))
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

    def _outputs_per_target(self) -> int:
        """Return 2: a mean and a log variance; what follows them is the subclass's."""
        return 2

    def _n_outputs(self) -> int:
        return self._outputs_per_target() * self.n_targets_

    def _moments(
        self, outputs: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return means, and what gives log variances."""
        mean, raw, *_ = np.split(outputs, self._outputs_per_target(), axis=-1)
        return mean, raw

    def _gaussian_losses(
        self,
        outputs: Float[Tensor, "functions rows outputs"],
        targets: Float[Tensor, "functions rows targets"],
    ) -> tuple[Tensor, Tensor]:
        """Return each target's negative log density up to a constant; log variances."""
        mean, raw = outputs.chunk(2, dim=-1)
        log_var = log_variance(raw)
        squared = (targets - mean) ** 2
        return 0.5 * (log_var + squared * torch.exp(-log_var)), log_var

    def _finish_fit(
        self,
        outputs: NDArray[np.float64],
        targets: NDArray[Any],
        weights: NDArray[np.float64],
    ) -> None:
        super()._finish_fit(outputs, targets, weights)
        _, raw = self._moments(self._by_member(outputs))
        self.noise_range_ = np.stack([raw.min(axis=(1, 2)), raw.max(axis=(1, 2))])

    def _by_member(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return outputs with an axis of members and one of their functions."""
        return outputs.reshape(self.n_members, -1, *outputs.shape[1:])

    def _calibrate(
        self,
        outputs: NDArray[np.float64],
        held_out: NDArray[np.float64],
        targets: NDArray[Any],
    ) -> dict[str, Any]:
        """Scale the noise by its likelihood on held-out rows.

        The variance of a held-out residual is that of the noise and of the spread of
        all functions, so that the spread is not counted twice in the mixture.
        """
        mean, raw = self._moments(self._by_member(outputs))
        spread = mean.var(axis=(0, 1))
        members, rows = np.nonzero(held_out)
        weights = held_out[members, rows]
        squared = (targets[rows] - mean.mean(axis=1)[members, rows]) ** 2
        noise = np.exp(log_variance(raw)).mean(axis=1)[members, rows]
        extra = self._by_member(outputs)[..., 2 * targets.shape[1] :].mean(axis=1)
        extra = extra[members, rows]
        scales = [
            _best_scale(
                squared[:, j],
                noise[:, j],
                spread[rows, j],
                weights,
                self._residual_loss(extra, j),
            )
            for j in range(targets.shape[1])
        ]
        return {"noise_scale_": np.asarray(scales)}

    def _residual_loss(self, extra: NDArray[np.float64], target: int) -> ResidualLoss:
        """Return the loss of a target's residuals, given what outputs say besides."""
        return gaussian_residual_loss

    def _predictive(self, X: NDArray[np.float64], **options: Any) -> Predictive:
        outputs = self._member_outputs(self._scaled(X), **options)
        means, noise = self._functions(outputs)
        return GaussianMixture(means, noise, squeeze=self.n_targets_ == 1)

    def _functions(
        self, outputs: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return means and deviations of the noise in units of y."""
        outputs = np.clip(outputs, -_LARGEST_OUTPUT, _LARGEST_OUTPUT)
        mean, raw = self._moments(outputs)
        # Far from the training rows a network's noise may be anything: it stays within
        # what the same network predicts for them.
        low, high = self.noise_range_[:, :, None, None]
        raw = np.clip(self._by_member(raw), low, high).reshape(raw.shape)
        noise = np.exp(0.5 * log_variance(raw)) * self.noise_scale_
        return self.y_mean_ + self.y_scale_ * mean, self.y_scale_ * noise
