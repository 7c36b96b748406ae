"""Minimization of a costly function by Thompson sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.utils import check_array, check_random_state

from skfunc._validation import check_integer, check_real

_SEED_LIMIT = 2**31 - 1
# With bounds, this share of the candidates lies around the best point so far, at this
# standard deviation in units of the bounds' width: it refines what random points miss.
_LOCAL_SHARE, _LOCAL_STD = 0.2, 0.03


@dataclass(frozen=True)
class ThompsonResult:
    """What `thompson_minimize` found.

    Parameters
    ----------
    x_best : ndarray of shape (n_features,)
        Point of the least value.
    f_best : float
        The least value.
    X : ndarray of shape (n_evaluations, n_features)
        Points, in the order of their evaluation.
    y : ndarray of shape (n_evaluations,)
        Their values.

    See Also
    --------
    thompson_minimize : Makes it.

    Examples
    --------
    >>> import numpy as np
    >>> from skfunc.decision import ThompsonResult
    >>> found = ThompsonResult(np.array([1.0]), 0.0, np.eye(2, 1), np.array([0.0, 2.0]))
    >>> found.n_evaluations
    2
    """

    x_best: NDArray[np.float64]
    f_best: float
    X: NDArray[np.float64]
    y: NDArray[np.float64]

    @property
    def n_evaluations(self) -> int:
        """Number of evaluations of the function, the initial ones included."""
        return len(self.y)

    @property
    def best_so_far(self) -> NDArray[np.float64]:
        """Least value up to each evaluation, of shape (n_evaluations,)."""
        return np.minimum.accumulate(self.y)


def thompson_minimize(
    estimator: Any,
    f: Callable[[NDArray[np.float64]], float],
    *,
    candidates: ArrayLike | None = None,
    bounds: ArrayLike | None = None,
    n_iter: int = 50,
    n_initial: int = 1,
    n_candidates: int = 1000,
    stop_at: float | None = None,
    repeat: bool = False,
    random_state: int | np.random.RandomState | None = None,
) -> ThompsonResult:
    """Minimize a costly function by Thompson sampling.

    Every step fits the estimator to what is known, draws one function from it, and
    evaluates `f` where that function is least.

    Parameters
    ----------
    estimator : estimator
        Regressor with ``sample_y(X, n_samples, random_state)``, cloned and fitted at
        every step.
    f : callable
        Takes a point of shape (n_features,) and returns a finite number.
    candidates : array-like of shape (n_candidates, n_features) or None, default=None
        Points among which to search.
    bounds : array-like of shape (n_features, 2) or None, default=None
        Lower and upper ends of a box in which to search, instead of candidates.
    n_iter : int, default=50
        Evaluations after the initial ones, at most.
    n_initial : int, default=1
        Random evaluations before the first fit.
    n_candidates : int, default=1000
        Points in the box at which a drawn function is evaluated, new ones in each
        step; most of them uniform, some near the best point so far.
    stop_at : float or None, default=None
        Stop once a value is at most this.
    repeat : bool, default=False
        Whether a candidate may be evaluated again, as makes sense when `f` is noisy.
        When none is left, the search ends.
    random_state : int, RandomState or None, default=None
        Which draws.

    Returns
    -------
    ThompsonResult
        The best point, and all points and values.

    Raises
    ------
    ValueError
        If not exactly one of `candidates` and `bounds` is given, a number is out of
        its range, or `f` returns a value that is not finite.
    TypeError
        If the estimator has no method `sample_y`.

    References
    ----------
    .. [1] W. R. Thompson 1933, On the likelihood that one unknown probability exceeds
       another in view of the evidence of two samples, Biometrika 25, 285-294.
    .. [2] M. Garnelo, J. Schwarz, D. Rosenbaum, F. Viola, D. J. Rezende, S. M. A.
       Eslami, Y. W. Teh 2018, Neural processes, arXiv 1807.01622.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.gaussian_process import GaussianProcessRegressor
    >>> from skfunc.decision import thompson_minimize
    >>> grid = np.linspace(-2, 2, 101)[:, None]
    >>> found = thompson_minimize(
    ...     GaussianProcessRegressor(optimizer=None),
    ...     lambda x: float((x[0] - 0.6) ** 2),
    ...     candidates=grid,
    ...     n_iter=15,
    ...     random_state=0,
    ... )
    >>> bool(abs(found.x_best[0] - 0.6) < 0.1)
    True
    """
    if not hasattr(estimator, "sample_y"):
        raise TypeError(
            f"{type(estimator).__name__} has no method sample_y; Thompson sampling "
            "needs draws of functions"
        )
    check_integer("n_iter", n_iter, 0)
    check_integer("n_initial", n_initial)
    check_integer("n_candidates", n_candidates)
    if stop_at is not None:
        check_real("stop_at", stop_at)
    rng = check_random_state(random_state)
    search: _Grid | _Box
    if (candidates is None) == (bounds is None):
        raise ValueError("give either candidates or bounds, one of them")
    if candidates is not None:
        search = _Grid(check_array(candidates, dtype=np.float64), repeat)
    else:
        search = _Box(_checked_bounds(bounds), n_candidates)
    points: list[NDArray[np.float64]] = []
    values: list[float] = []
    while len(values) < n_initial + n_iter and not search.is_exhausted:
        best = points[int(np.argmin(values))] if values else None
        offered = search.offer(best, rng)
        if len(values) < n_initial:
            chosen = int(rng.randint(len(offered)))
        else:
            model = clone(estimator).fit(np.array(points), np.array(values))
            drawn = model.sample_y(
                offered, n_samples=1, random_state=int(rng.randint(_SEED_LIMIT))
            )
            chosen = int(np.argmin(drawn.reshape(len(offered))))
        points.append(offered[chosen])
        values.append(_evaluated(f, offered[chosen]))
        search.take(chosen)
        if stop_at is not None and values[-1] <= stop_at:
            break
    X, y = np.array(points), np.array(values)
    best_row = int(np.argmin(y))
    return ThompsonResult(X[best_row], float(y[best_row]), X, y)


class _Grid:
    """Candidates of the user, each used once unless it may be repeated."""

    def __init__(self, points: NDArray[np.float64], repeat: bool) -> None:
        self.points = points
        self.repeat = repeat
        self.left = np.arange(len(points))

    @property
    def is_exhausted(self) -> bool:
        return len(self.left) == 0

    def offer(
        self, best: NDArray[np.float64] | None, rng: np.random.RandomState
    ) -> NDArray[np.float64]:
        return self.points[self.left]

    def take(self, chosen: int) -> None:
        if not self.repeat:
            self.left = np.delete(self.left, chosen)


class _Box:
    """Random points between bounds, new ones in each step."""

    is_exhausted = False

    def __init__(self, bounds: NDArray[np.float64], n_candidates: int) -> None:
        self.low, self.high = bounds.T
        self.n_candidates = n_candidates

    def offer(
        self, best: NDArray[np.float64] | None, rng: np.random.RandomState
    ) -> NDArray[np.float64]:
        shape = (self.n_candidates, len(self.low))
        points = rng.uniform(self.low, self.high, shape)
        if best is not None:
            n_local = int(_LOCAL_SHARE * self.n_candidates)
            step = rng.standard_normal((n_local, len(self.low)))
            near = best + _LOCAL_STD * (self.high - self.low) * step
            points[:n_local] = np.clip(near, self.low, self.high)
        return points

    def take(self, chosen: int) -> None:
        pass


def _checked_bounds(bounds: ArrayLike | None) -> NDArray[np.float64]:
    box = check_array(bounds, dtype=np.float64)
    if box.shape[1] != 2 or not (box[:, 0] < box[:, 1]).all():
        raise ValueError(
            "bounds must have a row (lower, upper) for each feature, lower < upper; "
            f"got {box.tolist()}"
        )
    return box


def _evaluated(
    f: Callable[[NDArray[np.float64]], float], x: NDArray[np.float64]
) -> float:
    value = float(f(x.copy()))
    if not np.isfinite(value):
        raise ValueError(f"f returned {value} at {x.tolist()}; it must be finite")
    return value
