"""One-dimensional regression tasks, drawn from Gaussian processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skfunc.datasets._random_state import RandomState, as_generator

Range = tuple[float, float]

# Memory of one block of covariances: 1 024 tasks of 49 points are 20 MB.
_TASKS_AT_ONCE = 1024


def _rbf(distance: NDArray, lengthscale: NDArray, period: NDArray) -> NDArray:
    return np.exp(-0.5 * (distance / lengthscale) ** 2)


def _matern12(distance: NDArray, lengthscale: NDArray, period: NDArray) -> NDArray:
    return np.exp(-distance / lengthscale)


def _matern32(distance: NDArray, lengthscale: NDArray, period: NDArray) -> NDArray:
    scaled = np.sqrt(3.0) * distance / lengthscale
    return (1 + scaled) * np.exp(-scaled)


def _matern52(distance: NDArray, lengthscale: NDArray, period: NDArray) -> NDArray:
    scaled = np.sqrt(5.0) * distance / lengthscale
    return (1 + scaled + scaled**2 / 3) * np.exp(-scaled)


def _periodic(distance: NDArray, lengthscale: NDArray, period: NDArray) -> NDArray:
    return np.exp(-2 * (np.sin(np.pi * distance / period) / lengthscale) ** 2)


KERNELS: dict[str, Callable[[NDArray, NDArray, NDArray], NDArray]] = {
    "rbf": _rbf,
    "matern12": _matern12,
    "matern32": _matern32,
    "matern52": _matern52,
    "periodic": _periodic,
}


@dataclass(frozen=True)
class GPTasks:
    """Tasks of one-dimensional regression, and the processes that they came from.

    A task's context comes first, its targets next, then places that hold zeros and are
    in neither mask.

    Parameters
    ----------
    X : ndarray of shape (n_tasks, n_points, 1)
        Inputs.
    y : ndarray of shape (n_tasks, n_points)
        Observations, with noise.
    context_mask : ndarray of bool of shape (n_tasks, n_points)
        Which points are context.
    target_mask : ndarray of bool of shape (n_tasks, n_points)
        Which points are to be predicted.
    kernel : ndarray of str of shape (n_tasks,)
        Kernel of each task.
    lengthscale : ndarray of shape (n_tasks,)
        In units of X.
    scale : ndarray of shape (n_tasks,)
        Standard deviation of the function.
    period : ndarray of shape (n_tasks,)
        In units of X; used by the periodic kernel alone.
    noise_std : float
        Standard deviation of an observation around the function.

    See Also
    --------
    make_gp_tasks : Draw them.
    gp_log_likelihood : How well the true process predicts the targets.

    Examples
    --------
    >>> from skfunc.datasets import make_gp_tasks
    >>> tasks = make_gp_tasks(3, random_state=0)
    >>> type(tasks).__name__, len(tasks), tasks.X.shape
    ('GPTasks', 3, (3, 49, 1))
    """

    X: NDArray[np.float64]
    y: NDArray[np.float64]
    context_mask: NDArray[np.bool_]
    target_mask: NDArray[np.bool_]
    kernel: NDArray[np.str_]
    lengthscale: NDArray[np.float64]
    scale: NDArray[np.float64]
    period: NDArray[np.float64]
    noise_std: float

    def __len__(self) -> int:
        return len(self.X)

    def task(
        self, index: int
    ) -> tuple[NDArray[np.float64], NDArray, NDArray[np.float64], NDArray]:
        """Return the rows of one task, without padding.

        Parameters
        ----------
        index : int
            Which task.

        Returns
        -------
        context_X : ndarray of shape (n_context, 1)
            Inputs of the context.
        context_y : ndarray of shape (n_context,)
            Its observations.
        target_X : ndarray of shape (n_target, 1)
            Inputs of the targets.
        target_y : ndarray of shape (n_target,)
            Their observations.
        """
        context, target = self.context_mask[index], self.target_mask[index]
        X, y = self.X[index], self.y[index]
        return X[context], y[context], X[target], y[target]


def covariances(
    X: NDArray[np.float64],
    kernel: NDArray[np.str_],
    lengthscale: NDArray[np.float64],
    scale: NDArray[np.float64],
    period: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the covariance of each task's function, (tasks, points, points)."""
    distance = np.abs(X - X.swapaxes(1, 2))
    result = np.empty_like(distance)
    for name in np.unique(kernel):
        of_kind = kernel == name
        correlation = KERNELS[str(name)](
            distance[of_kind],
            lengthscale[of_kind, None, None],
            period[of_kind, None, None],
        )
        result[of_kind] = scale[of_kind, None, None] ** 2 * correlation
    return result


def blocks(n_tasks: int) -> Iterator[slice]:
    """Yield slices of tasks whose covariances fit memory together."""
    for start in range(0, n_tasks, _TASKS_AT_ONCE):
        yield slice(start, start + _TASKS_AT_ONCE)


def make_gp_tasks(
    n_tasks: int,
    kernel: str | Sequence[str] = "rbf",
    *,
    x_range: Range = (-2.0, 2.0),
    min_points: int = 3,
    max_points: int = 49,
    lengthscale: Range = (0.1, 0.6),
    scale: Range = (0.1, 1.0),
    period: Range = (0.1, 0.5),
    noise_std: float = 0.02,
    random_state: RandomState = None,
) -> GPTasks:
    r"""Draw one-dimensional regression tasks from Gaussian processes.

    Parameters
    ----------
    n_tasks : int
        How many tasks.
    kernel : str or sequence of str, default="rbf"
        ``"rbf"``, ``"matern12"``, ``"matern32"``, ``"matern52"`` or ``"periodic"``; of
        several, each task draws one.
    x_range : tuple of two floats, default=(-2, 2)
        Inputs are uniform in it.
    min_points : int, default=3
        Least number of context points, and of targets.
    max_points : int, default=49
        Most points of a task, context and targets together. The number of context
        points is uniform between `min_points` and ``max_points - min_points``, that of
        targets between `min_points` and what is left.
    lengthscale : tuple of two floats, default=(0.1, 0.6)
        Uniform in it, in units of X.
    scale : tuple of two floats, default=(0.1, 1)
        Standard deviation of the function, uniform in it.
    period : tuple of two floats, default=(0.1, 0.5)
        Of the periodic kernel, uniform in it.
    noise_std : float, default=0.02
        Standard deviation of the noise; more than 0.
    random_state : int, Generator, RandomState or None, default=None
        Which draws.

    Returns
    -------
    GPTasks
        Inputs, observations, masks and the true hyper-parameters.

    Raises
    ------
    ValueError
        If a kernel is unknown, a range is not increasing and positive, or the numbers
        of points leave no room.

    See Also
    --------
    gp_log_likelihood : How well the true process predicts the targets.

    Notes
    -----
    With r the distance of two inputs, l the lengthscale, s the scale and p the period,
    the covariance is :math:`s^2 \exp(-r^2 / 2 l^2)` (rbf),
    :math:`s^2 (1 + \sqrt 5 r / l + 5 r^2 / 3 l^2) \exp(-\sqrt 5 r / l)` (matern52), and
    :math:`s^2 \exp(-2 \sin^2(\pi r / p) / l^2)` (periodic). The defaults are the
    protocol of [2]_, in which Nc context points are uniform on 3, ..., 46 and targets
    on 3, ..., 49 - Nc; here each task has numbers of its own.

    References
    ----------
    .. [1] M. Garnelo, D. Rosenbaum, C. J. Maddison, T. Ramalho, D. Saxton, M. Shanahan,
       Y. W. Teh, D. J. Rezende, S. M. A. Eslami 2018, Conditional neural processes,
       arXiv 1807.01613.
    .. [2] T. Nguyen, A. Grover 2022, Transformer neural processes: uncertainty-aware
       meta learning via sequence modeling, arXiv 2207.04179.

    Examples
    --------
    >>> from skfunc.datasets import make_gp_tasks
    >>> tasks = make_gp_tasks(100, kernel=("rbf", "periodic"), random_state=0)
    >>> context_X, context_y, target_X, target_y = tasks.task(0)
    >>> context_X.shape == (tasks.context_mask[0].sum(), 1)
    True
    """
    names = np.array([kernel] if isinstance(kernel, str) else list(kernel))
    _check(n_tasks, names, min_points, max_points, noise_std)
    _check_range("x_range", x_range, -np.inf)
    for name, value in (
        ("lengthscale", lengthscale),
        ("scale", scale),
        ("period", period),
    ):
        _check_range(name, value, 0.0)
    rng = as_generator(random_state)
    n_context = rng.integers(
        min_points, max_points - min_points, n_tasks, endpoint=True
    )
    n_target = rng.integers(min_points, max_points - n_context, endpoint=True)
    position = np.arange(max_points)
    context_mask = position < n_context[:, None]
    used = position < (n_context + n_target)[:, None]
    kind = names[rng.integers(len(names), size=n_tasks)]
    lengthscales = rng.uniform(*lengthscale, n_tasks)
    scales = rng.uniform(*scale, n_tasks)
    periods = rng.uniform(*period, n_tasks)
    X = rng.uniform(*x_range, (n_tasks, max_points, 1))
    y = rng.standard_normal((n_tasks, max_points))
    for part in blocks(n_tasks):
        covariance = covariances(
            X[part], kind[part], lengthscales[part], scales[part], periods[part]
        )
        covariance += noise_std**2 * np.eye(max_points)
        y[part] = (np.linalg.cholesky(covariance) @ y[part, :, None])[..., 0]
    X[~used], y[~used] = 0.0, 0.0
    return GPTasks(
        X,
        y,
        context_mask,
        used & ~context_mask,
        kind,
        lengthscales,
        scales,
        periods,
        float(noise_std),
    )


def _check(
    n_tasks: int,
    names: NDArray[np.str_],
    min_points: int,
    max_points: int,
    noise_std: float,
) -> None:
    if n_tasks < 1:
        raise ValueError(f"n_tasks must be at least 1; got {n_tasks!r}")
    unknown = [str(name) for name in names if name not in KERNELS]
    if unknown or not len(names):
        raise ValueError(
            f"kernel={unknown} is unknown; choose among {list(KERNELS)}, one or more"
        )
    if not 1 <= min_points <= max_points - min_points:
        raise ValueError(
            "min_points must be at least 1 and at most half of max_points; got "
            f"{min_points!r} and {max_points!r}"
        )
    if not noise_std > 0:
        raise ValueError(f"noise_std must be more than 0; got {noise_std!r}")


def _check_range(name: str, value: Range, low: float) -> None:
    if len(value) != 2 or not low < value[0] <= value[1] < np.inf:
        raise ValueError(
            f"{name} must be two finite numbers above {low:g} that do not decrease; "
            f"got {value!r}"
        )
