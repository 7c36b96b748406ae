"""A training step of an SDE-BNN, written out in plain torch: the floor of its cost.

The same arithmetic as `SDEBNNRegressor` with its default drift, solver and gradient,
for one path of each member, and nothing else: no choice of solver, drift or prior, no
report, each parameter a tensor of its own.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from skfunc.nn import PathOptions
from skfunc.nn._weight_process import SharedPath

# As the estimator bounds the log variance.
LARGEST = 16.0


class TightLoop:
    """Loss and gradients of a batch, by one loop over the steps.

    Parameters
    ----------
    parameters : dict of Tensor
        The network's, each with a leading axis of members.
    n_steps : int
        Steps.
    sigma : float
        The diffusion; the rate of the pull is 1.
    """

    def __init__(self, parameters: dict[str, Tensor], n_steps: int, sigma: float):
        self.values = {
            name: value.detach().clone().requires_grad_()
            for name, value in parameters.items()
        }
        self.n_steps, self.sigma = n_steps, sigma
        h = 1.0 / n_steps
        self.decay = math.exp(-h)
        self.control = 1.0 - self.decay
        self.noise = math.sqrt(0.5 * (1.0 - self.decay**2))
        self.energy = 2.0 * math.tanh(h / 2.0)

    def draw(self, seed: int) -> Tensor:
        """Draw the noise of all steps, (steps, 1, weights), shared by the members."""
        field = [v for name, v in self.values.items() if name.startswith("field")]
        n_weights = sum(value[0].numel() for value in field)
        return torch.randn(
            (self.n_steps, 1, n_weights), generator=torch.Generator().manual_seed(seed)
        )

    def draw_as_skfunc(self, seed: int) -> Tensor:
        """Return the noise of the estimator's path of a seed, to compare losses."""
        noise = self.draw(seed)
        options = PathOptions(seed=seed, n_paths=1, n_steps=self.n_steps)
        path = SharedPath(options, (1, *noise.shape[1:]), noise)
        n = self.n_steps
        steps = [path.increment(i / n, (i + 1) / n)[0] for i in range(n)]
        return torch.stack(steps) * n**0.5

    def loss(self, x: Tensor, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses of rows and divergences, (members, rows) and (members,)."""
        p = self.values
        names = [name for name in p if name.startswith("field")]
        shapes = [p[name].shape[1:] for name in names]
        sizes = [math.prod(shape) for shape in shapes]
        w0 = torch.cat([p[name].flatten(1) for name in names], dim=1)
        start, end = p["drift.shift"].chunk(2, dim=1)
        pull = p["drift.pull"]
        z = torch.zeros_like(w0)
        divergence = martingale = z.new_zeros(len(z))
        h, step = self._state(x), 1.0 / self.n_steps
        weights = self._weights(w0, z, sizes, shapes)
        for i in range(self.n_steps):
            t, xi = i * step, noise[i]
            u = torch.addcmul(torch.lerp(start, end, t), pull, z, value=-1.0)
            still = torch.lerp(start, end, t).detach()
            held = torch.addcmul(still, pull.detach(), z, value=-1.0)
            divergence = divergence + 0.5 * self.energy * u.square().sum(1)
            martingale = martingale + math.sqrt(self.energy) * (held * xi).sum(1)
            z = torch.add(z * self.decay, xi, alpha=self.noise)
            z = torch.add(z, u, alpha=self.control)
            slope = self._field(t, weights, h)
            weights = self._weights(w0, z, sizes, shapes)
            guess = torch.add(h, slope, alpha=step)
            last = self._field(t + step, weights, guess)
            h = torch.add(h, slope + last, alpha=0.5 * step)
        head = torch.baddbmm(p["head.bias"].unsqueeze(1), h, p["head.weight"])
        mean, raw = head.chunk(2, dim=-1)
        log_var = LARGEST * torch.tanh(raw / LARGEST)
        error = (y - mean) ** 2 * torch.exp(-log_var)
        losses = 0.5 * (log_var + error) + 0.5 * math.log(2 * math.pi)
        return losses.sum(-1), divergence + martingale

    def gradients(self, x: Tensor, y: Tensor, noise: Tensor) -> list[Tensor]:
        """Return the gradients of every parameter."""
        losses, divergence = self.loss(x, y, noise)
        total = losses.mean(1).sum() + divergence.sum() / x.shape[1]
        return list(torch.autograd.grad(total, list(self.values.values())))

    def _state(self, x: Tensor) -> Tensor:
        p = self.values
        return torch.baddbmm(p["stem.bias"].unsqueeze(1), x, p["stem.weight"])

    def _weights(self, w0: Tensor, z: Tensor, sizes: list, shapes: list) -> list:
        parts = torch.add(w0, z, alpha=self.sigma).split(sizes, dim=1)
        return [
            part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True)
        ]

    @staticmethod
    def _field(t: float, weights: list[Tensor], h: Tensor) -> Tensor:
        first, shift, time, last, bias = weights
        x = torch.baddbmm(torch.add(shift, time, alpha=t).unsqueeze(1), h, first)
        return torch.baddbmm(bias.unsqueeze(1), functional.silu(x), last)


def as_step(loop: TightLoop, x: Tensor, y: Tensor):
    """Return a training step that draws its own noise."""
    seeds = iter(range(10**9))

    def step() -> list[Tensor]:
        return loop.gradients(x, y, loop.draw(next(seeds)))

    return partial(step)
