"""Weights that follow a stochastic process along the depth of a network.

Xu et al. 2022, Infinitely deep Bayesian neural networks with stochastic differential
equations (arXiv 2102.06559). Everything here is in deviations z = (w - w0) / sigma from
the start w0, in which the prior is dz = -rate (z - m) dt + dB and the posterior adds
u(t, z) dt: neither w0 nor sigma appears in the divergence but through m.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skfunc._shapes import Float
from skfunc.solvers import BrownianPath, SolverReport, ou_weights, sdeint

# The posterior drift u(t, z, stopped), or None for the prior.
Control = Callable[[float | Tensor, Tensor, bool], Tensor] | None
# Takes time, deviations (members * paths, weights) and state; returns its slope.
StateField = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class PathOptions:
    """Which weight paths to draw and how to solve for them.

    Attributes
    ----------
    seed : int
        Seed of the Brownian paths.
    n_paths : int
        Paths of each member.
    antithetic : bool
        Whether the second half of the paths mirrors the noise of the first.
    method, n_steps, rtol, atol, gradient, max_nfe
        As in `skfunc.solvers.sdeint`.
    sticking : bool
        Whether to return the term that sticks the landing.
    """

    seed: int
    n_paths: int
    antithetic: bool = False
    method: str = "ou"
    n_steps: int = 2
    rtol: float = 1e-3
    atol: float = 1e-3
    gradient: str = "backprop"
    max_nfe: int = 10_000
    sticking: bool = False


class WeightPaths(NamedTuple):
    """Where the paths lead.

    Attributes
    ----------
    state : Tensor of shape (members * paths, rows, ...)
        The network's state at depth 1.
    end : Tensor of shape (members, paths, weights)
        The deviations at depth 1.
    divergence : Tensor of shape (members, paths)
        Half the integral of the squared control along each path.
    martingale : Tensor of shape (members, paths)
        The integral of the control over the noise, of mean 0, whose gradient sees the
        control's parameters not; 0 unless asked for.
    report : SolverReport
        How the paths were solved for.
    """

    state: Tensor
    end: Float[Tensor, "members paths weights"]
    divergence: Float[Tensor, "members paths"]
    martingale: Float[Tensor, "members paths"]
    report: SolverReport


class SharedPath(BrownianPath):
    """Brownian paths of (members, paths, weights) that all members share.

    What a member draws then does not depend on which others there are. Where
    `mirrored`, the second half of the paths is the first with its sign changed.
    """

    def __init__(
        self, options: PathOptions, shape: Sequence[int], like: Tensor
    ) -> None:
        knots = [i / options.n_steps for i in range(options.n_steps + 1)]
        kind: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
        super().__init__(shape, knots, options.seed, **kind)
        paths = self.shape[1]
        self.mirrored = options.antithetic and paths % 2 == 0
        drawn = paths // 2 if self.mirrored else paths
        self.drawn = BrownianPath((drawn, self.shape[2]), knots, options.seed, **kind)

    def increment(self, start: float, end: float) -> Float[Tensor, "*shape"]:
        """Return the path's increment between two times."""
        values = self.drawn.increment(start, end)
        if self.mirrored:
            values = torch.cat([values, -values])
        return values.expand(self.shape)


def follow(
    control: Control,
    field: StateField,
    start: Float[Tensor, "members paths weights"],
    state: Tensor,
    rate: float,
    mean: Tensor | None,
    options: PathOptions,
    params: list[Tensor],
) -> WeightPaths:
    """Follow the weights, and the state that they drive, from depth 0 to 1.

    Parameters
    ----------
    control : callable or None
        The posterior drift u; None follows the prior.
    field : callable
        The state's slope.
    start : Tensor of shape (members, paths, weights)
        Deviations at depth 0.
    state : Tensor of shape (members * paths, rows, ...)
        The state at depth 0.
    rate : float
        Speed of the pull towards the prior mean.
    mean : Tensor of shape (members, 1, weights), optional
        The prior mean, as a deviation; None is 0.
    options : PathOptions
        Paths and solver.
    params : list of Tensor
        What control and field read, for gradients other than backprop.

    Returns
    -------
    WeightPaths
        State, divergence and report.
    """
    if options.method == "ou" and options.gradient == "backprop":
        return _follow_exactly(control, field, start, state, rate, mean, options)
    return _follow_by_solver(control, field, start, state, rate, mean, options, params)


def _follow_exactly(
    control: Control,
    field: StateField,
    z: Float[Tensor, "members paths weights"],
    state: Tensor,
    rate: float,
    mean: Tensor | None,
    options: PathOptions,
) -> WeightPaths:
    """Take exact Ornstein-Uhlenbeck steps, the control held over each of them.

    With the control held, the divergence of a step is a Gaussian's: what is added up is
    the exact divergence of the n-step model at every n. The state follows by Heun's
    method.
    """
    n, h = options.n_steps, 1.0 / options.n_steps
    weights = ou_weights(rate, h)
    path = SharedPath(options, z.shape, z)
    divergence = z.new_zeros(z.shape[:2])
    martingale = divergence
    for i in range(n):
        xi = path.increment(i * h, (i + 1) * h) * n**0.5
        new = z if mean is None else torch.sub(z, mean)
        new = new * weights.decay if mean is None else mean + new * weights.decay
        new = torch.add(new, xi, alpha=weights.noise)
        if control is not None:
            u = control(i * h, z, False)
            divergence = divergence + 0.5 * weights.energy * u.square().sum(-1)
            if options.sticking:
                held = control(i * h, z, True)
                root = math.sqrt(weights.energy)
                martingale = martingale + root * (held * xi).sum(-1)
            new = torch.add(new, u, alpha=weights.control)
        state = heun(field, z.flatten(0, 1), new.flatten(0, 1), state, i, n)
        z = new
    return WeightPaths(state, z, divergence, martingale, exact_report(n))


def heun(
    field: StateField, start: Tensor, end: Tensor, state: Tensor, i: int, n: int
) -> Tensor:
    """Carry the state over step i of n by Heun's method."""
    h = 1.0 / n
    kind: dict[str, Any] = {"dtype": state.dtype, "device": state.device}
    t0, t1 = (torch.full((), j * h, **kind) for j in (i, i + 1))
    first = field(t0, start, state)
    last = field(t1, end, torch.add(state, first, alpha=h))
    return torch.add(state, first + last, alpha=0.5 * h)


def exact_report(n_steps: int) -> SolverReport:
    """Report exact steps of the weights, with Heun's of the state."""
    return SolverReport("ou", 2.0 * n_steps, 2 * n_steps, None, n_steps, 0, "success")


def _follow_by_solver(
    control: Control,
    field: StateField,
    z: Float[Tensor, "members paths weights"],
    state: Tensor,
    rate: float,
    mean: Tensor | None,
    options: PathOptions,
    params: list[Tensor],
) -> WeightPaths:
    """Leave weights, state and divergence to `sdeint`.

    The exact step's divergence and the martingale are sums over the grid, of the
    control at the left end of each step; other methods integrate the divergence beside
    the state.
    """
    exact = options.method == "ou"
    members, paths = z.shape[:2]
    rows = state.shape[1:]

    def slopes(t: Tensor, y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z, h = y[0], y[1].flatten(0, 1)
        slope = field(t, z.flatten(0, 1), h).view_as(y[1])
        if control is None:
            u = torch.zeros_like(z)
        else:
            u = control(t, z, False)
        return (u, slope) if exact else (u, slope, 0.5 * u.square().sum(-1))

    start = (z, state.view(members, paths, *rows), z.new_zeros(members, paths))
    n, h = options.n_steps, 1.0 / options.n_steps
    on_grid = control is not None and (exact or options.sticking)
    times = [i * h for i in range(n)] + [1.0] if on_grid else [0.0, 1.0]
    path = SharedPath(options, z.shape, z)
    solution = sdeint(
        slopes,
        1.0,
        start[:2] if exact else start,
        times,
        noise=path,
        method=options.method,
        rtol=options.rtol,
        atol=options.atol,
        n_steps=1 if on_grid else n,
        rate=rate,
        mean=0.0 if mean is None else mean,
        gradient=options.gradient,
        max_nfe=options.max_nfe,
        params=params,
    )
    y = solution.y
    divergence = start[2] if exact else y[2][-1]
    martingale = start[2]
    if on_grid and control is not None:
        energy = ou_weights(rate, h).energy if exact else h
        for i in range(n):
            xi = path.increment(times[i], times[i + 1]) * n**0.5
            if exact:
                u = control(times[i], y[0][i], False)
                divergence = divergence + 0.5 * energy * u.square().sum(-1)
            if options.sticking:
                held = control(times[i], y[0][i], True)
                martingale = martingale + math.sqrt(energy) * (held * xi).sum(-1)
    state = y[1][-1].flatten(0, 1)
    return WeightPaths(state, y[0][-1], divergence, martingale, solution.report)
