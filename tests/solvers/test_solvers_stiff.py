"""Equations that an explicit method cannot solve: a finite answer and one warning."""

import warnings

import pytest
import torch

from skfunc.solvers import ADAPTIVE_METHODS, FIXED_METHODS, SolverWarning, odeint

METHODS = [*ADAPTIVE_METHODS, "torchdiffeq:dopri5", "torchdiffeq:bosh3"]


def van_der_pol(t, y):
    x, v = y[..., :1], y[..., 1:]
    return torch.cat((v, 1000 * (1 - x**2) * v - x), dim=-1)


def explode(t, y):
    return y**2


def root(t, y):
    return torch.sqrt(y.abs())


def burst(t, y):
    return torch.exp(y**2)


def undefined(t, y):
    return torch.sqrt(1 - y)


def solve_quietly(field, y0, times, **settings):
    """Return the solution and the solver's warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solution = odeint(field, y0, times, **settings)
    assert all(issubclass(w.category, SolverWarning) for w in caught)
    assert all(w.filename == __file__ for w in caught)
    return solution, caught


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize(
    ("field", "t_end"),
    [(van_der_pol, 3.0), (explode, 3.0), (root, 2.0), (burst, 5.0), (undefined, 4.0)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_never_raises_and_stays_finite(method, per_row, field, t_end, dtype):
    if per_row and method.startswith("torchdiffeq"):
        return
    y0 = torch.tensor([[2.0, 0.0], [0.1, 0.3], [-1.0, 0.5]], dtype=dtype)
    if field is undefined:
        y0 = y0.clamp(max=0.9)
    solution, caught = solve_quietly(
        field, y0, [0.0, t_end / 2, t_end], method=method, per_row=per_row, max_nfe=600
    )
    assert torch.isfinite(solution.y).all()
    report = solution.report
    assert len(caught) == (report.status != "success")
    if field is van_der_pol:
        assert report.status != "success"
    if field is explode:
        assert report.status in ("capped", "diverged")


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint"])
@pytest.mark.parametrize("per_row", [False, True])
def test_gradient_of_a_capped_solve_is_finite(gradient, per_row):
    y0 = torch.tensor([[2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    with pytest.warns(SolverWarning, match="max_nfe=40"):
        solution = odeint(
            lambda t, y: -50 * y,
            y0,
            [0.0, 1.0],
            per_row=per_row,
            max_nfe=40,
            gradient=gradient,
            rtol=1e-9,
            atol=1e-9,
        )
    assert solution.report.status == "capped"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        (found,) = torch.autograd.grad(solution.y[-1].sum(), y0)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(
        solution.y[-1], y0 * torch.exp(torch.tensor(-50.0)), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_rows_beside_a_diverging_one_keep_their_gradient(gradient):
    y0 = torch.tensor([[0.1], [3.0]], dtype=torch.float64, requires_grad=True)
    with pytest.warns(SolverWarning, match="held at their last finite"):
        solution = odeint(burst, y0, [0.0, 0.5], gradient=gradient, max_nfe=100)
    (found,) = torch.autograd.grad(solution.y[-1, 0].sum(), y0)
    assert torch.isfinite(solution.y).all()
    assert torch.isfinite(found).all()
    assert found[0] > 1
    assert found[1] == 0


@pytest.mark.parametrize("method", FIXED_METHODS)
def test_prediction_on_a_fixed_grid_holds_rows(method):
    y0 = torch.tensor([[0.1], [50.0]], dtype=torch.float64)
    with pytest.warns(SolverWarning, match="n_steps=30 is unstable"):
        solution = odeint(burst, y0, [0.0, 0.5], method=method, n_steps=30)
    assert solution.report.status == "diverged"
    assert torch.isfinite(solution.y).all()
    alone = odeint(burst, y0[:1], [0.0, 0.5], method=method, n_steps=30)
    torch.testing.assert_close(solution.y[:, :1], alone.y, rtol=1e-12, atol=0)


def test_training_on_a_fixed_grid_shows_what_became_of_the_state():
    y0 = torch.tensor([[50.0]], dtype=torch.float64, requires_grad=True)
    solution = odeint(burst, y0, [0.0, 1.0], method="rk4")
    assert not torch.isfinite(solution.y[-1]).any()


def test_way_back_of_the_adjoint_does_not_raise_either():
    # Backwards in time the equation y' = -60 y is as unstable as it can be.
    for method in ("dopri5", "torchdiffeq:dopri5"):
        y0 = torch.ones(2, 1, dtype=torch.float32, requires_grad=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SolverWarning)
            solution = odeint(
                lambda t, y: -60 * y**3,
                y0,
                [0.0, 1.0],
                method=method,
                gradient="adjoint",
                params=[],
                rtol=1e-8,
                atol=1e-12,
                max_nfe=300,
            )
            torch.autograd.grad(solution.y[-1].sum(), y0)


def test_capped_way_back_warns():
    def field(t, y):
        return -5 * y

    y0 = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    # Enough evaluations for the way forth, and not for a cotangent that is larger.
    max_nfe = odeint(field, y0.detach(), [0.0, 1.0]).report.nfe_max + 6
    solution = odeint(
        field, y0, [0.0, 1.0], gradient="adjoint", params=[], max_nfe=max_nfe
    )
    with pytest.warns(SolverWarning, match="adjoint equation"):
        torch.autograd.grad(1e6 * solution.y[-1].sum(), y0)
