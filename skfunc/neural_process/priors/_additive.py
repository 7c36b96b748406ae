"""Sums of functions of one or two columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from skfunc._shapes import Float
from skfunc._validation import check_option, check_real
from skfunc.neural_process.priors._base import TaskPrior
from skfunc.neural_process.priors._checks import check_integer_range, check_range
from skfunc.neural_process.priors._draws import Draws
from skfunc.neural_process.priors._inputs import InputDistribution
from skfunc.neural_process.priors._noise import NoiseDistribution
from skfunc.neural_process.priors._values import by_kind, unit_spread

_N_WAVES = 16
# Polynomials of heavy-tailed columns would be all that a task shows.
_BOUND = 3.0


class AdditivePrior(TaskPrior):
    """Tasks whose functions are sums of functions of one or two columns.

    Functions are centred and of unit standard deviation over a task's points.

    Parameters
    ----------
    n_components : tuple of two ints, default=(1, 8)
        Range of the number of components, log-uniform.
    interactions : float, default=0.3
        Probability that a component depends on two columns: by a function of a random
        direction in their plane or by the product of a function of each.
    shapes : sequence of str, default=("smooth", "sigmoid", "step", "polynomial")
        What a component's function of one number is drawn from.
    lengthscale : tuple of two floats, default=(0.3, 3)
        Range of the lengthscale of smooth components, log-uniform.
    inputs : InputDistribution or None, default=None
        Distribution of X; None for the default one.
    noise : NoiseDistribution or None, default=None
        Distribution of the noise; None for the default one.

    See Also
    --------
    LinearPrior : Linear functions.

    Notes
    -----
    Smooth components are random Fourier series [1]_ of 16 waves, near to a draw of a
    Gaussian process with the squared exponential kernel.

    References
    ----------
    .. [1] A. Rahimi, B. Recht 2007, Random features for large-scale kernel machines,
       Advances in Neural Information Processing Systems 20.

    Examples
    --------
    >>> from skfunc.neural_process.priors import AdditivePrior
    >>> prior = AdditivePrior(interactions=0.0, shapes=("smooth",))
    >>> prior.sample(8, 64, 5, random_state=0).y.shape
    (8, 64)
    """

    def __init__(
        self,
        *,
        n_components: tuple[int, int] = (1, 8),
        interactions: float = 0.3,
        shapes: Sequence[str] = ("smooth", "sigmoid", "step", "polynomial"),
        lengthscale: tuple[float, float] = (0.3, 3.0),
        inputs: InputDistribution | None = None,
        noise: NoiseDistribution | None = None,
    ):
        self.n_components = n_components
        self.interactions = interactions
        self.shapes = shapes
        self.lengthscale = lengthscale
        self.inputs = inputs
        self.noise = noise

    def _check(self) -> None:
        super()._check()
        check_integer_range("n_components", self.n_components)
        check_real("interactions", self.interactions, 0.0, 1.0)
        if isinstance(self.shapes, str) or not len(self.shapes):
            raise ValueError(f"shapes must be a sequence of names; got {self.shapes!r}")
        for shape in self.shapes:
            check_option("shapes", shape, _SHAPES)
        check_range("lengthscale", self.lengthscale)

    def _functions(
        self, X: Float[Tensor, "tasks points features"], draws: Draws
    ) -> Float[Tensor, "tasks points"]:
        n_tasks, n_points, n_features = X.shape
        most = self.n_components[1]
        count = draws.log_integers(*self.n_components, n_tasks, 1)
        first = self._columns(X, most, draws)
        second = self._columns(X, most, draws)
        interacts = draws.chance(self.interactions, n_tasks * most, 1)
        # On a plane half of the components look along one direction of it.
        angle = draws.uniform(0.0, torch.pi, n_tasks * most, 1)
        along = interacts & draws.chance(0.5, n_tasks * most, 1)
        turned = first * angle.cos() + second * angle.sin()
        values = self._curves(torch.where(along, turned, first), draws)
        product = values * self._curves(second, draws)
        values = unit_spread(torch.where(interacts & ~along, product, values))
        weight = draws.normal(n_tasks, most)
        weight = weight * (torch.arange(most, device=X.device) < count)
        together = values.reshape(n_tasks, most, n_points) * weight[..., None]
        return unit_spread(together.sum(1))

    def _columns(
        self, X: Tensor, most: int, draws: Draws
    ) -> Float[Tensor, "components points"]:
        n_tasks, n_points, n_features = X.shape
        column = draws.integers(0, n_features - 1, n_tasks, most, 1)
        chosen = X.mT.gather(1, column.expand(-1, -1, n_points))
        return chosen.reshape(n_tasks * most, n_points)

    def _curves(
        self, u: Float[Tensor, "components points"], draws: Draws
    ) -> Float[Tensor, "components points"]:
        """Apply a random function of one number to each component."""
        kind = draws.integers(0, len(self.shapes) - 1, len(u))

        def drawn(shape: str) -> Callable[[Tensor], Tensor]:
            return lambda rows: _SHAPES[shape](rows, self.lengthscale, draws)

        return by_kind(kind, [drawn(shape) for shape in self.shapes], u)


def _smooth(u: Tensor, lengthscale: tuple[float, float], draws: Draws) -> Tensor:
    frequency = draws.normal(len(u), 1, _N_WAVES)
    frequency = frequency / draws.log_uniform(*lengthscale, len(u), 1, 1)
    phase = draws.uniform(0.0, 2 * torch.pi, len(u), 1, _N_WAVES)
    amplitude = draws.normal(len(u), _N_WAVES, 1)
    return (torch.cos(u[..., None] * frequency + phase) @ amplitude)[..., 0]


def _sigmoid(u: Tensor, lengthscale: tuple[float, float], draws: Draws) -> Tensor:
    slope = draws.log_uniform(0.5, 10.0, len(u), 1)
    return torch.tanh(slope * (u - draws.normal(len(u), 1)))


def _step(u: Tensor, lengthscale: tuple[float, float], draws: Draws) -> Tensor:
    return (u > draws.normal(len(u), 1)).to(u.dtype)


def _polynomial(u: Tensor, lengthscale: tuple[float, float], draws: Draws) -> Tensor:
    bounded = u.clamp(-_BOUND, _BOUND)
    a, b, c = draws.normal(3, len(u), 1)
    # Hermite polynomials are uncorrelated for a Gaussian column.
    return a * bounded + b * (bounded**2 - 1) + c * (bounded**3 - 3 * bounded) / 3


_SHAPES = {
    "smooth": _smooth,
    "sigmoid": _sigmoid,
    "step": _step,
    "polynomial": _polynomial,
}
