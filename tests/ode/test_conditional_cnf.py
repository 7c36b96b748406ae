"""Conditional densities: oracles of the distribution, then where a flow helps."""

import copy

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.callback import ScoringMonitor

import skfunc
from skfunc.ode._conditional_cnf_predictive import SingleFlowMixture
from skfunc.predictive import GaussianMixture

QUICK = {
    "hidden_layer_sizes": (16,),
    "state_size": 16,
    "n_members": 2,
    "max_iter": 60,
    "random_state": 0,
    "device": "cpu",
}


def branches(n_rows, seed):
    """Return rows whose target lies at x + 1 or, a third of the time, at x - 1."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(n_rows, 1))
    side = np.where(rng.uniform(size=n_rows) < 1 / 3, -1.0, 1.0)
    return X, 20 + 3 * (X[:, 0] + side + 0.2 * rng.normal(size=n_rows))


def true_log_density(X, y):
    z = (y - 20) / 3 - X[:, 0]
    density = stats.norm.pdf(z, -1, 0.2) / 3 + stats.norm.pdf(z, 1, 0.2) * 2 / 3
    return np.log(density / 3)


@pytest.fixture(scope="module")
def fitted():
    model = skfunc.ConditionalCNFRegressor(**QUICK)
    return model.fit(*branches(400, 0))


@pytest.fixture(scope="module")
def pair():
    """Return a model of two targets whose noise is correlated, and its data."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2))
    noise = rng.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], size=300)
    y = np.column_stack([X[:, 0], X[:, 1] - X[:, 0]]) + 0.5 * noise
    model = skfunc.ConditionalCNFRegressor(**QUICK)
    return model.fit(X[:200], y[:200]), X[200:], y[200:]


def test_integrates_to_one_and_has_the_moments(fitted):
    X = np.array([[-0.9], [0.1], [0.7]])
    y = np.linspace(0, 40, 2001)
    mean, std = fitted.predict(X, return_std=True)
    for i, row in enumerate(X):
        density = np.exp(fitted.log_prob(np.tile(row, (len(y), 1)), y))
        assert integrate.simpson(density, x=y) == pytest.approx(1, abs=1e-3)
        moment = integrate.simpson(y * density, x=y)
        assert mean[i] == pytest.approx(moment, abs=3e-3)
        variance = integrate.simpson((y - moment) ** 2 * density, x=y)
        assert std[i] == pytest.approx(variance**0.5, abs=3e-3)


def test_quantiles_invert_the_distribution_function(fitted):
    X, _ = branches(20, 1)
    levels = np.array([0.001, 0.01, 0.1, 0.3, 0.33, 0.36, 0.5, 0.9, 0.99, 0.999])
    quantiles = fitted.predict_quantiles(X, levels)
    predictive = fitted._predictive_of(X)
    for j, level in enumerate(levels):
        reached = predictive.cdf(quantiles[:, [j]])
        np.testing.assert_allclose(reached, level, atol=1e-3)
    assert (np.diff(quantiles, axis=1) > 0).all()


def test_quantiles_of_sharp_modes():
    """Three modes of .4, .35 and .25, narrow enough that cells lie between them."""
    centres, ends = np.array([-2.0, 0.3, 3.0]), np.array([0.4, 0.75, 1.0])

    class Sharp(SingleFlowMixture):
        def _solve(self, values, *, to_base, members=None):
            z = np.linspace(-4, 5, 90_001)
            masses = np.diff(ends, prepend=0)
            below = (masses * stats.norm.cdf(z[:, None], centres, 0.03)).sum(1)
            u = stats.norm.ppf(np.clip(below, 1e-14, 1 - 1e-14)) + 1e-3 * z
            slope = np.gradient(u, z)
            given, into = (z, u) if to_base else (u, z)
            logs = np.log(np.interp(values, given, slope))
            out = np.interp(values, given, into)
            return out, logs[..., 0] if to_base else -logs[..., 0]

    location = np.zeros((1, 1, 1))
    mixture = Sharp(location, location + 1, np.zeros((1, 1)), None, None, 0)
    levels = np.linspace(0.01, 0.99, 99)
    reached = mixture.cdf(mixture.quantiles(levels)[0])
    np.testing.assert_allclose(reached[:, 0], levels, atol=1e-3)


def test_log_density_is_the_slope_of_the_distribution_function(fitted):
    X, y = branches(30, 2)
    predictive, step = fitted._predictive_of(X), 1e-4
    below, above = (predictive.cdf(y[:, None] + h) for h in (-step, step))
    slope = (above - below)[:, 0] / (2 * step)
    np.testing.assert_allclose(np.exp(fitted.log_prob(X, y)), slope, rtol=5e-3)


def test_both_modes_have_their_mass(fitted):
    X, y = branches(500, 3)
    assert fitted.has_flow_ and fitted.flow_gain_[0] > 0.3
    gap = true_log_density(X, y).mean() - fitted.log_prob(X, y).mean()
    assert 0 < gap < 0.15
    middle = (20 + 3 * X[:200, 0])[:, None]
    np.testing.assert_allclose(
        fitted._predictive_of(X[:200]).cdf(middle).mean(), 1 / 3, atol=0.06
    )
    draws = fitted.sample(X[:200], 20, random_state=0)
    assert (draws < middle).mean() == pytest.approx(1 / 3, abs=0.06)
    # Hardly a draw lies between the modes, where the mean is.
    assert (np.abs(draws - middle) < 1.0).mean() < 0.05


def test_draws_of_functions_are_members_means(fitted):
    X, _ = branches(15, 4)
    draws = fitted.sample_y(X, 2)
    np.testing.assert_allclose(draws.mean(1), fitted.predict(X), rtol=1e-12)
    epistemic, aleatoric = fitted.predict_std_parts(X)
    np.testing.assert_allclose(draws.std(1), epistemic, rtol=1e-7)
    _, std = fitted.predict(X, return_std=True)
    _, cov = fitted.predict(X, return_cov=True)
    np.testing.assert_allclose(np.hypot(epistemic, aleatoric), std, rtol=1e-12)
    np.testing.assert_allclose(np.diag(cov), std**2, rtol=1e-12)


def test_rows_do_not_depend_on_the_batch(fitted, pair):
    X, y = branches(40, 5)
    for model, rows, targets in ((fitted, X, y), pair):
        part = slice(7, 10)
        mean, std = model.predict(rows, return_std=True)
        own_mean, own_std = model.predict(rows[part], return_std=True)
        np.testing.assert_allclose(own_mean, mean[part], rtol=1e-11)
        np.testing.assert_allclose(own_std, std[part], rtol=1e-10)
        logs = model.log_prob(rows, targets)
        own = model.log_prob(rows[part], targets[part])
        np.testing.assert_allclose(own, logs[part], rtol=1e-10)
        quantiles = model.predict_quantiles(rows)[part]
        np.testing.assert_allclose(
            model.predict_quantiles(rows[part]), quantiles, rtol=1e-9
        )


def test_units():
    # So few rows are fitted in float64.
    X, y = branches(60, 0)
    options = QUICK | {"max_iter": 5, "flow": True}
    logs = [
        skfunc.ConditionalCNFRegressor(**options).fit(X, c * y).log_prob(X, c * y)
        for c in (1, 10)
    ]
    np.testing.assert_allclose(logs[1] - logs[0], -np.log(10), atol=1e-6)


def test_gaussian_noise_needs_no_flow():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 2))
    y = X[:, 0] + np.exp(X[:, 1] / 2) * rng.normal(size=100)
    model = skfunc.ConditionalCNFRegressor(**QUICK).fit(X, y)
    assert not model.has_flow_ and model.flow_parameters_ is None
    assert isinstance(model._predictive_of(X), GaussianMixture)
    _, std = model.predict([[0, -1.5], [0, 1.5]], return_std=True)
    assert std[1] > 1.5 * std[0]
    np.testing.assert_allclose(
        skfunc.ConditionalCNFRegressor(**QUICK, flow=False).fit(X, y).predict(X),
        model.predict(X),
        rtol=1e-12,
    )


def test_forced_flow_of_gaussian_noise_is_near_the_gaussian():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(300, 1))
    y = X[:, 0] + 0.5 * rng.normal(size=300)
    model = skfunc.ConditionalCNFRegressor(**QUICK, flow=True).fit(X, y)
    assert model.has_flow_ and model.solver_report_["nfe"] >= 16
    levels = [0.1, 0.5, 0.9]
    quantiles = model.predict_quantiles([[0.0], [0.5]], levels)
    expected = np.array([[0.0], [0.5]]) + 0.5 * stats.norm.ppf(levels)
    np.testing.assert_allclose(quantiles, expected, atol=0.2)


def test_several_targets_depend_on_each_other(pair):
    model, X, y = pair
    assert model.has_flow_
    apart = skfunc.ConditionalCNFRegressor(**QUICK, flow=False)
    draws = model.sample(X, 40, random_state=0)
    residuals = (draws - model.predict(X)[..., None]).swapaxes(0, 1).reshape(2, -1)
    assert np.corrcoef(residuals)[0, 1] > 0.7
    gaussians = apart.fit(X, y).log_prob(X, y).mean()
    assert model.log_prob(X, y).mean() > gaussians + 0.2
    low, high = np.moveaxis(model.predict_interval(X, 0.8), 1, 0)
    assert ((low < y) & (y < high)).mean() == pytest.approx(0.8, abs=0.1)
    median = model.predict_quantiles(X, 0.5)[:, 0]
    np.testing.assert_allclose(model._predictive_of(X).cdf(median), 0.5, atol=5e-3)


def test_warm_start_goes_on():
    X, y = branches(100, 0)
    options = QUICK | {"max_iter": 2, "warm_start": True, "flow": True}
    model = skfunc.ConditionalCNFRegressor(**options).fit(X, y)
    before = model.parameters_, model.flow_parameters_
    # Steps of no length stay where the last fit ended, whatever the new seed draws.
    rates = {"learning_rate_init": 1e-12, "flow_learning_rate_init": 1e-12}
    model.set_params(**rates, random_state=1).fit(X, y)
    after = model.parameters_, model.flow_parameters_
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-6, atol=1e-9)


def test_callbacks_see_the_epochs_of_both_trainings(capsys):
    X, y = branches(100, 0)
    monitor = ScoringMonitor(scoring="r2")
    options = QUICK | {"max_iter": 3, "flow": True}
    watched = skfunc.ConditionalCNFRegressor(**options, verbose=True)
    watched.set_callbacks(monitor).fit(X, y)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == [
        *(f"epoch {i}" for i in (1, 2, 3)),
        *(f"flow epoch {i}" for i in (1, 2, 3)),
    ]
    log = monitor.get_logs().data
    scores = [task["r2"] for task in log if task["task_name"] == "epoch"]
    assert len(scores) == 6
    # The last epoch was the best: what was scored then is what was kept.
    assert scores[-1] == pytest.approx(watched.score(X, y), abs=0.01)
    plain = skfunc.ConditionalCNFRegressor(**options).fit(X, y)
    np.testing.assert_array_equal(watched.flow_parameters_, plain.flow_parameters_)
    assert not hasattr(watched, "_row_weights")


@pytest.mark.parametrize(
    "change",
    [{"flow": "yes"}, {"flow_activation": "relu"}, {"n_steps": 0}, {"state_size": 0}],
)
def test_bad_parameters(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        skfunc.ConditionalCNFRegressor(**change).fit([[0.0], [1.0]], [0.0, 1.0])


def test_saved_and_loaded(fitted, pair, tmp_path):
    X, y = branches(10, 6)
    for model, rows, targets in ((fitted, X, y), pair):
        model.save(tmp_path / "model")
        again = skfunc.load(tmp_path / "model")
        np.testing.assert_array_equal(again.predict(rows), model.predict(rows))
        np.testing.assert_array_equal(
            again.log_prob(rows, targets), model.log_prob(rows, targets)
        )
    assert fitted.flow_parameters_.shape[0] == 2


@pytest.mark.parametrize(
    "name, value",
    [
        ("flow_parameters_", np.zeros((2, 3))),
        ("flow_parameters_", None),
        ("has_flow_", "yes"),
        ("n_steps_", 0),
        ("seed_", -1),
        ("noise_scale_", np.ones(2)),
    ],
)
def test_wrong_files_are_refused(fitted, tmp_path, name, value):
    broken = copy.copy(fitted)
    setattr(broken, name, value)
    broken.save(tmp_path / "model")
    with pytest.raises(ValueError, match=name):
        skfunc.load(tmp_path / "model")
