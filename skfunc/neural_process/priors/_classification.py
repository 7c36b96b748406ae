"""Classification tasks, made of the functions of another prior."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from skfunc._shapes import Float, Int
from skfunc._validation import check_integer, check_real
from skfunc.neural_process.priors._base import TaskPrior, TensorTasks
from skfunc.neural_process.priors._checks import check_range
from skfunc.neural_process.priors._draws import Draws
from skfunc.neural_process.priors._values import unit_spread


class ClassificationPrior(TaskPrior):
    """Classification tasks, made of the functions of another prior.

    Half of the tasks cut one function at random values of its own, so that classes are
    its ranges; the others have a function for each class, of which the largest wins.

    Parameters
    ----------
    base : TaskPrior
        Where functions come from; its noise is not used.
    max_classes : int, default=10
        Most classes of a task; their number is log-uniform from 2. A class that no
        point has is left out.
    imbalance : float, default=1.0
        Largest standard deviation of the classes' offsets, in units of the functions';
        each task draws its own, uniformly. Cut functions have unequal classes by
        themselves.
    blur : tuple of two floats, default=(0.02, 0.5)
        Range of the randomness of labels near a border, log-uniform: the scale of the
        noise that is added to functions of unit standard deviation.
    label_noise : float, default=0.1
        Largest share of labels that are replaced by random ones; half of the tasks
        have none, the others draw a share uniformly.

    See Also
    --------
    MixturePrior : A base of several priors.

    Notes
    -----
    The noise of functions that compete is Gumbel's, so that the probability of a class
    is the softmax of the functions over `blur`. A task whose points would all have one
    class gets two classes at random.

    References
    ----------
    .. [1] N. Hollmann, S. Mueller, K. Eggensperger, F. Hutter 2023, TabPFN: a
       transformer that solves small tabular classification problems in a second,
       arXiv 2207.01848.

    Examples
    --------
    >>> from skfunc.neural_process.priors import ClassificationPrior, TreePrior
    >>> prior = ClassificationPrior(TreePrior(), max_classes=3)
    >>> tasks = prior.sample(20, 50, 4, random_state=0)
    >>> sorted(set(tasks.n_classes.tolist())), sorted(set(tasks.y.ravel().tolist()))
    ([2, 3], [0.0, 1.0, 2.0])
    """

    def __init__(
        self,
        base: TaskPrior,
        *,
        max_classes: int = 10,
        imbalance: float = 1.0,
        blur: tuple[float, float] = (0.02, 0.5),
        label_noise: float = 0.1,
    ):
        self.base = base
        self.max_classes = max_classes
        self.imbalance = imbalance
        self.blur = blur
        self.label_noise = label_noise

    def _check(self) -> None:
        if not isinstance(self.base, TaskPrior):
            raise ValueError(f"base must be a TaskPrior; got {self.base!r}")
        self.base._check()
        check_integer("max_classes", self.max_classes, 2)
        check_real("imbalance", self.imbalance, 0.0)
        check_range("blur", self.blur)
        check_real("label_noise", self.label_noise, 0.0, 1.0)

    def _draw_functions(
        self,
        counts: Int[Tensor, " tasks"],
        n_points: int,
        n_features: int,
        draws: Draws,
    ) -> tuple[Tensor, Tensor]:
        return self.base._draw_functions(counts, n_points, n_features, draws)

    def _draw_tasks(
        self, n_tasks: int, n_points: int, n_features: int, draws: Draws
    ) -> TensorTasks:
        if n_points < 2:
            raise ValueError("a classification task needs n_points of at least 2")
        n_classes = draws.log_integers(2, self.max_classes, n_tasks)
        cut = draws.chance(0.5, n_tasks)
        counts = torch.where(cut, 1, n_classes)
        X, functions = self._draw_functions(counts, n_points, n_features, draws)
        functions = unit_spread(functions.flatten(0, 1)).reshape(functions.shape)
        blur = draws.log_uniform(*self.blur, n_tasks, 1)
        ranges = self._ranges(functions[:, 0], blur, n_classes, draws)
        winners = self._winners(functions, blur, counts, draws)
        labels = torch.where(cut[:, None], ranges, winners)
        labels = self._flip(labels, n_classes, draws)
        labels, n_present = _relabel(labels, self.max_classes, draws)
        return TensorTasks(X, labels.float(), n_present)

    def _ranges(
        self,
        function: Float[Tensor, "tasks points"],
        blur: Float[Tensor, "tasks 1"],
        n_classes: Int[Tensor, " tasks"],
        draws: Draws,
    ) -> Int[Tensor, "tasks points"]:
        n_tasks, n_points = function.shape
        noisy = function + blur * draws.normal(n_tasks, n_points)
        # Borders at random points make the classes' shares uniform on the simplex.
        place = draws.integers(0, n_points - 1, n_tasks, self.max_classes - 1)
        used = torch.arange(self.max_classes - 1, device=noisy.device)
        used = used < (n_classes - 1)[:, None]
        borders = noisy.gather(1, place).masked_fill(~used, torch.inf)
        return (noisy[..., None] >= borders[:, None, :]).sum(-1)

    def _winners(
        self,
        functions: Float[Tensor, "tasks functions points"],
        blur: Float[Tensor, "tasks 1"],
        counts: Int[Tensor, " tasks"],
        draws: Draws,
    ) -> Int[Tensor, "tasks points"]:
        n_tasks, most, n_points = functions.shape
        spread = draws.uniform(0.0, self.imbalance, n_tasks, 1, 1)
        offset = spread * draws.normal(n_tasks, most, 1)
        unit = draws.uniform(1e-6, 1.0, n_tasks, most, n_points)
        gumbel = -torch.log(-torch.log(unit.clamp_max(1 - 1e-6)))
        scores = functions + offset + blur[..., None] * gumbel
        there = torch.arange(most, device=scores.device) < counts[:, None]
        return scores.masked_fill(~there[..., None], -torch.inf).argmax(1)

    def _flip(
        self,
        labels: Int[Tensor, "tasks points"],
        n_classes: Int[Tensor, " tasks"],
        draws: Draws,
    ) -> Int[Tensor, "tasks points"]:
        n_tasks, n_points = labels.shape
        share = draws.uniform(0.0, self.label_noise, n_tasks, 1)
        share = share * draws.chance(0.5, n_tasks, 1)
        flipped = draws.uniform(0.0, 1.0, n_tasks, n_points) < share
        unit = draws.uniform(0.0, 1.0, n_tasks, n_points)
        other = (unit * n_classes[:, None]).long()
        return torch.where(flipped, other.minimum(n_classes[:, None] - 1), labels)


def _relabel(
    labels: Int[Tensor, "tasks points"], max_classes: int, draws: Draws
) -> tuple[Int[Tensor, "tasks points"], Int[Tensor, " tasks"]]:
    """Return labels numbered 0, 1, ... in random order, without gaps, two at least."""
    n_tasks, n_points = labels.shape
    halves = draws.permutations(n_points, n_tasks) % 2
    is_single = (labels == labels[:, :1]).all(1, keepdim=True)
    labels = torch.where(is_single, halves, labels)
    shuffled = draws.permutations(max_classes, n_tasks).gather(1, labels)
    present = functional.one_hot(shuffled, max_classes).any(1)
    rank = present.cumsum(1) - 1
    return rank.gather(1, shuffled), present.sum(1)
