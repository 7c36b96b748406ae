"""Depth is a choice after training: tolerances, steps, evaluations, reports."""

import copy
import pickle

import numpy as np
import pytest

from skfunc.solvers import SolverWarning

ADAPTIVE = {"solver": "dopri5", "rtol": 1e-4, "atol": 1e-5}
SOLVERS = {
    "midpoint": {},
    "rk4": {"solver": "rk4", "n_steps": 3},
    "dopri5": ADAPTIVE,
    "tsit5": ADAPTIVE | {"solver": "tsit5"},
}


@pytest.fixture(scope="module", params=SOLVERS)
def solved(request, regressor, measured):
    """Return a regressor for each solver, its members grown out of the trivial flow."""
    model = regressor(max_iter=3, **SOLVERS[request.param]).fit(*measured)
    return deepen(model)


def deepen(model):
    """Make a fitted model's flow curved, so that solvers have work to do."""
    model = copy.deepcopy(model)
    noise = np.random.default_rng(0).normal(size=model.parameters_.shape)
    model.parameters_ = model.parameters_ + 0.5 * noise
    return model


def test_row_does_not_depend_on_its_batch(solved, measured):
    X, _ = measured
    mean, std = solved.predict(X, return_std=True)
    for rows in (slice(0, 1), slice(17, 18), slice(5, 50), [3, 88, 41]):
        part, part_std = solved.predict(X[rows], return_std=True)
        np.testing.assert_allclose(part, mean[rows], rtol=1e-12)
        np.testing.assert_allclose(part_std, std[rows], rtol=1e-12)
    order = np.random.default_rng(0).permutation(90)
    np.testing.assert_allclose(solved.predict(X[order]), mean[order], rtol=1e-12)


def test_row_does_not_depend_on_its_chunk(solved, measured, monkeypatch):
    X, _ = measured
    whole = solved.predict(X, return_std=True)
    monkeypatch.setattr("skfunc._members._PREDICT_NUMBERS", 2000)
    parts = solved.predict(X, return_std=True)
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-12)
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-12)
    assert solved.nfe(X).shape == (90,)


def test_tight_tolerance_and_many_steps_agree(solved, measured):
    X, _ = measured
    tight = solved.predict(X, rtol=1e-9)
    fine = solved.predict(X, n_steps=400)
    order = 2 if solved.solver == "midpoint" else 4
    np.testing.assert_allclose(fine, tight, rtol=1e-3 if order == 2 else 1e-7)
    assert np.abs(solved.predict(X) - tight).max() > 1e-9
    deviations = [
        solved.predict(X, return_std=True, **how)[1]
        for how in ({"rtol": 1e-9}, {"n_steps": 400})
    ]
    np.testing.assert_allclose(*deviations, rtol=1e-2 if order == 2 else 1e-6)


def test_smaller_tolerances_come_closer(solved, measured):
    X, _ = measured
    tight = solved.predict(X, rtol=1e-10)
    errors = [
        np.abs(solved.predict(X, rtol=rtol) - tight).max()
        for rtol in (1e-2, 1e-4, 1e-7)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_tolerance_and_steps_exclude_each_other(solved, measured, fitted_classifier):
    X, _ = measured
    with pytest.raises(ValueError, match="rtol or n_steps"):
        solved.predict(X, rtol=1e-3, n_steps=3)
    with pytest.raises(ValueError, match="rtol or n_steps"):
        fitted_classifier.predict_proba(np.ones((2, 4)), rtol=1e-3, n_steps=3)


@pytest.mark.parametrize(
    "how", [{"rtol": 0.0}, {"rtol": -1.0}, {"rtol": np.nan}, {"rtol": "tight"}]
)
def test_tolerance_of_predict_is_checked(solved, measured, how):
    with pytest.raises(ValueError, match="rtol must be"):
        solved.predict(measured[0], **how)


@pytest.mark.parametrize("how", [{"n_steps": 0}, {"n_steps": 2.5}, {"n_steps": "3"}])
def test_steps_of_predict_are_checked(solved, measured, how):
    with pytest.raises(ValueError, match="n_steps must be"):
        solved.predict(measured[0], **how)


def test_evaluations_of_each_row(solved, measured):
    X, _ = measured
    evaluations = [solved.nfe(X, rtol=rtol) for rtol in (1e-2, 1e-4, 1e-6, 1e-8)]
    assert all(count.shape == (90,) and (count > 0).all() for count in evaluations)
    assert (np.diff([count.mean() for count in evaluations]) > 0).all()
    assert (evaluations[-1] > evaluations[0]).all()
    assert len(np.unique(evaluations[-1])) > 1, "some rows are harder"
    np.testing.assert_allclose(solved.nfe(X[30:40], rtol=1e-6), evaluations[2][30:40])


def test_tolerance_curve(solved, measured):
    X, y = measured
    curve = solved.tolerance_curve(X, y, rtols=(1e-1, 1e-4, 1e-7))
    assert set(curve) == {"rtol", "score", "log_prob", "nfe", "seconds"}
    assert all(column.shape == (3,) for column in curve.values())
    np.testing.assert_array_equal(curve.rtol, [1e-1, 1e-4, 1e-7])
    assert (np.diff(curve.nfe) > 0).all() and (curve.seconds > 0).all()
    assert np.isfinite(curve.score).all() and np.isfinite(curve.log_prob).all()


def test_tolerance_curve_refuses_an_unseen_label(fitted_classifier, labelled):
    X, y = labelled
    with pytest.raises(ValueError, match="'yew'.*'ash', 'beech', 'cedar'"):
        fitted_classifier.tolerance_curve(X, np.where(y == "ash", "yew", y))


def test_tolerance_curve_of_a_classifier(fitted_classifier, labelled):
    X, y = labelled
    curve = fitted_classifier.tolerance_curve(X, y, rtols=(1e-2, 1e-6))
    proba = fitted_classifier.predict_proba(X, rtol=1e-6)
    chosen = fitted_classifier.classes_[proba.argmax(1)]
    assert curve.score[1] == pytest.approx((chosen == y).mean())
    positions = np.searchsorted(fitted_classifier.classes_, y)
    expected = np.log(proba[np.arange(90), positions]).mean()
    assert curve.log_prob[1] == pytest.approx(expected)


REPORT = {"method", "nfe", "nfe_max", "n_steps", "n_rejected", "status"}


def test_report_after_fit_and_predict(regressor, measured):
    X, y = measured
    model = regressor(solver="rk4", n_steps=3).fit(X, y)
    assert set(model.solver_report_) == REPORT
    assert model.solver_report_["method"] == "rk4"
    assert model.solver_report_["status"] == "success"
    assert model.nfe_ == model.solver_report_["nfe"] == 12
    model.predict(X, n_steps=5)
    assert model.nfe_ == 20 and model.solver_report_["n_steps"] == 5
    model.predict(X, rtol=1e-6)
    assert model.solver_report_["method"] == "dopri5"
    model.predict(X)
    assert model.nfe_ == 12


def test_predicting_changes_no_attribute(regressor, measured):
    X, y = measured
    model = regressor(**ADAPTIVE).fit(X, y)
    before, stored = dict(vars(model)), pickle.dumps(model)
    model.predict(X), model.nfe(X), model.predict(X, rtol=1e-7), model.sample(X)
    after = vars(model)
    assert set(after) == set(before)
    assert all(after[name] is before[name] for name in before)
    assert after["_runtime"] == before["_runtime"]
    assert pickle.dumps(model) == stored


def test_report_survives_a_pickle(regressor, measured):
    X, y = measured
    model = regressor(**ADAPTIVE).fit(X, y)
    report = dict(model.solver_report_)
    model.predict(X, n_steps=50)
    assert pickle.loads(pickle.dumps(model)).solver_report_ == report


def test_shared_steps_are_a_choice(regressor, measured):
    X, y = measured
    model = deepen(regressor(**ADAPTIVE, per_row=False).fit(X, y))
    counts = model.nfe(X)
    assert counts.shape == (90,) and len(set(counts)) == 1
    tight = model.predict(X, rtol=1e-9)
    model.per_row = True
    np.testing.assert_allclose(tight, model.predict(X, rtol=1e-9), rtol=1e-6)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "bosh3"])
def test_methods_of_torchdiffeq(regressor, measured, method):
    X, y = measured
    model = regressor(solver=f"torchdiffeq:{method}", rtol=1e-4, atol=1e-5, max_iter=2)
    model.fit(X, y)
    assert model.solver_report_["method"] == f"torchdiffeq:{method}"
    ours = deepen(regressor(max_iter=1).fit(X, y))
    theirs = copy.deepcopy(ours).set_params(solver="torchdiffeq:dopri5")
    np.testing.assert_allclose(
        theirs.predict(X, rtol=1e-8), ours.predict(X, rtol=1e-8), rtol=1e-6
    )


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
def test_steps_of_torchdiffeq(regressor, measured, method):
    X, y = measured
    stages = {"euler": 1, "midpoint": 2, "rk4": 4}[method]
    theirs = f"torchdiffeq:{method}"
    model = regressor(solver=theirs, n_steps=5, max_iter=2).fit(X, y)
    assert model.nfe_ == 5 * stages
    model.predict(X, n_steps=7)
    assert model.nfe_ == 7 * stages
    assert model.solver_report_["method"] == theirs
    model.predict(X, rtol=1e-6)
    assert model.solver_report_["method"] == "dopri5"
    if method != "rk4":  # torchdiffeq's is the 3/8 rule.
        deep = deepen(model)
        ours = copy.deepcopy(deep).set_params(solver=method)
        np.testing.assert_allclose(deep.predict(X), ours.predict(X), rtol=1e-9)


def test_checkpointed_gradient_gives_the_same_fit(regressor, measured):
    fits = [
        regressor(solver="rk4", n_steps=4, gradient=gradient).fit(*measured)
        for gradient in ("backprop", "checkpoint")
    ]
    np.testing.assert_allclose(fits[0].parameters_, fits[1].parameters_, rtol=1e-3)
    np.testing.assert_allclose(
        fits[0].predict(measured[0]), fits[1].predict(measured[0]), rtol=1e-5
    )


def test_checkpointed_gradient_gives_the_same_fit_to_rounding(regressor, measured):
    # Few rows train in float64.
    X, y = measured[0][:40], measured[1][:40]
    fits = [
        regressor(solver="rk4", n_steps=4, gradient=gradient).fit(X, y)
        for gradient in ("backprop", "checkpoint")
    ]
    np.testing.assert_allclose(
        fits[0].parameters_, fits[1].parameters_, rtol=1e-9, atol=1e-11
    )


def test_adjoint_gradient_gives_nearly_the_same_fit(regressor, measured):
    X, y = measured[0][:40], measured[1][:40]
    tight = {"solver": "dopri5", "rtol": 1e-8, "atol": 1e-8}
    fits = [
        regressor(gradient=gradient, **tight).fit(X, y)
        for gradient in ("backprop", "adjoint")
    ]
    np.testing.assert_allclose(fits[0].predict(X), fits[1].predict(X), rtol=1e-4)


@pytest.mark.parametrize("factor", [30.0, 100.0])
def test_stiffness_at_predict_warns_once_and_stays_finite(classifier, labelled, factor):
    X, y = labelled
    model = classifier(**ADAPTIVE, max_nfe=500).fit(X, y)
    model.parameters_ = model.parameters_ * factor
    with pytest.warns(SolverWarning) as caught:
        proba = model.predict_proba(X)
    assert len(caught) == 1
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba.sum(1), 1.0)
    assert model.solver_report_["status"] in ("capped", "diverged")


def test_few_evaluations_allowed(regressor, measured):
    X, y = measured
    model = deepen(regressor(**ADAPTIVE).fit(X, y)).set_params(max_nfe=20)
    with pytest.warns(SolverWarning, match="max_nfe=20"):
        assert np.isfinite(model.predict(X, rtol=1e-9)).all()
    assert model.solver_report_["status"] == "capped"


@pytest.mark.parametrize("factor", [30.0, 300.0])
def test_regressor_stays_finite_where_the_flow_explodes(regressor, measured, factor):
    X, y = measured
    model = regressor(solver="dopri5", rtol=1e-4, atol=1e-5, max_nfe=500).fit(X, y)
    model.parameters_ = model.parameters_ * factor
    with pytest.warns(SolverWarning) as caught:
        mean, std = model.predict(X, return_std=True)
    assert len(caught) == 1
    assert np.isfinite(mean).all() and np.isfinite(std).all()
