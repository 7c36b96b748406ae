"""Likelihoods by the names that estimators give them, and what they are made of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

from skfunc.nn import (
    BinsLikelihood,
    CategoricalLikelihood,
    GaussianLikelihood,
    Likelihood,
    MixtureLikelihood,
)

Array = NDArray[np.float64]

CONTINUOUS = ("gaussian", "mixture", "bins")
LIKELIHOODS = (*CONTINUOUS, "categorical")
# Bins need two tails and something between them.
_FEWEST_EDGES = 4
# Values that a bin should hold, and bins that there may be in any case: with fewer
# values in each, networks learn them by heart.
_VALUES_PER_BIN, _ALWAYS_BINS = 10, 5
# Where the outermost edges lie if the data give none.
_OUTER_LEVEL = 0.005


def build_likelihood(
    name: str, min_std: float, parameters: dict[str, Any] | None = None
) -> Likelihood:
    """Return a likelihood.

    Parameters
    ----------
    name : str
        One of `LIKELIHOODS`.
    min_std : float
        Floor of the standard deviation of Gaussians.
    parameters : dict, optional
        Further arguments: "n_components" of a mixture, "edges" of bins.
    """
    parameters = parameters or {}
    if name == "categorical":
        return CategoricalLikelihood()
    if name == "bins":
        edges = torch.tensor(parameters["edges"], dtype=torch.float64)
        return BinsLikelihood(edges)
    if name == "mixture":
        return MixtureLikelihood(min_std=min_std, **parameters)
    return GaussianLikelihood(min_std)


def bin_edges(values: Array, n_bins: int, min_std: float) -> list[float]:
    """Return edges of bins at quantiles of standardized values.

    There are ten values to a bin, or five bins. No bin is so narrow that its density
    could exceed that of a Gaussian at the floor of its deviation: values that occur
    again and again share a bin with what is around them. Where values are too few or
    too alike, quantiles of the standard normal distribution take their place.
    """
    n_bins = min(n_bins, max(np.size(values) // _VALUES_PER_BIN, _ALWAYS_BINS))
    narrowest = math.sqrt(2.0 * math.pi) * min_std
    levels = np.linspace(0.0, 1.0, n_bins + 1)
    edges: list[float] = []
    for edge in np.quantile(values, levels).tolist():
        if not edges or edge - edges[-1] >= narrowest:
            edges.append(edge)
    if len(edges) < _FEWEST_EDGES:
        inner = np.clip(levels, _OUTER_LEVEL, 1.0 - _OUTER_LEVEL)
        edges = np.unique(ndtri(inner)).tolist()
    return edges
