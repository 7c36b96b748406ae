"""The stacked optimizer is AdamW, once per member."""

import numpy as np
import pytest
import torch

from skfunc.training import MemberAdam, schedule_factor
from skfunc.training._optimizer import BETA1, BETA2

MEMBERS, PARAMETERS, STEPS = 3, 11, 60


def start(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(MEMBERS, PARAMETERS, generator=generator).double()


def gradients(seed=1):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(-6, 3, PARAMETERS).double()
    for _ in range(STEPS):
        noise = torch.randn(MEMBERS, PARAMETERS, generator=generator).double()
        yield noise * scales


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_equals_adamw_of_torch(decay):
    rates = [1e-3, 2e-2, 0.5]
    flat = start()
    ours = MemberAdam(
        flat.clone(), torch.tensor(rates), torch.full((MEMBERS, 1), decay)
    )
    theirs = [torch.nn.Parameter(row.clone()) for row in start()]
    optimizers = [
        torch.optim.AdamW(
            [parameter], lr=rate, weight_decay=decay, betas=(BETA1, BETA2)
        )
        for parameter, rate in zip(theirs, rates, strict=True)
    ]
    ours.learning_rate = torch.tensor(rates, dtype=torch.float64).reshape(-1, 1)
    ours.decay = torch.full((MEMBERS, 1), decay, dtype=torch.float64)
    for gradient in gradients():
        ours.step(gradient, 1.0)
        for m, optimizer in enumerate(optimizers):
            theirs[m].grad = gradient[m]
            optimizer.step()
    expected = torch.stack([parameter.detach() for parameter in theirs])
    torch.testing.assert_close(ours.flat, expected, rtol=1e-12, atol=1e-12)


def test_schedule_scales_rate_and_decay_together():
    flat = start()
    rates = torch.full((MEMBERS,), 0.01, dtype=torch.float64)
    ours = MemberAdam(flat.clone(), rates, torch.full((MEMBERS, 1), 0.2))
    theirs = torch.nn.Parameter(start())
    optimizer = torch.optim.AdamW(
        [theirs], lr=0.01, weight_decay=0.2, betas=(BETA1, BETA2)
    )
    ours.decay = torch.full((MEMBERS, 1), 0.2, dtype=torch.float64)
    for i, gradient in enumerate(gradients()):
        factor = schedule_factor("cosine", i / STEPS, 0.1)
        ours.step(gradient, factor)
        optimizer.param_groups[0]["lr"] = 0.01 * factor
        theirs.grad = gradient
        optimizer.step()
    torch.testing.assert_close(ours.flat, theirs.detach(), rtol=1e-12, atol=1e-12)


def test_factor_may_be_a_tensor():
    rates = torch.full((MEMBERS,), 0.01, dtype=torch.float64)
    number, tensor = (
        MemberAdam(start(), rates, torch.full((MEMBERS, 1), 0.2)) for _ in range(2)
    )
    for gradient in gradients():
        number.step(gradient, 0.7)
        tensor.step(gradient, torch.tensor(0.7, dtype=torch.float64))
    torch.testing.assert_close(number.flat, tensor.flat, rtol=1e-14, atol=1e-14)


def test_decay_may_differ_between_entries():
    rates = torch.full((MEMBERS,), 0.01, dtype=torch.float64)
    decay = torch.zeros(MEMBERS, PARAMETERS, dtype=torch.float64)
    decay[1, :4] = 0.5
    decayed = MemberAdam(start(), rates, decay)
    plain = MemberAdam(start(), rates, torch.zeros(MEMBERS, 1))
    zero = torch.zeros(MEMBERS, PARAMETERS, dtype=torch.float64)
    decayed.step(zero, 1.0), plain.step(zero, 1.0)
    expected = start()
    expected[1, :4] *= 1 - 0.01 * 0.5
    torch.testing.assert_close(decayed.flat, expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(plain.flat, start(), rtol=0, atol=0)


def test_restart_forgets_one_member_only():
    rates = torch.full((MEMBERS,), 0.01, dtype=torch.float64)
    optimizer = MemberAdam(start(), rates.clone(), torch.zeros(MEMBERS, 1))
    steady = MemberAdam(start(), rates, torch.zeros(MEMBERS, 1))
    for gradient in gradients():
        optimizer.step(gradient, 1.0), steady.step(gradient, 1.0)
    optimizer.restart(torch.tensor([False, True, False]), 0.5)
    fresh = MemberAdam(optimizer.flat.clone(), rates / 2, torch.zeros(MEMBERS, 1))
    for gradient in gradients(seed=5):
        for one in (optimizer, steady, fresh):
            one.step(gradient, 1.0)
    torch.testing.assert_close(optimizer.flat[1], fresh.flat[1], rtol=0, atol=1e-15)
    torch.testing.assert_close(optimizer.flat[[0, 2]], steady.flat[[0, 2]])


def test_kept_members_go_on_as_before():
    rates = torch.tensor([0.01, 0.02, 0.03], dtype=torch.float64)
    decay = torch.tensor([[0.0], [0.1], [0.2]], dtype=torch.float64)
    whole, part = MemberAdam(start(), rates, decay), MemberAdam(start(), rates, decay)
    for gradient in gradients():
        whole.step(gradient, 1.0), part.step(gradient, 1.0)
    kept = torch.tensor([0, 2])
    part.keep(kept)
    for gradient in gradients(seed=5):
        whole.step(gradient, 1.0), part.step(gradient[kept], 1.0)
    torch.testing.assert_close(part.flat, whole.flat[kept], rtol=0, atol=0)


class TestSchedule:
    def test_warms_up_to_the_peak_and_falls_to_its_hundredth(self):
        assert schedule_factor("cosine", 0.1, 0.1) == pytest.approx(1.0)
        assert schedule_factor("cosine", 1.0, 0.1) == pytest.approx(0.01)
        assert schedule_factor("cosine", 0.55, 0.1) == pytest.approx(0.505)
        assert 0 < schedule_factor("cosine", 0.0, 0.1) < 0.05
        assert schedule_factor("cosine", 0.05, 0.1) == pytest.approx(0.5)

    def test_rises_then_falls(self):
        values = [schedule_factor("cosine", p, 0.2) for p in np.linspace(0, 1, 101)]
        assert (np.diff(values[:21]) >= 0).all() and (np.diff(values[20:]) <= 0).all()
        assert max(values) == pytest.approx(1.0) and min(values) > 0

    def test_constant(self):
        for progress in (0.2, 0.6, 1.0):
            assert schedule_factor("constant", progress, 0.2) == 1.0

    def test_without_warm_up(self):
        assert schedule_factor("cosine", 0.0, 0.0) == pytest.approx(1.0)
        assert schedule_factor("constant", 0.0, 0.0) == 1.0


def test_average_follows_the_weights():
    """A constant path is its own average; a step is forgotten at the stated rate."""
    from skfunc.training._optimizer import AVERAGED_STEPS

    flat = torch.zeros(1, 1, dtype=torch.float64)
    ours = MemberAdam(flat, torch.zeros(1).double(), torch.zeros(1, 1))
    still = torch.zeros(1, 1, dtype=torch.float64)
    for _ in range(2000):
        ours.step(still, 1.0)
    assert ours.average.item() == 0.0
    ours.flat += 1.0
    for _ in range(AVERAGED_STEPS):
        ours.step(still, 1.0)
    expected = 1.0 - (1.0 - 1.0 / AVERAGED_STEPS) ** AVERAGED_STEPS
    assert ours.average.item() == pytest.approx(expected, rel=1e-12)
