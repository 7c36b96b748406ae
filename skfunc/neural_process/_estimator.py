"""What the regressor and the classifier share: a prior, conditioned on a context."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from skfunc._moments import weighted_moments
from skfunc._validation import check_integer, check_shape
from skfunc.base import FunctionEstimator
from skfunc.neural_process._categories import check_encodings, checked_table
from skfunc.neural_process._functions import context_tensors
from skfunc.neural_process._marginals import LikelihoodMarginals, best_factor
from skfunc.neural_process._parameters import (
    check_training_parameters,
    meta_training,
)
from skfunc.neural_process._prior import NeuralProcessPrior
from skfunc.neural_process._shipped import shipped_prior, warn_out_of_range
from skfunc.neural_process._table import Table, content_order, describe_table
from skfunc.neural_process._tasks import TaskRows
from skfunc.neural_process._training import MetaTraining
from skfunc.nn import (
    ContinuousLikelihood,
    GaussianLikelihood,
    KernelLabelProcess,
    NeuralProcess,
    TaskBatch,
    conditional_log_likelihood,
)
from skfunc.training import resolve_device, thread_limits

Array = NDArray[np.float64]

# Training on one data set: most points of a context and of its targets, the share of
# the rows that judge it, the fewest rows to keep some out, and judgements to wait.
_CONTEXT_ROWS, _TARGET_ROWS = 128, 64
_JUDGE_SHARE, _FEWEST_TO_SPLIT, _PATIENCE = 0.2, 10, 6
# Steps of "auto": so many times the rows, within these bounds.
_STEPS_PER_ROW, _FEWEST_STEPS, _MOST_STEPS = 8, 60, 800
# Rows as sure as the network that its own standard deviation is right.
_PRIOR_ROWS = 10
# Numbers that a chunk of targets takes against the context.
_CHUNK_NUMBERS = 2**20


class _Runtime:
    """What is computed on demand, never stored: the encoded context."""

    def __init__(self) -> None:
        self.state: Any = None


class BaseNeuralProcess(FunctionEstimator):
    """Base of the estimators: a prior, its context, and predictions given it."""

    # Likelihoods of priors that the estimator can condition; the shipped prior's task.
    _likelihoods: tuple[str, ...]
    _task: str
    _runtime: _Runtime

    def __init__(
        self,
        prior: Any = "tabular",
        *,
        variant: str = "cnp",
        hidden_size: int = 128,
        n_layers: int = 3,
        n_heads: int = 4,
        latent_size: int | None = None,
        n_inducing: int = 32,
        min_std: float = 1e-2,
        objective: str = "auto",
        max_iter: int | str = "auto",
        batch_size: int = 8,
        learning_rate_init: float = 3e-3,
        alpha: float = 0.0,
        n_draws: int = 16,
        n_estimators: int = 1,
        finetune_steps: int = 0,
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self.prior = prior
        self.variant = variant
        self.hidden_size = hidden_size
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.latent_size = latent_size
        self.n_inducing = n_inducing
        self.min_std = min_std
        self.objective = objective
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.alpha = alpha
        self.n_draws = n_draws
        self.n_estimators = n_estimators
        self.finetune_steps = finetune_steps
        self.verbose = verbose
        self.random_state = random_state
        self.device = device

    def _likelihood(self, values: Array) -> tuple[str, dict[str, Any]]:
        """Return the likelihood to learn with, given standardized targets."""
        raise NotImplementedError

    def _check_parameters(self, n_features: int) -> None:
        check_training_parameters(self, n_features)
        check_integer("n_draws", self.n_draws)
        if self.max_iter != "auto":
            check_integer("max_iter", self.max_iter)
        if not isinstance(self.prior, (NeuralProcessPrior, str, Path)):
            raise ValueError(
                f"prior={self.prior!r} is unknown; use 'tabular', 'self', a "
                "NeuralProcessPrior, or the path of a saved one"
            )
        check_integer("n_estimators", self.n_estimators)
        check_integer("finetune_steps", self.finetune_steps, 0)

    def _fit_context(self, X: Array, targets: Array) -> None:
        """Take or learn the prior, and condition it on the rows."""
        random_state = check_random_state(self.random_state)
        seed = int(random_state.randint(2**31 - 1))
        self.std_scale_ = np.ones(targets.shape[1])
        if isinstance(self.prior, str) and self.prior == "self":
            try:
                prior = self._learn(X, targets, seed)
            except KeyboardInterrupt as interrupt:
                # Ctrl-C: fitted with what was learned, and raised again.
                if hasattr(interrupt, "prior"):
                    self._condition(interrupt.prior, X, targets, seed)
                raise
        else:
            prior = self._given_prior()
            if prior.takes_any_table:
                prior, X, targets = self._read_table(prior, X, targets)
            self._check_prior_fits(prior, X.shape[1], targets.shape[1])
            # One pass of the network is all.
            self.n_iter_ = 1
        self._condition(prior, X, targets, seed)

    def _read_table(
        self, prior: NeuralProcessPrior, X: Array, targets: Array
    ) -> tuple[NeuralProcessPrior, Array, Array]:
        """Make a prior for any table one of this table, and put its rows in order."""
        warn_out_of_range(len(X), X.shape[1], prior.training)
        order = content_order(X, targets)
        X, targets = X[order], targets[order]
        table = describe_table(X)
        self.columns_, self.missing_columns_ = table.columns, table.with_missing
        y_mean, y_scale = weighted_moments(targets, np.ones(len(targets)))
        if self._likelihoods == ("categorical",):
            y_mean, y_scale = np.zeros_like(y_mean), np.ones_like(y_scale)
        moments = {
            "x_mean": table.mean,
            "x_scale": table.scale,
            "y_mean": y_mean,
            "y_scale": y_scale,
        }
        prior = prior.for_table(
            len(table.mean),
            targets.shape[1],
            moments,
            n_readings=int(self.n_estimators),
            n_gradient_steps=int(self.finetune_steps),
        )
        return prior, X, targets

    def _condition(
        self, prior: NeuralProcessPrior, X: Array, targets: Array, seed: int
    ) -> None:
        """Make the rows the context of a prior, which is all that fitted means."""
        draws = np.random.RandomState(seed)
        self.normals_ = draws.standard_normal((self.n_draws, latent_size(prior)))
        self.X_context_ = self._standardized(prior, X)
        self.y_context_ = self._standardized_targets(prior, targets)
        self._runtime = _Runtime()
        self.prior_ = prior

    def _standardized(self, prior: NeuralProcessPrior, X: Array) -> Array:
        """Return rows in the units of the prior's tasks."""
        mean, scale = prior.moments("x_mean"), prior.moments("x_scale")
        if hasattr(self, "columns_"):
            columns, gaps = self.columns_, self.missing_columns_
            return Table(columns, gaps, mean, scale).standardized(X)
        return (X - mean) / scale

    def _standardized_targets(self, prior: NeuralProcessPrior, targets: Array) -> Array:
        return (targets - prior.moments("y_mean")) / prior.moments("y_scale")

    def _extend_context(self, X: Array, targets: Array) -> None:
        """Add rows to the context."""
        more_x = self._standardized(self.prior_, X)
        more_y = self._standardized_targets(self.prior_, targets)
        X_context = np.concatenate([self.X_context_, more_x])
        y_context = np.concatenate([self.y_context_, more_y])
        self.X_context_, self.y_context_ = X_context, y_context
        self._runtime.state = None

    def _given_prior(self) -> NeuralProcessPrior:
        prior = self.prior
        if isinstance(prior, str) and prior == "tabular":
            return shipped_prior(self._task)
        if not isinstance(prior, NeuralProcessPrior):
            from skfunc.persistence import load

            if not Path(prior).is_file():
                raise FileNotFoundError(
                    f"prior={self.prior!r} is neither 'tabular' nor 'self', and there "
                    "is no such file"
                )
            prior = load(prior)
            if not isinstance(prior, NeuralProcessPrior):
                raise ValueError(f"prior={self.prior!r} holds no NeuralProcessPrior")
        return prior

    def _check_prior_fits(
        self, prior: NeuralProcessPrior, n_features: int, n_targets: int
    ) -> None:
        if prior.likelihood not in self._likelihoods:
            needed = " or ".join(repr(name) for name in self._likelihoods)
            raise ValueError(
                f"the prior predicts with likelihood={prior.likelihood!r}; "
                f"{type(self).__name__} needs {needed}"
            )
        if hasattr(self, "columns_"):
            return
        for name, given, known in (
            ("columns of X", n_features, prior.n_features),
            ("targets", n_targets, prior.n_targets),
        ):
            if given != known:
                raise ValueError(
                    f"the prior was learned from tasks of {known} {name}; got {given}"
                )

    def _check_rows(self, X: ArrayLike) -> Array:
        """Check rows to predict for; NaN is information to a prior for any table."""
        check_is_fitted(self)
        return self._checked(X, reset=False)

    def _checked(
        self, X: ArrayLike, y: Any = "no_validation", *, reset: bool, **options: Any
    ) -> Any:
        """Check rows, and targets where given; a table may have gaps and categories."""
        takes_any = self._takes_missing() if reset else hasattr(self, "columns_")
        if not takes_any:
            return validate_data(self, X, y, reset=reset, dtype=np.float64, **options)
        return checked_table(self, X, y, reset=reset, **options)

    def _takes_missing(self) -> bool:
        """Return whether the prior parameter takes NaN in X."""
        prior = self.prior
        if isinstance(prior, NeuralProcessPrior):
            return prior.takes_any_table
        return isinstance(prior, str) and prior == "tabular"

    def __sklearn_tags__(self) -> Tags:
        """Return the tags: missing values are taken by a prior for any table."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._takes_missing()
        return tags

    def _learn(self, X: Array, targets: Array, seed: int) -> NeuralProcessPrior:
        """Learn from random contexts and targets of the one data set."""
        ones = np.ones(len(X))
        x_mean, x_scale = weighted_moments(X, ones)
        y_mean, y_scale = weighted_moments(targets, ones)
        if self._likelihoods == ("categorical",):
            y_mean, y_scale = np.zeros_like(y_mean), np.ones_like(y_scale)
        rows, values = (X - x_mean) / x_scale, (targets - y_mean) / y_scale
        generator = np.random.default_rng(seed)
        judged: list[int] = []
        if len(rows) >= _FEWEST_TO_SPLIT:
            judged = generator.permutation(len(rows))[
                : max(int(_JUDGE_SHARE * len(rows)), 2)
            ].tolist()
        kept = np.setdiff1d(np.arange(len(rows)), judged)
        steps = self.max_iter
        if steps == "auto":
            wanted = _STEPS_PER_ROW * len(rows)
            steps = int(np.clip(wanted, _FEWEST_STEPS, _MOST_STEPS))
        if len(kept) < 2:
            # One row has no target besides itself.
            kept = np.repeat(kept, 2)
        source = TaskRows(
            [(rows[kept], values[kept])],
            (1, min(_CONTEXT_ROWS, max(len(kept) - 1, 1))),
            _TARGET_ROWS,
        )
        device = resolve_device(self.device)
        likelihood, parameters = self._likelihood(values[kept])
        x_range = (float(rows.min()), float(rows.max()))
        training = meta_training(self, likelihood, int(steps), x_range, parameters)
        moments = {
            "x_mean": x_mean,
            "x_scale": x_scale,
            "y_mean": y_mean,
            "y_scale": y_scale,
        }
        try:
            with thread_limits(small=True):
                prior = training.run(
                    source.draw,
                    n_features=rows.shape[1],
                    n_targets=values.shape[1],
                    moments=moments,
                    seed=seed,
                    device=device,
                    judge=self._judge(training, rows, values, kept, judged, device),
                    judge_every=max(int(steps) // 20, 10),
                    patience=_PATIENCE,
                    on_step=self._report if self.verbose else None,
                )
        finally:
            self.loss_curve_ = training.losses
            self.n_iter_ = len(training.losses)
        if judged and likelihood != "categorical":
            self.std_scale_ = _std_scale(
                prior, rows[kept], values[kept], rows[judged], values[judged]
            )
        return prior

    def _report(self, step: int, loss: float) -> bool:
        if step % 100 == 0:
            print(f"step {step}: loss {loss:.4f}")
        return False

    def _judge(
        self,
        training: MetaTraining,
        rows: Array,
        values: Array,
        kept: NDArray[np.intp],
        judged: list[int],
        device: torch.device,
    ):
        """Return the loss of the rows kept out, given the others; None if none are."""
        if not judged:
            return None
        likelihood = training.build_likelihood().to(device, torch.float32)

        def tensor(array: Array) -> Tensor:
            return torch.as_tensor(array[None], dtype=torch.float32, device=device)

        batch = TaskBatch.without_padding(
            tensor(rows[kept]),
            tensor(values[kept]),
            tensor(rows[judged]),
            tensor(values[judged]),
        )

        def loss(network: NeuralProcess) -> float:
            return -float(conditional_log_likelihood(network, likelihood, batch))

        return loss

    def _state(self) -> Any:
        """Return the encoded context, computed once."""
        if self._runtime.state is None:
            with torch.no_grad(), thread_limits(small=True):
                self._runtime.state = self.prior_.network().encode(
                    *context_tensors(self.X_context_, self.y_context_)
                )
        return self._runtime.state

    def _raw(self, X: Array) -> Tensor:
        """Return raw outputs for standardized rows, (draws, n, n_raw)."""
        network, state = self.prior_.network(), self._state()
        z = None
        if network.is_latent:
            latent = network.posterior(state)
            z = latent.mean + latent.std * torch.as_tensor(self.normals_)[:, None]
        parts = []
        with torch.no_grad(), thread_limits(small=True):
            for rows in self._chunks(len(X)):
                raw = network.decode(state, torch.as_tensor(X[rows][None]), z=z)
                parts.append(raw[:, 0] if network.is_latent else raw)
        return torch.cat(parts, dim=1)

    def _chunks(self, n_rows: int) -> Iterator[slice]:
        step = max(1, _CHUNK_NUMBERS // (len(self.X_context_) + 64))
        for start in range(0, max(n_rows, 1), step):
            yield slice(start, start + step)

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether there is a prior: a fit that failed leaves none."""
        return hasattr(self, "prior_")

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what is computed on demand."""
        state = dict(super().__getstate__())
        state.pop("_runtime", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        super().__setstate__(state)
        if hasattr(self, "prior_"):
            self._runtime = _Runtime()

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        return (
            "n_features_in_",
            "feature_names_in_",
            "prior_",
            "normals_",
            "std_scale_",
            "categories_",
            "columns_",
            "missing_columns_",
            "X_context_",
            "y_context_",
            "loss_curve_",
            "n_iter_",
        )

    def _check_fitted_state(self) -> None:
        """Raise ValueError if loaded attributes do not make a fitted estimator."""
        n_features = check_integer("n_features_in_", self.n_features_in_)
        self._check_parameters(n_features)
        if not isinstance(self.prior_, NeuralProcessPrior):
            raise ValueError("prior_ is no NeuralProcessPrior")
        prior, n_rows = self.prior_, len(self.X_context_)
        if prior.likelihood not in self._likelihoods:
            raise ValueError(f"prior_ predicts with likelihood={prior.likelihood!r}")
        if hasattr(self, "categories_"):
            check_encodings(self.categories_, n_features)
        if hasattr(self, "columns_"):
            n_columns = len(self.columns_) + len(self.missing_columns_)
            if n_columns != prior.n_features:
                raise ValueError(
                    f"columns_ and missing_columns_ are {n_columns}; prior_ was made "
                    f"for {prior.n_features}"
                )
        check_shape("X_context_", self.X_context_, (n_rows, prior.n_features))
        check_shape("y_context_", self.y_context_, (n_rows, prior.n_targets))
        check_shape("std_scale_", self.std_scale_, (prior.n_targets,))
        check_shape("normals_", self.normals_, (self.n_draws, latent_size(prior)))


def _std_scale(
    prior: NeuralProcessPrior, X: Array, y: Array, X_out: Array, y_out: Array
) -> Array:
    """Return the factor on standard deviations that rows kept out ask for.

    For Gaussians the root mean square of standardized residuals, drawn to one as if
    some rows more had been predicted with the stated deviation; otherwise what
    maximizes the likelihood in the same way.
    """
    likelihood = prior.likelihood_module()
    network = prior.network()
    with torch.no_grad():
        state = network.encode(*context_tensors(X, y))
        raw = network.decode(state, torch.as_tensor(X_out[None]))
    if not isinstance(likelihood, GaussianLikelihood):
        assert isinstance(likelihood, ContinuousLikelihood)
        ones = np.ones(y.shape[1])
        stated = LikelihoodMarginals(likelihood, raw, 0.0 * ones, ones, ones)
        return best_factor(stated, y_out, _PRIOR_ROWS)
    mean, std = (part[0].numpy() for part in likelihood.parameters_of(raw))
    variance = np.square(std)
    squares = np.square(y_out - mean) / variance
    total = squares.sum(axis=0) + _PRIOR_ROWS
    return np.sqrt(total / (len(y_out) + _PRIOR_ROWS))


def latent_size(prior: NeuralProcessPrior) -> int:
    """Return the width of a prior's latent, or of the classes it regresses, or one."""
    network = prior.network()
    if isinstance(network, KernelLabelProcess):
        return prior.n_targets
    if not network.is_latent:
        return 1
    nothing = torch.zeros(1, 0, 1, dtype=torch.float64)
    latent = network.infer(
        nothing.expand(1, 0, prior.n_features),
        nothing.expand(1, 0, prior.n_targets),
        torch.zeros(1, 0, dtype=torch.bool),
    )
    return latent.mean.shape[1]
