"""What SDE-BNN classifiers and regressors share: the network, its paths, its bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from torch import Tensor, nn

from skfunc._depth import (
    ATTRIBUTES,
    NETWORK_PARAMETERS,
    TRAINING_PARAMETERS,
    DepthEstimator,
)
from skfunc._docstrings import fill_docstrings
from skfunc._shapes import Float
from skfunc._validation import check_integer, check_option, check_real
from skfunc.nn import DRIFTS, SDEBNN, PathOptions, PathOutputs, draw_sde_bnn
from skfunc.solvers import check_sde_method

# Paths of each member that judge its epochs, and that calibrate it; fewer for
# convolutions, where a path over all rows is what an epoch costs.
_JUDGING_PATHS, _JUDGING_IMAGE_PATHS = 4, 2

_PARAMETERS = f"""{NETWORK_PARAMETERS}
    n_members : int, default=8
        Posteriors trained in one pass, each from its own seed and without its own part
        of the rows.
    drift : {{"affine", "lowrank", "affine+lowrank", "mlp"}}, default="affine"
        The posterior drift u(t, z) of the deviations z of the weights from their start,
        in units of sigma: a shift and a pull for each weight, linear in t; a network
        of `rank` linear combinations of them, spread to all of them; the sum of both;
        or a network of all of them, without a bottleneck.
    rank : int, default=16
        Of a low-rank drift.
    sigma : float or "auto", default="auto"
        Diffusion of the weights, of prior and posterior alike. "auto" learns one for
        each member, from .1 on, or from .02 for convolutions, by the evidence lower
        bound.
    mean_reversion : float, default=1.0
        Rate at which the prior pulls the weights towards their mean.
    prior_mean : {{"initial", "zero"}}, default="initial"
        Whether that mean is the weights at depth 0, or 0 as in [1]_.
    initial_weights : {{"point", "gaussian"}}, default="point"
        The weights at depth 0: a point, or a Gaussian with learned moments, whose prior
        is the stationary distribution of the process, about the weights first drawn or
        about 0.
    n_train_paths : int, default=1
        Weight paths of each member in a training step; an even number comes in pairs
        of mirrored noise.
    n_predict_paths : int, default=32
        Weight paths of a prediction, shared out among the members. Their noise is fixed
        by fit and the same for all rows.
    kl_weight : float, default=1.0
        Factor on the divergence from the prior; 1 is the evidence lower bound.
    kl_warmup : float, default=0.0
        Share of the epochs over which that factor rises from 0.
    stl : bool, default=True
        Whether the gradient sticks the landing: its noise then vanishes where the
        posterior is exact.
    solver : str, default="ou"
        "ou", the exact transition of an Ornstein-Uhlenbeck process with the drift held
        over a step; "euler", "heun", "midpoint", "reversible_heun" on a fixed grid;
        "adaptive_heun"; or "torchsde:METHOD" for any method of that library.
    n_steps : int, default=2
        Steps of a fixed grid.
    rtol, atol : float, default=1e-3, 1e-3
        Tolerances of an adaptive solver, relative and absolute.
    gradient : {{"backprop", "checkpoint", "adjoint"}}, default="backprop"
        Through the solver's steps; the same with states recomputed; or the adjoint
        equation, with the noise rebuilt from its seed.
    max_nfe : int, default=10000
        Most evaluations of the field in an adaptive solve; then it is finished on a
        fixed grid, with one warning.
    {TRAINING_PARAMETERS}"""
_ATTRIBUTES = f"""{ATTRIBUTES}
    kl_ : float
        Divergence of the posterior over weight paths from the prior, nats, averaged
        over the members and some paths.
    elbo_ : float
        Evidence lower bound: the log likelihood of the rows that a member trained on,
        summed by their weights and averaged over the same paths, less `kl_`; nats,
        averaged over the members, before any calibration.
    path_seed_ : int
        Seed of the noise of all weight paths."""
_REFERENCES = """.. [1] W. Xu, R. T. Q. Chen, X. Li, D. Duvenaud, "Infinitely deep
           Bayesian neural networks with stochastic differential equations", 2022,
           arXiv:2102.06559.
    .. [2] E. Dupont, A. Doucet, Y. W. Teh, "Augmented neural ODEs", 2019,
           arXiv:1904.01681.
    .. [3] G. Roeder, Y. Wu, D. Duvenaud, "Sticking the landing: simple, lower-variance
           gradient estimators for variational inference", 2017, arXiv:1703.09194."""

document_sde_bnn = fill_docstrings(
    parameters=_PARAMETERS,
    attributes=_ATTRIBUTES,
    references=_REFERENCES,
)


class BaseSDEBNN(DepthEstimator):
    """Parameters, network and weight paths of the SDE-BNNs."""

    def __init__(
        self,
        *,
        hidden_layer_sizes: int | Sequence[int] = (64,),
        state_size: int = 64,
        n_augment: int = 0,
        field: str | Callable[..., nn.Module] = "auto",
        activation: str = "silu",
        image_shape: Sequence[int] | None = None,
        n_members: int = 8,
        drift: str = "affine",
        rank: int = 16,
        sigma: float | Literal["auto"] = "auto",
        mean_reversion: float = 1.0,
        prior_mean: str = "initial",
        initial_weights: str = "point",
        n_train_paths: int = 1,
        n_predict_paths: int = 32,
        kl_weight: float = 1.0,
        kl_warmup: float = 0.0,
        stl: bool = True,
        solver: str = "ou",
        n_steps: int = 2,
        rtol: float = 1e-3,
        atol: float = 1e-3,
        gradient: str = "backprop",
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
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.state_size = state_size
        self.n_augment = n_augment
        self.field = field
        self.activation = activation
        self.image_shape = image_shape
        self.n_members = n_members
        self.drift = drift
        self.rank = rank
        self.sigma = sigma
        self.mean_reversion = mean_reversion
        self.prior_mean = prior_mean
        self.initial_weights = initial_weights
        self.n_train_paths = n_train_paths
        self.n_predict_paths = n_predict_paths
        self.kl_weight = kl_weight
        self.kl_warmup = kl_warmup
        self.stl = stl
        self.solver = solver
        self.n_steps = n_steps
        self.rtol = rtol
        self.atol = atol
        self.gradient = gradient
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

    def _check_parameters(self, n_features: int) -> None:
        self._check_training_parameters()
        self._check_network(n_features)
        check_option("drift", self.drift, sorted(DRIFTS))
        check_integer("rank", self.rank)
        if self.sigma != "auto":
            check_real("sigma", self.sigma, 0, inclusive=False)
        check_option("prior_mean", self.prior_mean, ("initial", "zero"))
        gaussian = self.initial_weights == "gaussian"
        check_option("initial_weights", self.initial_weights, ("point", "gaussian"))
        # Without a pull there is no stationary distribution to start from.
        check_real("mean_reversion", self.mean_reversion, 0, inclusive=not gaussian)
        check_integer("n_train_paths", self.n_train_paths)
        check_integer("n_predict_paths", self.n_predict_paths)
        check_real("kl_weight", self.kl_weight, 0)
        check_real("kl_warmup", self.kl_warmup, 0, 1)
        check_option("stl", self.stl, (True, False))
        try:
            check_sde_method(self.solver)
        except ValueError as error:
            raise ValueError(f"solver={self.solver!r}: {error}") from error
        check_integer("n_steps", self.n_steps)
        check_integer("max_nfe", self.max_nfe)
        check_real("rtol", self.rtol, 0, inclusive=False)
        check_real("atol", self.atol, 0)
        check_option("gradient", self.gradient, ("backprop", "checkpoint", "adjoint"))

    def _build_module(self, n_features: int, n_outputs: int) -> SDEBNN:
        return SDEBNN(
            n_features,
            n_outputs,
            drift=self.drift,
            rank=self.rank,
            sigma=None if self.sigma == "auto" else float(self.sigma),
            rate=float(self.mean_reversion),
            prior_mean=self.prior_mean,
            gaussian_start=self.initial_weights == "gaussian",
            **self._network_settings(n_features),
        )

    def _draw(self, module: nn.Module, generator: torch.Generator) -> None:
        assert isinstance(module, SDEBNN)
        draw_sde_bnn(module, generator)

    def _divergence(self) -> tuple[float, float]:
        return float(self.kl_weight), float(self.kl_warmup)

    def _prepare(
        self, module: nn.Module, random_state: np.random.RandomState
    ) -> dict[str, Any]:
        seed = int(random_state.randint(2**31 - 1))
        assert isinstance(module, SDEBNN)
        # Every training step draws paths of its own, from the seeds after this one.
        module.first_seed = module.last_seed = seed
        return {"path_seed_": seed}

    def _numbers_per_row(self) -> int:
        return super()._numbers_per_row() * self._paths_per_member()

    def _paths_per_member(self) -> int:
        return max(1, self.n_predict_paths // self.n_members)

    def _judging_paths(self) -> int:
        as_rows = self.image_shape is None or self.field == "mlp"
        most = _JUDGING_PATHS if as_rows else _JUDGING_IMAGE_PATHS
        return min(most, self._paths_per_member())

    def _fit_options(self) -> dict[str, Any]:
        return {"n_paths": self._judging_paths()}

    def _paths(self, seed: int, n_paths: int, **changes: Any) -> PathOptions:
        settings: dict[str, Any] = {
            "method": self.solver,
            "n_steps": self.n_steps,
            "rtol": self.rtol,
            "atol": self.atol,
            "max_nfe": self.max_nfe,
        }
        return PathOptions(seed=seed, n_paths=n_paths, **(settings | changes))

    def _path_losses(
        self, outputs: Float[Tensor, "functions rows outputs"], targets: Tensor
    ) -> Float[Tensor, "functions rows"]:
        """Return the negative log likelihood of each function."""
        raise NotImplementedError

    def _losses(
        self, outputs: Float[Tensor, "members paths rows outputs"], targets: Tensor
    ) -> Float[Tensor, "members paths rows"]:
        paths = outputs.shape[1]
        repeated = targets.repeat_interleave(paths, 0)
        return self._path_losses(outputs.flatten(0, 1), repeated).unflatten(
            0, (-1, paths)
        )

    def _training_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "members rows"], Float[Tensor, " members"]]:
        """Return the parts of the evidence lower bound, the paths averaged."""
        rows, targets = batch
        assert isinstance(module, SDEBNN)
        module.last_seed += 1
        options = self._paths(
            module.last_seed,
            self.n_train_paths,
            antithetic=True,
            gradient=self.gradient,
            sticking=self.stl,
        )
        found: PathOutputs = module(rows, options)
        divergence = found.divergence + found.martingale
        return self._losses(found.outputs, targets).mean(1), divergence.mean(1)

    def _row_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> Float[Tensor, "members rows"]:
        """Negative log density of each member's mixture over paths, which are fixed."""
        rows, targets = batch
        assert isinstance(module, SDEBNN)
        n_paths = self._judging_paths()
        found = module(rows, self._paths(module.first_seed, n_paths))
        losses = self._losses(found.outputs, targets)
        return math.log(n_paths) - torch.logsumexp(-losses, dim=1)

    def _network_outputs(
        self, module: nn.Module, rows: Tensor, **options: Any
    ) -> tuple[Float[Tensor, "functions rows outputs"], Any]:
        asked = {"seed": self.path_seed_, "n_paths": self._paths_per_member()} | options
        paths = self._paths(asked["seed"], asked["n_paths"])
        found = module(rows, paths, prior=options.get("prior", False))
        self._runtime.divergence = found.divergence.numpy()
        return found.outputs.flatten(0, 1), found.report

    def _draw_outputs(
        self,
        X: ArrayLike,
        n_samples: int,
        random_state: int | np.random.RandomState | None,
        prior: bool,
    ) -> NDArray[np.float64]:
        """Return the outputs along new weight paths, (draws, rows, outputs)."""
        check_integer("n_samples", n_samples)
        check_option("prior", prior, (True, False))
        rows = self._scaled(self._check_rows(X))
        generator = check_random_state(random_state)
        seed = int(generator.randint(2**31 - 1))
        first = generator.permutation(self.n_members)
        n_paths = self._paths_per_member()
        blocks = []
        # As many paths at a time as a prediction has, so that memory does not grow.
        for block in range(math.ceil(n_samples / (n_paths * self.n_members))):
            outputs = self._member_outputs(
                rows, seed=(seed + block) % 2**31, n_paths=n_paths, prior=prior
            )
            # Paths of all members in turn, so that few draws are of different members.
            by_member = outputs.reshape(self.n_members, n_paths, *outputs.shape[1:])
            blocks.append(by_member[first].swapaxes(0, 1).reshape(outputs.shape))
        return np.concatenate(blocks)[:n_samples]

    def _finish_fit(
        self,
        outputs: NDArray[np.float64],
        targets: NDArray[Any],
        weights: NDArray[np.float64],
    ) -> None:
        divergence = self._runtime.divergence
        super()._finish_fit(outputs, targets, weights)
        functions = torch.as_tensor(outputs).unflatten(0, (self.n_members, -1))
        expanded = torch.as_tensor(targets).expand(self.n_members, *targets.shape)
        losses = self._losses(functions, expanded).mean(1).numpy()
        self.kl_ = float(divergence.mean())
        self.elbo_ = float(-(losses * weights).sum(1).mean()) - self.kl_

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        return (*super()._fitted_attributes(), "kl_", "elbo_", "path_seed_")

    def _check_fitted_state(self) -> None:
        super()._check_fitted_state()
        check_integer("path_seed_", self.path_seed_, low=0)
