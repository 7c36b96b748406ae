"""Networks of continuous depth, and flows."""

from skfunc.ode._classifier import ODENetClassifier
from skfunc.ode._cnf import CNFDensity
from skfunc.ode._regressor import ODENetRegressor

__all__ = ["CNFDensity", "ODENetClassifier", "ODENetRegressor"]
