"""Estimators that train a stack of networks: data in, members trained, state kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from torch import Tensor, nn

from skfunc._epoch_watch import EpochWatch, mean_of_members
from skfunc._moments import pooled_moments, weighted_moments
from skfunc._shapes import Float
from skfunc._validation import (
    check_image_shape,
    check_integer,
    check_option,
    check_real,
    check_shape,
)
from skfunc.base import FunctionEstimator
from skfunc.training import (
    MemberStack,
    TrainingOptions,
    TrainingResult,
    member_seeds,
    resolve_device,
    row_folds,
    thread_limits,
    train,
)

# "auto" trains on all rows at once up to this many, in float64: then an integer weight
# means the same as copies of the row, to rounding.
FULL_BATCH_ROWS = 64
# "auto" batches beyond that: about this many per epoch, within these sizes.
_BATCHES_PER_EPOCH, _SMALLEST_BATCH, _LARGEST_BATCH = 16, 32, 256
# "auto" epochs: the most, reached up to so many row visits in all, and the least.
_MOST_EPOCHS, _ROW_VISITS, _FEWEST_EPOCHS = 200, 600_000, 20
# Distinct rows are counted in tables smaller than this.
_ROWS_TO_COUNT = 1000
# Rows below which "auto" keeps no row out: a held-out part would be too small to judge.
FEWEST_ROWS_TO_SPLIT = 8
# Numbers in one chunk's input and state at predict time.
_PREDICT_NUMBERS = 4_000_000
# Predictions smaller than this many numbers run on one thread.
_SMALL_PREDICTION = 1e7
# Steepest gradient of a member, against rare rows with tiny predicted noise.
_MAX_GRADIENT_NORM = 5.0
# Smallest share of the mean weight: a row of less could vanish in single precision.
_SMALLEST_WEIGHT = 1e-20
# Rows farther than so many standard deviations from the training mean are moved there,
# where sums and squares are still finite.
_FARTHEST = 1e8
# Work of a training step (rows x members x parameters) that is worth more threads.
_SMALL_STEP = 2e8


def _in_units(weights: NDArray[np.float64], unit: float) -> NDArray[np.float64]:
    """Divide weights; what is positive stays so in single precision."""
    return np.where(weights > 0, np.maximum(weights / unit, _SMALLEST_WEIGHT), 0.0)


class _Runtime:
    """What is rebuilt on demand, never stored: the module, the last report."""

    def __init__(self) -> None:
        self.stack: MemberStack | None = None
        self.report: Any = None
        # Of the last weight paths from the prior, where the members draw any.
        self.divergence: Any = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Runtime)

    __hash__ = None  # type: ignore[assignment]


class MemberNetworkEstimator(FunctionEstimator):
    """Base of estimators whose members are networks of one shape, trained in one pass.

    A subclass implements `_build_module`, `_row_loss` and `_calibrate`, and calls
    `_fit_members` from its fit.
    """

    _runtime: _Runtime

    def _build_module(self, n_features: int, n_outputs: int) -> nn.Module:
        raise NotImplementedError

    def _draw(self, module: nn.Module, generator: torch.Generator) -> None:
        raise NotImplementedError

    def _row_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> Float[Tensor, "members rows"]:
        raise NotImplementedError

    def _training_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return what training minimizes, where it is not what rows are judged by.

        A second value of every member is its divergence, which `_divergence` weighs.
        """
        return self._row_loss(module, batch)

    def _network_outputs(
        self, module: nn.Module, rows: Tensor, **options: Any
    ) -> tuple[Float[Tensor, "members rows outputs"], Any]:
        raise NotImplementedError

    def _calibrate(
        self,
        outputs: NDArray[np.float64],
        held_out: NDArray[np.float64],
        targets: NDArray[Any],
    ) -> dict[str, Any]:
        """Return calibration attributes from what members say of unseen rows.

        Parameters
        ----------
        outputs : ndarray of shape (members, rows, outputs)
            Every member's outputs for every training row.
        held_out : ndarray of shape (members, rows)
            Weight of the rows that a member never saw, 0 elsewhere.
        targets : ndarray of shape (rows, ...)
            The targets.
        """
        raise NotImplementedError

    def _check_training_parameters(self) -> None:
        check_integer("n_members", self.n_members)
        if self.max_iter != "auto":
            check_integer("max_iter", self.max_iter)
        check_integer("n_iter_no_change", self.n_iter_no_change)
        check_real("learning_rate_init", self.learning_rate_init, 0, inclusive=False)
        check_real("alpha", self.alpha, 0)
        check_real("tol", self.tol, 0)
        check_real(
            "validation_fraction", self.validation_fraction, 0, 1, inclusive=False
        )
        check_option("early_stopping", self.early_stopping, ("auto", True, False))
        if self.batch_size != "auto":
            check_integer("batch_size", self.batch_size)
        resolve_device(self.device)

    def _batch_size(self, n_rows: int) -> int:
        if self.batch_size != "auto":
            return min(int(self.batch_size), n_rows)
        if n_rows <= FULL_BATCH_ROWS:
            return FULL_BATCH_ROWS
        size = n_rows // _BATCHES_PER_EPOCH
        return int(np.clip(size, _SMALLEST_BATCH, _LARGEST_BATCH))

    def _epochs(self, n_rows: int) -> int:
        if self.max_iter != "auto":
            return int(self.max_iter)
        return int(np.clip(_ROW_VISITS // n_rows, _FEWEST_EPOCHS, _MOST_EPOCHS))

    def _member_weights(
        self,
        X: NDArray[np.float64],
        labels: NDArray[np.intp] | None,
        weights: NDArray[np.float64],
        random_state: np.random.RandomState,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return training and held-out weights of each member, (members, rows)."""
        everything = np.tile(weights, (self.n_members, 1))
        # Sorting all rows is left to large tables' folds, which need it anyway.
        few = len(X) < _ROWS_TO_COUNT
        n_distinct = len(np.unique(X, axis=0)) if few else len(X)
        if self.early_stopping is False or (
            self.early_stopping == "auto" and n_distinct < FEWEST_ROWS_TO_SPLIT
        ):
            return everything, None
        n_folds = max(2, round(1.0 / self.validation_fraction))
        n_folds = min(n_folds, n_distinct)
        if n_folds < 2:
            return everything, None
        fold = row_folds(X, n_folds, random_state, labels)
        held = fold[None, :] == (np.arange(self.n_members) % n_folds)[:, None]
        # A class or row set that a member would not see at all stays with it.
        empty = ~(everything * ~held).any(axis=1)
        held[empty] = False
        return everything * ~held, everything * held

    def _fit_members(
        self,
        X: NDArray[np.float64],
        targets: NDArray[Any],
        weights: NDArray[np.float64],
        n_outputs: int,
        fixed: dict[str, Any],
        fit_data: tuple[ArrayLike, ArrayLike],
        labels: NDArray[np.intp] | None = None,
    ) -> None:
        """Train on checked rows of positive weight; set the fitted attributes.

        Parameters
        ----------
        X : ndarray of shape (rows, features)
            Standardized rows.
        targets : ndarray of shape (rows, targets) or (rows,)
            Standardized targets, or class positions.
        weights : ndarray of shape (rows,)
            Positive weights.
        n_outputs : int
            Width of the network's output.
        fixed : dict
            Attributes that are known before training (scales, classes).
        fit_data : tuple
            X and y as the user gave them, for callbacks.
        labels : ndarray of shape (rows,), optional
            Classes that the held-out parts are stratified by.
        """
        random_state = check_random_state(self.random_state)
        device = resolve_device(self.device)
        batch_size, epochs = self._batch_size(len(X)), self._epochs(len(X))
        small = len(X) <= FULL_BATCH_ROWS
        dtype = torch.float64 if small and device.type == "cpu" else torch.float32
        stack = MemberStack(
            lambda: self._build_module(X.shape[1], n_outputs), self._draw
        )
        fold_state = np.random.RandomState(random_state.randint(2**31 - 1))
        seeds = member_seeds(random_state, self.n_members)
        member_weights, held_out = self._member_weights(X, labels, weights, fold_state)
        flat = self._initial_parameters(stack, seeds)
        fixed = fixed | self._prepare(stack.module, random_state)

        # Weights of any magnitude become numbers around one; the penalty's share of a
        # member's loss is that of the given weights, but never more than one row's.
        unit = weights.mean()
        evidence = np.maximum(member_weights.sum(axis=1), 1.0)
        member_weights = _in_units(member_weights, unit)
        share = member_weights.sum(axis=1) / evidence
        divergence, warmup = self._divergence() or (None, 0.0)

        def tensor(values: NDArray[Any]) -> Tensor:
            kind = torch.long if values.dtype.kind in "iu" else dtype
            return torch.as_tensor(values, dtype=kind, device=device)

        options = TrainingOptions(
            learning_rate=np.full(self.n_members, float(self.learning_rate_init)),
            alpha=float(self.alpha) * share,
            max_iter=epochs,
            batch_size=batch_size,
            tol=self.tol,
            n_iter_no_change=self.n_iter_no_change,
            max_gradient_norm=_MAX_GRADIENT_NORM,
            cuda_graph=getattr(self, "cuda_graph", False),
            divergence_weight=None if divergence is None else divergence * share,
            divergence_warmup=warmup,
        )
        watch = EpochWatch(
            self,
            epochs + self._further_epochs(epochs),
            partial(self._fitted_so_far, fixed),
            fit_data,
        )
        step = min(batch_size, len(X)) * self.n_members * stack.n_parameters
        with thread_limits(small=step < _SMALL_STEP):
            result = train(
                stack,
                tensor(flat),
                self._training_loss,
                [tensor(X), tensor(targets)],
                tensor(member_weights),
                seeds=seeds,
                options=options,
                held_out_weights=(
                    None if held_out is None else tensor(_in_units(held_out, unit))
                ),
                held_out_loss=self._row_loss,
                on_epoch_begin=watch.begin,
                on_epoch=watch.end,
            )
            self._set_fitted(fixed | self._training_attributes(result))
            outputs = self._member_outputs(X, **self._fit_options())
            self._finish_fit(outputs, targets, member_weights * unit)
            if held_out is not None:
                self._set_fitted(self._calibrate(outputs, held_out, targets))
        interrupted = result.interrupted or self._train_further(X, targets, watch)
        watch.close()
        if interrupted:
            raise KeyboardInterrupt

    def _further_epochs(self, epochs: int) -> int:
        """Return how many epochs `_train_further` takes at most."""
        return 0

    def _train_further(
        self, X: NDArray[np.float64], targets: NDArray[Any], watch: EpochWatch
    ) -> bool:
        """Train what stands on the members; return whether it was interrupted."""
        return False

    def _finish_fit(
        self,
        outputs: NDArray[np.float64],
        targets: NDArray[Any],
        weights: NDArray[np.float64],
    ) -> None:
        """Set what the outputs tell for the training rows, of weights per member."""

    def _prepare(
        self, module: nn.Module, random_state: np.random.RandomState
    ) -> dict[str, Any]:
        """Ready a module for training; return attributes that this fixes."""
        return {}

    def _fit_options(self) -> dict[str, Any]:
        """Return options of the outputs that a fit is finished and calibrated by."""
        return {}

    def _divergence(self) -> tuple[float, float] | None:
        """Return the factor on the divergence and its warm-up, if there is one."""
        return None

    def _input_moments(
        self, X: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what rows are standardized by; pixels share it within a channel."""
        shape = check_image_shape(getattr(self, "image_shape", None), X.shape[1])
        if shape is None:
            return weighted_moments(X, weights)
        return pooled_moments(X, weights, shape[0])

    def _scaled(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Standardize rows to predict for."""
        with np.errstate(over="ignore"):
            scaled = (X - self.X_mean_) / self.X_scale_
        return np.clip(scaled, -_FARTHEST, _FARTHEST)

    def _initial_parameters(
        self, stack: MemberStack, seeds: Sequence[int]
    ) -> NDArray[np.float64]:
        previous = getattr(self, "parameters_", None) if self.warm_start else None
        if previous is not None:
            if previous.shape != (len(seeds), stack.n_parameters):
                raise ValueError(
                    "warm_start=True needs the network of the previous fit: it had "
                    f"{previous.shape[0]} members of {previous.shape[1]} parameters, "
                    f"this one has {len(seeds)} of {stack.n_parameters}"
                )
            return np.asarray(previous, dtype=np.float64)
        return stack.initial(seeds).numpy()

    def _training_attributes(self, result: TrainingResult) -> dict[str, Any]:
        flat = result.flat.detach().cpu()
        return {
            "parameters_": flat.numpy(),
            "n_iter_": result.n_iter,
            "best_iter_": np.asarray(result.best_epochs),
            "loss_curve_": [mean_of_members(row) for row in result.losses],
            "validation_scores_": [
                -mean_of_members(row) for row in result.validation_losses
            ]
            or None,
            "n_retries_": np.asarray(result.n_retries),
        }

    def _fitted_so_far(
        self, fixed: dict[str, Any], result: TrainingResult
    ) -> dict[str, Any]:
        """Return the fitted attributes with members that are being trained."""
        attributes = self._training_attributes(result)
        attributes["parameters_"] = attributes["parameters_"].copy()
        return fixed | attributes | {"_runtime": _Runtime()}

    def _set_fitted(self, attributes: dict[str, Any]) -> None:
        for name, value in attributes.items():
            setattr(self, name, value)
        self._runtime = _Runtime()

    def _bound_module(self, members: slice = slice(None)) -> nn.Module:
        """Return the module with the fitted parameters, in float64."""
        if self._runtime.stack is None:
            self._runtime.stack = MemberStack(
                lambda: self._build_module(self.n_features_in_, self._n_outputs())
            )
        flat = torch.as_tensor(self.parameters_[members], dtype=torch.float64)
        return self._runtime.stack.bind(flat)

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        return (
            "n_features_in_",
            "feature_names_in_",
            "parameters_",
            "n_iter_",
            "best_iter_",
            "loss_curve_",
            "validation_scores_",
            "n_retries_",
            "X_mean_",
            "X_scale_",
        )

    def _check_parameters(self, n_features: int) -> None:
        raise NotImplementedError

    def _check_fitted_state(self) -> None:
        """Raise ValueError if loaded attributes do not make a fitted estimator."""
        n_features = check_integer("n_features_in_", self.n_features_in_)
        self._check_parameters(n_features)
        # On the meta device a network costs nothing, however large the file says it is.
        with torch.device("meta"):
            module = self._build_module(n_features, self._n_outputs())
        n_parameters = sum(value.numel() for value in module.parameters())
        check_shape("parameters_", self.parameters_, (self.n_members, n_parameters))
        check_shape("X_mean_", self.X_mean_, (n_features,))
        check_shape("X_scale_", self.X_scale_, (n_features,))

    def _n_outputs(self) -> int:
        raise NotImplementedError

    def _numbers_per_row(self) -> int:
        """Return about how many numbers a row takes while it is computed."""
        raise NotImplementedError

    def _record_reports(self, reports: list[tuple[int, Any]]) -> None:
        """Keep the solver's reports of the chunks of one prediction."""
        raise NotImplementedError

    def _member_outputs(
        self, X: NDArray[np.float64], **options: Any
    ) -> NDArray[np.float64]:
        """Return every member's outputs for standardized rows, (members, rows, out)."""
        module = self._bound_module()
        members = len(self.parameters_)
        numbers = max(X.shape[1], self._numbers_per_row())
        step = max(1, _PREDICT_NUMBERS // (members * numbers))
        outputs, reports = [], []
        with (
            torch.no_grad(),
            thread_limits(small=len(X) * members * numbers < _SMALL_PREDICTION),
        ):
            for start in range(0, max(len(X), 1), step):
                rows = torch.as_tensor(X[start : start + step])
                rows = rows.unsqueeze(0).expand(members, *rows.shape)
                output, report = self._network_outputs(module, rows, **options)
                outputs.append(output.numpy())
                reports.append((len(rows[0]), report))
        self._record_reports(reports)
        return np.concatenate(outputs, axis=1)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what is rebuilt on demand."""
        state = dict(super().__getstate__())
        state.pop("_runtime", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        super().__setstate__(state)
        if hasattr(self, "parameters_"):
            self._runtime = _Runtime()
