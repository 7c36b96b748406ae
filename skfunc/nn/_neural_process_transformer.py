"""The diagonal transformer neural process."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skfunc._shapes import Bool, Float
from skfunc.nn._attention import AttentionBlock, KeysValues, Token, attention_mask
from skfunc.nn._neural_process_base import MLP, NeuralProcess, check_widths
from skfunc.nn._task_batch import TaskBatch, blank


class TransformerState(NamedTuple):
    """Keys and values of the context in every layer, and which are there."""

    layers: tuple[KeysValues, ...]
    mask: Bool[Tensor, "tasks points"]


class PointEmbedding(nn.Module):
    """Tokens of context points (x, y) and of targets (x, nothing).

    One perceptron serves both; a target has zeros for y and a flag of one.
    """

    def __init__(
        self,
        n_features: int,
        n_targets: int,
        width: int,
        n_hidden: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.n_targets = n_targets
        self.mlp = MLP(
            [n_features, n_targets + 1],
            width,
            width=width,
            n_hidden=n_hidden,
            activation=activation,
        )

    def context(
        self,
        x: Float[Tensor, "tasks context features"],
        y: Float[Tensor, "tasks context targets"],
    ) -> Float[Tensor, "tasks context width"]:
        """Return tokens of context points."""
        return self.mlp(x, torch.cat([y, y.new_zeros(*y.shape[:-1], 1)], dim=-1))

    def target(
        self, x: Float[Tensor, "tasks points features"]
    ) -> Float[Tensor, "tasks points width"]:
        """Return tokens of targets."""
        unknown = x.new_zeros(1, 1, self.n_targets + 1)
        unknown[..., -1] = 1.0
        return self.mlp(x, unknown)


class TransformerNeuralProcess(NeuralProcess):
    """Transformer in which targets attend to the context alone, layer by layer.

    The context attends to itself, cost O(n^2) at encoding, and leaves its keys and
    values of every layer; a target then costs O(n).

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
        Number of transformer blocks.
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
    Nguyen and Grover 2022, Transformer neural processes: uncertainty-aware meta
    learning via sequence modeling (arXiv 2207.04179), variant TNP-D.

    Examples
    --------
    >>> import torch
    >>> from skfunc.nn import TaskBatch, TransformerNeuralProcess, draw_module
    >>> network = TransformerNeuralProcess(1, 1, 2, width=16)
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
        n_heads: int = 4,
        feedforward_width: int | None = None,
        n_hidden: int = 2,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        feedforward = feedforward_width or 2 * width
        check_widths(width=width, n_layers=n_layers, n_hidden=n_hidden)
        self.embedding = PointEmbedding(
            n_features, n_targets, width, n_hidden, activation
        )
        self.start = Token(width)
        gain = (2 * n_layers) ** -0.5
        self.blocks = nn.ModuleList(
            AttentionBlock(width, n_heads, feedforward, activation, gain)
            for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = MLP(
            width, n_raw, width=feedforward, n_hidden=1, activation=activation
        )

    def encode(
        self,
        context_x: Float[Tensor, "tasks context features"],
        context_y: Float[Tensor, "tasks context targets"],
        context_mask: Bool[Tensor, "tasks context"],
    ) -> TransformerState:
        """Carry the context through the blocks; keep keys and values."""
        tokens = self.embedding.context(
            blank(context_x, context_mask), blank(context_y, context_mask)
        )
        tokens = self.start(tokens)
        mask = Token.extend(context_mask)
        seen = attention_mask(mask)
        layers = []
        block: Any
        for i, block in enumerate(self.blocks):
            cached = block.keys_values(tokens)
            layers.append(cached)
            # Nothing reads the context after the last block's keys and values.
            if i + 1 < len(self.blocks):
                tokens = block(tokens, cached, seen)
        return TransformerState(tuple(layers), mask)

    def forward(
        self,
        batch: TaskBatch,
        *,
        z: Float[Tensor, "samples tasks latent"] | None = None,
    ) -> Float[Tensor, "tasks points raw"]:
        """Predict the batch's targets from its context, as `encode` and `decode` do.

        Context and targets ask the same keys, so that both go through the blocks as one
        set of queries: half of the operations' number, which is what a small batch
        costs.
        """
        self._refuse_latent(z)
        context = self.embedding.context(
            blank(batch.context_x, batch.context_mask),
            blank(batch.context_y, batch.context_mask),
        )
        targets = self.embedding.target(blank(batch.target_x, batch.target_mask))
        seen = attention_mask(Token.extend(batch.context_mask))
        n_keys = context.shape[1] + 1
        tokens = torch.cat([self.start(context), targets], dim=1)
        block: Any
        for i, block in enumerate(self.blocks):
            cached = block.keys_values(tokens[:, :n_keys])
            if i + 1 == len(self.blocks):
                tokens = tokens[:, n_keys:]
            tokens = block(tokens, cached, seen)
        return self.head(self.norm(tokens))

    def decode(
        self,
        state: TransformerState,
        target_x: Float[Tensor, "tasks points features"],
        *,
        z: Float[Tensor, "samples tasks latent"] | None = None,
    ) -> Float[Tensor, "tasks points raw"]:
        """Return raw parameters of the likelihood."""
        self._refuse_latent(z)
        seen = attention_mask(state.mask)
        tokens = self.embedding.target(target_x)
        for block, cached in zip(self.blocks, state.layers, strict=True):
            tokens = block(tokens, cached, seen)
        return self.head(self.norm(tokens))
