"""What a contextual bandit is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skfunc.datasets._random_state import RandomState


class BanditSample(NamedTuple):
    """Rounds of a contextual bandit, with the rewards of all arms.

    Parameters
    ----------
    contexts : ndarray of shape (n_rounds, n_features)
        What an agent sees.
    rewards : ndarray of shape (n_rounds, n_arms)
        What each arm would pay.
    means : ndarray of shape (n_rounds, n_arms)
        Their expectations.

    Examples
    --------
    >>> from skfunc.datasets import WheelBandit
    >>> sample = WheelBandit(0.5).sample(4, random_state=0)
    >>> sample.contexts.shape, sample.rewards.shape, sample.optimal_means.shape
    ((4, 2), (4, 5), (4,))
    """

    contexts: NDArray[np.float64]
    rewards: NDArray[np.float64]
    means: NDArray[np.float64]

    @property
    def optimal_means(self) -> NDArray[np.float64]:
        """Expected reward of each round's best arm, of shape (n_rounds,)."""
        return self.means.max(axis=1)


class ContextualBandit:
    """Base of contextual bandits: what `run_bandit` asks of an environment.

    Anything with these two numbers and `sample` will do.

    Attributes
    ----------
    n_arms : int
        Number of arms.
    n_features : int
        Length of a context.

    See Also
    --------
    skfunc.datasets.WheelBandit : One of them.

    Examples
    --------
    >>> from skfunc.datasets import WheelBandit
    >>> from skfunc.decision import ContextualBandit
    >>> isinstance(WheelBandit(0.5), ContextualBandit)
    True
    """

    n_arms: int
    n_features: int

    def sample(self, n_rounds: int, random_state: RandomState = None) -> BanditSample:
        """Draw rounds.

        Parameters
        ----------
        n_rounds : int
            How many.
        random_state : int, Generator, RandomState or None, default=None
            Which draws.

        Returns
        -------
        BanditSample
            Contexts, rewards of all arms and their means.
        """
        raise NotImplementedError
