"""Training of a flow: flow matching, maximum likelihood, or one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skfunc._shapes import Float, Int
from skfunc.nn import (
    ContinuousFlow,
    SolverOptions,
    StackedComponents,
    TraceField,
    random_signs,
)
from skfunc.training import MemberStack, TrainingOptions, TrainingResult, train

# Steepest gradient: a rare row in an empty region must not move the flow.
_MAX_GRADIENT_NORM = 5.0
# Steps between two judgements on the held-out rows, at least.
_STEPS_PER_EPOCH = {"flow_matching": 100, "mle": 5}
# Share of the solver's steps that training takes, at least and at most.
_TRAINING_STEPS = (0.5, 0.75)
# Columns from which the trace of a field without a closed form is estimated while it
# trains.
MOST_EXACT_COLUMNS = 10


@dataclass(frozen=True)
class Stage:
    """One training: what is minimized, for how long, at which rate."""

    objective: str
    n_steps: int
    batch_size: int
    learning_rate: float
    n_iter_no_change: int = 1000


class FlowTraining:
    """Train the flow of one base on fixed rows.

    Parameters
    ----------
    stack : MemberStack
        Of one `ContinuousFlow`.
    base : StackedComponents
        In float64 on the CPU.
    rows : ndarray of shape (rows, size)
        Training rows, then the held-out rows.
    n_held_out : int
        How many judge.
    """

    def __init__(
        self,
        stack: MemberStack,
        base: StackedComponents,
        rows: NDArray[np.float64],
        n_held_out: int,
        *,
        solver: SolverOptions,
        alpha: float,
        kinetic_penalty: float,
        jacobian_penalty: float,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        self.stack, self.solver = stack, solver
        self.rows = torch.as_tensor(rows, dtype=dtype, device=device)
        self.base = base.to(self.rows)
        self.n_train = len(rows) - n_held_out
        self.alpha = alpha
        self.kinetic_penalty = kinetic_penalty
        self.jacobian_penalty = jacobian_penalty
        self.generator = torch.Generator(device).manual_seed(seed)
        self.seed = seed
        self.steps = np.random.default_rng(seed)
        self.draws = False
        self.n_epochs = 0

    def run(
        self,
        flat: NDArray[np.float64],
        stage: Stage,
        on_epoch_begin: Callable[[], None] | None = None,
        on_epoch: Callable[[TrainingResult], bool] | None = None,
    ) -> TrainingResult:
        """Train from these parameters, (1, parameters)."""
        n_held_out = len(self.rows) - self.n_train
        batch = min(stage.batch_size, self.n_train)
        # What is called an epoch has about so many steps: small data are passed over
        # several times in it, large data are drawn from.
        steps = _STEPS_PER_EPOCH[stage.objective]
        index = torch.arange(len(self.rows), device=self.rows.device)
        self.draws = self.n_train > steps * batch
        if self.draws:
            visits = index[: steps * batch]
        else:
            visits = index[: self.n_train].repeat(
                math.ceil(steps * batch / self.n_train)
            )
        index = torch.cat([visits, index[self.n_train :]])
        held_out = torch.zeros(1, len(index), device=index.device).to(self.rows)
        held_out[:, len(visits) :] = 1.0
        per_epoch = math.ceil(len(visits) / batch)
        self.n_epochs = max(1, round(stage.n_steps / per_epoch))
        options = TrainingOptions(
            learning_rate=np.array([stage.learning_rate]),
            alpha=np.array([self.alpha * len(visits) / self.n_train]),
            max_iter=self.n_epochs,
            batch_size=batch,
            n_iter_no_change=stage.n_iter_no_change,
            max_gradient_norm=_MAX_GRADIENT_NORM,
            stop_on_plateau=n_held_out > 0,
        )
        objectives = {"flow_matching": self.matching_loss, "mle": self.likelihood_loss}
        return train(
            self.stack,
            torch.as_tensor(flat).to(self.rows),
            objectives[stage.objective],
            [index],
            1.0 - held_out,
            seeds=[self.seed],
            options=options,
            held_out_weights=held_out if n_held_out else None,
            held_out_loss=self.held_out_loss,
            on_epoch_begin=on_epoch_begin,
            on_epoch=on_epoch,
        )

    def _visited(self, index: Int[Tensor, "members rows"]) -> Tensor:
        """Return the rows of a training step."""
        if not self.draws:
            return index
        return torch.randint(
            self.n_train, index.shape, generator=self.generator, device=index.device
        )

    def matching_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> Float[Tensor, "members rows"]:
        """Regress the field on straight paths from base draws to rows.

        Lipman et al. 2023, Flow matching for generative modeling (arXiv 2210.02747).
        """
        assert isinstance(module, ContinuousFlow)
        end = self.rows[self._visited(batch[0])]
        members, n, size = end.shape
        start = self.base.sample(members * n, self.generator).reshape(end.shape)
        # Times spread evenly, for less variance than independent ones.
        shift = torch.rand(
            1, generator=self.generator, dtype=end.dtype, device=end.device
        )
        times = torch.arange(n, device=end.device).to(end) / n
        times = ((times + shift) % 1.0).reshape(1, n, 1).expand(members, n, 1)
        velocity = module.velocity(times, torch.lerp(start, end, times))
        return ((velocity - (end - start)) ** 2).mean(-1)

    def likelihood_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> Float[Tensor, "members rows"]:
        """Return the negative log density of rows, the penalties added."""
        return self._negative_log_density(module, batch[0], train=True)

    def held_out_loss(
        self, module: nn.Module, batch: Sequence[Tensor]
    ) -> Float[Tensor, "members rows"]:
        """Return the negative log density of held-out rows."""
        return self._negative_log_density(module, batch[0], train=False)

    def _negative_log_density(
        self, module: nn.Module, index: Tensor, train: bool
    ) -> Tensor:
        assert isinstance(module, ContinuousFlow)
        index = self._visited(index) if train else index
        rows = self.rows[index]
        kinetic = train and self.kinetic_penalty > 0
        jacobian = train and self.jacobian_penalty > 0
        solver = self.solver
        if train and solver.n_steps is not None:
            # A field could make use of the errors of one grid, but not of many.
            fewest, most = (max(1, round(c * solver.n_steps)) for c in _TRAINING_STEPS)
            n_steps = int(self.steps.integers(fewest, most + 1))
            solver = replace(solver, n_steps=n_steps)
        is_estimated = rows.shape[-1] > MOST_EXACT_COLUMNS and not isinstance(
            module.field, TraceField
        )
        signs = None
        if train and (is_estimated or jacobian):
            signs = random_signs(rows.shape, self.generator).to(rows)
        end = module.to_base(
            rows,
            solver,
            signs if is_estimated else None,
            kinetic=kinetic,
            jacobian_probe=signs if jacobian else None,
        )
        left_out = index if train and any(self.base.kernels) else None
        # A training row is the centre of a kernel: it is judged by the others.
        loss = -(self.base.log_prob(end.rows, left_out) + end.log_det)
        if end.kinetic is not None:
            loss = loss + self.kinetic_penalty * end.kinetic
        if end.jacobian is not None:
            loss = loss + self.jacobian_penalty * end.jacobian
        return loss
