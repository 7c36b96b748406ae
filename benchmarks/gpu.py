"""Everything that wants a GPU, in one run of under ten minutes.

Correctness on CUDA, speed ratios against the CPU, the CUDA graph, members in one pass,
neural processes, MNIST in full, and kernels of wide networks, those that pool on
CIFAR-10 among them. `--images` is a run of its own: MNIST and CIFAR-10 in full, clean
and corrupted, by the models of `sde_images.py`.
Where there is no GPU it says so and runs the same code on the CPU with `--quick`, which
shows that the script works and measures nothing of interest.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --images
"""

from __future__ import annotations

import argparse
import copy
import platform
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.base import clone
from sklearn.datasets import make_classification, make_friedman1

import cifar_kernels
import large_n
import sde_images
from _shift import conditions, judge_fitted, with_known
from mnist import SHARED, load
from skfunc import (
    InfiniteWidthRegressor,
    NeuralProcessMetaLearner,
    NeuralProcessRegressor,
    ODENetClassifier,
    ODENetRegressor,
)
from skfunc.datasets import make_gp_tasks
from skfunc.infinite_width._kernel_matrices import kernel_matrices
from skfunc.solvers import odeint

RESULTS = Path(__file__).parent / "results"


def timed(action) -> float:
    """Return wall seconds, the device drained before and after."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


class Table:
    """Rows of (what, value, remark), printed as they come."""

    def __init__(self) -> None:
        self.lines = ["| what | value | remark |", "| --- | --- | --- |"]
        print("\n".join(self.lines), flush=True)

    def add(self, what: str, value: float, remark: str = "") -> None:
        self.lines.append(f"| {what} | {value:.4g} | {remark} |")
        print(self.lines[-1], flush=True)


def correctness(table: Table, device: str) -> None:
    """Compare solves and fits of the device with those of the CPU."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(8, 8, generator=generator, dtype=torch.float64) / 4
    start = torch.randn(64, 8, generator=generator, dtype=torch.float64)

    for method, options in (
        ("rk4", dict(n_steps=20)),
        ("dopri5", dict(rtol=1e-9, atol=1e-9)),
        ("tsit5", dict(rtol=1e-9, atol=1e-9, per_row=True)),
    ):
        exact = start @ torch.linalg.matrix_exp(matrix).T
        field = matrix.to(device)
        y = odeint(
            lambda t, y, A=field: y @ A.T,
            start.to(device),
            (0.0, 1.0),
            method=method,
            **options,
        ).y[-1]
        error = (y.cpu() - exact).abs().max().item()
        table.add(f"{method} on {device}: largest error against expm", error)
    X, y = make_friedman1(300, noise=0.5, random_state=0)
    on_cpu = ODENetRegressor(device="cpu", max_iter=20, random_state=0).fit(X, y)
    there = clone(on_cpu).set_params(device=device).fit(X, y)
    gap = np.abs(on_cpu.predict(X) - there.predict(X)).max() / y.std()
    table.add(f"fit of 20 epochs on {device} and CPU: largest gap / std(y)", gap)


def speed(table: Table, device: str, quick: bool) -> None:
    """Time fits on the device, plain and captured, of one and of ten members."""
    rows = 2_000 if quick else 100_000
    epochs = 1 if quick else 3
    X, y = make_classification(rows, 50, n_informative=20, random_state=0)
    base = ODENetClassifier(
        max_iter=epochs, early_stopping=False, random_state=0, batch_size=1024
    )
    variants = {
        "cpu, 1 member": dict(device="cpu", n_members=1),
        f"{device}, 1 member": dict(device=device, n_members=1),
        f"{device}, 10 members": dict(device=device, n_members=10),
        f"{device}, 10 members, CUDA graph": dict(
            device=device, n_members=10, cuda_graph=True
        ),
    }
    seconds = {}
    for name, options in variants.items():
        model = clone(base).set_params(**options)
        clone(model).fit(X[:2048], y[:2048])
        seconds[name] = timed(lambda m=model: m.fit(X, y))
        table.add(f"{rows} x 50, {epochs} epochs: {name}", seconds[name], "s")
    one, ten = seconds[f"{device}, 1 member"], seconds[f"{device}, 10 members"]
    table.add("ten members over one", ten / one, "goal <= 1.5 on a GPU")
    table.add("one member: CPU over device", seconds["cpu, 1 member"] / one)
    graph = seconds[f"{device}, 10 members, CUDA graph"]
    table.add("ten members: plain over CUDA graph", ten / graph)


def neural_processes(table: Table, device: str, quick: bool) -> None:
    """Learn priors on the device and the CPU, compare what they say, and time it."""
    tasks = make_gp_tasks(200, random_state=0)
    pairs = [
        (X[used], y[used])
        for X, y, used in zip(tasks.X, tasks.y, tasks.context_mask, strict=True)
        if used.sum() > 10
    ]
    X, y, new = *pairs[0], np.linspace(-2, 2, 100)[:, None]
    for variant in ("cnp", "tnp", "convcnp", "kernel"):
        learner = NeuralProcessMetaLearner(
            variant=variant,
            hidden_size=32,
            n_layers=2,
            context_size=(3, 8),
            max_iter=20,
            random_state=0,
        )
        predictions = []
        for place in ("cpu", device):
            prior = clone(learner).set_params(device=place).fit(pairs).prior_
            model = NeuralProcessRegressor(prior=prior).fit(X, y)
            predictions.append(np.array(model.predict(new, return_std=True)))
        gap = np.abs(predictions[0] - predictions[1]).max() / y.std()
        what = f"{variant}, 20 steps on {device} and CPU: largest gap / std(y)"
        table.add(what, gap, "of means and standard deviations, training in float32")
        network = prior.network()
        raw = [_raw_outputs(network, place, X, y, new) for place in ("cpu", device)]
        gap = (raw[0] - raw[1]).abs().max().item()
        table.add(f"{variant}, float64: largest gap of raw outputs", gap)
    steps = 5 if quick else 500
    for variant in ("tnp", "kernel"):
        learner = NeuralProcessMetaLearner(
            variant=variant,
            context_size=(3, 8),
            max_iter=steps,
            batch_size=4 if quick else 64,
            random_state=0,
        )
        seconds = {}
        for place in dict.fromkeys(("cpu", device)):
            own = clone(learner).set_params(device=place, max_iter=2)
            own.fit(pairs)
            n_steps = steps if place == device else min(steps, 50)
            own.set_params(max_iter=n_steps)
            seconds[place] = timed(lambda own=own: own.fit(pairs)) / n_steps
            what = f"{variant}, a step of {own.batch_size} tasks on {place}"
            table.add(what, seconds[place], "s")
        table.add(f"{variant}: CPU over device", seconds["cpu"] / seconds[device])


def _raw_outputs(network, device: str, X, y, new) -> torch.Tensor:
    """Return what a network says of new points, computed on a device."""
    network = copy.deepcopy(network).to(device)
    x, values, targets = (
        torch.as_tensor(part, device=device)[None] for part in (X, y[:, None], new)
    )
    there = torch.ones(x.shape[:2], dtype=torch.bool, device=device)
    with torch.no_grad():
        return network.decode(network.encode(x, values, there), targets).cpu()


def mnist(table: Table, device: str, quick: bool) -> None:
    """Train the convolutional ODE-Net on all of MNIST."""
    X, y, X_test, y_test = load(600 if quick else 60_000)
    model = ODENetClassifier(
        solver="rk4",
        n_steps=2,
        state_size=64,
        max_iter=1 if quick else 30,
        device=device,
        cuda_graph=device == "cuda",
        **(SHARED | dict(batch_size=128)),
    )
    seconds = timed(lambda: model.fit(X, y))
    rows = slice(0, 200 if quick else None)
    error = 1.0 - model.score(X_test[rows], y_test[rows])
    size = model.parameters_.shape[1]
    table.add("MNIST test error, %", 100 * error, f"{size} parameters, {seconds:.0f} s")


def kernels(table: Table, device: str, quick: bool) -> None:
    """Compare kernels of wide networks with those of the CPU, and time them."""
    generator = torch.Generator().manual_seed(0)
    side = 8
    X = torch.randn(12, 3 * side**2, generator=generator, dtype=torch.float64)
    for name in cifar_kernels.PRESETS:
        net = cifar_kernels.network(name, (3, side, side))
        here, there = (
            kernel_matrices(net, X, image_shape=(3, side, side), device=place).ntk
            for place in ("cpu", device)
        )
        gap = ((there.cpu() - here) / here).abs().max().item()
        table.add(f"NTK on {device} and CPU, {name}: largest relative gap", gap)
    rows = 500 if quick else 20_000
    net = cifar_kernels.L.preset("mlp", 5)
    X = torch.randn(rows, 100, generator=generator).to(device)
    kernel_matrices(net, X[:100], kind="ntk")
    seconds = timed(lambda: kernel_matrices(net, X, kind="ntk"))
    table.add(f"NTK of {rows} rows, 5 layers, float32", seconds, "s")


def many_rows(table: Table, device: str, quick: bool) -> None:
    """Fit 50 000 rows by conjugate gradients."""
    X, y, X_test, y_test = large_n.diamonds(2_000 if quick else 50_000)
    model = InfiniteWidthRegressor(
        large_n.NET, solver="cg", device=device, max_memory=10**10, random_state=0
    )
    seconds = timed(lambda: model.fit(X, y))
    error = large_n.rmse(y_test, model.predict(X_test))
    table.add(f"fit of {len(X)} rows by conjugate gradients", seconds, "s")
    table.add("its test RMSE, log price in units of its std", error)


def cifar(table: Table, device: str, quick: bool) -> None:
    """CIFAR-10 by kernels at full resolution, pooling among them."""
    images = cifar_kernels.load(8 if quick else 32, 100 if quick else 500)
    for name, n in (
        (cifar_kernels.FC, 8_000),
        (cifar_kernels.CONV, 8_000),
        (cifar_kernels.POOLED, 1_000),
    ):
        n = 60 if quick else n
        net = cifar_kernels.network(name, images.image_shape)
        parts: list[dict[str, np.ndarray]] = []
        seconds = timed(
            lambda net=net, n=n, parts=parts: parts.append(
                cifar_kernels.compute_part(net, images, 0, n, device)
            )
        )
        table.add(f"CIFAR-10, both kernels of {n} images, {name}", seconds, "s")
        kernel = cifar_kernels.join(parts)
        for kind in cifar_kernels.KINDS:
            figures = cifar_kernels.judge(kernel, images, kind)
            remark = f"ECE {figures['ece']:.3f}"
            accuracy = 100 * figures["accuracy"]
            table.add(f"its test accuracy, {kind.upper()}, %", accuracy, remark)


def corrupted_images(table: Table, device: str, quick: bool) -> None:
    """Train on all images; judge all clean test images, and corrupted ones."""
    rows, test_rows, shifted_rows = (64, 40, 8) if quick else (60_000, 10_000, 500)
    channels, epochs = (4, 1) if quick else (64, 30)
    for name, side in (("mnist", 28), ("cifar10", 16 if quick else 32)):
        images = sde_images.load(name, rows, test_rows, side)
        few = replace(
            images,
            X_test=images.X_test[:shifted_rows],
            y_test=images.y_test[:shifted_rows],
        )
        found = sde_images.builders(images.image_shape, channels, device)
        for (model_name, label), (_, build) in found.items():
            model = with_known(
                build(0),
                max_iter=epochs,
                batch_size=128,
                cuda_graph=device == "cuda",
            )
            seconds = timed(lambda m=model, i=images: m.fit(i.X, i.y))
            what = f"{name}, {len(images.y)} images: {model_name} {label}".rstrip()
            clean = judge_fitted(model, images, "", 0, seed=0)
            shifted = [
                judge_fitted(model, few, kind, severity, seed=0)
                for kind, severity in conditions()[1:]
            ]
            means = {key: np.mean([part[key] for part in shifted]) for key in clean}
            remark = f"{epochs} epochs, {seconds:.0f} s"
            for figures, where, said in (
                (clean, "", remark),
                (means, f", {len(few.y_test)} images corrupted", ""),
            ):
                table.add(
                    f"{what}{where}: accuracy, %", 100 * figures["accuracy"], said
                )
                table.add(f"{what}{where}: NLL", figures["log_loss"])
                table.add(f"{what}{where}: ECE", figures["ece"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--images", action="store_true", help="this part alone")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    print(f"{name}, torch {torch.__version__}\n")
    if device == "cpu" and not args.quick:
        raise SystemExit("there is no CUDA device here; --quick runs the code on CPU")
    table = Table()
    if not args.images:
        correctness(table, device)
        speed(table, device, args.quick)
        neural_processes(table, device, args.quick)
        mnist(table, device, args.quick)
        kernels(table, device, args.quick)
        many_rows(table, device, args.quick)
        cifar(table, device, args.quick)
    if args.images or args.quick:
        corrupted_images(table, device, args.quick)
    if device == "cuda":
        RESULTS.mkdir(exist_ok=True)
        text = f"{name}, torch {torch.__version__}\n\n" + "\n".join(table.lines) + "\n"
        (RESULTS / f"gpu{'_images' * args.images}.md").write_text(text)


if __name__ == "__main__":
    main()
