"""Cost of a neural process's prediction against the number of points.

A regressor is given n context points, by a prior of any network (weights do not change
the cost, so the networks are hardly trained), and predicts mean and deviation at m = n
targets; scikit-learn's Gaussian process with a fixed kernel does the same. Each cost is
that of conditioning and predicting, and that of a prediction alone, once the context is
encoded. Slopes are those of a line through logarithms at the largest sizes.

A transformer's prediction is also held against the two matrix products of every
attention, by themselves, which no implementation can do without.

    python benchmarks/predict_cost.py
    python benchmarks/predict_cost.py --quick

Writes ``benchmarks/results/predict_cost.md`` and ``docs/_static/predict_cost.png``.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel

from _measure import library_versions, one_thread
from _table import markdown
from skfunc import NeuralProcessMetaLearner, NeuralProcessPrior, NeuralProcessRegressor
from skfunc.neural_process.priors import GaussianProcessPrior

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).resolve().parent / "results"
FIGURES = Path(__file__).resolve().parents[1] / "docs" / "_static"
N_FEATURES, WIDTH, LAYERS, HEADS = 4, 64, 4, 4
LINEAR = ("cnp", "np", "lbanp")
VARIANTS = (*LINEAR, "tnp", "kernel")
PROCESS = "GaussianProcessRegressor"
# n of n context points and n targets, up to a size that each can afford.
SIZES = (125, 250, 500, 1000, 2000, 4000, 8000, 16_000)
LARGEST = {"tnp": 8000, "kernel": 2000, PROCESS: 4000}
QUICK_SIZES = (50, 100, 200)
# Slopes are of the sizes from here on, where nothing fixed counts any more.
SLOPE_FROM, SLOPE_POINTS = 1000, 3
REPEATS, LONG_REPEATS, LONG = 5, 3, 2.0
FLOOR_SIZES, FLOOR_HEADS = (500, 1000, 2000, 4000), (4, 1)
FLOOR_GOAL, FLOOR_BLOCK = 1.35, 64


@dataclass
class Cost:
    """CPU-seconds of conditioning and predicting, and of a prediction alone."""

    whole: float
    cached: float


def untrained_prior(variant: str, n_heads: int = HEADS) -> NeuralProcessPrior:
    """Return a prior of one training step."""
    learner = NeuralProcessMetaLearner(
        variant=variant,
        hidden_size=WIDTH,
        n_layers=LAYERS,
        n_heads=n_heads,
        n_features=N_FEATURES,
        max_iter=1,
        batch_size=2,
        device="cpu",
        random_state=0,
    )
    return learner.fit(GaussianProcessPrior()).prior_


def models() -> dict[str, Any]:
    """Return what is measured, by name."""
    found: dict[str, Any] = {
        name: NeuralProcessRegressor(prior=untrained_prior(name), random_state=0)
        for name in VARIANTS
    }
    kernel = RBF(2.0) + WhiteKernel(0.1)
    found[PROCESS] = GaussianProcessRegressor(kernel, optimizer=None)
    return found


def points(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return context rows, their values, and target rows."""
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(2 * n, N_FEATURES))
    y = np.sin(X[:n, 0]) + 0.1 * generator.normal(size=n)
    return X[:n], y, X[n:]


def median_cost(function: Callable[[], Any]) -> float:
    """Return the median CPU-seconds of several calls, fewer of what takes long."""
    spent: list[float] = []
    while len(spent) < (LONG_REPEATS if spent and spent[0] > LONG else REPEATS):
        started = time.process_time()
        function()
        spent.append(time.process_time() - started)
    return statistics.median(spent)


def measure(model: Any, n: int) -> Cost:
    """Measure a model at n context points and n targets."""
    X, y, X_new = points(n)

    def whole() -> None:
        model.fit(X, y).predict(X_new, return_std=True)

    whole()
    return Cost(
        median_cost(whole), median_cost(lambda: model.predict(X_new, return_std=True))
    )


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Return the exponent at the largest sizes, by least squares of logarithms."""
    from_here = [i for i, n in enumerate(sizes) if n >= SLOPE_FROM]
    chosen = from_here if len(from_here) > 1 else range(len(sizes))[-SLOPE_POINTS:]
    x, y = (np.log([values[i] for i in chosen]) for values in (sizes, seconds))
    return float(np.polyfit(x, y, 1)[0])


def measure_all(sizes: tuple[int, ...]) -> dict:
    """Return costs by model and size."""
    costs: dict[str, dict[int, Cost]] = {}
    for name, model in models().items():
        costs[name] = {}
        for n in (n for n in sizes if n <= LARGEST.get(name, max(sizes))):
            cost = costs[name][n] = measure(model, n)
            print(f"{name} {n}: {cost.whole:.3g}, {cost.cached:.3g}", flush=True)
    return costs


def cost_table(costs: dict) -> str:
    """Return CPU-seconds at all sizes, with slopes."""
    sizes = sorted({n for of_model in costs.values() for n in of_model})
    lines = []
    for name, of_model in costs.items():
        for part in ("whole", "cached"):
            values = {n: getattr(cost, part) for n, cost in of_model.items()}
            exponent = slope(list(values), list(values.values()))
            cells = [f"{values[n]:.3g}" if n in values else "" for n in sizes]
            what = {"whole": "condition and predict", "cached": "predict"}[part]
            lines.append([name, what, *cells, f"{exponent:.2f}"])
    return markdown(["model", "work", *(str(2 * n) for n in sizes), "slope"], lines)


def floor_lines(sizes: tuple[int, ...]) -> list[list[str]]:
    """Return a transformer's prediction beside its attention's matrix products."""
    lines = []
    for n_heads in FLOOR_HEADS:
        prior = untrained_prior("tnp", n_heads)
        model = NeuralProcessRegressor(prior=prior, random_state=0)
        for n in sizes:
            X, y, X_new = points(n)
            model.fit(X, y).predict(X_new)
            shape = (n_heads, n, WIDTH // n_heads)
            q, k, v = torch.randn(3, *shape, dtype=torch.float64)

            def predict(model=model, X_new=X_new) -> None:
                model.predict(X_new, return_std=True)

            def products(q=q, k=k, v=v) -> None:
                # In blocks of queries, or writing all the scores would cost more.
                for _ in range(LAYERS):
                    for block in q.split(FLOOR_BLOCK, dim=1):
                        torch.bmm(torch.bmm(block, k.mT), v)

            def attention(q=q, k=k, v=v) -> None:
                for _ in range(LAYERS):
                    torch.nn.functional.scaled_dot_product_attention(
                        q[None], k[None], v[None]
                    )

            products(), attention()
            own, floor, whole = map(median_cost, (predict, products, attention))
            lines.append(
                [
                    f"{WIDTH // n_heads}",
                    f"{n}",
                    f"{own:.3g}",
                    f"{floor:.3g}",
                    f"{whole:.3g}",
                    f"{own / floor:.2f}",
                    f"{own / whole:.2f}",
                ]
            )
            print(" | ".join(lines[-1]), flush=True)
    return lines


def draw(costs: dict, file: Path) -> None:
    """Draw CPU-seconds against the number of points."""
    figure, axes = plt.subplots(
        1, 2, figsize=(10, 4), sharey=True, layout="constrained"
    )
    titles = ("condition and predict", "predict, context encoded")
    for axis, part, title in zip(axes, ("whole", "cached"), titles, strict=True):
        for i, (name, of_model) in enumerate(costs.items()):
            sizes = list(of_model)
            seconds = [getattr(cost, part) for cost in of_model.values()]
            style = "k--" if name == PROCESS else f"C{i}-"
            label = f"{name} ({slope(sizes, seconds):.2f})"
            total = [2 * n for n in sizes]
            axis.loglog(total, seconds, style, marker="o", ms=3, label=label)
        axis.set(title=title, xlabel="points n + m, half of each")
        options = {"fontsize": 8, "title_fontsize": 8, "loc": "upper left"}
        axis.legend(title="slope in brackets", **options)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("CPU-seconds, one thread")
    # Room for the legends.
    axes[0].set_ylim(top=300.0)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, no file")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    options = parser.parse_args(arguments)
    sizes, floors = SIZES, FLOOR_SIZES
    if options.quick:
        sizes, floors = QUICK_SIZES, QUICK_SIZES[-1:]
    with one_thread(), warnings.catch_warnings():
        # The fixed kernel of the peer may lie at a bound of its search.
        warnings.simplefilter("ignore")
        costs = measure_all(sizes)
        floor = floor_lines(floors)
    header = [
        "width of a head",
        "n = m",
        "predict, CPU-s",
        "products, CPU-s",
        "attention, CPU-s",
        "predict / products",
        "predict / attention",
    ]
    text = "\n\n".join(
        (
            "# Cost of predictions",
            "Written by `benchmarks/predict_cost.py`. CPU-seconds, one thread, "
            f"float64, medians of {REPEATS} calls; n context points and m = n targets "
            f"with {N_FEATURES} features; networks of width {WIDTH}, {LAYERS} layers "
            f"or blocks, {HEADS} heads. Columns are n + m. Slopes are of "
            f"logarithms, from n = {SLOPE_FROM} on. {library_versions()}",
            cost_table(costs),
            "## A transformer's prediction and its attention\n\n"
            "The variant tnp with its context encoded; `products` are the two matrix "
            "products of every layer's attention by themselves, in blocks of queries, "
            "`attention` is torch's fused attention with the softmax. Goal: predict / "
            f"products <= {FLOOR_GOAL:g}.",
            markdown(header, floor),
        )
    )
    print("\n" + text)
    if not options.quick:
        options.results.mkdir(parents=True, exist_ok=True)
        (options.results / "predict_cost.md").write_text(text + "\n")
        options.figures.mkdir(parents=True, exist_ok=True)
        draw(costs, options.figures / "predict_cost.png")


if __name__ == "__main__":
    main()
