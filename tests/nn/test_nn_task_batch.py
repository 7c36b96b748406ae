"""Batches of tasks are checked, padded and joined without losing a value."""

import dataclasses

import pytest
import torch

from skfunc.nn import TaskBatch


def make_batch(n_tasks=2, n=3, m=4, features=2, targets=1, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(points, width):
        return torch.randn(n_tasks, points, width, generator=generator)

    return TaskBatch.without_padding(
        draw(n, features), draw(n, targets), draw(m, features), draw(m, targets)
    )


def parts(batch):
    return {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}


def test_without_padding_has_all_points():
    batch = make_batch()
    assert batch.n_tasks == 2
    assert batch.context_mask.all() and batch.target_mask.all()
    assert batch.n_targets().tolist() == [4, 4]


def test_pad_adds_masked_zeros():
    batch = make_batch()
    padded = batch.pad(5, 4)
    assert padded.context_x.shape == (2, 5, 2)
    assert padded.context_mask.sum(1).tolist() == [3, 3]
    assert (padded.context_x[:, 3:] == 0).all() and (padded.context_y[:, 3:] == 0).all()
    assert torch.equal(padded.context_x[:, :3], batch.context_x)
    assert torch.equal(padded.target_y, batch.target_y)
    with pytest.raises(ValueError, match="cannot pad 3 context points"):
        batch.pad(2, 4)


def test_concatenate_keeps_every_task():
    first, second = make_batch(n=3, m=1), make_batch(3, n=0, m=5, seed=1)
    both = TaskBatch.concatenate([first, second])
    assert both.n_tasks == 5
    assert both.context_mask.sum(1).tolist() == [3, 3, 0, 0, 0]
    assert both.n_targets().tolist() == [1, 1, 5, 5, 5]
    assert torch.equal(both.target_y[2:], second.target_y)
    assert torch.equal(both.target_x[:2, :1], first.target_x)


def test_concatenate_refuses():
    with pytest.raises(ValueError, match="at least one"):
        TaskBatch.concatenate([])
    with pytest.raises(ValueError, match="widths"):
        TaskBatch.concatenate([make_batch(), make_batch(features=3)])


def test_to_moves_values_and_leaves_masks():
    moved = make_batch().to("cpu", torch.float64)
    assert moved.context_x.dtype == moved.target_y.dtype == torch.float64
    assert moved.context_mask.dtype == torch.bool
    assert make_batch().to(dtype=None).context_x.dtype == torch.float32


def test_joined_puts_targets_after_the_context():
    batch = make_batch().pad(5, 4)
    x, y, mask = batch.joined()
    assert x.shape == (2, 9, 2) and y.shape == (2, 9, 1)
    assert mask.sum(1).tolist() == [7, 7]
    assert torch.equal(y[:, 5:], batch.target_y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context_x": torch.zeros(2, 3)}, "3 axes"),
        ({"context_mask": torch.ones(2, 4, dtype=torch.bool)}, "tasks and points"),
        ({"target_mask": torch.ones(2, 4)}, "boolean"),
        ({"target_x": torch.zeros(2, 4, 3)}, "context_x and target_x"),
        (
            {
                "target_x": torch.zeros(1, 4, 2),
                "target_y": torch.zeros(1, 4, 1),
                "target_mask": torch.ones(1, 4, dtype=torch.bool),
            },
            "tasks and width",
        ),
        ({"target_y": torch.zeros(2, 4, 1).double()}, "one floating dtype"),
        ({"target_y": torch.zeros(2, 4, 1, device="meta")}, "one device"),
    ],
)
def test_misfits_are_refused(change, message):
    values = parts(make_batch()) | change
    with pytest.raises(ValueError, match=message):
        TaskBatch(**values)
