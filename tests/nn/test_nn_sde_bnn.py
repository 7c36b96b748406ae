"""The network of weight paths: its limits, its divergence, members, fields, solvers."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from skfunc.nn import DRIFTS, SDEBNN, PathOptions, SolverOptions, draw_sde_bnn
from skfunc.solvers import TORCHSDE_METHODS
from skfunc.training import MemberStack

MEMBERS, ROWS = 3, 4
OPTIONS = PathOptions(seed=11, n_paths=4, n_steps=3)
IMAGES = {"n_features": 48, "field": "conv", "image_shape": (3, 4, 4)}


def build(**changes):
    options = {
        "n_features": 5,
        "n_outputs": 2,
        "state_size": 4,
        "hidden_layer_sizes": (6,),
        "n_augment": 0,
        "field": "mlp",
        "activation": "silu",
        "image_shape": None,
        "drift": "affine",
        "rank": 2,
        "sigma": 0.3,
        "rate": 1.0,
        "prior_mean": "initial",
        "gaussian_start": False,
    }
    return SDEBNN(**(options | changes)).double()


def fresh(members=MEMBERS, **changes):
    """Return a stack, its drawn parameters and rows."""
    stack = MemberStack(lambda: build(**changes), draw_sde_bnn)
    flat = stack.initial(range(members))
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(ROWS, changes.get("n_features", 5), generator=generator).double()
    return stack, flat, x.expand(members, *x.shape)


def moved(**changes):
    """Return the same with a drift that is not zero."""
    stack, flat, x = fresh(**changes)
    generator = torch.Generator().manual_seed(8)
    return stack, flat + 0.2 * torch.randn(flat.shape, generator=generator).double(), x


def put(stack, flat, name, value):
    """Set one parameter of every member."""
    names = list(stack.shapes)
    start = sum(stack.sizes[: names.index(name)])
    size = math.prod(stack.shapes[name])
    flat[:, start : start + size] = torch.as_tensor(value).double().reshape(1, -1)


@pytest.mark.parametrize("kind", [{}, {"n_augment": 2}, IMAGES])
@pytest.mark.parametrize("drift", ["affine", "lowrank"])
def test_without_diffusion_it_is_an_ode_net(kind, drift):
    stack, flat, x = moved(sigma=1e-9, drift=drift, **kind)
    module = stack.bind(flat)
    with torch.no_grad():
        paths = module(x, OPTIONS).outputs
        state = module.solve(module.initial_state(x), SolverOptions("heun", n_steps=3))
        expected = module.head(state.y[-1]).unsqueeze(1).expand_as(paths)
    torch.testing.assert_close(paths, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"n_augment": 2, "drift": "affine+lowrank"},
        {"drift": "mlp", "sigma": None},
        {"gaussian_start": True},
        {"gaussian_start": True, "prior_mean": "zero", "drift": "lowrank"},
        IMAGES,
    ],
)
def test_stack_equals_a_loop(kind):
    stack, flat, x = moved(**kind)
    options = replace(OPTIONS, antithetic=True, sticking=True)
    kept = [2, 0]
    with torch.no_grad():
        together = stack.bind(flat)(x, options)
        # Members that are left, in whatever order, draw what they drew before.
        fewer = stack.bind(flat[kept])(x[kept], options)
        for m in range(MEMBERS):
            alone = stack.bind(flat[m : m + 1])(x[m : m + 1], options)
            for a, b in zip(together[:3], alone[:3], strict=True):
                torch.testing.assert_close(a[m : m + 1], b, rtol=1e-11, atol=1e-11)
    assert together.outputs.shape == (MEMBERS, 4, ROWS, 2)
    for a, b in zip(together[:3], fewer[:3], strict=True):
        torch.testing.assert_close(a[kept], b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("drift", sorted(DRIFTS))
@pytest.mark.parametrize("gaussian_start", [False, True])
def test_a_fresh_network_is_its_prior(drift, gaussian_start):
    stack, flat, x = fresh(drift=drift, gaussian_start=gaussian_start)
    module = stack.bind(flat)
    with torch.no_grad():
        posterior = module(x, replace(OPTIONS, sticking=True))
        prior = module(x, OPTIONS, prior=True)
    assert (prior.divergence == 0).all()
    # A Gaussian start's divergence is a difference of equal numbers.
    size = 1e-12 if gaussian_start else 0.0
    assert (posterior.divergence.abs() <= size).all()
    assert (posterior.martingale == 0).all()
    torch.testing.assert_close(posterior.outputs, prior.outputs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prior_mean", ["initial", "zero"])
def test_divergence_of_gaussian_initial_weights(prior_mean):
    sigma, rate = 0.3, 1.7
    stack, flat, x = fresh(
        gaussian_start=True, prior_mean=prior_mean, sigma=sigma, rate=rate
    )
    names = list(stack.shapes)
    generator = torch.Generator().manual_seed(1)
    for name in names:
        if name.startswith("field") or name == "log_spread":
            start = sum(stack.sizes[: names.index(name)])
            part = flat[:, start : start + stack.sizes[names.index(name)]]
            part += 0.4 * torch.randn(part.shape, generator=generator).double()
    module = stack.bind(flat)
    with torch.no_grad():
        found = module(x, OPTIONS)
    w0 = module.initial_weights()
    centre = module.centre if prior_mean == "initial" else torch.zeros_like(w0)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(w0, sigma * module.log_spread.exp()),
        normal(centre, sigma / math.sqrt(2 * rate)),
    ).sum(1)
    # The drift is zero still: nothing is added on the way.
    torch.testing.assert_close(
        found.divergence, expected[:, None].expand(MEMBERS, 4), rtol=1e-12, atol=1e-12
    )


class Weights(nn.Module):
    """A field whose state is the integral of its weights."""

    def __init__(self, size):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size))

    def forward(self, t, h):
        return torch.zeros_like(h) + self.w


def integrals(start, n_paths=40_000, prior=False, changes=None, **kind):
    """Return (w(0) + w(1)) / 2 of many paths that start at 2, one member."""
    stack, flat, x = fresh(members=1, field=Weights, state_size=2, n_features=1, **kind)
    for name, value in (changes or {}).items():
        put(stack, flat, name, value)
    put(stack, flat, "field.module.w", [start, start])
    for name in ("stem.weight", "stem.bias", "head.bias"):
        put(stack, flat, name, torch.zeros(stack.shapes[name]))
    put(stack, flat, "head.weight", torch.eye(2))
    options = PathOptions(seed=0, n_paths=n_paths, n_steps=1)
    with torch.no_grad():
        return stack.bind(flat)(x, options, prior=prior).outputs[0, :, 0]


@pytest.mark.parametrize(("prior_mean", "m"), [("initial", 0.5), ("zero", 0.0)])
def test_prior_draws_are_stationary(prior_mean, m):
    rate, sigma = 0.7, 0.4
    # Trained to start at 2, with a spread of its own: the prior does not know of it.
    changes = {"log_spread": torch.full((2,), -3.0)}
    if prior_mean == "initial":
        changes["centre"] = torch.full((2,), 0.5)
    draws = integrals(
        2.0,
        prior=True,
        changes=changes,
        rate=rate,
        sigma=sigma,
        gaussian_start=True,
        prior_mean=prior_mean,
    )
    variance = sigma**2 / (2 * rate) * (1 + math.exp(-rate)) / 2
    assert draws.mean().item() == pytest.approx(m, abs=0.005)
    assert draws.var().item() == pytest.approx(variance, rel=0.02)


@pytest.mark.parametrize(("prior_mean", "pull"), [("initial", 0.0), ("zero", 1.0)])
def test_where_the_prior_pulls_to(prior_mean, pull):
    rate, sigma = 1.3, 0.4
    draws = integrals(2.0, rate=rate, sigma=sigma, prior_mean=prior_mean)
    end = 2.0 * (math.exp(-rate) if pull else 1.0)
    assert draws.mean().item() == pytest.approx((2.0 + end) / 2, abs=0.005)
    # The start is a point: half of the end's deviation remains.
    variance = sigma**2 * (1 - math.exp(-2 * rate)) / (2 * rate) / 4
    assert draws.var().item() == pytest.approx(variance, rel=0.02)


@pytest.mark.parametrize("prior_mean", ["initial", "zero"])
def test_learned_sigma_starts_at_a_tenth_and_gets_a_gradient(prior_mean):
    stack, flat, x = fresh(sigma=None, prior_mean=prior_mean)
    module = stack.bind(flat)
    torch.testing.assert_close(
        module.diffusion(module.initial_weights()),
        torch.full((MEMBERS, 1), 0.1, dtype=torch.float64),
    )
    flat = flat.clone().requires_grad_()
    module = stack.bind(flat)
    found = module(x, OPTIONS)
    (found.outputs.square().sum() + found.divergence.sum()).backward()
    names = list(stack.shapes)
    start = sum(stack.sizes[: names.index("log_sigma")])
    assert (flat.grad[:, start] != 0).all()

    def loss(shift):
        values = flat.detach().clone()
        values[:, start] += shift
        with torch.no_grad():
            found = stack.bind(values)(x, OPTIONS)
        return found.outputs.square().sum((1, 2, 3)) + found.divergence.sum(1)

    numeric = (loss(1e-5) - loss(-1e-5)) / 2e-5
    torch.testing.assert_close(flat.grad[:, start], numeric, rtol=1e-6, atol=1e-8)


def test_augmentation_widens_field_and_weights():
    assert build(n_augment=2).n_weights > build().n_weights
    stack, flat, x = moved(n_augment=2)
    with torch.no_grad():
        module = stack.bind(flat)
        assert module.initial_state(x).shape == (MEMBERS, ROWS, 6)
        assert module(x, OPTIONS).outputs.shape == (MEMBERS, 4, ROWS, 2)


class Oscillator(nn.Module):
    """A user's field with one matrix in two places and a buffer."""

    def __init__(self, size):
        super().__init__()
        self.there, self.back = nn.Linear(size, size), nn.Linear(size, size)
        self.back.weight = self.there.weight
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, t, h):
        return self.back(torch.tanh(self.there(h) * self.scale * (1 + t)))


def test_users_field_without_diffusion_is_its_ode_net():
    stack, flat, x = moved(field=Oscillator, sigma=1e-9)
    module = stack.bind(flat)
    assert module.n_weights == 4 * 4 + 4 + 4
    with torch.no_grad():
        paths = module(x, OPTIONS).outputs
        state = module.solve(module.initial_state(x), SolverOptions("heun", n_steps=3))
        expected = module.head(state.y[-1]).unsqueeze(1).expand_as(paths)
    torch.testing.assert_close(paths, expected, rtol=0, atol=1e-6)


def gradient(options, **kind):
    stack, flat, x = moved(**({"drift": "affine+lowrank"} | kind))
    flat = flat.requires_grad_()
    found = stack.bind(flat)(x, options)
    loss = found.outputs.square().mean() + found.divergence.mean()
    loss = loss + found.martingale.mean()
    (result,) = torch.autograd.grad(loss, flat)
    return loss.item(), result


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"sigma": None, "prior_mean": "zero"},
        {"gaussian_start": True},
        {"field": Oscillator},
    ],
)
@pytest.mark.parametrize("method", ["ou", "heun"])
def test_checkpoints_give_the_same_gradient(kind, method):
    options = replace(OPTIONS, method=method, n_steps=6, sticking=True)
    loss, expected = gradient(options, **kind)
    other, found = gradient(replace(options, gradient="checkpoint"), **kind)
    assert other == pytest.approx(loss, rel=1e-11)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("sigma", [0.3, None])
@pytest.mark.parametrize("n_steps", [1, 2, 5])
@pytest.mark.parametrize("sticking", [True, False])
def test_affine_paths_have_the_gradient_of_automatic_differentiation(
    sigma, n_steps, sticking
):
    kind = {"drift": "affine", "sigma": sigma, "rate": 0.7}
    options = replace(OPTIONS, n_steps=n_steps, sticking=sticking)
    loss, expected = gradient(replace(options, gradient="checkpoint"), **kind)
    other, found = gradient(options, **kind)
    assert other == pytest.approx(loss, rel=1e-11)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    stack, flat, x = moved(**kind)
    with torch.no_grad():
        plain = stack.bind(flat)(x, options)
    recorded = stack.bind(flat.requires_grad_())(x, options)
    for one, same in zip(plain[:3], recorded[:3], strict=True):
        torch.testing.assert_close(one, same.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["ou", "midpoint", "reversible_heun"])
def test_adjoint_tends_to_the_same_gradient(method):
    options = replace(OPTIONS, method=method, n_steps=40, sticking=True)
    loss, expected = gradient(options, sigma=None)
    other, found = gradient(replace(options, gradient="adjoint"), sigma=None)
    assert other == pytest.approx(loss, rel=1e-9)
    tolerance = 1e-9 if method == "reversible_heun" else 0.02
    error = (found - expected).norm() / expected.norm()
    assert error.item() < tolerance


@pytest.mark.parametrize(
    "method",
    ["euler", "heun", "midpoint", "reversible_heun", "adaptive_heun"]
    + [m for m in ("torchsde:midpoint", "torchsde:srk") if m in TORCHSDE_METHODS],
)
def test_every_solver_tends_to_the_same_network(method):
    options = replace(OPTIONS, n_steps=60, n_paths=2)
    loss, expected = gradient(options)
    settings = {"rtol": 1e-2, "atol": 1e-2}
    other, found = gradient(replace(options, method=method, **settings))
    # srk draws a path of its own: the divergence is another draw's too.
    own = method == "torchsde:srk"
    assert other == pytest.approx(loss, rel=0.5 if own else 0.02)
    assert torch.isfinite(found).all()
    if not own:
        assert ((found - expected).norm() / expected.norm()).item() < 0.05
