"""Adaptive steps against closed forms, SciPy and torchdiffeq; what they cost."""

import math

import numpy as np
import pytest
import torch
import torchdiffeq
from scipy.integrate import solve_ivp
from torch.utils._python_dispatch import TorchDispatchMode

from skfunc.solvers import ADAPTIVE_METHODS, FIXED_METHODS, odeint


class HostReads(TorchDispatchMode):
    """Counts the operations by which a value reaches the host."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.n = 0
        # Tensor.tolist reads the memory of a CPU tensor without an operation.
        tolist = torch.Tensor.tolist

        def counted(tensor):
            self.n += 1
            return tolist(tensor)

        monkeypatch.setattr(torch.Tensor, "tolist", counted)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
            torch.ops.aten.equal.default,
        ):
            self.n += 1
        return func(*args, **(kwargs or {}))


class Counted:
    def __init__(self, field):
        self.field = field
        self.n = 0

    def __call__(self, t, y):
        self.n += 1
        return self.field(t, y)


def pendulum(t, y):
    angle, speed = y[..., :1], y[..., 1:]
    return torch.cat((speed, -torch.sin(angle) + 0.3 * torch.cos(2 * t)), dim=-1)


def pendulum_numpy(t, y):
    return [y[1], -math.sin(y[0]) + 0.3 * math.cos(2 * t)]


START = torch.tensor([[1.0, 0.2]], dtype=torch.float64)


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("times", [[0.0, 5.0], [0.0, 0.1, 2.0, 5.0], [5.0, 3.0, -1.0]])
def test_agrees_with_scipy(method, per_row, times):
    expected = solve_ivp(
        pendulum_numpy,
        (times[0], times[-1]),
        START[0].numpy(),
        t_eval=times,
        rtol=1e-11,
        atol=1e-11,
    ).y.T
    solution = odeint(
        pendulum, START, times, method=method, rtol=1e-8, atol=1e-8, per_row=per_row
    )
    assert solution.y.shape == (len(times), 1, 2)
    np.testing.assert_allclose(solution.y[:, 0].numpy(), expected, rtol=0, atol=1e-6)
    assert torch.equal(solution.y[0], START)
    assert solution.report.status == "success"


@pytest.mark.parametrize("method", ["dopri5", "rk4", "midpoint", "euler"])
def test_agrees_with_torchdiffeq(method):
    t = torch.linspace(0, 3, 4, dtype=torch.float64)
    fixed = method in FIXED_METHODS
    settings = {"n_steps": 10} if fixed else {"rtol": 1e-9, "atol": 1e-9}
    ours = odeint(pendulum, START, t, method=method, **settings).y
    name = "torchdiffeq:" + method
    theirs = odeint(pendulum, START, t, method=name, **settings).y
    # torchdiffeq's "rk4" is Kutta's 3/8 rule, of the same order as the classical one.
    tolerance = {"rk4": 1e-5, "dopri5": 1e-8}.get(method, 1e-13)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    if not fixed:
        direct = torchdiffeq.odeint(pendulum, START, t, rtol=1e-9, atol=1e-9)
        assert torch.equal(theirs, direct)


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
def test_error_follows_the_tolerance(method):
    exact = odeint(pendulum, START, [0, 5], method=method, rtol=1e-12, atol=1e-12)
    errors = []
    for tolerance in (1e-3, 1e-5, 1e-7):
        coarse = odeint(
            pendulum, START, [0, 5], method=method, rtol=tolerance, atol=tolerance
        )
        errors.append((coarse.y[-1] - exact.y[-1]).abs().max().item())
        assert errors[-1] < 30 * tolerance
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
def test_first_slope_of_a_step_is_the_last_one_of_the_step_before(method):
    field = Counted(pendulum)
    report = odeint(field, START, [0.0, 4.0], method=method).report
    # One slope at the start, one for the first step's size, six for each attempt.
    attempts = report.n_steps + report.n_rejected
    assert report.nfe == report.nfe_max == field.n == 2 + 6 * attempts


@pytest.mark.parametrize("method", FIXED_METHODS)
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
def test_fixed_grid_counts_its_calls(method, gradient):
    stages = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}[method]
    field = Counted(pendulum)
    y0 = START.clone().requires_grad_()
    solution = odeint(
        field, y0, [0.0, 1.0, 2.0], method=method, n_steps=5, gradient=gradient
    )
    assert solution.report.nfe == field.n == 10 * stages
    assert solution.report.n_steps == 10


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
@pytest.mark.parametrize("method", FIXED_METHODS)
def test_training_on_a_fixed_grid_never_waits_for_the_device(
    monkeypatch, method, gradient
):
    y0 = START.clone().requires_grad_()
    with HostReads(monkeypatch) as reads:
        solution = odeint(pendulum, y0, [0, 1, 2], method=method, gradient=gradient)
        torch.autograd.grad(solution.y.sum(), y0)
    assert reads.n == 0


@pytest.mark.parametrize("method", FIXED_METHODS)
def test_predicting_on_a_fixed_grid_waits_once(monkeypatch, method):
    with HostReads(monkeypatch) as reads:
        odeint(pendulum, START, [0, 1, 2], method=method)
    assert reads.n <= 1


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_shared_steps_wait_once_for_each_attempt(monkeypatch, method, requires_grad):
    y0 = START.clone().requires_grad_(requires_grad)
    with HostReads(monkeypatch) as reads:
        report = odeint(pendulum, y0, [0.0, 3.0, 7.0], method=method).report
    assert report.n_rejected > 0
    assert 0 < reads.n <= report.n_steps + report.n_rejected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_the_dtype(dtype):
    def field(t, y):
        assert t.dtype == y.dtype == dtype
        return -y

    for method in (*FIXED_METHODS, *ADAPTIVE_METHODS):
        assert odeint(field, START.to(dtype), [0, 1], method=method).y.dtype == dtype


def test_does_not_touch_its_arguments():
    y0, t = START.clone(), torch.tensor([0.0, 1.0, 2.0])
    for per_row in (False, True):
        odeint(pendulum, y0, t, per_row=per_row)
    assert torch.equal(y0, START)
    assert torch.equal(t, torch.tensor([0.0, 1.0, 2.0]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", [*FIXED_METHODS, *ADAPTIVE_METHODS])
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
@pytest.mark.parametrize("per_row", [False, True])
def test_gpu_agrees_with_cpu(method, gradient, per_row):
    results = []
    for device in ("cpu", "cuda"):
        y0 = torch.linspace(-1, 1, 20, dtype=torch.float64, device=device).view(10, 2)
        y0.requires_grad_()
        solution = odeint(
            pendulum,
            y0,
            [0.0, 1.0, 3.0],
            method=method,
            gradient=gradient,
            per_row=per_row,
            rtol=1e-8,
            atol=1e-8,
        )
        (of_y0,) = torch.autograd.grad(solution.y.square().sum(), y0)
        results.append((solution.y.detach().cpu(), of_y0.cpu()))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)
