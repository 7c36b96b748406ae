"""Kernels as dask arrays."""

import sys

import numpy as np
import pytest

from skfunc.infinite_width import layers as L
from skfunc.infinite_width._iterative_dask import kernel_dask

NET = L.Serial(L.Dense(1.5, 0.05), L.Relu(), L.Dense())


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_blocks_are_those_of_the_matrix(kind):
    pytest.importorskip("dask")
    rng = np.random.default_rng(0)
    X, X_test = rng.normal(size=(25, 3)), rng.normal(size=(9, 3))
    kernel = kernel_dask(NET, X, kind=kind, block_rows=10)
    assert kernel.shape == (25, 25) and kernel.chunks[0] == (10, 10, 5)
    dense = NET.kernel(X, kind=kind)
    found = kernel.compute(scheduler="threads")
    np.testing.assert_allclose(found, dense, rtol=1e-12)
    np.testing.assert_array_equal(found, found.T)
    across = kernel_dask(NET, X_test, X, kind=kind, block_rows=10)
    np.testing.assert_allclose(
        (across @ X).compute(scheduler="sync"),
        NET.kernel(X_test, X, kind=kind) @ X,
        rtol=1e-11,
    )


def test_float32():
    pytest.importorskip("dask")
    X = np.random.default_rng(0).normal(size=(12, 3))
    kernel = kernel_dask(NET, X, dtype="float32", block_rows=5)
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(
        kernel.compute(scheduler="sync"), NET.kernel(X), atol=1e-5
    )


def test_bad_input_is_named():
    pytest.importorskip("dask")
    X = np.ones((4, 3))
    with pytest.raises(ValueError, match="kind='both'"):
        kernel_dask(NET, X, kind="both")
    with pytest.raises(ValueError, match="float16"):
        kernel_dask(NET, X, dtype="float16")
    with pytest.raises(ValueError, match="block_rows=0"):
        kernel_dask(NET, X, block_rows=0)
    with pytest.raises(ValueError, match="X2 has the shape"):
        kernel_dask(NET, X, X[0])


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(ImportError, match=r"skfunc\[dask\]"):
        kernel_dask(NET, np.ones((2, 2)))
