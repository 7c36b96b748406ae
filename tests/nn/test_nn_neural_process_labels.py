"""Classes by inferred kernels: the closed forms, and what a prediction ignores."""

import pytest
import torch

from skfunc.nn import (
    CategoricalLikelihood,
    KernelLabelProcess,
    TaskBatch,
    conditional_log_likelihood,
    draw_module,
)
from skfunc.nn._kernel_inference import RawHypotheses
from skfunc.nn._kernel_mixture import kernel_matrices, prior_variances
from skfunc.nn._neural_process_labels import SHARE_WEIGHTS, SLOPES

NAMES = ("rbf", "arcsine")


def network(seed=0, **options):
    made = KernelLabelProcess(3, 3, 3, kernels=NAMES, width=16, n_layers=2, **options)
    draw_module(made, torch.Generator().manual_seed(seed))
    return made.double()


def tasks(n_context=12, n_target=5, n_tasks=2, n_classes=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    n = n_context + n_target
    x = torch.randn(n_tasks, n, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(n_classes, (n_tasks, n), generator=generator)
    labels[:, :n_classes] = torch.arange(n_classes)
    y = torch.nn.functional.one_hot(labels, n_classes).double()
    return TaskBatch.without_padding(
        x[:, :n_context], y[:, :n_context], x[:, n_context:], y[:, n_context:]
    )


def encoded(made, batch):
    return made.encode(batch.context_x, batch.context_y, batch.context_mask)


def covariance(state, x):
    return kernel_matrices(NAMES, state.hypotheses, x, x) + torch.diag_embed(
        1e-8 * prior_variances(NAMES, state.hypotheses, x)
    )


def test_indicators_are_regressed_exactly():
    made, batch = network(), tasks()
    state = encoded(made, batch)
    mean, variance = made.functions(state, batch.target_x)
    K = covariance(state, batch.context_x)
    cross = kernel_matrices(NAMES, state.hypotheses, batch.target_x, batch.context_x)
    own = kernel_matrices(NAMES, state.hypotheses, batch.target_x, batch.target_x)
    shares = batch.context_y.mean(1)[:, None, None]
    for k in range(len(NAMES)):
        noise = state.hypotheses.noise[:, k, None, None].square()
        inverse = torch.linalg.inv(K[:, k] + noise * torch.eye(12))
        centred = batch.context_y - shares[:, 0]
        expected = shares[:, 0] + cross[:, k] @ inverse @ centred
        torch.testing.assert_close(mean[:, k], expected, rtol=1e-8, atol=1e-8)
        left = own[:, k] - cross[:, k] @ inverse @ cross[:, k].mT
        diagonal = left.diagonal(dim1=-2, dim2=-1)
        torch.testing.assert_close(variance[:, k, :, 0], diagonal, rtol=1e-7, atol=1e-7)


def test_weights_are_what_refits_without_each_row_say():
    made, batch = network(), tasks(n_tasks=1)
    state = encoded(made, batch)
    K = covariance(state, batch.context_x)[0]
    y, shares = batch.context_y[0], batch.context_y[0].mean(0)
    spread = shares * (1 - shares)
    links = [(slope, weight) for slope in SLOPES for weight in SHARE_WEIGHTS]
    scores = torch.zeros(len(NAMES), len(links), dtype=torch.float64)
    for k in range(len(NAMES)):
        noise = state.hypotheses.noise[0, k].square()
        whole = K[k] + noise * torch.eye(12)
        for row in range(12):
            kept = [i for i in range(12) if i != row]
            crossed = torch.linalg.solve(whole[kept][:, kept], whole[kept, row])
            mean = shares + crossed @ (y[kept] - shares)
            variance = K[k, row, row] - crossed @ whole[kept, row]
            for s, (slope, weight) in enumerate(links):
                logits = (
                    slope
                    * mean
                    / torch.sqrt(1 + torch.pi / 8 * slope**2 * variance * spread)
                )
                logits = logits + weight * shares.log()
                scores[k, s] += torch.log_softmax(logits, -1)[y[row].argmax()]
    expected = torch.log_softmax(scores.flatten(), 0).view_as(scores)
    torch.testing.assert_close(state.log_weights[0], expected, rtol=1e-6, atol=1e-6)


def test_prediction_is_the_mixture_and_sums_to_one():
    made, batch = network(n_corrections=1), tasks()
    state = encoded(made, batch)
    logs = made.log_probabilities(state, batch.target_x)
    weights = state.log_weights.exp()[..., None, None]
    expected = (weights * logs.exp()).sum((1, 2))
    got = CategoricalLikelihood().mean(made(batch))
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got.sum(-1), torch.ones_like(got[..., 0]))


def test_order_of_rows_columns_and_classes_means_nothing():
    made, batch = network(n_corrections=2), tasks()
    rows, columns = torch.randperm(12), torch.tensor([2, 0, 1])
    classes = torch.tensor([1, 2, 0])
    other = TaskBatch.without_padding(
        batch.context_x[:, rows][..., columns],
        batch.context_y[:, rows][..., classes],
        batch.target_x[..., columns],
        batch.target_y,
    )
    expected = made(batch)[..., classes]
    torch.testing.assert_close(made(other), expected, rtol=1e-7, atol=1e-8)


def test_padding_and_a_class_that_is_absent_change_nothing():
    made, batch = network(n_corrections=1), tasks()
    expected = made(batch)
    torch.testing.assert_close(made(batch.pad(15, 5)), expected, rtol=1e-7, atol=1e-8)
    wider = TaskBatch.without_padding(
        batch.context_x,
        torch.nn.functional.pad(batch.context_y, (0, 1)),
        batch.target_x,
        torch.nn.functional.pad(batch.target_y, (0, 1)),
    )
    raw = made(wider)
    torch.testing.assert_close(raw[..., :3], expected, rtol=1e-7, atol=1e-8)
    assert (raw[..., 3] == -torch.inf).all()


def test_gradient_of_the_evidence_is_the_weighted_mean_over_classes():
    made, batch = network(), tasks()
    state = encoded(made, batch)
    shares = batch.context_y.mean(1)
    spread = shares * (1 - shares)
    weights = spread / spread.sum(-1, keepdim=True)
    standard = (batch.context_y - shares.unsqueeze(1)) / spread.sqrt().unsqueeze(1)
    generator = torch.Generator().manual_seed(3)
    values = [
        torch.randn(2, 3, 3, 2, generator=generator, dtype=torch.float64),
        torch.randn(2, 5, 2, generator=generator, dtype=torch.float64),
    ]
    values = [v.requires_grad_() for v in values]
    hypotheses = RawHypotheses(*values).constrained(made.min_std, made.bands)
    K = covariance(state._replace(hypotheses=hypotheses), batch.context_x)
    noise = hypotheses.noise.square()[..., None, None] * torch.eye(12)
    evidence = torch.distributions.MultivariateNormal(
        torch.zeros(12, dtype=torch.float64), (K + noise).unsqueeze(2)
    ).log_prob(standard.mT.unsqueeze(1))
    total = (weights.unsqueeze(1) * evidence).sum()
    expected = torch.autograd.grad(total, values, materialize_grads=True)
    got = made._evidence_gradient(
        RawHypotheses(*values), batch.context_x, standard, batch.context_mask, weights
    )
    for mine, true in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-6, atol=1e-7)


def test_gradients_reach_the_parameters():
    made, batch = network(n_corrections=2), tasks()
    conditional_log_likelihood(made, CategoricalLikelihood(), batch).sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name


def test_refuses_what_it_is_not():
    with pytest.raises(ValueError, match="n_raw must be 3"):
        KernelLabelProcess(2, 3, 6)
    with pytest.raises(ValueError, match="must name some of"):
        KernelLabelProcess(2, 3, 3, kernels=("cubic",))


def test_a_long_context_is_left_to_the_best_hypothesis():
    batch = tasks(n_context=30, n_tasks=1)
    whole, few = network(), network(mixture_rows=20)
    state = encoded(few, batch)
    assert len(state.names) == 1
    best = NAMES.index(state.names[0])
    mean, variance = few.functions(state, batch.target_x)
    expected, spread = whole.functions(encoded(whole, batch), batch.target_x)
    torch.testing.assert_close(mean[:, 0], expected[:, best])
    torch.testing.assert_close(variance[:, 0], spread[:, best])
    proba = CategoricalLikelihood().mean(few(batch))
    torch.testing.assert_close(proba.sum(-1), torch.ones(1, 5, dtype=torch.float64))


def test_a_context_seen_through_all_its_rows_is_seen_exactly():
    batch = tasks(n_context=30, n_tasks=1)
    exact = network(mixture_rows=10)
    through = network(mixture_rows=10, exact_rows=20, through_rows=30)
    expected = exact.functions(encoded(exact, batch), batch.target_x)
    got = through.functions(encoded(through, batch), batch.target_x)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
