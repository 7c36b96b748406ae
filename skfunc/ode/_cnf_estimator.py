"""Parameters, fitted state and network of `CNFDensity`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skfunc._validation import (
    check_integer,
    check_option,
    check_real,
    check_shape,
    check_sizes,
)
from skfunc.base import FunctionEstimator
from skfunc.nn import SMOOTH_ACTIVATIONS, ContinuousFlow, SolverOptions, draw_module
from skfunc.ode._cnf_fit import FittedFlow
from skfunc.ode._cnf_forms import Base, Part
from skfunc.ode._cnf_plan import FitPlan, FlowChoice
from skfunc.ode._cnf_quantiles import QuantileMap
from skfunc.ode._cnf_rows import PREPROCESSINGS, RowMap
from skfunc.solvers import FIXED_METHODS, TORCHDIFFEQ_FIXED, check_method
from skfunc.training import MemberStack, TrainingResult, resolve_device

Array = NDArray[np.float64]

BASES = ("auto", "normal", "mixture", "kernel")
METHODS = ("auto", "mle", "flow_matching", "hybrid")
# Methods that take n_steps, and not a tolerance.
_GRID_METHODS = {*FIXED_METHODS, *(f"torchdiffeq:{m}" for m in TORCHDIFFEQ_FIXED)}


class _Runtime:
    """What is rebuilt on demand, never stored."""

    def __init__(self) -> None:
        self.stack: MemberStack | None = None


class BaseCNFDensity(FunctionEstimator):
    """What a density is fitted with, and what a fit keeps."""

    _runtime: _Runtime
    columns_: NDArray[np.bool_]
    X_mean_: Array
    X_scale_: Array
    forward_: Array
    backward_: Array
    relation_: Array
    tolerance_: float
    quantile_knots_: Array
    column_gaps_: Array
    base_parts_: list[dict[str, Any]]
    base_shares_: Array
    parameters_: Array
    has_flow_: bool
    n_steps_: int

    def __init__(
        self,
        *,
        base: str = "auto",
        method: str = "auto",
        preprocessing: str = "standardize",
        hidden_layer_sizes: Sequence[int] = (64, 64),
        activation: str = "silu",
        field: str | Callable[..., nn.Module] = "mlp",
        max_components: int = 30,
        solver: str = "rk4",
        n_steps: int = 8,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        kinetic_penalty: float = 0.0,
        jacobian_penalty: float = 0.0,
        alpha: float = 1.0,
        batch_size: int = 256,
        learning_rate_init: float = 5e-3,
        max_iter: int | Literal["auto"] = "auto",
        n_iter_no_change: int = 25,
        validation_fraction: float = 0.15,
        dequantize: bool = True,
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
    ) -> None:
        self.base = base
        self.method = method
        self.preprocessing = preprocessing
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.field = field
        self.max_components = max_components
        self.solver = solver
        self.n_steps = n_steps
        self.rtol = rtol
        self.atol = atol
        self.kinetic_penalty = kinetic_penalty
        self.jacobian_penalty = jacobian_penalty
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.n_iter_no_change = n_iter_no_change
        self.validation_fraction = validation_fraction
        self.dequantize = dequantize
        self.verbose = verbose
        self.random_state = random_state
        self.device = device

    def _check_parameters(self) -> None:
        check_option("base", self.base, BASES)
        check_option("method", self.method, METHODS)
        check_option("preprocessing", self.preprocessing, PREPROCESSINGS)
        sizes = check_sizes("hidden_layer_sizes", self.hidden_layer_sizes)
        if len(sizes) != 2:
            raise ValueError(
                "hidden_layer_sizes must have two entries, for which the trace has a "
                f"closed form; got {self.hidden_layer_sizes!r}. For another network "
                "give a field of yours"
            )
        check_option("activation", self.activation, sorted(SMOOTH_ACTIVATIONS))
        if not callable(self.field):
            check_option("field", self.field, ("mlp",))
        try:
            check_method(self.solver)
        except ValueError as error:
            raise ValueError(f"solver={self.solver!r}: {error}") from error
        names = ("max_components", "n_steps", "batch_size", "n_iter_no_change")
        for name in names:
            check_integer(name, getattr(self, name))
        if self.max_iter != "auto":
            check_integer("max_iter", self.max_iter)
        for name in ("rtol", "learning_rate_init"):
            check_real(name, getattr(self, name), 0, inclusive=False)
        for name in ("atol", "kinetic_penalty", "jacobian_penalty", "alpha"):
            check_real(name, getattr(self, name), 0)
        check_real(
            "validation_fraction", self.validation_fraction, 0, 1, inclusive=False
        )
        for name in ("dequantize", "verbose"):
            check_option(name, getattr(self, name), (True, False))
        resolve_device(self.device)

    def _plan(self, seed: int) -> FitPlan:
        return FitPlan(
            base=self.base,
            method=self.method,
            max_components=int(self.max_components),
            solver=self._solver_options(int(self.n_steps)),
            has_grid=self.solver in _GRID_METHODS,
            alpha=float(self.alpha),
            kinetic_penalty=float(self.kinetic_penalty),
            jacobian_penalty=float(self.jacobian_penalty),
            batch_size=int(self.batch_size),
            learning_rate=float(self.learning_rate_init),
            max_iter=None if self.max_iter == "auto" else int(self.max_iter),
            n_iter_no_change=int(self.n_iter_no_change),
            validation_fraction=float(self.validation_fraction),
            device=resolve_device(self.device),
            seed=seed,
        )

    def _keep(self, row_map: RowMap, gaps: Array, choice: FlowChoice) -> None:
        """Set the fitted attributes."""
        self.__dict__.update(_fitted(row_map, gaps, choice), _runtime=_Runtime())

    def _so_far(
        self, row_map: RowMap, gaps: Array, base: Base, result: TrainingResult
    ) -> dict[str, Any]:
        """Return what would be the fitted attributes after an epoch."""
        flow = FittedFlow(base, result.flat.detach().cpu().double().numpy().copy())
        flow.losses = [float(row[0]) for row in result.losses]
        choice = FlowChoice(flow, True, {}, int(self.n_steps))
        return _fitted(row_map, gaps, choice) | {"_runtime": _Runtime()}

    def _build_stack(self, size: int) -> MemberStack:
        return MemberStack(lambda: self._build_module(size), draw_module)

    def _build_module(self, size: int) -> ContinuousFlow:
        sizes = check_sizes("hidden_layer_sizes", self.hidden_layer_sizes)
        return ContinuousFlow(
            size,
            hidden_layer_sizes=sizes,
            field=self.field,
            activation=self.activation,
        )

    def _solver_options(self, n_steps: int) -> SolverOptions:
        own_step = self.solver not in _GRID_METHODS and ":" not in self.solver
        return SolverOptions(
            method=self.solver,
            n_steps=n_steps,
            rtol=float(self.rtol),
            atol=float(self.atol),
            per_row=own_step,
        )

    def _row_map(self) -> RowMap:
        return RowMap(
            self.columns_,
            self.X_mean_,
            self.X_scale_,
            self.forward_,
            self.backward_,
            self.relation_,
            self.tolerance_,
            QuantileMap(self.quantile_knots_),
        )

    def _flow(self) -> FittedFlow:
        parts = tuple(Part(**part) for part in self.base_parts_)
        return FittedFlow(Base(parts, self.base_shares_), self.parameters_)

    def _stack(self) -> MemberStack:
        if self._runtime.stack is None:
            self._runtime.stack = self._build_stack(self._n_features_out)
        return self._runtime.stack

    @property
    def _n_features_out(self) -> int:
        return int(self.columns_.sum())

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        return (
            "n_features_in_",
            "feature_names_in_",
            "has_flow_",
            "candidates_",
            "base_parts_",
            "base_shares_",
            "parameters_",
            "n_steps_",
            "columns_",
            "column_gaps_",
            "X_mean_",
            "X_scale_",
            "forward_",
            "backward_",
            "relation_",
            "tolerance_",
            "quantile_knots_",
            "n_iter_",
            "loss_curve_",
            "validation_scores_",
            "n_retries_",
            "solver_report_",
        )

    def _check_fitted_state(self) -> None:
        """Raise ValueError if loaded attributes do not make a fitted estimator."""
        self._check_parameters()
        n_features = check_integer("n_features_in_", self.n_features_in_)
        check_integer("n_steps_", self.n_steps_)
        check_real("tolerance_", self.tolerance_, 0)
        if (
            not isinstance(self.columns_, np.ndarray)
            or self.columns_.dtype.kind != "b"
            or self.columns_.shape != (n_features,)
        ):
            raise ValueError("columns_ must be an array of bool, one for each column")
        check_option("has_flow_", self.has_flow_, (True, False))
        size = check_integer("the number of columns_", self._n_features_out)
        for name in ("X_mean_", "X_scale_", "column_gaps_"):
            check_shape(name, getattr(self, name), (n_features,))
        for name in ("forward_", "backward_"):
            check_shape(name, getattr(self, name), (size, size))
        n_knots = self.quantile_knots_.shape[-1]
        check_shape("quantile_knots_", self.quantile_knots_, (3, size, n_knots))
        check_shape("relation_", self.relation_, (size, n_features - size))
        # On the meta device a network costs nothing, however large the file says it is.
        with torch.device("meta"):
            module = self._build_module(size)
        n_parameters = sum(value.numel() for value in module.parameters())
        check_shape("parameters_", self.parameters_, (1, n_parameters))
        if not isinstance(self.base_parts_, list) or not self.base_parts_:
            raise ValueError("base_parts_ must be a list of parts")
        check_shape("base_shares_", self.base_shares_, (len(self.base_parts_),))
        for part in self.base_parts_:
            if set(part) != {"kind", "means", "weights", "cholesky"}:
                raise ValueError("a part of base_parts_ has other entries")
            n_components = len(part["weights"])
            check_shape("weights", part["weights"], (n_components,))
            check_shape("means", part["means"], (n_components, size))
            shared = len(part["cholesky"]) == 1
            factors = 1 if shared else n_components
            check_shape("cholesky", part["cholesky"], (factors, size, size))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what is rebuilt on demand."""
        state = dict(super().__getstate__())
        state.pop("_runtime", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        super().__setstate__(state)
        if hasattr(self, "parameters_"):
            self._runtime = _Runtime()


def _fitted(row_map: RowMap, gaps: Array, choice: FlowChoice) -> dict[str, Any]:
    """Return the fitted attributes."""
    flow = choice.flow
    parts = [
        {
            "kind": part.kind,
            "means": part.means,
            "weights": part.weights,
            "cholesky": part.cholesky,
        }
        for part in flow.base.parts
    ]
    return {
        "columns_": row_map.kept,
        "X_mean_": row_map.mean,
        "X_scale_": row_map.scale,
        "forward_": row_map.forward,
        "backward_": row_map.backward,
        "relation_": row_map.relation,
        "tolerance_": row_map.tolerance,
        "quantile_knots_": row_map.quantiles.knots,
        "column_gaps_": gaps,
        "base_parts_": parts,
        "base_shares_": flow.base.shares,
        "parameters_": flow.parameters,
        "has_flow_": choice.has_flow,
        "candidates_": choice.candidates,
        "n_steps_": choice.n_steps,
        "n_iter_": max(1, len(flow.losses)),
        "loss_curve_": flow.losses,
        "validation_scores_": flow.validation_scores or None,
        "n_retries_": flow.n_retries,
        "solver_report_": choice.report,
    }
