"""Conditional densities: p(y | x) by a continuous normalizing flow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from torch import Tensor, nn

from skfunc._epoch_watch import EpochWatch
from skfunc._member_regressor import MemberRegressor
from skfunc._shapes import Float
from skfunc._validation import (
    check_integer,
    check_option,
    check_real,
    check_shape,
    check_sizes,
)
from skfunc.nn import (
    ACTIVATIONS,
    SMOOTH_ACTIVATIONS,
    ConditionalFlow,
    ODENet,
    SolverOptions,
    draw_module,
)
from skfunc.ode._conditional_cnf_documentation import document_conditional_cnf
from skfunc.ode._conditional_cnf_fit import FlowRows, enough_steps, train_flow
from skfunc.ode._conditional_cnf_predictive import (
    FlowMixture,
    SeveralFlowMixture,
    SingleFlowMixture,
)
from skfunc.ode._regressor import weigh_by_variance
from skfunc.predictive import GaussianMixture, Predictive, SampledProcess
from skfunc.training import MemberStack, TrainingResult, resolve_device

# The Gaussian's network is that of an ODE-Net: one midpoint step.
_BASE_SOLVER = SolverOptions(method="midpoint", n_steps=1)
# Hidden units of the network by which the field reads the features.
_CONTEXT_SIZE = 64


@document_conditional_cnf
class ConditionalCNFRegressor(MemberRegressor):
    """Regressor that predicts a density of any shape: skewed, heavy, or of many modes.

    Each of `n_members` networks predicts a mean and a standard deviation, and a
    continuous normalizing flow, conditioned on the row, turns that Gaussian into
    p(y | x). X and y are standardized inside. With several targets the flow is of
    all of them together, so they may depend on each other.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    ODENetRegressor : Gaussian members; what this is without a flow.
    CNFDensity : The density of rows, with nothing to condition on.

    Notes
    -----
    A residual z = (y - mean) / std is carried along dz/dt = v(t, z; x) from t = 1 to a
    standard normal u at t = 0, and ``log p(y | x) = log N(u) - int tr dv/dz dt - log
    std`` [1]_, [2]_: exact up to the solver's error, with a trace in closed form.
    Training is maximum likelihood, first of the Gaussian, then of the flow, which
    starts at the identity. The flow's epoch is the best one on the rows that members
    keep out, taken together, and it is kept only if they gain more than two standard
    errors by it: else the prediction is that of the Gaussians.

    For one target z is an increasing function of u, so its distribution function is
    that of a normal at u. Quantiles invert it by interpolation between 37 points, more
    of them where it bends, to about .001 in probability. For several targets moments
    and quantiles are those of 128 fixed draws from each member. `sample_y` draws
    functions without observation noise: here the conditional mean of one member. Draws
    of y, all modes among them, come from `sample`.

    References
    ----------
    .. [1] R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, "Neural
           ordinary differential equations", 2018, arXiv:1806.07366.
    .. [2] C. Winkler, D. Worrall, E. Hoogeboom, M. Welling, "Learning likelihoods with
           conditional normalizing flows", 2019, arXiv:1912.00042.

    Examples
    --------
    >>> import numpy as np
    >>> from skfunc import ConditionalCNFRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, size=(300, 1))
    >>> y = X[:, 0] + rng.choice([-1, 1], size=300) + 0.1 * rng.normal(size=300)
    >>> model = ConditionalCNFRegressor(n_members=2, random_state=0).fit(X, y)
    >>> model.has_flow_
    True
    >>> on_a_branch, between = model.log_prob([[0.0], [0.0]], [1.0, 0.0])
    >>> bool(on_a_branch > between + 4)
    True
    """

    def __init__(
        self,
        *,
        hidden_layer_sizes: int | Sequence[int] = (64,),
        state_size: int = 64,
        activation: str = "silu",
        flow: bool | Literal["auto"] = "auto",
        flow_hidden_size: int = 16,
        flow_activation: str = "tanh",
        flow_learning_rate_init: float = 3e-2,
        n_steps: int = 4,
        n_members: int = 8,
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
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.state_size = state_size
        self.activation = activation
        self.flow = flow
        self.flow_hidden_size = flow_hidden_size
        self.flow_activation = flow_activation
        self.flow_learning_rate_init = flow_learning_rate_init
        self.n_steps = n_steps
        self.n_members = n_members
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

    def _check_parameters(self, n_features: int) -> None:
        self._check_training_parameters()
        check_sizes("hidden_layer_sizes", self.hidden_layer_sizes)
        for name in ("state_size", "flow_hidden_size", "n_steps"):
            check_integer(name, getattr(self, name))
        check_option("activation", self.activation, sorted(ACTIVATIONS))
        check_option(
            "flow_activation", self.flow_activation, sorted(SMOOTH_ACTIVATIONS)
        )
        check_option("flow", self.flow, ("auto", True, False))
        check_option("warm_start", self.warm_start, (True, False))
        check_real(
            "flow_learning_rate_init", self.flow_learning_rate_init, 0, inclusive=False
        )

    def _build_module(self, n_features: int, n_outputs: int) -> nn.Module:
        return ODENet(
            n_features,
            n_outputs,
            state_size=self.state_size,
            hidden_layer_sizes=check_sizes(
                "hidden_layer_sizes", self.hidden_layer_sizes
            ),
            n_augment=0,
            field="mlp",
            activation=self.activation,
            image_shape=None,
        )

    def _build_flow(self, n_features: int, n_targets: int) -> ConditionalFlow:
        return ConditionalFlow(
            n_features,
            n_targets,
            n_hidden=self.flow_hidden_size,
            context_size=_CONTEXT_SIZE,
            activation=self.flow_activation,
        )

    def _draw(self, module: nn.Module, generator: torch.Generator) -> None:
        draw_module(module, generator)

    def _network_outputs(
        self, module: nn.Module, rows: Tensor, **options: Any
    ) -> tuple[Float[Tensor, "members rows outputs"], None]:
        return module(rows, _BASE_SOLVER)[0], None

    def _record_reports(self, reports: list[tuple[int, Any]]) -> None:
        """Keep nothing: the Gaussian's network takes one step always."""

    def _numbers_per_row(self) -> int:
        widths = check_sizes("hidden_layer_sizes", self.hidden_layer_sizes)
        return 8 * max(self.state_size, *widths)

    def _row_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> Float[Tensor, "members rows"]:
        """Negative log density of a Gaussian, up to a constant."""
        outputs, _ = self._network_outputs(module, batch[0])
        return self._gaussian_losses(outputs, batch[1])[0].sum(-1)

    def _training_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> Float[Tensor, "members rows"]:
        outputs, _ = self._network_outputs(module, batch[0])
        return weigh_by_variance(*self._gaussian_losses(outputs, batch[1]))

    def _member_weights(
        self,
        X: NDArray[np.float64],
        labels: NDArray[np.intp] | None,
        weights: NDArray[np.float64],
        random_state: np.random.RandomState,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        # The flow trains on the rows of its member's Gaussian, and keeps out the same.
        self._row_weights = super()._member_weights(X, labels, weights, random_state)
        return self._row_weights

    def _fit_members(
        self,
        X: NDArray[np.float64],
        targets: NDArray[Any],
        weights: NDArray[np.float64],
        n_outputs: int,
        fixed: dict[str, Any],
        fit_data: tuple[ArrayLike, ArrayLike],
        labels: NDArray[np.intp] | None = None,
    ) -> None:
        """Train the Gaussians, then their flow."""
        previous = getattr(self, "flow_parameters_", None) if self.warm_start else None
        # A generator that is given moves on; a number gives the flow its own.
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        fixed = fixed | {
            "has_flow_": False,
            "flow_parameters_": None,
            "flow_gain_": None,
            "flow_loss_curve_": None,
            "flow_validation_scores_": None,
            "solver_report_": None,
            "n_steps_": int(self.n_steps),
            "seed_": seed,
        }
        self._flow_start = previous
        try:
            super()._fit_members(
                X, targets, weights, n_outputs, fixed, fit_data, labels
            )
        finally:
            for name in ("_row_weights", "_flow_start"):
                self.__dict__.pop(name, None)

    def _further_epochs(self, epochs: int) -> int:
        return 0 if self.flow is False else epochs

    def _train_further(
        self, X: NDArray[np.float64], targets: NDArray[Any], watch: EpochWatch
    ) -> bool:
        """Train a flow of the Gaussians' residuals; keep it where it helps."""
        if self.flow is False:
            return False
        weights, held_out = self._row_weights
        means, stds = self._gaussians(X)
        rows = FlowRows(X, (targets - means) / stds, weights, held_out)
        if self.flow == "auto" and not rows.can_judge:
            return False
        stack = MemberStack(
            partial(self._build_flow, X.shape[1], targets.shape[1]), self._draw
        )
        start, shape = self._flow_start, (self.n_members, stack.n_parameters)
        trained = train_flow(
            stack,
            rows,
            SolverOptions(method="midpoint", n_steps=int(self.n_steps)),
            seed=self.seed_,
            start=start if start is None or start.shape == shape else None,
            learning_rate=float(self.flow_learning_rate_init),
            alpha=float(self.alpha),
            max_iter=self._epochs(len(X)),
            batch_size=None if self.batch_size == "auto" else int(self.batch_size),
            n_iter_no_change=int(self.n_iter_no_change),
            tol=float(self.tol),
            device=resolve_device(self.device),
            on_epoch_begin=watch.begin,
            on_epoch=lambda result: watch.end(result, "flow epoch", self._flow_so_far),
        )
        self.flow_loss_curve_ = trained.losses
        self.flow_validation_scores_ = trained.validation_scores
        self.flow_gain_ = trained.gain
        if self.flow is True or trained.helps:
            flow = stack.bind(torch.as_tensor(trained.parameters))
            assert isinstance(flow, ConditionalFlow)
            self.n_steps_ = enough_steps(flow, rows, int(self.n_steps))
            self.flow_parameters_ = trained.parameters
            self.has_flow_ = True
            # The flow's own shape, which the same rows chose, holds the noise.
            self.noise_scale_ = np.ones(self.n_targets_)
            self.solver_report_ = {
                "method": "rk4",
                "n_steps": self.n_steps_,
                "nfe": 4.0 * self.n_steps_,
                "status": "success",
            }
        return trained.interrupted

    def _flow_so_far(self, result: TrainingResult) -> dict[str, Any]:
        """Return the fitted attributes with a flow that is being trained."""
        fitted = {
            name: getattr(self, name)
            for name in self._fitted_attributes()
            if hasattr(self, name)
        }
        return fitted | {
            "has_flow_": True,
            "flow_parameters_": result.flat.detach().cpu().double().numpy().copy(),
            "noise_scale_": np.ones(self.n_targets_),
            "_runtime": type(self._runtime)(),
        }

    def _gaussians(
        self, rows: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return each member's means and deviations, in units of standardized y."""
        mean, std = self._functions(self._member_outputs(rows))
        return (mean - self.y_mean_) / self.y_scale_, std / (
            self.y_scale_ * self.noise_scale_
        )

    def _bound_flow(self, members: NDArray[np.intp]) -> ConditionalFlow:
        """Return the flow with the parameters of these members, in float64."""
        stack = MemberStack(
            partial(self._build_flow, self.n_features_in_, self.n_targets_)
        )
        flow = stack.bind(torch.as_tensor(self.flow_parameters_[members]))
        assert isinstance(flow, ConditionalFlow)
        return flow

    def _predictive(self, X: NDArray[np.float64], **options: Any) -> Predictive:
        rows = self._scaled(X)
        means, scales = self._functions(self._member_outputs(rows))
        squeeze = self.n_targets_ == 1
        if not self.has_flow_:
            return GaussianMixture(means, scales, squeeze=squeeze)
        kind: type[FlowMixture] = SingleFlowMixture if squeeze else SeveralFlowMixture
        mixture = kind(
            means,
            scales,
            rows,
            self._bound_flow,
            SolverOptions(method="rk4", n_steps=self.n_steps_),
            self.seed_,
        )
        return SampledProcess(mixture, mixture, squeeze=squeeze)

    def _target_shape(self, predictive: Predictive) -> tuple[int, ...]:
        if not isinstance(predictive, SampledProcess):
            return super()._target_shape(predictive)
        # Means cost more than densities here.
        mixture = predictive.marginals
        assert isinstance(mixture, FlowMixture)
        return mixture.means.shape[1:]

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        return (
            *super()._fitted_attributes(),
            "has_flow_",
            "flow_parameters_",
            "flow_gain_",
            "flow_loss_curve_",
            "flow_validation_scores_",
            "solver_report_",
            "n_steps_",
            "seed_",
        )

    def _check_fitted_state(self) -> None:
        super()._check_fitted_state()
        check_option("has_flow_", self.has_flow_, (True, False))
        check_integer("n_steps_", self.n_steps_)
        check_integer("seed_", self.seed_, low=0)
        if self.has_flow_:
            with torch.device("meta"):
                flow = self._build_flow(self.n_features_in_, self.n_targets_)
            n_parameters = sum(value.numel() for value in flow.parameters())
            shape = (self.n_members, n_parameters)
            check_shape("flow_parameters_", self.flow_parameters_, shape)
