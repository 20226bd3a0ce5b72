"""The TLSRPT record of a domain through a real DNS server on loopback."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

import pytest

from policy import discovery, resolver, tlsrpt

Zone = Mapping[tuple[str, str], Sequence[str] | str]
Nameserver = Callable[[Zone], AbstractAsyncContextManager[str]]

ZONE: Zone = {
    ("_smtp._tls.example.com", "TXT"): ['"v=spf1 -all"', '"v=TLSRPTv1; rua=mailto:tls@" "example.com"'],
    ("_smtp._tls.alias.example", "CNAME"): ["_smtp._tls.example.com."],
    ("_smtp._tls.other.example", "TXT"): ['"v=spf1 -all"'],
    ("_smtp._tls.two.example", "TXT"): ['"v=TLSRPTv1; rua=mailto:a@two.example"', '"v=TLSRPTv1;"'],
    ("_smtp._tls.bad.example", "TXT"): ['"v=TLSRPTv1; mailto:tls@bad.example"'],
    ("_smtp._tls.fail.example", "TXT"): "SERVFAIL",
    ("plain.example", "TXT"): ['"v=TLSRPTv1; rua=mailto:tls@plain.example"'],
}

# id, domain, targets; None: does not ask for reports
DOMAINS = [
    ("one record among others", "example.com", ["tls@example.com"]),
    ("delegated by a CNAME", "alias.example", ["tls@example.com"]),
    ("other records only", "other.example", None),
    ("record at the wrong name", "plain.example", None),
    ("no such domain", "nowhere.example", None),
    ("longest domain", ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61]), None),
]

ERRORS = [
    ("two records", "two.example", tlsrpt.InvalidRecordError, "2 TLSRPT records"),
    ("unreadable record", "bad.example", tlsrpt.InvalidRecordError, "not name=value"),
    ("nobody knows", "fail.example", resolver.TemporaryError, "_smtp._tls.fail.example TXT: .* SERVFAIL"),
]


async def _ask(nameserver: Nameserver, domain: str) -> tlsrpt.Record | None:
    async with nameserver(ZONE) as server:
        return await discovery.tlsrpt_record(resolver.Resolver([server]), domain)


@pytest.mark.parametrize(("domain", "targets"), [pytest.param(*case[1:], id=case[0]) for case in DOMAINS])
def test_a_domain_asks_for_reports_or_does_not(nameserver: Nameserver, domain: str, targets: list[str] | None) -> None:
    """RFC 8460 section 3: the TXT records at _smtp._tls, wherever a CNAME leads."""
    record = asyncio.run(_ask(nameserver, domain))
    assert (record and [rua.target for rua in record.rua]) == targets


@pytest.mark.parametrize(("domain", "error", "text"), [pytest.param(*case[1:], id=case[0]) for case in ERRORS])
def test_broken_and_temporary_are_different_errors(
    nameserver: Nameserver, domain: str, error: type[Exception], text: str
) -> None:
    """Only one of the two is worth asking again today."""
    with pytest.raises(error, match=text):
        asyncio.run(_ask(nameserver, domain))
