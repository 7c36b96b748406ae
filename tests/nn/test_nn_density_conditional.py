"""Conditional flows: trace, inverse, start at the identity, stacks of members."""

import numpy as np
import pytest
import torch

from skfunc.nn import ConditionalFlow, SolverOptions, draw_module
from skfunc.nn._layers import activation_function
from skfunc.solvers import odeint
from skfunc.training import MemberStack

SOLVER = SolverOptions(method="rk4", n_steps=20)


def bound(n_targets, activation="tanh", members=2, spread=0.5):
    """Return a stack of flows with random weights."""
    stack = MemberStack(
        lambda: ConditionalFlow(
            3, n_targets, n_hidden=6, context_size=5, activation=activation
        ),
        draw_module,
    )
    flat = stack.initial(range(members))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(flat.shape, generator=generator, dtype=torch.float64)
    return stack.bind(flat + spread * noise)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return lambda width: torch.as_tensor(rng.normal(size=(2, 7, width)))


@pytest.mark.parametrize("n_targets", [1, 3])
@pytest.mark.parametrize("activation", ["tanh", "silu", "gelu"])
def test_log_det_is_that_of_the_jacobian(rows, n_targets, activation):
    flow, x, z = bound(n_targets, activation), rows(3), rows(n_targets)
    context = flow.context(x)
    _, log_det = flow.to_base(context, z, SOLVER)

    def total(z):
        return flow.to_base(context, z, SOLVER)[0].sum((0, 1))

    # Rows are independent: the sum over rows has each row's Jacobian.
    jacobian = torch.autograd.functional.jacobian(total, z).permute(1, 2, 0, 3)
    expected = torch.linalg.slogdet(jacobian).logabsdet
    np.testing.assert_allclose(log_det.detach(), expected, atol=2e-4)


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "rk4"])
@pytest.mark.parametrize("activation", ["tanh", "logistic", "softplus"])
def test_solve_is_that_of_odeint(rows, activation, method):
    flow, x, z = bound(2, activation), rows(3), rows(2)
    for parameter in flow.last.bias, flow.first.bias, flow.time.weight:
        assert parameter.abs().max() > 0.1
    context = flow.context(x)
    function = activation_function(activation)

    def field(t, state):
        hidden = flow.time(t, flow.first(state) + context.shift)
        return flow.last(context.gate * function(hidden))

    def joint(t, state):
        velocity, pullback = torch.func.vjp(lambda z: field(t, z), state[..., :2])
        units = torch.eye(2, dtype=state.dtype)
        trace = sum(pullback(unit.expand_as(velocity))[0] @ unit for unit in units)
        return torch.cat([velocity, trace.unsqueeze(-1)], dim=-1)

    start = torch.cat([z, torch.zeros_like(z[..., :1])], dim=-1)
    solver = SolverOptions(method=method, n_steps=3)
    for times, solve in (((1.0, 0.0), flow.to_base), ((0.0, 1.0), flow.from_base)):
        expected = odeint(joint, start, times, method=method, n_steps=3).y[-1]
        end, log_det = solve(context, z, solver)
        np.testing.assert_allclose(end.detach(), expected[..., :2].detach(), atol=1e-12)
        np.testing.assert_allclose(
            log_det.detach(), expected[..., 2].detach(), atol=1e-12
        )


def test_inverse(rows):
    flow, x, z = bound(2), rows(3), rows(2)
    context = flow.context(x)
    u, log_det = flow.to_base(context, z, SOLVER)
    again, back = flow.from_base(context, u, SOLVER)
    np.testing.assert_allclose(again.detach(), z, atol=1e-5)
    np.testing.assert_allclose(back.detach(), -log_det.detach(), atol=1e-5)


def test_starts_at_the_identity(rows):
    flow, z = bound(2, spread=0.0), rows(2)
    u, log_det = flow.to_base(flow.context(rows(3)), z, SOLVER)
    np.testing.assert_array_equal(u.detach(), z)
    assert (log_det == 0).all()


def test_features_change_the_flow(rows):
    flow, z = bound(1), rows(1)
    one, other = (flow.to_base(flow.context(rows(3)), z, SOLVER)[0] for _ in range(2))
    assert (one - other).abs().min() > 1e-6


def test_gradient(rows):
    flow, x, z = bound(2), rows(3), rows(2)
    weight = flow.first.weight.requires_grad_(True)

    def loss():
        u, log_det = flow.to_base(flow.context(x), z, SolverOptions("rk4", 2))
        return (0.5 * (u * u).sum(-1) - log_det).sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    step = 1e-6
    with torch.no_grad():
        before = loss()
        weight[0, 1, 2] += step
        after = loss()
    np.testing.assert_allclose(gradient[0, 1, 2], (after - before) / step, rtol=1e-4)
