"""The Brownian path: its law, and that it is a function of its seed."""

import math
import pickle

import pytest
import torch

from skfunc.solvers import BrownianPath

KNOTS = [0.0, 0.3, 1.0, 1.5]


def path(shape=(4, 3), knots=KNOTS, seed=5, **settings):
    return BrownianPath(shape, knots, seed, dtype=torch.float64, **settings)


def test_covariance_is_the_smaller_time():
    n = 100_000
    brownian = path((n,))
    times = [0.1, 0.3, 0.5, 0.99, 1.2, 1.5]
    values = torch.stack([brownian.increment(0.0, t) for t in times])
    found = values @ values.T / n
    t = torch.tensor(times, dtype=torch.float64)
    expected = torch.minimum(t[:, None], t)
    # The variance of a product of two jointly Gaussian values.
    error = ((t[:, None] * t + expected**2) / n).sqrt()
    assert ((found - expected).abs() < 4.5 * error).all()
    assert (values.mean(dim=1).abs() < 4.5 * (t / n).sqrt()).all()
    kurtosis = values.pow(4).mean(dim=1) / t**2
    assert ((kurtosis - 3).abs() < 4.5 * math.sqrt(96 / n)).all()


@pytest.mark.parametrize("middle", [0.11, 0.3, 0.65, 1.0, 1.3])
def test_increments_add_up(middle):
    brownian = path()
    whole = brownian.increment(0.05, 1.45)
    parts = brownian.increment(0.05, middle) + brownian.increment(middle, 1.45)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)


def test_order_of_queries_does_not_matter():
    queries = [(0.0, 0.3), (0.1, 0.2), (1.0, 1.5), (0.31, 0.9), (0.1, 1.4), (0.2, 0.21)]
    forwards = path()
    there = [forwards.increment(*query) for query in queries]
    backwards = path()
    back = [backwards.increment(*query) for query in reversed(queries)]
    for a, b in zip(there, reversed(back), strict=True):
        assert torch.equal(a, b)
    for query, a in zip(queries, there, strict=True):
        assert torch.equal(path().increment(*query), a)
        assert torch.equal(forwards.increment(*query), a)
    copy = pickle.loads(pickle.dumps(forwards))
    assert torch.equal(copy.increment(0.1, 1.4), there[4])


def test_what_is_kept_stays_small_and_never_matters():
    brownian = path((2,), [0.0, 1.0])
    grid = torch.linspace(0, 1, 513, dtype=torch.float64).tolist()
    first = [brownian.increment(a, b) for a, b in zip(grid, grid[1:], strict=False)]
    again = [
        path((2,), [0.0, 1.0]).increment(a, b)
        for a, b in zip(grid, grid[1:], strict=False)
    ]
    assert all(map(torch.equal, first, again))
    assert len(brownian._parts) <= 64


def test_sign_and_zero():
    brownian = path()
    assert torch.equal(brownian.increment(1.2, 0.2), -brownian.increment(0.2, 1.2))
    assert torch.equal(brownian.increment(0.7, 0.7), torch.zeros(4, 3).double())


def test_row_depends_on_its_own_seed_alone():
    seeds = [11, 12, 13, 14]
    together = path(seed=seeds)
    for i, seed in enumerate(seeds):
        alone = path((1, 3), seed=[seed])
        for query in [(0.0, 0.3), (0.13, 1.41)]:
            row = together.increment(*query)[i]
            assert torch.equal(alone.increment(*query)[0], row)
    assert not torch.equal(path(seed=1).increment(0, 1), path(seed=2).increment(0, 1))


def test_neighbouring_seeds_are_independent():
    rows = path((2_000, 50), [0.0, 1.0], seed=range(2_000)).increment(0.0, 0.5)
    neighbours = (rows[1:] * rows[:-1]).mean() / 0.5
    assert abs(neighbours.item()) < 4.5 / math.sqrt(1_999 * 50)
    assert rows.mean().abs().item() < 4.5 * math.sqrt(0.5 / 100_000)


def test_global_random_state_is_left_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    path().increment(0.0, 1.1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"knots": [0.0]}, r"at least two increasing times, got \[0.0\]"),
        ({"knots": [0.0, 1.0, 1.0]}, "increasing"),
        ({"seed": [1, 2]}, r"first axis of shape \(4, 3\); got 2 seeds"),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        path(**settings)


def test_time_outside_of_the_path():
    with pytest.raises(ValueError, match="from 0.0 to 1.5, got time 2.0"):
        path().increment(0.0, 2.0)
