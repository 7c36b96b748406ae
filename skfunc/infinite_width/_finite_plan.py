"""What the infinite network says of the training of finite ones, before it begins."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from skfunc.infinite_width._inference import Decomposition
from skfunc.infinite_width._kernel_block import Pairs
from skfunc.infinite_width._kernel_matrices import kernel_matrices
from skfunc.infinite_width._layers_base import Layer

Array = NDArray[np.float64]

# "auto" learning rate, as a fraction of the largest that is stable at infinite width:
# kernels of finite networks differ from member to member and grow in training.
_RATE_FRACTION = 1 / 3
# Candidates of "auto" training time, evenly spaced on a logarithmic scale.
_TIMES = 40
# Leave-one-out errors this close to the best are as good: the earlier time wins.
_TIE = 1e-6
# Most rows, and most numbers in a kernel, on which rate, time and noise are chosen.
_KERNEL_ROWS, _KERNEL_NUMBERS = 2000, 4e8
# A kernel whose largest entry is below is zero.
_LEAST_KERNEL = 1e-100
# Least noise, in standard deviations of y: a density needs some.
_LEAST_NOISE = 1e-6
# The same as a share of the members' leave-one-out residuals, as a power of e.
_LOG_LEAST_SHARE = -3.0


class Plan(NamedTuple):
    """A descent's largest stable rate, its time t and steps, and the noise it leaves.

    The noise has shape (targets,).
    """

    max_rate: float
    time: float
    n_steps: int
    noise_std: Array


def plan_training(
    net: Layer,
    data: tuple[Array, Array, Array],
    outputs: Callable[[Array], Array],
    *,
    image_shape: tuple[int, int, int] | None,
    last_only: bool,
    ridge: float,
    training_time: float | Literal["auto"],
    learning_rate: float | Literal["auto"],
    max_iter: int,
    random_state: np.random.RandomState,
) -> Plan:
    """Choose learning rate, time and noise by the closed form of the infinite network.

    Parameters
    ----------
    net : Layer
        The network.
    data : tuple of ndarray
        Standardized rows and targets of shape (rows, targets), and weights.
    outputs : callable
        Returns the untrained members' outputs for rows, (members, rows, targets).
    image_shape : tuple of int or None
        (channels, height, width).
    last_only : bool
        Whether the last layer alone is trained.
    ridge : float
        Penalty on the distance from the start.
    training_time, learning_rate : float or "auto"
        What the user asks for.
    max_iter : int
        Most steps of an "auto" time.
    random_state : RandomState
        Chooses rows where there are too many.
    """
    rows, targets, weights = data
    numbers = _numbers_per_pair(net, image_shape)
    n_rows = min(_KERNEL_ROWS, int(math.sqrt(_KERNEL_NUMBERS / numbers)))
    if len(rows) > n_rows:
        some = random_state.choice(len(rows), n_rows, replace=False)
        rows, targets, weights = rows[some], targets[some], weights[some]
    kind = "nngp" if last_only else "ntk"
    kernel = getattr(
        kernel_matrices(net, rows, image_shape=image_shape, kind=kind), kind
    )
    if float(kernel.abs().max()) < _LEAST_KERNEL:
        # Floors that keep the recursion finite leave traces where all rows are zero.
        kernel.zero_()
    solution = Decomposition(kernel.numpy(), targets, weights, overwrite=True)
    max_rate = solution.max_learning_rate(ridge)
    if not math.isfinite(max_rate):
        # The kernel is zero, and every rate is as good.
        max_rate = 1.0
    if learning_rate == "auto":
        learning_rate = _RATE_FRACTION * max_rate
    if training_time == "auto":
        steps = np.unique(np.geomspace(1, max_iter, _TIMES).round().astype(int))
        times = steps * learning_rate
    else:
        # A ratio that rounding puts just above an integer is that integer.
        ratio = training_time / learning_rate * (1 - 1e-9)
        steps = np.array([max(math.ceil(ratio), 1)])
        times = np.array([float(training_time)])
    residuals = solution.leave_one_out_residuals(ridge, times)
    scores = np.average(residuals**2, axis=1, weights=weights).mean(axis=1)
    chosen = int(np.flatnonzero(scores <= scores.min() * (1 + _TIE))[0])
    time = float(times[chosen])
    left_out = _member_residuals(solution, outputs(rows), ridge, time)
    noise = np.array([_noise_std(part, weights) for part in left_out])
    return Plan(max_rate, time, int(steps[chosen]), noise)


def _member_residuals(
    solution: Decomposition,
    initial: Array,
    ridge: float,
    time: float,
) -> Array:
    """Return leave-one-out residuals of each member, (targets, members, rows).

    In the kernel of the infinite network a member with initial outputs f, of shape
    (members, rows, targets), fits what they leave of y.
    """
    members, n, k = initial.shape
    left = solution.targets - initial
    columns = solution.with_targets(left.transpose(1, 2, 0).reshape(n, k * members))
    # N grows with the number of targets: so must the time.
    residuals = columns.leave_one_out_residuals(ridge, time * members)
    return residuals.T.reshape(k, members, n)


def _noise_std(residuals: Array, weights: Array) -> float:
    """Return the noise of a mixture that makes its residuals, (members, rows), likely.

    Each row's target has the density of a Gaussian around every member, averaged.
    """
    mean_square = np.average((residuals**2).mean(axis=0), weights=weights)
    log_largest = 0.5 * math.log(max(mean_square, _LEAST_NOISE**2))
    log_least = max(log_largest + _LOG_LEAST_SHARE, math.log(_LEAST_NOISE))
    if log_least >= log_largest:
        return _LEAST_NOISE

    def loss(log_noise: float) -> float:
        exponents = -0.5 * residuals**2 * math.exp(-2 * log_noise)
        densities = special.logsumexp(exponents, axis=0) - log_noise
        return -float(np.average(densities, weights=weights))

    best = optimize.minimize_scalar(
        loss, bounds=(log_least, log_largest), method="bounded"
    )
    return math.exp(best.x)


def _numbers_per_pair(net: Layer, image_shape: tuple[int, int, int] | None) -> int:
    """Return how many numbers the kernel of two rows takes on its way up."""
    if image_shape is None:
        return 1
    pixels = image_shape[1] * image_shape[2]
    return pixels ** (net._pairs_below(Pairs.NONE) // 2)
