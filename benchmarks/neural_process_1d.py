"""Neural processes against exact Gaussian processes, in one dimension.

One model learns from tasks of three kernels (RBF, Matern-5/2, periodic) with random
hyper-parameters, in a budget of CPU-seconds, and is judged on further tasks of each
kernel, beside two references on the same tasks:

- the exact process, which knows kernel and hyper-parameters;
- their posterior given the context, by importance sampling: the best that a model which
  must infer them can do on average.

    python benchmarks/neural_process_1d.py
    python benchmarks/neural_process_1d.py --models convcnp tnp --seconds 3600

Checkpoints lie in ``$SKFUNC_CACHE`` or ``~/.cache/skfunc``; a run that was stopped goes
on, and one with a longer budget begins anew. The peer, of the package neuralprocesses,
needs an environment of its own, ``neuralprocesses-peer`` in that folder (see
`_neural_process_peer`). Writes ``benchmarks/results/neural_process_1d.md`` and
``.csv``, and ``docs/_static/neural_process_1d.png``.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from _gp_posterior import posterior_log_likelihood
from _gp_training import KERNELS, MIN_STD, Setup, Trained, draw_arrays, train
from _measure import library_versions, limit_threads_of_children, one_thread
from _neural_process_figure import draw_figure
from _table import markdown
from skfunc.datasets import GPTasks, gp_log_likelihood, make_gp_tasks
from skfunc.nn import (
    KernelNeuralProcess,
    TaskBatch,
    autoregressive_log_likelihood,
    importance_weighted_log_likelihood,
)

RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parents[1] / "docs" / "_static"
# A further model is a line here.
MODELS = {
    "kernel": Setup(
        "kernel",
        900,
        {
            "kernels": ["rbf", "matern52", *["periodic"] * 4],
            "n_layers": 4,
            "frequency_range": [1.9, 10.1],
            "n_scanned": 165,
            "n_corrections": 3,
            "min_std": MIN_STD,
        },
    ),
    "convcnp": Setup("convcnp", 300, {"points_per_unit": 32, "n_layers": 5}),
    "tnp": Setup("tnp", 300, {"width": 64, "n_heads": 4}),
    "cnp": Setup("cnp", 60),
    "np": Setup("np", 60),
}
PEER = "neuralprocesses ConvCNP"
EXACT, POSTERIOR = "exact GP", "GP, kernel inferred"
# Edges of the numbers of context points in the curves.
EDGES = (3, 7, 12, 18, 26, 36, 47)
TASKS_AT_ONCE, LATENT_DRAWS, PEER_BATCHES = 64, 64, 16_000


@dataclass
class Scores:
    """Log-likelihoods per target, a row for each kernel and a column for each task.

    The joint ones, and the marginal ones of the posterior, are of the first tasks.
    """

    marginal: np.ndarray
    joint: np.ndarray | None = None
    facts: tuple[str, ...] = ("", "", "")


def task_batch(tasks: GPTasks, rows: slice) -> TaskBatch:
    X = torch.from_numpy(tasks.X[rows])
    y = torch.from_numpy(tasks.y[rows])[..., None]
    context, target = (
        torch.from_numpy(mask[rows]) for mask in (tasks.context_mask, tasks.target_mask)
    )
    return TaskBatch(X, y, context, X, y, target)


def marginal(trained: Trained, batch: TaskBatch, seed: int) -> torch.Tensor:
    """Return the mean log-likelihood of a task's targets, each predicted alone."""
    network, likelihood = trained.network, trained.likelihood
    state = network.encode(batch.context_x, batch.context_y, batch.context_mask)
    z = None
    if network.is_latent:
        generator = torch.Generator().manual_seed(seed)
        z = network.posterior(state).rsample(LATENT_DRAWS, generator)
    raw = network.decode(state, batch.target_x, z=z)
    logs = likelihood.log_prob(raw, batch.target_y)
    if z is not None:
        logs = torch.logsumexp(logs, dim=0) - np.log(LATENT_DRAWS)
    return (logs * batch.target_mask).sum(1) / batch.n_targets()


def joint(trained: Trained, batch: TaskBatch, seed: int) -> torch.Tensor:
    network, likelihood = trained.network, trained.likelihood
    if isinstance(network, KernelNeuralProcess):
        return joint_of_kernels(network, batch)
    if not network.is_latent:
        return autoregressive_log_likelihood(network, likelihood, batch)
    return importance_weighted_log_likelihood(
        network,
        likelihood,
        batch,
        n_samples=LATENT_DRAWS,
        generator=torch.Generator().manual_seed(seed),
    )


def joint_of_kernels(network: KernelNeuralProcess, batch: TaskBatch) -> torch.Tensor:
    """Return the joint log-likelihood per target in closed form."""
    state = network.encode(batch.context_x, batch.context_y, batch.context_mask)
    posterior = network.joint_posterior(state, batch.target_x)
    scores = []
    for task, there in enumerate(batch.target_mask):
        y = batch.target_y[task, there, 0]
        covariance = posterior.covariance[task, 0][:, there][:, :, there]
        noise = posterior.noise[task, 0, :, None].square().expand(-1, len(y))
        logs = torch.distributions.MultivariateNormal(
            posterior.mean[task, 0][:, there], covariance + torch.diag_embed(noise)
        ).log_prob(y)
        total = torch.logsumexp(posterior.log_weights[task] + logs, dim=0)
        scores.append(total / len(y))
    return torch.stack(scores)


def judge(trained: Trained, tasks: list[GPTasks], n_few: int) -> Scores:
    """Score a network in float64."""
    network = trained.network.double()

    def values(function, of_kernel: GPTasks, n: int) -> np.ndarray:
        parts = [
            function(trained, task_batch(of_kernel, slice(i, min(i + step, n))), i)
            for i in range(0, n, step)
        ]
        return torch.cat(parts).numpy()

    step = TASKS_AT_ONCE
    n_parameters = sum(p.numel() for p in network.parameters())
    return Scores(
        np.array([values(marginal, t, len(t)) for t in tasks]),
        np.array([values(joint, t, n_few) for t in tasks]),
        (f"{n_parameters}", f"{trained.seconds:.0f}", f"{trained.steps}"),
    )


def posterior_scores(tasks: list[GPTasks], n_few: int, cache: Path) -> Scores:
    """Score the posterior over kernels, or read what is known of these tasks."""
    file = cache / f"posterior-{len(tasks[0])}-{n_few}.npz"
    if not file.exists():
        columns = [
            posterior_log_likelihood(t, n_few, seed) for seed, t in enumerate(tasks)
        ]
        first, second, draws = np.array(columns).swapaxes(0, 1)
        np.savez(file, marginal=first, joint=second, draws=draws)
    known = np.load(file)
    return Scores(known["marginal"], known["joint"], tuple(_few_and_median(known)))


def _few_and_median(known) -> list[str]:
    draws = known["draws"]
    return [f"{np.quantile(draws, q):.0f}" for q in (0.05, 0.5)]


def peer_scores(
    tasks: list[GPTasks], cache: Path, setup: Setup, python: Path, seed: int
) -> Scores:
    """Train the peer in its environment, as long as the network it is compared with."""
    file = cache / f"peer-{len(tasks[0])}-{setup.seconds:g}s-seed{seed}.npz"
    if not file.exists():
        # Seeds of training batches are (seed, pool); this one is none of them.
        training = draw_arrays(PEER_BATCHES, setup.batch_size, [seed, 2**31])
        X, y, sizes = zip(*training, strict=True)
        parts = {
            "test_X": np.concatenate([t.X[..., 0] for t in tasks]),
            "test_y": np.concatenate([t.y for t in tasks]),
            "n_context": np.concatenate([t.context_mask.sum(1) for t in tasks]),
            "n_target": np.concatenate([t.target_mask.sum(1) for t in tasks]),
        }
        given = cache / "peer-tasks.npz"
        X32, y32 = (np.array(a, dtype=np.float32) for a in (X, y))
        np.savez(given, X=X32, y=y32, sizes=np.array(sizes), **parts)
        script = Path(__file__).with_name("_neural_process_peer.py")
        options = ["--seconds", str(setup.seconds)]
        for option, name in (
            ("--points-per-unit", "points_per_unit"),
            ("--levels", "n_layers"),
        ):
            options += [option, str(setup.parameters[name])]
        subprocess.run(
            [python, "-W", "ignore", script, given, file, *options], check=True
        )
        given.unlink()
    known = np.load(file)
    facts = (known["parameters"], round(float(known["seconds"])), known["steps"])
    values = known["log_likelihood"].reshape(len(tasks), -1)
    return Scores(values, None, tuple(map(str, facts)))


def with_error(values: np.ndarray) -> list[str]:
    """Return mean and standard error of each row, and of the mean over rows."""
    errors = values.std(1, ddof=1) / np.sqrt(values.shape[1])
    overall = np.sqrt((errors**2).sum()) / len(errors)
    pairs = [*zip(values.mean(1), errors, strict=True), (values.mean(), overall)]
    return [f"{mean:.3f} ± {error:.3f}" for mean, error in pairs]


def write(scores: dict[str, Scores], n_context: np.ndarray, results: Path) -> str:
    """Write the tables, and the log-likelihoods by size of context."""
    exact, best = scores[EXACT], scores[POSTERIOR]
    n_tasks, n_few = exact.marginal.shape[1], best.marginal.shape[1]
    models = [name for name in scores if name not in (EXACT, POSTERIOR)]
    names = [*KERNELS, "mean"]
    first = [[EXACT, *with_error(exact.marginal), "", "", ""]]
    gaps, few, joints = [], [], []
    gap = exact.marginal[:, :n_few] - best.marginal
    few.append([f"{EXACT} less {POSTERIOR}", *with_error(gap)])
    joints.append([EXACT, *with_error(exact.joint[:, :n_few])])
    joints.append([POSTERIOR, *with_error(best.joint)])
    for name in models:
        own = scores[name]
        first.append([name, *with_error(own.marginal), *own.facts])
        gaps.append([name, *with_error(exact.marginal - own.marginal)])
        short = best.marginal - own.marginal[:, :n_few]
        few.append([f"{POSTERIOR} less {name}", *with_error(short)])
        if own.joint is not None:
            joints.append([name, *with_error(own.joint)])
    facts = ["parameters", "CPU-s of training", "steps"]
    text = (
        "# Neural processes in one dimension\n\n"
        "Log-likelihood per target in nats, means over tasks ± standard errors; more "
        "is better. One model for all three kernels, tested on tasks of each. Standard "
        f"deviations have a floor of {MIN_STD:g}, the peer's one of its own; the noise "
        "has 0.02.\n"
        f"\nMarginal, {n_tasks} tasks of each kernel:\n\n"
        f"{markdown(['model', *names, *facts], first)}\n\n"
        f"Marginal gap to the {EXACT} with the true hyper-parameters, paired on the "
        f"same {n_tasks} tasks; less is better:\n\n"
        f"{markdown(['model', *names], gaps)}\n\n"
        "Marginal gaps to the posterior over kernels and hyper-parameters, which "
        "no model can beat on average, paired on the first "
        f"{n_few} tasks. It is by importance sampling, with {best.facts[1]} effective "
        f"draws at the median task and {best.facts[0]} at the twentieth part with the "
        "fewest; where they are few, the posterior's own figure is too low.\n\n"
        f"{markdown(['difference', *names], few)}\n\n"
        f"Joint, the first {n_few} tasks; of models without a latent by the chain "
        "rule over targets, of kernel in closed form, of np by "
        f"{LATENT_DRAWS} draws of the latent, which is a lower bound on average:\n\n"
        f"{markdown(['model', *names], joints)}\n\n{library_versions()}\n"
    )
    results.mkdir(parents=True, exist_ok=True)
    (results / "neural_process_1d.md").write_text(text)
    with (results / "neural_process_1d.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "kernel", "context", "marginal", "error", "tasks"])
        for line in curves(scores, n_context):
            writer.writerow(line)
    return text


def curves(scores: dict[str, Scores], n_context: np.ndarray) -> list[tuple]:
    """Return (model, kernel, context, mean, error, tasks) by size of context."""
    lines = []
    for name, own in scores.items():
        for k, kernel in enumerate(KERNELS):
            values = own.marginal[k]
            sizes = n_context[k, : len(values)]
            for low, high in zip(EDGES[:-1], EDGES[1:], strict=True):
                of_bin = values[(low <= sizes) & (sizes < high)]
                if len(of_bin) > 1:
                    error = of_bin.std(ddof=1) / np.sqrt(len(of_bin))
                    figures = (f"{of_bin.mean():.4f}", f"{error:.4f}", len(of_bin))
                    lines.append((name, kernel, f"{low}-{high - 1}", *figures))
    return lines


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--seconds", type=float, help="CPU-seconds of every training")
    parser.add_argument("--tasks", type=int, default=512, help="of each kernel")
    parser.add_argument("--few", type=int, default=128, help="for what takes long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    arguments = parser.parse_args(argv)
    limit_threads_of_children()
    folder = Path(os.environ.get("SKFUNC_CACHE", Path.home() / ".cache" / "skfunc"))
    cache = folder / "neural_process_1d"
    cache.mkdir(parents=True, exist_ok=True)
    setups = {name: MODELS[name] for name in arguments.models}
    if arguments.seconds:
        setups = {n: replace(s, seconds=arguments.seconds) for n, s in setups.items()}
    n_few = min(arguments.few, arguments.tasks)
    with one_thread():
        tasks = [
            make_gp_tasks(arguments.tasks, kernel, random_state=1000 + i)
            for i, kernel in enumerate(KERNELS)
        ]
        scores = {
            EXACT: Scores(
                np.array([gp_log_likelihood(t) for t in tasks]),
                np.array([gp_log_likelihood(t, joint=True) for t in tasks]),
            ),
            POSTERIOR: posterior_scores(tasks, n_few, cache),
        }
        networks = {}
        for name, setup in setups.items():
            trained = train(name, setup, cache, arguments.seed)
            scores[name] = judge(trained, tasks, n_few)
            networks[name] = trained
            print(name, *with_error(scores[name].marginal), flush=True)
        python = folder / "neuralprocesses-peer" / "bin" / "python"
        if not arguments.no_peer and "convcnp" in setups and python.exists():
            setup = setups["convcnp"]
            scores[PEER] = peer_scores(tasks, cache, setup, python, arguments.seed)
        n_context = np.array([t.context_mask.sum(1) for t in tasks])
        print(write(scores, n_context, arguments.results))
        arguments.figures.mkdir(parents=True, exist_ok=True)
        name = arguments.models[0]
        draw_figure(
            curves(scores, n_context),
            name,
            networks[name],
            tasks,
            arguments.figures / "neural_process_1d.png",
        )


if __name__ == "__main__":
    main()
