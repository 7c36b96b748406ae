"""Differential equations on tensors, ordinary and stochastic, in pure torch."""

from skfunc.solvers._brownian import BrownianPath
from skfunc.solvers._odeint import (
    ADAPTIVE_METHODS,
    FIXED_METHODS,
    check_method,
    odeint,
)
from skfunc.solvers._report import Solution, SolverReport, SolverWarning
from skfunc.solvers._sde_solve import SDESolution
from skfunc.solvers._sde_steps import OUWeights, ou_weights
from skfunc.solvers._sdeint import (
    ADAPTIVE_SDE_METHODS,
    FIXED_SDE_METHODS,
    check_sde_method,
    sdeint,
)
from skfunc.solvers._torchdiffeq import TORCHDIFFEQ_FIXED
from skfunc.solvers._torchsde import TORCHSDE_METHODS

__all__ = [
    "ADAPTIVE_METHODS",
    "ADAPTIVE_SDE_METHODS",
    "BrownianPath",
    "FIXED_METHODS",
    "FIXED_SDE_METHODS",
    "OUWeights",
    "SDESolution",
    "Solution",
    "SolverReport",
    "SolverWarning",
    "TORCHDIFFEQ_FIXED",
    "TORCHSDE_METHODS",
    "check_method",
    "check_sde_method",
    "odeint",
    "ou_weights",
    "sdeint",
]
