"""Regret of agents on bandits made of data sets: mushroom, shuttle and covertype.

Rows in random order, another for every trial; the protocol of Riquelme et al. 2018
(arXiv 1802.09127). Regret is given in per cent of that of an agent that draws arms
uniformly, on the same rounds. The folder ``bandits`` of ``SKFUNC_DATA`` has the sets.

    python benchmarks/real_bandits.py
    python benchmarks/real_bandits.py --sets mushroom --trials 3

Writes ``benchmarks/results/real_bandits.md``.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import time
from pathlib import Path

import numpy as np
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeRegressor

from _data import data_folder
from _measure import library_versions, limit_threads_of_children, one_thread
from _table import markdown
from skfunc.decision import (
    ClassificationBandit,
    EstimatorAgent,
    LinearThompsonAgent,
    MushroomBandit,
    UniformAgent,
    run_bandit,
)

RESULTS = Path(__file__).parent / "results"
SETS = ("mushroom", "shuttle", "covertype")
AGENTS = {
    "uniform": UniformAgent,
    "linear Thompson": LinearThompsonAgent,
    "ten bootstrapped trees": lambda: EstimatorAgent(
        DecisionTreeRegressor(min_samples_leaf=2, random_state=0)
    ),
}


def load(name: str):
    """Return the bandit of a data set."""
    folder = data_folder() / "bandits"
    if name == "mushroom":
        with gzip.open(folder / "mushroom.csv.gz", "rt", newline="") as file:
            rows = np.array(list(csv.reader(file))[1:])
        columns = OneHotEncoder(sparse_output=False).fit_transform(rows[:, 1:])
        return MushroomBandit(columns, rows[:, 0] == "e")
    file_of = {"shuttle": "shuttle.npz", "covertype": "covertype15k.npz"}
    if name not in file_of:
        raise SystemExit(f"unknown set {name!r}; there are {', '.join(SETS)}")
    with np.load(folder / file_of[name], allow_pickle=False) as arrays:
        return ClassificationBandit(arrays["X"].astype(float), arrays["y"])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    limit_threads_of_children()
    lines = []
    with one_thread():
        for name in arguments.sets:
            bandit = load(name)
            reference = None
            for label, make in AGENTS.items():
                started = time.process_time()
                regrets = np.array(
                    [
                        run_bandit(make(), bandit, arguments.rounds, seed).regrets
                        for seed in range(arguments.trials)
                    ]
                )
                seconds = time.process_time() - started
                total, last = regrets.mean(1), regrets[:, -500:].mean(1)
                if reference is None:
                    reference = total.mean()
                cells = [
                    f"{100 * x.mean() / reference:.1f} ± "
                    f"{100 * x.std(ddof=1) / reference / np.sqrt(len(x)):.1f}"
                    for x in (total, last)
                ]
                each = 1000 * seconds / regrets.size
                lines.append([f"{name}, {label}", *cells, f"{each:.2f}"])
                print(*lines[-1], sep=" | ", flush=True)
    header = ["set, agent", "regret", "of the last 500", "CPU-ms a round"]
    text = (
        "# Bandits of data sets\n\n"
        f"Regret in per cent of that of chance, {arguments.rounds} rounds; means and "
        f"standard errors of {arguments.trials} trials.\n\n"
        f"{markdown(header, lines)}\n\n{library_versions()}\n"
    )
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "real_bandits.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
