"""The neural process: a global Gaussian latent for what is uncertain."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from skfunc._shapes import Bool, Float
from skfunc.nn._neural_process_base import (
    MLP,
    DiagonalNormal,
    LatentHead,
    NeuralProcess,
    check_widths,
    masked_mean,
)
from skfunc.nn._task_batch import blank


class LatentState(NamedTuple):
    """Distribution of z given the context, and a vector where there is such a path."""

    latent: DiagonalNormal
    representation: Float[Tensor, "tasks width"] | None


class LatentNeuralProcess(NeuralProcess):
    """Neural process with latent path, mean aggregator and cost O(n + m).

    Parameters
    ----------
    n_features : int
        Width of the inputs dx.
    n_targets : int
        Width of the outputs dy.
    n_raw : int
        Width of what the likelihood reads, `Likelihood.n_raw(n_targets)`.
    width : int, default=128
        Width of hidden layers and of the representation.
    n_hidden : int, default=3
        Hidden layers of encoder and decoder each.
    latent_size : int, optional
        Width of z. Default: `width`.
    has_deterministic_path : bool, default=False
        Whether the decoder also reads a mean of encoded pairs of the context, by an
        encoder of its own.
    activation : str, default="relu"
        Name in `ACTIVATIONS`.

    References
    ----------
    Garnelo, Schwarz, Rosenbaum, Viola, Rezende, Eslami and Teh 2018, Neural processes
    (arXiv 1807.01622).

    Examples
    --------
    >>> import torch
    >>> from skfunc.nn import LatentNeuralProcess, TaskBatch, draw_module
    >>> network = LatentNeuralProcess(1, 1, 2, width=16)
    >>> draw_module(network, torch.Generator().manual_seed(0))
    >>> x, y = torch.rand(4, 3, 1), torch.rand(4, 3, 1)
    >>> state = network.encode(x, y, torch.ones(4, 3, dtype=torch.bool))
    >>> z = network.posterior(state).rsample(5)
    >>> network.decode(state, torch.rand(4, 7, 1), z=z).shape
    torch.Size([5, 4, 7, 2])
    """

    def __init__(
        self,
        n_features: int,
        n_targets: int,
        n_raw: int,
        *,
        width: int = 128,
        n_hidden: int = 3,
        latent_size: int | None = None,
        has_deterministic_path: bool = False,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        size = width if latent_size is None else latent_size
        check_widths(width=width, n_hidden=n_hidden, latent_size=size)

        def encoder() -> MLP:
            return MLP(
                [n_features, n_targets],
                width,
                width=width,
                n_hidden=n_hidden,
                activation=activation,
            )

        self.latent_encoder = encoder()
        self.latent_head = LatentHead(width, size, activation)
        self.encoder = encoder() if has_deterministic_path else None
        self.decoder = MLP(
            [n_features, size, *([width] if has_deterministic_path else [])],
            n_raw,
            width=width,
            n_hidden=n_hidden,
            activation=activation,
        )

    @property
    def is_latent(self) -> bool:
        """Whether a global latent z makes predictions at several targets coherent."""
        return True

    def infer(
        self,
        x: Float[Tensor, "tasks context features"],
        y: Float[Tensor, "tasks context targets"],
        mask: Bool[Tensor, "tasks context"],
    ) -> DiagonalNormal:
        """Return q(z | points)."""
        encoded = self.latent_encoder(blank(x, mask), blank(y, mask))
        return self.latent_head(masked_mean(encoded, mask))

    def encode(
        self,
        context_x: Float[Tensor, "tasks context features"],
        context_y: Float[Tensor, "tasks context targets"],
        context_mask: Bool[Tensor, "tasks context"],
    ) -> LatentState:
        """Return q(z | context) and the deterministic representation."""
        latent = self.infer(context_x, context_y, context_mask)
        if self.encoder is None:
            return LatentState(latent, None)
        encoded = self.encoder(
            blank(context_x, context_mask), blank(context_y, context_mask)
        )
        return LatentState(latent, masked_mean(encoded, context_mask))

    def posterior(self, state: LatentState) -> DiagonalNormal:
        """Return q(z | context)."""
        return state.latent

    def decode(
        self,
        state: LatentState,
        target_x: Float[Tensor, "tasks points features"],
        *,
        z: Float[Tensor, "samples tasks latent"] | None = None,
    ) -> Float[Tensor, "*samples tasks points raw"]:
        """Return raw parameters of the likelihood; without z, at the mean of z."""
        latent = state.latent.mean if z is None else z
        inputs = [target_x, latent.unsqueeze(-2)]
        if state.representation is not None:
            inputs.append(state.representation.unsqueeze(-2))
        return self.decoder(*inputs)
