"""From the cells of a table to the hyper-parameters of kernels, in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from skfunc._shapes import Bool, Float
from skfunc.nn._kernel_mixture import Hypotheses
from skfunc.nn._neural_process_base import MLP

# Below all that a normalized cell holds.
_FLOOR = -10.0
# Outputs of the heads: scale, linear weight and frequency of a column; amplitude,
# constant, noise, mean and logit of a table.
_PER_COLUMN, _PER_TABLE = 3, 5
# A reading leaves out a row in so many at most.
_LEAST_FOLDS = 5
# Adam on raw hyper-parameters: size of a step, memory of gradients and their squares,
# and the standard deviation of raw values about the network's answer.
_STEP_SIZE, _MOMENTA, _PRIOR_STD = 0.2, (0.9, 0.95), 3.0


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


class RawHypotheses(NamedTuple):
    """What the heads say of K kernels, before it is made positive."""

    by_column: Float[Tensor, "processes features three kernels"]
    by_table: Float[Tensor, "processes five kernels"]

    def double(self) -> RawHypotheses:
        """Return the same in float64."""
        return RawHypotheses(self.by_column.double(), self.by_table.double())

    def constrained(
        self, min_std: float, bands: Float[Tensor, "*processes kernels two"]
    ) -> Hypotheses:
        """Return the hyper-parameters.

        Parameters
        ----------
        min_std : float
            Floor of the noise.
        bands : Tensor of shape (kernels, 2) or (processes, kernels, 2)
            Lowest and highest frequency of each kernel.
        """
        # Scales of columns shrink with their number, as distances grow with it.
        root = math.sqrt(self.by_column.shape[1])
        scale, slope, frequency = self.by_column.permute(0, 2, 3, 1).unbind(1)
        amplitude, constant, noise, mean, logits = self.by_table.unbind(1)
        low, high = bands.to(scale).unsqueeze(-1).unbind(-2)
        return Hypotheses(
            scales=functional.softplus(scale) / root,
            linear=functional.softplus(slope - 2.0) / root,
            frequencies=low + (high - low) * torch.sigmoid(frequency),
            amplitude=functional.softplus(amplitude),
            constant=functional.softplus(constant - 1.0),
            noise=functional.softplus(noise - 1.0) + min_std,
            mean=mean,
            logits=logits,
        )


class Inference(NamedTuple):
    """Raw hypotheses, and what is known of every column beside them."""

    raw: RawHypotheses
    columns: Float[Tensor, "processes features width"]
    log_count: Float[Tensor, "processes one one"]


class KernelInference(nn.Module):
    """Infer hyper-parameters of K kernels from a context, whatever its columns.

    Cells (row, column) exchange what they hold with their row and their column, so
    that neither order nor number of columns matters.

    Parameters
    ----------
    n_kernels : int
        Number of kernels K.
    width, n_layers : int
        Width of the cells, and rounds of exchange.
    n_waves : int
        Waves cos(2 pi f x), sin(2 pi f x) that cells know of beside x, at frequencies
        f = 1/4, 2/4, ...; they show periods.
    activation : str
        Name in `ACTIVATIONS`.
    """

    frequencies: Tensor

    def __init__(
        self,
        n_kernels: int,
        *,
        width: int,
        n_layers: int,
        n_waves: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.n_kernels = n_kernels
        frequencies = 0.25 * torch.arange(1, n_waves + 1)
        self.register_buffer("frequencies", frequencies, persistent=False)
        waves = [4 * n_waves] if n_waves else []

        def perceptron(n_inputs: list[int], n_outputs: int) -> MLP:
            return MLP(
                n_inputs, n_outputs, width=width, n_hidden=1, activation=activation
            )

        self.embedding = perceptron([1, 1, 1, *waves], width)
        self.layers = nn.ModuleList(
            CellLayer(width, activation) for _ in range(n_layers)
        )
        self.column_head = perceptron([width, width, 1], _PER_COLUMN * n_kernels)
        self.table_head = perceptron([width, width, 1], _PER_TABLE * n_kernels)
        self.summary = perceptron([width, width, 1], width)
        self.correction = Correction(n_kernels, width, activation)

    def forward(
        self,
        x: Float[Tensor, "processes points features"],
        y: Float[Tensor, "processes points"],
        mask: Bool[Tensor, "processes points"],
    ) -> Inference:
        """Return the first guess."""
        count = mask.sum(1).clamp(min=1)
        weights = mask.to(x.dtype) / count.to(x.dtype).unsqueeze(-1)
        share = weights[..., None, None]
        hidden = ~mask[..., None, None]
        values = y[..., None, None].expand(*x.shape, 1)
        cells = self.embedding(*self._features(x.unsqueeze(-1), values))
        cells = cells.masked_fill(hidden, 0.0)
        for layer in self.layers:
            cells = layer(cells, share, hidden).masked_fill(hidden, 0.0)
        columns = (share * cells).sum(1)
        largest = largest_of(cells, hidden).squeeze(1)
        size = torch.log(count.to(x.dtype))[:, None, None]
        by_column = self.column_head(columns, largest, size)
        by_table = self.table_head(columns.mean(1), largest.mean(1), size[:, 0])
        raw = RawHypotheses(
            by_column.unflatten(-1, (_PER_COLUMN, self.n_kernels)),
            by_table.unflatten(-1, (_PER_TABLE, self.n_kernels)),
        )
        return Inference(raw, self.summary(columns, largest, size), size)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, which inputs must have."""
        return self.correction.gain.dtype

    def _features(self, x: Tensor, y: Tensor) -> list[Tensor]:
        features = [x, y, x * y]
        if len(self.frequencies):
            angle = 2.0 * torch.pi * x * self.frequencies
            waves = torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1)
            features.append(torch.cat([waves, waves * y], dim=-1))
        return features


class Correction(nn.Module):
    """A learned step of an optimizer: it sees the gradient of the log evidence.

    Gradients enter as inverse hyperbolic sines, which keep sign and order of magnitude.
    What is known of the columns is carried from step to step (Andrychowicz et al. 2016,
    arXiv 1606.04474, learn an optimizer so).

    Parameters
    ----------
    n_kernels : int
        Number of kernels K.
    width : int
        Width of what is known of a column.
    activation : str
        Name in `ACTIVATIONS`.
    """

    def __init__(self, n_kernels: int, width: int, activation: str) -> None:
        super().__init__()
        per_column, per_table = _PER_COLUMN * n_kernels, _PER_TABLE * n_kernels
        self.norm = nn.LayerNorm(width)
        self.memory = MLP(
            [width, width, 2 * per_column, 2 * per_table, 1],
            width,
            width=width,
            n_hidden=1,
            activation=activation,
        )
        self.column_step = MLP(
            width, per_column, width=width, n_hidden=1, activation=activation
        )
        self.table_step = MLP(
            width, per_table, width=width, n_hidden=1, activation=activation
        )
        self.gain = nn.Parameter(torch.full((), 0.3))

    def forward(
        self, inference: Inference, gradient: RawHypotheses, log_count: Tensor
    ) -> Inference:
        """Return the corrected guess.

        Parameters
        ----------
        inference : Inference
            The guess so far.
        gradient : RawHypotheses
            Of the log evidence with respect to its raw values.
        log_count : Tensor of shape (processes, 1, 1)
            Logarithm of the number of rows whose evidence it is.
        """
        raw, columns, size = inference

        def both(values: Tensor, slopes: Tensor) -> Tensor:
            return torch.cat([values, torch.asinh(slopes)], dim=-2).flatten(-2)

        known = self.norm(columns)
        change = self.memory(
            known,
            known.mean(1, keepdim=True),
            both(raw.by_column, gradient.by_column),
            both(raw.by_table, gradient.by_table).unsqueeze(1),
            log_count,
        )
        columns = columns + change
        by_column = self.column_step(columns).unflatten(-1, (_PER_COLUMN, -1))
        by_table = self.table_step(columns.mean(1)).unflatten(-1, (_PER_TABLE, -1))
        corrected = RawHypotheses(
            raw.by_column + self.gain * by_column, raw.by_table + self.gain * by_table
        )
        return Inference(corrected, columns, size)


def readings(
    x: Float[Tensor, "processes points features"],
    y: Float[Tensor, "processes points *outputs"],
    mask: Bool[Tensor, "processes points"],
    n_readings: int,
    n_rows: int,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the rows of each reading of a context.

    One reading has the first rows. Of several, each leaves out its own share of them, a
    fifth at most, or, if there are more rows than one may read, begins somewhere else.
    """
    n = x.shape[1]
    place = torch.arange(n, device=x.device)
    for reading in range(n_readings):
        if n > n_rows:
            rows = (place[:n_rows] + reading * n_rows) % n
        else:
            left_out = (place + reading) % max(n_readings, _LEAST_FOLDS) == 0
            rows = place[~left_out] if n_readings > 1 else place
        yield x[:, rows], y[:, rows], mask[:, rows]


def ascend(
    raw: RawHypotheses,
    evidence_gradient: Callable[[RawHypotheses], RawHypotheses],
    n_steps: int,
) -> RawHypotheses:
    """Climb the evidence from the network's answer, which stays a weak prior.

    Parameters
    ----------
    raw : RawHypotheses
        The network's answer.
    evidence_gradient : callable
        Gradient of the log evidence at raw values.
    n_steps : int
        Steps of Adam (Kingma and Ba 2015, arXiv 1412.6980).
    """
    if not n_steps:
        return raw
    values = [v.detach().clone() for v in raw]
    optimizer = torch.optim.Adam(values, lr=_STEP_SIZE, betas=_MOMENTA)
    for _ in range(n_steps):
        slopes = evidence_gradient(RawHypotheses(*values))
        for value, slope, start in zip(values, slopes, raw, strict=True):
            value.grad = (value - start.detach()) / _PRIOR_STD**2 - slope
        optimizer.step()
    return RawHypotheses(*values)
