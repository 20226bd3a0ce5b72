"""A report as a mail (RFC 8460 section 5.3): ``multipart/report`` with a text for people and the gzipped document.

Pure. The same values give the same bytes: no clock, no random boundary. The structure is fixed, so it is written as it
is; the standard library's ``email`` would take fifteen times as long, split long file names as in RFC 2231 and long
tokens into encoded-words, which receivers of reports do not take. Every field is ASCII and folded at spaces alone; a
word longer than a line (a long domain, a file name) stays whole.

Does not sign (``sender.signature``) and does not send (``sender.mail``). Known limit: addresses with a quoted or
non-ASCII local part are refused.
"""

import base64
import binascii
import dataclasses
import datetime as dt
import email.utils
import hashlib
from collections.abc import Iterable

from policy import names
from sender import config, report

LINE = 78
"""Characters of a line, where words allow it (RFC 5322 section 2.1.1)."""


class InvalidAddressError(ValueError):
    """Reports cannot be mailed to the address."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mail:
    """What one mail says."""

    identity: config.Identity
    policy_domain: str
    day: dt.date
    report_id: str
    packed: bytes
    """The document as ``report.pack`` returned it."""
    created: dt.datetime
    """When the report was built, aware; the Date of every mail about it."""
    recipient: str
    """An address of a ``mailto:`` rua."""
    message_id: str
    """With angle brackets, as :func:`message_id` returns it."""


def message_id(report_id: str, number: int) -> str:
    """Return the Message-ID of the mail to one of a report's destinations, the same at each attempt.

    Args:
        report_id: ``token@domain``.
        number: tells the destinations of one report apart.
    """
    token, _, domain = report_id.rpartition("@")
    return f"<{token}.{number}@{domain}>"


def check_address(address: str) -> None:
    """Check that an address can stand in a header field and in an SMTP command as it is.

    Raises:
        InvalidAddressError: it is no dot-atom at a domain name (RFC 5322 section 3.4.1).
    """
    local, _, domain = address.rpartition("@")
    try:
        usable = names.a_label(domain) == domain.lower() and names.is_local_part(local)
    except names.InvalidNameError:
        usable = False
    if not usable:
        raise InvalidAddressError(f"not an address mail can be sent to: {address[: names.MAX_NAME]!r}")


def compose(mail: Mail) -> bytes:
    """Return the whole message with CRLF line ends, ready to sign.

    Raises:
        InvalidAddressError: the recipient is not an address that mail can be sent to.
    """
    check_address(mail.recipient)
    boundary = f"=_{hashlib.sha256(mail.report_id.encode()).hexdigest()[:32]}"
    parts = [f"--{boundary}\r\n{part}\r\n" for part in (_text_part(mail), _report_part(mail))]
    return _part(_fields(mail, boundary), f"{''.join(parts)}--{boundary}--\r\n").encode("ascii")


def _folded(name: str, value: str) -> str:
    """Return a header field, folded at spaces and nowhere else."""
    first, *words = f"{name}: {value}".split(" ")
    lines = [first]
    for word in words:
        if len(lines[-1]) + 1 + len(word) <= LINE or lines[-1] == f"{name}:":
            lines[-1] += f" {word}"
        else:
            lines.append(f" {word}")
    return "\r\n".join(lines)


def _part(fields: Iterable[tuple[str, str]], body: str) -> str:
    """Return header fields and what belongs to them."""
    return "\r\n".join([*(_folded(*field) for field in fields), "", body])


def _fields(mail: Mail, boundary: str) -> list[tuple[str, str]]:
    submitter = mail.identity.domain
    return [
        ("From", mail.identity.sender),
        ("To", mail.recipient),
        ("Subject", f"Report Domain: {mail.policy_domain} Submitter: {submitter} Report-ID: <{mail.report_id}>"),
        ("Date", email.utils.format_datetime(mail.created.astimezone(dt.UTC))),
        ("Message-ID", mail.message_id),
        ("Auto-Submitted", "auto-generated"),  # RFC 3834: no vacation notices
        ("TLS-Required", "No"),  # RFC 8689: reports about broken TLS must not need TLS (RFC 8460 section 5.3.1)
        ("TLS-Report-Domain", mail.policy_domain),
        ("TLS-Report-Submitter", submitter),
        ("MIME-Version", "1.0"),
        ("Content-Type", f'multipart/report; report-type="tlsrpt"; boundary="{boundary}"'),
    ]


def _text_part(mail: Mail) -> str:
    text = TEXT.format(
        organization=mail.identity.name,
        contact=mail.identity.contact,
        domain=mail.policy_domain,
        day=mail.day,
    ).encode("utf-8", "replace")  # an environment variable can carry lone surrogates
    lines = text.splitlines()
    plain = text.isascii() and max(map(len, lines)) <= LINE
    encoded = b"".join(line + b"\r\n" for line in lines)
    if not plain:
        encoded = binascii.b2a_qp(encoded)
    fields = [
        ("Content-Type", f'text/plain; charset="{"us-ascii" if text.isascii() else "utf-8"}"'),
        ("Content-Transfer-Encoding", "7bit" if plain else "quoted-printable"),
    ]
    return _part(fields, encoded.decode("ascii"))


def _report_part(mail: Mail) -> str:
    name = report.filename(mail.identity.domain, mail.policy_domain, mail.day, mail.report_id)
    fields = [
        ("Content-Transfer-Encoding", "base64"),
        ("Content-Disposition", f'attachment; filename="{name}"'),
        ("Content-Type", f'application/tlsrpt+gzip; name="{name}"'),
    ]
    return _part(fields, base64.encodebytes(mail.packed).decode("ascii").replace("\n", "\r\n"))


TEXT = """\
This is an SMTP TLS report (RFC 8460) from {organization}
about mail sent to
{domain}
on {day} (UTC).

The attachment counts how many connections to the mail servers of this domain
were encrypted as its policy (MTA-STS or DANE) asks, and tells what went wrong
with the others. It is gzipped JSON, made to be read by a program.

You get it because the DNS record _smtp._tls of the domain names your address.
To get no more reports, remove the record, or the address from it.

Questions about this report are answered at
{contact}
"""
"""The part for people; names stand on lines of their own, because they may be long."""
