"""One small supervisor: each role its own process; one that dies is started again; SIGTERM drains and ends all.

The processes are forked, so what was opened before (sockets handed over by systemd) is theirs, too, and
outlives each of them. The supervisor has no threads, imports no database, and only waits for signals.
"""

import ctypes
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping

import structlog

FIRST_DELAY = 1.0
"""Seconds until a process that died is started again; doubled each time up to :data:`LAST_DELAY`."""

LAST_DELAY = 60.0
"""Seconds; a process that cannot start must not fill the log."""

LIVED_LONG = 60.0
"""Seconds after which a process counts as having started well, and its delay begins anew."""

DRAIN = 60.0
"""Seconds that the processes have to end after SIGTERM, before SIGKILL: less than systemd's 90."""

_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}

_PR_SET_PDEATHSIG = 1
"""prctl(2): a process whose supervisor is killed gets SIGTERM and ends in order."""

log = structlog.get_logger()

Role = Callable[[], int]
"""Runs a role until SIGTERM, and returns an exit code."""


@dataclasses.dataclass(slots=True)
class _Process:
    role: Role
    pid: int = 0
    """0: not running."""
    started: float = 0.0
    start_at: float = 0.0
    delay: float = FIRST_DELAY


def run(roles: Mapping[str, Role]) -> int:
    """Run each role in a process of its own until SIGTERM or SIGINT.

    Returns:
        0 when all ended by themselves after the signal, 1 when one had to be killed.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    processes = {name: _Process(role) for name, role in roles.items()}
    while True:
        _start_due(processes)
        waits = [process.start_at - time.monotonic() for process in processes.values() if not process.pid]
        caught = signal.sigtimedwait(_SIGNALS, max(0.0, min(waits, default=LAST_DELAY)))
        if caught is not None and caught.si_signo != signal.SIGCHLD:
            return _end(processes)
        _reap(processes)


def _start_due(processes: Mapping[str, _Process]) -> None:
    for name, process in processes.items():
        if not process.pid and process.start_at <= time.monotonic():
            process.pid = _fork(process.role)
            process.started = time.monotonic()
            log.info("started", role=name, pid=process.pid)


def _fork(role: Role) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    supervisor = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        if os.getppid() == supervisor:
            code = role()
    except BaseException:
        log.exception("a process failed")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _reap(processes: Mapping[str, _Process]) -> None:
    for name, process in processes.items():
        if not process.pid:
            continue
        pid, status = os.waitpid(process.pid, os.WNOHANG)
        if not pid:
            continue
        now = time.monotonic()
        process.pid = 0
        process.delay = FIRST_DELAY if now - process.started > LIVED_LONG else process.delay
        process.start_at = now + process.delay
        code = os.waitstatus_to_exitcode(status)
        log.error("died, is started again", role=name, exit_code=code, delay=process.delay)
        process.delay = min(process.delay * 2, LAST_DELAY)


def _end(processes: Mapping[str, _Process]) -> int:
    """Send SIGTERM to all, wait for them, and kill what does not end."""
    running = {process.pid: name for name, process in processes.items() if process.pid}
    for pid in running:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + DRAIN
    while running and time.monotonic() < deadline:
        signal.sigtimedwait({signal.SIGCHLD}, 1.0)
        for pid in list(running):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del running[pid]
    for pid, name in running.items():
        log.error("did not end, is killed", role=name, pid=pid, waited=DRAIN)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return 1 if running else 0
