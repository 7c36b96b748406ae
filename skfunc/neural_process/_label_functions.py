"""Draws of class probabilities from the process that regresses labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skfunc._shapes import Float
from skfunc.nn import KernelLabelProcess

# Rounds that fit draws to their mean; a fixed number, so that rows stay apart.
_ROUNDS = 10
# Keeps ratios of probabilities finite.
_TINY = 1e-15


def draw_probabilities(
    network: KernelLabelProcess,
    state: Any,
    x: Float[Tensor, "one rows features"],
    normals: Float[Tensor, "draws classes"],
) -> Float[Tensor, "draws rows classes"]:
    """Return class probabilities of functions, whose mean is the prediction.

    Kernels and links are taken in proportion to their weights; a function moves by one
    normal number a class, the same for all rows, times its deviation at each. Draws are
    then fitted to the prediction as their mean by iterative proportions (Deming and
    Stephan 1940), each row alone.

    Parameters
    ----------
    network : KernelLabelProcess
        The network.
    state : named tuple
        Its encoded context.
    x : Tensor of shape (1, rows, features)
        Standardized rows.
    normals : Tensor of shape (draws, classes)
        Standard normal numbers.
    """
    mean, variance = (part[0] for part in network.functions(state, x))
    weights = state.log_weights[0].exp().flatten()
    n_draws, n_links = len(normals), len(network.links)
    places = (torch.arange(n_draws, dtype=weights.dtype) + 0.5) / n_draws
    levels = weights.cumsum(0)
    chosen = torch.searchsorted(levels / levels[-1], places)
    kernel, link = chosen // n_links, chosen % n_links
    shares = state.shares[0]
    std = (variance[kernel] * shares * (1.0 - shares)).sqrt()
    functions = mean[kernel] + std * normals.unsqueeze(1)
    slopes, share_weights = network.links.to(mean)[link].unbind(1)
    logits = slopes[:, None, None] * functions
    logits = logits + share_weights[:, None, None] * shares.clamp(min=_TINY).log()
    logits = logits.masked_fill(shares <= 0.0, -torch.inf)
    draws = torch.softmax(logits, dim=-1).clamp(min=_TINY)
    expected = network.decode(state, x)[0].exp()
    for _ in range(_ROUNDS):
        draws = draws * (expected / draws.mean(0))
        draws = draws / draws.sum(-1, keepdim=True)
    mean_draw = draws.mean(0)
    share = (1.0 - expected / mean_draw).amax(-1, keepdim=True).clamp(min=0.0)
    return (1.0 - share) * draws + (expected - (1.0 - share) * mean_draw)
