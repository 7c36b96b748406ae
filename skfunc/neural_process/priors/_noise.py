"""Distributions of the noise of tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from skfunc._shapes import Float
from skfunc._validation import check_option
from skfunc.neural_process.priors._checks import check_range
from skfunc.neural_process.priors._draws import Draws, draw_relevance

_MOST_DEGREES = 10


def _gaussian(X: Tensor, draws: Draws) -> Tensor:
    return draws.normal(*X.shape[:2])


def _heteroscedastic(X: Tensor, draws: Draws) -> Tensor:
    # The logarithm of the standard deviation bends along a random direction.
    n_tasks, _, n_features = X.shape
    direction = draws.normal(n_tasks, n_features)
    direction = direction * draw_relevance(n_tasks, n_features, 1.0, draws)
    direction = direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-6)
    place = torch.tanh(torch.einsum("tnd,td->tn", X, direction))
    strength = draws.uniform(0.3, 2.0, n_tasks, 1)
    std = torch.exp(strength * place)
    std = std / torch.sqrt((std**2).mean(1, keepdim=True))
    return std * draws.normal(*X.shape[:2])


def _student_t(X: Tensor, draws: Draws) -> Tensor:
    # Normal over the root of a chi-squared number of k degrees over k, which is a
    # mean of k squares; scaled to unit variance.
    n_tasks, n_points, _ = X.shape
    degrees = draws.integers(3, _MOST_DEGREES, n_tasks, 1)
    squares = draws.normal(n_tasks, n_points, _MOST_DEGREES) ** 2
    counted = torch.arange(_MOST_DEGREES, device=X.device) < degrees[..., None]
    chi = (squares * counted).sum(-1) / degrees
    t = draws.normal(n_tasks, n_points) / torch.sqrt(chi)
    return t * torch.sqrt((degrees - 2) / degrees)


def _none(X: Tensor, draws: Draws) -> Tensor:
    return torch.zeros(X.shape[:2], device=X.device)


MODELS: dict[str, Callable[[Tensor, Draws], Tensor]] = {
    "gaussian": _gaussian,
    "heteroscedastic": _heteroscedastic,
    "student_t": _student_t,
    "none": _none,
}


class NoiseDistribution(BaseEstimator):
    """Random noise of observations, another for every task.

    Parameters
    ----------
    kinds : sequence of str, default=("gaussian", "heteroscedastic", "student_t", \
"none")
        Models to draw from: one standard deviation; one that depends on X;
        Student's t with 3 to 10 degrees of freedom; no noise. A kind that is named
        twice comes twice as often.
    std : tuple of two floats, default=(0.01, 1)
        Range of the standard deviation, log-uniform, in units of the standard
        deviation of the task's function over its points.

    See Also
    --------
    TaskPrior : Priors take it as `noise`.

    Examples
    --------
    >>> from skfunc.neural_process.priors import LinearPrior, NoiseDistribution
    >>> exact = NoiseDistribution(kinds=("none",))
    >>> tasks = LinearPrior(noise=exact).sample(5, 20, 3, random_state=0)
    """

    def __init__(
        self,
        *,
        kinds: Sequence[str] = tuple(MODELS),
        std: tuple[float, float] = (0.01, 1.0),
    ):
        self.kinds = kinds
        self.std = std

    def _check(self) -> None:
        if isinstance(self.kinds, str) or not len(self.kinds):
            raise ValueError(f"kinds must be a sequence of names; got {self.kinds!r}")
        for kind in self.kinds:
            check_option("kinds", kind, MODELS)
        check_range("std", self.std)

    def _add(
        self,
        functions: Float[Tensor, "tasks points"],
        X: Float[Tensor, "tasks points features"],
        draws: Draws,
    ) -> Float[Tensor, "tasks points"]:
        spread = functions.std(1, correction=0, keepdim=True)
        scale = spread * draws.log_uniform(*self.std, len(X), 1)
        chosen = draws.integers(0, len(self.kinds) - 1, len(X), 1)
        noise = torch.zeros_like(functions)
        for position, kind in enumerate(self.kinds):
            noise = torch.where(chosen == position, MODELS[kind](X, draws), noise)
        return functions + scale * noise
