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

from skfunc._depth import (
    ATTRIBUTES,
    NETWORK_PARAMETERS,
    TRAINING_PARAMETERS,
    DepthEstimator,
)
from skfunc._docstrings import fill_docstrings
from skfunc._shapes import Float
from skfunc._validation import (
    check_integer,
    check_option,
    check_real,
)
from skfunc.nn import ODENet, SolverOptions, draw_module
from skfunc.solvers import (
    FIXED_METHODS,
    TORCHDIFFEQ_FIXED,
    SolverReport,
    check_method,
)

# Methods that take n_steps, and not a tolerance.
_GRID_METHODS = {*FIXED_METHODS, *(f"torchdiffeq:{m}" for m in TORCHDIFFEQ_FIXED)}
# Methods of predict when only a tolerance or only a number of steps is given.
_ADAPTIVE, _FIXED = "dopri5", "rk4"


# What both estimators document alike.
_PARAMETERS = f"""{NETWORK_PARAMETERS}
    n_members : int, default=8
        Networks trained in one pass, each from its own seed and without its own part of
        the rows; their spread is the epistemic uncertainty.
    solver : str, default="midpoint"
        "euler", "midpoint", "heun" or "rk4" on a fixed grid; "dopri5" or "tsit5" with
        adaptive steps; or "torchdiffeq:METHOD" for any method of that library.
    n_steps : int, default=1
        Steps of a fixed-grid solver.
    rtol, atol : float, default=1e-3, 1e-4
        Tolerances of an adaptive solver, relative and absolute.
    gradient : {{"backprop", "checkpoint", "adjoint"}}, default="backprop"
        Through the solver's steps; the same with states recomputed, in memory that
        grows as the square root of the steps; or the continuous adjoint equation, in
        constant memory and with an error of the size of the tolerance.
    per_row : bool, default=True
        Whether an adaptive solver gives each row its own steps at predict time. With
        False rows share their steps, and a prediction depends on the rows beside it.
    max_nfe : int, default=10000
        Most evaluations of the field in an adaptive solve; then it is finished on a
        fixed grid, with one warning.
    {TRAINING_PARAMETERS}
    cuda_graph : bool, default=False
        Whether to capture the training step as a CUDA graph; needs CUDA and a fixed
        grid."""
_REFERENCES = """.. [1] R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, "Neural
           ordinary differential equations", 2018, arXiv:1806.07366.
    .. [2] E. Dupont, A. Doucet, Y. W. Teh, "Augmented neural ODEs", 2019,
           arXiv:1904.01681.
    .. [3] B. Lakshminarayanan, A. Pritzel, C. Blundell, "Simple and scalable predictive
           uncertainty estimation using deep ensembles", 2017, arXiv:1612.01474."""
_PREDICT_OPTIONS = """rtol : float, optional
            Solve adaptively with this relative tolerance instead of the estimator's.
        n_steps : int, optional
            Solve on a fixed grid of so many steps instead."""


document_odenet = fill_docstrings(
    parameters=_PARAMETERS,
    attributes=ATTRIBUTES,
    references=_REFERENCES,
    predict_options=_PREDICT_OPTIONS,
)


class BaseODENet(DepthEstimator):
    """Parameters, network and solver of the ODE-Nets."""

    def __init__(
        self,
        *,
        hidden_layer_sizes: Sequence[int] = (64,),
        state_size: int = 64,
        n_augment: int = 0,
        field: str | Callable[..., nn.Module] = "auto",
        activation: str = "silu",
        image_shape: Sequence[int] | None = None,
        n_members: int = 8,
        solver: str = "midpoint",
        n_steps: int = 1,
        rtol: float = 1e-3,
        atol: float = 1e-4,
        gradient: str = "backprop",
        per_row: bool = True,
        max_nfe: int = 10_000,
        alpha: float = 1.0,
        batch_size: int | Literal["auto"] = "auto",
        learning_rate_init: float = 1e-2,
        max_iter: int | Literal["auto"] = "auto",
        tol: float = 1e-4,
        n_iter_no_change: int = 30,
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
        self._check_network(n_features)
        try:
            check_method(self.solver)
        except ValueError as error:
            raise ValueError(f"solver={self.solver!r}: {error}") from error
        for name in ("per_row", "cuda_graph"):
            check_option(name, getattr(self, name), (True, False))
        check_integer("n_steps", self.n_steps)
        check_integer("max_nfe", self.max_nfe)
        check_real("rtol", self.rtol, 0, inclusive=False)
        check_real("atol", self.atol, 0)
        check_option("gradient", self.gradient, ("backprop", "checkpoint", "adjoint"))

    def _build_module(self, n_features: int, n_outputs: int) -> nn.Module:
        return ODENet(n_features, n_outputs, **self._network_settings(n_features))

    def _draw(self, module: nn.Module, generator: torch.Generator) -> None:
        draw_module(module, generator)

    def _training_solver(self) -> SolverOptions:
        return SolverOptions(
            method=self.solver,
            n_steps=self.n_steps,
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
        fixed = options.method in _GRID_METHODS
        if rtol is not None:
            rtol = check_real("rtol", rtol, 0, inclusive=False)
            method = _ADAPTIVE if fixed else options.method
            # The absolute tolerance keeps its proportion to the relative one.
            atol = rtol * (self.atol / self.rtol)
            options = replace(options, method=method, rtol=rtol, atol=atol)
        elif n_steps is not None:
            n_steps = check_integer("n_steps", n_steps)
            method = options.method if fixed else _FIXED
            options = replace(options, method=method, n_steps=n_steps)
        own_step = options.method not in _GRID_METHODS and ":" not in options.method
        return replace(options, per_row=self.per_row and own_step)

    def _network_outputs(
        self, module: nn.Module, rows: Tensor, **options: Any
    ) -> tuple[Float[Tensor, "members rows outputs"], SolverReport]:
        solver = self._solver_at(options.get("rtol"), options.get("n_steps"))
        return module(rows, solver)

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
