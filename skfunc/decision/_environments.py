"""Contextual bandits made of data sets."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array, check_consistent_length, column_or_1d

from skfunc.datasets import BanditSample
from skfunc.datasets._contextual_bandit import ContextualBandit
from skfunc.datasets._random_state import RandomState, as_generator

# Riquelme, Tucker, Snoek 2018, appendix A: eating pays 5, or half of the time -35 when
# the mushroom is poisonous.
_MEAL, _POISON, _POISON_CHANCE = 5.0, -35.0, 0.5


class ClassificationBandit(ContextualBandit):
    """Bandit of a classification data set: the arm of the right class pays 1.

    Rounds are rows in random order; when all were used they begin anew.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Contexts. Columns are centred and scaled to unit variance.
    y : array-like of shape (n_samples,)
        Labels; an arm for each class, in sorted order.

    Attributes
    ----------
    classes_ : ndarray of shape (n_arms,)
        Label of each arm.
    n_arms : int
        Number of classes.
    n_features : int
        Number of columns.

    See Also
    --------
    MushroomBandit : A bandit whose mistakes are costly.

    References
    ----------
    .. [1] C. Riquelme, G. Tucker, J. Snoek 2018, Deep Bayesian bandits showdown: an
       empirical comparison of Bayesian deep networks for Thompson sampling,
       arXiv 1802.09127.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skfunc.decision import ClassificationBandit
    >>> bandit = ClassificationBandit(*load_iris(return_X_y=True))
    >>> bandit.sample(5, random_state=0).rewards.sum(axis=1)
    array([1., 1., 1., 1., 1.])
    """

    def __init__(self, X: ArrayLike, y: ArrayLike):
        self._contexts = _standardized(X)
        labels = column_or_1d(y)
        check_consistent_length(self._contexts, labels)
        self.classes_, self._right = np.unique(labels, return_inverse=True)
        self.n_arms = len(self.classes_)
        self.n_features = self._contexts.shape[1]

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
            Contexts, rewards of all arms and their means, which are the rewards.
        """
        rows = _row_order(len(self._contexts), n_rounds, as_generator(random_state))
        rewards = np.eye(self.n_arms)[self._right[rows]]
        return BanditSample(self._contexts[rows], rewards, rewards.copy())


class MushroomBandit(ContextualBandit):
    """Bandit of eating or leaving mushrooms.

    Arm 0 leaves the mushroom and pays nothing. Arm 1 eats it, which pays 5, but for a
    poisonous one, half of the time, -35.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Contexts, categories as indicator columns. Columns are centred and scaled to
        unit variance.
    edible : array-like of bool of shape (n_samples,)
        Which mushrooms can be eaten.

    Attributes
    ----------
    n_arms : int
        Two.
    n_features : int
        Number of columns.

    See Also
    --------
    ClassificationBandit : A bandit of any classification data set.

    References
    ----------
    .. [1] C. Blundell, J. Cornebise, K. Kavukcuoglu, D. Wierstra 2015, Weight
       uncertainty in neural networks, arXiv 1505.05424.
    .. [2] C. Riquelme, G. Tucker, J. Snoek 2018, Deep Bayesian bandits showdown: an
       empirical comparison of Bayesian deep networks for Thompson sampling,
       arXiv 1802.09127.

    Examples
    --------
    >>> from skfunc.decision import MushroomBandit
    >>> bandit = MushroomBandit([[0.0, 1.0], [1.0, 0.0]], [True, False])
    >>> sorted(bandit.sample(2, random_state=0).means[:, 1].tolist())
    [-15.0, 5.0]
    """

    n_arms = 2

    def __init__(self, X: ArrayLike, edible: ArrayLike):
        self._contexts = _standardized(X)
        self._edible = column_or_1d(edible)
        check_consistent_length(self._contexts, self._edible)
        if self._edible.dtype != bool:
            raise ValueError(
                f"edible must be booleans; got an array of {self._edible.dtype}"
            )
        self.n_features = self._contexts.shape[1]

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
            Contexts, rewards of both arms and their means.
        """
        rng = as_generator(random_state)
        rows = _row_order(len(self._contexts), n_rounds, rng)
        edible = self._edible[rows]
        is_ill = ~edible & (rng.uniform(size=n_rounds) < _POISON_CHANCE)
        mean = (1 - _POISON_CHANCE) * _MEAL + _POISON_CHANCE * _POISON
        nothing = np.zeros(n_rounds)
        rewards = np.stack([nothing, np.where(is_ill, _POISON, _MEAL)], axis=1)
        means = np.stack([nothing, np.where(edible, _MEAL, mean)], axis=1)
        return BanditSample(self._contexts[rows], rewards, means)


def _standardized(X: ArrayLike) -> NDArray[np.float64]:
    rows = check_array(X, dtype=np.float64)
    scale = rows.std(axis=0)
    scale[scale == 0] = 1.0
    return (rows - rows.mean(axis=0)) / scale


def _row_order(
    n_rows: int, n_rounds: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    passes = -(-n_rounds // n_rows)
    return np.concatenate([rng.permutation(n_rows) for _ in range(passes)])[:n_rounds]
