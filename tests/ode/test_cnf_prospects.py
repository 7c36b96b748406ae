"""Flows that cannot overtake are given up; others are not."""

import numpy as np
import pytest
from sklearn.datasets import make_blobs, make_moons

from skfunc import CNFDensity
from skfunc.ode import _cnf_plan
from skfunc.ode._cnf_prospects import Prospects

NOISE = np.random.default_rng(0).normal(0, 1, 400)
NOISE -= NOISE.mean()


def ended(curve, spread=0.1, n_epochs=60):
    """Return the epoch after which a training with such mean gains ends, if any."""
    place = iter(range(1, n_epochs + 1))
    epoch = 0
    prospects = Prospects(lambda _: curve(epoch) + spread * NOISE)
    for epoch in place:
        if prospects.are_gone(epoch, n_epochs, np.zeros((1, 1))):
            return epoch
    return None


def test_flow_that_stands_still_behind_is_given_up():
    assert ended(lambda epoch: -1.0) == 10


def test_flow_that_is_ahead_goes_on():
    assert ended(lambda epoch: 0.01) is None


def test_flow_that_catches_up_goes_on():
    assert ended(lambda epoch: -1.0 + epoch / 30) is None


def test_flow_is_given_up_once_it_slows_down():
    assert 15 < ended(lambda epoch: -1.0 + 0.9 * (1 - 2.0 ** (-epoch / 5))) < 40


def test_noise_of_the_rows_counts_as_far_to_go():
    def curve(epoch):
        return -0.1 + 0.04 * epoch / 10

    assert ended(curve, spread=0.1) is None
    assert ended(curve, spread=5.0) == 10


def test_window_grows_with_the_training():
    assert ended(lambda epoch: -1.0, n_epochs=300) == 50


@pytest.mark.parametrize("is_given_up", [True, False])
def test_fit_ends_with_the_flow(is_given_up, monkeypatch):
    calls = []

    def are_gone(self, epoch, n_epochs, parameters):
        assert np.isfinite(self.gains(parameters)).all()
        calls.append(epoch)
        return is_given_up

    monkeypatch.setattr(_cnf_plan.Prospects, "are_gone", are_gone)
    X = make_blobs(120, 2, centers=3, random_state=0)[0]
    model = CNFDensity(max_components=3, max_iter=25, random_state=0).fit(X)
    assert not model.has_flow_ and set(model.candidates_) == {"base", "flow"}
    assert calls == ([1] if is_given_up else [1, 2, 3, 4, 5])


def test_flow_alone_has_nothing_to_overtake(monkeypatch):
    monkeypatch.setattr(
        _cnf_plan.Prospects, "are_gone", lambda *args: pytest.fail("judged")
    )
    X = make_moons(60, noise=0.1, random_state=0)[0]
    model = CNFDensity(
        base="normal", hidden_layer_sizes=(8, 8), max_iter=5, random_state=0
    )
    assert model.fit(X).has_flow_
