"""What is told of every epoch of a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skfunc.training import TrainingResult

# Takes the result so far, returns what would be the fitted attributes.
FittedSoFar = Callable[[TrainingResult], dict[str, Any]]


def mean_of_members(row: NDArray[np.float64]) -> float:
    """Average over the members that have a value."""
    values = row[np.isfinite(row)]
    return float(values.mean()) if len(values) else float("nan")


class EpochWatch:
    """Tell scikit-learn's callbacks, and a verbose user, of every epoch.

    Parameters
    ----------
    estimator : FunctionEstimator
        The one that is fitted, with a parameter `verbose`.
    epochs : int or None
        How many there are at most, if that is known.
    fitted_so_far : callable
        Of the members.
    fit_data : tuple
        X and y as the user gave them.
    """

    def __init__(
        self,
        estimator: Any,
        epochs: int | None,
        fitted_so_far: FittedSoFar,
        fit_data: tuple[ArrayLike, ArrayLike | None],
    ) -> None:
        self.estimator, self.fitted_so_far = estimator, fitted_so_far
        self.X, self.y = fit_data
        self.watched = bool(getattr(estimator, "_skl_callbacks", None))
        self.context = estimator._init_callback_context(max_subtasks=epochs)
        self.context.call_on_fit_task_begin(estimator=estimator, X=self.X, y=self.y)
        self.epoch: Any = None

    def begin(self) -> None:
        """Announce an epoch."""
        if self.watched:
            self.epoch = self.context.subcontext(task_name="epoch")
            self.epoch.call_on_fit_task_begin(
                estimator=self.estimator, X=self.X, y=self.y
            )

    def end(
        self,
        result: TrainingResult,
        name: str = "epoch",
        fitted_so_far: FittedSoFar | None = None,
    ) -> bool:
        """Report an epoch, of the members or of what is named; return whether to stop.

        The second training says for itself what is fitted so far.
        """
        if self.estimator.verbose:
            loss = mean_of_members(result.losses[-1])
            line = f"{name} {result.n_iter}: loss {loss:.5f}"
            if result.validation_losses:
                held_out = mean_of_members(result.validation_losses[-1])
                line += f", held out {held_out:.5f}"
            print(line)
        if not self.watched:
            return False
        fitted = fitted_so_far or self.fitted_so_far
        return self.epoch.call_on_fit_task_end(
            estimator=self.estimator,
            X=self.X,
            y=self.y,
            reconstruction_attributes=lambda: fitted(result),
        )

    def close(self) -> None:
        """Announce the end of the fit."""
        self.context.call_on_fit_task_end(
            estimator=self.estimator,
            X=self.X,
            y=self.y,
            reconstruction_attributes=dict,
        )
