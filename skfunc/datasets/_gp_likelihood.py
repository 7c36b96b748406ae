"""The exact predictive likelihood of tasks whose process is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skfunc.datasets._gp_tasks import GPTasks, blocks, covariances

_LOG_2_PI = float(np.log(2 * np.pi))


def gp_log_likelihood(tasks: GPTasks, *, joint: bool = False) -> NDArray[np.float64]:
    r"""Return the log-likelihood per target of the process that made each task.

    No model can be better on average: it knows the kernel, its hyper-parameters and
    the noise.

    Parameters
    ----------
    tasks : GPTasks
        Tasks of `make_gp_tasks`.
    joint : bool, default=False
        Take the targets of a task as one vector. By default each target is predicted
        alone, as by models whose targets are independent given the context.

    Returns
    -------
    ndarray of shape (n_tasks,)
        Nats: the sum over a task's targets, divided by their number.

    See Also
    --------
    make_gp_tasks : Draw the tasks.

    Notes
    -----
    Marginal: :math:`\frac1m \sum_i \log p(y_i \mid x_i, C)`; joint:
    :math:`\frac1m \log p(y_1, \dots, y_m \mid x_1, \dots, x_m, C)`, with C the context.
    The joint one is the larger on average, since targets tell of each other. The mean
    of the result weights tasks equally; weights ``tasks.target_mask.sum(1)`` pool the
    targets of all tasks.

    References
    ----------
    .. [1] C. E. Rasmussen, C. K. I. Williams 2006, Gaussian processes for machine
       learning, MIT Press, algorithm 2.1.

    Examples
    --------
    >>> from skfunc.datasets import gp_log_likelihood, make_gp_tasks
    >>> tasks = make_gp_tasks(500, random_state=0)
    >>> marginal = gp_log_likelihood(tasks).mean()
    >>> joint = gp_log_likelihood(tasks, joint=True).mean()
    >>> bool(marginal < joint)
    True
    """
    per_target = np.empty(len(tasks))
    likelihood = _joint if joint else _marginal
    for part in blocks(len(tasks)):
        covariance = covariances(
            tasks.X[part],
            tasks.kernel[part],
            tasks.lengthscale[part],
            tasks.scale[part],
            tasks.period[part],
        )
        points = np.arange(covariance.shape[1])
        covariance[:, points, points] += tasks.noise_std**2
        context, target = tasks.context_mask[part], tasks.target_mask[part]
        log_density = likelihood(covariance, tasks.y[part], context, target)
        per_target[part] = (log_density * target).sum(1) / target.sum(1)
    return per_target


def _factor(covariance: NDArray, there: NDArray[np.bool_]) -> NDArray:
    """Return Cholesky factors with unit rows for points that are not there."""
    both = there[:, :, None] & there[:, None, :]
    return np.linalg.cholesky(np.where(both, covariance, np.eye(covariance.shape[1])))


def _joint(
    covariance: NDArray, y: NDArray, context: NDArray, target: NDArray
) -> NDArray:
    # The context comes first, so entry i of L^-1 y is the standardized error of y_i
    # given all before it: the chain rule of the joint density.
    factor = _factor(covariance, context | target)
    error = np.linalg.solve(factor, y[..., None])[..., 0]
    std = np.diagonal(factor, axis1=1, axis2=2)
    return -0.5 * (_LOG_2_PI + error**2) - np.log(std)


def _marginal(
    covariance: NDArray, y: NDArray, context: NDArray, target: NDArray
) -> NDArray:
    factor = _factor(covariance, context)
    crossed = covariance * context[:, :, None]
    known = (y * context)[..., None]
    # GPML 2.25 and 2.26, with v = L^-1 k and L^-1 y.
    solved = np.linalg.solve(factor, np.concatenate([crossed, known], axis=2))
    v, whitened = solved[..., :-1], solved[..., -1:]
    mean = (v * whitened).sum(1)
    prior = np.diagonal(covariance, axis1=1, axis2=2)
    # At context points the variance is of no use, and may round to zero.
    variance = np.where(target, prior - (v**2).sum(1), 1.0)
    return -0.5 * (_LOG_2_PI + np.log(variance) + (y - mean) ** 2 / variance)
