"""Steps per row: a row knows nothing of its batch mates."""

import pytest
import torch

from skfunc.solvers import ADAPTIVE_METHODS, odeint

# Rows from easy to hard: the frequency is a coordinate of the state.
FREQUENCIES = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0, 60.0]).double()


def oscillator(t, y):
    position, speed, frequency = y[..., :1], y[..., 1:2], y[..., 2:]
    return torch.cat(
        (speed, -(frequency**2) * position, torch.zeros_like(frequency)), dim=-1
    )


def first_states():
    ones = torch.ones_like(FREQUENCIES)
    return torch.stack((ones, 0 * ones, FREQUENCIES), dim=-1)


def solve(y0, times=(0.0, 1.0), **settings):
    settings = {"rtol": 1e-6, "atol": 1e-6, "per_row": True} | settings
    return odeint(oscillator, y0, list(times), **settings)


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
@pytest.mark.parametrize("times", [(0.0, 1.0), (0.0, 0.3, 1.0, 1.7), (1.0, -1.0)])
def test_row_does_not_depend_on_its_batch(method, times):
    y0 = first_states()
    together = solve(y0, times, method=method)
    for i in range(len(y0)):
        alone = solve(y0[i : i + 1], times, method=method)
        torch.testing.assert_close(
            together.y[:, i], alone.y[:, 0], rtol=1e-12, atol=1e-13
        )
        assert alone.report.nfe_max == together.report.nfe_per_row[i]
    reverse = solve(y0.flip(0), times, method=method)
    torch.testing.assert_close(together.y, reverse.y.flip(1), rtol=1e-12, atol=1e-13)


def test_row_of_a_neural_network_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 8)
    ).double()
    y0 = torch.randn(50, 8).double() * torch.logspace(-1, 1, 50).double()[:, None]
    with torch.no_grad():
        together = odeint(lambda t, y: 5 * net(y), y0, [0, 1], per_row=True)
        alone = odeint(lambda t, y: 5 * net(y), y0[31:33], [0, 1], per_row=True)
    assert together.report.nfe_per_row.unique().numel() > 1
    torch.testing.assert_close(together.y[:, 31:33], alone.y, rtol=1e-12, atol=1e-12)


def test_solution_is_right_and_hard_rows_cost_more():
    y0 = first_states()
    solution = solve(y0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        solution.y[-1, :, 0], torch.cos(FREQUENCIES), rtol=0, atol=1e-5
    )
    nfe = solution.report.nfe_per_row
    # A field that is zero tells nothing of the first step, which is then tiny.
    assert (nfe[1:].diff() >= 0).all()
    assert nfe[-1] > 10 * nfe[1]
    assert solution.report.nfe == pytest.approx(nfe.double().mean().item())
    assert solution.report.nfe_max == nfe.max()


def test_rows_that_arrived_are_left_out():
    widths = []

    def field(t, y):
        widths.append(y.shape[0])
        return oscillator(t, y)

    y0 = first_states()
    odeint(field, y0, [0.0, 1.0], per_row=True)
    assert widths[0] == len(y0)
    assert widths[-1] <= len(y0) // 4
    assert all(a >= b for a, b in zip(widths, widths[1:], strict=False))


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_members_with_weights_of_their_own(gradient):
    # A stack of two members: only the rows may be compacted, never the members.
    rates = torch.tensor([1.0, 30.0]).double().view(2, 1, 1).requires_grad_()

    def field(t, y):
        assert y.shape[0] == 2
        assert t.ndim == 3
        assert t.shape[0] == 2
        return rates * torch.cos(rates * t + y[..., 1:]) * torch.tensor([1.0, 0.0])

    torch.manual_seed(0)
    y0 = torch.zeros(2, 5, 2, dtype=torch.float64)
    y0[..., 1] = torch.randn(2, 5)
    solution = odeint(
        field,
        y0,
        [0.0, 0.5, 1.0],
        per_row=True,
        row_ndim=2,
        rtol=1e-9,
        atol=1e-9,
        gradient=gradient,
        params=[rates],
    )
    assert solution.report.nfe_per_row.shape == (2, 5)
    t = torch.tensor([0.0, 0.5, 1.0]).double().view(3, 1, 1, 1)
    phase = y0[..., 1:]
    exact = torch.sin(rates * t + phase) - torch.sin(phase)
    torch.testing.assert_close(solution.y[..., :1], exact, rtol=0, atol=1e-6)
    (found,) = torch.autograd.grad(solution.y[..., 0].square().sum(), rates)
    (expected,) = torch.autograd.grad(exact.square().sum(), rates)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_images():
    y0 = torch.rand(3, 2, 4, 4, dtype=torch.float64)
    seen = []

    def field(t, y):
        seen.append(t.shape)
        return -y * t

    solution = odeint(field, y0, [0.0, 2.0], per_row=True, rtol=1e-8, atol=1e-8)
    assert seen[0] == (3, 1, 1, 1)
    torch.testing.assert_close(
        solution.y[-1], y0 * torch.exp(torch.tensor(-2.0)).double(), rtol=0, atol=1e-6
    )


def test_rows_without_other_axes():
    y0 = torch.tensor([1.0, 2.0, 3.0]).double()
    solution = odeint(lambda t, y: -y, y0, [0.0, 1.0], per_row=True)
    torch.testing.assert_close(solution.y[-1], y0 * 0.36787944, rtol=0, atol=1e-4)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_gradient_does_not_depend_on_the_batch(gradient):
    y0 = first_states().requires_grad_()
    together = solve(y0, (0.0, 0.4, 1.0), gradient=gradient)
    (found,) = torch.autograd.grad(together.y.square().sum(), y0)
    for i in range(len(y0)):
        row = y0[i : i + 1].detach().requires_grad_()
        alone = solve(row, (0.0, 0.4, 1.0), gradient=gradient)
        (expected,) = torch.autograd.grad(alone.y.square().sum(), row)
        torch.testing.assert_close(found[i], expected[0], rtol=1e-10, atol=1e-10)


def test_gradient_survives_a_row_that_diverges():
    y0 = torch.tensor([[0.1], [0.2], [1.0]]).double().requires_grad_()
    with pytest.warns(RuntimeWarning, match="rk4"):
        solution = odeint(lambda t, y: y**2, y0, [0.0, 2.0], per_row=True)
    assert torch.isfinite(solution.y).all()
    (found,) = torch.autograd.grad(solution.y[-1, :2].sum(), y0)
    assert torch.isfinite(found).all()
    exact = 1 / (1 - 2 * y0[:2].detach()) ** 2
    torch.testing.assert_close(found[:2], exact, rtol=1e-3, atol=1e-3)
    assert found[2] == 0
