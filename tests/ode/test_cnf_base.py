"""Bases of flows: shares that stack densities, bandwidths, widened normals."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm
from sklearn.mixture import GaussianMixture

from skfunc.ode._cnf_base import (
    choose_base,
    choose_kernel,
    choose_mixture,
    stacked_mixtures,
    stacking_shares,
    widened_normal,
)
from skfunc.ode._cnf_fit import is_worth_having
from skfunc.ode._cnf_forms import BackgroundForm, LocalKernelForm, MixtureForm


def clusters(n, seed=0):
    random = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    return centres[random.integers(3, size=n)] + random.normal(size=(n, 2))


def test_shares_are_those_of_the_mixture_that_drew_the_rows():
    random = np.random.default_rng(0)
    is_first = random.random(8000) < 0.3
    rows = np.where(is_first, random.normal(-2, 1, 8000), random.normal(2, 1, 8000))
    table = np.stack([norm(m).logpdf(rows) for m in (-2, 2, 30)], axis=1)
    shares = stacking_shares(table)
    np.testing.assert_allclose(shares[:2], [0.3, 0.7], atol=0.02)
    # The last one is the background, which is never left out.
    assert 0 < shares[2] < 1e-3 and shares.sum() == pytest.approx(1.0)


def test_model_that_adds_nothing_gets_nothing():
    logs = np.random.default_rng(0).normal(size=(500, 1))
    shares = stacking_shares(np.hstack([logs, logs - 50, logs - 50]))
    assert shares[1] == 0.0 and shares[0] > 0.99


def test_row_that_every_model_calls_impossible_is_no_error():
    shares = stacking_shares(np.array([[0.0, -1.0], [-1e6, -1e7]]))
    assert np.isfinite(shares).all()


@pytest.mark.parametrize("follows_covariance", [False, True])
def test_leave_one_out_is_that_of_refits(follows_covariance):
    rows = clusters(25)
    form, each = choose_kernel(rows, follows_covariance)
    covariance = form.bandwidth**2 * np.eye(2)
    if follows_covariance:
        covariance = covariance @ (np.cov(rows.T, ddof=0) + 1e-6 * np.eye(2))
    for i in (0, 7):
        rest = np.delete(rows, i, axis=0)
        values = [multivariate_normal(m, covariance).pdf(rows[i]) for m in rest]
        assert each[i] == pytest.approx(np.log(np.mean(values)), rel=1e-8)


def test_mixture_of_least_criterion():
    form = choose_mixture(clusters(400), 6, seed=0)
    assert form.n_components == 3


@pytest.mark.parametrize("covariance_type", ["full", "diag", "tied", "spherical"])
def test_part_is_scikit_learns_mixture(covariance_type):
    rows = clusters(200)
    rows = np.hstack([rows, rows[:, :1] + 0.01 * clusters(200, seed=1)])
    for n_components in (1, 6):
        form = MixtureForm(n_components, covariance_type)
        found = form.part(rows, 0).components().log_prob
        expected = GaussianMixture(
            n_components,
            covariance_type=covariance_type,
            reg_covar=1e-6,
            random_state=0,
        )
        np.testing.assert_allclose(
            found(torch.as_tensor(rows)),
            expected.fit(rows).score_samples(rows),
            rtol=1e-6,
        )


def test_mixture_of_copies_has_components_without_rows():
    rows = np.repeat(clusters(3), 5, axis=0)
    part = MixtureForm(5, "full").part(rows, 0)
    assert np.isfinite(part.cholesky).all()
    assert part.weights.sum() == pytest.approx(1.0)


def test_local_kernels_are_shaped_like_their_neighbours():
    random = np.random.default_rng(0)
    angles = random.uniform(0, np.pi, 80)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    part = LocalKernelForm(1.0, 0.5).part(rows)
    covariances = part.cholesky @ part.cholesky.transpose(0, 2, 1)
    # The longest axis of a kernel lies along the curve.
    longest = np.linalg.eigh(covariances)[1][:, :, 1]
    tangents = np.stack([-rows[:, 1], rows[:, 0]], axis=1)
    assert np.median(np.abs((longest * tangents).sum(1))) > 0.98
    unseen = torch.as_tensor(rows[:3] * 1.05)
    kernels = [
        multivariate_normal(*pair) for pair in zip(rows, covariances, strict=True)
    ]
    expected = np.log(np.mean([kernel.pdf(unseen) for kernel in kernels], axis=0))
    found = part.components().log_prob(unseen)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_copies_of_a_row_have_a_local_kernel():
    part = LocalKernelForm(1.0, 0.5).part(np.repeat(clusters(2), 8, axis=0))
    assert np.isfinite(part.cholesky).all()


def test_stacked_mixtures_are_few_for_few_rows_and_end_at_the_most_components():
    assert {form.n_components for form in stacked_mixtures(12, 30)} == {1, 2, 3, 4}
    forms = stacked_mixtures(1000, 8)
    assert max(f.n_components for f in forms if f.covariance_type == "full") == 8
    assert max(f.n_components for f in forms if f.covariance_type == "diag") == 15
    assert len(set(forms)) == len(forms)


def test_base_is_judged_by_rows_that_its_parts_did_not_see():
    rows, unseen = clusters(150), clusters(2000, seed=1)
    form = choose_base(rows, "auto", 6, np.arange(150) % 5, seed=0)
    score = form.fit(rows, 0).log_prob(unseen).mean()
    assert form.log_prob.mean() == pytest.approx(score, abs=0.15)
    assert form.shares.sum() == pytest.approx(1.0)
    for alone in ("mixture", "kernel"):
        other = choose_base(rows, alone, 6, np.arange(150) % 5, seed=0)
        assert score > other.fit(rows, 0).log_prob(unseen).mean() - 0.02


def test_very_few_rows_are_a_gaussian():
    form = choose_base(clusters(5), "auto", 6, np.arange(5), seed=0)
    assert [type(f) for f in form.forms] == [MixtureForm, BackgroundForm]
    assert form.log_prob is None


def test_normal_is_widened_to_the_rows():
    rows = 1.5 * np.random.default_rng(0).normal(size=(3000, 3))
    form = widened_normal(rows, np.arange(3000) % 5)
    expected = norm(scale=1.5).logpdf(rows).sum(1).mean()
    assert form.log_prob.mean() == pytest.approx(expected, abs=0.01)
    assert form.fit(rows, 0).log_prob(rows).mean() == pytest.approx(expected, abs=0.01)


def test_gain_must_be_beyond_chance():
    random = np.random.default_rng(0)
    assert is_worth_having(random.normal(0.5, 1.0, 100))
    assert not is_worth_having(random.normal(0.05, 1.0, 100))
    assert not is_worth_having(random.normal(-0.5, 1.0, 100))
    assert not is_worth_having(np.array([1.0]))
