"""Checks of what is asked of a prediction."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def check_levels(alpha: ArrayLike) -> NDArray[np.float64]:
    """Return levels in (0, 1) as an array."""
    levels = np.atleast_1d(np.asarray(alpha, dtype=float))
    if levels.ndim != 1 or not ((levels > 0.0) & (levels < 1.0)).all():
        raise ValueError(
            f"alpha must be a level or a list of levels in (0, 1); got {alpha!r}"
        )
    return levels


def check_draw_count(n_samples: int) -> int:
    """Return a positive number of draws."""
    if not isinstance(n_samples, (int, np.integer)) or n_samples < 1:
        raise ValueError(f"n_samples must be a positive integer; got {n_samples!r}")
    return int(n_samples)


def shuffled_rounds(
    n_components: int, n_samples: int, random_state: np.random.RandomState
) -> NDArray[np.intp]:
    """Draw components, none twice before all came once."""
    rounds = -(-check_draw_count(n_samples) // n_components)
    order = [random_state.permutation(n_components) for _ in range(rounds)]
    return np.concatenate(order)[:n_samples]


def coverage_levels(coverage: float) -> tuple[float, float]:
    """Return the two quantile levels of a central interval.

    Parameters
    ----------
    coverage : float
        Probability of the interval, in (0, 1).

    Returns
    -------
    tuple of float
        Lower and upper level.

    Raises
    ------
    ValueError
        If the coverage is not in (0, 1).
    """
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"coverage must be in (0, 1); got {coverage!r}")
    return (1.0 - coverage) / 2.0, (1.0 + coverage) / 2.0
