"""Scores, calibration measures and scorers for predictive distributions."""

from __future__ import annotations

from skfunc.metrics._calibration import (
    expected_calibration_error,
    interval_coverage,
    pit_values,
)
from skfunc.metrics._scorers import (
    SCORERS,
    get_scorer,
    mean_log_prob_scorer,
    neg_coverage_error_scorer,
    neg_crps_ensemble_scorer,
    neg_crps_scorer,
    neg_expected_calibration_error_scorer,
    neg_gaussian_nll_scorer,
    neg_interval_score_scorer,
)
from skfunc.metrics._scoring_rules import (
    crps_ensemble,
    crps_gaussian,
    gaussian_nll,
    interval_score,
)

__all__ = [
    "SCORERS",
    "crps_ensemble",
    "crps_gaussian",
    "expected_calibration_error",
    "gaussian_nll",
    "get_scorer",
    "interval_coverage",
    "interval_score",
    "mean_log_prob_scorer",
    "neg_coverage_error_scorer",
    "neg_crps_ensemble_scorer",
    "neg_crps_scorer",
    "neg_expected_calibration_error_scorer",
    "neg_gaussian_nll_scorer",
    "neg_interval_score_scorer",
    "pit_values",
]
