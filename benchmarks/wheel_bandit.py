"""Regret of agents on the wheel bandit.

The wheel of Riquelme et al. 2018 (arXiv 1802.09127), 2 000 rounds, every trial with
contexts of its own. Regret is given in per cent of the expected regret of chance;
simple regret is that of the last 500 rounds. ``exact`` is Thompson sampling by an agent
that knows all but delta.

Neural processes learned from other wheels, with delta uniform on (0, 1), in this run.
``NP`` saw 64 wheels of 562 rounds each; ``NP-fresh`` had new wheels in every step. Both
are the network of ``_wheel_network.py``. ``estimator`` is skfunc's meta-learner and
regressor on the 64 wheels, in an `EstimatorAgent`; it is slow, and not in the table.

    python benchmarks/wheel_bandit.py
    python benchmarks/wheel_bandit.py --agents exact NP --trials 5

Writes ``benchmarks/results/wheel_bandit.md`` and ``.csv``.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch

from _measure import library_versions, limit_threads_of_children, one_thread
from _table import markdown
from _wheel_network import ExtremePoolingAgent, ExtremePoolingProcess
from _wheel_training import CONTEXT_ROUNDS, TARGET_ROUNDS, WHEELS, learn
from skfunc.datasets import WheelBandit
from skfunc.decision import (
    BanditAgent,
    EstimatorAgent,
    LinearThompsonAgent,
    UniformAgent,
    WheelThompsonAgent,
    run_bandit,
)

RESULTS = Path(__file__).parent / "results"
DELTAS = (0.5, 0.7, 0.9, 0.95, 0.99)
AGENTS = ("uniform", "linear", "exact", "NP", "NP-fresh", "estimator")
LABELS = {
    "NP": "NP, learned from 64 wheels",
    "NP-fresh": "NP, a wheel is never seen twice",
}
PUBLISHED = [
    ["NP, 80 000 rounds (1807.01622)", "1.60", "1.75", "3.37", "5.79", "22.15"],
    ["NeuralLinear, 80 000 rounds", "0.95", "1.60", "4.65", "9.56", "49.63"],
    ["ABML, 2 000 rounds", "1.36", "1.59", "3.51", "7.21", "35.04"],
]
ROWS = CONTEXT_ROUNDS + TARGET_ROUNDS
# Rounds of the games from which the agent of fresh wheels learns; 64 wheels have 512.
FRESH_ROUNDS = 1000
STEPS = {"NP": 8_000, "NP-fresh": 12_000, "estimator": 10_000}


def wheel_tasks(random_state: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return rows of contexts and arms, with rewards, of 64 wheels."""
    rng = np.random.default_rng(random_state)
    tasks = []
    for _ in range(WHEELS):
        sample = WheelBandit(rng.uniform()).sample(ROWS, rng)
        arms = rng.integers(5, size=ROWS)
        X = np.hstack([sample.contexts, np.eye(5)[arms]])
        tasks.append((X, sample.rewards[np.arange(ROWS), arms]))
    return tasks


def neural_process_agent(name: str, arguments) -> tuple[ExtremePoolingAgent, float]:
    """Return an agent whose network learned from wheels and its own games, and time."""
    fresh = name == "NP-fresh"
    n_steps = arguments.steps or STEPS[name]
    file = f"{name}-{n_steps}-{arguments.seed}.pt"
    kept = arguments.networks and arguments.networks / file
    if kept and kept.exists():
        stored = torch.load(kept, weights_only=True)
        network = ExtremePoolingProcess()
        network.load_state_dict(stored["network"])
        return ExtremePoolingAgent(network), stored["seconds"]
    started = time.process_time()
    n_played = FRESH_ROUNDS if fresh else CONTEXT_ROUNDS
    network = learn(
        fresh=fresh, n_steps=n_steps, n_played=n_played, random_state=arguments.seed
    )
    seconds = time.process_time() - started
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"network": network.state_dict(), "seconds": seconds}, kept)
    return ExtremePoolingAgent(network), seconds


def estimator_agent(arguments) -> EstimatorAgent:
    """Return an agent on a regressor whose prior was learned from wheels."""
    from skfunc import NeuralProcessMetaLearner, NeuralProcessRegressor

    learner = NeuralProcessMetaLearner(
        variant=arguments.variant,
        likelihood=arguments.likelihood,
        context_size=(5, 512),
        target_size=50,
        max_iter=arguments.steps or STEPS["estimator"],
        random_state=arguments.seed,
    ).fit(wheel_tasks(arguments.seed))
    model = NeuralProcessRegressor(prior=learner.prior_, random_state=0)
    return EstimatorAgent(model, shared=True, incremental=True)


def build(name: str, arguments) -> tuple[BanditAgent, float]:
    """Return the agent, and the CPU-seconds that it has learned before the games."""
    ready = {
        "uniform": UniformAgent,
        "linear": LinearThompsonAgent,
        "exact": WheelThompsonAgent,
    }
    if name in ready:
        return ready[name](), 0.0
    if name in ("NP", "NP-fresh"):
        return neural_process_agent(name, arguments)
    if name == "estimator":
        started = time.process_time()
        agent = estimator_agent(arguments)
        return agent, time.process_time() - started
    raise SystemExit(f"unknown agent {name!r}; there are {', '.join(AGENTS)}")


def play(agent, delta: float, trials: int, n_rounds: int) -> list[tuple[float, ...]]:
    """Return regret and simple regret in per cent of chance's, and CPU-s, of trials."""
    wheel = WheelBandit(delta)
    per_cent = 100 / wheel.uniform_regret
    last = min(500, n_rounds)
    if isinstance(agent, ExtremePoolingAgent):
        started = time.process_time()
        regrets = side_by_side(agent.network, wheel, trials, n_rounds)
        seconds = [(time.process_time() - started) / trials] * trials
    else:
        regrets, seconds = np.empty((trials, n_rounds)), []
        for trial in range(trials):
            started = time.process_time()
            result = run_bandit(agent, wheel, n_rounds, random_state=trial)
            regrets[trial] = result.regrets
            seconds.append(time.process_time() - started)
    total, simple = regrets.mean(axis=1), regrets[:, -last:].mean(axis=1)
    return list(zip(per_cent * total, per_cent * simple, seconds, strict=True))


def side_by_side(
    network: ExtremePoolingProcess, wheel: WheelBandit, trials: int, n_rounds: int
) -> np.ndarray:
    """Return regrets of the network's games on the rounds of `run_bandit`.

    One game at a time, by `ExtremePoolingAgent`, costs ten times as much.
    """
    seeds = [np.random.RandomState(trial).randint(2**31 - 1) for trial in range(trials)]
    rounds = [wheel.sample(n_rounds, int(seed)) for seed in seeds]
    contexts = torch.as_tensor(np.stack([r.contexts for r in rounds])).float()
    rewards = torch.as_tensor(np.stack([r.rewards for r in rounds])).float()
    arms = network.play(contexts, rewards, torch.Generator().manual_seed(0)).numpy()
    means = np.stack([r.means for r in rounds])
    return means.max(axis=-1) - np.take_along_axis(means, arms[..., None], -1)[..., 0]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--agents", nargs="+", default=AGENTS[:-1])
    parser.add_argument("--deltas", nargs="+", type=float, default=DELTAS)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--steps", type=int, help="of meta-training")
    parser.add_argument("--seed", type=int, default=0, help="of meta-training")
    parser.add_argument("--variant", default="lbanp", help="of the estimator")
    parser.add_argument("--likelihood", default="bins", help="of the estimator")
    parser.add_argument(
        "--networks", type=Path, help="folder that keeps what is learned"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    limit_threads_of_children()
    rows, learning = [], {}
    with one_thread():
        for name in arguments.agents:
            agent, learning[name] = build(name, arguments)
            print(f"{name}: ready in {learning[name]:.0f} CPU-s", flush=True)
            for delta in arguments.deltas:
                of_trials = play(agent, delta, arguments.trials, arguments.rounds)
                rows += [(name, delta, i, *f) for i, f in enumerate(of_trials)]
                mean = np.mean([r[3] for r in rows[-arguments.trials :]])
                print(f"{name}, delta {delta}: {mean:.2f} %", flush=True)
    write(arguments, rows, learning)


def write(arguments, rows: list[tuple], learning: dict[str, float]) -> None:
    """Write the tables, and a row for every trial."""
    header = ["agent", *(f"delta {delta:g}" for delta in arguments.deltas)]
    tables = []
    for column in (3, 4):
        lines = []
        for name in arguments.agents:
            line = [LABELS.get(name, name)]
            for delta in arguments.deltas:
                of_cell = [r[column] for r in rows if r[:2] == (name, delta)]
                error = np.std(of_cell, ddof=1) / np.sqrt(len(of_cell))
                line.append(f"{np.mean(of_cell):.2f} ± {error:.2f}")
            if column == 3:
                of_agent = [r[5] for r in rows if r[0] == name]
                each = 1000 * np.mean(of_agent) / arguments.rounds
                line += [f"{each:.2f}", f"{learning[name]:.0f}"]
            lines.append(line)
        if column == 3 and tuple(arguments.deltas) == DELTAS:
            lines += [[*line, "", ""] for line in PUBLISHED]
        costs = ["CPU-ms a round", "CPU-s to learn"] if column == 3 else []
        tables.append(markdown([*header, *costs], lines))
    text = (
        "# Wheel bandit\n\n"
        f"Regret in per cent of that of chance, {arguments.rounds} rounds; means and "
        f"standard errors of {arguments.trials} trials, each with its own contexts. "
        "The cost of a round of NP is that of games side by side. "
        "The last lines are published figures.\n\n"
        f"{tables[0]}\n\nSimple regret, of the last {min(500, arguments.rounds)} "
        f"rounds:\n\n{tables[1]}\n\n{library_versions()}\n"
    )
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "wheel_bandit.md").write_text(text)
    with (arguments.results / "wheel_bandit.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["agent", "delta", "trial", "regret", "simple", "cpu_s"])
        for name, delta, trial, *figures in rows:
            writer.writerow([name, delta, trial, *(f"{x:.4g}" for x in figures)])
    print(text)


if __name__ == "__main__":
    main()
