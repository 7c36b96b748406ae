"""A neural process for classes: inferred kernels, labels regressed in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skfunc._shapes import Bool, Float
from skfunc.nn._kernel_inference import (
    Inference,
    KernelInference,
    RawHypotheses,
    ascend,
)
from skfunc.nn._kernel_mixture import (
    JITTER,
    KERNELS,
    Hypotheses,
    evidence_slope,
    kernel_matrices,
    prior_variances,
)
from skfunc.nn._neural_process_base import NeuralProcess, check_widths
from skfunc.nn._neural_process_kernel import frequency_bands, processes
from skfunc.nn._task_batch import blank

# Slopes that turn a function of indicators into logits; the context weighs them.
SLOPES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
# MacKay 1992: the mean of a sigmoid under a Gaussian is about that of a flatter one.
_PROBIT = torch.pi / 8.0
# Keeps the logarithm of a share finite, and standard deviations of one class positive.
_TINY = 1e-6


class Labelled(NamedTuple):
    """Hypotheses, conditioned on the indicators of C classes."""

    hypotheses: Hypotheses
    context_x: Float[Tensor, "tasks points features"]
    mask: Bool[Tensor, "tasks points"]
    factor: Float[Tensor, "tasks kernels points points"]
    alphas: Float[Tensor, "tasks kernels points classes"]
    shares: Float[Tensor, "tasks classes"]
    log_weights: Float[Tensor, "tasks kernels slopes"]


class KernelLabelProcess(NeuralProcess):
    r"""Classify by kernels that are inferred in one pass, with exact conditioning.

    Every class has an indicator, one for its rows and zero for the others. A network
    reads the table, once for each indicator, and answers with the hyper-parameters of K
    kernels that all classes have in common (see `KernelNeuralProcess`). Gaussian
    processes regress the indicators in closed form: least squares on labels [1]_. Mean
    m_c and variance v_c of class c turn into logits

    .. math:: s m_c / \sqrt{1 + \pi s^2 v_c / 8} + b_s \log \pi_c

    for each of several slopes s. The prediction is the mixture over kernels and
    slopes, each in proportion to the probability that it gives to the labels of the
    context when these are left out one at a time, which is known in closed form.

    Parameters
    ----------
    n_features : int
        Width of the inputs; a network takes any number of columns.
    n_targets : int
        Number of classes C; a network takes any. A class that no row of the context
        has, has no probability.
    n_raw : int
        C: log probabilities for a `CategoricalLikelihood`.
    kernels : sequence of str
        A kernel for each hypothesis, as in `KernelNeuralProcess`.
    width, n_layers, n_corrections, n_gradient_steps, correction_rows, min_std, \
activation
        As in `KernelNeuralProcess`.

    References
    ----------
    .. [1] C. E. Rasmussen, C. K. I. Williams 2006, Gaussian processes for machine
       learning, MIT Press, section 6.5.

    Examples
    --------
    >>> import torch
    >>> from skfunc.nn import KernelLabelProcess, TaskBatch, draw_module
    >>> network = KernelLabelProcess(2, 3, 3, width=8)
    >>> draw_module(network, torch.Generator().manual_seed(0))
    >>> x, y = torch.rand(4, 10, 2), torch.eye(3)[torch.arange(10) % 3].expand(4, 10, 3)
    >>> batch = TaskBatch.without_padding(x[:, :6], y[:, :6], x[:, 6:], y[:, 6:])
    >>> network(batch).shape
    torch.Size([4, 4, 3])
    """

    bands: Tensor

    def __init__(
        self,
        n_features: int,
        n_targets: int,
        n_raw: int,
        *,
        kernels: Sequence[str] = ("matern52", "rbf", "matern12", "arcsine"),
        width: int = 48,
        n_layers: int = 5,
        n_corrections: int = 0,
        n_gradient_steps: int = 0,
        correction_rows: int = 512,
        min_std: float = 1e-2,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        check_widths(width=width, n_layers=n_layers, correction_rows=correction_rows)
        unknown = sorted(set(kernels) - set(KERNELS))
        if unknown or not kernels:
            raise ValueError(
                f"kernels={list(kernels)!r} must name some of {sorted(KERNELS)}"
            )
        if n_raw != n_targets:
            raise ValueError(f"n_raw must be {n_targets}, the classes; got {n_raw}")
        self.kernels, self.min_std = tuple(kernels), min_std
        self.n_corrections, self.correction_rows = n_corrections, correction_rows
        self.n_gradient_steps = n_gradient_steps
        self.register_buffer(
            "bands", frequency_bands(self.kernels, 0.25, 4.0), persistent=False
        )
        self.inference = KernelInference(
            len(kernels),
            width=width,
            n_layers=n_layers,
            n_waves=0,
            activation=activation,
        )
        # How much of the classes' shares each slope adds to its logits.
        self.share_weight = nn.Parameter(torch.full((len(SLOPES),), 0.5))

    def encode(
        self,
        context_x: Float[Tensor, "tasks context features"],
        context_y: Float[Tensor, "tasks context classes"],
        context_mask: Bool[Tensor, "tasks context"],
    ) -> Labelled:
        """Infer kernels and condition on the labels of the context."""
        x, y = blank(context_x, context_mask), blank(context_y, context_mask)
        count = context_mask.sum(1).clamp(min=1).to(y.dtype)
        shares = y.sum(1) / count.unsqueeze(-1)
        dtype = self.inference.dtype
        hypotheses = self._infer_hypotheses(
            x.to(dtype), y.to(dtype), context_mask, shares.to(dtype)
        )
        x, y, shares = x.double(), y.double(), shares.double()
        pair = (context_mask.unsqueeze(1) & context_mask.unsqueeze(2)).unsqueeze(1)
        kernel = kernel_matrices(self.kernels, hypotheses, x, x)
        kernel = kernel.masked_fill(~pair, 0.0)
        jitter = JITTER * prior_variances(self.kernels, hypotheses, x)
        diagonal = hypotheses.noise.square().unsqueeze(-1) + jitter
        there = context_mask.unsqueeze(1)
        diagonal = torch.where(there, diagonal, torch.ones_like(diagonal))
        factor = torch.linalg.cholesky(kernel + torch.diag_embed(diagonal))
        centred = blank(y - shares.unsqueeze(1), context_mask).unsqueeze(1)
        inverse = torch.cholesky_inverse(factor)
        alphas = inverse @ centred
        # Leave-one-out: GPML 5.12, with the noise taken off the variance.
        own = inverse.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        mean = y.unsqueeze(1) - alphas / own
        noise = hypotheses.noise.square()[..., None, None]
        variance = (1.0 / own - noise).clamp(min=0.0)
        logs = self._log_probabilities(mean, variance, shares)
        right = (logs * y[:, None, None]).nan_to_num(neginf=0.0).sum((-1, -2))
        log_weights = torch.log_softmax(right.flatten(1), dim=1).view_as(right)
        return Labelled(
            hypotheses, x, context_mask, factor, alphas, shares, log_weights
        )

    def decode(
        self,
        state: Labelled,
        target_x: Float[Tensor, "tasks points features"],
        *,
        z: Float[Tensor, "samples tasks latent"] | None = None,
    ) -> Tensor:
        """Return log probabilities, (B, m, C)."""
        self._refuse_latent(z)
        logs = self.log_probabilities(state, target_x)
        mixed = torch.logsumexp(logs + state.log_weights[..., None, None], dim=(1, 2))
        return mixed.to(target_x.dtype)

    def log_probabilities(
        self, state: Labelled, target_x: Float[Tensor, "tasks points features"]
    ) -> Float[Tensor, "tasks kernels slopes points classes"]:
        """Return what each kernel and slope predicts, in float64."""
        mean, variance = self.functions(state, target_x)
        return self._log_probabilities(mean, variance, state.shares)

    def functions(
        self, state: Labelled, target_x: Float[Tensor, "tasks points features"]
    ) -> tuple[Tensor, Tensor]:
        """Return means (B, K, m, C) of the indicators and variances (B, K, m, 1).

        Variances are those of standardized indicators.
        """
        x = target_x.double()
        cross = kernel_matrices(self.kernels, state.hypotheses, x, state.context_x)
        cross = cross.masked_fill(~state.mask[:, None, None], 0.0)
        mean = state.shares[:, None, None] + cross @ state.alphas
        half = torch.linalg.solve_triangular(state.factor, cross.mT, upper=False)
        prior = prior_variances(self.kernels, state.hypotheses, x)
        variance = (prior - half.square().sum(-2)).clamp(min=0.0)
        return mean, variance.unsqueeze(-1)

    def _log_probabilities(
        self, mean: Tensor, variance: Tensor, shares: Tensor
    ) -> Float[Tensor, "tasks kernels slopes points classes"]:
        """Return log probabilities for each slope."""
        slopes = mean.new_tensor(SLOPES)[:, None, None]
        # From standardized indicators back to indicators.
        spread = (shares * (1.0 - shares))[:, None, None]
        variance = (variance * spread).unsqueeze(2)
        logits = slopes * mean.unsqueeze(2)
        logits = logits / torch.sqrt(1.0 + _PROBIT * slopes.square() * variance)
        prior = torch.log(shares.clamp(min=_TINY))[:, None, None, None]
        logits = logits + self.share_weight.to(mean)[:, None, None] * prior
        absent = (shares <= 0.0)[:, None, None, None]
        return torch.log_softmax(logits.masked_fill(absent, -torch.inf), dim=-1)

    def _infer_hypotheses(
        self, x: Tensor, y: Tensor, mask: Tensor, shares: Tensor
    ) -> Hypotheses:
        """Return hyper-parameters that all classes of a task have in common."""
        n_classes = y.shape[2]
        spread = shares * (1.0 - shares)
        weights = spread / spread.sum(-1, keepdim=True).clamp(min=_TINY)
        std = spread.sqrt().clamp(min=_TINY).unsqueeze(1)
        standard = blank((y - shares.unsqueeze(1)) / std, mask)
        standard = standard.masked_fill((spread <= 0.0).unsqueeze(1), 0.0)
        each = self.inference(*processes(x, standard, mask))

        def over_classes(values: Tensor) -> Tensor:
            values = values.unflatten(0, (-1, n_classes))
            share = weights.reshape(*weights.shape, *[1] * (values.dim() - 2))
            return (share * values).sum(1)

        raw = RawHypotheses(*(over_classes(v) for v in each.raw))
        size = each.log_count.unflatten(0, (-1, n_classes))[:, 0]
        guess = Inference(raw, over_classes(each.columns), size)
        rows = slice(0, self.correction_rows)
        seen = mask[:, rows]
        log_count = seen.sum(1).clamp(min=1).to(x.dtype).log()[:, None, None]
        for _ in range(self.n_corrections):
            gradient = self._evidence_gradient(
                guess.raw, x[:, rows], standard[:, rows], seen, weights
            )
            guess = self.inference.correction(guess, gradient, log_count)
        raw = ascend(
            guess.raw,
            lambda raw: self._evidence_gradient(
                raw, x[:, rows], standard[:, rows], seen, weights
            ),
            self.n_gradient_steps,
        )
        return raw.double().constrained(self.min_std, self.bands)

    def _evidence_gradient(
        self,
        raw: RawHypotheses,
        x: Tensor,
        standard: Tensor,
        mask: Tensor,
        weights: Tensor,
    ) -> RawHypotheses:
        """Return the gradient of the indicators' log evidence, averaged over them."""
        with torch.enable_grad():
            values = [v.detach().double().requires_grad_() for v in raw]
            hypotheses = RawHypotheses(*values).constrained(self.min_std, self.bands)
            hypotheses = hypotheses._replace(mean=0.0 * hypotheses.mean)
            slope = evidence_slope(
                self.kernels,
                hypotheses,
                x.double(),
                standard.double(),
                mask,
                weights.double(),
            )
            gradients = torch.autograd.grad(
                slope, values, allow_unused=True, materialize_grads=True
            )
        return RawHypotheses(*(g.to(x.dtype) for g in gradients))
