"""Heads that read classes: one head against a perceptron, scales, dropout."""

import numpy as np
import torch
from torch.nn import functional

from skfunc.nn import draw_module
from skfunc.nn._label_heads import LabelHeads
from skfunc.training import MemberStack


def bound(n_states=3, n_summaries=5, hidden=(4,), n_heads=2, seed=0):
    """Return a bound stack of one member, its last weights random as well."""
    stack = MemberStack(
        lambda: LabelHeads(n_states, n_summaries, 3, hidden, n_heads, "tanh"),
        draw_module,
    )
    flat = stack.initial([seed])
    noise = torch.randn(flat.shape, generator=torch.Generator().manual_seed(1))
    return stack.bind(flat + noise), stack, flat


def numbers(rows=6, draws=4):
    generator = torch.Generator().manual_seed(2)
    states = torch.randn(1, draws, rows, 3, generator=generator).double()
    return states, torch.randn(1, rows, 5, generator=generator).double()


def test_a_head_is_a_perceptron():
    heads, _, _ = bound()
    states, summaries = numbers()
    logits = heads(states, summaries)
    assert logits.shape == (1, 8, 6, 3)
    for head in range(2):
        first = heads.states.weight[0, head], heads.summaries.weight[0, head]
        bias = heads.states.bias[0, head] + heads.summaries.bias[0, head]
        for draw in range(4):
            x = states[0, draw] @ first[0] / 3**0.5 + summaries[0] @ first[1] / 5**0.5
            last = heads.layers[0]
            y = torch.tanh(x + bias) @ last.weight[0, head] / 2 + last.bias[0, head]
            # The state is read past the hidden layer as well.
            y = y + states[0, draw] @ heads.direct.weight[0, head]
            y = y + heads.direct.bias[0, head]
            torch.testing.assert_close(logits[0, 4 * head + draw], y)


def test_heads_start_by_saying_nothing():
    for hidden in ((), (4,), (4, 3)):
        _, stack, flat = bound(hidden=hidden)
        logits = stack.bind(flat)(*numbers())
        np.testing.assert_array_equal(logits, 0)


def test_without_summaries_or_hidden_layers():
    heads, _, _ = bound(n_summaries=0, hidden=())
    states, summaries = numbers()
    logits = heads(states, summaries[..., :0])
    weight, bias = heads.states.weight[0, 1], heads.states.bias[0, 1]
    bias = bias + heads.summaries.bias[0, 1]
    torch.testing.assert_close(logits[0, 4], states[0, 0] @ weight / 3**0.5 + bias)


def test_dropout_of_each_head_apart():
    heads, _, _ = bound()
    states, summaries = numbers()
    torch.manual_seed(0)
    seen = []

    def dropout(x):
        seen.append(x.shape)
        return functional.dropout(x, 0.5)

    first = heads(states, summaries, dropout)
    assert seen == [(1, 2, 6, 5), (1, 2, 24, 4)]
    assert not torch.equal(first, heads(states, summaries, dropout))
