"""Steps against the polynomial that a Runge-Kutta method is on linear equations."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from skfunc.solvers import ADAPTIVE_METHODS, FIXED_METHODS, odeint
from skfunc.solvers._runge_kutta import CountedField, Step, combine, runge_kutta_step
from skfunc.solvers._tableaus import ADAPTIVE_TABLEAUS, FIXED_TABLEAUS

TABLEAUS = FIXED_TABLEAUS | ADAPTIVE_TABLEAUS


def stability_polynomial(tableau, matrix):
    """R(Z) = I + Z sum_i b_i K_i with K_i = I + Z sum_j a_ij K_j, for a matrix Z."""
    identity = np.eye(len(matrix))
    stages = []
    for a in tableau.a:
        inner = sum((x * k for x, k in zip(a, stages, strict=False)), 0 * identity)
        stages.append(identity + matrix @ inner)
    return identity + matrix @ sum(
        b * k for b, k in zip(tableau.b, stages, strict=True)
    )


@pytest.fixture
def matrix():
    return np.random.default_rng(0).normal(size=(5, 5))


@pytest.mark.parametrize("method", FIXED_METHODS)
def test_fixed_grid_is_the_exact_map_of_the_method(method, matrix):
    n_steps = 7
    h = 0.8 / n_steps
    y0 = np.random.default_rng(1).normal(size=(3, 5))
    power = np.linalg.matrix_power(
        stability_polynomial(FIXED_TABLEAUS[method], h * matrix), n_steps
    )
    a = torch.tensor(matrix)
    solution = odeint(
        lambda t, y: y @ a.T, torch.tensor(y0), [0, 0.8], method=method, n_steps=n_steps
    )
    expected = y0 @ power.T
    error = np.abs(solution.y[-1].numpy() - expected).max() / np.abs(expected).max()
    assert error < 1e-12


@pytest.mark.parametrize("method", TABLEAUS)
def test_one_step_is_the_exact_map_of_the_method(method, matrix):
    tableau = TABLEAUS[method]
    a = torch.tensor(matrix)
    y0 = torch.randn(3, 5, dtype=torch.float64)
    field = CountedField(lambda t, y: y @ a.T, y0)
    taken = runge_kutta_step(field, Step(tableau, 0.0, 0.3), y0)
    expected = y0 @ torch.tensor(stability_polynomial(tableau, 0.3 * matrix)).T
    torch.testing.assert_close(taken.y, expected, rtol=1e-12, atol=1e-12)
    assert field.nfe == tableau.n_stages


@pytest.mark.parametrize("method", TABLEAUS)
def test_converges_at_the_order_of_the_method(method):
    # A nonlinear, time-dependent equation with the solution exp(sin t).
    def field(t, y):
        return y * torch.cos(t) + 0.1 * (y - torch.exp(torch.sin(t)))

    tableau = TABLEAUS[method]
    y0 = torch.ones(1, dtype=torch.float64)
    errors = []
    counts = (32, 64) if tableau.order < 4 else (8, 16)
    for n_steps in counts:
        y, h = y0, 2.0 / n_steps
        counted = CountedField(field, y0)
        for i in range(n_steps):
            y = runge_kutta_step(counted, Step(tableau, i * h, h), y).y
        errors.append(abs(y.item() - math.exp(math.sin(2.0))))
    slope = math.log2(errors[0] / errors[1])
    assert slope > tableau.order - 0.25


@pytest.mark.parametrize("method", ADAPTIVE_METHODS)
def test_error_estimate_is_of_fourth_order(method):
    tableau = ADAPTIVE_TABLEAUS[method]
    # The embedded method's weights satisfy the conditions up to order 4:
    # sum b c^(q - 1) = 1 / q, so that those of the difference vanish.
    for power in range(4):
        moment = sum(e * c**power for e, c in zip(tableau.e, tableau.c, strict=True))
        assert abs(moment) < 1e-12
    moment = sum(e * c**4 for e, c in zip(tableau.e, tableau.c, strict=True))
    assert abs(moment) > 1e-6


@pytest.mark.parametrize("method", TABLEAUS)
def test_stages_sit_where_their_weights_say(method):
    tableau = TABLEAUS[method]
    for c, a in zip(tableau.c, tableau.a, strict=True):
        assert sum(a) == pytest.approx(c, abs=1e-14)
    assert sum(tableau.b) == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("method", [*FIXED_METHODS, *ADAPTIVE_METHODS])
def test_approaches_the_matrix_exponential(method, matrix):
    a = torch.tensor(matrix)
    y0 = torch.randn(4, 5, dtype=torch.float64)
    solution = odeint(
        lambda t, y: y @ a.T,
        y0,
        [0.0, 1.0],
        method=method,
        rtol=1e-10,
        atol=1e-10,
        n_steps=4000 if method == "euler" else 500,
    )
    expected = y0 @ torch.tensor(expm(matrix)).T
    tolerance = {"euler": 5e-2, "midpoint": 1e-3, "heun": 1e-3}.get(method, 1e-8)
    torch.testing.assert_close(solution.y[-1], expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("per_row", [False, True])
def test_combination_has_the_gradient_of_its_formula(per_row):
    generator = torch.Generator().manual_seed(0)
    y, *slopes = (
        torch.randn(3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
        for _ in range(4)
    )
    h = torch.rand(3, 1, dtype=torch.float64, generator=generator) if per_row else 0.3
    coefficients = (0.5, 0.0, -0.25)
    assert torch.autograd.gradcheck(
        lambda y, *k: combine(y, h, coefficients, k), (y, *slopes)
    )
    expected = y + h * (0.5 * slopes[0] - 0.25 * slopes[2])
    torch.testing.assert_close(combine(y, h, coefficients, slopes), expected)
    with torch.no_grad():
        torch.testing.assert_close(combine(y, h, coefficients, slopes), expected)


def test_combination_is_one_node_and_saves_nothing():
    y = torch.randn(3, 4, requires_grad=True)
    slopes = [torch.randn(3, 4, requires_grad=True) for _ in range(5)]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda x: x):
        result = combine(y, 0.1, (1.0, 0.0, 2.0, 3.0, 4.0), slopes)
    assert not saved
    sources = [node for node, _ in result.grad_fn.next_functions if node is not None]
    assert len(sources) == 5
    assert all(type(node).__name__ == "AccumulateGrad" for node in sources)
