"""Training on a CUDA device: the same as on the CPU, captured or not."""

import numpy as np
import pytest
import torch

from skfunc.training import TrainingOptions, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def squared_errors(module, batch):
    rows, targets = batch
    return (module(rows) - targets) ** 2


@pytest.fixture
def fit_cuda(toy_stack, toy_rows):
    def fit(device, batch_size=1000, held_out=None, loss=squared_errors, **options):
        stack = toy_stack()
        ones = torch.ones(3, 40, dtype=torch.float64, device=device)
        held = None if held_out is None else torch.as_tensor(held_out, device=device)
        return train(
            stack,
            stack.initial(range(3)).to(device),
            loss,
            [x.to(device) for x in toy_rows()],
            ones if held is None else ones - held,
            seeds=range(3),
            options=TrainingOptions(
                learning_rate=np.array([0.01, 0.02, 0.05]),
                alpha=np.ones(3),
                max_iter=20,
                batch_size=batch_size,
                **options,
            ),
            held_out_weights=held,
        )

    return fit


@pytest.mark.parametrize("batch_size", [1000, 8])
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_agrees_with_the_cpu(fit_cuda, batch_size, cuda_graph):
    there = fit_cuda("cuda", batch_size, cuda_graph=cuda_graph)
    here = fit_cuda("cpu", batch_size)
    torch.testing.assert_close(there.flat.cpu(), here.flat, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batch_size", [1000, 8])
def test_captured_step_goes_on_after_members_stopped(
    fit_cuda, held_out_parts, batch_size
):
    _, held = held_out_parts(3, 40)
    options = {"held_out": held, "n_iter_no_change": 2, "schedule": "constant"}
    captured = fit_cuda("cuda", batch_size, cuda_graph=True, **options)
    plain = fit_cuda("cuda", batch_size, **options)
    torch.testing.assert_close(captured.flat, plain.flat, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(captured.best_epochs, plain.best_epochs)


def test_captured_step_goes_on_after_a_loss_that_is_not_finite(fit_cuda):
    broken = torch.zeros((), device="cuda", dtype=torch.float64)

    def loss(module, batch):
        broken.add_(1.0)
        return squared_errors(module, batch) * torch.where(
            broken == 6, float("nan"), 1.0
        )

    result = fit_cuda("cuda", cuda_graph=True, loss=loss)
    assert (result.n_retries == 1).all()
    assert torch.isfinite(result.flat).all()
