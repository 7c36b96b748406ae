"""Draw the memory of a training step against the number of solver steps.

Reads what `benchmarks/solvers.py` measured, and writes `docs/_static/memory_depth.png`.
"""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "benchmarks" / "results" / "solvers.csv"
TARGET = ROOT / "docs" / "_static" / "memory_depth.png"
STYLES = {"backprop": "o-", "checkpoint": "s-", "adjoint": "^-"}


def main() -> None:
    with SOURCE.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("live_mb")]
    figure, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for gradient, style in STYLES.items():
        chosen = [row for row in rows if row["gradient"] == gradient]
        steps = np.array([float(row["steps"]) for row in chosen])
        memory = np.array([float(row["live_mb"]) for row in chosen])
        slope = np.polyfit(np.log(steps[-3:]), np.log(memory[-3:]), 1)[0]
        axis.loglog(steps, memory, style, label=f"{gradient} (slope {slope:.2f})")
        print(f"{gradient}: slope over the three deepest {slope:.2f}")
    axis.set(xlabel="solver steps (depth)", ylabel="peak memory of a step, MB")
    axis.legend()
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(TARGET, dpi=100)


if __name__ == "__main__":
    main()
