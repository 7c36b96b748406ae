"""Networks of continuous depth."""

from skfunc.ode._classifier import ODENetClassifier
from skfunc.ode._regressor import ODENetRegressor

__all__ = ["ODENetClassifier", "ODENetRegressor"]
