"""Ensembles of finite networks, trained as their infinite limit is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.callback import with_callbacks
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data
from torch import Tensor

from skfunc._moments import weighted_moments
from skfunc._validation import (
    check_image_shape,
    check_integer,
    check_option,
    check_real,
    check_shape,
    check_weights,
)
from skfunc.base import FunctionEstimator, FunctionRegressorMixin
from skfunc.infinite_width._finite_plan import plan_training
from skfunc.infinite_width._finite_training import FiniteNetworks, descend
from skfunc.infinite_width._layers_base import Layer
from skfunc.infinite_width._layers_networks import preset
from skfunc.predictive import GaussianMixture
from skfunc.training import member_seeds, resolve_device, thread_limits

# Numbers of activations that are held at once, in training and in prediction.
_ACTIVATIONS = 2e7
# Steps and predictions of fewer multiplications than this run on one thread.
_SMALL_PASS = 1e9
# Rows farther than so many standard deviations from the training mean are moved there,
# where sums and squares are still finite.
_FARTHEST = 1e8


class FiniteEnsemble(FunctionRegressorMixin, FunctionEstimator):
    r"""Ensemble of networks of finite width, in NTK parameterization.

    `n_members` networks start from independent weights of unit variance and are trained
    side by side by full-batch gradient descent on the squared loss. As their width
    grows, the mean and the variance over members at every training time tend to the
    closed form of the infinite ensemble. So this estimator shows how near a width is to
    its limit; the limit itself costs less to compute on small data.

    Parameters
    ----------
    architecture : {"mlp", "conv", "wide_resnet"} or Layer, default="mlp"
        The network: a name, as in `layers.preset`, or layers composed by hand, the last
        of which is Dense.
    width : int, default=64
        Units of hidden layers, channels of convolutions.
    n_members : int, default=10
        Networks trained in one pass, each from its own seed.
    depth : int, default=3
        Hidden layers; blocks in each group of "wide_resnet". For named architectures.
    activation : str or Layer, default="relu"
        Activation of named architectures, as in `layers.preset`.
    weight_std, bias_std : float, default=1.5, 0.05
        Standard deviations of weights and biases of named architectures.
    image_shape : tuple of int, default=None
        (channels, height, width) of images that come as flattened rows.
    train : {"all", "last"}, default="all"
        Which layers train. With "last" the limit is the NNGP, else the NTK.
    training_time : float or "auto", default="auto"
        Training time t: the learning rate times the number of steps. "auto" is the time
        of the least leave-one-out error of the infinite network, which is known before
        any training, reached in at most `max_iter` steps.
    learning_rate : float or "auto", default="auto"
        Largest learning rate; the one used divides `training_time` into equal steps.
        "auto" is a third of the largest rate that is stable at infinite width.
    max_iter : int, default=100
        Most steps when `training_time` is "auto".
    alpha : float, default=0.0
        Penalty on the squared distance of the parameters from their start, over the
        number N of targets; the ridge of the closed form, in units of the kernel.
    random_state : int, RandomState or None, default=None
        Initial weights.
    device : str, default="auto"
        Where to train, in float64: "auto" is CUDA where there is one. The fitted state
        is kept on the CPU.

    Attributes
    ----------
    parameters_ : ndarray of shape (n_members, n_parameters)
        Weights of the members.
    training_time_ : float
        t.
    learning_rate_ : float
        Learning rate of the steps taken.
    max_learning_rate_ : float
        Largest stable rate at infinite width, on the training rows.
    n_iter_ : int
        Steps taken.
    n_retries_ : int
        Restarts at half the rate, to the same time, after the loss diverged.
    loss_curve_ : list of float
        Loss before each step and after the last, averaged over members, for y
        standardized.
    noise_std_ : ndarray of shape (n_targets,)
        Standard deviation of an observation around a member's function, in units of y.
    X_mean_, X_scale_ : ndarray of shape (n_features,)
        Weighted moments that X is standardized by.
    y_mean_, y_scale_ : ndarray of shape (n_targets,)
        The same of y.
    n_targets_ : int
        Columns of y.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where X had any.

    Raises
    ------
    FloatingPointError
        By fit, if the loss diverges at an eighth of the learning rate too.

    See Also
    --------
    skfunc.infinite_width.empirical_ntk : The kernel of one finite network.
    skfunc.infinite_width.layers.Layer.kernel : The kernel of the infinite network.

    Notes
    -----
    X and y are standardized, and each member, with outputs f of n rows and c targets,
    minimizes over its parameters :math:`\theta`, with N = c sum(w),

    .. math::
        \frac{1}{2N} \sum_i w_i \lVert f(x_i) - y_i \rVert^2
        + \frac{\alpha}{2N} \lVert \theta - \theta_0 \rVert^2 .

    With the NTK T and the NNGP K of the standardized rows, the ensemble at time t tends
    to the mean :math:`B y` and to the variance

    .. math::
        K_{**} + B K_{xx} B^T - B K_{x*} - (B K_{x*})^T, \quad
        B = T_{*x} (T + \alpha I)^{-1} (I - e^{-(T + \alpha I) t / N}).

    N counts all targets, so a given t means less progress with more of them.

    The noise is no part of that limit, and residuals on the training rows would make it
    too small. It is found by leave-one-out: from the same initial functions the
    infinite network's closed form predicts, at the same time, each row without its
    target; the noise is the one under which the mixture of these predictions makes the
    targets most likely. So the spread of the members is not counted twice.

    On more than 2000 rows (fewer for images) rate, time and noise are chosen on a
    random part of them.

    References
    ----------
    Lee, Xiao, Schoenholz, Bahri, Novak, Sohl-Dickstein, Pennington (2019). Wide
    neural networks of any depth evolve as linear models under gradient descent.
    arXiv:1902.06720.

    Novak, Xiao, Hron, Lee, Alemi, Sohl-Dickstein, Schoenholz (2020). Neural Tangents:
    fast and easy infinite neural networks in Python. arXiv:1912.02803.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skfunc import FiniteEnsemble
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = FiniteEnsemble(random_state=0).fit(X[:200], y[:200])
    >>> mean, std = model.predict(X[200:], return_std=True)
    >>> mean.shape, std.shape
    ((242,), (242,))
    >>> between_members, noise = model.predict_std_parts(X[200:])
    >>> bool((between_members < std).all())
    True
    """

    def __init__(
        self,
        architecture: str | Layer = "mlp",
        *,
        width: int = 64,
        n_members: int = 10,
        depth: int = 3,
        activation: str | Layer = "relu",
        weight_std: float = 1.5,
        bias_std: float = 0.05,
        image_shape: Sequence[int] | None = None,
        train: str = "all",
        training_time: float | Literal["auto"] = "auto",
        learning_rate: float | Literal["auto"] = "auto",
        max_iter: int = 100,
        alpha: float = 0.0,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
    ) -> None:
        self.architecture = architecture
        self.width = width
        self.n_members = n_members
        self.depth = depth
        self.activation = activation
        self.weight_std = weight_std
        self.bias_std = bias_std
        self.image_shape = image_shape
        self.train = train
        self.training_time = training_time
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.alpha = alpha
        self.random_state = random_state
        self.device = device

    @with_callbacks
    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> FiniteEnsemble:
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
        self : FiniteEnsemble
            The fitted estimator.
        """
        rows, targets = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True
        )
        weights = check_weights(sample_weight, rows)
        self._check_parameters()
        counted = weights > 0
        rows, weights = rows[counted], weights[counted]
        targets = np.asarray(targets, dtype=np.float64)[counted]
        targets = targets.reshape(len(targets), -1)
        self.X_mean_, self.X_scale_ = weighted_moments(rows, weights)
        self.y_mean_, self.y_scale_ = weighted_moments(targets, weights)
        self.n_targets_ = targets.shape[1]
        rows = (rows - self.X_mean_) / self.X_scale_
        targets = (targets - self.y_mean_) / self.y_scale_
        networks = self._networks()
        device = resolve_device(self.device)
        random_state = check_random_state(self.random_state)
        seeds = member_seeds(random_state, self.n_members)
        multiplications = len(rows) * self.n_members * networks.n_parameters
        with thread_limits(small=multiplications < _SMALL_PASS):
            initial = networks.initial(seeds)

            def outputs(some: NDArray[np.float64]) -> NDArray[np.float64]:
                return self._member_outputs(networks, initial, torch.as_tensor(some))

            plan = plan_training(
                networks.net,
                (rows, targets, weights),
                outputs,
                image_shape=networks.image_shape,
                last_only=self.train == "last",
                ridge=float(self.alpha),
                training_time=self.training_time,
                learning_rate=self.learning_rate,
                max_iter=int(self.max_iter),
                random_state=random_state,
            )
            self.max_learning_rate_ = plan.max_rate
            self.noise_std_ = plan.noise_std * self.y_scale_
            watch = _StepWatch(self, plan.n_steps, (X, y))
            descent = descend(
                networks,
                initial.to(device),
                *(torch.as_tensor(v, device=device) for v in (rows, targets, weights)),
                time=plan.time,
                n_steps=plan.n_steps,
                ridge=float(self.alpha),
                chunk=self._rows_at_once(),
                on_step=watch.step,
            )
        self.parameters_ = descent.flat.numpy(force=True)
        self.n_iter_ = descent.n_steps
        self.n_retries_ = descent.n_retries
        self.learning_rate_ = descent.rate
        self.training_time_ = descent.rate * descent.n_steps
        self.loss_curve_ = descent.losses
        watch.close()
        if descent.interrupted:
            raise KeyboardInterrupt
        return self

    def _check_parameters(self) -> None:
        self._network()
        check_integer("width", self.width)
        check_integer("n_members", self.n_members)
        check_integer("max_iter", self.max_iter)
        check_option("train", self.train, ("all", "last"))
        check_real("alpha", self.alpha, 0)
        for name in ("training_time", "learning_rate"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value == "auto"):
                check_real(name, value, 0, inclusive=False)
        resolve_device(self.device)

    def _network(self) -> Layer:
        if isinstance(self.architecture, Layer):
            return self.architecture
        if not isinstance(self.architecture, str):
            raise TypeError(
                f"architecture={self.architecture!r} is neither a name nor a network "
                "of skfunc.infinite_width.layers, which alone have finite twins"
            )
        check_integer("depth", self.depth, 0)
        return preset(
            self.architecture,
            self.depth,
            self.activation,
            check_real("weight_std", self.weight_std, 0),
            check_real("bias_std", self.bias_std, 0),
            check_image_shape(self.image_shape, self.n_features_in_),
        )

    def _networks(self) -> FiniteNetworks:
        return FiniteNetworks(
            self._network(),
            int(self.width),
            self.n_features_in_,
            check_image_shape(self.image_shape, self.n_features_in_),
            self.n_targets_,
            last_only=self.train == "last",
        )

    def _rows_at_once(self) -> int:
        """Return how many rows' activations fit in memory, for all members."""
        pixels = 1
        if self.image_shape is not None:
            pixels = math.prod(tuple(self.image_shape)[1:])
        numbers = self.n_members * max(self.width * pixels, self.n_features_in_)
        return max(int(_ACTIVATIONS / numbers), 1)

    def _member_outputs(
        self, networks: FiniteNetworks, flat: Tensor, rows: Tensor
    ) -> NDArray[np.float64]:
        """Return outputs for standardized rows, (members, rows, targets)."""
        step = self._rows_at_once()
        with torch.no_grad():
            parts = [
                networks.outputs(flat, rows[start : start + step]).numpy()
                for start in range(0, max(len(rows), 1), step)
            ]
        return np.concatenate(parts, axis=1)

    def _predictive(self, X: NDArray[np.float64], **options: Any) -> GaussianMixture:
        with np.errstate(over="ignore"):
            scaled = (X - self.X_mean_) / self.X_scale_
        rows = torch.as_tensor(np.clip(scaled, -_FARTHEST, _FARTHEST))
        networks = self._networks()
        flat = torch.as_tensor(self.parameters_)
        small = len(rows) * flat.numel() < _SMALL_PASS
        with thread_limits(small=small):
            outputs = self._member_outputs(networks, flat, rows)
        means = self.y_mean_ + self.y_scale_ * outputs
        noise = np.broadcast_to(self.noise_std_, means.shape)
        return GaussianMixture(means, noise, squeeze=self.n_targets_ == 1)

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        return (
            "n_features_in_",
            "feature_names_in_",
            "n_targets_",
            "parameters_",
            "training_time_",
            "learning_rate_",
            "max_learning_rate_",
            "n_iter_",
            "n_retries_",
            "loss_curve_",
            "noise_std_",
            "X_mean_",
            "X_scale_",
            "y_mean_",
            "y_scale_",
        )

    def _check_fitted_state(self) -> None:
        n_features = check_integer("n_features_in_", self.n_features_in_)
        n_targets = check_integer("n_targets_", self.n_targets_)
        self._check_parameters()
        n_parameters = self._networks().n_parameters
        check_shape("parameters_", self.parameters_, (self.n_members, n_parameters))
        for name in ("X_mean_", "X_scale_"):
            check_shape(name, getattr(self, name), (n_features,))
        for name in ("y_mean_", "y_scale_", "noise_std_"):
            check_shape(name, getattr(self, name), (n_targets,))


class _StepWatch:
    """Tell scikit-learn's callbacks of every step."""

    def __init__(
        self,
        estimator: FiniteEnsemble,
        n_steps: int,
        fit_data: tuple[ArrayLike, ArrayLike],
    ) -> None:
        self._task: dict[str, Any] = dict(
            estimator=estimator, X=fit_data[0], y=fit_data[1]
        )
        self._left = n_steps if getattr(estimator, "_skl_callbacks", None) else 0
        self._context = estimator._init_callback_context(max_subtasks=n_steps)
        self._context.call_on_fit_task_begin(**self._task)

    def step(self, parameters: Callable[[], Tensor]) -> bool:
        """Report a step; return whether a callback asks to stop."""
        if not self._left:
            return False
        # After a restart at half the rate there are more steps than were announced.
        self._left -= 1
        step = self._context.subcontext(task_name="step")
        step.call_on_fit_task_begin(**self._task)
        return step.call_on_fit_task_end(
            **self._task,
            reconstruction_attributes=lambda: self._attributes(parameters()),
        )

    def _attributes(self, parameters: Tensor) -> dict[str, Any]:
        estimator = self._task["estimator"]
        known = {
            name: getattr(estimator, name)
            for name in estimator._fitted_attributes()
            if hasattr(estimator, name)
        }
        return known | {"parameters_": parameters.numpy(force=True)}

    def close(self) -> None:
        """Announce the end of the fit."""
        self._context.call_on_fit_task_end(**self._task, reconstruction_attributes=dict)
