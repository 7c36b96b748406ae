"""A small problem for the training loop: networks of a few units, squared errors."""

import numpy as np
import pytest
import torch
from torch import nn

from skfunc.nn import Linear, draw_module
from skfunc.training import MemberStack, TrainingOptions, train


class ToyNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = Linear(3, 6), Linear(6, 1)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x))).squeeze(-1)


def toy_stack():
    return MemberStack(ToyNetwork, draw_module)


def squared_errors(module, batch):
    rows, targets = batch
    return (module(rows) - targets) ** 2


def toy_rows(n_rows=40, seed=0):
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(n_rows, 3))
    y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2] + 0.1 * generator.normal(size=n_rows)
    return [torch.as_tensor(X), torch.as_tensor(y)]


def as_vector(value, members):
    return np.broadcast_to(np.asarray(value, dtype=float), (members,)).copy()


def fit_toy(
    *,
    data=None,
    seeds=(0, 1, 2),
    weights=None,
    learning_rate=0.02,
    alpha=0.0,
    loss=squared_errors,
    held_out=None,
    stack=None,
    start=None,
    groups=None,
    on_epoch=None,
    on_epoch_begin=None,
    **options,
):
    """Train in float64 from the members' own initial weights."""
    data = toy_rows() if data is None else data
    stack = toy_stack() if stack is None else stack
    members = len(seeds)
    if weights is None:
        weights = np.ones((members, len(data[0])))
    options = {"max_iter": 12, "batch_size": 1000, "warmup": 0.0} | options
    return train(
        stack,
        stack.initial(seeds) if start is None else start,
        loss,
        data,
        torch.as_tensor(np.asarray(weights, dtype=float)),
        seeds=seeds,
        options=TrainingOptions(
            learning_rate=as_vector(learning_rate, members),
            alpha=as_vector(alpha, members),
            **options,
        ),
        held_out_weights=None if held_out is None else torch.as_tensor(held_out),
        groups=groups,
        on_epoch=on_epoch,
        on_epoch_begin=on_epoch_begin,
    )


def held_out_parts(members, n_rows, n_folds=4):
    """Return training and held-out weights of equal sizes for all members."""
    fold = np.arange(n_rows) % n_folds
    held = (fold[None, :] == (np.arange(members) % n_folds)[:, None]).astype(float)
    return 1.0 - held, held


@pytest.fixture(name="fit_toy")
def _fit_toy():
    return fit_toy


@pytest.fixture(name="toy_stack")
def _toy_stack():
    return toy_stack


@pytest.fixture(name="toy_rows")
def _toy_rows():
    return toy_rows


@pytest.fixture(name="held_out_parts")
def _held_out_parts():
    return held_out_parts


@pytest.fixture(autouse=True)
def on_one_thread():
    # Networks of a few units lose time in the barriers of a thread pool.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
