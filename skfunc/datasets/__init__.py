"""Generators of tasks and problems, in numpy alone."""

from __future__ import annotations

from skfunc.datasets._contextual_bandit import BanditSample
from skfunc.datasets._gp_likelihood import gp_log_likelihood
from skfunc.datasets._gp_tasks import GPTasks, make_gp_tasks
from skfunc.datasets._spirals import Spirals, make_spirals
from skfunc.datasets._wheel_bandit import WheelBandit

__all__ = [
    "BanditSample",
    "GPTasks",
    "Spirals",
    "WheelBandit",
    "gp_log_likelihood",
    "make_gp_tasks",
    "make_spirals",
]
