"""Convolutional neural processes move with their data, and see what is stated."""

import math

import pytest
import torch

from skfunc.nn import (
    ConvolutionalGridNeuralProcess,
    ConvolutionalNeuralProcess,
    draw_module,
    pixel_coordinates,
)


def drawn(network, seed=0):
    network = network.double()
    draw_module(network, torch.Generator().manual_seed(seed))
    return network


def make_line(**options):
    settings = {"width": 8, "x_range": (-8.0, 8.0), "points_per_unit": 12}
    return drawn(ConvolutionalNeuralProcess(1, 2, 4, **settings | options))


def make_points(n=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = 2.0 * torch.rand(2, n, 1, generator=generator).double() - 1.0
    return x, torch.randn(2, n, 2, generator=generator).double()


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def predict(network, x, y, target):
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    return network.decode(network.encode(x, y, mask), target)


@pytest.mark.parametrize(
    ("options", "shift"),
    [
        ({"cnn": "residual"}, 1 / 12),
        ({"cnn": "residual"}, -2.75),
        ({"cnn": "unet", "n_layers": 3}, 8 / 12),
        ({"cnn": "unet", "n_layers": 3}, -4.0),
    ],
)
def test_predictions_move_with_the_data(options, shift):
    network = make_line(**options)
    x, y = make_points()
    target = torch.linspace(-1.5, 1.5, 23).double()[None, :, None].expand(2, -1, -1)
    here = predict(network, x, y, target)
    there = predict(network, x + shift, y, target + shift)
    close(there, here)
    assert (predict(network, x, y, target + shift) - here).abs().max() > 1e-3


def test_a_finer_grid_moves_more_finely():
    """Shifts between grid points are as good as the grid is fine."""
    x, y = make_points()
    target = torch.linspace(-1.0, 1.0, 11).double()[None, :, None].expand(2, -1, -1)
    errors = []
    for points_per_unit in (8, 32):
        network = make_line(cnn="residual", points_per_unit=points_per_unit)
        with torch.no_grad():
            network.log_lengthscales.fill_(math.log(0.25))
        shift = 0.5 / points_per_unit
        here = predict(network, x, y, target)
        there = predict(network, x + shift, y, target + shift)
        errors.append((there - here).abs().max() / here.abs().max())
    assert errors[1] < 0.5 * errors[0]


def test_the_grid_covers_range_and_margin():
    network = make_line(x_range=(-1.3, 0.4), margin=0.25, n_layers=3)
    grid = network._grid(torch.zeros(1).double())
    assert grid[0] <= -1.55 and grid[-1] >= 0.65
    assert len(grid) % 8 == 0 and network.grid_index[0] % 8 == 0
    close(grid.diff(), torch.full_like(grid[1:], 1 / 12))


def test_the_network_reads_densities_and_weighted_means():
    network = make_line(x_range=(-1.0, 1.0))
    x, y = make_points(4)
    seen = {}
    network.lift.register_forward_hook(lambda _, inputs, __: seen.update(x=inputs[0]))
    network.encode(x, y, torch.tensor([[True] * 4, [True, True, False, False]]))
    lengthscale = 2.0 / 12
    for task, n in enumerate((4, 2)):
        for position, place in enumerate(network._grid(x)):
            weights = [
                math.exp(-0.5 * ((place - x[task, i]).item() / lengthscale) ** 2)
                for i in range(n)
            ]
            density = sum(weights)
            means = sum(w * y[task, i] for i, w in enumerate(weights)) / (
                density + 1e-8
            )
            close(seen["x"][task, position, 0].item(), density)
            close(seen["x"][task, position, 1:], means)


def test_targets_beyond_the_grid_read_its_end():
    network = make_line(x_range=(-1.0, 1.0))
    x, y = make_points()
    far = torch.tensor([-1e3, -1e5, 1e3, 1e5]).double()[None, :, None].expand(2, -1, -1)
    raw = predict(network, x, y, far)
    assert torch.isfinite(raw).all()
    close(raw[:, 0], raw[:, 1])
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    ends = network.head(network.encode(x, y, mask).features[:, [0, -1]])
    close(raw[:, [0, 2]], ends)


def make_image(**options):
    settings = {"image_size": (16, 18), "width": 8, "n_layers": 2, "kernel_size": 3}
    network = ConvolutionalGridNeuralProcess(2, 2, 4, **settings | options)
    return drawn(network)


def test_pixels_are_listed_row_by_row():
    pixels = pixel_coordinates(3, 2)
    assert pixels.tolist() == [[r, c] for r in (-1.0, 0.0, 1.0) for c in (-1.0, 1.0)]
    network = make_image(image_size=(5, 7))
    places = network._pixel_of(pixel_coordinates(5, 7)[None])
    assert places[0].tolist() == list(range(35))
    beyond = torch.tensor([[[-9.0, -9.0], [9.0, 9.0], [0.01, -0.02]]]).double()
    assert network._pixel_of(beyond)[0].tolist() == [0, 34, 17]


def test_points_and_images_are_encoded_alike():
    network = make_image()
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 16, 18, 2, generator=generator).double()
    there = torch.rand(2, 16, 18, generator=generator) < 0.3
    pixels = pixel_coordinates(16, 18).expand(2, -1, -1)
    by_points = network.encode(pixels, image.flatten(1, 2), there.flatten(1))
    masked = (image * there[..., None]).movedim(-1, 1)
    by_image = network.encode_image(masked, there[:, None].double())
    close(by_points.features, by_image.features)


def test_points_of_one_pixel_are_averaged():
    network = make_image()
    pixels = pixel_coordinates(16, 18)
    x = pixels[[20, 20, 47]][None]
    y = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [5.0, 6.0]]]).double()
    merged = torch.tensor([[[2.0, 2.0], [5.0, 6.0]]]).double()
    target = pixels[None]
    close(predict(network, x, y, target), predict(network, x[:, 1:], merged, target))


def test_predictions_move_with_the_image():
    network = make_image()
    rows, columns = torch.meshgrid(
        torch.arange(6, 9), torch.arange(7, 10), indexing="ij"
    )
    start = (rows * 18 + columns).flatten()
    y = torch.randn(1, 9, 2, generator=torch.Generator().manual_seed(0)).double()
    pixels = pixel_coordinates(16, 18)
    # The view reaches 4 + 2 pixels: both places stay clear of the border.
    moved = start + 18 + 1
    here = predict(network, pixels[start][None], y, pixels[start][None])
    there = predict(network, pixels[moved][None], y, pixels[moved][None])
    close(there, here)
    other = predict(network, pixels[start][None], y, pixels[moved][None])
    assert (other - here).abs().max() > 1e-3
