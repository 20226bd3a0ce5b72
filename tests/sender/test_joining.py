"""Lines of processes joined into attempts, and attempts with policies into sessions."""

import collections
import itertools
import json
import pathlib
import random
import re
from collections.abc import Callable, Iterable

import hypothesis
import pytest
from hypothesis import strategies

from policy import mtasts, verdict
from sender import applied, datagram, joining, postfixlog, session

DATA = pathlib.Path(__file__).parents[1] / "data"
SEVEN = {row["label"]: row for row in map(json.loads, (DATA / "postfix-3.7-logs.jsonl").read_text().splitlines())}
TEN = {row["label"]: row for row in map(json.loads, (DATA / "postfix-3.10.jsonl").read_text().splitlines())}

LOG = ("postfix/smtp",)


def attempts(
    texts: Iterable[str], *, relayhosts: Iterable[str] = (), services: Iterable[str] = LOG
) -> list[joining.Attempt]:
    """Return what whole lines tell."""
    joiner = joining.Joiner(relayhosts, services)
    found = []
    at = 0
    for text in texts:
        line = postfixlog.parse(text.encode())
        event = postfixlog.event(line.text) if line else None
        if line is not None and event is not None:
            found += joiner.feed(line, event, at)
        at += len(text) + 1
    return found


def of(pid: int, *texts: str, program: str = "postfix/smtp") -> list[str]:
    """Return lines of a process."""
    return [f"Nov 24 02:07:28 host {program}[{pid}]: {text}" for text in texts]


def established(server: str = "mx.example[192.0.2.1]", trust: str = "Trusted", port: int = 25) -> str:
    """Return the line of a session."""
    return f"{trust} TLS connection established to {server}:{port}: TLSv1.3 with cipher X"


def to(
    user: str,
    why: str = "",
    *,
    server: str = "mx.example[192.0.2.1]",
    port: int = 25,
    queue_id: str = "4F5C925602B",
    use: str = "",
    delays: str = "0.01",
) -> str:
    """Return the line of a recipient: sent, or deferred for a reason."""
    status = f"deferred ({why})" if why else "sent (250 ok)"
    relay = f"{server}:{port}" if server else "none"
    return f"{queue_id}: to=<{user}>, relay={relay}, {use}delay=1, delays={delays}/0/0/0, dsn=2.0.0, status={status}"


def told(found: list[joining.Attempt]) -> list[tuple[str, str | None, str | None, str | None]]:
    """Return next hop, server, trust and what went wrong of each; in brackets where it did not stop the mail."""

    def problem(one: joining.Attempt) -> str | None:
        word = str(one.problem.result_type) if one.problem else None
        return f"({word})" if word and not one.stopped else word

    return [(one.next_hop, one.server.host if one.server else None, one.trust, problem(one)) for one in found]


NOT_OFFERED = "TLS is required, but was not offered by host {}"
ONE = ("a.example", "mx.example", "Trusted", None)
TWO = "mx2.example[2001:db8::2]"
WRONG_NAME = "server certificate verification failed for mx.example[192.0.2.1]:25: num=62:hostname mismatch"
NO_PROXY = "warning: connect to private/tlsproxy service: Connection refused"
NO_HANDSHAKE = "Cannot start TLS: handshake failure"
NOT_VERIFIED = "Server certificate not verified"

CASES: list[tuple[str, list[str], list[tuple[str, str | None, str | None, str | None]]]] = [
    ("one recipient", of(1, established(), to("u@a.example")), [ONE]),
    (
        "ten recipients are one session",
        of(1, established(), *[to(f"u{number}@a.example") for number in range(10)]),
        [ONE],
    ),
    (
        "ten recipients that were refused are one session",
        of(1, *[to(f"u{number}@a.example", NOT_OFFERED.format("mx.example[192.0.2.1]")) for number in range(10)]),
        [("a.example", "mx.example", None, "starttls-not-supported")],
    ),
    (
        "the next try is another one",
        of(
            1,
            to("u@a.example", NOT_OFFERED.format("mx.example[192.0.2.1]"), delays="0.01"),
            to("u@a.example", NOT_OFFERED.format("mx.example[192.0.2.1]"), delays="300"),
        ),
        [("a.example", "mx.example", None, "starttls-not-supported")] * 2,
    ),
    (
        "a connection used again makes no session",
        of(
            1,
            established(),
            to("u@a.example"),
            to("u@a.example", queue_id="5F5C925602B", use="conn_use=2, "),
            "Trusted TLS connection reused to mx.example[192.0.2.1]:25: TLSv1.3",
            to("u@a.example", queue_id="6F5C925602B", use="conn_use=3, "),
        ),
        [ONE],
    ),
    (
        "two servers, the first without STARTTLS",
        of(
            1,
            "4F5C925602B: " + NOT_OFFERED.format("mx.example[192.0.2.1]"),
            established(TWO, "Verified"),
            to("u@a.example", server=TWO),
        ),
        [("a.example", "mx.example", None, "starttls-not-supported"), ("a.example", "mx2.example", "Verified", None)],
    ),
    (
        "two servers, both with a wrong certificate",
        of(
            1,
            WRONG_NAME,
            established(trust="Untrusted"),
            f"4F5C925602B: {NOT_VERIFIED}",
            f"certificate verification failed for {TWO}:25: self-signed certificate",
            established(TWO, "Untrusted"),
            to("u@a.example", NOT_VERIFIED, server=TWO),
            to("v@a.example", NOT_VERIFIED, server=TWO),
        ),
        [
            ("a.example", "mx.example", "Untrusted", "certificate-host-mismatch"),
            ("a.example", "mx2.example", "Untrusted", "certificate-not-trusted"),
        ],
    ),
    (
        "a wrong certificate that nobody minds",
        of(1, WRONG_NAME, established(trust="Untrusted"), to("u@a.example")),
        [("a.example", "mx.example", "Untrusted", "(certificate-host-mismatch)")],
    ),
    (
        "Postfix before 3.6 does not tell why: a good issuer, so it is the name",
        of(1, established(), to("u@a.example", NOT_VERIFIED)),
        [("a.example", "mx.example", "Trusted", "certificate-host-mismatch")],
    ),
    (
        "a failed handshake, then plaintext to the same server",
        of(1, "SSL_connect error to mx.example[192.0.2.1]:25: -1", to("u@a.example")),
        [("a.example", "mx.example", None, "validation-failure")],
    ),
    ("plaintext", of(1, to("u@a.example")), [("a.example", "mx.example", None, None)]),
    ("plaintext, ten recipients", of(1, *[to("u@a.example")] * 10), [("a.example", "mx.example", None, None)]),
    ("plaintext, not sent", of(1, to("u@a.example", "connect timed out")), []),
    ("plaintext, from a service that never used TLS", of(1, to("u@a.example"), program="other/smtp"), []),
    ("plaintext over a connection used again", of(1, to("u@a.example", use="conn_use=2, ")), []),
    ("no server at all", of(1, to("u@a.example", "no TLSA records found", server="")), []),
    (
        "another port is another next hop",
        of(1, established(port=587), to("u@a.example", port=587)),
        [("mx.example", "mx.example", "Trusted", None)],
    ),
    (
        "a relay host is the next hop",
        of(1, established("relay.example[192.0.2.7]"), to("u@a.example", server="relay.example[192.0.2.7]")),
        [("relay.example", "relay.example", "Trusted", None)],
    ),
    (
        "a relay host told by its address",
        of(1, established("x.example[192.0.2.8]"), to("u@a.example", server="x.example[192.0.2.8]")),
        [("x.example", "x.example", "Trusted", None)],
    ),
    (
        "two processes mixed",
        list(
            itertools.chain.from_iterable(
                zip(
                    of(1, established(), to("u@a.example")),
                    of(2, established(TWO), to("u@b.example", server=TWO)),
                    strict=True,
                )
            )
        ),
        [ONE, ("b.example", "mx2.example", "Trusted", None)],
    ),
    (
        "the same process ID on another host",
        [
            *of(1, established()),
            "Nov 24 02:07:28 other postfix/smtp[1]: " + to("u@b.example", server=TWO, use="conn_use=2, "),
            *of(1, to("u@a.example")),
        ],
        [ONE],
    ),
    (
        "a process that dies takes its sessions with it",
        of(1, established(), "fatal: watchdog timeout", to("u@b.example", "x", server="")),
        [],
    ),
    (
        "with connection reuse, tlsproxy knows about certificates",
        [
            *of(9, WRONG_NAME, program="postfix/tlsproxy"),
            *of(1, established(trust="Untrusted"), to("u@a.example", NOT_VERIFIED)),
        ],
        [("a.example", "mx.example", "Untrusted", "certificate-host-mismatch")],
    ),
    (
        "with connection reuse, tlsproxy knows about TLSA records",
        [
            *of(
                9,
                "warning: mx.example[192.0.2.1]:25: all TLSA records unusable, fallback to unauthenticated TLS",
                WRONG_NAME,
                program="postfix/tlsproxy",
            ),
            *of(1, established(), to("u@a.example")),
        ],
        [("a.example", "mx.example", "Trusted", "(tlsa-invalid)")],
    ),
    (
        "with connection reuse, tlsproxy knows about handshakes",
        [
            *of(9, "SSL_connect error to mx.example[192.0.2.1]:25: -1", program="postfix/tlsproxy"),
            *of(1, *[to(user, "Cannot start TLS: handshake failure") for user in ("u@a.example", "v@a.example")]),
        ],
        [("a.example", "mx.example", None, "validation-failure")],
    ),
    (
        "without tlsproxy no server is to blame, however many there are",
        of(
            1,
            NO_PROXY,
            f"4F5C925602B: {NO_HANDSHAKE}",
            NO_PROXY,
            *[to(user, NO_HANDSHAKE, server=TWO) for user in ("u@a.example", "v@a.example")],
        ),
        [],
    ),
    (
        "without tlsproxy only the server before is to blame",
        of(
            1,
            "SSL_connect error to mx.example[192.0.2.1]:25: -1",
            f"4F5C925602B: {NO_HANDSHAKE}",
            NO_PROXY,
            *[to(user, NO_HANDSHAKE, server=TWO) for user in ("u@a.example", "v@a.example")],
        ),
        [("a.example", "mx.example", None, "validation-failure")],
    ),
    (
        "without tlsproxy, but in plaintext; the next one is to blame",
        of(
            1,
            NO_PROXY,
            f"4F5C925602B: {NO_HANDSHAKE}",
            to("u@a.example"),
            to("u@b.example", NO_HANDSHAKE, queue_id="5F5C925602B"),
        ),
        [("a.example", "mx.example", None, None), ("b.example", "mx.example", None, "validation-failure")],
    ),
    (
        "with tlsproxy there again, one is",
        of(1, NO_PROXY, to("u@a.example", NO_HANDSHAKE), to("u@a.example", NO_HANDSHAKE, queue_id="5F5C925602B")),
        [("a.example", "mx.example", None, "validation-failure")],
    ),
    (
        "unusable TLSA records",
        of(
            1,
            "warning: mx.example[192.0.2.1]:25: all TLSA records unusable, fallback to unauthenticated TLS",
            established(),
            to("u@a.example"),
        ),
        [("a.example", "mx.example", "Trusted", "(tlsa-invalid)")],
    ),
]


@pytest.mark.parametrize(("lines", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_sessions_are_counted_not_lines(
    lines: list[str], expected: list[tuple[str, str | None, str | None, str | None]]
) -> None:
    """Each with the domain it was for."""
    assert told(attempts(lines, relayhosts=("Relay.example.", "192.0.2.8"))) == expected


SCENARIOS = [
    lines for _, lines, _ in CASES if len({re.sub(r".*\[([0-9]+)\]: .*", r"\1", line) for line in lines}) == 1
] + [row["lines"] for row in SEVEN.values()]


@hypothesis.given(
    strategies.lists(strategies.lists(strategies.sampled_from(SCENARIOS), max_size=4), min_size=1, max_size=5),
    strategies.randoms(use_true_random=False),
)
def test_any_interleaving_gives_the_same_sessions(processes: list[list[list[str]]], chance: random.Random) -> None:
    """What several processes write at once, each in its order."""
    pending = []
    for pid, scenarios in enumerate(processes, start=1):
        own = [f"/smtp[{pid}]: {line.split(']: ', 1)[1]}" for lines in scenarios for line in lines]
        pending.append([f"Nov 24 02:07:28 host postfix{text}" for text in own])
    apart = attempts([line for own in pending for line in own])
    mixed = []
    while pending := [own for own in pending if own]:
        mixed.append(chance.choice(pending).pop(0))
    assert collections.Counter(attempts(mixed)) == collections.Counter(apart)


STEP = joining.REQUEST_SPAN // 4
"""Bytes between two lines, so that what is remembered reaches back four lines, or to the oldest open one."""


@hypothesis.given(
    strategies.lists(strategies.sampled_from(SCENARIOS), min_size=1, max_size=12),
    strategies.randoms(use_true_random=False),
)
def test_who_reads_again_from_the_oldest_open_line_finds_the_same(
    scenarios: list[list[str]], chance: random.Random
) -> None:
    """Whatever line it stopped at: all that comes after it."""
    processes = [[one.replace("smtp[1]", f"smtp[{chance.randint(1, 3)}]") for one in lines] for lines in scenarios]
    lines = [line for process in processes for line in process]
    if chance.random() < 0.5:
        chance.shuffle(lines)
    stop = chance.randrange(len(lines))
    whole, oldest = positioned(lines, 0, stop)
    start = min(stop if oldest is None else oldest // STEP, max(0, stop - joining.REQUEST_SPAN // STEP))
    again, _ = positioned(lines, start, stop)
    assert [found for found in again if found[0] > stop] == [found for found in whole if found[0] > stop]
    assert [found for found in again if found[0] == stop] == [found for found in whole if found[0] == stop]


def positioned(lines: list[str], start: int, stop: int) -> tuple[list[tuple[int, joining.Attempt]], int | None]:
    """Return attempts with the number of their line, and the oldest open position before the line ``stop``."""
    joiner = joining.Joiner((), LOG)
    found = []
    oldest = None
    for number, text in enumerate(lines[start:], start=start):
        line = postfixlog.parse(text.encode())
        event = postfixlog.event(line.text) if line else None
        if number == stop:
            oldest = joiner.oldest
        if line is not None and event is not None:
            found += [(number, attempt) for attempt in joiner.feed(line, event, number * STEP)]
    return found, oldest


def feed_many(joiner: joining.Joiner, texts: Callable[[int], list[str]], count: int, step: int) -> int:
    """Feed lines far apart; return how many attempts came."""
    found = 0
    at = 0
    for number in range(count):
        for text in texts(number):
            line = postfixlog.parse(text.encode())
            assert line is not None
            event = postfixlog.event(line.text)
            assert event is not None
            found += len(joiner.feed(line, event, at))
            at += step
    return found


def test_memory_is_bounded_whatever_the_log_says() -> None:
    """Processes that never deliver, sessions that never end, servers nobody comes to."""
    joiner = joining.Joiner()
    many = 3 * joining.MAX_PROCESSES
    feed_many(joiner, lambda pid: of(pid, established()), many, 1)
    assert joiner.unjoined == many - joining.MAX_PROCESSES
    feed_many(joiner, lambda _: of(1, established()), 2 * joining.MAX_OPEN, 1)
    assert len(joiner._processes) <= joining.MAX_PROCESSES
    feed_many(
        joiner,
        lambda number: of(1, WRONG_NAME.replace("192.0.2.1", f"2001:db8::{number:x}"), program="x/tlsproxy"),
        2 * joining.MAX_PROXIED,
        1,
    )
    assert len(joiner._proxied) <= joining.MAX_PROXIED + 1
    feed_many(joiner, lambda pid: of(1, established(), program=f"x{pid}/smtp"), 100, 1)
    assert len(joiner.services) == joining.MAX_SERVICES


def test_a_session_whose_process_was_killed_is_forgotten() -> None:
    """Else it would hold the bookmark where it is for ever."""
    joiner = joining.Joiner()
    feed_many(joiner, lambda _: of(1, established()), 1, 1)
    held = joiner.oldest
    feed_many(joiner, lambda _: of(2, to("u@b.example", "x")), 3, joining.OPEN_SPAN)
    assert (held, joiner.oldest, joiner.unjoined) == (0, 2 * joining.OPEN_SPAN, 1)


# What Postfix 3.7 logs against what Postfix 3.10 sends, in the same 50 scenarios.

NEVER = {
    "record": "the log has no TLSRPT record; the reporter looks it up",
    "sending_mta_ip": "not logged",
    "receiving_mx_helo": "not logged",
    "tlsa policy strings": "not logged, and not in the policy socket's answer",
}
"""What no session has; left out of all comparisons (FIELD: sending IP, EHLO, which policy)."""

UNKNOWN_REASON = "certificate_reason"
MORE = "more"
LESS = "less"

EXCEPTIONS = {
    "a7-no-tlsrpt-record": (MORE, "3.10 asks for the TLSRPT record and sends nothing; the reporter drops the session"),
    "a8-two-tlsrpt-records": (MORE, "the same: two records are none"),
    "c3-sts-untrusted-issuer-unknown": (UNKNOWN_REASON, "one text for every issuer that is not trusted"),
    "c4-sts-untrusted-ca-in-chain": (UNKNOWN_REASON, "the same"),
    "c10-sts-policy-fetch-error": (LESS, "before 3.10 there is no policy_failure; the policy socket reports it itself"),
    "c11-sts-webpki-invalid": (LESS, "the same"),
    "c12-sts-policy-invalid": (LESS, "the same"),
    "c13-sts-validation-failure": (LESS, "the same"),
    "c15-sts-mx-not-in-policy": (MORE, "before 3.10 there are no mx_host_pattern: the host is tried, and told"),
    "c19-sts-testing-as-may-no-starttls": (MORE, "plaintext under a policy in testing: 3.10 says nothing of it"),
    "c27-unknown-attr": (MORE, "3.10 does not report by a policy with an attribute it does not know"),
    "c28-policy-type-tlsa-attr": (MORE, "the same for a policy_type it does not expect"),
}
"""Scenarios in which the sessions differ, each with the reason; ``docs/before-postfix-3.10.md`` has them, too."""


def asked_for(answer: str | None) -> applied.Applied:
    """Return what a domain asks for, from the answer that Postfix 3.10 got."""
    level, _, rest = (answer or "").partition(" ")
    if level in {"dane", "dane-only"}:
        return applied.Applied(verdict.Level(level), None)
    if "policy_type=sts" not in rest:
        return applied.NOTHING
    lines = re.findall(r"{ policy_string = ([^}]*) }", rest)
    policy = mtasts.parse_policy("\n".join(lines).encode())
    enforced = policy.mode is mtasts.Mode.ENFORCE
    return applied.Applied(verdict.Level.SECURE if enforced else verdict.Level.NONE, policy)


def derivable(told: session.Session, *, reason: bool) -> tuple[object, ...]:
    """Return a session without what the log never has."""
    results = []
    for result in told.results:
        strings = () if result.policy.type is session.PolicyType.TLSA else result.policy.strings
        failures = [
            (one.result_type, one.receiving_mx_hostname, one.receiving_ip, one.failure_reason_code if reason else "")
            for one in result.failures
        ]
        policy = (result.policy.type, result.policy.domain, strings, result.policy.mx_hosts)
        results.append((policy, result.failed, tuple(failures)))
    return (told.domain, tuple(results))


def derived(label: str) -> list[session.Session]:
    """Return the sessions of Postfix 3.7's log."""
    made = [applied.datagram(one, asked_for(TEN[label]["policy_answer"])) for one in attempts(SEVEN[label]["lines"])]
    return [datagram.decode(octets) for octets in made if octets is not None]


@pytest.mark.parametrize("label", TEN)
def test_the_log_of_postfix_3_7_gives_the_sessions_of_postfix_3_10(label: str) -> None:
    """Except for what is listed, and there in the way that is listed."""
    kind, _ = EXCEPTIONS.get(label, ("", ""))
    exact = kind != UNKNOWN_REASON
    ours = [derivable(one, reason=exact) for one in derived(label)]
    theirs = [derivable(datagram.decode(one.encode()), reason=exact) for one in TEN[label]["datagrams"]]
    if kind == MORE:
        assert theirs == []
        assert len(ours) == 1
    elif kind == LESS:
        assert [one[0] for one in ours] == [one[0] for one in theirs]
        assert not derived(label)[0].results[0].failed
        assert ours != theirs
    else:
        assert ours == theirs


def test_no_exception_is_needless() -> None:
    """Each is a scenario; the reason that is unknown would differ."""
    assert EXCEPTIONS.keys() <= TEN.keys()
    for label in (label for label, (kind, _) in EXCEPTIONS.items() if kind == UNKNOWN_REASON):
        theirs = [derivable(datagram.decode(one.encode()), reason=True) for one in TEN[label]["datagrams"]]
        assert [derivable(one, reason=True) for one in derived(label)] != theirs


def test_the_document_tells_every_exception() -> None:
    """Of both kinds, by its label."""
    text = (pathlib.Path(__file__).parents[2] / "docs" / "before-postfix-3.10.md").read_text()
    for label, (_, reason) in EXCEPTIONS.items():
        assert f"`{label}`" in text, reason


ENFORCE = applied.Applied(
    verdict.Level.SECURE, mtasts.parse_policy(b"version: STSv1\nmode: enforce\nmx: mx.example\nmax_age: 86400")
)
TESTING = applied.Applied(
    verdict.Level.NONE, mtasts.parse_policy(b"version: STSv1\nmode: testing\nmx: mx.example\nmax_age: 86400")
)
OFF = applied.Applied(verdict.Level.NONE, mtasts.parse_policy(b"version: STSv1\nmode: none\nmax_age: 86400"))
DANE = applied.Applied(verdict.Level.DANE, TESTING.sts)
DANE_ONLY = applied.Applied(verdict.Level.DANE_ONLY, None)

GOOD = of(1, established(), to("u@a.example"))
BETTER = of(1, established(trust="Verified"), to("u@a.example"))
BAD = of(1, established(trust="Untrusted"), to("u@a.example"))
STOPPED = of(1, WRONG_NAME, established(trust="Untrusted"), to("u@a.example", NOT_VERIFIED))
NOTICED = of(1, WRONG_NAME, established(trust="Untrusted"), to("u@a.example"))
PLAIN = of(1, to("u@a.example"))
ELSEWHERE = of(1, established(TWO), to("u@a.example", server=TWO))
NO_TLSA = of(
    1,
    "server certificate verification failed for mx.example[192.0.2.1]:25: num=65:no matching DANE TLSA records",
    established(trust="Untrusted"),
    to("u@a.example", NOT_VERIFIED),
)

BY_POLICY: list[tuple[str, list[str], applied.Applied, tuple[str, str, str | None] | None]] = [
    ("nothing, good", GOOD, applied.NOTHING, ("no-policy-found", "a.example", None)),
    ("nothing, bad", BAD, applied.NOTHING, ("no-policy-found", "a.example", None)),
    ("nothing, plaintext", PLAIN, applied.NOTHING, None),
    ("nothing, stopped", STOPPED, applied.NOTHING, ("no-policy-found", "a.example", "certificate-host-mismatch")),
    ("nothing known, but DANE", NO_TLSA, applied.NOTHING, ("tlsa", "mx.example", "certificate-not-trusted")),
    ("mode none", BAD, OFF, ("no-policy-found", "a.example", None)),
    ("enforced, verified", BETTER, ENFORCE, ("sts", "a.example", None)),
    ("enforced, stopped", STOPPED, ENFORCE, ("sts", "a.example", "certificate-host-mismatch")),
    ("testing, good", GOOD, TESTING, ("sts", "a.example", None)),
    ("testing, bad", BAD, TESTING, ("sts", "a.example", "certificate-not-trusted")),
    ("testing, known why", NOTICED, TESTING, ("sts", "a.example", "certificate-host-mismatch")),
    ("testing, plaintext", PLAIN, TESTING, ("sts", "a.example", "starttls-not-supported")),
    ("testing, a host not in it", ELSEWHERE, TESTING, ("sts", "a.example", "validation-failure")),
    ("DANE, verified", BETTER, DANE, ("tlsa", "mx.example", None)),
    ("DANE, stopped", STOPPED, DANE, ("tlsa", "mx.example", "certificate-host-mismatch")),
    ("DANE, a host without TLSA records", GOOD, DANE, ("no-policy-found", "a.example", None)),
    ("DANE, no match", NO_TLSA, DANE_ONLY, ("tlsa", "mx.example", "certificate-not-trusted")),
    ("an address", of(1, established(), to("u@[192.0.2.1]")), applied.NOTHING, None),
    ("no domain", of(1, established(), to("postmaster")), applied.NOTHING, None),
]


@pytest.mark.parametrize(
    ("lines", "asked", "expected"), [case[1:] for case in BY_POLICY], ids=[case[0] for case in BY_POLICY]
)
def test_the_policy_tells_what_a_failure_is(
    lines: list[str], asked: applied.Applied, expected: tuple[str, str, str | None] | None
) -> None:
    """Policy type, policy domain, and result type of the failure."""
    (attempt,) = attempts(lines)
    octets = applied.datagram(attempt, asked)
    if octets is None:
        assert expected is None
        return
    assert expected is not None
    (result,) = datagram.decode(octets).results
    failures = [failure.result_type for failure in result.failures]
    assert (result.policy.type, result.policy.domain) == expected[:2]
    assert failures == ([expected[2]] if expected[2] else [])
    assert result.failed is bool(failures)


def test_an_answer_that_cannot_be_read_is_none() -> None:
    """What the policy socket says when it cannot tell, or somebody else in its place."""
    for reply in (b"", b"TEMP later", b"OK", b"OK {}", b'OK {"level": "no such"}', b"OK [" * 1000, b"OK \xff"):
        assert applied.read(reply) is None
    assert applied.read(b"NOTFOUND ") == applied.NOTHING
