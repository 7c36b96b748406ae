"""Infinitely deep Bayesian networks: weights that follow a stochastic process."""

from skfunc.sde._classifier import SDEBNNClassifier
from skfunc.sde._regressor import SDEBNNRegressor

__all__ = ["SDEBNNClassifier", "SDEBNNRegressor"]
