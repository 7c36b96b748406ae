"""The best prediction without the hyper-parameters of a Gaussian process.

A model that learns from tasks can at best predict with the posterior over kernels and
hyper-parameters given the context. That is computed here by adaptive importance
sampling: draws of the prior first, then of mixtures of Gaussians around draws that the
context makes likely, all weighted by their joint proposal (Veach and Guibas 1995;
Cornuet et al. 2012, arXiv 0907.1254). Weights depend on the context alone, so that the
result is a valid prediction: on average it is below the optimum, and converges to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logsumexp

from _gp_training import KERNELS, LENGTHSCALE, NOISE_STD, PERIOD, SCALE
from skfunc.datasets import GPTasks
from skfunc.datasets._gp_tasks import covariances

_LOG_2PI = np.log(2 * np.pi)
_RANGES = np.array([LENGTHSCALE, SCALE, PERIOD])
PERIODIC = KERNELS.index("periodic")

# Draws of the prior, most rounds of adaptation, draws in each, and their centres.
FIRST, MOST_ROUNDS, MORE, CENTRES = 2000, 12, 500, 100
# Effective draws that end the adaptation.
ENOUGH_EFFECTIVE = 300
# Half of the first draws are periodic: the data tell the period sharply.
FIRST_SHARES = np.array([0.25, 0.25, 0.5])
# Weights are flattened until so many draws count; the width of a Gaussian is a share of
# the spread of these draws, and at least a share of the range. Along the period, where
# there are many modes, it is at most a share that shrinks by half with every round.
LEAST_EFFECTIVE, WIDTH, LEAST_WIDTH, PERIOD_WIDTH = 50, 0.5, 3e-4, 0.02


@dataclass
class Draws:
    """Kernels and hyper-parameters (in units of their ranges), and what they predict.

    ``log_evidence`` is that of the context, ``joint`` the log density of all targets,
    ``mean`` and ``variance`` those of every target.
    """

    kind: np.ndarray
    place: np.ndarray
    log_evidence: np.ndarray
    joint: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def concatenate(cls, parts: list[Draws]) -> Draws:
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return cls(*(np.concatenate(values) for values in columns))


def condition(kind: np.ndarray, place: np.ndarray, X, y, n: int) -> Draws:
    """Condition every process on the first n points and predict the others."""
    lengthscale, scale, period = (_RANGES[:, 0] + place * np.ptp(_RANGES, axis=1)).T
    covariance = covariances(
        np.broadcast_to(X[None, :, None], (len(kind), len(X), 1)),
        np.array(KERNELS)[kind],
        lengthscale,
        scale,
        period,
    )
    covariance += NOISE_STD**2 * np.eye(len(X))
    factor = torch.linalg.cholesky(torch.from_numpy(covariance))
    values = torch.from_numpy(y).expand(len(kind), -1)[..., None]
    error = torch.linalg.solve_triangular(factor, values, upper=False)[..., 0].numpy()
    factor = factor.numpy()
    std = np.diagonal(factor, axis1=1, axis2=2)
    # Entry i is the log density of y_i given all before it: context, then targets.
    chain = -0.5 * (_LOG_2PI + error**2) - np.log(std)
    # The rows below the context's factor are k(targets, context) L^-T: GPML 2.25, 2.26.
    crossed = factor[:, n:, :n]
    mean = (crossed @ error[:, :n, None])[..., 0]
    variance = (scale**2 + NOISE_STD**2)[:, None] - (crossed**2).sum(-1)
    return Draws(kind, place, chain[:, :n].sum(1), chain[:, n:].sum(1), mean, variance)


@dataclass
class Mixture:
    """Gaussians around likely draws, each for its kernel."""

    kind: np.ndarray
    place: np.ndarray
    width: np.ndarray

    @classmethod
    def around(cls, draws: Draws, log_weights: np.ndarray, turn: int, rng) -> Mixture:
        weights = _flattened(log_weights)
        chosen = rng.choice(len(weights), CENTRES, p=weights)
        width = np.ones((len(KERNELS), 3))
        for k in range(len(KERNELS)):
            share = weights * (draws.kind == k)
            if share.sum() > 0:
                share = share / share.sum()
                spread = (share @ draws.place**2) - (share @ draws.place) ** 2
                width[k] = WIDTH * np.sqrt(np.maximum(spread, 0.0))
        width[:, 2] = np.minimum(width[:, 2], PERIOD_WIDTH * 0.5**turn)
        width = np.maximum(width, LEAST_WIDTH)
        return cls(draws.kind[chosen], draws.place[chosen], width)

    def sample(self, n: int, rng) -> tuple[np.ndarray, np.ndarray]:
        """Draw; what leaves the ranges is left out, as the prior is zero there."""
        of = rng.integers(CENTRES, size=n)
        kind = self.kind[of]
        place = self.place[of] + self.width[kind] * rng.standard_normal((n, 3))
        # The period of a kernel without one is free: its prior is its proposal.
        place[kind != PERIODIC, 2] = rng.uniform(size=(kind != PERIODIC).sum())
        inside = ((place >= 0) & (place <= 1)).all(1)
        return kind[inside], place[inside]

    def log_density(self, kind: np.ndarray, place: np.ndarray) -> np.ndarray:
        z = (place[:, None] - self.place) / self.width[self.kind]
        terms = -0.5 * (z**2 + _LOG_2PI) - np.log(self.width[self.kind])
        terms[:, self.kind != PERIODIC, 2] = 0.0
        logs = np.where(kind[:, None] == self.kind, terms.sum(-1), -np.inf)
        return logsumexp(logs, axis=1) - np.log(CENTRES)


def _flattened(log_weights: np.ndarray) -> np.ndarray:
    """Return weights to the largest power, 1 at most, at which enough draws count."""
    power = 1.0
    while True:
        weights = np.exp(power * (log_weights - log_weights.max()))
        weights /= weights.sum()
        if 1 / (weights**2).sum() >= LEAST_EFFECTIVE:
            return weights
        power *= 0.8


def posterior(X, y, n: int, rng) -> tuple[Draws, np.ndarray]:
    """Return draws and their log weights, summing to one, given n context points."""
    parts = [
        condition(
            rng.choice(len(KERNELS), FIRST, p=FIRST_SHARES),
            rng.uniform(size=(FIRST, 3)),
            X,
            y,
            n,
        )
    ]
    log_prior = -np.log(len(KERNELS))
    # A row for each proposal, a column for each draw.
    proposals = np.log(FIRST_SHARES[parts[0].kind])[None]
    sizes: list[int] = [FIRST]
    mixtures: list[Mixture] = []
    while True:
        draws = Draws.concatenate(parts)
        mixed = logsumexp(proposals, axis=0, b=np.array(sizes)[:, None] / sum(sizes))
        log_weights = log_prior + draws.log_evidence - mixed
        log_weights -= logsumexp(log_weights)
        is_enough = np.exp(-logsumexp(2 * log_weights)) >= ENOUGH_EFFECTIVE
        if is_enough or len(mixtures) == MOST_ROUNDS:
            return draws, log_weights
        fresh = Mixture.around(draws, log_weights, len(mixtures), rng)
        parts.append(condition(*fresh.sample(MORE, rng), X, y, n))
        kind, place = parts[-1].kind, parts[-1].place
        known = np.log(FIRST_SHARES[kind])
        of_fresh = [known, *(m.log_density(kind, place) for m in mixtures)]
        of_old = fresh.log_density(draws.kind, draws.place)
        mixtures.append(fresh)
        sizes.append(MORE)
        proposals = np.block(
            [
                [proposals, np.array(of_fresh)],
                [of_old[None], fresh.log_density(kind, place)[None]],
            ]
        )


def posterior_log_likelihood(
    tasks: GPTasks, n_tasks: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return marginal and joint log-likelihood per target, and effective draws."""
    rng = np.random.default_rng(seed)
    results = []
    for i in range(n_tasks):
        n, m = int(tasks.context_mask[i].sum()), int(tasks.target_mask[i].sum())
        X, y = tasks.X[i, : n + m, 0], tasks.y[i, : n + m]
        draws, log_weights = posterior(X, y, n, rng)
        error = (y[n:] - draws.mean) ** 2 / draws.variance
        logs = -0.5 * (_LOG_2PI + np.log(draws.variance) + error)
        results.append(
            (
                logsumexp(logs + log_weights[:, None], axis=0).mean(),
                logsumexp(draws.joint + log_weights) / m,
                np.exp(-logsumexp(2 * log_weights)),
            )
        )
    marginal, joint, effective = np.array(results).T
    return marginal, joint, effective
