"""Displays of predictive distributions, in scikit-learn's plotting convention.

They need matplotlib: `pip install skfunc[plot]`.
"""

from __future__ import annotations

from skfunc.plotting._coverage import CoverageDisplay
from skfunc.plotting._pit import PITDisplay
from skfunc.plotting._predictive_band import PredictiveBandDisplay

__all__ = ["CoverageDisplay", "PITDisplay", "PredictiveBandDisplay"]
