"""A neural process that infers a kernel and conditions in closed form."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from skfunc._shapes import Bool, Float
from skfunc.nn._neural_process_base import MLP, NeuralProcess, check_widths
from skfunc.nn._task_batch import blank

# Added to the diagonal beside the noise, in units of the amplitude.
_JITTER = 1e-8
# Below all that a normalized cell holds.
_FLOOR = -10.0
_SQRT5 = math.sqrt(5.0)


class KernelState(NamedTuple):
    """The inferred kernel, and the context conditioned on: one process an output."""

    scales: Float[Tensor, "processes heads features"]
    amplitudes: Float[Tensor, "processes heads"]
    linear: Float[Tensor, "processes features"]
    constant: Float[Tensor, " processes"]
    noise: Float[Tensor, " processes"]
    mean: Float[Tensor, " processes"]
    context_x: Float[Tensor, "processes points features"]
    mask: Bool[Tensor, "processes points"]
    factor: Float[Tensor, "processes points points"]
    alphas: Float[Tensor, "processes points one"]


def largest_of(
    cells: Float[Tensor, "processes points features width"],
    hidden: Bool[Tensor, "processes points one one"],
) -> Float[Tensor, "processes one features width"]:
    """Return the largest value over the rows that are there; a floor for none."""
    floor = cells.new_full((len(cells), 1, *cells.shape[2:]), _FLOOR)
    shown = cells.masked_fill(hidden, _FLOOR)
    return torch.cat([floor, shown], dim=1).amax(dim=1, keepdim=True)


class CellLayer(nn.Module):
    """Every cell (row, column) learns from its row, its column, and the table."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = MLP(
            [width] * 5, width, width=width, n_hidden=1, activation=activation
        )
        # A layer begins as next to nothing beside the path around it.
        self.gain = nn.Parameter(torch.full((), 0.3))

    def forward(
        self,
        cells: Float[Tensor, "processes points features width"],
        share: Float[Tensor, "processes points one one"],
        hidden: Bool[Tensor, "processes points one one"],
    ) -> Float[Tensor, "processes points features width"]:
        """Return the cells; `share` weighs rows, `hidden` marks those not there."""
        h = self.norm(cells)
        by_row = h.mean(dim=2, keepdim=True)
        by_column = (share * h).sum(dim=1, keepdim=True)
        largest = largest_of(h, hidden)
        table = by_column.mean(dim=2, keepdim=True)
        return cells + self.gain * self.mlp(h, by_row, by_column, largest, table)


class KernelNeuralProcess(NeuralProcess):
    r"""Infer a kernel from the context in one pass, then condition exactly.

    Cells (row, column) of the context exchange what they hold with their row and their
    column, so that neither order nor number of columns matters. Out of each column come
    its scales and its linear weight, out of the table the amplitudes, the noise, a
    constant and a mean; a Gaussian process with the kernel

    .. math::
        \sum_h a_h^2 k_h(\lVert s_h (x - x') \rVert) + \sum_j l_j^2 x_j x'_j + c^2

    predicts, with Matern-5/2 and squared exponential k_h in turns. It has few
    parameters and joint predictions in closed form; conditioning costs O(n^3).

    Parameters
    ----------
    n_features : int
        Width of the inputs dx; a network takes any number of columns.
    n_targets : int
        Width of the outputs dy, each a process of its own.
    n_raw : int
        2 dy: means and raw deviations of a `GaussianLikelihood`.
    width : int, default=48
        Width of the cells.
    n_layers : int, default=5
        Rounds of exchange.
    n_heads : int, default=2
        Kernels in the sum.
    min_std : float, default=1e-3
        Floor of the likelihood's deviation, which is taken off what it adds.
    activation : str, default="gelu"
        Name in `ACTIVATIONS`.

    Examples
    --------
    >>> import torch
    >>> from skfunc.nn import KernelNeuralProcess, TaskBatch, draw_module
    >>> network = KernelNeuralProcess(3, 1, 2, width=8)
    >>> draw_module(network, torch.Generator().manual_seed(0))
    >>> x, y = torch.rand(4, 10, 3), torch.rand(4, 10, 1)
    >>> batch = TaskBatch.without_padding(x[:, :3], y[:, :3], x[:, 3:], y[:, 3:])
    >>> network(batch).shape
    torch.Size([4, 7, 2])
    """

    def __init__(
        self,
        n_features: int,
        n_targets: int,
        n_raw: int,
        *,
        width: int = 48,
        n_layers: int = 5,
        n_heads: int = 2,
        min_std: float = 1e-3,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        check_widths(width=width, n_layers=n_layers, n_heads=n_heads)
        if n_raw != 2 * n_targets:
            raise ValueError(
                f"a kernel predicts means and deviations: n_raw must be "
                f"{2 * n_targets}; got {n_raw}"
            )
        self.n_heads, self.min_std = n_heads, min_std
        self.embedding = MLP(
            [1, 1, 1], width, width=width, n_hidden=1, activation=activation
        )
        self.layers = nn.ModuleList(
            CellLayer(width, activation) for _ in range(n_layers)
        )
        self.column_head = MLP(
            [width, width, 1],
            n_heads + 1,
            width=width,
            n_hidden=1,
            activation=activation,
        )
        self.table_head = MLP(
            [width, width, 1],
            n_heads + 3,
            width=width,
            n_hidden=1,
            activation=activation,
        )

    def encode(
        self,
        context_x: Float[Tensor, "tasks context features"],
        context_y: Float[Tensor, "tasks context targets"],
        context_mask: Bool[Tensor, "tasks context"],
    ) -> KernelState:
        """Infer the kernels and condition on the context."""
        n_targets = context_y.shape[2]
        x = blank(context_x, context_mask).repeat_interleave(n_targets, dim=0)
        mask = context_mask.repeat_interleave(n_targets, dim=0)
        y = blank(context_y, context_mask).mT.flatten(0, 1)
        # Close rows make matrices that only float64 factors.
        scales, amplitudes, linear, constant, noise, mean = (
            value.double() for value in self._infer(x, y, mask)
        )
        parameters = (scales, amplitudes, linear, constant)
        x, y = x.double(), y.double()
        kernel = self._kernel(parameters, x, x)
        pair = mask.unsqueeze(1) & mask.unsqueeze(2)
        kernel = kernel.masked_fill(~pair, 0.0)
        total = amplitudes.square().sum(-1) + constant.square()
        diagonal = noise.square() + _JITTER * total
        # A row that is not there is an observation of its own: it explains nothing.
        ones = torch.where(mask, diagonal.unsqueeze(-1), torch.ones_like(y))
        factor = torch.linalg.cholesky(kernel + torch.diag_embed(ones))
        centred = (y - mean.unsqueeze(-1)).masked_fill(~mask, 0.0).unsqueeze(-1)
        alphas = torch.cholesky_solve(centred, factor)
        return KernelState(
            scales,
            amplitudes,
            linear,
            constant,
            noise,
            mean,
            x,
            mask,
            factor,
            alphas,
        )

    def decode(
        self,
        state: KernelState,
        target_x: Float[Tensor, "tasks points features"],
        *,
        z: Float[Tensor, "samples tasks latent"] | None = None,
    ) -> Tensor:
        """Return means and raw deviations, (B, m, 2 dy)."""
        self._refuse_latent(z)
        n_targets = len(state.noise) // len(target_x)
        x = target_x.repeat_interleave(n_targets, dim=0).double()
        cross = self._kernel(state[:4], x, state.context_x)
        cross = cross.masked_fill(~state.mask.unsqueeze(1), 0.0)
        mean = state.mean.unsqueeze(-1) + (cross @ state.alphas).squeeze(-1)
        half = torch.linalg.solve_triangular(state.factor, cross.mT, upper=False)
        prior = (
            state.amplitudes.square().sum(-1, keepdim=True)
            + state.constant.square().unsqueeze(-1)
            + (state.linear.unsqueeze(1) * x).square().sum(-1)
        )
        function = (prior - half.square().sum(1)).clamp(min=0.0)
        std = (function + state.noise.square().unsqueeze(-1)).sqrt()
        excess = (std - self.min_std).clamp(min=1e-6)
        # The inverse of softplus, exact for small and large values.
        raw = excess + torch.log(-torch.expm1(-excess))
        both = torch.stack([mean, raw], dim=1).to(target_x.dtype)
        return both.unflatten(0, (-1, n_targets)).permute(0, 3, 2, 1).flatten(2)

    def _infer(
        self,
        x: Float[Tensor, "processes points features"],
        y: Float[Tensor, "processes points"],
        mask: Bool[Tensor, "processes points"],
    ) -> tuple[Tensor, ...]:
        """Return scales, amplitudes, linear weights, constant, noise and mean."""
        count = mask.sum(1).clamp(min=1)
        weights = mask.to(x.dtype) / count.to(x.dtype).unsqueeze(-1)
        share = weights[..., None, None]
        hidden = ~mask[..., None, None]
        values = y[..., None, None].expand(*x.shape, 1)
        cells = self.embedding(x.unsqueeze(-1), values, x.unsqueeze(-1) * values)
        cells = cells.masked_fill(hidden, 0.0)
        for layer in self.layers:
            cells = layer(cells, share, hidden).masked_fill(hidden, 0.0)
        columns = (share * cells).sum(1)
        largest = largest_of(cells, hidden).squeeze(1)
        size = torch.log(count.to(x.dtype))[:, None, None]
        by_column = self.column_head(columns, largest, size)
        by_table = self.table_head(columns.mean(1), largest.mean(1), size[:, 0])
        # Scales of columns shrink with their number, as distances grow with it.
        root = math.sqrt(x.shape[2])
        scales = functional.softplus(by_column[..., : self.n_heads]).mT / root
        linear = functional.softplus(by_column[..., -1] - 2.0) / root
        heads = self.n_heads
        amplitudes = functional.softplus(by_table[:, :heads])
        noise = functional.softplus(by_table[:, heads] - 1.0) + self.min_std
        constant = functional.softplus(by_table[:, heads + 1] - 1.0)
        return scales, amplitudes, linear, constant, noise, by_table[:, heads + 2]

    def _kernel(
        self,
        parameters: tuple[Tensor, ...],
        first: Float[Tensor, "processes rows features"],
        second: Float[Tensor, "processes columns features"],
    ) -> Float[Tensor, "processes rows columns"]:
        """Return the kernel of two sets of rows."""
        scales, amplitudes, linear, constant = parameters
        kernel = (first * linear.unsqueeze(1).square()) @ second.mT
        kernel = kernel + constant.square()[:, None, None]
        for head in range(self.n_heads):
            scale = scales[:, head].unsqueeze(1)
            a, b = first * scale, second * scale
            squared = (
                a.square().sum(-1, keepdim=True)
                + b.square().sum(-1).unsqueeze(1)
                - 2.0 * (a @ b.mT)
            ).clamp(min=0.0)
            amplitude = amplitudes[:, head].square()[:, None, None]
            if head % 2:
                shape = torch.exp(-0.5 * squared)
            else:
                # The root has no derivative at zero.
                r = _SQRT5 * torch.sqrt(squared + 1e-12)
                shape = (1.0 + r + r.square() / 3.0) * torch.exp(-r)
            kernel = kernel + amplitude * shape
        return kernel
