"""The neural process that infers kernels: exact conditioning, and what it ignores."""

import math
from functools import partial

import pytest
import torch

from skfunc.nn import (
    GaussianLikelihood,
    KernelNeuralProcess,
    MixtureLikelihood,
    TaskBatch,
    autoregressive_log_likelihood,
    conditional_log_likelihood,
    draw_module,
)
from skfunc.nn._kernel_inference import RawHypotheses
from skfunc.nn._kernel_mixture import Hypotheses, condition
from skfunc.nn._kernel_scan import scan_frequencies
from skfunc.nn._neural_process_kernel import processes


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


NAMES = ("arcsine", "matern12", "matern32", "matern52", "periodic", "rbf")


def textbook_kernel(name, x, z, scales, frequencies):
    """Kernel matrix of one task, entry by entry."""
    matrix = torch.empty(len(x), len(z), dtype=torch.float64)
    for i, a in enumerate(x):
        for j, b in enumerate(z):
            r = torch.linalg.vector_norm((a - b) * scales)
            if name == "rbf":
                value = torch.exp(-r * r / 2)
            elif name == "matern12":
                value = torch.exp(-r)
            elif name == "matern32":
                value = (1 + 3**0.5 * r) * torch.exp(-(3**0.5) * r)
            elif name == "matern52":
                value = (1 + 5**0.5 * r + 5 * r * r / 3) * torch.exp(-(5**0.5) * r)
            elif name == "periodic":
                bent = torch.sin(torch.pi * frequencies * (a - b)) * scales
                value = torch.exp(-2 * bent.square().sum())
            else:
                u = torch.cat([torch.ones(1, dtype=torch.float64), a * scales])
                v = torch.cat([torch.ones(1, dtype=torch.float64), b * scales])
                norms = (1 + 2 * u @ u) * (1 + 2 * v @ v)
                value = 2 / torch.pi * torch.asin(2 * (u @ v) / norms.sqrt())
            matrix[i, j] = value
    return matrix


def textbook_covariance(name, hypothesis, a, b):
    scales, linear, frequencies, amplitude, constant, *_ = hypothesis
    shape = textbook_kernel(name, a, b, scales, frequencies)
    return amplitude**2 * shape + (a * linear**2) @ b.T + constant**2


@pytest.mark.parametrize("name", NAMES)
def test_predicts_as_the_gaussian_process_of_the_kernel_it_infers(name):
    made, batch = network(kernels=(name,)), tasks()
    state = encoded(made, batch)
    mean, std = GaussianLikelihood(1e-3).parameters_of(made(batch))
    joint = made.joint_posterior(state, batch.target_x)
    for task in range(3):
        own = [value[task, 0] for value in state.hypotheses]
        noise, centre = own[5], own[6]
        kernel = partial(textbook_covariance, name, own)
        x, y = batch.context_x[task], batch.context_y[task, :, 0]
        t = batch.target_x[task]
        K = kernel(x, x) + noise**2 * torch.eye(9)
        K = K + 1e-8 * torch.diag(kernel(x, x).diagonal())
        expected = centre + kernel(t, x) @ torch.linalg.solve(K, y - centre)
        covariance = kernel(t, t) - kernel(t, x) @ torch.linalg.solve(K, kernel(x, t))
        evidence = torch.distributions.MultivariateNormal(
            centre.expand(9), covariance_matrix=K
        ).log_prob(y)
        torch.testing.assert_close(mean[task, :, 0], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            joint.covariance[task, 0, 0], covariance, rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(
            std[task, :, 0] ** 2, covariance.diagonal() + noise**2, rtol=1e-6, atol=1e-6
        )
        torch.testing.assert_close(
            state.evidence[task, 0], evidence, rtol=1e-5, atol=1e-5
        )


def test_hypotheses_are_weighed_by_evidence_and_logit():
    made, batch = network(), tasks()
    state = encoded(made, batch)
    with torch.no_grad():
        made.log_gain.fill_(0.5)
        score = state.hypotheses.logits + math.exp(0.5) * state.evidence
        weights = made.log_weights(state, 3).exp()
        torch.testing.assert_close(weights, torch.softmax(score, dim=-1))
        joint = made.joint_posterior(state, batch.target_x)
        mean, std = GaussianLikelihood(1e-3).parameters_of(made(batch))
    w = weights[..., None]
    expected = (w * joint.mean[:, 0]).sum(1)
    torch.testing.assert_close(mean[..., 0], expected)
    own = joint.covariance[:, 0].diagonal(dim1=-2, dim2=-1)
    second = own + joint.noise[:, 0, :, None] ** 2 + joint.mean[:, 0] ** 2
    variance = (w * second).sum(1) - expected**2
    torch.testing.assert_close(std[..., 0] ** 2, variance, rtol=1e-6, atol=1e-8)


def test_mixture_has_a_component_for_each_hypothesis():
    options = {"kernels": ("rbf", "matern52", "rbf"), "width": 16}
    likelihood = MixtureLikelihood(3, 1e-3)
    mixture = KernelNeuralProcess(3, 2, likelihood.n_raw(2), **options)
    draw_module(mixture, torch.Generator().manual_seed(0))
    gaussian = KernelNeuralProcess(3, 2, 4, **options)
    gaussian.load_state_dict(mixture.state_dict())
    batch = tasks(n_targets=2)
    raw = mixture.double()(batch)
    mean, std = GaussianLikelihood(1e-3).parameters_of(gaussian.double()(batch))
    torch.testing.assert_close(likelihood.mean(raw), mean)
    torch.testing.assert_close(likelihood.variance(raw).sqrt(), std)


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
    # With one hypothesis, for outputs have the weights of hypotheses in common.
    made = network(n_targets=2, kernels=("rbf",))
    batch, alone = tasks(n_targets=2), network(kernels=("rbf",))
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
    made = network(kernels=("rbf", "periodic"), n_waves=3, n_corrections=2)
    batch = tasks()
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
    with pytest.raises(ValueError, match="n_raw must be 2, or 12"):
        KernelNeuralProcess(3, 1, 15)
    with pytest.raises(ValueError, match="must name some of"):
        KernelNeuralProcess(3, 1, 2, kernels=("cubic",))


def test_noise_is_at_least_the_floor():
    made, batch = network(min_std=0.5), tasks()
    assert (encoded(made, batch).hypotheses.noise >= 0.5).all()
    _, std = GaussianLikelihood(0.5).parameters_of(made(batch))
    assert (std >= 0.5).all()
    assert torch.isfinite(std).all()


def test_corrections_see_the_gradient_of_the_evidence():
    made, batch = network(kernels=NAMES), tasks().pad(12, 5)
    x, y, mask = processes(batch.context_x, batch.context_y, batch.context_mask)
    raw = made.inference(x, y, mask).raw
    values = [value.detach().requires_grad_() for value in raw]
    hypotheses = RawHypotheses(*values).constrained(made.min_std, made.bands)
    evidence = condition(NAMES, hypotheses, x, y, mask).evidence.sum()
    expected = torch.autograd.grad(evidence, values, materialize_grads=True)
    got = made._evidence_gradient(raw, made.bands, x, y, mask)
    for mine, true in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-6, atol=1e-6)


def test_corrections_are_those_of_each_process_alone():
    made, batch = network(n_corrections=3), tasks()
    both = made(batch)
    for task in range(3):
        rows = slice(task, task + 1)
        single = TaskBatch.without_padding(
            batch.context_x[rows],
            batch.context_y[rows],
            batch.target_x[rows],
            batch.target_y[rows],
        )
        torch.testing.assert_close(made(single), both[rows], rtol=1e-8, atol=1e-9)
    made.n_corrections = 0
    assert (made(batch) - both).abs().max() > 1e-3


def test_periodic_hypotheses_share_the_frequencies():
    made = network(kernels=("periodic", "rbf", "periodic"), frequency_range=(1.0, 5.0))
    frequencies = encoded(made, tasks()).hypotheses.frequencies
    assert ((frequencies[:, 0] > 1) & (frequencies[:, 0] < 3)).all()
    assert ((frequencies[:, 2] > 3) & (frequencies[:, 2] < 5)).all()
    with pytest.raises(ValueError, match="frequency_range must increase"):
        network(frequency_range=(2.0, 1.0))


def test_a_long_context_is_left_to_the_most_likely_hypothesis():
    batch = tasks(n_context=30, n_tasks=1)
    all_of_them = network()
    few = network(mixture_rows=20)
    state = encoded(few, batch)
    first = TaskBatch.without_padding(
        batch.context_x[:, :20], batch.context_y[:, :20], batch.target_x, batch.target_y
    )
    best = int(all_of_them.log_weights(encoded(all_of_them, first), 1).argmax())
    assert state.names == (all_of_them.kernels[best],)
    joint = all_of_them.joint_posterior(encoded(all_of_them, batch), batch.target_x)
    mean, std = GaussianLikelihood(1e-3).parameters_of(few(batch))
    torch.testing.assert_close(mean[0, :, 0], joint.mean[0, 0, best])
    variance = joint.covariance[0, 0, best].diagonal() + joint.noise[0, 0, best] ** 2
    torch.testing.assert_close(std[0, :, 0] ** 2, variance, rtol=1e-6, atol=1e-8)
    likelihood = MixtureLikelihood(4, 1e-3)
    mixture = KernelNeuralProcess(3, 1, likelihood.n_raw(1), width=16, mixture_rows=20)
    mixture.load_state_dict(few.state_dict())
    raw = mixture.double()(batch)
    torch.testing.assert_close(likelihood.mean(raw), mean)
    torch.testing.assert_close(likelihood.variance(raw).sqrt(), std)
    assert torch.isfinite(likelihood.log_prob(raw, batch.target_y)).all()


def test_a_context_seen_through_all_its_rows_is_seen_exactly():
    options = {"mixture_rows": 10, "kernels": ("matern12",)}
    batch = tasks(n_context=30, n_tasks=1)
    exact = network(**options)
    through = network(exact_rows=20, through_rows=30, **options)
    expected = exact.joint_posterior(encoded(exact, batch), batch.target_x)
    got = through.joint_posterior(encoded(through, batch), batch.target_x)
    torch.testing.assert_close(got.mean, expected.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        got.covariance, expected.covariance, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(through(batch), exact(batch), rtol=1e-4, atol=1e-4)


def test_a_context_seen_through_some_rows_is_the_projected_process():
    batch = tasks(n_context=30, n_tasks=1)
    options = {"mixture_rows": 10, "kernels": ("matern12",)}
    made = network(exact_rows=20, through_rows=12, **options)
    state = encoded(made, batch)
    kernel = partial(
        textbook_covariance, "matern12", [value[0, 0] for value in state.hypotheses]
    )
    noise, centre = state.hypotheses.noise[0, 0], state.hypotheses.mean[0, 0]
    x, y, t = batch.context_x[0], batch.context_y[0, :, 0] - centre, batch.target_x[0]
    u = x[:12]
    # GPML 8.26 and 8.27.
    inner = kernel(u, x) @ kernel(x, u) + noise**2 * kernel(u, u)
    mean = centre + kernel(t, u) @ torch.linalg.solve(inner, kernel(u, x) @ y)
    covariance = (
        kernel(t, t)
        - kernel(t, u) @ torch.linalg.solve(kernel(u, u), kernel(u, t))
        + noise**2 * kernel(t, u) @ torch.linalg.solve(inner, kernel(u, t))
    )
    joint = made.joint_posterior(state, batch.target_x)
    torch.testing.assert_close(joint.mean[0, 0, 0], mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        joint.covariance[0, 0, 0], covariance, rtol=1e-4, atol=1e-4
    )


def test_gradient_steps_climb_the_evidence():
    made, batch = network(kernels=("rbf", "matern52")), tasks()
    before = encoded(made, batch).evidence
    made.n_gradient_steps = 5
    after = encoded(made, batch).evidence
    assert (after > before).all()
    made.n_gradient_steps = 15
    assert (encoded(made, batch).evidence > after).float().mean() > 0.8


def test_scan_finds_the_frequency_of_a_wave():
    x = torch.rand(2, 25, 1, generator=torch.Generator().manual_seed(0))
    x = 4 * x.double() - 2
    true = torch.tensor([3.3, 7.1], dtype=torch.float64)
    y = torch.cos(2 * torch.pi * true[:, None] * x[..., 0])
    ones = torch.ones(2, 1, dtype=torch.float64)
    one = Hypotheses(
        scales=ones[..., None],
        linear=0 * ones[..., None],
        frequencies=ones[..., None],
        amplitude=ones,
        constant=0.1 * ones,
        noise=0.1 * ones,
        mean=0 * ones,
        logits=0 * ones,
    )
    grid = torch.linspace(2, 10, 161, dtype=torch.float64)
    mask = torch.ones(2, 25, dtype=torch.bool)
    peaks = scan_frequencies(one, x, y, mask, grid, 3)
    torch.testing.assert_close(peaks[:, 0], true, atol=0.05, rtol=0.0)
    gaps = (peaks[:, :, None] - peaks[:, None]).abs() + 10 * torch.eye(3)
    assert (gaps > 0.11).all()


def test_periodic_hypotheses_look_about_the_peaks():
    made = KernelNeuralProcess(
        1,
        1,
        2,
        kernels=("periodic", "rbf", "periodic"),
        width=8,
        n_scanned=65,
        frequency_range=(2.0, 10.0),
        n_corrections=1,
    )
    draw_module(made, torch.Generator().manual_seed(0))
    x = torch.linspace(-2, 2, 30)[None, :, None]
    y = torch.cos(2 * torch.pi * 4.4 * x)
    state = made.encode(x, y, torch.ones(1, 30, dtype=torch.bool))
    frequencies = state.hypotheses.frequencies[0, [0, 2], 0]
    assert (frequencies - 4.4).abs().min() < 0.2
    assert (frequencies[0] - frequencies[1]).abs() > 0.1


def test_readings_see_other_rows_and_their_hypotheses_compete():
    likelihood = MixtureLikelihood(12, 1e-3)
    made = KernelNeuralProcess(3, 1, likelihood.n_raw(1), width=16, n_readings=3)
    draw_module(made, torch.Generator().manual_seed(0))
    batch, plain = tasks(), network()
    made = made.double()
    state = encoded(made, batch)
    assert state.evidence.shape == (3, 12)
    for reading in range(3):
        rows = [i for i in range(9) if (i + reading) % 5 > 0]
        own = plain.infer_hypotheses(
            batch.context_x[:, rows],
            batch.context_y[:, rows, 0],
            batch.context_mask[:, rows],
        )
        of_it = slice(4 * reading, 4 * reading + 4)
        torch.testing.assert_close(state.hypotheses.scales[:, of_it], own.scales)
    made.inference_rows = 4
    longer = encoded(made, batch)
    own = plain.infer_hypotheses(
        batch.context_x[:, 4:8], batch.context_y[:, 4:8, 0], batch.context_mask[:, 4:8]
    )
    torch.testing.assert_close(longer.hypotheses.noise[:, 4:8], own.noise)
    assert torch.isfinite(likelihood.log_prob(made(batch), batch.target_y)).all()
