"""Kernel functions of neural-tangents, and of anything that is called as they are."""

import pickle
import sys
import types
import warnings

import numpy as np
import pytest
import torch

from skfunc.infinite_width import InfiniteWidthClassifier, InfiniteWidthRegressor
from skfunc.infinite_width import layers as L
from skfunc.infinite_width._foreign import ForeignKernel, as_network
from skfunc.infinite_width._kernel_matrices import (
    check_network,
    kernel_blocks,
    kernel_diagonal,
    kernel_matrices,
    kernel_series,
)

IMAGE_SHAPE = (2, 4, 3)
NET = L.preset("mlp", 2, "erf")
IMAGE_NET = L.preset("conv", 2, "erf", image_shape=IMAGE_SHAPE)


def dense_kernel_fn(x1, x2=None, get=None):
    return NET.kernel(x1, x2, get)


def image_kernel_fn(x1, x2=None, get=None):
    assert x1.shape[1:] == (4, 3, 2)
    flat1, flat2 = (
        None if x is None else np.moveaxis(x, -1, 1).reshape(len(x), -1)
        for x in (x1, x2)
    )
    return IMAGE_NET.kernel(flat1, flat2, get, IMAGE_SHAPE)


CASES = {
    "vectors": (dense_kernel_fn, NET, None),
    "images": (image_kernel_fn, IMAGE_NET, IMAGE_SHAPE),
}


def rows(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 24))


@pytest.mark.parametrize("kind", ["both", "nngp", "ntk"])
@pytest.mark.parametrize("name", CASES)
def test_matrices_are_those_of_the_network(name, kind):
    kernel_fn, net, image_shape = CASES[name]
    foreign = as_network(kernel_fn)
    for other in (None, rows(5, seed=1)):
        theirs, ours = (
            kernel_matrices(
                one, rows(7), other, image_shape=image_shape, kind=kind, block_rows=3
            )
            for one in (foreign, net)
        )
        for one, two in zip(theirs, ours, strict=True):
            assert (one is None) == (two is None)
            if one is not None:
                torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_diagonal_is_that_of_the_network(name):
    kernel_fn, net, image_shape = CASES[name]
    for n in (0, 1, 40):
        theirs, ours = (
            kernel_diagonal(one, rows(n), image_shape=image_shape)
            for one in (ForeignKernel(kernel_fn), net)
        )
        for one, two in zip(theirs, ours, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)


def test_series_may_mix_both():
    X = rows(6)
    native = [NET, NET, L.preset("mlp", 1)]
    mixed = [NET, ForeignKernel(dense_kernel_fn), L.preset("mlp", 1)]
    series = kernel_series(mixed, X)
    for net, matrices in zip(native, series, strict=True):
        alone = kernel_matrices(net, X)
        for one, two in zip(matrices, alone, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)


def test_blocks_are_not_called_for_twice():
    calls = []

    def kernel_fn(x1, x2=None, get=None):
        calls.append((len(x1), x2 is None, get))
        return dense_kernel_fn(x1, x2, get)

    foreign = ForeignKernel(kernel_fn)
    blocks = list(kernel_blocks(foreign, rows(5), kind="ntk", block_rows=3))
    assert calls == [(3, True, "ntk"), (3, False, "ntk"), (2, True, "ntk")]
    assert all(block.nngp is None for _, _, block in blocks)


def test_type_of_the_result_is_that_of_the_rows():
    def kernel_fn(x1, x2=None, get=None):
        return dense_kernel_fn(x1, x2, get).astype(np.float32)

    foreign = ForeignKernel(kernel_fn)
    assert kernel_matrices(foreign, rows(3)).ntk.dtype == torch.float64
    single = kernel_matrices(foreign, rows(3), dtype=torch.float32)
    assert single.ntk.dtype == torch.float32


def test_names_and_networks():
    assert as_network("mlp", depth=1) == L.preset("mlp", 1)
    assert as_network(NET) is NET
    foreign = as_network(dense_kernel_fn)
    assert as_network(foreign) is foreign
    assert foreign == ForeignKernel(dense_kernel_fn)


@pytest.mark.parametrize("wrong", [3, None, L.Relu, dict])
def test_what_is_no_network(wrong):
    with pytest.raises(TypeError, match="is no network: pass 'mlp'"):
        as_network(wrong)


def test_class_of_a_layer_is_named():
    with pytest.raises(TypeError, match=r"Write Relu\(\)"):
        as_network(L.Relu)


@pytest.mark.parametrize(
    "kernel_fn, error, message",
    [
        (lambda x: x @ x.T, TypeError, "the calling convention of neural-tangents"),
        (lambda x1, x2, get: x1, ValueError, r"shape \(3, 24\).*\(3, 3\) are expected"),
        (lambda x1, x2, get: np.eye(3, dtype=int), ValueError, "type int64"),
        (lambda x1, x2, get: np.full((3, 3), np.nan), ValueError, "NaN or infinity"),
    ],
)
def test_wrong_callables(kernel_fn, error, message):
    with pytest.raises(error, match=message):
        kernel_matrices(ForeignKernel(kernel_fn), rows(3))


def test_what_a_function_cannot():
    foreign = ForeignKernel(dense_kernel_fn)
    X = torch.tensor(rows(3), requires_grad=True)
    with pytest.raises(ValueError, match="cannot be differentiated"):
        kernel_matrices(foreign, X)
    with pytest.raises(ValueError, match="image_shape"):
        check_network(foreign, 24, (2, 2, 2))
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(ForeignKernel(lambda x1, x2, get: x1 @ x1.T))


@pytest.fixture(scope="module")
def stax():
    # Its experimental part asks for TensorFlow, which is not needed here.
    name = "neural_tangents.experimental"
    if name not in sys.modules:
        sys.modules[name] = types.ModuleType(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("neural_tangents").stax


def test_neural_tangents_takes_the_place_of_our_layers(stax):
    def kernel_fn(*layers):
        return stax.serial(*layers)[2]

    stds = {"W_std": 1.5, "b_std": 0.05}
    dense = kernel_fn(stax.Dense(1, **stds), stax.Erf(), stax.Dense(1, **stds))
    conv = kernel_fn(
        stax.Conv(1, (3, 3), padding="SAME", **stds),
        stax.Erf(),
        stax.Flatten(),
        stax.Dense(1, **stds),
    )
    ours = {
        None: L.preset("mlp", 1, "erf"),
        IMAGE_SHAPE: L.preset("conv", 1, "erf", image_shape=IMAGE_SHAPE),
    }
    for theirs, image_shape in ((dense, None), (conv, IMAGE_SHAPE)):
        for other in (None, rows(5, seed=1)):
            both = (
                kernel_matrices(
                    net, rows(7), other, image_shape=image_shape, block_rows=4
                )
                for net in (as_network(theirs), ours[image_shape])
            )
            for one, two in zip(*both, strict=True):
                # jax computes in float32 unless told otherwise.
                torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_estimators_take_a_kernel_fn(kind):
    generator = np.random.default_rng(0)
    X = generator.normal(size=(40, 3))
    y = np.sin(X[:, 0]) + 0.1 * generator.normal(size=40)
    foreign, own = (
        InfiniteWidthRegressor(architecture, kernel=kind).fit(X[:30], y[:30])
        for architecture in (dense_kernel_fn, NET)
    )
    for mine, theirs in zip(
        foreign.predict(X[30:], return_std=True),
        own.predict(X[30:], return_std=True),
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-7)
    labels = y > 0
    foreign, own = (
        InfiniteWidthClassifier(architecture, kernel=kind).fit(X[:30], labels[:30])
        for architecture in (dense_kernel_fn, NET)
    )
    np.testing.assert_allclose(
        foreign.predict_proba(X[30:]), own.predict_proba(X[30:]), rtol=1e-5
    )
