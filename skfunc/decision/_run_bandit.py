"""An agent plays a contextual bandit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from skfunc._validation import check_integer
from skfunc.datasets._contextual_bandit import ContextualBandit
from skfunc.decision._agents import BanditAgent

_SEED_LIMIT = 2**31 - 1
# Riquelme, Tucker, Snoek 2018, section 5: the simple regret's window.
_LAST_STEPS = 500


@dataclass(frozen=True)
class BanditResult:
    """What an agent did and got.

    Parameters
    ----------
    arms : ndarray of int of shape (n_steps,)
        Arms that were chosen.
    rewards : ndarray of shape (n_steps,)
        What they paid.
    regrets : ndarray of shape (n_steps,)
        Expected reward of the best arm less that of the chosen one.

    See Also
    --------
    run_bandit : Makes it.

    Examples
    --------
    >>> from skfunc.datasets import WheelBandit
    >>> from skfunc.decision import UniformAgent, run_bandit
    >>> result = run_bandit(UniformAgent(), WheelBandit(0.9), 1000, random_state=0)
    >>> bool(result.simple_regret() == result.regrets[-500:].mean())
    True
    """

    arms: NDArray[np.intp]
    rewards: NDArray[np.float64]
    regrets: NDArray[np.float64]

    @property
    def cumulative_regret(self) -> NDArray[np.float64]:
        """Sum of the regrets up to each step, of shape (n_steps,)."""
        return np.cumsum(self.regrets)

    def simple_regret(self, n_last: int = _LAST_STEPS) -> float:
        """Return the mean regret of the last steps: what is lost after learning.

        Parameters
        ----------
        n_last : int, default=500
            Number of steps.

        Returns
        -------
        float
            Per step, in units of reward.
        """
        return float(self.regrets[-check_integer("n_last", n_last) :].mean())


def run_bandit(
    agent: BanditAgent,
    environment: ContextualBandit,
    n_steps: int = 2000,
    random_state: int | np.random.RandomState | None = None,
) -> BanditResult:
    """Let an agent play a contextual bandit.

    Parameters
    ----------
    agent : BanditAgent
        Who plays; it starts anew.
    environment : ContextualBandit
        What is played.
    n_steps : int, default=2000
        How many rounds.
    random_state : int, RandomState or None, default=None
        Draws of the environment and of the agent. The rounds of one seed are the same
        for all agents.

    Returns
    -------
    BanditResult
        Arms, rewards and regrets of all steps.

    Raises
    ------
    ValueError
        If the agent chooses an arm that there is not.

    See Also
    --------
    skfunc.datasets.WheelBandit : A bandit to begin with.

    Examples
    --------
    >>> from skfunc.datasets import WheelBandit
    >>> from skfunc.decision import LinearThompsonAgent, run_bandit
    >>> wheel = WheelBandit(delta=0.5)
    >>> result = run_bandit(LinearThompsonAgent(), wheel, n_steps=500, random_state=0)
    >>> share = result.cumulative_regret[-1] / (500 * wheel.uniform_regret)
    >>> bool(0 < share < 1)
    True
    """
    check_integer("n_steps", n_steps)
    rng = check_random_state(random_state)
    rounds = environment.sample(n_steps, random_state=int(rng.randint(_SEED_LIMIT)))
    agent.start(environment.n_arms, environment.n_features, rng)
    arms = np.empty(n_steps, dtype=np.intp)
    for step, context in enumerate(rounds.contexts):
        arm = agent.choose(context)
        if not 0 <= arm < environment.n_arms:
            raise ValueError(
                f"the agent chose arm {arm} of arms 0 to {environment.n_arms - 1}"
            )
        agent.update(context, arm, float(rounds.rewards[step, arm]))
        arms[step] = arm
    steps = np.arange(n_steps)
    regrets = rounds.optimal_means - rounds.means[steps, arms]
    return BanditResult(arms, rounds.rewards[steps, arms], regrets)
