"""Training on a CUDA device learns what training on the CPU does."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits

import skfunc

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
SMALL = {
    "hidden_size": 16,
    "n_layers": 2,
    "n_heads": 2,
    "max_iter": 5,
    "random_state": 0,
    "device": "cpu",
}


def of_both(model, *data):
    """Return the model fitted on the CPU and on the device."""
    return [clone(model).set_params(device=d).fit(*data) for d in ("cpu", DEVICE)]


# Training is in float32, and sums have another order.
@pytest.mark.parametrize("variant", ["cnp", "convcnp", "kernel", "lbanp", "tnp"])
def test_regressor(measured, variant):
    model = skfunc.NeuralProcessRegressor("self", variant=variant, **SMALL)
    here, there = of_both(model, *measured)
    for a, b in zip(
        here.predict(measured[0], return_std=True),
        there.predict(measured[0], return_std=True),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("likelihood", ["mixture", "bins"])
def test_likelihoods(measured, likelihood):
    model = skfunc.NeuralProcessRegressor("self", likelihood=likelihood, **SMALL)
    here, there = of_both(model, *measured)
    np.testing.assert_allclose(
        here.log_prob(*measured), there.log_prob(*measured), rtol=1e-2, atol=1e-2
    )


# The device has draws of the latent of its own.
@pytest.mark.parametrize("variant", ["anp", "np"])
def test_latent(measured, variant):
    model = skfunc.NeuralProcessRegressor("self", variant=variant, **SMALL)
    _, there = of_both(model, *measured)
    assert np.isfinite(there.sample_y(measured[0], 3)).all()
    assert np.isfinite(there.loss_curve_).all()


def test_classifier(labelled):
    here, there = of_both(skfunc.NeuralProcessClassifier("self", **SMALL), *labelled)
    np.testing.assert_allclose(
        here.predict_proba(labelled[0]), there.predict_proba(labelled[0]), atol=1e-2
    )


@pytest.mark.parametrize("variant", ["cnp", "convcnp"])
def test_image_completer(variant):
    images = load_digits().data[:200]
    masked = np.where(np.arange(64) < 32, images[:5], np.nan)
    model = skfunc.ImageCompleter(image_shape=(1, 8, 8), variant=variant, **SMALL)
    here, there = of_both(model, images)
    np.testing.assert_allclose(
        here.transform(masked), there.transform(masked), rtol=1e-2, atol=0.05
    )
