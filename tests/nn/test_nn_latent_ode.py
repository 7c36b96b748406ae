"""The latent ODE's bounds against closed forms, and what they must not depend on."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn

from skfunc.nn import LatentODENetwork, SeriesBatch, draw_module
from skfunc.nn._latent_ode import series_importance_bound, series_lower_bound
from skfunc.nn._latent_ode_encoder import LatentPosterior
from skfunc.nn._latent_ode_path import solve_path
from skfunc.nn._latent_ode_series import gaps_to_next

DECAY = torch.tensor([-0.7, 0.4], dtype=torch.float64)
GAIN = torch.tensor([1.3, -0.8], dtype=torch.float64)


class LinearField(nn.Module):
    def __init__(self, matrix):
        super().__init__()
        self.matrix = matrix

    def forward(self, t, z):
        return z @ self.matrix.T


class LinearDecoder(nn.Module):
    def __init__(self, matrix):
        super().__init__()
        self.matrix = matrix

    def forward(self, z):
        return z @ self.matrix.T


def network(n_channels=2, **changes):
    settings = {
        "latent_size": 2,
        "encoder": "gru",
        "encoder_size": 6,
        "hidden_layer_sizes": (8,),
        "decoder_layer_sizes": (5,),
        "activation": "tanh",
        "n_steps": 16,
    }
    module = LatentODENetwork(n_channels, **(settings | changes))
    draw_module(module, torch.Generator().manual_seed(0))
    return module.double().requires_grad_(False)


def names(module):
    return [name for name, _ in module.named_parameters()]


def linear_network(dynamics, gains, noise, n_steps=64):
    module = network(len(gains), latent_size=len(dynamics), n_steps=n_steps)
    module.field, module.decoder = LinearField(dynamics), LinearDecoder(gains)
    log_std = 0.5 * math.log(noise**2 - 1e-6)
    module.noise.log_std.fill_(log_std)
    return module


def series(lengths, n_channels=2, n_slots=None, seed=0, seen=0.7):
    rng = np.random.default_rng(seed)
    rows, n_slots = len(lengths), n_slots or max(max(lengths), 1)
    times = np.zeros((1, rows, n_slots))
    values = np.zeros((1, rows, n_slots, n_channels))
    mask = np.zeros_like(values)
    for i, n in enumerate(lengths):
        times[0, i, :n] = np.sort(rng.uniform(size=n))
        mask[0, i, :n] = rng.uniform(size=(n, n_channels)) < seen
        values[0, i, :n] = rng.normal(size=(n, n_channels))
    values *= mask
    window = np.tile([0.0, 1.0], (1, rows, 1))
    read = np.ones((1, rows, n_slots))
    return SeriesBatch(*map(torch.from_numpy, (times, values, mask, read, window)))


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def evidence(batch, row, dynamics, gains, noise):
    """Return the log density of a linear-Gaussian series, all observations jointly."""
    maps, values = [], []
    for t, x, m in zip(
        batch.times[0, row], batch.values[0, row], batch.mask[0, row], strict=True
    ):
        seen = m > 0
        maps.append((gains @ torch.linalg.matrix_exp(dynamics * t))[seen])
        values.append(x[seen])
    design, target = torch.cat(maps).numpy(), torch.cat(values).numpy()
    covariance = design @ design.T + noise**2 * np.eye(len(target))
    density = multivariate_normal(np.zeros(len(target)), covariance)
    precision = np.eye(design.shape[1]) + design.T @ design / noise**2
    mean = np.linalg.solve(precision, design.T @ target) / noise**2
    return density.logpdf(target), mean, np.linalg.inv(precision)


class TestLinearGaussian:
    def test_bound_at_the_exact_posterior_is_the_evidence(self):
        batch, noise = series([5, 3, 1, 7]), 0.4
        dynamics, gains = torch.diag(DECAY), torch.diag(GAIN)
        module = linear_network(dynamics, gains, noise)
        exact = [evidence(batch, i, dynamics, gains, noise) for i in range(4)]
        # Diagonal dynamics and gains have a diagonal posterior.
        posterior = LatentPosterior(
            torch.tensor(np.array([[mean for _, mean, _ in exact]])),
            torch.tensor(np.array([[np.sqrt(np.diag(c)) for *_, c in exact]])),
        )
        # These four points integrate quadratics of two variables exactly.
        points = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]]).double()
        points = points.reshape(1, 4, 1, 2).expand(1, 4, 4, 2)
        bound = series_lower_bound(module, batch, posterior, points)
        logs = [log for log, *_ in exact]
        np.testing.assert_allclose(bound[0], logs, atol=1e-6)
        # There every importance weight is the evidence itself.
        tight = series_importance_bound(module, batch, posterior, normal(1, 3, 4, 2))
        np.testing.assert_allclose(tight[0], logs, atol=1e-6)

    def test_importance_bound_rises_to_the_evidence(self):
        batch, noise = series([6, 4], seed=1), 0.5
        dynamics = torch.tensor([[-0.3, 2.0], [-2.0, -0.1]], dtype=torch.float64)
        gains = torch.tensor([[1.0, 0.2], [0.5, -1.0]], dtype=torch.float64)
        module = linear_network(dynamics, gains, noise)
        exact = np.array(
            [evidence(batch, i, dynamics, gains, noise)[0] for i in (0, 1)]
        )
        prior = LatentPosterior(torch.zeros(1, 2, 2), torch.ones(1, 2, 2))
        prior = LatentPosterior(*(x.double() for x in prior))
        bounds = []
        for draws in (1, 10, 100, 1000):
            repeats = torch.stack(
                [
                    series_importance_bound(
                        module, batch, prior, normal(1, draws, 2, 2, seed=seed)
                    )[0]
                    for seed in range(20)
                ]
            )
            bounds.append(repeats.mean(0).numpy())
        rising = np.diff([*bounds, exact], axis=0)
        assert (rising > -0.02).all()
        assert (exact - bounds[0] > 1).all()
        np.testing.assert_allclose(bounds[-1], exact, atol=0.05)

    def test_lower_bound_is_below_the_importance_bound(self):
        batch, module = series([4, 6]), network()
        posterior = module.encoder(batch)
        draws = normal(1, 200, 2, 2)
        lower = series_lower_bound(module, batch, posterior, draws)
        tight = series_importance_bound(module, batch, posterior, draws)
        assert (lower < tight).all()


class TestPath:
    @pytest.mark.parametrize("end", [1.0, 2.3])
    def test_interpolation_is_of_fourth_order(self, end):
        turn = torch.tensor([[0.0, 6.0], [-6.0, 0.0]], dtype=torch.float64)
        start = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
        times = torch.linspace(0, end, 57, dtype=torch.float64).reshape(1, 1, -1)
        truth = torch.stack([torch.cos(6 * times), -torch.sin(6 * times)], -1)
        errors = []
        for n_steps in (20, 40):
            path = solve_path(LinearField(turn), start, n_steps=n_steps, end=end)
            errors.append(float((path.at(times) - truth).abs().max()))
        assert errors[1] < 2e-4
        assert errors[0] / errors[1] > 13

    def test_integral_of_a_rate(self):
        field = LinearField(torch.tensor([[-2.0]], dtype=torch.float64))
        start = torch.ones(1, 1, 1, dtype=torch.float64)
        path = solve_path(field, start, n_steps=32)
        times = torch.linspace(0, 1, 11, dtype=torch.float64).reshape(1, 1, -1)
        integral = path.integral_of(lambda z: z**2).at(times)
        truth = (1 - torch.exp(-4 * times)) / 4
        np.testing.assert_allclose(integral[..., 0], truth, atol=1e-6)


class TestEvents:
    def poisson(self, rates, **changes):
        module = network(mean_rates=rates, **changes)
        for layer in module.rates.layers:
            layer.weight.zero_()
        return module

    def test_constant_intensity(self):
        rates = (7.0, 2.5)
        module, batch = self.poisson(rates), series([5, 3, 0])
        window = torch.tensor([[[0.0, 1.0], [0.0, 1.7], [0.2, 0.55]]]).double()
        batch = batch._replace(window=window)
        starts = normal(1, 4, 3, 2)
        values = network().log_likelihood(starts, batch)
        both = module.log_likelihood(starts, batch)
        counts = batch.mask.sum(2)[0].numpy()
        length = (window[0, :, 1] - window[0, :, 0]).numpy()
        exact = counts @ np.log(rates) - length * sum(rates)
        np.testing.assert_allclose((both - values)[0], np.tile(exact, (4, 1)))

    def test_thinned_events_without_values(self):
        rates = (7.0, 2.5)
        module, batch = self.poisson(rates, has_values=False), series([5, 3, 0])
        assert not any(name.startswith(("decoder", "noise")) for name in names(module))
        kept = module.log_likelihood(normal(1, 4, 3, 2), batch, 0.3)
        counts = batch.mask.sum(2)[0].numpy()
        exact = counts @ np.log(0.3 * np.array(rates)) - 0.3 * sum(rates)
        np.testing.assert_allclose(kept[0], np.tile(exact, (4, 1)))

    def test_constant_intensity_is_most_likely_at_the_mean_rate(self):
        batch, starts = series([9], n_channels=1, seen=1.1), normal(1, 1, 1, 2)
        module = self.poisson((9.0,), n_channels=1)
        rate = module.rates.layers[-1].bias.requires_grad_(True)
        total = module.log_likelihood(starts, batch).sum()
        (gradient,) = torch.autograd.grad(total, rate)
        np.testing.assert_allclose(gradient, 0.0, atol=1e-12)

    def test_varying_intensity_by_quadrature(self):
        module, batch = network(mean_rates=(3.0, 5.0), n_steps=40), series([4])
        start = normal(1, 1, 1, 2)
        both = module.log_likelihood(start, batch)
        values = both.clone()
        module.rates = None
        values = module.log_likelihood(start, batch)
        rates = network(mean_rates=(3.0, 5.0), n_steps=40)
        path = rates.path(start[:, 0], 1.0)
        fine = torch.linspace(0, 1, 2001, dtype=torch.float64).reshape(1, 1, -1)
        expected = torch.trapezoid(rates.intensity(path.at(fine)), fine[0, 0], dim=2)
        events = torch.log(rates.intensity(path.at(batch.times))) * batch.mask
        exact = events.sum() - expected.sum()
        np.testing.assert_allclose((both - values).item(), exact, atol=1e-5)


@pytest.mark.parametrize("encoder", ["gru", "ode_rnn"])
class TestInvariance:
    def bounds(self, module, batch, rows=None):
        noise = normal(1, 3, 1, 2).expand(1, 3, batch.times.shape[1], 2)
        return series_lower_bound(module, batch, module.encoder(batch), noise)[0]

    def test_order_and_batches(self, encoder):
        module = network(encoder=encoder, mean_rates=(2.0, 3.0))
        batch = series([5, 0, 8, 1])
        whole = self.bounds(module, batch)
        order = torch.tensor([2, 0, 3, 1])
        shuffled = SeriesBatch(*(x[:, order] for x in batch))
        np.testing.assert_allclose(
            self.bounds(module, shuffled), whole[order], rtol=1e-12
        )
        for i in range(4):
            alone = SeriesBatch(*(x[:, i : i + 1] for x in batch)).trimmed()
            np.testing.assert_allclose(
                self.bounds(module, alone)[0], whole[i], rtol=1e-12
            )

    def test_padding(self, encoder):
        module = network(encoder=encoder)
        batch = series([5, 2, 3], n_slots=5)
        longer = series([5, 2, 3], n_slots=9)
        # What padding holds is of no account.
        longer.times[:, :, 5:] = 123.0
        longer.values[:, :, 5:] = 1e6
        expected = self.bounds(module, batch)
        np.testing.assert_allclose(self.bounds(module, longer), expected, rtol=1e-12)
        trimmed = longer.trimmed()
        assert trimmed.times.shape == (1, 3, 5)

    def test_slots_without_observations(self, encoder):
        module = network(encoder=encoder)
        batch = series([6, 6], seen=1.1)
        batch.mask[:, :, 2:4] = 0
        batch.values[:, :, 2:4] = 0
        kept = torch.tensor([0, 1, 4, 5])
        times, values, mask, read = (x[:, :, kept] for x in batch[:4])
        shorter = SeriesBatch(times, values, mask, read, batch.window)
        np.testing.assert_allclose(
            self.bounds(module, batch), self.bounds(module, shorter), rtol=1e-12
        )

    def test_series_without_observations_has_the_prior(self, encoder):
        posterior = network(encoder=encoder).encoder(series([0, 3]))
        assert (posterior.mean[0, 0] == 0).all()
        assert (posterior.std[0, 0] == 1).all()
        assert (posterior.std[0, 1] != 1).all()
        np.testing.assert_array_equal(posterior.divergence()[0, 0], 0.0)

    def test_unread_slots_do_not_reach_the_posterior(self, encoder):
        module, batch = network(encoder=encoder), series([6, 4], seen=1.1)
        batch.read[:, :, 3:] = 0
        first = module.encoder(batch)
        batch.values[:, :, 3:] += 5.0
        second = module.encoder(batch)
        np.testing.assert_array_equal(first.mean, second.mean)
        assert not torch.equal(
            module.log_likelihood(normal(1, 1, 2, 2), batch),
            module.log_likelihood(normal(1, 1, 2, 2), series([6, 4], seen=1.1)),
        )

    def test_repeated_times_and_padding_have_finite_gradients(self, encoder):
        module = network(encoder=encoder, mean_rates=(2.0, 3.0)).requires_grad_(True)
        batch = series([4, 1, 0])
        batch.times[:, 0] = 0.5
        self.bounds(module, batch).sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in module.parameters())

    def test_stacked_member_equals_the_module(self, encoder):
        module = network(encoder=encoder, mean_rates=(2.0, 3.0))
        batch = series([4, 2])
        alone = self.bounds(module, batch)
        for part in module.modules():
            for name, value in list(part._parameters.items()):
                part._parameters[name] = value.detach().unsqueeze(0)
        np.testing.assert_allclose(self.bounds(module, batch), alone, rtol=1e-12)


def test_gaps_skip_what_is_not_read():
    times = torch.tensor([[[0.1, 0.3, 0.6, 0.9]]])
    read = torch.tensor([[[True, False, True, False]]])
    np.testing.assert_allclose(
        gaps_to_next(times, read)[0, 0], [0.5, 0.3, 0.0, 0.0], rtol=1e-6
    )


def test_class_logits():
    module = network(n_classes=3, n_summaries=2, classifier_layer_sizes=(4,), n_heads=2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        module.heads.layers[0].weight.normal_(generator=generator)
    starts, told = normal(1, 4, 5, 2), normal(1, 5, 2, seed=1)
    logits = module.class_logits(starts, told)
    assert logits.shape == (1, 8, 5, 3)
    one = module.class_logits(starts[:, 2:3, 3:4], told[:, 3:4])
    np.testing.assert_allclose(logits[:, 2::4, 3:4], one, rtol=1e-12)
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            part._parameters[name] = value.detach().unsqueeze(0)
    np.testing.assert_allclose(module.class_logits(starts, told), logits, rtol=1e-12)


def test_unknown_encoder():
    with pytest.raises(ValueError, match="'gru', 'ode_rnn'"):
        network(encoder="lstm")
