"""Rows are dealt into folds by what they hold."""

import numpy as np
import pytest

from skfunc.training import held_out_fraction, row_folds


def rows(n_rows=60, copies=1, seed=0):
    return np.repeat(np.random.default_rng(seed).normal(size=(n_rows, 3)), copies, 0)


def state(seed=0):
    return np.random.RandomState(seed)


def test_folds_are_balanced():
    for n_rows, n_folds in ((60, 10), (61, 10), (7, 3), (10, 10)):
        sizes = np.bincount(
            row_folds(rows(n_rows), n_folds, state()), minlength=n_folds
        )
        assert sizes.max() - sizes.min() <= 1 and sizes.sum() == n_rows


def test_equal_rows_share_a_fold():
    fold = row_folds(rows(copies=3), 5, state()).reshape(60, 3)
    assert (fold == fold[:, :1]).all()
    np.testing.assert_array_equal(fold[:, 0], row_folds(rows(), 5, state()))


def test_order_of_the_rows_does_not_matter():
    order = np.random.default_rng(1).permutation(60)
    X, labels = rows(), np.arange(60) % 3
    np.testing.assert_array_equal(
        row_folds(X, 7, state())[order], row_folds(X[order], 7, state())
    )
    np.testing.assert_array_equal(
        row_folds(X, 7, state(), labels)[order],
        row_folds(X[order], 7, state(), labels[order]),
    )


def test_folds_are_stratified():
    labels = np.repeat([0, 1, 2], [37, 15, 8])
    fold = row_folds(rows(), 5, state(), labels)
    for label in range(3):
        sizes = np.bincount(fold[labels == label], minlength=5)
        assert sizes.max() - sizes.min() <= 1
    sizes = np.bincount(fold, minlength=5)
    assert sizes.max() - sizes.min() <= 1


def test_equal_rows_of_two_classes_may_part():
    X = np.zeros((20, 2))
    labels = np.repeat([0, 1], 10)
    fold = row_folds(X, 2, state(), labels)
    assert set(fold[:10]) != set(fold[10:])
    assert len(set(fold[:10])) == len(set(fold[10:])) == 1


def test_random_state_shuffles():
    X = rows()
    first = row_folds(X, 5, state(0))
    np.testing.assert_array_equal(first, row_folds(X, 5, state(0)))
    assert (first != row_folds(X, 5, state(1))).any()


def test_fewer_distinct_rows_than_folds():
    fold = row_folds(rows(3, copies=4), 10, state())
    assert len(set(fold)) == 3


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
def test_held_out_fraction(fraction):
    mask = held_out_fraction(rows(copies=2), fraction, state())
    assert mask.dtype == bool
    assert mask.mean() == pytest.approx(min(fraction, 0.5), abs=0.02)
    assert (mask.reshape(60, 2).sum(1) != 1).all()
