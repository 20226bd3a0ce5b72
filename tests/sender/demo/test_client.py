"""The sending MTA against receiving MTAs of every temper: real SMTP and TLS on loopback."""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import pytest

from sender.demo import certificates, client, dns, mailbox, mx, zone

DOMAIN = "rcpt.example"
RECORD = f"v=TLSRPTv1; rua=mailto:tls@{DOMAIN}"
NO_POLICY = {"policy-type": 9, "policy-domain": DOMAIN}

# temper, code and reason with MTA-STS; code and reason without (None: Postfix sends nothing), delivered without
SESSIONS: list[tuple[mx.Temper, tuple[int, str | None] | None, str, bool]] = [
    (mx.Temper.GOOD, None, "success", True),
    (mx.Temper.EXPIRED, (204, None), "success", True),
    (mx.Temper.WRONG_NAME, (202, None), "success", True),
    (mx.Temper.UNKNOWN_ISSUER, (205, "unable_to_get_local_issuer_certificate"), "success", True),
    (mx.Temper.SELF_SIGNED, (205, "self-signed_certificate"), "success", True),
    (mx.Temper.NO_STARTTLS, (201, None), "nothing", True),
    (mx.Temper.REFUSES_STARTTLS, (201, None), "nothing", True),
    (mx.Temper.GARBLES_HANDSHAKE, (205, "tls-handshake-failure"), "failure", False),
    (mx.Temper.HANGS_UP, (205, "tls-handshake-failure"), "failure", False),
]


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a delivery showed on both sides."""

    attempts: list[client.Attempt]
    messages: list[mailbox.Message]


def _deliver(
    tempers: Sequence[mx.Temper], policy: client.Sts | None, records: tuple[zone.Record, ...] = (zone.Txt(RECORD),)
) -> Outcome:
    async def deliver() -> Outcome:
        authority = certificates.Authority()
        routes, mtas = {}, []
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(dns.Server())
            server.zone.put(f"_smtp._tls.{DOMAIN}", *records)
            for place, temper in enumerate(tempers):
                host = f"mx{place}.{DOMAIN}"
                mta = await stack.enter_async_context(mx.Mta(host, temper, authority))
                mtas.append(mta)
                routes[host] = mta.port
                server.zone.put(DOMAIN, zone.Mx(place, host))
                server.zone.put(host, zone.A("127.0.0.1"))
            policies = {DOMAIN: policy} if policy else {}
            sender = client.Mta(server.address, routes, authority.client_context(), policies)
            attempts = [attempt async for attempt in sender.send(DOMAIN)]
        return Outcome(attempts, [message for mta in mtas for message in mta.mailbox.messages])

    return asyncio.run(deliver())


def _policy_of(attempt: client.Attempt) -> dict[str, Any]:
    """Return the one policy of a datagram after checking what is around it."""
    assert attempt.datagram is not None
    decoded = json.loads(attempt.datagram)
    assert (decoded["d"], decoded["pr"], len(decoded["policies"])) == (DOMAIN, RECORD, 1)
    policy: dict[str, Any] = decoded["policies"][0]
    return policy


def _failures(*failures: tuple[int, str | None], starttls: bool) -> dict[str, Any]:
    ehlo = ["250-mx0.rcpt.example", "250-SIZE 33554432", "250-8BITMIME", "250-STARTTLS", "250 HELP"]
    lines = [line for line in ehlo if starttls or "STARTTLS" not in line]
    details = [
        {"c": code, "s": "127.0.0.1", "n": "mx0.rcpt.example", "h": "\r\n".join(lines), "r": "127.0.0.1"}
        | ({"f": reason} if reason else {})
        for code, reason in failures
    ]
    return {"failure-details": details, "t": len(details), "f": int(bool(details))}


@pytest.mark.parametrize(
    ("temper", "failure"), [case[:2] for case in SESSIONS], ids=[case[0].value for case in SESSIONS]
)
def test_with_mta_sts_only_a_verified_session_delivers(
    temper: mx.Temper, failure: tuple[int, str | None] | None
) -> None:
    """Each temper gives the datagram Postfix sends at level secure, and mail passes only when all is well."""
    outcome = _deliver([temper], client.Sts(("mx0.rcpt.example",)))
    (attempt,) = outcome.attempts
    sts = {
        "policy-type": 2,
        "policy-domain": DOMAIN,
        "policy-string": ["version: STSv1", "mode: enforce", "mx: mx0.rcpt.example", "max_age: 604800"],
        "mx-host": ["mx0.rcpt.example"],
    }
    starttls = temper is not mx.Temper.NO_STARTTLS
    ending = _failures(failure, starttls=starttls) if failure else {"t": 0, "f": 0}
    assert _policy_of(attempt) == sts | ending
    assert (attempt.delivered, len(outcome.messages)) == (failure is None, int(failure is None))


@pytest.mark.parametrize(
    ("temper", "reported", "delivered"),
    [(temper, reported, delivered) for temper, _, reported, delivered in SESSIONS],
    ids=[case[0].value for case in SESSIONS],
)
def test_without_policy_tls_is_opportunistic(temper: mx.Temper, reported: str, *, delivered: bool) -> None:
    """Any certificate will do; plain text is not reported at all; a broken handshake is."""
    outcome = _deliver([temper], None)
    (attempt,) = outcome.attempts
    if reported == "nothing":
        assert attempt.datagram is None
    elif reported == "success":
        assert _policy_of(attempt) == NO_POLICY | {"t": 0, "f": 0}
    else:
        assert _policy_of(attempt) == NO_POLICY | _failures((205, "tls-handshake-failure"), starttls=True)
    encrypted = [message.tls for message in outcome.messages]
    assert (attempt.delivered, encrypted) == (delivered, [reported == "success"] if delivered else [])


def test_the_next_mx_is_tried_and_each_attempt_reported() -> None:
    """Two MX tried make two datagrams."""
    policy = client.Sts((f"*.{DOMAIN}",))
    outcome = _deliver([mx.Temper.EXPIRED, mx.Temper.GOOD, mx.Temper.GOOD], policy)
    seen = [(attempt.mx_host, attempt.delivered, _policy_of(attempt)["f"]) for attempt in outcome.attempts]
    assert seen == [("mx0.rcpt.example", False, 1), ("mx1.rcpt.example", True, 0)]


def test_an_mx_outside_the_policy_is_not_tried_nor_reported() -> None:
    """Postfix is silent about an MX that the policy does not name."""
    outcome = _deliver([mx.Temper.GOOD, mx.Temper.GOOD], client.Sts(("mx1.rcpt.example",)))
    seen = [(attempt.mx_host, attempt.delivered, attempt.datagram is None) for attempt in outcome.attempts]
    assert seen == [("mx0.rcpt.example", False, True), ("mx1.rcpt.example", True, False)]


PATTERNS = [
    ("same", "mx.a.example", "mx.a.example", True),
    ("other", "mx.a.example", "mx.b.example", False),
    ("wildcard", "*.a.example", "mx.a.example", True),
    ("wildcard-is-one-label", "*.a.example", "mx.eu.a.example", False),
    ("wildcard-is-a-label", "*.a.example", "a.example", False),
]


@pytest.mark.parametrize(("pattern", "host", "allowed"), [case[1:] for case in PATTERNS], ids=[c[0] for c in PATTERNS])
def test_mx_patterns(pattern: str, host: str, *, allowed: bool) -> None:
    """Patterns match as RFC 8461 section 4.1 says."""
    assert client.Sts((pattern,)).allows(host) is allowed


@pytest.mark.parametrize(
    "records",
    [(), (zone.Txt(RECORD), zone.Txt(RECORD + "x")), (zone.Txt("v=spf1 -all"),), (zone.Txt("v=TLSRPTv12; rua=x"),)],
    ids=["none", "two", "something-else", "another-version"],
)
def test_without_one_tlsrpt_record_nothing_is_reported(records: tuple[zone.Record, ...]) -> None:
    """No record, or two, means no datagram, while mail flows."""
    outcome = _deliver([mx.Temper.GOOD], None, records)
    assert [(attempt.delivered, attempt.datagram) for attempt in outcome.attempts] == [(True, None)]


def test_nobody_listening_is_no_tls_matter() -> None:
    """A refused connection gives no datagram."""

    async def deliver() -> list[client.Attempt]:
        authority = certificates.Authority()
        async with dns.Server() as server:
            async with mx.Mta("mx.rcpt.example", mx.Temper.GOOD, authority) as mta:
                port = mta.port
            server.zone.put(DOMAIN, zone.Mx(10, "mx.rcpt.example"), zone.Mx(20, "nowhere.rcpt.example"))
            server.zone.put("mx.rcpt.example", zone.A("127.0.0.1"))
            sender = client.Mta(server.address, {"mx.rcpt.example": port}, authority.client_context(), {})
            return [attempt async for attempt in sender.send(DOMAIN)]

    attempts = asyncio.run(deliver())
    assert [(attempt.delivered, attempt.tls, attempt.datagram) for attempt in attempts] == [(False, None, None)] * 2


def test_a_refused_message_is_still_a_good_session() -> None:
    """TLS worked, so success is reported although the recipient is refused."""

    async def deliver() -> list[client.Attempt]:
        authority = certificates.Authority()
        async with dns.Server() as server, mx.Mta("mx.rcpt.example", mx.Temper.GOOD, authority) as mta:
            mta.mailbox.program(f"postmaster@{DOMAIN}", mailbox.Reply(550))
            server.zone.put(DOMAIN, zone.Mx(10, "mx.rcpt.example"))
            server.zone.put(f"_smtp._tls.{DOMAIN}", zone.Txt(RECORD))
            server.zone.put("mx.rcpt.example", zone.A("127.0.0.1"))
            sender = client.Mta(server.address, {"mx.rcpt.example": mta.port}, authority.client_context(), {})
            return [attempt async for attempt in sender.send(DOMAIN)]

    (attempt,) = asyncio.run(deliver())
    assert (attempt.delivered, _policy_of(attempt)) == (False, NO_POLICY | {"t": 0, "f": 0})
