"""``sender.message``: mails as RFC 8460 section 5.3 shows them, whole and in their parts, with long names, too."""

import dataclasses
import datetime as dt
import email
import email.message
import email.policy
import random

import pytest

from sender import config, message, report

IDENTITY = config.Identity(
    name="Example Inc.",
    domain="example.com",
    contact="tls-reports@example.com",
    sender="noreply-tls-reports@example.com",
)
MAIL = message.Mail(
    identity=IDENTITY,
    policy_domain="example.net",
    day=dt.date(2026, 11, 24),
    report_id="20261124.x7@example.com",
    packed=b"\x1f\x8b\x08 not a real report, but sixty-four bytes, which are enough ..",
    created=dt.datetime(2026, 11, 25, 0, 7, 30, tzinfo=dt.UTC),
    recipient="tlsrpt@example.net",
    message_id="<20261124.x7.1@example.com>",
)

LONG = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
"""The longest domain name there is: 253 characters."""

LONG_MAIL = dataclasses.replace(
    MAIL,
    identity=config.Identity(
        name="Müller & Söhne {x} \udcff",
        domain=LONG,
        contact=f"tls-reports@{LONG}",
        sender=f"noreply-tls-reports@{LONG}",
    ),
    policy_domain=LONG.replace("a", "z"),
    report_id=f"20261124.x7@{LONG}",
    packed=random.Random(8460).randbytes(100_000),
    recipient=f"{'x' * 64}@{LONG}",
    message_id=message.message_id(f"20261124.x7@{LONG}", 1),
)

WHOLE = """\
From: noreply-tls-reports@example.com
To: tlsrpt@example.net
Subject: Report Domain: example.net Submitter: example.com Report-ID:
 <20261124.x7@example.com>
Date: Wed, 25 Nov 2026 00:07:30 +0000
Message-ID: <20261124.x7.1@example.com>
Auto-Submitted: auto-generated
TLS-Required: No
TLS-Report-Domain: example.net
TLS-Report-Submitter: example.com
MIME-Version: 1.0
Content-Type: multipart/report; report-type="tlsrpt";
 boundary="=_BOUNDARY"

--=_BOUNDARY
Content-Type: text/plain; charset="us-ascii"
Content-Transfer-Encoding: 7bit

This is an SMTP TLS report (RFC 8460) from Example Inc.
about mail sent to
example.net
on 2026-11-24 (UTC).

The attachment counts how many connections to the mail servers of this domain
were encrypted as its policy (MTA-STS or DANE) asks, and tells what went wrong
with the others. It is gzipped JSON, made to be read by a program.

You get it because the DNS record _smtp._tls of the domain names your address.
To get no more reports, remove the record, or the address from it.

Questions about this report are answered at
tls-reports@example.com

--=_BOUNDARY
Content-Transfer-Encoding: base64
Content-Disposition: attachment;
 filename="example.com!example.net!1795478400!1795564799!20261124x7.json.gz"
Content-Type: application/tlsrpt+gzip;
 name="example.com!example.net!1795478400!1795564799!20261124x7.json.gz"

H4sIIG5vdCBhIHJlYWwgcmVwb3J0LCBidXQgc2l4dHktZm91ciBieXRlcywgd2hpY2ggYXJlIGVu
b3VnaCAuLg==

--=_BOUNDARY--
"""

MAILS = pytest.mark.parametrize("mail", [pytest.param(MAIL, id="usual"), pytest.param(LONG_MAIL, id="long-names")])


def _parse(mail: message.Mail) -> email.message.EmailMessage:
    return email.message_from_bytes(message.compose(mail), policy=email.policy.default)


def test_message_is_written_byte_by_byte_as_expected() -> None:
    """The whole message; only the boundary, which is made from the report-id, is left open."""
    composed = message.compose(MAIL)
    boundary = _parse(MAIL).get_boundary()
    assert boundary is not None
    assert composed.decode("ascii") == WHOLE.replace("=_BOUNDARY", boundary).replace("\n", "\r\n")


def test_same_mail_gives_the_same_bytes() -> None:
    """Nothing depends on the clock or on chance; another report has another boundary."""
    assert message.compose(MAIL) == message.compose(dataclasses.replace(MAIL))
    other = dataclasses.replace(MAIL, report_id="20261124.x8@example.com")
    assert _parse(MAIL).get_boundary() != _parse(other).get_boundary()


@MAILS
def test_header_fields_come_back_whole(mail: message.Mail) -> None:
    """What was folded reads as it was given, in each field (RFC 8460 section 5.3)."""
    parsed = _parse(mail)
    submitter = mail.identity.domain
    assert parsed["Subject"] == (
        f"Report Domain: {mail.policy_domain} Submitter: {submitter} Report-ID: <{mail.report_id}>"
    )
    assert parsed["From"] == mail.identity.sender
    assert parsed["To"] == mail.recipient
    assert parsed["Date"].datetime == mail.created
    assert parsed["Message-ID"] == mail.message_id
    assert parsed["TLS-Report-Domain"] == mail.policy_domain
    assert parsed["TLS-Report-Submitter"] == submitter == parsed["From"].addresses[0].domain
    assert (parsed["Auto-Submitted"], parsed["TLS-Required"], parsed["MIME-Version"]) == ("auto-generated", "No", "1.0")
    assert not parsed.defects


@MAILS
def test_parts_are_as_the_rfc_wants_them(mail: message.Mail) -> None:
    """A text for people first, then the report, which comes back byte for byte under its name."""
    parsed = _parse(mail)
    assert parsed.get_content_type() == "multipart/report"
    assert parsed["Content-Type"].params["report-type"] == "tlsrpt"
    text, attachment = parsed.iter_parts()
    name = report.filename(mail.identity.domain, mail.policy_domain, mail.day, mail.report_id)
    assert text.get_content_type() == "text/plain"
    assert attachment.get_content_type() == "application/tlsrpt+gzip"
    assert attachment["Content-Transfer-Encoding"] == "base64"
    assert attachment.get_content_disposition() == "attachment"
    assert attachment.get_filename() == attachment["Content-Type"].params["name"] == name
    assert attachment.get_payload(decode=True) == mail.packed
    assert not text.defects
    assert not attachment.defects


@MAILS
def test_text_tells_who_reports_what_about_whom(mail: message.Mail) -> None:
    """The text names the organization, the domain, the day, the contact, and how to stop reports."""
    text, _ = _parse(mail).iter_parts()
    assert isinstance(text, email.message.EmailMessage)
    content = text.get_content()
    for expected in (
        mail.identity.name.replace("\udcff", "?"),
        mail.policy_domain,
        "2026-11-24",
        mail.identity.contact,
        "_smtp._tls",
    ):
        assert expected in content


@MAILS
def test_lines_are_plain_ascii_and_short_where_words_allow(mail: message.Mail) -> None:
    """Only CRLF, only ASCII, no encoded-words, no RFC 2231; a line beyond 78 holds one word, none is beyond 998."""
    composed = message.compose(mail).decode("ascii")
    lines = composed.split("\r\n")
    assert not any("\r" in line or "\n" in line for line in lines)
    assert "=?" not in composed
    assert "name*" not in composed
    for line in lines:
        assert len(line) <= 998
        words = line.split()
        assert len(line) <= 78 or len(words) == 1 or (len(words) == 2 and words[0].endswith(":"))


def test_long_names_stay_on_one_line() -> None:
    """Readers that do not unfold inside quotes find each file name in one piece."""
    lines = message.compose(LONG_MAIL).decode("ascii").split("\r\n")
    names = [line for line in lines if "name=" in line]
    assert len(names) == 2
    assert all(line.endswith('.json.gz"') and len(line) > 500 for line in names)
    assert f" <{LONG_MAIL.report_id}>" in lines


def test_old_parser_reads_the_same() -> None:
    """Python's compat32 parser, which many receivers use, finds subject, name and content."""
    parsed = email.message_from_bytes(message.compose(MAIL))
    assert parsed["Subject"].replace("\r\n", "") == (
        "Report Domain: example.net Submitter: example.com Report-ID: <20261124.x7@example.com>"
    )
    parts = parsed.get_payload()
    assert isinstance(parts, list)
    attachment = parts[1]
    assert isinstance(attachment, email.message.Message)
    assert attachment.get_filename() == "example.com!example.net!1795478400!1795564799!20261124x7.json.gz"
    assert attachment.get_payload(decode=True) == MAIL.packed


def test_date_is_told_in_utc() -> None:
    """A report built in another time zone carries the same moment."""
    zone = dt.timezone(dt.timedelta(hours=5, minutes=30))
    mail = dataclasses.replace(MAIL, created=MAIL.created.astimezone(zone))
    assert message.compose(mail) == message.compose(MAIL)


def test_message_ids_tell_destinations_apart() -> None:
    """One report to two addresses is two messages with the same report-id."""
    assert message.message_id("t.1@example.com", 1) == "<t.1.1@example.com>"
    assert message.message_id("t.1@example.com", 2) == "<t.1.2@example.com>"


@pytest.mark.parametrize(
    "address",
    ["a@example.com", "tls-rpt+x=y@mx1.example.com", "A.B!#$%&'*/?^_`{|}~@Example.COM", f"{'x' * 64}@{LONG}"],
)
def test_usable_addresses_are_taken(address: str) -> None:
    """Every dot-atom at a domain name can be written as it is."""
    message.check_address(address)
    assert _parse(dataclasses.replace(MAIL, recipient=address))["To"] == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "example.com",
        "@example.com",
        "a@",
        "a@b@example.com",
        "a@example.com\r\nBcc: b@example.com",
        "a\r\n@example.com",
        "a b@example.com",
        "a,b@example.com",
        "a>b@example.com",
        '"a b"@example.com',
        "a.@example.com",
        ".a@example.com",
        "a..b@example.com",
        "a@[192.0.2.1]",
        "a@example.com.",
        "a@bücher.example",
        "ü@example.com",
        f"{'x' * 65}@example.com",
        f"{'x.' * 40}x@example.com",
        f"a@{LONG}x",
    ],
)
def test_other_addresses_are_refused(address: str) -> None:
    """Nothing that could become two addresses, a second field or an encoded-word gets into a message."""
    with pytest.raises(message.InvalidAddressError):
        message.compose(dataclasses.replace(MAIL, recipient=address))
