"""What is compared: the estimators of skfunc by import path, and their peers."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

# Grows with each supervised estimator; one that cannot be imported is skipped.
SKFUNC = {
    "regression": {
        "ODENetRegressor": "skfunc.ode:ODENetRegressor",
        "ConditionalCNFRegressor": "skfunc.ode:ConditionalCNFRegressor",
        "InfiniteWidthRegressor": "skfunc.infinite_width:InfiniteWidthRegressor",
        "SDEBNNRegressor": "skfunc.sde:SDEBNNRegressor",
        "NeuralProcessRegressor": "skfunc.neural_process:NeuralProcessRegressor",
    },
    "classification": {
        "ODENetClassifier": "skfunc.ode:ODENetClassifier",
        "InfiniteWidthClassifier": "skfunc.infinite_width:InfiniteWidthClassifier",
        "SDEBNNClassifier": "skfunc.sde:SDEBNNClassifier",
        "NeuralProcessClassifier": "skfunc.neural_process:NeuralProcessClassifier",
    },
}


@dataclass(frozen=True)
class Model:
    """A model of one task; a variant of a skfunc estimator carries a label."""

    task: str
    name: str
    label: str = ""
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        """Whether it is an estimator of skfunc."""
        return self.name in SKFUNC[self.task]

    def build(self, n_features: int, seed: int):
        """Return the unfitted estimator."""
        if not self.is_ours:
            return peers(self.task)[self.name](n_features, seed)
        estimator = import_class(SKFUNC[self.task][self.name])()
        if "random_state" in estimator.get_params():
            estimator.set_params(random_state=seed)
        return estimator.set_params(**self.params)


def display_name(name: str, label: str) -> str:
    """Name in tables: a variant's label in brackets."""
    return f"{name}[{label}]" if label else name


def peers(task: str) -> dict:
    """Return the peers of a task by name."""
    import _peers

    return _peers.REGRESSORS if task == "regression" else _peers.CLASSIFIERS


def import_class(path: str):
    """Class at ``package.module:Name``; ImportError where there is none."""
    module, name = path.split(":")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise ImportError(f"{module} has no {name}") from error


def expand(names: list[str]) -> list[str]:
    """Spell out the groups ``skfunc`` and ``peers``; ValueError for an unknown name."""
    groups = {
        "skfunc": [name for task in SKFUNC for name in SKFUNC[task]],
        "peers": [name for task in SKFUNC for name in peers(task)],
    }
    known = {name for group in groups.values() for name in group}
    spelled = [member for name in names for member in groups.get(name, [name])]
    unknown = sorted(set(spelled) - known)
    if unknown:
        raise ValueError(
            f"No model {', '.join(unknown)}; the models are "
            f"{', '.join(sorted(known))}, or the groups skfunc and peers."
        )
    return list(dict.fromkeys(spelled))


def available(task: str, names: list[str] | None = None) -> list[str]:
    """Names of a task's models that can be imported, with a notice for the others."""
    known = [*SKFUNC[task], *peers(task)]
    found = []
    for name in known if names is None else [n for n in known if n in names]:
        if name in SKFUNC[task]:
            try:
                import_class(SKFUNC[task][name])
            except ImportError as error:
                print(f"{task}: {name} is skipped, it cannot be imported ({error})")
                continue
        found.append(name)
    return found
