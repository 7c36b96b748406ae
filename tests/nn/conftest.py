import pytest

from skfunc.training import one_thread


@pytest.fixture(autouse=True)
def on_one_thread():
    # Networks of a few units lose time in the barriers of a thread pool.
    with one_thread():
        yield
