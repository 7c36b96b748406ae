"""A histogram as likelihood: any shape of density, at a resolution fixed before."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from skfunc._shapes import Float, Int
from skfunc.nn._likelihoods import ContinuousLikelihood, draw_categories

# Quantile of the half-normal distribution at one half: a tail of this scale times the
# outer bin's width has half of its mass within that bin.
_HALF_NORMAL_MEDIAN = 0.6744897501960817
_LOG_HALF_NORMAL = 0.5 * math.log(2.0 / math.pi)


class BinsLikelihood(ContinuousLikelihood):
    """Piecewise-uniform density over fixed bins, with half-normal tails.

    Each output has one logit per bin. Inside an inner bin the density is constant. The
    two outer bins hold half-normal tails that start at their inner edges and go to
    infinity; half of a tail's mass lies within its bin. Mueller et al. 2022,
    Transformers can do Bayesian inference (arXiv 2112.10510), call it the
    Riemann distribution.

    Parameters
    ----------
    edges : Tensor of shape (n_bins + 1,)
        Increasing edges of at least three bins, in units of y; the outermost ones set
        the scale of the tails. Logits of zero give every bin the same mass, so edges
        at quantiles of the data start at the distribution of the data.

    Raises
    ------
    ValueError
        If the edges are too few, not finite or do not increase.

    Examples
    --------
    >>> import torch
    >>> from skfunc.nn import BinsLikelihood
    >>> likelihood = BinsLikelihood(torch.linspace(-2.0, 2.0, 9))
    >>> likelihood.cdf(torch.zeros(1, 8), torch.tensor([[0.5]]))
    tensor([[0.6250]])
    """

    edges: Tensor

    def __init__(self, edges: Float[Tensor, " edges"]) -> None:
        super().__init__()
        if edges.dim() != 1 or len(edges) < 4:
            raise ValueError(
                f"edges must be at least 4 numbers in a row; got {tuple(edges.shape)}"
            )
        if not (torch.isfinite(edges).all() and (edges.diff() > 0).all()):
            raise ValueError("edges must be finite and strictly increase")
        self.register_buffer("edges", edges.detach().clone())

    @classmethod
    def from_values(cls, values: Tensor, n_bins: int = 100) -> BinsLikelihood:
        """Return bins of equal mass among the values; edges that coincide are one.

        Parameters
        ----------
        values : Tensor
            Observations of any shape.
        n_bins : int, default=100
            Number of bins at most.

        Returns
        -------
        BinsLikelihood
            The likelihood.
        """
        levels = torch.linspace(0.0, 1.0, n_bins + 1, dtype=torch.float64)
        edges = _quantiles(values.detach().double().flatten(), levels)
        return cls(torch.unique_consecutive(edges).to(values.dtype))

    @property
    def n_bins(self) -> int:
        """Number of bins."""
        return len(self.edges) - 1

    def n_raw(self, n_targets: int) -> int:
        """Return n_bins dy: one logit per bin and output."""
        return self.n_bins * n_targets

    def log_weights_of(self, raw: Float[Tensor, "*batch raw"]) -> Tensor:
        """Return the log masses of the bins, (..., m, dy, n_bins)."""
        return torch.log_softmax(raw.unflatten(-1, (-1, self.n_bins)), dim=-1)

    def _tail_scales(self) -> tuple[Tensor, Tensor]:
        widths = self.edges.diff()
        return widths[0] / _HALF_NORMAL_MEDIAN, widths[-1] / _HALF_NORMAL_MEDIAN

    def _bin_of(self, y: Tensor) -> Int[Tensor, "*batch"]:
        # The inner edges part the line into n_bins pieces.
        return torch.bucketize(y.contiguous(), self.edges[1:-1])

    def log_prob(
        self, raw: Float[Tensor, "*batch raw"], y: Float[Tensor, "*other targets"]
    ) -> Tensor:
        """Return the log density, summed over outputs, (..., m)."""
        log_weights = self.log_weights_of(raw)
        y = y.expand(log_weights.shape[:-1])
        bins = self._bin_of(y)
        mass = log_weights.gather(-1, bins.unsqueeze(-1)).squeeze(-1)
        left, right = self._tail_scales()
        inner = -torch.log(self.edges.diff())[bins]
        below = _half_normal_log_density(self.edges[1] - y, left)
        above = _half_normal_log_density(y - self.edges[-2], right)
        shape = torch.where(bins == self.n_bins - 1, above, inner)
        return (mass + torch.where(bins == 0, below, shape)).sum(-1)

    def _bin_moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and second moment of every bin, about zero."""
        low, high = self.edges[:-1], self.edges[1:]
        means = 0.5 * (low + high)
        variances = (high - low).square() / 12.0
        left, right = self._tail_scales()
        # Half-normal: mean scale sqrt(2 / pi), variance scale^2 (1 - 2 / pi).
        shift, share = math.sqrt(2.0 / math.pi), 1.0 - 2.0 / math.pi
        means[0] = high[0] - left * shift
        means[-1] = low[-1] + right * shift
        variances[0], variances[-1] = left.square() * share, right.square() * share
        return means, variances

    def mean(self, raw: Float[Tensor, "*batch raw"]) -> Tensor:
        """Return the mean, (..., m, dy)."""
        return self.log_weights_of(raw).exp() @ self._bin_moments()[0]

    def variance(self, raw: Float[Tensor, "*batch raw"]) -> Tensor:
        """Return the variance within and between bins, (..., m, dy)."""
        weights = self.log_weights_of(raw).exp()
        means, variances = self._bin_moments()
        centred = means - (weights @ means).unsqueeze(-1)
        return (weights * (variances + centred.square())).sum(-1)

    def sample(
        self,
        raw: Float[Tensor, "*batch raw"],
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw a bin, then a place in it, (..., m, dy)."""
        weights = self.log_weights_of(raw).exp()
        bins = draw_categories(weights, generator)
        share = torch.rand(
            bins.shape, generator=generator, device=raw.device, dtype=raw.dtype
        )
        return self._place(bins, share)

    def _place(self, bins: Tensor, share: Tensor) -> Tensor:
        """Return the point that has this share of its bin's mass below it."""
        left, right = self._tail_scales()
        # The half-normal quantile at u is scale * ndtri((1 + u) / 2).
        smallest = torch.finfo(share.dtype).eps
        below = torch.special.ndtri(1.0 - 0.5 * share.clamp(smallest, 1.0))
        above = torch.special.ndtri(0.5 + 0.5 * share.clamp(0.0, 1.0 - smallest))
        inner = self.edges[bins] + share * self.edges.diff()[bins]
        place = torch.where(
            bins == self.n_bins - 1, self.edges[-2] + right * above, inner
        )
        return torch.where(bins == 0, self.edges[1] - left * below, place)

    def cdf(
        self, raw: Float[Tensor, "*batch raw"], y: Float[Tensor, "*other targets"]
    ) -> Tensor:
        """Return the distribution function at y, (..., m, dy)."""
        weights = self.log_weights_of(raw).exp()
        y = y.expand(weights.shape[:-1])
        bins = self._bin_of(y)
        left, right = self._tail_scales()
        inner = (y - self.edges[bins]) / self.edges.diff()[bins]
        below = 2.0 * torch.special.ndtr(-(self.edges[1] - y) / left)
        above = 1.0 - 2.0 * torch.special.ndtr(-(y - self.edges[-2]) / right)
        share = torch.where(bins == self.n_bins - 1, above, inner)
        share = torch.where(bins == 0, below, share)
        before = functional.pad(weights.cumsum(-1), (1, 0))
        index = bins.unsqueeze(-1)
        return (
            before.gather(-1, index) + share.unsqueeze(-1) * weights.gather(-1, index)
        ).squeeze(-1)

    def quantiles(
        self, raw: Float[Tensor, "*batch raw"], levels: Float[Tensor, " levels"]
    ) -> Tensor:
        """Return quantiles at levels in (0, 1), (..., m, levels, dy)."""
        weights = self.log_weights_of(raw).exp()
        cumulative = weights.cumsum(-1)
        level = levels.to(raw).expand(*weights.shape[:-1], -1).contiguous()
        bins = torch.searchsorted(cumulative, level).clamp(max=self.n_bins - 1)
        before = functional.pad(cumulative, (1, 0)).gather(-1, bins)
        mass = weights.gather(-1, bins)
        # A bin of no mass is reached by rounding alone, and its start is as good.
        safe = torch.where(mass > 0.0, mass, 1.0)
        share = torch.where(mass > 0.0, (level - before) / safe, 0.0).clamp(0.0, 1.0)
        return self._place(bins, share).transpose(-1, -2)


def _half_normal_log_density(distance: Tensor, scale: Tensor) -> Tensor:
    # The branch not taken gets a harmless number, since its gradient is taken too.
    z = distance.clamp(min=0.0) / scale
    return _LOG_HALF_NORMAL - torch.log(scale) - 0.5 * z * z


def _quantiles(
    values: Float[Tensor, " values"], levels: Float[Tensor, " levels"]
) -> Float[Tensor, " levels"]:
    """Return quantiles by interpolation; torch.quantile refuses many values."""
    ordered = values.sort().values
    place = levels.to(values) * (len(values) - 1)
    low = place.floor().long()
    high = (low + 1).clamp(max=len(values) - 1)
    return torch.lerp(ordered[low], ordered[high], place - low)
