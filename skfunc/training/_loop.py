"""The one training loop: a stack of members, mini-batches by index, Adam."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from skfunc._shapes import Float
from skfunc.training._batches import HeldOutRows, RowBatches
from skfunc.training._cuda_graph import CapturedStep
from skfunc.training._optimizer import MemberAdam, schedule_factor
from skfunc.training._stack import MemberStack

# Retries after a loss that is not finite, each with half the learning rate.
MAX_RETRIES = 3
# Rows times members that a held-out evaluation takes at once.
_EVALUATION_ROWS = 16_384

# The loss of every row, (members, rows); or that and a term of each member, (members,),
# the divergence of its posterior.
TrainingLoss = Callable[[nn.Module, Sequence[Tensor]], Tensor | tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; what may differ between members is a vector over them."""

    learning_rate: np.ndarray
    alpha: np.ndarray
    max_iter: int = 200
    batch_size: int = 200
    schedule: str = "cosine"
    warmup: float = 0.05
    tol: float = 1e-4
    n_iter_no_change: int = 10
    stop_on_plateau: bool = True
    max_gradient_norm: float | None = None
    cuda_graph: bool = False
    # Factor on each member's divergence, which is divided by the member's total weight,
    # and the share of the epochs over which it rises from 0.
    divergence_weight: np.ndarray | None = None
    divergence_warmup: float = 0.0


@dataclass
class TrainingResult:
    """What a training leaves behind.

    Attributes
    ----------
    flat : Tensor of shape (members, parameters)
        The averaged parameters of each member: the best ones where there is a held-out
        part, else the last ones.
    n_iter : int
        Epochs run by the member that ran longest.
    losses, validation_losses : list of ndarray of shape (members,)
        One entry per epoch; NaN for members that had stopped.
    best_epochs : ndarray of shape (members,)
        The epoch (from 1) whose parameters were kept.
    n_retries : ndarray of shape (members,)
        How often each member was restored after a loss that was not finite.
    interrupted : bool
        Whether the training ended by KeyboardInterrupt.
    batch_size : int
        The batch size in the end: smaller than asked for where memory ran out.
    """

    flat: Tensor
    n_iter: int = 0
    losses: list[np.ndarray] = field(default_factory=list)
    validation_losses: list[np.ndarray] = field(default_factory=list)
    best_epochs: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    n_retries: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    interrupted: bool = False
    batch_size: int = 0


class _Trainer:
    """State of one training; `train` runs it."""

    def __init__(
        self,
        stack: MemberStack,
        flat: Tensor,
        loss: TrainingLoss,
        tensors: Sequence[Tensor],
        weights: Float[Tensor, "members rows"],
        seeds: Sequence[int],
        options: TrainingOptions,
        held_out_weights: Float[Tensor, "members rows"] | None,
        held_out_loss: TrainingLoss,
        groups: np.ndarray | None,
    ) -> None:
        self.stack, self.loss, self.tensors = stack, loss, tensors
        self.held_out_loss = held_out_loss
        self.options = options
        self.device, self.dtype = flat.device, flat.dtype
        members = flat.shape[0]
        self.n_members = members
        # Batches have the same size for all members: the mean of the weights over a
        # member's own rows makes the batch's objective an unbiased weighted mean.
        self.weights = weights / (
            weights.sum(1, keepdim=True)
            / (weights > 0).sum(1, keepdim=True).clamp(min=1)
        )
        total = weights.sum(1).double().cpu().numpy()
        self.divergence_factor: Tensor | None = None
        if options.divergence_weight is not None:
            factor = options.divergence_weight / np.maximum(total, 1e-300)
            self.divergence_factor = torch.as_tensor(factor).to(flat)
        self.warmed = torch.ones((), dtype=flat.dtype, device=flat.device)
        decay = torch.as_tensor(options.alpha / np.maximum(total, 1e-300))
        mask = stack.weight_mask()
        self.optimizer = MemberAdam(
            flat.clone(),
            torch.as_tensor(options.learning_rate),
            decay.reshape(-1, 1) * mask,
        )
        generators = [np.random.default_rng(seed) for seed in seeds]
        self.batches = RowBatches(weights, generators, options.batch_size)
        self.held_out = (
            None if held_out_weights is None else HeldOutRows(held_out_weights)
        )
        self.groups = np.arange(members) if groups is None else np.asarray(groups)
        self.active = np.arange(members)
        self.best_flat = flat.clone()
        self.safe_flat = flat.clone()
        self.best_score = np.full(members, np.inf)
        self.best_epochs = np.zeros(members, dtype=int)
        self.n_retries = np.zeros(members, dtype=int)
        self.n_iter = 0
        self.evaluation_rows = _EVALUATION_ROWS
        self.warned = False
        self.losses: list[np.ndarray] = []
        self.validation_losses: list[np.ndarray] = []
        self._captured: CapturedStep | None = None

    def objective(self, index: Tensor | None) -> Float[Tensor, " members"]:
        """Return the weighted mean loss of each member on a batch."""
        module = self.stack.bind(self.optimizer.flat)
        if index is None:
            members = len(self.active)
            batch = [x.unsqueeze(0).expand(members, *x.shape) for x in self.tensors]
            weights = self.weights
            count: Tensor | int = (weights > 0).sum(1)
        else:
            batch = [x[index] for x in self.tensors]
            weights = self.weights.gather(1, index)
            count = index.shape[1]
        value = self.loss(module, batch)
        if isinstance(value, Tensor):
            return (value * weights).sum(1) / count
        rows, divergence = value
        assert self.divergence_factor is not None
        divergence = divergence * self.divergence_factor * self.warmed
        return (rows * weights).sum(1) / count + divergence

    def update(self, index: Tensor | None, scale: float | Tensor) -> Tensor:
        """Make one optimizer step and return the loss before it."""
        flat = self.optimizer.flat.requires_grad_(True)
        value = self.objective(index)
        (gradient,) = torch.autograd.grad(value.sum(), flat)
        flat.requires_grad_(False)
        with torch.no_grad():
            if self.options.max_gradient_norm is not None:
                norm = gradient.norm(dim=1, keepdim=True)
                gradient *= (self.options.max_gradient_norm / norm).clamp(max=1.0)
            self.optimizer.step(gradient, scale)
        return value.detach()

    def run_epoch(self) -> np.ndarray:
        """Pass once over the rows and return each active member's mean loss."""
        while True:
            try:
                return self._pass_over_rows()
            except torch.OutOfMemoryError as error:
                self.halve_batch(error)

    def _pass_over_rows(self) -> np.ndarray:
        positions = self.batches.epoch()
        n_batches = self.batches.n_batches
        total = torch.zeros(len(self.active), device=self.device, dtype=self.dtype)
        index = None
        if positions is not None:
            index = torch.as_tensor(positions, device=self.device)
        for b in range(n_batches):
            progress = (self.n_iter + b / n_batches) / self.options.max_iter
            scale = schedule_factor(
                self.options.schedule, progress, self.options.warmup
            )
            if self.options.divergence_warmup:
                self.warmed.fill_(min(1.0, progress / self.options.divergence_warmup))
            batch = None if index is None else index[:, b]
            if self.options.cuda_graph and self.device.type == "cuda":
                if self._captured is None:
                    self._captured = CapturedStep(self.update, batch, self.device)
                total += self._captured(batch, scale)
            else:
                total += self.update(batch, scale)
        return (total / n_batches).double().cpu().numpy()

    def evaluate(self) -> np.ndarray:
        """Return the held-out loss of each active member; NaN where it has no rows."""
        while True:
            try:
                return self._evaluate_by_chunks()
            except torch.OutOfMemoryError:
                if self.evaluation_rows <= 1:
                    raise
                self.evaluation_rows //= 2
                torch.cuda.empty_cache()

    def _evaluate_by_chunks(self) -> np.ndarray:
        held = self.held_out
        assert held is not None
        module = self.stack.bind(self.optimizer.average)
        total = torch.zeros(len(self.active), device=self.device, dtype=self.dtype)
        step = max(1, self.evaluation_rows // max(len(self.active), 1))
        with torch.no_grad():
            for start in range(0, held.index.shape[1], step):
                index = held.index[:, start : start + step]
                value = self.held_out_loss(module, [x[index] for x in self.tensors])
                if not isinstance(value, Tensor):
                    value = value[0]
                weights = held.weights[:, start : start + step]
                total += torch.where(weights > 0, value * weights, 0.0).sum(1)
        return (total / held.weights.sum(1)).double().cpu().numpy()

    def _pool(self, scores: np.ndarray, counted: np.ndarray) -> np.ndarray:
        """Average the counted held-out losses of members that stop together."""
        groups = self.groups[self.active]
        if self.held_out is None or len(np.unique(groups)) == len(groups):
            return scores
        weights = self.held_out.weights.sum(1).double().cpu().numpy() * counted
        counting = np.where(weights > 0, scores, 0.0)
        totals = np.bincount(groups, counting * weights)
        weighed = np.bincount(groups, weights)
        pooled = (totals / np.where(weighed > 0, weighed, 1.0))[groups]
        return np.where(weighed[groups] > 0, pooled, scores)

    def recover(self, broken: np.ndarray) -> None:
        """Put broken members back to their best finite weights, at half the rate.

        Raises
        ------
        FloatingPointError
            If a member has used up its retries.
        """
        members = self.active[broken]
        self.n_retries[members] += 1
        if (self.n_retries[members] > MAX_RETRIES).any():
            rates = self.options.learning_rate[members]
            raise FloatingPointError(
                "the training loss is not finite: tried "
                f"{MAX_RETRIES} restarts from the best finite weights with the "
                f"learning rate halved each time (from {rates.max():g} to "
                f"{rates.max() / 2**MAX_RETRIES:g}); scale the data, or lower "
                "learning_rate_init"
            )
        mask = torch.as_tensor(broken, device=self.device)
        source = self.best_flat if self.held_out is not None else self.safe_flat
        finite = source[torch.as_tensor(members, device=self.device)]
        self.optimizer.flat[mask] = finite.to(self.optimizer.flat)
        self.optimizer.restart(mask, 0.5)
        self._captured = None

    def judge(self, losses: np.ndarray) -> np.ndarray:
        """Record an epoch; return which active members go on."""
        options = self.options
        where = torch.as_tensor(self.active, device=self.device)
        finite_rows = torch.isfinite(self.optimizer.flat).all(1).cpu().numpy()
        broken = ~(np.isfinite(losses) & finite_rows)
        if broken.any():
            self.recover(broken)
        self.losses.append(self._scatter(losses))
        scores = losses
        if self.held_out is not None:
            scores = self.evaluate()
            # A member without rows of its own is judged by its training loss.
            alone = (self.held_out.weights.sum(1) == 0).cpu().numpy()
            scores = np.where(alone, losses, scores)
            unjudged = ~np.isfinite(scores) & ~broken
            if unjudged.any():
                self.recover(unjudged)
                broken |= unjudged
            scores = self._pool(scores, ~broken)
            self.validation_losses.append(self._scatter(scores))
        good = ~broken
        self.safe_flat[where[torch.as_tensor(good)]] = self.optimizer.average[
            torch.as_tensor(good, device=self.device)
        ]
        best = self.best_score[self.active]
        # Without a held-out part the weights kept are the last ones, and tol says what
        # counts as progress; a better held-out loss always does.
        improved = good & (scores < best - (0.0 if self.held_out else options.tol))
        if self.held_out is not None:
            rows = where[torch.as_tensor(improved)]
            self.best_flat[rows] = self.optimizer.average[
                torch.as_tensor(improved, device=self.device)
            ]
        self.best_score[self.active[improved]] = scores[improved]
        self.best_epochs[self.active[improved]] = self.n_iter
        waited = self.n_iter - self.best_epochs[self.active]
        go_on = waited < options.n_iter_no_change
        return go_on | broken | (not options.stop_on_plateau)

    def _scatter(self, values: np.ndarray) -> np.ndarray:
        row = np.full(self.n_members, np.nan)
        row[self.active] = values
        return row

    def drop(self, go_on: np.ndarray) -> None:
        """Leave stopped members out of the work."""
        positions = np.flatnonzero(go_on)
        keep = torch.as_tensor(positions, device=self.device)
        self.optimizer.keep(keep)
        self.weights = self.weights[keep]
        if self.divergence_factor is not None:
            self.divergence_factor = self.divergence_factor[keep]
        self.batches.keep(positions)
        if self.held_out is not None:
            self.held_out.keep(keep)
        self.active = self.active[positions]
        self._captured = None

    def halve_batch(self, error: torch.OutOfMemoryError) -> None:
        """Go on with half the batch after CUDA ran out of memory."""
        if self.batches.size <= 1:
            raise error
        self._captured = None
        self.optimizer.flat = self.optimizer.flat.detach()
        torch.cuda.empty_cache()
        size = self.batches.size // 2
        if not self.warned:
            warnings.warn(
                f"CUDA ran out of memory; training goes on with batch_size={size}, "
                "halved again if need be",
                RuntimeWarning,
                stacklevel=2,
            )
        self.warned = True
        self.batches = RowBatches(self.weights, self.batches.generators, size)

    def result(self, interrupted: bool) -> TrainingResult:
        """Return the kept parameters and the record."""
        flat = self.best_flat if self.held_out is not None else self.safe_flat
        return TrainingResult(
            flat=flat,
            n_iter=self.n_iter,
            losses=self.losses,
            validation_losses=self.validation_losses,
            best_epochs=self.best_epochs
            if self.held_out is not None
            else np.full(self.n_members, self.n_iter),
            n_retries=self.n_retries,
            interrupted=interrupted,
            batch_size=self.batches.size,
        )


def train(
    stack: MemberStack,
    flat: Float[Tensor, "members parameters"],
    loss: TrainingLoss,
    tensors: Sequence[Tensor],
    weights: Float[Tensor, "members rows"],
    *,
    seeds: Sequence[int],
    options: TrainingOptions,
    held_out_weights: Float[Tensor, "members rows"] | None = None,
    held_out_loss: TrainingLoss | None = None,
    groups: np.ndarray | None = None,
    on_epoch_begin: Callable[[], None] | None = None,
    on_epoch: Callable[[TrainingResult], bool] | None = None,
) -> TrainingResult:
    """Train a stack of members in one pass.

    Parameters
    ----------
    stack : MemberStack
        The networks.
    flat : Tensor of shape (members, parameters)
        Where to start; its device and dtype are those of the training.
    loss : callable
        Takes the bound module and a list of tensors (members, rows, ...), and returns
        the loss of every row, (members, rows); or that and a divergence of every
        member, (members,), which `options.divergence_weight` weighs.
    tensors : sequence of Tensor of shape (rows, ...)
        The data, on the device.
    weights : Tensor of shape (members, rows)
        Row weights; a member never sees a row whose weight for it is 0.
    seeds : sequence of int
        One per member: the order in which it sees its rows.
    options : TrainingOptions
        How to train.
    held_out_weights : Tensor of shape (members, rows), optional
        Weights of the rows that judge each member after every epoch; it keeps its best
        weights. Without them the last weights are kept.
    held_out_loss : callable, optional
        What the held-out rows are judged by, as `loss`. Default: the loss.
    groups : ndarray of int of shape (members,), optional
        Members of a group share the judgement: the pooled held-out loss. Default: each
        its own.
    on_epoch_begin : callable, optional
        Called before every epoch.
    on_epoch : callable, optional
        Called after every epoch with the result so far; True ends the training.

    Returns
    -------
    TrainingResult
        Also after KeyboardInterrupt, with `interrupted` set.

    Raises
    ------
    FloatingPointError
        If a loss stays non-finite through three restarts.
    """
    trainer = _Trainer(
        stack,
        flat,
        loss,
        tensors,
        weights,
        seeds,
        options,
        held_out_weights,
        held_out_loss or loss,
        groups,
    )
    try:
        while trainer.n_iter < options.max_iter and len(trainer.active):
            if on_epoch_begin is not None:
                on_epoch_begin()
            losses = trainer.run_epoch()
            trainer.n_iter += 1
            go_on = trainer.judge(losses)
            if on_epoch is not None and on_epoch(trainer.result(False)):
                break
            if not go_on.all():
                trainer.drop(go_on)
    except KeyboardInterrupt:
        return trainer.result(interrupted=True)
    return trainer.result(interrupted=False)
