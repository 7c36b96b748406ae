"""Parameters of a stack: drawn by seed, bound by view."""

import numpy as np
import pytest
import torch
from torch import nn

from skfunc.nn import UserField
from skfunc.training import MemberStack


def test_member_does_not_depend_on_its_companions(toy_stack):
    stack = toy_stack()
    together = stack.initial([3, 1, 4])
    for row, seed in zip(together, [3, 1, 4], strict=True):
        assert torch.equal(row, stack.initial([seed])[0])
        assert torch.equal(row, toy_stack().initial([seed])[0])
    assert not torch.equal(together[0], together[1])


def test_layers_of_torch_follow_the_seed_too():
    stack = MemberStack(lambda: nn.Linear(4, 2))
    first = stack.initial([0, 1])
    assert torch.equal(first, stack.initial([0, 1]))
    assert not torch.equal(first[0], first[1])


def test_global_generators_are_left_alone(toy_stack):
    torch.manual_seed(11)
    np.random.seed(11)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    MemberStack(lambda: nn.Linear(4, 2)).initial(range(3))
    toy_stack().initial(range(3))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_split_is_a_view_in_the_order_of_the_module(toy_stack):
    stack = toy_stack()
    flat = stack.initial([0, 1])
    parts = stack.split(flat)
    assert list(parts) == [name for name, _ in stack.module.named_parameters()]
    assert parts["first.weight"].shape == (2, 3, 6)
    assert torch.equal(torch.cat([v.flatten(1) for v in parts.values()], dim=1), flat)
    parts["last.bias"].fill_(7.0)
    assert (flat[:, -1] == 7.0).all()
    assert stack.n_parameters == flat.shape[1] == 3 * 6 + 6 + 6 + 1


def test_bound_module_computes_every_member(toy_stack):
    stack = toy_stack()
    flat = stack.initial([0, 1, 2])
    x = torch.randn(3, 5, 3, dtype=torch.float64)
    together = stack.bind(flat)(x)
    for m in range(3):
        single = toy_stack().module.double()
        nn.utils.vector_to_parameters(flat[m], single.parameters())
        torch.testing.assert_close(together[m], single(x[m]), rtol=1e-12, atol=1e-12)


def test_gradient_reaches_the_flat_matrix(toy_stack):
    stack = toy_stack()
    flat = stack.initial([0, 1]).requires_grad_()
    stack.bind(flat)(torch.ones(2, 4, 3, dtype=torch.float64)).sum().backward()
    assert flat.grad.shape == flat.shape and (flat.grad != 0).any(1).all()


def test_penalty_leaves_biases_and_scales_out(toy_stack):
    mask = toy_stack().weight_mask()
    parts = toy_stack().split(mask.unsqueeze(0))
    assert (parts["first.weight"] == 1).all() and (parts["last.weight"] == 1).all()
    assert (parts["first.bias"] == 0).all() and (parts["last.bias"] == 0).all()


class SharedKernel(nn.Module):
    """A user's field that uses one matrix twice."""

    def __init__(self, size):
        super().__init__()
        self.there, self.back = nn.Linear(size, size), nn.Linear(size, size)
        self.back.weight = self.there.weight

    def forward(self, t, h):
        return self.back(torch.tanh(self.there(h)))


@pytest.mark.parametrize("members", [1, 2])
def test_shared_parameters_stay_shared(members):
    stack = MemberStack(lambda: UserField(SharedKernel, 3).double())
    flat = stack.initial(range(members)) + 0.5
    h = torch.randn(members, 4, 3, dtype=torch.float64)
    together = stack.bind(flat)(torch.tensor(0.0), h)
    for m in range(members):
        single = SharedKernel(3).double()
        nn.utils.vector_to_parameters(flat[m], single.parameters())
        torch.testing.assert_close(together[m], single(torch.tensor(0.0), h[m]))
