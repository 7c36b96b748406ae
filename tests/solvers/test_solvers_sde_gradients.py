"""Gradients of stochastic solves: the plain loop's, and finite differences."""

import math

import pytest
import torch
from torch import nn

from skfunc.solvers import FIXED_SDE_METHODS, BrownianPath, sdeint

METHODS = (*FIXED_SDE_METHODS, "adaptive_heun")
TIMES = [0.0, 0.5, 1.5]


class Drift(nn.Module):
    """Of a driven part and a follower."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner = nn.Linear(3, 5, dtype=torch.float64)
        self.outer = nn.Linear(5, 3, dtype=torch.float64)
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(0, 0.5, generator=generator)

    def forward(self, t, y):
        w, x = y
        slope = self.outer(torch.tanh(self.inner(w) * torch.cos(2 * t)))
        return slope, torch.tanh(w[:, :2]) - x


class Diffusion(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.3, 0.2, 0.4], dtype=torch.float64))

    def forward(self, t, y):
        return self.scale * (1 + 0.5 * torch.sin(y[0]))


class Problem:
    def __init__(self, method, additive=None):
        generator = torch.Generator().manual_seed(1)
        randn = torch.randn(4, 5, dtype=torch.float64, generator=generator)
        self.y0 = tuple(x.clone().requires_grad_() for x in randn.split([3, 2], dim=1))
        self.drift, self.method = Drift(), method
        additive = method == "ou" if additive is None else additive
        if additive:
            self.g = torch.tensor([0.3, 0.2, 0.4], dtype=torch.float64)
            self.g.requires_grad_()
            diffusion = [self.g]
        else:
            self.g = Diffusion()
            diffusion = list(self.g.parameters())
        self.mean = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        self.inputs = [*self.y0, *self.drift.parameters(), *diffusion, self.mean]
        knots = torch.linspace(0, 1.5, 4, dtype=torch.float64)
        self.noise = BrownianPath((4, 3), knots, 2, dtype=torch.float64)

    def solve(self, n_steps=4, gradient="backprop"):
        return sdeint(
            self.drift,
            self.g,
            self.y0,
            TIMES,
            noise=self.noise,
            method=self.method,
            n_steps=n_steps,
            gradient=gradient,
            rate=0.7,
            mean=self.mean,
            rtol=1e-3,
            atol=1e-3,
        )

    def loss(self, **settings):
        total = 0
        for y in self.solve(**settings).y:
            weight = torch.linspace(-1, 2, y.numel(), dtype=torch.float64)
            total = total + (y * weight.view_as(y)).sum()
        return total

    def gradients(self, **settings):
        return torch.autograd.grad(self.loss(**settings), self.inputs)


@pytest.mark.parametrize("method", FIXED_SDE_METHODS)
def test_gradient_agrees_with_finite_differences(method):
    problem = Problem(method)
    generator = torch.Generator().manual_seed(3)
    for tensor, g in zip(problem.inputs, problem.gradients(), strict=True):
        direction = torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator)
        h = 1e-5
        values = []
        with torch.no_grad():
            for sign in (1, -1):
                tensor.add_(direction, alpha=sign * h)
                values.append(problem.loss().item())
                tensor.sub_(direction, alpha=sign * h)
        slope = (values[0] - values[1]) / (2 * h)
        assert (g * direction).sum().item() == pytest.approx(slope, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("n_steps", [2, 32])
@pytest.mark.parametrize("method", METHODS)
def test_checkpoint_is_backpropagation(method, n_steps):
    problem = Problem(method)
    plain = problem.gradients(n_steps=n_steps)
    again = problem.gradients(n_steps=n_steps, gradient="checkpoint")
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("additive", [False, True])
def test_reversed_steps_give_the_exact_gradient(additive):
    problem = Problem("reversible_heun", additive)
    plain = problem.gradients(n_steps=32)
    reversed_ = problem.gradients(n_steps=32, gradient="adjoint")
    for a, b in zip(plain, reversed_, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("method", "additive", "bound"),
    [
        ("euler", True, 0.1),
        ("heun", False, 0.02),
        ("midpoint", False, 0.02),
        ("ou", True, 0.1),
    ],
)
def test_adjoint_approaches_backpropagation(method, additive, bound):
    problem = Problem(method, additive)
    errors = []
    for n_steps in (8, 32, 128):
        plain = problem.gradients(n_steps=n_steps)
        adjoint = problem.gradients(n_steps=n_steps, gradient="adjoint")
        errors.append(
            max(
                ((a - b).norm() / a.norm()).item()
                for a, b in zip(plain, adjoint, strict=True)
            )
        )
    assert errors[1] < errors[0] / 2 and errors[2] < errors[1] / 2
    assert errors[2] < bound


def test_adjoint_of_adaptive_steps():
    problem = Problem("adaptive_heun")
    plain = problem.gradients()
    adjoint = problem.gradients(gradient="adjoint")
    for a, b in zip(plain, adjoint, strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("method", ["heun", "reversible_heun"])
def test_torchsde_by_name_has_the_same_gradients(method):
    ours, theirs = Problem(method), Problem(f"torchsde:{method}")
    backprop = theirs.gradients(n_steps=16)
    for a, b in zip(ours.gradients(n_steps=16), backprop, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
    adjoint = theirs.gradients(n_steps=16, gradient="adjoint")
    exact = method == "reversible_heun"
    tolerance = 1e-8 if exact else 0.05
    for a, b in zip(backprop, adjoint, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
def test_geometric_brownian_motion(gradient):
    a = torch.tensor(-0.4, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(20, dtype=torch.float64)
    noise = BrownianPath((20,), [0.0, 1.0], 0, dtype=torch.float64)
    y = sdeint(
        lambda t, y: a * y,
        lambda t, y: b * y,
        y0,
        [0.0, 1.0],
        noise=noise,
        n_steps=512,
        gradient=gradient,
        params=[a, b],
    ).y[-1]
    found = torch.autograd.grad(y.mean(), [a, b])
    end = noise.increment(0.0, 1.0)
    exact = torch.exp(a + b * end).detach()
    assert found[0].item() == pytest.approx(exact.mean().item(), rel=0.01)
    assert found[1].item() == pytest.approx((end * exact).mean().item(), abs=0.01)


class TestReads:
    @pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
    def test_unknown_tensor_of_the_drift(self, gradient):
        w = torch.ones(2, requires_grad=True)
        with pytest.raises(ValueError, match=r"shape \(2,\).*params="):
            sdeint(
                lambda t, y: w * y,
                1.0,
                torch.ones(1, 2),
                [0, 1],
                noise=0,
                gradient=gradient,
            )

    @pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
    def test_unknown_tensor_of_the_diffusion(self, gradient):
        w = torch.ones(2, requires_grad=True)
        with pytest.raises(ValueError, match=r"shape \(2,\).*params="):
            sdeint(
                lambda t, y: -y,
                lambda t, y: w,
                torch.ones(1, 2),
                [0, 1],
                noise=0,
                gradient=gradient,
            )

    def test_euler_has_no_adjoint_where_noise_depends_on_the_state(self):
        with pytest.raises(ValueError, match="needs additive noise"):
            Problem("euler").gradients(gradient="adjoint")

    def test_torchsde_has_no_checkpoints(self):
        with pytest.raises(ValueError, match="'backprop' and 'adjoint'"):
            Problem("torchsde:heun").gradients(gradient="checkpoint")

    def test_changed_parameters_are_noticed(self):
        problem = Problem("heun")
        loss = problem.loss(gradient="checkpoint")
        with torch.no_grad():
            problem.drift.outer.weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    @pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
    def test_no_graph_where_none_is_wanted(self, gradient):
        problem = Problem("heun")
        with torch.no_grad():
            assert not problem.solve(gradient=gradient).y[0].requires_grad


def saved_tensors(n_steps, method, gradient):
    """Return the number of tensors that autograd holds between the two passes."""
    problem = Problem(method, additive=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda x: x):
        problem.noise = 0
        problem.solve(n_steps=n_steps, gradient=gradient)
    return len(saved)


@pytest.mark.parametrize("method", ["heun", "reversible_heun"])
def test_memory(method):
    plain = [saved_tensors(n, method, "backprop") for n in (100, 400)]
    assert plain[1] > 3.9 * plain[0]
    parts = 2 if method == "heun" else 4
    for n in (64, 400):
        # Of n steps from each of two times to the next.
        kept = saved_tensors(n, method, "checkpoint")
        assert kept < parts * (2 * math.sqrt(2 * n) + 2) + 10
    adjoint = [saved_tensors(n, method, "adjoint") for n in (10, 200)]
    assert adjoint[0] == adjoint[1] < 20
