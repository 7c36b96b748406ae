"""Devices, threads and random generators of a fit."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device to train on; "auto" is CUDA where there is one.

    Raises
    ------
    ValueError
        If the device is unknown, or is not on this machine.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device={device!r} is unknown; use 'auto', 'cpu', 'cuda', 'cuda:0' or "
            "another device of torch"
        ) from error
    if resolved.type not in ("cpu", "cuda"):
        raise ValueError(
            f"device={device!r} is not supported (predictions need float64); use "
            "'auto', 'cpu' or 'cuda'"
        )
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={device!r}: torch sees no CUDA device here; use 'auto' or 'cpu'"
        )
    return resolved


class _ThreadLimit:
    """One thread for a while, also when several fits run at once.

    torch's and OpenMP's numbers of threads are the calling thread's own. BLAS's is the
    process's: the first in sets it, the last out restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._blas_threads: dict[str, int] = {}
        self._here = threading.local()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        if getattr(self._here, "limited", False):
            yield
            return
        before = torch.get_num_threads()
        pools = ThreadpoolController()
        blas = pools.select(user_api="blas").lib_controllers
        with pools.select(user_api="openmp").limit(limits=1):
            self._enter(blas)
            self._here.limited = True
            try:
                torch.set_num_threads(1)
                yield
            finally:
                self._here.limited = False
                self._leave(blas)
                torch.set_num_threads(before)

    def _enter(self, blas: list[Any]) -> None:
        with self._lock:
            if self._users == 0:
                self._blas_threads = {pool.filepath: pool.num_threads for pool in blas}
                _set_threads(blas, dict.fromkeys(self._blas_threads, 1))
            self._users += 1

    def _leave(self, blas: list[Any]) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                _set_threads(blas, self._blas_threads)


def _set_threads(pools: list[Any], numbers: dict[str, int]) -> None:
    for pool in pools:
        if pool.filepath in numbers:
            pool.set_num_threads(numbers[pool.filepath])
            # From 3.8 on, threadpoolctl lets no other thread set a shared pool until
            # the one that did is done with it.
            if hasattr(pool, "clear_controlling_thread"):
                pool.clear_controlling_thread()


one_thread = _ThreadLimit()


@contextlib.contextmanager
def thread_limits(small: bool) -> Iterator[None]:
    """Run on one thread if the work is small or this is no main thread.

    Small matrix products lose time in thread barriers; a thread of joblib's or Dask's
    would oversubscribe the cores with its own pool.
    """
    in_worker = threading.current_thread() is not threading.main_thread()
    with one_thread() if small or in_worker else contextlib.nullcontext():
        yield


def member_seeds(random_state: np.random.RandomState, n_members: int) -> list[int]:
    """Draw one seed per member; the first members' do not depend on their number."""
    return [int(random_state.randint(2**31 - 1)) for _ in range(n_members)]
