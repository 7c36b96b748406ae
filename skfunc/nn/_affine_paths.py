"""Weight paths under an affine drift, with a backward pass of their own.

The same as `_weight_process` computes by automatic differentiation, in a third of the
passes over the weights: with small batches those passes are what a training step costs.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from skfunc._shapes import Float
from skfunc.nn._drifts import AFFINE_KNOTS
from skfunc.solvers import ou_weights


class AffinePaths(torch.autograd.Function):
    """Exact Ornstein-Uhlenbeck steps with u = b(t) - k z, from z = 0.

    Parameters
    ----------
    w0 : Tensor of shape (members, weights)
        Weights at depth 0.
    sigma : Tensor of shape (members, 1)
        The diffusion.
    shift : Tensor of shape (members, 2 * weights)
        b at depths 0 and 1.
    pull : Tensor of shape (members, weights)
        k.
    noise : Tensor of shape (steps, members, paths, weights)
        Standard normal numbers.
    rate : float
        Speed of the pull towards the prior mean, w0.

    Returns
    -------
    divergence, martingale : Tensor of shape (members, paths)
        As of `WeightPaths`.
    weights : Tensor of shape (members, paths, weights)
        One for each depth of the grid.
    """

    @staticmethod
    def forward(
        ctx: Any,
        w0: Float[Tensor, "members weights"],
        sigma: Float[Tensor, "members 1"],
        shift: Float[Tensor, "members knots"],
        pull: Float[Tensor, "members weights"],
        noise: Float[Tensor, "steps members paths weights"],
        rate: float,
    ) -> tuple[Tensor, ...]:
        """Follow the weights and add up the divergence."""
        n = len(noise)
        step = ou_weights(rate, 1.0 / n)
        root = math.sqrt(step.energy)
        centre, scale, k = w0.unsqueeze(1), sigma.unsqueeze(1), pull.unsqueeze(1)
        start, end = shift.unflatten(-1, (AFFINE_KNOTS, 1, -1)).unbind(1)
        z = torch.zeros_like(noise[0])
        divergence = martingale = z.new_zeros(z.shape[:2])
        weights, deviations, controls = [centre.expand_as(z).contiguous()], [], []
        for i in range(n):
            u = torch.lerp(start, end, i / n)
            u = torch.addcmul(u, k, z, value=-1.0) if i else u.expand_as(z)
            divergence = divergence + 0.5 * step.energy * torch.linalg.vecdot(u, u)
            martingale = martingale + root * torch.linalg.vecdot(u, noise[i])
            deviations.append(z)
            controls.append(u)
            z = (z * step.decay).add_(u, alpha=step.control)
            z.add_(noise[i], alpha=step.noise)
            weights.append(torch.addcmul(centre, scale, z))
        ctx.save_for_backward(sigma, pull, noise, z, *deviations, *controls)
        ctx.rate = rate
        return divergence, martingale, *weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Go back through the steps, the martingale's control held."""
        for_divergence, for_martingale, *for_weights = gradients
        sigma, pull, noise, last, *kept = ctx.saved_tensors
        n = len(noise)
        step = ou_weights(ctx.rate, 1.0 / n)
        energy = step.energy * for_divergence.unsqueeze(-1)
        stuck = math.sqrt(step.energy) * for_martingale.unsqueeze(-1)
        k, scale = pull.unsqueeze(1), sigma.unsqueeze(1)
        deviations, controls = [*kept[:n], last], kept[n:]
        w0 = for_weights[n].sum(1)
        spread = torch.linalg.vecdot(for_weights[n], last).sum(1, keepdim=True)
        back = scale * for_weights[n]
        start, end, strength = torch.zeros_like(pull), torch.zeros_like(pull), None
        for i in reversed(range(n)):
            z, u, t = deviations[i], controls[i], i / n
            for_u = torch.addcmul(back * step.control, energy, u)
            total = for_u.sum(1)
            start.add_(total, alpha=1.0 - t)
            end.add_(total, alpha=t)
            w0.add_(for_weights[i].sum(1))
            if i == 0:
                break
            moved = (for_u * z).sum(1)
            strength = moved if strength is None else strength.add_(moved)
            # Through the deviations a held control has its gradient too.
            for_u.addcmul_(stuck, noise[i])
            back = (back * step.decay).addcmul_(k, for_u, value=-1.0)
            back.addcmul_(scale, for_weights[i])
            spread = spread + torch.linalg.vecdot(for_weights[i], z).sum(
                1, keepdim=True
            )
        pulled = torch.zeros_like(pull) if strength is None else -strength
        return w0, spread, torch.cat([start, end], dim=1), pulled, None, None
