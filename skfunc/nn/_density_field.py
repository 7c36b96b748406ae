"""Vector fields with the trace of their Jacobian, for continuous normalizing flows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from skfunc._shapes import Float
from skfunc.nn._density_gradient import VelocityAndTrace
from skfunc.nn._fields import TimeShift
from skfunc.nn._layers import Linear, activation_function, activation_gain

# A field's value, the trace of its Jacobian, and where it was asked for an estimate of
# the mean square of the Jacobian's columns.
FieldWithTrace = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def _tanh(x: Tensor) -> tuple[Tensor, Tensor]:
    value = torch.tanh(x)
    return value, 1.0 - value * value


def _silu(x: Tensor) -> tuple[Tensor, Tensor]:
    gate = torch.sigmoid(x)
    value = x * gate
    return value, torch.addcmul(gate, value, 1.0 - gate)


def _logistic(x: Tensor) -> tuple[Tensor, Tensor]:
    gate = torch.sigmoid(x)
    return gate, gate * (1.0 - gate)


def _gelu(x: Tensor) -> tuple[Tensor, Tensor]:
    below = 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))
    density = torch.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    return x * below, torch.addcmul(below, x, density)


def _softplus(x: Tensor) -> tuple[Tensor, Tensor]:
    return functional.softplus(x), torch.sigmoid(x)


# Activations whose slope is smooth, since the gradient of a trace has second
# derivatives in it; each with its value and slope at once.
SMOOTH_ACTIVATIONS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "gelu": _gelu,
    "logistic": _logistic,
    "silu": _silu,
    "softplus": _softplus,
    "tanh": _tanh,
}


class TraceField(nn.Module):
    """Perceptron of two hidden layers whose trace has a closed form.

    With ``v = s(s(x W1 + b1 + t c1) W2 + b2 + t c2) W3 + b3`` and the slopes s1 and s2
    of the two activations, ``tr dv/dx = sum_ij s1_i M_ij s2_j`` where
    ``M = W2 * (W3 W1)^T`` elementwise: exact, at a cost that does not grow with the
    size of x.

    Parameters
    ----------
    size : int
        Width of the state.
    hidden_layer_sizes : sequence of 2 ints
        Widths of the hidden layers.
    activation : str
        Name in `SMOOTH_ACTIVATIONS`.
    """

    def __init__(
        self, size: int, hidden_layer_sizes: Sequence[int], activation: str
    ) -> None:
        super().__init__()
        first, second = hidden_layer_sizes
        self.activation_name = activation
        self.activation = activation_function(activation)
        self.value_and_slope = SMOOTH_ACTIVATIONS[activation]
        gain = activation_gain(activation)
        self.first = Linear(size, first)
        self.second = Linear(first, second, gain=gain)
        self.times = nn.ModuleList([TimeShift(first), TimeShift(second)])
        # The flow starts at the identity.
        self.last = Linear(second, size, gain=0.0)

    def forward(
        self, t: Tensor, x: Float[Tensor, "*rows size"]
    ) -> Float[Tensor, "*rows size"]:
        """Evaluate dx/dt."""
        x = self.activation(self.times[0](t, self.first(x)))
        x = self.activation(self.times[1](t, self.second(x)))
        return self.last(x)

    def with_trace(self, jacobian_probe: Tensor | None = None) -> FieldWithTrace:
        """Return the field with its trace; what does not depend on x is formed once.

        With random signs e as `jacobian_probe`, the mean square of ``e^T dv/dx`` too.
        """
        outer = self.last.weight @ self.first.weight
        coupling = self.second.weight * outer.transpose(-1, -2)

        def evaluate(t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
            x, slope = self.value_and_slope(self.times[0](t, self.first(x)))
            x, second_slope = self.value_and_slope(self.times[1](t, self.second(x)))
            trace = ((slope @ coupling) * second_slope).sum(-1)
            if jacobian_probe is None:
                return self.last(x), trace
            back = jacobian_probe
            for layer, factor in ((self.last, second_slope), (self.second, slope)):
                back = (back @ layer.weight.transpose(-1, -2)) * factor
            back = back @ self.first.weight.transpose(-1, -2)
            return self.last(x), trace, (back * back).mean(-1)

        return evaluate

    @property
    def is_stacked(self) -> bool:
        """Whether the weights are those of several members."""
        return self.first.weight.dim() == 3

    def with_gradient(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the field of states beside their trace, its gradient written out.

        For a stack, states of shape (members, rows, size + 1) and times that are
        numbers.
        """
        weights = [layer.weight for layer in (self.first, self.second, self.last)]
        biases = [layer.bias.unsqueeze(1) for layer in (self.first, self.second)]
        outer = self.last.weight @ self.first.weight
        coupling = self.second.weight * outer.transpose(-1, -2)
        last_bias = self.last.bias.unsqueeze(1)
        last_time: Tensor | None = None
        shifts: list[Tensor] = []

        def evaluate(t: Tensor, state: Tensor) -> Tensor:
            nonlocal last_time, shifts
            if t is not last_time:
                # Two stages of rk4 in a row are at one time, which is one tensor.
                last_time = t
                shifts = [
                    shift(t, bias)
                    for shift, bias in zip(self.times, biases, strict=True)
                ]
            moved: Tensor = VelocityAndTrace.apply(
                *(state, *weights, coupling, *shifts, last_bias),
                self.activation_name,
            )
            return moved

        return evaluate


def field_with_trace(
    field: Callable[[Tensor, Tensor], Tensor],
    probe: Float[Tensor, "*rows size"] | None = None,
    jacobian_probe: Float[Tensor, "*rows size"] | None = None,
) -> FieldWithTrace:
    """Return any field of independent rows with the trace of its Jacobian.

    Parameters
    ----------
    field : callable
        Takes t and x, whose last axis is the state's; returns a tensor as x.
    probe : Tensor, optional
        Vector of random signs, one for all rows or one for each: the trace is then
        Hutchinson's estimate ``e^T (dv/dx) e``. Without one the trace is exact, by one
        product with the Jacobian per column of x.
    jacobian_probe : Tensor, optional
        Such a vector: the mean square of ``e^T (dv/dx)`` is returned too.
    """

    def evaluate(t: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        value, pullback = torch.func.vjp(lambda y: field(t, y), x)[:2]
        extra = []
        if jacobian_probe is not None:
            extra.append((pullback(jacobian_probe.expand_as(x))[0] ** 2).mean(-1))
        if probe is not None:
            signs = probe.expand_as(x)
            return value, (pullback(signs)[0] * signs).sum(-1), *extra
        size = x.shape[-1]
        basis = torch.eye(size, dtype=x.dtype, device=x.device)
        basis = basis.reshape(size, *(1,) * (x.dim() - 1), size)
        (rows,) = torch.func.vmap(pullback)(basis.expand(size, *x.shape))
        return value, (rows * basis).sum(dim=(0, -1)), *extra

    return evaluate


def random_signs(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw a Rademacher probe, in float64 on the generator's device."""
    signs = torch.randint(
        0, 2, tuple(shape), generator=generator, device=generator.device
    )
    return 2.0 * signs.double() - 1.0
