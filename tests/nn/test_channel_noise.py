"""Noise of series against dense Gaussian processes."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from skfunc.nn import draw_module
from skfunc.nn._channel_noise import ChannelNoise, ordered

N_DRAWS, N_ROWS, N_SLOTS, N_CHANNELS = 2, 3, 7, 2


@pytest.fixture
def noise():
    module = ChannelNoise(N_CHANNELS, correlated=True)
    draw_module(module, torch.Generator().manual_seed(0))
    module = module.double().requires_grad_(False)
    module.log_std.copy_(torch.tensor([0.3, -0.4]))
    module.share_logit.copy_(torch.tensor([1.0, -0.5]))
    module.log_length.copy_(torch.tensor([-1.5, -0.5]))
    return module


@pytest.fixture
def data():
    """Series with gaps, a repeated time, a row without anything, padding behind."""
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(size=(N_ROWS, N_SLOTS)), axis=1)
    times[0, 3] = times[0, 2]
    mask = (rng.uniform(size=(N_ROWS, N_SLOTS, N_CHANNELS)) < 0.7).astype(float)
    mask[0, 2:4] = 1.0
    mask[1, 4:] = 0.0
    times[1, 4:] = 0.0
    mask[2] = 0.0
    residuals = rng.normal(size=(N_DRAWS, N_ROWS, N_SLOTS, N_CHANNELS))
    return times, residuals, mask


def lasting_covariance(module, channel, a, b):
    variance = float(module()[channel] ** 2 * module.share()[channel])
    length = float(module.length()[channel])
    return variance * np.exp(-np.abs(a[:, None] - b) / length)


def tensors(*arrays):
    return [torch.as_tensor(x).unsqueeze(0) for x in arrays]


def test_log_density_is_the_dense_gaussian(noise, data):
    times, residuals, mask = data
    found = noise.log_density(*tensors(times, residuals, mask))[0].numpy()
    expected = np.zeros((N_DRAWS, N_ROWS))
    white = noise.white_variance().numpy()
    for row in range(N_ROWS):
        for c in range(N_CHANNELS):
            seen = mask[row, :, c] > 0
            if not seen.any():
                continue
            t = times[row, seen]
            cov = lasting_covariance(noise, c, t, t) + white[c] * np.eye(len(t))
            expected[:, row] += multivariate_normal.logpdf(
                residuals[:, row, seen, c], np.zeros(len(t)), cov
            )
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert expected[0, 2] == 0.0


def test_condition_is_the_dense_posterior(noise, data):
    times, residuals, mask = data
    wanted = np.array([-0.2, 0.0, 0.31, 0.9, 1.5])
    wanted = np.tile(wanted, (N_ROWS, 1))
    wanted[0, 2] = times[0, 2]
    mean, variance = noise.condition(*tensors(times, residuals, mask, wanted))
    white = noise.white_variance().numpy()
    for row in range(N_ROWS):
        for c in range(N_CHANNELS):
            seen = mask[row, :, c] > 0
            t = times[row, seen]
            cov = lasting_covariance(noise, c, t, t) + white[c] * np.eye(len(t))
            cross = lasting_covariance(noise, c, wanted[row], t)
            gain = np.linalg.solve(cov, cross.T).T
            prior = np.diag(lasting_covariance(noise, c, wanted[row], wanted[row]))
            np.testing.assert_allclose(
                mean[0, :, row, :, c], residuals[:, row, seen, c] @ gain.T, atol=1e-9
            )
            np.testing.assert_allclose(
                variance[0, row, :, c], prior - (gain * cross).sum(1), atol=1e-9
            )


def test_draws_have_the_covariance_in_any_order(noise):
    times = torch.tensor([[[0.5, 0.1, 0.9, 0.15, 0.5]]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    shape = (1, 40_000, 1, 5, N_CHANNELS)
    normals = torch.randn(shape, generator=generator, dtype=torch.float64)
    drawn = noise.draw(times, normals)[0, :, 0].numpy()
    for c in range(N_CHANNELS):
        expected = lasting_covariance(
            noise, c, times[0, 0].numpy(), times[0, 0].numpy()
        )
        scale = expected[0, 0]
        np.testing.assert_allclose(
            np.cov(drawn[..., c].T) / scale, expected / scale, atol=0.03
        )
    np.testing.assert_allclose(drawn[:, 0], drawn[:, 4])


def test_gradients_reach_all_parameters(data):
    times, residuals, mask = data
    module = ChannelNoise(N_CHANNELS, correlated=True).double()
    module.draw_parameters(torch.Generator())
    module.log_density(*tensors(times, residuals, mask)).sum().backward()
    for name, parameter in module.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.any(), name


def test_white_noise_is_the_product_of_normals(data):
    times, residuals, mask = data
    module = ChannelNoise(N_CHANNELS).double().requires_grad_(False)
    module.draw_parameters(torch.Generator())
    std = module().numpy()
    terms = -0.5 * (residuals / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    found = module.log_density(*tensors(times, residuals, mask))[0]
    np.testing.assert_allclose(found, (terms * mask).sum((-2, -1)), atol=1e-9)
    assert module.white_variance().numpy() == pytest.approx(std**2)


def test_pairs_are_bivariate_normals(noise, data):
    times, residuals, mask = data
    scaled = residuals * mask
    in_order = ordered(*tensors(times, mask))
    found = noise._pair_density(in_order, *tensors(scaled, mask), 2)[0].numpy()
    share, length = noise.share().numpy(), noise.length().numpy()
    expected = np.zeros((N_DRAWS, N_ROWS))
    for draw, row, c, i in np.ndindex(N_DRAWS, N_ROWS, N_CHANNELS, N_SLOTS - 2):
        if not mask[row, i, c] * mask[row, i + 2, c]:
            continue
        r = share[c] * np.exp(-(times[row, i + 2] - times[row, i]) / length[c])
        pair = residuals[draw, row, [i, i + 2], c]
        both = multivariate_normal.logpdf(pair, np.zeros(2), [[1, r], [r, 1]])
        alone = multivariate_normal.logpdf(pair, np.zeros(2), np.eye(2))
        expected[draw, row] += both - alone
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert np.abs(expected[:, 0]).max() > 0.01


def test_the_path_learns_as_if_noise_were_white(noise, data):
    times, residuals, mask = tensors(*data)
    for parameter in noise.parameters():
        parameter.requires_grad_(True)
    path = residuals.requires_grad_(True)
    std = noise()
    terms = -0.5 * (path / std) ** 2 - torch.log(std) - 0.5 * np.log(2 * np.pi)
    white = (terms * mask.unsqueeze(1)).sum((-2, -1))
    found = noise.learning_density(times, path, mask, 2)
    torch.testing.assert_close(found, white)
    learned = (path, noise.log_std)
    expected = torch.autograd.grad(white.sum(), learned)
    taught = torch.autograd.grad(found.sum(), learned, retain_graph=True)
    torch.testing.assert_close(taught, expected)
    # What lasts learns from the pairs alone.
    lasting = (noise.share_logit, noise.log_length)
    scaled = torch.where(mask.unsqueeze(1) > 0, path / std, 0.0).detach()
    pairs = noise._pair_density(ordered(times, mask), scaled, mask, 2)
    expected = torch.autograd.grad(pairs.sum(), lasting)
    taught = torch.autograd.grad(found.sum(), lasting)
    torch.testing.assert_close(taught, expected)
    assert all(x.any() for x in taught)
