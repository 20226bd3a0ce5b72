"""``tlsrpt serve policy``, the real command: it answers, ends in order, comes back, and works alone."""

import contextlib
import json
import os
import pathlib
import re
import resource
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

Serve = Callable[..., Any]

QUERY = b"17:QUERY [x.example],"
NOTFOUND = b"9:NOTFOUND ,"

IDLE = 10_000
"""Connections."""

HANDED = """
import os, sys
for place, number in enumerate((int(sys.argv[1]), int(sys.argv[2])), 3):
    os.dup2(number, place)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"}
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Hands two sockets over as systemd does."""


def configuration(folder: pathlib.Path, **policy: Any) -> tuple[str, str]:
    """Write a configuration of this role alone; return the option that names it."""
    section = {"listen": [f"unix:{folder / 'p.sock'}"], "cache": str(folder / "policy.db")} | policy
    lines = [
        '[dns]\nnameservers = ["127.0.0.1:1"]',
        f'[recorder]\nsocket = ""\njournal = "{folder / "journal"}"\n[store]\nurl = "sqlite:///{folder / "t.db"}"',
        "[policy]",
        *(f"{key} = {json.dumps(value)}" for key, value in section.items()),
    ]
    (folder / "tlsrpt.toml").write_text("\n".join(lines))
    return "--config", str(folder / "tlsrpt.toml")


def connected(path: pathlib.Path | str | tuple[str, int]) -> socket.socket:
    """Return a connection."""
    client = socket.socket(socket.AF_INET if isinstance(path, tuple) else socket.AF_UNIX)
    client.settimeout(20)
    client.connect(path if isinstance(path, tuple) else str(path))
    return client


def ask(path: pathlib.Path | str | tuple[str, int]) -> bytes:
    """Ask something that needs no look-up; return the answer."""
    with connected(path) as client:
        client.sendall(QUERY)
        return client.recv(100)


def test_it_works_alone_on_unix_and_tcp_and_ends_in_order(serve: Serve, tmp_path: pathlib.Path) -> None:
    """No recorder, no organization; the socket file has its mode, and is gone at the end; nothing is warned of."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    listen = [f"unix:{tmp_path / 'p.sock'}", f"inet:127.0.0.1:{address[1]}"]
    group = str(os.getgid())
    served = serve("policy", *configuration(tmp_path, listen=listen, socket_mode="0600", socket_group=group))
    served.wait_for("policy socket started")
    assert (ask(tmp_path / "p.sock"), ask(address)) == (NOTFOUND, NOTFOUND)
    status = (tmp_path / "p.sock").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o600, os.getgid())
    assert served.end() == 0
    assert not (tmp_path / "p.sock").exists()
    assert {row["level"] for row in served.events()} == {"info"}
    assert [row["event"] for row in served.events()] == ["started", "policy socket started", "policy socket stopped"]


def test_what_was_asked_is_answered_at_the_end(serve: Serve, tmp_path: pathlib.Path) -> None:
    """A look-up that waits for the DNS is waited for."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        nameserver = f"127.0.0.1:{silent.getsockname()[1]}"
        environment = os.environ | {"TLSRPT_DNS_NAMESERVERS": nameserver}
        served = serve("policy", *configuration(tmp_path), env=environment)
        served.wait_for("policy socket started")
        with connected(tmp_path / "p.sock") as client:
            client.sendall(b"18:QUERY slow.example," + QUERY)
            silent.settimeout(20)
            silent.recv(1000)
            served.process.send_signal(signal.SIGTERM)
            got = b""
            while chunk := client.recv(1000):
                got += chunk
        assert got == 2 * NOTFOUND
        assert served.process.wait(30) == 0


def test_a_policy_process_that_was_killed_answers_again(serve: Serve, tmp_path: pathlib.Path) -> None:
    """Within seconds, at the same place."""
    served = serve("policy", *configuration(tmp_path))
    served.wait_for("policy socket started")
    os.kill(served.pid("policy"), signal.SIGKILL)
    served.wait_for("policy socket started", times=2)
    assert ask(tmp_path / "p.sock") == NOTFOUND
    assert served.end() == 0


def test_each_role_takes_its_own_socket_of_systemd(serve: Serve, tmp_path: pathlib.Path) -> None:
    """The datagram socket is the recorder's, the stream socket the policy role's; both stay where they are."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
    ):
        stream.bind(str(tmp_path / "s"))
        stream.listen()
        datagrams.bind(str(tmp_path / "d"))
        environment = os.environ | {"TLSRPT_RECORDER_SOCKET": str(tmp_path / "unused.sock")}
        numbers = (stream.fileno(), datagrams.fileno())
        prefix = (sys.executable, "-c", HANDED, *map(str, numbers))
        served = serve("recorder", "policy", *configuration(tmp_path), prefix=prefix, env=environment, pass_fds=numbers)
        served.wait_for("policy socket started")
        (started,) = served.wait_for("recorder started")
        assert started["inherited"]
        assert ask(tmp_path / "s") == NOTFOUND
        assert served.end() == 0
        assert (tmp_path / "s").exists()
        assert not (tmp_path / "p.sock").exists()


def resident(pid: int) -> int:
    """Return the memory of a process in octets."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    (kilobytes,) = re.findall(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE)
    return int(kilobytes) * 1024


def test_ten_thousand_idle_and_some_hostile_clients_cost_little(serve: Serve, tmp_path: pathlib.Path) -> None:
    """Some send a part of a request, some announce a gigabyte or nonsense; others are served meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < IDLE + 1000:
        pytest.skip(f"needs {IDLE + 1000} open files, {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, IDLE + 1000), hard))
    served = serve("policy", *configuration(tmp_path))
    served.wait_for("policy socket started")
    path, pid = tmp_path / "p.sock", served.pid("policy")
    assert ask(path) == NOTFOUND
    before = resident(pid)
    clients: list[socket.socket] = []
    try:
        for number in range(IDLE):
            client = connected(path)
            clients.append(client)
            if number % 10 == 0:
                client.sendall(b"512:QUERY " + b"x" * 400)
            if number % 500 == 0:
                assert ask(path) == NOTFOUND
        for announced in (b"1073741824:" + b"x" * 4096, b"99999999999999999999:", b"-1:", b"x" * 5000):
            with connected(path) as hostile:
                hostile.sendall(announced)
                with contextlib.suppress(ConnectionResetError):
                    assert hostile.recv(100) == b"", "closed"
        began = time.monotonic()
        assert ask(path) == NOTFOUND
        assert time.monotonic() - began < 1
        assert resident(pid) - before < 100 * 2**20
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert ask(path) == NOTFOUND
    assert served.end() == 0
