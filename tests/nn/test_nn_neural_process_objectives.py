"""Objectives on a Bayesian line, where every distribution has a closed form."""

import math
from typing import NamedTuple

import pytest
import torch

from skfunc.nn import (
    CategoricalLikelihood,
    ConditionalNeuralProcess,
    DiagonalNormal,
    GaussianLikelihood,
    LatentNeuralProcess,
    NeuralProcess,
    TaskBatch,
    TransformerNeuralProcess,
    autoregressive_log_likelihood,
    autoregressive_sample,
    conditional_log_likelihood,
    draw_module,
    evidence_lower_bound,
    importance_weighted_log_likelihood,
)

NOISE = 0.7
LIKELIHOOD = GaussianLikelihood(1e-3)


class LineState(NamedTuple):
    latent: DiagonalNormal


def raw_of(mean, std):
    """Return what the Gaussian likelihood reads as this mean and deviation."""
    return torch.cat([mean, torch.log(torch.expm1(std - LIKELIHOOD.min_std))], dim=-1)


class Line(NeuralProcess):
    """y = z x + noise with z ~ N(0, 1); `shift` and `scale` spoil q(z | C, T)."""

    def __init__(self, shift=0.0, scale=1.0):
        super().__init__()
        self.shift, self.scale = shift, scale

    is_latent = True

    def exact(self, x, y, mask):
        x, y = x * mask[..., None], y * mask[..., None]
        precision = 1.0 + x.square().sum(1) / NOISE**2
        mean = (x * y).sum(1) / NOISE**2 / precision
        return DiagonalNormal(mean, precision.rsqrt())

    def encode(self, context_x, context_y, context_mask):
        return LineState(self.exact(context_x, context_y, context_mask))

    def posterior(self, state):
        return state.latent

    def infer(self, x, y, mask):
        mean, std = self.exact(x, y, mask)
        return DiagonalNormal(mean + self.shift, std * self.scale)

    def decode(self, state, target_x, *, z=None):
        latent = state.latent.mean if z is None else z
        mean = target_x * latent.unsqueeze(-2)
        return raw_of(mean, torch.full_like(mean, NOISE))


class DiagonalLine(Line):
    """The same model's predictions, one target at a time."""

    is_latent = False

    def decode(self, state, target_x, *, z=None):
        mean, std = (value.unsqueeze(-2) for value in state.latent)
        return raw_of(target_x * mean, (NOISE**2 + (target_x * std) ** 2).sqrt())


def make_batch(n=3, m=4, n_tasks=3, seed=0, features=1, targets=1):
    generator = torch.Generator().manual_seed(seed)

    def draw(points, width):
        values = torch.randn(n_tasks, points, width, generator=generator)
        return values.double()

    batch = TaskBatch.without_padding(
        draw(n, features), draw(n, targets), draw(m, features), draw(m, targets)
    )
    # Tasks of different sizes: the last target and context point of the first are not.
    batch.target_mask[0, -1] = False
    batch.context_mask[0, -1:] = False
    return batch


def joint(batch):
    """Return each task's exact predictive distribution of its targets."""
    prior = Line().exact(batch.context_x, batch.context_y, batch.context_mask)
    for i in range(batch.n_tasks):
        there = batch.target_mask[i]
        x, y = batch.target_x[i, there, 0], batch.target_y[i, there, 0]
        covariance = NOISE**2 * torch.eye(len(x)).to(x) + prior.std[
            i
        ] ** 2 * torch.outer(x, x)
        yield torch.distributions.MultivariateNormal(x * prior.mean[i], covariance), y


def exact_log_likelihood(batch):
    return torch.stack([normal.log_prob(y) for normal, y in joint(batch)])


def exact_bound(network, batch):
    """Return the bound, its mean over z in closed form."""
    q = network.infer(*batch.joined())
    prior = network.exact(batch.context_x, batch.context_y, batch.context_mask)
    x, y, mask = batch.target_x, batch.target_y, batch.target_mask
    residual = (y - x * q.mean[:, None]) ** 2 + (x * q.std[:, None]) ** 2
    terms = -0.5 * residual / NOISE**2 - math.log(NOISE) - 0.5 * math.log(2 * math.pi)
    return (terms[..., 0] * mask).sum(1) - q.divergence(prior)


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_conditional_log_likelihood_is_the_mean_over_targets():
    batch = make_batch()
    value = conditional_log_likelihood(DiagonalLine(), LIKELIHOOD, batch)
    prior = Line().exact(batch.context_x, batch.context_y, batch.context_mask)
    for i in range(batch.n_tasks):
        there = batch.target_mask[i]
        x, y = batch.target_x[i, there], batch.target_y[i, there]
        std = (NOISE**2 + (x * prior.std[i]) ** 2).sqrt()
        expected = torch.distributions.Normal(x * prior.mean[i], std).log_prob(y)
        close(value[i], expected.mean())
    totals = conditional_log_likelihood(
        DiagonalLine(), LIKELIHOOD, batch, per_target=False
    )
    close(totals, value * batch.n_targets())


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.3, 0.6), (-0.2, 1.7)])
def test_the_bound_falls_short_by_the_divergence_from_the_true_posterior(shift, scale):
    network, batch = Line(shift, scale), make_batch()
    n_samples = 100_000
    value = evidence_lower_bound(
        network,
        LIKELIHOOD,
        batch,
        n_samples=n_samples,
        generator=torch.Generator().manual_seed(0),
        per_target=False,
    )
    truth = exact_log_likelihood(batch)
    gap = network.infer(*batch.joined()).divergence(network.exact(*batch.joined()))
    close(exact_bound(network, batch), truth - gap)
    # A task's log-likelihood varies by less than 6 nats over z here.
    tolerance = 5 * 6.0 / math.sqrt(n_samples)
    assert (value - (truth - gap)).abs().max() < tolerance
    assert (value < truth + tolerance).all()
    if shift:
        assert (value < truth - 0.5 * gap).all()


def test_draws_from_the_true_posterior_have_equal_weights():
    batch = make_batch()
    value = importance_weighted_log_likelihood(
        Line(),
        LIKELIHOOD,
        batch,
        n_samples=1,
        proposal="context_and_target",
        generator=torch.Generator().manual_seed(0),
        per_target=False,
    )
    close(value, exact_log_likelihood(batch))


@pytest.mark.parametrize("proposal", ["context", "context_and_target"])
def test_importance_sampling_finds_the_log_likelihood(proposal):
    batch, network = make_batch(), Line(0.2, 1.5)
    truth = exact_log_likelihood(batch)

    def estimate(n_samples, seed):
        return importance_weighted_log_likelihood(
            network,
            LIKELIHOOD,
            batch,
            n_samples=n_samples,
            proposal=proposal,
            generator=torch.Generator().manual_seed(seed),
            per_target=False,
        )

    assert (estimate(200_000, 0) - truth).abs().max() < 0.02
    few = torch.stack([estimate(2, seed) for seed in range(400)])
    more = torch.stack([estimate(20, seed) for seed in range(400)])
    # The expectation grows with the number of draws, up to the log-likelihood.
    error = more.std(0) / math.sqrt(400)
    assert (few.mean(0) < more.mean(0)).all()
    assert (more.mean(0) < truth + 4 * error).all()


def test_the_bound_of_a_network_lies_below_its_log_likelihood():
    network = LatentNeuralProcess(1, 1, 2, width=16, latent_size=2).double()
    draw_module(network, torch.Generator().manual_seed(0))
    batch = make_batch()
    # With this much noise both proposals have weights of small variance.
    wide = GaussianLikelihood(1.0)

    def value(function, **options):
        generator = torch.Generator().manual_seed(1)
        return function(
            network, wide, batch, generator=generator, per_target=False, **options
        )

    bound = value(evidence_lower_bound, n_samples=20_000)
    by_prior = value(importance_weighted_log_likelihood, n_samples=50_000)
    by_posterior = value(
        importance_weighted_log_likelihood,
        n_samples=50_000,
        proposal="context_and_target",
    )
    close(by_prior, by_posterior, 2e-2)
    assert (bound < by_prior - 1e-3).all()


def test_the_chain_rule_gives_the_joint_density():
    batch = make_batch()
    truth = exact_log_likelihood(batch)
    for options in ({}, {"n_orders": 3}, {"max_tasks": 5}):
        value = autoregressive_log_likelihood(
            DiagonalLine(),
            LIKELIHOOD,
            batch,
            per_target=False,
            generator=torch.Generator().manual_seed(0),
            **options,
        )
        close(value, truth)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConditionalNeuralProcess(2, 1, 2, width=16),
        lambda: TransformerNeuralProcess(2, 1, 2, width=16, n_layers=2),
    ],
)
def test_the_chain_rule_equals_a_loop(make):
    network = make().double()
    draw_module(network, torch.Generator().manual_seed(0))
    batch = make_batch(features=2)
    value = autoregressive_log_likelihood(network, LIKELIHOOD, batch, per_target=False)
    for i in range(batch.n_tasks):
        x, y, mask = (part[i : i + 1] for part in batch.joined())
        x, y = x[:, mask[0]], y[:, mask[0]]
        n = int(batch.context_mask[i].sum())
        total = 0.0
        for t in range(n, x.shape[1]):
            seen = TaskBatch.without_padding(
                x[:, :t], y[:, :t], x[:, t : t + 1], y[:, t : t + 1]
            )
            total = total + conditional_log_likelihood(network, LIKELIHOOD, seen)[0]
        close(value[i], total)


def test_orders_are_averaged_as_densities():
    network = ConditionalNeuralProcess(1, 1, 2, width=16).double()
    draw_module(network, torch.Generator().manual_seed(0))
    whole = make_batch(m=3)
    batch = TaskBatch.without_padding(
        whole.context_x, whole.context_y, whole.target_x, whole.target_y
    )
    average = autoregressive_log_likelihood(
        network,
        LIKELIHOOD,
        batch,
        n_orders=2,
        generator=torch.Generator().manual_seed(5),
        per_target=False,
    )
    noise = torch.rand((2, 3, 3), generator=torch.Generator().manual_seed(5))
    singles = []
    for place in noise.argsort(-1):
        # place says when each target comes; its inverse lists the targets.
        order = place.argsort(-1)[..., None]
        permuted = TaskBatch.without_padding(
            batch.context_x,
            batch.context_y,
            batch.target_x.gather(1, order),
            batch.target_y.gather(1, order),
        )
        singles.append(
            autoregressive_log_likelihood(
                network, LIKELIHOOD, permuted, per_target=False
            )
        )
    one, other = singles
    assert (one - other).abs().max() > 1e-4
    close(average, torch.logaddexp(one, other) - math.log(2.0))


def test_autoregressive_draws_have_the_joint_covariance():
    batch = make_batch()
    n_samples = 20_000
    draws = autoregressive_sample(
        DiagonalLine(),
        LIKELIHOOD,
        batch.context_x,
        batch.context_y,
        batch.context_mask,
        batch.target_x,
        n_samples=n_samples,
        generator=torch.Generator().manual_seed(0),
    )
    assert draws.shape == (n_samples, 3, 4, 1)
    for i, (normal, _) in enumerate(joint(batch)):
        values = draws[:, i, batch.target_mask[i], 0]
        variances = normal.covariance_matrix.diagonal()
        scale = torch.sqrt(torch.outer(variances, variances))
        # Standard errors: std / sqrt(n) of a mean, at most scale sqrt(2 / n) of a
        # covariance; five of each.
        error = (values.mean(0) - normal.mean) / variances.sqrt()
        assert error.abs().max() < 5 / math.sqrt(n_samples)
        error = (torch.cov(values.T) - normal.covariance_matrix) / scale
        assert error.abs().max() < 5 * math.sqrt(2 / n_samples)


def test_classes_follow_one_another():
    network = TransformerNeuralProcess(1, 3, 3, width=8, n_layers=1).double()
    draw_module(network, torch.Generator().manual_seed(0))
    likelihood = CategoricalLikelihood()
    labels = torch.nn.functional.one_hot(torch.tensor([[0, 2, 1, 1]]), 3).double()
    x = torch.linspace(-1, 1, 4).double()[None, :, None]
    batch = TaskBatch.without_padding(x[:, :2], labels[:, :2], x[:, 2:], labels[:, 2:])
    # The joint probabilities of all labels of two targets sum to one.
    total = 0.0
    for first in range(3):
        for second in range(3):
            y = torch.eye(3).double()[[first, second]][None]
            pair = TaskBatch.without_padding(x[:, :2], labels[:, :2], x[:, 2:], y)
            total += autoregressive_log_likelihood(
                network, likelihood, pair, per_target=False
            ).exp()
    close(total, torch.ones(1).double())
    draws = autoregressive_sample(
        network,
        likelihood,
        batch.context_x,
        batch.context_y,
        batch.context_mask,
        batch.target_x,
        n_samples=5,
    )
    assert (draws.sum(-1) == 1).all()


def test_tasks_without_targets_score_zero():
    batch = make_batch()
    batch.target_mask[1] = False
    generator = torch.Generator().manual_seed(0)
    values = [
        conditional_log_likelihood(DiagonalLine(), LIKELIHOOD, batch),
        autoregressive_log_likelihood(DiagonalLine(), LIKELIHOOD, batch),
        importance_weighted_log_likelihood(
            Line(), LIKELIHOOD, batch, generator=generator
        ),
        evidence_lower_bound(Line(), LIKELIHOOD, batch, generator=generator),
    ]
    for value in values:
        assert abs(value[1].item()) < 1e-12
        assert value[0].abs() > 1e-3
    batch.target_mask[:] = False
    totals = autoregressive_log_likelihood(DiagonalLine(), LIKELIHOOD, batch)
    assert totals.tolist() == [0.0, 0.0, 0.0]
    nothing = autoregressive_sample(
        DiagonalLine(),
        LIKELIHOOD,
        batch.context_x,
        batch.context_y,
        batch.context_mask,
        batch.target_x[:, :0],
        n_samples=2,
    )
    assert nothing.shape == (2, 3, 0, 1)


def test_misuse_is_refused():
    batch = make_batch()
    with pytest.raises(TypeError, match="coherent by its latent"):
        autoregressive_log_likelihood(Line(), LIKELIHOOD, batch)
    with pytest.raises(ValueError, match="n_samples"):
        evidence_lower_bound(Line(), LIKELIHOOD, batch, n_samples=0)
    with pytest.raises(ValueError, match="proposal='prior' is unknown"):
        importance_weighted_log_likelihood(Line(), LIKELIHOOD, batch, proposal="prior")
    with pytest.raises(ValueError, match="must be positive"):
        autoregressive_log_likelihood(DiagonalLine(), LIKELIHOOD, batch, max_tasks=0)
    network = ConditionalNeuralProcess(1, 1, 2, width=4).double()
    with pytest.raises(TypeError, match="no latent"):
        evidence_lower_bound(network, LIKELIHOOD, batch)
