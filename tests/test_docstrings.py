"""Docstrings of public objects are complete, and the guide's examples run."""

import doctest
import importlib
import inspect
import warnings
from pathlib import Path

import pytest
from numpydoc.validate import validate

DOCS = Path(__file__).resolve().parent.parent / "docs"
MODULES = (
    "skfunc",
    "skfunc.datasets",
    "skfunc.decision",
    "skfunc.infinite_width",
    "skfunc.infinite_width.layers",
    "skfunc.metrics",
    "skfunc.neural_process",
    "skfunc.neural_process.priors",
    "skfunc.ode",
    "skfunc.plotting",
    "skfunc.predictive",
    "skfunc.sde",
    "skfunc.solvers",
)
# numpydoc's checks that hold everywhere.
CHECKS = {
    "GL03": "no double blank lines",
    "GL07": "sections in numpydoc's order",
    "GL08": "there is a docstring",
    "GL10": "directives have two colons",
    "SS01": "there is a summary",
    "SS02": "the summary starts with a capital letter",
    "SS03": "the summary ends with a period",
    "SS04": "the summary has no leading spaces",
    "SS06": "the summary is one line",
    "PR01": "all parameters are documented",
    "PR02": "no unknown parameters",
    "PR03": "parameters in the signature's order",
    "PR04": "parameters have a type",
    "PR05": "types do not end with a period",
    "PR07": "parameters have a description",
    "PR10": "a space before the colon",
    "RT01": "there is a section Returns",
    "RT03": "what is returned has a description",
    "YD01": "there is a section Yields",
    "SA02": "descriptions in See Also end with a period",
}
# Besides, in what a user calls or makes.
EXAMPLES = {"EX01": "there are examples"}
WITHOUT_EXAMPLES = {
    "skfunc.solvers.Solution",
    "skfunc.solvers.SolverReport",
    "skfunc.solvers.SolverWarning",
    "skfunc.solvers.check_method",
}
# Values for those who write estimators: one sentence, shapes in it, says it all.
SHORT = (
    "skfunc.predictive.",
    "skfunc.solvers.Solution",
    "skfunc.solvers.SolverReport.",
)
NOT_IN_SHORT = {"PR01", "RT01"}


def public_names(module):
    if hasattr(module, "__all__"):
        return module.__all__
    return [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__
    ]


def public_objects():
    """Return paths of public classes and functions, and of the classes' methods."""
    tops, methods = {}, set()
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in public_names(module):
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                tops[value] = f"{module_name}.{name}"
    for value, path in tops.items():
        if inspect.isclass(value):
            methods |= {f"{path}.{name}" for name in own_methods(value)}
    return sorted(tops.values()), sorted(methods)


def own_methods(cls):
    """Return the names of public methods and properties that skfunc defines."""
    for name in dir(cls):
        if name.startswith("_"):
            continue
        value = inspect.getattr_static(cls, name)
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if inspect.isfunction(function) and function.__module__.startswith("skfunc"):
            yield name


TOPS, METHODS = public_objects()


def complaints(path, checks):
    with warnings.catch_warnings():
        # numpydoc's own reading of sections it does not know.
        warnings.filterwarnings("ignore", module="numpydoc")
        found = validate(path)["errors"]
    return [f"{code}: {text}" for code, text in found if code in checks]


def checks_for(path):
    return set(CHECKS) - (NOT_IN_SHORT if path.startswith(SHORT) else set())


@pytest.mark.parametrize("path", TOPS)
def test_class_or_function(path):
    checks = checks_for(path)
    if "predictive" not in path and path not in WITHOUT_EXAMPLES:
        checks |= set(EXAMPLES)
    assert complaints(path, checks) == []


@pytest.mark.parametrize("path", METHODS)
def test_method(path):
    assert complaints(path, checks_for(path)) == []


def test_every_public_name_exists():
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        names = getattr(module, "__all__", [])
        assert sorted(set(names)) == sorted(names)
        for name in names:
            assert getattr(module, name) is not None


def test_api_page_lists_every_public_object():
    page = (DOCS / "api.rst").read_text()
    listed = {line.strip() for line in page.splitlines()}
    listed |= {path.replace("skfunc.ODENet", "skfunc.ode.ODENet") for path in listed}
    for path in TOPS:
        short = path.rsplit(".", 1)[-1]
        assert path in listed or f"skfunc.{short}" in listed, path


@pytest.mark.parametrize("name", sorted(path.name for path in DOCS.glob("*.rst")))
def test_guide_runs(name):
    results = doctest.testfile(str(DOCS / name), module_relative=False)
    assert results.failed == 0
