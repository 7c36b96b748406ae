"""Flows against closed forms: linear fields, mixtures, the trace of a Jacobian."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from torch import nn

from skfunc.nn import (
    SMOOTH_ACTIVATIONS,
    ContinuousFlow,
    GaussianComponents,
    SolverOptions,
    TraceField,
    field_with_trace,
    random_signs,
)
from skfunc.training import MemberStack

FINE = SolverOptions(method="rk4", n_steps=40)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_field(size=3, activation="tanh", seed=0):
    """Return a field none of whose layers is at its start."""
    field = TraceField(size, (7, 5), activation).double()
    with torch.no_grad():
        for value in field.parameters():
            value.normal_(0.0, 0.7, generator=generator(seed))
    return field


class Affine(nn.Module):
    """x' = x A^T + b."""

    def __init__(self, size):
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(size, size))
        self.shift = nn.Parameter(torch.zeros(size))

    def forward(self, t, x):
        return x @ self.matrix.T + self.shift


def affine_flow(size=3, seed=0):
    draws = np.random.default_rng(seed)
    stack = MemberStack(
        lambda: ContinuousFlow(
            size, hidden_layer_sizes=(4, 4), field=Affine, activation="tanh"
        )
    )
    matrix, shift = 0.4 * draws.normal(size=(size, size)), draws.normal(size=size)
    return bind_affine(stack, matrix, shift), matrix, shift


def bind_affine(stack, matrix, shift):
    flat = np.concatenate([np.ravel(matrix), shift])
    return stack.bind(torch.as_tensor(flat)[None])


class TestTrace:
    @pytest.mark.parametrize("activation", sorted(SMOOTH_ACTIVATIONS))
    def test_closed_form_is_the_jacobians(self, activation):
        field = random_field(4, activation)
        x = torch.randn(6, 4, generator=generator(1), dtype=torch.float64)
        t = torch.tensor(0.3, dtype=torch.float64)
        value, trace = field.with_trace()(t, x)
        jacobians = torch.func.vmap(torch.func.jacrev(lambda row: field(t, row)))(x)
        exact = jacobians.diagonal(dim1=1, dim2=2).sum(-1)
        torch.testing.assert_close(trace, exact, rtol=1e-7, atol=1e-10)
        torch.testing.assert_close(value, field(t, x))

    def test_gradient_of_the_closed_form(self):
        field = random_field(3)
        x = torch.randn(5, 3, generator=generator(1), dtype=torch.float64)
        t = torch.tensor(0.7, dtype=torch.float64)
        parameters = list(field.parameters())
        gradients = [
            torch.autograd.grad(
                evaluate(t, x)[1].pow(2).sum(), parameters, allow_unused=True
            )
            for evaluate in (field.with_trace(), field_with_trace(field))
        ]
        for closed, general in zip(*gradients, strict=True):
            if closed is not None and closed.abs().max() > 0:
                torch.testing.assert_close(closed, general, rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("activation", sorted(SMOOTH_ACTIVATIONS))
    def test_gradient_that_is_written_out_is_autograds(self, activation):
        stack = MemberStack(
            lambda: ContinuousFlow(
                3, hidden_layer_sizes=(7, 5), field="mlp", activation=activation
            )
        )
        flat = torch.randn(2, stack.n_parameters, generator=generator()).double()
        x = torch.randn(2, 6, 3, generator=generator(1)).double()
        inputs = [(0.3 * flat).requires_grad_(True), x.requires_grad_(True)]
        found = []
        # With a kinetic energy beside the trace, autograd takes every step itself.
        for kinetic in (False, True):
            solver = SolverOptions(method="rk4", n_steps=3)
            end = stack.bind(inputs[0]).to_base(x, solver, kinetic=kinetic)
            value = (end.rows**2).sum() + end.log_det.sin().sum()
            found.append((end.log_det, *torch.autograd.grad(value, inputs)))
        for written, by_autograd in zip(*found, strict=True):
            torch.testing.assert_close(written, by_autograd, rtol=1e-9, atol=1e-12)

    def test_members_are_as_each_alone(self):
        stack = MemberStack(lambda: TraceField(3, (7, 5), "silu"))
        flat = torch.randn(2, stack.n_parameters, generator=generator()).double()
        x = torch.randn(2, 6, 3, generator=generator(1)).double()
        t = torch.rand(2, 6, 1, generator=generator(2)).double()
        value, trace = stack.bind(flat).with_trace()(t, x)
        for k in range(2):
            alone = stack.bind(flat[k : k + 1]).with_trace()
            one, one_trace = alone(t[k : k + 1], x[k : k + 1])
            torch.testing.assert_close(value[k], one[0])
            torch.testing.assert_close(trace[k], one_trace[0])

    def test_random_signs_are_right_in_the_mean(self):
        field = random_field(3)
        x = torch.randn(1, 3, generator=generator(1), dtype=torch.float64)
        t = torch.tensor(0.3, dtype=torch.float64)
        exact = field_with_trace(field)(t, x)[1]
        # All eight sign vectors: the mean is exact.
        signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 3)
        estimates = [field_with_trace(field, sign)(t, x)[1] for sign in signs]
        torch.testing.assert_close(torch.stack(estimates).mean(0), exact)
        drawn = random_signs((4000, 3), generator())
        assert set(drawn.unique().tolist()) == {-1.0, 1.0}
        assert drawn.mean().abs() < 0.03

    def test_norm_of_the_jacobian_is_right_in_the_mean(self):
        field = random_field(3)
        x = torch.randn(4, 3, generator=generator(1), dtype=torch.float64)
        t = torch.tensor(0.3, dtype=torch.float64)
        jacobians = torch.func.vmap(torch.func.jacrev(lambda row: field(t, row)))(x)
        exact = (jacobians**2).sum((1, 2)) / 3
        signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 3)
        for forms in (
            [field.with_trace(sign.expand_as(x)) for sign in signs],
            [field_with_trace(field, jacobian_probe=sign) for sign in signs],
        ):
            estimates = torch.stack([evaluate(t, x)[2] for evaluate in forms])
            torch.testing.assert_close(estimates.mean(0), exact)

    def test_flow_starts_at_the_identity(self):
        flow = ContinuousFlow(
            3, hidden_layer_sizes=(7, 5), field="mlp", activation="tanh"
        )
        stack = MemberStack(lambda: flow, draw_all)
        module = stack.bind(stack.initial([3]))
        x = torch.randn(1, 4, 3, generator=generator(), dtype=torch.float64)
        end = module.to_base(x, FINE)
        torch.testing.assert_close(end.rows, x)
        assert (end.log_det == 0).all() and end.kinetic is None


def draw_all(module, source):
    from skfunc.nn import draw_module

    draw_module(module, source)


class TestLinearField:
    @pytest.mark.parametrize(
        "solver",
        [
            FINE,
            SolverOptions(method="dopri5", rtol=1e-9, atol=1e-9, per_row=True),
            SolverOptions(method="torchdiffeq:dopri5", rtol=1e-9, atol=1e-9),
        ],
        ids=lambda solver: solver.method,
    )
    def test_density_is_the_gaussian_of_the_matrix_exponential(self, solver):
        flow, A, b = affine_flow()
        growth = expm(A)
        mean = np.linalg.solve(A, (growth - np.eye(3)) @ b)
        exact = multivariate_normal(mean, growth @ growth.T)
        rows = exact.rvs(20, random_state=0)
        end = flow.to_base(torch.as_tensor(rows)[None], solver)
        base = multivariate_normal(np.zeros(3), np.eye(3))
        found = base.logpdf(end.rows[0].detach()) + end.log_det[0].detach().numpy()
        np.testing.assert_allclose(found, exact.logpdf(rows), rtol=0, atol=1e-6)
        np.testing.assert_allclose(end.log_det[0].detach(), -np.trace(A), atol=1e-7)

    def test_there_and_back(self):
        flow, _, _ = affine_flow()
        rows = torch.randn(1, 9, 3, generator=generator(), dtype=torch.float64)
        end = flow.to_base(rows, FINE).rows
        again = flow.from_base(end, FINE).y[-1]
        torch.testing.assert_close(again, rows, rtol=0, atol=1e-6)

    def test_kinetic_energy_of_a_constant_field(self):
        stack = MemberStack(
            lambda: ContinuousFlow(
                3, hidden_layer_sizes=(4, 4), field=Affine, activation="tanh"
            )
        )
        flow = bind_affine(stack, np.zeros((3, 3)), np.array([1.0, 2.0, 2.0]))
        rows = torch.zeros(1, 2, 3, dtype=torch.float64)
        end = flow.to_base(rows, FINE, kinetic=True)
        torch.testing.assert_close(end.kinetic, torch.full_like(end.kinetic, 3.0))

    def test_penalties_along_a_path_stand_side_by_side(self):
        flow, A, _ = affine_flow()
        rows = torch.randn(1, 5, 3, generator=generator(), dtype=torch.float64)
        signs = random_signs(rows.shape, generator(1))
        plain = flow.to_base(rows, FINE)
        both = flow.to_base(rows, FINE, kinetic=True, jacobian_probe=signs)
        expected = ((signs[0].numpy() @ A) ** 2).mean(-1)
        np.testing.assert_allclose(both.jacobian[0].detach(), expected, rtol=1e-9)
        torch.testing.assert_close(both.log_det, plain.log_det)
        torch.testing.assert_close(
            both.kinetic, flow.to_base(rows, FINE, kinetic=True).kinetic
        )
        assert plain.jacobian is None

    def test_path_passes_the_given_times(self):
        flow, A, b = affine_flow()
        start = torch.zeros(1, 1, 3, dtype=torch.float64)
        path = flow.from_base(start, FINE, (0.0, 0.5, 1.0)).y
        middle = np.linalg.solve(A, (expm(A / 2) - np.eye(3)) @ b)
        np.testing.assert_allclose(path[1, 0, 0].detach(), middle, atol=1e-7)

    def test_field_that_is_unknown(self):
        with pytest.raises(ValueError, match="choose 'mlp'"):
            ContinuousFlow(
                2, hidden_layer_sizes=(4, 4), field="conv", activation="tanh"
            )


class TestComponents:
    def mixture(self):
        draws = np.random.default_rng(0)
        X = np.concatenate([draws.normal(size=(60, 3)), 4 + draws.normal(size=(40, 3))])
        X[:, 1] += 0.5 * X[:, 0]
        model = GaussianMixture(2, random_state=0).fit(X)
        components = GaussianComponents(
            torch.as_tensor(model.means_),
            torch.as_tensor(model.weights_),
            torch.as_tensor(np.linalg.cholesky(model.covariances_)),
        )
        return X, model, components

    def test_log_prob_is_that_of_scikit_learn(self):
        X, model, components = self.mixture()
        found = components.log_prob(torch.as_tensor(X)[None])
        np.testing.assert_allclose(found[0], model.score_samples(X), rtol=1e-10)

    def test_moments_of_draws(self):
        X, model, components = self.mixture()
        draws = components.sample(40_000, generator()).numpy()
        np.testing.assert_allclose(draws.mean(0), X.mean(0), atol=0.05)
        np.testing.assert_allclose(np.cov(draws.T), np.cov(X.T, ddof=0), atol=0.12)

    def test_shared_covariance_is_that_of_copies(self):
        X, model, _ = self.mixture()
        L = torch.as_tensor(np.linalg.cholesky(model.covariances_[:1]))
        means, weights = torch.as_tensor(X), torch.full((100,), 0.01).double()
        shared = GaussianComponents(means, weights, L)
        copies = GaussianComponents(means, weights, L.expand(100, 3, 3))
        rows = torch.as_tensor(X[:7] + 0.3)
        torch.testing.assert_close(shared.log_prob(rows), copies.log_prob(rows))
        one, other = (c.sample(50, generator(3)) for c in (shared, copies))
        torch.testing.assert_close(one, other)

    def test_left_out_component(self):
        X = np.random.default_rng(0).normal(size=(12, 2))
        means, weights = torch.as_tensor(X), torch.full((12,), 1 / 12).double()
        L = 0.3 * torch.eye(2, dtype=torch.float64)[None]
        found = GaussianComponents(means, weights, L).log_prob(means, torch.arange(12))
        rest = GaussianComponents(means[1:], weights[1:] * 12 / 11, L)
        assert math.isclose(found[0], rest.log_prob(means[:1])[0], rel_tol=1e-9)
