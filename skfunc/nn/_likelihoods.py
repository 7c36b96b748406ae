"""Likelihoods: what a network's raw outputs say about an observation.

Raw outputs have shape (..., m, n_raw) and observations (..., m, dy). Quantiles and
distribution functions are those of each output alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from skfunc._shapes import Float

_LOG_2PI = math.log(2.0 * math.pi)
# Bisection halves the bracket each time: 60 steps reach the spacing of float64.
_BISECTIONS = 60


class Likelihood(nn.Module, ABC):
    """Distribution of observations given raw outputs of a network."""

    @abstractmethod
    def n_raw(self, n_targets: int) -> int:
        """Return how many raw outputs describe an observation of that width."""

    @abstractmethod
    def log_prob(
        self, raw: Float[Tensor, "*batch raw"], y: Float[Tensor, "*other targets"]
    ) -> Tensor:
        """Return the log density, summed over outputs, (..., m)."""

    @abstractmethod
    def mean(self, raw: Float[Tensor, "*batch raw"]) -> Tensor:
        """Return the mean, (..., m, dy)."""

    @abstractmethod
    def variance(self, raw: Float[Tensor, "*batch raw"]) -> Tensor:
        """Return the variance, (..., m, dy)."""

    @abstractmethod
    def sample(
        self,
        raw: Float[Tensor, "*batch raw"],
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw one observation per raw output, (..., m, dy)."""


class ContinuousLikelihood(Likelihood):
    """Likelihood of real numbers, with a distribution function per output."""

    @abstractmethod
    def cdf(
        self, raw: Float[Tensor, "*batch raw"], y: Float[Tensor, "*other targets"]
    ) -> Tensor:
        """Return the distribution function at y, (..., m, dy)."""

    @abstractmethod
    def quantiles(
        self, raw: Float[Tensor, "*batch raw"], levels: Float[Tensor, " levels"]
    ) -> Tensor:
        """Return quantiles at levels in (0, 1), (..., m, levels, dy)."""


def _normal_log_density(y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    z = (y - mean) / std
    return -0.5 * (z * z + _LOG_2PI) - torch.log(std)


def _standard_normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(
        like.shape, generator=generator, device=like.device, dtype=like.dtype
    )


def check_min_std(min_std: float) -> float:
    """Return a floor of a standard deviation, which must be positive."""
    if not min_std > 0.0:
        raise ValueError(f"min_std must be positive; got {min_std!r}")
    return float(min_std)


class GaussianParameters(NamedTuple):
    """Means and standard deviations, (..., m, dy)."""

    mean: Tensor
    std: Tensor


class GaussianLikelihood(ContinuousLikelihood):
    """Independent Gaussians, std = min_std + softplus(raw).

    Parameters
    ----------
    min_std : float, default=1e-3
        Floor of the standard deviation, in units of y. It bounds the log density of an
        output by ``-log(min_std) - log(2 pi) / 2``.

    Examples
    --------
    >>> import torch
    >>> from skfunc.nn import GaussianLikelihood
    >>> likelihood = GaussianLikelihood(min_std=0.1)
    >>> raw = torch.zeros(5, likelihood.n_raw(2))
    >>> likelihood.log_prob(raw, torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    def __init__(self, min_std: float = 1e-3) -> None:
        super().__init__()
        self.min_std = check_min_std(min_std)

    def n_raw(self, n_targets: int) -> int:
        """Return 2 dy: means and raw deviations."""
        return 2 * n_targets

    def parameters_of(self, raw: Float[Tensor, "*batch raw"]) -> GaussianParameters:
        """Return means and standard deviations."""
        mean, spread = raw.chunk(2, dim=-1)
        return GaussianParameters(mean, self.min_std + functional.softplus(spread))

    def log_prob(
        self, raw: Float[Tensor, "*batch raw"], y: Float[Tensor, "*other targets"]
    ) -> Tensor:
        """Return the log density, summed over outputs, (..., m)."""
        return _normal_log_density(y, *self.parameters_of(raw)).sum(-1)

    def mean(self, raw: Float[Tensor, "*batch raw"]) -> Tensor:
        """Return the mean, (..., m, dy)."""
        return self.parameters_of(raw).mean

    def variance(self, raw: Float[Tensor, "*batch raw"]) -> Tensor:
        """Return the variance, (..., m, dy)."""
        return self.parameters_of(raw).std.square()

    def sample(
        self,
        raw: Float[Tensor, "*batch raw"],
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw one observation per raw output, (..., m, dy)."""
        mean, std = self.parameters_of(raw)
        return mean + std * _standard_normal(mean, generator)

    def cdf(
        self, raw: Float[Tensor, "*batch raw"], y: Float[Tensor, "*other targets"]
    ) -> Tensor:
        """Return the distribution function at y, (..., m, dy)."""
        mean, std = self.parameters_of(raw)
        return torch.special.ndtr((y - mean) / std)

    def quantiles(
        self, raw: Float[Tensor, "*batch raw"], levels: Float[Tensor, " levels"]
    ) -> Tensor:
        """Return quantiles at levels in (0, 1), (..., m, levels, dy)."""
        mean, std = self.parameters_of(raw)
        z = torch.special.ndtri(levels.to(mean)).unsqueeze(-1)
        return mean.unsqueeze(-2) + std.unsqueeze(-2) * z


class MixtureParameters(NamedTuple):
    """Log weights (..., m, K); means and standard deviations (..., m, K, dy)."""

    log_weights: Tensor
    means: Tensor
    stds: Tensor


class MixtureLikelihood(ContinuousLikelihood):
    """Mixture of K diagonal Gaussians; a component holds for all outputs at once.

    Bishop 1994, Mixture density networks.

    Parameters
    ----------
    n_components : int, default=5
        Number of Gaussians K.
    min_std : float, default=1e-3
        Floor of each component's standard deviation, in units of y.
    """

    def __init__(self, n_components: int = 5, min_std: float = 1e-3) -> None:
        super().__init__()
        if n_components < 1:
            raise ValueError(f"n_components must be at least 1; got {n_components!r}")
        self.n_components = n_components
        self.min_std = check_min_std(min_std)

    def n_raw(self, n_targets: int) -> int:
        """Return K (1 + 2 dy): logits, means and raw deviations."""
        return self.n_components * (1 + 2 * n_targets)

    def parameters_of(self, raw: Float[Tensor, "*batch raw"]) -> MixtureParameters:
        """Return log weights, means and standard deviations."""
        n = self.n_components
        n_targets = (raw.shape[-1] // n - 1) // 2
        logits, means, spreads = raw.split([n, n * n_targets, n * n_targets], dim=-1)
        shape = (n, n_targets)
        return MixtureParameters(
            torch.log_softmax(logits, dim=-1),
            means.unflatten(-1, shape),
            self.min_std + functional.softplus(spreads.unflatten(-1, shape)),
        )

    def log_prob(
        self, raw: Float[Tensor, "*batch raw"], y: Float[Tensor, "*other targets"]
    ) -> Tensor:
        """Return the log density of all outputs together, (..., m)."""
        log_weights, means, stds = self.parameters_of(raw)
        joint = _normal_log_density(y.unsqueeze(-2), means, stds).sum(-1)
        return torch.logsumexp(log_weights + joint, dim=-1)

    def mean(self, raw: Float[Tensor, "*batch raw"]) -> Tensor:
        """Return the mean, (..., m, dy)."""
        log_weights, means, _ = self.parameters_of(raw)
        return (log_weights.exp().unsqueeze(-1) * means).sum(-2)

    def variance(self, raw: Float[Tensor, "*batch raw"]) -> Tensor:
        """Return the variance within and between components, (..., m, dy)."""
        log_weights, means, stds = self.parameters_of(raw)
        weights = log_weights.exp().unsqueeze(-1)
        centred = means - (weights * means).sum(-2, keepdim=True)
        return (weights * (stds.square() + centred.square())).sum(-2)

    def sample(
        self,
        raw: Float[Tensor, "*batch raw"],
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw a component, then its outputs, (..., m, dy)."""
        log_weights, means, stds = self.parameters_of(raw)
        chosen = draw_categories(log_weights.exp(), generator)
        index = chosen[..., None, None].expand(*chosen.shape, 1, means.shape[-1])
        mean = means.gather(-2, index).squeeze(-2)
        std = stds.gather(-2, index).squeeze(-2)
        return mean + std * _standard_normal(mean, generator)

    def cdf(
        self, raw: Float[Tensor, "*batch raw"], y: Float[Tensor, "*other targets"]
    ) -> Tensor:
        """Return each output's distribution function at y, (..., m, dy)."""
        log_weights, means, stds = self.parameters_of(raw)
        below = torch.special.ndtr((y.unsqueeze(-2) - means) / stds)
        return (log_weights.exp().unsqueeze(-1) * below).sum(-2)

    def quantiles(
        self, raw: Float[Tensor, "*batch raw"], levels: Float[Tensor, " levels"]
    ) -> Tensor:
        """Return quantiles by bisection, (..., m, levels, dy)."""
        log_weights, means, stds = self.parameters_of(raw)
        # Axes: ..., component, level, output.
        weights = log_weights.exp()[..., None, None]
        means, stds = means.unsqueeze(-2), stds.unsqueeze(-2)
        level = levels.to(means).unsqueeze(-1)
        single = means + stds * torch.special.ndtri(level)
        # A mixture's quantile lies between its components' quantiles.
        low, high = single.amin(-3), single.amax(-3)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            z = (middle.unsqueeze(-3) - means) / stds
            below = (weights * torch.special.ndtr(z)).sum(-3) < level
            low = torch.where(below, middle, low)
            high = torch.where(below, high, middle)
        return 0.5 * (low + high)


def draw_categories(
    probabilities: Float[Tensor, "*batch categories"],
    generator: torch.Generator | None,
) -> Tensor:
    """Draw a position in the last axis for every other entry."""
    flat = probabilities.reshape(-1, probabilities.shape[-1])
    chosen = torch.multinomial(flat, 1, generator=generator)
    return chosen.reshape(probabilities.shape[:-1])


class CategoricalLikelihood(Likelihood):
    """Softmax over classes; observations are one-hot rows, one output per class.

    A raw value of -inf takes a class out. Rows of weights that sum to one (soft
    labels) score the cross-entropy.

    Examples
    --------
    >>> import torch
    >>> from skfunc.nn import CategoricalLikelihood
    >>> likelihood = CategoricalLikelihood()
    >>> likelihood.log_prob(torch.zeros(1, 4), torch.eye(4)[:1]).exp()
    tensor([0.2500])
    """

    def n_raw(self, n_targets: int) -> int:
        """Return dy, the number of classes."""
        return n_targets

    def log_prob(
        self, raw: Float[Tensor, "*batch raw"], y: Float[Tensor, "*other targets"]
    ) -> Tensor:
        """Return the log probability of the class, (..., m)."""
        terms = y * torch.log_softmax(raw, dim=-1)
        # A class taken out has log probability -inf, and 0 times that is NaN.
        return torch.where(y == 0.0, 0.0, terms).sum(-1)

    def mean(self, raw: Float[Tensor, "*batch raw"]) -> Tensor:
        """Return the class probabilities, (..., m, dy)."""
        return torch.softmax(raw, dim=-1)

    def variance(self, raw: Float[Tensor, "*batch raw"]) -> Tensor:
        """Return the variance p (1 - p) of each indicator, (..., m, dy)."""
        probabilities = self.mean(raw)
        return probabilities * (1.0 - probabilities)

    def sample(
        self,
        raw: Float[Tensor, "*batch raw"],
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw one-hot rows, (..., m, dy)."""
        chosen = draw_categories(self.mean(raw), generator)
        return functional.one_hot(chosen, raw.shape[-1]).to(raw.dtype)
