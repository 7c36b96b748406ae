"""Classification tasks: labels, numbers of classes, noise of labels."""

import numpy as np
import pytest

from skfunc.neural_process.priors import (
    ClassificationPrior,
    InputDistribution,
    LinearPrior,
    NetworkPrior,
)

GAUSSIAN = InputDistribution(kinds=("gaussian",))


def test_labels_count_from_zero_without_gaps():
    tasks = ClassificationPrior(NetworkPrior()).sample(300, 60, 3, random_state=0)
    for (_, y), n_classes in zip(tasks, tasks.n_classes, strict=True):
        assert np.array_equal(np.unique(y), np.arange(n_classes))
    assert tasks.n_classes.min() == 2
    assert 7 <= tasks.n_classes.max() <= 10
    # Log-uniform: few classes are the rule.
    assert np.median(tasks.n_classes) <= 4


def test_two_points_have_two_classes():
    tasks = ClassificationPrior(NetworkPrior()).sample(50, 2, 1, random_state=0)
    assert (tasks.n_classes == 2).all()
    assert np.array_equal(np.sort(tasks.y), np.tile([0.0, 1.0], (50, 1)))
    with pytest.raises(ValueError, match="n_points"):
        ClassificationPrior(NetworkPrior()).sample(2, 1, 1)


def test_classes_are_unequal_and_in_no_order():
    prior = ClassificationPrior(LinearPrior(), max_classes=2)
    y = prior.sample(1000, 50, 2, random_state=0).y
    share = y.mean(1)
    assert share.mean() == pytest.approx(0.5, abs=0.04)
    assert (np.abs(share - 0.5) > 0.25).mean() > 0.2


def test_binary_labels_follow_the_function():
    prior = ClassificationPrior(
        LinearPrior(inputs=GAUSSIAN, sparsity=0.0),
        max_classes=2,
        blur=(1e-3, 1e-3),
        label_noise=0.0,
    )
    right = []
    for X, y in prior.sample(60, 200, 2, random_state=0):
        design = np.column_stack([X, np.ones(len(X))])
        weights = np.linalg.lstsq(design, y)[0]
        ranks = (design @ weights)[y == 1], (design @ weights)[y == 0]
        right.append(np.mean(ranks[0][:, None] > ranks[1][None]))
    # Linearly separable, but for the fit by squares: the area under the curve is one.
    assert np.mean(right) > 0.99


def test_noise_of_labels():
    def separability(**options):
        base = LinearPrior(inputs=GAUSSIAN, sparsity=0.0)
        prior = ClassificationPrior(base, max_classes=2, **options)
        areas = []
        for X, y in prior.sample(80, 100, 2, random_state=0):
            design = np.column_stack([X, np.ones(len(X))])
            score = design @ np.linalg.lstsq(design, y)[0]
            areas.append(np.mean(score[y == 1][:, None] > score[y == 0][None]))
        return np.mean(areas)

    clean = separability(blur=(0.01, 0.01), label_noise=0.0)
    assert separability(blur=(2.0, 2.0), label_noise=0.0) < clean - 0.1
    assert separability(blur=(0.01, 0.01), label_noise=1.0) < clean - 0.05


def test_constant_functions_get_random_labels():
    constant = InputDistribution(kinds=("discrete",), max_levels=2)
    prior = ClassificationPrior(LinearPrior(inputs=constant), label_noise=0.0)
    tasks = prior.sample(300, 3, 1, random_state=0)
    assert (tasks.n_classes >= 2).all()
    assert np.isfinite(tasks.y).all()


def test_a_mixture_of_regression_and_classification_says_which():
    mixture = LinearPrior() + ClassificationPrior(LinearPrior())
    tasks = mixture.sample(100, 20, 2, random_state=0)
    is_regression = tasks.n_classes == 0
    assert 25 < is_regression.sum() < 75
    labels = tasks.y[~is_regression]
    assert np.array_equal(labels, labels.round())
