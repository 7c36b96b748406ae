"""The attentive neural process: every target asks the context points near it."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from skfunc._shapes import Bool, Float
from skfunc.nn._attention import (
    AttentionBlock,
    KeysValues,
    MultiHeadAttention,
    Token,
    attention_mask,
)
from skfunc.nn._neural_process_base import (
    MLP,
    DiagonalNormal,
    LatentHead,
    NeuralProcess,
    check_widths,
    masked_mean,
)
from skfunc.nn._task_batch import blank


class AttentiveState(NamedTuple):
    """Keys and values of the context, and q(z | context) where there is a latent."""

    cached: KeysValues
    mask: Bool[Tensor, "tasks points"]
    latent: DiagonalNormal | None


class PairEncoder(nn.Module):
    """Tokens of context pairs behind a learned token, after optional self-attention."""

    def __init__(
        self,
        n_features: int,
        n_targets: int,
        *,
        width: int,
        n_hidden: int,
        n_self_attention: int,
        n_heads: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.mlp = MLP(
            [n_features, n_targets],
            width,
            width=width,
            n_hidden=n_hidden,
            activation=activation,
        )
        self.start = Token(width)
        gain = (2 * max(n_self_attention, 1)) ** -0.5
        self.blocks = nn.ModuleList(
            AttentionBlock(width, n_heads, 2 * width, activation, gain)
            for _ in range(n_self_attention)
        )

    def forward(
        self,
        x: Float[Tensor, "tasks context features"],
        y: Float[Tensor, "tasks context targets"],
        mask: Bool[Tensor, "tasks context"],
    ) -> tuple[Float[Tensor, "tasks more width"], Bool[Tensor, "tasks more"]]:
        """Return the tokens and which are there."""
        tokens = self.start(self.mlp(blank(x, mask), blank(y, mask)))
        mask = Token.extend(mask)
        seen = attention_mask(mask)
        block: Any
        for block in self.blocks:
            tokens = block(tokens, block.keys_values(tokens), seen)
        return tokens, mask


class AttentiveNeuralProcess(NeuralProcess):
    """Neural process with multi-head cross-attention from targets to the context.

    A learned key and value stand beside those of the context, so that a target far
    from all of it, or without any, has something to attend to.

    Parameters
    ----------
    n_features : int
        Width of the inputs dx.
    n_targets : int
        Width of the outputs dy.
    n_raw : int
        Width of what the likelihood reads, `Likelihood.n_raw(n_targets)`.
    width : int, default=128
        Width of hidden layers and tokens.
    n_hidden : int, default=2
        Hidden layers of encoders, of the map of inputs to keys, and of the decoder.
    n_heads : int, default=8
        Number of attention heads.
    n_self_attention : int, default=0
        Number of self-attention blocks among the context, cost O(n^2) each.
    has_latent_path : bool, default=True
        Whether there is a global latent beside the attention.
    latent_size : int, optional
        Width of z. Default: `width`.
    activation : str, default="relu"
        Name in `ACTIVATIONS`.

    References
    ----------
    Kim, Mnih, Schwarz, Garnelo, Eslami, Rosenbaum, Vinyals and Teh 2019, Attentive
    neural processes (arXiv 1901.05761).

    Examples
    --------
    >>> import torch
    >>> from skfunc.nn import AttentiveNeuralProcess, TaskBatch, draw_module
    >>> network = AttentiveNeuralProcess(1, 1, 2, width=16)
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
        width: int = 128,
        n_hidden: int = 2,
        n_heads: int = 8,
        n_self_attention: int = 0,
        has_latent_path: bool = True,
        latent_size: int | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        size = width if latent_size is None else latent_size
        check_widths(width=width, n_hidden=n_hidden, latent_size=size)

        def encoder() -> PairEncoder:
            return PairEncoder(
                n_features,
                n_targets,
                width=width,
                n_hidden=n_hidden,
                n_self_attention=n_self_attention,
                n_heads=n_heads,
                activation=activation,
            )

        self.encoder = encoder()
        self.inputs = MLP(
            n_features, width, width=width, n_hidden=n_hidden, activation=activation
        )
        self.start_key = Token(width)
        self.attention = MultiHeadAttention(width, n_heads)
        self.latent_encoder = encoder() if has_latent_path else None
        self.latent_head = (
            LatentHead(width, size, activation) if has_latent_path else None
        )
        self.decoder = MLP(
            [n_features, width, *([size] if has_latent_path else [])],
            n_raw,
            width=width,
            n_hidden=n_hidden,
            activation=activation,
        )

    @property
    def is_latent(self) -> bool:
        """Whether a global latent z makes predictions at several targets coherent."""
        return self.latent_encoder is not None

    def infer(
        self,
        x: Float[Tensor, "tasks context features"],
        y: Float[Tensor, "tasks context targets"],
        mask: Bool[Tensor, "tasks context"],
    ) -> DiagonalNormal:
        """Return q(z | points).

        Raises
        ------
        TypeError
            If the network has no latent.
        """
        if self.latent_encoder is None or self.latent_head is None:
            return super().infer(x, y, mask)
        tokens, there = self.latent_encoder(x, y, mask)
        return self.latent_head(masked_mean(tokens, there))

    def encode(
        self,
        context_x: Float[Tensor, "tasks context features"],
        context_y: Float[Tensor, "tasks context targets"],
        context_mask: Bool[Tensor, "tasks context"],
    ) -> AttentiveState:
        """Return keys and values of the context, and q(z | context)."""
        values, mask = self.encoder(context_x, context_y, context_mask)
        keys = self.start_key(self.inputs(blank(context_x, context_mask)))
        cached = self.attention.keys_values(keys, values)
        latent = (
            self.infer(context_x, context_y, context_mask) if self.is_latent else None
        )
        return AttentiveState(cached, mask, latent)

    def posterior(self, state: AttentiveState) -> DiagonalNormal:
        """Return q(z | context).

        Raises
        ------
        TypeError
            If the network has no latent.
        """
        return super().posterior(state) if state.latent is None else state.latent

    def decode(
        self,
        state: AttentiveState,
        target_x: Float[Tensor, "tasks points features"],
        *,
        z: Float[Tensor, "samples tasks latent"] | None = None,
    ) -> Float[Tensor, "*samples tasks points raw"]:
        """Return raw parameters of the likelihood; without z, at the mean of z."""
        seen = attention_mask(state.mask)
        inputs = [
            target_x,
            self.attention(self.inputs(target_x), state.cached, seen),
        ]
        if state.latent is None:
            self._refuse_latent(z)
        else:
            latent = state.latent.mean if z is None else z
            inputs.append(latent.unsqueeze(-2))
        return self.decoder(*inputs)
