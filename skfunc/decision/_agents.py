"""Agents for contextual bandits: chance, linear regression, and one that knows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from skfunc._validation import check_integer, check_real
from skfunc.datasets._wheel_bandit import N_ARMS, RICH_MEAN, quadrant_arms


class BanditAgent:
    """Base of agents: what `run_bandit` asks of one.

    See Also
    --------
    run_bandit : Lets an agent play.

    Examples
    --------
    >>> from skfunc.datasets import WheelBandit
    >>> from skfunc.decision import BanditAgent, run_bandit
    >>> class Safe(BanditAgent):
    ...     def choose(self, context):
    ...         return 0
    >>> result = run_bandit(Safe(), WheelBandit(1.0), n_steps=100, random_state=0)
    >>> float(result.regrets.sum())
    0.0
    """

    def start(self, n_arms: int, n_features: int, rng: np.random.RandomState) -> None:
        """Forget all, and get ready for a bandit.

        Parameters
        ----------
        n_arms : int
            Number of arms.
        n_features : int
            Length of a context.
        rng : RandomState
            Where the agent's draws come from.
        """
        self._n_arms = n_arms
        self._n_features = n_features
        self._rng = rng

    def choose(self, context: NDArray[np.float64]) -> int:
        """Choose an arm.

        Parameters
        ----------
        context : ndarray of shape (n_features,)
            What is seen in this round.

        Returns
        -------
        int
            Arm, from 0.
        """
        raise NotImplementedError

    def update(self, context: NDArray[np.float64], arm: int, reward: float) -> None:
        """Learn from the reward of the arm that was chosen.

        Parameters
        ----------
        context : ndarray of shape (n_features,)
            What was seen.
        arm : int
            What was chosen.
        reward : float
            What it paid.
        """


class UniformAgent(BanditAgent):
    """Agent that draws arms uniformly.

    See Also
    --------
    run_bandit : Lets an agent play.

    Examples
    --------
    >>> from skfunc.datasets import WheelBandit
    >>> from skfunc.decision import UniformAgent, run_bandit
    >>> result = run_bandit(UniformAgent(), WheelBandit(0.5), 50, random_state=0)
    >>> sorted(set(result.arms.tolist()))
    [0, 1, 2, 3, 4]
    """

    def choose(self, context: NDArray[np.float64]) -> int:
        """Draw an arm.

        Parameters
        ----------
        context : ndarray of shape (n_features,)
            Not used.

        Returns
        -------
        int
            Arm, from 0.
        """
        return int(self._rng.randint(self._n_arms))


class LinearThompsonAgent(BanditAgent):
    r"""Thompson sampling with a Bayesian linear regression for each arm.

    Parameters
    ----------
    precision : float, default=0.25
        Prior precision of the weights, relative to the noise's.
    shape, rate : float, default=6.0
        Parameters of the inverse-gamma prior of the noise variance.
    n_initial_pulls : int, default=2
        Times that each arm is chosen first.

    See Also
    --------
    EstimatorAgent : The same with any regressor.

    Notes
    -----
    For each arm, :math:`r = x^T \beta + \epsilon` with an intercept in x,
    :math:`\epsilon \sim N(0, \sigma^2)`, :math:`\sigma^2 \sim IG(a, b)` and
    :math:`\beta \mid \sigma^2 \sim N(0, \sigma^2 / \lambda)`. The posterior is of the
    same form. Each round draws the variance and the weights of every arm, and chooses
    the arm of the largest mean. The defaults are those of [1]_.

    References
    ----------
    .. [1] C. Riquelme, G. Tucker, J. Snoek 2018, Deep Bayesian bandits showdown: an
       empirical comparison of Bayesian deep networks for Thompson sampling,
       arXiv 1802.09127.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skfunc.decision import (
    ...     ClassificationBandit, LinearThompsonAgent, run_bandit
    ... )
    >>> bandit = ClassificationBandit(*load_iris(return_X_y=True))
    >>> result = run_bandit(LinearThompsonAgent(), bandit, 300, random_state=0)
    >>> bool(result.regrets[-100:].mean() < result.regrets[:50].mean())
    True
    """

    def __init__(
        self,
        *,
        precision: float = 0.25,
        shape: float = 6.0,
        rate: float = 6.0,
        n_initial_pulls: int = 2,
    ):
        self.precision = precision
        self.shape = shape
        self.rate = rate
        self.n_initial_pulls = n_initial_pulls

    def start(self, n_arms: int, n_features: int, rng: np.random.RandomState) -> None:
        """Forget all, and get ready for a bandit.

        Parameters
        ----------
        n_arms : int
            Number of arms.
        n_features : int
            Length of a context.
        rng : RandomState
            Where the agent's draws come from.

        Raises
        ------
        ValueError
            If a parameter is out of its range.
        """
        super().start(n_arms, n_features, rng)
        precision = check_real("precision", self.precision, 0.0, inclusive=False)
        shape = check_real("shape", self.shape, 0.0, inclusive=False)
        rate = check_real("rate", self.rate, 0.0, inclusive=False)
        check_integer("n_initial_pulls", self.n_initial_pulls, 0)
        size = n_features + 1
        self._precisions = np.tile(precision * np.eye(size), (n_arms, 1, 1))
        self._moments = np.zeros((n_arms, size))
        self._squares = np.zeros(n_arms)
        self._means = np.zeros((n_arms, size))
        # R with R R^T the inverse of the precision matrix.
        self._roots = np.tile(np.eye(size) / np.sqrt(precision), (n_arms, 1, 1))
        self._shapes = np.full(n_arms, shape)
        self._rates = np.full(n_arms, rate)
        self._n_rounds = 0

    def choose(self, context: NDArray[np.float64]) -> int:
        """Choose the arm whose drawn regression is largest.

        Parameters
        ----------
        context : ndarray of shape (n_features,)
            What is seen in this round.

        Returns
        -------
        int
            Arm, from 0.
        """
        if self._n_rounds < self.n_initial_pulls * self._n_arms:
            return self._n_rounds % self._n_arms
        variance = self._rates / self._rng.standard_gamma(self._shapes)
        white = self._rng.standard_normal(self._means.shape)
        spread = np.einsum("aij,aj->ai", self._roots, white)
        weights = self._means + np.sqrt(variance)[:, None] * spread
        return int(np.argmax(weights @ np.append(context, 1.0)))

    def update(self, context: NDArray[np.float64], arm: int, reward: float) -> None:
        """Update the arm's posterior in closed form.

        Parameters
        ----------
        context : ndarray of shape (n_features,)
            What was seen.
        arm : int
            What was chosen.
        reward : float
            What it paid.
        """
        row = np.append(context, 1.0)
        self._precisions[arm] += np.outer(row, row)
        self._moments[arm] += reward * row
        self._squares[arm] += reward**2
        lower = np.linalg.cholesky(self._precisions[arm])
        root = solve_triangular(lower, np.eye(len(row)), lower=True).T
        whitened = root.T @ self._moments[arm]
        self._roots[arm] = root
        self._means[arm] = root @ whitened
        self._shapes[arm] += 0.5
        # b = b0 + (y^T y - mu^T P mu) / 2
        explained = whitened @ whitened
        self._rates[arm] = self.rate + 0.5 * max(self._squares[arm] - explained, 0.0)
        self._n_rounds += 1


class WheelThompsonAgent(BanditAgent):
    """Exact Thompson sampling on the wheel: all is known but delta.

    It is what an agent could learn at best by Thompson sampling, from any number of
    other wheels.

    See Also
    --------
    skfunc.datasets.WheelBandit : The bandit.

    Notes
    -----
    The prior of delta is uniform on [0, 1]. A round tells whether its radius is above
    delta if the arm of the quadrant was chosen, and nothing otherwise; so the posterior
    is uniform between the largest radius known to be inside and the smallest known to
    be outside.

    Examples
    --------
    >>> from skfunc.datasets import WheelBandit
    >>> from skfunc.decision import WheelThompsonAgent, run_bandit
    >>> wheel = WheelBandit(0.5)
    >>> result = run_bandit(WheelThompsonAgent(), wheel, 2000, random_state=0)
    >>> bool(result.regrets.mean() < 0.02 * wheel.uniform_regret)
    True
    """

    def start(self, n_arms: int, n_features: int, rng: np.random.RandomState) -> None:
        """Forget all, and get ready for a wheel.

        Parameters
        ----------
        n_arms : int
            Five.
        n_features : int
            Two.
        rng : RandomState
            Where the agent's draws come from.

        Raises
        ------
        ValueError
            If the bandit cannot be a wheel.
        """
        if (n_arms, n_features) != (N_ARMS, 2):
            raise ValueError(
                f"a wheel has {N_ARMS} arms and 2 features; got {n_arms}, {n_features}"
            )
        super().start(n_arms, n_features, rng)
        self._inside, self._outside = 0.0, 1.0

    def choose(self, context: NDArray[np.float64]) -> int:
        """Draw delta, and choose the arm that is then the best.

        Parameters
        ----------
        context : ndarray of shape (2,)
            Point of the disc.

        Returns
        -------
        int
            Arm, from 0.
        """
        delta = self._rng.uniform(self._inside, self._outside)
        is_rich = np.hypot(*context) > delta
        return int(quadrant_arms(context[None])[0]) if is_rich else 0

    def update(self, context: NDArray[np.float64], arm: int, reward: float) -> None:
        """Narrow the range of delta.

        Parameters
        ----------
        context : ndarray of shape (2,)
            Point of the disc.
        arm : int
            What was chosen.
        reward : float
            What it paid.
        """
        if arm != quadrant_arms(context[None])[0]:
            return
        radius = float(np.hypot(*context))
        if reward > RICH_MEAN / 2:
            self._outside = min(self._outside, radius)
        else:
            self._inside = max(self._inside, radius)
