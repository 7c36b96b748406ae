"""One step of a stochastic differential equation, by each of the methods.

The state is a tuple of tensors. Its first part is driven by diagonal noise; the others
follow it without noise of their own, so that a large one (the features of a batch)
needs no copy into a flat vector and no noise of its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from skfunc._shapes import Float
from skfunc.solvers._runge_kutta import combine
from skfunc.solvers._tableaus import EULER, HEUN, MIDPOINT, Tableau

Parts = tuple[Tensor, ...]

# Takes time and state, returns the slope of each part.
Drift = Callable[[Tensor, Parts], Parts]

# The same for all times and states (additive noise), or a function of them.
Diffusion = float | Tensor | Callable[[Tensor, Parts], Tensor]


class SDEStep(NamedTuple):
    """A step from one time to another."""

    start: float
    end: float

    @property
    def h(self) -> float:
        """Length of the step."""
        return self.end - self.start


class Slopes(NamedTuple):
    """Drift of each part, and diffusion of the first."""

    drift: Parts
    diffusion: float | Tensor


class SDEField:
    """Drift and diffusion together; counts evaluations and checks the first answer.

    Parameters
    ----------
    f : callable
        The drift, without the pull towards ``mean``.
    g : float, Tensor or callable
        The diffusion of the first part.
    y0 : tuple of Tensor
        The state, for its shapes and types.
    rate : float
        Speed of the pull ``-rate (y - mean)`` on the first part.
    mean : float or Tensor
        Where the pull goes.
    """

    def __init__(
        self,
        f: Drift,
        g: Diffusion,
        y0: Parts,
        rate: float = 0.0,
        mean: float | Tensor = 0.0,
    ) -> None:
        self.f = f
        self.g = g
        self.rate = rate
        self.mean = mean
        self.nfe = 0
        self._has_mean = isinstance(mean, Tensor) or mean != 0.0
        self._dtype = y0[0].dtype
        self._device = y0[0].device

    @property
    def additive(self) -> bool:
        """Whether the diffusion is the same for all times and states."""
        return not callable(self.g)

    def __call__(self, t: float, y: Parts) -> Slopes:
        """Return the slopes, the pull included."""
        drift, diffusion = self.without_pull(t, y)
        if self.rate:
            away = y[0] - self.mean if self._has_mean else y[0]
            drift = (torch.sub(drift[0], away, alpha=self.rate), *drift[1:])
        return Slopes(drift, diffusion)

    def without_pull(self, t: float, y: Parts) -> Slopes:
        """Return the slopes with ``f`` as it is."""
        time = torch.full((), t, dtype=self._dtype, device=self._device)
        drift = self.f(time, y)
        diffusion = self.g(time, y) if callable(self.g) else self.g
        if self.nfe == 0:
            self._check(drift, diffusion, y)
        self.nfe += 1
        return Slopes(drift, diffusion)

    def _check(self, drift: object, diffusion: object, y: Parts) -> None:
        shapes = [tuple(part.shape) for part in y]
        if not isinstance(drift, tuple) or len(drift) != len(y):
            raise ValueError(
                f"f(t, y) must return one slope for each part of y, of shapes {shapes}."
            )
        for slope, part in zip(drift, y, strict=True):
            if not isinstance(slope, Tensor):
                raise ValueError(
                    "f(t, y) must return a tensor for each part of y, of shapes "
                    f"{shapes}; got {type(slope).__name__}."
                )
            if slope.shape != part.shape or slope.dtype != part.dtype:
                raise ValueError(
                    f"f(t, y) must return slopes of the shape and dtype of y, "
                    f"{tuple(part.shape)} {part.dtype}; got {tuple(slope.shape)} "
                    f"{slope.dtype}."
                )
        if isinstance(diffusion, Tensor):
            try:
                fits = torch.broadcast_shapes(diffusion.shape, shapes[0]) == shapes[0]
            except RuntimeError:
                fits = False
            if not fits:
                raise ValueError(
                    f"g must broadcast to the noise of shape {shapes[0]}, got shape "
                    f"{tuple(diffusion.shape)}."
                )


def noise_term(
    y: Float[Tensor, "*state"], diffusion: float | Tensor, noise: Tensor, c: float = 1.0
) -> Float[Tensor, "*state"]:
    """Return ``y + c diffusion noise``."""
    if isinstance(diffusion, Tensor):
        return torch.addcmul(y, diffusion, noise, value=c)
    return torch.add(y, noise, alpha=c * diffusion)


def moved(
    field: SDEField,
    y: Parts,
    h: float,
    noise: Tensor,
    weights: tuple[float, ...],
    slopes: list[Slopes],
) -> Parts:
    """Return ``y + sum_i w_i (h drift_i + diffusion_i noise)``."""
    parts = [
        combine(part, h, weights, [s.drift[i] for s in slopes])
        for i, part in enumerate(y)
    ]
    if field.additive:
        parts[0] = noise_term(parts[0], slopes[0].diffusion, noise, sum(weights))
    else:
        for weight, slope in zip(weights, slopes, strict=False):
            if weight:
                parts[0] = noise_term(parts[0], slope.diffusion, noise, weight)
    return tuple(parts)


class Method(Protocol):
    """A method: what it carries from step to step, and one step.

    What is carried begins with the state. The slopes at a step's start are passed where
    they are known, and returned where they are those of the next step.
    """

    def start(self, y: Parts) -> Parts:
        """Return what is carried into the first step."""
        ...

    def step(
        self,
        field: SDEField,
        step: SDEStep,
        carry: Parts,
        noise: Tensor,
        known: Slopes | None = None,
    ) -> tuple[Parts, Slopes | None]:
        """Take a step whose Brownian increment is ``noise``."""
        ...


class RungeKutta(NamedTuple):
    """A Runge-Kutta method with the same weights for drift and noise.

    Euler-Maruyama is an Ito method, midpoint and Heun are Stratonovich ones (Ruemelin
    1982, Numerical treatment of stochastic differential equations, SIAM Journal on
    Numerical Analysis 19(3)). All have strong order 1 for additive noise; for diagonal
    noise Euler has 1/2 and the others 1.
    """

    tableau: Tableau

    def start(self, y: Parts) -> Parts:
        """Carry the state alone."""
        return y

    def step(
        self,
        field: SDEField,
        step: SDEStep,
        carry: Parts,
        noise: Tensor,
        known: Slopes | None = None,
    ) -> tuple[Parts, Slopes | None]:
        """Take a step."""
        tableau, h = self.tableau, step.h
        slopes = [field(step.start, carry) if known is None else known]
        for c, weights in zip(tableau.c[1:], tableau.a[1:], strict=True):
            stage = moved(field, carry, h, noise, weights, slopes)
            slopes.append(field(step.start + c * h, stage))
        return moved(field, carry, h, noise, tableau.b, slopes), None


class ReversibleHeun:
    """Heun's method with a second copy of the state, which makes it reversible.

    Kidger, Foster, Li and Lyons 2021, Efficient and accurate gradients for neural SDEs,
    arXiv:2105.13493, algorithm 1: one evaluation a step, Stratonovich. The carry is the
    state y and its copy z, at which the slopes are evaluated.
    """

    def start(self, y: Parts) -> Parts:
        """Carry the state twice."""
        return (*y, *y)

    def step(
        self,
        field: SDEField,
        step: SDEStep,
        carry: Parts,
        noise: Tensor,
        known: Slopes | None = None,
    ) -> tuple[Parts, Slopes | None]:
        """Take a step."""
        return self._turn(field, step.start, step.end, carry, noise, known)

    def reverse(
        self,
        field: SDEField,
        step: SDEStep,
        carry: Parts,
        noise: Tensor,
        known: Slopes | None = None,
    ) -> tuple[Parts, Slopes | None]:
        """Return what was carried into a step, from what it carried out.

        The step is its own inverse when time and noise change their signs.
        """
        return self._turn(field, step.end, step.start, carry, -noise, known)

    def _turn(
        self,
        field: SDEField,
        start: float,
        end: float,
        carry: Parts,
        noise: Tensor,
        known: Slopes | None,
    ) -> tuple[Parts, Slopes]:
        n, h = len(carry) // 2, end - start
        y, z = carry[:n], carry[n:]
        first = field(start, z) if known is None else known
        mirrored = tuple(2 * a - b for a, b in zip(y, z, strict=True))
        z = moved(field, mirrored, h, noise, (1.0,), [first])
        last = field(end, z)
        y = moved(field, y, h, noise, (0.5, 0.5), [first, last])
        return (*y, *z), last


class OUWeights(NamedTuple):
    """Weights of one step of dw = [-rate (w - m) + s u] dt + s dB with u held.

    ``w <- m + decay (w - m) + control s u + noise s xi`` with xi standard normal is its
    exact transition.

    Parameters
    ----------
    decay : float
        Of the distance from the mean.
    control : float
        Of the drift besides the pull.
    noise : float
        Of the standard normal numbers.
    energy : float
        ``(control / noise) ** 2``: half of it times ``|u|^2`` is the divergence of the
        transition from the one with ``u = 0``.

    Examples
    --------
    >>> from skfunc.solvers import ou_weights
    >>> weights = ou_weights(rate=2.0, h=0.1)
    >>> round(weights.energy - (weights.control / weights.noise) ** 2, 12)
    0.0
    """

    decay: float
    control: float
    noise: float
    energy: float


def ou_weights(rate: float, h: float) -> OUWeights:
    r"""Return the weights of the exact Ornstein-Uhlenbeck transition.

    Parameters
    ----------
    rate : float
        Speed of the pull towards the mean, at least 0.
    h : float
        Length of the step, above 0.

    Returns
    -------
    OUWeights
        ``decay`` :math:`q = e^{-\theta h}`, ``control`` :math:`(1 - q) / \theta`,
        ``noise`` :math:`\sqrt{(1 - q^2) / (2 \theta)}` and ``energy``
        :math:`(2 / \theta) \tanh(\theta h / 2)`, with :math:`\theta` the rate; their
        limits at rate 0.

    Raises
    ------
    ValueError
        If the rate is negative or the step not positive.

    Examples
    --------
    >>> from skfunc.solvers import ou_weights
    >>> weights = ou_weights(rate=1.0, h=0.5)
    >>> round(weights.decay, 4), round(weights.noise ** 2, 4)
    (0.6065, 0.3161)
    """
    if not rate >= 0 or not h > 0:
        raise ValueError(
            f"rate must be at least 0 and h above 0, got rate={rate}, h={h}."
        )
    if rate * h == 0.0:
        return OUWeights(1.0, h, math.sqrt(h), h)
    decayed = -math.expm1(-rate * h)
    return OUWeights(
        decay=1.0 - decayed,
        control=decayed / rate,
        noise=math.sqrt(-math.expm1(-2 * rate * h) / (2 * rate)),
        energy=2 / rate * math.tanh(rate * h / 2),
    )


class OrnsteinUhlenbeck:
    """The exact transition of the first part, with ``f`` held over the step.

    The other parts follow by Heun's method, from the first part's values at both ends.
    """

    def start(self, y: Parts) -> Parts:
        """Carry the state alone."""
        return y

    def step(
        self,
        field: SDEField,
        step: SDEStep,
        carry: Parts,
        noise: Tensor,
        known: Slopes | None = None,
    ) -> tuple[Parts, Slopes | None]:
        """Take a step."""
        h = step.h
        weights = ou_weights(field.rate, h)
        w, rest = carry[0], carry[1:]
        drift, diffusion = field.without_pull(step.start, carry)
        new = torch.lerp(torch.as_tensor(field.mean).to(w), w, weights.decay)
        new = torch.add(new, drift[0], alpha=weights.control)
        # The noise has the variance h of a Brownian increment.
        new = noise_term(new, diffusion, noise, weights.noise / math.sqrt(h))
        if not rest:
            return (new,), None
        first = drift[1:]
        guess = (p.add(k, alpha=h) for p, k in zip(rest, first, strict=True))
        last = field.without_pull(step.end, (new, *guess)).drift[1:]
        ends = zip(rest, first, last, strict=True)
        return (new, *(combine(p, h, (0.5, 0.5), (a, b)) for p, a, b in ends)), None


SDE_METHODS: dict[str, Method] = {
    "euler": RungeKutta(EULER),
    "heun": RungeKutta(HEUN),
    "midpoint": RungeKutta(MIDPOINT),
    "reversible_heun": ReversibleHeun(),
    "ou": OrnsteinUhlenbeck(),
}
