"""The network: stem, ODE block, head; the solver it uses is the user's choice."""

import pytest
import torch

from skfunc.nn import ODENet, SolverOptions, draw_module
from skfunc.training import MemberStack

MEMBERS, ROWS = 2, 4


def build(**changes):
    options = {
        "n_features": 5,
        "n_outputs": 2,
        "state_size": 4,
        "hidden_layer_sizes": (8,),
        "n_augment": 0,
        "field": "mlp",
        "activation": "silu",
        "image_shape": None,
    }
    return ODENet(**(options | changes)).double()


IMAGES = {"n_features": 48, "field": "conv", "image_shape": (3, 4, 4)}
KINDS = {
    "rows": {},
    "augmented rows": {"n_augment": 3},
    "images": IMAGES,
    "augmented images": IMAGES | {"n_augment": 2},
    "halved images": {"n_features": 256, "field": "conv", "image_shape": (1, 16, 16)},
}


def stack_and_rows(members=MEMBERS, **changes):
    stack = MemberStack(lambda: build(**changes), draw_module)
    flat = stack.initial(range(members))
    generator = torch.Generator().manual_seed(7)
    # Away from the near-identity flow of a fresh network.
    flat = flat + 0.3 * torch.randn(flat.shape, generator=generator).double()
    n_features = changes.get("n_features", 5)
    x = torch.randn(ROWS, n_features, generator=generator).double()
    return stack, flat, x.expand(members, *x.shape)


@pytest.mark.parametrize("kind", KINDS)
def test_stack_equals_a_loop(kind):
    stack, flat, x = stack_and_rows(**KINDS[kind])
    solver = SolverOptions("rk4", n_steps=3)
    with torch.no_grad():
        together, report = stack.bind(flat)(x, solver)
        assert together.shape == (MEMBERS, ROWS, 2)
        assert report.nfe == 12
        for m in range(MEMBERS):
            alone, _ = stack.bind(flat[m : m + 1])(x[m : m + 1], solver)
            torch.testing.assert_close(
                together[m : m + 1], alone, rtol=1e-12, atol=1e-12
            )


@pytest.mark.parametrize("kind", KINDS)
def test_rk4_converges_to_a_tight_dopri5(kind):
    stack, flat, x = stack_and_rows(**KINDS[kind])
    module = stack.bind(flat)
    with torch.no_grad():
        tight, _ = module(x, SolverOptions("dopri5", rtol=1e-9, atol=1e-9))
        errors = [
            (module(x, SolverOptions("rk4", n_steps=n))[0] - tight).abs().max().item()
            for n in (4, 8, 16)
        ]
    # Halving the step divides the error by 2^4.
    assert errors[1] < errors[0] / 8 and errors[2] < errors[1] / 8
    assert errors[2] < 1e-4


@pytest.mark.parametrize("method", ["dopri5", "tsit5"])
def test_own_steps_agree_with_shared_ones(method):
    stack, flat, x = stack_and_rows(n_augment=1)
    module = stack.bind(flat)
    options = {"method": method, "rtol": 1e-10, "atol": 1e-10}
    with torch.no_grad():
        shared, _ = module(x, SolverOptions(**options))
        own, report = module(x, SolverOptions(**options, per_row=True))
    assert report.nfe_per_row.shape == (MEMBERS, ROWS)
    torch.testing.assert_close(own, shared, rtol=1e-8, atol=1e-8)


def test_augmentation_appends_zeros():
    net = build(n_augment=3)
    draw_module(net, torch.Generator().manual_seed(0))
    x = torch.randn(ROWS, 5, dtype=torch.float64)
    h = net.initial_state(x)
    assert h.shape == (ROWS, 7)
    assert (h[:, 4:] == 0).all() and (h[:, :4] != 0).all()
    image = build(**IMAGES, n_augment=2)
    draw_module(image, torch.Generator().manual_seed(0))
    h = image.initial_state(torch.randn(2, ROWS, 48).double()[0])
    assert h.shape == (ROWS, 6, 4, 4)
    assert (h[:, 4:] == 0).all()


@pytest.mark.parametrize(
    ("side", "out"), [(5, 5), (8, 8), (12, 6), (16, 8), (28, 7), (32, 8)]
)
def test_images_are_halved_at_most_twice(side, out):
    net = build(n_features=side * side, field="conv", image_shape=(1, side, side))
    draw_module(net, torch.Generator().manual_seed(0))
    assert net.stem.out_size == (out, out)
    h = net.initial_state(torch.zeros(2, side * side, dtype=torch.float64))
    assert h.shape == (2, 4, out, out)


def test_image_of_unequal_sides():
    net = build(n_features=3 * 13 * 28, field="conv", image_shape=(3, 13, 28))
    draw_module(net, torch.Generator().manual_seed(0))
    h = net.initial_state(torch.zeros(2, 3 * 13 * 28, dtype=torch.float64))
    assert h.shape == (2, 4, *net.stem.out_size)
    output, _ = net(torch.zeros(2, 3 * 13 * 28).double(), SolverOptions("euler"))
    assert output.shape == (2, 2)


def test_rows_of_an_image_are_channels_height_width():
    net = build(**IMAGES)
    draw_module(net, torch.Generator().manual_seed(0))
    image = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(
        net.initial_state(image.flatten(1)), net.stem(image), rtol=0, atol=0
    )


def test_unknown_field_is_refused():
    with pytest.raises(ValueError, match="field='resnet' is unknown"):
        build(field="resnet")


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_gradients_agree(gradient):
    stack, flat, x = stack_and_rows(n_augment=1)

    def gradient_of(kind, **solver):
        parameters = flat.clone().requires_grad_()
        output, _ = stack.bind(parameters)(x, SolverOptions(gradient=kind, **solver))
        return torch.autograd.grad(output.square().sum(), parameters)[0]

    exact = {"method": "rk4", "n_steps": 6}
    tight = {"method": "dopri5", "rtol": 1e-9, "atol": 1e-9}
    solver, tolerance = (exact, 1e-10) if gradient == "checkpoint" else (tight, 1e-5)
    torch.testing.assert_close(
        gradient_of(gradient, **solver),
        gradient_of("backprop", **solver),
        rtol=tolerance,
        atol=tolerance,
    )
