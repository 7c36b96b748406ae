"""Attention against its formula, with masks and cached keys."""

import math

import pytest
import torch

from skfunc.nn import (
    AttentionBlock,
    InducingAttention,
    MultiHeadAttention,
    draw_module,
)
from skfunc.nn._attention import Token, attention_mask


def build(module, seed=0):
    module = module.double()
    generator = torch.Generator().manual_seed(seed)
    draw_module(module, generator)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator).double())
    return module


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def by_formula(module, queries, keys, values, mask):
    """Softmax of scaled products, head by head, in a loop."""
    q, k, v = module.query(queries), module.key(keys), module.value(values)
    size = q.shape[-1] // module.n_heads
    heads = []
    for h in range(module.n_heads):
        part = slice(h * size, (h + 1) * size)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(size)
        scores = scores.masked_fill(~mask[:, None, :], -math.inf)
        heads.append(torch.softmax(scores, -1) @ v[..., part])
    return module.out(torch.cat(heads, -1))


def test_attention_equals_its_formula():
    module = build(MultiHeadAttention(12, 3))
    queries, keys, values = draw(2, 5, 12), draw(2, 7, 12, seed=1), draw(2, 7, 12)
    mask = torch.rand(2, 7, generator=torch.Generator().manual_seed(0)) < 0.6
    mask[:, 0] = True
    cached = module.keys_values(keys, values)
    actual = module(queries, cached, attention_mask(mask))
    close(actual, by_formula(module, queries, keys, values, mask))


def test_no_mask_equals_a_full_one():
    module = build(MultiHeadAttention(8, 2))
    queries, keys = draw(2, 5, 8), draw(2, 7, 8, seed=1)
    full = torch.ones(2, 7, dtype=torch.bool)
    assert attention_mask(full) is None
    cached = module.keys_values(keys)
    close(
        module(queries, cached, None), module(queries, cached, full[:, None, None, :])
    )


def test_block_is_two_residual_branches():
    block = build(AttentionBlock(8, 2, 16, "gelu"))
    x, context = draw(2, 5, 8), draw(2, 7, 8, seed=1)
    cached = block.keys_values(context)
    seen = x + block.attention(block.norm_attention(x), cached, None)
    hidden = torch.nn.functional.gelu(block.widen(block.norm_feedforward(seen)))
    close(block(x, cached, None), seen + block.narrow(hidden))


def test_inducing_tokens_ignore_the_order_and_the_padding():
    module = build(InducingAttention(8, 2, 16, "gelu"))
    inducing, tokens = draw(2, 3, 8), draw(2, 6, 8, seed=1)
    expected = module(inducing, tokens, None)
    assert expected.shape == (2, 3, 8)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    close(module(inducing, tokens[:, order], None), expected)
    padded = torch.cat([tokens, draw(2, 2, 8, seed=2)], dim=1)
    mask = torch.tensor([[True] * 6 + [False] * 2] * 2)
    close(module(inducing, padded, attention_mask(mask)), expected)


def test_token_stands_in_front():
    token = build(Token(4))
    tokens = draw(2, 3, 4)
    longer = token(tokens)
    assert longer.shape == (2, 4, 4)
    close(longer[:, 0], token.value.expand(2, 4))
    close(longer[:, 1:], tokens)
    assert Token.extend(torch.zeros(2, 3, dtype=torch.bool)).sum(1).tolist() == [1, 1]


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="n_heads must divide"):
        MultiHeadAttention(8, 3)
