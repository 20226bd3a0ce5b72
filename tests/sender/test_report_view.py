"""Reports as tables for people: complete, at 80 columns, literal."""

import datetime as dt
import io

import pytest
from rich import console

from sender import config, report, report_view, session

IDENTITY = config.Identity(
    name="Sender [red]x[/red] Inc.",
    domain="sender.example",
    contact="tls-reports@sender.example",
    sender="noreply@sender.example",
)
STS = session.Policy(
    session.PolicyType.STS,
    "a.example",
    ("version: STSv1", "mode: enforce", "mx: *.a.example", "max_age: 604800"),
    ("*.a.example",),
)
MISMATCH = session.Failure(
    session.ResultType.CERTIFICATE_HOST_MISMATCH,
    sending_mta_ip="192.0.2.1",
    receiving_mx_hostname="mx1.a.example",
    receiving_mx_helo="helo.a.example",
    receiving_ip="2001:db8:1234:5678:9abc:def0:1234:5678",
)
UNTRUSTED = session.Failure(
    session.ResultType.VALIDATION_FAILURE,
    receiving_mx_hostname="mx2.a.example",
    receiving_ip="192.0.2.44",
    additional_information="https://sender.example/help",
    failure_reason_code="unable_to_get_local_issuer_certificate",
)
COUNTS = [
    report.PolicyCount(STS, 120_345, 41, ((MISMATCH, 30), (UNTRUSTED, 11))),
    report.PolicyCount(session.Policy(session.PolicyType.NO_POLICY_FOUND, "b.example"), 3, 0, ()),
]


def _document(counts: list[report.PolicyCount], name: str = IDENTITY.name) -> bytes:
    identity = config.Identity(name=name, domain=IDENTITY.domain, contact=IDENTITY.contact, sender=IDENTITY.sender)
    return report.document(identity, dt.date(2026, 11, 23), "abc123@sender.example", counts)


def _shown(document: bytes, *, colour: bool = False) -> str:
    out = io.StringIO()
    screen = console.Console(file=out, width=80, color_system="truecolor" if colour else None, force_terminal=colour)
    screen.print(report_view.render(document))
    return out.getvalue()


SHOWN = [
    ("organization", "Sender [red]x[/red] Inc."),
    ("contact", "tls-reports@sender.example"),
    ("report-id", "abc123@sender.example"),
    ("day", "2026-11-23 (UTC)"),
    ("all sessions", "120348 successful, 41 failed"),
    ("policy", "a.example (sts)"),
    ("policy counts", "120345 successful, 41 failed"),
    ("mx pattern", "*.a.example"),
    ("policy line", "max_age: 604800"),
    ("failure count", "30  certificate-host-mismatch  mx1.a.example"),
    ("receiving ip", "[2001:db8:1234:5678:9abc:def0:1234:5678]"),
    ("sending ip", "from 192.0.2.1"),
    ("ehlo", "EHLO helo.a.example"),
    ("second failure", "11  validation-failure         mx2.a.example [192.0.2.44]"),
    ("reason", "unable_to_get_local_issuer_certificate"),
    ("information", "https://sender.example/help"),
    ("second policy", "b.example (no-policy-found)"),
    ("second counts", "3 successful, 0 failed"),
]


@pytest.mark.parametrize("text", [case[1] for case in SHOWN], ids=[case[0] for case in SHOWN])
def test_everything_a_report_says_is_shown_without_colour(text: str) -> None:
    """Names, numbers and reasons are there in plain text, unbroken."""
    assert text in _shown(_document(COUNTS))


def test_it_fits_80_columns() -> None:
    """No line is longer than the terminal, and none is cut: nothing ends in an ellipsis."""
    shown = _shown(_document(COUNTS))
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown


def test_success_is_green_and_failure_red() -> None:
    """Colours say what the words say."""
    shown = _shown(_document(COUNTS), colour=True)
    assert "\x1b[32m120345 successful\x1b[0m" in shown
    assert "\x1b[31m41 failed\x1b[0m" in shown


HOSTILE = [
    ("markup", "[bold red]x[/]", "[bold red]x[/]"),
    ("emoji-code", ":skull:", ":skull:"),
    ("closing-tag", "[/nothing]", "[/nothing]"),
    ("link", "[link=https://x.example]y[/link]", "[link=https://x.example]y[/link]"),
    ("escape", "\x1b[31mred", "\\x1b[31mred"),
    ("line-feed", "a\r\nb", "a\\r\\nb"),
    ("right-to-left", "a\u202eb", "a\\u202eb"),
    ("zero-width", "a\u200bb", "a\\u200bb"),
    ("c1-control", "a\x9bb", "a\\x9bb"),
]


@pytest.mark.parametrize(("text", "literal"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_strings_of_strangers_are_literal(text: str, literal: str) -> None:
    """Whatever a stranger puts in a field appears as text, in each field, coloured or not."""
    failure = session.Failure(session.ResultType.VALIDATION_FAILURE, receiving_mx_helo=text, failure_reason_code=text)
    policy = session.Policy(session.PolicyType.STS, "a.example", (text,))
    document = _document([report.PolicyCount(policy, 0, 1, ((failure, 1),))], name=text)
    shown = _shown(document)
    assert "".join(shown.split()).count("".join(literal.split())) == 4
    assert not any(ord(letter) < 32 and letter != "\n" for letter in shown)
    assert text == literal or text not in _shown(document, colour=True)


def test_long_strings_and_lists_are_cut_and_say_so() -> None:
    """A report of a hostile domain does not flood the terminal, and no session goes missing in the sums."""
    failures = tuple(
        (session.Failure(session.ResultType.VALIDATION_FAILURE, receiving_mx_hostname=f"mx{n}.a.example"), 2)
        for n in range(report_view.MAX_DETAILS + 7)
    )
    long = session.Failure(session.ResultType.TLSA_INVALID, failure_reason_code="x" * 100_000)
    policy = session.Policy(session.PolicyType.STS, "a.example", tuple(f"mx: m{n}.a.example" for n in range(1000)))
    shown = _shown(_document([report.PolicyCount(policy, 0, 500, (*failures, (long, 50)))]))
    assert "x…" in shown
    assert "and 950 more" in shown
    assert "16  8 more details" in shown
    assert len(shown) < 50_000


def test_a_range_that_is_not_a_day_is_shown_whole() -> None:
    """Another sender's report may cover anything."""
    document = _document(COUNTS).replace(b"T23:59:59Z", b"T11:59:59Z")
    assert "2026-11-23T00:00:00Z to 2026-11-23T11:59:59Z" in _shown(document)


@pytest.mark.parametrize("document", [b"", b"{}", b"[]", b"\xff", b'{"organization-name": 1}'])
def test_what_is_no_report_is_an_error(document: bytes) -> None:
    """The caller learns that it is not a report."""
    with pytest.raises(report.InvalidReportError):
        report_view.render(document)
