"""The density estimator of continuous normalizing flows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    DensityMixin,
    TransformerMixin,
)
from sklearn.utils import Tags, check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
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
from skfunc.ode._cnf_base import Base, Part
from skfunc.ode._cnf_fit import (
    FittedFlow,
    carried,
    drawn,
    log_densities,
)
from skfunc.ode._cnf_plan import FitPlan, FlowChoice, fit_density
from skfunc.ode._cnf_rows import (
    PREPROCESSINGS,
    RowMap,
    fit_row_map,
    rounding_gaps,
    row_copies,
    spread,
)
from skfunc.solvers import FIXED_METHODS, TORCHDIFFEQ_FIXED, check_method
from skfunc.training import MemberStack, resolve_device, thread_limits

Array = NDArray[np.float64]

BASES = ("auto", "normal", "mixture", "kernel")
METHODS = ("auto", "mle", "flow_matching", "hybrid")
# Methods that take n_steps, and not a tolerance.
_GRID_METHODS = {*FIXED_METHODS, *(f"torchdiffeq:{m}" for m in TORCHDIFFEQ_FIXED)}
# Rows up to which a fit runs on one thread.
_SMALL_FIT = 20_000


class _Runtime:
    """What is rebuilt on demand, never stored."""

    def __init__(self) -> None:
        self.stack: MemberStack | None = None


class CNFDensity(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, FunctionEstimator
):
    r"""Density of rows by a continuous normalizing flow.

    Rows are carried along :math:`x' = v(t, x)` from t = 1 to 0, where their
    distribution is simple: a normal, or a mixture of Gaussians and kernel densities.
    By default the fit judges a flow on rows that it did not see, and keeps it only
    where it beats that mixture alone, so that the result is as good as the mixture's on
    small data and better where data are rich.

    Parameters
    ----------
    base : {"auto", "normal", "mixture", "kernel"}, default="auto"
        What the flow starts from. "mixture" is a Gaussian mixture by the Bayesian
        information criterion, "kernel" a kernel density estimate with the bandwidth of
        the best leave-one-out likelihood; each beside a wide background for rare rows.
        "auto" stacks both, with shares by the likelihood of rows they did not see, and
        compares that with a flow from a normal.
    method : {"auto", "mle", "flow_matching", "hybrid"}, default="auto"
        How the flow is trained: by maximum likelihood with an exact trace; by flow
        matching [3]_, which is quicker and less exact; or by the one after the other.
        "auto" is "hybrid" from a normal, else "mle" from the identity.
    preprocessing : {"standardize", "whiten"}, default="standardize"
        What is done to the columns first; its volume change is part of the density.
    hidden_layer_sizes : sequence of 2 ints, default=(64, 64)
        Widths of the field's two hidden layers.
    activation : {"gelu", "logistic", "silu", "softplus", "tanh"}, default="silu"
        Activation of the field.
    field : "mlp" or callable, default="mlp"
        The vector field. A callable is called with the rows' width and returns a
        `torch.nn.Module` whose forward(t, x) has x's shape, each row by itself. While
        it trains, its trace is estimated by a random probe beyond 10 columns; scores
        are exact always.
    max_components : int, default=15
        Most Gaussians of the mixture.
    solver : str, default="rk4"
        "euler", "midpoint", "heun" or "rk4" on a fixed grid; "dopri5" or "tsit5" with
        adaptive steps; or "torchdiffeq:METHOD".
    n_steps : int, default=8
        Least steps of a fixed-grid solver; training takes fewer. Fit doubles
        them until log densities move by less than .001 in the mean.
    rtol, atol : float, default=1e-5, 1e-5
        Tolerances of an adaptive solver.
    kinetic_penalty : float, default=0.0
        Weight of the squared speed along a row's path in maximum likelihood [4]_.
    alpha : float, default=1.0
        L2 penalty, divided by the number of rows; it acts as weight decay.
    batch_size : int, default=256
        Rows per step.
    learning_rate_init : float, default=5e-3
        Peak learning rate of Adam; it warms up, then falls along half a cosine.
    max_iter : int or "auto", default="auto"
        Most steps of maximum likelihood; flow matching takes five times as many, at
        less than a tenth of the cost each. "auto" is half the number of rows between
        150 and 600, and a thirtieth of it from 18 000 rows on, at most 2000.
    n_iter_no_change : int, default=25
        Judgements on the held-out rows without progress after which a training ends.
    validation_fraction : float, default=0.15
        Rows kept out, to choose epoch, base and flow; from 50 rows on. Up to 5000 rows
        the chosen ones are then fitted again to all rows.
    dequantize : bool, default=True
        Whether values of rounded columns are spread evenly over the gap around each.
        See the notes.
    verbose : bool, default=False
        Whether to print the losses of every epoch.
    random_state : int, RandomState or None, default=None
        Initial weights, held-out rows, batches and noise.
    device : str, default="auto"
        Where to train: "auto" is CUDA where there is one. The fitted state is kept on
        the CPU.

    Attributes
    ----------
    has_flow_ : bool
        Whether rows are carried at all: False where the base alone was better.
    candidates_ : dict of str to float
        Mean log likelihood of the held-out rows under each candidate, in units of the
        preprocessed columns.
    base_parts_ : list of dict
        Parts of the base, each a mixture of Gaussians: `kind`, `means`, `weights`, and
        Cholesky factors `cholesky` of the covariances.
    base_shares_ : ndarray of shape (n_parts,)
        Shares of the parts.
    parameters_ : ndarray of shape (1, n_parameters)
        Weights of the field.
    n_steps_ : int
        Steps of a fixed grid that scores take.
    columns_ : ndarray of bool of shape (n_features,)
        Columns with a density of their own; the others follow from them.
    column_gaps_ : ndarray of shape (n_features,)
        What the values of a rounded column were spread over; 0 for others.
    X_mean_, X_scale_ : ndarray of shape (n_features,)
        Moments of the columns.
    forward_, backward_ : ndarray of shape (n_features_out, n_features_out)
        Matrices to and from the preprocessed columns.
    relation_ : ndarray of shape (n_features_out, n_features - n_features_out)
        How the other columns, standardized, follow from those that were kept.
    tolerance_ : float
        Deviation from that relation that is rounding.
    n_iter_ : int
        Epochs of the kept flow, at least 1.
    loss_curve_ : list of float
        Its training losses, one per epoch.
    validation_scores_ : list of float or None
        Its mean held-out log likelihood, one per epoch.
    n_retries_ : int
        Restarts after a loss that was not finite.
    solver_report_ : dict or None
        The solve of the training rows: method, evaluations, steps, status.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where X had any.

    See Also
    --------
    sklearn.mixture.GaussianMixture : A mixture alone.
    sklearn.neighbors.KernelDensity : A kernel density alone.

    Notes
    -----
    With l' = tr dv/dx along the path and l(1) = 0,

    .. math:: \log p(x) = \log p_0(x(0)) - \int_0^1 \mathrm{tr} \frac{\partial v}
        {\partial x}\, dt + \log |\det A|,

    where A is the preprocessing. The field has two hidden layers, whose trace has a
    closed form: no estimate is involved, and the cost does not grow with the columns.

    A constant column, or one that is an affine function of columns before it, has no
    density of its own: it is left out, filled in by `sample`, and a row that breaks the
    relation has log density -inf. A column more than half of whose values have copies,
    and are few or on a grid, is read as rounded: fit spreads its values evenly over the
    smallest gap between two of them, as a density on atoms could grow without end.

    References
    ----------
    .. [1] R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, "Neural
           ordinary differential equations", 2018, arXiv:1806.07366.
    .. [2] W. Grathwohl, R. T. Q. Chen, J. Bettencourt, I. Sutskever, D. Duvenaud,
           "FFJORD: Free-form continuous dynamics for scalable reversible generative
           models", 2019, arXiv:1810.01367.
    .. [3] Y. Lipman, R. T. Q. Chen, H. Ben-Hamu, M. Nickel, M. Le, "Flow matching for
           generative modeling", 2023, arXiv:2210.02747.
    .. [4] C. Finlay, J.-H. Jacobsen, L. Nurbekyan, A. M. Oberman, "How to train your
           neural ODE: the world of Jacobian and kinetic regularization", 2020,
           arXiv:2002.02798.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from skfunc import CNFDensity
    >>> X, _ = make_moons(300, noise=0.1, random_state=0)
    >>> model = CNFDensity(random_state=0, max_iter=50).fit(X)
    >>> model.score_samples(X[:3]).shape
    (3,)
    >>> model.sample(2, random_state=0).shape
    (2, 2)
    >>> z = model.transform(X[:3])
    >>> bool(abs(model.inverse_transform(z) - X[:3]).max() < 1e-3)
    True
    """

    _runtime: _Runtime

    def __init__(
        self,
        *,
        base: str = "auto",
        method: str = "auto",
        preprocessing: str = "standardize",
        hidden_layer_sizes: Sequence[int] = (64, 64),
        activation: str = "silu",
        field: str | Callable[..., nn.Module] = "mlp",
        max_components: int = 15,
        solver: str = "rk4",
        n_steps: int = 8,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        kinetic_penalty: float = 0.0,
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
        for name in ("atol", "kinetic_penalty", "alpha"):
            check_real(name, getattr(self, name), 0)
        check_real(
            "validation_fraction", self.validation_fraction, 0, 1, inclusive=False
        )
        for name in ("dequantize", "verbose"):
            check_option(name, getattr(self, name), (True, False))
        resolve_device(self.device)

    def fit(self, X: ArrayLike, y: Any = None) -> CNFDensity:
        """Fit the density of rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows, at least two.
        y : None
            Ignored.

        Returns
        -------
        self : CNFDensity
            The fitted estimator.

        Raises
        ------
        ValueError
            If all columns are constant, or the rows are too few for the columns.
        FloatingPointError
            If the loss stays non-finite through three restarts, each from the best
            finite weights and with the learning rate halved.
        """
        rows = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        self._check_parameters()
        random_state = check_random_state(self.random_state)
        seed = int(random_state.randint(2**31 - 1))
        row_map = fit_row_map(rows, self.preprocessing)
        gaps = np.zeros(rows.shape[1])
        if self.dequantize:
            gaps[row_map.kept] = rounding_gaps(rows[:, row_map.kept])
        spread_rows = spread(rows, gaps, np.random.default_rng(seed))
        inner, _ = row_map.to_flow(spread_rows)
        stack = self._build_stack(inner.shape[1])
        with thread_limits(small=len(inner) <= _SMALL_FIT):
            choice = fit_density(inner, row_copies(rows), self._plan(seed), stack)
        self._keep(row_map, gaps, choice)
        if choice.flow.interrupted:
            raise KeyboardInterrupt
        return self

    def _plan(self, seed: int) -> FitPlan:
        return FitPlan(
            base=self.base,
            method=self.method,
            max_components=int(self.max_components),
            solver=self._solver_options(int(self.n_steps)),
            has_grid=self.solver in _GRID_METHODS,
            alpha=float(self.alpha),
            kinetic_penalty=float(self.kinetic_penalty),
            batch_size=int(self.batch_size),
            learning_rate=float(self.learning_rate_init),
            max_iter=None if self.max_iter == "auto" else int(self.max_iter),
            n_iter_no_change=int(self.n_iter_no_change),
            validation_fraction=float(self.validation_fraction),
            device=resolve_device(self.device),
            seed=seed,
            verbose=bool(self.verbose),
        )

    def _keep(self, row_map: RowMap, gaps: Array, choice: FlowChoice) -> None:
        """Set the fitted attributes."""
        flow = choice.flow
        self.columns_ = row_map.kept
        self.X_mean_, self.X_scale_ = row_map.mean, row_map.scale
        self.forward_, self.backward_ = row_map.forward, row_map.backward
        self.relation_, self.tolerance_ = row_map.relation, row_map.tolerance
        self.column_gaps_ = gaps
        self.base_parts_: list[dict[str, Any]] = [
            {
                "kind": part.kind,
                "means": part.means,
                "weights": part.weights,
                "cholesky": part.cholesky,
            }
            for part in flow.base.parts
        ]
        self.base_shares_ = flow.base.shares
        self.parameters_ = flow.parameters
        self.has_flow_ = choice.has_flow
        self.candidates_ = choice.candidates
        self.n_steps_ = choice.n_steps
        self.n_iter_ = max(1, len(flow.losses))
        self.loss_curve_ = flow.losses
        self.validation_scores_ = flow.validation_scores or None
        self.n_retries_ = flow.n_retries
        self.solver_report_ = choice.report
        self._runtime = _Runtime()

    def _build_stack(self, size: int) -> MemberStack:
        def build() -> nn.Module:
            return ContinuousFlow(
                size,
                hidden_layer_sizes=check_sizes(
                    "hidden_layer_sizes", self.hidden_layer_sizes
                ),
                field=self.field,
                activation=self.activation,
            )

        return MemberStack(build, draw_module)

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

    def score_samples(self, X: ArrayLike) -> Array:
        """Return the log density of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Nats, with respect to the columns of `columns_`, in X's units; -inf for
            rows whose other columns do not follow from these.
        """
        row_map = self._row_map_checked()
        rows, on_relation = row_map.to_flow(self._check_rows(X))
        solver = self._solver_options(self.n_steps_)
        logs, _ = log_densities(
            self._stack(), self._flow(), rows, solver, self.has_flow_
        )
        return np.where(on_relation, logs + row_map.log_det, -np.inf)

    def _row_map_checked(self) -> RowMap:
        check_is_fitted(self)
        return self._row_map()

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Return the mean log density of rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : None
            Ignored.

        Returns
        -------
        float
            Nats per row.
        """
        return float(self.score_samples(X).mean())

    def sample(
        self,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = None,
    ) -> Array:
        """Draw rows.

        Parameters
        ----------
        n_samples : int, default=1
            How many.
        random_state : int, RandomState or None, default=None
            Which.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In X's units.
        """
        row_map = self._row_map_checked()
        base_rows = self._base_rows(n_samples, random_state)
        return row_map.from_flow(self._from_base(base_rows))

    def trajectories(
        self,
        n_samples: int = 1,
        times: ArrayLike = (0.0, 0.25, 0.5, 0.75, 1.0),
        random_state: int | np.random.RandomState | None = None,
    ) -> Array:
        """Draw rows and return the paths that they came along.

        Parameters
        ----------
        n_samples : int, default=1
            How many.
        times : array-like of shape (n_times,), default=(0, 0.25, 0.5, 0.75, 1)
            Increasing times from 0, the base, to 1, the rows.
        random_state : int, RandomState or None, default=None
            Which; as in `sample`.

        Returns
        -------
        ndarray of shape (n_times, n_samples, n_features)
            In X's units.
        """
        row_map = self._row_map_checked()
        grid = [float(t) for t in np.asarray(times, dtype=np.float64)]
        base_rows = self._base_rows(n_samples, random_state)
        if not self.has_flow_:
            states = np.broadcast_to(base_rows, (len(grid), *base_rows.shape))
        else:
            # Times inside leave the grid between 0 and 1 as fine as it was.
            inner = sorted({0.0, 1.0, *grid})
            states = drawn(
                self._stack(),
                self.parameters_,
                base_rows,
                self._solver_options(self.n_steps_),
                [*inner[:-1], 1.0] if len(inner) > 2 else [0.0, 0.5, 1.0],
            )
            inner = inner if len(inner) > 2 else [0.0, 0.5, 1.0]
            states = states[[inner.index(t) for t in grid]]
        return np.stack([row_map.from_flow(state) for state in states])

    def _base_rows(
        self, n_samples: int, random_state: int | np.random.RandomState | None
    ) -> Array:
        n_samples = check_integer("n_samples", n_samples)
        seed = check_random_state(random_state).randint(2**31 - 1)
        generator = torch.Generator().manual_seed(int(seed))
        return self._flow().base.components().sample(n_samples, generator).numpy()

    def _from_base(self, base_rows: Array) -> Array:
        if not self.has_flow_:
            return base_rows
        solver = self._solver_options(self.n_steps_)
        return drawn(self._stack(), self.parameters_, base_rows, solver)[-1]

    def transform(self, X: ArrayLike) -> Array:
        """Carry rows to the base distribution.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out)
            One column for each of `columns_`.
        """
        row_map = self._row_map_checked()
        rows, _ = row_map.to_flow(self._check_rows(X))
        if not self.has_flow_:
            return rows
        solver = self._solver_options(self.n_steps_)
        parts = carried(self._stack(), self.parameters_, rows, solver)
        return np.concatenate([part.rows[0].numpy() for part in parts])

    def inverse_transform(self, X: ArrayLike) -> Array:
        """Carry rows of the base distribution back.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_out)
            Rows as `transform` returns them.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In the units of fit's X.

        Raises
        ------
        ValueError
            If the rows have another width than `transform` returns.
        """
        row_map = self._row_map_checked()
        base_rows = check_array(X, dtype=np.float64)
        if base_rows.shape[1] != self._n_features_out:
            raise ValueError(
                f"X has {base_rows.shape[1]} columns; transform returns "
                f"{self._n_features_out}"
            )
        return row_map.from_flow(self._from_base(base_rows))

    def __sklearn_tags__(self) -> Tags:
        """Return the tags: a density, and a transformer that keeps float64."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64"]
        return tags

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
        check_shape("relation_", self.relation_, (size, n_features - size))
        # On the meta device a network costs nothing, however large the file says it is.
        with torch.device("meta"):
            module = ContinuousFlow(
                size,
                hidden_layer_sizes=check_sizes(
                    "hidden_layer_sizes", self.hidden_layer_sizes
                ),
                field=self.field,
                activation=self.activation,
            )
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
