"""A fit happens as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def whole_or_unchanged(estimator: Any) -> Iterator[None]:
    """Fit inside: whatever goes wrong, the estimator is as it was before.

    Nothing of an earlier fit is left after a new one. An interrupted fit that has set
    `prior_`, of what was learned so far, stands as a whole one.

    Parameters
    ----------
    estimator : FunctionEstimator
        What is fitted; its `prior_` is the last attribute to be set.
    """
    state = vars(estimator)
    names = (*estimator._fitted_attributes(), "_runtime")
    before = {name: state.pop(name) for name in names if name in state}
    try:
        yield
    except BaseException as error:
        if not (isinstance(error, KeyboardInterrupt) and hasattr(estimator, "prior_")):
            for name in names:
                state.pop(name, None)
            state.update(before)
        raise
