"""An agent for contextual bandits that stands on any regressor."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from skfunc._validation import check_integer, check_option, check_real
from skfunc.decision._agents import BanditAgent

_STRATEGIES = ("auto", "sample", "std", "bootstrap", "epsilon_greedy")
_SEED_LIMIT = 2**31 - 1


class EstimatorAgent(BanditAgent):
    """Agent whose beliefs about rewards are a regressor's.

    Parameters
    ----------
    estimator : estimator
        Regressor, of skfunc or scikit-learn; cloned.
    strategy : str, default="auto"
        How to explore. ``"sample"``: the best arm of one function drawn by
        ``sample_y``. ``"std"``: of independent draws around ``predict(X,
        return_std=True)``. ``"bootstrap"``: of one of several models, each fitted to
        rows drawn with replacement. ``"epsilon_greedy"``: of the prediction, but
        sometimes any. ``"auto"`` takes the first of these that the estimator can do.
    shared : bool, default=False
        Whether one model has rows of contexts and indicators of arms; otherwise each
        arm has a model of its own.
    incremental : bool, default=False
        Whether new rows go to the estimator's ``partial_fit``, at every step, instead
        of a fit to all rows; not with ``"bootstrap"``.
    refit_growth : float, default=1.2
        Fit again once a model has this many times the rows of its last fit.
    n_initial_pulls : int, default=2
        Times that each arm is chosen first.
    n_bootstraps : int, default=10
        Models of ``"bootstrap"``.
    epsilon : float, default=0.05
        Share of random arms of ``"epsilon_greedy"``.

    See Also
    --------
    LinearThompsonAgent : Linear regressions in closed form.
    thompson_minimize : Optimization by the same idea.

    References
    ----------
    .. [1] O. Chapelle, L. Li 2011, An empirical evaluation of Thompson sampling,
       Advances in Neural Information Processing Systems 24.
    .. [2] I. Osband, C. Blundell, A. Pritzel, B. Van Roy 2016, Deep exploration via
       bootstrapped DQN, arXiv 1602.04621.

    Examples
    --------
    >>> from sklearn.linear_model import BayesianRidge
    >>> from skfunc.datasets import WheelBandit
    >>> from skfunc.decision import EstimatorAgent, run_bandit
    >>> agent = EstimatorAgent(BayesianRidge())
    >>> result = run_bandit(agent, WheelBandit(0.5), n_steps=100, random_state=0)
    >>> len(result.rewards)
    100
    """

    def __init__(
        self,
        estimator: Any,
        *,
        strategy: str = "auto",
        shared: bool = False,
        incremental: bool = False,
        refit_growth: float = 1.2,
        n_initial_pulls: int = 2,
        n_bootstraps: int = 10,
        epsilon: float = 0.05,
    ):
        self.estimator = estimator
        self.strategy = strategy
        self.shared = shared
        self.incremental = incremental
        self.refit_growth = refit_growth
        self.n_initial_pulls = n_initial_pulls
        self.n_bootstraps = n_bootstraps
        self.epsilon = epsilon

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
            If a parameter is out of its range, or the estimator cannot do what the
            strategy or `incremental` asks.
        """
        super().start(n_arms, n_features, rng)
        check_real("refit_growth", self.refit_growth, 1.0)
        check_integer("n_initial_pulls", self.n_initial_pulls)
        check_integer("n_bootstraps", self.n_bootstraps)
        check_real("epsilon", self.epsilon, 0.0, 1.0)
        self._strategy = self._resolved()
        self._models: list[_Rows] = [
            self._new_rows() for _ in range(1 if self.shared else n_arms)
        ]
        self._n_rounds = 0

    def choose(self, context: NDArray[np.float64]) -> int:
        """Choose the arm that the drawn or predicted rewards favour.

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
        for model in self._models:
            model.bring_up_to_date(self._rng)
        if self._strategy == "epsilon_greedy" and self._rng.uniform() < self.epsilon:
            return int(self._rng.randint(self._n_arms))
        if self.shared:
            values = self._values(self._models[0], self._rows(context))
        else:
            row = context[None]
            values = np.array([self._values(model, row)[0] for model in self._models])
        # Models of few rows predict alike; the first arm must not win by its place.
        return int(self._rng.choice(np.flatnonzero(values == values.max())))

    def update(self, context: NDArray[np.float64], arm: int, reward: float) -> None:
        """Keep the row; the next choice may fit to it.

        Parameters
        ----------
        context : ndarray of shape (n_features,)
            What was seen.
        arm : int
            What was chosen.
        reward : float
            What it paid.
        """
        row = self._rows(context)[arm] if self.shared else context
        self._models[0 if self.shared else arm].append(row, reward)
        self._n_rounds += 1

    def _resolved(self) -> str:
        check_option("strategy", self.strategy, _STRATEGIES)
        can = {
            "sample": hasattr(self.estimator, "sample_y"),
            "std": _predicts_std(self.estimator),
            "bootstrap": not self.incremental,
        }
        name = type(self.estimator).__name__
        if self.incremental and not hasattr(self.estimator, "partial_fit"):
            raise ValueError(f"incremental=True, but {name} has no partial_fit")
        if self.strategy == "auto":
            possible = [strategy for strategy, able in can.items() if able]
            return possible[0] if possible else "epsilon_greedy"
        if not can.get(self.strategy, True):
            raise ValueError(
                f"strategy={self.strategy!r} is not possible with {name} and "
                f"incremental={self.incremental}"
            )
        return self.strategy

    def _new_rows(self) -> _Rows:
        n_copies = self.n_bootstraps if self._strategy == "bootstrap" else 1
        return _Rows(
            [clone(self.estimator) for _ in range(n_copies)],
            self._strategy == "bootstrap",
            self.incremental,
            self.refit_growth,
        )

    def _rows(self, context: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the context beside the indicator of each arm."""
        contexts = np.tile(context, (self._n_arms, 1))
        return np.hstack([contexts, np.eye(self._n_arms)])

    def _values(self, model: _Rows, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._strategy == "sample":
            seed = int(self._rng.randint(_SEED_LIMIT))
            drawn = model.estimators[0].sample_y(rows, n_samples=1, random_state=seed)
            return drawn.reshape(len(rows))
        if self._strategy == "std":
            mean, std = model.estimators[0].predict(rows, return_std=True)
            return mean + std * self._rng.standard_normal(len(rows))
        chosen = model.estimators[int(self._rng.randint(len(model.estimators)))]
        return np.asarray(chosen.predict(rows)).reshape(len(rows))


class _Rows:
    """Rows of one model, and the estimators fitted to them from time to time."""

    def __init__(
        self, estimators: list[Any], resample: bool, incremental: bool, growth: float
    ) -> None:
        self.estimators = estimators
        self.resample = resample
        self.incremental = incremental
        self.growth = growth
        self.X: list[NDArray[np.float64]] = []
        self.y: list[float] = []
        self.n_fitted = 0

    def append(self, row: NDArray[np.float64], reward: float) -> None:
        self.X.append(row)
        self.y.append(reward)

    def bring_up_to_date(self, rng: np.random.RandomState) -> None:
        n_rows = len(self.y)
        if self.incremental and 0 < self.n_fitted < n_rows:
            X, y = self.X[self.n_fitted :], self.y[self.n_fitted :]
            self.estimators[0].partial_fit(np.array(X), np.array(y))
            self.n_fitted = n_rows
        elif n_rows > self.n_fitted and n_rows >= self.growth * self.n_fitted:
            X_all, y_all = np.array(self.X), np.array(self.y)
            for estimator in self.estimators:
                rows = (
                    rng.randint(n_rows, size=n_rows) if self.resample else slice(None)
                )
                estimator.fit(X_all[rows], y_all[rows])
            self.n_fitted = n_rows


def _predicts_std(estimator: Any) -> bool:
    return "return_std" in inspect.signature(estimator.predict).parameters
