"""The classifier of infinite width."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special
from sklearn.callback import with_callbacks
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from skfunc._validation import check_real, check_shape, check_weights
from skfunc.base import FunctionClassifierMixin
from skfunc.infinite_width._documentation import document_infinite_width
from skfunc.infinite_width._estimator import BaseInfiniteWidth
from skfunc.infinite_width._hyperparameters import DEPTHS
from skfunc.infinite_width._inference_scores import LeaveOneOut
from skfunc.infinite_width._search import Rows

Array = NDArray[np.float64]

_TINY = float(np.finfo(np.float64).tiny)
# Functions that probabilities are averaged over.
_DRAWS = 16
# Bounds of the logarithm of the inverse temperature; scores lie about 0 and 1.
_LOG_SHARPNESS = (-3.0, 6.0)
# The calibration: logarithms of the scale below which a score counts as none and of the
# power of what is above, and log odds of label noise. Their Gaussian prior and bounds.
_CALIBRATION_MEAN = np.array([-1.0, 0.7, -4.0])
_CALIBRATION_STD = np.array([1.5, 1.0, 2.0])
_CALIBRATION_BOUNDS = [(-5.0, 3.0), (-2.0, 6.0), (-15.0, 2.0)]


def link(scores: Array, scale: float, power: float) -> Array:
    r"""Return logits :math:`p \log \log(1 + e^{f / s})` of scores f.

    Least squares estimates probabilities, which a power of one of the positive part
    returns as they are (small s); a large s gives a softmax of temperature
    :math:`2 s \log 2 / p`, for classes that separate.
    """
    return power * np.log(np.logaddexp(0.0, scores / scale) + _TINY)


def softmax_loss(
    scores: Array, log_sharpness: Array, labels: NDArray[np.intp]
) -> Array:
    """Return minus the log probability of labels under a softmax of sharpened scores.

    Parameters
    ----------
    scores : ndarray of shape (*grid, n_samples, n_classes)
        Scores.
    log_sharpness : ndarray of shape (*grid,)
        Logarithm of the factor on them.
    labels : ndarray of shape (n_samples,)
        Positions of the classes.

    Returns
    -------
    ndarray of shape (*grid, n_samples)
        Nats.
    """
    logits = np.exp(log_sharpness)[..., None, None] * scores
    chosen = np.take_along_axis(
        logits, np.broadcast_to(labels, logits.shape[:-1])[..., None], axis=-1
    )
    return special.logsumexp(logits, axis=-1) - chosen[..., 0]


def left_out_log_loss(left_out: LeaveOneOut, rows: Rows) -> Array:
    """Return the log likelihood of labels left out, at the best temperature.

    A golden-section search finds the temperature of every ridge at once; the loss is
    convex in the inverse temperature.
    """
    scores = rows.targets - left_out._columns()
    labels = rows.targets.argmax(axis=1)
    ratio = (math.sqrt(5) - 1) / 2
    shape = scores.shape[:-2]
    low, high = (np.full(shape, bound) for bound in _LOG_SHARPNESS)

    def loss(log_sharpness: Array) -> Array:
        return softmax_loss(scores, log_sharpness, labels) @ left_out.sample_weight

    for _ in range(12):
        first, second = high - ratio * (high - low), low + ratio * (high - low)
        better = loss(first) < loss(second)
        low, high = np.where(better, low, first), np.where(better, second, high)
    return -loss(0.5 * (low + high))


@document_infinite_width(kernel="ntk", selection="loo")
class InfiniteWidthClassifier(FunctionClassifierMixin, BaseInfiniteWidth):
    r"""Classifier that is a neural network of infinite width, in closed form.

    Classes are regressed on as centred indicator vectors, by the Gaussian process or
    the ensemble of trained networks of `InfiniteWidthRegressor`; a link fitted to the
    scores of rows left out, which have a closed form, turns scores into calibrated
    probabilities. X is standardized inside.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    link_scale_, link_power_ : float
        s and p of the logits :math:`p \log \log(1 + e^{f / s})` of scores f, fitted to
        rows left out.
    label_noise_ : float
        Share of the class frequencies in the probabilities, fitted likewise.
    class_prior_ : ndarray of shape (n_classes,)
        Weighted class frequencies.
    {attributes}

    Raises
    ------
    ValueError
        By fit, on an unknown option, a network that does not fit the data, or a kernel
        that overflows.

    Warns
    -----
    scipy.linalg.LinAlgWarning
        If the kernel matrix is singular and the ridge had to be raised.

    See Also
    --------
    InfiniteWidthRegressor : The same for numbers.
    sklearn.gaussian_process.GaussianProcessClassifier : Laplace's approximation, with
        kernels of a fixed form.

    Notes
    -----
    A score is a Gaussian at every row. Probabilities are averages over draws from it,
    the same draws for all rows, so that they are less extreme where the network knows
    less; `return_std` gives their standard deviation over the draws.

    References
    ----------
    {references}
    .. [4] S. Arora, S. S. Du, Z. Li, R. Salakhutdinov, R. Wang, D. Yu, "Harnessing the
           power of infinitely wide deep nets on small-data tasks", 2019,
           arXiv:1910.01663.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skfunc import InfiniteWidthClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> model = InfiniteWidthClassifier(random_state=0).fit(X[::2], y[::2])
    >>> proba, std = model.predict_proba(X[1::2], return_std=True)
    >>> proba.shape, std.shape
    ((89, 3), (89, 3))
    >>> model.score(X[1::2], y[1::2]) > 0.9
    True
    """

    _shared_amplitude = True
    _pairs = tuple(("relu", depth) for depth in DEPTHS)

    def __init__(
        self,
        architecture: Any = "mlp",
        *,
        kernel: str = "ntk",
        depth: Any = "auto",
        activation: str = "auto",
        weight_std: Any = "auto",
        bias_std: Any = "auto",
        linear_std: Any = "auto",
        relevance: str | None = "auto",
        alpha: Any = "auto",
        amplitude: Any = "auto",
        training_time: Any = None,
        learning_rate: float = 1.0,
        selection: str | None = "loo",
        solver: str = "auto",
        max_memory: Any = "auto",
        image_shape: tuple[int, int, int] | None = None,
        dtype: str = "auto",
        device: str | torch.device = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        super().__init__(
            architecture,
            kernel=kernel,
            depth=depth,
            activation=activation,
            weight_std=weight_std,
            bias_std=bias_std,
            linear_std=linear_std,
            relevance=relevance,
            alpha=alpha,
            amplitude=amplitude,
            training_time=training_time,
            learning_rate=learning_rate,
            selection=selection,
            solver=solver,
            max_memory=max_memory,
            image_shape=image_shape,
            dtype=dtype,
            device=device,
            random_state=random_state,
        )

    @with_callbacks
    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> InfiniteWidthClassifier:
        """Choose hyperparameters, condition the network and calibrate it.

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
        self : InfiniteWidthClassifier
            The fitted estimator.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        weights = check_weights(sample_weight, rows)
        self._check_parameters(rows.shape[1])
        counted = weights > 0
        classes = np.unique(labels[counted])
        if len(classes) < 2:
            raise ValueError(
                "Classifier can't train when only one class is present: "
                f"{classes.tolist()[0]!r}"
            )
        context = self._init_callback_context()
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        self.classes_ = classes
        indicators = (labels[:, None] == classes).astype(np.float64)
        self._fit_process(rows, indicators, weights, scale_targets=False)
        self._calibrate()
        context.call_on_fit_task_end(
            estimator=self, X=X, y=y, reconstruction_attributes=dict
        )
        return self

    def _judge(self) -> Callable[[LeaveOneOut, Rows], Array]:
        return left_out_log_loss

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        own = (
            "classes_",
            "link_scale_",
            "link_power_",
            "label_noise_",
            "class_prior_",
            "normals_",
        )
        return (*super()._fitted_attributes(), *own)

    def _check_fitted_state(self) -> None:
        super()._check_fitted_state()
        n_classes = len(self.classes_)
        if n_classes != len(self.amplitude_):
            raise ValueError(
                f"there are {n_classes} classes and {len(self.amplitude_)} scores"
            )
        check_shape("class_prior_", self.class_prior_, (n_classes,))
        check_shape("normals_", self.normals_, (_DRAWS, n_classes))
        check_real("link_scale_", self.link_scale_, 0, inclusive=False)
        check_real("link_power_", self.link_power_, 0, inclusive=False)
        check_real("label_noise_", self.label_noise_, 0, 1)

    def _calibrate(self) -> None:
        """Fit link and label noise to the scores of rows left out."""
        self.class_prior_ = np.array(self.y_mean_)
        # Normal draws of mean zero: an antithetic half, the same for every row.
        generator = np.random.RandomState(0)
        half = generator.standard_normal((_DRAWS // 2, len(self.classes_)))
        self.normals_ = np.concatenate([half, -half])
        process = self._process()
        residuals, variances = process.leave_one_out(self.training_time_)
        labels = self.y_train_.argmax(axis=1)
        scores = self.y_mean_ + self.y_train_ - residuals
        if self.kernel == "nngp" and variances is not None:
            spread = np.maximum(variances - self.ridge_, 0.0)
        else:
            spread = process.variances(process.X, self.training_time_)
        draws = self._draws(scores, spread)
        weight = self.sample_weight_
        prior = self.class_prior_[labels]

        def loss(parameters: Array) -> float:
            log_scale, log_power, log_odds = parameters
            logits = link(draws, math.exp(log_scale), math.exp(log_power))
            logits -= special.logsumexp(logits, axis=-1, keepdims=True)
            chosen = np.exp(logits[:, np.arange(len(labels)), labels]).mean(axis=0)
            noise = special.expit(log_odds)
            likelihood = np.log((1 - noise) * chosen + noise * prior)
            offset = (parameters - _CALIBRATION_MEAN) / _CALIBRATION_STD
            return float(-likelihood @ weight + 0.5 * offset @ offset)

        best = optimize.minimize(
            loss, _CALIBRATION_MEAN, method="L-BFGS-B", bounds=_CALIBRATION_BOUNDS
        )
        self.link_scale_, self.link_power_ = np.exp(best.x[:2]).tolist()
        self.label_noise_ = float(special.expit(best.x[2]))

    def _draws(self, scores: Array, variances: Array) -> Array:
        """Return draws of the scores, (draws, n, classes), alike for every row."""
        spread = np.sqrt(self.amplitude_ * variances[:, None])
        return scores + self.normals_[:, None, :] * spread

    def _probabilities(self, draws: Array) -> Array:
        """Return the class probabilities of score draws."""
        logits = link(draws, self.link_scale_, self.link_power_)
        probabilities = special.softmax(logits, axis=-1)
        return (
            1 - self.label_noise_
        ) * probabilities + self.label_noise_ * self.class_prior_

    def _class_probabilities(self, X: Array, **options: Any) -> Array:
        seen = self._seen(X)
        # Variances need both kernels; means then find theirs computed.
        variances = self._variances(seen, self.training_time_)
        scores = self.y_mean_ + self._means(seen, self.alphas_)
        return self._probabilities(self._draws(scores, variances))

    def sample_proba(
        self,
        X: ArrayLike,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = 0,
    ) -> Array:
        """Draw functions: class probabilities of single members of the posterior.

        Parameters
        ----------
        X : array-like of shape (n_samples_X, n_features)
            Rows to evaluate the functions at.
        n_samples : int, default=1
            How many functions.
        random_state : int, RandomState or None, default=0
            Which draws.

        Returns
        -------
        ndarray of shape (n_samples_X, n_classes, n_samples)
            The rows of one draw belong to one function, drawn from their joint
            distribution.
        """
        from skfunc.predictive import Gaussian

        generator = check_random_state(random_state)
        seen = self._seen(self._check_rows(X))
        covariance = self._covariance(seen, self.training_time_)
        scores = self.y_mean_ + self._means(seen, self.alphas_)
        joint = Gaussian(
            scores,
            lambda: covariance.diagonal()[:, None] * self.amplitude_,
            np.zeros_like(scores),
            lambda: covariance[:, :, None] * self.amplitude_,
            squeeze=False,
        )
        draws = joint.sample_functions(n_samples, generator)
        return np.moveaxis(self._probabilities(np.moveaxis(draws, -1, 0)), 0, -1)
