"""A prior is learned from tasks, wherever they come from."""

import numpy as np
import pytest
import torch

import skfunc
from skfunc.neural_process._tasks import TaskRows
from skfunc.neural_process.priors import GaussianProcessPrior

X_NEW = np.linspace(-2, 2, 9)[:, None]


@pytest.fixture(scope="module")
def tasks():
    """Return lines through the origin, each with a slope of its own."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(4, 15, size=20)
    rows = [generator.normal(size=(size, 1)) for size in sizes]
    return [(X, X[:, 0] * generator.normal()) for X in rows]


def test_list_and_groups_are_the_same(learner, tasks):
    X, y = (np.concatenate(parts) for parts in zip(*tasks, strict=True))
    labels = np.repeat(np.arange(len(tasks)), [len(rows) for rows, _ in tasks])
    by_list = learner(variant="cnp").fit(tasks)
    by_groups = learner(variant="cnp").fit(X, y, groups=labels)
    assert by_list.loss_curve_ == by_groups.loss_curve_
    assert by_list.n_tasks_ == by_groups.n_tasks_ == 20
    # Rows of a task need not stand together.
    order = np.argsort(np.random.default_rng(1).random(len(X)), kind="stable")
    mixed = learner(variant="cnp").fit(X[order], y[order], groups=labels[order])
    assert mixed.n_tasks_ == 20


def test_without_groups_there_is_one_task(learner, measured):
    model = learner(variant="cnp").fit(*measured)
    assert model.n_tasks_ == 1
    assert model.n_features_in_ == 1


def test_prior_of_tasks(learner):
    functions = GaussianProcessPrior()
    model = learner(variant="cnp", n_features=3).fit(functions)
    assert model.n_tasks_ is None
    assert model.prior_.n_features == 3
    again = learner(variant="cnp", n_features=3).fit(functions)
    assert again.loss_curve_ == model.loss_curve_


def test_learning_helps(learner, tasks):
    """A prior of lines knows a line from two points; one that saw none does not."""
    settings = {"variant": "tnp", "learning_rate_init": 3e-3, "batch_size": 16}
    short = learner(**settings, max_iter=1).fit(tasks)
    long = learner(**settings, max_iter=300).fit(tasks)
    assert np.mean(long.loss_curve_[-20:]) < long.loss_curve_[0] - 0.5

    def error(prior):
        line = skfunc.NeuralProcessRegressor(prior=prior)
        line.fit([[1.0], [-1.0]], [0.8, -0.8])
        return np.abs(line.predict(X_NEW) - 0.8 * X_NEW[:, 0]).mean()

    assert error(long.prior_) < 0.3 * error(short.prior_)


def test_moments_are_those_of_all_rows(learner, tasks):
    X, y = (np.concatenate(parts) for parts in zip(*tasks, strict=True))
    prior = learner(variant="cnp", max_iter=1).fit(tasks).prior_
    np.testing.assert_allclose(prior.moments("x_mean"), X.mean(0))
    np.testing.assert_allclose(prior.moments("x_scale"), X.std(0))
    np.testing.assert_allclose(prior.moments("y_mean"), [y.mean()])
    np.testing.assert_allclose(prior.moments("y_scale"), [y.std()])


def test_several_targets(learner, tasks):
    wide = [(X, np.c_[y, y + 1, y - 1]) for X, y in tasks]
    prior = learner(variant="np").fit(wide).prior_
    assert prior.n_targets == 3
    model = skfunc.NeuralProcessRegressor(prior=prior).fit(*wide[0])
    assert model.predict(X_NEW).shape == (9, 3)


def test_batches_hold_rows_of_their_task(tasks):
    # y tells the task, x the row: no row is both context and target.
    marked = [
        (np.arange(len(X))[:, None] + 1.0, 0 * X + i) for i, (X, _) in enumerate(tasks)
    ]
    source = TaskRows(marked, (1, 6), 5)
    generator = np.random.default_rng(0)
    for _ in range(20):
        batch = source.draw(8, generator, torch.float32)
        for row in range(8):
            seen = batch.context_x[row][batch.context_mask[row], 0].tolist()
            asked = batch.target_x[row][batch.target_mask[row], 0].tolist()
            assert seen and asked
            assert not set(seen) & set(asked)
            assert len(set(seen)) == len(seen) and len(set(asked)) == len(asked)
            values = [
                *batch.context_y[row][batch.context_mask[row], 0].tolist(),
                *batch.target_y[row][batch.target_mask[row], 0].tolist(),
            ]
            assert len(set(values)) == 1
            assert max(seen + asked) <= len(tasks[int(values[0])][0])
        assert not batch.context_x[~batch.context_mask].any()
        assert not batch.target_y[~batch.target_mask].any()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"context_size": 5}, r"context_size must be \(fewest, most\)"),
        ({"context_size": (5, 2)}, r"context_size must be \(fewest, most\)"),
        ({"context_size": (0, 2)}, "context_size"),
        ({"context_size": (1, 2, 3)}, "context_size"),
        ({"target_size": 0}, "target_size"),
        ({"max_iter": 0}, "max_iter"),
        ({"n_features": 0}, "n_features"),
        ({"variant": "gp"}, "variant"),
        ({"objective": "elbo"}, "needs a latent"),
    ],
)
def test_parameters(learner, measured, changes, text):
    with pytest.raises(ValueError, match=text):
        learner(**({"variant": "cnp"} | changes)).fit(*measured)


def test_tasks_that_do_not_fit(learner, tasks):
    X, y = tasks[0]
    model = learner(variant="cnp")
    with pytest.raises(ValueError, match="equal widths"):
        model.fit([(X, y), (np.c_[X, X], y)])
    with pytest.raises(ValueError, match="task 1 has"):
        model.fit([(X, y), (X, y[1:])])
    with pytest.raises(ValueError, match="X of task 1"):
        model.fit([(X, y), (np.full_like(X, np.nan), y)])
    with pytest.raises(ValueError, match="minimum of 2"):
        model.fit([(X[:1], y[:1])])
    with pytest.raises(ValueError, match="one task label a row"):
        model.fit(X, y, groups=[0])
    with pytest.raises(ValueError, match="no group has two rows"):
        model.fit(X, y, groups=np.arange(len(X)))
    for rows in (X, [], [X], [1.0, 2.0], "tasks"):
        with pytest.raises(ValueError, match="without y, tasks are"):
            model.fit(rows)
