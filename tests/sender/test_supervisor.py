"""The supervisor with real processes: who dies is started again, who is told to end ends."""

import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

PATIENCE = 20.0
"""Seconds to wait for another process; a busy machine needs one."""

PROGRAM = """
import os, pathlib, signal, sys, time
from sender import logs, supervisor

folder = pathlib.Path(sys.argv[1])
logs.configure(json=False)

def starts(name):
    with (folder / name).open("a") as file:
        file.write(f"{os.getpid()}\\n")
    return len((folder / name).read_text().split())

def until_sigterm():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    starts("ready")
    signal.sigwait({signal.SIGTERM})

def steady():
    until_sigterm()
    return 0

def failing_at_the_end():
    until_sigterm()
    return 5

def stubborn():
    until_sigterm()
    while True:
        signal.pause()

def unprepared():
    starts("ready")
    while True:
        time.sleep(60)

def short():
    return 7

def raising():
    raise RuntimeError("the role's own fault")

def leaving():
    sys.exit("a role that leaves in a way of its own")

def recovering():
    if starts("recovering-began") == 3:
        time.sleep(1.2)
    return 7

def role(name):
    def run():
        starts(name)
        return globals()[name.rstrip("0123456789")]()
    return run

pace = supervisor.Pace(first_delay=0.05, last_delay=0.2, lived_long=1.0, drain=2.0)
try:
    code = supervisor.run({name: role(name) for name in sys.argv[2:]}, pace)
finally:
    starts("supervisor-returned")
sys.exit(code)
"""


@dataclasses.dataclass
class Supervised:
    """A supervisor as a process of its own, in a session of its own."""

    folder: pathlib.Path
    process: subprocess.Popen[bytes]

    def pids(self, name: str) -> list[int]:
        """Return the processes that a role was, the newest last."""
        path = self.folder / name
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def log(self) -> str:
        """Return what was logged."""
        return (self.folder / "log").read_text()

    def stop(self) -> None:
        """Hold the supervisor up until SIGCONT, so that several things happen at once for it."""
        self.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: state(self.process.pid) == "T")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal to the supervisor; return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def supervised(folder: pathlib.Path, *roles: str, ready: int = 0, prepare: str = "") -> Iterator[Supervised]:
    """Run roles until so many are ready; whatever is left of them is killed at the end."""
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-c", prepare + PROGRAM, str(folder), *roles]
        process = subprocess.Popen(command, stderr=log, start_new_session=True)
    running = Supervised(folder, process)
    try:
        wait_until(lambda: len(running.pids("ready")) >= ready)
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert len(running.pids("supervisor-returned")) <= 1, "a role came out of the supervisor's function"


def wait_until(true: Callable[[], object]) -> None:
    """Wait for another process."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def gone(pid: int) -> bool:
    """Tell whether a process has ended."""
    return state(pid) in {"", "Z"}


def state(pid: int) -> str:
    """Return the state of a process as the kernel calls it; empty: there is none."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_who_dies_is_started_again_and_the_others_live_on(tmp_path: pathlib.Path) -> None:
    """Only the one that was killed is a new process."""
    with supervised(tmp_path, "steady1", "steady2", ready=2) as running:
        first, other = running.pids("steady1")[0], running.pids("steady2")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(running.pids("ready")) == 3)
        assert len(running.pids("steady1")) == 2
        assert running.pids("steady2") == other
        assert not gone(other[0])
        assert state(first) == "", "it was waited for: no zombie"
        assert 'event="died, is started again" role=steady1 exit_code=-9 delay=0.05' in running.log()
        assert running.end() == 0


def test_two_that_die_together_are_both_started_again(tmp_path: pathlib.Path) -> None:
    """Two deaths make one SIGCHLD when nobody takes the first."""
    with supervised(tmp_path, "steady1", "steady2", ready=2) as running:
        running.stop()
        for pid in running.pids("ready"):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: all(state(pid) == "Z" for pid in running.pids("ready")))
        running.process.send_signal(signal.SIGCONT)
        wait_until(lambda: len(running.pids("ready")) == 4)
        assert running.end() == 0


def test_the_delay_grows_up_to_its_limit(tmp_path: pathlib.Path) -> None:
    """A process that cannot start does not fill the log; others are not kept waiting, nor is the end."""
    with supervised(tmp_path, "short", "steady", ready=1) as running:
        wait_until(lambda: len(running.pids("short")) >= 6)
        running.end()
        delays = re.findall(r"role=short exit_code=7 delay=(\S+)", running.log())
        assert delays[:5] == ["0.05", "0.1", "0.2", "0.2", "0.2"]
        assert len(running.pids("steady")) == 1


def test_the_delay_begins_anew_once_a_process_has_lived_long(tmp_path: pathlib.Path) -> None:
    """What happened last week does not count."""
    with supervised(tmp_path, "recovering") as running:
        wait_until(lambda: len(running.pids("recovering")) >= 5)
        delays = re.findall(r"delay=(\S+)", running.log())
        assert delays[:4] == ["0.05", "0.1", "0.05", "0.1"]


@pytest.mark.parametrize(
    ("role", "told"), [("raising", "RuntimeError: the role's own fault"), ("leaving", "SystemExit")]
)
def test_a_role_that_raises_ends_its_own_process_only(tmp_path: pathlib.Path, role: str, told: str) -> None:
    """It is logged with its traceback, in one line, and started again like any other."""
    with supervised(tmp_path, role, "steady", ready=1) as running:
        wait_until(lambda: len(running.pids(role)) >= 3)
        lines = [line for line in running.log().splitlines() if "a process failed" in line]
        assert lines
        assert all(told in line for line in lines)
        assert f"role={role} exit_code=1" in running.log()
        running.end()
        assert len(running.pids("steady")) == 1


def test_a_role_cannot_come_out_even_when_nothing_can_be_logged(tmp_path: pathlib.Path) -> None:
    """Whoever read our standard error is gone; roles live and die all the same."""
    reading, writing = os.pipe()
    prepare = f"import os; os.dup2({writing}, 2); os.close({writing})\n"
    os.set_inheritable(writing, True)
    command = [sys.executable, "-c", prepare + PROGRAM, str(tmp_path), "raising", "steady"]
    process = subprocess.Popen(command, pass_fds=[writing], start_new_session=True)
    os.close(reading)
    os.close(writing)
    running = Supervised(tmp_path, process)
    try:
        wait_until(lambda: len(running.pids("raising")) >= 3 and running.pids("ready"))
        assert len(running.pids("steady")) == 1
        process.terminate()
        process.wait(PATIENCE)
        assert len(running.pids("supervisor-returned")) == 1
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    """Each role ends in its own way, and the exit code is 0."""
    with supervised(tmp_path, "steady1", "steady2", "unprepared", ready=3) as running:
        assert running.end(number) == 0
        assert all(state(pid) == "" for pid in running.pids("ready"))
        assert "error" not in running.log()


def test_ctrl_c_is_no_traceback_of_any_role(tmp_path: pathlib.Path) -> None:
    """The terminal sends SIGINT to the whole process group; roles that have not begun to handle it are in it."""
    with supervised(tmp_path, "steady", "unprepared", ready=2) as running:
        os.killpg(running.process.pid, signal.SIGINT)
        assert running.process.wait(PATIENCE) == 0
        assert "KeyboardInterrupt" not in running.log()
        assert "error" not in running.log()


def test_who_does_not_end_is_killed(tmp_path: pathlib.Path) -> None:
    """After the time to drain; the others had ended in order, and the exit code tells."""
    with supervised(tmp_path, "stubborn", "steady", ready=2) as running:
        assert running.end() == 1
        assert all(state(pid) == "" for pid in running.pids("ready"))
        assert re.findall(r'event="did not end, is killed" role=(\S+)', running.log()) == ["stubborn"]


def test_who_fails_at_the_end_is_told_by_the_exit_code(tmp_path: pathlib.Path) -> None:
    """A recorder whose last sync failed, say."""
    with supervised(tmp_path, "failing_at_the_end", "steady", ready=2) as running:
        assert running.end() == 1
        assert 'event="failed at the end" role=failing_at_the_end' in running.log()


def test_who_is_waiting_to_be_started_does_not_hold_up_the_end(tmp_path: pathlib.Path) -> None:
    """Nor is it started any more: the death and the signal come together, the signal is taken first."""
    with supervised(tmp_path, "steady1", "steady2", ready=2) as running:
        running.stop()
        victim = running.pids("steady1")[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: state(victim) == "Z")
        running.process.send_signal(signal.SIGTERM)
        running.process.send_signal(signal.SIGCONT)
        assert running.process.wait(PATIENCE) == 1, "one of them failed"
        assert len(running.pids("ready")) == 2
        assert all(state(pid) == "" for pid in running.pids("ready"))


def test_roles_do_not_outlive_their_supervisor(tmp_path: pathlib.Path) -> None:
    """Killed with SIGKILL it can tell nobody; the kernel does."""
    with supervised(tmp_path, "steady1", "steady2", ready=2) as running:
        assert running.end(signal.SIGKILL) == -signal.SIGKILL
        wait_until(lambda: all(gone(pid) for pid in running.pids("ready")))


@pytest.mark.parametrize("ignored", ["SIGCHLD", "SIGINT", "SIGTERM"])
def test_signals_that_were_left_ignored_work_all_the_same(tmp_path: pathlib.Path, ignored: str) -> None:
    """A shell in the background ignores SIGINT, some launchers SIGCHLD, and both are inherited."""
    prepare = f"import signal\nsignal.signal(signal.{ignored}, signal.SIG_IGN)\n"
    with supervised(tmp_path, "steady", ready=1, prepare=prepare) as running:
        os.kill(running.pids("steady")[0], signal.SIGKILL)
        wait_until(lambda: len(running.pids("ready")) == 2)
        assert running.end(signal.SIGINT) == 0
