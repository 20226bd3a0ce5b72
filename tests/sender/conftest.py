"""A recorder, and all of ``tlsrpt serve``, as processes of their own, for the tests of this folder."""

import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

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


PAUSE = 0.0002
"""Seconds between two datagrams of a load: some thousands a second."""


@pytest.fixture
def load() -> Callable[[str, Callable[[int], bytes]], contextlib.AbstractContextManager[None]]:
    """Return a context that sends ever new datagrams, blocking, to whoever listens on a socket at the time."""

    @contextlib.contextmanager
    def sending(path: str, make: Callable[[int], bytes]) -> Iterator[None]:
        ended = threading.Event()
        numbers = itertools.count()

        def send() -> None:
            while not ended.is_set():
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
                    sock.settimeout(0.2)
                    sock.connect(path)
                    while not ended.wait(PAUSE):
                        sock.send(make(next(numbers)))

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    return sending


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


@dataclasses.dataclass
class Served:
    """``tlsrpt serve`` as a process of its own, in a session of its own."""

    process: subprocess.Popen[bytes]
    log: pathlib.Path
    """What it writes on standard error."""

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return what was logged, if the log is JSON; a line that is not yet whole is left out."""
        rows = [json.loads(line) for line in self.log.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        return [row for row in rows if event in {None, row["event"]}]

    def pid(self, role: str) -> int:
        """Return the process that a role is now."""
        return [int(row["pid"]) for row in self.events("started") if row["role"] == role][-1]

    def wait_for(self, event: str, times: int = 1) -> list[dict[str, Any]]:
        """Wait until something was logged so often."""
        wait_until(lambda: len(self.events(event)) >= times or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()
        return self.events(event)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal to the supervisor; return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(STARTED_WITHIN)


@pytest.fixture
def serve(tmp_path: pathlib.Path) -> Iterator[Callable[..., Served]]:
    """Return a function that runs ``tlsrpt serve`` with arguments; what is left of it at the end is killed."""
    started: list[Served] = []

    def start(*arguments: str, prefix: tuple[str, ...] = (), log: str = "json", **options: Any) -> Served:
        path = tmp_path / f"serve{len(started)}.log"
        command = [*prefix, sys.executable, "-m", "sender", "serve", *arguments, "--log", log]
        with path.open("wb") as stderr:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, start_new_session=True, **options
            )
        started.append(Served(process, path))
        return started[-1]

    yield start
    for one in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait()
