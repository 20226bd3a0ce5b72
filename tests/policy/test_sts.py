"""MTA-STS of domains through real DNS and HTTPS servers on loopback."""

import asyncio
import contextlib
import dataclasses
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from aiohttp import web

from policy import https, mtasts, resolver, sts, verdict
from policy.settings import Https

Zone = Mapping[tuple[str, str], Sequence[str] | str]
Nameserver = Callable[[Zone], AbstractAsyncContextManager[str]]
ServerTls = Callable[..., ssl.SSLContext]

DOMAIN = "domain.example"
HOST = f"mta-sts.{DOMAIN}"
BODY = b"version: STSv1\r\nmode: enforce\r\nmx: mx.domain.example\r\nmx: *.domain.example\r\nmax_age: 86400\r\n"
ENFORCED = (
    "Mail goes only to hosts that match mx.domain.example, *.domain.example and prove their name with a certificate."
)
POLICY = mtasts.parse_policy(BODY)
OLD = sts.Known("old1", mtasts.parse_policy(BODY.replace(b"86400", b"604800")))
CURRENT = sts.Known("new1", OLD.policy)

ZONE: Zone = {
    (f"_mta-sts.{DOMAIN}", "TXT"): ['"v=STSv1; id=new1;"'],
    (f"_mta-sts.{DOMAIN}", "TTL"): ["300"],
    (HOST, "A"): ["127.0.0.1"],
    ("example", "SOA"): ["ns.example. hostmaster.example. 1 7200 900 1209600 120"],
    ("example", "TTL"): ["3600"],
}

FETCH_ERROR = verdict.FindingType.STS_POLICY_FETCH_ERROR
INVALID = verdict.FindingType.STS_POLICY_INVALID
WEBPKI = verdict.FindingType.STS_WEBPKI_INVALID


@dataclasses.dataclass
class World:
    """A resolver and a client with the servers they ask."""

    dns: resolver.Resolver
    client: https.Client
    port: int
    requests: list[str]
    """Host and path of each."""

    async def look_up(self, known: sts.Known | None = None, domain: str = DOMAIN, **more: Any) -> sts.Looked:
        """Look up MTA-STS."""
        return await sts.look_up(self.dns, self.client, domain, known, port=self.port, **more)


@pytest.fixture
def world(
    nameserver: Nameserver, server_tls: ServerTls, ca_file: str
) -> Callable[..., AbstractAsyncContextManager[World]]:
    """Give a context manager of (zone, what the policy host answers, its TLS, allow_private=True)."""

    @contextlib.asynccontextmanager
    async def run(
        zone: Zone, answer: Mapping[str, Any], tls: ssl.SSLContext | None = None, *, allow_private: bool = True
    ) -> AsyncIterator[World]:
        requests: list[str] = []

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            requests.append(f"{request.host.partition(':')[0]}{request.path_qs}")
            return web.Response(**answer)

        runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls or server_tls(HOST)).start()
        settings = Https(ca_file=ca_file, allow_private=allow_private)
        try:
            async with nameserver(zone) as server:
                dns = resolver.Resolver([server], lifetime=1)
                async with https.Client(settings, dns, timeout=2) as client:
                    yield World(dns, client, runner.addresses[0][1], requests)
        finally:
            await runner.cleanup()

    return run


Open = Callable[..., AbstractAsyncContextManager[World]]
GOOD: dict[str, Any] = {"body": BODY, "content_type": "text/plain"}


def _once(
    world: Open, zone: Zone, answer: Mapping[str, Any], known: sts.Known | None = None, **more: Any
) -> sts.Looked:
    async def look_up() -> sts.Looked:
        async with world(zone, answer) as opened:
            return await opened.look_up(known, **more)

    return asyncio.run(look_up())


def _text(*records: str) -> Zone:
    return {**ZONE, (f"_mta-sts.{DOMAIN}", "TXT"): [f'"{record}"' for record in records]}


def test_a_policy_is_found_and_fetched(world: Open) -> None:
    """RFC 8461 section 3: the record's id, the policy behind the one URL, the time the record holds."""

    async def look_up() -> tuple[sts.Looked, list[str]]:
        async with world(ZONE, GOOD) as opened:
            return await opened.look_up(), opened.requests

    looked, requests = asyncio.run(look_up())
    assert looked.sts.policy == POLICY
    assert (looked.sts.id, looked.sts.finding, looked.ttl, looked.failed) == ("new1", None, 300, None)
    assert looked.fetched == sts.Known("new1", POLICY)
    assert requests == [f"{HOST}/.well-known/mta-sts.txt"]
    first, last = looked.sts.steps
    assert first == "domain.example publishes an MTA-STS record with id new1."
    assert last == f"Its policy was fetched. {ENFORCED}"


# id, what the policy host answers, finding; None: the policy is good
ANSWERS: list[tuple[str, dict[str, Any], tuple[verdict.FindingType, str] | None]] = [
    ("parameters of the media type", {"body": BODY, "headers": {"Content-Type": "Text/Plain ; charset=x; a=b"}}, None),
    ("LF", {**GOOD, "body": BODY.replace(b"\r\n", b"\n")}, None),
    ("longest", {**GOOD, "body": BODY + b"a: " + b"b" * (mtasts.MAX_POLICY - len(BODY) - 3)}, None),
    ("too long", {**GOOD, "body": BODY + b"a: " + b"b" * (mtasts.MAX_POLICY - len(BODY) - 2)}, (INVALID, "too-long")),
    ("HTML", {"body": BODY, "content_type": "text/html"}, (INVALID, "media-type")),
    ("beginning like it", {"body": BODY, "content_type": "text/plainer"}, (INVALID, "media-type")),
    ("empty media type", {"body": BODY, "headers": {"Content-Type": ""}}, (INVALID, "media-type")),
    ("no policy", {**GOOD, "body": b"hello\r\n"}, (INVALID, "line-invalid")),
    ("empty", {**GOOD, "body": b""}, (INVALID, "version-missing")),
    ("other success", {**GOOD, "status": 203}, (FETCH_ERROR, "http-203")),
    ("not modified", {"status": 304}, (FETCH_ERROR, "redirect")),
    ("redirect", {**GOOD, "status": 301, "headers": {"Location": "/x"}}, (FETCH_ERROR, "redirect")),
    ("temporary redirect", {**GOOD, "status": 307, "headers": {"Location": "/x"}}, (FETCH_ERROR, "redirect")),
    ("not found", {**GOOD, "status": 404}, (FETCH_ERROR, "http-404")),
    ("gone", {**GOOD, "status": 410}, (FETCH_ERROR, "http-410")),
    ("server error", {**GOOD, "status": 500}, (FETCH_ERROR, "http-500")),
    ("busy", {**GOOD, "status": 503}, (FETCH_ERROR, "http-503")),
]  # fmt: skip


@pytest.mark.parametrize("known", [None, OLD], ids=["nothing known", "policy known"])
@pytest.mark.parametrize(("answer", "finding"), [pytest.param(*case[1:], id=case[0]) for case in ANSWERS])
def test_what_a_policy_host_answers_is_a_policy_or_a_finding(
    world: Open, answer: dict[str, Any], finding: tuple[verdict.FindingType, str] | None, known: sts.Known | None
) -> None:
    """Whatever is wrong with the new policy, a known one goes on to hold (RFC 8461 section 3.3)."""
    looked = _once(world, ZONE, answer, known)
    if finding is None:
        assert looked.sts.finding is None
        assert looked.fetched is not None
        assert looked.sts.policy == looked.fetched.policy == mtasts.parse_policy(answer["body"])
        return
    expected = verdict.Finding(*finding)
    assert looked.sts.finding == expected
    assert looked.failed == sts.Failed("new1", expected)
    assert looked.fetched is None
    assert (looked.sts.policy, looked.sts.id) == ((known.policy, known.id) if known else (None, None))


# id, TXT records, id of the policy that is fetched, finding
RECORDS: list[tuple[str, list[str], str | None, str | None]] = [
    ("extensions", ["v=STSv1; a=b; id=x9; c=d"], "x9", None),
    ("among others", ["v=spf1 -all", "v=STSv1; id=x9", "v=STSv2; id=y"], "x9", None),
    ("two", ["v=STSv1; id=x9", "v=STSv1; id=x9;"], None, "several-records"),
    ("without an id", ["v=STSv1; a=b;"], None, "record-invalid"),
    ("bad id", ["v=STSv1; id=a-b;"], None, "record-invalid"),
    ("others only", ["v=spf1 -all"], None, None),
]


@pytest.mark.parametrize("known", [None, OLD], ids=["nothing known", "policy known"])
@pytest.mark.parametrize(("records", "id_", "reason"), [pytest.param(*case[1:], id=case[0]) for case in RECORDS])
def test_the_record_says_whether_there_is_a_policy(
    world: Open, records: list[str], id_: str | None, reason: str | None, known: sts.Known | None
) -> None:
    """RFC 8461 section 3.1: exactly one; a broken one is told, and neither it nor its absence ends a known policy."""
    looked = _once(world, _text(*records), GOOD, known)
    assert looked.sts.finding == (reason and verdict.Finding(INVALID, reason))
    assert looked.sts.id == (id_ or (known and known.id))
    assert looked.fetched == (id_ and sts.Known(id_, POLICY))
    assert looked.failed is None


NO_ZONE: Zone = {("example", "SOA"): ZONE["example", "SOA"]}


def _broken(word: str) -> Zone:
    return {**ZONE, (f"_mta-sts.{DOMAIN}", "TXT"): word}


# id, zone, known, seconds, part of the first step, reason of the finding
UNANSWERED: list[tuple[str, Zone, sts.Known | None, int, str, str | None]] = [
    ("no such name", NO_ZONE, None, 60, "There is no MTA-STS record at _mta-sts.", None),
    ("withdrawn", NO_ZONE, OLD, 60, "There is no MTA-STS record at _mta-sts.", None),
    ("SERVFAIL", _broken("SERVFAIL"), None, resolver.RETRY, "has no answer now", None),
    ("SERVFAIL, known", _broken("SERVFAIL"), OLD, resolver.RETRY, "SERVFAIL", "dns-servfail"),
    ("silence, known", _broken("SILENT"), OLD, resolver.RETRY, "timed out", "dns-timeout"),
    ("forged, known", _broken("BOGUS"), OLD, resolver.RETRY, "DNSSEC validation failed", "dnssec-bogus"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("zone", "known", "ttl", "step", "reason"), [pytest.param(*case[1:], id=case[0]) for case in UNANSWERED]
)
def test_without_a_record_a_known_policy_goes_on(
    world: Open, zone: Zone, known: sts.Known | None, ttl: int, step: str, reason: str | None
) -> None:
    """RFC 8461 section 3.1: absence does not end it, nor does trouble; only that is to be reported (section 6)."""
    looked = _once(world, zone, GOOD, known)
    assert (looked.sts.policy, looked.sts.id) == ((known.policy, known.id) if known else (None, None))
    assert looked.sts.finding == (reason and verdict.Finding(FETCH_ERROR, reason))
    assert (looked.fetched, looked.failed, looked.ttl) == (None, None, ttl)
    assert step in looked.sts.steps[0]


PAST = sts.Failed("new1", verdict.Finding(FETCH_ERROR, "http-404"))
PAST_OLD = sts.Failed("old1", verdict.Finding(FETCH_ERROR, "http-404"))

# id, known, failed, refresh, whether it is fetched, id of the policy after it, finding
DECISIONS: list[tuple[str, sts.Known | None, sts.Failed | None, bool, bool, str | None, verdict.Finding | None]] = [
    ("nothing known", None, None, False, True, "new1", None),
    ("the same id", CURRENT, None, False, False, "new1", None),
    ("the same id, refresh", CURRENT, None, True, True, "new1", None),
    ("another id", OLD, None, False, True, "new1", None),
    ("failed for this id", None, PAST, False, False, None, PAST.finding),
    ("failed for this id, old policy", OLD, PAST, False, False, "old1", PAST.finding),
    ("refresh failed for this id", CURRENT, PAST, True, False, "new1", PAST.finding),
    ("failed for another id", None, PAST_OLD, False, True, "new1", None),
]


@pytest.mark.parametrize(
    ("known", "failed", "refresh", "fetched", "id_", "finding"),
    [pytest.param(*case[1:], id=case[0]) for case in DECISIONS],
)
def test_a_policy_is_fetched_when_its_id_is_new_and_did_not_fail_just_now(
    world: Open,
    known: sts.Known | None,
    failed: sts.Failed | None,
    id_: str | None,
    finding: verdict.Finding | None,
    *,
    refresh: bool,
    fetched: bool,
) -> None:
    """RFC 8461 section 3.3: no more often than it must, a failed one not again for some minutes."""

    async def look_up() -> tuple[sts.Looked, list[str]]:
        async with world(ZONE, GOOD) as opened:
            return await opened.look_up(known, failed=failed, refresh=refresh), opened.requests

    looked, requests = asyncio.run(look_up())
    assert bool(requests) == fetched == (looked.fetched is not None)
    assert (looked.sts.id, looked.sts.finding, looked.failed) == (id_, finding, None)
    assert (looked.sts.policy is None) == (id_ is None)


# id, what the certificate is (host, days), finding
CERTIFICATES = [
    ("other host", ("www.domain.example", 10), "certificate-host-mismatch"),
    ("the domain's own", (DOMAIN, 10), "certificate-host-mismatch"),
    ("expired", (HOST, -1), "certificate-expired"),
]


@pytest.mark.parametrize("known", [None, OLD], ids=["nothing known", "policy known"])
@pytest.mark.parametrize(("certificate", "reason"), [pytest.param(*case[1:], id=case[0]) for case in CERTIFICATES])
def test_a_host_that_cannot_prove_its_name_has_no_policy(
    world: Open, server_tls: ServerTls, certificate: tuple[str, int], reason: str, known: sts.Known | None
) -> None:
    """RFC 8461 section 3.3: for exactly this name; the finding is one of its own."""

    async def look_up() -> tuple[sts.Looked, list[str]]:
        async with world(ZONE, GOOD, server_tls(*certificate)) as opened:
            return await opened.look_up(known), opened.requests

    looked, requests = asyncio.run(look_up())
    assert looked.sts.finding == verdict.Finding(WEBPKI, reason)
    assert (looked.sts.id, requests) == (known and known.id, [])


def test_a_self_signed_certificate_proves_nothing(world: Open, self_signed: ServerTls) -> None:
    """The most common mistake."""

    async def look_up() -> sts.Looked:
        async with world(ZONE, GOOD, self_signed(HOST)) as opened:
            return await opened.look_up()

    assert asyncio.run(look_up()).sts.finding == verdict.Finding(WEBPKI, "certificate-not-trusted")


# id, the policy host in the DNS, reason
UNREACHABLE: list[tuple[str, Zone, str]] = [
    ("no address", {(HOST, "TXT"): ['"x"']}, "no-address"),
    ("not there", {}, "no-address"),
    ("DNS fails", {(HOST, "A"): "SERVFAIL", (HOST, "AAAA"): "SERVFAIL"}, "dns-servfail"),
    ("DNS is silent", {(HOST, "A"): "SILENT", (HOST, "AAAA"): "SILENT"}, "dns-timeout"),
    ("nobody listens", {(HOST, "A"): ["127.0.0.2"]}, "connection-refused"),
]


@pytest.mark.parametrize("known", [None, OLD], ids=["nothing known", "policy known"])
@pytest.mark.parametrize(("host", "reason"), [pytest.param(*case[1:], id=case[0]) for case in UNREACHABLE])
def test_a_host_that_cannot_be_reached_is_a_fetch_error(
    world: Open, host: Zone, reason: str, known: sts.Known | None
) -> None:
    """The reason tells whose trouble it is: DNS, network or server."""
    zone = {key: value for key, value in ZONE.items() if key != (HOST, "A")}
    looked = _once(world, {**zone, **host}, GOOD, known)
    assert looked.sts.finding == verdict.Finding(FETCH_ERROR, reason)
    assert looked.sts.id == (known and known.id)


def test_a_policy_host_in_the_local_network_is_a_fetch_error(world: Open) -> None:
    """A stranger's record does not lead us to our own servers."""

    async def look_up() -> tuple[sts.Looked, list[str]]:
        async with world(ZONE, GOOD, allow_private=False) as opened:
            return await opened.look_up(), opened.requests

    looked, requests = asyncio.run(look_up())
    assert looked.sts.finding == verdict.Finding(FETCH_ERROR, "address-refused")
    assert requests == []


def test_a_delegated_record_and_host_are_followed(world: Open) -> None:
    """RFC 8461 section 8.2: both may be CNAMEs to a provider; the certificate is for the name before it."""
    zone: Zone = {
        (f"_mta-sts.{DOMAIN}", "CNAME"): ["_mta-sts.provider.example."],
        ("_mta-sts.provider.example", "TXT"): ['"v=STSv1; id=p1;"'],
        (HOST, "CNAME"): ["mta-sts.provider.example."],
        ("mta-sts.provider.example", "A"): ["127.0.0.1"],
    }
    looked = _once(world, zone, GOOD)
    assert (looked.sts.id, looked.sts.policy) == ("p1", POLICY)


def test_the_policy_of_an_idn_domain_is_at_its_a_labels(world: Open, server_tls: ServerTls) -> None:
    """In the DNS, the URL and the certificate."""
    domain = "xn--bcher-kva.example"
    zone: Zone = {
        (f"_mta-sts.{domain}", "TXT"): ['"v=STSv1; id=i1;"'],
        (f"mta-sts.{domain}", "A"): ["127.0.0.1"],
    }

    async def look_up() -> tuple[sts.Looked, list[str]]:
        async with world(zone, GOOD, server_tls(f"mta-sts.{domain}")) as opened:
            return await opened.look_up(domain=domain), opened.requests

    looked, requests = asyncio.run(look_up())
    assert looked.sts.policy == POLICY
    assert requests == [f"mta-sts.{domain}/.well-known/mta-sts.txt"]


# id, mode, part of the last step
MODES = [
    (b"enforce", "Mail goes only to hosts that match mx.domain.example"),
    (b"testing", "It is in testing: failures are reported, mail goes out all the same"),
    (b"none", "the domain does not use MTA-STS any more"),
]


@pytest.mark.parametrize(("mode", "step"), MODES)
def test_the_last_step_says_what_the_policy_means(world: Open, mode: bytes, step: str) -> None:
    """For a postmaster; a policy of any mode is a policy."""
    looked = _once(world, ZONE, {**GOOD, "body": BODY.replace(b"enforce", mode)})
    assert looked.sts.policy is not None
    assert looked.sts.policy.mode == mode.decode()
    assert step in looked.sts.steps[-1]


def test_trouble_reads_as_a_story(world: Open) -> None:
    """What was tried, what was wrong, and what holds nevertheless."""
    looked = _once(world, ZONE, {**GOOD, "status": 404}, OLD)
    first, second, last = looked.sts.steps
    assert first == "domain.example publishes an MTA-STS record with id new1."
    assert second.startswith(f"https://{HOST}:")
    assert second.endswith("/.well-known/mta-sts.txt answered 404 Not Found instead of a policy.")
    assert last == f"The policy with id old1 was fetched before and has not expired. {ENFORCED}"


def test_without_a_policy_the_last_step_says_so(world: Open) -> None:
    """The common case."""
    looked = _once(world, {(DOMAIN, "A"): ["192.0.2.1"]}, GOOD)
    assert looked.sts.steps == (
        "There is no MTA-STS record at _mta-sts.domain.example.",
        "No MTA-STS for this domain.",
    )
