"""How much each clock's rates count in their sum."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

Array = NDArray[np.float64]

# What a left-out event counts. At one the likelier clock would take nearly all by a few
# nats, which are chance; at none both would count alike, however badly one fits.
_EVENT_WEIGHT = 0.2
# A clock with a lower share would cost more than it tells.
_LEAST_SHARE = 0.01


def clock_shares(rates: Array, masses: Array) -> Array:
    """Return each clock's share, by its likelihood of events that it never saw.

    Exponential weights; a weighted mean of rates is a rate, its integral the mean of
    the integrals. Dalalyan and Tsybakov 2008, Aggregation by exponential weighting,
    sharp PAC-Bayesian bounds and sparsity.

    Parameters
    ----------
    rates : ndarray of shape (clocks, events)
        Of each left-out event's own kind, positive.
    masses : ndarray of shape (clocks,)
        Events that each clock's rates expect.

    Returns
    -------
    ndarray of shape (clocks,)
        They sum to one; zero where too low to count.
    """
    shares = softmax(_EVENT_WEIGHT * (np.log(rates).sum(axis=1) - masses))
    shares = np.where(shares < _LEAST_SHARE, 0.0, shares)
    return shares / shares.sum()
