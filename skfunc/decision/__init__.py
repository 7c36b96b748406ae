"""Decisions by draws of functions: Bayesian optimization and contextual bandits."""

from __future__ import annotations

from skfunc.datasets._contextual_bandit import ContextualBandit
from skfunc.decision._agents import (
    BanditAgent,
    LinearThompsonAgent,
    UniformAgent,
    WheelThompsonAgent,
)
from skfunc.decision._environments import (
    ClassificationBandit,
    MushroomBandit,
)
from skfunc.decision._estimator_agent import EstimatorAgent
from skfunc.decision._run_bandit import BanditResult, run_bandit
from skfunc.decision._thompson import ThompsonResult, thompson_minimize

__all__ = [
    "BanditAgent",
    "BanditResult",
    "ClassificationBandit",
    "ContextualBandit",
    "EstimatorAgent",
    "LinearThompsonAgent",
    "MushroomBandit",
    "ThompsonResult",
    "UniformAgent",
    "WheelThompsonAgent",
    "run_bandit",
    "thompson_minimize",
]
