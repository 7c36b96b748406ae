"""What members' conditional flows predict together, row by row."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from skfunc._shapes import Float
from skfunc.nn import ConditionalFlow, FieldContext, SolverOptions
from skfunc.ode._conditional_cnf_grid import MonotoneMap, doubtful_points
from skfunc.predictive._levels import shuffled_rounds
from skfunc.training import thread_limits

Array = NDArray[np.float64]

# A single target's distribution function is exact at the points that so many base
# values, within these many deviations and closer around 0 by this stretch, go to; and
# then, in each of some rounds, at a few more where it bends most.
_FIRST_POINTS, _FARTHEST, _STRETCH = 9, 6.0, 1.6
_ROUNDS, _NEW_POINTS = 7, 4
# Base draws of several targets, half of them the others' reflections.
_DRAWS = 128
# Numbers in the hidden layer of one chunk of rows: few enough for a cache.
_CHUNK_NUMBERS = 150_000
# Solves smaller than this many numbers run on one thread.
_SMALL = 1e7
_LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class FlowMixture(ABC):
    """Equally weighted members: y = mean + scale T(u; x), u a standard normal.

    Both the marginals and the functions of a `SampledProcess`; a member's function is
    its conditional mean.

    Parameters
    ----------
    means, scales : ndarray of shape (members, rows, targets)
        Location and scale of the residuals that the flow T is of.
    features : ndarray of shape (rows, features)
        Standardized rows.
    bind : callable
        Returns the flow with the parameters of the members at some positions.
    solver : SolverOptions
        How to solve.
    seed : int
        Of the fixed draws.
    """

    means: Float[np.ndarray, "members rows targets"]
    scales: Float[np.ndarray, "members rows targets"]
    features: Float[np.ndarray, "rows features"]
    bind: Callable[[NDArray[np.intp]], ConditionalFlow]
    solver: SolverOptions
    seed: int

    @property
    def n_members(self) -> int:
        """Number of members."""
        return len(self.means)

    def _solve(
        self, values: Array, *, to_base: bool, members: NDArray[np.intp] | None = None
    ) -> tuple[Array, Array]:
        """Carry values through the flow of each row, in chunks of rows.

        Parameters
        ----------
        values : ndarray of shape (members, rows, points, targets)
            Residuals, or base values; the same for all members or rows where that
            axis has length 1.
        to_base : bool
            Whether residuals are carried to the base.
        members : ndarray of int, optional
            Positions of the members. Default: all.

        Returns
        -------
        carried : ndarray of shape (members, rows, points, targets)
            What they became.
        log_det : ndarray of shape (members, rows, points)
            Log of the map's volume change.
        """
        if members is None:
            members = np.arange(self.n_members)
        n_rows, (points, k) = len(self.features), values.shape[2:]
        values = np.broadcast_to(values, (len(members), n_rows, points, k))
        flow = self.bind(members)
        widest = flow.first.weight.shape[-1]
        numbers = len(members) * points * widest
        step = max(1, _CHUNK_NUMBERS // numbers)
        carried, log_dets = [], []
        with torch.no_grad(), thread_limits(small=n_rows * numbers < _SMALL):
            for start in range(0, max(n_rows, 1), step):
                rows = torch.as_tensor(self.features[start : start + step])
                context = flow.context(rows.expand(len(members), *rows.shape))
                repeated = FieldContext(
                    *(part.repeat_interleave(points, dim=1) for part in context)
                )
                chunk = np.array(values[:, start : start + step])
                state = torch.as_tensor(chunk).flatten(1, 2)
                solve = flow.to_base if to_base else flow.from_base
                end, log_det = solve(repeated, state, self.solver)
                carried.append(end.reshape(chunk.shape).numpy())
                log_dets.append(log_det.reshape(chunk.shape[:3]).numpy())
        return np.concatenate(carried, axis=1), np.concatenate(log_dets, axis=1)

    @cached_property
    @abstractmethod
    def _member_moments(self) -> tuple[Array, Array]:
        """Means and variances of each member, (members, rows, targets)."""

    @abstractmethod
    def cdf(self, y: Array) -> Array:
        """Return each target's distribution function at y, (n, k)."""

    @abstractmethod
    def quantiles(self, levels: Array) -> Array:
        """Return each target's quantiles, (n, a, k)."""

    def mean(self) -> Array:
        """Return means, (n, k)."""
        return self._member_moments[0].mean(0)

    def std(self) -> Array:
        """Return standard deviations, (n, k)."""
        means, variances = self._member_moments
        return np.sqrt(means.var(0) + variances.mean(0))

    def _to_base(self, y: Array) -> tuple[Array, Array]:
        """Return what observations are in the base, and the log volume change."""
        residuals = (y - self.means) / self.scales
        u, log_det = self._solve(residuals[:, :, None], to_base=True)
        return u[:, :, 0], log_det[:, :, 0]

    def log_prob(self, y: Array) -> Array:
        """Return the log density of each row, all its targets together, (n,)."""
        u, log_det = self._to_base(y)
        logs = log_det - (0.5 * (u * u + _LOG_2PI) + np.log(self.scales)).sum(-1)
        return special.logsumexp(logs, axis=0) - math.log(self.n_members)

    def draw(self, n_samples: int, random_state: np.random.RandomState) -> Array:
        """Draw conditional means of members, (n, k, n_samples)."""
        draws = shuffled_rounds(self.n_members, n_samples, random_state)
        return np.moveaxis(self._member_moments[0][draws], 0, -1)

    def draw_observations(
        self, n_samples: int, random_state: np.random.RandomState
    ) -> Array:
        """Draw observations: a member, and a row's target from its flow."""
        draws = shuffled_rounds(self.n_members, n_samples, random_state)
        shape = (n_samples, *self.means.shape[1:])
        u = random_state.standard_normal(shape)[:, :, None]
        z = self._solve(u, to_base=False, members=draws)[0][:, :, 0]
        return np.moveaxis(self.means[draws] + self.scales[draws] * z, 0, -1)

    def variance(self) -> Array:
        """Return the variance of the members' means at each row, (n, k)."""
        return self._member_moments[0].var(0)

    def covariance(self) -> Array:
        """Return the covariance of the members' means over rows, (n, n, k)."""
        means = self._member_moments[0]
        centred = means - means.mean(0)
        return np.einsum("sik,sjk->ijk", centred, centred) / len(means)


class SingleFlowMixture(FlowMixture):
    """One target: T is increasing, so quantiles of the base become those of y."""

    @cached_property
    def _map(self) -> MonotoneMap:
        """The members' distribution functions at points of y."""
        place = np.linspace(-_STRETCH, _STRETCH, _FIRST_POINTS)
        u = _FARTHEST * np.sinh(place) / math.sinh(_STRETCH)
        carried, log_slope = self._solve(u[None, None, :, None], to_base=False)
        z = carried[..., 0]
        u, slopes = np.broadcast_to(u, z.shape), np.exp(-log_slope)
        for _ in range(_ROUNDS):
            more = doubtful_points(z, u, slopes, _NEW_POINTS)
            carried, log_slope = self._solve(more[..., None], to_base=True)
            new = more, carried[..., 0], np.exp(log_slope)
            z, u, slopes = (
                np.concatenate(pair, axis=-1)
                for pair in zip((z, u, slopes), new, strict=True)
            )
            order = np.argsort(z, axis=-1)
            z, u, slopes = (
                np.take_along_axis(part, order, -1) for part in (z, u, slopes)
            )
        return MonotoneMap(self.means + self.scales * z, u, slopes / self.scales)

    @cached_property
    def _member_moments(self) -> tuple[Array, Array]:
        mean, variance = self._map.moments()
        return mean[..., None], variance[..., None]

    def cdf(self, y: Array) -> Array:
        """Return the distribution function at y, (n, 1): exact, by the flow itself."""
        return special.ndtr(self._to_base(y)[0]).mean(0)

    def quantiles(self, levels: Array) -> Array:
        """Return quantiles, (n, a, 1)."""
        return self._map.quantiles(levels)[..., None]


class SeveralFlowMixture(FlowMixture):
    """Several targets: moments and quantiles of fixed draws, the same for all rows."""

    @cached_property
    def _draws(self) -> Array:
        """Draws of y, (members, n, draws, targets)."""
        state = np.random.RandomState(self.seed)
        half = state.standard_normal((_DRAWS // 2, self.means.shape[-1]))
        u = np.concatenate([half, -half])
        z, _ = self._solve(u[None, None], to_base=False)
        return self.means[:, :, None] + self.scales[:, :, None] * z

    @cached_property
    def _member_moments(self) -> tuple[Array, Array]:
        return self._draws.mean(2), self._draws.var(2)

    def _pooled(self) -> Array:
        """Draws of all members, (n, members * draws, targets)."""
        return np.concatenate(list(self._draws), axis=1)

    def cdf(self, y: Array) -> Array:
        """Return the share of the draws below y, (n, k)."""
        return (self._pooled() <= y[:, None]).mean(1)

    def quantiles(self, levels: Array) -> Array:
        """Return quantiles of the draws, (n, a, k)."""
        return np.moveaxis(np.quantile(self._pooled(), levels, axis=1), 0, 1)
