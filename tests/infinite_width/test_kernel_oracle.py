"""Kernels against arrays recorded with neural-tangents 0.6.5 in float64."""

from pathlib import Path

import numpy as np
import pytest

from skfunc.infinite_width import layers as L

ARRAYS = Path(__file__).resolve().parent.parent / "data" / "neural_tangents.npz"
IMAGE_SHAPE = (3, 8, 8)
STDS = (1.5, 0.05)


def dense_net(activation, depth, stds=STDS):
    return L.Serial(*[L.Dense(*stds), activation] * depth, L.Dense(*stds))


def conv_net(depth, *head, activation=None, **options):
    hidden = [L.Conv(*STDS, **options), activation or L.Relu()] * depth
    return L.Serial(*hidden, *head, L.Dense(*STDS))


BLOCK = L.Residual(L.Serial(L.Relu(), L.Dense(*STDS)))
NETS = {
    "fc_relu_1": dense_net(L.Relu(), 1),
    "fc_relu_5": dense_net(L.Relu(), 5, (1.41421356, 0.1)),
    "fc_erf_3": dense_net(L.Erf(), 3),
    "fc_sin_2": dense_net(L.Sin(), 2),
    "fc_abs_2": dense_net(L.Abs(), 2),
    "fc_leaky_2": dense_net(L.LeakyRelu(0.1), 2),
    "fc_gelu_2": dense_net(L.Gelu(), 2),
    "fc_rbf_2": dense_net(L.Rbf(), 2),
    "fc_residual": L.Serial(L.Dense(*STDS), BLOCK, BLOCK, L.Relu(), L.Dense(*STDS)),
    "conv_flatten_3": conv_net(3, L.Flatten()),
    "conv_gap_3": conv_net(3, L.GlobalAvgPool()),
    "conv_erf_flatten_2": conv_net(2, L.Flatten(), activation=L.Erf()),
    "conv_valid_stride2_flatten": conv_net(
        1, L.Flatten(), strides=(2, 2), padding="VALID"
    ),
    "conv_avgpool_flatten": conv_net(2, L.AvgPool(), L.Flatten()),
    "wide_resnet_1": L.preset(
        "wide_resnet", 1, weight_std=1.0, bias_std=0.0, image_shape=IMAGE_SHAPE
    ),
}


@pytest.fixture(scope="module")
def arrays():
    with np.load(ARRAYS) as stored:
        return {name: stored[name] for name in stored.files}


def data(arrays, name):
    if name.startswith("fc_"):
        return arrays["vectors_train"], arrays["vectors_test"], None
    # The recorded images have their channels last.
    rows = [
        arrays[f"images_{part}"].transpose(0, 3, 1, 2).reshape(-1, 192)
        for part in ("train", "test")
    ]
    return *rows, IMAGE_SHAPE


def test_every_recorded_architecture_is_here(arrays):
    recorded = {name.split("/")[0] for name in arrays if "/nngp/" in name}
    assert recorded == set(NETS)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("name", NETS)
def test_kernel_is_the_recorded_one(arrays, name, kind):
    train, test, image_shape = data(arrays, name)
    # Entries near zero are differences of larger ones.
    close = {"rtol": 1e-12, "atol": 1e-15 * arrays[f"{name}/{kind}/train_train"].max()}
    cross = NETS[name].kernel(test, train, kind, image_shape)
    np.testing.assert_allclose(cross, arrays[f"{name}/{kind}/test_train"], **close)
    gram = NETS[name].kernel(train, kind=kind, image_shape=image_shape)
    recorded = arrays[f"{name}/{kind}/train_train"]
    off = ~np.eye(len(train), dtype=bool)
    np.testing.assert_allclose(gram[off], recorded[off], **close)
    # neural-tangents takes the diagonal from sqrt(1 - c^2), which costs it digits.
    rtol = 5e-9 if image_shape is not None else 1e-12
    np.testing.assert_allclose(np.diag(gram), np.diag(recorded), rtol=rtol)
