"""Linear functions."""

from __future__ import annotations

from torch import Tensor

from skfunc._shapes import Float
from skfunc._validation import check_real
from skfunc.neural_process.priors._base import TaskPrior
from skfunc.neural_process.priors._draws import Draws, draw_relevance
from skfunc.neural_process.priors._inputs import InputDistribution
from skfunc.neural_process.priors._noise import NoiseDistribution
from skfunc.neural_process.priors._values import unit_spread


class LinearPrior(TaskPrior):
    """Tasks whose functions are linear, with normal weights.

    Functions are centred and of unit standard deviation over a task's points.

    Parameters
    ----------
    sparsity : float, default=0.5
        Probability that a task leaves out columns; the share kept is uniform.
    inputs : InputDistribution or None, default=None
        Distribution of X; None for the default one.
    noise : NoiseDistribution or None, default=None
        Distribution of the noise; None for the default one.

    See Also
    --------
    AdditivePrior : Sums of functions of single columns.

    Examples
    --------
    >>> from skfunc.neural_process.priors import LinearPrior
    >>> LinearPrior(sparsity=0.0).sample(8, 64, 5, random_state=0).y.shape
    (8, 64)
    """

    def __init__(
        self,
        *,
        sparsity: float = 0.5,
        inputs: InputDistribution | None = None,
        noise: NoiseDistribution | None = None,
    ):
        self.sparsity = sparsity
        self.inputs = inputs
        self.noise = noise

    def _check(self) -> None:
        super()._check()
        check_real("sparsity", self.sparsity, 0.0, 1.0)

    def _functions(
        self, X: Float[Tensor, "tasks points features"], draws: Draws
    ) -> Float[Tensor, "tasks points"]:
        n_tasks, _, n_features = X.shape
        relevant = draw_relevance(n_tasks, n_features, self.sparsity, draws)
        weights = draws.normal(n_tasks, n_features) * relevant
        return unit_spread((X @ weights[..., None])[..., 0])
