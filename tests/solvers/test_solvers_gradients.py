"""Gradients: finite differences, and one another."""

import math

import pytest
import torch
from torch import nn

from skfunc.solvers import odeint


class Field(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(width, 8, dtype=torch.float64)
        self.outer = nn.Linear(8, width, dtype=torch.float64)

    def forward(self, t, y):
        return 2 * self.outer(torch.tanh(self.inner(y) * torch.cos(3 * t)))


TIMES = [0.0, 0.4, 1.5]


def gradients(field, y0, **settings):
    solution = odeint(field, y0, TIMES, **settings)
    weight = torch.linspace(-1, 2, solution.y.numel(), dtype=torch.float64)
    loss = (solution.y * weight.view_as(solution.y)).sum()
    return torch.autograd.grad(loss, [y0, *field.parameters()])


@pytest.fixture
def y0():
    generator = torch.Generator().manual_seed(1)
    y0 = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    return y0.requires_grad_()


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun", "rk4"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_discrete_gradient_agrees_with_finite_differences(y0, method, gradient):
    field = Field()
    found = gradients(field, y0, method=method, gradient=gradient, n_steps=5)

    def loss():
        with torch.no_grad():
            y = odeint(field, y0, TIMES, method=method, n_steps=5).y
        weight = torch.linspace(-1, 2, y.numel(), dtype=torch.float64)
        return (y * weight.view_as(y)).sum().item()

    generator = torch.Generator().manual_seed(2)
    for tensor, g in zip([y0, *field.parameters()], found, strict=True):
        direction = torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator)
        h = 1e-5
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                tensor.add_(direction, alpha=sign * h)
            values.append(loss())
            with torch.no_grad():
                tensor.sub_(direction, alpha=sign * h)
        slope = (values[0] - values[1]) / (2 * h)
        assert (g * direction).sum().item() == pytest.approx(slope, rel=1e-7, abs=1e-7)


def test_adaptive_gradient_agrees_with_finite_differences_at_constant_steps():
    # The equation is linear and the tolerance's scale constant, so that the error
    # ratio is even in y and steps do not move when y0 = 0 is perturbed both ways.
    rate = torch.tensor(-1.3, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[1.0]], dtype=torch.float64)
    solution = odeint(lambda t, y: rate * y, y0, [0, 2], rtol=1e-9, atol=1e-9)
    (found,) = torch.autograd.grad(solution.y[-1].sum(), rate)
    assert found.item() == pytest.approx(2 * math.exp(-2.6), rel=1e-7)


@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5", "tsit5"])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("n_steps", [3, 70])
def test_checkpoint_is_backpropagation(y0, method, per_row, n_steps):
    field = Field()
    settings = {"method": method, "per_row": per_row, "n_steps": n_steps}
    settings |= {"rtol": 1e-5 if n_steps == 3 else 1e-10, "atol": 1e-9}
    plain = gradients(field, y0, **settings)
    again = gradients(field, y0, gradient="checkpoint", **settings)
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", ["rk4", "dopri5", "tsit5"])
def test_adjoint_approaches_backpropagation(y0, method):
    field = Field()
    errors = []
    for level in (1, 2, 3):
        tolerance, n_steps = 10.0 ** (-2 - 2 * level), 4 * 4**level
        settings = {"rtol": tolerance, "atol": tolerance, "n_steps": n_steps}
        settings["method"] = method
        plain = gradients(field, y0, **settings)
        adjoint = gradients(field, y0, gradient="adjoint", **settings)
        errors.append(
            max(
                ((a - b).norm() / a.norm()).item()
                for a, b in zip(plain, adjoint, strict=True)
            )
        )
        assert errors[-1] < 50 * tolerance
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 1e-6


def test_adjoint_of_rows_with_their_own_steps(y0):
    field = Field()
    settings = {"rtol": 1e-9, "atol": 1e-9, "per_row": True}
    plain = gradients(field, y0, **settings)
    adjoint = gradients(field, y0, gradient="adjoint", **settings)
    for a, b in zip(plain, adjoint, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_stacked_members_under_vmap(gradient, method):
    fields = [Field(), Field()]
    with torch.no_grad():
        for p in fields[1].parameters():
            p.add_(0.1)
    stacked, _ = torch.func.stack_module_state(fields)

    def call(weights, t, y):
        return torch.func.functional_call(fields[0], weights, (t, y))

    def field(t, y):
        return torch.func.vmap(call, in_dims=(0, None, 0))(stacked, t, y)

    y0 = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    params = list(stacked.values())
    settings = {"method": method, "rtol": 1e-8, "atol": 1e-8}
    solution = odeint(
        field, y0, [0, 1], gradient=gradient, params=params, row_ndim=2, **settings
    )
    found = torch.autograd.grad(solution.y[-1].square().sum(), [y0, *params])
    for i in range(2):
        row = y0[i].detach().requires_grad_()
        alone = odeint(fields[i], row, [0, 1], **settings)
        inputs = [row, *fields[i].parameters()]
        expected = torch.autograd.grad(alone.y[-1].square().sum(), inputs)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_field_may_use_the_transforms_of_torch_func(gradient):
    # The gradient flow of sum(w y^4) / 4, whose slope is a torch.func gradient.
    w = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    slope = torch.func.vmap(torch.func.grad(lambda y: -(w * y**4).sum() / 4))
    y0 = torch.ones(3, 2, dtype=torch.float64)
    solution = odeint(
        lambda t, y: slope(y),
        y0,
        [0.0, 1.0],
        rtol=1e-9,
        atol=1e-9,
        gradient=gradient,
        params=[w],
    )
    (found,) = torch.autograd.grad(solution.y[-1].sum(), w)
    # y = (1 + 2 w t)^(-1/2), so that dy/dw = -t (1 + 2 w t)^(-3/2), for three rows.
    expected = -3 * (1 + 2 * w.detach()) ** -1.5
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


class TestReads:
    """Gradients that compute f again must be told what it reads."""

    @pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
    def test_unknown_tensor_is_an_error(self, gradient):
        w = torch.ones(2, requires_grad=True)
        with pytest.raises(ValueError, match=r"shape \(2,\).*params="):
            odeint(lambda t, y: w * y, torch.ones(1, 2), [0, 1], gradient=gradient)

    @pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
    def test_context_beside_a_module_is_an_error(self, gradient):
        class Conditional(Field):
            context = torch.ones(4, dtype=torch.float64, requires_grad=True)

            def forward(self, t, y):
                return super().forward(t, y) + self.context

        y0 = torch.ones(1, 4, dtype=torch.float64)
        with pytest.raises(ValueError, match="params="):
            odeint(Conditional(), y0, [0, 1], gradient=gradient)

    @pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
    def test_computed_tensor(self, gradient):
        w = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
        y0 = torch.ones(1, 2, dtype=torch.float64)
        rates = torch.sinh(w)
        solution = odeint(
            lambda t, y: rates * y,
            y0,
            [0.0, 1.0],
            rtol=1e-9,
            atol=1e-9,
            gradient=gradient,
            params=[rates],
        )
        (found,) = torch.autograd.grad(solution.y[-1].sum(), w)
        expected = torch.exp(rates) * torch.cosh(w)
        torch.testing.assert_close(found, expected.detach(), rtol=1e-7, atol=1e-7)

    def test_frozen_parameters_get_none(self):
        field = Field()
        field.inner.weight.requires_grad_(False)
        y0 = torch.ones(1, 4, dtype=torch.float64)
        for gradient in ("backprop", "checkpoint", "adjoint"):
            field.zero_grad()
            odeint(field, y0, [0, 1], gradient=gradient).y.sum().backward()
            assert field.inner.weight.grad is None
            assert field.outer.weight.grad is not None

    def test_changed_parameters_are_noticed(self):
        field = Field()
        y0 = torch.ones(1, 4, dtype=torch.float64)
        loss = odeint(field, y0, [0, 1], gradient="checkpoint").y.sum()
        with torch.no_grad():
            field.outer.weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    @pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
    def test_no_graph_where_none_is_wanted(self, gradient):
        field = Field()
        y0 = torch.ones(1, 4, dtype=torch.float64)
        with torch.no_grad():
            assert not odeint(field, y0, [0, 1], gradient=gradient).y.requires_grad
        field.requires_grad_(False)
        assert not odeint(field, y0, [0, 1], gradient=gradient).y.requires_grad


def saved_tensors(n_steps, gradient, method="rk4"):
    """Return the number of tensors that autograd holds between the two passes."""
    field = Field()
    y0 = torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda x: x):
        odeint(
            field,
            y0,
            [0.0, 1.0],
            method=method,
            n_steps=n_steps,
            gradient=gradient,
        )
    return len(saved) - len(list(field.parameters())) * (gradient != "backprop")


def test_memory_grows_as_the_root_of_the_steps():
    assert saved_tensors(400, "backprop") > 3.9 * saved_tensors(100, "backprop")
    counts = [saved_tensors(n, "checkpoint") for n in (64, 256, 1024)]
    for n, count in zip((64, 256, 1024), counts, strict=True):
        assert math.sqrt(n) <= count <= 2 * math.sqrt(n) + 1
    assert saved_tensors(1000, "adjoint") == saved_tensors(10, "adjoint")


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_combinations_save_nothing(method):
    # What is saved is the field's own: two inputs and two weights of its layers, the
    # cosine and its operand, the tanh and its slope's factor.
    y0 = torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
    saved, per_call = [], []
    field = Field()
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda x: x):
        field(torch.tensor(0.3, dtype=torch.float64), y0)
        per_call = len(saved)
        saved.clear()
        solution = odeint(field, y0, [0.0, 1.0], method=method, n_steps=5)
    # The first step's size takes one call that records nothing.
    calls = solution.report.nfe - (method == "dopri5")
    assert len(saved) <= calls * per_call
