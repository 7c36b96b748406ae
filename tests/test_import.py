"""What `import skfunc` brings, and what it leaves for later."""

import json
import subprocess
import sys

import pytest

import skfunc


def modules_after(statement):
    code = f"{statement}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_loads_neither_torch_nor_sklearn():
    loaded = modules_after("import skfunc")
    for heavy in ("torch", "sklearn", "scipy", "matplotlib", "torchdiffeq", "dask"):
        assert heavy not in loaded, heavy


def test_dir_and_version_load_no_torch():
    assert "torch" not in modules_after(
        "import skfunc; dir(skfunc); skfunc.__version__"
    )


def test_predictive_loads_no_torch():
    assert "torch" not in modules_after("from skfunc import predictive")


def test_estimators_load_no_plotting_and_no_dask():
    loaded = modules_after("from skfunc import ODENetClassifier")
    for heavy in ("matplotlib", "dask", "distributed"):
        assert heavy not in loaded, heavy


@pytest.mark.parametrize("name", skfunc.__all__)
def test_public_name_resolves(name):
    assert getattr(skfunc, name) is not None
    assert name in dir(skfunc)


def test_public_names_are_sorted_and_unique():
    assert list(skfunc.__all__) == sorted(set(skfunc.__all__))


def test_attribute_is_the_same_object_each_time():
    assert skfunc.ODENetClassifier is skfunc.ODENetClassifier
    from skfunc.ode import ODENetClassifier

    assert skfunc.ODENetClassifier is ODENetClassifier


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no attribute 'NoSuchEstimator'"):
        _ = skfunc.NoSuchEstimator
    with pytest.raises(ImportError):
        from skfunc import NoSuchEstimator  # noqa: F401
