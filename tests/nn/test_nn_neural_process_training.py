"""Every network can learn a few functions by heart, and transfer to others."""

import math

import pytest
import torch

from skfunc.nn import (
    NEURAL_PROCESSES,
    BinsLikelihood,
    CategoricalLikelihood,
    ConditionalNeuralProcess,
    GaussianLikelihood,
    MixtureLikelihood,
    TaskBatch,
    autoregressive_log_likelihood,
    conditional_log_likelihood,
    draw_module,
    evidence_lower_bound,
    importance_weighted_log_likelihood,
    pixel_coordinates,
)

OPTIONS = {
    "anp": {"width": 32},
    "cnp": {"width": 32},
    "convcnp": {"width": 16, "points_per_unit": 8},
    "convcnp_grid": {"width": 16, "n_layers": 3, "image_size": (6, 6)},
    "convcnp_image": {"width": 8, "image_size": (6, 6)},
    "kernel": {"width": 16, "n_layers": 2, "kernels": ["matern52", "rbf"]},
    "kernel_labels": {"width": 16, "n_layers": 2, "kernels": ["matern52"]},
    "lbanp": {"width": 32, "n_layers": 2, "n_inducing": 4},
    "np": {"width": 32},
    "tnp": {"width": 32, "n_layers": 2},
}


def waves(n_tasks, n_points, seed, features=1):
    """Return inputs and sines of random phase."""
    generator = torch.Generator().manual_seed(seed)
    if features == 1:
        x = 4.0 * torch.rand(n_tasks, n_points, 1, generator=generator) - 2.0
    else:
        pixels = pixel_coordinates(6, 6).float()
        order = [
            torch.randperm(36, generator=generator)[:n_points] for _ in range(n_tasks)
        ]
        x = torch.stack([pixels[o] for o in order])
    phase = 2.0 * math.pi * torch.rand(n_tasks, 1, 1, generator=generator)
    return x, torch.sin(2.0 * x.sum(-1, keepdim=True) + phase)


def train(network, objective, batches, n_steps, rate=3e-3):
    """Return the objective at every step of Adam."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    values = []
    for step in range(n_steps):
        optimizer.zero_grad()
        value = objective(batches[step % len(batches)]).mean()
        (-value).backward()
        optimizer.step()
        values.append(value.item())
    return values


def build(name, n_raw=2, n_targets=1):
    features = 2 if name in ("convcnp_grid", "convcnp_image") else 1
    network = NEURAL_PROCESSES[name](features, n_targets, n_raw, **OPTIONS[name])
    draw_module(network, torch.Generator().manual_seed(0))
    return network, features


# What predicts classes alone learns them below.
@pytest.mark.parametrize("name", sorted(set(NEURAL_PROCESSES) - {"kernel_labels"}))
def test_learns_a_few_functions_by_heart(name):
    network, features = build(name)
    likelihood = GaussianLikelihood(0.05)
    x, y = waves(4, 20, 0, features)
    batch = TaskBatch.without_padding(x[:, :10], y[:, :10], x[:, 10:], y[:, 10:])
    generator = torch.Generator().manual_seed(1)

    def objective(batch):
        if network.is_latent:
            return evidence_lower_bound(
                network, likelihood, batch, n_samples=4, generator=generator
            )
        return conditional_log_likelihood(network, likelihood, batch)

    values = train(network, objective, [batch], 200)
    # The best Gaussian that knows nothing has -log(sd) - log(2 pi e) / 2.
    ignorant = -math.log(y.std().item()) - 0.5 * math.log(2 * math.pi * math.e)
    # Steps of Adam at this rate swing: the best ten steps in a row of the last fifty.
    best = torch.tensor(values[-50:]).unfold(0, 10, 1).mean(1).max()
    assert best > ignorant + 0.9


@pytest.mark.parametrize("kind", ["mixture", "bins"])
def test_learns_with_every_density(kind):
    x, y = waves(4, 20, 0)
    batch = TaskBatch.without_padding(x[:, :10], y[:, :10], x[:, 10:], y[:, 10:])
    likelihood = {
        "mixture": lambda: MixtureLikelihood(3, 0.05),
        "bins": lambda: BinsLikelihood.from_values(y, 20),
    }[kind]()
    network, _ = build("cnp", likelihood.n_raw(1))

    def objective(batch):
        return conditional_log_likelihood(network, likelihood, batch)

    values = train(network, objective, [batch], 200)
    assert values[-1] > values[0] + 1.0


@pytest.mark.parametrize("name", ["kernel_labels", "tnp"])
def test_learns_classes(name):
    likelihood = CategoricalLikelihood()
    x, y = waves(8, 24, 0)
    labels = torch.nn.functional.one_hot((y[..., 0] > 0).long(), 2).float()
    batch = TaskBatch.without_padding(
        x[:, :12], labels[:, :12], x[:, 12:], labels[:, 12:]
    )
    network, _ = build(name, likelihood.n_raw(2), n_targets=2)

    def objective(batch):
        return conditional_log_likelihood(network, likelihood, batch)

    values = train(network, objective, [batch], 150)
    assert values[-1] > 0.3 * -math.log(2.0)


def test_the_maximum_likelihood_objective_trains_a_latent_network():
    network, _ = build("np")
    likelihood = GaussianLikelihood(0.05)
    x, y = waves(4, 20, 0)
    batch = TaskBatch.without_padding(x[:, :10], y[:, :10], x[:, 10:], y[:, 10:])
    generator = torch.Generator().manual_seed(1)

    def objective(batch):
        return importance_weighted_log_likelihood(
            network, likelihood, batch, n_samples=8, generator=generator
        )

    values = train(network, objective, [batch], 200)
    assert sum(values[-10:]) / 10 > values[0] + 1.0


def test_what_is_learned_holds_for_other_functions():
    network = ConditionalNeuralProcess(1, 1, 2, width=64)
    draw_module(network, torch.Generator().manual_seed(0))
    likelihood = GaussianLikelihood(0.05)
    batches = []
    for seed in range(50):
        x, y = waves(32, 20, seed)
        batches.append(
            TaskBatch.without_padding(x[:, :10], y[:, :10], x[:, 10:], y[:, 10:])
        )
    held_out = batches.pop()

    def objective(batch):
        return conditional_log_likelihood(network, likelihood, batch)

    train(network, objective, batches, 400, rate=2e-3)
    with torch.no_grad():
        marginal = objective(held_out).mean()
        joint = autoregressive_log_likelihood(network, likelihood, held_out).mean()
    ignorant = -0.5 * math.log(0.5) - 0.5 * math.log(2 * math.pi * math.e)
    assert marginal > ignorant + 0.5
    # Targets tell of each other: jointly they are more likely than one by one.
    assert joint > marginal
