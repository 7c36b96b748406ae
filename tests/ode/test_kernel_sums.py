"""Sums of kernels against all pairs."""

import numpy as np
import pytest
from scipy.stats import norm, truncnorm

from skfunc.ode._kernel_sums import KernelSums


@pytest.fixture
def centres():
    rng = np.random.default_rng(0)
    bursts = rng.uniform(size=(4, 1)) + 1e-3 * rng.normal(size=(4, 10))
    every = np.concatenate([rng.uniform(size=20), bursts.ravel(), [0.0, 1.0]])
    return np.sort(np.clip(every, 0.0, 1.0))


def pairs(centres, h):
    return truncnorm(-centres / h, (1.0 - centres) / h, centres, h)


@pytest.mark.parametrize("h", [1e-5, 1e-3, 0.05, 0.3])
def test_sums_are_those_over_all_pairs(centres, h):
    times = np.append(np.random.default_rng(1).uniform(size=200), centres)
    sums, every = KernelSums(centres, h), pairs(centres, h)
    density = every.pdf(times[:, None]).sum(1)
    np.testing.assert_allclose(sums.density(times), density, rtol=1e-12, atol=1e-9)
    below = every.cdf(times[:, None]).sum(1)
    np.testing.assert_allclose(sums.cumulative(times), below, atol=1e-11)


def test_the_same_mark_is_left_out(centres):
    marks = np.arange(len(centres)) % 3
    found = KernelSums(centres, 0.05).density(centres, (marks, marks))
    every = pairs(centres, 0.05).pdf(centres[:, None])
    expected = (every * (marks[:, None] != marks)).sum(1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_table_answers_many_times(centres):
    times = np.random.default_rng(1).uniform(size=20_000)
    sums, every = KernelSums(centres, 0.05), pairs(centres, 0.05)
    assert sums._worth_a_table(len(times)) and not sums._worth_a_table(100)
    few = slice(0, 500)
    density = every.pdf(times[few, None]).sum(1)
    peak = norm.pdf(0) / 0.05
    np.testing.assert_allclose(sums.density(times)[few], density, atol=1e-8 * peak)
    below = every.cdf(times[few, None]).sum(1)
    np.testing.assert_allclose(sums.cumulative(times)[few], below, atol=1e-8)
