"""The public function: argument checks, and the way to the right integrator."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

from torch import Tensor

from skfunc._shapes import Float
from skfunc.solvers._arguments import check_settings, check_state, check_times
from skfunc.solvers._fixed import DEFAULT_STEPS, FINISH_STEPS
from skfunc.solvers._report import Solution, SolverReport, SolverWarning
from skfunc.solvers._runge_kutta import Field
from skfunc.solvers._solve import Settings, solve
from skfunc.solvers._tableaus import ADAPTIVE_TABLEAUS, FIXED_TABLEAUS
from skfunc.solvers._torchdiffeq import PREFIX, TORCHDIFFEQ_METHODS

FIXED_METHODS: tuple[str, ...] = tuple(FIXED_TABLEAUS)
ADAPTIVE_METHODS: tuple[str, ...] = tuple(ADAPTIVE_TABLEAUS)


def check_method(method: str) -> str:
    """Return ``method`` if it names one, else raise.

    Parameters
    ----------
    method : str
        Name of a fixed or adaptive method, or ``"torchdiffeq:<name>"``.

    Returns
    -------
    str
        The name.

    Raises
    ------
    ValueError
        If there is no such method; the message lists those there are.
    """
    valid = (*FIXED_METHODS, *ADAPTIVE_METHODS, *TORCHDIFFEQ_METHODS)
    if method not in valid:
        raise ValueError(
            f"Unknown method {method!r}. Valid methods are {', '.join(valid)}."
        )
    return method


def odeint(
    f: Field,
    y0: Float[Tensor, "*state"],
    t: Tensor | Sequence[float],
    *,
    method: str = "dopri5",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    n_steps: int | None = None,
    gradient: str = "backprop",
    per_row: bool = False,
    row_ndim: int = 1,
    max_nfe: int = 10_000,
    params: Iterable[Tensor] | None = None,
    last_only: bool = False,
) -> Solution:
    r"""Solve dy/dt = f(t, y), y(t[0]) = y0 at the times ``t``.

    Parameters
    ----------
    f : callable
        The right-hand side: takes time and state, returns a tensor as the state. The
        time is a tensor without axes, or, with ``per_row``, one entry for each row,
        with as many axes as the state, so that it broadcasts to it.
    y0 : Tensor
        State at ``t[0]``, floating point, of any shape.
    t : Tensor of shape (n_times,) or sequence of float
        At least two times, strictly increasing or strictly decreasing. They are read
        on the host, once: keep them off the GPU where a solve must not wait for it.
        They receive no gradient.
    method : str, default="dopri5"
        ``"euler"``, ``"midpoint"``, ``"heun"`` or ``"rk4"`` on a fixed grid;
        ``"dopri5"`` or ``"tsit5"`` with adaptive steps, which land on each of ``t``;
        or ``"torchdiffeq:<name>"`` for any method of that library.
    rtol, atol : float, default=1e-5
        Tolerances of the adaptive methods: the local error of a step is measured by
        the root mean square of ``e / (atol + rtol * max(|y0|, |y1|))``.
    n_steps : int, default=None
        Steps of the fixed methods between each time and the next; 20 when None.
    gradient : {"backprop", "checkpoint", "adjoint"}, default="backprop"
        ``"backprop"`` differentiates the steps as they were taken; ``"checkpoint"``
        does too, keeping about ``sqrt(n_steps)`` states and computing the others
        again; ``"adjoint"`` solves the adjoint equation backwards, in constant memory,
        with an error of the order of the tolerance. The sizes of adaptive steps are
        constants to all of them.
    per_row : bool, default=False
        Whether each row has steps of its own, so that its result does not depend on
        the other rows. Adaptive methods only (a fixed grid couples no rows anyway).
        ``f`` must then treat the entries along the last row axis independently, since
        those that have arrived are left out. The adjoint equation is solved with
        shared steps even so.
    row_ndim : int, default=1
        Number of leading axes of ``y0`` that index rows: 1 for (rows, features), 2 for
        (members, rows, features).
    max_nfe : int, default=10000
        Evaluations of ``f`` after which an adaptive method finishes on a fixed grid.
    params : iterable of Tensor, default=None
        The tensors that ``f`` reads and that want a gradient, for ``"checkpoint"`` and
        ``"adjoint"``, which call ``f`` again; by default those of ``f.parameters()``
        when ``f`` is a module.
    last_only : bool, default=False
        Whether to return the state at the last time alone, which saves a copy.

    Returns
    -------
    Solution
        The states ``y``, of shape ``(len(t), *y0.shape)``, or ``(1, *y0.shape)`` with
        ``last_only``, and the ``report``.

    Raises
    ------
    ValueError
        If an argument is not as described, ``f`` returns another shape than the
        state's, or it reads a tensor that wants a gradient and is not in ``params``.

    Warns
    -----
    SolverWarning
        If the step underflowed or the evaluations ran out, and the interval was
        finished by classical Runge-Kutta on a fixed grid (status ``"capped"``); or if
        the state became infinite even so, and is held at its last finite value
        (``"diverged"``). A fixed grid is guarded in the same way when no gradient is
        recorded; when one is, the loss shows what became of the state.

    Notes
    -----
    A solve asks nothing of the device on a fixed grid while a gradient is recorded,
    and one number at each attempted step of an adaptive method.

    References
    ----------
    E. Hairer, S. P. Norsett, G. Wanner 1993, Solving Ordinary Differential Equations
    I: Nonstiff Problems, 2nd edition, Springer.

    R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud 2018, Neural Ordinary
    Differential Equations, arXiv:1806.07366.

    Examples
    --------
    >>> import torch
    >>> from skfunc.solvers import odeint
    >>> y0 = torch.ones(1, 1, dtype=torch.float64)
    >>> solution = odeint(lambda t, y: -y, y0, [0.0, 1.0], rtol=1e-8, atol=1e-8)
    >>> round(solution.y[-1].item(), 6)
    0.367879
    >>> solution.report.status
    'success'
    """
    check_method(method)
    times = check_times(t)
    check_state(y0, row_ndim)
    check_settings(rtol, atol, n_steps, max_nfe, gradient)
    if per_row and row_ndim == 0:
        raise ValueError("per_row=True needs row_ndim >= 1, got 0.")
    if per_row and method.startswith(PREFIX):
        raise ValueError(
            f"per_row=True needs one of {', '.join(ADAPTIVE_METHODS)}: torchdiffeq has "
            f"one step for all rows; got method={method!r}."
        )
    settings = Settings(
        method=method,
        rtol=float(rtol),
        atol=float(atol),
        n_steps=DEFAULT_STEPS if n_steps is None else int(n_steps),
        gradient=gradient,
        per_row=per_row and method in ADAPTIVE_METHODS,
        row_ndim=row_ndim,
        max_nfe=int(max_nfe),
        last_only=last_only,
    )
    solution = solve(f, y0, times, settings, params)
    if solution.report.status != "success":
        text = _describe(solution.report, settings)
        warnings.warn(text, SolverWarning, stacklevel=2)
    return solution


def _describe(report: SolverReport, settings: Settings) -> str:
    if report.method not in FIXED_METHODS:
        text = (
            f"{report.method} could not keep rtol={settings.rtol:g}, "
            f"atol={settings.atol:g} with max_nfe={settings.max_nfe}: the equation is "
            f"stiff or singular there. The interval was finished by {FINISH_STEPS} "
            "steps of rk4 and its accuracy is unknown."
        )
    else:
        text = f"{report.method} with n_steps={settings.n_steps} is unstable here."
    if report.status == "diverged":
        text += " Some rows became infinite, and are held at their last finite state."
    return text
