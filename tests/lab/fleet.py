"""Several hosts on one PostgreSQL: each recorder in a network namespace of its own, with a link that can be cut.

Around them, where the test is: PostgreSQL, the reporters, and the made-up internet (DNS, a relay that is every
mailbox). Every process is the real ``tlsrpt serve``; its clock is moved by libfaketime, which reads how far it is off
from a file.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from sender.demo import internet, zone
from tests import postgresql

CHECKOUT = pathlib.Path(__file__).parents[2]

LIBRARIES = "*/faketime/libfaketimeMT.so.1"
"""Of Debian's package libfaketime, below /usr/lib."""

PATIENCE = 90.0
"""Seconds to wait for a process; a host that was cut off is back within as long as it takes to try again."""

ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "recorder"}
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Hands a socket over as systemd does: it outlives a supervisor that is killed."""


def missing() -> str | None:
    """Return what is lacking on this machine; ``None``: nothing."""
    if not list(pathlib.Path("/usr/lib").glob(LIBRARIES)):
        return "no libfaketime: apt-get install libfaketime"
    if postgresql.programs() is None:
        return "no PostgreSQL: apt-get install postgresql"
    return None


def wait_until(true: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait for other processes."""
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, f"waited too long: {what}"
        time.sleep(0.02)


@dataclasses.dataclass
class Clock:
    """The clock of all processes of the fleet."""

    file: pathlib.Path

    def set(self, moment: dt.datetime) -> None:
        """Let it be this time now."""
        text = f"{(moment - dt.datetime.now(dt.UTC)).total_seconds():+.3f}s\n"
        written = self.file.with_suffix(".new")
        written.write_text(text)
        written.rename(self.file)

    def now(self) -> dt.datetime:
        """Return the time it is."""
        return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=float(self.file.read_text().rstrip("s\n")))

    def environment(self) -> dict[str, str]:
        """Return the environment of a process that goes by it."""
        (library, *_) = pathlib.Path("/usr/lib").glob(LIBRARIES)
        return {
            **os.environ,
            "PYTHONPATH": str(CHECKOUT),
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }


@dataclasses.dataclass
class Served:
    """A host's ``tlsrpt serve``."""

    name: str
    role: str
    folder: pathlib.Path
    clock: Clock
    namespace: str = ""
    """Empty: where the test is."""
    listening: socket.socket | None = None
    """Of the recorder, as systemd keeps it."""
    process: subprocess.Popen[bytes] | None = None
    log: pathlib.Path = pathlib.Path()
    starts: int = 0

    @property
    def config(self) -> pathlib.Path:
        """The configuration file."""
        return self.folder / "tlsrpt.toml"

    @property
    def journal(self) -> pathlib.Path:
        """The folder of the journal."""
        return self.folder / "journal"

    def start(self) -> None:
        """Start it; the roles begin by and by."""
        self.starts += 1
        self.log = self.folder / f"serve{self.starts}.log"
        inside = ("ip", "netns", "exec", self.namespace) if self.namespace else ()
        command = [*inside, sys.executable, "-m", "sender", "serve", self.role, "--log", "json"]
        handed: tuple[int, ...] = ()
        if self.listening is not None:
            handed = (self.listening.fileno(),)
            command = [sys.executable, "-c", ACTIVATED, str(handed[0]), *command]
        with self.log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*command, "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env=self.clock.environment(),
                pass_fds=handed,
                start_new_session=True,
            )

    def events(self, event: str) -> list[dict[str, Any]]:
        """Return what the running one logged."""
        lines = self.log.read_bytes().splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"\n")]
        return [row for row in rows if row["event"] == event]

    def pids(self) -> dict[str, int]:
        """Return the processes of the roles, and of the supervisor, as they are now."""
        assert self.process is not None
        roles = {row["role"]: int(row["pid"]) for row in self.events("started")}
        return {**roles, "supervisor": self.process.pid}

    def kill(self, which: str) -> None:
        """Kill a process; a supervisor is started again, as systemd does."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pids().get(which, self.process.pid), signal.SIGKILL)
        if which == "supervisor":
            self.process.wait(PATIENCE)
            self.start()

    def restart(self) -> None:
        """Stop it in order, and start it."""
        self.end()
        self.start()

    def end(self) -> None:
        """Stop it in order."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE)
            self.process = None

    def tlsrpt(self, *arguments: str) -> Any:
        """Run another command with its configuration and clock; return the JSON that it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "sender", *arguments, "--json", "--config", str(self.config)],
            capture_output=True,
            check=True,
            timeout=PATIENCE,
            env=self.clock.environment(),
        )
        return json.loads(done.stdout)


@dataclasses.dataclass
class Fleet:
    """All of it; made by :func:`running`."""

    clock: Clock
    database: postgresql.Server
    net: internet.Internet
    recorders: list[Served]
    reporters: list[Served]

    def cut(self, number: int, *, off: bool) -> None:
        """Cut the link of a recorder's host, or mend it."""
        _ip("link", "set", f"tlsrpt{number}", "down" if off else "up")
        if not off:  # its address is gone with the link
            _ip("address", "replace", f"{_outside(number)}/30", "dev", f"tlsrpt{number}")

    def query(self, sql: str) -> list[str]:
        """Ask the database; lines with columns parted by ``|``, none while it is away."""
        with contextlib.suppress(subprocess.CalledProcessError):
            return self.database.run(sql)
        return []


def _outside(number: int) -> str:
    """Return the address that a host reaches everything else by."""
    return f"198.51.100.{4 * number + 1}"


def _inside(number: int) -> str:
    return f"198.51.100.{4 * number + 2}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=10, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def running(
    folder: pathlib.Path, domains: list[str], start: dt.datetime, *, recorders: int = 3, reporters: int = 2
) -> Iterator[Fleet]:
    """Run a fleet in the network namespace that the caller has entered.

    Args:
        folder: of the test, with a short path.
        domains: those that ask for reports, by mail.
        start: the time at which it starts.
        recorders: hosts that record, each with a namespace and a link of its own.
        reporters: processes that report.
    """
    clock = Clock(folder / "clock")
    clock.set(start)
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(postgresql.start(listen="*"))
        net = stack.enter_context(_internet(folder, domains))
        fleet = Fleet(clock, database, net, [], [])
        for number in range(recorders):
            namespace = stack.enter_context(_linked(number))
            url = f"postgresql://tlsrpt@{_outside(number)}/postgres"
            host = _served(fleet, folder / f"mx{number}", "recorder", url)
            host.namespace = namespace
            host.listening = stack.enter_context(_bound(host.folder / "tlsrpt.sock"))
            fleet.recorders.append(host)
        fleet.reporters += [
            _served(fleet, folder / f"reporter{number}", "reporter", database.url("postgres"))
            for number in range(reporters)
        ]
        for one in (*fleet.recorders, *fleet.reporters):
            stack.callback(_end, one)
            one.start()
        yield fleet


def _end(one: Served) -> None:
    if one.process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait(PATIENCE)


def _served(fleet: Fleet, folder: pathlib.Path, role: str, url: str) -> Served:
    folder.mkdir()
    text = fleet.net.config_text(url)
    for name in ("tlsrpt.sock", "journal", "policy.sock", "policy.db"):
        text = text.replace(str(fleet.net.directory / name), str(folder / name))
    text = text.replace("[recorder]\n", f'[recorder]\nhost = "{folder.name}.example"\n')
    (folder / "tlsrpt.toml").write_text(text)
    return Served(folder.name, role, folder, fleet.clock)


@contextlib.contextmanager
def _linked(number: int) -> Iterator[str]:
    name, link = f"tlsrpt-{os.getpid()}-mx{number}", f"tlsrpt{number}"  # namespaces are the machine's, links ours
    _ip("netns", "add", name)
    try:
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("address", "add", f"{_outside(number)}/30", "dev", link)
        _ip("link", "set", link, "up")
        for command in (f"address add {_inside(number)}/30 dev eth0", "link set eth0 up", "link set lo up"):
            _ip("-n", name, *command.split())
        yield name
    finally:
        _ip("netns", "delete", name)


@contextlib.contextmanager
def _bound(path: pathlib.Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        yield listening


@contextlib.contextmanager
def _internet(folder: pathlib.Path, domains: list[str]) -> Iterator[internet.Internet]:
    """Run the made-up internet in a thread of its own, where the caller is."""
    started: list[internet.Internet] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with internet.start(folder, ()) as net:
            for domain in domains:
                net.zone.put(f"_smtp._tls.{domain}", zone.Txt(f"v=TLSRPTv1;rua=mailto:tls@{domain}"))
            started.append(net)
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(PATIENCE), "the internet does not start"
        yield started[0]
    finally:
        stop.set()
        thread.join(PATIENCE)
