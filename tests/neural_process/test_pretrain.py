"""Pre-training: fixed by its seed, resumed without a trace, judged on other tasks."""

import dataclasses

import pytest
import torch

from skfunc.neural_process._pretraining_tasks import (
    LARGEST,
    PretrainConfig,
    labelled_batch,
    standardized_batch,
    tabular_prior,
)
from skfunc.neural_process.pretrain import Pretraining

SMALL = PretrainConfig(
    network_parameters={"width": 8, "n_layers": 1, "n_corrections": 2},
    n_steps=8,
    batch_size=(4, 4),
    context=(4, 12),
    n_target=4,
    features=(1, 3),
    judge_tasks=2,
)
CLASSES = dataclasses.replace(SMALL, task="classification", max_classes=3)
CPU = torch.device("cpu")


def weights(training):
    return [p.detach().clone() for p in training.trainer.average]


@pytest.mark.parametrize("config", [SMALL, CLASSES], ids=lambda c: c.task)
def test_a_pause_changes_nothing(tmp_path, config):
    whole = Pretraining(config, CPU)
    whole.run(float("inf"))
    first = Pretraining(config, CPU)
    for _ in range(3):
        first.advance()
    first.save(tmp_path / "run.pt")
    second = Pretraining(config, CPU)
    second.run(float("inf"), tmp_path / "run.pt")
    assert second.trainer.losses == whole.trainer.losses
    for mine, theirs in zip(weights(second), weights(whole), strict=True):
        assert torch.equal(mine, theirs)


def test_judging_disturbs_nothing():
    plain, judged = Pretraining(SMALL, CPU), Pretraining(SMALL, CPU)
    for training in (plain, judged):
        for _ in range(4):
            if training is judged:
                assert training.judge() == training.judge()
            training.advance()
    assert plain.trainer.losses == judged.trainer.losses


def test_refuses_a_checkpoint_of_another_run(tmp_path):
    Pretraining(SMALL, CPU).save(tmp_path / "run.pt")
    other = Pretraining(dataclasses.replace(SMALL, learning_rate=1e-5), CPU)
    with pytest.raises(ValueError, match="differs in .'learning_rate'."):
        other.load(tmp_path / "run.pt")


def test_batches_are_standardized_by_their_context():
    tasks = tabular_prior()._draw(6, 40, 3, torch.Generator().manual_seed(0))
    batch = standardized_batch(1e3 * tasks.X + 7.0, -5.0 * tasks.y + 2.0, 30)
    again = standardized_batch(tasks.X, tasks.y, 30)
    torch.testing.assert_close(batch.target_x, again.target_x, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(batch.context_y, -again.context_y, rtol=1e-3, atol=1e-3)
    assert batch.context_x.mean(1).abs().max() < 0.2
    assert batch.target_x.abs().max() <= LARGEST


def test_one_task_starts_from_the_other(tmp_path):
    numbers, classes = Pretraining(SMALL, CPU), Pretraining(CLASSES, CPU)
    numbers.run(float("inf"), tmp_path / "numbers.pt")
    classes.start_from(tmp_path / "numbers.pt")
    numbers.trainer.use_average()
    theirs = numbers.network.inference.state_dict()
    for name, value in classes.network.inference.state_dict().items():
        assert torch.equal(value, theirs[name])
    larger = {"width": 16, "n_layers": 1}
    other = Pretraining(dataclasses.replace(CLASSES, network_parameters=larger), CPU)
    with pytest.raises(ValueError, match="holds another network"):
        other.start_from(tmp_path / "numbers.pt")


def test_targets_of_unknown_classes_are_left_out():
    X = torch.arange(6.0).reshape(1, 6, 1)
    labels = torch.tensor([[0, 1, 0, 1, 2, 0]])
    batch = labelled_batch(X, labels, 3, 3)
    assert batch.target_mask.tolist() == [[True, False, True]]
    assert batch.context_y.sum((0, 1)).tolist() == [2, 1, 0]


def test_goes_on_from_a_prior_that_was_saved(tmp_path):
    first = Pretraining(SMALL, CPU)
    first.run(float("inf"))
    first.prior(n_corrections=2).save(tmp_path / "prior.safetensors")
    again = Pretraining(dataclasses.replace(SMALL, seed=1), CPU)
    again.start_from(tmp_path / "prior.safetensors")
    for mine, theirs in zip(weights(again), weights(first), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)
    assert again.steps_before == 8
    assert again.model_card()["steps"] == 0
    again.run(float("inf"))
    assert again.trainer.done
