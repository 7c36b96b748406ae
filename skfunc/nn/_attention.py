"""Attention whose keys and values are computed once and asked many times.

Vaswani et al. 2017, Attention is all you need (arXiv 1706.03762), with normalization
before each part as in Xiong et al. 2020 (arXiv 2002.04745).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from skfunc._shapes import Bool, Float
from skfunc.nn._layers import Linear, activation_function, activation_gain


class KeysValues(NamedTuple):
    """What is asked, split into heads."""

    keys: Float[Tensor, "tasks heads points head_width"]
    values: Float[Tensor, "tasks heads points head_width"]


def attention_mask(
    mask: Bool[Tensor, "tasks points"],
) -> Bool[Tensor, "tasks 1 1 points"] | None:
    """Return the mask as attention takes it, None where all points are there.

    A look at the values would make the host wait for a GPU; there the mask stays.
    """
    if mask.device.type == "cpu" and bool(mask.all()):
        return None
    return mask[:, None, None, :]


class Token(nn.Module):
    """A learned token put before the others.

    It gives attention something to see where there is no context.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.empty(width))

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Draw N(0, 1)."""
        with torch.no_grad():
            self.value.normal_(0.0, 1.0, generator=generator)

    def forward(
        self, tokens: Float[Tensor, "tasks points width"]
    ) -> Float[Tensor, "tasks more width"]:
        """Return the tokens with this one in front."""
        own = self.value.expand(tokens.shape[0], 1, -1)
        return torch.cat([own, tokens], dim=1)

    @staticmethod
    def extend(mask: Bool[Tensor, "tasks points"]) -> Bool[Tensor, "tasks more"]:
        """Return the mask with a place for this token in front."""
        return functional.pad(mask, (1, 0), value=True)


class KeyMap(nn.Module):
    """Linear map without offset: one offset for all keys cancels in the softmax."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, width))

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Draw N(0, 1 / width)."""
        with torch.no_grad():
            self.weight.normal_(0.0, 1.0, generator=generator)
            self.weight.div_(self.weight.shape[0] ** 0.5)

    def forward(
        self, x: Float[Tensor, "*points width"]
    ) -> Float[Tensor, "*points width"]:
        """Map the last axis of x."""
        return x @ self.weight


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention in several heads.

    Parameters
    ----------
    width : int
        Width of tokens in and out.
    n_heads : int
        Number of heads; it divides the width.
    gain : float, default=1.0
        Gain of the output's initial weights.

    Raises
    ------
    ValueError
        If the heads do not divide the width.
    """

    def __init__(self, width: int, n_heads: int, gain: float = 1.0) -> None:
        super().__init__()
        if n_heads < 1 or width % n_heads:
            raise ValueError(
                f"n_heads must divide width={width}; got n_heads={n_heads!r}"
            )
        self.n_heads = n_heads
        self.query = Linear(width, width)
        self.key = KeyMap(width)
        self.value = Linear(width, width)
        self.out = Linear(width, width, gain=gain)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def keys_values(
        self,
        key_tokens: Float[Tensor, "tasks points width"],
        value_tokens: Float[Tensor, "tasks points width"] | None = None,
    ) -> KeysValues:
        """Return keys and values; values come from the key tokens if none are given."""
        source = key_tokens if value_tokens is None else value_tokens
        return KeysValues(
            self._split(self.key(key_tokens)), self._split(self.value(source))
        )

    def forward(
        self,
        queries: Float[Tensor, "tasks asked width"],
        cached: KeysValues,
        mask: Bool[Tensor, "tasks 1 1 points"] | None,
    ) -> Float[Tensor, "tasks asked width"]:
        """Let every query attend to the cached points whose mask is True."""
        mixed = functional.scaled_dot_product_attention(
            self._split(self.query(queries)), cached.keys, cached.values, attn_mask=mask
        )
        return self.out(mixed.transpose(1, 2).flatten(2))


class AttentionBlock(nn.Module):
    """Transformer block: attention and a perceptron, each added to its input.

    Parameters
    ----------
    width : int
        Width of the tokens.
    n_heads : int
        Number of heads.
    feedforward_width : int
        Hidden width of the perceptron.
    activation : str
        Activation of the perceptron.
    gain : float, default=1.0
        Gain of the initial weights of both branches' last layers; 1 / sqrt(2 blocks)
        keeps the sum's scale whatever the depth (Radford et al. 2019, GPT-2).
    """

    def __init__(
        self,
        width: int,
        n_heads: int,
        feedforward_width: int,
        activation: str,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, n_heads, gain)
        self.norm_feedforward = nn.LayerNorm(width)
        self.activation = activation_function(activation)
        self.widen = Linear(width, feedforward_width)
        self.narrow = Linear(
            feedforward_width, width, gain=gain * activation_gain(activation)
        )

    def keys_values(self, tokens: Float[Tensor, "tasks points width"]) -> KeysValues:
        """Return what other tokens will ask in this block."""
        return self.attention.keys_values(self.norm_attention(tokens))

    def forward(
        self,
        queries: Float[Tensor, "tasks asked width"],
        cached: KeysValues,
        mask: Bool[Tensor, "tasks 1 1 points"] | None,
    ) -> Float[Tensor, "tasks asked width"]:
        """Return the queries after they have seen the cached points."""
        seen = self.attention(self.norm_attention(queries), cached, mask)
        x = queries + seen
        hidden = self.activation(self.widen(self.norm_feedforward(x)))
        return x + self.narrow(hidden)


class InducingAttention(nn.Module):
    """A fixed number of tokens reads a set of any size, then mixes: cost linear in n.

    Lee et al. 2019, Set transformer (arXiv 1810.00825), the first half of its induced
    set attention; as in Feng et al. 2022, Latent bottlenecked attentive neural
    processes (arXiv 2211.08458), followed by self-attention among the few.
    """

    def __init__(
        self,
        width: int,
        n_heads: int,
        feedforward_width: int,
        activation: str,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        sizes = (width, n_heads, feedforward_width, activation, gain)
        self.norm_set = nn.LayerNorm(width)
        self.read = AttentionBlock(*sizes)
        self.mix = AttentionBlock(*sizes)

    def forward(
        self,
        inducing: Float[Tensor, "tasks inducing width"],
        tokens: Float[Tensor, "tasks points width"],
        mask: Bool[Tensor, "tasks 1 1 points"] | None,
    ) -> Float[Tensor, "tasks inducing width"]:
        """Return the inducing tokens after they have read the set."""
        # The set has a norm of its own: its tokens are not of the inducing ones' kind.
        cached = self.read.attention.keys_values(self.norm_set(tokens))
        inducing = self.read(inducing, cached, mask)
        return self.mix(inducing, self.mix.keys_values(inducing), None)
