"""Depth, activation, standard deviations, relevance and ridge, chosen in one fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize

from skfunc.infinite_width._evidence import amplitudes, profiled
from skfunc.infinite_width._hyperparameters import (
    CANDIDATES,
    CONTINUOUS,
    DEFAULT_ACTIVATION,
    DEFAULT_DEPTH,
    DEPTHS,
    Hyperparameters,
    log_uniform_grid,
)
from skfunc.infinite_width._inference import Decomposition
from skfunc.infinite_width._inference_cholesky import RidgeSolution
from skfunc.infinite_width._inference_scores import LeaveOneOut
from skfunc.infinite_width._kernel_matrices import kernel_series
from skfunc.infinite_width._search import Rows, maximize_evidence

Array = NDArray[np.float64]

# Rows for the comparison of candidates, for the relevance of columns, and for the
# decision whether that relevance is kept; twice and four times as many of a large set.
_SCAN_ROWS, _SEARCH_ROWS, _JUDGE_ROWS = 300, 500, 1000
_LARGE_SET = 2000
# Iterations of the search for a candidate's own hyperparameters, and for relevance.
_SCAN_ITERATIONS, _SEARCH_ITERATIONS = 20, 50
# The ridge is chosen again on all rows of sets up to this size.
_REFINED_ROWS = 2000
# Ridges that are compared where one decomposition serves them all.
RIDGES = log_uniform_grid(*CONTINUOUS["ridge"][2], per_decade=4)

_OVERFLOW = (
    "the kernel of the network overflows: weight_std, bias_std or the inputs are too "
    "large"
)

# A criterion judges every ridge of a decomposition: larger is better.
Criterion = Callable[[Decomposition, Array], Array]


def marginal_likelihoods(
    decomposition: Decomposition, ridges: Array, *, shared: bool
) -> Array:
    """Return the log marginal likelihood of every ridge at the best amplitudes."""
    spectrum = decomposition.spectrum
    shifted = spectrum.eigenvalues + ridges[:, None]
    quadratic = (1 / shifted) @ np.square(decomposition._projected)
    excess = spectrum.total_weight - len(spectrum.weight)
    log_determinant = np.log(shifted).sum(axis=1) + excess * np.log(ridges)
    unit = spectrum.eigenvalues.sum() / spectrum.total_weight + ridges
    return profiled(
        quadratic, log_determinant, spectrum.total_weight, shared=shared, unit=unit
    )


def left_out_densities(left_out: LeaveOneOut, *, shared: bool) -> Array:
    """Return log densities of rows left out, at the amplitudes that are best for them.

    The log pseudo-likelihood of Rasmussen and Williams (2006), equation 5.11.
    """
    residuals = left_out._columns()
    weight, variances = left_out.sample_weight, left_out.variances
    total = weight.sum()
    squares = np.einsum("...ij,...i->...j", np.square(residuals), weight / variances)
    unit = variances.max(axis=-1)
    best = amplitudes(squares, total, shared=shared, unit=unit)
    n_outputs = residuals.shape[-1]
    logs = total * np.log(best).sum(axis=-1) + n_outputs * (np.log(variances) @ weight)
    constant = n_outputs * total * math.log(2 * math.pi)
    return -0.5 * (logs + (squares / best).sum(axis=-1) + constant)


def left_out_errors(left_out: LeaveOneOut) -> Array:
    """Return log densities of rows left out, for a Gaussian of constant variance."""
    squares = np.maximum(left_out.residual_variance(), 1e-300)
    if left_out._single_output():
        squares = squares[..., None]
    total = left_out.sample_weight.sum()
    return -0.5 * total * (np.log(squares) + 1 + math.log(2 * math.pi)).sum(axis=-1)


@dataclass
class Selection:
    """How hyperparameters are chosen.

    Attributes
    ----------
    name : str
        The preset.
    kind : {"nngp", "ntk"}
        The kernel.
    criterion : {"lml", "loo"} or None
        What candidates are compared by; None keeps what is open at its default.
    fixed : dict
        What the user gave: "activation", "depth", names of CONTINUOUS.
    relevance : bool
        Whether columns may get scales of their own.
    shared : bool
        Whether outputs share an amplitude.
    judge : callable or None
        Score of rows left out, given a `LeaveOneOut` with one entry a ridge and the
        rows; None for their density.
    random_state : RandomState
        Chooses rows out of many.
    device : torch.device
        Where kernels are computed.
    pairs : tuple of (activation, depth)
        Networks that are tried when both are open.
    candidates_ : list of dict
        What was compared, and the scores.
    """

    name: str
    kind: str
    criterion: str | None
    fixed: dict[str, Any]
    relevance: bool
    shared: bool
    random_state: np.random.RandomState
    device: torch.device
    judge: Callable[[LeaveOneOut, Rows], Array] | None = None
    pairs: tuple[tuple[str, int], ...] = CANDIDATES
    candidates_: list[dict[str, Any]] = field(default_factory=list)

    def choose(self, rows: Rows) -> Hyperparameters:
        """Return the hyperparameters for these rows."""
        if self.criterion is None:
            return self._defaults()
        starts = self._starts()
        order = self.random_state.permutation(len(rows))
        scan = self._some(rows, order, _SCAN_ROWS)
        if rows.image_shape is not None:
            return self._scan_images(scan, starts)
        judged = self._some(rows, order, _JUDGE_ROWS)
        free = frozenset(CONTINUOUS) - set(self.fixed)
        found = []
        for start in starts:
            best, score = self._maximize(scan, start, free, _SCAN_ITERATIONS)
            if self.criterion == "loo":
                score = self._left_out_score(judged, best)
            self._record(best, score, str(self.criterion))
            found.append((score, best))
        chosen = max(found, key=lambda pair: pair[0])[1]
        if self.relevance and rows.X.shape[1] > 1:
            chosen = self._with_relevance(rows, order, judged, chosen, free)
        if len(rows) > len(scan) and "ridge" in free and len(rows) <= _REFINED_ROWS:
            chosen = self._refine_ridge(rows, chosen)
        return chosen

    def choose_ridge(
        self, decomposition: Decomposition, scale: float, rows: Rows
    ) -> float:
        """Return the best ridge of a grid, in units of `scale`, the mean diagonal."""
        return float(
            RIDGES[int(np.argmax(self._scores(decomposition, RIDGES * scale, rows)))]
        )

    def _scores(self, decomposition: Decomposition, ridges: Array, rows: Rows) -> Array:
        if self.criterion == "lml":
            return marginal_likelihoods(decomposition, ridges, shared=self.shared)
        return self._judge(decomposition.leave_one_out(ridges), rows)

    def _judge(self, left_out: LeaveOneOut, rows: Rows) -> Array:
        if self.judge is not None:
            return self.judge(left_out, rows)
        if self.kind == "ntk":
            return left_out_errors(left_out)
        return left_out_densities(left_out, shared=self.shared)

    def _defaults(self) -> Hyperparameters:
        values: dict[str, Any] = {key: entry[0] for key, entry in CONTINUOUS.items()}
        values |= {
            "activation": DEFAULT_ACTIVATION,
            "depth": DEFAULT_DEPTH[self.name],
        }
        return Hyperparameters(**(values | self.fixed))

    def _starts(self) -> list[Hyperparameters]:
        values = {key: entry[1] for key, entry in CONTINUOUS.items()} | self.fixed
        activation, depth = self.fixed.get("activation"), self.fixed.get("depth")
        if self.name == "wide_resnet":
            pairs: Sequence[tuple[str, int]] = (("relu", 1),)
        elif self.name == "conv":
            pairs = tuple(("relu", depth) for depth in DEPTHS)
        else:
            pairs = self.pairs
        if activation is not None and depth is None and self.name != "wide_resnet":
            pairs = tuple((activation, depth) for depth in DEPTHS)
        chosen = [
            (activation or name, default if depth is None else depth)
            for name, default in pairs
        ]
        return [
            Hyperparameters(**(values | {"activation": name, "depth": layers}))
            for name, layers in dict.fromkeys(chosen)
        ]

    def _some(self, rows: Rows, order: NDArray[np.intp], number: int) -> Rows:
        number *= 2 if len(rows) > _LARGE_SET else 1
        return rows if len(rows) <= number else rows.at(order[:number])

    def _maximize(
        self,
        rows: Rows,
        start: Hyperparameters,
        free: frozenset[str],
        max_iter: int,
    ) -> tuple[Hyperparameters, float]:
        return maximize_evidence(
            rows,
            start,
            free=free,
            name=self.name,
            kind=self.kind,
            shared=self.shared,
            max_iter=max_iter,
            device=self.device,
        )

    def _with_relevance(
        self,
        rows: Rows,
        order: NDArray[np.intp],
        judged: Rows,
        plain: Hyperparameters,
        free: frozenset[str],
    ) -> Hyperparameters:
        """Scale every column, and keep that where rows left out gain by it."""
        some = self._some(rows, order, _SEARCH_ROWS)
        scaled, _ = self._maximize(
            some, plain, free | {"relevance"}, _SEARCH_ITERATIONS
        )
        score = self._left_out_score(judged, scaled)
        without = self._left_out_score(judged, plain)
        self._record(plain, without, "loo")
        self._record(scaled, score, "loo")
        if score > without:
            return scaled
        return plain

    def _left_out_score(self, rows: Rows, chosen: Hyperparameters) -> float:
        """Return the score of rows left out, a row."""
        kernel, scale = self._kernel(rows, chosen)
        solution = RidgeSolution(
            kernel,
            rows.targets,
            chosen.ridge * scale,
            rows.weight,
            overwrite=True,
            warn=False,
        )
        score = float(self._judge(solution.leave_one_out(), rows))
        return score / float(rows.weight.sum())

    def _refine_ridge(self, rows: Rows, chosen: Hyperparameters) -> Hyperparameters:
        """Choose the ridge again on all rows, near the one of some rows."""
        kernel, scale = self._kernel(rows, chosen)
        total = float(rows.weight.sum())

        def loss(log_ridge: float) -> float:
            ridge = math.exp(log_ridge) * scale
            solution = RidgeSolution(
                kernel, rows.targets, ridge, rows.weight, warn=False
            )
            if self.criterion == "loo":
                return -float(self._judge(solution.leave_one_out(), rows))
            alphas = solution.alphas.reshape(rows.targets.shape)
            quadratic = np.einsum("ij,ij->j", rows.targets, alphas)
            log_determinant = np.asarray(solution.log_determinant())
            return -float(
                profiled(
                    quadratic,
                    log_determinant,
                    total,
                    shared=self.shared,
                    unit=scale + ridge,
                )
            )

        middle = math.log(chosen.ridge)
        low, high = (math.log(bound) for bound in CONTINUOUS["ridge"][2])
        best = optimize.minimize_scalar(
            loss,
            bounds=(max(middle - 3, low), min(middle + 1.5, high)),
            method="bounded",
            options={"xatol": 0.1, "maxiter": 12},
        )
        return chosen.with_values(ridge=math.exp(best.x))

    def _scan_images(
        self, rows: Rows, starts: list[Hyperparameters]
    ) -> Hyperparameters:
        """Compare depths and ridges; shared first layers are computed once."""
        nets = [start.network(self.name, rows.image_shape) for start in starts]
        series = kernel_series(
            nets,
            torch.as_tensor(rows.X, device=self.device),
            image_shape=rows.image_shape,
            kind=self.kind,
        )
        best, best_score = starts[0], -math.inf
        for start, matrices in zip(starts, series, strict=True):
            kernel = matrices.nngp if self.kind == "nngp" else matrices.ntk
            assert kernel is not None
            numbers = kernel.cpu().numpy()
            scale = weighted_trace(numbers.diagonal(), rows.weight)
            decomposition = Decomposition(numbers, rows.targets, rows.weight)
            ridges = RIDGES
            if "ridge" in self.fixed:
                ridges = np.array([self.fixed["ridge"]])
            scores = self._scores(decomposition, ridges * scale, rows)
            position = int(np.argmax(scores))
            found = start.with_values(ridge=float(ridges[position]))
            score = float(scores[position] / rows.weight.sum())
            self._record(found, score, str(self.criterion))
            if score > best_score:
                best, best_score = found, score
        return best

    def _kernel(self, rows: Rows, chosen: Hyperparameters) -> tuple[Array, float]:
        X = rows.X if chosen.relevance is None else rows.X * chosen.relevance
        matrices = kernel_series(
            [chosen.network(self.name, rows.image_shape)],
            torch.as_tensor(X, device=self.device),
            image_shape=rows.image_shape,
            kind=self.kind,
        )[0]
        kernel = matrices.nngp if self.kind == "nngp" else matrices.ntk
        assert kernel is not None
        numbers = kernel.cpu().numpy()
        if not np.isfinite(numbers).all():
            raise ValueError(_OVERFLOW)
        return numbers, weighted_trace(numbers.diagonal(), rows.weight)

    def _record(self, chosen: Hyperparameters, score: float, criterion: str) -> None:
        self.candidates_.append(
            {
                "activation": chosen.activation,
                "depth": chosen.depth,
                "weight_std": chosen.weight_std,
                "bias_std": chosen.bias_std,
                "linear_std": chosen.linear_std,
                "alpha": chosen.ridge,
                "relevance": chosen.relevance is not None,
                "criterion": criterion,
                "score": float(score),
            }
        )


def weighted_trace(diagonal: Array, weight: Array) -> float:
    """Return the weighted mean of a kernel's diagonal, 1 for a kernel of zeros."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(np.average(diagonal, weights=weight))
    if not math.isfinite(mean):
        raise ValueError(_OVERFLOW)
    return mean if mean > 0 else 1.0
