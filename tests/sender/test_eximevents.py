"""Exim's events become sessions: the events of a real Exim 4.98 by scenario, made-up ones, and any octets at all."""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy import mtasts, verdict
from sender import applied, datagram, encoding, eximevents, eximjoining, eximjudging, session
from sender.eximjoining import Outcome

DATA = Path(__file__).parents[1] / "data" / "exim-4.98-events.txt"

TLSA, STS, NONE = session.PolicyType.TLSA, session.PolicyType.STS, session.PolicyType.NO_POLICY_FOUND

NO_STARTTLS = "starttls-not-supported"

NOW = 1_795_500_000.0
"""24 November 2026."""

# label, (policy, result type or None for success, reason) of each session
CAPTURED = [
    ("a1-nopolicy-success", [(NONE, None, None)]),
    ("a3-nopolicy-no-starttls-level-may", [(NONE, NO_STARTTLS, None)]),
    ("a4-nopolicy-starttls-refused-454", [(NONE, NO_STARTTLS, "starttls-refused")]),
    (
        "a5-nopolicy-handshake-garbage",  # two connections, the second in the clear: one session
        [(NONE, "validation-failure", "gnutls_handshake: An unexpected TLS packet was received.")],
    ),
    ("c1-sts-success", [(STS, None, None)]),
    ("c2-sts-hostname-mismatch", [(STS, "certificate-host-mismatch", "certificate verification failed")]),
    ("c6-sts-expired", [(STS, "validation-failure", "certificate verification failed: certificate invalid")]),
    ("d1-dane-311-success", [(TLSA, None, None)]),
    (
        "d2-dane-tlsa-mismatch",
        [
            (
                TLSA,
                "certificate-not-trusted",
                "certificate verification failed: Verification failed. The certificate differs.",
            )
        ],
    ),
    ("d13-dane-no-tlsa", [(NONE, None, None)]),
    ("d16-dane-bogus-dnssec", []),
    ("e2-tcp-refused", []),
]

DIFFERENT_FROM_POSTFIX = {
    "a3-nopolicy-no-starttls-level-may": "Postfix tells nothing of sessions without TLS where TLS is optional",
    "a4-nopolicy-starttls-refused-454": "the same",
    "c6-sts-expired": "these captures lack the end of the certificate, which the snippet sends",
}
"""Labels whose sessions are others than those of Postfix 3.10, and why."""

WITHOUT_POSTFIX = {"d13-dane-no-tlsa", "d16-dane-bogus-dnssec", "e2-tcp-refused"}
"""Labels that were captured with Exim only."""


def quoted(value: str) -> str:
    r"""Return what Exim's ``${quote:}`` makes of a value."""
    if re.fullmatch(r"[A-Za-z0-9_.-]+", value):
        return value
    escaped = re.sub(r'(["\\])', r"\\\1", value).replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def line(**fields: object) -> bytes:
    """Return an event as the snippet sends it."""
    return " ".join(f"{name}={quoted(str(value))}" for name, value in fields.items()).encode()


def captured() -> dict[str, list[bytes]]:
    """Return all events of the capture by label, as the snippet would have sent them."""
    events: dict[str, list[bytes]] = {}
    label = ""
    for row in DATA.read_text(encoding="utf-8").splitlines():
        if row.startswith("=== "):
            label = row[4:]
            events[label] = []
        elif row.startswith("EVENT "):
            fields = re.findall(r"(\w+)=(.*?)(?=  \w+=|$)", row)
            events[label].append(line(**{name: value.replace("\\n", "\n") for name, value in fields}))
    return events


def policy(mode: str, mx: str) -> applied.Applied:
    """Return what a domain with an MTA-STS policy asks for."""
    text = f"version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 604800\n"
    level = verdict.Level.SECURE if mode == "enforce" else verdict.Level.NONE
    return applied.Applied(level, mtasts.parse_policy(text.encode()))


def attempts(lines: Iterable[bytes]) -> list[eximjoining.Attempt]:
    """Return the attempts that lines tell of, a second apart."""
    joiner = eximjoining.Joiner()
    found: list[eximjoining.Attempt] = []
    now = 0.0
    for now, one in enumerate(lines, start=1):
        event = eximevents.parse(one)
        if event is not None:
            found += joiner.feed(event, now)
    return found + joiner.expire(now + eximjoining.SETTLE)


def sessions(lines: Iterable[bytes], asked: applied.Applied = applied.NOTHING) -> list[session.Session]:
    """Return the sessions that lines tell of, as the recorder gets to see them."""
    judged = (eximjudging.judge(attempt, asked, NOW) for attempt in attempts(lines))
    return [datagram.decode(encoding.encode(told)) for told in judged if told is not None]


def summary(told: session.Session) -> tuple[session.PolicyType, str | None, str | None]:
    """Return policy, result type and reason of a session."""
    (result,) = told.results
    assert result.failed == bool(result.failures)
    failure = result.failures[0] if result.failures else None
    return (
        result.policy.type,
        str(failure.result_type) if failure else None,
        failure.failure_reason_code if failure else None,
    )


def asked_of(label: str) -> applied.Applied:
    """Return what the domain of a label asks for."""
    return policy("enforce", f"mx.{label}.e2e.example") if label.startswith("c") else applied.NOTHING


@pytest.mark.parametrize(("label", "expected"), [pytest.param(*row, id=row[0]) for row in CAPTURED])
def test_captured_events_give_the_sessions_they_should(
    label: str, expected: list[tuple[session.PolicyType, str | None, str | None]]
) -> None:
    """One session for each attempt to set up TLS, with its policy and what went wrong."""
    found = sessions(captured()[label], asked_of(label))
    assert [summary(told) for told in found] == expected
    for told in found:
        (result,) = told.results
        assert told.domain == f"{label}.e2e.example"
        assert result.policy.domain == (f"mx.{told.domain}" if result.policy.type is TLSA else told.domain)
        for failure in result.failures:
            assert failure.receiving_mx_hostname == failure.receiving_mx_helo == f"mx.{told.domain}"
            assert failure.receiving_ip is not None
            assert failure.sending_mta_ip is not None


def test_every_scenario_is_in_the_table() -> None:
    """A capture that nobody looks at proves nothing."""
    assert list(captured()) == [label for label, _ in CAPTURED]


@pytest.mark.parametrize("label", [label for label, _ in CAPTURED if label not in WITHOUT_POSTFIX])
def test_exim_tells_what_postfix_tells(label: str, captures: dict[str, list[bytes]]) -> None:
    """The same scenario gives the same policy, outcome and result type as with Postfix 3.10, but for named ones."""
    of_postfix = [datagram.decode(one) for one in captures[label]]
    of_exim = sessions(captured()[label], asked_of(label))
    same = [summary(told)[:2] for told in of_exim] == [summary(told)[:2] for told in of_postfix]
    assert same != (label in DIFFERENT_FROM_POSTFIX)


FIRST = dict(  # noqa: C408  # fields of an event read as such
    event_name="smtp:ehlo",
    event_data="250-mx.example.net greets you\n250-SIZE 1\n250-STARTTLS\n250 HELP",
    event_defer_errno=0,
    pid=7,
    message_exim_id="1xVsQt-00021j-1X",
    domain="example.com",
    host="mx.example.net",
    host_address="192.0.2.25",
    host_port=25,
    sending_ip_address="192.0.2.1",
    tls_out_ver="",
    tls_out_certificate_verified=0,
    tls_out_dane="no",
    tls_out_tlsa_usage=0,
    certificate_notafter="",
    certificate_names="",
)
GOOD = {"tls_out_ver": "TLS1.3", "certificate_notafter": int(NOW) + 9, "certificate_names": "mx.example.net"}
VERIFIED = GOOD | {"tls_out_certificate_verified": 1}
PLAIN = {"event_data": "250-mx.example.net\n250 HELP"}
CLOSE = {"event_name": "tcp:close", "event_data": ""}
DEFER = {"event_name": "msg:host:defer", "event_defer_errno": -37}
BAD_CERTIFICATE = DEFER | {"event_data": "TLS session: (certificate verification failed): certificate invalid"}
WRONG_NAME = DEFER | {"event_data": "TLS session: (certificate verification failed)"}
BROKEN = DEFER | {"event_data": "TLS session: (gnutls_handshake): timed out"}
REQUIRED = DEFER | {"event_defer_errno": -38, "event_data": "a TLS session is required, but ..."}
DANE = {"event_name": "dane:fail", "event_data": "validation-failure"}
NOT_YET = {"event_name": "dane:fail", "host_port": -1, "event_data": "dnssec-invalid"}
EXPIRED = GOOD | {"certificate_notafter": int(NOW) - 1}
NEXT = {"host_address": "192.0.2.26", "event_defer_errno": -37}
OTHER_NAME = GOOD | {"certificate_names": "other.example,*.wrong.example"}
MISNAMED = OTHER_NAME | {"tls_out_certificate_verified": 1, "tls_out_tlsa_usage": 4}
WILDCARD = GOOD | {"certificate_names": "*.example.net"}
MANY_NAMES = GOOD | {"certificate_names": "x.example," * 800}
OPENSSL = "TLS session: (SSL_connect): error:0A000086:SSL routines::certificate verify failed"

ENFORCE, TESTING = policy("enforce", "mx.example.net"), policy("testing", "mx.example.net")
ELSEWHERE, OFF = policy("enforce", "mx.example.org"), applied.Applied(verdict.Level.NONE, None)
BY_DANE = applied.Applied(verdict.Level.DANE_ONLY, ENFORCE.sts)

# id, events (what is different from FIRST), what the domain asks for, (policy, result type) of each session
MADE_UP = [
    ("TLS", [{}, VERIFIED, CLOSE | VERIFIED], OFF, [(NONE, None)]),
    ("any certificate will do without a policy", [{}, EXPIRED, CLOSE | EXPIRED], OFF, [(NONE, None)]),
    ("the end was missed", [{}, VERIFIED], ENFORCE, [(STS, None)]),
    ("the beginning was missed", [CLOSE | VERIFIED], ENFORCE, []),
    ("EHLO inside of TLS was missed", [{}, CLOSE | VERIFIED], ENFORCE, [(STS, None)]),
    ("EHLO inside of TLS was missed, bad", [{}, CLOSE | GOOD], ENFORCE, []),
    ("TLS from the first octet", [VERIFIED, CLOSE | VERIFIED], OFF, [(NONE, None)]),
    ("another process ends it", [{}, VERIFIED, CLOSE | {"pid": 8, "host_port": -1}], OFF, [(NONE, None)]),
    ("no STARTTLS", [PLAIN, CLOSE], OFF, [(NONE, NO_STARTTLS)]),
    ("no STARTTLS, an enforced policy", [PLAIN, CLOSE], ENFORCE, [(STS, NO_STARTTLS)]),
    ("no EHLO, so no STARTTLS", [{"event_data": "502 unknown"}, CLOSE], OFF, [(NONE, NO_STARTTLS)]),
    ("STARTTLS in a text is no STARTTLS", [{"event_data": "250 mx STARTTLS"}, CLOSE], OFF, [(NONE, NO_STARTTLS)]),
    ("STARTTLS in small letters", [{"event_data": "250-mx\r\n250 starttls"}, VERIFIED], OFF, [(NONE, None)]),
    ("no time for us", [{"event_data": "421 later"}, CLOSE], OFF, []),
    ("STARTTLS is a must", [PLAIN, CLOSE, REQUIRED], ENFORCE, [(STS, NO_STARTTLS)]),
    ("STARTTLS is refused", [{}, CLOSE], TESTING, [(STS, NO_STARTTLS)]),
    ("STARTTLS is refused, and a must", [{}, CLOSE, REQUIRED], ENFORCE, [(STS, NO_STARTTLS)]),
    ("it broke off", [{}, CLOSE, DEFER | {"event_defer_errno": 104, "event_data": "reset"}], ENFORCE, []),
    ("the handshake fails", [{}, CLOSE, BROKEN], TESTING, [(STS, "validation-failure")]),
    (
        "the handshake fails, then in the clear",
        [{}, CLOSE, BROKEN, {"event_defer_errno": -37}, CLOSE],
        OFF,
        [(NONE, "validation-failure")],
    ),
    (
        "the handshake fails, then the next server",
        [{}, CLOSE, BROKEN, NEXT, NEXT | VERIFIED],
        OFF,
        [(NONE, "validation-failure"), (NONE, None)],
    ),
    ("expired, taken", [{}, EXPIRED, CLOSE | EXPIRED], TESTING, [(STS, "certificate-expired")]),
    ("expired, refused", [{}, CLOSE | EXPIRED, BAD_CERTIFICATE | EXPIRED], ENFORCE, [(STS, "certificate-expired")]),
    ("untrusted, taken", [{}, GOOD], TESTING, [(STS, "certificate-not-trusted")]),
    ("untrusted, refused", [{}, CLOSE | GOOD, BAD_CERTIFICATE | GOOD], ENFORCE, [(STS, "certificate-not-trusted")]),
    (
        "untrusted, refused by OpenSSL",
        [{}, CLOSE | GOOD, DEFER | {"event_data": OPENSSL}],
        ENFORCE,
        [(STS, "certificate-not-trusted")],
    ),
    ("another name, taken", [{}, OTHER_NAME], TESTING, [(STS, "certificate-host-mismatch")]),
    ("another name, refused", [{}, CLOSE | GOOD, WRONG_NAME | GOOD], ENFORCE, [(STS, "certificate-host-mismatch")]),
    ("a wildcard is for the host", [{}, WILDCARD], TESTING, [(STS, "certificate-not-trusted")]),
    ("names that were cut tell nothing", [{}, MANY_NAMES], TESTING, [(STS, "certificate-not-trusted")]),
    ("a snippet without the certificate", [{}, {"tls_out_ver": "TLS1.2"}], TESTING, [(STS, "validation-failure")]),
    ("not a host of the policy", [{}, VERIFIED], ELSEWHERE, [(STS, "validation-failure")]),
    ("a policy of mode none", [{}, GOOD], policy("none", "mx.example.net"), [(NONE, None)]),
    ("DANE", [{}, VERIFIED | {"tls_out_dane": "yes", "tls_out_tlsa_usage": 8}], BY_DANE, [(TLSA, None)]),
    ("DANE, another name, taken", [{}, MISNAMED], BY_DANE, [(TLSA, "certificate-host-mismatch")]),
    ("DANE that Exim does not do", [{}, VERIFIED], BY_DANE, [(STS, None)]),
    ("DANE fails", [{}, DANE | GOOD, CLOSE | GOOD, BAD_CERTIFICATE], BY_DANE, [(TLSA, "certificate-not-trusted")]),
    ("DANE fails, nobody says why", [{}, DANE, CLOSE], BY_DANE, [(TLSA, "validation-failure")]),
    ("DANE, the handshake fails", [{}, DANE, CLOSE, BROKEN], BY_DANE, [(TLSA, "validation-failure")]),
    ("DANE, no STARTTLS", [PLAIN, DANE | {"event_data": NO_STARTTLS}, CLOSE, REQUIRED], BY_DANE, [(TLSA, NO_STARTTLS)]),
    ("TLSA records cannot be had", [NOT_YET], BY_DANE, [(TLSA, "dnssec-invalid")]),
    ("DANE is a must", [NOT_YET | {"event_data": "dane-required"}], BY_DANE, [(TLSA, "dane-required")]),
    ("several domains", [{"domain": ""}, VERIFIED | {"domain": ""}], OFF, []),
    ("an address", [{"domain": "[192.0.2.9]"}, VERIFIED | {"domain": "[192.0.2.9]"}], OFF, []),
    ("U-labels", [{"domain": "bücher.example"}, VERIFIED | {"domain": "bücher.example"}], OFF, [(NONE, None)]),
    ("another port", [{"host_port": 587}, VERIFIED | {"host_port": 587}, CLOSE], OFF, []),
    ("a callout", [{"message_exim_id": ""}, VERIFIED | {"message_exim_id": ""}], OFF, [(NONE, None)]),
]


def made_up(events: list[dict[str, object]]) -> Iterator[bytes]:
    """Return lines."""
    for fields in events:
        yield line(**(FIRST | fields))


@pytest.mark.parametrize(("events", "asked", "expected"), [pytest.param(*row[1:], id=row[0]) for row in MADE_UP])
def test_events_give_sessions(
    events: list[dict[str, object]],
    asked: applied.Applied,
    expected: list[tuple[session.PolicyType, str | None]],
) -> None:
    """What a connection of Exim means by the policy of the domain."""
    assert [summary(told)[:2] for told in sessions(made_up(events), asked)] == expected


def test_a_failure_waits_for_its_reason_but_not_for_ever() -> None:
    """Refused STARTTLS is told some seconds after the end of the connection, once."""
    joiner = eximjoining.Joiner()
    for fields in ({}, CLOSE):
        event = eximevents.parse(line(**(FIRST | fields)))
        assert event is not None
        assert joiner.feed(event, 100.0) == []
    assert joiner.expire(100.0 + eximjoining.SETTLE - 0.1) == []
    (attempt,) = joiner.expire(100.0 + eximjoining.SETTLE)
    assert attempt.outcome is Outcome.REFUSED
    assert joiner.expire(100.0 + eximjoining.KEPT) == []


def test_connections_without_an_end_are_forgotten() -> None:
    """The process was killed: what is known already is told, the rest is counted."""
    joiner = eximjoining.Joiner()
    for pid, fields in enumerate(({}, PLAIN)):
        event = eximevents.parse(line(**(FIRST | fields | {"pid": pid})))
        assert event is not None
        joiner.feed(event, 0.0)
    (attempt,) = joiner.expire(eximjoining.KEPT)
    assert attempt.outcome is Outcome.NOT_OFFERED
    assert joiner.unjoined == 1


def test_memory_is_bounded() -> None:
    """More connections than are remembered at once: the oldest are forgotten, and told if they say something."""
    joiner = eximjoining.Joiner()
    event = eximevents.parse(line(**(FIRST | PLAIN)))
    assert event is not None
    more = 10
    told = 0
    for pid in range(eximjoining.MAX_CONNECTIONS + more):
        connection = dataclasses.replace(event.connection, pid=str(pid))
        told += len(joiner.feed(dataclasses.replace(event, connection=connection), 1.0))
    assert told == more
    assert len(joiner.end(2.0)) == eximjoining.MAX_CONNECTIONS


# id, line; none of them is an event
MALFORMED = [
    ("empty", b""),
    ("no name", b'pid=1 host="x"'),
    ("no fields", b"GET / HTTP/1.0"),
    ("an open quote", b'event_name="tcp:close'),
    ("an escape at the end", b'event_name="tcp:close\\'),
    ("no space between", b'event_name="tcp:close"pid=1'),
    ("octets", b"\xff\x00\xfe"),
    ("too many fields", b"event_name=x " + b" ".join(b"a%d=1" % number for number in range(eximevents.MAX_FIELDS))),
    ("too long", b'event_name="tcp:close" event_data=' + b"x" * eximevents.MAX_LINE),
]


@pytest.mark.parametrize("octets", [pytest.param(row[1], id=row[0]) for row in MALFORMED])
def test_what_is_no_event_is_told(octets: bytes) -> None:
    """Lines of something else are refused as such."""
    with pytest.raises(eximevents.MalformedError):
        eximevents.parse(octets)


def test_events_of_no_interest_are_passed_over() -> None:
    """A snippet that sends more events than it should does no harm."""
    assert eximevents.parse(b'event_name="tcp:connect" host=x') is None


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200))
def test_any_value_survives(value: str) -> None:
    """Line ends, quotes, backslashes, spaces: what Exim puts in comes out."""
    event = eximevents.parse(line(event_name="tcp:close", event_data=value, pid=5))
    assert event is not None
    assert event.data == value
    assert event.connection.pid == "5"


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(sum(captured().values(), []))), max_size=30))  # noqa: RUF017  # short lists
def test_any_octets_crash_nothing(lines: list[bytes]) -> None:
    """Octets are events or malformed; events in any order give sessions that can be counted, or none."""
    joiner = eximjoining.Joiner()
    found: list[eximjoining.Attempt] = []
    for octets in lines:
        try:
            event = eximevents.parse(octets)
        except eximevents.MalformedError:
            continue
        if event is not None:
            found += joiner.feed(event, 0.0)
    for attempt in found + joiner.end(0.0):
        told = eximjudging.judge(attempt, ENFORCE, NOW)
        assert told is not None
        assert datagram.decode(encoding.encode(told)).domain == told.domain


_ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_FIELDS = {name: st.one_of(_ANY, st.just(str(value))) for name, value in FIRST.items()}


@given(
    st.lists(
        st.fixed_dictionaries(
            {"event_name": st.sampled_from(list(eximevents.Name))}
            | {name: strategy for name, strategy in _FIELDS.items() if name != "event_name"}
        ),
        max_size=6,
    )
)
def test_any_values_give_sessions_that_can_be_counted(events: list[dict[str, str]]) -> None:
    """Whatever a stranger's host says, the recorder gets datagrams that are not malformed."""
    lines = [line(**fields) for fields in events]
    for told in sessions(lines, TESTING):
        assert told.results
