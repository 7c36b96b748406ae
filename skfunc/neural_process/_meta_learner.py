"""Meta-learning: from a collection of tasks to a prior over functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.callback import with_callbacks
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import validate_data

from skfunc._docstrings import fill_docstrings
from skfunc._moments import weighted_moments
from skfunc._validation import check_integer
from skfunc.base import FunctionEstimator
from skfunc.neural_process._documentation import (
    LEARNER_PARAMETERS,
    TRAINING_PARAMETERS,
)
from skfunc.neural_process._parameters import (
    check_likelihood_parameters,
    check_training_parameters,
    likelihood_parameters,
    meta_training,
)
from skfunc.neural_process._prior import NeuralProcessPrior
from skfunc.neural_process._refit import whole_or_unchanged
from skfunc.neural_process._tasks import TaskRows, split_by_group
from skfunc.neural_process.priors import TaskPrior
from skfunc.nn import TaskBatch
from skfunc.training import resolve_device, thread_limits

Array = NDArray[np.float64]

# Tasks of a task prior that its moments are taken from.
_MOMENT_TASKS = 256


class _Source(NamedTuple):
    """Where batches of tasks come from, and what is known of all of them."""

    draw: Callable[[int, np.random.Generator, torch.dtype], TaskBatch]
    moments: dict[str, Array]
    x_range: tuple[float, float]
    values: Array
    n_tasks: int | None


@fill_docstrings(network=LEARNER_PARAMETERS, training=TRAINING_PARAMETERS)
class NeuralProcessMetaLearner(FunctionEstimator):
    """Learn what functions look like from many of them.

    A neural process is trained to predict target points of a task from context points
    of the same task, over many tasks. What it has learned is `prior_`, a parameter for
    `NeuralProcessRegressor`, whose fit then only conditions it on the data at hand.

    Parameters
    ----------
    {network}
    context_size : tuple of (int, int), default=(3, 50)
        Fewest and most context points of a task in training.
    target_size : int, default=50
        Most target points of a task in training.
    n_features : int, default=1
        Columns of X for tasks that are drawn from a `TaskPrior`; otherwise the tasks
        tell.
    max_iter : int, default=2000
        Steps of training.
    {training}

    Attributes
    ----------
    prior_ : NeuralProcessPrior
        What was learned.
    loss_curve_ : list of float
        Minus the objective of every step, in nats a target, for standardized y.
    n_iter_ : int
        Steps taken.
    n_tasks_ : int or None
        Tasks learned from; None for a prior, which has no end of them.

    Raises
    ------
    FloatingPointError
        By fit, if the loss stays non-finite through three restarts.

    See Also
    --------
    NeuralProcessRegressor : Conditions the prior on data.

    References
    ----------
    .. [1] M. Garnelo, J. Schwarz, D. Rosenbaum, F. Viola, D. J. Rezende,
           S. M. A. Eslami, Y. W. Teh, "Neural processes", 2018, arXiv:1807.01622.
    .. [2] T. Nguyen, A. Grover, "Transformer neural processes: uncertainty-aware
           meta learning via sequence modeling", 2022, arXiv:2207.04179.

    Examples
    --------
    >>> from skfunc.neural_process import NeuralProcessMetaLearner
    >>> from skfunc.neural_process.priors import GaussianProcessPrior
    >>> learner = NeuralProcessMetaLearner(variant="cnp", max_iter=10, random_state=0)
    >>> learner.fit(GaussianProcessPrior()).prior_.n_parameters > 1000
    True
    """

    def __init__(
        self,
        *,
        variant: str = "tnp",
        likelihood: str = "gaussian",
        n_components: int = 5,
        n_bins: int = 50,
        hidden_size: int = 64,
        n_layers: int = 4,
        n_heads: int = 4,
        latent_size: int | None = None,
        n_inducing: int = 32,
        min_std: float = 1e-3,
        objective: str = "auto",
        context_size: tuple[int, int] = (3, 50),
        target_size: int = 50,
        n_features: int = 1,
        max_iter: int = 2000,
        batch_size: int = 16,
        learning_rate_init: float = 1e-3,
        alpha: float = 0.0,
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self.variant = variant
        self.likelihood = likelihood
        self.n_components = n_components
        self.n_bins = n_bins
        self.hidden_size = hidden_size
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.latent_size = latent_size
        self.n_inducing = n_inducing
        self.min_std = min_std
        self.objective = objective
        self.context_size = context_size
        self.target_size = target_size
        self.n_features = n_features
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.alpha = alpha
        self.verbose = verbose
        self.random_state = random_state
        self.device = device

    @with_callbacks
    def fit(
        self, X: Any, y: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> NeuralProcessMetaLearner:
        """Learn from tasks.

        Parameters
        ----------
        X : TaskPrior, sequence of (X, y), or array-like (n_samples, n_features)
            Where tasks come from: a prior that draws them, a collection of data sets
            of equal width, or rows of all tasks, told apart by `groups`.
        y : array-like of shape (n_samples,) or (n_samples, n_targets), optional
            Targets of the rows; not with a prior or a collection.
        groups : array-like of shape (n_samples,), optional
            The task of every row; without it all rows are one task.

        Returns
        -------
        self : NeuralProcessMetaLearner
            The fitted learner.
        """
        with whole_or_unchanged(self):
            random_state = check_random_state(self.random_state)
            seed = int(random_state.randint(2**31 - 1))
            low, high = self._check_sizes()
            if isinstance(X, TaskPrior):
                source = self._stream(X, seed, low, high)
            else:
                source = self._rows_of(self._collect(X, y, groups), low, high)
            check_training_parameters(self, len(source.moments["x_mean"]))
            check_likelihood_parameters(self)
            context = self._init_callback_context()
            context.call_on_fit_task_begin(estimator=self, X=X, y=y)
            self._train(source, seed)
            context.call_on_fit_task_end(
                estimator=self, X=X, y=y, reconstruction_attributes=dict
            )
        return self

    def _train(self, source: _Source, seed: int) -> None:
        """Learn; `prior_` comes last."""
        self.n_tasks_ = source.n_tasks
        training = meta_training(
            self,
            self.likelihood,
            int(self.max_iter),
            source.x_range,
            likelihood_parameters(self, source.values),
        )
        try:
            with thread_limits(small=self.hidden_size <= 128):
                prior = training.run(
                    source.draw,
                    n_features=len(source.moments["x_mean"]),
                    n_targets=len(source.moments["y_mean"]),
                    moments=source.moments,
                    seed=seed,
                    device=resolve_device(self.device),
                    on_step=self._report if self.verbose else None,
                )
        except KeyboardInterrupt as interrupt:
            # Ctrl-C: fitted with what was learned, and raised again.
            if hasattr(interrupt, "prior"):
                self.prior_ = interrupt.prior
            raise
        finally:
            self.loss_curve_ = training.losses
            self.n_iter_ = len(training.losses)
        self.prior_ = prior

    def _rows_of(
        self, tasks: list[tuple[Array, Array]], low: int, high: int
    ) -> _Source:
        """Return what draws batches of a collection of tasks."""
        moments = _moments(tasks)
        scaled = [
            (
                (a - moments["x_mean"]) / moments["x_scale"],
                (b - moments["y_mean"]) / moments["y_scale"],
            )
            for a, b in tasks
        ]
        return _Source(
            TaskRows(scaled, (low, high), self.target_size).draw,
            moments,
            (
                float(min(a.min() for a, _ in scaled)),
                float(max(a.max() for a, _ in scaled)),
            ),
            np.concatenate([b for _, b in scaled]),
            len(tasks),
        )

    def _report(self, step: int, loss: float) -> bool:
        if step % 100 == 0:
            print(f"step {step}: loss {loss:.4f}")
        return False

    def _check_sizes(self) -> tuple[int, int]:
        given: Any = self.context_size
        sizes = tuple(given) if isinstance(given, (Sequence, np.ndarray)) else ()
        if len(sizes) != 2 or sizes[0] > sizes[1]:
            raise ValueError(f"context_size must be (fewest, most); got {given!r}")
        low, high = (check_integer("context_size", size) for size in sizes)
        check_integer("target_size", self.target_size)
        check_integer("max_iter", self.max_iter)
        check_integer("n_features", self.n_features)
        return low, high

    def _collect(
        self, X: Any, y: ArrayLike | None, groups: ArrayLike | None
    ) -> list[tuple[Array, Array]]:
        """Return the tasks as checked pairs of arrays."""
        if y is None:
            if not _are_tasks(X):
                raise ValueError(
                    "without y, tasks are a TaskPrior or a sequence of pairs (X, y); "
                    f"got {type(X).__name__}. Rows of tasks need y, and groups"
                )
            tasks = [_checked_task(i, a, b) for i, (a, b) in enumerate(X)]
            widths = {(a.shape[1], b.shape[1]) for a, b in tasks}
            if len(widths) > 1:
                raise ValueError(
                    f"tasks must have equal widths; got (features, targets) in "
                    f"{sorted(widths)}"
                )
            self.n_features_in_ = tasks[0][0].shape[1]
            return tasks
        rows, targets = validate_data(
            self,
            X,
            y,
            dtype=np.float64,
            multi_output=True,
            y_numeric=True,
            ensure_min_samples=2,
        )
        targets = np.asarray(targets, dtype=np.float64).reshape(len(rows), -1)
        if groups is None:
            return [(rows, targets)]
        return split_by_group(rows, targets, groups)

    def _stream(self, prior: TaskPrior, seed: int, low: int, high: int) -> _Source:
        """Return what draws batches of a task prior."""
        n_features = int(self.n_features)
        generator = torch.Generator().manual_seed(seed)
        size = high + int(self.target_size)
        sample = prior._draw(_MOMENT_TASKS, size, n_features, generator)
        x, y = sample.X.double().numpy(), sample.y.double().numpy()[..., None]
        moments = _moments(list(zip(x, y, strict=True)))
        scale = {name: torch.as_tensor(v).float() for name, v in moments.items()}

        def draw(
            n_tasks: int, rows: np.random.Generator, dtype: torch.dtype
        ) -> TaskBatch:
            n_context = int(rows.integers(low, high + 1))
            tasks = prior._draw(
                n_tasks, n_context + int(self.target_size), n_features, generator
            )
            xs = ((tasks.X - scale["x_mean"]) / scale["x_scale"]).to(dtype)
            ys = ((tasks.y[..., None] - scale["y_mean"]) / scale["y_scale"]).to(dtype)
            return TaskBatch.without_padding(
                xs[:, :n_context],
                ys[:, :n_context],
                xs[:, n_context:],
                ys[:, n_context:],
            )

        scaled = (x - moments["x_mean"]) / moments["x_scale"]
        return _Source(
            draw,
            moments,
            (float(scaled.min()), float(scaled.max())),
            (y - moments["y_mean"]) / moments["y_scale"],
            None,
        )

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether there is a prior: a fit that failed leaves none."""
        return hasattr(self, "prior_")

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        return (
            "n_features_in_",
            "feature_names_in_",
            "prior_",
            "loss_curve_",
            "n_iter_",
            "n_tasks_",
        )

    def _check_fitted_state(self) -> None:
        if not isinstance(self.prior_, NeuralProcessPrior):
            raise ValueError("prior_ is no NeuralProcessPrior")


def _are_tasks(X: Any) -> bool:
    """Return whether this is a collection of pairs."""
    if not isinstance(X, Sequence) or isinstance(X, str) or not X:
        return False
    return all(isinstance(task, (tuple, list)) and len(task) == 2 for task in X)


def _checked_task(position: int, X: Any, y: Any) -> tuple[Array, Array]:
    name = f"X of task {position}"
    rows = check_array(X, dtype=np.float64, ensure_min_samples=2, input_name=name)
    targets = check_array(
        y, dtype=np.float64, ensure_2d=False, input_name=f"y of task {position}"
    )
    if len(rows) != len(targets):
        raise ValueError(
            f"task {position} has {len(rows)} rows of X and {len(targets)} of y"
        )
    return rows, targets.reshape(len(rows), -1)


def _moments(tasks: list[tuple[Array, Array]]) -> dict[str, Array]:
    X = np.concatenate([a for a, _ in tasks])
    y = np.concatenate([b for _, b in tasks])
    ones = np.ones(len(X))
    x_mean, x_scale = weighted_moments(X, ones)
    y_mean, y_scale = weighted_moments(y, ones)
    return {"x_mean": x_mean, "x_scale": x_scale, "y_mean": y_mean, "y_scale": y_scale}
