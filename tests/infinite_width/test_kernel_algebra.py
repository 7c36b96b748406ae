"""Closed forms, symmetry, blocks, types, gradients and bad input of the kernels."""

import pickle

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from skfunc.infinite_width import layers as L
from skfunc.infinite_width._kernel_matrices import (
    kernel_blocks,
    kernel_diagonal,
    kernel_matrices,
    kernel_series,
)

IMAGE_SHAPE = (2, 6, 5)
ACTIVATIONS = {
    "relu": L.Relu(),
    "leaky_relu": L.LeakyRelu(0.2),
    "abs": L.Abs(),
    "erf": L.Erf(0.7, 1.3, 0.4),
    "sigmoid": L.Sigmoid(),
    "gelu": L.Gelu(),
    "sin": L.Sin(),
    "cos": L.Cos(),
    "rbf": L.Rbf(0.4),
}
STRIDED = L.Conv(1.2, 0.1, strides=(2, 2))
NETS = {
    "mlp": (L.preset("mlp", 3), None),
    "norm": (L.Serial(L.Dense(), L.LayerNorm(), L.Erf(), L.Dense()), None),
    "residual": (
        L.Serial(L.Dense(), L.Residual(L.Serial(L.Gelu(), L.Dense())), L.Dense()),
        None,
    ),
    "linear": (L.Serial(L.Flatten(), L.Dense(2.0, 0.5)), None),
    "nothing": (L.Identity(), None),
    "flatten": (L.preset("conv", 2, "erf", image_shape=IMAGE_SHAPE), IMAGE_SHAPE),
    "gap": (
        L.Serial(L.Conv(), L.Relu(), STRIDED, L.Relu(), L.GlobalAvgPool(), L.Dense()),
        IMAGE_SHAPE,
    ),
    "pools": (
        L.Serial(
            L.Conv(padding="VALID"),
            L.Relu(),
            L.AvgPool((2, 2), (1, 1), "SAME"),
            L.LayerNorm(),
            L.Conv(),
            L.Gelu(),
            L.AvgPool((2, 3), (2, 1)),
            L.Flatten(),
            L.Dense(),
            L.Relu(),
            L.Dense(),
        ),
        IMAGE_SHAPE,
    ),
    "branches": (
        L.Serial(
            L.Conv(),
            L.Residual(L.Serial(L.Relu(), L.AvgPool()), L.Conv(strides=(2, 2))),
            L.Erf(),
            L.Flatten(),
        ),
        (2, 6, 6),
    ),
    "wide": (
        L.preset("wide_resnet", 1, "relu", 1.3, 0.1, IMAGE_SHAPE),
        IMAGE_SHAPE,
    ),
}


def rows(image_shape, n, seed=0):
    n_features = 7 if image_shape is None else int(np.prod(image_shape))
    return np.random.default_rng(seed).normal(size=(n, n_features))


def expectation(function, variance):
    def integrand(x):
        return function(x) * stats.norm.pdf(x, scale=variance**0.5)

    edge = 12.0 * variance**0.5
    parts = [(-edge, 0.0), (0.0, edge)]
    return sum(
        integrate.quad(integrand, *part, epsabs=1e-13, limit=200)[0] for part in parts
    )


@pytest.mark.parametrize("variance", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_diagonal_is_the_integral(name, variance):
    layer = ACTIVATIONS[name]

    def value(x):
        return layer._function(torch.tensor([[x]], dtype=torch.float64)).item()

    def slope(x):
        point = torch.tensor([[x]], dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(layer._function(point).sum(), point)[0].item()

    X = np.full((1, 3), variance**0.5)
    net = L.Serial(L.Dense(), layer)
    second_moment = expectation(lambda x: value(x) ** 2, variance)
    assert net.kernel(X, kind="nngp") == pytest.approx(second_moment, rel=1e-9)
    derivative = expectation(lambda x: slope(x) ** 2, variance)
    assert net.kernel(X) == pytest.approx(variance * derivative, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relu_diagonal_is_exact(dtype):
    X = rows(None, 5)
    depth, weight, bias = 4, 1.4, 0.3
    variance = tangent = weight**2 * (X**2).mean(1) + bias**2
    for _ in range(depth):
        variance = weight**2 * variance / 2.0 + bias**2
        tangent = variance + weight**2 * tangent / 2.0
    net = L.preset("mlp", depth, "relu", weight, bias)
    nngp, ntk = kernel_matrices(net, X, dtype=dtype)
    rtol = 1e-14 if dtype is torch.float64 else 1e-6
    np.testing.assert_allclose(nngp.diagonal(), variance, rtol=rtol)
    np.testing.assert_allclose(ntk.diagonal(), tangent, rtol=rtol)


@pytest.mark.parametrize("name", NETS)
def test_symmetric_is_full(name):
    net, image_shape = NETS[name]
    X = rows(image_shape, 6)
    for kind in ("nngp", "ntk"):
        half = net.kernel(X, kind=kind, image_shape=image_shape)
        full = net.kernel(X, X, kind, image_shape)
        np.testing.assert_array_equal(half, half.T)
        # The full matrix has no closed-form diagonal.
        np.testing.assert_allclose(half, full, rtol=1e-7, atol=1e-12)
        off = ~np.eye(6, dtype=bool)
        scale = np.abs(half).max()
        np.testing.assert_allclose(half[off], full[off], rtol=1e-12, atol=1e-14 * scale)


@pytest.mark.parametrize("name", NETS)
def test_blocks_change_nothing(name):
    net, image_shape = NETS[name]
    X, Y = rows(image_shape, 7), rows(image_shape, 5, seed=1)
    for other in (None, Y):
        whole, parts = (
            kernel_matrices(net, X, other, image_shape=image_shape, block_rows=size)
            for size in (100, 3)
        )
        for one, many in zip(whole, parts, strict=True):
            atol = 1e-14 * one.abs().max().item()
            torch.testing.assert_close(one, many, rtol=1e-13, atol=atol)


@pytest.mark.parametrize("name", NETS)
def test_diagonal_is_that_of_the_matrix(name):
    net, image_shape = NETS[name]
    X = rows(image_shape, 7)
    matrices = kernel_matrices(net, X, image_shape=image_shape, block_rows=4)
    diagonals = kernel_diagonal(net, X, image_shape=image_shape, block_rows=2)
    for matrix, diagonal in zip(matrices, diagonals, strict=True):
        torch.testing.assert_close(matrix.diagonal(), diagonal, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", NETS)
def test_float32_is_near_float64(name):
    net, image_shape = NETS[name]
    X = rows(image_shape, 5)
    for other in (None, rows(image_shape, 4, seed=1)):
        single, double = (
            kernel_matrices(net, X, other, image_shape=image_shape, dtype=dtype)
            for dtype in (torch.float32, torch.float64)
        )
        for one, two in zip(single, double, strict=True):
            assert one.dtype == torch.float32
            atol = 1e-5 * two.abs().max().item()
            torch.testing.assert_close(one.double(), two, rtol=1e-5, atol=atol)


def test_one_kind_is_that_of_both():
    X = rows(None, 5)
    net = L.preset("mlp", 2)
    both = kernel_matrices(net, X)
    assert kernel_matrices(net, X, kind="nngp").ntk is None
    assert kernel_matrices(net, X, kind="ntk").nngp is None
    np.testing.assert_array_equal(both.nngp, net.kernel(X, kind="nngp"))
    np.testing.assert_array_equal(both.ntk, net.kernel(X))


def test_blocks_cover_the_upper_half_once():
    X = rows(None, 7)
    net = L.preset("mlp", 2)
    seen = np.zeros((7, 7), dtype=int)
    for first, second, block in kernel_blocks(net, X, block_rows=3):
        assert block.ntk.shape == (
            first.stop - first.start,
            second.stop - second.start,
        )
        seen[first, second] += 1
    assert seen.max() == 1
    assert (np.triu(seen) == np.triu(np.ones((7, 7)))).all()


@pytest.mark.parametrize("name", ["mlp", "residual", "flatten", "gap", "wide"])
def test_rows_met_again_have_the_diagonal(name):
    net, image_shape = NETS[name]
    X = rows(image_shape, 6)
    again = kernel_matrices(net, X, X.copy(), image_shape=image_shape)
    diagonals = kernel_diagonal(net, X, image_shape=image_shape)
    for matrix, diagonal in zip(again, diagonals, strict=True):
        torch.testing.assert_close(matrix.diagonal(), diagonal, rtol=1e-13, atol=0)


def test_series_is_each_network_alone():
    X, Y = rows(IMAGE_SHAPE, 4), rows(IMAGE_SHAPE, 3, seed=1)
    nets = [
        L.preset("conv", depth, "erf", image_shape=IMAGE_SHAPE) for depth in range(4)
    ]
    nets += [NETS["gap"][0], NETS["wide"][0], nets[2], L.Flatten()]
    for other in (None, Y):
        series = kernel_series(nets, X, other, image_shape=IMAGE_SHAPE)
        for net, together in zip(nets, series, strict=True):
            alone = kernel_matrices(net, X, other, image_shape=IMAGE_SHAPE)
            for one, two in zip(alone, together, strict=True):
                torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)


def test_no_rows_and_one_row():
    net = L.preset("mlp", 2)
    X = rows(None, 3)
    assert net.kernel(X[:0], X).shape == (0, 3)
    assert net.kernel(X[:0]).shape == (0, 0)
    assert kernel_diagonal(net, X[:0]).ntk.shape == (0,)
    np.testing.assert_allclose(net.kernel(X[:1]), net.kernel(X)[:1, :1])


@pytest.mark.parametrize("function", [kernel_matrices, kernel_diagonal])
def test_blocks_have_rows(function):
    with pytest.raises(ValueError, match="block_rows=-1"):
        function(L.Dense(), rows(None, 3), block_rows=-1)


def test_nested_chains_are_one_chain():
    X = rows(None, 4)
    inner = L.Serial(L.Dense(1.5), L.Relu())
    nested = L.Serial(inner, inner, L.Dense())
    plain = L.Serial(L.Dense(1.5), L.Relu(), L.Dense(1.5), L.Relu(), L.Dense())
    np.testing.assert_array_equal(nested.kernel(X), plain.kernel(X))


def test_residual_adds_kernels():
    X = rows(None, 4)
    twice = L.Serial(L.Residual(L.Identity()), L.Dense())
    np.testing.assert_allclose(twice.kernel(X), 2.0 * L.Dense().kernel(X))
    branches = L.Residual(L.Dense(1.5, 0.1), L.Dense(0.5))
    parts = L.Dense(1.5, 0.1).kernel(X) + L.Dense(0.5).kernel(X)
    np.testing.assert_allclose(branches.kernel(X), parts)


def test_black_images_have_finite_kernels():
    X = rows(IMAGE_SHAPE, 3)
    X[0] = 0.0
    for head in (L.Flatten(), L.GlobalAvgPool()):
        net = L.Serial(L.Conv(), L.Relu(), L.Conv(), L.Relu(), head, L.Dense())
        matrices = kernel_matrices(net, X, image_shape=IMAGE_SHAPE)
        assert all(torch.isfinite(matrix).all() for matrix in matrices)
        assert all(matrix[0].abs().max() < 1e-100 for matrix in matrices)


@pytest.mark.parametrize("name", NETS)
def test_kernels_are_positive_definite(name):
    net, image_shape = NETS[name]
    for kind in ("nngp", "ntk"):
        matrix = net.kernel(rows(image_shape, 8), kind=kind, image_shape=image_shape)
        assert np.linalg.eigvalsh(matrix).min() >= -1e-12 * np.trace(matrix)


@pytest.mark.parametrize("name", ["relu", "erf", "gelu", "sin", "cos", "rbf"])
def test_gradients(name):
    X = torch.tensor(rows(None, 5), requires_grad=True)
    stds = [
        torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for value in (1.4, 0.3)
    ]

    def kernels(weight_std, bias_std, X):
        net = L.preset("mlp", 2, name, weight_std, bias_std)
        return tuple(kernel_matrices(net, X, block_rows=3))

    assert torch.autograd.gradcheck(kernels, (*stds, X), check_forward_ad=True)


@pytest.mark.parametrize("head", [L.Flatten(), L.GlobalAvgPool(), L.AvgPool((6, 5))])
def test_gradients_through_images(head):
    X = torch.tensor(rows(IMAGE_SHAPE, 2))
    std = torch.tensor(1.4, dtype=torch.float64, requires_grad=True)

    def kernels(std):
        conv = L.Conv(std, 0.1)
        net = L.Serial(conv, L.Relu(), conv, L.Erf(), head, L.Flatten(), L.Dense())
        return tuple(kernel_matrices(net, X, image_shape=IMAGE_SHAPE))

    assert torch.autograd.gradcheck(kernels, (std,))


def test_networks_are_values():
    net = NETS["branches"][0]
    assert pickle.loads(pickle.dumps(net)) == net
    assert hash(net) == hash(pickle.loads(pickle.dumps(net)))
    assert eval(repr(net), vars(L)) == net
    with pytest.raises(AttributeError):
        net.layers[0].weight_std = 2.0


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_presets_know_activations(name):
    X = rows(None, 3)
    plain = {"leaky_relu": L.LeakyRelu(), "erf": L.Erf(), "rbf": L.Rbf()}
    layer = plain.get(name, ACTIVATIONS[name])
    by_name, by_layer = (L.preset("mlp", 1, unit) for unit in (name, layer))
    assert by_name == by_layer
    assert by_name.kernel(X).shape == (3, 3)


def test_presets_take_images():
    X = rows(IMAGE_SHAPE, 3)
    for name in ("mlp", "conv", "wide_resnet"):
        net = L.preset(name, 1, image_shape=IMAGE_SHAPE)
        assert net.kernel(X, image_shape=IMAGE_SHAPE).shape == (3, 3)
    plain = L.preset("mlp", 1).kernel(X)
    flat = L.preset("mlp", 1, image_shape=IMAGE_SHAPE)
    np.testing.assert_allclose(flat.kernel(X, image_shape=IMAGE_SHAPE), plain)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: L.Dense(-1.0), "weight_std=-1.0"),
        (lambda: L.Dense(1.0, float("nan")), "bias_std=nan"),
        (lambda: L.Conv(filter_shape=(3,)), "filter_shape"),
        (lambda: L.Conv(strides=(0, 1)), "strides"),
        (lambda: L.Conv(padding="CIRCULAR"), "'SAME' or 'VALID'"),
        (lambda: L.AvgPool(window_shape=(0, 2)), "window_shape"),
        (lambda: L.Rbf(0.0), "gamma"),
        (lambda: L.preset("vit"), "'mlp', 'conv' or 'wide_resnet'"),
        (lambda: L.preset("conv"), "needs image_shape"),
        (lambda: L.preset("mlp", -1), "depth=-1"),
        (lambda: L.preset("mlp", activation="tanh"), "'sigmoid', 'sin'"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("wrong", [L.Relu, "relu", None])
def test_what_is_no_layer(wrong):
    with pytest.raises(TypeError, match="is not a layer"):
        L.Serial(L.Dense(), wrong)
    with pytest.raises(TypeError, match="is not a network"):
        kernel_matrices(wrong, rows(None, 2))


@pytest.mark.parametrize(
    "net, options, message",
    [
        (L.Serial(L.Conv(), L.Flatten()), {}, "image_shape="),
        (L.GlobalAvgPool(), {}, "image_shape="),
        (L.Conv(), {"image_shape": (2, 6, 5)}, r"ends in images of \(6, 5\)"),
        (L.Dense(), {"image_shape": (2, 6, 5)}, "Flatten"),
        (L.Flatten(), {"image_shape": (2, 6, 6)}, "72 values and the rows have 60"),
        (L.Flatten(), {"image_shape": (6, 10)}, "three positive integers"),
        (L.Conv(filter_shape=(9, 9), padding="VALID"), {}, "image_shape="),
        (
            L.Conv(filter_shape=(9, 9), padding="VALID"),
            {"image_shape": (2, 6, 5)},
            "larger window",
        ),
        (
            L.Residual(L.Conv(), L.Conv(strides=(2, 2))),
            {"image_shape": (2, 6, 5)},
            "cannot be added",
        ),
        (L.Dense(), {"kind": "gp"}, "'ntk' or 'nngp'"),
        (L.Dense(), {"X2": np.ones((2, 3))}, "60 columns and X2 has 3"),
        (L.Dense(), {"X2": np.full((2, 60), np.nan)}, "X2 has NaN or infinity in row"),
        (L.Dense(), {"X2": np.ones(60)}, "n_samples, n_features"),
    ],
)
def test_bad_input(net, options, message):
    with pytest.raises(ValueError, match=message):
        net.kernel(rows(IMAGE_SHAPE, 2), **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NETS)
def test_cuda_agrees(name):
    net, image_shape = NETS[name]
    X = rows(image_shape, 6)
    there, here = (
        kernel_matrices(net, X, image_shape=image_shape, device=device)
        for device in ("cuda", "cpu")
    )
    for one, two in zip(there, here, strict=True):
        torch.testing.assert_close(one.cpu(), two, rtol=1e-10, atol=1e-12)
