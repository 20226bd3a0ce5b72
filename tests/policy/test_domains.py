"""What the policy socket answers for domains of every kind: the rows of domains.toml, over real servers on loopback.

One DNS server, one HTTPS server and the socket itself stand for the whole module, and every row is asked in each way of
:class:`Way`, each of them with answers and a cache of its own, so that nothing is known before.
"""

import asyncio
import collections
import contextlib
import dataclasses
import enum
import functools
import json
import ssl
import tomllib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from aiohttp import web

from policy import answers, cache, endpoints, https, resolver, server, socketmap, sts, verdict
from policy.settings import Https

Zone = Mapping[tuple[str, str], Sequence[str] | str]
Nameserver = Callable[[Zone], AbstractAsyncContextManager[str]]
ServerTls = Callable[..., ssl.SSLContext]

START = 1_800_000_000.0
CODES = {"sts-policy-fetch-error": 301, "sts-policy-invalid": 302, "sts-webpki-invalid": 303}
"""Of libtlsrpt."""

DNS_LIFETIME = 2.0
"""Seconds until silence of the DNS is noticed."""
HTTPS_TIMEOUT = 3.0
"""Seconds until that of a policy host is; more, or the DNS of a policy host could not be told from itself."""
AT_ONCE = 16
"""Connections to the socket at once: an answer of the DNS server must not be late only because all ask it."""
PATIENCE = 60
"""Seconds after which something hangs."""

TROUBLE = {"SERVFAIL", "BOGUS", "NXDOMAIN", "SILENT"}


class Way(enum.StrEnum):
    """How requests reach the socket."""

    WHOLE = "whole"
    """A connection for each row, its requests each in one piece."""
    OCTETS = "octets"
    """The same, octet by octet."""
    PIPELINED = "pipelined"
    """All requests of all rows at once in one connection."""


class Certificate(enum.StrEnum):
    """What a policy host proves its name with."""

    VALID = "valid"
    WILDCARD = "wildcard"
    OTHER_HOST = "other-host"
    DOMAIN = "domain"
    EXPIRED = "expired"
    SELF_SIGNED = "self-signed"
    UNKNOWN_ISSUER = "unknown-issuer"
    COMMON_NAME = "common-name"
    NONE = "none"
    """The name is not served: the handshake ends with an alert."""


class Does(enum.StrEnum):
    """What a policy host does with a request."""

    ANSWER = "answer"
    CLOSE = "close"
    BREAK_OFF = "break-off"
    SAY_NO_TYPE = "say-no-type"
    SAY_NOTHING = "say-nothing"
    STALL = "stall"


class Web(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``https`` of a row."""

    status: int = 200
    type: str = "text/plain"
    location: str = ""
    chunked: bool = False
    certificate: Certificate = Certificate.VALID
    does: Does = Does.ANSWER


class Base(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What rows share."""

    query: str
    tlsrpt: str = ""
    of: str = ""
    zone: tuple[str, ...] = ()
    body: str = ""


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row as it stands in the file; empty or ``None``: as its base says."""

    id: str
    base: str
    domain: str = ""
    zone: tuple[str, ...] = ()
    https: Web = Web()
    body: str | None = None
    octets: str = ""
    pad: int = 0
    key: str = "{d}"
    key_octets: str = ""
    maps: tuple[str, ...] = ("QUERY", "QUERYwithTLSRPT")
    query: str = ""
    tlsrpt: str = ""
    finding: str = ""
    record: str = "{record}"
    quiet: bool = False


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    word: dict[str, str]
    base: dict[str, Base]
    row: tuple[Row, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A row with all that it leaves to its base."""

    id: str
    domain: str
    zone: Zone
    https: Web
    body: bytes
    requests: tuple[bytes, ...]
    replies: tuple[bytes, ...]
    """Payloads, one for each request."""
    datagrams: tuple[dict[str, Any], ...]
    quiet: bool

    @property
    def host(self) -> str:
        """Return the name of the policy host."""
        return f"mta-sts.{self.domain}"


def _case(file: File, row: Row) -> Case:
    domain = row.domain or f"{row.id}.example"
    lineage = _lineage(file, row.base)

    def put(text: str) -> str:
        """Put words for what stands in braces; words may have words in them."""
        words = {**file.word, "d": domain, "pad": "x" * row.pad}
        for _ in range(3):
            for word, meaning in words.items():
                text = text.replace(f"{{{word}}}", meaning)
        return text

    query = row.query or lineage[-1].query
    tlsrpt = row.tlsrpt or row.query or lineage[-1].tlsrpt or query
    told = [tlsrpt if name == "QUERYwithTLSRPT" else query for name in row.maps]
    body = row.body if row.body is not None else "".join(base.body for base in lineage)
    layers = (*(base.zone for base in lineage), row.zone)
    key = bytes.fromhex(row.key_octets) or put(row.key).encode()
    return Case(
        id=row.id,
        domain=domain,
        zone=_zone(domain, ([put(line) for line in lines] for lines in layers)),
        https=row.https,
        body=put(body).encode() + bytes.fromhex(row.octets),
        requests=tuple(name.encode() + b" " + key for name in row.maps),
        replies=tuple(put(text).encode() for text in told),
        datagrams=(_datagram(domain, row.finding, put(row.record)),) * len(row.maps) if row.finding else (),
        quiet=row.quiet,
    )


def _lineage(file: File, name: str) -> list[Base]:
    """Return the base of this name and those below it, the lowest first."""
    base = file.base[name]
    return [*(_lineage(file, base.of) if base.of else []), base]


def _zone(domain: str, layers: Iterable[Iterable[str]]) -> Zone:
    """Read records; those of a layer replace those of the layers before."""
    zone: dict[tuple[str, str], Sequence[str] | str] = {}
    for lines in layers:
        layer: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
        for line in lines:
            name, kind, data = (*line.split(maxsplit=2), "")[:3]
            layer[_absolute(name, domain), kind.replace("-", " ")].append(data)
        for place, records in layer.items():
            zone[place] = records[0] if records[0] in TROUBLE else records
    return {place: records for place, records in zone.items() if records != ["-"]}


def _absolute(name: str, domain: str) -> str:
    if name.endswith("."):
        return name.removesuffix(".")
    return domain if name == "@" else f"{name}.{domain}"


def _datagram(domain: str, finding: str, record: str) -> dict[str, Any]:
    """Return what the recorder gets for each question, as libtlsrpt would put it."""
    result_type, reason = finding.split()
    detail = {"c": CODES[result_type], "f": reason}
    policy = {"policy-type": 2, "policy-domain": domain, "failure-details": [detail], "t": 1, "f": 1}
    return {"dpv": "1", "d": domain, "policies": [policy], **({"pr": record} if record else {})}


FILE = msgspec.convert(tomllib.loads(Path(__file__).with_name("domains.toml").read_text("utf-8")), File)
CASES = tuple(_case(FILE, row) for row in FILE.row)


class Names(dict[tuple[str, str], Sequence[str] | str]):
    """A zone that remembers whom it was asked for."""

    def __init__(self, zone: Zone) -> None:
        super().__init__(zone)
        self.asked: set[str] = set()

    def get(self, key: tuple[str, str], default: Any = None) -> Any:
        """Look up and remember."""
        self.asked.add(key[0])
        return super().get(key, default)


@dataclasses.dataclass(frozen=True, slots=True)
class Tls:
    """The fixtures that make certificates."""

    ca_file: str
    valid: ServerTls
    self_signed: ServerTls
    unknown_issuer: ServerTls

    def context(self, case: Case) -> ssl.SSLContext | None:
        """Return what the policy host of a case proves its name with; ``None``: nothing at all."""
        makers: dict[Certificate, Callable[[], ssl.SSLContext | None]] = {
            Certificate.VALID: lambda: self.valid(case.host),
            Certificate.WILDCARD: lambda: self.valid(f"*.{case.domain}"),
            Certificate.OTHER_HOST: lambda: self.valid("web.provider.example"),
            Certificate.DOMAIN: lambda: self.valid(case.domain),
            Certificate.EXPIRED: lambda: self.valid(case.host, -1),
            Certificate.SELF_SIGNED: lambda: self.self_signed(case.host),
            Certificate.UNKNOWN_ISSUER: lambda: self.unknown_issuer(case.host),
            Certificate.COMMON_NAME: lambda: self.valid(case.host, named=False),
            Certificate.NONE: lambda: None,
        }
        return makers[case.https.certificate]()


def _by_name(contexts: Mapping[str, ssl.SSLContext | None], default: ssl.SSLContext) -> ssl.SSLContext:
    """Make server side TLS that has another certificate for each name, by SNI (RFC 8461 section 7.1)."""

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        context = contexts.get(name or "")
        if context is None:
            return int(ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)
        connection.context = context
        return None

    default.sni_callback = choose
    return default


async def _serve_policy(by_host: Mapping[str, Case], request: web.BaseRequest) -> web.StreamResponse:
    """Do what the row of this host says; under any other path there is a good policy, for who follows redirects."""
    case = by_host[request.host.partition(":")[0]]
    if request.path != sts.PATH:
        return web.Response(body=case.body, content_type="text/plain")
    match case.https.does:
        case Does.ANSWER:
            return await _answer(case, request)
        case Does.SAY_NO_TYPE:
            assert request.transport is not None
            request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(case.body), case.body))
            await asyncio.sleep(PATIENCE)  # until the client leaves; aiohttp itself would send some type
        case Does.SAY_NOTHING:
            await asyncio.sleep(PATIENCE)
        case Does.STALL | Does.BREAK_OFF:
            response = web.StreamResponse(headers={"Content-Type": "text/plain", "Content-Length": "1000"})
            await response.prepare(request)
            await response.write(case.body)
            await asyncio.sleep(PATIENCE if case.https.does is Does.STALL else 0)
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _answer(case: Case, request: web.BaseRequest) -> web.StreamResponse:
    said = case.https
    headers = {"Content-Type": said.type, **({"Location": said.location} if said.location else {})}
    response = web.StreamResponse(status=said.status, headers=headers)
    if said.chunked:
        response.enable_chunked_encoding()
    else:
        response.content_length = len(case.body)
    with contextlib.suppress(ConnectionError):  # who has enough of a long body leaves
        await response.prepare(request)
        await response.write(case.body)
        await response.write_eof()
    return response


@contextlib.asynccontextmanager
async def _policy_hosts(tls: Tls) -> AsyncIterator[int]:
    """Run the HTTPS server, and what is no HTTPS on the other addresses, all at the port that is given."""
    by_host = {case.host: case for case in CASES}
    contexts = {case.host: tls.context(case) for case in CASES}
    handler = web.Server(functools.partial(_serve_policy, by_host), handler_cancellation=True)
    runner = web.ServerRunner(handler, shutdown_timeout=0.1)
    await runner.setup()
    words = FILE.word
    try:
        await web.TCPSite(runner, words["web"], 0, ssl_context=_by_name(contexts, tls.valid("default.example"))).start()
        port: int = runner.addresses[0][1]
        garbage = await asyncio.start_server(_say_garbage, words["garbage"], port)
        hangup = await asyncio.start_server(_hang_up, words["hangup"], port)
        async with garbage, hangup:
            yield port
    finally:
        await runner.cleanup()


async def _say_garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mx.example ESMTP\r\n")
    await _hang_up(reader, writer)


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(5)
    writer.close()


@dataclasses.dataclass(slots=True)
class Outcome:
    """What came back in one way of asking."""

    replies: dict[str, tuple[bytes, ...]] = dataclasses.field(default_factory=dict)
    """By the id of the row."""
    datagrams: dict[str, list[dict[str, Any]]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list)
    )
    """By domain."""

    def report(self, octets: bytes) -> None:
        """Take a datagram."""
        told = json.loads(octets)
        self.datagrams[told["d"]].append(told)


@dataclasses.dataclass(frozen=True, slots=True)
class Outside:
    """What answers stand on."""

    dns: resolver.Resolver
    client: https.Client
    port: int
    folder: Path

    @contextlib.asynccontextmanager
    async def socket(self, name: str, report: answers.Report) -> AsyncIterator[Path]:
        """Serve the policy socket with an empty cache."""
        kept = cache.Cache(self.folder / f"{name}.db", START)
        made = answers.Answers(self.dns, self.client, kept, report=report, clock=lambda: START, port=self.port)
        path = self.folder / name
        try:
            async with server.serving(made, endpoints.listen([f"unix:{path}"])):
                yield path
        finally:
            await made.close()
            kept.close()


async def _reply(reader: asyncio.StreamReader) -> bytes:
    """Read a netstring."""
    length = int((await reader.readuntil(b":"))[:-1])
    octets = await reader.readexactly(length + 1)
    assert octets.endswith(b",")
    return octets[:-1]


async def _ask(path: Path, requests: Sequence[bytes], way: Way) -> list[bytes]:
    """Ask in one connection, which must have an answer for each request, in order, and nothing more."""
    reader, writer = await asyncio.open_unix_connection(path, limit=200_000)
    octets = b"".join(map(socketmap.reply, requests))
    for piece in [octets[at : at + 1] for at in range(len(octets))] if way is Way.OCTETS else [octets]:
        writer.write(piece)
        await asyncio.sleep(0)
    replies = [await _reply(reader) for _ in requests]
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    return replies


async def _ask_all(outside: Outside, way: Way) -> Outcome:
    outcome, slots = Outcome(), asyncio.Semaphore(AT_ONCE)

    async def one(case: Case) -> None:
        async with slots:
            outcome.replies[case.id] = tuple(await _ask(path, case.requests, way))

    async with outside.socket(way, outcome.report) as path:
        if way is Way.PIPELINED:
            replies = iter(await _ask(path, [request for case in CASES for request in case.requests], way))
            outcome.replies = {case.id: tuple(next(replies) for _ in case.requests) for case in CASES}
        else:
            await asyncio.gather(*(one(case) for case in CASES))
    return outcome


@contextlib.asynccontextmanager
async def _outside(
    nameserver: Nameserver, tls: Tls, names: Zone, folder: Path, *, allow_private: bool
) -> AsyncIterator[Outside]:
    settings = Https(ca_file=tls.ca_file, allow_private=allow_private)
    async with nameserver(names) as address, _policy_hosts(tls) as port:
        dns = resolver.Resolver([address], lifetime=DNS_LIFETIME)
        async with https.Client(settings, dns, timeout=HTTPS_TIMEOUT) as client:
            yield Outside(dns, client, port, folder)


ZONE: Zone = {
    ("example", "SOA"): ["ns.example. hostmaster.example. 1 7200 900 1209600 600"],
    **{place: records for case in CASES for place, records in case.zone.items()},
}


def _run(main: Callable[[], Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(PATIENCE):
            return await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(bounded())


@pytest.fixture(scope="module")
def tls(ca_file: str, server_tls: ServerTls, self_signed: ServerTls, unknown_issuer: ServerTls) -> Tls:
    """Give what makes certificates."""
    return Tls(ca_file, server_tls, self_signed, unknown_issuer)


@dataclasses.dataclass(frozen=True, slots=True)
class Results:
    """What came back for all rows."""

    outcomes: dict[Way, Outcome]
    asked: set[str]
    """Names the DNS was asked for, in whatever way."""


@pytest.fixture(scope="module")
def results(nameserver: Nameserver, tls: Tls, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Ask all rows in all ways, at the same time: what is slow is slow once."""
    folder, names = tmp_path_factory.mktemp("domains"), Names(ZONE)

    async def main() -> Results:
        async with _outside(nameserver, tls, names, folder, allow_private=True) as outside:
            outcomes = await asyncio.gather(*(_ask_all(outside, way) for way in Way))
        return Results(dict(zip(Way, outcomes, strict=True)), names.asked)

    made = _run(main)
    assert isinstance(made, Results)
    return made


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_a_domain_is_answered_as_its_row_says(results: Results, case: Case, way: Way) -> None:
    """Under each name, with the finding reported once for each question."""
    outcome = results.outcomes[way]
    assert outcome.replies[case.id] == case.replies
    assert tuple(outcome.datagrams[case.domain]) == case.datagrams


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES if case.quiet])
def test_what_is_not_to_be_looked_up_is_not(results: Results, case: Case) -> None:
    """Neither the DNS of the domain nor, therefore, its policy host hears of such a question."""
    assert not [name for name in results.asked if name == case.domain or name.endswith(f".{case.domain}")]


def test_a_policy_host_with_a_private_address_is_not_asked(nameserver: Nameserver, tls: Tls, tmp_path: Path) -> None:
    """Unless the configuration allows it, as it does for all rows; a domain with a good policy goes without it."""
    case = next(case for case in CASES if case.id == "sts-enforce")
    outcome = Outcome()

    async def main() -> list[bytes]:
        async with (
            _outside(nameserver, tls, ZONE, tmp_path, allow_private=False) as outside,
            outside.socket("guarded", outcome.report) as path,
        ):
            return await _ask(path, case.requests, Way.WHOLE)

    assert _run(main) == [b"NOTFOUND "] * 2
    refused = _datagram(case.domain, "sts-policy-fetch-error address-refused", FILE.word["record"])
    assert outcome.datagrams == {case.domain: [refused] * 2}


def test_the_table_is_whole() -> None:
    """Ids and domains name one row each, every level and result type has some, and what is secure is told in full."""
    assert len(CASES) >= 80
    for names in ([case.id for case in CASES], [case.domain for case in CASES], [case.host for case in CASES]):
        assert [name for name, count in collections.Counter(names).items() if count > 1] == []
    words = {
        reply.split()[1].decode() if reply.startswith(b"OK ") else "none" for case in CASES for reply in case.replies
    }
    assert words == {*verdict.Level}
    assert {row.finding.split()[0] for row in FILE.row if row.finding} == {*verdict.FindingType}
    for case in CASES:
        if case.replies[0].startswith(b"OK secure"):
            assert case.replies[1].startswith(case.replies[0] + b" policy_type=sts "), case.id


def test_no_word_is_left_open() -> None:
    """A word that the file does not explain would stand in the zone as it is."""
    for case in CASES:
        texts = [
            text for records in case.zone.values() for text in ([records] if isinstance(records, str) else records)
        ]
        assert not [text for text in texts if "{" in text], case.id
        assert not [reply for reply in case.replies if b"{" in reply.replace(b"{ policy_string = ", b"")], case.id
