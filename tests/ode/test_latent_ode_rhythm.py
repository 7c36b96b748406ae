"""Rhythms of series, and the rotations that a latent ODE starts with."""

import numpy as np
import pytest
import torch

from skfunc import LatentODE
from skfunc.nn import draw_module
from skfunc.nn._latent_ode_encoder import AutonomousField
from skfunc.nn._latent_ode_path import solve_path
from skfunc.ode._latent_ode_rhythm import find_rhythms
from skfunc.ode._panel import padded_rows

GRID = np.linspace(0, 1, 60)


def waves(cycles, n=30, seed=0, noise=0.1, missing=0.3):
    rng = np.random.default_rng(seed)
    X = noise * rng.normal(size=(n, len(GRID)))
    for k in np.atleast_1d(cycles):
        X += np.sin(2 * np.pi * (k * GRID + rng.uniform(size=(n, 1))))
    X[rng.uniform(size=X.shape) < missing] = np.nan
    return X


class TestRhythms:
    def test_cycles_are_found_whatever_the_phases(self):
        found = find_rhythms(padded_rows(waves([5, 12.25]), GRID, 1), 2)
        np.testing.assert_allclose(np.sort(found), [5, 12.25])

    def test_strongest_are_kept(self):
        X = waves(5) + 2 * waves(9, seed=1, missing=0)
        np.testing.assert_allclose(find_rhythms(padded_rows(X, GRID, 1), 1), [9])
        assert not len(find_rhythms(padded_rows(X, GRID, 1), 0))

    def test_channels_count_together(self):
        X = np.stack([waves(0, noise=1), waves(6)], axis=-1).reshape(30, -1)
        np.testing.assert_allclose(find_rhythms(padded_rows(X, GRID, 2), 2), [6])

    @pytest.mark.parametrize("n", [1, 2, 4, 30])
    def test_noise_has_none(self, n):
        rng = np.random.default_rng(n)
        for _ in range(10):
            X = rng.normal(size=(n, 40))
            series = padded_rows(X, np.linspace(0, 1, 40), 1)
            assert not len(find_rhythms(series, 3))

    def test_trends_and_walks_have_none(self):
        rng = np.random.default_rng(0)
        walks = rng.normal(size=(20, 60)).cumsum(axis=1)
        trends = GRID**2 * rng.normal(size=(20, 1))
        for X in (walks, trends, np.zeros((3, 60)), np.full((2, 60), np.nan)):
            assert not len(find_rhythms(padded_rows(X, GRID, 1), 3))


class TestRotation:
    def test_field_starts_with_the_turns_given(self):
        field = AutonomousField(5, (), "tanh", [2.0, 0.25])
        draw_module(field, torch.Generator().manual_seed(0))
        torch.nn.init.zeros_(field.layers.layers[0].weight)
        field = field.double().requires_grad_(False)
        start = torch.tensor([[[1.0, 0.0, 0.0, 2.0, 3.0]]], dtype=torch.float64)
        path = solve_path(field, start, n_steps=200)
        times = torch.tensor([[[0.125, 0.5, 1.0]]], dtype=torch.float64)
        expected = [
            [0.0, 1.0, -2 * np.sin(np.pi / 16), 2 * np.cos(np.pi / 16), 3.0],
            [1.0, 0.0, -2 * np.sin(np.pi / 4), 2 * np.cos(np.pi / 4), 3.0],
            [1.0, 0.0, -2.0, 0.0, 3.0],
        ]
        np.testing.assert_allclose(path.at(times)[0, 0], expected, atol=1e-5)

    def test_more_turns_than_pairs_are_refused(self):
        with pytest.raises(ValueError, match="no 2 pairs"):
            AutonomousField(3, (), "tanh", [1.0, 2.0])


class TestEstimator:
    settings = {
        "times": 10 * GRID,
        "latent_size": 4,
        "hidden_layer_sizes": (16,),
        "max_iter": 120,
        "random_state": 0,
    }

    def test_many_cycles_are_learned(self):
        X = waves(4, n=24)
        # Noise that lasts would fill gaps where the path does not.
        settings = self.settings | {"noise": "white"}
        model = LatentODE(**settings).fit(X)
        np.testing.assert_allclose(model.periods_, [10 / 4, 20], rtol=1e-12)
        assert model.n_steps_ == 40
        truth = waves(4, n=24, noise=0, missing=0)
        error = np.sqrt(np.mean((model.predict(X) - truth) ** 2))
        without = LatentODE(**settings, periods=None).fit(X)
        assert without.periods_ is None and without.n_steps_ == 20
        flat = np.sqrt(np.mean((without.predict(X) - truth) ** 2))
        assert error < 0.3 < 0.6 < flat

    def test_given_periods_are_used(self):
        settings = self.settings | {"max_iter": 1}
        model = LatentODE(**settings, periods=[2.5]).fit(waves(7))
        np.testing.assert_array_equal(model.periods_, [2.5])
        assert model.n_steps_ == 40
        assert LatentODE(**settings, periods=[]).fit(waves(7)).n_steps_ == 20
        model = LatentODE(**settings, periods=np.array([5.0, 4.0])).fit(waves(7))
        np.testing.assert_array_equal(model.periods_, [5, 4])

    @pytest.mark.parametrize("periods", [[1, 2, 3], [0.0], [[1.0]], [np.nan], "weekly"])
    def test_bad_periods_are_refused(self, periods):
        with pytest.raises(ValueError, match="periods"):
            LatentODE(**self.settings, periods=periods).fit(waves(7))

    def test_too_few_steps_are_refused(self):
        with pytest.raises(ValueError, match="fewer than four"):
            LatentODE(**self.settings, periods=[0.5], n_steps=20).fit(waves(7))

    def test_few_steps_leave_quick_rhythms_out(self):
        settings = self.settings | {"max_iter": 1}
        model = LatentODE(**settings, n_steps=50).fit(waves(7))
        np.testing.assert_allclose(model.periods_, [20, 40])
