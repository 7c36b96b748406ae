"""Seeds in scikit-learn's forms, as a numpy generator."""

from __future__ import annotations

import numpy as np

RandomState = int | np.random.Generator | np.random.RandomState | None

_SEED_LIMIT = 2**31 - 1


def as_generator(random_state: RandomState) -> np.random.Generator:
    """Return a generator; a Generator is returned itself, and so moves on."""
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(_SEED_LIMIT))
    return np.random.default_rng(random_state)
