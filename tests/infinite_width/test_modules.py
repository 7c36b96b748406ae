"""Finite networks approach the kernels of their twins of infinite width."""

import numpy as np
import pytest
import torch
from torch.func import functional_call, jacrev

from skfunc.infinite_width import layers as L

STDS = (1.3, 0.2)
IMAGE_SHAPE = (2, 5, 4)
VECTORS = np.random.default_rng(0).normal(size=(4, 6))
IMAGES = np.random.default_rng(1).normal(size=(3, 40))


def dense_net(*layers):
    return L.Serial(L.Dense(*STDS), *layers, L.Dense(*STDS))


def conv_net(*layers, **options):
    return L.Serial(L.Conv(*STDS, **options), *layers, L.Dense(*STDS))


STRIDED = L.Conv(*STDS, filter_shape=(3, 2), strides=(2, 2))
VECTOR_NETS = {
    "relu": dense_net(L.Relu()),
    "leaky": dense_net(L.LeakyRelu(0.3)),
    "abs": dense_net(L.Abs()),
    "erf": dense_net(L.Erf(0.7, 1.3, 0.4)),
    "sigmoid": dense_net(L.Sigmoid()),
    "gelu": dense_net(L.Gelu()),
    "sin": dense_net(L.Sin()),
    "cos": dense_net(L.Cos()),
    "rbf": dense_net(L.Rbf(0.4)),
    "norm": dense_net(L.LayerNorm(), L.Relu()),
    "residual": dense_net(L.Residual(L.Serial(L.Relu(), L.Dense(*STDS))), L.Erf()),
}
IMAGE_NETS = {
    "flatten": conv_net(L.Relu(), L.Flatten()),
    "strides": conv_net(L.Relu(), STRIDED, L.Erf(), L.Flatten()),
    "valid": conv_net(L.Relu(), L.GlobalAvgPool(), padding="VALID"),
    "pool": conv_net(L.Relu(), L.AvgPool((2, 2)), STRIDED, L.Relu(), L.Flatten()),
    "pool_same": conv_net(
        L.Erf(), L.AvgPool((3, 2), (2, 1), "SAME"), L.Relu(), L.GlobalAvgPool()
    ),
    "norm": conv_net(L.LayerNorm(), L.Relu(), L.GlobalAvgPool()),
    "wide": L.preset("wide_resnet", 1, "erf", 1.3, 0.2, IMAGE_SHAPE),
}


def mean_kernels(net, X, image_shape, n_nets, width):
    """Return means over random networks of products of outputs and of gradients."""
    rows = torch.tensor(X)
    nngp, ntk = 0.0, 0.0
    for seed in range(n_nets):
        module = net.to_module(
            width, X.shape[1], image_shape, random_state=seed, dtype=torch.float64
        )
        weights = {name: value.detach() for name, value in module.named_parameters()}
        jacobians = jacrev(
            lambda values, module=module: functional_call(module, values, (rows,))[:, 0]
        )(weights)
        flat = torch.cat([value.flatten(1) for value in jacobians.values()], dim=1)
        ntk = ntk + flat @ flat.T / n_nets
        wide = net.to_module(
            width, X.shape[1], image_shape, 64, random_state=seed, dtype=torch.float64
        )
        with torch.no_grad():
            output = wide(rows)
        nngp = nngp + output @ output.T / 64 / n_nets
    return nngp.numpy(), ntk.numpy()


CASES = [("vector", name) for name in VECTOR_NETS] + [
    ("image", name) for name in IMAGE_NETS
]


@pytest.mark.parametrize("data, name", CASES)
def test_random_networks_approach_the_kernels(data, name):
    vectors = data == "vector"
    net = (VECTOR_NETS if vectors else IMAGE_NETS)[name]
    X, image_shape = (VECTORS, None) if vectors else (IMAGES, IMAGE_SHAPE)
    width, n_nets = (512, 12) if vectors else (64, 25)
    kernels = mean_kernels(net, X, image_shape, n_nets, width)
    for kind, mean in zip(("nngp", "ntk"), kernels, strict=True):
        exact = net.kernel(X, kind=kind, image_shape=image_shape)
        assert np.abs(mean - exact).max() < 0.12 * exact.max(), kind


def test_seed_decides_the_weights():
    net = VECTOR_NETS["relu"]
    X = torch.tensor(VECTORS, dtype=torch.float32)
    first, again, other = (
        net.to_module(8, 6, random_state=seed)(X) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (4, 1)


def test_what_has_no_twin_is_refused():
    with pytest.raises(ValueError, match="n_features"):
        VECTOR_NETS["relu"].to_module(8)
    with pytest.raises(ValueError, match="width=0"):
        VECTOR_NETS["relu"].to_module(0, 6)
    block = L.Residual(L.Serial(L.Relu(), L.Dense()))
    with pytest.raises(ValueError, match="8 and 6 units"):
        L.Serial(block, L.Dense()).to_module(8, 6)
