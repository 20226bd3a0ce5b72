"""``tlsrpt serve policy``, the real command: it answers, ends in order, comes back, and works alone."""

import asyncio
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
from typing import Any, Self

import dns.message
import dns.rcode
import pytest
from aiohttp import web

from policy import cache
from sender import journal
from sender.demo import certificates, zone
from sender.demo import dns as demo_dns

Serve = Callable[..., Any]

QUERY = b"17:QUERY [x.example],"
NOTFOUND = b"9:NOTFOUND ,"

DOMAIN = "domain.example"
SECURE = b"OK secure match=.domain.example servername=hostname"
REFUSED = {"result_type": "sts-policy-fetch-error", "reason": "connection-refused"}

ADDRESS = "127.61.84.61"
"""Where nobody else listens."""

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
    group = str(12345 if os.geteuid() == 0 else os.getgid())
    served = serve("policy", *configuration(tmp_path, listen=listen, socket_mode="0600", socket_group=group))
    served.wait_for("policy socket started")
    assert (ask(tmp_path / "p.sock"), ask(address)) == (NOTFOUND, NOTFOUND)
    status = (tmp_path / "p.sock").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o600, int(group))
    served.wait_for("ready")
    assert served.end() == 0
    assert not (tmp_path / "p.sock").exists()
    assert {row["level"] for row in served.events()} == {"info"}
    events = [row["event"] for row in served.events()]
    assert events == ["started", "policy socket started", "ready", "policy socket stopped"]


def test_what_was_asked_is_answered_at_the_end(serve: Serve, tmp_path: pathlib.Path) -> None:
    """A look-up that waits for the DNS is waited for, when nobody new can connect any more."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as slow:
        slow.bind(("127.0.0.1", 0))
        nameserver = f"127.0.0.1:{slow.getsockname()[1]}"
        environment = os.environ | {"TLSRPT_DNS_NAMESERVERS": nameserver}
        served = serve("policy", *configuration(tmp_path), env=environment)
        served.wait_for("policy socket started")
        with connected(tmp_path / "p.sock") as client:
            client.sendall(b"18:QUERY slow.example," + QUERY)
            slow.settimeout(20)
            asked = slow.recvfrom(1000)
            served.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not (tmp_path / "p.sock").exists())
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1000)
            client.settimeout(20)
            slow.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                while True:
                    slow.sendto(failing(asked[0]), asked[1])
                    asked = slow.recvfrom(1000)
            got = b"".join(iter(lambda: client.recv(1000), b""))
        assert got == 2 * NOTFOUND
        assert served.process.wait(30) == 0


def failing(query: bytes) -> bytes:
    """Return an answer of the DNS that says SERVFAIL."""
    response = dns.message.make_response(dns.message.from_wire(query))
    response.set_rcode(dns.rcode.SERVFAIL)
    return response.to_wire()


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
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.connect(str(tmp_path / "d"))
            client.send(b'{"d":"x.example"}')
        assert served.end() == 0
        (segment,) = journal.segments(tmp_path / "journal")
        assert segment.path.read_bytes() == b'{"d":"x.example"}\n'
        assert (tmp_path / "s").exists()
        assert (tmp_path / "d").exists()
        assert not (tmp_path / "p.sock").exists()


class PolicyHost:
    """Listens at port 443 of an address of its own, in the event loop it is made in."""

    def __init__(self, authority: certificates.Authority) -> None:
        self._context = certificates.server_context(authority.issue((f"mta-sts.{DOMAIN}",)))
        self._runner: web.ServerRunner | None = None
        self.fetches = 0

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, ADDRESS, 443, ssl_context=self._context).start()
        except OSError as error:
            await self._runner.cleanup()
            pytest.skip(f"needs port 443 of {ADDRESS}: {error}")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.fetches += 1
        assert (request.host, request.path) == (f"mta-sts.{DOMAIN}", "/.well-known/mta-sts.txt")
        return web.Response(text=f"version: STSv1\nmode: enforce\nmx: *.{DOMAIN}\nmax_age: 864000\n")


def told(path: pathlib.Path) -> tuple[bytes, dict[str, Any]]:
    """Ask about the domain; return the answer to Postfix, and that in JSON."""
    with connected(path) as client, client.makefile("rb") as replies:
        client.sendall(b"20:QUERY domain.example,19:JSON domain.example,")
        got = []
        for _ in range(2):
            length = int(b"".join(iter(lambda: replies.read(1), b":")))
            got.append(replies.read(length + 1)[:-1])
    return got[0], json.loads(got[1].removeprefix(b"OK "))


def kept(folder: pathlib.Path) -> cache.Kept:
    """Return what the policy role keeps of the domain."""
    return cache.look(folder / "policy.db", DOMAIN, time.time()) or cache.Kept(DOMAIN)


def wait_until(true: Callable[[], object]) -> None:
    """Wait for another process."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def published() -> zone.Zone:
    """Return the DNS of the domain."""
    made = zone.Zone()
    made.put(DOMAIN, zone.Mx(10, f"mx.{DOMAIN}"))
    made.put(f"_mta-sts.{DOMAIN}", zone.Txt("v=STSv1; id=1;"))
    made.put(f"mta-sts.{DOMAIN}", zone.A(ADDRESS))
    made.put(f"_smtp._tls.{DOMAIN}", zone.Txt(f"v=TLSRPTv1; rua=mailto:tls@{DOMAIN}"))
    return made


def test_a_policy_that_was_fetched_is_enforced_after_restarts_without_its_host(
    serve: Serve, tmp_path: pathlib.Path
) -> None:
    """Killed or ended; with a new id its host is asked, refuses, and the old one holds. No recorder, no word of it."""
    authority = certificates.Authority()
    authority.write_ca(tmp_path / "ca.pem")
    path = tmp_path / "p.sock"

    async def scenario() -> None:
        async with demo_dns.Server(published()) as server:
            environment = os.environ | {
                "TLSRPT_DNS_NAMESERVERS": server.address,
                "TLSRPT_HTTPS_ALLOW_PRIVATE": "true",
                "TLSRPT_HTTPS_CA_FILE": str(tmp_path / "ca.pem"),
            }
            async with PolicyHost(authority) as host:
                served = serve("policy", *configuration(tmp_path), env=environment)
                await asyncio.to_thread(served.wait_for, "policy socket started")
                for _ in range(2):
                    answer, decided = await asyncio.to_thread(told, path)
                    assert answer == SECURE
                    assert (decided["policy_id"], decided["finding"], host.fetches) == ("1", None, 1)
            await asyncio.to_thread(wait_until, lambda: kept(tmp_path).id == "1")
            server.zone.remove(f"_mta-sts.{DOMAIN}")
            server.zone.put(f"_mta-sts.{DOMAIN}", zone.Txt("v=STSv1; id=2;"))
            os.kill(served.pid("policy"), signal.SIGKILL)
            await asyncio.to_thread(served.wait_for, "policy socket started", 2)
            answer, decided = await asyncio.to_thread(told, path)
            assert (answer, decided["policy_id"], decided["finding"]) == (SECURE, "1", REFUSED)
            assert await asyncio.to_thread(served.end) == 0
            failure = kept(tmp_path).failure
            assert failure is not None
            again = serve("policy", *configuration(tmp_path), env=environment)
            await asyncio.to_thread(again.wait_for, "policy socket started")
            answer, decided = await asyncio.to_thread(told, path)
            assert (answer, decided["policy_id"], decided["finding"]) == (SECURE, "1", REFUSED)
            assert await asyncio.to_thread(again.end) == 0
            assert kept(tmp_path).failure == failure, "left alone for five minutes"
            assert [row for row in served.events() + again.events() if "finding" in row["event"]] == []

    asyncio.run(scenario())


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
                for slow in clients[::10]:
                    with contextlib.suppress(OSError):  # it may have been dropped where this takes long
                        slow.sendall(b"x")
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
