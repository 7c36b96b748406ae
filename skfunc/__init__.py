"""Scikit-learn estimators that predict distributions over functions."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

# Public name -> module that defines it. Loaded on first use, since the estimators
# import torch and `import skfunc` should not.
_PUBLIC = {
    "CNFDensity": "skfunc.ode",
    "ConditionalCNFRegressor": "skfunc.ode",
    "FiniteEnsemble": "skfunc.infinite_width",
    "ImageCompleter": "skfunc.neural_process",
    "InfiniteWidthClassifier": "skfunc.infinite_width",
    "InfiniteWidthRegressor": "skfunc.infinite_width",
    "LatentODE": "skfunc.ode",
    "LatentODEClassifier": "skfunc.ode",
    "NeuralProcessClassifier": "skfunc.neural_process",
    "NeuralProcessMetaLearner": "skfunc.neural_process",
    "NeuralProcessPrior": "skfunc.neural_process",
    "NeuralProcessRegressor": "skfunc.neural_process",
    "ODENetClassifier": "skfunc.ode",
    "ODENetRegressor": "skfunc.ode",
    "SDEBNNClassifier": "skfunc.sde",
    "SDEBNNRegressor": "skfunc.sde",
    "load": "skfunc.persistence",
}
_MODULES = (
    "datasets",
    "decision",
    "infinite_width",
    "metrics",
    "neural_process",
    "ode",
    "plotting",
    "predictive",
    "sde",
    "solvers",
)

__all__ = [
    "CNFDensity",
    "ConditionalCNFRegressor",
    "FiniteEnsemble",
    "ImageCompleter",
    "InfiniteWidthClassifier",
    "InfiniteWidthRegressor",
    "LatentODE",
    "LatentODEClassifier",
    "NeuralProcessClassifier",
    "NeuralProcessMetaLearner",
    "NeuralProcessPrior",
    "NeuralProcessRegressor",
    "ODENetClassifier",
    "ODENetRegressor",
    "SDEBNNClassifier",
    "SDEBNNRegressor",
    "__version__",
    "datasets",
    "decision",
    "infinite_width",
    "load",
    "metrics",
    "neural_process",
    "ode",
    "plotting",
    "predictive",
    "sde",
    "solvers",
]

if TYPE_CHECKING:
    from skfunc import (
        datasets,
        decision,
        infinite_width,
        metrics,
        neural_process,
        ode,
        plotting,
        predictive,
        sde,
        solvers,
    )
    from skfunc.infinite_width import FiniteEnsemble, InfiniteWidthRegressor
    from skfunc.neural_process import (
        ImageCompleter,
        NeuralProcessClassifier,
        NeuralProcessMetaLearner,
        NeuralProcessPrior,
        NeuralProcessRegressor,
    )
    from skfunc.ode import (
        CNFDensity,
        ConditionalCNFRegressor,
        LatentODE,
        LatentODEClassifier,
        ODENetClassifier,
        ODENetRegressor,
    )
    from skfunc.persistence import load
    from skfunc.sde import SDEBNNClassifier, SDEBNNRegressor


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"skfunc.{name}")
    raise AttributeError(f"module 'skfunc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
