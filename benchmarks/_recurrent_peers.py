"""Recurrent networks for series with gaps, for the same seconds as a latent ODE."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

HELD_OUT = 0.1
EPOCH_STEPS = 20


def train_for(
    network: nn.Module,
    loss: Callable[[np.ndarray], Tensor],
    n_rows: int,
    seconds: float,
    *,
    rate: float,
    batch_size: int,
    seed: int,
) -> tuple[float, int]:
    """Train by Adam for some CPU-seconds, and keep the best weights on held-out rows.

    `loss` maps the indices of rows to their mean loss. The rate falls along a cosine.
    Returns the best held-out loss and the number of steps.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(n_rows)
    n_held_out = max(1, round(HELD_OUT * n_rows))
    held_out, rows = order[:n_held_out], order[n_held_out:]
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    best, kept, n_steps = math.inf, copy.deepcopy(network.state_dict()), 0
    start = time.process_time()
    while (spent := (time.process_time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * spent))
        network.train()
        chosen = rng.choice(rows, min(batch_size, len(rows)), replace=False)
        value = loss(chosen)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        n_steps += 1
        if n_steps % EPOCH_STEPS == 0:
            network.eval()
            with torch.no_grad():
                judged = float(loss(held_out))
            if judged < best:
                best, kept = judged, copy.deepcopy(network.state_dict())
    network.load_state_dict(kept)
    network.eval()
    return best, n_steps


class TwoWayImputer(nn.Module):
    """Gated recurrent units in both directions: every value from what is around it.

    An input is a value decayed from the last observed one towards the mean, whether it
    was observed, and how long ago that was, as in GRU-D (Che et al. 2018).
    """

    def __init__(self, n_channels: int, width: int) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.full((n_channels,), -1.0))
        self.unit = nn.GRU(3 * n_channels, width, batch_first=True, bidirectional=True)
        self.mean = nn.Linear(2 * width, n_channels)
        self.log_std = nn.Parameter(torch.full((n_channels,), -2.0))

    def forward(self, values: Tensor, mask: Tensor, gaps: Tensor) -> Tensor:
        """Return means for every slot; gaps are times since the last observation."""
        last, since = carried_forward(values, mask, gaps)
        decayed = last * torch.exp(-nn.functional.softplus(self.decay) * since)
        h, _ = self.unit(torch.cat([decayed, mask, since], -1))
        return decayed + self.mean(h)


class Forecaster(nn.Module):
    """A gated recurrent unit reads what was observed, another one goes on from it."""

    def __init__(self, n_channels: int, width: int) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.full((n_channels,), -1.0))
        self.reader = nn.GRU(3 * n_channels, width, batch_first=True)
        self.writer = nn.GRUCell(n_channels, width)
        self.step = nn.Linear(width, n_channels)
        self.log_std = nn.Parameter(torch.full((n_channels,), -2.0))

    def forward(
        self, values: Tensor, mask: Tensor, gaps: Tensor, n_later: int
    ) -> Tensor:
        """Return means of the slots after those given, fed back one by one."""
        last, since = carried_forward(values, mask, gaps)
        decayed = last * torch.exp(-nn.functional.softplus(self.decay) * since)
        h = self.reader(torch.cat([decayed, mask, since], -1))[1][0]
        point, points = last[:, -1], []
        for _ in range(n_later):
            h = self.writer(point, h)
            point = point + self.step(h)
            points.append(point)
        return torch.stack(points, 1)


def carried_forward(
    values: Tensor, mask: Tensor, gaps: Tensor
) -> tuple[Tensor, Tensor]:
    """Return each channel's last observed value, and the time since; 0 before it."""
    last, since = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    lasts, times = [], []
    for i in range(values.shape[1]):
        seen = mask[:, i] > 0
        since = torch.where(seen, 0.0, since + gaps[:, i])
        last = torch.where(seen, values[:, i], last)
        lasts.append(last)
        times.append(since)
    return torch.stack(lasts, 1), torch.stack(times, 1)


def gaussian_loss(
    means: Tensor, log_std: Tensor, values: Tensor, mask: Tensor
) -> Tensor:
    """Return the negative log density per judged value, up to a constant."""
    residual = (values - means) * torch.exp(-log_std)
    terms = 0.5 * residual**2 + log_std
    return (terms * mask).sum() / mask.sum()
