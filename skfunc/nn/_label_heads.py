"""What reads the classes of series: an ensemble of small networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from skfunc._shapes import Float
from skfunc.nn._layers import activation_function, activation_gain


class HeadLinear(nn.Module):
    """Affine maps of several heads, weights ``(..., heads, inputs, outputs)``.

    Inputs are divided by the root of their number, not the first weights: so a step of
    Adam moves the outputs equally much, however many inputs there are.
    """

    def __init__(
        self,
        n_heads: int,
        n_inputs: int,
        n_outputs: int,
        gain: float,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.gain = gain
        self.scale = 1.0 / math.sqrt(max(n_inputs, 1)) if scale is None else scale
        self.weight = nn.Parameter(torch.empty(n_heads, n_inputs, n_outputs))
        self.bias = nn.Parameter(torch.empty(n_heads, 1, n_outputs))

    def draw_parameters(self, generator: torch.Generator) -> None:
        """Draw weights N(0, gain^2) and set biases to zero."""
        with torch.no_grad():
            self.weight.normal_(0.0, 1.0, generator=generator).mul_(self.gain)
            self.bias.zero_()

    def forward(
        self, x: Float[Tensor, "*members #heads rows inputs"]
    ) -> Float[Tensor, "*members heads rows outputs"]:
        """Map the last axis of x."""
        return (x * self.scale) @ self.weight + self.bias


class LabelHeads(nn.Module):
    """Perceptrons, or affine maps, that read classes side by side.

    They differ in how they start and in what dropout leaves them, and agree on what
    the data say: their mean is less noisy than any of them. The latent state is also
    read by an affine map past the hidden layers, which learns at once what is plain.

    Parameters
    ----------
    n_states : int
        Width of the latent state.
    n_summaries : int
        Numbers that are read besides.
    n_classes : int
        Classes.
    hidden_layer_sizes : sequence of int
        Hidden widths; none makes the heads affine.
    n_heads : int
        Heads.
    activation : str
        Name in `ACTIVATIONS`.
    """

    def __init__(
        self,
        n_states: int,
        n_summaries: int,
        n_classes: int,
        hidden_layer_sizes: Sequence[int],
        n_heads: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.activation = activation_function(activation)
        gain = activation_gain(activation)
        widths = [*hidden_layer_sizes, n_classes]
        # A head starts by saying nothing.
        gains = [1.0, *[gain] * (len(widths) - 1)]
        gains[-1] = 0.0
        self.states = HeadLinear(n_heads, n_states, widths[0], gains[0])
        self.summaries = HeadLinear(n_heads, n_summaries, widths[0], gains[0])
        # What is plain to see in the state is learned at once, past the hidden layers.
        self.direct: HeadLinear | None = None
        if hidden_layer_sizes:
            self.direct = HeadLinear(n_heads, n_states, n_classes, 0.0, scale=1.0)
        self.layers = nn.ModuleList(
            HeadLinear(n_heads, before, after, gain)
            for before, after, gain in zip(
                widths[:-1], widths[1:], gains[1:], strict=True
            )
        )

    def forward(
        self,
        states: Float[Tensor, "members draws rows states"],
        summaries: Float[Tensor, "members rows summaries"],
        dropout: Callable[[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "members heads_draws rows classes"]:
        """Return logits of every head for every draw, those of a head together.

        `dropout` is applied to summaries and to hidden units, of each head apart.
        """
        draws, rows = states.shape[1:3]

        def dropped(x: Tensor) -> Tensor:
            return x if dropout is None else dropout(x)

        told = summaries.unsqueeze(1).expand(-1, self.n_heads, -1, -1)
        told = self.summaries(dropped(told)).unsqueeze(2)
        flat = states.flatten(1, 2).unsqueeze(1)
        x = self.states(flat).unflatten(2, (draws, rows))
        x = (x + told).flatten(2, 3)
        for layer in self.layers:
            x = layer(dropped(self.activation(x)))
        if self.direct is not None:
            x = x + self.direct(flat)
        return x.unflatten(2, (draws, rows)).flatten(1, 2)
