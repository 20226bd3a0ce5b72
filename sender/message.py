"""A report as a mail (RFC 8460 section 5.3): ``multipart/report`` with a text for people and the gzipped document.

Pure. The same values give the same bytes: no clock, no random boundary. The standard library's ``email`` does the
MIME; only the folding of header fields is our own, because the library would split long file names as in RFC 2231
and long tokens into encoded-words, which receivers of reports do not take. Every field is ASCII and folded at spaces
alone; a word longer than a line (a long domain, a file name) stays whole.

Does not sign (``sender.signature``) and does not send (``sender.mail``). Known limit: addresses with a quoted or
non-ASCII local part are refused.
"""

import dataclasses
import datetime as dt
import email.message
import email.policy
import hashlib

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
    whole = email.message.MIMEPart(_POLICY)
    for name, value in _fields(mail):
        whole[name] = value
    whole.attach(_text_part(mail))
    whole.attach(_report_part(mail))
    return whole.as_bytes()


class _FoldedAtSpaces(email.policy.EmailPolicy):
    """How messages are written: fields folded at spaces and nowhere else."""

    def fold(self, name: str, value: str) -> str:
        """Return a header field with its line end."""
        first, *words = f"{name}: {value}".split(" ")
        lines = [first]
        for word in words:
            if len(lines[-1]) + 1 + len(word) <= LINE or lines[-1] == f"{name}:":
                lines[-1] += f" {word}"
            else:
                lines.append(f" {word}")
        return "".join(f"{line}\r\n" for line in lines)

    def fold_binary(self, name: str, value: str) -> bytes:
        """Return the same as bytes."""
        return self.fold(name, value).encode("ascii")


_POLICY = _FoldedAtSpaces(linesep="\r\n", max_line_length=LINE, cte_type="7bit")


def _fields(mail: Mail) -> list[tuple[str, str | dt.datetime]]:
    submitter = mail.identity.domain
    boundary = hashlib.sha256(mail.report_id.encode()).hexdigest()[:32]
    return [
        ("From", mail.identity.sender),
        ("To", mail.recipient),
        ("Subject", f"Report Domain: {mail.policy_domain} Submitter: {submitter} Report-ID: <{mail.report_id}>"),
        ("Date", mail.created.astimezone(dt.UTC)),
        ("Message-ID", mail.message_id),
        ("Auto-Submitted", "auto-generated"),  # RFC 3834: no vacation notices
        ("TLS-Required", "No"),  # RFC 8689: reports about broken TLS must not need TLS (RFC 8460 section 5.3.1)
        ("TLS-Report-Domain", mail.policy_domain),
        ("TLS-Report-Submitter", submitter),
        ("MIME-Version", "1.0"),
        ("Content-Type", f'multipart/report; report-type="tlsrpt"; boundary="=_{boundary}"'),
    ]


def _text_part(mail: Mail) -> email.message.MIMEPart:
    part = email.message.MIMEPart(_POLICY)
    text = TEXT.format(
        organization=mail.identity.name,
        contact=mail.identity.contact,
        domain=mail.policy_domain,
        day=mail.day,
    ).encode("utf-8", "replace")  # an environment variable can carry lone surrogates
    part.set_content(text.decode(), charset="us-ascii" if text.isascii() else "utf-8")
    return part


def _report_part(mail: Mail) -> email.message.MIMEPart:
    name = report.filename(mail.identity.domain, mail.policy_domain, mail.day, mail.report_id)
    part = email.message.MIMEPart(_POLICY)
    part.set_content(mail.packed, "application", "tlsrpt+gzip", filename=name, params={"name": name})
    return part


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
