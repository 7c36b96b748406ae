"""Gradient of a perceptron field and its trace, written out: half autograd's cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from skfunc._shapes import Float

# An activation with its slope, and the slope's own slope.
ThreeTensors = tuple[Tensor, Tensor, Tensor]


def _tanh(x: Tensor) -> ThreeTensors:
    # A sigmoid is several times quicker than torch.tanh on a CPU.
    value = torch.sigmoid(2.0 * x).mul_(2.0).sub_(1.0)
    slope = 1.0 - value * value
    return value, slope, value * slope * -2.0


def _silu(x: Tensor) -> ThreeTensors:
    gate = torch.sigmoid(x)
    value = x * gate
    rest = 1.0 - gate
    slope = torch.addcmul(gate, value, rest)
    # g (1 - g) (2 + x - 2 x g)
    bend = torch.add(x, value, alpha=-2.0).add_(2.0).mul_(rest).mul_(gate)
    return value, slope, bend


def _logistic(x: Tensor) -> ThreeTensors:
    value = torch.sigmoid(x)
    slope = value * (1.0 - value)
    return value, slope, slope * (1.0 - 2.0 * value)


def _gelu(x: Tensor) -> ThreeTensors:
    below = 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))
    density = torch.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    slope = torch.addcmul(below, x, density)
    return x * below, slope, density * (2.0 - x * x)


def _softplus(x: Tensor) -> ThreeTensors:
    slope = torch.sigmoid(x)
    return functional.softplus(x), slope, slope * (1.0 - slope)


VALUE_SLOPE_BEND: dict[str, Callable[[Tensor], ThreeTensors]] = {
    "gelu": _gelu,
    "logistic": _logistic,
    "silu": _silu,
    "softplus": _softplus,
    "tanh": _tanh,
}


class VelocityAndTrace(torch.autograd.Function):
    """``v = s(s(x W1 + c1) W2 + c2) W3 + c3`` beside ``sum_ij s1_i M_ij s2_j``.

    s1 and s2 are the slopes of the two activations. M is an argument, whose gradient
    autograd carries on to the weights. The state's last column, the integral of the
    trace, moves nothing. First derivatives alone.
    """

    @staticmethod
    def forward(
        ctx: Any,
        state: Float[Tensor, "members rows size_and_1"],
        first: Float[Tensor, "members size first"],
        second: Float[Tensor, "members first second"],
        last: Float[Tensor, "members second size"],
        coupling: Float[Tensor, "members first second"],
        first_shift: Float[Tensor, "members 1 first"],
        second_shift: Float[Tensor, "members 1 second"],
        last_shift: Float[Tensor, "members 1 size"],
        activation: str,
    ) -> Float[Tensor, "members rows size_and_1"]:
        """Evaluate both, side by side."""
        function = VALUE_SLOPE_BEND[activation]
        x = state[..., :-1]
        value, slope, bend = function(torch.baddbmm(first_shift, x, first))
        second_value, second_slope, second_bend = function(
            torch.baddbmm(second_shift, value, second)
        )
        coupled = slope @ coupling
        velocity = torch.baddbmm(last_shift, second_value, last)
        trace = (coupled * second_slope).sum(-1, keepdim=True)
        ctx.save_for_backward(
            *(x, first, second, last, coupling),
            *(value, slope, bend),
            *(second_value, second_slope, second_bend.mul_(coupled)),
        )
        return torch.cat([velocity, trace], dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all but the activation."""
        (gradient,) = gradients
        x, first, second, last, coupling, *kept = ctx.saved_tensors
        value, slope, bend, second_value, second_slope, second_bend = kept
        velocity, trace = gradient[..., :-1], gradient[..., -1:]
        weighed = second_slope * trace
        back = velocity @ last.transpose(1, 2)
        second_back = back.mul_(second_slope).addcmul_(second_bend, trace)
        back = second_back @ second.transpose(1, 2)
        slope_back = weighed @ coupling.transpose(1, 2)
        first_back = back.mul_(slope).addcmul_(slope_back, bend)
        state_back = None
        if ctx.needs_input_grad[0]:
            # The first step of a solve starts at the data.
            state_back = functional.pad(first_back @ first.transpose(1, 2), (0, 1))
        return (
            state_back,
            x.transpose(1, 2) @ first_back,
            value.transpose(1, 2) @ second_back,
            second_value.transpose(1, 2) @ velocity,
            slope.transpose(1, 2) @ weighed,
            first_back.sum(1, keepdim=True),
            second_back.sum(1, keepdim=True),
            velocity.sum(1, keepdim=True),
            None,
        )
