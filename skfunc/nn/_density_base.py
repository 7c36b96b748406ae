"""Base distributions of flows: mixtures of Gaussians, kernel densities among them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from skfunc._shapes import Float, Int


class GaussianComponents:
    """Mixture of Gaussians with full covariances, or one that all components share.

    A standard normal has one component; a kernel density estimate has one at each
    training row, and shares the covariance.

    Parameters
    ----------
    means : Tensor of shape (components, size)
        Centres.
    weights : Tensor of shape (components,)
        Positive, summing to 1.
    cholesky : Tensor of shape (components, size, size) or (1, size, size)
        Lower Cholesky factors of the covariances.
    """

    def __init__(
        self,
        means: Float[Tensor, "components size"],
        weights: Float[Tensor, " components"],
        cholesky: Float[Tensor, "_ size size"],
    ) -> None:
        self.means, self.weights, self.cholesky = means, weights, cholesky
        eye = torch.eye(means.shape[-1], dtype=means.dtype, device=means.device)
        # Rows times this are whitened.
        self.whitener = torch.linalg.solve_triangular(
            cholesky, eye.expand_as(cholesky), upper=False
        ).transpose(-1, -2)
        log_determinants = cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        size = means.shape[-1]
        self.offsets = (
            weights.log() - log_determinants - 0.5 * size * math.log(2.0 * math.pi)
        )
        if self.is_shared:
            self.centres = means @ self.whitener[0]
        else:
            self.centres = (means.unsqueeze(1) @ self.whitener).squeeze(1)

    @property
    def is_shared(self) -> bool:
        """Whether all components have one covariance."""
        return self.cholesky.shape[0] == 1

    def to(self, like: Tensor) -> GaussianComponents:
        """Return the same on a tensor's device and in its precision."""
        return GaussianComponents(
            self.means.to(like), self.weights.to(like), self.cholesky.to(like)
        )

    def log_prob(
        self,
        x: Float[Tensor, "*rows size"],
        left_out: Int[Tensor, "*rows"] | None = None,
    ) -> Float[Tensor, "*rows"]:
        """Return log densities.

        Parameters
        ----------
        x : Tensor of shape (..., size)
            Rows.
        left_out : Tensor of shape (...), optional
            A component for each row that is not counted, as a kernel density leaves out
            the row itself; the weights of the others are scaled up.
        """
        rows = x.reshape(-1, x.shape[-1])
        logs = self.offsets - 0.5 * self._squared_distances(rows)
        if left_out is not None:
            index = left_out.reshape(-1, 1)
            logs = logs.scatter(1, index, -torch.inf)
            rest = torch.log1p(-self.weights[index.squeeze(1)])
            return (torch.logsumexp(logs, dim=1) - rest).reshape(x.shape[:-1])
        return torch.logsumexp(logs, dim=1).reshape(x.shape[:-1])

    def _squared_distances(
        self, rows: Float[Tensor, "rows size"]
    ) -> Float[Tensor, "rows components"]:
        if self.is_shared:
            white = rows @ self.whitener[0]
            squares = (white**2).sum(1, keepdim=True) + (self.centres**2).sum(1)
            return torch.addmm(squares, white, self.centres.T, alpha=-2.0).clamp(min=0)
        white = rows @ self.whitener - self.centres.unsqueeze(1)
        return (white**2).sum(-1).T

    def sample(
        self, n_samples: int, generator: torch.Generator
    ) -> Float[Tensor, "n_samples size"]:
        """Draw rows; the generator is on the same device."""
        normal = torch.randn(
            n_samples,
            self.means.shape[1],
            generator=generator,
            dtype=self.means.dtype,
            device=self.means.device,
        )
        if len(self.means) == 1:
            return self.means + normal @ self.cholesky[0].T
        component = torch.multinomial(
            self.weights, n_samples, replacement=True, generator=generator
        )
        if self.is_shared:
            return self.means[component] + normal @ self.cholesky[0].T
        # One product per component, not one factor per row: memory stays small.
        draws = self.means[component]
        for k in component.unique().tolist():
            chosen = component == k
            draws[chosen] += normal[chosen] @ self.cholesky[k].T
        return draws


class StackedComponents:
    """Mixture of several `GaussianComponents`.

    Smyth and Wolpert 1999, Linearly combining density estimators via stacking.

    Parameters
    ----------
    parts : sequence of GaussianComponents
        What is mixed.
    shares : Tensor of shape (parts,)
        Weights of the parts, summing to 1.
    kernels : sequence of bool
        Which parts are kernel densities, with a component at each training row.
    """

    def __init__(
        self,
        parts: Sequence[GaussianComponents],
        shares: Float[Tensor, " parts"],
        kernels: Sequence[bool],
    ) -> None:
        self.parts, self.shares, self.kernels = list(parts), shares, list(kernels)

    def to(self, like: Tensor) -> StackedComponents:
        """Return the same on a tensor's device and in its precision."""
        parts = [part.to(like) for part in self.parts]
        return StackedComponents(parts, self.shares.to(like), self.kernels)

    def log_prob(
        self,
        x: Float[Tensor, "*rows size"],
        left_out: Int[Tensor, "*rows"] | None = None,
    ) -> Float[Tensor, "*rows"]:
        """Return log densities; `left_out` holds for the kernel densities alone."""
        logs = [
            part.log_prob(x, left_out if is_kernel else None)
            for part, is_kernel in zip(self.parts, self.kernels, strict=True)
        ]
        return torch.logsumexp(torch.stack(logs, dim=-1) + self.shares.log(), dim=-1)

    def sample(
        self, n_samples: int, generator: torch.Generator
    ) -> Float[Tensor, "n_samples size"]:
        """Draw rows; the generator is on the same device."""
        part = torch.multinomial(
            self.shares, n_samples, replacement=True, generator=generator
        )
        draws = self.parts[0].means.new_empty(n_samples, self.parts[0].means.shape[1])
        for k, components in enumerate(self.parts):
            chosen = part == k
            if chosen.any():
                draws[chosen] = components.sample(int(chosen.sum()), generator)
        return draws
