"""Real HTTPS servers on loopback: what they answer, how they fail, and where nothing may lead.

First reports that are posted, then policies that are got.
"""

import asyncio
import contextlib
import gzip
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from aiohttp import web

from policy import addresses, https, resolver
from policy.settings import Https

Zone = Mapping[tuple[str, str], Sequence[str] | str]
Nameserver = Callable[[Zone], AbstractAsyncContextManager[str]]
ServerTls = Callable[..., ssl.SSLContext]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HOST = "receiver.example"
ZONE: Zone = {
    (HOST, "A"): ["127.0.0.1"],
    ("other.example", "A"): ["127.0.0.1"],
    ("xn--a.example", "A"): ["127.0.0.1"],
    ("no-address.example", "TXT"): ['"x"'],
    ("fail.example", "A"): "SERVFAIL",
    ("fail.example", "AAAA"): "SERVFAIL",
    ("six.example", "AAAA"): ["::1"],
    ("mapped.example", "AAAA"): ["::ffff:127.0.0.1"],
    ("several.example", "A"): ["127.0.0.1", "10.0.0.1", "169.254.169.254"],
    ("several.example", "AAAA"): ["::1", "fe80::1"],
    ("alias.example", "CNAME"): [f"{HOST}."],
}
TYPE = "application/tlsrpt+gzip"


class Server:
    """Counts its requests and answers them by a handler."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.requests: list[tuple[str, str, Mapping[str, str], bytes]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Remember the request, then let the handler answer."""
        self.requests.append((request.method, request.path_qs, dict(request.headers), await request.read()))
        return await self.handler(request)

    @contextlib.asynccontextmanager
    async def run(self, tls: ssl.SSLContext, host: str = "127.0.0.1") -> AsyncIterator[int]:
        """Listen on a port of its own."""
        application = web.Application(client_max_size=20_000_000)
        application.router.add_route("*", "/{rest:.*}", self.answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, host, 0, ssl_context=tls)
        await site.start()
        try:
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()


async def _ok(request: web.Request) -> web.StreamResponse:
    return web.Response(status=200, reason="Thanks", text="accepted")


async def _never(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


def _settings(ca_file: str, **more: bool) -> Https:
    return Https(ca_file=ca_file, **{"allow_private": True, **more})


@contextlib.asynccontextmanager
async def _client(
    nameserver: Nameserver,
    settings: Https,
    limit: float = 5,
    zone: Zone = ZONE,
    guard: https.Guard = addresses.refusal,
) -> AsyncIterator[https.Client]:
    async with nameserver(zone) as server:
        asked = resolver.Resolver([server], lifetime=1)
        async with https.Client(settings, asked, timeout=limit, guard=guard) as client:
            yield client


async def _exchange(
    nameserver: Nameserver,
    settings: Https,
    server: Server,
    tls: ssl.SSLContext,
    *,
    url: str = "https://receiver.example:{port}/v1/tlsrpt",
    body: bytes = b"report",
    limit: float = 5,
) -> https.Answer:
    """Run a server, post one report to it."""
    async with server.run(tls) as port, _client(nameserver, settings, limit) as client:
        return await client.post(url.format(port=port), body, TYPE)


def test_a_report_is_posted_as_it_is(nameserver: Nameserver, server_tls: ServerTls, ca_file: str) -> None:
    """RFC 8460 section 5.2: the gzip octets, the content type, and nothing that tells more than it must."""
    server, body = Server(_ok), gzip.compress(b"{}")
    url = "https://receiver.example:{port}/a%2Fb;c?x=%2C&y=%20"
    answer = asyncio.run(_exchange(nameserver, _settings(ca_file), server, server_tls(HOST), url=url, body=body))
    assert answer == https.Answer(200, "Thanks", None, "text/plain; charset=utf-8", b"accepted")
    [(method, path, headers, received)] = server.requests
    assert (method, path, received) == ("POST", "/a%2Fb;c?x=%2C&y=%20", body)
    assert headers["Content-Type"] == TYPE
    assert headers["Content-Length"] == str(len(body))
    assert re.fullmatch(r"tlsrpt/[0-9.]+", headers["User-Agent"])
    assert set(headers) <= {"Host", "User-Agent", "Accept", "Accept-Encoding", "Content-Type", "Content-Length"}


def test_the_largest_report_goes_through(nameserver: Nameserver, server_tls: ServerTls, ca_file: str) -> None:
    """Ten megabytes, without a warning that the body is large."""
    server, body = Server(_ok), b"x" * 10_000_000
    answer = asyncio.run(_exchange(nameserver, _settings(ca_file), server, server_tls(HOST), body=body))
    assert answer.status == 200
    assert [len(received) for *_, received in server.requests] == [len(body)]


ANSWERS = [
    ("redirect", {"status": 302, "headers": {"Location": "https://receiver.example/"}}, (302, "Found", None)),
    ("permanent redirect", {"status": 308, "headers": {"Location": "/"}}, (308, "Permanent Redirect", None)),
    ("accepted", {"status": 202}, (202, "Accepted", None)),
    ("no content", {"status": 204}, (204, "No Content", None)),
    ("not found", {"status": 404}, (404, "Not Found", None)),
    ("busy, seconds", {"status": 503, "headers": {"Retry-After": "120"}}, (503, "Service Unavailable", "120")),
    (
        "busy, date",
        {"status": 429, "headers": {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}},
        (429, "Too Many Requests", "Fri, 31 Dec 1999 23:59:59 GMT"),
    ),
    ("unknown status", {"status": 599, "reason": "Odd"}, (599, "Odd", None)),
]


@pytest.mark.parametrize(("kind", "expected"), [pytest.param(*case[1:], id=case[0]) for case in ANSWERS])
def test_any_status_is_an_answer(
    nameserver: Nameserver,
    server_tls: ServerTls,
    ca_file: str,
    kind: dict[str, object],
    expected: tuple[int, str, str | None],
) -> None:
    """A redirect is not followed: the report would go where the record does not say."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(**kind)  # type: ignore[arg-type]

    server = Server(handler)
    answer = asyncio.run(_exchange(nameserver, _settings(ca_file), server, server_tls(HOST)))
    assert (answer.status, answer.reason, answer.retry_after) == expected
    assert len(server.requests) == 1


def test_cookies_are_not_kept(nameserver: Nameserver, server_tls: ServerTls, ca_file: str) -> None:
    """A receiver learns nothing about the domains whose reports come from here."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(headers={"Set-Cookie": "id=1"})

    async def twice(server: Server) -> None:
        async with server.run(server_tls(HOST)) as port, _client(nameserver, _settings(ca_file)) as client:
            for _ in range(2):
                await client.post(f"https://{HOST}:{port}/", b"x", TYPE)

    server = Server(handler)
    asyncio.run(twice(server))
    assert [headers.get("Cookie") for _, _, headers, _ in server.requests] == [None, None]


def test_proxies_of_the_environment_are_not_used(
    nameserver: Nameserver, server_tls: ServerTls, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would look names up by itself, around the address guard."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    answer = asyncio.run(_exchange(nameserver, _settings(ca_file), Server(_ok), server_tls(HOST)))
    assert answer.status == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_long_answer_is_cut(nameserver: Nameserver, server_tls: ServerTls, ca_file: str, *, chunked: bool) -> None:
    """The first 64 KiB of a megabyte are enough for a person; the client goes on working."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.Response(body=b"x" * 1_000_000)
        if chunked:
            response.enable_chunked_encoding()
        return response

    async def twice() -> list[https.Answer]:
        server = Server(handler)
        async with server.run(server_tls(HOST)) as port, _client(nameserver, _settings(ca_file)) as client:
            return [await client.post(f"https://{HOST}:{port}/", b"x", TYPE) for _ in range(2)]

    assert [(answer.status, answer.body) for answer in asyncio.run(twice())] == [(200, b"x" * https.MAX_ANSWER)] * 2


def test_a_compressed_answer_is_not_unpacked(nameserver: Nameserver, server_tls: ServerTls, ca_file: str) -> None:
    """A thousandfold larger body behind a few octets does no harm."""
    bomb = gzip.compress(b"\0" * 1_000_000)

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    answer = asyncio.run(_exchange(nameserver, _settings(ca_file), Server(handler), server_tls(HOST)))
    assert answer.body == bomb


def test_twenty_posts_at_once_share_a_few_connections(
    nameserver: Nameserver, server_tls: ServerTls, ca_file: str
) -> None:
    """A provider that receives the reports of many domains is not flooded."""
    ports = set()

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport
        ports.add(request.transport.get_extra_info("peername")[1])
        await asyncio.sleep(0.01)
        return web.Response()

    async def post() -> list[https.Answer]:
        server = Server(handler)
        async with server.run(server_tls(HOST)) as port, _client(nameserver, _settings(ca_file)) as client:
            return await asyncio.gather(*(client.post(f"https://{HOST}:{port}/{n}", b"x", TYPE) for n in range(20)))

    assert [answer.status for answer in asyncio.run(post())] == [200] * 20
    assert 1 < len(ports) <= https.MAX_PER_HOST


# id, host the certificate is for, days it is valid, whether its CA is trusted, text of the error
CERTIFICATES = [
    ("unknown issuer", HOST, 10, False, "certificate: unable to get local issuer certificate"),
    ("other host", "other.example", 10, True, "certificate: Hostname mismatch, .* not valid for 'receiver.example'"),
    ("expired", HOST, -1, True, "certificate: certificate has expired"),
]


@pytest.mark.parametrize(
    ("host", "days", "trusted", "text"), [pytest.param(*case[1:], id=case[0]) for case in CERTIFICATES]
)
def test_a_bad_certificate_says_what_is_wrong(
    nameserver: Nameserver, server_tls: ServerTls, ca_file: str, host: str, days: int, *, trusted: bool, text: str
) -> None:
    """Nothing is sent to a host that cannot prove its name; the error tells what is wrong with the certificate."""
    server, tls = Server(_ok), server_tls(host, days)
    with pytest.raises(https.HttpsError, match=f"^receiver.example: {text}"):
        asyncio.run(_exchange(nameserver, _settings(ca_file if trusted else ""), server, tls))
    assert server.requests == []


@pytest.mark.parametrize(("host", "days"), [("other.example", 10), (HOST, -1)])
def test_without_verify_any_certificate_will_do(
    nameserver: Nameserver, server_tls: ServerTls, host: str, days: int
) -> None:
    """RFC 8460 section 3: report submitters may ignore certificate validation errors."""
    settings = Https(verify=False, allow_private=True)
    assert asyncio.run(_exchange(nameserver, settings, Server(_ok), server_tls(host, days))).status == 200


URLS = [
    ("through a CNAME", "alias.example", "https://alias.example:{port}/"),
    ("IPv4 address", "127.0.0.1", "https://127.0.0.1:{port}/"),
    ("broken A-label", "xn--a.example", "https://xn--a.example:{port}/"),
]


@pytest.mark.parametrize(("host", "url"), [pytest.param(*case[1:], id=case[0]) for case in URLS])
def test_any_host_of_a_record_can_be_posted_to(
    nameserver: Nameserver, server_tls: ServerTls, ca_file: str, host: str, url: str
) -> None:
    """The certificate is for the host as the URL names it."""
    answer = asyncio.run(_exchange(nameserver, _settings(ca_file), Server(_ok), server_tls(host), url=url))
    assert answer.status == 200


# id, URL, text of the error
UNREACHABLE = [
    ("no address", "https://no-address.example/", "no-address.example: the host has no address"),
    ("no such host", "https://nowhere.example/", "nowhere.example: the host has no address"),
    ("DNS fails", "https://fail.example/", "fail.example: fail.example A+: .*SERVFAIL"),
    ("nobody listens", "https://receiver.example:1/", "receiver.example: cannot connect: Connection refused"),
    ("not https", "http://receiver.example/", "http://receiver.example/: not an https URL"),
    ("not a URL", "https://[::1/", r"https://\[::1/: "),
    ("no host", "https:///x", "https:///x: not an https URL"),
    ("number as a host", "https://2130706433/", "2130706433: (the host has no address|.*not a canonical IPv4 address)"),
]


@pytest.mark.parametrize(("url", "text"), [pytest.param(*case[1:], id=case[0]) for case in UNREACHABLE])
def test_where_nobody_answers_the_error_says_why(nameserver: Nameserver, url: str, text: str) -> None:
    """One kind of error for whatever keeps an answer from coming."""

    async def post() -> None:
        async with _client(nameserver, Https(allow_private=True)) as client:
            await client.post(url, b"x", TYPE)

    with pytest.raises(https.HttpsError, match=f"^{text}"):
        asyncio.run(post())


def test_a_receiver_that_never_answers_is_left(nameserver: Nameserver, server_tls: ServerTls, ca_file: str) -> None:
    """The time-out covers the whole request."""
    with pytest.raises(https.HttpsError, match=r"^receiver.example: no answer within 0.2 seconds"):
        asyncio.run(_exchange(nameserver, _settings(ca_file), Server(_never), server_tls(HOST), limit=0.2))


def test_a_post_that_waits_for_others_to_the_same_host_has_all_its_time(
    nameserver: Nameserver, server_tls: ServerTls, ca_file: str
) -> None:
    """A receiver that takes its time is not punished for the length of our queue."""

    async def handler(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.3)
        return web.Response()

    async def post() -> list[https.Answer]:
        server = Server(handler)
        async with server.run(server_tls(HOST)) as port, _client(nameserver, _settings(ca_file), limit=1) as client:
            url = f"https://receiver.example:{port}/"
            return await asyncio.gather(*(client.post(url, b"", TYPE) for _ in range(5 * https.MAX_PER_HOST)))

    assert {answer.status for answer in asyncio.run(post())} == {200}


@contextlib.asynccontextmanager
async def _raw(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], tls: ssl.SSLContext | None
) -> AsyncIterator[int]:
    """Listen and say what no HTTP library would say."""
    tasks = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await talk(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]
    running = [task for task in tasks if task]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def _post_raw(nameserver: Nameserver, settings: Https, tls: ssl.SSLContext | None, said: bytes | None) -> https.Answer:
    """Post to a server that reads the request, says these octets and drops the connection; None: says nothing."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"report")
        if said is None:
            await asyncio.sleep(30)
        writer.write(said or b"")
        await writer.drain()

    async def post() -> https.Answer:
        async with _raw(talk, tls) as port, _client(nameserver, settings, limit=0.5) as client:
            return await client.post(f"https://{HOST}:{port}/", b"report", TYPE)

    return asyncio.run(post())


# id, what the server says, text of the error
BROKEN = [
    ("nothing", b"", "the connection was closed before an answer came"),
    ("half a header", b"HTTP/1.1 200 OK\r\nContent-", "the connection was closed before an answer came"),
    ("no HTTP", b"220 mx.example ESMTP\r\n\r\n", "not HTTP: "),
    ("endless header", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "not HTTP: "),
    ("broken chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "not HTTP: "),
    ("broken header", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "not HTTP: "),
]


@pytest.mark.parametrize(("said", "text"), [pytest.param(*case[1:], id=case[0]) for case in BROKEN])
def test_a_broken_answer_is_temporary(
    nameserver: Nameserver, server_tls: ServerTls, ca_file: str, said: bytes, text: str
) -> None:
    """A receiver that is being restarted or repaired: the report is kept."""
    with pytest.raises(https.HttpsError, match=f"^receiver.example: {text}") as caught:
        _post_raw(nameserver, _settings(ca_file), server_tls(HOST), said)
    assert str(caught.value).isprintable()


# id, what the server says, the body
SHORT = [
    ("shorter than announced", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nthanks", b"thanks"),
    ("chunk missing", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nthanks\r\n", b"thanks"),
    ("without end", b"HTTP/1.1 200 OK\r\n\r\nthanks", b"thanks"),
]


@pytest.mark.parametrize(("said", "body"), [pytest.param(*case[1:], id=case[0]) for case in SHORT])
def test_a_report_once_accepted_stays_accepted(
    nameserver: Nameserver, server_tls: ServerTls, ca_file: str, said: bytes, body: bytes
) -> None:
    """The status came; a body that breaks off does not make the same report go out again and again."""
    answer = _post_raw(nameserver, _settings(ca_file), server_tls(HOST), said)
    assert (answer.status, answer.body) in {(200, body), (200, b"")}


def _stubborn(listener: socket.socket, tls: ssl.SSLContext) -> bytes:
    """Answer too much to one request; return what then comes below TLS, nothing if the connection is over."""
    connection, _ = listener.accept()
    connection.settimeout(2)
    with tls.wrap_socket(connection, server_side=True) as wrapped:
        received = b""
        while not received.endswith(b"report"):
            received += wrapped.recv(10_000)
        wrapped.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 70_000)
        try:
            return socket.socket.recv(wrapped, 1, socket.MSG_PEEK)
        except ConnectionResetError:
            return b""


def test_a_connection_that_is_not_wanted_any_more_is_cut(
    nameserver: Nameserver, server_tls: ServerTls, ca_file: str
) -> None:
    """No farewell of TLS that a receiver could leave without an answer: what it sent too much ends the connection."""

    async def post(listener: socket.socket) -> tuple[https.Answer, bytes]:
        url = f"https://{HOST}:{listener.getsockname()[1]}/"
        async with _client(nameserver, _settings(ca_file)) as client:
            server = asyncio.create_task(asyncio.to_thread(_stubborn, listener, server_tls(HOST)))
            return await client.post(url, b"report", TYPE), await server

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(2)
        answer, afterwards = asyncio.run(post(listener))
    assert len(answer.body) == https.MAX_ANSWER
    assert afterwards == b""


def test_headers_of_strangers_are_made_printable(nameserver: Nameserver, server_tls: ServerTls, ca_file: str) -> None:
    """Octets that are not UTF-8 and controls end in no log and no store; no line is longer than the limit."""
    said = b"HTTP/1.1 503 \xff\x1b[2J\r\nRetry-After: \xfe" + b"9" * 2000 + b"\r\nContent-Length: 0\r\n\r\n"
    answer = _post_raw(nameserver, _settings(ca_file), server_tls(HOST), said)
    assert answer.status == 503
    for text in (answer.reason, answer.retry_after or ""):
        assert text.isprintable()
        assert len(text.encode("utf-8")) <= https.MAX_LINE


def test_a_connection_without_tls_is_no_connection(nameserver: Nameserver) -> None:
    """A plain-text server behind an https URL."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await writer.drain()
        await reader.read()

    async def post() -> None:
        settings = Https(allow_private=True)
        async with _raw(talk, None) as port, _client(nameserver, settings, limit=2) as client:
            await client.post(f"https://{HOST}:{port}/", b"report", TYPE)

    with pytest.raises(https.HttpsError, match=r"^receiver.example: TLS: "):
        asyncio.run(post())


def test_a_handshake_that_never_ends_is_left(nameserver: Nameserver) -> None:
    """A server that accepts the connection and then is silent costs the connect time-out, not more."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async def post() -> None:
        settings = Https(allow_private=True)
        async with _raw(talk, None) as port, _client(nameserver, settings, limit=0.3) as client:
            await client.post(f"https://{HOST}:{port}/", b"report", TYPE)

    with pytest.raises(https.HttpsError, match=r"^receiver.example: no (connection|answer) within 0.3 seconds"):
        asyncio.run(post())


# id, URL, address, what it is
PRIVATE = [
    ("name with a loopback address", "https://receiver.example:{port}/", "127.0.0.1", "loopback"),
    ("name behind a CNAME", "https://alias.example:{port}/", "127.0.0.1", "loopback"),
    ("name with ::1", "https://six.example:{port}/", "::1", "loopback"),
    ("mapped address", "https://mapped.example:{port}/", "::ffff:127.0.0.1", "IPv4-mapped, loopback"),
    ("several addresses, none public", "https://several.example:{port}/", "(::1|fe80::1)", "(loopback|link-local)"),
    ("IPv4 literal", "https://127.0.0.1:{port}/", "127.0.0.1", "loopback"),
    ("IPv6 literal", "https://[::1]:{port}/", "::1", "loopback"),
    ("mapped literal", "https://[::ffff:127.0.0.1]:{port}/", "::ffff:(127.0.0.1|7f00:1)", "IPv4-mapped, loopback"),
    ("unspecified literal", "https://0.0.0.0:{port}/", "0.0.0.0", "unspecified"),
    ("cloud metadata", "https://169.254.169.254/", "169.254.169.254", "link-local"),
]


@pytest.mark.parametrize(("url", "address", "what"), [pytest.param(*case[1:], id=case[0]) for case in PRIVATE])
def test_a_stranger_cannot_make_us_connect_to_the_local_network(
    nameserver: Nameserver, server_tls: ServerTls, ca_file: str, *, url: str, address: str, what: str
) -> None:
    """Neither by name nor by number; the error names the address and the option that would allow it."""
    server, settings = Server(_ok), _settings(ca_file, allow_private=False)
    text = f": {address} is {what}: set https.allow_private = true"
    with pytest.raises(https.RefusedAddressError, match=text):
        asyncio.run(_exchange(nameserver, settings, server, server_tls(HOST), url=url))
    assert server.requests == []


def test_dns_that_changes_its_mind_cannot_get_through(
    nameserver: Nameserver, server_tls: ServerTls, ca_file: str
) -> None:
    """DNS rebinding: a public address for whoever checks the name first, loopback for the connection."""
    zone: MutableMapping[tuple[str, str], Sequence[str] | str] = {(HOST, "A"): ["8.8.8.8"]}

    async def post(server: Server) -> None:
        async with server.run(server_tls(HOST)) as port, nameserver(zone) as dns:
            asked = resolver.Resolver([dns], lifetime=1)
            async with https.Client(_settings(ca_file, allow_private=False), asked) as client:
                assert [addresses.refusal(address) for address in await asked.addresses(HOST)] == [None]
                zone[HOST, "A"] = ["127.0.0.1"]
                await client.post(f"https://{HOST}:{port}/", b"x", TYPE)

    server = Server(_ok)
    with pytest.raises(https.RefusedAddressError, match=r"127\.0\.0\.1 is loopback"):
        asyncio.run(post(server))
    assert server.requests == []


def test_each_connection_is_guarded_anew(nameserver: Nameserver, server_tls: ServerTls, ca_file: str) -> None:
    """The same client posts while the name leads to an allowed address, and no longer once it does not."""
    zone: MutableMapping[tuple[str, str], Sequence[str] | str] = {(HOST, "A"): ["127.0.0.1"]}

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.Response()
        response.force_close()
        return response

    async def post(server: Server) -> None:
        settings = _settings(ca_file, allow_private=False)
        opened = _client(nameserver, settings, zone=zone, guard=_guard)
        async with server.run(server_tls(HOST), "0.0.0.0") as port, opened as client:
            await client.post(f"https://{HOST}:{port}/1", b"x", TYPE)
            zone[HOST, "A"] = ["127.0.0.2"]
            await client.post(f"https://{HOST}:{port}/2", b"x", TYPE)

    server = Server(handler)
    with pytest.raises(https.RefusedAddressError, match=r"127\.0\.0\.2 is private"):
        asyncio.run(post(server))
    assert [path for _, path, _, _ in server.requests] == ["/1"]


def _guard(address: str) -> str | None:
    """Stand in for the real rule on a machine that has no public address: 127.0.0.1 is public, the rest is not."""
    return None if address == "127.0.0.1" else "private"


@pytest.mark.parametrize("private", ["127.0.0.2", "10.0.0.1"])
def test_the_public_address_beside_a_private_one_is_used(
    nameserver: Nameserver, server_tls: ServerTls, ca_file: str, private: str
) -> None:
    """One address too many in the DNS does not keep the report back, and does not get it."""
    peers = []

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport
        peers.append(request.transport.get_extra_info("sockname")[0])
        return web.Response()

    async def post() -> None:
        zone: Zone = {(HOST, "A"): [private, "127.0.0.1"], (HOST, "AAAA"): ["::1"]}
        settings = _settings(ca_file, allow_private=False)
        opened = _client(nameserver, settings, zone=zone, guard=_guard)
        async with Server(handler).run(server_tls(HOST), "0.0.0.0") as port, opened as client:
            await asyncio.gather(*(client.post(f"https://{HOST}:{port}/", b"x", TYPE) for _ in range(4)))

    asyncio.run(post())
    assert peers == ["127.0.0.1"] * 4


def test_the_second_address_is_tried_when_the_first_does_not_answer(
    nameserver: Nameserver, server_tls: ServerTls, ca_file: str
) -> None:
    """A host with a broken IPv6 address is reached over IPv4."""

    async def post() -> https.Answer:
        zone: Zone = {(HOST, "A"): ["127.0.0.1"], (HOST, "AAAA"): ["::1"]}
        async with (
            Server(_ok).run(server_tls(HOST)) as port,
            _client(nameserver, _settings(ca_file), zone=zone) as client,
        ):
            return await client.post(f"https://{HOST}:{port}/", b"x", TYPE)

    assert asyncio.run(post()).status == 200


@pytest.mark.parametrize("content", [None, b"", b"not a certificate"])
def test_a_bad_ca_file_is_named_with_the_cure(tmp_path: Path, content: bytes | None) -> None:
    """The line goes to the postmaster as it is."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    text = re.escape(f'https.ca_file = "{file}": cannot be read: ')
    with pytest.raises(ValueError, match=f"{text}.*: give a file of CA certificates in PEM"):
        https.Client(Https(ca_file=str(file)), resolver.Resolver(["127.0.0.1"]))


def test_a_client_outside_of_its_context_is_a_mistake(ca_file: str) -> None:
    """Not a temporary error: nothing would ever get better."""
    client = https.Client(Https(), resolver.Resolver(["127.0.0.1"]))
    for request in (client.post("https://example.com/", b"", TYPE), client.get("https://example.com/")):
        with pytest.raises(RuntimeError, match="async with"):
            asyncio.run(request)


POLICY_HOST = "mta-sts.domain.example"
POLICY_ZONE: Zone = {
    (POLICY_HOST, "A"): ["127.0.0.1"],
    ("no-address.example", "TXT"): ['"x"'],
    ("fail.example", "A"): "SERVFAIL",
    ("fail.example", "AAAA"): "SERVFAIL",
    ("bogus.example", "A"): "BOGUS",
    ("bogus.example", "AAAA"): "BOGUS",
    ("silent.example", "A"): "SILENT",
    ("silent.example", "AAAA"): "SILENT",
}
POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mx.example\r\nmax_age: 86400\r\n"
PATH = "/.well-known/mta-sts.txt"


async def _policy(request: web.Request) -> web.StreamResponse:
    return web.Response(body=POLICY, content_type="text/plain")


async def _get(
    nameserver: Nameserver,
    settings: Https,
    port: int,
    *,
    host: str = POLICY_HOST,
    limit: float = 5,
    max_bytes: int = https.MAX_ANSWER,
) -> https.Answer:
    async with _client(nameserver, settings, limit, POLICY_ZONE) as client:
        return await client.get(f"https://{host}:{port}{PATH}", max_bytes)


async def _get_from(
    nameserver: Nameserver, settings: Https, server: Server, tls: ssl.SSLContext, *, max_bytes: int = https.MAX_ANSWER
) -> https.Answer:
    async with server.run(tls) as port:
        return await _get(nameserver, settings, port, max_bytes=max_bytes)


def test_a_policy_is_got_as_it_is(nameserver: Nameserver, server_tls: ServerTls, ca_file: str) -> None:
    """RFC 8461 section 3.3: one GET, without a body, and nothing that tells more than it must."""
    server = Server(_policy)
    answer = asyncio.run(_get_from(nameserver, _settings(ca_file), server, server_tls(POLICY_HOST)))
    assert answer == https.Answer(200, "OK", None, "text/plain", POLICY)
    [(method, path, headers, body)] = server.requests
    assert (method, path, body) == ("GET", PATH, b"")
    assert set(headers) <= {"Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    ("host", "days", "trusted", "named", "code"),
    [
        pytest.param("other.example", 10, True, True, "certificate-host-mismatch", id="other host"),
        pytest.param("*.domain.example", 10, True, True, None, id="wildcard"),
        pytest.param(
            "*.mta-sts.domain.example", 10, True, True, "certificate-host-mismatch", id="wildcard one label too low"
        ),
        pytest.param("127.0.0.1", 10, True, True, "certificate-host-mismatch", id="only the address"),
        pytest.param(POLICY_HOST, 10, True, False, "certificate-host-mismatch", id="only in the common name"),
        pytest.param(POLICY_HOST, -1, True, True, "certificate-expired", id="expired"),
        pytest.param(POLICY_HOST, 10, False, True, "certificate-not-trusted", id="unknown issuer"),
    ],
)
def test_a_policy_host_must_prove_its_name_whatever_the_settings_say(
    nameserver: Nameserver,
    server_tls: ServerTls,
    ca_file: str,
    *,
    host: str,
    days: int,
    trusted: bool,
    named: bool,
    code: str | None,
    verify: bool,
) -> None:
    """Policies are worth nothing from whoever answers; an error tells what is wrong with the certificate."""
    server, tls = Server(_policy), server_tls(host, days, named=named)
    settings = _settings(ca_file if trusted else "", verify=verify)
    if code is None:
        assert asyncio.run(_get_from(nameserver, settings, server, tls)).body == POLICY
        return
    with pytest.raises(https.CertificateError, match=r"^mta-sts.domain.example: certificate: ") as caught:
        asyncio.run(_get_from(nameserver, settings, server, tls))
    assert caught.value.code == code
    assert server.requests == []


def test_a_self_signed_certificate_is_not_trusted(nameserver: Nameserver, self_signed: ServerTls) -> None:
    """It is nobody's word."""
    with pytest.raises(https.CertificateError, match="self-signed") as caught:
        asyncio.run(_get_from(nameserver, _settings(""), Server(_policy), self_signed(POLICY_HOST)))
    assert caught.value.code == "certificate-not-trusted"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_of_a_policy_is_an_answer(
    nameserver: Nameserver, server_tls: ServerTls, ca_file: str, status: int
) -> None:
    """RFC 8461 section 3.3: not followed, not even on the same host."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    server = Server(handler)
    answer = asyncio.run(_get_from(nameserver, _settings(ca_file), server, server_tls(POLICY_HOST)))
    assert answer.status == status
    assert [path for _, path, _, _ in server.requests] == [PATH]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "truncated"), [(99, False), (100, False), (101, True), (1_000_000, True)])
def test_a_body_that_is_too_long_is_told(
    nameserver: Nameserver, server_tls: ServerTls, ca_file: str, *, size: int, truncated: bool, chunked: bool
) -> None:
    """The limit itself is not too long."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.Response(body=b"x" * size)
        if chunked:
            response.enable_chunked_encoding()
        return response

    exchange = _get_from(nameserver, _settings(ca_file), Server(handler), server_tls(POLICY_HOST), max_bytes=100)
    answer = asyncio.run(exchange)
    assert (len(answer.body), answer.truncated) == (min(size, 100), truncated)


def _get_raw(nameserver: Nameserver, settings: Https, tls: ssl.SSLContext | None, said: bytes | None) -> https.Answer:
    """Get from a server that reads the request, says these octets and drops the connection; None: says nothing."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if said is None:
            await asyncio.sleep(30)
        writer.write(said or b"")
        await writer.drain()
        if said and said.endswith(b"..."):
            await asyncio.sleep(30)

    async def get() -> https.Answer:
        async with _raw(talk, tls) as port:
            return await _get(nameserver, settings, port, limit=0.5)

    return asyncio.run(get())


# id, what the server says, code
BROKEN_POLICIES = [
    ("nothing", b"", "connection-lost"),
    ("silence", None, "timeout"),
    ("no HTTP", b"220 mx.example ESMTP\r\n\r\n", "http-invalid"),
    ("broken header", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "http-invalid"),
    ("half a body", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nversion: STSv1", "connection-lost"),
    ("chunk missing", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nversio\r\n", "connection-lost"),
    ("endless body", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nversion: STSv1...", "timeout"),
]


@pytest.mark.parametrize(("said", "code"), [pytest.param(*case[1:], id=case[0]) for case in BROKEN_POLICIES])
def test_a_policy_that_does_not_come_whole_is_none(
    nameserver: Nameserver, server_tls: ServerTls, ca_file: str, said: bytes | None, code: str
) -> None:
    """Other than with a report, the status alone is worth nothing."""
    with pytest.raises(https.HttpsError, match=r"^mta-sts.domain.example: ") as caught:
        _get_raw(nameserver, _settings(ca_file), server_tls(POLICY_HOST), said)
    assert caught.value.code == code
    assert not isinstance(caught.value, https.CertificateError)


def test_the_status_of_an_error_is_known_though_its_page_breaks_off(
    nameserver: Nameserver, server_tls: ServerTls, ca_file: str
) -> None:
    """A report says http-404, not that the connection was lost."""
    said = b"HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\n<html>"
    assert _get_raw(nameserver, _settings(ca_file), server_tls(POLICY_HOST), said).status == 404


# id, host, port, code
UNREACHABLE_POLICIES = [
    ("no address", "no-address.example", 443, "no-address"),
    ("no such host", "nowhere.example", 443, "no-address"),
    ("DNS fails", "fail.example", 443, "dns-servfail"),
    ("DNS is forged", "bogus.example", 443, "dnssec-bogus"),
    ("DNS is silent", "silent.example", 443, "dns-timeout"),
    ("nobody listens", POLICY_HOST, 1, "connection-refused"),
    ("no such port", POLICY_HOST, 70000, "url-invalid"),
]


@pytest.mark.parametrize(
    ("host", "port", "code"), [pytest.param(*case[1:], id=case[0]) for case in UNREACHABLE_POLICIES]
)
def test_where_no_policy_host_answers_the_code_says_why(
    nameserver: Nameserver, host: str, port: int, code: str
) -> None:
    """The reason that ends in the report of the domain."""
    with pytest.raises(https.HttpsError) as caught:
        asyncio.run(_get(nameserver, Https(allow_private=True), port, host=host))
    assert caught.value.code == code


def test_a_policy_host_in_the_local_network_is_not_connected_to(nameserver: Nameserver) -> None:
    """The guard of reports is that of policies."""
    with pytest.raises(https.RefusedAddressError, match=r"127\.0\.0\.1 is loopback") as caught:
        asyncio.run(_get(nameserver, Https(), 443))
    assert caught.value.code == "address-refused"


def test_a_policy_host_without_tls_has_a_failed_handshake(nameserver: Nameserver) -> None:
    """Not a matter of certificates."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await writer.drain()
        await reader.read()

    async def get() -> None:
        async with _raw(talk, None) as port:
            await _get(nameserver, Https(allow_private=True), port, limit=2)

    with pytest.raises(https.HttpsError) as caught:
        asyncio.run(get())
    assert caught.value.code == "tls-handshake-failure"


def _make_old(tls: ssl.SSLContext) -> None:
    tls.set_ciphers("ALL:@SECLEVEL=0")
    tls.minimum_version = ssl.TLSVersion.TLSv1
    tls.maximum_version = ssl.TLSVersion.TLSv1_1


def test_old_tls_has_a_failed_handshake(nameserver: Nameserver, server_tls: ServerTls, ca_file: str) -> None:
    """RFC 8461 section 3.3 leaves the version to the clients of the day: 1.2 and newer."""
    tls = server_tls(POLICY_HOST)
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        _make_old(tls)
    with pytest.raises(https.HttpsError) as caught:
        asyncio.run(_get_from(nameserver, _settings(ca_file), Server(_policy), tls))
    assert caught.value.code == "tls-handshake-failure"


def test_policies_and_reports_keep_their_connections_apart(
    nameserver: Nameserver, server_tls: ServerTls, ca_file: str
) -> None:
    """A connection made without verifying must never carry a policy."""

    async def both() -> None:
        server, settings = Server(_ok), _settings(ca_file, verify=False)
        opened = _client(nameserver, settings, zone=POLICY_ZONE)
        async with server.run(server_tls("other.example")) as port, opened as client:
            url = f"https://{POLICY_HOST}:{port}/"
            assert (await client.post(url, b"x", TYPE)).status == 200
            with pytest.raises(https.CertificateError):
                await client.get(url)
            assert (await client.post(url, b"x", TYPE)).status == 200

    asyncio.run(both())
