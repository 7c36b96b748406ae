"""Threads are limited for the while of a fit, and devices are found or refused."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from skfunc.training import member_seeds, one_thread, resolve_device, thread_limits


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def blas_threads():
    return sorted(
        (pool["filepath"], pool["num_threads"])
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    )


def test_small_work_runs_on_one_thread(two_threads):
    before = blas_threads()
    with thread_limits(small=True):
        assert torch.get_num_threads() == 1
        assert all(number == 1 for _, number in blas_threads())
    assert torch.get_num_threads() == 2
    assert blas_threads() == before


def test_large_work_keeps_the_threads(two_threads):
    with thread_limits(small=False):
        assert torch.get_num_threads() == 2


def test_nested_limits(two_threads):
    with thread_limits(small=True):
        with thread_limits(small=True), one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
        with thread_limits(small=False):
            assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_error_inside_restores(two_threads):
    before = blas_threads()
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), thread_limits(small=True):
            raise error
        assert torch.get_num_threads() == 2
        assert blas_threads() == before


def run(target):
    """Run in a thread of its own and return what it returned."""
    results = []
    thread = threading.Thread(target=lambda: results.append(target()))
    thread.start()
    thread.join()
    return results[0]


def test_worker_thread_is_limited_even_for_large_work(two_threads):
    def work():
        with thread_limits(small=False):
            return torch.get_num_threads()

    assert run(work) == 1
    assert torch.get_num_threads() == 2


def test_many_fits_at_once_leave_the_threads_as_they_were(two_threads):
    before = threadpool_info()

    def work():
        for _ in range(5):
            with thread_limits(small=True), one_thread():
                assert torch.get_num_threads() == 1
                assert all(number == 1 for _, number in blas_threads())
        return True

    with ThreadPoolExecutor(6) as executor:
        done = [executor.submit(work) for _ in range(12)]
        assert work() and all(future.result() for future in done)
        # The workers are alive still.
        assert threadpool_info() == before
    assert threadpool_info() == before


def test_auto_device_is_one_that_there_is():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("device", ["gpu", "", "cpu:x", None, 1.5, ["cpu"]])
def test_unknown_device_is_refused(device):
    with pytest.raises(ValueError, match="device="):
        resolve_device(device)


@pytest.mark.parametrize("device", ["mps", "xpu", "meta"])
def test_device_without_float64_is_refused(device):
    with pytest.raises(ValueError, match=f"device='{device}'.*'cpu' or 'cuda'"):
        resolve_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_absent_cuda_is_refused(device):
    with pytest.raises(ValueError, match="device='cuda.*use 'auto' or 'cpu'"):
        resolve_device(device)


def test_seeds_of_the_first_members_do_not_depend_on_their_number():
    few = member_seeds(np.random.RandomState(0), 3)
    many = member_seeds(np.random.RandomState(0), 10)
    assert many[:3] == few
    assert len(set(many)) == 10
    assert all(type(seed) is int and 0 <= seed < 2**31 for seed in many)


def overlap(first_out):
    """Let the main thread and a worker be limited at once; return what each saw.

    The main thread enters first; `first_out` leaves first.
    """
    entered, may_leave, left = (threading.Event() for _ in range(3))
    seen = {}

    def work():
        torch.set_num_threads(2)
        with thread_limits(small=True):
            seen["worker inside"] = torch.get_num_threads()
            entered.set()
            may_leave.wait(10)
        seen["worker after"] = torch.get_num_threads()
        left.set()

    worker = threading.Thread(target=work)
    with thread_limits(small=True):
        worker.start()
        entered.wait(10)
        seen["main inside"] = torch.get_num_threads()
        if first_out == "worker":
            may_leave.set()
            left.wait(10)
    if first_out == "main":
        may_leave.set()
    worker.join(10)
    seen["main after"] = torch.get_num_threads()
    return seen


@pytest.mark.parametrize("first_out", ["worker", "main"])
def test_fits_at_once_are_limited_and_restored(two_threads, first_out):
    before = blas_threads()
    assert overlap(first_out) == {
        "main inside": 1,
        "worker inside": 1,
        "main after": 2,
        "worker after": 2,
    }
    assert blas_threads() == before
