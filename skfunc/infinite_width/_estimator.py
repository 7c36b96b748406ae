"""What the regressor and the classifier of infinite width share."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from skfunc._moments import pooled_moments, weighted_moments
from skfunc._validation import (
    check_image_shape,
    check_integer,
    check_option,
    check_real,
    check_shape,
)
from skfunc.base import FunctionEstimator
from skfunc.infinite_width._evidence import amplitudes
from skfunc.infinite_width._foreign import ForeignKernel, as_network
from skfunc.infinite_width._hyperparameters import (
    CANDIDATES,
    CONTINUOUS,
    Hyperparameters,
)
from skfunc.infinite_width._inference import Decomposition
from skfunc.infinite_width._inference_scores import LeaveOneOut
from skfunc.infinite_width._iterative_process import IterativeProcess
from skfunc.infinite_width._kernel_matrices import kernel_diagonal, kernel_matrices
from skfunc.infinite_width._layers_base import Layer
from skfunc.infinite_width._layers_networks import ACTIVATIONS
from skfunc.infinite_width._process import NetworkProcess
from skfunc.infinite_width._rows import (
    check_finite,
    check_target_scale,
    merge_rows,
    physical_memory,
)
from skfunc.infinite_width._search import Rows
from skfunc.infinite_width._selection import Selection, weighted_trace
from skfunc.training import resolve_device, thread_limits

Array = NDArray[np.float64]
AnyProcess = NetworkProcess | IterativeProcess

_PRESETS = ("mlp", "conv", "wide_resnet")
_SOLVERS = ("auto", "cholesky", "eigh", "cg", "nystrom")
_DTYPES = {"float32": torch.float32, "float64": torch.float64}
# Matrices of the training rows that an exact solution holds at its peak, and the share
# of the machine's memory that "auto" takes at most.
_EXACT_MATRICES, _MEMORY_SHARE = 3, 0.5
# Rows that the ridge of a network given as layers is chosen on, past memory.
_RIDGE_ROWS = 2000
# The largest standard deviation whose variance is a number of float64.
_LARGEST_STD = 1e154
# Rows up to which threads cost more than they save.
_SMALL_ROWS = 1500


class BaseInfiniteWidth(FunctionEstimator):
    """Base of the estimators: parameters, data, selection, the process, its state."""

    _shared_amplitude = False
    _pairs: tuple[tuple[str, int], ...] = CANDIDATES

    def __init__(
        self,
        architecture: Any = "mlp",
        *,
        kernel: str = "nngp",
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
        selection: str | None = "lml",
        solver: str = "auto",
        max_memory: Any = "auto",
        image_shape: tuple[int, int, int] | None = None,
        dtype: str = "auto",
        device: str | torch.device = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.architecture = architecture
        self.kernel = kernel
        self.depth = depth
        self.activation = activation
        self.weight_std = weight_std
        self.bias_std = bias_std
        self.linear_std = linear_std
        self.relevance = relevance
        self.alpha = alpha
        self.amplitude = amplitude
        self.training_time = training_time
        self.learning_rate = learning_rate
        self.selection = selection
        self.solver = solver
        self.max_memory = max_memory
        self.image_shape = image_shape
        self.dtype = dtype
        self.device = device
        self.random_state = random_state

    def _check_parameters(self, n_features: int) -> None:
        if isinstance(self.architecture, str):
            check_option("architecture", self.architecture, _PRESETS)
        else:
            as_network(self.architecture)
        check_option("kernel", self.kernel, ("nngp", "ntk"))
        check_option("selection", self.selection, ("lml", "loo", None))
        check_option("solver", self.solver, _SOLVERS)
        if self.max_memory != "auto":
            check_integer("max_memory", self.max_memory)
        check_option("relevance", self.relevance, ("auto", None))
        check_option("dtype", self.dtype, ("auto", *_DTYPES))
        if self.depth != "auto":
            check_integer("depth", self.depth, 0 if self.architecture == "mlp" else 1)
        if self.activation != "auto":
            check_option("activation", self.activation, ("auto", *ACTIVATIONS))
        for name in ("weight_std", "bias_std", "linear_std"):
            if getattr(self, name) != "auto":
                check_real(name, getattr(self, name), 0, _LARGEST_STD)
        if self.alpha != "auto":
            check_real("alpha", self.alpha, 0)
        if self.amplitude != "auto":
            check_real("amplitude", self.amplitude, 0, inclusive=False)
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
        if isinstance(value, numbers.Real) and float(value) >= 0:
            return float(value)
        raise ValueError(
            "training_time must be a number of at least 0 (inf: to the end), 'auto' or "
            f"None; got {value!r}"
        )

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
        check_target_scale(self.y_scale_)
        rows = Rows(
            (X - self.X_mean_) / self.X_scale_,
            (targets - self.y_mean_) / self.y_scale_,
            weight,
            self.image_shape,
        )
        selection = self._selection(random_state, device)
        chosen = Hyperparameters(**selection.fixed)
        if isinstance(self.architecture, str):
            # Many small matrices: threads would wait for each other.
            with thread_limits(small=True):
                chosen = selection.choose(rows)
        self._set_hyperparameters(chosen)
        self.X_train_, self.y_train_ = rows.X, rows.targets
        self.sample_weight_ = weight
        with thread_limits(small=len(rows) <= _SMALL_ROWS):
            self._condition(selection, rows, device)
        self.candidates_ = selection.candidates_

    def _condition(
        self, selection: Selection, rows: Rows, device: torch.device
    ) -> None:
        """Solve for the coefficients, at the ridge and the time of the fit."""
        self.solver_ = self._choose_solver(len(rows))
        self.ridge_, self.training_time_ = 0.0, math.inf
        process = self._new_process(device)
        scale = weighted_trace(self._kernel_diagonal(), self.sample_weight_)
        named = isinstance(self.architecture, str)
        if self.alpha == "auto" and not named and self.selection is not None:
            self.alpha_ = self._choose_ridge(selection, process, rows)
        self.ridge_ = process.ridge = self.alpha_ * scale
        if self.training_time == "auto":
            self.training_time_ = self._choose_time(process)
        elif self.training_time is not None:
            self.training_time_ = self._check_time(self.training_time)
        self._process_cache = process
        if math.isinf(self.training_time_):
            # A singular matrix raises the ridge.
            self.ridge_ = process.ridge = process.used_ridge()
        final = self.alphas_ = process.alphas(self.training_time_)
        if not math.isinf(self.training_time_):
            final = process.alphas(math.inf)
        self._set_amplitude(
            np.einsum("ij,ij->j", self.y_train_, final), scale + self.ridge_
        )
        self._set_noise(process)

    def _choose_solver(self, n_rows: int) -> str:
        """Return the solver that memory and training time allow."""
        if self.solver != "auto":
            return self.solver
        if self.training_time is not None and self.training_time != math.inf:
            return "eigh"
        needed = _EXACT_MATRICES * 8 * n_rows**2
        return "cholesky" if needed <= self._memory_limit() else "cg"

    def _memory_limit(self) -> int:
        if self.max_memory != "auto":
            return int(self.max_memory)
        return int(_MEMORY_SHARE * physical_memory())

    def _kernel_diagonal(self) -> Array:
        """Return the kernel of every training row with itself."""
        diagonal = kernel_diagonal(
            self.network_,
            torch.as_tensor(self.X_train_ * self.relevance_),
            image_shape=self.image_shape,
        )
        values = diagonal.nngp if self.kernel == "nngp" else diagonal.ntk
        assert values is not None
        return values.numpy()

    def _choose_ridge(
        self, selection: Selection, process: AnyProcess, rows: Rows
    ) -> float:
        """Return the best ridge of a given network, in units of the mean diagonal."""
        if isinstance(process, NetworkProcess):
            kernel = process.train_kernel(self.kernel)
            decomposition = process.decomposition()
        else:
            order = selection.random_state.permutation(len(rows))[:_RIDGE_ROWS]
            rows = rows.at(order)
            matrices = kernel_matrices(
                self.network_, rows.X, image_shape=self.image_shape, kind=self.kernel
            )
            values = matrices.nngp if self.kernel == "nngp" else matrices.ntk
            assert values is not None
            kernel = values.numpy()
            decomposition = Decomposition(kernel, rows.targets, rows.weight)
        scale = weighted_trace(kernel.diagonal(), rows.weight)
        return selection.choose_ridge(decomposition, scale, rows)

    def _set_amplitude(self, quadratic: Array, unit: float) -> None:
        if self.amplitude == "auto":
            self.amplitude_ = np.array(
                amplitudes(
                    quadratic,
                    float(self.sample_weight_.sum()),
                    shared=self._shared_amplitude,
                    unit=unit,
                )
            )
        else:
            self.amplitude_ = np.full(len(quadratic), float(self.amplitude))

    def _set_noise(self, process: AnyProcess) -> None:
        """Set the variance of an observation about the function."""
        if self.kernel == "nngp":
            self.noise_variance_ = self.amplitude_ * self.ridge_
        else:
            self.noise_variance_ = self._left_out_variance(process, self.training_time_)

    def _left_out_variance(self, process: AnyProcess, time: float) -> Array:
        residuals, _ = process.leave_one_out(time)
        weight = self.sample_weight_ / self.sample_weight_.sum()
        return weight @ np.square(residuals)

    def _choose_time(self, process: AnyProcess) -> float:
        """Return the time whose rows left out are predicted best."""
        if not isinstance(process, NetworkProcess):
            raise ValueError(
                f"training_time='auto' needs a decomposition of the kernel matrix; "
                f"solver={self.solver_!r} only trains to the end"
            )
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
            pairs=self._pairs,
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
    def network_(self) -> Layer | ForeignKernel:
        """The network, a layer of `skfunc.infinite_width.layers`."""
        if not isinstance(self.architecture, str):
            return as_network(self.architecture)
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
        return pooled_moments(X, weight, self.image_shape[0])

    def _seen(self, X: Array) -> Array:
        """Return rows as the network sees them."""
        with np.errstate(over="ignore"):
            return (X - self.X_mean_) / self.X_scale_ * self.relevance_

    # The rows of a prediction may lie so far away that their kernel overflows, which
    # an error tells, and no NaN.

    def _means(self, X: Array, alphas: Array) -> Array:
        """Return the scaled means of rows, for stacked coefficients."""
        with np.errstate(over="ignore", invalid="ignore"):
            return check_finite(self._process().means(X, alphas))

    def _variances(self, X: Array, time: float) -> Array:
        """Return variances of the function at rows, at amplitude one."""
        with np.errstate(over="ignore", invalid="ignore"):
            return check_finite(self._process().variances(X, time))

    def _covariance(self, X: Array, time: float) -> Array:
        """Return the covariance of the function over rows, at amplitude one."""
        with np.errstate(over="ignore", invalid="ignore"):
            covariance = self._process().covariance(X, time)
        check_finite(covariance.diagonal())
        return check_finite(covariance)

    def _new_process(self, device: torch.device | str) -> AnyProcess:
        X = self.X_train_ * self.relevance_
        data = (self.network_, X, self.y_train_, self.sample_weight_, self.ridge_)
        if self.solver_ in ("cg", "nystrom"):
            return IterativeProcess(
                *data,
                kind=self.kernel,
                image_shape=self.image_shape,
                solver=self.solver_,
                max_memory=self._memory_limit(),
                dtype=_DTYPES["float32" if self.dtype == "auto" else self.dtype],
                device=device,
            )
        return NetworkProcess(
            *data,
            kind=self.kernel,
            image_shape=self.image_shape,
            learning_rate=self.learning_rate,
            dtype=_DTYPES["float64" if self.dtype == "auto" else self.dtype],
            device=device,
            solver=self.solver_,
        )

    def _process(self) -> AnyProcess:
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
            "solver_",
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
        check_option("solver_", self.solver_, _SOLVERS[1:])
        self._check_time(self.training_time_)
        index = self.row_index_
        if index.dtype.kind != "i" or index.ndim != 1 or index.max() >= n_rows:
            raise ValueError("row_index_ does not point at the training rows")
