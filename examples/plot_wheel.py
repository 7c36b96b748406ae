"""
The price of not exploring: a wheel with rich rounds at its rim
===============================================================

In every round of a contextual bandit a context is seen, one arm is chosen, and only its
reward is paid. On the *wheel* [1]_ the context is a point of the unit disc. Within the
radius delta the safe arm 0 is best by a little, 1.2 against 1.0. Beyond it the arm of
the point's quadrant pays 50, and only one who tries it out there will learn that.

.. [1] C. Riquelme, G. Tucker, J. Snoek 2018, Deep Bayesian bandits showdown: an
   empirical comparison of Bayesian deep networks for Thompson sampling, arXiv
   1802.09127.
"""

# %%
# Three agents on the same rounds
# -------------------------------
# The first stands on trees, one for each arm, and pulls the best by their prediction;
# two rounds in a hundred it pulls any. The second samples linear regressions from their
# posterior. The third knows all but delta, and draws delta from its posterior: no
# Thompson sampling that has learned from other wheels can know more.
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from sklearn.tree import DecisionTreeRegressor

from skfunc.datasets import WheelBandit
from skfunc.decision import (
    EstimatorAgent,
    LinearThompsonAgent,
    WheelThompsonAgent,
    run_bandit,
)

trees = DecisionTreeRegressor(min_samples_leaf=2, random_state=0)
agents = {
    "trees, nearly greedy": EstimatorAgent(
        trees, strategy="epsilon_greedy", epsilon=0.02
    ),
    "linear Thompson sampling": LinearThompsonAgent(),
    "all known but delta": WheelThompsonAgent(),
}
n_rounds = 2000


class Recorded(WheelBandit):
    """The wheel, which keeps the rounds that it has dealt."""

    def sample(self, n_rounds, random_state=None):
        self.dealt = super().sample(n_rounds, random_state)
        return self.dealt


wheel = Recorded(delta=0.8)
results = {}
for name, agent in agents.items():
    results[name] = run_bandit(agent, wheel, n_rounds, random_state=0)
    share = 100 * results[name].regrets.mean() / wheel.uniform_regret
    print(f"{name}: {share:.1f} % of the regret of chance")
contexts = wheel.dealt.contexts

# %%
# What they pulled in the last 1000 rounds
# ----------------------------------------
# Grey is the safe arm; beyond the circle the colour should be the quadrant's. The trees
# stay with what paid in their few trials, the straight lines cut corners, and the agent
# that knows what to look for has found the radius.
colours = ["#BBBBBB", "#0072B2", "#E69F00", "#009E73", "#CC79A7"]
figure, axes = plt.subplots(1, 4, figsize=(14, 3.9), layout="constrained")
circle = np.linspace(0, 2 * np.pi, 200)
for ax, (name, result) in zip(axes, results.items(), strict=False):
    ax.scatter(
        *contexts[-1000:].T,
        c=result.arms[-1000:],
        cmap=ListedColormap(colours),
        vmin=0,
        vmax=4,
        s=7,
    )
    ax.plot(*(wheel.delta * np.stack([np.cos(circle), np.sin(circle)])), "k", lw=0.8)
    ax.set(title=name, aspect="equal", xticks=[], yticks=[])
for (name, result), style in zip(results.items(), (":", "--", "-"), strict=True):
    axes[3].plot(result.cumulative_regret, style, color="black", label=name)
chance = wheel.uniform_regret * np.arange(n_rounds)
axes[3].plot(chance, color="#BBBBBB", label="chance")
axes[3].set(
    title="cumulative regret",
    xlabel="round",
    yscale="symlog",
    ylim=(0, 1.3 * chance[-1]),
)
axes[3].legend(fontsize=8)
plt.show()
