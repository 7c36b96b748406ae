"""Correlation functions of many Gaussian processes at once, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from skfunc._shapes import Float, Int

_FIRST_JITTER, _LAST_JITTER = 1e-8, 1e-2


@dataclass(frozen=True)
class KernelParameters:
    """Hyper-parameters of one kernel for each task.

    Parameters
    ----------
    kind : Tensor of int of shape (tasks,)
        Position in `KERNELS`.
    inverse_lengthscale : Tensor of shape (tasks, features)
        In inverse units of X; 0 for columns without relevance.
    period : Tensor of shape (tasks,)
        Of the periodic kernel, in units of the lengthscale.
    roughness : Tensor of shape (tasks,)
        Length of a lengthscale in the periodic kernel, in units of the period.
    tail : Tensor of shape (tasks,)
        Exponent alpha of the rational quadratic.
    bias : Tensor of shape (tasks,)
        Variance of the linear kernel's intercept.
    """

    kind: Int[Tensor, " tasks"]
    inverse_lengthscale: Float[Tensor, "tasks features"]
    period: Float[Tensor, " tasks"]
    roughness: Float[Tensor, " tasks"]
    tail: Float[Tensor, " tasks"]
    bias: Float[Tensor, " tasks"]

    def of(self, rows: Int[Tensor, " chosen"]) -> KernelParameters:
        """Return the parameters of some of the tasks."""
        return KernelParameters(*(values[rows] for values in vars(self).values()))


def _squared_distance(Z: Tensor) -> Tensor:
    norm = (Z**2).sum(-1)
    squared = norm[:, :, None] + norm[:, None, :] - 2 * Z @ Z.mT
    # Rounding leaves the diagonal at 1e-16 or so, of which a root makes 1e-8.
    points = torch.arange(Z.shape[1], device=Z.device)
    squared[:, points, points] = 0.0
    return squared.clamp_min(0.0)


def _rbf(Z: Tensor, p: KernelParameters) -> Tensor:
    return torch.exp(-0.5 * _squared_distance(Z))


def _matern12(Z: Tensor, p: KernelParameters) -> Tensor:
    return torch.exp(-_squared_distance(Z).sqrt())


def _matern32(Z: Tensor, p: KernelParameters) -> Tensor:
    r = math.sqrt(3.0) * _squared_distance(Z).sqrt()
    return (1 + r) * torch.exp(-r)


def _matern52(Z: Tensor, p: KernelParameters) -> Tensor:
    r = math.sqrt(5.0) * _squared_distance(Z).sqrt()
    return (1 + r + r**2 / 3) * torch.exp(-r)


def _rational_quadratic(Z: Tensor, p: KernelParameters) -> Tensor:
    alpha = p.tail[:, None, None]
    return torch.exp(-alpha * torch.log1p(_squared_distance(Z) / (2 * alpha)))


def _periodic(Z: Tensor, p: KernelParameters) -> Tensor:
    # exp(-2 sum_j sin^2(pi (z_j - z'_j) / p) / l^2) over the relevant columns, by
    # 2 sin^2(a - b) = 1 - cos 2a cos 2b - sin 2a sin 2b.
    angle = 2 * math.pi * Z / p.period[:, None, None]
    relevant = (p.inverse_lengthscale > 0).to(Z.dtype)
    weight = relevant.sqrt()[:, None, :]
    waves = torch.cat([weight * angle.cos(), weight * angle.sin()], dim=-1)
    count = relevant.sum(-1)[:, None, None]
    return torch.exp((waves @ waves.mT - count) / p.roughness[:, None, None] ** 2)


def _linear(Z: Tensor, p: KernelParameters) -> Tensor:
    # The variance is one for columns of unit variance.
    total = (p.inverse_lengthscale**2).sum(-1)[:, None, None]
    bias = p.bias[:, None, None]
    return (bias + Z @ Z.mT / total) / (1 + bias)


KERNELS: dict[str, Callable[[Tensor, KernelParameters], Tensor]] = {
    "rbf": _rbf,
    "matern12": _matern12,
    "matern32": _matern32,
    "matern52": _matern52,
    "rational_quadratic": _rational_quadratic,
    "periodic": _periodic,
    "linear": _linear,
}
_KERNEL_LIST = list(KERNELS.values())


def correlation(
    X: Float[Tensor, "tasks points features"], parameters: KernelParameters
) -> Float[Tensor, "tasks points points"]:
    """Return each task's kernel between its points."""
    result = X.new_empty(len(X), X.shape[1], X.shape[1])
    for position, kernel in enumerate(_KERNEL_LIST):
        rows = torch.nonzero(parameters.kind == position)[:, 0]
        if len(rows):
            chosen = parameters.of(rows)
            Z = X[rows] * chosen.inverse_lengthscale[:, None, :]
            result[rows] = kernel(Z, chosen)
    return result


def root(
    covariance: Float[Tensor, "tasks points points"],
) -> Float[Tensor, "tasks points points"]:
    """Return Cholesky factors, with as little jitter as each call needs.

    Raises
    ------
    FloatingPointError
        If a covariance is not positive definite with the largest jitter either.
    """
    diagonal = torch.diagonal(covariance, dim1=1, dim2=2)
    size = diagonal.mean(1)[:, None]
    jitter = _FIRST_JITTER
    while jitter <= _LAST_JITTER:
        shifted = covariance + torch.diag_embed(jitter * size.expand_as(diagonal))
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if not failed.any():
            return factor
        jitter *= 100
    raise FloatingPointError("a covariance is not positive definite")
