"""Divergence and gradient estimators of a controlled Ornstein-Uhlenbeck chain.

The chain observes y ~ N(w_1, s^2). Its control is the optimal one of the continuum at
c = (1, 1), so that the gradient of c is noise alone there but for terms of order h.
"""

import math

import pytest
import torch

from skfunc.solvers import BrownianPath, ou_weights

THETA, SIGMA, NOISE, Y = 1.0, 0.8, 0.3, 1.5


def losses(c, n_steps, n_paths, seed=0):
    """Return each path's loss by the three estimators, and the log density ratio."""
    h = 1 / n_steps
    weights = ou_weights(THETA, h)
    r = math.sqrt(weights.energy)
    knots = torch.linspace(0, 1, n_steps + 1, dtype=torch.float64)
    path = BrownianPath((n_paths,), knots, seed, dtype=torch.float64)

    def control(c, i, w):
        left = 1 - i * h
        decay = math.exp(-THETA * left)
        spread = SIGMA**2 * (1 - decay**2) / (2 * THETA)
        return SIGMA * decay * (c[0] * Y - c[1] * w * decay) / (NOISE**2 + spread)

    w = torch.zeros(n_paths, dtype=torch.float64)
    energy, full, sticking = w, w, w
    for i in range(n_steps):
        xi = path.increment(knots[i].item(), knots[i + 1].item()) / math.sqrt(h)
        u = control(c, i, w)
        energy = energy + weights.energy * u.square() / 2
        full = full + r * u * xi
        # The parameters' gradient is stopped, that of the state is not.
        sticking = sticking + r * control(c.detach(), i, w) * xi
        w = weights.decay * w + SIGMA * (weights.control * u + weights.noise * xi)
    misfit = ((Y - w) / NOISE).square() / 2 + 0.5 * math.log(2 * math.pi * NOISE**2)
    loss = energy + misfit
    return (loss, loss + full, loss + sticking), -(energy + full)


def gradients(c, n_steps, n_paths=2_000):
    """Return each path's gradient of c0, for the three estimators."""
    c = torch.tensor(c, dtype=torch.float64)[:, None].repeat(1, n_paths)
    c.requires_grad_()
    estimates, _ = losses(c, n_steps, n_paths)
    return [
        torch.autograd.grad(loss.sum(), c, retain_graph=True)[0][0]
        for loss in estimates
    ]


def test_sticking_the_landing_removes_the_variance_at_the_optimum():
    plain, full, sticking = (g.var().item() for g in gradients((1, 1), 500))
    assert plain == pytest.approx(6.1, rel=0.15)
    assert full == pytest.approx(19, rel=0.15)
    assert sticking < plain / 1_000


def test_its_variance_falls_with_the_square_of_the_step():
    steps = (50, 100, 200, 400)
    logs = torch.tensor([gradients((1, 1), n)[2].var().item() for n in steps]).log()
    h = -torch.tensor(steps, dtype=logs.dtype).log()
    h = h - h.mean()
    assert (h @ logs / h.square().sum()).item() == pytest.approx(2.0, abs=0.2)


def test_estimators_have_the_same_mean_away_from_the_optimum():
    plain, full, sticking = gradients((0.7, 1.2), 25, n_paths=100_000)
    assert abs(plain.mean().item()) > 0.5
    for other in (full, sticking):
        difference = plain - other
        error = difference.std().item() / math.sqrt(len(difference))
        assert abs(difference.mean().item()) < 4.5 * error


@pytest.mark.parametrize("n_steps", [1, 30])
def test_density_ratio_has_mean_one(n_steps):
    c = torch.tensor([0.3, 0.3], dtype=torch.float64)
    with torch.no_grad():
        ratio = losses(c, n_steps, 100_000)[1].exp()
    error = ratio.std().item() / math.sqrt(len(ratio))
    assert abs(ratio.mean().item() - 1) < 4.5 * error
    assert error < 0.02
