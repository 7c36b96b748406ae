"""What ODE-Net classifiers and regressors share: the network and its solver."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch
from torch import Tensor, nn

from skfunc._members import MemberNetworkEstimator
from skfunc._shapes import Float
from skfunc._validation import (
    check_image_shape,
    check_integer,
    check_option,
    check_real,
    check_sizes,
)
from skfunc.nn import ACTIVATIONS, ODENet, SolverOptions, draw_module
from skfunc.solvers import FIXED_METHODS, SolverReport
try:
    from skfunc.solvers import check_method
except ImportError:
    def check_method(x): pass


# Rows whose solve fills `solver_report_` at the end of fit.
_REPORTED_ROWS = 256
# Methods of predict when only a tolerance or only a number of steps is given.
_ADAPTIVE, _FIXED = "dopri5", "rk4"


class BaseODENet(MemberNetworkEstimator):
    """Parameters, network and solver of the ODE-Nets."""

    def __init__(
        self,
        *,
        hidden_layer_sizes: Sequence[int] = (64,),
        state_size: int = 64,
        n_augment: int = 0,
        field: str | Callable[..., nn.Module] = "mlp",
        activation: str = "silu",
        image_shape: Sequence[int] | None = None,
        n_members: int = 8,
        solver: str = "midpoint",
        n_steps: int = 2,
        rtol: float = 1e-3,
        atol: float = 1e-4,
        gradient: str = "backprop",
        per_row: bool = True,
        max_nfe: int = 10_000,
        alpha: float = 1.0,
        batch_size: int | Literal["auto"] = "auto",
        learning_rate_init: float = 5e-3,
        max_iter: int = 100,
        tol: float = 1e-4,
        n_iter_no_change: int = 20,
        early_stopping: bool | Literal["auto"] = "auto",
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        cuda_graph: bool = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.state_size = state_size
        self.n_augment = n_augment
        self.field = field
        self.activation = activation
        self.image_shape = image_shape
        self.n_members = n_members
        self.solver = solver
        self.n_steps = n_steps
        self.rtol = rtol
        self.atol = atol
        self.gradient = gradient
        self.per_row = per_row
        self.max_nfe = max_nfe
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state
        self.device = device
        self.cuda_graph = cuda_graph

    def _check_parameters(self, n_features: int) -> None:
        self._check_training_parameters()
        check_sizes("hidden_layer_sizes", self.hidden_layer_sizes)
        check_integer("state_size", self.state_size)
        check_integer("n_augment", self.n_augment, low=0)
        check_option("activation", self.activation, sorted(ACTIVATIONS))
        if not callable(self.field):
            check_option("field", self.field, ("mlp", "conv"))
        shape = check_image_shape(self.image_shape, n_features)
        if shape is None and self.field == "conv":
            raise ValueError(
                "field='conv' needs image_shape=(channels, height, width), whose "
                f"product is the width of X ({n_features})"
            )
        if shape is not None and self.field == "mlp":
            raise ValueError(
                "image_shape needs field='conv' or a field of yours; field='mlp' takes "
                "rows as they are"
            )
        check_method(self.solver)
        check_integer("n_steps", self.n_steps)
        check_integer("max_nfe", self.max_nfe)
        check_real("rtol", self.rtol, 0, inclusive=False)
        check_real("atol", self.atol, 0)
        check_option("gradient", self.gradient, ("backprop", "checkpoint", "adjoint"))

    def _build_module(self, n_features: int, n_outputs: int) -> nn.Module:
        return ODENet(
            n_features,
            n_outputs,
            state_size=self.state_size,
            hidden_layer_sizes=check_sizes(
                "hidden_layer_sizes", self.hidden_layer_sizes
            ),
            n_augment=self.n_augment,
            field=self.field,
            activation=self.activation,
            image_shape=check_image_shape(self.image_shape, n_features),
        )

    def _draw(self, module: nn.Module, generator: torch.Generator) -> None:
        draw_module(module, generator)

    def _numbers_per_row(self) -> int:
        width = self.state_size + self.n_augment
        widest = max(width, *check_sizes("hidden_layer_sizes", self.hidden_layer_sizes))
        if self.image_shape is not None:
            widest = width * int(np.prod(self.image_shape[1:]))
        return 8 * widest

    def _training_solver(self) -> SolverOptions:
        fixed = self.solver in FIXED_METHODS
        return SolverOptions(
            method=self.solver,
            n_steps=self.n_steps if fixed else None,
            rtol=self.rtol,
            atol=self.atol,
            gradient=self.gradient,
            max_nfe=self.max_nfe,
        )

    def _solver_at(self, rtol: float | None, n_steps: int | None) -> SolverOptions:
        """Return how to solve at predict time, overrides considered."""
        options = replace(self._training_solver(), gradient="backprop")
        if rtol is not None and n_steps is not None:
            raise ValueError("give rtol or n_steps to predict, not both")
        fixed = options.method in FIXED_METHODS
        if rtol is not None:
            rtol = check_real("rtol", rtol, 0, inclusive=False)
            method = _ADAPTIVE if fixed else options.method
            # The absolute tolerance keeps its proportion to the relative one.
            atol = rtol * (self.atol / self.rtol)
            options = replace(
                options, method=method, n_steps=None, rtol=rtol, atol=atol
            )
        elif n_steps is not None:
            n_steps = check_integer("n_steps", n_steps)
            method = options.method if fixed else _FIXED
            options = replace(options, method=method, n_steps=n_steps)
        own_step = options.method not in FIXED_METHODS and ":" not in options.method
        return replace(options, per_row=self.per_row and own_step)

    def _network_outputs(
        self, module: nn.Module, rows: Tensor, **options: Any
    ) -> tuple[Float[Tensor, "members rows outputs"], SolverReport]:
        solver = self._solver_at(options.get("rtol"), options.get("n_steps"))
        return module(rows, solver)

    def _record_reports(self, reports: list[tuple[int, Any]]) -> None:
        weights = [max(rows, 1) for rows, _ in reports]
        self._runtime.report = SolverReport.merge([r for _, r in reports], weights)

    @property
    def solver_report_(self) -> dict[str, Any]:
        """How the last solve went: method, evaluations, rejected steps, status."""
        if getattr(self, "_runtime", None) is None or self._runtime.report is None:
            return self._fit_report
        report = self._runtime.report.to_dict()
        report.pop("nfe_per_row")
        return report

    @property
    def nfe_(self) -> float:
        """Evaluations of the field per row in the last solve."""
        return self.solver_report_["nfe"]

    def _finish_fit(self, X: NDArray[np.float64]) -> None:
        """Solve once for some training rows, so that the report exists after fit."""
        self._member_outputs(X[:_REPORTED_ROWS])
        self._fit_report = self.solver_report_
        self._runtime.report = None

    def _scaled(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        return (X - self.X_mean_) / self.X_scale_

    def nfe(self, X: ArrayLike, rtol: float | None = None) -> NDArray[np.float64]:
        """Count evaluations of the field, row by row: the hard rows cost more.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        rtol : float, optional
            Relative tolerance; default: the estimator's. A fixed-step solver is
            replaced by dopri5.

        Returns
        -------
        ndarray of shape (n_samples,)
            Evaluations, averaged over the members.
        """
        rows = self._scaled(self._check_rows(X))
        self._member_outputs(rows, rtol=self.rtol if rtol is None else rtol)
        report = self._runtime.report
        if report.nfe_per_row is None:
            return np.full(len(rows), float(report.nfe))
        return report.nfe_per_row.double().mean(0).numpy()

    def tolerance_curve(
        self,
        X: ArrayLike,
        y: ArrayLike,
        rtols: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
    ) -> Bunch:
        """Trade accuracy for evaluations after training.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Their targets.
        rtols : sequence of float
            Relative tolerances of the adaptive solver.

        Returns
        -------
        Bunch
            `rtol`, `score` (accuracy, or R^2), `log_prob` (mean log predictive
            density), `nfe` (evaluations per row) and `seconds` (wall time), each an
            ndarray of shape (n_tolerances,).
        """
        columns: dict[str, list[float]] = {
            name: [] for name in ("rtol", "score", "log_prob", "nfe", "seconds")
        }
        for rtol in rtols:
            started = time.perf_counter()
            score, log_prob = self._scores_at(X, y, rtol=rtol)
            columns["seconds"].append(time.perf_counter() - started)
            columns["rtol"].append(float(rtol))
            columns["score"].append(score)
            columns["log_prob"].append(log_prob)
            columns["nfe"].append(self.nfe_)
        return Bunch(**{name: np.asarray(v) for name, v in columns.items()})

    def _scores_at(
        self, X: ArrayLike, y: ArrayLike, **options: Any
    ) -> tuple[float, float]:
        raise NotImplementedError
