"""The diagonal of an inverse that is only known by its products."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from skfunc._shapes import Float
from skfunc.infinite_width._iterative_operator import KernelOperator
from skfunc.infinite_width._iterative_preconditioner import LowRank


def random_signs(
    operator: KernelOperator, n_probes: int, random_state: int
) -> Float[Tensor, "rows probes"]:
    """Return vectors of random signs, the probes of a stochastic trace.

    Parameters
    ----------
    operator : KernelOperator
        Gives the length and the device.
    n_probes : int
        Vectors.
    random_state : int
        Seed.

    Returns
    -------
    Tensor of shape (n_samples, n_probes)
        Float64 entries 1 and -1.
    """
    signs = np.random.default_rng(random_state).integers(
        0, 2, size=(operator.shape[0], n_probes)
    )
    return torch.as_tensor(2.0 * signs - 1.0, device=operator.device)


def inverse_diagonal(
    operator: KernelOperator,
    ridge: float,
    low_rank: LowRank | None,
    probes: Float[Tensor, "rows probes"],
    solved: Float[Tensor, "rows probes"],
) -> Float[Tensor, " rows"]:
    r"""Return an estimate of the diagonal p of :math:`(S + \lambda I)^{-1}`.

    Each 1 / p is a variance of prediction, noise included. It lies between that of
    the preconditioner P, in which rows share all that landmarks see and their own
    remainder is lost, and that of a row that shares nothing:

    .. math:: 1 / [P^{-1}]_{ii} \le 1 / p_i \le S_{ii} + \lambda.

    So p is the harmonic mixture of both bounds, with one share for all rows, whose sum
    is the trace of the inverse. The trace is estimated from probes z as the mean of
    :math:`z^T (S + \lambda I)^{-1} z`, with :math:`z^T P^{-1} z`, whose mean is known,
    as a control variate.

    Parameters
    ----------
    operator : KernelOperator
        S.
    ridge : float
        The ridge, positive.
    low_rank : LowRank or None
        The preconditioner; None for P = ridge I.
    probes, solved : Tensor of shape (n_samples, n_probes)
        Vectors of random signs, and their products with the inverse.

    Returns
    -------
    Tensor of shape (n_samples,)
        Positive. On normal data of 4 to 20 columns and 600 to 3 000 rows, with eight
        probes, the mean square of leave-one-out residuals made of it was within 21 %
        of the exact one.

    Raises
    ------
    ValueError
        If there are no probes.

    References
    ----------
    Hutchinson (1990). A stochastic estimator of the trace of the influence matrix for
    Laplacian smoothing splines. Communications in Statistics 19(2).
    """
    if not probes.shape[1]:
        raise ValueError(
            "leave-one-out residuals by conjugate gradients need n_probes of at least 1"
        )
    lower = 1.0 / (operator.diagonal() + ridge)
    if low_rank is None:
        upper = torch.full_like(lower, 1.0 / ridge)
        approximate = probes / ridge
    else:
        # Even rows that landmarks explain to the last digit keep a positive entry.
        upper = (1.0 - low_rank.fitted_diagonal(ridge)) / ridge
        upper = torch.maximum(upper, lower)
        approximate = low_rank.solve(probes, ridge)
    trace = _trace(
        (probes * solved).sum(dim=0),
        (probes * approximate).sum(dim=0),
        float(upper.sum()),
    )

    def mixture(share: float) -> Tensor:
        return 1.0 / ((1.0 - share) / lower + share / upper)

    if trace <= float(lower.sum()):
        return lower
    if trace >= float(upper.sum()):
        return upper
    share = brentq(lambda share: float(mixture(share).sum()) - trace, 0.0, 1.0)
    return mixture(share)


def _trace(samples: Tensor, control: Tensor, mean_of_control: float) -> float:
    """Return the mean of the samples, corrected by the control variate.

    Its coefficient is that of least squares, within [0, 1]; one sample has none.
    """
    mean = float(samples.mean())
    spread = control - control.mean()
    variance = float(spread.square().sum())
    if variance == 0.0:
        return mean
    covariance = float(((samples - mean) * spread).sum())
    coefficient = min(max(covariance / variance, 0.0), 1.0)
    return mean - coefficient * (float(control.mean()) - mean_of_control)
