"""Columns mapped to normal ones by their quantiles: inverse, slope, tails."""

import pickle

import numpy as np
import pytest
from scipy.stats import kstest

from skfunc import CNFDensity
from skfunc.ode._cnf_quantiles import QuantileMap, fit_quantile_map
from skfunc.ode._cnf_rows import fit_row_map


def columns(n, seed=0):
    """Return a skewed column, one of two far peaks, and one of three values."""
    random = np.random.default_rng(seed)
    peaks = random.choice([-3.0, 3.0], n) + 0.1 * random.normal(size=n)
    X = [random.exponential(size=n), peaks, random.integers(0, 3, n)]
    X = np.column_stack(X).astype(float)
    return (X - X.mean(0)) / X.std(0)


@pytest.fixture(scope="module")
def halves():
    X = columns(4600)
    return X[:600], X[600:]


@pytest.fixture(scope="module")
def fitted(halves):
    return fit_quantile_map(halves[0])


def test_columns_become_normal():
    X = columns(4000)[:, :2]
    z, _ = fit_quantile_map(X).forward(X)
    for column in z.T:
        assert kstest(column, "norm").statistic < 0.03


def test_there_and_back_also_far_outside(fitted, halves):
    X = np.concatenate([halves[1][:50], np.full((1, 3), 1e6), np.full((1, 3), -1e6)])
    z, _ = fitted.forward(X)
    np.testing.assert_allclose(fitted.backward(z), X, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("j", [0, 1, 2])
def test_map_increases_and_its_slope_is_the_derivative(fitted, j):
    column = QuantileMap(fitted.knots[:, [j]])
    grid, step = np.linspace(-6.0, 6.0, 4001)[:, None], 1e-6
    z, log_slope = column.forward(grid)
    assert (np.diff(z[:, 0]) > 0).all()
    ahead, back = (column.forward(grid + by)[0] for by in (step, -step))
    numeric = (ahead - back)[:, 0] / 2 / step
    np.testing.assert_allclose(np.exp(log_slope), numeric, rtol=1e-4)


def test_density_of_skewed_rows_integrates_to_one_and_is_better():
    random = np.random.default_rng(0)
    X = np.exp(1.5 * random.normal(size=(45, 1)))
    unseen = np.exp(1.5 * random.normal(size=(500, 1)))
    options = {"base": "mixture", "max_components": 1, "random_state": 0}
    model = CNFDensity(preprocessing="quantile", **options).fit(X)
    grid = np.concatenate([np.linspace(-20, 60, 40_001), np.geomspace(60.1, 1e4, 4000)])
    density = np.exp(model.score_samples(grid[:, None]))
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-3)
    plain = CNFDensity(**options).fit(X)
    assert model.score(unseen) > plain.score(unseen) + 0.3
    np.testing.assert_allclose(model.inverse_transform(model.transform(X)), X)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))


def test_columns_that_follow_from_others_still_do():
    X = np.exp(columns(80)[:, :2])
    wide = np.column_stack([X, 2 * X[:, 0] - 1])
    row_map = fit_row_map(wide, "quantile")
    rows, log_det = row_map.to_flow(wide)
    assert rows.shape == (80, 2) and np.isfinite(log_det).all()
    np.testing.assert_allclose(row_map.from_flow(rows), wide, atol=1e-9)
    assert row_map.to_flow(wide + [[0, 0, 0.1]])[1].max() == -np.inf
