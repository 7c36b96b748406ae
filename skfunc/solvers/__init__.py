"""Ordinary differential equations on tensors of any shape, in pure torch."""

from skfunc.solvers._odeint import (
    ADAPTIVE_METHODS,
    FIXED_METHODS,
    check_method,
    odeint,
)
from skfunc.solvers._report import Solution, SolverReport, SolverWarning
from skfunc.solvers._torchdiffeq import TORCHDIFFEQ_FIXED

__all__ = [
    "ADAPTIVE_METHODS",
    "FIXED_METHODS",
    "Solution",
    "SolverReport",
    "SolverWarning",
    "TORCHDIFFEQ_FIXED",
    "check_method",
    "odeint",
]
