"""What ``explaining`` finds out about a domain of each kind, from real DNS and HTTPS servers on loopback."""

import asyncio
import contextlib
import dataclasses
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from aiohttp import web

from policy import answers, cache, explaining, https, mtasts, postfix, resolver, socketmap, sts, verdict
from policy.settings import Https

Zone = dict[tuple[str, str], Sequence[str] | str]
Nameserver = Callable[[Zone], AbstractAsyncContextManager[str]]
ServerTls = Callable[..., ssl.SSLContext]

NOW = 1_800_000_000.0

DOMAIN = "domain.example"
HOST = f"mta-sts.{DOMAIN}"
TEXT = (f"_mta-sts.{DOMAIN}", "TXT")
REPORTS = (f"_smtp._tls.{DOMAIN}", "TXT")
RECORD = "v=TLSRPTv1; rua=mailto:tls@domain.example"

PLAIN: Zone = {
    (DOMAIN, "MX"): ["10 mx1.domain.example.", "20 mx2.domain.example."],
    ("mx1.domain.example", "A"): ["192.0.2.1"],
    ("mx2.domain.example", "A"): ["192.0.2.2"],
    ("example", "SOA"): ["ns.example. hostmaster.example. 1 7200 900 1209600 600"],
}
STS: Zone = PLAIN | {TEXT: ['"v=STSv1; id=a1;"'], (HOST, "A"): ["127.0.0.1"]}
SIGNED: Zone = {("example", "SIGNED"): ["yes"]}
TLSA1: Zone = {("_25._tcp.mx1.domain.example", "TLSA"): [f"3 1 1 {'ab' * 32}"]}
TLSA2: Zone = {("_25._tcp.mx2.domain.example", "TLSA"): [f"3 1 1 {'cd' * 32}"]}
UNUSABLE: Zone = {("_25._tcp.mx1.domain.example", "TLSA"): [f"1 1 1 {'ab' * 32}"]}
SILENT: Zone = {
    (DOMAIN, "MX"): "SILENT",
    TEXT: "SILENT",
    REPORTS: "SILENT",
}


def _policy(mode: str = "enforce", host: str = "mx1.domain.example") -> bytes:
    return f"version: STSv1\r\nmode: {mode}\r\nmx: {host}\r\nmax_age: 604800\r\n".encode()


def _host(**answer: Any) -> dict[str, Any]:
    return {"body": _policy(), "content_type": "text/plain"} | answer


def _known(id_: str = "a0", mode: str = "enforce") -> sts.Known:
    return sts.Known(id_, mtasts.parse_policy(_policy(mode, "old.domain.example")))


FETCH, INVALID, WEBPKI = verdict.FindingType
NONE, SECURE, DANE, DANE_ONLY = (
    verdict.Level.NONE,
    verdict.Level.SECURE,
    verdict.Level.DANE,
    verdict.Level.DANE_ONLY,
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A domain, and what is to be told about it."""

    zone: Zone
    level: verdict.Level
    host: dict[str, Any] = dataclasses.field(default_factory=_host)
    """What the policy host answers."""
    known: sts.Known | None = None
    certificate: str = HOST
    """The name in the policy host's certificate."""
    policy: tuple[str, str] | None = None
    """Id and mode of the policy that holds."""
    finding: tuple[verdict.FindingType, str] | None = None
    answer: str = "NOTFOUND "
    """Under ``QUERY``."""
    told: tuple[str, ...] = ()
    """Parts of steps, in order."""


MATCH1 = "OK secure match=mx1.domain.example servername=hostname"
MATCH_OLD = "OK secure match=old.domain.example servername=hostname"
NOT_FOUND_STATUS = {"status": 404, "body": b"", "content_type": "text/plain"}

KINDS = {
    "enforce": Kind(STS, SECURE, policy=("a1", "enforce"), answer=MATCH1, told=("with id a1", "was fetched")),
    "testing": Kind(
        STS, NONE, _host(body=_policy("testing")), policy=("a1", "testing"), told=("in testing: failures are reported",)
    ),
    "withdrawn": Kind(
        STS,
        NONE,
        _host(body=b"version: STSv1\nmode: none\nmax_age: 86400\n"),
        _known(),
        policy=("a1", "none"),
        told=("does not use MTA-STS any more",),
    ),
    "dane, all hosts": Kind(
        PLAIN | SIGNED | TLSA1 | TLSA2,
        DANE_ONLY,
        answer="OK dane-only",
        told=(
            "DNSSEC protects the MX records",
            "mx1.domain.example: its certificate",
            "mx2.domain.example: its",
            "every",
        ),
    ),
    "dane, some hosts": Kind(
        PLAIN | SIGNED | TLSA1,
        DANE,
        answer="OK dane",
        told=("mx1.domain.example: its certificate", "mx2.domain.example: no DANE, because it has no TLSA records"),
    ),
    "tlsa without dnssec": Kind(
        PLAIN | TLSA1 | TLSA2, NONE, told=("No DANE: the MX records of domain.example cannot be trusted",)
    ),
    "both": Kind(
        STS | SIGNED | TLSA1 | TLSA2,
        DANE_ONLY,
        policy=("a1", "enforce"),
        answer="OK dane-only",
        told=("DANE for every host", "Its policy was fetched", "DANE goes before MTA-STS"),
    ),
    "both, tlsa unusable": Kind(
        STS | SIGNED | UNUSABLE,
        SECURE,
        policy=("a1", "enforce"),
        answer=MATCH1,
        told=("can be used for mail: TLS is a must", "that does for both"),
    ),
    "tlsa silent, policy enforced": Kind(
        STS | SIGNED | TLSA1 | {("_25._tcp.mx2.domain.example", "TLSA"): "SERVFAIL"},
        DANE_ONLY,
        policy=("a1", "enforce"),
        answer="OK dane-only",
        told=(
            "mx2.domain.example: its TLSA records have no answer now",
            "SERVFAIL",
            "the DNS does not tell now whether",
        ),
    ),
    "broken host": Kind(
        STS,
        NONE,
        NOT_FOUND_STATUS,
        finding=(FETCH, "http-404"),
        told=("with id a1", "answered 404 Not Found instead of a policy", "No MTA-STS for this domain"),
    ),
    "broken host, a policy of another id kept": Kind(
        STS,
        SECURE,
        NOT_FOUND_STATUS,
        _known("a0"),
        policy=("a0", "enforce"),
        finding=(FETCH, "http-404"),
        answer=MATCH_OLD,
        told=("with id a1", "answered 404", "The policy with id a0 was fetched before and has not expired"),
    ),
    "broken host, its policy kept": Kind(
        STS,
        SECURE,
        NOT_FOUND_STATUS,
        _known("a1"),
        policy=("a1", "enforce"),
        finding=(FETCH, "http-404"),
        answer=MATCH_OLD,
        told=("answered 404", "The policy with id a1 was fetched before"),
    ),
    "broken host, a policy in testing kept": Kind(
        STS,
        NONE,
        NOT_FOUND_STATUS,
        _known("a0", "testing"),
        policy=("a0", "testing"),
        finding=(FETCH, "http-404"),
        told=("The policy with id a0 was fetched before", "in testing"),
    ),
    "broken host, withdrawn before": Kind(
        STS, NONE, NOT_FOUND_STATUS, _known("a0", "none"), policy=("a0", "none"), told=("answered 404", "any more")
    ),
    "new policy under the same id": Kind(
        STS, SECURE, known=_known("a1"), policy=("a1", "enforce"), answer=MATCH1, told=("Its policy was fetched",)
    ),
    "invalid policy": Kind(
        STS,
        NONE,
        _host(body=b"version: STSv1\r\nmode: enforce\r\nmax_age: 86400\r\n"),
        finding=(INVALID, "mx-missing"),
        told=("The policy at https://mta-sts.domain.example",),
    ),
    "another host's certificate": Kind(
        STS,
        NONE,
        certificate="other.example",
        finding=(WEBPKI, "certificate-host-mismatch"),
        told=("The policy host cannot be trusted",),
    ),
    "two records": Kind(
        STS | {TEXT: ['"v=STSv1; id=a1;"', '"v=STSv1; id=a2;"']},
        NONE,
        finding=(INVALID, "several-records"),
        told=("is invalid: 2 MTA-STS records where exactly one is allowed",),
    ),
    "policy host without an address": Kind(
        PLAIN | {TEXT: ['"v=STSv1; id=a1;"']}, NONE, finding=(FETCH, "no-address"), told=("cannot be fetched",)
    ),
    "no MTA-STS": Kind(PLAIN, NONE, told=("There is no MTA-STS record at _mta-sts.domain.example",)),
    "record gone, policy kept": Kind(
        PLAIN,
        SECURE,
        known=_known(),
        policy=("a0", "enforce"),
        answer=MATCH_OLD,
        told=("There is no MTA-STS record", "The policy with id a0 was fetched before"),
    ),
    "no such domain": Kind({("example", "SOA"): PLAIN["example", "SOA"]}, NONE, told=("does not exist in the DNS",)),
    "no mail": Kind(PLAIN | {(DOMAIN, "MX"): ["0 ."]}, NONE, told=("it has a null MX record",)),
    "DNS silent": Kind(
        SILENT,
        NONE,
        told=("The MX records of domain.example have no answer now", "_mta-sts.domain.example has no answer now"),
    ),
    "DNS silent, a policy kept": Kind(
        SILENT,
        SECURE,
        known=_known(),
        policy=("a0", "enforce"),
        answer=MATCH_OLD,
        told=("have no answer now", "has no answer now", "The policy with id a0 was fetched before"),
        finding=(FETCH, "dns-timeout"),
    ),
}


@dataclasses.dataclass(frozen=True)
class World:
    """DNS and a policy host that run, and what asks them."""

    dns: resolver.Resolver
    client: https.Client
    port: int

    async def explain(self, domain: str, known: sts.Known | None = None) -> explaining.Explanation:
        """Look a domain up."""
        return await explaining.explain(self.dns, self.client, domain, known, port=self.port)


Open = Callable[[Kind], AbstractAsyncContextManager[World]]


@pytest.fixture
def world(nameserver: Nameserver, server_tls: ServerTls, ca_file: str) -> Open:
    """Give a context manager of a kind: its servers run."""

    @contextlib.asynccontextmanager
    async def run(kind: Kind) -> AsyncIterator[World]:
        async def handler(_: web.BaseRequest) -> web.StreamResponse:
            return web.Response(**kind.host)

        runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_tls(kind.certificate)).start()
        try:
            async with nameserver(kind.zone) as address:
                dns = resolver.Resolver([address], lifetime=1)
                async with https.Client(Https(ca_file=ca_file, allow_private=True), dns, timeout=10) as client:
                    yield World(dns, client, runner.addresses[0][1])
        finally:
            await runner.cleanup()

    return run


def _run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(bounded())


def _in_order(parts: Sequence[str], text: str) -> bool:
    """Tell whether a text has these parts, one after the other."""
    place = 0
    for part in parts:
        place = text.find(part, place) + len(part)
        if place < len(part):
            return False
    return True


@pytest.mark.parametrize("kind", [pytest.param(kind, id=name) for name, kind in KINDS.items()])
def test_a_domain_of_each_kind_is_explained(world: Open, kind: Kind) -> None:
    """The verdict, what is wrong, both answers, and the steps in the order they were taken."""

    async def main() -> None:
        async with world(kind) as outside:
            explained = await outside.explain(DOMAIN, kind.known)
        decided = explained.decided
        assert (decided.domain, decided.level) == (DOMAIN, kind.level)
        held = None if decided.sts is None else (decided.policy_id, decided.sts.mode.value)
        assert held == kind.policy
        found = None if decided.finding is None else (decided.finding.result_type, decided.finding.reason)
        assert found == kind.finding
        steps = [step.text for step in decided.steps]
        assert _in_order(kind.told, "\n".join(steps)), steps
        assert [step for step in steps if not step.isprintable() or not step.endswith(".")] == []
        told = explained.answers()
        assert list(told) == ["QUERY", "QUERYwithTLSRPT"]
        assert told["QUERY"] == kind.answer
        more = told["QUERYwithTLSRPT"].removeprefix(kind.answer)
        assert more.startswith(" policy_type=sts policy_domain=domain.example" if kind.level is SECURE else "")
        assert bool(more) == (kind.level is SECURE)

    _run(main)


@pytest.mark.parametrize("kind", [pytest.param(kind, id=name) for name, kind in KINDS.items() if not kind.known])
def test_the_answers_are_those_of_the_socket(world: Open, kind: Kind) -> None:
    """Both come from the same parts; a postmaster must be able to rely on that."""

    async def main() -> None:
        async with world(kind) as outside:
            explained = await outside.explain(DOMAIN)
            kept = cache.Cache("", NOW)
            asked = answers.Answers(
                outside.dns, outside.client, kept, report=lambda _: None, clock=lambda: NOW, port=outside.port
            )
            try:
                for name in (postfix.QUERY, postfix.QUERY_WITH_TLSRPT):
                    said = await asked.answer(socketmap.reply(b"%b %b" % (name, DOMAIN.encode())))
                    assert said.partition(b":")[2][:-1].decode() == explained.answers()[name.decode()]
            finally:
                await asked.close()
                kept.close()

    _run(main)


# id, TLSRPT records or what is answered instead, text of the record, rua, unusable, part of the trouble
TLSRPT: list[tuple[str, Sequence[str] | str, str | None, list[str], list[str], str | None]] = [
    ("good", [f'"{RECORD}"'], RECORD, ["mailto:tls@domain.example"], [], None),
    (
        "two destinations, one of them of no use",
        ['"v=TLSRPTv1; rua=https://tls.domain.example/v1, ftp://domain.example"'],
        "v=TLSRPTv1; rua=https://tls.domain.example/v1, ftp://domain.example",
        ["https://tls.domain.example/v1"],
        ["ftp://domain.example"],
        None,
    ),
    ("no destination", ['"v=TLSRPTv1;"'], "v=TLSRPTv1;", [], [], None),
    ("none", ['"v=spf1 -all"'], None, [], [], None),
    ("no such name", [], None, [], [], None),
    ("two", [f'"{RECORD}"', '"v=TLSRPTv1; rua=mailto:b@b.example"'], None, [], [], "2 TLSRPT records"),
    ("broken", ['"v=TLSRPTv1; nonsense"'], None, [], [], "a field that is not name=value: 'nonsense'"),
    ("not known, silent", "SILENT", None, [], [], "_smtp._tls.domain.example TXT: no answer in time"),
    ("not known, SERVFAIL", "SERVFAIL", None, [], [], "_smtp._tls.domain.example TXT: no usable answer"),
    ("not known, bogus", "BOGUS", None, [], [], "DNSSEC validation failed"),
]


@pytest.mark.parametrize(
    ("records", "text", "rua", "unusable", "trouble"), [pytest.param(*case[1:], id=case[0]) for case in TLSRPT]
)
def test_who_wants_reports_is_told(
    world: Open,
    records: Sequence[str] | str,
    text: str | None,
    rua: list[str],
    unusable: list[str],
    trouble: str | None,
) -> None:
    """Good, none, broken and not known are four different things; none of them changes the verdict."""

    async def main() -> None:
        zone = STS | ({REPORTS: records} if records else {})
        async with world(Kind(zone, SECURE)) as outside:
            explained = await outside.explain(DOMAIN)
        record = explained.record
        assert (record and record.text) == text
        assert ([one.uri for one in record.rua] if record else []) == rua
        assert ([one.uri for one in record.unusable] if record else []) == unusable
        assert (explained.trouble is None) == (trouble is None)
        assert (trouble or "") in (explained.trouble or "")
        assert explained.answers()["QUERY"] == MATCH1

    _run(main)


def test_an_international_domain_is_looked_up_as_a_labels(world: Open) -> None:
    """Its record, its policy host and its reports; the answer names it so, too."""
    domain = "xn--bcher-kva.example"
    zone: Zone = {
        (domain, "MX"): [f"10 mx.{domain}."],
        (f"_mta-sts.{domain}", "TXT"): ['"v=STSv1; id=b1;"'],
        (f"mta-sts.{domain}", "A"): ["127.0.0.1"],
        (f"_smtp._tls.{domain}", "TXT"): [f'"{RECORD}"'],
    }
    host = _host(body=_policy(host=f"*.{domain}"))

    async def main() -> None:
        async with world(Kind(zone, SECURE, host, certificate=f"mta-sts.{domain}")) as outside:
            explained = await outside.explain(domain)
        answer = explained.answers()["QUERYwithTLSRPT"]
        assert answer.startswith(
            f"OK secure match=.{domain} servername=hostname policy_type=sts policy_domain={domain} "
        )
        assert explained.record is not None

    _run(main)
