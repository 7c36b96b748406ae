"""The neural process that infers a kernel: exact conditioning, and what it ignores."""

import pytest
import torch

from skfunc.nn import (
    GaussianLikelihood,
    KernelNeuralProcess,
    TaskBatch,
    autoregressive_log_likelihood,
    conditional_log_likelihood,
    draw_module,
)


def network(n_targets=1, seed=0, **options):
    made = KernelNeuralProcess(3, n_targets, 2 * n_targets, width=16, **options)
    draw_module(made, torch.Generator().manual_seed(seed))
    return made.double()


def tasks(n_context=9, n_target=5, n_targets=1, n_tasks=3, seed=1):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return TaskBatch.without_padding(
        draw(n_tasks, n_context, 3),
        draw(n_tasks, n_context, n_targets),
        draw(n_tasks, n_target, 3),
        draw(n_tasks, n_target, n_targets),
    )


def encoded(made, batch):
    return made.encode(batch.context_x, batch.context_y, batch.context_mask)


def test_predicts_as_the_gaussian_process_of_the_kernel_it_infers():
    made, batch = network(), tasks()
    state = encoded(made, batch)
    mean, std = GaussianLikelihood(1e-3).parameters_of(made(batch))
    x, t = batch.context_x, batch.target_x
    parameters = state[:4]
    total = state.amplitudes.square().sum(-1) + state.constant.square()
    diagonal = (state.noise.square() + 1e-8 * total)[:, None, None]
    K = made._kernel(parameters, x, x) + diagonal * torch.eye(9, dtype=torch.float64)
    cross = made._kernel(parameters, t, x)
    residual = batch.context_y - state.mean[:, None, None]
    expected = state.mean[:, None, None] + cross @ torch.linalg.solve(K, residual)
    torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-9)
    prior = made._kernel(parameters, t, t).diagonal(dim1=1, dim2=2)
    explained = (cross * torch.linalg.solve(K, cross.mT).mT).sum(-1)
    variance = prior - explained + state.noise.square()[:, None]
    torch.testing.assert_close(std[..., 0] ** 2, variance, rtol=1e-6, atol=1e-6)


def test_order_of_rows_and_columns_means_nothing():
    made, batch = network(), tasks()
    rows, columns = torch.randperm(9), torch.tensor([2, 0, 1])
    other = TaskBatch.without_padding(
        batch.context_x[:, rows][..., columns],
        batch.context_y[:, rows],
        batch.target_x[..., columns],
        batch.target_y,
    )
    torch.testing.assert_close(made(other), made(batch), rtol=1e-9, atol=1e-10)


def test_padding_and_what_stands_in_it_change_nothing():
    made, batch = network(), tasks()
    padded = batch.pad(14, 5)
    torch.testing.assert_close(made(padded), made(batch), rtol=1e-9, atol=1e-10)
    x = padded.context_x.clone()
    x[:, 9:] = float("nan")
    state = made.encode(x, padded.context_y, padded.context_mask)
    raw = made.decode(state, batch.target_x)
    torch.testing.assert_close(raw, made(batch), rtol=1e-9, atol=1e-10)


def test_takes_any_number_of_columns_and_no_context():
    made = network()
    x = torch.randn(2, 4, 7, dtype=torch.float64)
    nothing = x.new_zeros(2, 0, 7)
    state = made.encode(nothing, x.new_zeros(2, 0, 1), torch.zeros(2, 0, dtype=bool))
    raw = made.decode(state, x)
    assert raw.shape == (2, 4, 2)
    assert torch.isfinite(raw).all()


def test_outputs_are_processes_of_their_own():
    made, batch = network(n_targets=2), tasks(n_targets=2)
    alone = network()
    alone.load_state_dict(made.state_dict())
    both = made(batch)
    for output in range(2):
        single = TaskBatch.without_padding(
            batch.context_x,
            batch.context_y[..., output : output + 1],
            batch.target_x,
            batch.target_y[..., output : output + 1],
        )
        own = torch.stack([both[..., output], both[..., 2 + output]], dim=-1)
        torch.testing.assert_close(alone(single), own, rtol=1e-9, atol=1e-10)


def test_chain_rule_runs_and_gradients_reach_all_parameters():
    made, batch = network(), tasks()
    likelihood = GaussianLikelihood(1e-3)
    assert torch.isfinite(
        autoregressive_log_likelihood(made, likelihood, batch, n_orders=2)
    ).all()
    conditional_log_likelihood(made, likelihood, batch).sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name


def test_repeated_rows_in_single_precision():
    made = network().float()
    x = torch.zeros(1, 50, 3)
    y = torch.full((1, 50, 1), 2.0)
    batch = TaskBatch.without_padding(x, y, x[:, :2], y[:, :2])
    mean, std = GaussianLikelihood(1e-3).parameters_of(made(batch))
    assert torch.isfinite(mean).all()
    assert (std > 0).all()


def test_refuses_another_likelihood():
    with pytest.raises(ValueError, match="n_raw must be 2"):
        KernelNeuralProcess(3, 1, 15)


def test_noise_is_at_least_the_floor():
    made, batch = network(min_std=0.5), tasks()
    assert (encoded(made, batch).noise >= 0.5).all()
    _, std = GaussianLikelihood(0.5).parameters_of(made(batch))
    assert (std >= 0.5).all()
    assert torch.isfinite(std).all()
