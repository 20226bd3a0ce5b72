"""A recorder as a process of its own, for the tests of this folder."""

import contextlib
import multiprocessing
import signal
import socket
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess

import pytest

from sender import config

STARTED_WITHIN = 20.0
"""Seconds; a busy machine needs one."""

PROGRAM = "from sender import recorder\nraise SystemExit(recorder.main(settings, []))"


@pytest.fixture(scope="session")
def fork_server() -> multiprocessing.context.ForkServerContext:
    """Return a way to start processes in milliseconds: the modules are imported once, in a server that forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "sender.recorder", "sender.tally"])
    return context


@pytest.fixture
def start_recorder(
    fork_server: multiprocessing.context.ForkServerContext,
) -> Iterator[Callable[[config.Config], BaseProcess]]:
    """Return a function that starts a recorder and waits until it listens; to end it is the test's business."""
    started: list[BaseProcess] = []

    def start(settings: config.Config) -> BaseProcess:
        process = fork_server.Process(target=exec, args=(PROGRAM, {"settings": settings}))
        process.start()
        started.append(process)
        wait_until(lambda: listens(settings.recorder.socket) or not process.is_alive())
        assert process.is_alive(), f"the recorder ended with {process.exitcode}"
        return process

    yield start
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()
        assert process.exitcode in {0, -signal.SIGKILL}
        process.close()


def listens(path: str) -> bool:
    """Tell whether somebody receives on a datagram socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(path)
        return True
    return False


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for another process."""
    deadline = time.monotonic() + STARTED_WITHIN
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.001)
