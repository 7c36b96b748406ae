"""What every network of a neural process promises, and what each adds."""

import copy

import pytest
import torch
from torch.func import functional_call

from skfunc.nn import (
    NEURAL_PROCESSES,
    AttentiveNeuralProcess,
    ConditionalNeuralProcess,
    ConvolutionalGridNeuralProcess,
    ConvolutionalNeuralProcess,
    GaussianLikelihood,
    InducingNeuralProcess,
    LatentNeuralProcess,
    NeuralProcess,
    TaskBatch,
    TransformerNeuralProcess,
    conditional_log_likelihood,
    draw_module,
    evidence_lower_bound,
    pixel_coordinates,
)
from skfunc.nn._neural_process_base import MLP, DiagonalNormal, masked_mean

DY = 2
LIKELIHOOD = GaussianLikelihood(0.05)
SIDE = 6


def variant(cls, features=2, **options):
    return features, lambda: cls(features, DY, LIKELIHOOD.n_raw(DY), **options)


VARIANTS = {
    "cnp": variant(ConditionalNeuralProcess, width=16),
    "np": variant(LatentNeuralProcess, width=16, latent_size=5),
    "np with deterministic path": variant(
        LatentNeuralProcess, width=16, has_deterministic_path=True
    ),
    "anp": variant(AttentiveNeuralProcess, width=16, n_heads=4),
    "anp with self-attention": variant(
        AttentiveNeuralProcess,
        width=16,
        n_heads=4,
        n_self_attention=2,
        has_latent_path=False,
    ),
    "tnp": variant(TransformerNeuralProcess, width=16, n_layers=3),
    "lbanp": variant(InducingNeuralProcess, width=16, n_layers=2, n_inducing=4),
    "convcnp": variant(ConvolutionalNeuralProcess, 1, width=8, n_layers=3),
    "convcnp residual": variant(
        ConvolutionalNeuralProcess, 1, width=8, cnn="residual", points_per_unit=10
    ),
    "convcnp grid": variant(
        ConvolutionalGridNeuralProcess,
        width=8,
        n_layers=2,
        image_size=(SIDE, SIDE + 1),
    ),
}
LATENT = [name for name in VARIANTS if name.startswith(("np", "anp"))][:3]


def build(name, seed=0):
    """Return a float64 network with all parameters away from their initial zeros."""
    network = VARIANTS[name][1]().double()
    generator = torch.Generator().manual_seed(seed)
    draw_module(network, generator)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator).double())
    return network


@pytest.fixture(scope="module", params=VARIANTS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def network(name):
    return build(name)


def make_batch(name, n=7, m=5, n_tasks=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if VARIANTS[name][0] == 1:
        x = 4.0 * torch.rand(n_tasks, n + m, 1, generator=generator).double() - 2.0
    else:
        # Distinct pixels serve the network on a grid, and any other as well.
        pixels = pixel_coordinates(SIDE, SIDE + 1)
        order = [torch.randperm(len(pixels), generator=generator) for _ in range(3)]
        x = torch.stack([pixels[o[: n + m]] for o in order[:n_tasks]])
    y = torch.randn(n_tasks, n + m, DY, generator=generator).double()
    return TaskBatch.without_padding(x[:, :n], y[:, :n], x[:, n:], y[:, n:])


def draw_latent(network, batch, n_samples=4):
    if not network.is_latent:
        return None
    state = network.encode(batch.context_x, batch.context_y, batch.context_mask)
    generator = torch.Generator().manual_seed(9)
    return network.posterior(state).rsample(n_samples, generator).detach()


def objective(network, batch):
    if network.is_latent:
        return evidence_lower_bound(
            network, LIKELIHOOD, batch, generator=torch.Generator().manual_seed(0)
        )
    return conditional_log_likelihood(network, LIKELIHOOD, batch)


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_names_lead_to_networks():
    assert all(issubclass(cls, NeuralProcess) for cls in NEURAL_PROCESSES.values())


def test_shapes(name, network):
    batch = make_batch(name)
    assert network(batch).shape == (3, 5, 2 * DY)
    z = draw_latent(network, batch)
    if z is not None:
        assert network(batch, z=z).shape == (4, 3, 5, 2 * DY)
        for i in range(4):
            close(network(batch, z=z)[i], network(batch, z=z[i : i + 1])[0])


def test_order_of_the_context_does_not_matter(name, network):
    batch = make_batch(name)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    shuffled = TaskBatch.without_padding(
        batch.context_x[:, order],
        batch.context_y[:, order],
        batch.target_x,
        batch.target_y,
    )
    z = draw_latent(network, batch)
    close(network(shuffled, z=z), network(batch, z=z))
    close(network(shuffled), network(batch))


def test_targets_do_not_depend_on_each_other(name, network):
    batch = make_batch(name)
    z = draw_latent(network, batch)
    state = network.encode(batch.context_x, batch.context_y, batch.context_mask)
    together = network.decode(state, batch.target_x, z=z)
    for i in range(5):
        alone = network.decode(state, batch.target_x[:, i : i + 1], z=z)
        close(alone, together[..., i : i + 1, :])


def test_tasks_do_not_depend_on_each_other(name, network):
    batch = make_batch(name)
    together = network(batch)
    for i in range(3):
        one = slice(i, i + 1)
        alone = TaskBatch.without_padding(
            batch.context_x[one],
            batch.context_y[one],
            batch.target_x[one],
            batch.target_y[one],
        )
        close(network(alone), together[one])


def test_the_state_serves_many_calls(name, network):
    batch, other = make_batch(name), make_batch(name, seed=1)
    state = network.encode(batch.context_x, batch.context_y, batch.context_mask)
    first = network.decode(state, batch.target_x)
    network.decode(state, other.target_x)
    close(network.decode(state, batch.target_x), first, 0.0)
    # In one call or by way of the state: the transformer takes another path.
    close(first, network(batch))


def test_with_and_without_the_state_on_padded_tasks(name, network):
    batch = TaskBatch.concatenate([make_batch(name, 4, 3), make_batch(name, 7, 5)])
    state = network.encode(batch.context_x, batch.context_y, batch.context_mask)
    close(network.decode(state, batch.target_x), network(batch))


@pytest.mark.parametrize("garbage", [1e3, float("nan")])
def test_padding_and_what_stands_there_do_not_matter(name, network, garbage):
    batch = make_batch(name)
    padded = batch.pad(10, 8)
    for part in ("context", "target"):
        mask = getattr(padded, f"{part}_mask")
        getattr(padded, f"{part}_x")[~mask] = garbage
        getattr(padded, f"{part}_y")[~mask] = garbage
    expected = objective(network, batch)
    close(objective(network, padded), expected, 1e-10)
    gradients = torch.autograd.grad(expected.sum(), list(network.parameters()))
    again = torch.autograd.grad(
        objective(network, padded).sum(), list(network.parameters())
    )
    for one, other in zip(gradients, again, strict=True):
        close(other, one, 1e-8)


def test_no_context(name, network):
    batch = make_batch(name)
    nothing = TaskBatch(
        batch.context_x[:, :0],
        batch.context_y[:, :0],
        batch.context_mask[:, :0],
        batch.target_x,
        batch.target_y,
        batch.target_mask,
    )
    raw = network(nothing)
    assert torch.isfinite(raw).all()
    close(network(nothing.pad(4, 5)), raw)
    assert torch.isfinite(objective(network, nothing)).all()
    state = network.encode(batch.context_x, batch.context_y, batch.context_mask)
    assert network.decode(state, batch.target_x[:, :0]).shape == (3, 0, 2 * DY)


def test_gradients_reach_all_parameters(name):
    network = build(name)
    objective(network, make_batch(name)).mean().backward()
    for key, value in network.named_parameters():
        assert value.grad is not None, key
        assert value.grad.abs().max() > 1e-12, key


def test_context_matters(name, network):
    batch = make_batch(name)
    changed = TaskBatch.without_padding(
        batch.context_x, batch.context_y + 1.0, batch.target_x, batch.target_y
    )
    assert (network(changed) - network(batch)).abs().amax((1, 2)).min() > 1e-3


def test_parameters_are_drawn_from_the_generator(name):
    one, other = build(name, seed=3), build(name, seed=3)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_parameters_can_be_given(name, network):
    batch = make_batch(name)
    parameters = dict(build(name, seed=1).named_parameters())
    given = functional_call(network, parameters, (batch,))
    close(given, build(name, seed=1)(batch))


def test_single_precision_is_close(name, network):
    batch = make_batch(name)
    single = copy.deepcopy(network).float()
    close(single(batch.to(dtype=torch.float32)).double(), network(batch), 1e-3)


@pytest.mark.parametrize("name", LATENT, scope="module")
def test_the_posterior_of_the_state_is_the_inferred_one(name):
    network, batch = build(name), make_batch(name)
    context = (batch.context_x, batch.context_y, batch.context_mask)
    inferred, kept = (
        network.infer(*context),
        network.posterior(network.encode(*context)),
    )
    close(kept.mean, inferred.mean)
    close(kept.std, inferred.std)
    assert (kept.std > 0.1).all() and (kept.std < 1.0).all()
    state = network.encode(*context)
    at_mean = network.decode(state, batch.target_x, z=kept.mean[None])[0]
    close(network.decode(state, batch.target_x), at_mean)


def test_a_latent_is_refused_where_there_is_none(name, network):
    if network.is_latent:
        assert name in LATENT
        return
    batch = make_batch(name)
    context = (batch.context_x, batch.context_y, batch.context_mask)
    state = network.encode(*context)
    for call in (
        lambda: network.infer(*context),
        lambda: network.posterior(state),
        lambda: network.decode(state, batch.target_x, z=torch.zeros(1, 3, 1).double()),
    ):
        with pytest.raises(TypeError, match="no latent"):
            call()


def test_perceptron_of_several_inputs_is_that_of_their_concatenation():
    mlp = MLP([2, 3], 4, width=8, n_hidden=2, activation="tanh").double()
    draw_module(mlp, torch.Generator().manual_seed(0))
    a, b = torch.randn(3, 5, 2).double(), torch.randn(4, 3, 1, 3).double()
    whole = torch.cat([a.expand(4, 3, 5, 2), b.expand(4, 3, 5, 3)], dim=-1)
    joined = MLP(5, 4, width=8, n_hidden=2, activation="tanh").double()
    joined.load_state_dict(mlp.state_dict())
    close(mlp(a, b), joined(whole))


def test_masked_mean():
    values = torch.tensor([[[1.0], [3.0], [9.0]], [[1.0], [3.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(values, mask).tolist() == [[2.0], [0.0]]


def test_diagonal_normal_equals_torch():
    draws = torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    one, other = DiagonalNormal(draws[0], draws[1]), DiagonalNormal(draws[2], draws[3])
    normal, second = (
        torch.distributions.Normal(*one),
        torch.distributions.Normal(*other),
    )
    expected = torch.distributions.kl_divergence(normal, second).sum(-1)
    close(one.divergence(other), expected)
    z = one.rsample(7, torch.Generator().manual_seed(0))
    close(one.log_prob(z), normal.log_prob(z).sum(-1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConditionalNeuralProcess(1, 1, 2, width=0), "width must be"),
        (lambda: ConvolutionalNeuralProcess(2, 1, 2), "takes one feature"),
        (lambda: ConvolutionalNeuralProcess(1, 1, 2, kernel_size=4), "must be odd"),
        (lambda: ConvolutionalNeuralProcess(1, 1, 2, cnn="resnet"), "choose one of"),
        (lambda: ConvolutionalNeuralProcess(1, 1, 2, x_range=(1.0, 0.0)), "x_range"),
        (lambda: ConvolutionalNeuralProcess(1, 1, 2, margin=-1.0), "margin"),
        (
            lambda: ConvolutionalGridNeuralProcess(1, 1, 2, image_size=(4, 4)),
            "two features",
        ),
        (
            lambda: ConvolutionalGridNeuralProcess(2, 1, 2, image_size=(1, 4)),
            "image_size",
        ),
        (
            lambda: ConvolutionalGridNeuralProcess(
                2, 1, 2, image_size=(4, 4), density_size=2
            ),
            "density_size must be",
        ),
    ],
)
def test_bad_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
