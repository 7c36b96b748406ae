"""What the regressor and the classifier of infinite width share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from skfunc._members import weighted_moments
from skfunc._validation import (
    check_image_shape,
    check_integer,
    check_option,
    check_real,
    check_shape,
)
from skfunc.base import FunctionEstimator
from skfunc.infinite_width._hyperparameters import CONTINUOUS, Hyperparameters
from skfunc.infinite_width._inference_scores import LeaveOneOut
from skfunc.infinite_width._layers_base import Layer
from skfunc.infinite_width._layers_networks import ACTIVATIONS
from skfunc.infinite_width._process import NetworkProcess
from skfunc.infinite_width._search import Rows
from skfunc.infinite_width._selection import Selection, weighted_trace
from skfunc.training import resolve_device, thread_limits

Array = NDArray[np.float64]

_PRESETS = ("mlp", "conv", "wide_resnet")
_DTYPES = {"float32": torch.float32, "float64": torch.float64}
# Rows up to which threads cost more than they save.
_SMALL_ROWS = 1500


def merge_rows(
    X: Array, targets: Array, weight: Array
) -> tuple[Array, Array, Array, NDArray[np.intp]]:
    """Return distinct rows in a canonical order, with summed weights.

    So a weight of k means the same as k copies bit by bit, the order of the rows means
    nothing, and copies do not make the kernel matrix singular.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Inputs.
    targets : ndarray of shape (n_samples, n_outputs)
        Targets; rows that differ in them stay apart.
    weight : ndarray of shape (n_samples,)
        Weights; rows of weight zero are dropped.

    Returns
    -------
    X, targets, weight : ndarray
        Distinct rows.
    row_index : ndarray of shape (n_samples,)
        Position of every given row among them, -1 for those dropped.
    """
    counted = np.flatnonzero(weight > 0)
    both = np.column_stack([X[counted], targets[counted]])
    # Minus zero equals zero, but not bit by bit.
    distinct, index = np.unique(both + 0.0, axis=0, return_inverse=True)
    index = index.reshape(-1)
    summed = np.bincount(index, weights=weight[counted], minlength=len(distinct))
    row_index = np.full(len(X), -1, dtype=np.intp)
    row_index[counted] = index
    width = X.shape[1]
    return (
        np.ascontiguousarray(distinct[:, :width]),
        np.ascontiguousarray(distinct[:, width:]),
        summed,
        row_index,
    )


class BaseInfiniteWidth(FunctionEstimator):
    """Base of the estimators: parameters, data, selection, the process, its state."""

    _shared_amplitude = False

    def _check_parameters(self, n_features: int) -> None:
        if isinstance(self.architecture, str):
            check_option("architecture", self.architecture, _PRESETS)
        elif not isinstance(self.architecture, Layer) and not callable(
            self.architecture
        ):
            raise ValueError(
                f"architecture={self.architecture!r} is no network: give one of "
                f"{list(_PRESETS)}, a network of skfunc.infinite_width.layers, or a "
                "kernel_fn of neural-tangents"
            )
        check_option("kernel", self.kernel, ("nngp", "ntk"))
        check_option("selection", self.selection, ("lml", "loo", None))
        check_option("solver", self.solver, ("auto", "cholesky", "eigh"))
        check_option("relevance", self.relevance, ("auto", None))
        check_option("dtype", self.dtype, tuple(_DTYPES))
        if self.depth != "auto":
            check_integer("depth", self.depth, 0 if self.architecture == "mlp" else 1)
        if self.activation != "auto":
            check_option("activation", self.activation, ("auto", *ACTIVATIONS))
        for name in ("weight_std", "bias_std", "linear_std"):
            if getattr(self, name) != "auto":
                check_real(name, getattr(self, name), 0)
        for name in ("alpha", "amplitude"):
            if getattr(self, name) != "auto":
                check_real(name, getattr(self, name), 0)
        if self.training_time is not None and self.training_time != "auto":
            self._check_time(self.training_time)
        check_real("learning_rate", self.learning_rate, 0, inclusive=False)
        check_image_shape(self.image_shape, n_features)
        if self.architecture in ("conv", "wide_resnet") and self.image_shape is None:
            raise ValueError(
                f"architecture={self.architecture!r} needs "
                "image_shape=(channels, height, width)"
            )
        if not isinstance(self.architecture, str):
            given = [
                name
                for name in ("depth", "activation", *CONTINUOUS)
                if name != "ridge" and getattr(self, name) != "auto"
            ]
            if given:
                raise ValueError(
                    f"{given[0]} belongs to the networks made by name; the network "
                    "given as architecture has its own"
                )
        resolve_device(self.device)

    @staticmethod
    def _check_time(value: Any) -> float:
        number = float(value) if np.ndim(value) == 0 else math.nan
        if not number >= 0:
            raise ValueError(
                f"training_time must be at least 0 (inf: to the end); got {value!r}"
            )
        return number

    def _fit_process(
        self, X: Array, targets: Array, weight: Array, *, scale_targets: bool
    ) -> None:
        """Choose hyperparameters and condition the network on the rows."""
        device = resolve_device(self.device)
        random_state = check_random_state(self.random_state)
        X, targets, weight, self.row_index_ = merge_rows(X, targets, weight)
        self.X_mean_, self.X_scale_ = self._input_moments(X, weight)
        self.y_mean_, self.y_scale_ = weighted_moments(targets, weight)
        if not scale_targets:
            self.y_scale_ = np.ones_like(self.y_scale_)
        rows = Rows(
            (X - self.X_mean_) / self.X_scale_,
            (targets - self.y_mean_) / self.y_scale_,
            weight,
            self.image_shape,
        )
        selection = self._selection(random_state, device)
        with thread_limits(small=len(X) <= _SMALL_ROWS):
            if isinstance(self.architecture, str):
                chosen = selection.choose(rows)
            else:
                chosen = Hyperparameters(**selection.fixed)
            self._set_hyperparameters(chosen)
            self.X_train_, self.y_train_ = rows.X, rows.targets
            self.sample_weight_ = weight
            self._condition(selection, rows, device)
        self.candidates_ = selection.candidates_

    def _condition(
        self, selection: Selection, rows: Rows, device: torch.device
    ) -> None:
        """Solve for the coefficients, at the ridge and the time of the fit."""
        self.ridge_, self.training_time_ = 0.0, math.inf
        process = self._new_process(device)
        kernel = process.train_kernel(self.kernel)
        scale = weighted_trace(kernel.diagonal(), self.sample_weight_)
        own_ridge = isinstance(self.architecture, str)
        if self.alpha == "auto" and not own_ridge and self.selection is not None:
            self.alpha_ = selection.choose_ridge(process.decomposition(), scale, rows)
        self.ridge_ = process.ridge = self.alpha_ * scale
        if self.training_time == "auto":
            self.training_time_ = self._choose_time(process)
        elif self.training_time is not None:
            self.training_time_ = self._check_time(self.training_time)
        if self.solver == "eigh":
            process.decomposition()
        self._process_cache = process
        self.alphas_ = process.alphas(self.training_time_)
        if math.isinf(self.training_time_):
            # A singular matrix raises the ridge.
            self.ridge_ = process.used_ridge()
        quadratic = np.einsum("ij,ij->j", self.y_train_, process.alphas(math.inf))
        self._set_amplitude(quadratic)
        self._set_noise(process)

    def _set_amplitude(self, quadratic: Array) -> None:
        from skfunc.infinite_width._evidence import amplitudes

        if self.amplitude == "auto":
            self.amplitude_ = np.array(
                amplitudes(
                    quadratic,
                    float(self.sample_weight_.sum()),
                    shared=self._shared_amplitude,
                )
            )
        else:
            self.amplitude_ = np.full(len(quadratic), float(self.amplitude))

    def _set_noise(self, process: NetworkProcess) -> None:
        """Set the variance of an observation about the function."""
        if self.kernel == "nngp":
            self.noise_variance_ = self.amplitude_ * self.ridge_
        else:
            self.noise_variance_ = self._left_out_variance(process, self.training_time_)

    def _left_out_variance(self, process: NetworkProcess, time: float) -> Array:
        residuals, _ = process.leave_one_out(time)
        weight = self.sample_weight_ / self.sample_weight_.sum()
        return weight @ np.square(residuals)

    def _choose_time(self, process: NetworkProcess) -> float:
        """Return the time whose rows left out are predicted best."""
        decomposition = process.decomposition()
        eigenvalues = decomposition.spectrum.eigenvalues
        entries = self.sample_weight_.sum() * self.y_train_.shape[1]
        unit = entries / (self.learning_rate * max(eigenvalues[-1], 1e-300))
        times = np.append(unit * np.geomspace(0.1, 1e8, 46), math.inf)
        residuals = decomposition.leave_one_out_residuals(
            self.ridge_, times, learning_rate=self.learning_rate
        )
        errors = np.einsum("tij,i->t", np.square(residuals), self.sample_weight_)
        return float(times[int(np.argmin(errors))])

    def _selection(
        self, random_state: np.random.RandomState, device: torch.device
    ) -> Selection:
        fixed: dict[str, Any] = {}
        if self.activation != "auto":
            fixed["activation"] = self.activation
        if self.depth != "auto":
            fixed["depth"] = int(self.depth)
        for name in ("weight_std", "bias_std", "linear_std"):
            if getattr(self, name) != "auto":
                fixed[name] = float(getattr(self, name))
        if self.alpha != "auto":
            fixed["ridge"] = float(self.alpha)
        return Selection(
            name=self.architecture if isinstance(self.architecture, str) else "mlp",
            kind=self.kernel,
            criterion=self.selection,
            fixed=fixed,
            relevance=self.relevance == "auto" and self.image_shape is None,
            shared=self._shared_amplitude,
            random_state=random_state,
            device=device,
            judge=self._judge(),
        )

    def _judge(self) -> Callable[[LeaveOneOut, Rows], Array] | None:
        """Return how rows left out are scored; None for their density."""
        return None

    def _set_hyperparameters(self, chosen: Hyperparameters) -> None:
        self.activation_, self.depth_ = chosen.activation, chosen.depth
        self.weight_std_, self.bias_std_ = chosen.weight_std, chosen.bias_std
        self.linear_std_, self.alpha_ = chosen.linear_std, chosen.ridge
        width = len(self.X_mean_)
        self.relevance_ = np.ones(width)
        if chosen.relevance is not None:
            self.relevance_ = chosen.relevance

    @property
    def network_(self) -> Layer:
        """The network, a layer of `skfunc.infinite_width.layers`."""
        if not isinstance(self.architecture, str):
            return self.architecture
        return Hyperparameters(
            self.activation_,
            self.depth_,
            self.weight_std_,
            self.bias_std_,
            self.linear_std_,
        ).network(self.architecture, self.image_shape)

    @property
    def max_learning_rate_(self) -> float:
        """The learning rate above which discrete gradient descent diverges."""
        return self._process().max_learning_rate()

    def _input_moments(self, X: Array, weight: Array) -> tuple[Array, Array]:
        """Return means and scales of columns; images share those of a channel."""
        if self.image_shape is None:
            return weighted_moments(X, weight)
        channels = self.image_shape[0]
        pixels = X.reshape(len(X), channels, -1)
        mean, scale = weighted_moments(
            pixels.transpose(0, 2, 1).reshape(-1, channels),
            np.repeat(weight, pixels.shape[2]),
        )
        return np.repeat(mean, pixels.shape[2]), np.repeat(scale, pixels.shape[2])

    def _seen(self, X: Array) -> Array:
        """Return rows as the network sees them."""
        return (X - self.X_mean_) / self.X_scale_ * self.relevance_

    def _new_process(self, device: torch.device | str) -> NetworkProcess:
        return NetworkProcess(
            self.network_,
            self.X_train_ * self.relevance_,
            self.y_train_,
            self.sample_weight_,
            self.ridge_,
            kind=self.kernel,
            image_shape=self.image_shape,
            learning_rate=self.learning_rate,
            dtype=_DTYPES[self.dtype],
            device=device,
        )

    def _process(self) -> NetworkProcess:
        """Return the process, built again after loading."""
        process = self.__dict__.get("_process_cache")
        if process is None:
            process = self._new_process(resolve_device(self.device))
            self._process_cache = process
        return process

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what is rebuilt on demand."""
        state = dict(super().__getstate__())
        state.pop("_process_cache", None)
        return state

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        return (
            "n_features_in_",
            "feature_names_in_",
            "row_index_",
            "X_mean_",
            "X_scale_",
            "y_mean_",
            "y_scale_",
            "X_train_",
            "y_train_",
            "sample_weight_",
            "alphas_",
            "activation_",
            "depth_",
            "weight_std_",
            "bias_std_",
            "linear_std_",
            "alpha_",
            "relevance_",
            "ridge_",
            "training_time_",
            "amplitude_",
            "noise_variance_",
            "candidates_",
        )

    def _check_fitted_state(self) -> None:
        """Raise ValueError if loaded attributes do not make a fitted estimator."""
        n_features = check_integer("n_features_in_", self.n_features_in_)
        self._check_parameters(n_features)
        n_rows = len(self.sample_weight_)
        n_outputs = len(self.amplitude_)
        for name in ("X_mean_", "X_scale_", "relevance_"):
            check_shape(name, getattr(self, name), (n_features,))
        for name in ("y_mean_", "y_scale_", "amplitude_", "noise_variance_"):
            check_shape(name, getattr(self, name), (n_outputs,))
        check_shape("sample_weight_", self.sample_weight_, (n_rows,))
        check_shape("X_train_", self.X_train_, (n_rows, n_features))
        for name in ("y_train_", "alphas_"):
            check_shape(name, getattr(self, name), (n_rows, n_outputs))
        for name in ("weight_std_", "bias_std_", "linear_std_", "alpha_", "ridge_"):
            check_real(name, getattr(self, name), 0)
        check_integer("depth_", self.depth_, 0)
        check_option("activation_", self.activation_, tuple(ACTIVATIONS))
        self._check_time(self.training_time_)
        index = self.row_index_
        if index.dtype.kind != "i" or index.ndim != 1 or index.max() >= n_rows:
            raise ValueError("row_index_ does not point at the training rows")


def times_of(value: ArrayLike) -> list[float]:
    """Return training times from a number or a sequence of them."""
    times = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if times.ndim != 1 or not times.size or not (times >= 0).all():
        raise ValueError(
            f"training_time must be a number or a list of numbers of at least 0 (inf: "
            f"to the end); got {value!r}"
        )
    return times.tolist()
