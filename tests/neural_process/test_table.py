"""Tables as a prior reads them: order, units, gaps."""

import numpy as np
import pytest

from skfunc.neural_process._table import LARGEST, content_order, describe_table


def table(n=40, d=5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(3.0, 10.0, (n, d))
    X[rng.uniform(size=n) < 0.3, 1] = np.nan
    return X, rng.normal(size=(n, 1))


def read(X, y):
    order = content_order(X, y)
    described = describe_table(X[order])
    return described.standardized(X[order]), y[order], described


def test_neither_order_of_rows_nor_of_columns_matters_to_the_last_bit():
    X, y = table()
    rng = np.random.default_rng(1)
    rows, columns = rng.permutation(40), rng.permutation(5)
    once, y_once, _ = read(X, y)
    again, y_again, _ = read(X[rows][:, columns], y[rows])
    np.testing.assert_array_equal(again, once)
    np.testing.assert_array_equal(y_again, y_once)


def test_columns_are_standardized_by_what_is_known():
    X, y = table()
    rows, _, described = read(X, y)
    place = list(described.columns).index(1)
    known = ~np.isnan(X[content_order(X, y), 1])
    assert rows[known, place].mean() == pytest.approx(0.0, abs=1e-12)
    assert rows[known, place].std() == pytest.approx(1.0)
    assert (rows[~known, place] == 0.0).all()


def test_what_is_missing_is_told():
    X, y = table()
    rows, _, described = read(X, y)
    assert described.with_missing.tolist() == [1]
    missing = np.isnan(X[content_order(X, y), 1])
    assert (np.unique(rows[missing, -1]).size, np.unique(rows[~missing, -1]).size) == (
        1,
        1,
    )
    assert rows[missing, -1][0] > rows[~missing, -1][0]


def test_a_gap_that_training_did_not_have_counts_as_the_mean():
    X, y = table()
    _, _, described = read(X, y)
    row = np.full((1, 5), np.nan)
    seen = described.standardized(row)
    assert np.isfinite(seen).all()
    assert (seen[0, : len(described.columns)] == 0.0).all()


def test_columns_of_one_value_are_left_out():
    X, y = table()
    X[:, 2] = 7.0
    X[:, 3] = np.nan
    _, _, described = read(X, y)
    assert sorted(described.columns) == [0, 1, 4]
    for value in (1.0, np.nan):
        rows, _, _ = read(np.full((6, 3), value), np.zeros((6, 1)))
        assert rows.shape == (6, 1)
        assert (rows == 0.0).all()


def test_what_is_far_out_is_held_within_bounds():
    X, y = table()
    _, _, described = read(X, y)
    far = described.standardized(np.full((1, 5), 1e300))
    assert far.max() == LARGEST
    huge, _, _ = read(X * 1e200, y)
    plain, _, _ = read(X, y)
    np.testing.assert_allclose(huge, plain, rtol=1e-9)
