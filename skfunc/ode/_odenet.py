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

from skfunc._docstrings import fill_docstrings
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
_PARAMETERS = """hidden_layer_sizes : int or sequence of int, default=(64,)
        Widths of the hidden layers of the field f; of an MLP.
    state_size : int, default=64
        Width of the state h, or its number of channels for images.
    n_augment : int, default=0
        Zero dimensions (or channels) added to the state [2]_: trajectories that would
        have to cross in the state itself can pass each other there.
    field : {"auto", "mlp", "conv"} or callable, default="auto"
        The vector field. "conv" has two 3x3 convolutions with group normalization and
        needs `image_shape`; "auto" is "conv" for images, else "mlp". A callable, such
        as a class of yours, is called with the state's size (an int, or (channels,
        height, width) for images) and returns a `torch.nn.Module` whose forward(t, h)
        has h's shape.
    activation : {"elu", "gelu", "identity", "logistic", "relu", "silu", "softplus", \
"tanh"}, default="silu"
        Activation inside the field.
    image_shape : tuple of int, default=None
        (channels, height, width) of images that come as flattened rows.
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
    gradient : {"backprop", "checkpoint", "adjoint"}, default="backprop"
        Through the solver's steps; the same with states recomputed, in memory that
        grows as the square root of the steps; or the continuous adjoint equation, in
        constant memory and with an error of the size of the tolerance.
    per_row : bool, default=True
        Whether an adaptive solver gives each row its own steps at predict time. With
        False rows share their steps, and a prediction depends on the rows beside it.
    max_nfe : int, default=10000
        Most evaluations of the field in an adaptive solve; then it is finished on a
        fixed grid, with one warning.
    alpha : float, default=1.0
        L2 penalty: the precision of a Gaussian prior on the weights. As in
        `MLPRegressor` it is divided by the sample size; it acts as weight decay.
    batch_size : int or "auto", default="auto"
        Rows per step; "auto" is all of up to 64 rows, and n_samples / 16 between 32 and
        256 beyond.
    learning_rate_init : float, default=1e-2
        Peak learning rate of Adam; it warms up, then falls along half a cosine.
    max_iter : int or "auto", default="auto"
        Most epochs, over which the learning rate falls. "auto" is 200 for up to 3000
        rows, then 600 000 / n_samples, and at least 20.
    tol : float, default=1e-4
        Without a held-out part, an epoch that lowers the loss by less is no progress.
    n_iter_no_change : int, default=30
        Epochs without progress after which a member stops.
    early_stopping : bool or "auto", default="auto"
        Whether each member keeps a part of the rows out of its training, another one
        for each. It then keeps the weights of its best epoch there, and these rows
        calibrate the predictions. "auto": from 8 distinct rows on.
    validation_fraction : float, default=0.1
        The part that a member keeps out. Equal rows are kept out together.
    warm_start : bool, default=False
        Whether fit starts from the weights of the previous fit.
    verbose : bool, default=False
        Whether to print the losses of every epoch.
    random_state : int, RandomState or None, default=None
        Initial weights, held-out parts and batches.
    device : str, default="auto"
        Where to train: "auto" is CUDA where there is one. The fitted state is kept on
        the CPU.
    cuda_graph : bool, default=False
        Whether to capture the training step as a CUDA graph; needs CUDA and a fixed
        grid."""
_ATTRIBUTES = """parameters_ : ndarray of shape (n_members, n_parameters)
        Weights of the members, averaged over the last steps of training.
    n_iter_ : int
        Epochs run by the member that ran longest.
    best_iter_ : ndarray of shape (n_members,)
        The epoch whose weights each member kept.
    loss_curve_ : list of float
        Training loss of every epoch, averaged over the members.
    validation_scores_ : list of float or None
        Mean held-out log likelihood of every epoch, up to a constant.
    n_retries_ : ndarray of shape (n_members,)
        Restarts after a loss that was not finite.
    solver_report_ : dict
        The last solve: method, `nfe` (evaluations of the field per row), `nfe_max`,
        `n_steps`, `n_rejected`, and `status`, one of "success", "capped", "diverged".
    nfe_ : float
        Evaluations of the field per row in the last solve.
    X_mean_, X_scale_ : ndarray of shape (n_features,)
        Weighted moments that X is standardized by.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where X had any."""
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
    attributes=_ATTRIBUTES,
    references=_REFERENCES,
    predict_options=_PREDICT_OPTIONS,
)


class BaseODENet(MemberNetworkEstimator):
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
        check_sizes("hidden_layer_sizes", self.hidden_layer_sizes)
        check_integer("state_size", self.state_size)
        check_integer("n_augment", self.n_augment, low=0)
        check_option("activation", self.activation, sorted(ACTIVATIONS))
        if not callable(self.field):
            check_option("field", self.field, ("auto", "mlp", "conv"))
        shape = check_image_shape(self.image_shape, n_features)
        if shape is None and self.field == "conv":
            raise ValueError(
                "field='conv' needs image_shape=(channels, height, width), whose "
                f"product is the width of X ({n_features})"
            )
        if shape is not None and self.field == "mlp":
            raise ValueError(
                "image_shape needs field='conv', which is the default for images, or a "
                "field of yours; field='mlp' takes rows as they are"
            )
        try:
            check_method(self.solver)
        except ValueError as error:
            raise ValueError(f"solver={self.solver!r}: {error}") from error
        for name in ("per_row", "warm_start", "cuda_graph"):
            check_option(name, getattr(self, name), (True, False))
        check_integer("n_steps", self.n_steps)
        check_integer("max_nfe", self.max_nfe)
        check_real("rtol", self.rtol, 0, inclusive=False)
        check_real("atol", self.atol, 0)
        check_option("gradient", self.gradient, ("backprop", "checkpoint", "adjoint"))

    def _build_module(self, n_features: int, n_outputs: int) -> nn.Module:
        field = self.field
        if isinstance(field, str) and field == "auto":
            field = "mlp" if self.image_shape is None else "conv"
        return ODENet(
            n_features,
            n_outputs,
            state_size=self.state_size,
            hidden_layer_sizes=check_sizes(
                "hidden_layer_sizes", self.hidden_layer_sizes
            ),
            n_augment=self.n_augment,
            field=field,
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

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        return (*super()._fitted_attributes(), "_fit_report")

    def _check_fitted_state(self) -> None:
        super()._check_fitted_state()
        if not isinstance(self._fit_report, dict):
            raise ValueError("the solver's report is missing")

    def _finish_fit(
        self,
        outputs: NDArray[np.float64],
        targets: NDArray[Any],
        weights: NDArray[np.float64],
    ) -> None:
        super()._finish_fit(outputs, targets, weights)
        self._fit_report = self.solver_report_
        self._runtime.report = None

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
