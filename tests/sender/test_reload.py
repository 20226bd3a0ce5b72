"""SIGHUP and systemd: the real ``tlsrpt serve``, told to read its configuration anew, and asked how it is."""

import asyncio
import contextlib
import os
import pathlib
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sender import config, readiness, roles
from sender.demo import internet
from tests.sender import test_findings

Serve = Callable[..., Any]

SESSIONS = 3000
RELOADS = 10


def serving(folder: pathlib.Path, serve: Serve, walk: Callable[[internet.Internet, Any], None], **options: Any) -> None:
    """Run ``tlsrpt serve`` in a made-up internet, and something with it."""

    async def within() -> None:
        async with internet.start(folder, ()) as net:
            (folder / "tlsrpt.toml").write_text(net.config_text())
            served = serve("--config", str(folder / "tlsrpt.toml"), **options)
            await asyncio.to_thread(served.wait_for, "ready")
            await asyncio.to_thread(walk, net, served)
            assert await asyncio.to_thread(served.end) == 0
            assert not [row for row in served.events() if "exception" in row]

    asyncio.run(within())


def change(folder: pathlib.Path, old: str, new: str) -> None:
    """Change the configuration."""
    text = (folder / "tlsrpt.toml").read_text()
    assert old in text
    (folder / "tlsrpt.toml").write_text(text.replace(old, new))


def pids(served: Any) -> dict[str, int]:
    """Return the processes of the roles as they are now."""
    return {row["role"]: row["pid"] for row in served.events("started")}


def test_only_roles_whose_configuration_changed_are_started_again(tmp_path: pathlib.Path, serve: Serve) -> None:
    """What is not valid changes nothing; what cannot be had without a restart is named."""

    def walk(_: internet.Internet, served: Any) -> None:
        before = pids(served)
        change(tmp_path, "spread = 0", "spread = 60")
        served.process.send_signal(signal.SIGHUP)
        (row,) = served.wait_for("reloaded")
        assert (row["changed"], row["restarted"]) == (["report"], ["reporter"])
        served.wait_for("reporter started", 2)
        assert {name for name, pid in pids(served).items() if before[name] != pid} == {"reporter"}
        assert not served.events("died, is started again")
        change(tmp_path, "spread = 60", "spread = 'soon'")
        served.process.send_signal(signal.SIGHUP)
        (row,) = served.wait_for("the configuration is not reloaded")
        assert "report.spread = 'soon': give a whole number" in row["error"]
        change(tmp_path, "spread = 'soon'", "spread = 60")
        change(tmp_path, "/tlsrpt.sock", "/other.sock")
        served.process.send_signal(signal.SIGHUP)
        (row,) = served.wait_for("these keys need a restart")
        assert row["keys"] == ["recorder.socket"]
        assert served.wait_for("reloaded", 2)[1]["restarted"] == []

    serving(tmp_path, serve, walk)


def test_nothing_is_lost_while_it_is_reloaded(tmp_path: pathlib.Path, serve: Serve) -> None:
    """Session results come in all the time; tally and reporter are started again ten times."""

    def walk(net: internet.Internet, served: Any) -> None:
        def send() -> None:
            for _ in range(SESSIONS):
                test_findings.tell(net.recorder_socket, test_findings.PLAIN_SESSION)

        sending = threading.Thread(target=send)
        sending.start()
        for number in range(RELOADS):
            text = net.config_text().replace("[store]\n", f"[store]\nflush = {number + 2}\n")
            (tmp_path / "tlsrpt.toml").write_text(text)
            served.process.send_signal(signal.SIGHUP)
            served.wait_for("reloaded", number + 1)
        sending.join()
        test_findings.wait_for_lines(tmp_path / "journal", SESSIONS)
        assert all(row["restarted"] == ["tally", "reporter"] for row in served.events("reloaded"))

    serving(tmp_path, serve, walk)


def test_systemd_hears_when_it_is_ready_alive_and_ending(tmp_path: pathlib.Path, serve: Serve) -> None:
    """READY=1 comes once every role does its work, and not before; then a sign of life every third of the time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)

        def walk(net: internet.Internet, _: Any) -> None:
            assert systemd.recv(100) == b"READY=1"
            test_findings.tell(net.recorder_socket, test_findings.PLAIN_SESSION)
            assert test_findings.ask(net.policy_socket, "QUERY", 1) == [b"NOTFOUND "]
            assert [systemd.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3

        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1500000"}
        serving(tmp_path, serve, walk, env=environment)
        systemd.setblocking(False)  # it has ended
        heard = []
        with contextlib.suppress(BlockingIOError):
            while True:
                heard.append(systemd.recv(100))
        assert heard[-1] == b"STOPPING=1"
        assert set(heard[:-1]) <= {b"WATCHDOG=1"}


# id, environment, seconds
WATCHDOGS: list[tuple[str, dict[str, str], float | None]] = [
    ("none", {}, None),
    ("a minute", {"WATCHDOG_USEC": "60000000"}, 20.0),
    ("ours", {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 1.0),
    ("another's", {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, None),
    ("nonsense", {"WATCHDOG_USEC": "soon"}, None),
    ("nothing", {"WATCHDOG_USEC": "0"}, None),
]


@pytest.mark.parametrize(("environment", "expected"), [row[1:] for row in WATCHDOGS], ids=[row[0] for row in WATCHDOGS])
def test_the_watchdog_is_systemds(environment: dict[str, str], expected: float | None) -> None:
    """sd_watchdog_enabled(3)."""
    assert readiness.watchdog(environment, 7) == expected


def test_an_abstract_socket_is_told_too(tmp_path: pathlib.Path) -> None:
    """And one that is gone is no trouble."""
    name = f"tlsrpt-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}")
        readiness.notify("READY=1", "STATUS=well", environment={"NOTIFY_SOCKET": f"@{name}"})
        assert systemd.recv(100) == b"READY=1\nSTATUS=well"
    readiness.notify("READY=1", environment={"NOTIFY_SOCKET": str(tmp_path / "gone")})


def test_each_section_is_read_by_somebody_or_by_the_recorder() -> None:
    """A new section has to be named, or SIGHUP would ignore it."""
    assert set.union(*roles.NEEDED.values()) | set(roles.FIXED) == set(config.Config.__struct_fields__)
