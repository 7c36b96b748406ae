"""Fit of a density: a base, the flow over it, and whether the flow is worth having."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skfunc._shapes import Float
from skfunc.nn import ContinuousFlow, SolverOptions
from skfunc.ode._cnf_forms import Base, BaseForm
from skfunc.ode._cnf_prospects import Prospects
from skfunc.ode._cnf_training import FlowTraining, Stage
from skfunc.training import MemberStack, TrainingResult, thread_limits

Array = NDArray[np.float64]

# A flow is kept if its gain on held-out rows is more than this many standard errors:
# the best epoch was chosen on the same rows.
_GAIN_STANDARD_ERRORS = 2.0
# Numbers in one chunk's state while rows are scored.
_CHUNK_NUMBERS = 4_000_000
# Steps of a fixed grid are doubled until log densities move by less, in the mean.
_STEP_ERROR, _MOST_DOUBLINGS = 1e-3, 4


@dataclass(frozen=True)
class FlowSettings:
    """What is alike for all candidates of one fit."""

    stack: MemberStack
    solver: SolverOptions
    alpha: float
    kinetic_penalty: float
    jacobian_penalty: float
    device: torch.device
    seed: int
    # Told of every epoch; the latter says whether to stop.
    on_epoch_begin: Callable[[], None] | None = None
    on_epoch: Callable[[TrainingResult, Base], bool] | None = None


@dataclass
class FittedFlow:
    """A base and the flow's parameters over it."""

    base: Base
    parameters: Array
    epochs: tuple[int, ...] = ()
    losses: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    n_retries: int = 0
    interrupted: bool = False
    stopped: bool = False


def train_flow(
    form: BaseForm,
    stages: Sequence[Stage],
    rows: Array,
    held_out: Array,
    settings: FlowSettings,
    epochs: Sequence[int] | None = None,
    prospects: Prospects | None = None,
) -> FittedFlow:
    """Train a flow over a base fitted to rows.

    Parameters
    ----------
    form : BaseForm
        The base, fitted here to the training rows.
    stages : sequence of Stage
        One after the other, each from the best parameters before.
    rows, held_out : ndarray of shape (rows, size)
        What is trained on, and what judges; the latter may be empty.
    settings : FlowSettings
        The network, and how it is trained.
    epochs : sequence of int, optional
        Epochs after which each stage ends; 0 leaves one out.
    prospects : Prospects, optional
        What may end maximum likelihood, the last stage, before its time.
    """
    base = form.fit(rows, settings.seed)
    stack = settings.stack
    flow = FittedFlow(base, stack.initial([settings.seed]).numpy())
    training = FlowTraining(
        stack,
        base.components(),
        np.concatenate([rows, held_out]),
        len(held_out),
        solver=settings.solver,
        alpha=settings.alpha,
        kinetic_penalty=settings.kinetic_penalty,
        jacobian_penalty=settings.jacobian_penalty,
        device=settings.device,
        dtype=torch.float32,
        seed=settings.seed,
    )
    best = np.inf
    if len(held_out):
        best = -float(base.log_prob(held_out).mean())
    taken: list[int] = []
    with thread_limits(small=True):
        for k, stage in enumerate(stages):
            last = None if epochs is None else epochs[k]
            if last == 0:
                continue

            def on_epoch(
                result: TrainingResult,
                last: int | None = last,
                is_judged: bool = prospects is not None and stage.objective == "mle",
            ) -> bool:
                if settings.on_epoch is not None:
                    flow.stopped = settings.on_epoch(result, base)
                if flow.stopped or result.n_iter == last:
                    return True
                if not is_judged:
                    return False
                assert prospects is not None
                parameters = result.flat.detach().cpu().double().numpy()
                return prospects.are_gone(result.n_iter, training.n_epochs, parameters)

            result = training.run(
                flow.parameters, stage, settings.on_epoch_begin, on_epoch
            )
            flow.losses += [float(row[0]) for row in result.losses]
            flow.n_retries += int(result.n_retries[0])
            flow.interrupted = result.interrupted
            if result.validation_losses:
                judged = np.array([float(row[0]) for row in result.validation_losses])
                flow.validation_scores += (-judged).tolist()
                least = float(np.nanmin(judged))
                # Flow matching aims at another loss: it is where the next stage starts,
                # whether its start was better or not.
                is_last = k == len(stages) - 1
                if is_last and least >= best:
                    taken.append(0)
                    continue
                best = least
            flow.parameters = result.flat.detach().cpu().double().numpy()
            taken.append(int(result.best_epochs[0]))
            if flow.interrupted or flow.stopped:
                break
    flow.epochs = tuple(taken)
    return flow


def is_worth_having(gains: Array) -> bool:
    """Return whether rows gain by a flow, beyond chance."""
    if len(gains) < 2:
        return False
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    return bool(gains.mean() > _GAIN_STANDARD_ERRORS * error)


def log_densities(
    stack: MemberStack,
    flow: FittedFlow,
    rows: Array,
    solver: SolverOptions,
    has_flow: bool = True,
) -> tuple[Float[Array, " rows"], list[dict[str, Any]]]:
    """Return log densities of the flow's rows, and the solver's reports."""
    if not has_flow:
        return flow.base.log_prob(rows), []
    logs, reports = [], []
    for part in carried(stack, flow.parameters, rows, solver):
        logs.append(flow.base.log_prob(part.rows[0].numpy()) + part.log_det[0].numpy())
        reports.append(part.report.to_dict())
    return np.concatenate(logs), reports


def carried(
    stack: MemberStack, parameters: Array, rows: Array, solver: SolverOptions
) -> Any:
    """Yield rows carried to the base, chunk by chunk, in float64."""
    module = bound(stack, parameters)
    with torch.no_grad(), thread_limits(small=len(rows) < 10_000):
        for start, stop in chunks(stack, rows):
            yield module.to_base(torch.as_tensor(rows[start:stop])[None], solver)


def drawn(
    stack: MemberStack,
    parameters: Array,
    rows: Array,
    solver: SolverOptions,
    times: Sequence[float] = (0.0, 1.0),
) -> Array:
    """Return base rows carried to times of the flow, (times, rows, size).

    With two times, the state at the second one alone.
    """
    module = bound(stack, parameters)
    parts = []
    with torch.no_grad(), thread_limits(small=len(rows) < 10_000):
        for start, stop in chunks(stack, rows):
            z = torch.as_tensor(rows[start:stop])[None]
            parts.append(module.from_base(z, solver, times).y[:, 0].numpy())
    return np.concatenate(parts, axis=1)


def chunks(stack: MemberStack, rows: Array) -> list[tuple[int, int]]:
    """Return ranges of rows that fit the memory set aside."""
    widest = max(max(shape) for shape in stack.shapes.values())
    step = max(1, _CHUNK_NUMBERS // (8 * max(widest, rows.shape[1])))
    starts = range(0, max(len(rows), 1), step)
    return [(start, start + step) for start in starts]


def bound(stack: MemberStack, parameters: Array) -> ContinuousFlow:
    """Return the flow with these parameters."""
    module = stack.bind(torch.as_tensor(parameters, dtype=torch.float64))
    assert isinstance(module, ContinuousFlow)
    return module


def enough_steps(
    stack: MemberStack, flow: FittedFlow, rows: Array, solver: SolverOptions
) -> int:
    """Return how many steps of a fixed grid make the log densities of rows exact."""
    n_steps = solver.n_steps or 1
    logs = log_densities(stack, flow, rows, solver)[0]
    for _ in range(_MOST_DOUBLINGS):
        finer = replace(solver, n_steps=2 * n_steps)
        closer = log_densities(stack, flow, rows, finer)[0]
        if np.abs(closer - logs).mean() < _STEP_ERROR:
            break
        n_steps, logs = 2 * n_steps, closer
    return n_steps
