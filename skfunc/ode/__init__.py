"""Networks of continuous depth, flows, and series."""

from skfunc.ode._classifier import ODENetClassifier
from skfunc.ode._cnf import CNFDensity
from skfunc.ode._conditional_cnf import ConditionalCNFRegressor
from skfunc.ode._latent_ode import LatentODE
from skfunc.ode._latent_ode_classifier import LatentODEClassifier
from skfunc.ode._latent_ode_streams import EventStreams
from skfunc.ode._panel import Panel, to_panel
from skfunc.ode._regressor import ODENetRegressor

__all__ = [
    "CNFDensity",
    "ConditionalCNFRegressor",
    "EventStreams",
    "LatentODE",
    "LatentODEClassifier",
    "ODENetClassifier",
    "ODENetRegressor",
    "Panel",
    "to_panel",
]
