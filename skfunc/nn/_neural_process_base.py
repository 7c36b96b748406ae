"""What all networks of neural processes share: interface, perceptron, latent."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skfunc._shapes import Bool, Float
from skfunc.nn._layers import Linear, activation_function, activation_gain
from skfunc.nn._task_batch import TaskBatch, blank

# Bounds of the latent's standard deviation, as in the code of Kim et al. 2019 (arXiv
# 1901.05761): a floor keeps the divergence of posterior and prior finite.
_LATENT_STD = (0.1, 1.0)


class DiagonalNormal(NamedTuple):
    """Independent Gaussians, one row of them per task."""

    mean: Float[Tensor, "tasks latent"]
    std: Float[Tensor, "tasks latent"]

    def rsample(
        self, n_samples: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "samples tasks latent"]:
        """Draw samples, differentiable in mean and std."""
        noise = torch.randn(
            (n_samples, *self.mean.shape),
            generator=generator,
            device=self.mean.device,
            dtype=self.mean.dtype,
        )
        return self.mean + self.std * noise

    def log_prob(
        self, z: Float[Tensor, "samples tasks latent"]
    ) -> Float[Tensor, "samples tasks"]:
        """Return the log density of each row."""
        standard = (z - self.mean) / self.std
        terms = standard.square() + math.log(2.0 * math.pi)
        return (-0.5 * terms - torch.log(self.std)).sum(-1)

    def divergence(self, other: DiagonalNormal) -> Float[Tensor, " tasks"]:
        """Return the Kullback-Leibler divergence KL(self || other) of each task."""
        ratio = self.std / other.std
        shift = (self.mean - other.mean) / other.std
        terms = ratio.square() + shift.square() - 1.0 - 2.0 * torch.log(ratio)
        return 0.5 * terms.sum(-1)


class NeuralProcess(nn.Module, ABC):
    """Map from context points to a prediction at any input.

    `encode` reads the context once; `decode` predicts at targets, each alone: a
    prediction depends neither on the other targets nor on the order of the context.
    """

    @property
    def is_latent(self) -> bool:
        """Whether a global latent z makes predictions at several targets coherent."""
        return False

    @abstractmethod
    def encode(
        self,
        context_x: Float[Tensor, "tasks context features"],
        context_y: Float[Tensor, "tasks context targets"],
        context_mask: Bool[Tensor, "tasks context"],
    ) -> Any:
        """Return the state that `decode` needs: a named tuple of tensors."""

    @abstractmethod
    def decode(
        self,
        state: Any,
        target_x: Float[Tensor, "tasks points features"],
        *,
        z: Float[Tensor, "samples tasks latent"] | None = None,
    ) -> Tensor:
        """Return raw parameters of the likelihood, ([S,] B, m, n_raw)."""

    def forward(
        self,
        batch: TaskBatch,
        *,
        z: Float[Tensor, "samples tasks latent"] | None = None,
    ) -> Tensor:
        """Predict the batch's targets from its context, padding taken for zeros."""
        state = self.encode(batch.context_x, batch.context_y, batch.context_mask)
        return self.decode(state, blank(batch.target_x, batch.target_mask), z=z)

    def infer(
        self,
        x: Float[Tensor, "tasks context features"],
        y: Float[Tensor, "tasks context targets"],
        mask: Bool[Tensor, "tasks context"],
    ) -> DiagonalNormal:
        """Return q(z | points), without the work for other parts of the state.

        Raises
        ------
        TypeError
            If the network has no latent.
        """
        raise TypeError(f"{type(self).__name__} has no latent variable")

    def posterior(self, state: Any) -> DiagonalNormal:
        """Return q(z | context).

        Raises
        ------
        TypeError
            If the network has no latent.
        """
        raise TypeError(f"{type(self).__name__} has no latent variable")

    def _refuse_latent(self, z: Tensor | None) -> None:
        if z is not None:
            raise TypeError(
                f"{type(self).__name__} has no latent variable to take as z"
            )


class MLP(nn.Module):
    """Multilayer perceptron of several inputs that broadcast against each other.

    It computes what a perceptron of their concatenation does, without building it: an
    input that is constant over points is multiplied once.

    Parameters
    ----------
    n_inputs : int or sequence of int
        Width of each input.
    n_outputs : int
        Width of the output.
    width : int
        Width of the hidden layers.
    n_hidden : int
        Number of hidden layers.
    activation : str
        Name in `ACTIVATIONS`.
    """

    def __init__(
        self,
        n_inputs: int | Sequence[int],
        n_outputs: int,
        *,
        width: int,
        n_hidden: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.sizes = [n_inputs] if isinstance(n_inputs, int) else list(n_inputs)
        self.activation = activation_function(activation)
        gain = activation_gain(activation)
        widths = [sum(self.sizes), *[width] * n_hidden, n_outputs]
        self.layers = nn.ModuleList(
            Linear(a, b, gain=1.0 if i == 0 else gain)
            for i, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True))
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the output, shaped as the inputs broadcast."""
        first: Any = self.layers[0]
        parts = first.weight.split(self.sizes, dim=0)
        products = [x @ part for x, part in zip(inputs, parts, strict=True)]
        y = sum(products[1:], products[0]) + first.bias
        for layer in self.layers[1:]:
            y = layer(self.activation(y))
        return y


class LatentHead(nn.Module):
    """Mean and standard deviation of the latent from one vector per task."""

    def __init__(self, width: int, latent_size: int, activation: str) -> None:
        super().__init__()
        self.mlp = MLP(
            width, 2 * latent_size, width=width, n_hidden=1, activation=activation
        )

    def forward(self, representation: Float[Tensor, "tasks width"]) -> DiagonalNormal:
        """Return the distribution."""
        mean, raw = self.mlp(representation).chunk(2, dim=-1)
        low, high = _LATENT_STD
        return DiagonalNormal(mean, low + (high - low) * torch.sigmoid(raw))


def masked_mean(
    values: Float[Tensor, "tasks points width"], mask: Bool[Tensor, "tasks points"]
) -> Float[Tensor, "tasks width"]:
    """Return the mean over the points that are there, zero where there is none."""
    weights = mask.to(values.dtype).unsqueeze(1)
    return ((weights @ values) / weights.sum(-1, keepdim=True).clamp(min=1.0)).squeeze(
        1
    )


def check_widths(**sizes: int) -> None:
    """Check that sizes are positive integers.

    Raises
    ------
    ValueError
        If one is not.
    """
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a positive integer; got {size!r}")
