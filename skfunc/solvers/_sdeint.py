"""The public function for stochastic equations: checks, and what it takes."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from skfunc._shapes import Float
from skfunc.solvers._arguments import check_settings, check_state, check_times
from skfunc.solvers._brownian import BrownianPath
from skfunc.solvers._fixed import DEFAULT_STEPS
from skfunc.solvers._report import SolverReport, SolverWarning
from skfunc.solvers._sde_solve import (
    ADAPTIVE_BY,
    SDESettings,
    SDESolution,
    grid,
    solve_sde,
)
from skfunc.solvers._sde_steps import SDE_METHODS, Diffusion, Parts, SDEField
from skfunc.solvers._torchsde import TORCHSDE_METHODS

FIXED_SDE_METHODS: tuple[str, ...] = tuple(SDE_METHODS)
ADAPTIVE_SDE_METHODS: tuple[str, ...] = tuple(ADAPTIVE_BY)


def check_sde_method(method: str) -> str:
    """Return ``method`` if it names one of :func:`sdeint`, else raise.

    Parameters
    ----------
    method : str
        Name of a fixed or adaptive method, or ``"torchsde:<name>"``.

    Returns
    -------
    str
        The name.

    Raises
    ------
    ValueError
        If there is no such method; the message lists those there are.

    Examples
    --------
    >>> from skfunc.solvers import check_sde_method
    >>> check_sde_method("torchsde:srk")
    'torchsde:srk'
    """
    valid = (*FIXED_SDE_METHODS, *ADAPTIVE_SDE_METHODS, *TORCHSDE_METHODS)
    if method not in valid:
        raise ValueError(
            f"Unknown method {method!r}. Valid methods are {', '.join(valid)}."
        )
    return method


def sdeint(
    f: Callable[..., Any],
    g: float | Tensor | Callable[..., Tensor],
    y0: Float[Tensor, "*state"] | tuple[Tensor, ...],
    t: Tensor | Sequence[float],
    *,
    noise: BrownianPath | int | Sequence[int],
    method: str = "heun",
    rtol: float = 1e-3,
    atol: float = 1e-3,
    n_steps: int | None = None,
    rate: float = 0.0,
    mean: float | Tensor = 0.0,
    gradient: str = "backprop",
    max_nfe: int = 10_000,
    params: Iterable[Tensor] | None = None,
) -> SDESolution:
    r"""Solve dy = [f(t, y) - rate (y - mean)] dt + g(t, y) dB at the times ``t``.

    Parameters
    ----------
    f : callable
        The drift: takes time, a tensor without axes, and state; returns a tensor as the
        state, or a tuple of them where the state is one.
    g : float, Tensor or callable
        The diffusion, each entry with noise of its own: the same at all times and
        states, or a function of them, as ``f`` is. It broadcasts to the noise.
    y0 : Tensor or tuple of Tensor
        State at ``t[0]``, floating point. Of a tuple, the first tensor is driven by
        noise and ``g`` is its diffusion; the others follow without noise of their own.
    t : Tensor of shape (n_times,) or sequence of float
        At least two times, strictly increasing. They receive no gradient.
    noise : BrownianPath, int or sequence of int
        The Brownian path, of the shape of ``y0`` or its first tensor; or the seed of a
        path that is drawn on the grid of the steps, or a seed for each entry along the
        first axis. The path of a seed depends on the grid: to compare methods, or
        numbers of steps, pass a path.
    method : str, default="heun"
        ``"euler"``, ``"heun"``, ``"midpoint"`` or ``"reversible_heun"`` on a fixed
        grid; ``"ou"``, the exact transition of an Ornstein-Uhlenbeck process whose
        ``f`` is held over the step; ``"adaptive_heun"``; or ``"torchsde:<name>"`` for
        any method of that library.
    rtol, atol : float, default=1e-3
        Tolerances of the adaptive method: the local error of a step is measured by the
        root mean square of ``e / (atol + rtol * max(|y0|, |y1|))``, and the largest
        decides where the state is a tuple.
    n_steps : int, default=None
        Steps of the other methods between each time and the next; 20 when None.
    rate : float, default=0.0
        Speed of the pull towards ``mean``, on the part that noise drives.
    mean : float or Tensor, default=0.0
        Where the pull goes.
    gradient : {"backprop", "checkpoint", "adjoint"}, default="backprop"
        ``"backprop"`` differentiates the steps as they were taken; ``"checkpoint"``
        does too, keeping about ``sqrt(n_steps)`` states. ``"adjoint"`` keeps the
        states at ``t`` alone: for ``"reversible_heun"`` it undoes the steps, which is
        exact, and for the others it solves the adjoint equation backwards, with an
        error that falls with the steps. Both rebuild the noise from its seed.
    max_nfe : int, default=10000
        Evaluations of ``f`` after which the adaptive method takes equal steps.
    params : iterable of Tensor, default=None
        The tensors that ``f`` and ``g`` read and that want a gradient, for
        ``"checkpoint"`` and ``"adjoint"``, which call them again; by default those of
        ``f.parameters()`` and ``g.parameters()`` where these are modules. Tensors given
        as ``g`` and ``mean`` need no mention.

    Returns
    -------
    SDESolution
        The states ``y``, of shape ``(len(t), *y0.shape)``, or a tuple of such, and the
        ``report``.

    Raises
    ------
    ValueError
        If an argument is not as described, ``f`` or ``g`` returns another shape than it
        must, or reads a tensor that wants a gradient and is not in ``params``.

    Warns
    -----
    SolverWarning
        If the adaptive method's evaluations ran out and it went on in equal steps
        (status ``"capped"``); or if entries of the state became infinite where no
        gradient is recorded (``"diverged"``). All that share an index along the first
        axis are then held at their last finite value, but for torchsde's methods.

    Notes
    -----
    Where ``g`` depends on the state, ``"euler"`` solves the Ito equation, as do
    torchsde's ``euler``, ``milstein`` and ``srk``; the others solve the Stratonovich
    one. The two are the same for additive noise.

    ``"torchsde:srk"`` and ``"torchsde:log_ode"`` need integrals of the path besides its
    increments: torchsde draws a path for them, of the same seed.

    References
    ----------
    P. E. Kloeden, E. Platen 1992, Numerical Solution of Stochastic Differential
    Equations, Springer.

    X. Li, T.-K. L. Wong, R. T. Q. Chen, D. Duvenaud 2020, Scalable Gradients for
    Stochastic Differential Equations, arXiv:2001.01328.

    P. Kidger, J. Foster, X. Li, T. Lyons 2021, Efficient and Accurate Gradients for
    Neural SDEs, arXiv:2105.13493.

    Examples
    --------
    The mean of an Ornstein-Uhlenbeck process falls as exp(-t).

    >>> import torch
    >>> from skfunc.solvers import sdeint
    >>> y0 = torch.ones(10_000, dtype=torch.float64)
    >>> solution = sdeint(
    ...     lambda t, y: torch.zeros_like(y), 0.1, y0, [0.0, 1.0], noise=0,
    ...     method="ou", rate=1.0, n_steps=1,
    ... )
    >>> round(solution.y[-1].mean().item(), 2)
    0.37
    >>> solution.report.status
    'success'
    """
    check_sde_method(method)
    times = check_times(t)
    if times[1] < times[0]:
        raise ValueError(f"t must be strictly increasing, got {times}.")
    single = not isinstance(y0, tuple)
    parts: Parts = (y0,) if isinstance(y0, Tensor) else y0
    if not parts:
        raise ValueError("y0 must have at least one tensor, got an empty tuple.")
    for part in parts:
        check_state(part, 0)
    lengths = {tuple(part.shape[:1]) for part in parts}
    if len(lengths) > 1:
        raise ValueError(
            "The tensors of y0 must share their first axis, got shapes "
            f"{[tuple(part.shape) for part in parts]}."
        )
    check_settings(rtol, atol, n_steps, max_nfe, gradient)
    if not isinstance(rate, numbers.Real) or not rate >= 0:
        raise ValueError(f"rate must be a number >= 0, got {rate!r}.")
    if method == "ou" and callable(g):
        raise ValueError("method='ou' needs g to be a number or a tensor.")
    steps = DEFAULT_STEPS if n_steps is None else int(n_steps)
    settings = SDESettings(
        method, steps, float(rtol), float(atol), gradient, int(max_nfe)
    )
    knots = times if method in ADAPTIVE_BY else grid(times, steps)
    path = _path(noise, parts[0], knots)
    field = _field(f, g, parts, float(rate), mean, single)
    states, report = solve_sde(
        field, parts, times, path, settings, _module_parameters(f, g, params)
    )
    if report.status != "success":
        text = _describe(report, settings)
        warnings.warn(text, SolverWarning, stacklevel=2)
    return SDESolution(states[0] if single else states, report)


def _path(
    noise: BrownianPath | int | Sequence[int], y: Tensor, knots: list[float]
) -> BrownianPath:
    if not isinstance(noise, BrownianPath):
        return BrownianPath(y.shape, knots, noise, dtype=y.dtype, device=y.device)
    if noise.shape != tuple(y.shape):
        raise ValueError(
            f"noise must have the shape {tuple(y.shape)} of the state that it drives, "
            f"got {noise.shape}."
        )
    if noise.knots[0] > knots[0] or noise.knots[-1] < knots[-1]:
        raise ValueError(
            f"noise must reach from {knots[0]} to {knots[-1]}, its knots reach from "
            f"{noise.knots[0]} to {noise.knots[-1]}."
        )
    return noise


def _field(
    f: Callable[..., Any],
    g: float | Tensor | Callable[..., Tensor],
    parts: Parts,
    rate: float,
    mean: float | Tensor,
    single: bool,
) -> SDEField:
    if not single:
        return SDEField(f, g, parts, rate, mean)
    diffusion: Diffusion = g
    if callable(g):

        def diffusion(t: Tensor, y: Parts) -> Tensor:
            return g(t, y[0])

    return SDEField(lambda t, y: (f(t, y[0]),), diffusion, parts, rate, mean)


def _module_parameters(
    f: object, g: object, params: Iterable[Tensor] | None
) -> tuple[Tensor, ...]:
    if params is not None:
        return tuple(params)
    modules = [x for x in (f, g) if isinstance(x, nn.Module)]
    return tuple(p for module in modules for p in module.parameters())


def _describe(report: SolverReport, settings: SDESettings) -> str:
    if settings.method in ADAPTIVE_BY:
        text = (
            f"{report.method} could not keep rtol={settings.rtol:g}, "
            f"atol={settings.atol:g} with max_nfe={settings.max_nfe}: the rest was "
            "solved in equal steps and its accuracy is unknown."
        )
    else:
        text = f"{report.method} with n_steps={settings.n_steps} is unstable here."
    if report.status == "diverged":
        text += " Some entries became infinite"
        by_torchsde = settings.method in TORCHSDE_METHODS
        text += "." if by_torchsde else ", and are held at their last value."
    return text
