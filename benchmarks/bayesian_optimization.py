"""Thompson sampling finds the minimum of functions on a grid.

The protocol of table 1 of Garnelo et al. 2018 (arXiv 1807.01622): functions of one
variable are drawn from Gaussian processes with random hyper-parameters; from one random
point on, each step draws a function given what is known and evaluates its minimum,
until the global one is met. Steps are divided by those of random search on the same
functions. No point is evaluated twice, by any method; ``--repeat`` allows it.

The neural processes learn from functions of the same distribution, within this run; the
words after their name are variant and likelihood, any that the meta-learner knows.

    python benchmarks/bayesian_optimization.py
    python benchmarks/bayesian_optimization.py --models random "true GP" --functions 20

Writes ``benchmarks/results/bayesian_optimization.md`` and ``.csv``.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from itertools import zip_longest
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from _measure import library_versions, limit_threads_of_children, one_thread
from _table import markdown
from skfunc.datasets import make_gp_tasks
from skfunc.decision import thompson_minimize

RESULTS = Path(__file__).parent / "results"
GRID = np.linspace(-2, 2, 200)[:, None]
LENGTHSCALE, SCALE = (0.1, 0.6), (0.1, 1.0)
# The functions of the test have no noise; a network wants a little.
NOISE = 1e-4
# Draws of smooth functions on a fine grid need it; far below the observation noise.
JITTER = 1e-8
MODELS = (
    "random",
    "true GP",
    "fitted GP",
    "NeuralProcess kernel mixture",
    "InfiniteWidthRegressor",
    "ODENetRegressor",
    "NeuralProcess anp",
)
TASKS = 4096
# Functions at most, of models whose fit at every step takes long.
FUNCTIONS_OF_SLOW = {"InfiniteWidthRegressor": 30, "ODENetRegressor": 10}
# Steps of meta-training; a kernel has few parameters to learn.
STEPS = {"anp": 10_000, "kernel": 4_000}
# Floors of predicted deviations, in units of the functions': a kernel meets its own.
MIN_STD = {"anp": 1e-3, "kernel": NOISE}


class RandomSearch(RegressorMixin, BaseEstimator):
    """A model that knows nothing: white noise for every function."""

    def fit(self, X, y):
        return self

    def sample_y(self, X, n_samples=1, random_state=0):
        return np.random.RandomState(random_state).normal(size=(len(X), n_samples))


class Function:
    """A draw of a Gaussian process on the grid, and the process."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.lengthscale = rng.uniform(*LENGTHSCALE)
        self.scale = rng.uniform(*SCALE)
        covariance = self.kernel(GRID) + JITTER * np.eye(len(GRID))
        self.values = np.linalg.cholesky(covariance) @ rng.standard_normal(len(GRID))

    @property
    def kernel(self):
        return ConstantKernel(self.scale**2) * RBF(self.lengthscale)

    def __call__(self, x):
        return self.values[np.argmin(np.abs(GRID[:, 0] - x[0]))]


def neural_process(steps: int, variant: str, likelihood: str):
    """Return a regressor whose prior was learned from functions as the test's."""
    from skfunc import NeuralProcessMetaLearner, NeuralProcessRegressor

    # Tasks of 48 or 49 points.
    tasks = make_gp_tasks(
        TASKS,
        min_points=24,
        max_points=49,
        lengthscale=LENGTHSCALE,
        scale=SCALE,
        noise_std=NOISE,
        random_state=12345,
    )
    there = tasks.context_mask | tasks.target_mask
    pairs = [
        (X[used], y[used]) for X, y, used in zip(tasks.X, tasks.y, there, strict=True)
    ]
    started = time.process_time()
    learner = NeuralProcessMetaLearner(
        variant=variant,
        likelihood=likelihood,
        min_std=MIN_STD.get(variant, MIN_STD["anp"]),
        context_size=(1, 40),
        max_iter=steps,
        random_state=0,
    ).fit(pairs)
    print(f"prior learned in {time.process_time() - started:.0f} CPU-s", flush=True)
    return NeuralProcessRegressor(prior=learner.prior_, random_state=0)


def build(name: str, arguments):
    """Return what makes the estimator of a function."""
    if name == "random":
        return lambda function: RandomSearch()
    if name == "true GP":
        return lambda function: GaussianProcessRegressor(
            function.kernel, alpha=JITTER, optimizer=None
        )
    if name == "fitted GP":
        return lambda function: GaussianProcessRegressor(
            ConstantKernel(0.3, (1e-2, 2.0)) * RBF(0.3, (0.05, 1.0)),
            alpha=1e-6,
            random_state=0,
        )
    if name == "InfiniteWidthRegressor":
        from skfunc import InfiniteWidthRegressor

        return lambda function: InfiniteWidthRegressor()
    if name == "ODENetRegressor":
        from skfunc import ODENetRegressor

        return lambda function: ODENetRegressor(random_state=0)
    if name.startswith("NeuralProcess "):
        variant, likelihood = (*name.split()[1:], "gaussian")[:2]
        steps = arguments.steps or STEPS.get(variant, STEPS["anp"])
        model = neural_process(steps, variant, likelihood)
        return lambda function: model
    raise SystemExit(f"unknown model {name!r}; there are {', '.join(MODELS)}")


def steps_to_minimum(estimator, function, seed: int, repeat: bool) -> int:
    """Return the evaluations up to the global minimum, the first one included."""
    limit = 5 * len(GRID) if repeat else len(GRID)
    found = thompson_minimize(
        estimator,
        function,
        candidates=GRID,
        n_iter=limit - 1,
        stop_at=function.values.min(),
        repeat=repeat,
        random_state=seed,
    )
    return found.n_evaluations


def ratio(steps: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Return the ratio of means and its standard error by the jackknife."""
    # A slow model has the first of the functions only.
    n = min(len(steps), len(reference))
    steps, reference = steps[:n], reference[:n]
    kept = ~np.eye(n, dtype=bool)
    left_out = np.array([steps[k].mean() / reference[k].mean() for k in kept])
    error = np.sqrt((n - 1) * left_out.var())
    return steps.mean() / reference.mean(), error


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--functions", type=int, default=100)
    parser.add_argument("--repeat", action="store_true")
    parser.add_argument("--steps", type=int, help="of meta-training")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    limit_threads_of_children()
    functions = [Function(seed) for seed in range(arguments.functions)]
    names = list(dict.fromkeys(["random", *arguments.models]))
    steps, seconds = {}, {}
    with one_thread(), warnings.catch_warnings():
        # A fitted process at the edge of its bounds says so at every step.
        warnings.simplefilter("ignore")
        for name in names:
            make = build(name, arguments)
            started = time.process_time()
            few = functions[: FUNCTIONS_OF_SLOW.get(name)]
            steps[name] = np.array(
                [
                    steps_to_minimum(make(f), f, seed, arguments.repeat)
                    for seed, f in enumerate(few)
                ]
            )
            seconds[name] = time.process_time() - started
            print(f"{name}: {steps[name].mean():.1f} steps", flush=True)
            write(arguments, steps, seconds)


def write(arguments, steps: dict, seconds: dict) -> None:
    """Write the table, and the steps of every function."""
    lines = []
    for name, taken in steps.items():
        share, error = ratio(taken, steps["random"])
        against = "-"
        if "true GP" in steps:
            value, spread = ratio(taken, steps["true GP"])
            against = f"{value:.2f} ± {spread:.2f}"
        lines.append(
            [
                name,
                str(len(taken)),
                f"{taken.mean():.1f}",
                f"{np.median(taken):.0f}",
                f"{share:.3f} ± {error:.3f}",
                against,
                f"{100 * seconds[name] / taken.sum():.1f}",
            ]
        )
    header = [
        "model",
        "functions",
        "mean steps",
        "median",
        "of random's",
        "of the true GP's",
        "CPU-s per 100 steps",
    ]
    again = "may be" if arguments.repeat else "are not"
    text = (
        "# Steps to the global minimum\n\n"
        f"{arguments.functions} functions of one variable on {len(GRID)} points; "
        f"points {again} evaluated again. Ratios are of means over the same "
        "functions. Standard errors by the jackknife over "
        "functions. Published (arXiv 1807.01622, table 1): Gaussian process 0.14 of "
        "random search, neural process 0.26.\n\n"
        f"{markdown(header, lines)}\n\n{library_versions()}\n"
    )
    arguments.results.mkdir(parents=True, exist_ok=True)
    name = "bayesian_optimization" + ("_repeat" if arguments.repeat else "")
    (arguments.results / f"{name}.md").write_text(text)
    with (arguments.results / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["function", *steps])
        for row, taken in enumerate(zip_longest(*steps.values(), fillvalue="")):
            writer.writerow([row, *taken])
    print(text, flush=True)


if __name__ == "__main__":
    main()
