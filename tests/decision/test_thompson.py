"""Thompson sampling minimizes; its bookkeeping is right."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.linear_model import LinearRegression

from skfunc.decision import ThompsonResult, thompson_minimize

GRID = np.linspace(-2, 2, 101)[:, None]
PROCESS = GaussianProcessRegressor(RBF(0.5), alpha=1e-6, optimizer=None)


def bowl(x):
    return float(((x - 0.52) ** 2).sum())


class Known(RegressorMixin, BaseEstimator):
    """Draws the true function, and keeps what it was fitted to."""

    fits = []

    def fit(self, X, y):
        Known.fits.append((X.copy(), y.copy()))
        return self

    def sample_y(self, X, n_samples, random_state):
        return ((X - 0.52) ** 2).sum(1)[:, None]


def test_finds_the_minimum_of_the_grid():
    found = thompson_minimize(PROCESS, bowl, candidates=GRID, n_iter=20, random_state=0)
    assert found.x_best == pytest.approx([0.52])
    assert found.f_best == pytest.approx(0.0, abs=1e-12)
    assert found.n_evaluations == 21
    assert found.y[-1] == bowl(found.X[-1])
    assert np.array_equal(found.best_so_far, np.minimum.accumulate(found.y))


def test_is_quicker_than_chance():
    steps = [
        thompson_minimize(
            PROCESS, bowl, candidates=GRID, n_iter=100, stop_at=1e-9, random_state=seed
        ).n_evaluations
        for seed in range(5)
    ]
    # Chance needs 51 on average.
    assert max(steps) < 20


def test_evaluates_the_minimum_of_the_drawn_function():
    Known.fits = []
    found = thompson_minimize(
        Known(), bowl, candidates=GRID, n_iter=3, n_initial=2, random_state=1
    )
    assert found.X[2] == pytest.approx([0.52])
    # The next best points, since none is evaluated twice.
    assert {round(x, 6) for x in found.X[3:, 0]} == {0.48, 0.56}
    assert [len(X) for X, _ in Known.fits] == [2, 3, 4]
    assert np.array_equal(Known.fits[-1][1], found.y[:4])


def test_repeat():
    again = thompson_minimize(
        Known(), bowl, candidates=GRID, n_iter=4, repeat=True, random_state=0
    )
    assert again.X[1:] == pytest.approx(np.full((4, 1), 0.52))


def test_ends_when_no_candidate_is_left():
    found = thompson_minimize(
        PROCESS, bowl, candidates=GRID[:4], n_iter=50, random_state=0
    )
    assert sorted(found.X[:, 0]) == pytest.approx(GRID[:4, 0])


def test_box():
    found = thompson_minimize(
        PROCESS,
        bowl,
        bounds=[[-2.0, 2.0], [0.0, 1.0]],
        n_iter=25,
        n_initial=3,
        n_candidates=300,
        random_state=0,
    )
    assert found.f_best < 1e-3
    assert (found.X >= [-2, 0]).all() and (found.X <= [2, 1]).all()


def test_seed():
    def run(seed):
        return thompson_minimize(
            PROCESS,
            bowl,
            bounds=[[-2, 2]],
            n_iter=5,
            n_candidates=100,
            random_state=seed,
        ).X

    assert np.array_equal(run(0), run(0))
    assert not np.array_equal(run(0), run(1))


def test_the_estimator_stays_unfitted():
    thompson_minimize(PROCESS, bowl, candidates=GRID, n_iter=1, random_state=0)
    assert not hasattr(PROCESS, "X_train_")


def test_only_initial_points():
    found = thompson_minimize(
        PROCESS, bowl, candidates=GRID, n_iter=0, n_initial=3, random_state=0
    )
    assert isinstance(found, ThompsonResult) and found.n_evaluations == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either candidates or bounds"),
        ({"candidates": GRID, "bounds": [[0, 1]]}, "either candidates or bounds"),
        ({"bounds": [[1, 0]]}, "lower < upper"),
        ({"bounds": [[0, 1, 2]]}, "lower < upper"),
        ({"candidates": GRID, "n_iter": -1}, "n_iter"),
        ({"candidates": GRID, "n_initial": 0}, "n_initial"),
        ({"candidates": GRID, "stop_at": np.nan}, "stop_at"),
        ({"bounds": [[0, 1]], "n_candidates": 0}, "n_candidates"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        thompson_minimize(PROCESS, bowl, **options)


def test_bad_function_and_bad_estimator():
    with pytest.raises(ValueError, match="f returned nan"):
        thompson_minimize(PROCESS, lambda x: np.nan, candidates=GRID)
    with pytest.raises(TypeError, match="LinearRegression has no method sample_y"):
        thompson_minimize(LinearRegression(), bowl, candidates=GRID)
