"""CNFDensity: densities that integrate to one, draws, maps, columns without density."""

import pickle

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.datasets import make_moons
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch import nn

import skfunc
from skfunc import CNFDensity
from skfunc.nn import ContinuousFlow, StackedComponents
from skfunc.ode._cnf_rows import fit_row_map, rounding_gaps

QUICK = {
    "hidden_layer_sizes": (8, 8),
    "max_components": 2,
    "max_iter": 3,
    "random_state": 0,
}
FLOW = {
    "base": "normal",
    "hidden_layer_sizes": (32, 32),
    "max_iter": 60,
    "random_state": 0,
}
# What a test of glue needs of a flow.
GLUE = {"base": "normal", "hidden_layer_sizes": (8, 8), "max_iter": 5}


def moons(n, seed=0):
    return make_moons(n, noise=0.1, random_state=seed)[0]


@pytest.fixture(scope="module")
def flow():
    return CNFDensity(**FLOW).fit(moons(400))


@pytest.fixture(scope="module")
def stacked():
    """Return a model of too few rows for a flow: the base alone."""
    return CNFDensity(**QUICK).fit(moons(45))


def integral(model, X, n=140):
    """Return the mass on a grid that is fine at the data and reaches far out."""
    nodes = np.linspace(-5.5, 5.5, n)
    axes = [
        m + 0.3 * s * np.sinh(nodes) for m, s in zip(X.mean(0), X.std(0), strict=True)
    ]
    widths = [0.3 * s * np.cosh(nodes) * (nodes[1] - nodes[0]) for s in X.std(0)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.exp(model.score_samples(grid)) @ np.outer(*widths).ravel()


class TestDensity:
    def test_flow_integrates_to_one(self, flow):
        assert flow.has_flow_
        assert integral(flow, moons(400), 80) == pytest.approx(1.0, abs=1e-3)

    def test_base_integrates_to_one(self, stacked):
        assert not stacked.has_flow_
        assert integral(stacked, moons(45)) == pytest.approx(1.0, abs=1e-3)

    def test_flow_is_better_than_the_gaussian_it_starts_from(self, flow):
        X, unseen = moons(400), moons(1000, seed=1)
        gaussian = multivariate_normal(X.mean(0), np.cov(X.T))
        assert flow.score(unseen) > gaussian.logpdf(unseen).mean() + 0.5

    def test_there_and_back(self, flow):
        X = moons(50, seed=1)
        z = flow.transform(X)
        np.testing.assert_allclose(flow.inverse_transform(z), X, atol=1e-4)
        assert np.abs(z.mean(0)).max() < 0.5 and np.abs(z.std(0) - 1).max() < 0.4

    def test_density_is_the_bases_over_the_jacobian(self, flow):
        x, step = moons(400)[:1], 1e-4
        base = flow._flow().base
        jacobian = [
            (flow.transform(x + step * e) - flow.transform(x - step * e))[0] / 2 / step
            for e in np.eye(2)
        ]
        expected = base.log_prob(flow.transform(x))[0]
        expected += np.log(abs(np.linalg.det(jacobian)))
        assert flow.score_samples(x)[0] == pytest.approx(expected, abs=2e-3)

    def test_classifier_cannot_tell_draws_from_data(self, flow):
        data, draws = moons(1000, seed=2), flow.sample(1000, random_state=0)
        X = np.concatenate([data, draws])
        y = np.repeat([0, 1], 1000)
        judge = make_pipeline(PolynomialFeatures(3), StandardScaler())
        found = cross_val_predict(
            LogisticRegression(max_iter=500), judge.fit_transform(X), y, cv=5
        )
        assert (found == y).mean() < 0.57

    def test_far_clusters_share_the_mass(self):
        random = np.random.default_rng(0)
        X = np.concatenate([random.normal(-20, 1, 60), random.normal(20, 1, 180)])
        model = CNFDensity(**QUICK | {"base": "mixture"})
        model.fit(X[:, None])
        grid = np.linspace(-30, 0, 3001)[:, None]
        mass = np.exp(model.score_samples(grid)).sum() * 0.01
        assert mass == pytest.approx(0.25, abs=0.02)
        draws = model.sample(4000, random_state=0)
        assert (draws < 0).mean() == pytest.approx(0.25, abs=0.03)

    def test_units_of_the_columns(self):
        X = moons(45)
        model = CNFDensity(**QUICK).fit(X)
        scaled = CNFDensity(**QUICK).fit(X * [10.0, 0.01] + 3)
        np.testing.assert_allclose(
            scaled.score_samples(X * [10.0, 0.01] + 3),
            model.score_samples(X) - np.log(10.0 * 0.01),
            atol=1e-6,
        )

    @pytest.mark.parametrize("base", ["auto", "mixture", "kernel", "normal"])
    def test_far_rows_are_improbable_and_finite(self, base):
        n = 60 if base == "normal" else 45
        model = CNFDensity(**QUICK | {"base": base}).fit(moons(n))
        logs = model.score_samples([[0.5, 0.2], [1e3, 1e3], [1e200, -1e200]])
        assert np.isfinite(logs).all() and (np.diff(logs[:2]) < -100).all()

    def test_small_data_are_as_good_as_the_mixtures(self):
        random = np.random.default_rng(0)
        X = random.multivariate_normal(
            [0, 0, 0], [[2, 1, 0], [1, 2, 0], [0, 0, 1]], 340
        )
        model = CNFDensity(**QUICK).fit(X[:40])
        mixture = GaussianMixture(1).fit(X[:40])
        assert model.score(X[40:]) > mixture.score(X[40:]) - 0.05


class TestOptions:
    @pytest.mark.parametrize("method", ["mle", "flow_matching", "hybrid"])
    def test_methods(self, method):
        options = GLUE | {"hidden_layer_sizes": (16, 16), "max_iter": 40, "n_steps": 4}
        model = CNFDensity(**options, method=method, random_state=0)
        X = moons(150)
        gaussian = multivariate_normal(X.mean(0), np.cov(X.T))
        assert model.fit(X).score(X) > gaussian.logpdf(X).mean()

    @pytest.mark.parametrize("solver", ["dopri5", "torchdiffeq:dopri5", "midpoint"])
    def test_solvers_agree(self, flow, solver):
        other = clone(flow).set_params(solver=solver, n_steps=64)
        X = moons(20, seed=1)
        vars(other).update({k: v for k, v in vars(flow).items() if k.endswith("_")})
        other.n_steps_, other._runtime = 64, flow._runtime
        np.testing.assert_allclose(
            other.score_samples(X), flow.score_samples(X), atol=5e-3
        )

    def test_whitening(self):
        round_rows, mixing = moons(45), np.array([[1.0, 0.9], [0.0, 0.1]])
        X = round_rows @ mixing
        model = CNFDensity(**QUICK | {"preprocessing": "whiten"}).fit(X)
        np.testing.assert_allclose(
            model.inverse_transform(model.transform(X)), X, atol=1e-6
        )

        class Unmixed:
            def score_samples(self, rows):
                log_det = np.log(abs(np.linalg.det(mixing)))
                return model.score_samples(rows @ mixing) + log_det

        # Seen in other columns, the ridge is wide enough for a grid.
        assert integral(Unmixed(), round_rows) == pytest.approx(1.0, abs=1e-3)

    def test_field_of_the_user(self):
        options = GLUE | {"max_iter": 2, "n_steps": 4}
        model = CNFDensity(**options, field=Field, random_state=0)
        X = moons(60)
        model.fit(X)
        z = model.transform(X)
        np.testing.assert_allclose(model.inverse_transform(z), X, atol=1e-3)
        assert np.isfinite(model.score_samples(X)).all()

    def test_penalties_shorten_and_straighten_paths(self):
        X = np.random.default_rng(0).exponential(size=(120, 1))
        lengths, stretches = [], []
        for name, penalty in (
            ("kinetic_penalty", 0.0),
            ("kinetic_penalty", 100.0),
            ("jacobian_penalty", 100.0),
        ):
            options = GLUE | {"max_iter": 25, "n_steps": 4, "random_state": 0}
            options[name] = penalty
            model = CNFDensity(method="mle", **options).fit(X)
            paths = model.trajectories(200, [0.0, 1.0], random_state=0)
            lengths.append(np.abs(paths[1] - paths[0]).mean())
            # Without a Jacobian the flow is a shift.
            stretches.append((paths[1] - paths[0]).std())
        assert lengths[1] < 0.5 * lengths[0]
        assert stretches[2] < 0.5 * stretches[0]

    def test_trajectories_end_at_the_draws(self, flow, stacked):
        for model in (flow, stacked):
            paths = model.trajectories(5, [0.0, 0.3, 1.0], random_state=3)
            draws = model.sample(5, random_state=3)
            np.testing.assert_allclose(paths[-1], draws, atol=1e-3)

    @pytest.mark.parametrize(
        "options",
        [
            {"base": "uniform"},
            {"method": "adjoint"},
            {"preprocessing": "minmax"},
            {"hidden_layer_sizes": (8,)},
            {"activation": "relu"},
            {"field": "conv"},
            {"solver": "rk5"},
            {"n_steps": 0},
            {"validation_fraction": 1.0},
            {"max_iter": -1},
            {"kinetic_penalty": -1.0},
            {"jacobian_penalty": -1.0},
        ],
    )
    def test_wrong_parameter_is_named(self, options):
        with pytest.raises(ValueError, match=next(iter(options))):
            CNFDensity(**options).fit(moons(20))


class Field(nn.Module):
    """A user's field: one layer, no time."""

    def __init__(self, size):
        super().__init__()
        self.inner, self.outer = nn.Linear(size, 8), nn.Linear(8, size)

    def forward(self, t, x):
        return self.outer(self.inner(x).tanh())


class StopAfter:
    """A callback of scikit-learn's protocol that ends a training."""

    def __init__(self, epochs):
        self.epochs, self.seen, self.scores = epochs, 0, []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context, **options):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None, **options):
        if context.task_name != "epoch":
            return False
        self.seen += 1
        self.scores.append(fitted_estimator.score(moons(10)))
        return self.seen == self.epochs


class TestColumns:
    def test_constant_and_dependent_columns(self):
        X = moons(40)
        wide = np.column_stack([X[:, 0], np.full(40, 7.0), X[:, 1], 2 * X[:, 0] - 1])
        model = CNFDensity(**QUICK).fit(wide)
        assert model.columns_.tolist() == [True, False, True, False]
        plain = CNFDensity(**QUICK).fit(X)
        np.testing.assert_allclose(model.score_samples(wide), plain.score_samples(X))
        assert model.transform(wide).shape == (40, 2)
        assert list(model.get_feature_names_out()) == ["cnfdensity0", "cnfdensity1"]
        np.testing.assert_allclose(
            model.inverse_transform(model.transform(wide)), wide, atol=1e-9
        )
        draws = model.sample(30, random_state=0)
        assert (draws[:, 1] == 7.0).all()
        np.testing.assert_allclose(draws[:, 3], 2 * draws[:, 0] - 1, atol=1e-9)
        broken = wide[:3] + [[0, 0, 0, 0], [0, 1e-3, 0, 0], [0, 0, 0, 0.1]]
        finite = np.isfinite(model.score_samples(broken))
        assert finite.tolist() == [True, False, False]

    def test_rounded_column_is_a_density_over_its_gaps(self):
        counts = np.random.default_rng(0).poisson(4.0, size=(300, 1)).astype(float)
        model = CNFDensity(**QUICK | {"base": "mixture"}).fit(counts)
        assert model.column_gaps_.tolist() == [1.0]
        values = np.arange(12.0)
        mass = np.exp(model.score_samples(values[:, None]))
        frequency = (counts == values).mean(axis=0)
        assert np.abs(mass - frequency).max() < 0.05
        raw = CNFDensity(**QUICK | {"base": "mixture", "dequantize": False})
        assert raw.fit(counts).column_gaps_.tolist() == [0.0]

    def test_what_counts_as_rounded(self):
        random = np.random.default_rng(0)
        smooth = random.normal(size=400)
        columns = [
            smooth,
            smooth.round(1),
            random.choice(smooth, 400),
            np.sign(smooth),
            np.ones(400),
        ]
        gaps = rounding_gaps(np.column_stack(columns))
        np.testing.assert_allclose(gaps, [0.0, 0.1, 0.0, 2.0, 0.0], atol=1e-9)

    def test_log_det_is_that_of_the_matrix(self):
        X = moons(50) @ [[3.0, 1.0], [0.0, 0.2]]
        for preprocessing in ("standardize", "whiten"):
            row_map = fit_row_map(X, preprocessing)
            rows, log_det = row_map.to_flow(X[:1] + [[0, 0], [1, 0], [0, 1]])
            matrix = rows[1:] - rows[0]
            expected = np.log(abs(np.linalg.det(matrix)))
            np.testing.assert_allclose(log_det, expected)
            np.testing.assert_allclose(row_map.from_flow(rows)[0], X[0])

    def test_rows_in_a_plane(self):
        plane = np.random.default_rng(0).normal(size=(45, 2))
        X = plane @ [[1.0, 0.5, -2.0, 0.1], [0.0, 1.0, 1.0, 3.0]]
        model = CNFDensity(**QUICK).fit(X)
        assert model.columns_.tolist() == [True, True, False, False]
        draws = model.sample(20, random_state=0)
        assert np.linalg.matrix_rank(draws - X[0], tol=1e-6) == 2
        scores = model.score_samples([X[0], X[0] + [0, 0, 0, 1.0]])
        assert np.isfinite(scores[0]) and scores[1] == -np.inf

    @pytest.mark.parametrize("n", [2, 3, 5])
    def test_fewer_rows_than_columns(self, n):
        X = np.random.default_rng(0).normal(size=(n, 5))
        with pytest.raises(ValueError, match=f"n_samples = {n} rows span only"):
            CNFDensity().fit(X)

    def test_no_column_varies(self):
        with pytest.raises(ValueError, match="all columns of X are constant"):
            CNFDensity().fit(np.ones((5, 2)))

    def test_one_row(self):
        with pytest.raises(ValueError, match="minimum of 2 is required"):
            CNFDensity().fit([[1.0, 2.0]])

    def test_two_rows_of_one_column(self):
        model = CNFDensity(**QUICK).fit([[0.0], [1.0]])
        assert np.isfinite(model.score([[0.5]]))

    def test_copies_of_rows(self):
        X = moons(30)
        model = CNFDensity(**QUICK).fit(np.concatenate([X, X]))
        unseen = moons(300, seed=1)
        single = CNFDensity(**QUICK).fit(X)
        assert abs(model.score(unseen) - single.score(unseen)) < 0.5

    def test_one_column(self):
        X = np.random.default_rng(0).normal(3.0, 2.0, size=(40, 1))
        model = CNFDensity(**QUICK).fit(X)
        found = model.score_samples([[3.0], [5.0]])
        np.testing.assert_allclose(found, norm(3, 2).logpdf([3, 5]), atol=0.3)


class TestScikitLearn:
    def test_search_by_likelihood(self):
        grid = {"base": ["normal", "auto"]}
        search = GridSearchCV(CNFDensity(**QUICK), grid, cv=2).fit(moons(70))
        assert search.best_params_["base"] == "auto"

    def test_pipeline(self):
        pipeline = make_pipeline(StandardScaler(), CNFDensity(**QUICK))
        X = moons(40)
        z = pipeline.fit(X).transform(X)
        np.testing.assert_allclose(pipeline.inverse_transform(z), X)
        assert np.isfinite(pipeline.score(X))

    def test_callbacks_see_fitted_densities_and_may_stop(self, capsys):
        X = moons(60)

        def score(estimator, X, y=None):
            return estimator.score(X)

        monitor = ScoringMonitor(scoring=score)
        options = GLUE | {"method": "mle", "random_state": 0}
        model = CNFDensity(**options, verbose=True).set_callbacks(monitor).fit(X)
        assert monitor.get_logs()
        assert capsys.readouterr().out.startswith("epoch 1: loss ")
        plain = CNFDensity(**options).fit(X)
        np.testing.assert_array_equal(model.parameters_, plain.parameters_)
        stopped = CNFDensity(**options | {"max_iter": 500})
        callback = StopAfter(2)
        stopped.set_callbacks(callback).fit(X)
        assert callback.seen == stopped.n_iter_ == 2
        assert np.isfinite(callback.scores).all()

    def test_same_seed_same_density(self):
        X = moons(60)
        model, again = (CNFDensity(**GLUE, random_state=3).fit(X) for _ in range(2))
        one, other = (m.score_samples(X) for m in (model, again))
        np.testing.assert_array_equal(one, other)
        one, other = (model.sample(4, random_state=1) for _ in range(2))
        np.testing.assert_array_equal(one, other)

    def test_chunks_change_nothing(self, flow, monkeypatch):
        X = moons(40, seed=1)
        whole = flow.score_samples(X), flow.transform(X), flow.sample(9, 0)
        monkeypatch.setattr("skfunc.ode._cnf_fit._CHUNK_NUMBERS", 4000)
        parts = flow.score_samples(X), flow.transform(X), flow.sample(9, 0)
        for one, other in zip(whole, parts, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-12, atol=1e-12)

    def test_memory_does_not_grow_with_the_rows(self, flow, stacked, monkeypatch):
        X = moons(3000, seed=1)
        whole = stacked.score_samples(X)
        sizes = {"flow": [], "base": []}
        to_base, log_prob = ContinuousFlow.to_base, StackedComponents.log_prob

        def watched_flow(self, x, *args, **options):
            sizes["flow"].append(x.shape[1])
            return to_base(self, x, *args, **options)

        def watched_base(self, x, *args):
            sizes["base"].append(len(x))
            return log_prob(self, x, *args)

        monkeypatch.setattr(ContinuousFlow, "to_base", watched_flow)
        monkeypatch.setattr(StackedComponents, "log_prob", watched_base)
        monkeypatch.setattr("skfunc.ode._cnf_fit._CHUNK_NUMBERS", 64 * 8 * 100)
        monkeypatch.setattr("skfunc.ode._cnf_forms._BLOCK_NUMBERS", 20_000)
        np.testing.assert_allclose(stacked.score_samples(X), whole, rtol=1e-12)
        assert np.isfinite(flow.score_samples(X)).all()
        assert sum(sizes["flow"]) == 3000 and max(sizes["flow"]) <= 200
        assert sum(sizes["base"]) == 6000 and max(sizes["base"]) <= 1000

    def test_wrong_width_of_base_rows(self, flow):
        with pytest.raises(ValueError, match="X has 3 columns; transform returns 2"):
            flow.inverse_transform(np.zeros((2, 3)))

    def test_saved_flow_and_base(self, flow, stacked, tmp_path):
        X = moons(20, seed=1)
        for model in (flow, stacked):
            model.save(tmp_path / "model")
            for again in (
                skfunc.load(tmp_path / "model"),
                pickle.loads(pickle.dumps(model)),
            ):
                np.testing.assert_array_equal(
                    again.score_samples(X), model.score_samples(X)
                )
                np.testing.assert_array_equal(again.sample(3, 0), model.sample(3, 0))
