"""Which densities a fit compares, on which rows, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skfunc.nn import SolverOptions
from skfunc.ode._cnf_base import choose_base, widened_normal
from skfunc.ode._cnf_fit import (
    FittedFlow,
    FlowSettings,
    carried,
    enough_steps,
    is_worth_having,
    log_densities,
    train_flow,
)
from skfunc.ode._cnf_forms import Base, BaseForm, NormalForm
from skfunc.ode._cnf_prospects import Prospects
from skfunc.ode._cnf_training import Stage
from skfunc.training import MemberStack, TrainingResult, thread_limits

Array = NDArray[np.float64]

# Rows from which a part is held out, and how many judge at most.
FEWEST_ROWS_TO_SPLIT, _MOST_HELD_OUT = 50, 2000
# Rows up to which what was chosen is fitted again to all rows.
_MOST_ROWS_TO_REFIT = 5000
# Rows that a base is chosen on at most.
_CHOOSING_ROWS = 20_000
_N_FOLDS = 5
# Steps of flow matching for one of maximum likelihood, and judgements without progress
# that end it: it aims at another loss, whose least is not where it should end.
_MATCHING_STEPS, _MATCHING_PATIENCE = 5, 1000
# "auto" steps of maximum likelihood: half the number of rows within these, and a
# thirtieth of it from there to the most.
_STEPS_OF_SMALL_DATA, _MOST_STEPS = (150, 600), 2000
# Rows that the solver's steps are settled on.
_PROBE_ROWS = 500


@dataclass(frozen=True)
class FitPlan:
    """The parameters of a fit, checked."""

    base: str
    method: str
    max_components: int
    solver: SolverOptions
    has_grid: bool
    alpha: float
    kinetic_penalty: float
    jacobian_penalty: float
    batch_size: int
    learning_rate: float
    max_iter: int | None
    n_iter_no_change: int
    validation_fraction: float
    device: torch.device
    seed: int
    on_epoch_begin: Callable[[], None] | None = None
    on_epoch: Callable[[TrainingResult, Base], bool] | None = None

    def settings(self, stack: MemberStack) -> FlowSettings:
        """Return what is alike for all candidates."""
        return FlowSettings(
            stack=stack,
            solver=replace(self.solver, per_row=False),
            alpha=self.alpha,
            kinetic_penalty=self.kinetic_penalty,
            jacobian_penalty=self.jacobian_penalty,
            device=self.device,
            seed=self.seed,
            on_epoch_begin=self.on_epoch_begin,
            on_epoch=self.on_epoch,
        )

    def stages(self, method: str, n_rows: int) -> list[Stage]:
        """Return the trainings of a method."""
        max_iter = self.max_iter
        if max_iter is None:
            max_iter = int(np.clip(n_rows / 2, *_STEPS_OF_SMALL_DATA))
            max_iter = int(np.clip(n_rows / 30, max_iter, _MOST_STEPS))
        likelihood = Stage(
            "mle",
            max_iter,
            self.batch_size,
            self.learning_rate,
            self.n_iter_no_change,
        )
        matching = Stage(
            "flow_matching",
            _MATCHING_STEPS * max_iter,
            self.batch_size,
            self.learning_rate,
            _MATCHING_PATIENCE,
        )
        return {
            "mle": [likelihood],
            "flow_matching": [matching],
            "hybrid": [matching, likelihood],
        }[method]


@dataclass
class FlowChoice:
    """What a fit keeps."""

    flow: FittedFlow
    has_flow: bool
    candidates: dict[str, float]
    n_steps: int
    report: dict[str, Any] | None = None


def fit_density(
    rows: Array, copies: NDArray[np.intp], plan: FitPlan, stack: MemberStack
) -> FlowChoice:
    """Fit a base and a flow over it, and keep the flow where it is worth having.

    Parameters
    ----------
    rows : ndarray of shape (rows, size)
        Rows of about unit variance.
    copies : ndarray of int of shape (rows,)
        A number that rows share if they are copies of one: they are held out together.
    plan : FitPlan
        The parameters.
    stack : MemberStack
        Of one flow.
    """
    random = np.random.default_rng(plan.seed)
    # Copies stand side by side in an otherwise random order.
    copies = random.permutation(int(copies.max()) + 1)[copies]
    order = np.argsort(copies, kind="stable")
    copies = copies[order]
    n_held_out = 0
    if copies[-1] + 1 >= FEWEST_ROWS_TO_SPLIT:
        most = min(len(rows) - 2, _MOST_HELD_OUT)
        n_held_out = int(np.clip(plan.validation_fraction * len(rows), 1, most))
        n_held_out = int((copies <= copies[n_held_out - 1]).sum())
    train, held_out = rows[order[n_held_out:]], rows[order[:n_held_out]]
    normal = BaseForm((NormalForm(),), np.ones(1))
    alone = None
    if plan.base != "normal":
        chosen = rows[order[:_CHOOSING_ROWS]]
        folds = copies[: len(chosen)] % _N_FOLDS
        with thread_limits(small=True):
            alone = choose_base(
                chosen, plan.base, plan.max_components, folds, plan.seed
            )
    form = normal if alone is None or plan.base == "auto" else alone
    method = plan.method
    if method == "auto":
        method = "hybrid" if form is normal else "mle"
    candidates: dict[str, float] = {}
    if alone is not None and not n_held_out:
        # Rows are too few to tell whether a flow is worth having.
        if alone.log_prob is not None:
            candidates["base"] = float(alone.log_prob.mean())
        return _base_alone(alone, rows, candidates, plan, stack)

    settings, stages = plan.settings(stack), plan.stages(method, len(train))
    others, prospects = np.zeros(n_held_out), None
    if alone is not None:
        others = alone.fit(train, plan.seed).log_prob(held_out)
        if form is normal:
            start = normal.fit(train, plan.seed)

            def gains(parameters: Array) -> Array:
                flow = FittedFlow(start, parameters)
                return _judge(flow, normal, held_out, plan, stack)[0] - others

            prospects = Prospects(gains)
    flow = train_flow(form, stages, train, held_out, settings, prospects=prospects)
    if n_held_out:
        logs, form = _judge(flow, form, held_out, plan, stack)
        candidates["flow"] = float(logs.mean())
        if alone is not None and not flow.interrupted:
            candidates["base"] = float(others.mean())
            if not is_worth_having(logs - others):
                return _base_alone(alone, rows, candidates, plan, stack)
        cut_short = flow.interrupted or flow.stopped
        if len(rows) <= _MOST_ROWS_TO_REFIT and not cut_short:
            again = train_flow(
                normal if isinstance(form.forms[0], NormalForm) else form,
                stages,
                rows,
                rows[:0],
                settings,
                flow.epochs,
            )
            again.validation_scores = flow.validation_scores
            # A flow that was cut short is worth less than one of fewer rows.
            flow.interrupted = again.interrupted
            flow = flow if again.interrupted or again.stopped else again
        if isinstance(form.forms[0], NormalForm):
            flow.base = form.fit(rows, plan.seed)
    return _settled(flow, candidates, rows[order[:_PROBE_ROWS]], plan, stack)


def _judge(
    flow: FittedFlow,
    form: BaseForm,
    held_out: Array,
    plan: FitPlan,
    stack: MemberStack,
) -> tuple[Array, BaseForm]:
    """Return log densities of held-out rows, and the base widened to them."""
    if not isinstance(form.forms[0], NormalForm):
        return log_densities(stack, flow, held_out, plan.solver)[0], form
    parts = list(carried(stack, flow.parameters, held_out, plan.solver))
    base_rows = np.concatenate([part.rows[0].numpy() for part in parts])
    log_det = np.concatenate([part.log_det[0].numpy() for part in parts])
    widened = widened_normal(base_rows, np.arange(len(base_rows)) % _N_FOLDS)
    assert widened.log_prob is not None
    return widened.log_prob + log_det, widened


def _base_alone(
    form: BaseForm,
    rows: Array,
    candidates: dict[str, float],
    plan: FitPlan,
    stack: MemberStack,
) -> FlowChoice:
    """Return the base fitted to all rows, under a flow that stands still."""
    identity = stack.initial([plan.seed]).numpy()
    flow = FittedFlow(form.fit(rows, plan.seed), identity)
    return FlowChoice(flow, False, candidates, plan.solver.n_steps or 1)


def _settled(
    flow: FittedFlow,
    candidates: dict[str, float],
    probe: Array,
    plan: FitPlan,
    stack: MemberStack,
) -> FlowChoice:
    """Return the flow with enough steps of the solver."""
    solver = plan.solver
    if plan.has_grid:
        n_steps = enough_steps(stack, flow, probe, solver)
        solver = replace(solver, n_steps=n_steps)
    _, reports = log_densities(stack, flow, probe, solver)
    report = reports[0]
    report.pop("nfe_per_row", None)
    return FlowChoice(flow, True, candidates, solver.n_steps or 1, report)
