"""Images as rows, convolutional fields, and fields of the user's own."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import skfunc


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split(X, y, random_state=0, stratify=y)


def test_digits_are_learned(digits):
    X, X_test, y, y_test = digits
    model = skfunc.ODENetClassifier(
        field="conv",
        image_shape=(1, 8, 8),
        state_size=16,
        n_members=1,
        max_iter=10,
        learning_rate_init=0.02,
        random_state=0,
    ).fit(X, y)
    assert model.score(X_test, y_test) > 0.9
    proba = model.predict_proba(X_test[:20])
    np.testing.assert_allclose(model.predict_proba(X_test[5:7]), proba[5:7], rtol=1e-12)
    np.testing.assert_allclose(
        model.predict_proba(X_test[:20][::-1])[::-1], proba, rtol=1e-12
    )


IMAGE = {"image_shape": (1, 8, 8), "state_size": 4, "max_iter": 1, "n_members": 2}


def test_image_regressor(digits, regressor):
    X, _, y, _ = digits
    model = regressor(**IMAGE, field="conv", n_augment=1).fit(X[:150], y[:150])
    mean, std = model.predict(X[:9], return_std=True)
    assert mean.shape == std.shape == (9,)
    part = model.predict(X[:9], rtol=1e-5)
    np.testing.assert_allclose(model.predict(X[3:4], rtol=1e-5), part[3:4], rtol=1e-12)
    assert model.nfe(X[:9]).shape == (9,)


class Spring(nn.Module):
    """A user's field on vectors, with a buffer."""

    def __init__(self, size):
        super().__init__()
        self.linear = nn.Linear(size, size)
        self.register_buffer("friction", torch.linspace(0.1, 0.5, size))

    def forward(self, t, h):
        return torch.tanh(self.linear(h)) * torch.cos(t) - self.friction * h


class Diffusion(nn.Module):
    """A user's field on images: a fixed stencil, a learned rate for each channel."""

    def __init__(self, size):
        super().__init__()
        channels, height, width = size
        stencil = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
        self.register_buffer("stencil", stencil.expand(channels, 1, 3, 3).clone())
        self.rate = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, t, h):
        flow = nn.functional.conv2d(
            h, self.stencil.to(h), padding=1, groups=len(self.stencil)
        )
        return self.rate * flow


@pytest.mark.parametrize(
    "solver", [{}, {"solver": "dopri5", "rtol": 1e-4}, {"gradient": "checkpoint"}]
)
def test_field_of_the_user(regressor, measured, solver):
    X, y = measured
    model = regressor(field=Spring, **solver).fit(X, y)
    mean = model.predict(X)
    assert np.isfinite(mean).all()
    np.testing.assert_allclose(model.predict(X[7:9]), mean[7:9], rtol=1e-12)
    tight = model.predict(X, rtol=1e-9)
    np.testing.assert_allclose(tight, model.predict(X, n_steps=500), rtol=1e-3)
    np.testing.assert_array_equal(
        mean, regressor(field=Spring, **solver).fit(X, y).predict(X)
    )


def test_field_of_the_user_learns(regressor, measured):
    X, y = measured
    model = regressor(field=Spring, max_iter=80, learning_rate_init=0.03).fit(X, y)
    assert model.score(X, y) > 0.6


def test_function_that_builds_a_field(regressor, measured):
    X, y = measured

    def build(size):
        return Spring(size)

    np.testing.assert_array_equal(
        regressor(field=build).fit(X, y).predict(X),
        regressor(field=Spring).fit(X, y).predict(X),
    )


def test_field_of_the_user_on_images(digits, classifier):
    X, _, y, _ = digits
    model = classifier(**IMAGE, field=Diffusion).fit(X[:150], y[:150])
    assert model.predict_proba(X[:9]).shape == (9, 10)
    close = model.predict_proba(X[:9], rtol=1e-6)
    np.testing.assert_allclose(
        model.predict_proba(X[4:5], rtol=1e-6), close[4:5], rtol=1e-12
    )


def test_images_get_the_convolutional_field_by_default():
    """Leaving `field` alone is naming "conv" for images and "mlp" for tables."""
    X = np.random.default_rng(0).normal(size=(24, 16))
    y = (X[:, 0] > 0).astype(int)
    options = {"state_size": 4, "n_members": 1, "max_iter": 2, "random_state": 0}
    for shape, named in (((1, 4, 4), "conv"), (None, "mlp")):
        left = skfunc.ODENetClassifier(image_shape=shape, **options).fit(X, y)
        chosen = skfunc.ODENetClassifier(image_shape=shape, field=named, **options).fit(
            X, y
        )
        assert np.array_equal(left.parameters_, chosen.parameters_)


@pytest.mark.parametrize("field", ["mlp", "conv"])
def test_pixels_of_a_channel_are_standardized_together(field):
    rng = np.random.default_rng(0)
    X = rng.normal([1.0, 1.0, 5.0, 5.0] * 2, 1.0, size=(30, 8))
    # A pixel that is nearly always dark.
    X[1:, 0] = 0.0
    model = skfunc.ODENetClassifier(
        field=field, image_shape=(2, 2, 2), state_size=4, n_members=2, max_iter=1
    ).fit(X, np.arange(30) % 2)
    for channel in (slice(0, 4), slice(4, 8)):
        np.testing.assert_allclose(model.X_mean_[channel], X[:, channel].mean())
        np.testing.assert_allclose(model.X_scale_[channel], X[:, channel].std())
    assert model.predict_proba(X).shape == (30, 2)
