"""Noise that lasts: found, interpolated, drawn."""

import numpy as np
import pytest

from skfunc import LatentODE

TIMES = np.linspace(0.0, 10.0, 30)
STD, SHARE, LENGTH = 2.0, 0.8, 1.5


def lasting_noise(n_series, seed):
    """Return an Ornstein-Uhlenbeck process with white noise, and the process."""
    rng = np.random.default_rng(seed)
    cov = STD**2 * SHARE * np.exp(-np.abs(TIMES[:, None] - TIMES) / LENGTH)
    process = rng.multivariate_normal(np.zeros(len(TIMES)), cov, n_series)
    white = STD * np.sqrt(1 - SHARE) * rng.normal(size=process.shape)
    return 5.0 + process + white, process


def fitted(**options):
    settings = {"latent_size": 2, "hidden_layer_sizes": (8,), "encoder_size": 8}
    settings |= {"times": TIMES, "periods": None, "max_iter": 30, "random_state": 0}
    return LatentODE(**(settings | options)).fit(lasting_noise(200, 0)[0])


@pytest.fixture(scope="module")
def model():
    return fitted()


@pytest.fixture(scope="module")
def gaps():
    """Series with gaps, and what they would be without."""
    whole, process = lasting_noise(100, 1)
    rows = whole.copy()
    rows[np.random.default_rng(2).uniform(size=rows.shape) < 0.4] = np.nan
    return rows, whole, process


def test_the_noise_is_found(model):
    assert model.noise_std_ == pytest.approx([STD], rel=0.25)
    assert model.noise_share_ == pytest.approx([SHARE], abs=0.2)
    assert model.noise_length_ == pytest.approx([LENGTH], rel=0.5)


def test_gaps_are_filled_nearly_as_well_as_can_be(model, gaps):
    rows, whole, _ = gaps
    hidden = np.isnan(rows)
    best = np.full_like(rows, 5.0)
    cov = STD**2 * SHARE * np.exp(-np.abs(TIMES[:, None] - TIMES) / LENGTH)
    for row, mean in zip(rows, best, strict=True):
        seen = np.isfinite(row)
        white = STD**2 * (1 - SHARE) * np.eye(seen.sum())
        weights = np.linalg.solve(cov[seen][:, seen] + white, row[seen] - 5.0)
        mean += cov[:, seen] @ weights

    def error(mean):
        return np.mean((mean - whole)[hidden] ** 2)

    mean, std = model.predict(rows, return_std=True)
    assert error(mean) < 1.1 * error(best)
    z = ((whole - mean) / std)[hidden]
    assert np.mean(z**2) == pytest.approx(1.0, abs=0.15)
    white = fitted(noise="white")
    assert error(white.predict(rows)) > 1.3 * error(best)
    assert white.score(rows) < model.score(rows) - 0.05
    np.testing.assert_array_equal(white.noise_share_, [0.0])


def test_what_lasts_fades_behind_the_last_value(model):
    rows = np.full((2, len(TIMES)), np.nan)
    rows[:, 10] = [9.0, 1.0]
    near, far = TIMES[10] + np.array([0.01, 20 * LENGTH])
    mean, std = model.predict(rows, times=[near, far], return_std=True)
    assert mean[0, 0] - mean[1, 0] > 3.0
    assert std[0, 0] < 0.9 * std[0, 1]


def test_draws_agree_with_predictions(model, gaps):
    rows, whole, _ = gaps
    some = rows[:4]
    asked = np.append(TIMES[::3] + 0.05, 12.0)
    mean, std = model.predict(some, times=asked, return_std=True)
    paths = model.sample_paths(some, times=asked, n_samples=3000, random_state=1)
    white = model.noise_std_**2 * (1 - model.noise_share_)
    spread = np.sqrt(std**2 - white)
    np.testing.assert_allclose(paths.mean(-1), mean, atol=0.12)
    np.testing.assert_allclose(paths.std(-1), spread, rtol=0.1)
    series = model.sample(4000, random_state=0)
    covariance = np.cov(series.T)
    truth = np.cov(np.concatenate([whole, lasting_noise(2000, 3)[0]]).T)
    np.testing.assert_allclose(covariance, truth, atol=1.5)


def test_draws_do_not_depend_on_other_series(model, gaps):
    rows = gaps[0]
    own = [(TIMES[s], row[s]) for row, s in zip(rows, np.isfinite(rows), strict=True)]
    panel = LatentODE(max_iter=2, latent_size=2, window=(0, 10), random_state=0).fit(
        own
    )
    asked = [0.5, 3.0, 11.0]
    own[0] = own[0][0][:3], own[0][1][:3]
    alone = panel.sample_paths(own[:1], times=asked, n_samples=3, random_state=0)
    among = panel.sample_paths(own, times=asked, n_samples=3, random_state=0)
    np.testing.assert_allclose(among[:1], alone, rtol=1e-9)
