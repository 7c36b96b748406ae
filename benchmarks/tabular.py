"""Compare the estimators with their peers on small tables, in the same run.

Thirteen UCI regression sets and 54 UCI classification sets, by their own splits::

    python benchmarks/tabular.py --task regression --jobs 2
    python benchmarks/tabular.py --models ODENetRegressor GP-ARD --datasets boston
    python benchmarks/tabular.py --models ODENetRegressor --set-params n_members=10

The data lie in the folder ``SKFUNC_DATA`` (default ``../shared/data`` beside the
repository). Every cell (task, set, split, model, label) is written to
``benchmarks/results/tabular_rows.csv`` as soon as it is done, and a later run goes on
from there. The tables go to ``benchmarks/results/tabular.md``.
"""

from __future__ import annotations

import argparse
import ast
import multiprocessing
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import _data
import _measure
from _models import SKFUNC, Model, available, display_name, expand
from _rows import RowFile, row_key
from _table import summarize

RESULTS = Path(__file__).resolve().parent / "results"
TASKS = ("regression", "classification")

_warm: set[tuple[str, str, str]] = set()


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    rows = RowFile(options.results / "tabular_rows.csv")
    tasks = TASKS if options.task == "all" else (options.task,)
    cells = [cell for task in tasks for cell in list_cells(task, options)]
    done = (
        set() if options.refresh_all else rows.done(failures=not options.retry_failed)
    )
    refreshed = set(options.refresh)
    todo = [
        cell
        for cell in cells
        if cell[0].name in refreshed or cell_key(*cell) not in done
    ]
    print(f"{len(cells)} cells, {len(cells) - len(todo)} of them done before")
    run(todo, rows, options.jobs, options.time_budget)
    if refreshed or options.refresh_all or options.retry_failed:
        rows.compact()
    report(rows.read(), tasks, options)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--task", choices=(*TASKS, "all"), default="all")
    add("--models", nargs="+", help="names, or the groups skfunc, peers")
    add("--datasets", nargs="+", help="names of sets; default all")
    add("--splits", nargs="+", type=int, help="default 0 1 2, classification 0 1")
    add("--max-train", type=int, help="training rows at most; kept as rows of its own")
    add("--quick", action="store_true", help="three small sets of a task, split 0")
    add("--time-budget", type=float, metavar="SECONDS", help="then start no new cell")
    add("--refresh", nargs="+", default=[], metavar="MODEL", help="compute again")
    add("--retry-failed", action="store_true", help="compute failed cells again")
    add("--refresh-all", action="store_true", help="compute every selected cell again")
    add(
        "--set-params",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="parameters for the skfunc models, which are then stored under a label",
    )
    add("--label", help="label of that variant; default: the parameters")
    add("--jobs", type=int, default=1, help="processes of one thread; 0: this one")
    add("--results", type=Path, default=RESULTS, help="folder of the rows and tables")
    add("--summary-only", action="store_true", help="run nothing, print the tables")
    options = parser.parse_args(arguments)
    options.refresh = expand(options.refresh)
    if options.models or options.refresh:
        options.models = expand([*(options.models or []), *options.refresh])
    options.params = dict(_parameter(text) for text in options.set_params)
    options.label = options.label or ",".join(options.set_params)
    if options.summary_only:
        options.time_budget = 0.0
    return options


def _parameter(text: str) -> tuple[str, object]:
    name, separator, value = text.partition("=")
    if not separator:
        raise SystemExit(f"--set-params takes name=value, not {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def list_cells(task: str, options: argparse.Namespace) -> list[tuple]:
    """Return (model, set, split, max_train), split by split."""
    names = _data.dataset_names(task)
    if not names:
        print(f"{task}: no data in {_data.data_folder()}, set SKFUNC_DATA")
    if options.quick:
        names = [name for name in names if name in _data.QUICK_SETS[task]]
    if options.datasets:
        names = [name for name in names if name in options.datasets]
    models = [
        Model(task, name, options.label, options.params)
        if options.params and name in SKFUNC[task]
        else Model(task, name)
        for name in available(task, options.models)
    ]
    splits = options.splits or ([0] if options.quick else _data.DEFAULT_SPLITS[task])
    provided = {name: _data.n_splits(task, name) for name in names}
    return [
        (model, name, split, options.max_train)
        for split in splits
        for name in names
        if split < provided[name]
        for model in models
    ]


def cell_key(model: Model, dataset: str, split: int, max_train: int | None) -> tuple:
    return row_key(
        {
            "task": model.task,
            "dataset": dataset,
            "split": split,
            "model": model.name,
            "label": model.label,
            "max_train": max_train or "",
        }
    )


def run(cells, rows: RowFile, jobs: int = 1, time_budget: float | None = None) -> None:
    """Compute the cells, writing each row at once; 0 jobs means in this process."""
    versions = _measure.library_versions()
    start = time.monotonic()
    total = len(cells)
    finished = 0

    def in_time():
        return time_budget is None or time.monotonic() - start < time_budget

    def keep(row):
        nonlocal finished
        finished += 1
        rows.append(row | {"versions": versions})
        _print_progress(row, finished, total, time.monotonic() - start)

    if jobs == 0:
        for cell in cells:
            if not in_time():
                break
            keep(compute(*cell))
    else:
        _run_in_processes(list(cells), jobs, keep, in_time)
    if finished < total:
        print(f"{total - finished} cells are left for a later run")


def _run_in_processes(cells, jobs, keep, in_time):
    _measure.limit_threads_of_children()
    context = multiprocessing.get_context("spawn")
    waiting = cells[::-1]
    while waiting and in_time():
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            running = {}
            try:
                while running or (waiting and in_time()):
                    while waiting and len(running) < jobs and in_time():
                        cell = waiting.pop()
                        running[pool.submit(compute, *cell)] = cell
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        row = future.result()
                        del running[future]
                        keep(row)
            except BrokenProcessPool:
                # One of the running cells killed its process: run each alone to tell.
                if jobs == 1 or len(running) == 1:
                    for cell in running.values():
                        keep(_crashed(*cell))
                else:
                    waiting += running.values()
                    jobs = 1


def _crashed(model: Model, dataset: str, split: int, max_train: int | None) -> dict:
    names = ("task", "dataset", "split", "model", "label", "max_train")
    key = cell_key(model, dataset, split, max_train)
    return dict(zip(names, key, strict=True)) | {"status": "failed: the process died"}


def compute(model: Model, dataset: str, split: int, max_train: int | None) -> dict:
    """One row, after a warm-up the first time a process meets the model."""
    identity = (model.task, model.name, model.label)
    if identity not in _warm:
        _measure.warm_up(model)
        _warm.add(identity)
    return _measure.run_cell(model, dataset, split, max_train)


def _print_progress(row: dict, finished: int, total: int, elapsed: float) -> None:
    name = display_name(row["model"], row["label"])
    loss = row.get("nll", row.get("log_loss", float("nan")))
    seconds = row.get("cpu_s", float("nan"))
    cell = f"{row['dataset']} {row['split']} {name}"
    print(
        f"[{finished}/{total}, {elapsed:.0f} s] {cell}: "
        f"{row['status']}, {loss:.3f}, {seconds:.3g} CPU-s",
        flush=True,
    )


def report(rows: list[dict], tasks, options: argparse.Namespace) -> None:
    """Print the tables of the selection; write those of all rows at full size."""
    chosen = [row for row in rows if _is_selected(row, options)]
    for task in tasks:
        print("\n" + summarize(chosen, task, options.models))
    full = [row for row in rows if not row["label"] and not row["max_train"]]
    parts = [summarize(full, task) for task in TASKS if _has_rows(full, task)]
    if parts:
        title = "# Tabular data\n\nWritten by `benchmarks/tabular.py`.\n"
        (options.results / "tabular.md").write_text("\n".join([title, *parts]))


def _has_rows(rows: list[dict], task: str) -> bool:
    return any(row["task"] == task for row in rows)


def _is_selected(row: dict, options: argparse.Namespace) -> bool:
    return (
        (not options.models or row["model"] in options.models)
        and (not options.datasets or row["dataset"] in options.datasets)
        and (not options.splits or int(row["split"]) in options.splits)
        and row["max_train"] == str(options.max_train or "")
    )


if __name__ == "__main__":
    main(sys.argv[1:])
