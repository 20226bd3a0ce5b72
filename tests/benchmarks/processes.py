"""Processes that a benchmark starts: forked, ended with it."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess

PATIENCE = 60.0
"""Seconds for a process to begin or to end."""

GLANCE = 0.002
"""Seconds between two looks."""

_CONTEXT = multiprocessing.get_context("fork")


@contextlib.contextmanager
def running(work: Callable[[], object], *, nice: int = 0) -> Iterator[BaseProcess]:
    """Run a function in a process of its own, until SIGTERM at the end."""
    process = _CONTEXT.Process(target=_work, args=(work, nice), daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.terminate()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()


def _work(work: Callable[[], object], nice: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.nice(nice)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # its log; what is wrong with it, the figures show
    work()


def wait(true: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait until something is true.

    Raises:
        TimeoutError: it takes too long.
    """
    deadline = time.monotonic() + patience
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError("waited in vain")
        time.sleep(GLANCE)
