"""The wheel: a contextual bandit whose need of exploration is one number."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skfunc.datasets._contextual_bandit import BanditSample, ContextualBandit
from skfunc.datasets._random_state import RandomState, as_generator

# Riquelme, Tucker, Snoek 2018, section 5.4: five arms; the first is safe.
N_ARMS = 5
SAFE_MEAN, POOR_MEAN, RICH_MEAN = 1.2, 1.0, 50.0
REWARD_STD = 0.01


class WheelBandit(ContextualBandit):
    r"""Contextual bandit on the unit disc, whose rich arms pay far out only.

    Contexts are uniform in the unit disc. Up to the radius `delta`, arm 0 is the best
    with a mean of 1.2, and the others pay 1.0. Beyond it, the arm of the context's
    quadrant pays 50: arm 1 for (+, +), 2 for (-, +), 3 for (-, -), 4 for (+, -). All
    rewards have a standard deviation of 0.01.

    Parameters
    ----------
    delta : float
        Radius in [0, 1]. The nearer to 1, the rarer the rich rounds, and the more an
        agent must explore.

    Attributes
    ----------
    n_arms : int
        Five.
    n_features : int
        Two.

    Notes
    -----
    An agent that draws arms uniformly loses
    :math:`0.16 \delta^2 + 39.16 (1 - \delta^2)` per round on average; regrets are
    usually given in per cent of that.

    References
    ----------
    .. [1] C. Riquelme, G. Tucker, J. Snoek 2018, Deep Bayesian bandits showdown: an
       empirical comparison of Bayesian deep networks for Thompson sampling,
       arXiv 1802.09127.

    Examples
    --------
    >>> from skfunc.datasets import WheelBandit
    >>> wheel = WheelBandit(delta=0.9)
    >>> wheel.mean_rewards([[0.1, 0.1], [0.8, -0.6]]).argmax(axis=1)
    array([0, 4])
    >>> round(wheel.uniform_regret, 2)
    7.57
    """

    n_arms = N_ARMS
    n_features = 2

    def __init__(self, delta: float):
        if not 0.0 <= delta <= 1.0:
            raise ValueError(f"delta must be a number in [0, 1]; got {delta!r}")
        self.delta = float(delta)

    def __repr__(self) -> str:
        return f"WheelBandit(delta={self.delta:g})"

    @property
    def uniform_regret(self) -> float:
        """Expected regret per round of an agent that draws arms uniformly."""
        inside = SAFE_MEAN - (SAFE_MEAN + 4 * POOR_MEAN) / N_ARMS
        outside = RICH_MEAN - (RICH_MEAN + SAFE_MEAN + 3 * POOR_MEAN) / N_ARMS
        return inside * self.delta**2 + outside * (1 - self.delta**2)

    def mean_rewards(self, contexts: ArrayLike) -> NDArray[np.float64]:
        """Return the expected reward of every arm.

        Parameters
        ----------
        contexts : array-like of shape (n_rounds, 2)
            Points of the disc.

        Returns
        -------
        ndarray of shape (n_rounds, 5)
            Expected rewards.

        Raises
        ------
        ValueError
            If the contexts have not two columns.
        """
        points = _checked(contexts)
        means = np.full((len(points), N_ARMS), POOR_MEAN)
        means[:, 0] = SAFE_MEAN
        rich = np.flatnonzero(np.hypot(*points.T) > self.delta)
        means[rich, quadrant_arms(points[rich])] = RICH_MEAN
        return means

    def expected_regret(
        self, contexts: ArrayLike, arms: ArrayLike
    ) -> NDArray[np.float64]:
        """Return what the chosen arms lose on average against the best ones.

        Parameters
        ----------
        contexts : array-like of shape (n_rounds, 2)
            Points of the disc.
        arms : array-like of int of shape (n_rounds,)
            Arms chosen there.

        Returns
        -------
        ndarray of shape (n_rounds,)
            In units of reward; zero for the best arm.
        """
        means = self.mean_rewards(contexts)
        chosen = np.take_along_axis(means, np.asarray(arms)[:, None], axis=1)[:, 0]
        return means.max(axis=1) - chosen

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
        rng = as_generator(random_state)
        # A radius is the root of a uniform number, since area grows with its square.
        radius = np.sqrt(rng.uniform(size=n_rounds))
        angle = rng.uniform(0, 2 * np.pi, n_rounds)
        contexts = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        means = self.mean_rewards(contexts)
        noise = REWARD_STD * rng.standard_normal(means.shape)
        return BanditSample(contexts, means + noise, means)


def quadrant_arms(contexts: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the arm of each context's quadrant: 1 (+,+), 2 (-,+), 3 (-,-), 4 (+,-)."""
    right, upper = contexts[:, 0] >= 0, contexts[:, 1] >= 0
    return np.where(upper, np.where(right, 1, 2), np.where(right, 4, 3))


def _checked(contexts: ArrayLike) -> NDArray[np.float64]:
    points = np.asarray(contexts, dtype=float)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"contexts must have shape (n, 2); got {points.shape}")
    return points
