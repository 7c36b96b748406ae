"""A neural process that infers kernels and conditions in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from skfunc._shapes import Bool, Float
from skfunc.nn._kernel_inference import KernelInference, RawHypotheses, ascend, readings
from skfunc.nn._kernel_mixture import (
    Conditioned,
    Hypotheses,
    check_kernels,
    condition,
    condition_through,
    evidence_slope,
    kernel_matrices,
    posterior_at,
    prior_variances,
)
from skfunc.nn._kernel_scan import scan_frequencies
from skfunc.nn._neural_process_base import NeuralProcess, check_widths
from skfunc.nn._task_batch import blank


class JointPosterior(NamedTuple):
    """Mixture of the function's Gaussians at several points, one process an output."""

    log_weights: Float[Tensor, "tasks kernels"]
    mean: Float[Tensor, "tasks targets kernels points"]
    covariance: Float[Tensor, "tasks targets kernels points points"]
    noise: Float[Tensor, "tasks targets kernels"]


class KernelNeuralProcess(NeuralProcess):
    r"""Infer kernels from the context in one pass, then condition exactly.

    A network reads the table and answers with the hyper-parameters of K kernels. Each
    is a hypothesis, with the covariance

    .. math::
        a^2 k(s \odot x, s \odot x') + \sum_j l_j^2 x_j x'_j + c^2

    and a noise of its own; a Gaussian process conditions on the context in closed
    form. The prediction is their mixture, in proportion to the exponential of a learned
    logit and of the context's log evidence times a learned gain: with a gain of one
    and equal logits, Bayesian model averaging [1]_. Neither order nor number of columns
    matters. Conditioning costs O(K n^3) up to `mixture_rows`, O(n^3) up to `exact_rows`
    and O(n m^2) beyond.

    Parameters
    ----------
    n_features : int
        Width of the inputs dx; a network takes any number of columns.
    n_targets : int
        Width of the outputs dy, each a process of its own; hypotheses of one kernel
        have one weight for all outputs.
    n_raw : int
        K (1 + 2 dy) for a `MixtureLikelihood` of K components, times the number of
        readings; or 2 dy for a `GaussianLikelihood`, with the mixture's mean and
        deviation.
    kernels : sequence of str, default=("matern52", "rbf", "matern12", "arcsine")
        A kernel for each hypothesis: "arcsine" (of an infinitely wide network),
        "matern12", "matern32", "matern52", "periodic", "rbf". A name may come twice.
    width : int, default=48
        Width of the cells.
    n_layers : int, default=5
        Rounds of exchange between cells.
    n_waves : int, default=0
        Frequencies 1/4, 2/4, ... that cells know of, for periodic functions.
    frequency_range : tuple of two floats, default=(0.25, 4)
        Lowest and highest frequency of the periodic kernels, in periods for a unit of
        x; each of them searches an equal part of it.
    n_scanned : int, default=0
        Frequencies on a grid over that range whose evidence is computed; each periodic
        kernel then searches about one of the likeliest, instead of its part.
    n_corrections : int, default=0
        Learned steps that correct the hyper-parameters, each given the gradient of the
        context's log evidence. An attribute, which may be set anew.
    n_gradient_steps : int, default=0
        Steps of Adam (Kingma and Ba 2015, arXiv 1412.6980) on the evidence after them.
        An attribute as well; nothing is learned through these steps.
    correction_rows : int, default=512
        Rows of the context whose evidence corrections and steps see: the first ones.
    n_readings : int, default=1
        How often the network reads the context, each time other rows of it; every
        reading has K hypotheses of its own.
    inference_rows : int, default=1024
        Rows of the context that the network reads: the first ones.
    mixture_rows : int, default=1024
        A longer context of a single task is conditioned on by one hypothesis: the
        most likely one given so many rows, the first ones.
    exact_rows : int, default=4096
        A context longer still is seen through `through_rows` of its rows.
    through_rows : int, default=1536
        How many: the first ones. Time grows with their square, memory too.
    min_std : float, default=1e-3
        Floor of the likelihood's deviation, which is taken off what it adds.
    activation : str, default="gelu"
        Name in `ACTIVATIONS`.

    References
    ----------
    .. [1] C. E. Rasmussen, C. K. I. Williams 2006, Gaussian processes for machine
       learning, MIT Press, chapter 5.

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

    bands: Tensor
    grid: Tensor

    def __init__(
        self,
        n_features: int,
        n_targets: int,
        n_raw: int,
        *,
        kernels: Sequence[str] = ("matern52", "rbf", "matern12", "arcsine"),
        width: int = 48,
        n_layers: int = 5,
        n_waves: int = 0,
        frequency_range: Sequence[float] = (0.25, 4.0),
        n_scanned: int = 0,
        n_corrections: int = 0,
        n_gradient_steps: int = 0,
        correction_rows: int = 512,
        n_readings: int = 1,
        inference_rows: int = 1024,
        mixture_rows: int = 1024,
        exact_rows: int = 4096,
        through_rows: int = 1536,
        min_std: float = 1e-3,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        check_widths(
            width=width,
            n_layers=n_layers,
            correction_rows=correction_rows,
            n_readings=n_readings,
            inference_rows=inference_rows,
            mixture_rows=mixture_rows,
            exact_rows=exact_rows,
            through_rows=through_rows,
        )
        self.kernels, self.min_std = check_kernels(kernels), min_std
        self.n_corrections, self.correction_rows = n_corrections, correction_rows
        self.n_gradient_steps = n_gradient_steps
        self.n_readings = n_readings
        self.inference_rows, self.mixture_rows = inference_rows, mixture_rows
        self.exact_rows = exact_rows
        self.through_rows = through_rows
        bands = frequency_bands(self.kernels, *frequency_range)
        self.register_buffer("bands", bands, persistent=False)
        grid = torch.linspace(frequency_range[0], frequency_range[1], n_scanned)
        self.register_buffer("grid", grid, persistent=False)
        n_components = len(kernels) * n_readings
        self._is_mixture = n_raw == n_components * (1 + 2 * n_targets)
        if n_raw != 2 * n_targets and not self._is_mixture:
            raise ValueError(
                f"a kernel predicts means and deviations: n_raw must be "
                f"{2 * n_targets}, or {n_components * (1 + 2 * n_targets)} for a "
                f"mixture of {n_components} components; got {n_raw}"
            )
        self.inference = KernelInference(
            len(kernels),
            width=width,
            n_layers=n_layers,
            n_waves=n_waves,
            activation=activation,
        )
        self.log_gain = nn.Parameter(torch.zeros(()))

    def encode(
        self,
        context_x: Float[Tensor, "tasks context features"],
        context_y: Float[Tensor, "tasks context targets"],
        context_mask: Bool[Tensor, "tasks context"],
    ) -> Conditioned:
        """Infer the kernels and condition them on the context."""
        x, y, mask = processes(context_x, context_y, context_mask)
        read = readings(x, y, mask, self.n_readings, self.inference_rows)
        each = [self.infer_hypotheses(*rows) for rows in read]
        hypotheses = Hypotheses(*(torch.cat(v, dim=1) for v in zip(*each, strict=True)))
        x, y, names = x.double(), y.double(), self.kernels * self.n_readings
        if len(context_x) > 1 or x.shape[1] <= self.mixture_rows or not mask.all():
            return condition(names, hypotheses, x, y, mask)
        first = slice(0, self.mixture_rows)
        few = condition(names, hypotheses, x[:, first], y[:, first], mask[:, first])
        best = int(self.log_weights(few, 1).argmax())
        names = (names[best],)
        one = Hypotheses(*(v[:, best : best + 1] for v in hypotheses))
        if x.shape[1] <= self.exact_rows:
            return condition(names, one, x, y, mask)
        evidence = few.evidence[:, best : best + 1]
        return condition_through(names, one, x, y, self.through_rows, evidence)

    def infer_hypotheses(
        self,
        x: Float[Tensor, "processes points features"],
        y: Float[Tensor, "processes points"],
        mask: Bool[Tensor, "processes points"],
    ) -> Hypotheses:
        """Return hyper-parameters for each process, in float64."""
        x, y = x.to(self.inference.dtype), y.to(self.inference.dtype)
        guess = self.inference(x, y, mask)
        rows = slice(0, self.correction_rows)
        seen = mask[:, rows]
        log_count = seen.sum(1).clamp(min=1).to(x.dtype).log()[:, None, None]
        data = (x[:, rows], y[:, rows], seen)
        bands = self._bands_of(guess.raw, *data)
        for _ in range(self.n_corrections):
            gradient = self._evidence_gradient(guess.raw, bands, *data)
            guess = self.inference.correction(guess, gradient, log_count)
        raw = ascend(
            guess.raw,
            lambda raw: self._evidence_gradient(raw, bands, *data),
            self.n_gradient_steps,
        )
        # Close rows make matrices that only float64 factors.
        return raw.double().constrained(self.min_std, bands)

    def _bands_of(
        self, raw: RawHypotheses, x: Tensor, y: Tensor, mask: Tensor
    ) -> Float[Tensor, "*processes kernels two"]:
        """Return where each kernel looks for its frequency."""
        places = [k for k, name in enumerate(self.kernels) if name == "periodic"]
        if not len(self.grid) or not places:
            return self.bands
        every = raw.double().constrained(self.min_std, self.bands)
        first = slice(places[0], places[0] + 1)
        peaks = scan_frequencies(
            Hypotheses(*(value[:, first] for value in every)),
            x.double(),
            y.double(),
            mask,
            self.grid.double(),
            len(places),
        )
        bands = self.bands.to(peaks).repeat(len(x), 1, 1)
        step = (self.grid[1] - self.grid[0]).to(peaks)
        bands[:, places, 0] = (peaks - step).clamp(min=0.5 * step)
        bands[:, places, 1] = peaks + step
        return bands

    def _evidence_gradient(
        self, raw: RawHypotheses, bands: Tensor, x: Tensor, y: Tensor, mask: Tensor
    ) -> RawHypotheses:
        """Return the gradient with respect to the raw values, themselves fixed."""
        with torch.enable_grad():
            values = [v.detach().double().requires_grad_() for v in raw]
            hypotheses = RawHypotheses(*values).constrained(self.min_std, bands)
            slope = evidence_slope(
                self.kernels, hypotheses, x.double(), y.double(), mask
            )
            gradients = torch.autograd.grad(
                slope, values, allow_unused=True, materialize_grads=True
            )
        return RawHypotheses(*(g.to(x.dtype) for g in gradients))

    def log_weights(
        self, state: Conditioned, n_tasks: int
    ) -> Float[Tensor, "tasks kernels"]:
        """Return how much each hypothesis is believed, by all outputs together."""
        gain = self.log_gain.double().exp()
        score = state.hypotheses.logits + gain * state.evidence
        return torch.log_softmax(score.unflatten(0, (n_tasks, -1)).sum(1), dim=-1)

    def decode(
        self,
        state: Conditioned,
        target_x: Float[Tensor, "tasks points features"],
        *,
        z: Float[Tensor, "samples tasks latent"] | None = None,
    ) -> Tensor:
        """Return raw outputs of the likelihood, (B, m, n_raw)."""
        self._refuse_latent(z)
        n_tasks, n_points = target_x.shape[:2]
        n_targets = len(state.mask) // n_tasks
        x = target_x.repeat_interleave(n_targets, dim=0).double()
        posterior = posterior_at(state, x)
        mean = posterior.mean
        function = posterior.variance(prior_variances(state.names, state.hypotheses, x))
        variance = function + state.hypotheses.noise.square().unsqueeze(-1)
        log_weights = self.log_weights(state, n_tasks)
        # Axes: task, point, kernel, output.
        shape = (n_tasks, n_targets)
        mean, variance = (
            v.unflatten(0, shape).permute(0, 3, 2, 1) for v in (mean, variance)
        )
        if self._is_mixture:
            absent = len(self.kernels) * self.n_readings - len(state.names)
            if absent:
                # Hypotheses that were dropped stay as components without weight.
                log_weights = functional.pad(log_weights, (0, absent), value=-torch.inf)
                mean, variance = (
                    v.expand(-1, -1, absent + 1, -1) for v in (mean, variance)
                )
            logits = log_weights.unsqueeze(1).expand(-1, n_points, -1)
            parts = [mean.flatten(2), self._raw_std(variance).flatten(2)]
            return torch.cat([logits, *parts], dim=-1).to(target_x.dtype)
        weights = log_weights.exp()[:, None, :, None]
        centre = (weights * mean).sum(2)
        spread = (mean - centre.unsqueeze(2)).square() + variance
        raw_std = self._raw_std((weights * spread).sum(2))
        return torch.cat([centre, raw_std], dim=-1).to(target_x.dtype)

    def joint_posterior(
        self, state: Conditioned, target_x: Float[Tensor, "tasks points features"]
    ) -> JointPosterior:
        """Return the function's posterior at several points together, in float64."""
        n_tasks = len(target_x)
        shape = (n_tasks, len(state.mask) // n_tasks)
        x = target_x.repeat_interleave(shape[1], dim=0).double()
        posterior = posterior_at(state, x)
        prior = kernel_matrices(state.names, state.hypotheses, x, x)
        mean, covariance = posterior.mean, posterior.covariance(prior)
        return JointPosterior(
            self.log_weights(state, n_tasks),
            mean.unflatten(0, shape),
            covariance.unflatten(0, shape),
            state.hypotheses.noise.unflatten(0, shape),
        )

    def _raw_std(self, variance: Tensor) -> Tensor:
        # The inverse of softplus, exact for small and large values.
        excess = (variance.sqrt() - self.min_std).clamp(min=1e-6)
        return excess + torch.log(-torch.expm1(-excess))


def frequency_bands(
    kernels: Sequence[str], low: float, high: float
) -> Float[Tensor, "kernels two"]:
    """Return lowest and highest frequency of each kernel, ones if not periodic.

    Raises
    ------
    ValueError
        If the range is none.
    """
    if not 0.0 < low < high:
        raise ValueError(f"frequency_range must increase from above 0; got {low, high}")
    is_periodic = torch.tensor([name == "periodic" for name in kernels])
    edges = torch.linspace(low, high, int(is_periodic.sum()) + 1)
    bands = torch.ones(len(kernels), 2)
    bands[is_periodic] = torch.stack([edges[:-1], edges[1:]], dim=1)
    return bands


def processes(
    x: Float[Tensor, "tasks points features"],
    y: Float[Tensor, "tasks points targets"],
    mask: Bool[Tensor, "tasks points"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return one process for each output of each task; padding is zero."""
    n_targets = y.shape[2]
    return (
        blank(x, mask).repeat_interleave(n_targets, dim=0),
        blank(y, mask).mT.flatten(0, 1),
        mask.repeat_interleave(n_targets, dim=0),
    )
