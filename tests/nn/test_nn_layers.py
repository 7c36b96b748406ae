"""A stack of layers computes what a loop over single layers computes."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from skfunc.nn import (
    ACTIVATIONS,
    Conv2d,
    GroupNorm,
    Linear,
    activation_function,
    draw_module,
)
from skfunc.nn._layers import activation_gain

MEMBERS = 4


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def build(make, seed):
    """Return a float64 layer, all of its parameters away from zero."""
    layer = make().double()
    generator = torch.Generator().manual_seed(seed)
    draw_module(layer, generator)
    with torch.no_grad():
        for value in layer.parameters():
            value.add_(torch.randn(value.shape, generator=generator).double())
    return layer


def stacked(layers):
    return {
        name: torch.stack([dict(layer.named_parameters())[name] for layer in layers])
        for name, _ in layers[0].named_parameters()
    }


LAYERS = {
    "linear": (lambda: Linear(5, 3), (7, 5)),
    "linear from nothing": (lambda: Linear(0, 3), (7, 0)),
    "conv": (lambda: Conv2d(2, 6), (7, 2, 5, 4)),
    "conv, stride 2": (lambda: Conv2d(3, 4, 4, 2), (7, 3, 8, 8)),
    "conv of pixels": (lambda: Conv2d(3, 4, 1), (7, 3, 2, 2)),
    "group norm": (lambda: GroupNorm(6), (7, 6, 3, 4)),
    "group norm, 3 groups": (lambda: GroupNorm(6, 3), (7, 6, 3, 4)),
}


@pytest.mark.parametrize("members", [1, MEMBERS])
@pytest.mark.parametrize("name", LAYERS)
def test_stack_equals_a_loop(name, members):
    make, shape = LAYERS[name]
    layers = [build(make, seed) for seed in range(members)]
    x = torch.randn(members, *shape, generator=torch.Generator().manual_seed(9))
    x = x.double()
    together = functional_call(make(), stacked(layers), (x,))
    alone = torch.stack([layer(rows) for layer, rows in zip(layers, x, strict=True)])
    close(together, alone)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_a_stack_equal_those_of_a_loop(name):
    make, shape = LAYERS[name]
    layers = [build(make, seed) for seed in range(MEMBERS)]
    x = torch.randn(MEMBERS, *shape, dtype=torch.float64)
    parameters = {k: v.detach().requires_grad_() for k, v in stacked(layers).items()}
    output = functional_call(make(), parameters, (x,))
    direction = torch.randn_like(output)
    gradients = torch.autograd.grad(
        (output * direction).sum(), list(parameters.values())
    )
    for m, layer in enumerate(layers):
        alone = torch.autograd.grad(
            (layer(x[m]) * direction[m]).sum(), list(layer.parameters())
        )
        for together, one in zip(gradients, alone, strict=True):
            close(together[m], one)


def test_members_do_not_touch_each_other():
    layers = [build(lambda: Conv2d(2, 3), seed) for seed in range(MEMBERS)]
    x = torch.randn(MEMBERS, 5, 2, 4, 4, dtype=torch.float64)
    parameters = {k: v.detach() for k, v in stacked(layers).items()}
    before = functional_call(Conv2d(2, 3), parameters, (x,))
    parameters["weight"][1] += 1.0
    after = functional_call(Conv2d(2, 3), parameters, (x,))
    others = [0, 2, 3]
    close(after[others], before[others])
    assert (after[1] != before[1]).any()


def test_single_layers_are_those_of_torch():
    x = torch.randn(6, 4, 5, 5, dtype=torch.float64)
    ours = build(lambda: Conv2d(4, 8), 0)
    theirs = nn.Conv2d(4, 8, 3, padding=1).double()
    theirs.load_state_dict(ours.state_dict())
    close(ours(x), theirs(x))
    norm = build(lambda: GroupNorm(4, 2), 0)
    close(norm(x), nn.functional.group_norm(x, 2, norm.scale, norm.shift))
    linear = build(lambda: Linear(5, 3), 0)
    close(linear(x), x @ linear.weight + linear.bias)


@pytest.mark.parametrize("size", [5, 6])
def test_sizes_after_a_convolution(size):
    x = torch.zeros(2, 1, size, size)
    assert Conv2d(1, 3)(x).shape == (2, 3, size, size)
    assert Conv2d(1, 3, 4, 2)(x).shape == (2, 3, size // 2, size // 2)


def test_group_norm_does_not_couple_rows():
    norm = build(lambda: GroupNorm(4, 2), 0)
    x = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    close(norm(x)[2:3], norm(x[2:3]))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_gain_keeps_the_mean_square_of_a_unit_gaussian(name):
    # E f(z)^2 by the trapezoidal rule on a fine grid, exact to far below 1e-4.
    z = torch.linspace(-12.0, 12.0, 200_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / (2 * torch.pi) ** 0.5
    mean_square = torch.trapezoid(activation_function(name)(z) ** 2 * density, z)
    assert activation_gain(name) == pytest.approx(mean_square.item() ** -0.5, abs=1e-4)


def test_unknown_activation_lists_the_known_ones():
    with pytest.raises(ValueError, match="activation='swish' is unknown.*'silu'"):
        activation_function("swish")


def test_drawn_weights_have_the_variance_of_the_gain():
    generator = torch.Generator().manual_seed(0)
    linear = Linear(400, 300, gain=1.7)
    linear.draw_parameters(generator)
    assert linear.weight.std().item() == pytest.approx(1.7 / 20, rel=0.01)
    assert (linear.bias == 0).all()
    conv = Conv2d(40, 60, 3, gain=1.3)
    conv.draw_parameters(generator)
    assert conv.weight.std().item() == pytest.approx(1.3 / 360**0.5, rel=0.02)
    norm = GroupNorm(8)
    norm.draw_parameters(generator)
    assert (norm.scale == 1).all() and (norm.shift == 0).all()


def test_draws_follow_the_generator_alone():
    def draw(seed):
        module = nn.Sequential(Linear(3, 4), nn.Tanh(), Linear(4, 2))
        draw_module(module, torch.Generator().manual_seed(seed))
        return torch.cat([value.flatten() for value in module.parameters()])

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = draw(1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, draw(1))
    assert not torch.equal(first, draw(2))


def test_drawing_leaves_layers_of_torch_alone():
    module = nn.Sequential(nn.Linear(3, 4), Linear(4, 2))
    before = module[0].weight.clone()
    draw_module(module, torch.Generator().manual_seed(0))
    assert torch.equal(module[0].weight, before)
