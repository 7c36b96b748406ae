import csv
import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
LETHAL_MODEL = """
import os
from sklearn.base import BaseEstimator

class Lethal(BaseEstimator):
    def fit(self, X, y):
        os._exit(1)
"""
SCRIPT = """
import sys
sys.path.insert(0, {benchmarks!r})
import _models
_models.SKFUNC["classification"] = {{"Lethal": "lethal:Lethal"}}
import tabular
if __name__ == "__main__":
    tabular.main(sys.argv[1:])
"""
MODULES = ("_data", "_ensemble", "_measure", "_models", "_peers", "_rows", "_table")

pytestmark = pytest.mark.skipif(
    not (BENCHMARKS / "tabular.py").exists(), reason="needs the benchmarks folder"
)


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    modules = {name.strip("_"): importlib.import_module(name) for name in MODULES}
    return SimpleNamespace(
        **modules,
        tabular=importlib.import_module("tabular"),
        fit_time=importlib.import_module("fit_time"),
    )


@pytest.fixture
def peers(harness, monkeypatch):
    """Two quick peers of each task, one of which cannot predict."""

    class NoPrediction:
        def fit(self, X, y):
            return self

        def predict(self, X, return_std=False):
            raise ArithmeticError("lost\nits mind")

    ridge = harness.peers.REGRESSORS["BayesianRidge"]
    logistic = harness.peers.CLASSIFIERS["LogisticRegression"]
    monkeypatch.setattr(
        harness.peers,
        "REGRESSORS",
        {"BayesianRidge": ridge, "Broken": lambda d, seed: NoPrediction()},
    )
    monkeypatch.setattr(harness.peers, "CLASSIFIERS", {"LogisticRegression": logistic})
    monkeypatch.setattr(
        harness.models, "SKFUNC", {"regression": {}, "classification": {}}
    )


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Two regression sets and a classification set, rows told apart by column 0."""
    rng = np.random.default_rng(0)
    monkeypatch.setenv("SKFUNC_DATA", str(tmp_path))
    for folder in ("uci_regression", "uci_regression_extra", "uci_classification"):
        (tmp_path / folder).mkdir()

    def table(n):
        X = rng.normal(size=(n, 3)).astype(np.float32)
        X[:, 0] = np.arange(n)
        return X, 5 + 0.01 * X[:, 0] + rng.normal(size=n)

    def masks(n, n_splits, fraction):
        return np.array([rng.random(n) < fraction for _ in range(n_splits)])

    X, y = table(4000)
    path = tmp_path / "uci_regression"
    np.savez(path / "boston.npz", X=X, y=y, test_mask=masks(4000, 3, 0.5))
    X, y = table(60)
    path = tmp_path / "uci_regression_extra"
    np.savez(path / "autos.npz", X=X, y=y, test_mask=masks(60, 2, 0.2))
    X, _ = table(90)
    test = masks(90, 4, 0.25)
    unused = masks(90, 4, 0.1)
    path = tmp_path / "uci_classification"
    labels = (X[:, 1] > 0).astype(np.int16) + 2 * (X[:, 2] > 1)
    arrays = {"y": labels, "test_mask": test, "train_mask": ~test & ~unused}
    np.savez(path / "three.npz", X=X, **arrays)
    np.savez(path / "spect.npz", X=X, **arrays)
    return tmp_path


def run(harness, results, *arguments):
    harness.tabular.main([*arguments, "--jobs", "0", "--results", str(results)])
    with open(results / "tabular_rows.csv", newline="") as file:
        return list(csv.DictReader(file))


def row(model, dataset, split, label="", **figures):
    key = {"task": "regression", "dataset": dataset, "split": split, "label": label}
    defaults = {"status": "ok", "rmse": 1.0, "nll_gauss": 1.0, "crps": 1.0}
    more = {"cov90": 0.9, "cpu_s": 1.0, "max_train": "", "model": model}
    return key | defaults | more | figures


class TestData:
    def test_split_is_the_same_every_time_and_its_parts_are_disjoint(
        self, harness, data
    ):
        first = harness.data.load_split("regression", "boston", 1)
        again = harness.data.load_split("regression", "boston", 1)
        np.testing.assert_array_equal(first.X_train, again.X_train)
        np.testing.assert_array_equal(first.y_test, again.y_test)
        assert first.X_train.dtype == np.float64
        assert len(first.y_train) == len(first.y_test) == 1000
        assert not set(first.X_train[:, 0]) & set(first.X_test[:, 0])

    def test_rows_are_drawn_by_the_split_training_first(self, harness, data):
        split = harness.data.load_split("regression", "boston", 2)
        with np.load(data / "uci_regression" / "boston.npz") as arrays:
            mask = arrays["test_mask"][2]
        rng = np.random.default_rng(2)
        train = rng.choice(np.flatnonzero(~mask), 1000, replace=False)
        test = rng.choice(np.flatnonzero(mask), 1000, replace=False)
        np.testing.assert_array_equal(split.X_train[:, 0], train)
        np.testing.assert_array_equal(split.X_test[:, 0], test)

    def test_target_is_standardized_by_the_training_part(self, harness, data):
        split = harness.data.load_split("regression", "autos", 0)
        assert abs(split.y_train.mean()) < 1e-12
        assert abs(split.y_train.std() - 1) < 1e-12
        assert len(split.y_train) + len(split.y_test) == 60

    def test_classification_keeps_to_both_masks(self, harness, data):
        split = harness.data.load_split("classification", "three", 3)
        with np.load(data / "uci_classification" / "three.npz") as arrays:
            train, test = arrays["train_mask"][3], arrays["test_mask"][3]
        np.testing.assert_array_equal(split.X_train[:, 0], np.flatnonzero(train))
        np.testing.assert_array_equal(split.X_test[:, 0], np.flatnonzero(test))

    def test_max_train_limits_the_training_rows_alone(self, harness, data):
        for task, name in (("regression", "boston"), ("classification", "three")):
            full = harness.data.load_split(task, name, 0)
            small = harness.data.load_split(task, name, 0, max_train=20)
            assert len(small.y_train) == 20
            assert len(small.y_test) == len(full.y_test)

    def test_names_are_those_at_hand_without_the_inconsistent_ones(self, harness, data):
        assert harness.data.dataset_names("regression") == ["autos", "boston"]
        assert harness.data.dataset_names("classification") == ["three"]

    def test_missing_set_names_the_folder(self, harness, data):
        with pytest.raises(FileNotFoundError, match="SKFUNC_DATA"):
            harness.data.load_split("regression", "yacht", 0)


class TestRun:
    def test_every_cell_has_a_row_and_none_is_repeated(
        self, harness, data, peers, tmp_path
    ):
        results = tmp_path / "results"
        first = run(harness, results, "--task", "all", "--splits", "0", "1")
        # Two sets by two splits by two models, and one set by two folds by one model.
        assert len(first) == 10
        assert run(harness, results, "--task", "all", "--splits", "0", "1") == first
        more = run(harness, results, "--task", "regression", "--models", "Broken")
        assert more[:10] == first
        assert len(more) == 11  # autos has two splits, boston a third

    def test_failure_is_a_row_with_its_stage(self, harness, data, peers, tmp_path):
        rows = run(harness, tmp_path / "r", "--task", "regression", "--splits", "0")
        broken = [r for r in rows if r["model"] == "Broken"]
        assert len(broken) == 2
        for r in broken:
            assert r["status"] == "failed after fit: ArithmeticError: lost its mind"
            assert r["rmse"] == "" and float(r["fit_s"]) >= 0
        table = (tmp_path / "r" / "tabular.md").read_text()
        assert "failed: Broken on autos, split 0: failed after fit" in table

    def test_refresh_replaces_the_rows_of_one_model(
        self, harness, data, peers, tmp_path
    ):
        results = tmp_path / "results"
        arguments = ("--task", "regression", "--datasets", "autos")
        before = run(harness, results, *arguments)
        path = results / "tabular_rows.csv"
        path.write_text(path.read_text().replace(",ok,", ",stale,"))
        after = run(harness, results, *arguments, "--refresh", "BayesianRidge")
        assert len(after) == len(before) == 4
        assert {r["status"] for r in after if r["model"] == "BayesianRidge"} == {"ok"}

    def test_time_budget_stops_before_the_next_cell(
        self, harness, data, peers, tmp_path, capsys
    ):
        harness.tabular.main(
            ["--time-budget", "0", "--jobs", "0", "--results", str(tmp_path / "r")]
        )
        assert not (tmp_path / "r" / "tabular_rows.csv").exists()
        assert "cells are left" in capsys.readouterr().out

    def test_parameters_of_ours_become_a_label(self, harness, data, peers, monkeypatch):
        registry = {
            "regression": {"Ridge": "sklearn.linear_model:Ridge"},
            "classification": {},
        }
        monkeypatch.setattr(harness.models, "SKFUNC", registry)
        monkeypatch.setattr(harness.tabular, "SKFUNC", registry)
        options = harness.tabular.parse(["--set-params", "alpha=0.5", "solver=svd"])
        cells = harness.tabular.list_cells("regression", options)
        labels = {model.name: model.label for model, *_ in cells}
        assert labels == {
            "Ridge": "alpha=0.5,solver=svd",
            "BayesianRidge": "",
            "Broken": "",
        }
        ours = next(model for model, *_ in cells if model.is_ours)
        estimator = ours.build(3, 7)
        assert (estimator.alpha, estimator.solver) == (0.5, "svd")
        assert estimator.random_state == 7

    def test_what_cannot_be_imported_is_skipped_with_a_notice(
        self, harness, monkeypatch, capsys
    ):
        registry = {"regression": {"Later": "skfunc.no_such_room:Later"}}
        monkeypatch.setattr(harness.models, "SKFUNC", registry)
        assert "Later" not in harness.models.available("regression")
        assert "Later is skipped" in capsys.readouterr().out

    def test_unknown_model_lists_the_known_ones(self, harness):
        with pytest.raises(ValueError, match="GP-ARD"):
            harness.tabular.parse(["--models", "GPARD"])

    @pytest.mark.slow
    def test_model_that_kills_its_process_is_a_row(self, data, tmp_path):
        (tmp_path / "lethal.py").write_text(LETHAL_MODEL)
        script = tmp_path / "with_lethal_model.py"
        script.write_text(SCRIPT.format(benchmarks=str(BENCHMARKS)))
        command = [sys.executable, str(script), "--task", "classification"]
        command += ["--models", "LogisticRegression", "Lethal", "--jobs", "2"]
        command += ["--results", str(tmp_path / "results")]
        subprocess.run(command, check=True, timeout=120)
        text = (tmp_path / "results" / "tabular_rows.csv").read_text()
        assert text.count("LogisticRegression,,,ok,") == 2
        assert text.count("Lethal,,,failed: the process died,") == 2


class TestFigures:
    def test_quantile_crps_agrees_with_the_closed_form(self, harness):
        measure = harness.measure
        rng = np.random.default_rng(1)
        mean, std = rng.normal(size=50), rng.uniform(0.1, 2, size=50)
        y = mean + 2 * std * rng.normal(size=50)
        levels = (np.arange(measure.N_QUANTILES) + 0.5) / measure.N_QUANTILES
        quantiles = norm.ppf(levels, mean[:, None], std[:, None])
        assert measure.crps_quantiles(y, quantiles, levels) == pytest.approx(
            measure.crps_gaussian(y, mean, std), rel=2e-3
        )

    def test_figures_agree_with_the_library(self, harness):
        metrics = pytest.importorskip("skfunc.metrics")
        rng = np.random.default_rng(2)
        mean, y = rng.normal(size=(2, 40))
        std = rng.uniform(0.5, 2, size=40)
        for name in ("gaussian_nll", "crps_gaussian"):
            value = getattr(harness.measure, name)(y, mean, std)
            assert value == pytest.approx(getattr(metrics, name)(y, mean, std))
        proba = rng.dirichlet(np.ones(3), size=200)
        label = rng.integers(3, size=200)
        value = harness.measure.expected_calibration_error(
            proba.max(1), label == proba.argmax(1)
        )
        library = metrics.expected_calibration_error(label, proba, n_bins=15)
        assert value == pytest.approx(library)

    def test_gaussian_crps_at_the_mean(self, harness):
        value = harness.measure.crps_gaussian(np.zeros(1), np.zeros(1), np.ones(1))
        assert value == pytest.approx((np.sqrt(2) - 1) / np.sqrt(np.pi))

    def test_calibration_error_of_a_known_case(self, harness):
        ece = harness.measure.expected_calibration_error
        confidence = np.array([0.8, 0.8, 0.8, 0.8, 0.55, 0.55])
        right = np.array([1, 1, 1, 0, 1, 0], dtype=bool)
        expected = (4 * abs(0.8 - 0.75) + 2 * abs(0.55 - 0.5)) / 6
        assert ece(confidence, right) == pytest.approx(expected)

    def test_log_loss_is_clipped_for_a_class_never_seen(self, harness):
        proba = harness.peers.align_classes(
            np.array([[0.3, 0.7], [0.5, 0.5]]), np.array([0, 2]), np.array([0, 1, 2])
        )
        loss = harness.peers.log_loss(np.array([2, 1]), proba, np.array([0, 1, 2]))
        assert loss == pytest.approx(-(np.log(0.7) + np.log(1e-6)) / 2)

    def test_own_density_interval_and_quantiles_are_used(
        self, harness, data, monkeypatch
    ):
        class Uniform:
            """Uniform on [-4, 4], which is no Gaussian."""

            def fit(self, X, y):
                return self

            def predict(self, X, return_std=False):
                return np.zeros(len(X)), np.full(len(X), 8 / np.sqrt(12))

            def log_prob(self, X, y):
                return np.full(len(y), -np.log(8))

            def predict_interval(self, X, coverage):
                return np.tile([-4 * coverage, 4 * coverage], (len(X), 1))

            def predict_quantiles(self, X, levels):
                return np.tile(8 * np.asarray(levels) - 4, (len(X), 1))

        monkeypatch.setitem(harness.peers.REGRESSORS, "Uniform", lambda d, s: Uniform())
        model = harness.models.Model("regression", "Uniform")
        figures = harness.measure.run_cell(model, "autos", 0, None)
        y = harness.data.load_split("regression", "autos", 0).y_test
        assert figures["status"] == "ok"
        assert figures["nll"] == pytest.approx(np.log(8))
        assert figures["nll"] != figures["nll_gauss"]
        assert figures["cov90"] == np.mean(np.abs(y) <= 3.6)
        expected = np.mean((y**2 + 16) / 8 - 8 / 6)
        assert figures["crps"] == pytest.approx(expected, rel=1e-3)


class TestSummary:
    def test_means_are_over_the_cells_that_all_models_share(self, harness):
        rows = [
            row("A", "x", "0", nll=1.0),
            row("A", "x", "1", nll=3.0),
            row("A", "y", "0", nll=99.0),
            row("B", "x", "0", nll=0.0),
            row("B", "x", "1", status="failed after fit: E: no"),
            row("B", "y", "0", nll=2.0),
        ]
        comparison = harness.table.compare(rows, "regression")
        assert comparison.cells == [("x", "0"), ("y", "0")]
        np.testing.assert_array_equal(
            comparison.figures["nll"], [[1.0, 0.0], [harness.table.NLL_CEILING, 2.0]]
        )
        text = harness.table.summarize(rows, "regression")
        assert "failed: B on x, split 1: failed after fit: E: no" in text
        assert text.index("| B ") < text.index("| A ")

    def test_sparse_model_is_left_out_unless_named(self, harness):
        rows = [row("A", "x", str(split), nll=1.0) for split in range(5)]
        rows += [row("B", "x", "0", nll=0.0)]
        comparison = harness.table.compare(rows, "regression")
        assert comparison.models == ["A"]
        assert comparison.left_out == [("B", 1, 5)]
        assert "B, with 1 of 5 splits" in harness.table.summarize(rows, "regression")
        named = harness.table.compare(rows, "regression", ["A", "B"])
        assert named.models == ["A", "B"] and len(named.cells) == 1

    def test_wins_are_counted_by_set_and_by_metric(self, harness, monkeypatch):
        monkeypatch.setattr(harness.table, "SKFUNC", {"regression": {"Ours": ""}})
        losses = {"x": (1.0, 2.0), "y": (1.0, 1.0), "z": (3.0, 2.0), "w": (0.0, 2.0)}
        rows = []
        for dataset, (ours, theirs) in losses.items():
            rows.append(row("Ours", dataset, "0", nll=ours, label="m=2"))
            rows.append(row("Peer", dataset, "0", nll=theirs, rmse=2.0))
        lines = harness.table.summarize(rows, "regression").splitlines()
        wins = [line.split("|") for line in lines if "Ours[m=2]" in line][-2:]
        assert [[text.strip() for text in line[2:4]] for line in wins] == [
            ["NLL", "2-1-1"],
            ["RMSE", "4-0-0"],
        ]

    def test_nothing_shared_is_said(self, harness):
        rows = [row("A", "x", "0", nll=1.0), row("B", "y", "0", nll=1.0)]
        assert "No cell is shared" in harness.table.summarize(rows, "regression")


class TestPeers:
    def test_deep_ensemble_is_a_mixture(self, harness):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(80, 2))
        y = X[:, 0] + 0.1 * rng.normal(size=80)
        with harness.measure.one_thread():
            ensemble = harness.ensemble.DeepEnsembleRegressor(max_iter=20).fit(X, y)
        mean, std = ensemble.predict(X[:1], return_std=True)
        grid = np.linspace(mean[0] - 12 * std[0], mean[0] + 12 * std[0], 20_001)
        density = np.exp(ensemble.log_prob(X[:1].repeat(len(grid), 0), grid))
        assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-4)
        assert np.trapezoid(density * grid, grid) == pytest.approx(mean[0], abs=1e-4)
        variance = np.trapezoid(density * (grid - mean[0]) ** 2, grid)
        assert np.sqrt(variance) == pytest.approx(std[0], rel=1e-3)

    def test_deep_ensemble_keeps_the_best_weights(self, harness):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(60, 2))
        y = rng.normal(size=60)
        options = {"max_iter": 60, "n_iter_no_change": 5, "learning_rate_init": 0.05}
        Ensemble = harness.ensemble.DeepEnsembleRegressor
        with harness.measure.one_thread():
            stopped = Ensemble(early_stopping=True, **options).fit(X, y)
            straight = Ensemble(**options).fit(X, y)
        X_new, y_new = rng.normal(size=(200, 2)), rng.normal(size=200)
        assert (
            stopped.log_prob(X_new, y_new).mean()
            > straight.log_prob(X_new, y_new).mean()
        )

    def test_folds_bear_rare_classes(self, harness):
        y = np.array([0] * 10 + [1] * 7 + [2])
        folds = harness.peers.folds(y, 3)
        assert len(folds) == 3
        np.testing.assert_array_equal(
            np.sort(np.concatenate([valid for _, valid in folds])), np.arange(len(y))
        )

    @pytest.mark.slow
    @pytest.mark.parametrize("task", ["regression", "classification"])
    def test_every_peer_has_figures(self, harness, data, task):
        dataset = "autos" if task == "regression" else "three"
        for name in harness.models.peers(task):
            model = harness.models.Model(task, name)
            assert harness.measure.run_cell(model, dataset, 0, None)["status"] == "ok"

    def test_recorded_figures_of_a_peer(self, harness):
        if not harness.data.dataset_names("regression"):
            pytest.skip("needs the data sets, see SKFUNC_DATA")
        model = harness.models.Model("regression", "BayesianRidge")
        figures = harness.measure.run_cell(model, "boston", 0, None)
        assert figures["rmse"] == pytest.approx(0.395869, abs=1e-5)
        assert figures["nll"] == pytest.approx(0.558523, abs=1e-5)
        assert figures["cov90"] == pytest.approx(0.9804, abs=1e-4)


def test_fit_time_ratios(harness):
    keys = ("task", "model", "what", "cpu_s")
    values = [
        ("regression", "MLPRegressor", "default fit", 2.0),
        ("regression", "Ours", "default fit", 3.0),
        ("regression", "Ours", "default fit", 5.0),
        ("regression", "Ours", "ten members", 6.0),
        ("regression", "Ours", "ten fits", 24.0),
    ]
    rows = [dict(zip(keys, value, strict=True)) for value in values]
    line = next(
        text for text in harness.fit_time.summarize(rows).splitlines() if "Ours" in text
    )
    assert [text.strip() for text in line.split("|")[3:6]] == ["4", "2.00", "0.25"]
