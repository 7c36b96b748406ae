"""A neural process for classes: inferred kernels, labels regressed in closed form."""

from __future__ import annotations

import math
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
    readings,
)
from skfunc.nn._kernel_mixture import (
    Hypotheses,
    check_kernels,
    covariance_factor,
    evidence_slope,
    kernel_matrices,
    prior_variances,
    project,
)
from skfunc.nn._neural_process_base import NeuralProcess, check_widths
from skfunc.nn._neural_process_kernel import frequency_bands, processes
from skfunc.nn._task_batch import blank

# Links between functions of indicators and logits, which the context weighs: slopes,
# and how much the logarithm of a class's share adds.
SLOPES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
SHARE_WEIGHTS = (0.0, 0.5, 1.0)
# MacKay 1992: the mean of a sigmoid under a Gaussian is about that of a flatter one.
_PROBIT = math.pi / 8.0
# Keeps the logarithm of a share finite, and standard deviations of one class positive.
_TINY = 1e-6


class Labelled(NamedTuple):
    """Hypotheses, conditioned on the indicators of C classes.

    Of a long context seen through some rows, `context_x`, `mask` and `factor` are those
    of these rows, and `inner` tells what the whole context leaves unexplained.
    """

    names: tuple[str, ...]
    hypotheses: Hypotheses
    context_x: Float[Tensor, "tasks points features"]
    mask: Bool[Tensor, "tasks points"]
    factor: Float[Tensor, "tasks kernels points points"]
    alphas: Float[Tensor, "tasks kernels points classes"]
    shares: Float[Tensor, "tasks classes"]
    log_weights: Float[Tensor, "tasks kernels links"]
    inner: Float[Tensor, "tasks kernels points points"] | None = None


class KernelLabelProcess(NeuralProcess):
    r"""Classify by kernels that are inferred in one pass, with exact conditioning.

    Every class has an indicator, one for its rows and zero for the others. A network
    reads the table, once for each indicator, and answers with the hyper-parameters of K
    kernels that all classes have in common (see `KernelNeuralProcess`). Gaussian
    processes regress the indicators in closed form: least squares on labels [1]_. Mean
    m_c and variance v_c of class c turn into logits

    .. math:: s m_c / \sqrt{1 + f s^2 v_c} + b \log \pi_c

    with the class's share of the context :math:`\pi_c`, for several slopes s and
    weights b; f is learned. The prediction is the mixture over kernels and these links,
    each in proportion to the probability that it gives to the labels of the context
    when these are left out one at a time, which is known in closed form. A long context
    of a single task is treated as in `KernelNeuralProcess`.

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
    width, n_layers, n_corrections, n_gradient_steps, correction_rows, \
n_readings, inference_rows, mixture_rows, exact_rows, through_rows, min_std, activation
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
    links: Tensor

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
        n_readings: int = 1,
        inference_rows: int = 1024,
        mixture_rows: int = 1024,
        exact_rows: int = 4096,
        through_rows: int = 1536,
        min_std: float = 1e-2,
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
        if n_raw != n_targets:
            raise ValueError(f"n_raw must be {n_targets}, the classes; got {n_raw}")
        self.kernels, self.min_std = check_kernels(kernels), min_std
        self.n_corrections, self.correction_rows = n_corrections, correction_rows
        self.n_gradient_steps = n_gradient_steps
        self.n_readings = n_readings
        self.inference_rows, self.mixture_rows = inference_rows, mixture_rows
        self.exact_rows, self.through_rows = exact_rows, through_rows
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
        self.log_flatness = nn.Parameter(torch.tensor(math.log(_PROBIT)))
        links = torch.cartesian_prod(torch.tensor(SLOPES), torch.tensor(SHARE_WEIGHTS))
        self.register_buffer("links", links, persistent=False)

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
        read = readings(
            x.to(dtype), y.to(dtype), context_mask, self.n_readings, self.inference_rows
        )
        each = [self._infer_hypotheses(*rows, shares.to(dtype)) for rows in read]
        hypotheses = Hypotheses(*(torch.cat(v, dim=1) for v in zip(*each, strict=True)))
        x, y, shares = x.double(), y.double(), shares.double()
        if len(x) > 1 or x.shape[1] <= self.mixture_rows or not context_mask.all():
            return self._condition(hypotheses, x, y, context_mask, shares)
        return self._condition_long(hypotheses, x, y, shares)

    def _condition(
        self, hypotheses: Hypotheses, x: Tensor, y: Tensor, mask: Tensor, shares: Tensor
    ) -> Labelled:
        """Condition every hypothesis, and weigh it by labels left out."""
        names = self.kernels * self.n_readings
        factor = covariance_factor(names, hypotheses, x, mask)
        centred = blank(y - shares.unsqueeze(1), mask).unsqueeze(1)
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
        return Labelled(names, hypotheses, x, mask, factor, alphas, shares, log_weights)

    def _condition_long(
        self, hypotheses: Hypotheses, x: Tensor, y: Tensor, shares: Tensor
    ) -> Labelled:
        """Condition the hypothesis that is best on some rows on all of them."""
        first = slice(0, self.mixture_rows)
        some = torch.ones_like(x[:, first, 0], dtype=torch.bool)
        few = self._condition(hypotheses, x[:, first], y[:, first], some, shares)
        best = int(few.log_weights.logsumexp(-1).argmax())
        one = Hypotheses(*(v[:, best : best + 1] for v in hypotheses))
        names = (few.names[best],)
        log_weights = few.log_weights[:, best : best + 1].log_softmax(-1)
        centred = (y - shares.unsqueeze(1)).unsqueeze(1)
        if x.shape[1] <= self.exact_rows:
            mask = torch.ones_like(x[..., 0], dtype=torch.bool)
            factor = covariance_factor(names, one, x, mask)
            alphas = torch.cholesky_solve(centred, factor)
            return Labelled(names, one, x, mask, factor, alphas, shares, log_weights)
        seen = project(names, one, x, centred, self.through_rows)
        x = x[:, : self.through_rows]
        return Labelled(
            names,
            one,
            x,
            torch.ones_like(x[..., 0], dtype=torch.bool),
            seen.factor,
            seen.alphas,
            shares,
            log_weights,
            seen.inner,
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
    ) -> Float[Tensor, "tasks kernels links points classes"]:
        """Return what each kernel and link predicts, in float64."""
        mean, variance = self.functions(state, target_x)
        return self._log_probabilities(mean, variance, state.shares)

    def functions(
        self, state: Labelled, target_x: Float[Tensor, "tasks points features"]
    ) -> tuple[Tensor, Tensor]:
        """Return means (B, K, m, C) of the indicators and variances (B, K, m, 1).

        Variances are those of standardized indicators.
        """
        x = target_x.double()
        cross = kernel_matrices(state.names, state.hypotheses, x, state.context_x)
        cross = cross.masked_fill(~state.mask[:, None, None], 0.0)
        mean = state.shares[:, None, None] + cross @ state.alphas
        half = torch.linalg.solve_triangular(state.factor, cross.mT, upper=False)
        prior = prior_variances(state.names, state.hypotheses, x)
        variance = prior - half.square().sum(-2)
        if state.inner is not None:
            left = torch.linalg.solve_triangular(state.inner, half, upper=False)
            variance = variance + left.square().sum(-2)
        return mean, variance.clamp(min=0.0).unsqueeze(-1)

    def _log_probabilities(
        self, mean: Tensor, variance: Tensor, shares: Tensor
    ) -> Float[Tensor, "tasks kernels links points classes"]:
        """Return log probabilities for each link."""
        slopes, share_weights = self.links.to(mean)[..., None, None].unbind(1)
        # From standardized indicators back to indicators.
        spread = (shares * (1.0 - shares))[:, None, None]
        variance = (variance * spread).unsqueeze(2)
        flatness = self.log_flatness.to(mean).exp()
        logits = slopes * mean.unsqueeze(2)
        logits = logits / torch.sqrt(1.0 + flatness * slopes.square() * variance)
        prior = torch.log(shares.clamp(min=_TINY))[:, None, None, None]
        logits = logits + share_weights * prior
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
