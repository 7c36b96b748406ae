"""Functions of random multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from skfunc._shapes import Float
from skfunc._validation import check_option, check_real
from skfunc.neural_process.priors._base import TaskPrior
from skfunc.neural_process.priors._checks import check_integer_range, check_range
from skfunc.neural_process.priors._draws import Draws, draw_relevance
from skfunc.neural_process.priors._inputs import InputDistribution
from skfunc.neural_process.priors._noise import NoiseDistribution
from skfunc.neural_process.priors._values import by_kind, unit_spread

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sin": torch.sin,
    "bump": lambda u: torch.exp(-0.5 * u**2),
    "abs": torch.abs,
    "sigmoid": lambda u: torch.sigmoid(4 * u),
}
# Inputs may have heavy tails; beyond this a network's hidden units say nothing more.
_BOUND = 30.0


class NetworkPrior(TaskPrior):
    """Tasks whose functions are random multilayer perceptrons.

    Functions are centred and of unit standard deviation over a task's points.

    Parameters
    ----------
    depth : tuple of two ints, default=(1, 4)
        Range of the number of hidden layers, uniform.
    width : tuple of two ints, default=(4, 64)
        Range of the units of a hidden layer, log-uniform.
    activations : sequence of str, default=("tanh", "relu", "sin", "bump", "abs", \
"sigmoid")
        What a layer's activation is drawn from.
    gain : tuple of two floats, default=(0.5, 4)
        Range of the first layer's standard deviation, log-uniform: the larger, the
        faster functions vary.
    sparsity : float, default=0.5
        Probability that a network leaves out columns; the share kept is uniform.
    inputs : InputDistribution or None, default=None
        Distribution of X; None for the default one.
    noise : NoiseDistribution or None, default=None
        Distribution of the noise; None for the default one.

    See Also
    --------
    GaussianProcessPrior : Functions of Gaussian processes.

    References
    ----------
    .. [1] S. Mueller, N. Hollmann, S. Pineda Arango, J. Grabocka, F. Hutter 2022,
       Transformers can do Bayesian inference, arXiv 2112.10510.

    Examples
    --------
    >>> from skfunc.neural_process.priors import NetworkPrior
    >>> NetworkPrior(depth=(2, 2)).sample(8, 64, 5, random_state=0).y.shape
    (8, 64)
    """

    def __init__(
        self,
        *,
        depth: tuple[int, int] = (1, 4),
        width: tuple[int, int] = (4, 64),
        activations: Sequence[str] = tuple(ACTIVATIONS),
        gain: tuple[float, float] = (0.5, 4.0),
        sparsity: float = 0.5,
        inputs: InputDistribution | None = None,
        noise: NoiseDistribution | None = None,
    ):
        self.depth = depth
        self.width = width
        self.activations = activations
        self.gain = gain
        self.sparsity = sparsity
        self.inputs = inputs
        self.noise = noise

    def _check(self) -> None:
        super()._check()
        check_integer_range("depth", self.depth)
        check_integer_range("width", self.width)
        if isinstance(self.activations, str) or not len(self.activations):
            raise ValueError(
                f"activations must be a sequence of names; got {self.activations!r}"
            )
        for activation in self.activations:
            check_option("activations", activation, ACTIVATIONS)
        check_range("gain", self.gain)
        check_real("sparsity", self.sparsity, 0.0, 1.0)

    def _functions(
        self, X: Float[Tensor, "tasks points features"], draws: Draws
    ) -> Float[Tensor, "tasks points"]:
        n_tasks, _, n_features = X.shape
        depth = draws.integers(*self.depth, n_tasks)
        relevant = draw_relevance(n_tasks, n_features, self.sparsity, draws)
        gain = draws.log_uniform(*self.gain, n_tasks, 1, 1)
        weights = gain * draws.normal(n_tasks, n_features, self.width[1])
        weights = weights / relevant.sum(1).sqrt()[:, None, None]
        hidden = self._layer(X * relevant[:, None, :], weights, draws)
        for layer in range(1, self.depth[1]):
            # The variance of a unit's input is about that of a unit's output.
            units = hidden.square().sum(2, keepdim=True).mean(1, keepdim=True)
            weights = draws.normal(n_tasks, self.width[1], self.width[1])
            deeper = self._layer(
                hidden / units.sqrt().clamp_min(1e-6), 1.5 * weights, draws
            )
            hidden = torch.where((layer < depth)[:, None, None], deeper, hidden)
        out = draws.normal(n_tasks, self.width[1], 1)
        return unit_spread((hidden @ out)[..., 0])

    def _layer(
        self,
        values: Float[Tensor, "tasks points ins"],
        weights: Float[Tensor, "tasks ins outs"],
        draws: Draws,
    ) -> Float[Tensor, "tasks points outs"]:
        """Apply a layer whose units beyond each task's own width are zero."""
        n_tasks, _, most = weights.shape
        bias = draws.normal(n_tasks, 1, most)
        before = (values @ weights + bias).clamp(-_BOUND, _BOUND)
        kind = draws.integers(0, len(self.activations) - 1, n_tasks)
        functions = [ACTIVATIONS[name] for name in self.activations]
        width = draws.log_integers(*self.width, n_tasks, 1, 1)
        there = torch.arange(most, device=values.device) < width
        return by_kind(kind, functions, before) * there
