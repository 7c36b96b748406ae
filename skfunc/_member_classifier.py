"""Classifiers whose members are networks: everything but the network."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special
from sklearn.callback import with_callbacks
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data
from torch import Tensor
from torch.nn import functional

from skfunc._members import MemberNetworkEstimator
from skfunc._shapes import Float
from skfunc._validation import check_real, check_shape, check_weights
from skfunc.base import FunctionClassifierMixin

# Gaussian prior of the calibration: log temperature, log odds of label noise.
_CALIBRATION_MEAN = np.array([0.0, -3.0])
_CALIBRATION_STD = np.array([0.5, 3.0])


class MemberClassifier(FunctionClassifierMixin, MemberNetworkEstimator):
    """Base of classifiers whose members say one or several functions each.

    A member's functions follow each other in what `_network_outputs` returns, of shape
    (members * functions, rows, classes): logits.
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
        y : array-like of shape (n_samples,)
            Class labels.
        sample_weight : array-like of shape (n_samples,), optional
            Weights of the rows; a weight of k means the same as k copies.

        Returns
        -------
        self : object
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
        if self.warm_start and hasattr(self, "classes_"):
            if not np.array_equal(classes, self.classes_):
                raise ValueError(
                    "warm_start=True needs the classes of the previous fit, "
                    f"{self.classes_.tolist()}; y has {classes.tolist()}"
                )
        fixed: dict[str, Any] = {
            "classes_": classes,
            "temperature_": 1.0,
            "label_noise_": 0.0,
            # One more of each class than was seen, as in Laplace's rule of succession.
            "class_prior_": (np.bincount(positions, weights) + 1.0)
            / (weights.sum() + len(classes)),
        }
        fixed["X_mean_"], fixed["X_scale_"] = self._input_moments(rows, weights)
        rows = (rows - fixed["X_mean_"]) / fixed["X_scale_"]
        self._fit_members(
            rows, positions, weights, len(classes), fixed, (X, y), labels=positions
        )
        return self

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        own = ("classes_", "temperature_", "label_noise_", "class_prior_")
        return (*super()._fitted_attributes(), *own)

    def _check_fitted_state(self) -> None:
        classes = self.classes_
        if not isinstance(classes, np.ndarray) or classes.ndim != 1:
            raise ValueError("classes_ must be a vector")
        super()._check_fitted_state()
        check_real("temperature_", self.temperature_, 0, inclusive=False)
        check_real("label_noise_", self.label_noise_, 0, 1)
        check_shape("class_prior_", self.class_prior_, self.classes_.shape)

    def _n_outputs(self) -> int:
        return len(self.classes_)

    def _label_losses(
        self, logits: Float[Tensor, "functions rows classes"], labels: Tensor
    ) -> Float[Tensor, "functions rows"]:
        """Return the negative log likelihood of the classes."""
        flat = functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="none"
        )
        return flat.unflatten(0, labels.shape)

    def _calibrate(
        self,
        outputs: NDArray[np.float64],
        held_out: NDArray[np.float64],
        targets: NDArray[Any],
    ) -> dict[str, Any]:
        """Fit temperature and label noise to the labels of held-out rows."""
        members, rows = np.nonzero(held_out)
        weights = held_out[members, rows]
        functions = outputs.reshape(len(held_out), -1, *outputs.shape[1:])
        logits, labels = functions[members, :, rows], targets[rows]
        chosen, prior = np.arange(len(labels)), self.class_prior_[labels]

        def loss(values: NDArray[np.float64]) -> float:
            log_temperature, log_odds = values
            p = special.softmax(logits * np.exp(-log_temperature), axis=-1).mean(1)
            noise = special.expit(log_odds)
            mixed = (1.0 - noise) * p[chosen, labels] + noise * prior
            log_likelihood = np.sum(weights * np.log(np.maximum(mixed, 1e-300)))
            z = (values - _CALIBRATION_MEAN) / _CALIBRATION_STD
            return 0.5 * np.sum(z**2) - log_likelihood

        best = optimize.minimize(loss, _CALIBRATION_MEAN, method="Nelder-Mead").x
        # Single members need more softening than their average does, which is soft
        # already: half of it is applied (chosen on the recorded sets).
        return {
            "temperature_": float(np.exp(min(0.5 * best[0], best[0]))),
            "label_noise_": float(special.expit(best[1])),
        }

    def _class_probabilities(
        self, X: NDArray[np.float64], **options: Any
    ) -> NDArray[np.float64]:
        return self._probabilities(self._member_outputs(self._scaled(X), **options))

    def _probabilities(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return calibrated probabilities."""
        p = special.softmax(logits / self.temperature_, axis=-1)
        return (1.0 - self.label_noise_) * p + self.label_noise_ * self.class_prior_
