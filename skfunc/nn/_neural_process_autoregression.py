"""Joint predictions of diagonal networks by the chain rule.

A network that predicts every target alone gives a joint distribution when each target,
once predicted, joins the context of those after it: Bruinsma et al. 2023,
Autoregressive conditional neural processes (arXiv 2303.14468).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skfunc._shapes import Bool, Float, Int
from skfunc.nn._likelihoods import Likelihood
from skfunc.nn._neural_process_base import NeuralProcess
from skfunc.nn._neural_process_objectives import divide_by_targets
from skfunc.nn._task_batch import TaskBatch, blank


def _refuse_latent(network: NeuralProcess) -> None:
    if network.is_latent:
        raise TypeError(
            f"{type(network).__name__} is coherent by its latent: draw z, or use "
            "importance_weighted_log_likelihood"
        )


def autoregressive_log_likelihood(
    network: NeuralProcess,
    likelihood: Likelihood,
    batch: TaskBatch,
    *,
    n_orders: int | None = None,
    max_tasks: int = 1024,
    generator: torch.Generator | None = None,
    per_target: bool = True,
) -> Float[Tensor, " tasks"]:
    """Return log p(y_T | x_T, C) by the chain rule over the targets.

    Target t is predicted from the context and the targets before it. All targets of
    all tasks are predicted at once, as tasks of one target each whose context masks
    grow; cost as B m encodings of n + m points.

    Parameters
    ----------
    network : NeuralProcess
        A network without latent.
    likelihood : Likelihood
        Reads its raw outputs.
    batch : TaskBatch
        The tasks.
    n_orders : int, optional
        Number of random orders of the targets, over which the joint density (not its
        logarithm) is averaged, which is a density again. Default: the given order.
    max_tasks : int, default=1024
        Most tasks of one target that are predicted at once.
    generator : torch.Generator, optional
        Where the orders come from.
    per_target : bool, default=True
        Whether to divide by the number of targets of each task.

    Returns
    -------
    Tensor of shape (B,)
        Joint log-likelihoods in nats.

    Raises
    ------
    TypeError
        If the network has a latent.
    ValueError
        If a number is not positive.
    """
    _refuse_latent(network)
    if max_tasks < 1 or (n_orders is not None and n_orders < 1):
        raise ValueError(
            f"n_orders and max_tasks must be positive; got {n_orders!r}, {max_tasks!r}"
        )
    mask = batch.target_mask
    if n_orders is None:
        places = torch.arange(mask.shape[1], device=mask.device).expand(1, *mask.shape)
    else:
        noise = torch.rand(
            (n_orders, *mask.shape), generator=generator, device=mask.device
        )
        places = noise.argsort(-1)
    totals = [_chain(network, likelihood, batch, place, max_tasks) for place in places]
    joint = torch.logsumexp(torch.stack(totals), dim=0) - math.log(len(totals))
    return divide_by_targets(joint, batch, per_target)


def _chain(
    network: NeuralProcess,
    likelihood: Likelihood,
    batch: TaskBatch,
    place: Int[Tensor, "tasks points"],
    max_tasks: int,
) -> Float[Tensor, " tasks"]:
    """Return the joint log-likelihood in one order, `place` of each target in it."""
    x, y, _ = batch.joined()
    task, target = batch.target_mask.nonzero(as_tuple=True)
    terms = []
    for rows, asked in zip(task.split(max_tasks), target.split(max_tasks), strict=True):
        before = place[rows] < place[rows, asked].unsqueeze(1)
        seen = torch.cat(
            [batch.context_mask[rows], batch.target_mask[rows] & before], dim=1
        )
        state = network.encode(x[rows], y[rows], seen)
        raw = network.decode(state, batch.target_x[rows, asked].unsqueeze(1))
        own = batch.target_y[rows, asked].unsqueeze(1)
        terms.append(likelihood.log_prob(raw, own).squeeze(1))
    totals = x.new_zeros(batch.n_tasks)
    return totals.index_add(0, task, torch.cat(terms)) if terms else totals


def autoregressive_sample(
    network: NeuralProcess,
    likelihood: Likelihood,
    context_x: Float[Tensor, "tasks context features"],
    context_y: Float[Tensor, "tasks context targets"],
    context_mask: Bool[Tensor, "tasks context"],
    target_x: Float[Tensor, "tasks points features"],
    *,
    n_samples: int = 1,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "samples tasks points targets"]:
    """Draw observations at the targets jointly, in the given order.

    Each target is drawn from its prediction and joins the context of the next; the
    cost is that of m encodings of S B tasks.

    Parameters
    ----------
    network : NeuralProcess
        A network without latent.
    likelihood : Likelihood
        Reads its raw outputs and draws.
    context_x, context_y, context_mask : Tensor
        The context, of shapes (B, n, dx), (B, n, dy), (B, n).
    target_x : Tensor of shape (B, m, dx)
        Where to draw.
    n_samples : int, default=1
        Number of draws S.
    generator : torch.Generator, optional
        Where the draws come from.

    Returns
    -------
    Tensor of shape (S, B, m, dy)
        Observations, noise included. Predictions given a draw as context are smooth
        draws of the function (Bruinsma et al. 2023, section 3).

    Raises
    ------
    TypeError
        If the network has a latent.
    """
    _refuse_latent(network)
    n_tasks, n_points, _ = target_x.shape

    def repeat(values: Tensor) -> Tensor:
        return values.repeat(n_samples, *[1] * (values.dim() - 1))

    x, targets = repeat(blank(context_x, context_mask)), repeat(target_x)
    y, mask = repeat(blank(context_y, context_mask)), repeat(context_mask)
    there = mask.new_ones(len(mask), 1)
    drawn = []
    for i in range(n_points):
        asked = targets[:, i : i + 1]
        value = likelihood.sample(
            network.decode(network.encode(x, y, mask), asked), generator
        )
        drawn.append(value)
        x, y = torch.cat([x, asked], dim=1), torch.cat([y, value], dim=1)
        mask = torch.cat([mask, there], dim=1)
    if not drawn:
        return y.new_zeros(n_samples, n_tasks, 0, y.shape[2])
    return torch.cat(drawn, dim=1).unflatten(0, (n_samples, n_tasks))
