"""A training that breaks, is interrupted, or runs out of memory."""

import numpy as np
import pytest
import torch


def squared_errors(module, batch):
    rows, targets = batch
    return (module(rows) - targets) ** 2


def broken_at(epochs, member=None, value=float("nan")):
    """Return a loss that is not finite in these epochs (of full batches, from 1)."""
    count = [0]

    def loss(module, batch):
        losses = squared_errors(module, batch)
        if torch.is_grad_enabled():
            count[0] += 1
            if count[0] in epochs:
                factor = torch.ones(len(losses), 1, dtype=losses.dtype)
                factor[slice(None) if member is None else member] = value
                losses = losses * factor
        return losses

    return loss


STEADY = {"schedule": "constant", "stop_on_plateau": False, "alpha": 1.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("retries", [1, 2, 3])
def test_broken_start_is_a_start_at_a_lower_rate(retries, value, fit_toy):
    loss = broken_at(range(1, retries + 1), value=value)
    result = fit_toy(loss=loss, max_iter=8 + retries, learning_rate=0.08, **STEADY)
    halved = fit_toy(max_iter=8, learning_rate=0.08 / 2**retries, **STEADY)
    assert (result.n_retries == retries).all()
    torch.testing.assert_close(result.flat, halved.flat, rtol=1e-12, atol=1e-12)


def test_break_in_the_middle_goes_back_to_the_last_finite_weights(fit_toy):
    result = fit_toy(loss=broken_at([6]), max_iter=15, learning_rate=0.08, **STEADY)
    first = fit_toy(max_iter=5, learning_rate=0.08, **STEADY)
    second = fit_toy(start=first.flat, max_iter=9, learning_rate=0.04, **STEADY)
    torch.testing.assert_close(result.flat, second.flat, rtol=1e-12, atol=1e-12)
    assert np.isnan(result.losses[5]).all() and np.isfinite(result.losses[6]).all()


def test_break_goes_back_to_the_best_held_out_weights(fit_toy, held_out_parts):
    weights, held = held_out_parts(3, 40)
    parts = {"weights": weights, "held_out": held, "learning_rate": 0.3}
    result = fit_toy(loss=broken_at([10]), max_iter=10, **parts, **STEADY)
    steady = fit_toy(max_iter=9, **parts, **STEADY)
    torch.testing.assert_close(result.flat, steady.flat, rtol=1e-12, atol=1e-12)


def test_one_broken_member_leaves_the_others_alone(fit_toy):
    result = fit_toy(loss=broken_at([3], member=1), learning_rate=0.05, **STEADY)
    whole = fit_toy(learning_rate=0.05, **STEADY)
    np.testing.assert_array_equal(result.n_retries, [0, 1, 0])
    kept = [0, 2]
    torch.testing.assert_close(
        result.flat[kept], whole.flat[kept], rtol=1e-12, atol=1e-12
    )
    assert torch.isfinite(result.flat).all()
    assert not torch.allclose(result.flat[1], whole.flat[1])


def test_fourth_break_tells_what_was_tried(fit_toy):
    with pytest.raises(FloatingPointError, match="3 restarts") as caught:
        fit_toy(loss=broken_at(range(100)), learning_rate=0.08)
    text = str(caught.value)
    assert "not finite" in text and "learning_rate_init" in text
    assert "from 0.08 to 0.01" in text


def test_gradient_that_is_not_finite_breaks_too(fit_toy):
    class Kink(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("nan") if broken.pop() else gradient

    broken = [False] * 6 + [True]

    def loss(module, batch):
        return Kink.apply(squared_errors(module, batch))

    result = fit_toy(loss=loss, max_iter=7, **STEADY)
    assert (result.n_retries == 1).all()
    assert torch.isfinite(result.flat).all()


def test_held_out_loss_that_is_not_finite_breaks_too(fit_toy, held_out_parts):
    weights, held = held_out_parts(3, 40)
    evaluations = [0]

    def loss(module, batch):
        losses = squared_errors(module, batch)
        if torch.is_grad_enabled():
            return losses
        evaluations[0] += 1
        return losses * (float("nan") if evaluations[0] == 3 else 1.0)

    result = fit_toy(loss=loss, weights=weights, held_out=held, **STEADY)
    assert (result.n_retries == 1).all()
    assert torch.isfinite(result.flat).all()


def interrupting(call):
    count = [0]

    def loss(module, batch):
        if torch.is_grad_enabled():
            count[0] += 1
            if count[0] == call:
                raise KeyboardInterrupt
        return squared_errors(module, batch)

    return loss


@pytest.mark.parametrize("batch_size", [1000, 8])
def test_interrupt_leaves_the_best_weights(batch_size, fit_toy, held_out_parts):
    weights, held = held_out_parts(3, 40)
    per_epoch = 1 if batch_size == 1000 else 4
    parts = {
        "weights": weights,
        "held_out": held,
        "batch_size": batch_size,
        "schedule": "constant",
    }
    result = fit_toy(loss=interrupting(5 * per_epoch + 1), max_iter=30, **parts)
    assert result.interrupted and result.n_iter == 5
    torch.testing.assert_close(result.flat, fit_toy(max_iter=5, **parts).flat)
    assert not fit_toy(max_iter=5, **parts).interrupted


def test_interrupt_in_the_middle_of_an_epoch_leaves_whole_epochs(fit_toy):
    options = {"batch_size": 8, "schedule": "constant"}
    result = fit_toy(loss=interrupting(5 * 3 + 3), max_iter=30, **options)
    assert result.interrupted and result.n_iter == 3
    torch.testing.assert_close(result.flat, fit_toy(max_iter=3, **options).flat)


def test_interrupt_before_the_first_epoch_leaves_the_start(fit_toy, toy_stack):
    result = fit_toy(loss=interrupting(1))
    assert result.interrupted and result.n_iter == 0 and result.losses == []
    assert torch.equal(result.flat, toy_stack().initial(range(3)))


def test_interrupt_by_a_callback(fit_toy):
    def stop(result):
        raise KeyboardInterrupt

    result = fit_toy(on_epoch=stop)
    assert result.interrupted and result.n_iter == 1
    assert torch.equal(result.flat, fit_toy(max_iter=1, schedule="constant").flat)


def out_of_memory_above(rows, when=torch.is_grad_enabled):
    def loss(module, batch):
        if when() and batch[0].shape[1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return squared_errors(module, batch)

    return loss


def test_out_of_memory_halves_the_batch_and_warns_once(fit_toy):
    with pytest.warns(RuntimeWarning, match="batch_size=20") as caught:
        result = fit_toy(loss=out_of_memory_above(20), max_iter=60, learning_rate=0.05)
    assert len(caught) == 1
    assert result.batch_size == 20 and result.n_iter == 60
    assert (result.losses[-1] < result.losses[0]).all()
    assert torch.isfinite(result.flat).all()


def test_out_of_memory_halves_until_it_fits_and_warns_once(fit_toy):
    with pytest.warns(RuntimeWarning, match="batch_size=20, halved again") as caught:
        result = fit_toy(loss=out_of_memory_above(6), max_iter=3)
    assert len(caught) == 1
    assert result.batch_size == 5 and result.n_iter == 3


@pytest.mark.filterwarnings("ignore:CUDA ran out of memory")
def test_out_of_memory_begins_no_epoch_twice(fit_toy):
    calls = []
    fit_toy(
        loss=out_of_memory_above(6),
        max_iter=3,
        on_epoch_begin=lambda: calls.append("begin"),
        on_epoch=lambda result: calls.append("end"),
    )
    assert calls == 3 * ["begin", "end"]


@pytest.mark.filterwarnings("ignore:CUDA ran out of memory")
def test_out_of_memory_with_one_row_is_an_error(fit_toy):
    with pytest.raises(torch.OutOfMemoryError):
        fit_toy(loss=out_of_memory_above(0))


def judging():
    return not torch.is_grad_enabled()


@pytest.mark.parametrize("limit", [1, 4])
def test_out_of_memory_while_judging_takes_smaller_parts(
    limit, fit_toy, held_out_parts
):
    weights, held = held_out_parts(3, 40)
    options = {"weights": weights, "held_out": held, "max_iter": 3}
    result = fit_toy(loss=out_of_memory_above(limit, when=judging), **options)
    plain = fit_toy(**options)
    assert result.batch_size == plain.batch_size
    np.testing.assert_allclose(result.validation_losses, plain.validation_losses)
    assert torch.equal(result.flat, plain.flat)


def test_out_of_memory_while_judging_one_row_is_an_error(fit_toy, held_out_parts):
    weights, held = held_out_parts(3, 40)
    with pytest.raises(torch.OutOfMemoryError):
        fit_toy(
            loss=out_of_memory_above(0, when=judging), weights=weights, held_out=held
        )


def test_member_without_held_out_rows_is_judged_by_its_training_loss(
    fit_toy, held_out_parts
):
    weights, held = held_out_parts(3, 40)
    weights[1], held[1] = 1.0, 0.0
    result = fit_toy(weights=weights, held_out=held, max_iter=5)
    assert (result.n_retries == 0).all() and (result.best_epochs > 0).all()
    judged, losses = np.array(result.validation_losses), np.array(result.losses)
    np.testing.assert_array_equal(judged[:, 1], losses[:, 1])
    assert (judged[:, [0, 2]] != losses[:, [0, 2]]).all()


def test_member_without_held_out_rows_has_no_say_in_its_group(fit_toy, held_out_parts):
    weights, held = held_out_parts(3, 40)
    weights[1], held[1] = 1.0, 0.0
    options = {"weights": weights, "held_out": held, "max_iter": 5}
    own = np.array(fit_toy(**options).validation_losses)
    pooled = fit_toy(groups=np.array([0, 0, 1]), **options).validation_losses
    np.testing.assert_array_equal(np.array(pooled), own[:, [0, 0, 2]])


PAIRS = {"seeds": range(4), "groups": np.array([0, 0, 1, 1])}


def test_break_of_one_member_leaves_its_group_alone(fit_toy, held_out_parts):
    weights, held = held_out_parts(4, 40)
    result = fit_toy(
        loss=broken_at([3], member=1), weights=weights, held_out=held, **PAIRS
    )
    np.testing.assert_array_equal(result.n_retries, [0, 1, 0, 0])
    assert np.isfinite(result.validation_losses).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_member_that_cannot_be_judged_leaves_its_group_alone(
    value, fit_toy, held_out_parts
):
    weights, held = held_out_parts(4, 40)
    evaluations = [0]

    def loss(module, batch):
        losses = squared_errors(module, batch)
        if judging():
            evaluations[0] += 1
            if evaluations[0] == 3:
                losses[1] = value
        return losses

    result = fit_toy(loss=loss, weights=weights, held_out=held, **PAIRS, **STEADY)
    np.testing.assert_array_equal(result.n_retries, [0, 1, 0, 0])
    assert np.isfinite(result.validation_losses).all()
    plain = fit_toy(weights=weights, held_out=held, **PAIRS, **STEADY)
    torch.testing.assert_close(result.flat[2:], plain.flat[2:])
