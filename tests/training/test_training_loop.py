"""The loop: a stack of members is as many trainings, each with its own end."""

import numpy as np
import pytest
import torch

from skfunc.training import TrainingOptions, train

RATES = np.array([0.005, 0.02, 0.08])
ALPHAS = np.array([0.0, 3.0, 30.0])


def squared_errors(module, batch):
    rows, targets = batch
    return (module(rows) - targets) ** 2


def close(actual, expected, tolerance=1e-10):
    np.testing.assert_allclose(
        np.asarray(actual), np.asarray(expected), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("batch_size", [1000, 8, 13])
@pytest.mark.parametrize("max_gradient_norm", [None, 0.5])
def test_stack_equals_separate_trainings(batch_size, max_gradient_norm, fit_toy):
    generator = np.random.default_rng(3)
    # Each member leaves out five rows of its own, and weighs the others its own way.
    weights = generator.uniform(0.2, 3.0, (3, 40))
    for m in range(3):
        weights[m, generator.choice(40, 5, replace=False)] = 0.0
    options = {"batch_size": batch_size, "max_gradient_norm": max_gradient_norm}
    together = fit_toy(weights=weights, learning_rate=RATES, alpha=ALPHAS, **options)
    for m in range(3):
        alone = fit_toy(
            seeds=[m],
            weights=weights[m : m + 1],
            learning_rate=RATES[m],
            alpha=ALPHAS[m],
            **options,
        )
        close(together.flat[m], alone.flat[0])
        close([row[m] for row in together.losses], [row[0] for row in alone.losses])


def test_full_batches_of_members_with_different_numbers_of_rows(fit_toy):
    weights = np.ones((3, 40))
    weights[0, :25] = 0.0
    weights[2, 3:5] = 0.0
    together = fit_toy(weights=weights, alpha=1.0)
    for m in range(3):
        alone = fit_toy(seeds=[m], weights=weights[m : m + 1], alpha=1.0)
        close(together.flat[m], alone.flat[0])


def test_what_differs_between_members_matters(fit_toy):
    same = fit_toy(seeds=[0, 0, 0])
    close(same.flat[0], same.flat[1], 0)
    for change in (
        {"learning_rate": RATES},
        {"alpha": ALPHAS},
        {"weights": np.random.default_rng(0).uniform(0, 2, (3, 40))},
    ):
        changed = fit_toy(seeds=[0, 0, 0], **change)
        assert not torch.allclose(changed.flat[0], changed.flat[1], atol=1e-6)


@pytest.mark.parametrize("batch_size", [1000, 8])
def test_stopped_members_end_as_they_would_alone(batch_size, fit_toy, held_out_parts):
    weights, held = held_out_parts(4, 40)
    rates = np.array([0.3, 0.01, 0.1, 0.03])
    options = {
        "max_iter": 60,
        "n_iter_no_change": 4,
        "batch_size": batch_size,
        "schedule": "constant",
    }
    seeds = range(4)
    together = fit_toy(
        seeds=seeds, weights=weights, held_out=held, learning_rate=rates, **options
    )
    ran = np.isfinite(np.array(together.losses)).sum(0)
    assert len(set(ran.tolist())) > 1, "members stop at different epochs"
    assert together.n_iter == ran.max()
    for m in range(4):
        alone = fit_toy(
            seeds=[m],
            weights=weights[m : m + 1],
            held_out=held[m : m + 1],
            learning_rate=rates[m],
            **options,
        )
        assert alone.n_iter == ran[m]
        assert alone.best_epochs[0] == together.best_epochs[m]
        close(together.flat[m], alone.flat[0])
        close(
            [row[m] for row in together.validation_losses[: ran[m]]],
            [row[0] for row in alone.validation_losses],
        )
        assert np.isnan([row[m] for row in together.losses[ran[m] :]]).all()


def test_best_weights_are_kept(fit_toy, held_out_parts, toy_rows, toy_stack):
    weights, held = held_out_parts(3, 40)
    held *= np.random.default_rng(0).uniform(0.5, 2.0, 40)
    result = fit_toy(
        weights=weights, held_out=held, learning_rate=0.1, max_iter=30, batch_size=8
    )
    module = toy_stack().bind(result.flat)
    batch = [x.expand(3, *x.shape) for x in toy_rows()]
    losses = squared_errors(module, batch).detach().numpy()
    kept = (losses * held).sum(1) / held.sum(1)
    curves = np.array(result.validation_losses)
    close(kept, np.nanmin(curves, axis=0))
    np.testing.assert_array_equal(result.best_epochs, 1 + np.nanargmin(curves, axis=0))


def test_last_weights_are_kept_without_a_held_out_part(fit_toy):
    result = fit_toy(max_iter=7)
    assert (result.best_epochs == 7).all() and result.n_iter == 7
    assert result.validation_losses == []
    longer = fit_toy(max_iter=7, stop_on_plateau=False)
    close(result.flat, longer.flat, 0)


def test_members_of_a_group_are_judged_and_stop_together(fit_toy, held_out_parts):
    weights, held = held_out_parts(4, 40)
    held = held * np.array([1.0, 3.0, 1.0, 1.0])[:, None]
    options = {"max_iter": 40, "n_iter_no_change": 3, "schedule": "constant"}
    rates = np.array([0.2, 0.02, 0.2, 0.02])
    shared = {
        "seeds": range(4),
        "weights": weights,
        "held_out": held,
        "learning_rate": rates,
    }
    own = fit_toy(**shared, **options)
    pooled = fit_toy(**shared, groups=np.array([5, 5, 0, 0]), **options)
    scores, parts = np.array(pooled.validation_losses), np.array(own.validation_losses)
    np.testing.assert_array_equal(scores[:, 0], scores[:, 1])
    np.testing.assert_array_equal(scores[:, 2], scores[:, 3])
    # The weighted mean of what each would say alone.
    close(scores[0, 0], (parts[0, 0] + 3 * parts[0, 1]) / 4)
    close(scores[0, 2], (parts[0, 2] + parts[0, 3]) / 2)
    assert pooled.best_epochs[0] == pooled.best_epochs[1]
    assert pooled.best_epochs[2] == pooled.best_epochs[3]


def test_integer_weight_is_repeated_rows(fit_toy, toy_rows):
    counts = np.random.default_rng(0).integers(0, 4, 40)
    weighted = fit_toy(weights=np.tile(counts, (3, 1)), alpha=2.0)
    repeated = [x[np.repeat(np.arange(40), counts)] for x in toy_rows()]
    copies = fit_toy(data=repeated, alpha=2.0)
    close(weighted.flat, copies.flat)
    close(weighted.losses, copies.losses)


def test_scale_of_the_weights_changes_the_penalty_only(fit_toy):
    weights = np.random.default_rng(0).uniform(0.1, 2.0, (3, 40))
    once, thrice = fit_toy(weights=weights), fit_toy(weights=3 * weights)
    close(once.flat, thrice.flat)
    penalized = fit_toy(weights=3 * weights, alpha=3.0)
    close(fit_toy(weights=weights, alpha=1.0).flat, penalized.flat)


@pytest.fixture
def row_recorder(toy_rows):
    """Return data that carries row numbers, a loss that records them, the record."""
    rows, targets = toy_rows()
    data = [rows, targets, torch.arange(40)]
    seen = []

    def loss(module, batch):
        if torch.is_grad_enabled():
            seen.append(batch[2].clone())
        return squared_errors(module, batch[:2])

    return data, loss, seen


def test_every_epoch_passes_once_over_every_row(fit_toy, row_recorder):
    data, loss, seen = row_recorder
    fit_toy(data=data, loss=loss, batch_size=8, max_iter=3)
    assert len(seen) == 15
    for epoch in range(3):
        visited = torch.cat(seen[5 * epoch : 5 * epoch + 5], dim=1)
        assert (visited.sort(1).values == torch.arange(40)).all()
    # Members and epochs have orders of their own.
    assert not torch.equal(seen[0][0], seen[0][1])
    assert not torch.equal(seen[0], seen[5])


def test_member_never_sees_a_row_of_weight_zero(fit_toy, held_out_parts, row_recorder):
    data, loss, seen = row_recorder
    weights, held = held_out_parts(3, 40)
    fit_toy(data=data, loss=loss, weights=weights, held_out=held, batch_size=7)
    visited = torch.cat(seen, dim=1)
    for m in range(3):
        assert set(visited[m].tolist()) == set(np.flatnonzero(weights[m]).tolist())


@pytest.fixture
def epoch_losses(fit_toy, toy_stack, toy_rows):
    """Return what gives the recorded losses of members that do not move."""

    def record(weights, batch_size, max_iter):
        result = fit_toy(
            weights=weights,
            learning_rate=0.0,
            batch_size=batch_size,
            max_iter=max_iter,
            stop_on_plateau=False,
        )
        stack = toy_stack()
        batch = [x.expand(3, *x.shape) for x in toy_rows()]
        losses = squared_errors(stack.bind(stack.initial(range(3))), batch).detach()
        return np.array(result.losses), np.average(losses, axis=1, weights=weights)

    return record


def test_loss_of_an_epoch_is_the_weighted_mean(epoch_losses):
    weights = np.random.default_rng(0).uniform(0.1, 2.0, (3, 40))
    for batch_size in (1000, 8, 10):
        recorded, expected = epoch_losses(weights, batch_size, 3)
        close(recorded, np.tile(expected, (3, 1)))


def test_batches_that_do_not_divide_the_rows_are_unbiased(epoch_losses):
    weights = np.random.default_rng(0).uniform(0.1, 2.0, (3, 40))
    weights[0, :9] = 0.0
    recorded, expected = epoch_losses(weights, 13, 500)
    error = recorded.std(0) / np.sqrt(500)
    assert (error > 0).any()
    assert (np.abs(recorded.mean(0) - expected) <= 4 * error + 1e-12).all()


def test_plateau_ends_the_training(fit_toy):
    flat = fit_toy(learning_rate=0.0, n_iter_no_change=5, max_iter=100)
    assert flat.n_iter == 6
    assert fit_toy(learning_rate=0.0, n_iter_no_change=5, stop_on_plateau=False)


def test_improvement_below_tol_is_no_progress(fit_toy):
    slow = {"learning_rate": 1e-7, "n_iter_no_change": 5, "max_iter": 50}
    assert fit_toy(tol=1e-3, **slow).n_iter == 6
    assert fit_toy(tol=0.0, **slow).n_iter == 50


def test_callbacks_frame_every_epoch(fit_toy):
    calls = []

    def end(result):
        calls.append(("end", result.n_iter, len(result.losses)))
        return result.n_iter == 4

    result = fit_toy(on_epoch_begin=lambda: calls.append("begin"), on_epoch=end)
    assert result.n_iter == 4
    assert calls == [item for n in range(1, 5) for item in ("begin", ("end", n, n))]


def test_training_learns(fit_toy):
    result = fit_toy(
        max_iter=200, learning_rate=0.05, batch_size=10, stop_on_plateau=False
    )
    first, last = result.losses[0], result.losses[-1]
    assert (last < 0.2 * first).all()


def test_training_is_deterministic_and_leaves_global_generators_alone(fit_toy):
    torch.manual_seed(3)
    np.random.seed(3)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = fit_toy(batch_size=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
    torch.manual_seed(4)
    close(first.flat, fit_toy(batch_size=8).flat, 0)
    assert not torch.equal(first.flat, fit_toy(batch_size=8, seeds=[7, 8, 9]).flat)


def test_start_and_data_are_left_alone(fit_toy, toy_rows, toy_stack):
    start, data = toy_stack().initial(range(3)), toy_rows()
    before = [x.clone() for x in (start, *data)]
    fit_toy(start=start, data=data, alpha=1.0)
    for value, old in zip((start, *data), before, strict=True):
        assert torch.equal(value, old) and not value.requires_grad


def test_penalty_of_any_strength_shrinks_to_nothing(fit_toy, toy_stack):
    result = fit_toy(alpha=[0.0, 1e6, 1e300], learning_rate=0.05, max_iter=60)
    assert (result.n_retries == 0).all() and torch.isfinite(result.flat).all()
    kernels = toy_stack().weight_mask().bool()
    sizes = result.flat[:, kernels].abs().amax(1)
    assert sizes[0] > 0.5 and (sizes[1:] < 0.1).all()


def test_options_are_left_alone(toy_stack, toy_rows):
    rates, alpha = np.full(3, 0.08), np.ones(3)
    breaks = iter([False, False, True])

    def loss(module, batch):
        broken = next(breaks, False)
        return squared_errors(module, batch) * (float("nan") if broken else 1.0)

    result = train(
        toy_stack(),
        toy_stack().initial(range(3)),
        loss,
        toy_rows(),
        torch.ones(3, 40, dtype=torch.float64),
        seeds=range(3),
        options=TrainingOptions(learning_rate=rates, alpha=alpha, max_iter=5),
    )
    assert (result.n_retries == 1).all()
    assert (rates == 0.08).all() and (alpha == 1.0).all()
