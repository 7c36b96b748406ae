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
from skfunc._validation import check_real, check_shape, check_weights
from skfunc.base import FunctionClassifierMixin
from skfunc.ode._odenet import BaseODENet, document_odenet

# Gaussian prior of the calibration: log temperature, log odds of label noise.
_CALIBRATION_MEAN = np.array([0.0, -3.0])
_CALIBRATION_STD = np.array([0.5, 3.0])


@document_odenet
class ODENetClassifier(FunctionClassifierMixin, BaseODENet):
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
        fixed["X_mean_"], fixed["X_scale_"] = weighted_moments(rows, weights)
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
        """Fit temperature and label noise to the labels of held-out rows."""
        members, rows = np.nonzero(held_out)
        weights = held_out[members, rows]
        logits, labels = outputs[members, rows], targets[rows]
        chosen, prior = np.arange(len(labels)), self.class_prior_[labels]

        def loss(values: NDArray[np.float64]) -> float:
            log_temperature, log_odds = values
            p = special.softmax(logits * np.exp(-log_temperature), axis=1)
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
        logits = self._member_outputs(self._scaled(X), **options)
        p = special.softmax(logits / self.temperature_, axis=-1)
        return (1.0 - self.label_noise_) * p + self.label_noise_ * self.class_prior_

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
