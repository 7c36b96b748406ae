"""Training on a stream of batches."""

import pytest
import torch
from torch import nn

from skfunc.training import StreamOptions, StreamTrainer


def batches(seed=0):
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = torch.randn(32, 3, generator=generator, dtype=torch.float64)
        yield x, x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64) + 3.0


def squared_error(module, batch):
    x, y = batch
    return (module(x) - y).square().mean()


def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 1, dtype=torch.float64)


def trained(trainer, stream, n_steps):
    for _ in range(n_steps):
        trainer.advance(next(stream))


def test_recovers_a_linear_function():
    module = linear()
    trainer = StreamTrainer(module, squared_error, StreamOptions(400, 5e-2))
    trained(trainer, batches(), 400)
    assert trainer.done
    trainer.use_average()
    torch.testing.assert_close(
        module.weight.detach(),
        torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64),
        atol=1e-3,
        rtol=0,
    )


def test_a_pause_changes_nothing():
    options = StreamOptions(30, 1e-2, weight_decay=0.1)
    whole = StreamTrainer(linear(), squared_error, options)
    trained(whole, batches(), 30)
    stream = batches()
    first = StreamTrainer(linear(), squared_error, options)
    trained(first, stream, 12)
    second = StreamTrainer(linear(), squared_error, options)
    second.load_state_dict(first.state_dict())
    trained(second, stream, 18)
    assert second.losses == whole.losses
    for mine, theirs in zip(second.average, whole.average, strict=True):
        assert torch.equal(mine, theirs)


def test_decay_spares_biases():
    module = nn.Linear(3, 1, dtype=torch.float64)
    nn.init.ones_(module.weight)
    nn.init.ones_(module.bias)

    def nothing(module, batch):
        return 0.0 * sum(p.sum() for p in module.parameters())

    options = StreamOptions(5, 0.1, weight_decay=1.0, schedule="constant", warmup=0.0)
    trainer = StreamTrainer(module, nothing, options)
    trained(trainer, iter([None] * 5), 5)
    assert (module.weight < 0.7).all()
    assert (module.bias == 1.0).all()


def test_returns_to_the_average_and_halves_the_rate():
    calls = 0

    def poisoned(module, batch):
        nonlocal calls
        calls += 1
        loss = squared_error(module, batch)
        return loss * float("nan") if calls == 10 else loss

    trainer = StreamTrainer(linear(), poisoned, StreamOptions(20, 1e-2))
    trained(trainer, batches(), 21)
    assert trainer.step == 20
    assert trainer.n_retries == 1
    assert trainer._scale == 0.5
    assert all(torch.isfinite(p).all() for p in trainer.parameters)


def test_gives_up_after_three_returns():
    def always(module, batch):
        return squared_error(module, batch) * float("inf")

    trainer = StreamTrainer(linear(), always, StreamOptions(20, 1e-2))
    with pytest.raises(FloatingPointError, match="restarts from the averaged weights"):
        trained(trainer, batches(), 10)
