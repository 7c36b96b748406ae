"""Networks make what they need on the device of their data.

Tensors of the device "meta" have no values, and refuse to be combined with those of
another device: what works there makes nothing on the CPU in passing.
"""

import copy

import pytest
import torch

from skfunc.nn import (
    NEURAL_PROCESSES,
    BinsLikelihood,
    CategoricalLikelihood,
    GaussianLikelihood,
    MixtureLikelihood,
    TaskBatch,
    conditional_log_likelihood,
    evidence_lower_bound,
)

SIDE, N_CONTEXT, N_TARGETS = 6, 5, 4
IMAGE = {"width": 8, "image_size": (SIDE, SIDE)}
KERNEL = {"width": 8, "n_layers": 2, "n_corrections": 1}
OPTIONS = {
    "convcnp": {"width": 8},
    "convcnp_grid": IMAGE | {"n_layers": 2},
    "convcnp_image": IMAGE | {"n_exemplars": 5},
    "kernel": KERNEL
    | {
        "kernels": ["matern52", "periodic"],
        "frequency_range": [1.0, 5.0],
        "n_scanned": 11,
    },
    "kernel_labels": KERNEL,
}
LIKELIHOODS = {
    "gaussian": GaussianLikelihood(0.1),
    "mixture": MixtureLikelihood(2, 0.1),
    "bins": BinsLikelihood(torch.linspace(-1.0, 1.0, 5)),
    "categorical": CategoricalLikelihood(),
}


def meta_batch(n_features):
    n = N_CONTEXT + N_TARGETS
    x = torch.randn(3, n, n_features, device="meta")
    y = torch.randn(3, n, 1, device="meta")
    there = torch.ones(3, n, dtype=torch.bool, device="meta")
    parts = [
        part[:, rows]
        for rows in (slice(N_CONTEXT), slice(N_CONTEXT, n))
        for part in (x, y, there)
    ]
    return TaskBatch(*parts)


CASES = [(name, "gaussian") for name in NEURAL_PROCESSES if name != "kernel_labels"]
CASES += [("kernel_labels", "categorical"), ("kernel", "mixture")]
CASES += [("cnp", "mixture"), ("cnp", "bins")]


@pytest.mark.parametrize(("name", "likelihood"), CASES)
def test_nothing_is_made_on_another_device(name, likelihood):
    n_features = 2 if name in ("convcnp_grid", "convcnp_image") else 1
    density = copy.deepcopy(LIKELIHOODS[likelihood]).to("meta")
    n_raw = 1 if likelihood == "categorical" else density.n_raw(1)
    options = OPTIONS.get(name, {"width": 16})
    network = NEURAL_PROCESSES[name](n_features, 1, n_raw, **options).to("meta")
    batch = meta_batch(n_features)
    bound = evidence_lower_bound if network.is_latent else conditional_log_likelihood
    options = {"generator": None} if network.is_latent else {}
    values = bound(network, density, batch, **options)
    assert values.device.type == "meta" and values.shape == (3,)
    values.mean().backward()
    for parameter in network.parameters():
        assert parameter.grad is None or parameter.grad.device.type == "meta"
