"""Several Gaussian processes side by side, each conditioned in closed form.

A hypothesis is a kernel with its hyper-parameters, a noise and a constant mean; the
evidence of the context says how much each is to be believed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from skfunc._shapes import Bool, Float

# Added to the diagonal beside the noise, in units of the prior variance.
JITTER = 1e-8
# Without noise beside it, rows that are close ask for more.
_PROJECTED_JITTER = 1e-7
_SQRT3, _SQRT5 = math.sqrt(3.0), math.sqrt(5.0)
_LOG_2PI = math.log(2.0 * math.pi)


class Hypotheses(NamedTuple):
    """Hyper-parameters of K kernels for every process."""

    scales: Float[Tensor, "processes kernels features"]
    linear: Float[Tensor, "processes kernels features"]
    frequencies: Float[Tensor, "processes kernels features"]
    amplitude: Float[Tensor, "processes kernels"]
    constant: Float[Tensor, "processes kernels"]
    noise: Float[Tensor, "processes kernels"]
    mean: Float[Tensor, "processes kernels"]
    logits: Float[Tensor, "processes kernels"]


class Conditioned(NamedTuple):
    """Hypotheses, and the context that they are conditioned on.

    A long context is seen through some of its rows: then `context_x`, `mask` and
    `factor` are theirs, and `inner` tells what the whole context leaves unexplained.
    """

    names: tuple[str, ...]
    hypotheses: Hypotheses
    context_x: Float[Tensor, "processes points features"]
    mask: Bool[Tensor, "processes points"]
    factor: Float[Tensor, "processes kernels points points"]
    alphas: Float[Tensor, "processes kernels points"]
    evidence: Float[Tensor, "processes kernels"]
    inner: Float[Tensor, "processes kernels points points"] | None = None


class Scaled(NamedTuple):
    """Rows and columns of a kernel matrix with one hypothesis' hyper-parameters."""

    first: Float[Tensor, "processes rows features"]
    second: Float[Tensor, "processes columns features"]
    scales: Float[Tensor, "processes one features"]
    frequencies: Float[Tensor, "processes one features"]

    def squared_distance(self) -> Float[Tensor, "processes rows columns"]:
        """Return squared distances of scaled points."""
        a, b = self.first * self.scales, self.second * self.scales
        squared = (
            a.square().sum(-1, keepdim=True)
            + b.square().sum(-1).unsqueeze(1)
            - 2.0 * (a @ b.mT)
        )
        return squared.clamp(min=0.0)

    def distance(self) -> Float[Tensor, "processes rows columns"]:
        """Return distances; the root has no derivative at zero, hence the offset."""
        return torch.sqrt(self.squared_distance() + 1e-12)


def _rbf(points: Scaled) -> Tensor:
    return torch.exp(-0.5 * points.squared_distance())


def _matern12(points: Scaled) -> Tensor:
    return torch.exp(-points.distance())


def _matern32(points: Scaled) -> Tensor:
    r = _SQRT3 * points.distance()
    return (1.0 + r) * torch.exp(-r)


def _matern52(points: Scaled) -> Tensor:
    r = _SQRT5 * points.distance()
    return (1.0 + r + r.square() / 3.0) * torch.exp(-r)


def _arcsine(points: Scaled) -> Tensor:
    # Williams 1997: a network of infinitely many error-function units, bias included.
    a, b = points.first * points.scales, points.second * points.scales
    product = 1.0 + a @ b.mT
    first = 3.0 + 2.0 * a.square().sum(-1, keepdim=True)
    second = 3.0 + 2.0 * b.square().sum(-1).unsqueeze(1)
    return (2.0 / math.pi) * torch.asin(2.0 * product / torch.sqrt(first * second))


def _periodic(points: Scaled) -> Tensor:
    # MacKay 1998; a product over columns, each on a circle of its own.
    angle = torch.pi * (points.first.unsqueeze(2) - points.second.unsqueeze(1))
    angle = angle * points.frequencies.unsqueeze(1)
    bent = (torch.sin(angle) * points.scales.unsqueeze(1)).square().sum(-1)
    return torch.exp(-2.0 * bent)


def _arcsine_variance(scaled: Float[Tensor, "*batch features"]) -> Tensor:
    q = 1.0 + scaled.square().sum(-1)
    return (2.0 / math.pi) * torch.asin(2.0 * q / (1.0 + 2.0 * q))


# Correlations by name; all are one at distance zero, but for the arc sine kernel.
KERNELS: dict[str, Callable[[Scaled], Tensor]] = {
    "arcsine": _arcsine,
    "matern12": _matern12,
    "matern32": _matern32,
    "matern52": _matern52,
    "periodic": _periodic,
    "rbf": _rbf,
}


def check_kernels(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of kernels.

    Raises
    ------
    ValueError
        If one is unknown, or there are none.
    """
    if set(names) - set(KERNELS) or not names:
        raise ValueError(f"kernels={list(names)!r} must name some of {sorted(KERNELS)}")
    return tuple(names)


def kernel_matrices(
    names: tuple[str, ...],
    hypotheses: Hypotheses,
    first: Float[Tensor, "processes rows features"],
    second: Float[Tensor, "processes columns features"],
) -> Float[Tensor, "processes kernels rows columns"]:
    """Return the kernel of two sets of points under each hypothesis."""
    matrices = []
    for k, name in enumerate(names):
        scaled = Scaled(
            first,
            second,
            hypotheses.scales[:, k].unsqueeze(1),
            hypotheses.frequencies[:, k].unsqueeze(1),
        )
        slope = hypotheses.linear[:, k].square().unsqueeze(1)
        amplitude = hypotheses.amplitude[:, k].square()[:, None, None]
        constant = hypotheses.constant[:, k].square()[:, None, None]
        shape = KERNELS[name](scaled)
        matrices.append(amplitude * shape + (first * slope) @ second.mT + constant)
    return torch.stack(matrices, dim=1)


def prior_variances(
    names: tuple[str, ...],
    hypotheses: Hypotheses,
    x: Float[Tensor, "processes rows features"],
) -> Float[Tensor, "processes kernels rows"]:
    """Return each point's variance under each hypothesis, before any data."""
    variances = []
    for k, name in enumerate(names):
        shape = torch.ones_like(x[..., 0])
        if name == "arcsine":
            shape = _arcsine_variance(x * hypotheses.scales[:, k].unsqueeze(1))
        slope = (x * hypotheses.linear[:, k].unsqueeze(1)).square().sum(-1)
        amplitude = hypotheses.amplitude[:, k, None].square()
        variances.append(
            amplitude * shape + slope + hypotheses.constant[:, k, None].square()
        )
    return torch.stack(variances, dim=1)


def hide_padding(
    matrices: Float[Tensor, "processes kernels points points"],
    mask: Bool[Tensor, "processes points"],
) -> Float[Tensor, "processes kernels points points"]:
    """Return matrices with zeros in rows and columns of points that are not there."""
    # Elsewhere the question would wait for the device.
    if mask.device.type == "cpu" and mask.all():
        return matrices
    pair = (mask.unsqueeze(1) & mask.unsqueeze(2)).unsqueeze(1)
    return matrices.masked_fill(~pair, 0.0)


def covariance_factor(
    names: tuple[str, ...],
    hypotheses: Hypotheses,
    x: Float[Tensor, "processes points features"],
    mask: Bool[Tensor, "processes points"],
) -> Float[Tensor, "processes kernels points points"]:
    """Return the Cholesky factors of the context's covariance, noise included."""
    kernel = hide_padding(kernel_matrices(names, hypotheses, x, x), mask)
    jitter = JITTER * prior_variances(names, hypotheses, x)
    diagonal = hypotheses.noise.square().unsqueeze(-1) + jitter
    # A row that is not there is an observation of its own: it explains nothing.
    diagonal = torch.where(mask.unsqueeze(1), diagonal, torch.ones_like(diagonal))
    return torch.linalg.cholesky(kernel + torch.diag_embed(diagonal))


def condition(
    names: tuple[str, ...],
    hypotheses: Hypotheses,
    x: Float[Tensor, "processes points features"],
    y: Float[Tensor, "processes points"],
    mask: Bool[Tensor, "processes points"],
) -> Conditioned:
    """Condition every hypothesis on a context, and compute its evidence."""
    factor = covariance_factor(names, hypotheses, x, mask)
    there = mask.unsqueeze(1)
    centred = (y.unsqueeze(1) - hypotheses.mean.unsqueeze(-1)).masked_fill(~there, 0.0)
    alphas = torch.cholesky_solve(centred.unsqueeze(-1), factor).squeeze(-1)
    halved = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    count = mask.sum(-1, keepdim=True)
    fit = 0.5 * (centred * alphas).sum(-1)
    evidence = -fit - halved - 0.5 * _LOG_2PI * count
    return Conditioned(names, hypotheses, x, mask, factor, alphas, evidence)


class Projected(NamedTuple):
    """A long context, seen through its first m rows, with O outputs."""

    factor: Float[Tensor, "processes kernels m m"]
    inner: Float[Tensor, "processes kernels m m"]
    alphas: Float[Tensor, "processes kernels m outputs"]


def project(
    names: tuple[str, ...],
    hypotheses: Hypotheses,
    x: Float[Tensor, "processes points features"],
    centred: Float[Tensor, "processes kernels points outputs"],
    n_through: int,
) -> Projected:
    """Condition on all rows of a long context, seen through its first ones.

    The projected process of Rasmussen and Williams 2006, section 8.3.4 (its variances
    are 8.27): O(n m^2) for m rows to see through, in blocks that hold no n x n matrix.
    """
    through = x[:, :n_through]
    kernel = kernel_matrices(names, hypotheses, through, through)
    jitter = _PROJECTED_JITTER * prior_variances(names, hypotheses, through)
    factor = torch.linalg.cholesky(kernel + torch.diag_embed(jitter))
    inverse_noise = (1.0 / hypotheses.noise)[..., None, None]
    inner = torch.diag_embed(torch.ones_like(jitter))
    projected = torch.zeros_like(jitter).unsqueeze(-1)
    for start in range(0, x.shape[1], n_through):
        rows = slice(start, start + n_through)
        cross = kernel_matrices(names, hypotheses, through, x[:, rows])
        white = torch.linalg.solve_triangular(factor, cross, upper=False)
        white = white * inverse_noise
        inner = inner + white @ white.mT
        projected = projected + white @ (centred[:, :, rows] * inverse_noise)
    inner = torch.linalg.cholesky(inner)
    solved = torch.cholesky_solve(projected, inner)
    alphas = torch.linalg.solve_triangular(factor.mT, solved, upper=True)
    return Projected(factor, inner, alphas)


def condition_through(
    names: tuple[str, ...],
    hypotheses: Hypotheses,
    x: Float[Tensor, "processes points features"],
    y: Float[Tensor, "processes points"],
    n_through: int,
    evidence: Float[Tensor, "processes kernels"],
) -> Conditioned:
    """Condition on all rows of a long context, seen through its first ones."""
    centred = y.unsqueeze(1) - hypotheses.mean.unsqueeze(-1)
    seen = project(names, hypotheses, x, centred.unsqueeze(-1), n_through)
    through = x[:, :n_through]
    return Conditioned(
        names,
        hypotheses,
        through,
        torch.ones_like(through[..., 0], dtype=torch.bool),
        seen.factor,
        seen.alphas.squeeze(-1),
        evidence,
        seen.inner,
    )


class Posterior(NamedTuple):
    """What a context says of the function at m points, under each hypothesis.

    The covariance is the prior's, less ``explained' explained``, and, of a context seen
    through some rows, plus ``left' left``.
    """

    mean: Float[Tensor, "processes kernels points"]
    explained: Float[Tensor, "processes kernels context points"]
    left: Float[Tensor, "processes kernels context points"] | None

    def variance(self, prior: Float[Tensor, "processes kernels points"]) -> Tensor:
        """Return the variance at each point, given that of the prior."""
        variance = prior - self.explained.square().sum(-2)
        if self.left is not None:
            variance = variance + self.left.square().sum(-2)
        return variance.clamp(min=0.0)

    def covariance(
        self, prior: Float[Tensor, "processes kernels points points"]
    ) -> Tensor:
        """Return the covariance of the points, given that of the prior."""
        covariance = prior - self.explained.mT @ self.explained
        if self.left is not None:
            covariance = covariance + self.left.mT @ self.left
        return covariance


def posterior_at(
    conditioned: Conditioned, x: Float[Tensor, "processes rows features"]
) -> Posterior:
    """Return what the context says of the function at some points."""
    names, hypotheses = conditioned.names, conditioned.hypotheses
    cross = kernel_matrices(names, hypotheses, x, conditioned.context_x)
    cross = cross.masked_fill(~conditioned.mask[:, None, None], 0.0)
    shift = (cross @ conditioned.alphas.unsqueeze(-1)).squeeze(-1)
    explained = torch.linalg.solve_triangular(conditioned.factor, cross.mT, upper=False)
    left = None
    if conditioned.inner is not None:
        left = torch.linalg.solve_triangular(conditioned.inner, explained, upper=False)
    return Posterior(hypotheses.mean.unsqueeze(-1) + shift, explained, left)


def evidence_slope(
    names: tuple[str, ...],
    hypotheses: Hypotheses,
    x: Float[Tensor, "processes points features"],
    y: Float[Tensor, "processes points *outputs"],
    mask: Bool[Tensor, "processes points"],
    weights: Float[Tensor, "processes outputs"] | None = None,
) -> Float[Tensor, ""]:
    """Return a number whose derivatives are those of the log evidence, summed.

    The derivative with respect to the covariance matrix is known (Rasmussen and
    Williams 2006, equation 5.9), which spares the way back through its factor. With
    `weights`, which sum to one, it is the weighted mean over several outputs.
    """
    if weights is None:
        y, weights = y.unsqueeze(-1), torch.ones_like(y[:, :1])
    there = mask.unsqueeze(1)
    kernel = kernel_matrices(names, hypotheses, x, x)
    jitter = JITTER * prior_variances(names, hypotheses, x)
    diagonal = hypotheses.noise.square().unsqueeze(-1) + jitter
    centred = y.unsqueeze(1) - hypotheses.mean[..., None, None]
    share = weights[:, None, None]
    with torch.no_grad():
        unit = torch.where(there, diagonal, torch.ones_like(diagonal))
        whole = hide_padding(kernel, mask) + torch.diag_embed(unit)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(whole))
        alphas = inverse @ centred.masked_fill(~there.unsqueeze(-1), 0.0)
        slope = 0.5 * ((share * alphas) @ alphas.mT - inverse)
        slope = hide_padding(slope, mask)
    of_kernel = (slope * kernel).sum()
    of_diagonal = (slope.diagonal(dim1=-2, dim2=-1) * diagonal).sum()
    of_mean = (share * alphas * centred).masked_fill(~there.unsqueeze(-1), 0.0).sum()
    return of_kernel + of_diagonal - of_mean
