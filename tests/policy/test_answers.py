"""What the policy socket answers, from real DNS and HTTPS servers on loopback; days pass by a clock that is moved."""

import asyncio
import contextlib
import dataclasses
import json
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
import uvloop
from aiohttp import web

from policy import answers, cache, endpoints, findings, https, lookups, postfix, resolver, server, socketmap, verdict
from policy.settings import Https

Zone = Mapping[tuple[str, str], Sequence[str] | str]
Nameserver = Callable[[Zone], AbstractAsyncContextManager[str]]
ServerTls = Callable[..., ssl.SSLContext]

START = 1_800_000_000.0
MINUTE, HOUR, DAY = 60, 3600, 86_400

DOMAIN = "domain.example"
KEY = DOMAIN.encode()
HOST = f"mta-sts.{DOMAIN}"
TEXT = (f"_mta-sts.{DOMAIN}", "TXT")
REPORTS = (f"_smtp._tls.{DOMAIN}", "TXT")
RECORD = "v=TLSRPTv1; rua=mailto:tls@domain.example"

ZONE: dict[tuple[str, str], Sequence[str] | str] = {
    TEXT: ['"v=STSv1; id=a1;"'],
    (TEXT[0], "TTL"): ["300"],
    REPORTS: [f'"{RECORD}"'],
    (HOST, "A"): ["127.0.0.1"],
    (DOMAIN, "MX"): ["10 mx.domain.example."],
    (DOMAIN, "TTL"): ["300"],
    ("example", "SOA"): ["ns.example. hostmaster.example. 1 7200 900 1209600 600"],
    ("example", "TTL"): ["600"],
}
DANE: dict[tuple[str, str], Sequence[str] | str] = {
    ("example", "SIGNED"): ["yes"],
    ("mx.domain.example", "A"): ["192.0.2.1"],
    ("mx.domain.example", "TTL"): ["300"],
    ("_25._tcp.mx.domain.example", "TLSA"): [f"3 1 1 {'ab' * 32}"],
    ("_25._tcp.mx.domain.example", "TTL"): ["300"],
}

SECURE = b"OK secure match=mx.domain.example servername=hostname"
NOTFOUND = b"NOTFOUND "
DANE_ONLY = b"OK dane-only"


def _policy(mode: str = "enforce", max_age: int = 30 * DAY, host: str = "mx.domain.example") -> dict[str, Any]:
    body = f"version: STSv1\r\nmode: {mode}\r\nmx: {host}\r\nmax_age: {max_age}\r\n"
    return {"body": body.encode(), "content_type": "text/plain"}


class Names(dict[tuple[str, str], Sequence[str] | str]):
    """A zone that counts what it is asked."""

    def __init__(self, zone: Zone) -> None:
        super().__init__(zone)
        self.asked: Counter[tuple[str, str]] = Counter()

    def get(self, key: tuple[str, str], default: Any = None) -> Any:
        """Look up and count."""
        self.asked[key] += 1
        return super().get(key, default)

    def fail(self, word: str) -> None:
        """Have no answer to anything that is there."""
        for name, kind in list(self):
            if kind not in {"TTL", "SOA", "SIGNED"}:
                self[name, kind] = word


@dataclasses.dataclass
class World:
    """Answers with all they stand on."""

    names: Names
    policy: dict[str, Any]
    """What the policy host answers."""
    dns: resolver.Resolver
    client: https.Client
    port: int
    path: Path
    now: float = START
    fetches: int = 0
    gate: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """The policy host answers only while it is open."""
    reported: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @contextlib.asynccontextmanager
    async def run(self, **more: Any) -> AsyncIterator["answers.Answers"]:
        """Run answers with the cache file; may be done again."""
        kept = cache.Cache(self.path, self.now)
        made = answers.Answers(
            self.dns,
            self.client,
            kept,
            report=lambda octets: self.reported.append(json.loads(octets)),
            clock=lambda: self.now,
            port=self.port,
            **more,
        )
        try:
            yield made
        finally:
            await made.close()
            kept.close()

    def told(self) -> list[tuple[int, str]]:
        """Take what was reported: code and reason of each."""
        details = [one["policies"][0]["failure-details"][0] for one in self.reported]
        self.reported.clear()
        return [(one["c"], one["f"]) for one in details]


Open = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture
def world(nameserver: Nameserver, server_tls: ServerTls, ca_file: str, tmp_path: Path) -> Open:
    """Give a context manager of (changes of the zone, policy, lifetime): a world whose servers run."""

    @contextlib.asynccontextmanager
    async def run(
        changes: Zone | None = None, policy: dict[str, Any] | None = None, lifetime: float = 5
    ) -> AsyncIterator[World]:
        async def handler(_: web.BaseRequest) -> web.StreamResponse:
            made.fetches += 1
            await made.gate.wait()
            return web.Response(**made.policy)

        runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_tls(HOST)).start()
        names = Names({**ZONE, **(changes or {})})
        settings = Https(ca_file=ca_file, allow_private=True)
        try:
            async with nameserver(names) as address:
                dns = resolver.Resolver([address], lifetime=lifetime)
                async with https.Client(settings, dns, timeout=10) as client:
                    port = runner.addresses[0][1]
                    made = World(names, policy or _policy(), dns, client, port, tmp_path / "policy.db")
                    made.gate.set()
                    yield made
        finally:
            await runner.cleanup()

    return run


_Value = TypeVar("_Value")


def _run(main: Callable[[], Awaitable[_Value]]) -> _Value:
    async def bounded() -> _Value:
        async with asyncio.timeout(30):
            return await main()

    return asyncio.run(bounded())


def _text(netstring: bytes | None) -> bytes | None:
    """Return the payload of a netstring."""
    if netstring is None:
        return None
    length, _, rest = netstring.partition(b":")
    assert rest == rest[: int(length)] + b","
    return rest[:-1]


def _request(name: bytes, key: bytes) -> bytes:
    return socketmap.reply(b"%b %b" % (name, key))


async def _ask(asked: answers.Answers, key: bytes = KEY, name: bytes = postfix.QUERY) -> bytes | None:
    request = _request(name, key)
    return _text(asked.ready(request) or await asked.answer(request))


def _ready(asked: answers.Answers, key: bytes = KEY, name: bytes = postfix.QUERY) -> bytes | None:
    return _text(asked.ready(_request(name, key)))


async def _verdict(asked: answers.Answers) -> dict[str, Any]:
    """Return what is answered in JSON."""
    told = await _ask(asked, name=postfix.JSON)
    assert told is not None
    read: dict[str, Any] = json.loads(told.removeprefix(b"OK "))
    return read


async def _settle(asked: answers.Answers) -> None:
    """Do a round in the background, and wait until what it began is done."""
    await asked.sweep()
    tasks = [flight.task for flight in asked._flights.values() if flight.task is not None]
    await asyncio.gather(*tasks)


def test_what_is_ready_needs_neither_dns_nor_https(world: Open) -> None:
    """The first asker waits for the look-up; later ones get bytes, under each name in its own words."""

    async def main() -> None:
        async with world() as outside, outside.run() as asked:
            assert _ready(asked) is None
            assert await _ask(asked) == SECURE
            before = outside.names.asked.total()
            assert _ready(asked) == SECURE
            with_tlsrpt = _ready(asked, name=postfix.QUERY_WITH_TLSRPT)
            assert with_tlsrpt is not None
            assert with_tlsrpt.startswith(SECURE + b" policy_type=sts policy_domain=domain.example mx_host_pattern=")
            told = _ready(asked, name=postfix.JSON)
            assert told is not None
            assert told.startswith(b"OK {")
            assert json.loads(told[3:])["policy_id"] == "a1"
            assert (outside.names.asked.total(), outside.fetches, outside.reported) == (before, 1, [])

    _run(main)


# id, map name, key, answer
AT_ONCE = [
    ("parent", b"QUERY", b".example", NOTFOUND),
    ("literal", b"QUERY", b"[192.0.2.1]", NOTFOUND),
    ("host", b"QUERYwithTLSRPT", b"[mx.domain.example]:25", NOTFOUND),
    ("other port", b"QUERY", b"domain.example:587", NOTFOUND),
    ("nonsense", b"JSON", b"\xff\x00", NOTFOUND),
    ("empty", b"QUERY", b"", NOTFOUND),
    ("unknown name", b"QUERYY", b"domain.example", b"PERM unknown map name"),
    ("name in lower case", b"query", b"domain.example", b"PERM unknown map name"),
    ("unknown name and nonsense", b"", b"", b"PERM unknown map name"),
]


@pytest.mark.parametrize(("name", "key", "expected"), [pytest.param(*case[1:], id=case[0]) for case in AT_ONCE])
def test_what_is_not_looked_up_is_answered_at_once(world: Open, name: bytes, key: bytes, expected: bytes) -> None:
    """No DNS, no waiting, the second time neither."""

    async def main() -> None:
        async with world() as outside, outside.run() as asked:
            assert [_ready(asked, key, name) for _ in range(2)] == [expected, expected]
            assert await _ask(asked, key, name) == expected
            assert outside.names.asked.total() == 0

    _run(main)


def test_a_thousand_askers_of_a_cold_domain_are_one_look_up(world: Open) -> None:
    """Whatever the spelling of the key; one who leaves does not take the others' answer with him."""

    async def main() -> None:
        async with world() as outside, outside.run() as asked:
            outside.gate.clear()
            spellings = [KEY, b"Domain.Example", b"domain.example.", b"domain.example:25", "ｄomain.example".encode()]
            tasks = [asyncio.create_task(_ask(asked, spellings[number % 5])) for number in range(1000)]
            while not outside.fetches:  # noqa: ASYNC110 - a socket tells no event
                await asyncio.sleep(0.001)
            for task in tasks[:10]:
                task.cancel()
            outside.gate.set()
            assert set(await asyncio.gather(*tasks[10:])) == {SECURE}
            assert (outside.fetches, outside.names.asked[TEXT]) == (1, 1)

    _run(main)


# id, TTL of the record, seconds the answer is ready
TTLS = [
    ("none", 0, 60),
    ("short", 5, 60),
    ("the smallest of all", 100, 100),
    ("longer than that of the MX records", 3000, 300),
]


@pytest.mark.parametrize(("ttl", "seconds"), [pytest.param(*case[1:], id=case[0]) for case in TTLS])
def test_an_answer_is_ready_as_long_as_the_dns_says(world: Open, ttl: int, seconds: int) -> None:
    """The first answer of the DNS that ends, ends it, but nothing ends within a minute."""

    async def main() -> None:
        async with world({(TEXT[0], "TTL"): [str(ttl)]}) as outside, outside.run() as asked:
            await _ask(asked)
            outside.now += seconds - 0.1
            assert _ready(asked) == SECURE
            outside.now += 0.1
            assert _ready(asked) is None

    _run(main)


def test_an_answer_ends_with_its_policy(world: Open) -> None:
    """A max_age below all TTLs counts, down to a minute; no policy, no enforcement."""

    async def main() -> None:
        async with world(policy=_policy(max_age=100)) as outside, outside.run() as asked:
            assert await _ask(asked) == SECURE
            outside.policy = {"status": 404}
            outside.now += 99
            assert _ready(asked) == SECURE
            outside.now += 1
            assert await _ask(asked) == NOTFOUND
            assert outside.fetches == 2

    _run(main)


def test_a_policy_for_no_time_holds_for_a_minute(world: Open) -> None:
    """A max_age of 0 must not make each mail a fetch."""

    async def main() -> None:
        async with world(policy=_policy(max_age=0)) as outside, outside.run() as asked:
            assert await _ask(asked) == SECURE
            outside.now += 59
            assert await _ask(asked) == SECURE
            assert outside.fetches == 1

    _run(main)


def test_a_changed_id_is_noticed_after_the_ttl(world: Open) -> None:
    """Not before, since nobody looks; not only after max_age, as with many others."""

    async def main() -> None:
        async with world() as outside, outside.run() as asked:
            assert await _ask(asked) == SECURE
            outside.names[TEXT] = ['"v=STSv1; id=a2;"']
            outside.policy = _policy(host="new.example")
            outside.now += 299
            assert await _ask(asked) == SECURE
            outside.now += 1
            assert await _ask(asked) == b"OK secure match=new.example servername=hostname"
            assert outside.fetches == 2

    _run(main)


def test_a_policy_of_mode_none_withdraws_at_the_ttl(world: Open) -> None:
    """RFC 8461 section 8.3: what a domain does that has enough of it; its trouble afterwards is no finding."""

    async def main() -> None:
        async with world() as outside, outside.run() as asked:
            assert await _ask(asked) == SECURE
            outside.names[TEXT] = ['"v=STSv1; id=a2;"']
            outside.policy = _policy("none", max_age=DAY)
            outside.now += 300
            assert await _ask(asked) == NOTFOUND
            outside.policy = {"status": 404}
            outside.now += 13 * HOUR
            await _settle(asked)
            assert outside.fetches == 3
            assert await _ask(asked) == NOTFOUND
            assert outside.told() == []

    _run(main)


def test_a_missing_record_alone_withdraws_nothing(world: Open) -> None:
    """RFC 8461 section 3.1: forging an absence is easy. The policy is not prolonged either, and ends in its time."""

    async def main() -> None:
        async with world(policy=_policy(max_age=10 * DAY)) as outside, outside.run() as asked:
            assert await _ask(asked) == SECURE
            del outside.names[TEXT]
            for _ in range(9):
                outside.now += DAY
                assert await _ask(asked) == SECURE
                await _settle(asked)
            assert outside.fetches == 1
            outside.now += DAY
            assert await _ask(asked) == NOTFOUND
            assert outside.told() == []

    _run(main)


def test_a_policy_is_enforced_while_host_and_dns_are_down_for_days(world: Open) -> None:
    """First the host fails, then all DNS, with restarts between; until max_age, to the second."""

    async def main() -> None:
        with structlog.testing.capture_logs() as logs:
            async with world(policy=_policy(max_age=10 * DAY)) as outside:
                async with outside.run() as asked:
                    assert await _ask(asked) == SECURE
                    outside.policy = {"status": 500}
                    for _ in range(3):
                        outside.now += DAY
                        assert await _ask(asked) == SECURE
                        await _settle(asked)
                    assert outside.fetches == 4
                outside.names.fail("SERVFAIL")
                for _ in range(6):
                    outside.now += DAY
                    async with outside.run() as asked:
                        assert await _ask(asked) == SECURE
                        await _settle(asked)
                        assert _ready(asked) == SECURE
                async with outside.run() as asked:
                    outside.now = START + 10 * DAY - 1
                    assert await _ask(asked) == SECURE
                    outside.now += 61
                    assert await _ask(asked) == NOTFOUND
        warned = [line["seconds_left"] // DAY for line in logs if line["event"] == "policy not refreshed"]
        assert warned == [9, 8, 7]

    _run(main)


def test_a_new_id_whose_policy_cannot_be_had_leaves_the_old_one(world: Open) -> None:
    """RFC 8461 section 3.3, with a finding for each question until it can."""

    async def main() -> None:
        async with world() as outside, outside.run() as asked:
            assert await _ask(asked) == SECURE
            outside.names[TEXT] = ['"v=STSv1; id=a2;"']
            outside.policy = {**_policy(host="new.example"), "status": 404}
            outside.now += 300
            assert await _ask(asked) == SECURE
            assert await _ask(asked) == SECURE
            assert outside.reported[0]["policies"][0]["mx-host"] == ["mx.domain.example"]
            assert outside.told() == [(301, "http-404")] * 2
            outside.policy = _policy(host="new.example")
            outside.now += 300
            await _settle(asked)
            assert await _ask(asked) == b"OK secure match=new.example servername=hostname"
            assert outside.told() == []

    _run(main)


def test_a_restart_loses_nothing(world: Open) -> None:
    """Neither the policy nor that a fetch failed minutes ago."""

    async def main() -> None:
        async with world() as outside:
            async with outside.run() as asked:
                await _ask(asked)
            async with outside.run() as asked:
                assert await _ask(asked) == SECURE
            assert outside.fetches == 1
            outside.names[TEXT] = ['"v=STSv1; id=a2;"']
            outside.policy = {"status": 503}
            for _ in range(3):
                outside.now += 99
                async with outside.run() as asked:
                    assert await _ask(asked) == SECURE
            assert outside.fetches == 2
            assert outside.told() == [(301, "http-503")] * 3

    _run(main)


def test_a_failed_fetch_is_left_alone_for_five_minutes_per_id(world: Open) -> None:
    """RFC 8461 section 3.3; a new id is tried at once, and each question meets the finding meanwhile."""

    async def main() -> None:
        async with world({(TEXT[0], "TTL"): ["0"]}, {"status": 404}) as outside, outside.run() as asked:
            for _ in range(5):
                assert await _ask(asked) == NOTFOUND
                outside.now += 59
                assert await _ask(asked) == NOTFOUND
                outside.now += 1
            assert (outside.fetches, outside.told()) == (1, [(301, "http-404")] * 10)
            await _ask(asked)
            assert outside.fetches == 2
            outside.names[TEXT] = ['"v=STSv1; id=a2;"']
            outside.policy = _policy()
            outside.now += 60
            assert await _ask(asked) == SECURE
            assert outside.fetches == 3

    _run(main)


def test_the_next_try_does_not_wait_for_a_long_ttl(world: Open) -> None:
    """A policy host that is up again counts after five minutes, not after the TTL of a day."""

    async def main() -> None:
        day = {(TEXT[0], "TTL"): ["86400"], (DOMAIN, "TTL"): ["86400"]}
        async with world(day, {"status": 404}) as outside, outside.run() as asked:
            assert await _ask(asked) == NOTFOUND
            outside.policy = _policy()
            outside.now += 299
            assert await _ask(asked) == NOTFOUND
            outside.now += 1
            assert await _ask(asked) == SECURE

    _run(main)


# id, changes of the zone, policy, what is reported for each question: code, reason, record; None: nothing
FOUND: list[tuple[str, dict[tuple[str, str], Sequence[str] | str], dict[str, Any], tuple[int, str, str | None] | None]]
FOUND = [
    ("not found", {}, {"status": 404}, (301, "http-404", RECORD)),
    ("no address", {(HOST, "A"): "NXDOMAIN", (HOST, "AAAA"): "NXDOMAIN"}, {}, (301, "no-address", RECORD)),
    ("DNS of the host", {(HOST, "A"): "SERVFAIL", (HOST, "AAAA"): "SERVFAIL"}, {}, (301, "dns-servfail", RECORD)),
    ("invalid", {}, {"body": b"hello", "content_type": "text/plain"}, (302, "line-invalid", RECORD)),
    ("invalid record", {TEXT: ['"v=STSv1; id=;"']}, {}, (302, "record-invalid", RECORD)),
    ("wants no reports", {REPORTS: ['"v=spf1 -all"']}, {"status": 404}, None),
    ("broken TLSRPT record", {REPORTS: [f'"{RECORD}"', '"v=TLSRPTv1;"']}, {"status": 404}, None),
    ("nobody knows whether it wants any", {REPORTS: "SERVFAIL"}, {"status": 404}, (301, "http-404", None)),
    ("nothing wrong", {}, _policy(), None),
    ("no MTA-STS", {TEXT: ['"v=spf1 -all"']}, {"status": 404}, None),
    ("DNS of the record", {TEXT: "SERVFAIL"}, {"status": 404}, None),
]


@pytest.mark.parametrize(("changes", "policy", "expected"), [pytest.param(*case[1:], id=case[0]) for case in FOUND])
def test_each_question_that_meets_a_finding_reports_it(
    world: Open, changes: Zone, policy: dict[str, Any], expected: tuple[int, str, str | None] | None
) -> None:
    """One datagram for each answer, whatever the name, to who asks for reports."""

    async def main() -> None:
        async with world(changes, policy) as outside, outside.run() as asked:
            peeked = await _ask(asked, name=postfix.PEEK)
            assert outside.reported == [], "who sends no mail meets nothing"
            assert peeked == await _ask(asked, name=postfix.JSON)
            for name in (postfix.QUERY, postfix.QUERY_WITH_TLSRPT, postfix.QUERY):
                await _ask(asked, name=name)
            await asyncio.gather(*(asked.answer(_request(postfix.QUERY, KEY)) for _ in range(3)))
            if expected is None:
                assert outside.reported == []
                return
            assert {(one["d"], one.get("pr")) for one in outside.reported} == {(DOMAIN, expected[2])}
            assert outside.told() == [expected[:2]] * 7

    _run(main)


def test_a_certificate_that_is_not_right_is_a_finding(world: Open) -> None:
    """The host in the certificate is another domain's."""
    other = {
        ("_mta-sts.other.example", "TXT"): ['"v=STSv1; id=a1;"'],
        ("mta-sts.other.example", "A"): ["127.0.0.1"],
        ("_smtp._tls.other.example", "TXT"): [f'"{RECORD}"'],
    }

    async def main() -> None:
        async with world(other) as outside, outside.run() as asked:
            assert await _ask(asked, b"other.example") == NOTFOUND
            assert outside.told() == [(303, "certificate-host-mismatch")]

    _run(main)


def test_a_known_tlsrpt_record_is_told_while_the_dns_is_down(world: Open) -> None:
    """What was found before goes on to be told."""

    async def main() -> None:
        async with world(policy={"status": 404}) as outside, outside.run() as asked:
            await _ask(asked)
            outside.names[REPORTS] = "SERVFAIL"
            outside.now += 300
            await _ask(asked)
            assert [one["pr"] for one in outside.reported] == [RECORD, RECORD]

    _run(main)


def test_temporary_trouble_never_defers(world: Open) -> None:
    """Where nothing is known, nothing is enforced, and soon looked at again."""

    async def main() -> None:
        async with world() as outside, outside.run() as asked:
            before = dict(outside.names)
            outside.names.fail("SERVFAIL")
            assert await _ask(asked) == NOTFOUND
            outside.names.update(before)
            outside.now += 60
            assert await _ask(asked) == SECURE

    _run(main)


def test_a_slow_policy_host_does_not_hold_up_mail(world: Open) -> None:
    """After the limit what is known decides: nothing, with a finding; what comes later holds from then on."""

    async def main() -> None:
        async with world() as outside, outside.run(limit=0.4) as asked:
            outside.gate.clear()
            assert await _ask(asked) == NOTFOUND
            assert _ready(asked) == NOTFOUND
            assert [one["pr"] for one in outside.reported] == [RECORD, RECORD]
            assert outside.told() == [(301, "timeout")] * 2
            outside.now += 61
            assert await asyncio.wait_for(_ask(asked), 0.1) == NOTFOUND
            assert outside.told() == [(301, "timeout")]
            outside.gate.set()
            await _settle(asked)
            assert _ready(asked) == SECURE
            assert (outside.fetches, outside.told()) == (1, [])

    _run(main)


def test_a_slow_policy_host_does_not_take_a_known_policy_away(world: Open) -> None:
    """A new id that leads nowhere leaves the old policy in force."""

    async def main() -> None:
        async with world() as outside, outside.run(limit=0.4) as asked:
            assert await _ask(asked) == SECURE
            outside.names[TEXT] = ['"v=STSv1; id=a2;"']
            outside.gate.clear()
            outside.now += 300
            assert await _ask(asked) == SECURE
            assert outside.told() == [(301, "timeout")]

    _run(main)


def test_silent_dns_does_not_hold_up_mail(world: Open) -> None:
    """No finding either: nobody knows whether there is MTA-STS."""

    async def main() -> None:
        silent: Zone = {TEXT: "SILENT", (DOMAIN, "MX"): "SILENT"}
        async with world(silent, lifetime=0.5) as outside, outside.run(limit=2) as asked:
            assert await _ask(asked) == NOTFOUND
            assert outside.told() == []

    _run(main)


def test_a_look_up_that_waits_for_others_blames_nobody(world: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """In time there is an answer, but no finding about a policy host that was not asked; soon there is more."""
    monkeypatch.setattr(lookups, "STS_SLOTS", 1)
    monkeypatch.setattr(lookups, "DANE_SLOTS", 1)

    async def main() -> None:
        async with world({("slow.example", "MX"): "SILENT"}, lifetime=5) as outside, outside.run(limit=0.4) as asked:
            outside.names["_mta-sts.slow.example", "TXT"] = "SILENT"
            slow = asyncio.create_task(_ask(asked, b"slow.example"))
            while not outside.names.asked["_mta-sts.slow.example", "TXT"]:  # noqa: ASYNC110 - a socket tells no event
                await asyncio.sleep(0.001)
            assert await _ask(asked) == NOTFOUND
            assert outside.told() == []
            assert (await _verdict(asked))["steps"] == [
                {"about": "dane", "text": "DANE could not be looked up in time."},
                {"about": "mta-sts", "text": "MTA-STS could not be looked up in time."},
            ]
            await slow

    _run(main)


def test_a_fault_of_ours_leaves_nobody_without_an_answer(world: Open) -> None:
    """Here: the client is not open. It is logged, and the other half of the look-up counts."""

    async def main() -> None:
        async with world(DANE) as outside:
            outside.client = https.Client(Https(), outside.dns)
            async with outside.run() as asked:
                assert await _ask(asked) == DANE_ONLY

    with structlog.testing.capture_logs() as logs:
        _run(main)
    assert [line["event"] for line in logs] == ["a part of a look-up failed"]


def test_dane_goes_before_mta_sts_and_survives_trouble_for_a_day(world: Open) -> None:
    """While the DNS has no answer, what it said holds; it can say otherwise at any time."""

    async def main() -> None:
        async with world({**DANE, TEXT: ['"x"']}) as outside, outside.run() as asked:
            assert await _ask(asked) == DANE_ONLY
            outside.names[DOMAIN, "MX"] = "SERVFAIL"
            outside.now += HOUR
            assert await _ask(asked) == DANE_ONLY
            held = {"about": "dane", "text": "What was found 60 minutes ago holds for now: dane-only."}
            assert held in (await _verdict(asked))["steps"]
            outside.now += DAY
            assert await _ask(asked) == NOTFOUND
            outside.names[DOMAIN, "MX"] = ["10 mx.domain.example."]
            outside.now += 60
            assert await _ask(asked) == DANE_ONLY
            outside.names["_25._tcp.mx.domain.example", "TLSA"] = []
            del outside.names["_25._tcp.mx.domain.example", "TLSA"]
            outside.now += 300
            assert await _ask(asked) == NOTFOUND

    _run(main)


def test_the_policy_of_a_domain_with_dane_is_kept_ready(world: Open) -> None:
    """It is told, not enforced, and takes over when DANE ends."""

    async def main() -> None:
        async with world(DANE) as outside, outside.run() as asked:
            assert await _ask(asked) == DANE_ONLY
            assert (await _verdict(asked))["sts"]["mode"] == "enforce"
            del outside.names["example", "SIGNED"]
            outside.now += 300
            assert await _ask(asked) == SECURE
            assert outside.fetches == 1

    _run(main)


def test_ready_answers_that_are_asked_for_are_renewed_before_they_end(world: Open) -> None:
    """Who is asked for often is always ready; who is not costs no look-ups."""

    async def main() -> None:
        async with world() as outside, outside.run() as asked:
            await _ask(asked)
            outside.now += 280
            await _settle(asked)
            assert outside.names.asked[TEXT] == 1
            assert _ready(asked) == SECURE
            await _settle(asked)
            assert outside.names.asked[TEXT] == 2
            outside.now += 280
            assert _ready(asked) == SECURE
            outside.now -= 200
            await _settle(asked)
            assert outside.names.asked[TEXT] == 2

    _run(main)


def test_the_background_works_by_itself(world: Open) -> None:
    """As the role's process runs it."""

    async def main() -> None:
        async with world() as outside, outside.run() as asked:
            await _ask(asked)
            _ready(asked)
            outside.now += 280
            running = asyncio.create_task(asked.run())
            while outside.names.asked[TEXT] < 2:  # noqa: ASYNC110 - a socket tells no event
                await asyncio.sleep(0.001)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    _run(main)


def test_the_background_takes_only_so_many_at_once(world: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """In small steps, so that askers come between; the rest has its turn in the next rounds."""
    monkeypatch.setattr(answers, "MAX_IN_BACKGROUND", 2)
    monkeypatch.setattr(answers, "SLICE", 1)

    async def main() -> None:
        async with world() as outside, outside.run() as asked:
            keys = [b"%d.example" % number for number in range(5)]
            for _ in range(2):
                for key in keys:
                    await _ask(asked, key)
            outside.now += 599
            counts = []
            for _ in range(4):
                await asked.sweep()
                counts.append(len(asked._flights))
                await asyncio.gather(*(flight.task for flight in asked._flights.values() if flight.task))
            assert counts == [2, 2, 1, 0]

    _run(main)


def test_policies_are_refreshed_daily_while_their_domain_is_asked_for(world: Open) -> None:
    """RFC 8461 section 10.2: who always has a fresh policy is hard to cut off from it. A week unasked ends it."""

    async def main() -> None:
        async with world() as outside, outside.run() as asked:
            await _ask(asked)
            outside.now += DAY - 1
            await _settle(asked)
            assert outside.fetches == 1
            for day in range(1, 12):
                outside.now = START + day * (DAY + 1)
                await _settle(asked)
            assert outside.fetches == 7
            assert await _ask(asked) == SECURE
            await _settle(asked)
            assert outside.fetches == 8

    _run(main)


def test_a_short_policy_is_refreshed_at_half_its_time(world: Open) -> None:
    """So that it does not run out between two questions; an asker does not wait for that."""

    async def main() -> None:
        async with world(policy=_policy(max_age=2 * HOUR)) as outside, outside.run() as asked:
            await _ask(asked)
            outside.now += HOUR
            outside.gate.clear()
            assert await _ask(asked) == SECURE
            assert outside.fetches == 1
            outside.gate.set()
            await _settle(asked)
            assert outside.fetches == 2
            outside.now += 2 * HOUR - 301
            assert await _ask(asked) == SECURE

    _run(main)


def test_a_refresh_that_fails_is_tried_again_in_measure(world: Open) -> None:
    """Every five minutes while somebody asks, each hour otherwise; its finding lasts until one succeeds."""

    async def main() -> None:
        async with world() as outside, outside.run() as asked:
            await _ask(asked)
            outside.policy = {"status": 500}
            outside.now += DAY
            for _ in range(30):
                await _settle(asked)
                outside.now += 120
            assert outside.fetches == 1 + 1
            for _ in range(5):
                assert await _ask(asked) == SECURE
                await _settle(asked)
                outside.now += 301
            assert outside.told() == [(301, "http-500")] * 5
            assert outside.fetches == 2 + 5
            outside.policy = _policy()
            outside.now += HOUR
            await _settle(asked)
            await _ask(asked)
            assert outside.told() == []

    with structlog.testing.capture_logs():
        _run(main)


def test_a_withdrawn_record_is_not_asked_for_all_the_time(world: Open) -> None:
    """A refresh that has nothing to fetch counts as tried."""

    async def main() -> None:
        async with world() as outside, outside.run() as asked:
            await _ask(asked)
            del outside.names[TEXT]
            outside.now += DAY
            before = outside.names.asked[TEXT]
            for _ in range(60):
                await _settle(asked)
                outside.now += 5
            assert outside.names.asked[TEXT] == before + 1

    _run(main)


def test_policies_of_the_file_are_refreshed_after_a_restart(world: Open) -> None:
    """Without being asked for first."""

    async def main() -> None:
        async with world() as outside:
            async with outside.run() as asked:
                await _ask(asked)
            outside.now += 2 * DAY
            async with outside.run() as asked:
                await _settle(asked)
                assert outside.fetches == 2
                assert _ready(asked) == SECURE

    _run(main)


def test_ready_answers_are_bounded(world: Open) -> None:
    """Those asked for the longest time ago go; a policy outlives its answer."""

    async def main() -> None:
        async with world() as outside, outside.run(max_domains=20) as asked:
            await _ask(asked)
            for number in range(100):
                outside.now += 0.01
                assert await _ask(asked, b"%d.example" % number) == NOTFOUND
                assert _ready(asked, b"0.example") == NOTFOUND
            assert len(asked._entries) <= 20
            assert asked._weight == sum(entry.weight for entry in asked._entries.values())
            assert _ready(asked) is None
            assert _ready(asked, b"99.example") == NOTFOUND
            assert await _ask(asked) == SECURE
            assert outside.fetches == 1

    _run(main)


def test_spellings_are_bounded(world: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of different keys takes bounded memory."""
    monkeypatch.setattr(answers, "MAX_SPELLINGS", 10)

    async def main() -> None:
        async with world() as outside, outside.run() as asked:
            await _ask(asked)
            for number in range(100):
                assert _ready(asked, b"[192.0.2.%d]" % number) == NOTFOUND
            assert len(asked._known) <= 10
            assert _ready(asked) == SECURE

    _run(main)


# id, octets that are not one request
NO_REQUEST = [
    ("nothing", b""),
    ("a part", b"20:QUERY domain.exa"),
    ("two", b"20:QUERY domain.example,20:QUERY domain.example,"),
    ("one and a part", b"20:QUERY domain.example,2"),
    ("no netstring", b"QUERY domain.example\n"),
    ("too long", b"513:QUERY %b," % (b"a" * 507)),
]


@pytest.mark.parametrize("octets", [pytest.param(case[1], id=case[0]) for case in NO_REQUEST])
def test_what_is_no_request_has_no_answer(world: Open, octets: bytes) -> None:
    """It takes no memory, either, and asks nobody."""

    async def main() -> None:
        async with world() as outside, outside.run() as asked:
            await _ask(asked)
            remembered, questions = len(asked._known), outside.names.asked.total()
            assert asked.ready(octets) is None
            assert (len(asked._known), outside.names.asked.total()) == (remembered, questions)

    _run(main)


def test_too_many_look_ups_at_once_are_answered_from_what_is_known(
    world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by a queue without end; the next question looks up again."""
    monkeypatch.setattr(answers, "MAX_FLIGHTS", 1)

    async def main() -> None:
        async with world() as outside, outside.run() as asked:
            await _ask(asked)
            outside.now += 300
            outside.names["busy.example", "MX"] = "SILENT"
            busy = asyncio.create_task(_ask(asked, b"busy.example"))
            await asyncio.sleep(0)
            assert await _ask(asked) == SECURE
            assert await _ask(asked, b"other.example") == NOTFOUND
            assert (outside.names.asked[TEXT], _ready(asked)) == (1, None)
            await busy
            assert await _ask(asked) == SECURE
            assert outside.names.asked[TEXT] == 2

    _run(main)


def test_ending_breaks_off_what_is_under_way(world: Open) -> None:
    """A process that is told to end does not wait for a policy host; an asker gets some answer."""

    async def main() -> None:
        async with world() as outside:
            async with outside.run() as asked:
                outside.gate.clear()
                asking = asyncio.create_task(_ask(asked))
                while not outside.fetches:  # noqa: ASYNC110 - a socket tells no event
                    await asyncio.sleep(0.001)
            assert await asking == NOTFOUND
            outside.gate.set()

    _run(main)


def test_levels_of_dane_are_ordered() -> None:
    """A new level of DANE must find its place, else trouble of the DNS could weaken a domain."""
    assert {*lookups._STRENGTH, verdict.Level.SECURE, verdict.Level.NONE} == {*verdict.Level, None}


def test_questions_over_the_socket_and_findings_into_the_recorder(world: Open, tmp_path: Path) -> None:
    """All parts together, in the event loop of the role's process."""

    async def main() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as recorder_socket:
            recorder_socket.bind(str(tmp_path / "recorder"))
            recorder_socket.settimeout(5)
            recorder = findings.Recorder(tmp_path / "recorder")
            async with world(policy={"status": 404}) as outside:
                kept = cache.Cache(outside.path, START)
                asked = answers.Answers(outside.dns, outside.client, kept, report=recorder.send, port=outside.port)
                async with server.serving(asked, endpoints.listen([f"unix:{tmp_path / 's'}"])):
                    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
                    writer.write(socketmap.reply(b"QUERYwithTLSRPT domain.example") * 500)
                    expected = socketmap.reply(NOTFOUND) * 500
                    assert await reader.readexactly(len(expected)) == expected
                    writer.close()
                datagrams = await asyncio.to_thread(lambda: [recorder_socket.recv(65536) for _ in range(500)])
                assert set(datagrams) == {findings.datagram(DOMAIN, _NOT_FOUND, RECORD)}
                await asked.close()
                recorder.close()
                kept.close()

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


_NOT_FOUND = verdict.Finding(verdict.FindingType.STS_POLICY_FETCH_ERROR, "http-404")
