"""``tlsrpt serve``, the real command: what a host does, and what of it survives what."""

import datetime as dt
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from sender import config, journal, tally
from sender.store import engine, listings

Serve = Callable[..., Any]

DATAGRAM = '{"d":"n%d.example","pr":"v=TLSRPTv1;","policies":[{"policy-type":9,"t":0,"f":0}]}'

ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "recorder"}
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Hands a socket over as systemd does: the next program has the same process id."""

LOGFMT = re.compile(r'timestamp=\S+Z level=\w+ event=("([^"\\]|\\.)*"|\S+)( [^\s="]+(=("([^"\\]|\\.)*"|[^\s"]*))?)*')


@pytest.fixture
def settings(tmp_path: pathlib.Path) -> config.Config:
    """A configuration whose paths are all in the folder of the test, and its file."""
    return configuration(tmp_path, "tlsrpt")


def configuration(folder: pathlib.Path, name: str, **recorder: str) -> config.Config:
    """Write a configuration file, and return what is in it."""
    section = {"socket": str(folder / f"{name}.sock"), "journal": str(folder / f"{name}.journal")} | recorder
    text = "\n".join(
        [
            '[organization]\ndomain = "s.example"\ncontact = "c@s.example"\n[recorder]',
            *(f"{key} = {json.dumps(value)}" for key, value in section.items()),
            f'[policy]\nlisten = ["unix:{folder / name}-policy.sock"]\ncache = "{folder / name}-policy.db"',
            f'[store]\nurl = "sqlite:///{folder / name}.db"\n[dns]\nnameservers = ["127.0.0.1:1"]',
        ]
    )
    (folder / f"{name}.toml").write_text(text)
    return config.parse(text, {})


def file_of(folder: pathlib.Path, name: str = "tlsrpt") -> tuple[str, str]:
    """Return the option that names a configuration file."""
    return "--config", str(folder / f"{name}.toml")


def send(path: str, numbers: range) -> None:
    """Send datagrams, waiting for room."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.connect(path)
        for number in numbers:
            client.send((DATAGRAM % number).encode())


def wait_until(true: Callable[[], object]) -> None:
    """Wait for another process."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def recorded(settings: config.Config) -> list[str]:
    """Return the datagrams in the journal."""
    segments = journal.segments(pathlib.Path(settings.recorder.journal))
    return sorted(line.decode() for segment in segments for line in journal.read(segment, 0, 1 << 26).lines)


def counted(settings: config.Config, *, catch_up: bool = True) -> dict[str, int]:
    """Return the sessions in the store, by domain; first tallied, as every command does, what came at the very end."""
    store = engine.open_store(settings.store.url)
    if catch_up:
        tally.open_tally(settings, store).catch_up(dt.datetime.now(dt.UTC))
    with store.read() as connection:
        rows = list(listings.pending_days(connection))
    store.close()
    return {row.domain: row.successful for row in rows}


def sent(numbers: range) -> list[str]:
    """Return datagrams as the journal should have them."""
    return sorted(DATAGRAM % number for number in numbers)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_received_is_in_journal_and_store_at_the_end(
    serve: Serve, settings: config.Config, tmp_path: pathlib.Path, number: signal.Signals
) -> None:
    """A signal takes effect after the last datagram that was sent before it; Ctrl-C works like SIGTERM."""
    served = serve("recorder", *file_of(tmp_path))
    served.wait_for("recorder started")
    served.wait_for("tally started")
    send(settings.recorder.socket, range(1000))
    wait_until(lambda: len(counted(settings, catch_up=False)) == 1000)
    send(settings.recorder.socket, range(1000, 2000))
    if number == signal.SIGINT:
        os.killpg(served.process.pid, number)
        assert served.process.wait(20) == 0
    else:
        assert served.end(number) == 0
    assert recorded(settings) == sent(range(2000))
    assert counted(settings) == {f"n{one}.example": 1 for one in range(2000)}
    assert not pathlib.Path(settings.recorder.socket).exists()
    assert {row["level"] for row in served.events()} == {"info"}
    assert {row["event"] for row in served.events()} >= {"recorder stopped", "tally stopped"}


def test_ctrl_c_while_roles_still_begin_is_no_traceback(
    serve: Serve, settings: config.Config, tmp_path: pathlib.Path
) -> None:
    """The terminal sends SIGINT to all of them, whatever they are at."""
    served = serve(*file_of(tmp_path))
    served.wait_for("started", times=4)
    os.killpg(served.process.pid, signal.SIGINT)
    assert served.process.wait(20) == 0
    assert {row["level"] for row in served.events()} == {"info"}


def test_a_recorder_that_was_killed_listens_again(
    serve: Serve, settings: config.Config, tmp_path: pathlib.Path
) -> None:
    """Within seconds, with a segment of its own; the tally is not disturbed, nothing that was appended is lost."""
    served = serve("recorder", *file_of(tmp_path))
    served.wait_for("recorder started")
    send(settings.recorder.socket, range(100))
    wait_until(lambda: len(recorded(settings)) == 100)
    began = time.monotonic()
    os.kill(served.pid("recorder"), signal.SIGKILL)
    served.wait_for("recorder started", times=2)
    assert time.monotonic() - began < 5
    send(settings.recorder.socket, range(100, 200))
    assert served.end() == 0
    assert recorded(settings) == sent(range(200))
    assert set(counted(settings).values()) == {1}
    assert len(counted(settings)) == 200
    assert [row["role"] for row in served.events("started")].count("tally") == 1


def test_a_socket_from_systemd_outlives_the_recorder(
    serve: Serve, settings: config.Config, tmp_path: pathlib.Path
) -> None:
    """What is sent while there is no recorder waits in the kernel for the next one, up to the queue's length."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(settings.recorder.socket)
        number = sock.fileno()
        prefix = (sys.executable, "-c", ACTIVATED, str(number))
        served = serve("recorder", *file_of(tmp_path), prefix=prefix, pass_fds=(number,))
    (row,) = served.wait_for("recorder started")
    assert row["inherited"] is True
    os.kill(served.pid("recorder"), signal.SIGKILL)
    served.wait_for("died, is started again")
    send(settings.recorder.socket, range(5))
    assert len(served.events("recorder started")) == 1
    wait_until(lambda: len(recorded(settings)) == 5)
    assert len(served.events("recorder started")) == 2
    assert served.end() == 0
    assert recorded(settings) == sent(range(5))
    assert pathlib.Path(settings.recorder.socket).is_socket(), "it is systemd's"


SECOND = [
    ("the same journal", {"journal": "tlsrpt.journal"}, "another process writes this journal"),
    ("the same socket", {"socket": "tlsrpt.sock"}, "another process listens on this socket"),
]


@pytest.mark.parametrize(("shared", "told"), [row[1:] for row in SECOND], ids=[row[0] for row in SECOND])
def test_a_second_recorder_says_what_is_wrong_and_disturbs_nobody(
    serve: Serve, settings: config.Config, tmp_path: pathlib.Path, shared: dict[str, str], told: str
) -> None:
    """One line with the cure each time it tries; the first one goes on."""
    first = serve("recorder", *file_of(tmp_path))
    first.wait_for("recorder started")
    configuration(tmp_path, "other", **{key: str(tmp_path / value) for key, value in shared.items()})
    second = serve("recorder", *file_of(tmp_path, "other"))
    (row, *_) = second.wait_for("recorder failed")
    assert told in row["error"]
    assert {"timestamp", "level", "event", "error"} == row.keys()
    second.wait_for("died, is started again")
    assert second.end() == 0
    send(settings.recorder.socket, range(10))
    assert first.end() == 0
    assert recorded(settings) == sent(range(10))
    assert counted(settings) == {f"n{one}.example": 1 for one in range(10)}


ROLES = [
    ((), ["recorder", "tally", "policy", "reporter"]),
    (("policy",), ["policy"]),
    (("reporter",), ["reporter"]),
    (("recorder",), ["recorder", "tally"]),
    (("reporter", "recorder", "reporter"), ["reporter", "recorder", "tally"]),
]


@pytest.mark.parametrize(("names", "expected"), ROLES, ids=lambda names: "-".join(names) or "all")
def test_roles_are_chosen_by_name(
    serve: Serve, settings: config.Config, tmp_path: pathlib.Path, names: tuple[str, ...], expected: list[str]
) -> None:
    """All where none is named."""
    served = serve(*names, *file_of(tmp_path))
    served.wait_for("started", times=len(expected))
    assert served.end() == 0
    assert [row["role"] for row in served.events("started")] == expected


WRONG = [
    ("an unknown role", ["postman"], 2, "postman"),
    ("no such file", ["--config", "none.toml"], 2, "none.toml: no such file"),
    ("an unknown way to log", ["--log", "xml"], 2, "xml"),
]


@pytest.mark.parametrize(("arguments", "code", "told"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_wrong_usage_is_one_line(tmp_path: pathlib.Path, arguments: list[str], code: int, told: str) -> None:
    """Nothing is started, and there is no traceback."""
    command = [sys.executable, "-m", "sender", "serve", *arguments]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (code, b"")
    assert told in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_a_reporter_without_an_organization_is_wrong_usage(tmp_path: pathlib.Path) -> None:
    """It would fail over and over; a recorder alone needs none."""
    (tmp_path / "tlsrpt.toml").write_text("")
    command = [sys.executable, "-m", "sender", "serve", *file_of(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=20)
    assert done.returncode == 2
    assert b"organization.domain" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_sockets_that_cannot_be_inherited_are_one_line(tmp_path: pathlib.Path, settings: config.Config) -> None:
    """A descriptor that is no socket is a fault of the unit file."""
    with (tmp_path / "file").open("wb") as file:
        prefix = [sys.executable, "-c", ACTIVATED, str(file.fileno())]
        command = [*prefix, sys.executable, "-m", "sender", "serve", "recorder", *file_of(tmp_path)]
        done = subprocess.run(command, check=False, capture_output=True, timeout=20, pass_fds=(file.fileno(),))
    assert done.returncode == 1
    assert done.stderr.startswith(b"tlsrpt: LISTEN_FDS: descriptor 3 is no socket")
    assert done.stderr.count(b"\n") == 1


def test_the_log_is_logfmt_where_nothing_else_is_asked(
    serve: Serve, settings: config.Config, tmp_path: pathlib.Path
) -> None:
    """One line for each event, and nothing else on standard error or output."""
    served = serve(*file_of(tmp_path), log="logfmt")
    wait_until(lambda: "reporter started" in served.log.read_text())
    os.kill(int(re.findall(r"role=recorder pid=(\d+)", served.log.read_text())[0]), signal.SIGKILL)
    wait_until(lambda: served.log.read_text().count("recorder started") == 2)
    assert served.end() == 0
    lines = served.log.read_text().splitlines()
    assert len(lines) > 10
    assert [line for line in lines if not LOGFMT.fullmatch(line)] == []


LOGGING = """
import logging, sys, warnings
import structlog
from sender import logs
logs.configure(json=sys.argv[1] == "json")
structlog.get_logger().info("hello there", text='a "b"\\nc\\x1b[31m', flag=True, none=None)
logging.getLogger("library").warning("library says %s", "so")
logging.getLogger("library").info("not told")
warnings.warn("deprecated", UserWarning)
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("library").exception("failed")
    structlog.get_logger().exception("failed, too")
"""


@pytest.mark.parametrize("form", ["json", "logfmt"])
def test_each_event_is_one_line_whoever_logs_it(form: str) -> None:
    """Libraries, warnings and tracebacks go the same way; control characters reach no terminal."""
    command = [sys.executable, "-c", LOGGING, form]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
    lines = done.stderr.splitlines()
    assert done.stdout == ""
    assert len(lines) == 5
    assert "\x1b" not in done.stderr
    if form == "json":
        rows = [json.loads(line) for line in lines]
        assert [row["level"] for row in rows] == ["info", "warning", "warning", "error", "error"]
        assert rows[0]["text"] == 'a "b"\nc\x1b[31m'
        assert (rows[1]["event"], rows[1]["logger"]) == ("library says so", "library")
        assert all("ZeroDivisionError" in row["exception"] for row in rows[3:])
    else:
        assert [line for line in lines if not LOGFMT.fullmatch(line)] == []
        assert [line.split()[1] for line in lines] == [
            f"level={one}" for one in ("info", "warning", "warning", "error", "error")
        ]


def test_a_full_disk_of_the_log_stops_nothing(settings: config.Config, tmp_path: pathlib.Path) -> None:
    """Sessions are recorded though nobody is told; where journal and log share a disk, just that happens."""
    command = [sys.executable, "-m", "sender", "serve", "recorder", *file_of(tmp_path)]
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        process = subprocess.Popen(command, stderr=full, start_new_session=True)
    try:
        wait_until(pathlib.Path(settings.recorder.socket).exists)
        send(settings.recorder.socket, range(10))
        process.terminate()
        process.wait(20)
        assert recorded(settings) == sent(range(10))
    finally:
        process.kill()
        process.wait()
