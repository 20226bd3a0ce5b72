"""How a role tells its supervisor that it has begun, and the supervisor systemd.

A role writes its process id into a pipe and wakes the supervisor with SIGUSR1; outside of a supervisor it tells nobody.
To systemd it is sd_notify(3): a datagram to ``$NOTIFY_SOCKET``.
"""

import contextlib
import os
import signal
import socket
import struct
from collections.abc import Mapping

PATIENCE = 2.0
"""Seconds to wait while systemd's socket is full: what it is to hear once must not be lost."""

_ID = struct.Struct("=i")

_pipe: int | None = None
"""Where this process tells that it has begun."""


def begin(pipe: int) -> None:
    """Remember the pipe in a process that was just forked."""
    global _pipe  # noqa: PLW0603 - of the process, as its standard error is
    _pipe = pipe


def tell() -> None:
    """Tell the supervisor that this process does its work from now on."""
    if _pipe is not None:
        with contextlib.suppress(OSError):  # it is gone, and so are we, soon
            os.write(_pipe, _ID.pack(os.getpid()))
            os.kill(os.getppid(), signal.SIGUSR1)


def told(pipe: int) -> list[int]:
    """Return the processes that have told since the last look; the pipe does not block."""
    try:
        return [pid for (pid,) in _ID.iter_unpack(os.read(pipe, 64 * _ID.size))]
    except BlockingIOError:
        return []


def notify(*states: str, environment: Mapping[str, str] = os.environ) -> None:
    """Tell systemd, if it wants to know, for example ``READY=1``; what cannot be told is not told."""
    path = environment.get("NOTIFY_SOCKET", "")
    if path:
        address = f"\0{path[1:]}" if path.startswith("@") else path
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.sendto("\n".join(states).encode(), address)


def watchdog(environment: Mapping[str, str], pid: int) -> float | None:
    """Return how often systemd wants to hear of us, in seconds: a third of what it waits; ``None``: never."""
    of_us = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 3e6 if of_us and microseconds.isdigit() and int(microseconds) else None
