"""Objectives of neural processes, to be maximized.

All take a network, a likelihood and a batch, and return one number per task in nats:
per target (the sum over the task's targets divided by their number) or, with
``per_target=False``, the sum. A task without targets scores zero.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from skfunc._shapes import Float
from skfunc.nn._likelihoods import GaussianLikelihood, Likelihood
from skfunc.nn._neural_process_base import DiagonalNormal, NeuralProcess
from skfunc.nn._task_batch import TaskBatch, blank

_PROPOSALS = ("context", "context_and_target")


def divide_by_targets(
    totals: Float[Tensor, " tasks"], batch: TaskBatch, per_target: bool
) -> Float[Tensor, " tasks"]:
    """Return each task's total, divided by its number of targets if asked for."""
    return totals / batch.n_targets().clamp(min=1) if per_target else totals


def _check_samples(n_samples: int) -> None:
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1; got {n_samples!r}")


def _sum_log_prob(
    likelihood: Likelihood, raw: Float[Tensor, "*batch raw"], batch: TaskBatch
) -> Float[Tensor, "*samples tasks"]:
    """Return log p(y_T | raw), summed over the targets that are there."""
    # Padding is blanked before, not after: its gradient would be NaN times zero.
    log_prob = likelihood.log_prob(raw, blank(batch.target_y, batch.target_mask))
    return log_prob.masked_fill(~batch.target_mask, 0.0).sum(-1)


def _log_prob_given_latent(
    network: NeuralProcess,
    likelihood: Likelihood,
    state: Any,
    batch: TaskBatch,
    z: Float[Tensor, "samples tasks latent"],
) -> Float[Tensor, "samples tasks"]:
    """Return log p(y_T | x_T, state, z)."""
    x = blank(batch.target_x, batch.target_mask)
    return _sum_log_prob(likelihood, network.decode(state, x, z=z), batch)


def conditional_log_likelihood(
    network: NeuralProcess,
    likelihood: Likelihood,
    batch: TaskBatch,
    *,
    per_target: bool = True,
) -> Float[Tensor, " tasks"]:
    """Return the sum of the targets' marginal log-likelihoods given the context.

    The objective of conditional neural processes, Garnelo et al. 2018 (arXiv
    1807.01613). A latent network is taken at the mean of its latent.

    Parameters
    ----------
    network : NeuralProcess
        The network.
    likelihood : Likelihood
        Reads its raw outputs.
    batch : TaskBatch
        The tasks.
    per_target : bool, default=True
        Whether to divide by the number of targets of each task.

    Returns
    -------
    Tensor of shape (B,)
        Log-likelihoods in nats.
    """
    totals = _sum_log_prob(likelihood, network(batch), batch)
    return divide_by_targets(totals, batch, per_target)


def separate_log_likelihood(
    network: NeuralProcess,
    likelihood: GaussianLikelihood,
    batch: TaskBatch,
    *,
    std: float,
    per_target: bool = True,
) -> Float[Tensor, " tasks"]:
    """Return a Gaussian log-likelihood whose gradients for means are those of squares.

    Where deviations are small, rare large errors drown all other gradients of the
    means. Here means are learned as with one deviation for all targets, and deviations
    given the means: Stirn, Wessels, Schertzer, Pereira, Sanjana and Knowles 2023,
    Faithful heteroscedastic regression with neural networks (arXiv 2212.09184). The
    value is the log-likelihood of `conditional_log_likelihood`.

    Parameters
    ----------
    network : NeuralProcess
        A network without latent.
    likelihood : GaussianLikelihood
        Reads its raw outputs.
    batch : TaskBatch
        The tasks.
    std : float
        The one deviation for means.
    per_target : bool, default=True
        Whether to divide by the number of targets of each task.

    Returns
    -------
    Tensor of shape (B,)
        Log-likelihoods in nats.
    """
    raw = network(batch)
    mean, spread = raw.chunk(2, dim=-1)
    fixed = torch.cat([mean.detach(), spread], dim=-1)
    totals = _sum_log_prob(likelihood, fixed, batch)
    gaps = (mean - blank(batch.target_y, batch.target_mask)) / std
    squares = gaps.square().masked_fill(~batch.target_mask.unsqueeze(-1), 0.0)
    of_means = -0.5 * squares.sum((-2, -1))
    totals = totals + of_means - of_means.detach()
    return divide_by_targets(totals, batch, per_target)


def evidence_lower_bound(
    network: NeuralProcess,
    likelihood: Likelihood,
    batch: TaskBatch,
    *,
    n_samples: int = 1,
    generator: torch.Generator | None = None,
    per_target: bool = True,
) -> Float[Tensor, " tasks"]:
    """Return the evidence lower bound of a latent neural process.

    With C the context and T the targets, the mean over z ~ q(z | C, T) of
    log p(y_T | x_T, z), less KL(q(z | C, T) || q(z | C)) in closed form: Garnelo et al.
    2018, Neural processes (arXiv 1807.01622). It bounds log p(y_T | x_T, C) from below,
    with q(z | C) for the prior of z.

    Parameters
    ----------
    network : NeuralProcess
        A network with a latent.
    likelihood : Likelihood
        Reads its raw outputs.
    batch : TaskBatch
        The tasks.
    n_samples : int, default=1
        Draws of z.
    generator : torch.Generator, optional
        Where the draws come from.
    per_target : bool, default=True
        Whether to divide by the number of targets of each task.

    Returns
    -------
    Tensor of shape (B,)
        Bounds in nats, unbiased estimates by the draws of z.

    Raises
    ------
    TypeError
        If the network has no latent.
    """
    _check_samples(n_samples)
    state = network.encode(batch.context_x, batch.context_y, batch.context_mask)
    prior = network.posterior(state)
    posterior = network.infer(*batch.joined())
    z = posterior.rsample(n_samples, generator)
    expected = _log_prob_given_latent(network, likelihood, state, batch, z).mean(0)
    return divide_by_targets(expected - posterior.divergence(prior), batch, per_target)


def importance_weighted_log_likelihood(
    network: NeuralProcess,
    likelihood: Likelihood,
    batch: TaskBatch,
    *,
    n_samples: int = 16,
    proposal: str = "context",
    generator: torch.Generator | None = None,
    per_target: bool = True,
) -> Float[Tensor, " tasks"]:
    """Return an importance-sampling estimate of log p(y_T | x_T, C).

    The log of the mean over draws z of p(y_T | x_T, z) q(z | C) / proposal(z). Its
    expectation lies below the log-likelihood and grows with the number of draws (Burda
    et al. 2016, arXiv 1509.00519). With draws from q(z | C) it is the objective of
    maximum likelihood of Foong et al. 2020, Meta-learning stationary stochastic process
    prediction with convolutional neural processes (arXiv 2007.01332).

    Parameters
    ----------
    network : NeuralProcess
        A network with a latent.
    likelihood : Likelihood
        Reads its raw outputs.
    batch : TaskBatch
        The tasks.
    n_samples : int, default=16
        Draws of z.
    proposal : {"context", "context_and_target"}, default="context"
        Whether draws come from q(z | C) or q(z | C, T).
    generator : torch.Generator, optional
        Where the draws come from.
    per_target : bool, default=True
        Whether to divide by the number of targets of each task.

    Returns
    -------
    Tensor of shape (B,)
        Log-likelihoods in nats.

    Raises
    ------
    TypeError
        If the network has no latent.
    ValueError
        If the proposal is unknown.
    """
    _check_samples(n_samples)
    if proposal not in _PROPOSALS:
        raise ValueError(
            f"proposal={proposal!r} is unknown; choose one of {list(_PROPOSALS)}"
        )
    state = network.encode(batch.context_x, batch.context_y, batch.context_mask)
    prior: DiagonalNormal = network.posterior(state)
    source = prior if proposal == "context" else network.infer(*batch.joined())
    z = source.rsample(n_samples, generator)
    log_weights = _log_prob_given_latent(network, likelihood, state, batch, z)
    if proposal != "context":
        log_weights = log_weights + prior.log_prob(z) - source.log_prob(z)
    totals = torch.logsumexp(log_weights, dim=0) - math.log(n_samples)
    return divide_by_targets(totals, batch, per_target)
