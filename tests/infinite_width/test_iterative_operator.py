"""The kernel as an operator: the dense matrix's products, within a limit of memory."""

import numpy as np
import pytest
import torch

from skfunc.infinite_width import _iterative_operator
from skfunc.infinite_width import layers as L
from skfunc.infinite_width._iterative_operator import WORKING_TILES, KernelOperator

NET = L.Serial(
    L.Dense(1.5, 0.05), L.Relu(), L.Dense(1.5, 0.05), L.Erf(), L.Dense(1.5, 0.05)
)
IMAGES = L.Serial(L.Conv(), L.Relu(), L.Conv(), L.GlobalAvgPool(), L.Dense())
DOUBLE = torch.float64


def rows(n=90, columns=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, columns))


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("weighted", [False, True])
def test_products_are_those_of_the_dense_matrix(kind, weighted):
    X, V = rows(), rows(90, 3, seed=1)
    weight = np.random.default_rng(2).uniform(0.5, 4, size=90) if weighted else None
    operator = KernelOperator(
        NET, X, kind=kind, dtype=DOUBLE, sample_weight=weight, tile_rows=32
    )
    root = np.ones(90) if weight is None else np.sqrt(weight)
    dense = root[:, None] * NET.kernel(X, kind=kind) * root
    for _ in range(2):
        np.testing.assert_allclose(operator @ V, dense @ V, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(operator @ V[:, 0], dense @ V[:, 0], atol=1e-10)
    np.testing.assert_allclose(operator.diagonal(), dense.diagonal(), rtol=1e-13)
    some = torch.tensor([4, 0, 4, 88])
    np.testing.assert_allclose(operator.columns(some), dense[:, some], rtol=1e-12)
    np.testing.assert_allclose(
        operator.principal_block(some), dense[np.ix_(some, some)], rtol=1e-12
    )


def test_images():
    X = rows(20, 3 * 4 * 4)
    operator = KernelOperator(
        IMAGES, X, image_shape=(3, 4, 4), dtype=DOUBLE, tile_rows=8
    )
    dense = IMAGES.kernel(X, image_shape=(3, 4, 4))
    np.testing.assert_allclose(operator @ np.eye(20), dense, rtol=1e-12)


@pytest.mark.parametrize("numbers", [90, 1000, 10**6])
def test_neighbors_are_the_most_correlated_rows(monkeypatch, numbers):
    monkeypatch.setattr(_iterative_operator, "NEIGHBOR_NUMBERS", numbers)
    X = rows()
    weight = np.random.default_rng(2).uniform(0.5, 4, size=90)
    operator = KernelOperator(NET, X, sample_weight=weight)
    some = torch.tensor([4, 0, 88, 17, 23])
    dense = NET.kernel(X)
    norms = np.sqrt(dense.diagonal())
    nearest = np.argsort(-(dense / norms)[some], axis=1)[:, :7]
    np.testing.assert_array_equal(operator.neighbors(some, 7), nearest)
    assert (nearest[:, 0] == some.numpy()).all()


def test_float32_accumulates_in_float64():
    X, V = rows(400), rows(400, 2, seed=1)
    operator = KernelOperator(NET, X, tile_rows=64)
    dense = NET.kernel(X)
    scale = np.abs(dense) @ np.abs(V)
    assert np.abs((operator @ V - dense @ V) / scale).max() < 1e-6
    columns = torch.as_tensor(V)
    exact = operator.product(columns, exact=True).numpy()
    assert np.abs((exact - dense @ V) / scale).max() < 3e-7


def test_test_product_is_unweighted():
    X, X_test, V = rows(), rows(50, seed=3), rows(90, 2, seed=1)
    operator = KernelOperator(
        NET, X, dtype=DOUBLE, sample_weight=np.full(90, 3.0), tile_rows=32
    )
    kernel = NET.kernel(X_test, X)
    np.testing.assert_allclose(
        operator.test_product(X_test, V), kernel @ V, rtol=1e-12, atol=1e-10
    )
    marks = torch.tensor([3, 7])
    np.testing.assert_allclose(operator.test_columns(X_test, marks), kernel[:, marks])
    assert operator.test_product(X_test[:0], V).shape == (0, 2)


@pytest.mark.parametrize("max_memory", [40_000, 100_000, 10_000_000])
def test_memory_is_capped(max_memory):
    X = rows(300)
    operator = KernelOperator(NET, X, max_memory=max_memory)
    V = rows(300, 2, seed=1)
    expected = NET.kernel(X) @ V
    for _ in range(2):
        np.testing.assert_allclose(operator @ V, expected, rtol=1e-4, atol=1e-3)
        kept = sum(tile.numel() * 4 for tile in operator._kept.values())
        assert operator.stored_bytes == kept
        assert kept + operator.working_bytes() <= max_memory
    everything = sum(
        (a.stop - a.start) * (b.stop - b.start) * 4
        for i, a in enumerate(operator._slices())
        for b in operator._slices()[i:]
    )
    assert (kept == everything) == (max_memory == 10_000_000)
    assert kept > 0
    operator.release()
    assert operator.stored_bytes == 0
    np.testing.assert_allclose(operator @ V, expected, rtol=1e-4, atol=1e-3)


def test_bad_input_is_named():
    X = rows()
    with pytest.raises(ValueError, match="max_memory=1000 .* at least"):
        KernelOperator(NET, X, max_memory=1000)
    assert KernelOperator(NET, X, max_memory=2 * WORKING_TILES * 4 * 32**2).tile_rows
    with pytest.raises(ValueError, match="kind='both'"):
        KernelOperator(NET, X, kind="both")
    with pytest.raises(ValueError, match="row 0"):
        KernelOperator(NET, X * np.nan)
    with pytest.raises(ValueError, match="sample_weight"):
        KernelOperator(NET, X, sample_weight=-np.ones(90))
    with pytest.raises(ValueError, match=r"\(90, 90\) .* \(3,\)"):
        KernelOperator(NET, X) @ np.ones(3)
