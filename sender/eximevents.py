r"""One event of Exim, as the snippet in ``conf/exim`` writes it: a line of ``name=value`` fields.

Pure. Names are those of Exim's own variables. Values pass through Exim's ``${quote:}``: one that has more than
letters, digits, ``_``, ``.`` and ``-`` stands in double quotes, with a backslash before quotes and backslashes, and
with ``\n`` and ``\r`` for line ends. So any octets survive in a value, and nothing in it ends the line or the field.
What is not UTF-8 is replaced: a report has no place for it.

Fields that are not known here are ignored, missing ones are empty, so that snippet and reader may differ in age. What
it means that events follow each other is ``sender.eximjoining``'s business.
"""

import dataclasses
import enum
import re

MAX_LINE = 64 * 1024
"""Octets of a line. The longest values are a reply to EHLO (4 KiB in Exim) and the names of a certificate, which the
snippet cuts at :data:`MAX_NAMES`; escaped they at most double."""

MAX_FIELDS = 64
"""Fields of a line; the snippet sends 16."""

MAX_NAMES = 8000
"""Octets at which the snippet cuts the names of a certificate: as many were perhaps more, and tell nothing."""


class Name(enum.StrEnum):
    """Which event it is (Exim specification, "Events")."""

    EHLO = "smtp:ehlo"
    """The server's reply to EHLO: before STARTTLS, and again when TLS is set up."""
    DANE_FAIL = "dane:fail"
    """Before a connection (TLSA records cannot be had) or after STARTTLS (they do not match)."""
    CLOSE = "tcp:close"
    """The end of a connection by the process that has it then: not by the one that began it when it was passed on."""
    HOST_DEFER = "msg:host:defer"
    """This server did not take the message; follows the end of the connection at once."""


class MalformedError(ValueError):
    """The line is no event."""


@dataclasses.dataclass(frozen=True, slots=True)
class Connection:
    """What the events of one connection have in common. A process has one connection at a time."""

    pid: str
    message: str
    """Exim's message id; empty: a callout."""
    host: str
    """The MX host as it was looked up."""
    ip: str


@dataclasses.dataclass(frozen=True, slots=True)
class Certificate:
    """What is known of the server's certificate."""

    not_after: int
    """Unix seconds."""
    names: tuple[str, ...] | None
    """Its DNS names; ``None``: too many to be told."""


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """An event."""

    name: Name
    connection: Connection
    data: str
    """What belongs to it: the reply to EHLO, the reason of a failure."""
    errno: int
    """Exim's number of the last deferral in this process; stays when the next server is tried."""
    domain: str
    """The recipient domain; empty when the message goes to several."""
    port: int
    """0 or less: there is no connection yet, or not any more."""
    sending_ip: str
    tls: bool
    """TLS was set up, whatever the certificate was."""
    verified: bool
    dane: bool
    """The certificate matched a TLSA record."""
    tlsa: bool
    """There are TLSA records that count."""
    certificate: Certificate | None


def parse(line: bytes) -> Event | None:
    """Read a line.

    Args:
        line: without its line feed.

    Returns:
        ``None``: an event that is of no interest here.

    Raises:
        MalformedError: it is no such line, or too long.
    """
    if len(line) > MAX_LINE:
        raise MalformedError(f"longer than {MAX_LINE} octets")
    fields = _fields(line.decode("utf-8", "replace"))
    try:
        name = Name(fields.get("event_name", ""))
    except ValueError:
        if "event_name" in fields:
            return None
        raise MalformedError("no event_name") from None
    return _event(name, fields)


def _event(name: Name, fields: dict[str, str]) -> Event:
    return Event(
        name=name,
        connection=Connection(
            fields.get("pid", ""),
            fields.get("message_exim_id", ""),
            fields.get("host", ""),
            fields.get("host_address", ""),
        ),
        data=fields.get("event_data", ""),
        errno=_number(fields.get("event_defer_errno", "")) or 0,
        domain=fields.get("domain", ""),
        port=_number(fields.get("host_port", "")) or 0,
        sending_ip=fields.get("sending_ip_address", ""),
        tls=bool(fields.get("tls_out_ver")),
        verified=fields.get("tls_out_certificate_verified") == "1",
        dane=fields.get("tls_out_dane") == "yes",
        tlsa=bool(_number(fields.get("tls_out_tlsa_usage", ""))),
        certificate=_certificate(fields),
    )


def _certificate(fields: dict[str, str]) -> Certificate | None:
    not_after = _number(fields.get("certificate_notafter", ""))
    if not_after is None:
        return None
    text = fields.get("certificate_names", "")
    if len(text.encode()) >= MAX_NAMES:
        return Certificate(not_after, None)
    return Certificate(not_after, tuple([name for name in text.split(",") if name]))


_FIELD = re.compile(
    r"""
    (?P<name>[a-z][a-z0-9_]{0,63}) =
    (?: "(?P<quoted>[^"\\]*+(?:\\.[^"\\]*+)*+)" | (?P<bare>[^\s"\\]*+) )
    (?: [ \t]++ | \Z )
    """,
    re.DOTALL | re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_LINE_ENDS = {"n": "\n", "r": "\r"}


def _fields(text: str) -> dict[str, str]:
    text = text.strip(" \t\r")
    fields: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _FIELD.match(text, position)
        if match is None or len(fields) == MAX_FIELDS:
            raise MalformedError(f"no name=value at character {position}, or too many")
        quoted = match["quoted"]
        fields[match["name"]] = match["bare"] if quoted is None else _unquoted(quoted)
        position = match.end()
    return fields


def _unquoted(text: str) -> str:
    return _ESCAPE.sub(lambda match: _LINE_ENDS.get(match[1], match[1]), text)


_NUMBER = re.compile(r"-?[0-9]{1,15}", re.ASCII)


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None
