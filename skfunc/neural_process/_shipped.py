"""The priors that the package ships, and the range that they were trained for."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

from skfunc.neural_process._prior import NeuralProcessPrior

WEIGHTS = Path(__file__).parent / "weights"
# Rows that the guide states; a longer context works, and takes its time.
MOST_ROWS = 10_000


@cache
def shipped_prior(task: str) -> NeuralProcessPrior:
    """Return a prior over functions of tables, from the package's own files.

    Parameters
    ----------
    task : {"regression", "classification"}
        What it predicts.
    """
    from skfunc.persistence import load

    prior: Any = load(WEIGHTS / f"{task}.safetensors")
    assert isinstance(prior, NeuralProcessPrior)
    return prior


def warn_out_of_range(n_rows: int, n_features: int, training: dict[str, Any]) -> None:
    """Warn about a table that is larger than those that a prior was trained for.

    Parameters
    ----------
    n_rows, n_features : int
        Size of the table.
    training : dict
        The prior's model card; "most_features" is the width that it states.
    """
    most = training.get("most_features")
    beyond = []
    if most is not None and n_features > most:
        beyond.append(f"{n_features} features (stated limit {most})")
    if n_rows > MOST_ROWS:
        beyond.append(f"{n_rows} rows (stated limit {MOST_ROWS})")
    if beyond:
        warnings.warn(
            f"the prior was not trained for {' and '.join(beyond)}: predictions may be "
            "poor. Select features, or use prior='self'",
            UserWarning,
            stacklevel=4,
        )
