"""The conditional neural process: a mean of encoded pairs, and a decoder."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from skfunc._shapes import Bool, Float
from skfunc.nn._neural_process_base import MLP, NeuralProcess, check_widths, masked_mean
from skfunc.nn._task_batch import blank


class ConditionalState(NamedTuple):
    """One vector per task, the mean over its encoded context."""

    representation: Float[Tensor, "tasks width"]


class ConditionalNeuralProcess(NeuralProcess):
    """Deterministic neural process with the mean as aggregator, cost O(n + m).

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
    activation : str, default="relu"
        Name in `ACTIVATIONS`.

    References
    ----------
    Garnelo, Rosenbaum, Maddison, Ramalho, Saxton, Shanahan, Teh, Rezende and Eslami
    2018, Conditional neural processes (arXiv 1807.01613).

    Examples
    --------
    >>> import torch
    >>> from skfunc.nn import ConditionalNeuralProcess, TaskBatch, draw_module
    >>> network = ConditionalNeuralProcess(1, 1, 2, width=16)
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
        n_hidden: int = 3,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        check_widths(width=width, n_hidden=n_hidden)
        self.encoder = MLP(
            [n_features, n_targets],
            width,
            width=width,
            n_hidden=n_hidden,
            activation=activation,
        )
        self.decoder = MLP(
            [n_features, width],
            n_raw,
            width=width,
            n_hidden=n_hidden,
            activation=activation,
        )

    def encode(
        self,
        context_x: Float[Tensor, "tasks context features"],
        context_y: Float[Tensor, "tasks context targets"],
        context_mask: Bool[Tensor, "tasks context"],
    ) -> ConditionalState:
        """Return the mean of the encoded pairs."""
        encoded = self.encoder(
            blank(context_x, context_mask), blank(context_y, context_mask)
        )
        return ConditionalState(masked_mean(encoded, context_mask))

    def decode(
        self,
        state: ConditionalState,
        target_x: Float[Tensor, "tasks points features"],
        *,
        z: Float[Tensor, "samples tasks latent"] | None = None,
    ) -> Float[Tensor, "tasks points raw"]:
        """Return raw parameters of the likelihood."""
        self._refuse_latent(z)
        return self.decoder(target_x, state.representation.unsqueeze(-2))
