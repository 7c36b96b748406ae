"""Layers that act on each unit by itself, and the normalization of layers.

Each knows the covariance of its outputs, and of its derivatives, as a function of the
covariance k of two units and of their variances v1 and v2; and both again in closed
form for a unit with itself, where the general form would cancel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from skfunc.infinite_width._kernel_block import KernelBlock, Pairs, Scratch
from skfunc.infinite_width._layers_base import Layer

# The slope at which an error function, (1 + erf(b x)) / 2, is nearest to the
# logistic function: b = 1 / 2.4020563531719796 (Novak et al. 2022, arXiv 2206.08720).
_SIGMOID_WIDTH = 2.4020563531719796

# Roundings, in units of eps, by which v1 v2 - k^2 may miss zero for equal rows.
_ROUNDINGS = 16.0


class Elementwise(Layer):
    """A layer whose kernel is a function of k, v1 and v2 at each pair of units."""

    def _dual(
        self, k: Tensor, v1: Tensor, v2: Tensor, tangent: bool, scratch: Scratch
    ) -> tuple[Tensor, Tensor | None]:
        """Return the covariances of outputs and, if tangent, of derivatives.

        The first may be written over k, the second to scratch memory.
        """
        raise NotImplementedError

    def _dual_diagonal(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the variances of outputs and of derivatives."""
        raise NotImplementedError

    def _function(self, x: Tensor) -> Tensor:
        """Return the layer's outputs; axis 1 is that of units or channels."""
        raise NotImplementedError

    def _propagate(self, block: KernelBlock, pairs: Pairs) -> KernelBlock:
        first, second = block.unit_variances()
        if block.recorded is not None and block.pairs is not Pairs.ALL:
            nngp, slope = self._dual_diagonal(block.nngp)
            ntk = None if block.ntk is None else block.ntk * slope
            return replace(block, nngp=nngp, ntk=ntk)
        tangent = block.ntk is not None
        nngp, derivative = self._dual(
            block.nngp, *block.broadcast(first, second), tangent, block.scratch
        )
        if block.coincident:
            variance, slope = self._dual_diagonal(first)
            if not block.in_place:
                nngp = nngp.clone()
                derivative = None if derivative is None else derivative.clone()
            block.unit_diagonal(nngp).copy_(variance)
            if derivative is not None:
                block.unit_diagonal(derivative).copy_(slope)
        ntk = block.ntk
        if ntk is not None and derivative is not None:
            ntk = ntk.mul_(derivative) if block.in_place else ntk * derivative
        return replace(block, nngp=nngp, ntk=ntk)


class _PiecewiseLinear(Elementwise):
    """a x below zero and b x above: the arc-cosine kernels of Cho and Saul (2009)."""

    def _slopes(self) -> tuple[float, float]:
        raise NotImplementedError

    def _dual(self, k, v1, v2, tangent, scratch):
        a, b = self._slopes()
        curvature = (a - b) ** 2 / (2.0 * math.pi)
        # Equal rows of two sets differ by rounding, of which the root would make half
        # the digits: the roundings are taken off. A floor above zero keeps gradients
        # finite there.
        info = torch.finfo(k.dtype)
        less = v1 * (1.0 - _ROUNDINGS * info.eps)
        root = torch.mul(less, v2, out=scratch.like("root", k))
        root.addcmul_(k, k, value=-1.0).clamp_(min=info.tiny).sqrt_()
        derivative = torch.atan2(root, k, out=scratch.like("derivative", k))
        gain = torch.tensor((a * a + b * b) / 2.0, dtype=k.dtype)
        derivative = torch.add(
            gain, derivative, alpha=-curvature, out=scratch.over(derivative)
        )
        nngp = torch.mul(derivative, k, out=scratch.over(k))
        return nngp.add_(root, alpha=curvature), derivative

    def _dual_diagonal(self, v):
        a, b = self._slopes()
        gain = (a * a + b * b) / 2.0
        return gain * v, torch.full_like(v, gain)

    def _function(self, x):
        a, b = self._slopes()
        return torch.where(x < 0, a * x, b * x)


@dataclass(frozen=True)
class Relu(_PiecewiseLinear):
    """Rectifier, max(x, 0).

    References
    ----------
    Y. Cho and L. Saul, "Kernel methods for deep learning", NeurIPS 2009.

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> net = L.Serial(L.Dense(), L.Relu(), L.Dense())
    >>> net.kernel([[1.0, 1.0]], kind="nngp")
    array([[0.5]])
    """

    def _slopes(self) -> tuple[float, float]:
        return 0.0, 1.0


@dataclass(frozen=True)
class LeakyRelu(_PiecewiseLinear):
    """Rectifier with a slope below zero.

    Parameters
    ----------
    slope : float, default=0.01
        The slope below zero; above it is one.

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> net = L.Serial(L.Dense(), L.LeakyRelu(0.5), L.Dense())
    >>> net.kernel([[1.0, 1.0]], kind="nngp")
    array([[0.625]])
    """

    slope: float = 0.01

    def _slopes(self) -> tuple[float, float]:
        return self.slope, 1.0


@dataclass(frozen=True)
class Abs(_PiecewiseLinear):
    """Absolute value.

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> net = L.Serial(L.Dense(), L.Abs(), L.Dense())
    >>> net.kernel([[1.0, 1.0]], kind="nngp")
    array([[1.]])
    """

    def _slopes(self) -> tuple[float, float]:
        return -1.0, 1.0


class _ErrorFunction(Elementwise):
    """a erf(b x) + c, the kernel of Williams (1997)."""

    def _coefficients(self) -> tuple[float, float, float]:
        raise NotImplementedError

    def _dual(self, k, v1, v2, tangent, scratch):
        a, b, c = self._coefficients()
        scale = 2.0 * b * b
        product = torch.mul(
            1.0 + scale * v1, 1.0 + scale * v2, out=scratch.like("product", k)
        )
        ratio = torch.rsqrt(product, out=scratch.like("ratio", k))
        derivative = None
        if tangent:
            product.addcmul_(k, k, value=-scale * scale)
            # At least this by k^2 <= v1 v2, which rounding breaks for large variances.
            least = scale * (v1 + v2) + 1.0
            product = torch.maximum(product, least, out=scratch.over(product)).rsqrt_()
            # The root's gradient reads the root, which therefore stays as it is.
            factor = 2.0 * a * a * scale / math.pi
            derivative = torch.mul(product, factor, out=scratch.over(product))
        sine = torch.mul(ratio, k, out=scratch.over(k)).mul_(scale)
        # Below one, where the gradient is finite.
        largest = 1.0 - torch.finfo(k.dtype).eps
        nngp = sine.clamp_(-largest, largest).asin_()
        return nngp.mul_(2.0 * a * a / math.pi).add_(c * c), derivative

    def _dual_diagonal(self, v):
        a, b, c = self._coefficients()
        scaled = 2.0 * b * b * v
        nngp = torch.asin(scaled / (1.0 + scaled)) * (2.0 * a * a / math.pi) + c * c
        slope = 4.0 * a * a * b * b / math.pi * torch.rsqrt(1.0 + 2.0 * scaled)
        return nngp, slope

    def _function(self, x):
        a, b, c = self._coefficients()
        return a * torch.erf(b * x) + c


@dataclass(frozen=True)
class Erf(_ErrorFunction):
    """Error function, a erf(b x) + c.

    Parameters
    ----------
    a : float, default=1.0
        Scale of the output.
    b : float, default=1.0
        Scale of the input.
    c : float, default=0.0
        Shift of the output.

    References
    ----------
    C. Williams, "Computing with infinite networks", NeurIPS 1997.

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> net = L.Serial(L.Dense(), L.Erf(), L.Dense())
    >>> net.kernel([[1.0, 1.0]], kind="nngp").round(4)
    array([[0.4646]])
    """

    a: float = 1.0
    b: float = 1.0
    c: float = 0.0

    def _coefficients(self) -> tuple[float, float, float]:
        return self.a, self.b, self.c


@dataclass(frozen=True)
class Sigmoid(_ErrorFunction):
    """Sigmoid-like function, (1 + erf(x / 2.4020563531719796)) / 2.

    The logistic function has no closed form; this one is nearest to it.

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> net = L.Serial(L.Dense(), L.Sigmoid(), L.Dense())
    >>> net.kernel([[1.0, 1.0]], kind="nngp").round(4)
    array([[0.2914]])
    """

    def _coefficients(self) -> tuple[float, float, float]:
        return 0.5, 1.0 / _SIGMOID_WIDTH, 0.5


@dataclass(frozen=True)
class Gelu(Elementwise):
    """Gaussian error linear unit, x Phi(x).

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> net = L.Serial(L.Dense(), L.Gelu(), L.Dense())
    >>> net.kernel([[1.0, 1.0]], kind="nngp").round(4)
    array([[0.4252]])
    """

    def _dual(self, k, v1, v2, tangent, scratch):
        product = (1.0 + v1) * (1.0 + v2)
        # k^2 <= v1 v2, which rounding breaks for large variances.
        gap = torch.maximum(product - k * k, 1.0 + v1 + v2)
        root = torch.sqrt(gap)
        angle = torch.atan2(k, root)
        both = v1 * v2
        bend = (k * k + both * gap) / (product * root)
        nngp = k / 4.0 + (bend + k * angle) / (2.0 * math.pi)
        if not tangent:
            return nngp, None
        bend = k / root * (1.0 / gap + (1.0 - both) / product + 1.0)
        return nngp, 0.25 + (angle + bend) / (2.0 * math.pi)

    def _dual_diagonal(self, v):
        # P - k^2 is 1 + 2 v here.
        gap = 1.0 + 2.0 * v
        root = torch.sqrt(gap)
        angle = torch.atan2(v, root)
        product = (1.0 + v) ** 2
        bend = v * v * (1.0 + gap) / (product * root)
        nngp = v / 4.0 + (bend + v * angle) / (2.0 * math.pi)
        bend = v / root * (1.0 / gap + (1.0 - v * v) / product + 1.0)
        return nngp, 0.25 + (angle + bend) / (2.0 * math.pi)

    def _function(self, x):
        return torch.nn.functional.gelu(x)


def _exponentials(k: Tensor, v1: Tensor, v2: Tensor) -> tuple[Tensor, Tensor]:
    """Return half the mean of cos(x1 - x2) and of cos(x1 + x2)."""
    mean = (v1 + v2) / 2.0
    # |k| is at most the mean, but for rounding, which grows with large variances.
    minus, plus = ((sign * k - mean).clamp(max=0.0) for sign in (1.0, -1.0))
    return torch.exp(minus).mul(0.5), torch.exp(plus).mul(0.5)


@dataclass(frozen=True)
class Sin(Elementwise):
    """Sine.

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> net = L.Serial(L.Dense(), L.Sin(), L.Dense())
    >>> net.kernel([[1.0, 1.0]], kind="nngp").round(4)
    array([[0.4323]])
    """

    def _dual(self, k, v1, v2, tangent, scratch):
        minus, plus = _exponentials(k, v1, v2)
        return minus - plus, minus + plus

    def _dual_diagonal(self, v):
        return -torch.expm1(-2.0 * v) / 2.0, (1.0 + torch.exp(-2.0 * v)) / 2.0

    def _function(self, x):
        return torch.sin(x)


@dataclass(frozen=True)
class Cos(Elementwise):
    """Cosine.

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> net = L.Serial(L.Dense(), L.Cos(), L.Dense())
    >>> net.kernel([[1.0, 1.0]], kind="nngp").round(4)
    array([[0.5677]])
    """

    def _dual(self, k, v1, v2, tangent, scratch):
        minus, plus = _exponentials(k, v1, v2)
        return minus + plus, minus - plus

    def _dual_diagonal(self, v):
        return (1.0 + torch.exp(-2.0 * v)) / 2.0, -torch.expm1(-2.0 * v) / 2.0

    def _function(self, x):
        return torch.cos(x)


@dataclass(frozen=True)
class Rbf(Elementwise):
    """Random features whose covariance is the squared exponential kernel.

    Parameters
    ----------
    gamma : float, default=1.0
        Inverse squared length: the covariance is exp(-gamma E(x1 - x2)^2), that of
        sqrt(2) sin(sqrt(2 gamma) x + pi / 4).

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> net = L.Serial(L.Dense(), L.Rbf(), L.Dense())
    >>> net.kernel([[1.0, 1.0]], kind="nngp")
    array([[1.]])
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma < float("inf"):
            raise ValueError(f"gamma={self.gamma!r} must be positive and finite.")

    def _dual(self, k, v1, v2, tangent, scratch):
        squares = (v1 + v2 - k * 2.0).clamp(min=0.0)
        nngp = torch.exp(-self.gamma * squares)
        return nngp, nngp * (2.0 * self.gamma) if tangent else None

    def _dual_diagonal(self, v):
        return torch.ones_like(v), torch.full_like(v, 2.0 * self.gamma)

    def _function(self, x):
        phase = math.sqrt(2.0 * self.gamma) * x + math.pi / 4.0
        return math.sqrt(2.0) * torch.sin(phase)


@dataclass(frozen=True)
class LayerNorm(Elementwise):
    """Normalization over the units of a layer, for images over channels at each pixel.

    Parameters
    ----------
    eps : float, default=1e-12
        What is added to variances.

    Notes
    -----
    Units are divided by the root of their mean square. After Dense and Conv, whose
    units have mean zero, that is layer normalization.

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> net = L.Serial(L.Dense(), L.LayerNorm(), L.Dense())
    >>> net.kernel([[3.0, 3.0]], kind="nngp").round(4)
    array([[1.]])
    """

    eps: float = 1e-12

    def _dual(self, k, v1, v2, tangent, scratch):
        scale = torch.rsqrt(v1 + self.eps) * torch.rsqrt(v2 + self.eps)
        return k * scale, scale

    def _dual_diagonal(self, v):
        return v / (v + self.eps), 1.0 / (v + self.eps)

    def _function(self, x):
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + self.eps)
