"""Guesses of missing pixels, and the network that corrects them."""

import pytest
import torch

from skfunc.nn import (
    GaussianLikelihood,
    ImageNeuralProcess,
    TaskBatch,
    conditional_log_likelihood,
    draw_module,
    pixel_coordinates,
    separate_log_likelihood,
)
from skfunc.nn import _image_exemplars as exemplars
from skfunc.nn._image_exemplars import ExemplarMemory
from skfunc.nn._neural_process_image import interpolate

SIZE = (5, 6)


def close(one, other):
    # Weights of windows are rounded to float32.
    torch.testing.assert_close(one, other, rtol=0.0, atol=2e-6)


def uniform(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def memory():
    memory = ExemplarMemory(40, 2, SIZE).double()
    memory.store(uniform(40, 2, 30) - 0.5)
    return memory


def make(**options):
    network = ImageNeuralProcess(
        2, 2, 4, **{"image_size": SIZE, "width": 4, "n_exemplars": 40} | options
    ).double()
    draw_module(network, torch.Generator().manual_seed(0))
    if network.exemplars is not None:
        network.exemplars.store(uniform(40, 2, 30) - 0.5)
    return network


@pytest.fixture
def masked():
    there = (uniform(3, 1, *SIZE, seed=1) < 0.4).double()
    return (uniform(3, 2, *SIZE, seed=2) - 0.5) * there, there


def test_guess_of_the_memory_is_kernel_regression(memory, masked):
    """Every window by the formula, one image and one exemplar at a time."""
    image, there = masked
    mean, deviation = memory(image, there)
    stored = memory.images.view(40, 2, 30)
    for task in range(3):
        first, second = torch.zeros(2, 30).double(), torch.zeros(2, 30).double()
        for view, blend in zip(memory.view, memory.blend, strict=True):
            gaps = (stored - image[task].flatten(1)).square().sum(1)
            distance = (gaps * view * there[task].flatten()).sum(1)
            nearest = distance.sort().values[:20]
            bandwidth = 0.5 * (nearest.mean() - nearest[0]) + 1e-3
            weights = torch.exp(-(distance - nearest[0]) / bandwidth)
            weights = (weights / weights.sum())[:, None, None]
            first += blend * (weights * stored).sum(0)
            second += blend * (weights * stored.square()).sum(0)
        close(mean[task].flatten(1), first)
        variance = second - first.square() + 4e-4
        close(deviation[task].flatten(1), variance.sqrt())
    close(memory.blend.sum(0), torch.ones(30).double())


def test_memory_of_nothing_seen_is_the_mean_image(memory):
    blank = torch.zeros(1, 2, *SIZE).double()
    mean, _ = memory(blank, blank[:, :1])
    close(mean.flatten(), memory.images.mean(0))


def test_memory_leaves_an_image_out(memory):
    whole = memory.images[:2].view(2, 2, *SIZE)
    there = torch.ones(2, 1, *SIZE).double()
    same = memory.same(whole, there)
    assert torch.equal(same, torch.eye(40, dtype=torch.bool)[:2])
    # What is left out has no say at all.
    others = ExemplarMemory(39, 2, SIZE).double()
    others.store(memory.images[1:].view(39, 2, 30))
    close(memory(whole[:1], there[:1], same[:1])[0], others(whole[:1], there[:1])[0])


def test_memory_of_few_images_stays_finite():
    few = ExemplarMemory(2, 1, (2, 2)).double()
    few.store(torch.zeros(2, 1, 4).double())
    image, there = torch.zeros(1, 1, 2, 2).double(), torch.ones(1, 1, 2, 2).double()
    for left_out in (None, few.same(image, there)):
        mean, deviation = few(image, there, left_out)
        assert not mean.any()
        close(deviation, torch.full_like(mean, exemplars._SMALLEST_VARIANCE**0.5))


def test_interpolation_keeps_what_was_seen_and_constants(masked):
    image, there = masked
    filled = interpolate(image, there)
    close(filled * there, image)
    # A mean of seen values, shrunk to zero by the one pixel at the top.
    assert filled.abs().max() <= image.abs().max()
    level = interpolate(0.3 * there, there)
    assert (level > 0.2).all() and (level <= 0.3 + 1e-12).all()
    assert not interpolate(0.0 * image, 0.0 * there).any()


def test_interpolation_follows_a_slope():
    rows = torch.linspace(-0.5, 0.5, 16).double().expand(16, 16)[None, None]
    there = (uniform(1, 1, 16, 16) < 0.3).double()
    error = interpolate(rows * there, there) - rows
    assert error.square().mean() < 0.1 * rows.square().mean()


@pytest.mark.parametrize(
    ("size", "n_resolutions", "expected"),
    [((28, 28), 4, 4), ((8, 8), 4, 3), ((2, 9), 4, 1), ((7, 5), 2, 2)],
)
def test_resolutions(size, n_resolutions, expected):
    network = make(image_size=size, n_resolutions=n_resolutions, n_exemplars=0)
    assert len(network.unet.down) == expected
    x = pixel_coordinates(*size)[None]
    seen = uniform(1, len(x[0])) < 0.3
    raw = network.decode(network.encode(x, uniform(1, len(x[0]), 2), seen), x)
    assert raw.shape == (1, len(x[0]), 4) and torch.isfinite(raw).all()


def test_prediction_begins_at_the_guess(masked):
    """Without a correction the network says what the memory says."""
    network = make()
    with torch.no_grad():
        network.head.weight.zero_()
    image, there = masked
    raw = network.encode_image(image, there).features
    mean, std = GaussianLikelihood(1e-12).parameters_of(raw)
    guess, deviation = network.exemplars(image, there)
    close(mean, guess.flatten(2).transpose(1, 2))
    close(std, deviation.flatten(2).transpose(1, 2))


def test_training_leaves_the_image_itself_out():
    network = make()
    x = pixel_coordinates(*SIZE).expand(2, -1, -1)
    y = network.exemplars.images[:2].view(2, 2, 30).transpose(1, 2)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    context, target = order[:12], order[12:]
    batch = TaskBatch.without_padding(
        x[:, context], y[:, context], x[:, target], y[:, target]
    )
    raw = network(batch)
    mask = batch.context_mask
    recalled = network.decode(
        network.encode(batch.context_x, batch.context_y, mask), batch.target_x
    )
    truth = batch.target_y
    assert (recalled[..., :2] - truth).abs().mean() < (
        0.8 * (raw[..., :2] - truth).abs().mean()
    )
    # A new image has nothing to leave out.
    new = TaskBatch.without_padding(
        batch.context_x, batch.context_y + 0.1, batch.target_x, batch.target_y
    )
    state = network.encode(new.context_x, new.context_y, mask)
    close(network(new), network.decode(state, new.target_x))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_exemplars": 1}, "0 or at least 2"),
        ({"kernel_size": 2}, "positive and odd"),
        ({"n_resolutions": 0}, "n_resolutions"),
        ({"image_size": (1, 4)}, "image_size"),
    ],
)
def test_bad_sizes(options, text):
    with pytest.raises(ValueError, match=text):
        make(**options)
    with pytest.raises(ValueError, match="twice n_targets"):
        ImageNeuralProcess(2, 1, 3, image_size=SIZE)


def test_separate_likelihood_has_gradients_of_squares():
    network, likelihood = make(n_exemplars=0), GaussianLikelihood(0.05)
    x = pixel_coordinates(*SIZE).expand(2, -1, -1)
    y = uniform(2, 30, 2, seed=3) - 0.5
    mask = uniform(2, 18, seed=4) < 0.8
    seen = torch.ones(2, 12, dtype=torch.bool)
    batch = TaskBatch(x[:, :12], y[:, :12], seen, x[:, 12:], y[:, 12:], mask)
    values = separate_log_likelihood(network, likelihood, batch, std=0.2)
    close(values, conditional_log_likelihood(network, likelihood, batch))
    values.sum().backward()
    ours = [part.clone() for part in network.head.weight.grad.chunk(3)]
    network.zero_grad()
    mean, std = likelihood.parameters_of(network(batch))
    counts = mask.sum(1)[:, None, None]
    there = mask[..., None] / counts
    (-0.5 * there * ((mean - batch.target_y) / 0.2).square()).sum().backward(
        retain_graph=True
    )
    close(ours[0], network.head.weight.grad.chunk(3)[0])
    network.zero_grad()
    conditional_log_likelihood(network, likelihood, batch).sum().backward()
    close(ours[2], network.head.weight.grad.chunk(3)[2])
