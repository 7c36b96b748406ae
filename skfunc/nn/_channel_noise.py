"""Noise of series' channels: white, and an Ornstein-Uhlenbeck process beside it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skfunc._shapes import Float

_LOG_TWO_PI = math.log(2.0 * math.pi)
# Noise at the start, and the least there is, in standard deviations of a channel.
_FIRST_NOISE, _LEAST_NOISE = 0.5, 1e-3
# Least and largest share of the correlated part in the noise's variance: with all of
# it, two observations at one time would have to agree.
_SHARES = (1e-3, 0.99)
# Time, in windows, over which the correlation falls to 1/e, at the start.
_FIRST_LENGTH = 0.1


class ChannelNoise(nn.Module):
    """Noise of each channel's observations around the path.

    White with standard deviation s; or, if ``correlated``, a stationary
    Ornstein-Uhlenbeck process and white noise, of variances r s^2 and (1 - r) s^2. The
    process is Markov, so that a scalar Kalman filter for each channel takes the place
    of a covariance matrix of all observations: the cost grows with their number, not
    with its cube.

    Parameters
    ----------
    n_channels : int
        Channels of the series.
    correlated : bool, default=False
        Whether there is more than white noise.
    """

    def __init__(self, n_channels: int, correlated: bool = False) -> None:
        super().__init__()
        self.correlated = correlated
        self.log_std = nn.Parameter(torch.empty(n_channels))
        if correlated:
            self.share_logit = nn.Parameter(torch.empty(n_channels))
            self.log_length = nn.Parameter(torch.empty(n_channels))

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Set the first guess."""
        del generator
        with torch.no_grad():
            self.log_std.fill_(math.log(_FIRST_NOISE))
            if self.correlated:
                self.share_logit.zero_()
                self.log_length.fill_(math.log(_FIRST_LENGTH))

    def forward(self) -> Float[Tensor, "*members channels"]:
        """Return the standard deviations."""
        return torch.sqrt(torch.exp(2.0 * self.log_std) + _LEAST_NOISE**2)

    def share(self) -> Float[Tensor, "*members channels"]:
        """Return the correlated part's share of the variance."""
        low, high = _SHARES
        return low + (high - low) * torch.sigmoid(self.share_logit)

    def length(self) -> Float[Tensor, "*members channels"]:
        """Return the times over which the correlation falls to 1/e."""
        return torch.exp(self.log_length)

    def log_density(
        self,
        times: Float[Tensor, "members rows slots"],
        residuals: Float[Tensor, "members draws rows slots channels"],
        mask: Float[Tensor, "members rows slots channels"],
    ) -> Float[Tensor, "members draws rows"]:
        """Return log densities of what the path leaves of the observations.

        Parameters
        ----------
        times : Tensor of shape (members, rows, slots)
            In order, but for slots without any observation.
        residuals : Tensor of shape (members, draws, rows, slots, channels)
            Observations less the path; anything where there is none.
        mask : Tensor of shape (members, rows, slots, channels)
            1 where a channel was observed, else 0.
        """
        if not self.correlated:
            return self.learning_density(times, residuals, mask, 0)
        std = self()
        std = std.reshape(-1, 1, 1, 1, std.shape[-1])
        seen = mask.unsqueeze(1) > 0
        scaled = torch.where(seen, residuals / std, 0.0)
        constant = torch.where(seen, _LOG_TWO_PI + 2.0 * torch.log(std), 0.0)
        constant = constant.sum((-2, -1))
        found = filter_residuals(
            ordered(times, mask), scaled, mask, self.share(), self.length()
        )
        deviance = (found.squares + found.log_variances.unsqueeze(1)).sum(-1)
        return -0.5 * (deviance + constant)

    def learning_density(
        self,
        times: Float[Tensor, "members rows slots"],
        residuals: Float[Tensor, "members draws rows slots channels"],
        mask: Float[Tensor, "members rows slots channels"],
        lag: int,
    ) -> Float[Tensor, "members draws rows"]:
        """Return log densities as if all noise were white, from which to learn.

        What lasts learns, besides, from pairs of residuals that are ``lag`` slots
        apart, without any change of the value; 0 for no pairs. The likelihood of all
        observations would learn from neighbours: what dynamics that are not learned
        yet leave is smooth, and would pass for noise that lasts forever.
        """
        std = self()
        std = std.reshape(-1, 1, 1, 1, std.shape[-1])
        seen = mask.unsqueeze(1) > 0
        alone = (residuals / std) ** 2 + _LOG_TWO_PI + 2.0 * torch.log(std)
        # A product with the mask would let what padding holds spoil the gradient.
        white = -0.5 * torch.where(seen, alone, 0.0).sum((-2, -1))
        if not self.correlated or not 0 < lag < times.shape[-1]:
            return white
        scaled = torch.where(seen, residuals / std, 0.0).detach()
        pairs = self._pair_density(ordered(times, mask), scaled, mask, lag)
        return white + (pairs - pairs.detach())

    def _pair_density(
        self, times: Tensor, scaled: Tensor, mask: Tensor, lag: int
    ) -> Float[Tensor, "members draws rows"]:
        """Return log densities of the pairs of slots with a lag, beyond single ones."""
        share = self.share()
        share = share.reshape(-1, 1, 1, share.shape[-1])
        rate = 1.0 / self.length().reshape(share.shape)
        n = times.shape[-1] - lag
        gaps = (times[:, :, lag:] - times[:, :, :n]).unsqueeze(-1)
        r = (share * torch.exp(-gaps * rate)).unsqueeze(1)
        a, b = scaled[:, :, :, :n], scaled[:, :, :, lag:]
        both = (mask[:, :, lag:] * mask[:, :, :n]).unsqueeze(1)
        rest = 1.0 - r**2
        squares = (r**2 * (a**2 + b**2) - 2.0 * r * a * b) / rest
        return -0.5 * (both * (squares + torch.log(rest))).sum((-2, -1))

    def condition(
        self,
        times: Float[Tensor, "members rows slots"],
        residuals: Float[Tensor, "members draws rows slots channels"],
        mask: Float[Tensor, "members rows slots channels"],
        wanted: Float[Tensor, "members rows wanted"],
    ) -> tuple[Tensor, Tensor]:
        """Return the correlated part at wanted times, given residuals.

        Returns
        -------
        mean : Tensor of shape (members, draws, rows, wanted, channels)
            Its means.
        variance : Tensor of shape (members, rows, wanted, channels)
            Its variances, without those of white noise.
        """
        std = self()
        std = std.reshape(-1, 1, 1, 1, std.shape[-1])
        scaled = torch.where(mask.unsqueeze(1) > 0, residuals / std, 0.0)
        mean, variance = smooth_residuals(
            ordered(times, mask), scaled, mask, self.share(), self.length(), wanted
        )
        return mean * std, variance * std[:, 0] ** 2

    def white_variance(self) -> Float[Tensor, "*members channels"]:
        """Return the variances of what no other observation tells of."""
        variance = self() ** 2
        return variance * (1.0 - self.share()) if self.correlated else variance

    def draw(
        self,
        times: Float[Tensor, "members rows slots"],
        normals: Float[Tensor, "members draws rows slots channels"],
    ) -> Float[Tensor, "members draws rows slots channels"]:
        """Return draws of the correlated part at times in any order."""
        order = times.argsort(dim=-1, stable=True)
        in_order = times.gather(-1, order)
        # Every slot keeps its own draws, whatever lies beside it.
        picked = order[:, None, :, :, None].expand_as(normals)
        normals = normals.gather(3, picked)
        share, length = (x.reshape(-1, 1, x.shape[-1]) for x in self._shares())
        decay = _decays(in_order, length)
        # All of the variance is new in the first slot.
        decay = torch.cat([torch.zeros_like(decay[:, :, :1]), decay[:, :, 1:]], 2)
        value = torch.zeros_like(normals[:, :, :, 0])
        values = []
        for k in range(times.shape[-1]):
            kept = decay[:, :, k].unsqueeze(1)
            fresh = torch.sqrt(share.unsqueeze(1) * (1.0 - kept**2))
            value = value * kept + fresh * normals[:, :, :, k]
            values.append(value)
        index = order.argsort(-1)[:, None, :, :, None].expand_as(normals)
        std = self()
        std = std.reshape(-1, 1, 1, 1, std.shape[-1])
        return torch.stack(values, 3).gather(3, index) * std

    def _shares(self) -> tuple[Tensor, Tensor]:
        return self.share(), self.length()


class ResidualFilter(NamedTuple):
    """What residuals say of their correlated part, slot by slot.

    Variances are in units of the noise's whole variance.

    Attributes
    ----------
    mean : Tensor of shape (members, draws, rows, slots, channels)
        Of the correlated part, given the residuals up to each slot.
    variance : Tensor of shape (members, rows, slots, channels)
        Of it.
    squares : Tensor of shape (members, draws, rows, channels)
        Sums of squared innovations, each over its variance.
    log_variances : Tensor of shape (members, rows, channels)
        Sums of the logarithms of the innovations' variances.
    """

    mean: Float[Tensor, "members draws rows slots channels"]
    variance: Float[Tensor, "members rows slots channels"]
    squares: Float[Tensor, "members draws rows channels"]
    log_variances: Float[Tensor, "members rows channels"]


def ordered(
    times: Float[Tensor, "members rows slots"],
    mask: Float[Tensor, "members rows slots channels"],
) -> Float[Tensor, "members rows slots"]:
    """Give slots without any observation the time of the last one before them."""
    used = mask.amax(-1) > 0
    first = torch.where(used, times, torch.inf).amin(-1, keepdim=True)
    first = torch.where(torch.isfinite(first), first, 0.0)
    return torch.where(used, times, first).cummax(-1).values


def _decays(
    times: Tensor, length: Tensor
) -> Float[Tensor, "members rows slots channels"]:
    """Return the correlation of each slot with the slot before."""
    gaps = torch.diff(times, dim=-1, prepend=times[..., :1])
    return torch.exp(-gaps.unsqueeze(-1) / length.unsqueeze(1))


def filter_residuals(
    times: Float[Tensor, "members rows slots"],
    residuals: Float[Tensor, "members draws rows slots channels"],
    mask: Float[Tensor, "members rows slots channels"],
    share: Float[Tensor, "*members channels"],
    length: Float[Tensor, "*members channels"],
) -> ResidualFilter:
    """Filter residuals in units of their standard deviation, forward in time.

    Parameters
    ----------
    times : Tensor of shape (members, rows, slots)
        Not decreasing.
    residuals : Tensor of shape (members, draws, rows, slots, channels)
        Zero where nothing was observed.
    mask : Tensor of shape (members, rows, slots, channels)
        1 where a channel was observed, else 0.
    share : Tensor of shape (members, channels)
        Variance of the correlated part, of the whole variance 1.
    length : Tensor of shape (members, channels)
        The correlation falls to 1/e over such a time.
    """
    share, length = (x.reshape(-1, 1, x.shape[-1]) for x in (share, length))
    decay = _decays(times, length)
    kept = (decay**2).unbind(2)
    fresh = (share.unsqueeze(1) * (1.0 - decay**2)).unbind(2)
    decays, seen = decay.unsqueeze(1).unbind(3), mask.unbind(2)
    mean = torch.zeros_like(residuals[:, :, :, 0])
    variance = share.expand_as(seen[0])
    means, variances, innovations, totals = [], [], [], []
    for k, observed in enumerate(residuals.unbind(3)):
        variance = torch.addcmul(fresh[k], variance, kept[k])
        total = variance + (1.0 - share)
        gain = seen[k] * variance / total
        mean = mean * decays[k]
        innovation = observed - mean
        mean = torch.addcmul(mean, gain.unsqueeze(1), innovation)
        variance = variance - gain * variance
        means.append(mean)
        variances.append(variance)
        innovations.append(innovation)
        totals.append(total)
    every = torch.stack(totals, 2)
    terms = mask.unsqueeze(1) * torch.stack(innovations, 3) ** 2 / every.unsqueeze(1)
    return ResidualFilter(
        torch.stack(means, 3),
        torch.stack(variances, 2),
        terms.sum(3),
        (mask * torch.log(every)).sum(2),
    )


def smooth_residuals(
    times: Float[Tensor, "members rows slots"],
    residuals: Float[Tensor, "members draws rows slots channels"],
    mask: Float[Tensor, "members rows slots channels"],
    share: Float[Tensor, "*members channels"],
    length: Float[Tensor, "*members channels"],
    wanted: Float[Tensor, "members rows wanted"],
) -> tuple[Tensor, Tensor]:
    """Return means and variances of the correlated part at wanted times.

    Given its value at a time, what was observed before is independent of what was
    observed after: so a filter in each direction and the prior say all. Parameters are
    those of `filter_residuals`.
    """
    prior = share.reshape(-1, 1, 1, share.shape[-1])
    rate = 1.0 / length.reshape(-1, 1, 1, length.shape[-1])
    before = filter_residuals(times, residuals, mask, share, length)
    after = filter_residuals(
        -times.flip(-1), residuals.flip(3), mask.flip(2), share, length
    )
    index = torch.searchsorted(times.contiguous(), wanted.contiguous(), right=True)
    n_slots = times.shape[-1]

    def carried(found: ResidualFilter, slot: Tensor, flipped: bool) -> tuple:
        """Return means and variances of one direction; the prior beyond its end."""
        known = ((slot >= 0) & (slot < n_slots)).unsqueeze(-1)
        slot = slot.clamp(0, n_slots - 1)
        gap = (wanted - times.gather(-1, slot)).abs().unsqueeze(-1)
        if flipped:
            slot = n_slots - 1 - slot
        kept = torch.where(known, torch.exp(-gap * rate), 0.0)
        pick = slot.unsqueeze(-1).expand(*slot.shape, prior.shape[-1])
        variance = found.variance.gather(2, pick)
        pick = pick.unsqueeze(1).expand(-1, found.mean.shape[1], -1, -1, -1)
        mean = found.mean.gather(3, pick) * kept.unsqueeze(1)
        return mean, prior + (variance - prior) * kept**2

    mean_a, variance_a = carried(before, index - 1, False)
    mean_b, variance_b = carried(after, index, True)
    # The product of both over the prior: both hold it.
    weight = variance_a * prior + variance_b * prior - variance_a * variance_b
    mean = mean_a * (variance_b * prior / weight).unsqueeze(1)
    mean = mean + mean_b * (variance_a * prior / weight).unsqueeze(1)
    return mean, variance_a * variance_b * prior / weight
