"""Networks of continuous depth whose weights follow a stochastic process."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skfunc._shapes import Float
from skfunc.nn._affine_paths import AffinePaths
from skfunc.nn._drifts import DRIFTS, AffineDrift, Drift
from skfunc.nn._layers import draw_module
from skfunc.nn._odenet import ODENet
from skfunc.nn._weight_process import (
    PathOptions,
    SharedPath,
    exact_report,
    follow,
    heun,
)
from skfunc.solvers import SolverReport

# Where a learned sigma starts. Convolutions sum over more weights and learn at smaller
# rates: from .1 they lose half of a short training (rows kept out of MNIST).
_FIRST_SIGMA, _FIRST_IMAGE_SIGMA = 0.1, 0.02


class PathOutputs(NamedTuple):
    """What a network says along drawn weight paths.

    Attributes
    ----------
    outputs : Tensor of shape (members, paths, rows, outputs)
        Outputs of every path.
    divergence : Tensor of shape (members, paths)
        Of each path, nats; the mean over paths is the divergence from the prior.
    martingale : Tensor of shape (members, paths)
        A term of mean 0, for the gradient.
    report : SolverReport
        How the paths were solved for.
    """

    outputs: Float[Tensor, "members paths rows outputs"]
    divergence: Float[Tensor, "members paths"]
    martingale: Float[Tensor, "members paths"]
    report: SolverReport


class _Field:
    """A field that computes with weights given as rows of a matrix."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        # Threads that predict with one model have other weights at the same time.
        self.lock = threading.Lock()
        self.weights: Tensor | None = None
        values = list(module.parameters())
        self.shapes = [tuple(value.shape) for value in values]
        self.sizes = [value.numel() for value in values]
        # A parameter that a user's module ties to two places is set in both.
        self.places: list[list[tuple[nn.Module, str]]] = [[] for _ in values]
        position = {id(value): i for i, value in enumerate(values)}
        for path, value in module.named_parameters(remove_duplicate=False):
            folder, _, leaf = path.rpartition(".")
            place = (module.get_submodule(folder), leaf)
            self.places[position[id(value)]].append(place)

    def __call__(
        self, t: Tensor, weights: Float[Tensor, "stack weights"], h: Tensor
    ) -> Tensor:
        with self.lock:
            if self.weights is not weights:
                self._set(weights)
            return self.module(t, h)

    def _set(self, weights: Float[Tensor, "stack weights"]) -> None:
        self.weights = weights
        parts = weights.split(self.sizes, dim=1)
        for places, shape, part in zip(self.places, self.shapes, parts, strict=True):
            value = part.view(-1, *shape)
            for owner, leaf in places:
                owner._parameters[leaf] = value


class SDEBNN(ODENet):
    """ODE-Net whose field has weights w_t that follow a stochastic process.

    Xu et al. 2022, Infinitely deep Bayesian neural networks with stochastic
    differential equations (arXiv 2102.06559). The field's own parameters are the
    weights w0 at depth 0; the prior is dw = -rate (w - m) dt + sigma dB, to which the
    posterior adds sigma u(t, w) dt.
    Its parameters always carry a leading member axis.

    Parameters
    ----------
    n_features, n_outputs, state_size, hidden_layer_sizes, n_augment, field
        As of `ODENet`, as are `activation` and `image_shape`.
    drift : str
        Name in `DRIFTS`.
    rank : int
        Of a low-rank drift.
    sigma : float or None
        The diffusion; None learns it, from .1 on, or from .02 for images.
    rate : float
        Speed of the pull to the prior mean.
    prior_mean : {"initial", "zero"}
        Whether m is w0, or 0.
    gaussian_start : bool
        Whether w0 is Gaussian with learned moments instead of a point. Its prior is the
        stationary distribution, about where the field was drawn or about 0.
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        *,
        state_size: int,
        hidden_layer_sizes: Sequence[int],
        n_augment: int,
        field: str | Callable[..., nn.Module],
        activation: str,
        image_shape: tuple[int, int, int] | None,
        drift: str,
        rank: int,
        sigma: float | None,
        rate: float,
        prior_mean: str,
        gaussian_start: bool,
    ) -> None:
        settings: dict[str, Any] = {
            "state_size": state_size,
            "hidden_layer_sizes": hidden_layer_sizes,
            "n_augment": n_augment,
            "field": field,
            "activation": activation,
            "image_shape": image_shape,
        }
        super().__init__(n_features, n_outputs, **settings)
        # The same field again, outside of the modules: it computes with given weights.
        twin = ODENet(n_features, n_outputs, **settings).field
        self._compute = _Field(twin)
        self.n_weights = sum(self._compute.sizes)
        self.rate, self.sigma = rate, sigma
        self.first_sigma = _FIRST_SIGMA if image_shape is None else _FIRST_IMAGE_SIGMA
        self.prior_mean, self.gaussian_start = prior_mean, gaussian_start
        # Seeds of a training's paths, for its user to set.
        self.first_seed = self.last_seed = 0
        self.drift: Drift = DRIFTS[drift](self.n_weights, rank)
        if sigma is None:
            self.log_sigma = nn.Parameter(torch.empty(1))
        if gaussian_start:
            self.log_spread = nn.Parameter(torch.empty(self.n_weights))
            if prior_mean == "initial":
                # Where the field was drawn; no gradient reaches it.
                self.centre = nn.Parameter(torch.empty(self.n_weights))

    def finish_draw(self) -> None:
        """Set what depends on the field's drawn weights; after `draw_module`."""
        with torch.no_grad():
            if self.sigma is None:
                self.log_sigma.fill_(math.log(self.first_sigma))
            if self.gaussian_start:
                self.log_spread.fill_(-0.5 * math.log(2.0 * self.rate))
                if self.prior_mean == "initial":
                    flat = [value.flatten() for value in self.field.parameters()]
                    self.centre.copy_(torch.cat(flat))

    def initial_weights(self) -> Float[Tensor, "members weights"]:
        """Return w0 of every member."""
        return torch.cat([value.flatten(1) for value in self.field.parameters()], dim=1)

    def diffusion(self, like: Tensor) -> Float[Tensor, "members 1"]:
        """Return sigma of every member."""
        if self.sigma is None:
            return self.log_sigma.exp()
        return torch.full_like(like[:, :1], self.sigma)

    def forward(  # type: ignore[override]
        self,
        x: Float[Tensor, "members rows features"],
        options: PathOptions,
        prior: bool = False,
    ) -> PathOutputs:
        """Return the outputs along weight paths of the posterior, or of the prior."""
        w0 = self.initial_weights()
        sigma = self.diffusion(w0)
        members, paths = len(w0), options.n_paths
        state = self.initial_state(x)
        state = state.unsqueeze(1).expand(members, paths, *state.shape[1:])
        state = state.flatten(0, 1).contiguous()
        if self._has_own_gradient(options, prior):
            return self._affine_outputs(w0, sigma, state, options)
        control = None if prior else self.drift
        start, initial = self._start(w0, sigma, options, prior)
        mean = self._mean(w0, sigma)
        centre, scale = w0.unsqueeze(1), sigma.unsqueeze(1)

        def field(t: Tensor, z: Tensor, h: Tensor) -> Tensor:
            weights = torch.addcmul(centre, scale, z.unflatten(0, (members, paths)))
            return self._compute(t, weights.flatten(0, 1), h)

        reads = list(self.drift.parameters())
        found = follow(
            control,
            field,
            start,
            state,
            self.rate,
            mean,
            options,
            [*reads, centre, scale],
        )
        divergence = found.divergence + initial.unsqueeze(1)
        outputs = self._outputs(found.state, paths)
        return PathOutputs(outputs, divergence, found.martingale, found.report)

    def _outputs(self, state: Tensor, paths: int) -> Tensor:
        h = state.unflatten(0, (-1, paths)).flatten(1, 2)
        return self.head(h).unflatten(1, (paths, -1))

    def _has_own_gradient(self, options: PathOptions, prior: bool) -> bool:
        return (
            torch.is_grad_enabled()
            and isinstance(self.drift, AffineDrift)
            and (options.method, options.gradient) == ("ou", "backprop")
            and not (prior or self.gaussian_start or self.prior_mean == "zero")
        )

    def _affine_outputs(
        self, w0: Tensor, sigma: Tensor, state: Tensor, options: PathOptions
    ) -> PathOutputs:
        """Return the same as by automatic differentiation, sooner."""
        n, paths = options.n_steps, options.n_paths
        path = SharedPath(options, (len(w0), paths, self.n_weights), w0)
        noise = torch.stack(
            [path.increment(i / n, (i + 1) / n) * n**0.5 for i in range(n)]
        )
        drift = self.drift
        assert isinstance(drift, AffineDrift)
        divergence, martingale, *weights = AffinePaths.apply(
            w0, sigma, drift.shift, drift.pull, noise, self.rate
        )
        weights = [values.flatten(0, 1) for values in weights]
        for i in range(n):
            state = heun(self._compute, weights[i], weights[i + 1], state, i, n)
        if not options.sticking:
            martingale = torch.zeros_like(martingale)
        outputs = self._outputs(state, paths)
        return PathOutputs(outputs, divergence, martingale, exact_report(n))

    def _start(
        self, w0: Tensor, sigma: Tensor, options: PathOptions, prior: bool
    ) -> tuple[Tensor, Tensor]:
        """Return deviations at depth 0, and the divergence of their distribution."""
        members, n_weights = w0.shape
        shape = (members, options.n_paths, n_weights)
        none = w0.new_zeros(members)
        if not self.gaussian_start:
            return w0.new_zeros(shape), none
        generator = torch.Generator(w0.device).manual_seed(options.seed)
        mirrored = options.antithetic and options.n_paths % 2 == 0
        drawn = options.n_paths // 2 if mirrored else options.n_paths
        noise = torch.empty((drawn, n_weights), dtype=w0.dtype, device=w0.device)
        noise.normal_(generator=generator)
        # Shared by the members, as on the way.
        noise = torch.cat([noise, -noise]) if mirrored else noise
        stationary = (2.0 * self.rate) ** -0.5
        mean = self._mean(w0, sigma)
        assert mean is not None
        if prior:
            return mean + stationary * noise, none
        spread = self.log_spread.unsqueeze(1)
        ratio = 2.0 * self.rate * torch.exp(2.0 * self.log_spread)
        away = 2.0 * self.rate * mean.squeeze(1).square()
        divergence = 0.5 * (ratio - 1.0 - ratio.log() + away).sum(1)
        return spread.exp() * noise, divergence

    def _mean(self, w0: Tensor, sigma: Tensor) -> Tensor | None:
        """Return the prior mean as a deviation, (members, 1, weights); None is 0."""
        if self.prior_mean == "zero":
            return -(w0 / sigma).unsqueeze(1)
        if self.gaussian_start:
            return ((self.centre.detach() - w0) / sigma).unsqueeze(1)
        return None


def draw_sde_bnn(module: SDEBNN, generator: torch.Generator) -> None:
    """Draw the initial parameters of a network."""
    draw_module(module, generator)
    module.finish_draw()
