"""Class probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skfunc._shapes import Float
from skfunc.predictive._levels import shuffled_rounds


@dataclass(frozen=True)
class Categorical:
    """Class probabilities of S equally weighted functions.

    Parameters
    ----------
    probabilities : ndarray of shape (S, n, c)
        Rows sum to one.
    """

    probabilities: Float[np.ndarray, "components rows classes"]

    def mean(self) -> NDArray[np.float64]:
        """Return the predictive probabilities, (n, c)."""
        return self.probabilities.mean(0)

    def std(self) -> NDArray[np.float64]:
        """Return their standard deviation over the functions (epistemic), (n, c)."""
        return self.probabilities.std(0)

    def log_prob(self, labels: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the log probability of each row's label (a class position), (n,)."""
        chosen = self.mean()[np.arange(len(labels)), labels]
        return np.log(np.clip(chosen, np.finfo(float).tiny, None))

    def sample_functions(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        """Draw functions: each draw is one component's probabilities, (n, c, draws)."""
        draws = shuffled_rounds(len(self.probabilities), n_samples, random_state)
        return np.moveaxis(self.probabilities[draws], 0, -1)

    def sample_labels(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> NDArray[np.intp]:
        """Draw class positions from the predictive probabilities, (n, draws)."""
        functions = self.sample_functions(n_samples, random_state)
        edges = np.cumsum(functions, axis=1)[:, :-1]
        uniform = random_state.uniform(size=(functions.shape[0], 1, functions.shape[2]))
        return (uniform > edges).sum(axis=1)
