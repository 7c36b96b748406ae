"""Weight processes against closed forms: marginals, evidence, gradients, solvers."""

import math
from dataclasses import replace

import pytest
import torch

from skfunc.nn import DRIFTS, PathOptions, draw_module
from skfunc.nn._weight_process import follow
from skfunc.solvers import TORCHSDE_METHODS

THETA, SIGMA, NOISE, Y = 1.0, 0.8, 0.3, 1.5
EXACT = 3.48529


def paths_of(
    control, options, rate=THETA, mean=None, n_weights=1, field=None, params=()
):
    """Follow paths from 0, with a state of one number per path."""
    start = torch.zeros(1, options.n_paths, n_weights, dtype=torch.float64)
    state = torch.ones(options.n_paths, 1, 1, dtype=torch.float64)
    still = field or (lambda t, z, h: torch.zeros_like(h))
    return follow(control, still, start, state, rate, mean, options, list(params))


def optimal_control(c):
    """The control of w_1's Gaussian posterior at c = (1, 1), in w = sigma z."""

    def control(t, z, stopped):
        c0, c1 = c.detach() if stopped else c
        left = 1.0 - float(t)
        decay = math.exp(-THETA * left)
        spread = SIGMA**2 * (1 - decay**2) / (2 * THETA)
        return SIGMA * decay * (c0 * Y - c1 * SIGMA * z * decay) / (NOISE**2 + spread)

    return control


def bound(c, options):
    """Return each path's misfit and divergence, and the term that sticks."""
    found = paths_of(optimal_control(c), options)
    w = SIGMA * found.end[0, :, 0]
    misfit = ((Y - w) / NOISE).square() / 2 + 0.5 * math.log(2 * math.pi * NOISE**2)
    return misfit + found.divergence[0], found.martingale[0]


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("mean", [None, 0.7])
def test_prior_has_the_marginals_of_the_process(n_steps, mean):
    options = PathOptions(seed=0, n_paths=100_000, n_steps=n_steps)
    m = 0.0 if mean is None else mean
    centre = None if mean is None else torch.full((1, 1, 1), mean, dtype=torch.float64)
    end = paths_of(None, options, rate=1.3, mean=centre).end.flatten()
    variance = (1 - math.exp(-2.6)) / 2.6
    assert end.mean().item() == pytest.approx(m * (1 - math.exp(-1.3)), abs=0.01)
    assert end.var().item() == pytest.approx(variance, rel=0.02)


@pytest.mark.parametrize("n_steps", [20, 100])
def test_bound_lies_above_the_evidence_by_the_step(n_steps):
    options = PathOptions(seed=1, n_paths=20_000, n_steps=n_steps)
    with torch.no_grad():
        values, _ = bound(torch.ones(2, dtype=torch.float64), options)
    error = values.std().item() / math.sqrt(len(values))
    assert values.mean().item() == pytest.approx(EXACT + 1.04 / n_steps, abs=4 * error)
    assert error < 0.02


def test_training_a_control_from_zero_reaches_the_evidence():
    c = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([c], lr=0.05)
    options = PathOptions(seed=0, n_paths=64, n_steps=20, sticking=True)
    for step in range(200):
        values, sticking = bound(c, replace(options, seed=step))
        optimizer.zero_grad()
        (values + sticking).mean().backward()
        optimizer.step()
    with torch.no_grad():
        values, _ = bound(c, PathOptions(seed=9, n_paths=20_000, n_steps=20))
    assert values.mean().item() == pytest.approx(EXACT + 1.04 / 20, abs=0.03)
    assert c.tolist() == pytest.approx([1.0, 1.0], abs=0.08)


def test_sticking_the_landing_takes_the_noise_from_the_gradient():
    options = PathOptions(seed=3, n_paths=2_000, n_steps=500, sticking=True)
    c = torch.ones(2, 2_000, 1, dtype=torch.float64, requires_grad=True)
    values, sticking = bound(c, options)
    plain = torch.autograd.grad(values.sum(), c, retain_graph=True)[0][0].var()
    stuck = torch.autograd.grad((values + sticking).sum(), c)[0][0].var()
    assert plain.item() == pytest.approx(6.1, rel=0.15)
    assert stuck.item() < plain.item() / 1_000


def toy(drift):
    """A drift whose last layers are not zero, and a state that it moves."""
    control = DRIFTS[drift](3, 2).double()
    draw_module(control, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for i, value in enumerate(control.parameters()):
            value.add_(0.1 * torch.sin(torch.arange(value.numel()) + i))
            value.unsqueeze_(0)

    def field(t, z, h):
        return torch.tanh(h * z[:, None, :1] + z[:, None, 1:2] * t) - z[:, None, 2:]

    return control, field


def losses(drift, options):
    control, field = toy(drift)
    params = list(control.parameters())
    found = paths_of(control, options, n_weights=3, field=field, params=params)
    loss = found.state.sum() + (found.divergence + found.martingale).sum()
    return loss, torch.autograd.grad(loss, params), found


@pytest.mark.parametrize("drift", sorted(DRIFTS))
def test_drifts_start_at_zero(drift):
    control = DRIFTS[drift](5, 2)
    draw_module(control, torch.Generator().manual_seed(0))
    z = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    assert (control(0.3, z, False) == 0).all()


@pytest.mark.parametrize("drift", sorted(DRIFTS))
def test_a_stopped_drift_has_the_same_value_and_no_gradient_of_its_own(drift):
    control, _ = toy(drift)
    z = torch.randn(1, 4, 3, dtype=torch.float64).requires_grad_()
    value, stopped = control(0.3, z, False), control(0.3, z, True)
    assert torch.equal(value, stopped)
    reads = torch.autograd.grad(
        stopped.sum(), [z, *control.parameters()], allow_unused=True
    )
    assert reads[0].abs().sum() > 0
    assert all(gradient is None for gradient in reads[1:])


@pytest.mark.parametrize("drift", ["affine+lowrank", "mlp"])
@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_exact_steps_by_the_solver_agree_with_the_short_loop(drift, gradient):
    options = PathOptions(seed=5, n_paths=4, n_steps=40, sticking=True, antithetic=True)
    loss, gradients, found = losses(drift, options)
    other = losses(drift, replace(options, gradient=gradient))
    assert other[0].item() == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(other[2].end, found.end, rtol=1e-12, atol=1e-12)
    rtol = 1e-9 if gradient == "checkpoint" else 0.05
    for a, b in zip(other[1], gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * b.abs().max().item())


@pytest.mark.parametrize(
    "method",
    ["euler", "heun", "midpoint", "reversible_heun", "adaptive_heun"]
    + [m for m in ("torchsde:euler", "torchsde:midpoint") if m in TORCHSDE_METHODS],
)
def test_other_solvers_tend_to_the_exact_steps(method):
    options = PathOptions(seed=5, n_paths=3, n_steps=400, sticking=True)
    loss, gradients, _ = losses("affine", options)
    other = losses("affine", replace(options, method=method, rtol=1e-3, atol=1e-3))
    assert other[0].item() == pytest.approx(loss.item(), rel=0.01)
    for a, b in zip(other[1], gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02 * b.abs().max().item())


def test_mirrored_paths_come_in_pairs():
    options = PathOptions(seed=5, n_paths=6, n_steps=3, antithetic=True)
    end = paths_of(None, options).end[0, :, 0]
    torch.testing.assert_close(end[:3], -end[3:])
    assert len(set(end.tolist())) == 6
