"""One small supervisor: each role its own process; one that dies is started again; SIGTERM drains and ends all.

The processes are forked, so what was opened before (sockets handed over by systemd) is theirs, too, and
outlives each of them. The supervisor has no threads, opens no database, and only waits for signals. SIGHUP ends those
roles in order whose configuration has changed, and starts them with the new one. Ctrl-C goes
to a whole process group: only the supervisor takes it, and passes it on as SIGTERM.
"""

import ctypes
import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping

import structlog

from sender import readiness

_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}

_PR_SET_PDEATHSIG = 1
"""prctl(2): a process whose supervisor is killed gets SIGTERM and ends in order."""

_IN_ORDER = {0, -signal.SIGTERM}
"""Exit codes of a process that ended as it was told; by the signal where it had hardly begun."""

log = structlog.get_logger()

Role = Callable[[], int]
"""Runs a role until SIGTERM, and returns an exit code."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pace:
    """How long to wait for what, in seconds."""

    first_delay: float = 1.0
    """Until a process that died is started again; doubled each time up to :attr:`last_delay`."""
    last_delay: float = 60.0
    """A process that cannot start must not fill the log."""
    lived_long: float = 60.0
    """After which a process counts as having started well, and its delay begins anew."""
    drain: float = 60.0
    """That the processes have to end after SIGTERM, before SIGKILL: less than systemd's 90."""


PACE = Pace()


@dataclasses.dataclass(slots=True)
class _Process:
    role: Role
    delay: float
    pid: int = 0
    """0: not running."""
    started: float = 0.0
    start_at: float = 0.0
    ready: bool = False
    """Whether it has told that it does its work."""
    renewed: bool = False
    """Whether it was ended to be started again with another configuration."""


Reload = Callable[[], Mapping[str, Role]]
"""Reads the configuration anew; returns the roles that are to be started again with it."""


def run(roles: Mapping[str, Role], pace: Pace = PACE, reload: Reload = dict) -> int:
    """Run each role in a process of its own until SIGTERM or SIGINT.

    Args:
        roles: by name.
        pace: how long to wait for what.
        reload: what SIGHUP does.

    Returns:
        0 when all ended in order after the signal, 1 when one failed at that or had to be killed.

    Raises:
        OSError: there can be no more processes.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever started us may have left it ignored: nothing to wait for
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    processes = {name: _Process(role, pace.first_delay) for name, role in roles.items()}
    pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    often = readiness.watchdog(os.environ, os.getpid())
    began = False
    while True:
        _start_due(processes, pipe[1])
        waits = [process.start_at - time.monotonic() for process in processes.values() if not process.pid]
        caught = signal.sigtimedwait(_SIGNALS, max(0.0, min([*waits, often or pace.last_delay])))
        if caught is not None and caught.si_signo in _ENDS:
            readiness.notify("STOPPING=1")
            return _end(processes, pace.drain)
        if caught is not None and caught.si_signo == signal.SIGHUP:
            _renew(processes, reload())
        _reap(processes, pace)
        _note_ready(processes, readiness.told(pipe[0]))
        if not began and all(process.ready for process in processes.values()):
            began = True
            log.info("ready", roles=list(processes))
            readiness.notify("READY=1")
        if often and began:
            readiness.notify("WATCHDOG=1")


_ENDS = {signal.SIGTERM, signal.SIGINT}


def _note_ready(processes: Mapping[str, _Process], pids: Iterable[int]) -> None:
    by_pid = {process.pid: process for process in processes.values()}
    for pid in pids:
        if pid in by_pid:
            by_pid[pid].ready = True


def _renew(processes: Mapping[str, _Process], roles: Mapping[str, Role]) -> None:
    """End what is to run with another configuration; it is started again as soon as it has ended."""
    for name, role in roles.items():
        process = processes[name]
        process.role = role
        if not process.pid:
            process.start_at = 0.0
        elif not process.renewed:  # it is told once: a second signal may meet an event loop that is half closed
            process.renewed = True
            os.kill(process.pid, signal.SIGTERM)


def _start_due(processes: Mapping[str, _Process], pipe: int) -> None:
    for name, process in processes.items():
        if not process.pid and process.start_at <= time.monotonic():
            process.pid = _fork(process.role, pipe)
            process.started = time.monotonic()
            log.info("started", role=name, pid=process.pid)


def _fork(role: Role, pipe: int) -> int:
    supervisor = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, signal.SIGTERM})  # the others are the supervisor's
        readiness.begin(pipe)
        if os.getppid() == supervisor:
            code = role()
    except BaseException:
        log.exception("a process failed")
    finally:
        os._exit(code)  # and nothing else, that could fail: the child must not go on as a second supervisor


def _reap(processes: Mapping[str, _Process], pace: Pace) -> None:
    """Note who died. One SIGCHLD may stand for several, so all are looked at."""
    for name, process in processes.items():
        code = _exit_code(process.pid) if process.pid else None
        if code is None:
            continue
        now = time.monotonic()
        if process.renewed and code in _IN_ORDER:
            process.pid, process.start_at, process.renewed, process.delay = 0, now, False, pace.first_delay
            continue
        if now - process.started > pace.lived_long:
            process.delay = pace.first_delay
        process.pid, process.start_at, process.renewed = 0, now + process.delay, False
        log.error("died, is started again", role=name, exit_code=code, delay=process.delay)
        process.delay = min(process.delay * 2, pace.last_delay)


def _exit_code(pid: int) -> int | None:
    """Return how a process ended, negative for a signal; ``None`` while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _end(processes: Mapping[str, _Process], drain: float) -> int:
    """Send SIGTERM to all, wait for them, and kill what does not end."""
    running = {process.pid: name for name, process in processes.items() if process.pid}
    for process in processes.values():
        if process.pid and not process.renewed:
            os.kill(process.pid, signal.SIGTERM)
    failed = False
    deadline = time.monotonic() + drain
    while running and (left := deadline - time.monotonic()) > 0:
        failed |= _collect(running)
        if running:
            signal.sigtimedwait({signal.SIGCHLD}, left)
    for pid, name in running.items():
        log.error("did not end, is killed", role=name, pid=pid, waited=drain)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return 1 if failed or running else 0


def _collect(running: dict[int, str]) -> bool:
    """Take out who has ended; tell whether any of them failed."""
    ended = {pid: code for pid in running if (code := _exit_code(pid)) is not None}
    failures = {pid: code for pid, code in ended.items() if code not in _IN_ORDER}
    for pid, code in failures.items():
        log.error("failed at the end", role=running[pid], pid=pid, exit_code=code)
    for pid in ended:
        del running[pid]
    return bool(failures)
