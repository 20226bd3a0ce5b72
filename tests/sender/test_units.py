"""The files for systemd: they are what systemd takes, they harden, and they agree with the defaults."""

import configparser
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from sender import config

UNITS = pathlib.Path(__file__).parents[2] / "conf" / "systemd"

EXPOSURE = 20
"""Tenths of systemd-analyze's points: as hardened as few services are."""

Serve = Callable[..., Any]

EXECUTABLE_MEMORY = """
import ctypes, os, sys
if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""What MemoryDenyWriteExecute= does, for one program."""


def program(name: str) -> str:
    """Return a program of systemd; without it the test is skipped, but not in CI."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"nothing may be skipped here: no {name}")
        pytest.skip(f"there is no {name}")
    return found


@pytest.fixture
def units(tmp_path: pathlib.Path) -> pathlib.Path:
    """The units, with a program that is there."""
    folder = tmp_path / "units"
    shutil.copytree(UNITS, folder)
    unit = folder / "tlsrpt.service"
    unit.write_text(unit.read_text().replace("/usr/local/bin/tlsrpt", sys.executable))
    return folder


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of systemd."""
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_systemd_takes_the_units(units: pathlib.Path) -> None:
    """Without a warning."""
    done = run(program("systemd-analyze"), "verify", "--man=no", *map(str, sorted(units.glob("tlsrpt.s[eo]*"))))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_service_is_hardened(units: pathlib.Path) -> None:
    """Systemd's own measure."""
    unit = str(units / "tlsrpt.service")
    arguments = ("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", unit)
    done = run(program("systemd-analyze"), *arguments)
    assert done.returncode == 0, done.stdout


def test_the_user_and_the_folders_are_made(tmp_path: pathlib.Path) -> None:
    """In a root of its own: Postfix may enter, and the service is in its group."""
    if os.geteuid():
        pytest.skip("making users and their folders needs root")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    made = run(program("systemd-sysusers"), f"--root={root}", str(UNITS / "tlsrpt.sysusers"))
    assert made.returncode == 0, made.stderr
    assert re.search(r"^tlsrpt:", (root / "etc" / "passwd").read_text(), re.MULTILINE)
    assert re.search(r"^postfix:.*\btlsrpt$", (root / "etc" / "group").read_text(), re.MULTILINE)
    made = run(program("systemd-tmpfiles"), "--create", f"--root={root}", str(UNITS / "tlsrpt.tmpfiles"))
    assert made.returncode == 0, made.stderr
    folder = root / "var/spool/postfix/run/tlsrpt"
    assert folder.stat().st_mode & 0o777 == 0o750
    assert folder.stat().st_uid != 0


def test_the_units_agree_with_the_defaults() -> None:
    """Of the configuration, and of the kernel's queue that check wants."""
    read = configparser.ConfigParser(strict=False, interpolation=None)
    read.optionxform = str  # type: ignore[assignment, method-assign] # names of settings have capitals
    read.read([UNITS / "tlsrpt.socket", UNITS / "tlsrpt.service"])
    settings = config.Config()
    assert read["Socket"]["ListenDatagram"] == settings.recorder.socket
    assert read["Socket"]["SocketMode"] == settings.recorder.socket_mode
    folder = pathlib.Path(settings.recorder.socket).parent
    assert read["Service"]["ReadWritePaths"] == str(folder)
    assert f" {folder} " in (UNITS / "tlsrpt.tmpfiles").read_text()
    state = pathlib.Path("/var/lib") / read["Service"]["StateDirectory"]
    assert pathlib.Path(settings.recorder.journal).is_relative_to(state)
    assert settings.store.url == f"sqlite:///{state}/tlsrpt.db"
    assert "net.unix.max_dgram_qlen = 512" in (UNITS / "tlsrpt.sysctl").read_text()


def test_it_runs_without_memory_that_is_writable_and_executable(tmp_path: pathlib.Path, serve: Serve) -> None:
    """As under MemoryDenyWriteExecute=, all roles."""
    (tmp_path / "tlsrpt.toml").write_text(f"""
[organization]
domain = "sender.example"
contact = "postmaster@sender.example"
[recorder]
socket = "{tmp_path}/tlsrpt.sock"
journal = "{tmp_path}/journal"
[store]
url = "sqlite:///{tmp_path}/tlsrpt.db"
[policy]
listen = ["unix:{tmp_path}/policy.sock"]
cache = "{tmp_path}/policy.db"
[dns]
nameservers = ["127.0.0.1:1"]
""")
    served = serve("--config", str(tmp_path / "tlsrpt.toml"), prefix=(sys.executable, "-c", EXECUTABLE_MEMORY))
    if served.process.poll() == 77:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    served.wait_for("ready")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(str(tmp_path / "tlsrpt.sock"))
        sender.send(b"nonsense")
    served.wait_for("malformed datagrams")
    assert served.end(signal.SIGTERM) == 0
