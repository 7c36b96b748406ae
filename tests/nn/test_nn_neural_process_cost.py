"""How the work grows with context and targets, counted in operations."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from skfunc.nn import (
    AttentiveNeuralProcess,
    ConditionalNeuralProcess,
    ConvolutionalNeuralProcess,
    InducingNeuralProcess,
    LatentNeuralProcess,
    TransformerNeuralProcess,
    draw_module,
)

WIDTH, LAYERS = 16, 3
MAKE = {
    "anp": lambda: AttentiveNeuralProcess(1, 1, 2, width=WIDTH, n_heads=4),
    "cnp": lambda: ConditionalNeuralProcess(1, 1, 2, width=WIDTH),
    "convcnp": lambda: ConvolutionalNeuralProcess(1, 1, 2, width=WIDTH),
    "lbanp": lambda: InducingNeuralProcess(
        1, 1, 2, width=WIDTH, n_layers=LAYERS, n_inducing=8
    ),
    "np": lambda: LatentNeuralProcess(1, 1, 2, width=WIDTH),
    "tnp": lambda: TransformerNeuralProcess(1, 1, 2, width=WIDTH, n_layers=LAYERS),
}


def count(function):
    """Return what the function returns, and its multiplications and additions."""
    # Attention is counted where it is done by matrix products.
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            result = function()
    return result, counter.get_total_flops()


def costs(name, n, m):
    # The counter follows modules by hooks on gradients, of which there are none here.
    network = MAKE[name]().requires_grad_(False)
    draw_module(network, torch.Generator().manual_seed(0))
    x, y = torch.rand(1, n, 1), torch.rand(1, n, 1)
    mask = torch.ones(1, n, dtype=torch.bool)
    state, encoding = count(lambda: network.encode(x, y, mask))
    _, decoding = count(lambda: network.decode(state, torch.rand(1, m, 1)))
    return encoding, decoding


@pytest.mark.parametrize("name", sorted(MAKE))
def test_decoding_is_linear_in_the_targets(name):
    once, twice, thrice = (costs(name, 50, m)[1] for m in (40, 80, 120))
    assert thrice - twice == twice - once > 0


@pytest.mark.parametrize("name", ["anp", "cnp", "convcnp", "lbanp", "np"])
def test_encoding_is_linear_in_the_context(name):
    once, twice, thrice = (costs(name, n, 40)[0] for n in (50, 100, 150))
    assert thrice - twice == twice - once > 0


@pytest.mark.parametrize("name", ["cnp", "convcnp", "lbanp", "np"])
def test_a_target_costs_the_same_whatever_the_context(name):
    assert costs(name, 50, 40)[1] == costs(name, 100, 40)[1]


@pytest.mark.parametrize(("name", "layers"), [("anp", 1), ("tnp", LAYERS)])
def test_a_target_pays_for_its_attention_alone(name, layers):
    """Keys and values come from the state: n enters by two products a layer."""
    n, m = 50, 40
    more = costs(name, 2 * n, m)[1] - costs(name, n, m)[1]
    assert more == layers * 2 * (2 * n * m * WIDTH)


def test_the_transformer_reads_its_context_once_per_layer_but_the_last():
    """The last block's keys and values are kept; nothing reads its output."""
    values = [costs("tnp", n, 1)[0] for n in (49, 99, 149)]
    # The second difference is that of the square of the tokens, n + 1 with the start.
    assert values[2] - 2 * values[1] + values[0] == (LAYERS - 1) * 4 * WIDTH * 2 * 50**2
