"""Training of a conditional flow, and the judgement of what it is worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skfunc._shapes import Float
from skfunc.nn import ConditionalFlow, SolverOptions
from skfunc.training import (
    MemberStack,
    TrainingOptions,
    TrainingResult,
    member_seeds,
    thread_limits,
    train,
)

Array = NDArray[np.float64]

# A flow is tried from so many distinct rows on, as in `CNFDensity`.
_FEWEST_ROWS = 50
# It must gain more than so many standard errors on held-out rows.
_STANDARD_ERRORS = 2.0
# "auto" trains on all rows at once, in float64, up to so many; beyond that with about
# so many batches an epoch, within these sizes: a flow is worth large steps, since one
# costs as much for a few rows as for a hundred.
_FULL_BATCH_ROWS, _BATCHES_PER_EPOCH, _SMALLEST, _LARGEST = 64, 4, 32, 256
_MAX_GRADIENT_NORM = 5.0
# Training solves by midpoint steps, predictions by steps of the fourth order that are
# doubled while that moves log densities by more than this in the mean.
_STEP_ERROR, _MOST_DOUBLINGS = 1e-3, 4
# Long training may learn to profit from the errors of its few steps. So an epoch is
# judged on held-out rows by so many times as many steps, of the fourth order, and
# whether to keep the flow by so many.
_JUDGED_BY, _KEPT_BY = 2, 4
# Rows that the steps are judged by.
_PROBE_ROWS = 500
# Rows times members of a step that is worth more threads.
_SMALL_BATCH = 100_000
# Rows of one evaluation of all members.
_CHUNK_ROWS = 2000
# Smallest share of the mean weight, as for the Gaussians.
_SMALLEST_WEIGHT = 1e-20


@dataclass(frozen=True)
class FlowRows:
    """What a flow is fitted to.

    Parameters
    ----------
    X : ndarray of shape (rows, features)
        Standardized rows.
    residuals : ndarray of shape (members, rows, targets)
        Residuals of each member's Gaussian, in its deviations.
    weights : ndarray of shape (members, rows)
        Training weights.
    held_out : ndarray of shape (members, rows), optional
        Weights of the rows that a member never saw.
    """

    X: Float[np.ndarray, "rows features"]
    residuals: Float[np.ndarray, "members rows targets"]
    weights: Float[np.ndarray, "members rows"]
    held_out: Float[np.ndarray, "members rows"] | None

    @property
    def can_judge(self) -> bool:
        """Whether there are rows enough, some of them held out, to judge a flow by."""
        if self.held_out is None:
            return False
        return len(np.unique(self.X, axis=0)) >= _FEWEST_ROWS


@dataclass(frozen=True)
class TrainedFlow:
    """A trained flow: parameters, curves, and the held-out gain with its error."""

    parameters: Float[np.ndarray, "members parameters"]
    losses: list[float]
    validation_scores: list[float] | None
    gain: Float[np.ndarray, " 2"] | None
    interrupted: bool

    @property
    def helps(self) -> bool:
        """Whether held-out rows gain by the flow beyond doubt."""
        if self.gain is None:
            return False
        return bool(self.gain[0] > _STANDARD_ERRORS * self.gain[1])


def flow_losses(
    flow: ConditionalFlow,
    X: Float[Tensor, "members rows features"],
    residuals: Float[Tensor, "members rows targets"],
    solver: SolverOptions,
) -> Float[Tensor, "members rows"]:
    """Return negative log densities of residuals, up to that of a normal's constant."""
    u, log_det = flow.to_base(flow.context(X), residuals, solver)
    return 0.5 * (u * u).sum(-1) - log_det


def train_flow(
    stack: MemberStack,
    rows: FlowRows,
    solver: SolverOptions,
    *,
    seed: int,
    start: Array | None,
    learning_rate: float,
    alpha: float,
    max_iter: int,
    batch_size: int | None,
    n_iter_no_change: int,
    tol: float,
    device: torch.device,
    on_epoch_begin: Callable[[], None],
    on_epoch: Callable[[TrainingResult], bool],
) -> TrainedFlow:
    """Train a flow of each member by maximum likelihood.

    Its best epoch is that of all members' held-out rows together: a member's own are
    few. The arguments are those of `skfunc.training.TrainingOptions` and `train`.
    """
    members, n_rows = rows.weights.shape
    small = n_rows <= _FULL_BATCH_ROWS
    dtype = torch.float64 if small and device.type == "cpu" else torch.float32
    seeds = member_seeds(np.random.RandomState(seed), members)
    flat = stack.initial(seeds).numpy() if start is None else start
    total = rows.weights if rows.held_out is None else rows.weights + rows.held_out
    unit = total[0].mean()

    def tensor(values: Array) -> Tensor:
        return torch.as_tensor(values, dtype=dtype, device=device)

    def in_units(weights: Array) -> Array:
        floor = np.maximum(weights / unit, _SMALLEST_WEIGHT)
        return np.where(weights > 0, floor, 0.0)

    def loss(
        module: nn.Module, batch: Sequence[Tensor], solver: SolverOptions = solver
    ) -> Tensor:
        assert isinstance(module, ConditionalFlow)
        # A batch holds every member's residuals of its rows: each takes its own.
        own = torch.diagonal(batch[1], dim1=0, dim2=2).permute(2, 0, 1)
        return flow_losses(module, batch[0], own.contiguous(), solver)

    def has_stalled(result: TrainingResult) -> bool:
        asked = on_epoch(result)
        # Members stop together, since each is at its own place in a batch.
        waited = result.n_iter - result.best_epochs.max()
        return bool(asked or waited >= n_iter_no_change)

    if batch_size is None:
        batch_size = n_rows
        if not small:
            size = math.ceil(n_rows / _BATCHES_PER_EPOCH)
            batch_size = int(np.clip(size, _SMALLEST, _LARGEST))
    weights = in_units(rows.weights)
    # As for the Gaussians: the penalty's share is that of the weights as given.
    evidence = np.maximum(rows.weights.sum(axis=1), 1.0)
    options = TrainingOptions(
        learning_rate=np.full(members, learning_rate),
        alpha=alpha * weights.sum(axis=1) / evidence,
        max_iter=max_iter,
        batch_size=min(batch_size, n_rows),
        tol=tol,
        n_iter_no_change=n_iter_no_change,
        stop_on_plateau=False,
        max_gradient_norm=_MAX_GRADIENT_NORM,
    )
    tensors = [tensor(rows.X), tensor(rows.residuals.swapaxes(0, 1))]
    with thread_limits(small=min(batch_size, n_rows) * members < _SMALL_BATCH):
        result = train(
            stack,
            tensor(flat),
            loss,
            tensors,
            tensor(weights),
            seeds=seeds,
            options=options,
            held_out_loss=partial(loss, solver=_finer(solver, _JUDGED_BY)),
            held_out_weights=(
                None if rows.held_out is None else tensor(in_units(rows.held_out))
            ),
            groups=np.zeros(members, dtype=int),
            on_epoch_begin=on_epoch_begin,
            on_epoch=has_stalled,
        )
    parameters = result.flat.detach().cpu().double().numpy()
    gain = None
    if rows.held_out is not None:
        flow = stack.bind(torch.as_tensor(parameters))
        assert isinstance(flow, ConditionalFlow)
        gain = _held_out_gain(flow, rows, solver)
    scores = [-_mean(losses) for losses in result.validation_losses]
    return TrainedFlow(
        parameters,
        [_mean(losses) for losses in result.losses],
        scores or None,
        gain,
        result.interrupted,
    )


def _finer(solver: SolverOptions, factor: int) -> SolverOptions:
    """Return steps of the fourth order, so many times as many."""
    return replace(solver, method="rk4", n_steps=factor * (solver.n_steps or 1))


def _held_out_gain(
    flow: ConditionalFlow, rows: FlowRows, solver: SolverOptions
) -> Array:
    """Return what held-out rows gain in log density, and its standard error."""
    assert rows.held_out is not None
    losses = _losses(flow, rows, _finer(solver, _KEPT_BY))
    gains = 0.5 * np.square(rows.residuals).sum(-1) - losses
    held = rows.held_out > 0
    gains, weights = gains[held], rows.held_out[held]
    mean = np.average(gains, weights=weights)
    variance = np.average((gains - mean) ** 2, weights=weights)
    return np.array([mean, np.sqrt(variance / max(weights.sum(), 1.0))])


def _losses(flow: ConditionalFlow, rows: FlowRows, solver: SolverOptions) -> Array:
    """Return every member's losses of all rows, in chunks."""
    members = len(rows.weights)
    losses = []
    with torch.no_grad():
        for start in range(0, len(rows.X), _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            X = torch.as_tensor(rows.X[part])
            residuals = torch.as_tensor(np.ascontiguousarray(rows.residuals[:, part]))
            X = X.expand(members, *X.shape)
            losses.append(flow_losses(flow, X, residuals, solver).numpy())
    return np.concatenate(losses, axis=1)


def enough_steps(flow: ConditionalFlow, rows: FlowRows, n_steps: int) -> int:
    """Return how many steps make log densities exact."""
    # Every so many rows, not the first, since rows may be sorted.
    thinned = slice(None, None, max(1, len(rows.X) // _PROBE_ROWS))
    probe = replace(rows, X=rows.X[thinned], residuals=rows.residuals[:, thinned])

    def losses(n_steps: int) -> Array:
        return _losses(flow, probe, SolverOptions(method="rk4", n_steps=n_steps))

    current = losses(n_steps)
    for _ in range(_MOST_DOUBLINGS):
        closer = losses(2 * n_steps)
        if np.abs(closer - current).mean() < _STEP_ERROR:
            break
        n_steps, current = 2 * n_steps, closer
    return n_steps


def _mean(losses: Array) -> float:
    return float(np.nanmean(losses))
