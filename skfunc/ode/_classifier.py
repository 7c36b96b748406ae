"""The ODE-Net classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special
from sklearn.callback import with_callbacks
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data
from torch import Tensor, nn
from torch.nn import functional

from skfunc._members import weighted_moments
from skfunc._shapes import Float
from skfunc._validation import check_weights
from skfunc.base import FunctionClassifierMixin
from skfunc.ode._odenet import BaseODENet

# Temperatures that the calibration may choose, as powers of e.
_LOG_TEMPERATURES = (-1.5, 3.0)


class ODENetClassifier(FunctionClassifierMixin, BaseODENet):
    """ODE-Net."""

    @with_callbacks
    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> ODENetClassifier:
        """Train the members.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,)
            Class labels.
        sample_weight : array-like of shape (n_samples,), optional
            Weights of the rows; a weight of k means the same as k copies.

        Returns
        -------
        self : ODENetClassifier
            The fitted estimator.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        weights = check_weights(sample_weight, rows)
        self._check_parameters(rows.shape[1])
        counted = weights > 0
        rows, labels, weights = rows[counted], labels[counted], weights[counted]
        classes, positions = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"y has one class only ({classes[0]!r}) in the rows of positive "
                "weight; a classifier needs at least two classes"
            )
        fixed: dict[str, Any] = {"classes_": classes, "temperature_": 1.0}
        fixed["X_mean_"], fixed["X_scale_"] = weighted_moments(rows, weights)
        rows = (rows - fixed["X_mean_"]) / fixed["X_scale_"]
        self._fit_members(
            rows, positions, weights, len(classes), fixed, (X, y), labels=positions
        )
        return self

    def _n_outputs(self) -> int:
        return len(self.classes_)

    def _row_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> Float[Tensor, "members rows"]:
        """Negative log likelihood of the classes."""
        rows, targets = batch
        logits, _ = module(rows, self._training_solver())
        flat = functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="none"
        )
        return flat.unflatten(0, targets.shape)

    def _calibrate(
        self,
        outputs: NDArray[np.float64],
        held_out: NDArray[np.float64],
        targets: NDArray[Any],
    ) -> dict[str, Any]:
        """Fit the temperature to held-out labels (Guo et al. 2017, arXiv 1706.04599)."""
        members, rows = np.nonzero(held_out)
        weights = held_out[members, rows]
        logits, labels = outputs[members, rows], targets[rows]

        def loss(log_temperature: float) -> float:
            log_p = special.log_softmax(logits * np.exp(-log_temperature), axis=1)
            return -np.average(log_p[np.arange(len(labels)), labels], weights=weights)

        best = optimize.minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded")
        # Single members need more softening than their average does: averaging softens
        # already, so half of it is applied (chosen on the recorded sets).
        return {"temperature_": float(np.exp(0.5 * best.x))}

    def _class_probabilities(
        self, X: NDArray[np.float64], **options: Any
    ) -> NDArray[np.float64]:
        logits = self._member_outputs(self._scaled(X), **options)
        return special.softmax(logits / self.temperature_, axis=-1)

    def predict_proba(
        self,
        X: ArrayLike,
        return_std: bool = False,
        *,
        rtol: float | None = None,
        n_steps: int | None = None,
    ) -> Any:
        """Predict class probabilities."""
        return self._predict_proba(X, return_std, rtol=rtol, n_steps=n_steps)

    def _scores_at(
        self, X: ArrayLike, y: ArrayLike, **options: Any
    ) -> tuple[float, float]:
        categorical = self._categorical_of(X, **options)
        labels = np.asarray(y)
        chosen = self.classes_[categorical.mean().argmax(axis=1)]
        log_prob = categorical.log_prob(np.searchsorted(self.classes_, labels))
        return float(np.mean(chosen == labels)), float(log_prob.mean())
