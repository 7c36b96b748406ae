"""Vector fields for a stack of members, time as a number or one per row."""

import pytest
import torch
from torch import nn

from skfunc.nn import ConvField, MLPField, UserField, draw_module
from skfunc.training import MemberStack

MEMBERS, ROWS = 3, 5


class Damped(nn.Module):
    """A user's field with layers of torch, a scalar parameter and a buffer."""

    def __init__(self, size):
        super().__init__()
        self.first = nn.Linear(size + 1, 7)
        self.second = nn.Linear(7, size, bias=False)
        self.rate = nn.Parameter(torch.tensor(0.3))
        self.register_buffer("damping", torch.linspace(0.1, 1.0, size))

    def forward(self, t, h):
        time = t.expand(*h.shape[:-1], 1) if t.dim() == 0 else t
        x = torch.tanh(self.first(torch.cat([h, time.to(h)], dim=-1)))
        return self.second(x) - self.rate * self.damping * h


class PixelField(nn.Module):
    """A user's convolutional field."""

    def __init__(self, size):
        super().__init__()
        channels, self.height, self.width = size
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, t, h):
        return torch.sin(self.conv(h) + t)


class Rotation(nn.Module):
    """A user's field without parameters."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, t, h):
        return h.roll(1, dims=-1) * torch.cos(t)


FIELDS = {
    "mlp": (lambda: MLPField(4, (6, 5), "silu"), (4,)),
    "mlp, no hidden layer": (lambda: MLPField(4, (), "tanh"), (4,)),
    "conv": (lambda: ConvField(4, "relu"), (4, 3, 3)),
    "user": (lambda: UserField(Damped, 4), (4,)),
    "user, images": (lambda: UserField(PixelField, (2, 3, 3)), (2, 3, 3)),
    "user, no parameters": (lambda: UserField(Rotation, 4), (4,)),
}


def stack_and_state(name, members=MEMBERS):
    make, shape = FIELDS[name]
    stack = MemberStack(lambda: make().double(), draw_module)
    flat = stack.initial(range(members)) if stack.n_parameters else None
    generator = torch.Generator().manual_seed(2)
    if flat is not None:
        flat = flat + 0.3 * torch.randn(flat.shape, generator=generator).double()
    h = torch.randn(members, ROWS, *shape, generator=generator).double()
    return stack, flat, h


def parametrized(names):
    # A stack of no parameters at all has nothing to bind.
    return pytest.mark.parametrize("name", [n for n in names if "no param" not in n])


@parametrized(FIELDS)
@pytest.mark.parametrize("t", [0.0, 0.37])
def test_stack_equals_a_loop(name, t):
    stack, flat, h = stack_and_state(name)
    t = torch.tensor(t, dtype=torch.float64)
    together = stack.bind(flat)(t, h)
    make, _ = FIELDS[name]
    for m in range(MEMBERS):
        single = make().double()
        torch.nn.utils.vector_to_parameters(flat[m], single.parameters())
        torch.testing.assert_close(together[m], single(t, h[m]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("members", [1, MEMBERS])
def test_time_of_each_row_equals_a_number_for_all(name, members):
    stack, flat, h = stack_and_state(name, members)
    field = stack.module if flat is None else stack.bind(flat)
    ones = torch.ones(members, ROWS, *[1] * (h.dim() - 2), dtype=torch.float64)
    number = field(torch.tensor(0.6, dtype=torch.float64), h)
    torch.testing.assert_close(field(0.6 * ones, h), number, rtol=1e-12, atol=1e-12)


@parametrized(FIELDS)
def test_each_row_has_its_own_time(name):
    stack, flat, h = stack_and_state(name)
    field = stack.bind(flat)
    times = torch.rand(MEMBERS, ROWS, *[1] * (h.dim() - 2), dtype=torch.float64)
    together = field(times, h)
    for m in range(MEMBERS):
        for i in range(ROWS):
            alone = field(times[m, i].reshape(()), h[:, i : i + 1])[m, 0]
            torch.testing.assert_close(together[m, i], alone, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "mlp, no hidden layer"])
def test_time_matters_to_the_perceptron(name):
    stack, flat, h = stack_and_state(name)
    field = stack.bind(flat)
    early, late = (field(torch.tensor(t, dtype=torch.float64), h) for t in (0.0, 1.0))
    assert (early - late).abs().max() > 1e-3


@parametrized(FIELDS)
def test_gradient_reaches_every_parameter_of_every_member(name):
    stack, flat, h = stack_and_state(name)
    flat = flat.clone().requires_grad_()
    output = stack.bind(flat)(torch.tensor(0.4, dtype=torch.float64), h)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(4))
    (gradient,) = torch.autograd.grad((output * weights.double()).sum(), flat)
    assert (gradient != 0).float().mean() > 0.9
    # Members are independent: another one's output has no gradient here.
    output = stack.bind(flat)(torch.tensor(0.4, dtype=torch.float64), h)
    (alone,) = torch.autograd.grad((output[1] * weights[1].double()).sum(), flat)
    assert (alone[[0, 2]] == 0).all()
    torch.testing.assert_close(alone[1], gradient[1], rtol=1e-10, atol=1e-12)


def test_field_starts_small():
    stack = MemberStack(lambda: MLPField(64, (64,), "silu").double(), draw_module)
    h = torch.randn(1, 500, 64, generator=torch.Generator().manual_seed(0)).double()
    output = stack.bind(stack.initial([0]))(torch.tensor(0.0).double(), h)
    assert 0.02 < output.std().item() < 0.3


@pytest.mark.parametrize("channels", [2, 3, 4, 8, 12, 64])
def test_time_matters_to_the_convolutional_field(channels):
    field = ConvField(channels, "silu")
    draw_module(field, torch.Generator().manual_seed(0))
    h = torch.randn(2, channels, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        early, late = field(torch.tensor(0.0), h), field(torch.tensor(1.0), h)
    assert (early - late).abs().max() > 1e-2


class WrongWidth(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.linear = nn.Linear(size, size + 1)

    def forward(self, t, h):
        return self.linear(h)


class NoTensor(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.linear = nn.Linear(size, size)

    def forward(self, t, h):
        return 1.0


@pytest.mark.parametrize("rows", [(2, 5), (5,)])
def test_wrong_output_shape_is_told(rows):
    field = UserField(WrongWidth, 4)
    if len(rows) == 2:
        stack = MemberStack(lambda: UserField(WrongWidth, 4))
        field = stack.bind(stack.initial([0, 1]).float())
    with pytest.raises(ValueError, match="field.* must return a tensor of h's shape"):
        field(torch.tensor(0.0), torch.zeros(*rows, 4))


def test_output_that_is_no_tensor_is_told():
    with pytest.raises(ValueError, match="field.*it returned float"):
        UserField(NoTensor, 4)(torch.tensor(0.0), torch.zeros(5, 4))


def test_factory_that_builds_no_module_is_told():
    with pytest.raises(TypeError, match=r"field must build a torch\.nn\.Module.*int"):
        UserField(lambda size: size, 4)
