"""The figure of the one-dimensional benchmark: curves and samples."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch

from _gp_training import KERNELS, NOISE_STD, Trained
from skfunc.datasets import GPTasks
from skfunc.datasets._gp_tasks import covariances
from skfunc.nn import KernelNeuralProcess, autoregressive_sample

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TITLES = {"rbf": "RBF", "matern52": "Matérn 5/2", "periodic": "periodic"}
GRID = np.linspace(-2.0, 2.0, 128)
N_SAMPLES, N_CONTEXT = 4, (8, 14)


def exact_prediction(tasks: GPTasks, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of observations on the grid."""
    context_X, context_y, _, _ = tasks.task(i)
    n = len(context_y)
    X = np.concatenate([context_X[:, 0], GRID])[None, :, None]
    of_task = (tasks.kernel, tasks.lengthscale, tasks.scale, tasks.period)
    covariance = covariances(X, *(values[i : i + 1] for values in of_task))[0]
    covariance += NOISE_STD**2 * np.eye(len(covariance))
    known, crossed = covariance[:n, :n], covariance[:n, n:]
    solved = np.linalg.solve(known, crossed)
    variance = np.diagonal(covariance)[n:] - (crossed * solved).sum(0)
    return solved.T @ context_y, np.sqrt(variance)


def shown_task(tasks: GPTasks) -> int:
    """Return the first task whose context leaves something to guess."""
    sizes = tasks.context_mask.sum(1)
    fits = (sizes >= N_CONTEXT[0]) & (sizes <= N_CONTEXT[1])
    return int(np.argmax(fits))


def joint_draws(network: KernelNeuralProcess, state, target, generator) -> torch.Tensor:
    """Return draws of the function, each of one of the inferred kernels."""
    posterior = network.joint_posterior(state, target)
    weights = posterior.log_weights[0].exp()
    chosen = torch.multinomial(weights, N_SAMPLES, True, generator=generator)
    size, vectors = torch.linalg.eigh(posterior.covariance[0, 0, chosen])
    normals = torch.randn(
        N_SAMPLES, len(GRID), 1, generator=generator, dtype=torch.float64
    )
    spread = vectors @ (size.clamp(min=0.0).sqrt().unsqueeze(-1) * normals)
    return posterior.mean[0, 0, chosen] + spread.squeeze(-1)


def draw_samples(axis, trained: Trained, tasks: GPTasks) -> None:
    """Draw a network's prediction and samples beside the exact process."""
    network, likelihood = trained.network, trained.likelihood
    i = shown_task(tasks)
    context_X, context_y, _, _ = tasks.task(i)
    x = torch.from_numpy(context_X)[None]
    y = torch.from_numpy(context_y)[None, :, None]
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    target = torch.from_numpy(GRID)[None, :, None]
    generator = torch.Generator().manual_seed(0)
    state = network.encode(x, y, mask)
    if network.is_latent:
        z = network.posterior(state).rsample(N_SAMPLES, generator)
        raw = network.decode(state, target, z=z)
        lines = likelihood.mean(raw)[:, 0, :, 0]
        raw = raw.mean(0)
    elif isinstance(network, KernelNeuralProcess):
        lines = joint_draws(network, state, target, generator)
        raw = network.decode(state, target)
    else:
        # In a random order, so that a draw grows everywhere alike.
        order = torch.randperm(len(GRID), generator=generator)
        drawn = autoregressive_sample(
            network,
            likelihood,
            x,
            y,
            mask,
            target[:, order],
            n_samples=N_SAMPLES,
            generator=generator,
        )
        lines = drawn[:, 0, order.argsort(), 0]
        raw = network.decode(state, target)
    mean = likelihood.mean(raw)[0, :, 0].numpy()
    std = likelihood.variance(raw)[0, :, 0].sqrt().numpy()
    axis.fill_between(
        GRID,
        mean - 1.96 * std,
        mean + 1.96 * std,
        color="C0",
        alpha=0.2,
        label="network, 95 %",
    )
    axis.plot(GRID, lines.numpy().T, color="C0", lw=0.6)
    exact, error = exact_prediction(tasks, i)
    for sign in (-1.96, 1.96):
        label = "exact GP, 95 %" if sign > 0 else None
        axis.plot(GRID, exact + sign * error, "k--", lw=0.8, label=label)
    axis.plot(context_X[:, 0], context_y, "k.", ms=5)
    axis.set_xlabel("x")


def draw_figure(
    lines: list[tuple],
    name: str,
    trained: Trained,
    tasks: list[GPTasks],
    file: Path,
) -> None:
    """Draw log-likelihood against size of context, and samples of one network."""
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    panels = zip(axes[0], axes[1], KERNELS, tasks, strict=True)
    for axis, below, kernel, of_kernel in panels:
        for model in dict.fromkeys(line[0] for line in lines):
            own = [line for line in lines if line[:2] == (model, kernel)]
            low_high = [tuple(map(int, line[2].split("-"))) for line in own]
            middle = [(low + high) / 2 for low, high in low_high]
            style = "k-" if model == "exact GP" else "o-"
            values = [float(line[3]) for line in own]
            errors = [float(line[4]) for line in own]
            # Models on other tasks are not paired, so the legend gives their number.
            label = f"{model} ({sum(int(line[5]) for line in own)} tasks)"
            axis.errorbar(middle, values, errors, fmt=style, ms=3, lw=1, label=label)
        axis.set_title(TITLES[kernel])
        axis.set_xlabel("context points")
        draw_samples(below, trained, of_kernel)
    axes[0, 0].set_ylabel("marginal log-likelihood per target")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    axes[1, 0].set_ylabel(f"y, samples of {name}")
    axes[1, 0].legend(fontsize=7)
    figure.savefig(file, dpi=120)
    plt.close(figure)
