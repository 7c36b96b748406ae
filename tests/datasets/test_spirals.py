"""Spirals are what their formula says."""

import numpy as np
import pytest

from skfunc.datasets import make_spirals


def test_points_turn_evenly_about_their_centres():
    spirals = make_spirals(50, noise_std=0.1, random_state=0)
    assert spirals.observed.shape == spirals.future.shape == (50, 100, 2)
    path = np.concatenate([spirals.truth, spirals.future], axis=1)
    times = np.concatenate([spirals.times, spirals.future_times])
    assert 0 < spirals.clockwise.mean() < 1
    for turned, points in zip(spirals.clockwise, path, strict=True):
        x, y = points.T
        angle = np.unwrap(np.arctan2(y, x + 5 if turned else x - 5))
        slope = np.diff(angle) / np.diff(times)
        np.testing.assert_allclose(slope, -1 if turned else 1, rtol=1e-9)
    noise = spirals.observed - spirals.truth
    assert abs(noise.std() - 0.1) < 0.002


def test_seed_and_bad_length():
    one, same, other = (
        make_spirals(3, n_times=20, random_state=s).observed for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert make_spirals(3, n_times=400, n_future=0).future.shape == (3, 0, 2)
    with pytest.raises(ValueError, match="at most 400 together"):
        make_spirals(3, n_times=301)
