"""Kernels and expansions of finite networks against autograd and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

from skfunc.infinite_width import empirical_ntk, linearize
from skfunc.infinite_width import layers as L
from skfunc.infinite_width._inference import Decomposition

RNG = np.random.default_rng(0)
VECTORS, OTHERS = RNG.normal(size=(7, 4)), RNG.normal(size=(3, 4))
IMAGE_SHAPE = (2, 5, 4)
IMAGES = RNG.normal(size=(4, 40))
MLP = L.Serial(*[L.Dense(1.4, 0.2), L.Relu()] * 2, L.Dense(1.4, 0.2))
CONV = {
    "flatten": L.preset("conv", 2, "relu", 1.4, 0.2, IMAGE_SHAPE),
    "pool": L.preset("wide_resnet", 1, "erf", 1.2, 0.2, IMAGE_SHAPE),
}


def twin(net, width=16, n_outputs=1, seed=0, image_shape=None, dtype=torch.float64):
    n_features = None if image_shape else 4
    return net.to_module(width, n_features, image_shape, n_outputs, seed, dtype)


def by_backward(module, X):
    """Return the whole Jacobian, one backward pass for each number."""
    outputs = module(torch.as_tensor(X))
    rows = []
    for value in outputs.flatten():
        grads = torch.autograd.grad(value, list(module.parameters()), retain_graph=True)
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    return torch.stack(rows).reshape(*outputs.shape, -1).numpy()


@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 5, 100])
def test_chunks_agree_with_the_whole_jacobian(n_outputs, chunk_size):
    module = twin(MLP, n_outputs=n_outputs)
    first, second = by_backward(module, VECTORS), by_backward(module, OTHERS)
    for X2, other in ((None, first), (OTHERS, second)):
        full = np.einsum("iap,jbp->ijab", first, other)
        options = {"chunk_size": chunk_size}
        close = {"rtol": 1e-12, "atol": 1e-12}
        found = empirical_ntk(module, VECTORS, X2, outputs="full", **options)
        np.testing.assert_allclose(found, full, **close)
        mean = np.trace(full, axis1=2, axis2=3) / n_outputs
        found = empirical_ntk(module, VECTORS, X2, **options)
        np.testing.assert_allclose(found, mean, **close)


@pytest.mark.parametrize("name", CONV)
def test_convolutions(name):
    module = twin(CONV[name], 6, image_shape=IMAGE_SHAPE)
    jacobian = by_backward(module, IMAGES)[:, 0]
    found = empirical_ntk(module, IMAGES, chunk_size=3)
    np.testing.assert_allclose(found, jacobian @ jacobian.T, rtol=1e-11)


def test_error_falls_as_the_root_of_the_width():
    exact = MLP.kernel(VECTORS)
    widths = np.array([16, 64, 256])
    errors = []
    for width in widths:
        squares = [
            np.square(empirical_ntk(twin(MLP, int(width), seed=seed), VECTORS) - exact)
            for seed in range(60)
        ]
        errors.append(math.sqrt(np.mean(squares)) / exact.max())
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    # Sixty networks tell the errors to about a tenth, and the slope to .05.
    assert -0.6 < slope < -0.4, slope
    assert errors[-1] < 0.06


@pytest.mark.parametrize("name", CONV)
def test_convolutional_twins_approach_the_kernel(name):
    exact = CONV[name].kernel(IMAGES, image_shape=IMAGE_SHAPE)
    errors = []
    for width in (8, 64):
        found = [
            empirical_ntk(
                twin(CONV[name], width, seed=seed, image_shape=IMAGE_SHAPE), IMAGES
            )
            for seed in range(8)
        ]
        errors.append(math.sqrt(np.mean(np.square(np.array(found) - exact))))
    # A root of eight is 2.8; eight networks leave room for chance.
    assert errors[1] < errors[0] / 1.9
    assert errors[1] < 0.15 * exact.max()


def test_several_outputs_have_one_kernel_in_the_limit():
    kernels = empirical_ntk(twin(MLP, 2048, n_outputs=2), OTHERS, outputs="full")
    exact = MLP.kernel(OTHERS)[..., None, None] * np.eye(2)
    assert np.abs(kernels - exact).max() < 0.15 * exact.max()


def test_frozen_layers_leave_the_kernel_of_the_last():
    module = twin(MLP, 2048)
    for parameter in module[:-1].parameters():
        parameter.requires_grad_(False)
    exact = MLP.kernel(VECTORS, kind="nngp")
    assert np.abs(empirical_ntk(module, VECTORS) - exact).max() < 0.15 * exact.max()


def test_type_and_any_module():
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0))
    found = empirical_ntk(module, VECTORS.tolist(), torch.as_tensor(OTHERS))
    assert found.dtype == np.float32 and found.shape == (7, 3)
    assert empirical_ntk(module.double(), VECTORS).dtype == np.float64
    assert all(parameter.grad is None for parameter in module.parameters())


def test_what_is_refused():
    module = twin(MLP)
    with pytest.raises(ValueError, match="outputs='all'"):
        empirical_ntk(module, VECTORS, outputs="all")
    with pytest.raises(ValueError, match="chunk_size"):
        empirical_ntk(module, VECTORS, chunk_size=0)
    with pytest.raises(ValueError, match="X2 has the shape"):
        empirical_ntk(module, VECTORS, VECTORS[0])
    with pytest.raises(ValueError, match="requires a gradient"):
        empirical_ntk(nn.ReLU(), VECTORS)
    f = linearize(module)
    with pytest.raises(ValueError, match="missing or unknown"):
        f({}, VECTORS)


def test_linearization_is_the_first_order():
    net = L.Serial(L.Dense(1.2, 0.3), L.Erf(), L.Dense(1.1, 0.2))
    module = twin(net, n_outputs=2)
    f = linearize(module)
    X = torch.as_tensor(OTHERS)
    np.testing.assert_allclose(f.predict(X), module(X).detach(), rtol=1e-14)
    generator = torch.Generator().manual_seed(1)
    shift = {
        name: torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in f.parameters.items()
    }
    errors = []
    for size in (1e-2, 1e-3):
        moved = {n: value + size * shift[n] for n, value in f.parameters.items()}
        exact = torch.func.functional_call(module, moved, (X,)).detach().numpy()
        errors.append(np.abs(f.predict(X, moved) - exact).max())
    # What is left is of second order.
    assert errors[1] == pytest.approx(errors[0] / 100, rel=0.1)


def test_linearization_keeps_the_parameters_it_was_made_at():
    module = twin(MLP)
    f = linearize(module)
    before = f.predict(VECTORS)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(f.predict(VECTORS), before)


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_gradient_flow_of_the_linearization_has_the_closed_form(n_outputs):
    net = L.Serial(L.Dense(1.2, 0.3), L.Erf(), L.Dense(1.1, 0.2))
    f = linearize(twin(net, 8, n_outputs))
    X, y = torch.as_tensor(VECTORS), torch.as_tensor(RNG.normal(size=(7, n_outputs)))
    names = list(f.parameters)
    sizes = [f.parameters[name].numel() for name in names]

    def unflatten(flat):
        parts = torch.as_tensor(flat).split(sizes)
        return {
            name: part.reshape(f.parameters[name].shape).requires_grad_()
            for name, part in zip(names, parts, strict=True)
        }

    def velocity(_, flat):
        parameters = unflatten(flat)
        loss = 0.5 * ((f(parameters, X) - y) ** 2).mean()
        grads = torch.autograd.grad(loss, [parameters[name] for name in names])
        return -torch.cat([grad.flatten() for grad in grads]).numpy()

    start = torch.cat([f.parameters[name].flatten() for name in names]).numpy()
    times = np.array([0.5, 3.0, 20.0])
    path = solve_ivp(
        velocity, (0.0, 20.0), start, t_eval=times, rtol=1e-10, atol=1e-12
    ).y.T
    module_at = [unflatten(flat) for flat in path]
    if n_outputs == 1:
        solution = Decomposition(
            empirical_ntk(f._module, VECTORS), y.numpy() - f.predict(X)
        )
        kernel = empirical_ntk(f._module, OTHERS, VECTORS)
        expected = f.predict(OTHERS) + solution.mean(kernel, 0.0, times)
    else:
        # The outputs share parameters at finite width: one kernel of all pairs of
        # rows and outputs, whose N entries are counted by its rows alone.
        full = empirical_ntk(f._module, VECTORS, outputs="full")
        cross = empirical_ntk(f._module, OTHERS, VECTORS, outputs="full")
        joint, across = (
            kernel.transpose(0, 2, 1, 3).reshape(len(kernel) * n_outputs, -1)
            for kernel in (full, cross)
        )
        residual = (y.numpy() - f.predict(X)).flatten()
        means = Decomposition(joint, residual).mean(across, 0.0, times)
        expected = f.predict(OTHERS) + means.reshape(3, 3, n_outputs)
    for parameters, mean in zip(module_at, expected, strict=True):
        np.testing.assert_allclose(f.predict(OTHERS, parameters), mean, atol=1e-7)
