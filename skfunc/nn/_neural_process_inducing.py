"""A transformer neural process whose context passes through a few inducing tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skfunc._shapes import Bool, Float
from skfunc.nn._attention import (
    AttentionBlock,
    InducingAttention,
    KeysValues,
    Token,
    attention_mask,
)
from skfunc.nn._neural_process_base import MLP, NeuralProcess, check_widths
from skfunc.nn._neural_process_transformer import PointEmbedding
from skfunc.nn._task_batch import blank


class InducingState(NamedTuple):
    """Keys and values of the inducing tokens in every layer; their number is fixed."""

    layers: tuple[KeysValues, ...]


class InducingTokens(nn.Module):
    """Learned tokens, the same for every task at the start."""

    def __init__(self, n_inducing: int, width: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.empty(n_inducing, width))

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Draw N(0, 1)."""
        with torch.no_grad():
            self.value.normal_(0.0, 1.0, generator=generator)

    def forward(self, n_tasks: int) -> Float[Tensor, "tasks inducing width"]:
        """Return them for every task."""
        return self.value.expand(n_tasks, -1, -1)


class InducingNeuralProcess(NeuralProcess):
    """Latent bottlenecked attentive neural process, cost O(n + m).

    In every layer L inducing tokens read the context and mix; targets attend to them
    alone. So a target costs O(L), whatever n is.

    Parameters
    ----------
    n_features : int
        Width of the inputs dx.
    n_targets : int
        Width of the outputs dy.
    n_raw : int
        Width of what the likelihood reads, `Likelihood.n_raw(n_targets)`.
    width : int, default=64
        Width of the tokens.
    n_layers : int, default=6
        Number of layers.
    n_inducing : int, default=32
        Number of inducing tokens L.
    n_heads : int, default=4
        Number of attention heads.
    feedforward_width : int, optional
        Hidden width of the blocks' perceptrons. Default: twice the width.
    n_hidden : int, default=2
        Hidden layers of the embedding.
    activation : str, default="gelu"
        Name in `ACTIVATIONS`.

    References
    ----------
    Feng, Hajimirsadeghi, Bengio and Ahmed 2022, Latent bottlenecked attentive neural
    processes (arXiv 2211.08458).

    Examples
    --------
    >>> import torch
    >>> from skfunc.nn import InducingNeuralProcess, TaskBatch, draw_module
    >>> network = InducingNeuralProcess(1, 1, 2, width=16, n_inducing=4)
    >>> draw_module(network, torch.Generator().manual_seed(0))
    >>> x, y = torch.rand(4, 10, 1), torch.rand(4, 10, 1)
    >>> batch = TaskBatch.without_padding(x[:, :3], y[:, :3], x[:, 3:], y[:, 3:])
    >>> network(batch).shape
    torch.Size([4, 7, 2])
    """

    def __init__(
        self,
        n_features: int,
        n_targets: int,
        n_raw: int,
        *,
        width: int = 64,
        n_layers: int = 6,
        n_inducing: int = 32,
        n_heads: int = 4,
        feedforward_width: int | None = None,
        n_hidden: int = 2,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        feedforward = feedforward_width or 2 * width
        check_widths(
            width=width, n_layers=n_layers, n_inducing=n_inducing, n_hidden=n_hidden
        )
        self.embedding = PointEmbedding(
            n_features, n_targets, width, n_hidden, activation
        )
        self.start = Token(width)
        self.inducing = InducingTokens(n_inducing, width)
        gain = (2 * n_layers) ** -0.5
        sizes = (width, n_heads, feedforward, activation, gain)
        self.readers = nn.ModuleList(InducingAttention(*sizes) for _ in range(n_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(n_layers))
        self.blocks = nn.ModuleList(AttentionBlock(*sizes) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)
        self.head = MLP(
            width, n_raw, width=feedforward, n_hidden=1, activation=activation
        )

    def encode(
        self,
        context_x: Float[Tensor, "tasks context features"],
        context_y: Float[Tensor, "tasks context targets"],
        context_mask: Bool[Tensor, "tasks context"],
    ) -> InducingState:
        """Let the inducing tokens read the context; keep their keys and values."""
        tokens = self.embedding.context(
            blank(context_x, context_mask), blank(context_y, context_mask)
        )
        tokens = self.start(tokens)
        seen = attention_mask(Token.extend(context_mask))
        inducing = self.inducing(len(tokens))
        layers = []
        block: Any
        for reader, norm, block in zip(
            self.readers, self.norms, self.blocks, strict=True
        ):
            inducing = reader(inducing, tokens, seen)
            layers.append(block.attention.keys_values(norm(inducing)))
        return InducingState(tuple(layers))

    def decode(
        self,
        state: InducingState,
        target_x: Float[Tensor, "tasks points features"],
        *,
        z: Float[Tensor, "samples tasks latent"] | None = None,
    ) -> Float[Tensor, "tasks points raw"]:
        """Return raw parameters of the likelihood."""
        self._refuse_latent(z)
        tokens = self.embedding.target(target_x)
        for block, cached in zip(self.blocks, state.layers, strict=True):
            tokens = block(tokens, cached, None)
        return self.head(self.norm(tokens))
