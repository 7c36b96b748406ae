"""Likelihoods against torch.distributions, SciPy and numerical integrals."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import distributions

from skfunc.nn import (
    BinsLikelihood,
    CategoricalLikelihood,
    GaussianLikelihood,
    MixtureLikelihood,
)

EDGES = torch.tensor([-2.0, -1.0, -0.4, 0.3, 1.5, 3.5], dtype=torch.float64)
CONTINUOUS = {
    "gaussian": GaussianLikelihood(0.05),
    "mixture": MixtureLikelihood(3, 0.05),
    "bins": BinsLikelihood(EDGES),
}


@pytest.fixture(params=CONTINUOUS)
def likelihood(request):
    return CONTINUOUS[request.param]


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_gaussian_equals_torch():
    likelihood = CONTINUOUS["gaussian"]
    raw, y = draw(3, 4, likelihood.n_raw(2)), draw(3, 4, 2, seed=1)
    std = 0.05 + torch.nn.functional.softplus(raw[..., 2:])
    normal = distributions.Normal(raw[..., :2], std)
    close(likelihood.log_prob(raw, y), normal.log_prob(y).sum(-1))
    close(likelihood.cdf(raw, y), normal.cdf(y))
    close(likelihood.mean(raw), normal.mean)
    close(likelihood.variance(raw), normal.variance)
    levels = torch.tensor([0.05, 0.5, 0.9], dtype=torch.float64)
    expected = normal.icdf(levels[:, None, None, None]).movedim(0, 2)
    close(likelihood.quantiles(raw, levels), expected)


def test_gaussian_floor_caps_the_log_density():
    likelihood = GaussianLikelihood(0.05)
    raw = torch.tensor([[0.0, -1e4]], dtype=torch.float64)
    value = likelihood.log_prob(raw, torch.zeros(1, 1, dtype=torch.float64))
    assert value.item() == pytest.approx(-math.log(0.05) - 0.5 * math.log(2 * math.pi))


def test_mixture_equals_torch():
    likelihood = CONTINUOUS["mixture"]
    raw, y = draw(3, 4, likelihood.n_raw(2)), draw(3, 4, 2, seed=1)
    weights, means, stds = likelihood.parameters_of(raw)
    components = distributions.Independent(distributions.Normal(means, stds), 1)
    mixture = distributions.MixtureSameFamily(
        distributions.Categorical(logits=weights), components
    )
    close(likelihood.log_prob(raw, y), mixture.log_prob(y))
    close(likelihood.mean(raw), mixture.mean)
    close(likelihood.variance(raw), mixture.variance)


def test_mixture_of_one_is_the_gaussian():
    one, gaussian = MixtureLikelihood(1, 0.05), CONTINUOUS["gaussian"]
    raw, y = draw(5, gaussian.n_raw(2)), draw(5, 2, seed=1)
    raw_one = torch.cat([draw(5, 1, seed=2), raw], dim=-1)
    close(one.log_prob(raw_one, y), gaussian.log_prob(raw, y))
    levels = torch.tensor([0.1, 0.7], dtype=torch.float64)
    close(one.quantiles(raw_one, levels), gaussian.quantiles(raw, levels))


def test_bins_equal_scipy():
    likelihood = CONTINUOUS["bins"]
    raw = draw(1, likelihood.n_raw(1))
    mass = torch.softmax(raw, -1)[0].numpy()
    edges = EDGES.numpy()
    median = stats.halfnorm.median()
    left = stats.halfnorm(scale=(edges[1] - edges[0]) / median)
    right = stats.halfnorm(scale=(edges[-1] - edges[-2]) / median)
    points = np.array([-4.0, -1.2, -0.9, 0.0, 1.4, 1.6, 6.0])
    inner = mass / np.diff(edges)
    expected = [
        mass[0] * left.pdf(edges[1] + 4.0),
        mass[0] * left.pdf(edges[1] + 1.2),
        inner[1],
        inner[2],
        inner[3],
        mass[-1] * right.pdf(1.6 - edges[-2]),
        mass[-1] * right.pdf(6.0 - edges[-2]),
    ]
    y = torch.as_tensor(points)[:, None]
    log_prob = likelihood.log_prob(raw.expand(len(y), -1), y)
    np.testing.assert_allclose(log_prob.exp().numpy(), expected, rtol=1e-12)


def test_bins_put_half_of_a_tail_in_its_bin():
    likelihood = CONTINUOUS["bins"]
    raw = torch.zeros(1, likelihood.n_raw(1), dtype=torch.float64)
    assert likelihood.cdf(raw, EDGES[:1, None]).item() == pytest.approx(0.1)
    assert likelihood.cdf(raw, EDGES[-1:, None]).item() == pytest.approx(0.9)


def test_bins_from_values_hold_equal_mass():
    values = draw(20_000, seed=3).exp()
    likelihood = BinsLikelihood.from_values(values, 50)
    assert likelihood.n_bins == 50
    counts = torch.histogram(values, likelihood.edges).hist
    assert counts.min() >= 399 and counts.max() <= 401
    tied = BinsLikelihood.from_values(torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 3.0]), 10)
    assert tied.n_bins < 10


@pytest.mark.parametrize(
    "edges", [[0.0, 1.0, 2.0], [0.0, 1.0, 1.0, 2.0], [0.0, 1.0, 2.0, math.inf]]
)
def test_bins_refuse_bad_edges(edges):
    with pytest.raises(ValueError, match="edges must be"):
        BinsLikelihood(torch.tensor(edges))


def test_density_integrates_to_the_distribution_function(likelihood):
    raw = draw(1, likelihood.n_raw(1), seed=4)

    def density(value):
        y = torch.tensor([[value]], dtype=torch.float64)
        return likelihood.log_prob(raw, y).exp().item()

    breaks = [edge.item() for edge in EDGES]
    for low, high in [(-3.0, 0.1), (0.1, 4.0)]:
        inside = [b for b in breaks if low < b < high]
        area, _ = integrate.quad(density, low, high, points=inside, limit=200)
        ends = torch.tensor([[low], [high]], dtype=torch.float64)
        below = likelihood.cdf(raw.expand(2, -1), ends)
        assert area == pytest.approx((below[1] - below[0]).item(), abs=1e-8)
    area, _ = integrate.quad(density, -40.0, 40.0, points=breaks, limit=400)
    assert area == pytest.approx(1.0, abs=1e-6)


def test_moments_are_those_of_the_density(likelihood):
    raw = draw(1, likelihood.n_raw(1), seed=5)
    grid = torch.linspace(-40.0, 40.0, 800_001, dtype=torch.float64)[:, None]
    density = likelihood.log_prob(raw.expand(len(grid), -1), grid).exp()
    mass = density * 80.0 / 800_000
    mean = (mass[:, None] * grid).sum(0)
    variance = (mass[:, None] * (grid - mean) ** 2).sum(0)
    # The Riemann sum errs by the density's jumps times the grid's step.
    close(likelihood.mean(raw)[0], mean, 2e-3)
    close(likelihood.variance(raw)[0], variance, 2e-3)


def test_quantiles_invert_the_distribution_function(likelihood):
    raw = draw(2, 6, likelihood.n_raw(3), seed=6)
    levels = torch.tensor([0.001, 0.05, 0.3, 0.5, 0.99], dtype=torch.float64)
    quantiles = likelihood.quantiles(raw, levels)
    assert quantiles.shape == (2, 6, 5, 3)
    assert (quantiles.diff(dim=2) > 0).all()
    for position, level in enumerate(levels):
        back = likelihood.cdf(raw, quantiles[:, :, position])
        close(back, level.expand_as(back), 1e-10)


def test_samples_follow_the_distribution(likelihood):
    raw = draw(1, likelihood.n_raw(2), seed=7).expand(20_000, -1)
    generator = torch.Generator().manual_seed(0)
    samples = likelihood.sample(raw, generator)
    assert samples.shape == (20_000, 2)
    uniform = likelihood.cdf(raw, samples).numpy()
    for output in range(2):
        # 1.95 / sqrt(n) is the 0.001 level of Kolmogorov's statistic.
        statistic = stats.kstest(uniform[:, output], "uniform").statistic
        assert statistic < 1.95 / math.sqrt(20_000)
    again = likelihood.sample(raw, torch.Generator().manual_seed(0))
    assert torch.equal(samples, again)


def test_latent_axis_broadcasts(likelihood):
    raw, y = draw(5, 2, 6, likelihood.n_raw(2), seed=8), draw(2, 6, 2, seed=9)
    log_prob = likelihood.log_prob(raw, y)
    assert log_prob.shape == (5, 2, 6)
    close(log_prob[3], likelihood.log_prob(raw[3], y))
    assert likelihood.cdf(raw, y).shape == (5, 2, 6, 2)


@pytest.mark.parametrize("scale", [0.0, 1e2, -1e2, 1e4, -1e4])
@pytest.mark.parametrize("value", [0.0, 1e4, -1e4])
def test_gradients_are_finite_at_extremes(likelihood, scale, value):
    direction = draw(7, likelihood.n_raw(1), seed=10).sign().float()
    raw = (scale * direction).requires_grad_()
    single = copy.deepcopy(likelihood).float()
    log_prob = single.log_prob(raw, torch.full((7, 1), value))
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert torch.isfinite(raw.grad).all()


def test_gradients_are_those_of_finite_differences(likelihood):
    raw = draw(2, 3, likelihood.n_raw(2), seed=11).requires_grad_()
    y = draw(2, 3, 2, seed=12)
    assert torch.autograd.gradcheck(lambda r: likelihood.log_prob(r, y), raw)


def test_categorical_equals_torch():
    likelihood = CategoricalLikelihood()
    raw = draw(2, 5, likelihood.n_raw(4))
    labels = torch.tensor([[0, 1, 2, 3, 0], [3, 3, 1, 0, 2]])
    y = torch.nn.functional.one_hot(labels, 4).double()
    expected = distributions.Categorical(logits=raw)
    close(likelihood.log_prob(raw, y), expected.log_prob(labels))
    close(likelihood.mean(raw), expected.probs)
    close(likelihood.variance(raw), expected.probs * (1 - expected.probs))


def test_categorical_takes_classes_out():
    likelihood = CategoricalLikelihood()
    raw = draw(1, 4)
    raw[0, 2] = -math.inf
    raw.requires_grad_()
    y = torch.eye(4, dtype=torch.float64)[:1]
    value = likelihood.log_prob(raw, y)
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(raw.grad).all()
    assert likelihood.mean(raw.detach())[0, 2] == 0.0
    few = likelihood.log_prob(raw.detach()[:, [0, 1, 3]], y[:, [0, 1, 3]])
    close(value.detach(), few)


def test_categorical_samples_have_their_probabilities():
    likelihood = CategoricalLikelihood()
    raw = draw(1, 3, seed=2)
    samples = likelihood.sample(
        raw.expand(30_000, -1), torch.Generator().manual_seed(0)
    )
    assert (samples.sum(-1) == 1).all()
    # Four standard errors of a proportion.
    close(samples.mean(0), likelihood.mean(raw)[0], 4 * 0.5 / math.sqrt(30_000))


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match="min_std"):
        GaussianLikelihood(0.0)
    with pytest.raises(ValueError, match="n_components"):
        MixtureLikelihood(0)
