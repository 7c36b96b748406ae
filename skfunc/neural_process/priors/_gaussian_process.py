"""Functions drawn from Gaussian processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skfunc._shapes import Float
from skfunc._validation import check_option, check_real
from skfunc.neural_process.priors._base import TaskPrior
from skfunc.neural_process.priors._checks import check_range
from skfunc.neural_process.priors._draws import Draws, draw_relevance
from skfunc.neural_process.priors._inputs import InputDistribution
from skfunc.neural_process.priors._kernels import (
    KERNELS,
    KernelParameters,
    correlation,
    root,
)
from skfunc.neural_process.priors._noise import NoiseDistribution

# Parameters that no user has asked to set: ranges of log-uniform draws.
_PERIODIC_ROUGHNESS = (0.5, 3.0)
_TAIL = (0.3, 10.0)
_BIAS = (0.01, 1.0)


class GaussianProcessPrior(TaskPrior):
    """Tasks whose functions come from Gaussian processes.

    Every task draws a kernel and its hyper-parameters.

    Parameters
    ----------
    kernels : sequence of str, default=("rbf", "matern12", "matern32", "matern52", \
"rational_quadratic", "periodic", "linear")
        What to draw from.
    composite : float, default=0.3
        Probability that a task's kernel is made of two, half of the time as their mean
        and half as their product; they have relevant columns and lengthscales of their
        own.
    lengthscale : tuple of two floats, default=(0.3, 3)
        Range for one relevant column, log-uniform; with more of them it grows by the
        root of their number, so that functions of many columns stay learnable.
    ard : float, default=0.7
        Standard deviation of the logarithm of lengthscales among columns.
    period : tuple of two floats, default=(0.5, 4)
        Range of the periodic kernel's period, log-uniform, in units of lengthscales.
    scale : tuple of two floats, default=(0.3, 3)
        Range of the function's standard deviation, log-uniform.
    sparsity : float, default=0.5
        Probability that a kernel leaves out columns; the share kept is uniform.
    inputs : InputDistribution or None, default=None
        Distribution of X; None for the default one.
    noise : NoiseDistribution or None, default=None
        Distribution of the noise; None for the default one.

    See Also
    --------
    NetworkPrior : Functions of random networks.
    TreePrior : Functions with jumps.

    Notes
    -----
    Kernels are evaluated and factorized in float64, at a cost of n_points cubed.

    References
    ----------
    .. [1] C. E. Rasmussen, C. K. I. Williams 2006, Gaussian processes for machine
       learning, MIT Press, chapter 4.

    Examples
    --------
    >>> from skfunc.neural_process.priors import GaussianProcessPrior
    >>> prior = GaussianProcessPrior(kernels=("matern52", "linear"))
    >>> tasks = prior.sample(8, 64, 5, random_state=0)
    >>> tasks.X.shape, tasks.y.shape
    ((8, 64, 5), (8, 64))
    """

    def __init__(
        self,
        *,
        kernels: Sequence[str] = tuple(KERNELS),
        composite: float = 0.3,
        lengthscale: tuple[float, float] = (0.3, 3.0),
        ard: float = 0.7,
        period: tuple[float, float] = (0.5, 4.0),
        scale: tuple[float, float] = (0.3, 3.0),
        sparsity: float = 0.5,
        inputs: InputDistribution | None = None,
        noise: NoiseDistribution | None = None,
    ):
        self.kernels = kernels
        self.composite = composite
        self.lengthscale = lengthscale
        self.ard = ard
        self.period = period
        self.scale = scale
        self.sparsity = sparsity
        self.inputs = inputs
        self.noise = noise

    def _check(self) -> None:
        super()._check()
        if isinstance(self.kernels, str) or not len(self.kernels):
            raise ValueError(
                f"kernels must be a sequence of names; got {self.kernels!r}"
            )
        for kernel in self.kernels:
            check_option("kernels", kernel, KERNELS)
        check_real("composite", self.composite, 0.0, 1.0)
        check_real("ard", self.ard, 0.0)
        check_real("sparsity", self.sparsity, 0.0, 1.0)
        for name in ("lengthscale", "period", "scale"):
            check_range(name, getattr(self, name))

    def _functions(
        self, X: Float[Tensor, "tasks points features"], draws: Draws
    ) -> Float[Tensor, "tasks points"]:
        factor = root(self._covariance(X.double(), draws))
        white = draws.normal(*X.shape[:2], 1).double()
        return (factor @ white)[..., 0].float()

    def _covariance(
        self, X: Float[Tensor, "tasks points features"], draws: Draws
    ) -> Float[Tensor, "tasks points points"]:
        n_tasks, _, n_features = X.shape
        kernel = correlation(X, self._parameters(n_tasks, n_features, draws))
        two = torch.nonzero(draws.chance(self.composite, n_tasks))[:, 0]
        if len(two):
            second = correlation(X[two], self._parameters(len(two), n_features, draws))
            is_sum = draws.chance(0.5, len(two), 1, 1)
            first = kernel[two]
            kernel[two] = torch.where(is_sum, (first + second) / 2, first * second)
        scale = draws.log_uniform(*self.scale, n_tasks, 1, 1).double()
        return scale**2 * kernel

    def _parameters(
        self, n_tasks: int, n_features: int, draws: Draws
    ) -> KernelParameters:
        known = list(KERNELS)
        positions = torch.tensor(
            [known.index(name) for name in self.kernels], device=draws.device
        )
        drawn = draws.integers(0, len(positions) - 1, n_tasks)
        relevant = draw_relevance(n_tasks, n_features, self.sparsity, draws)
        common = draws.log_uniform(*self.lengthscale, n_tasks, 1)
        among = torch.exp(self.ard * draws.normal(n_tasks, n_features))
        n_relevant = relevant.sum(1, keepdim=True)
        lengthscale = common * among * n_relevant.sqrt()
        return KernelParameters(
            positions[drawn],
            (relevant / lengthscale).double(),
            draws.log_uniform(*self.period, n_tasks).double(),
            draws.log_uniform(*_PERIODIC_ROUGHNESS, n_tasks).double(),
            draws.log_uniform(*_TAIL, n_tasks).double(),
            draws.log_uniform(*_BIAS, n_tasks).double(),
        )
