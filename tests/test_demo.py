import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_wine
from sklearn.model_selection import KFold, StratifiedKFold
from threadpoolctl import threadpool_limits

from skfunc import demo

SMALL = {"max_iter": 2, "n_members": 2, "state_size": 8, "hidden_layer_sizes": (8,)}
README = Path(__file__).resolve().parent.parent / "README.md"


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


def test_table_of_classifiers_has_every_measure(capsys):
    X, y = load_wine(return_X_y=True)
    models = demo.classifiers(**SMALL)
    rows = demo.print_table("wine", X, y, models, demo.CLASSIFICATION, 3)
    assert list(rows) == list(models)
    for values in rows.values():
        assert set(values) == {*demo.CLASSIFICATION, "CPU s"}
        assert 0 <= values["accuracy"] <= 1
        assert 0 <= values["ECE"] <= 1
        assert values["log-loss"] > 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 1 + len(models)
    assert len({len(line) for line in lines}) == 1


def test_table_of_regressors_leaves_out_what_a_point_forecast_lacks(capsys):
    X, y = load_diabetes(return_X_y=True)
    models = demo.regressors(**SMALL)
    kept = {k: models[k] for k in ("ODENetRegressor", "RandomForest")}
    rows = demo.print_table("diabetes", X, y, kept, demo.REGRESSION, KFold(3))
    net, forest = rows["ODENetRegressor"], rows["RandomForest"]
    assert set(net) == {"RMSE", "NLL", "CRPS", "coverage", "CPU s"}
    assert set(forest) == {"RMSE", "CPU s"}
    assert 0 <= net["coverage"] <= 1
    assert capsys.readouterr().out.count(" -") == 3


def test_search_and_calibration_run():
    X, y = load_wine(return_X_y=True)
    search = demo.search_alpha(X, y, n_jobs=1, **SMALL)
    assert search.best_params_["odenetclassifier__alpha"] in demo.ALPHAS
    proba = demo.calibrated(**SMALL).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1)


def run_on_wine(folder, monkeypatch):
    def search(*data, **options):
        return demo.GridSearchCV(
            demo.classifiers(**options)["ODENetClassifier"],
            {"odenetclassifier__alpha": demo.ALPHAS},
            cv=2,
        ).fit(*data)

    wine = {"wine": (load_wine, StratifiedKFold(3))}
    monkeypatch.setattr(demo, "CLASSIFICATION_SETS", wine)
    monkeypatch.setattr(demo, "search_alpha", search)
    demo.run(folder, **SMALL)


def test_run_writes_four_pictures(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    run_on_wine(tmp_path / "pictures", monkeypatch)
    files = sorted(tmp_path.glob("pictures/*"))
    names = ["bands.png", "calibration.png", "digits.png", "tolerance.png"]
    assert [file.name for file in files] == names
    out = capsys.readouterr().out
    assert all(str(file) in out for file in files)


def test_run_without_matplotlib_prints_the_table_and_says_why(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run_on_wine(tmp_path / "pictures", monkeypatch)
    out = capsys.readouterr().out
    assert "diabetes" in out
    assert "pip install skfunc[plot]" in out
    assert not (tmp_path / "pictures").exists()


def test_main_reads_the_folder(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(demo, "run", seen.append)
    demo.main(["--folder", str(tmp_path)])
    assert seen == [tmp_path]
    assert "Done" in capsys.readouterr().out


def test_example_in_the_readme_runs(capsys):
    code = README.read_text().split("```python\n")[1].split("```")[0]
    exec(compile(code, str(README), "exec"), {})
    assert capsys.readouterr().out
