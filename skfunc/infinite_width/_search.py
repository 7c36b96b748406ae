"""Hyperparameters by the gradient of the log marginal likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize

from skfunc.infinite_width._evidence import evidence
from skfunc.infinite_width._hyperparameters import (
    CONTINUOUS,
    RELEVANCE_BOUNDS,
    RELEVANCE_PRIOR_STD,
    Hyperparameters,
    network,
)
from skfunc.infinite_width._kernel_matrices import kernel_matrices

Array = NDArray[np.float64]

# The search stops when a step gains less than this many nats a row.
_TOLERANCE = 1e-4
# A ridge of zero is judged as this one.
_SMALLEST_RIDGE = 1e-10
# Of a kernel that cannot be factored: worse than any that can, in nats a row.
_FAILED = 1e6


@dataclass(frozen=True)
class Rows:
    """The rows that hyperparameters are chosen on.

    Attributes
    ----------
    X : ndarray of shape (n_samples, n_features)
        Standardized inputs.
    targets : ndarray of shape (n_samples, n_outputs)
        Standardized or centred targets.
    weight : ndarray of shape (n_samples,)
        Positive weights.
    image_shape : tuple of int or None
        (channels, height, width).
    """

    X: Array
    targets: Array
    weight: Array
    image_shape: tuple[int, int, int] | None

    def __len__(self) -> int:
        return len(self.X)

    def at(self, index: NDArray[np.intp]) -> Rows:
        """Return some of the rows."""
        return Rows(
            self.X[index], self.targets[index], self.weight[index], self.image_shape
        )


def maximize_evidence(
    rows: Rows,
    start: Hyperparameters,
    *,
    free: frozenset[str],
    name: str,
    kind: str,
    shared: bool,
    max_iter: int,
    device: torch.device,
) -> tuple[Hyperparameters, float]:
    """Return the most likely hyperparameters near a start, and their score.

    L-BFGS on the logarithms of the free hyperparameters, by reverse-mode derivatives
    through the kernel matrix, with the amplitude at its maximum throughout.

    Parameters
    ----------
    rows : Rows
        The rows; cost and memory grow as the square and cube of their number.
    start : Hyperparameters
        Where the search begins; what is not free stays.
    free : frozenset of str
        Names out of CONTINUOUS, and "relevance".
    name : str
        Name of the preset.
    kind : {"nngp", "ntk"}
        The kernel.
    shared : bool
        Whether outputs share an amplitude.
    max_iter : int
        Iterations at most.
    device : torch.device
        Where the kernel is computed.

    Returns
    -------
    Hyperparameters
        The best ones.
    float
        Log marginal likelihood plus log prior, in nats a row.
    """
    problem = _Problem(rows, start, free, name, kind, shared, device)
    if not problem.names and not problem.relevant:
        value, _ = problem(np.empty(0))
        return start, -value
    best = optimize.minimize(
        problem,
        problem.start,
        jac=True,
        method="L-BFGS-B",
        bounds=problem.bounds,
        options={"maxiter": max_iter, "ftol": _TOLERANCE},
    )
    return problem.read(best.x), -float(best.fun)


class _Problem:
    """Minus the log posterior of hyperparameters, in nats a row, with its gradient."""

    def __init__(
        self,
        rows: Rows,
        start: Hyperparameters,
        free: frozenset[str],
        name: str,
        kind: str,
        shared: bool,
        device: torch.device,
    ) -> None:
        self.rows, self.base, self.name = rows, start, name
        self.kind, self.shared, self.device = kind, shared, device
        self.names = [key for key in CONTINUOUS if key in free]
        self.relevant = "relevance" in free
        n_features = rows.X.shape[1]
        columns = n_features if self.relevant else 0
        relevance = np.ones(n_features) if start.relevance is None else start.relevance
        self.start = np.log(
            [getattr(start, key) for key in self.names]
            + (relevance.tolist() if self.relevant else [])
        )
        limits = [CONTINUOUS[key][2] for key in self.names]
        limits += [RELEVANCE_BOUNDS] * columns
        self.bounds = [(math.log(low), math.log(high)) for low, high in limits]
        centre = [CONTINUOUS[key][1] for key in self.names] + [1.0] * columns
        spread = [CONTINUOUS[key][3] for key in self.names]
        self.centre = np.log(centre)
        self.precision = 1 / np.square(spread + [RELEVANCE_PRIOR_STD] * columns)
        self.X = torch.as_tensor(rows.X, device=device)
        self.total = float(rows.weight.sum())
        weight = torch.as_tensor(rows.weight, device=device)
        self.share = weight / weight.sum()

    def read(self, logs: Array) -> Hyperparameters:
        """Return the hyperparameters that a vector of logarithms stands for."""
        values = np.exp(logs)
        named = dict(zip(self.names, values[: len(self.names)].tolist(), strict=True))
        if self.relevant:
            named["relevance"] = values[len(self.names) :]
        return self.base.with_values(**named)

    def __call__(self, logs: Array) -> tuple[float, Array]:
        parameters = torch.tensor(logs, device=self.device, requires_grad=True)
        values = {
            key: torch.exp(parameters[i]).cpu() if key != "ridge" else None
            for i, key in enumerate(self.names)
        }
        kernel = self._kernel(parameters, values)
        ridge = (
            math.exp(logs[self.names.index("ridge")])
            if "ridge" in self.names
            else max(self.base.ridge, _SMALLEST_RIDGE)
        )
        numbers = kernel.detach().cpu().numpy()
        found = None
        if np.isfinite(numbers).all():
            found = evidence(
                numbers, self.rows.targets, ridge, self.rows.weight, shared=self.shared
            )
        if found is None:
            return _FAILED, np.zeros(len(logs))
        gradient = np.zeros(len(logs))
        if kernel.requires_grad:
            kernel.backward(torch.as_tensor(found.by_kernel, device=self.device))
            assert parameters.grad is not None
            gradient += parameters.grad.cpu().numpy()
            # Rounding may leave a finite kernel of huge scale without a derivative.
            if not np.isfinite(gradient).all():
                return _FAILED, np.zeros(len(logs))
        if "ridge" in self.names:
            gradient[self.names.index("ridge")] += found.by_log_ridge
        offset = logs - self.centre
        value = found.value - 0.5 * float(self.precision @ np.square(offset))
        gradient -= self.precision * offset
        return -value / self.total, -gradient / self.total

    def _kernel(
        self, parameters: torch.Tensor, values: dict[str, torch.Tensor | None]
    ) -> torch.Tensor:
        """Return the kernel matrix over the mean of its diagonal."""
        base = self.base
        stds = tuple(
            getattr(base, key) if values.get(key) is None else values[key]
            for key in ("weight_std", "bias_std", "linear_std")
        )
        net = network(
            self.name,
            base.activation,
            base.depth,
            stds,  # type: ignore[arg-type]
            self.rows.image_shape,
        )
        X = self.X
        if self.relevant:
            X = X * torch.exp(parameters[len(self.names) :])
        elif base.relevance is not None:
            X = X * torch.as_tensor(base.relevance, device=self.device)
        matrices = kernel_matrices(
            net, X, kind=self.kind, image_shape=self.rows.image_shape
        )
        kernel = matrices.nngp if self.kind == "nngp" else matrices.ntk
        assert kernel is not None
        return kernel / (kernel.diagonal() @ self.share)
