"""Whether a flow in training can still overtake the density without one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Epochs over which progress is measured: this share of the training, and at least.
_WINDOW_SHARE, _SHORTEST_WINDOW = 1 / 6, 10
# A flow that is behind is given up if it needs so many times the progress of the last
# window. On 30 parts of training rows no flow that was kept in the end is given up by
# this, and none that is given up would have been ahead (docs/benchmarks.md).
_WINDOWS_TO_GO = 5.0
# Standard errors by which a flow has to be ahead in the end.
_LEAD_STANDARD_ERRORS = 2.0


class Prospects:
    """Judge a flow in training, twice in a window of epochs.

    Parameters
    ----------
    gains : callable
        Takes the parameters, and returns what each held-out row gains by the flow.
    """

    def __init__(self, gains: Callable[[Array], Array]) -> None:
        self.gains = gains
        self.epochs: list[int] = []
        self.means: list[float] = []

    def are_gone(self, epoch: int, n_epochs: int, parameters: Array) -> bool:
        """Return whether the training may as well end.

        Parameters
        ----------
        epoch : int
            From 1.
        n_epochs : int
            Of the whole training.
        parameters : ndarray of shape (1, parameters)
            The best so far.
        """
        window = max(_SHORTEST_WINDOW, round(_WINDOW_SHARE * n_epochs))
        if epoch > 1 and epoch % (window // 2):
            return False
        gains = self.gains(parameters)
        mean = float(gains.mean())
        self.epochs.append(epoch)
        self.means.append(mean)
        if epoch < window or mean >= 0 or len(gains) < 2:
            return False
        before = max(
            (k for k, e in enumerate(self.epochs) if e <= epoch - window), default=0
        )
        error = float(gains.std(ddof=1)) / np.sqrt(len(gains))
        needed = _LEAD_STANDARD_ERRORS * error - mean
        return bool(needed > _WINDOWS_TO_GO * (mean - self.means[before]))
