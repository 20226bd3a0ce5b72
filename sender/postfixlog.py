"""One line of Postfix's log into what it tells of TLS: for Postfix before 3.10, which reports nothing itself.

Pure. :func:`parse` takes a line as syslog, postlogd or ``journalctl -o short`` writes it (classic or RFC 3339 time),
:func:`line` one whose parts are known already (the systemd journal); :func:`event` tells what its text means. What is
not about a session of ``smtp`` or ``tlsproxy`` is ``None``; no line is an error, since texts of strangers are in most.

The texts are those of Postfix 3.4 to 3.10 at ``smtp_tls_loglevel = 1``.

Not done: lines without a process (``journalctl -o cat``) cannot be joined with others and are none of ours; ``lmtp``
delivers at home. Known limits: who may write to the log can make sessions up. Of two recipients, one with ``>, relay=``
in its local part, the domain may be told wrong.
"""

import dataclasses
import enum
import re

MAX_LINE = 8192
"""Bytes of a line. Postfix cuts its texts at 2,000; what is longer is not its own."""

SMTP = "smtp"
TLSPROXY = "tlsproxy"

_HOST = r"[^\s\[\]]{1,255}"
_ADDRESS = r"[0-9A-Fa-f.:]{2,45}"
_TAG = rf"(?P<name>[^\s\[\]]{{1,128}})/(?P<service>{SMTP}|{TLSPROXY})"

_LINE = re.compile(
    r"(?:<[0-9]{1,3}>)?"
    r"(?:[A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8}(?:\.[0-9]{1,9})?|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.Z+-]{8,30})"
    rf" (?P<host>\S{{1,255}}) {_TAG}\[(?P<pid>[0-9]{{1,10}})\]: (?P<text>.*)",
    re.DOTALL,
)
_IDENTIFIER = re.compile(_TAG)


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A line of one of Postfix's processes that speak TLS with other servers."""

    process: tuple[str, str, str]
    """Host, program (``postfix/smtp``, ``postfix-out/relay/smtp``), process ID: who wrote it."""
    text: str

    @property
    def service(self) -> str:
        """``smtp`` or ``tlsproxy``."""
        return self.process[1].rpartition("/")[2]


def parse(octets: bytes) -> Line | None:
    """Read a line of a log file, without its line feed; ``None``: it is none of ours."""
    if len(octets) > MAX_LINE:
        return None
    match = _LINE.fullmatch(octets.decode("utf-8", "replace").rstrip("\r\n"))
    if match is None:
        return None
    return Line((match["host"], f"{match['name']}/{match['service']}", match["pid"]), match["text"])


def line(host: str, identifier: str, pid: str, text: str) -> Line | None:
    """Put a line together of what the systemd journal has; ``None``: it is none of ours."""
    if len(text) > MAX_LINE or not _IDENTIFIER.fullmatch(identifier):
        return None
    return Line((host, identifier, pid), text)


class Trust(enum.StrEnum):
    """What Postfix thinks of a server's certificate."""

    VERIFIED = "Verified"
    """It is right by the policy that was applied."""
    TRUSTED = "Trusted"
    """Its issuer is known; the name was not asked for."""
    UNTRUSTED = "Untrusted"
    ANONYMOUS = "Anonymous"
    """There is none."""


class Complaint(enum.StrEnum):
    """Why mail was not handed over, as far as it is about TLS."""

    NOT_OFFERED = "TLS is required, but was not offered"
    REFUSED = "TLS is required, but STARTTLS was refused"
    HANDSHAKE = "Cannot start TLS: handshake failure"
    CERTIFICATE = "Server certificate not verified"


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    """Where a connection went."""

    host: str
    ip: str


@dataclasses.dataclass(frozen=True, slots=True)
class Established:
    """TLS came about, or is used again for another message."""

    server: Server
    trust: Trust
    reused: bool


@dataclasses.dataclass(frozen=True, slots=True)
class BadCertificate:
    """What is wrong with a certificate; whether it matters depends on the policy."""

    server: Server
    problem: str
    """In Postfix's words: ``num=62:hostname mismatch``, ``untrusted issuer /CN=..``."""


@dataclasses.dataclass(frozen=True, slots=True)
class UnusableTlsa:
    """A server has TLSA records, and none can be used."""

    server: Server


@dataclasses.dataclass(frozen=True, slots=True)
class HandshakeFailed:
    """TLS was begun, and did not come about."""

    server: Server


@dataclasses.dataclass(frozen=True, slots=True)
class Trouble:
    """Delivery to one of several servers failed for TLS; the next one is tried."""

    complaint: Complaint
    server: Server | None


@dataclasses.dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a message for one recipient: the end of an attempt."""

    request: tuple[str, str]
    """Queue ID, and the time the message had been in the queue: the same for all recipients of an attempt."""
    domain: str
    """Of the recipient, as it stands there; may be no name at all, and empty where there is none."""
    server: Server | None
    """The last one that was tried; ``None``: there was none."""
    port: str
    fresh: bool
    """Nobody used the connection before."""
    sent: bool
    complaint: Complaint | None
    blamed: Server | None
    """Whom the complaint is about."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reported:
    """Postfix 3.10 and later: an event was reported to libtlsrpt."""

    failed: bool


@dataclasses.dataclass(frozen=True, slots=True)
class NotReported:
    """Postfix 3.10 and later: an event could not be handed over."""

    full: bool
    """The recorder's queue was full: the kernel dropped it. Else the recorder was away, say."""


@dataclasses.dataclass(frozen=True, slots=True)
class NoProxy:
    """There is no ``tlsproxy`` here to set TLS up with, which looks like a failed handshake then."""


@dataclasses.dataclass(frozen=True, slots=True)
class Died:
    """The process ends in the middle of something."""


Event = (
    Established
    | BadCertificate
    | UnusableTlsa
    | HandshakeFailed
    | Trouble
    | Delivery
    | Reported
    | NotReported
    | NoProxy
    | Died
)

_SERVER = rf"(?P<host>{_HOST})\[(?P<ip>{_ADDRESS})\]"
_ESTABLISHED = re.compile(
    rf"(?P<trust>Verified|Trusted|Untrusted|Anonymous) TLS connection (?P<use>established|reused) to {_SERVER}:[0-9]+: "
)
_BAD_CERTIFICATE = re.compile(
    rf"(?:(?:server|CA) )?certificate verification failed for {_SERVER}:[0-9]+: (?P<problem>.{{1,500}})", re.DOTALL
)
_UNUSABLE = re.compile(rf"warning: {_SERVER}:[0-9]+: all TLSA records unusable")
_HANDSHAKE = re.compile(rf"SSL_connect error to {_SERVER}:[0-9]+: ")
_REPORTED = re.compile(r"TLSRPT: status=(?P<status>success|failure), domain=")
_NOT_REPORTED = re.compile(r"(?:warning: )?Could not report TLS handshake result[^:]{0,40}: (?P<why>.*)", re.DOTALL)
_FULL = re.compile(r"Resource temporarily unavailable|\(errno 11\)|No buffer space")
_NO_PROXY = re.compile(rf"warning: connect to private/{TLSPROXY} service: ")
_DIED = re.compile(r"(?:fatal|panic): ")

_QUEUED = re.compile(r"(?P<id>[0-9A-Za-z]{5,40}): ")
_DELIVERY = re.compile(
    r"to=<(?P<to>.*?)>, (?:orig_to=<.*?>, )?relay=(?P<relay>\S{1,400}), (?:conn_use=(?P<use>[0-9]+), )?"
    r"delay=[0-9.]+, delays=(?P<queued>[0-9.]+)/[0-9./]+, dsn=[0-9.]+, status=(?P<status>[a-z]+) \((?P<why>.*)",
    re.DOTALL,
)
_RELAY = re.compile(rf"{_SERVER}:(?P<port>[0-9]+)")
_NOT_OFFERED = re.compile(rf"TLS is required, but was not offered by host {_SERVER}")
_REFUSED = re.compile(rf"TLS is required, but host {_SERVER} refused to start TLS: ")
_CERTIFICATE = re.compile(r"Server certificate not (?:verified|trusted)")


def event(text: str) -> Event | None:
    """Tell what a line's text means; ``None``: nothing for us."""
    queued = _QUEUED.match(text)
    if queued is not None and (found := _of_message(queued["id"], text[queued.end() :])) is not None:
        return found
    if match := _ESTABLISHED.match(text):
        return Established(_server(match), Trust(match["trust"]), match["use"] == "reused")
    if match := _BAD_CERTIFICATE.match(text):
        return BadCertificate(_server(match), match["problem"])
    if match := _HANDSHAKE.match(text):
        return HandshakeFailed(_server(match))
    if match := _UNUSABLE.match(text):
        return UnusableTlsa(_server(match))
    return _of_process(text)


def _of_process(text: str) -> Event | None:
    if match := _REPORTED.match(text):
        return Reported(failed=match["status"] == "failure")
    if match := _NOT_REPORTED.match(text):
        return NotReported(full=_FULL.search(match["why"]) is not None)
    if _NO_PROXY.match(text):
        return NoProxy()
    return Died() if _DIED.match(text) else None


def _of_message(queue_id: str, text: str) -> Event | None:
    match = _DELIVERY.match(text)
    if match is None:
        complaint, blamed = _complaint(text)
        return Trouble(complaint, blamed) if complaint else None
    relay = _RELAY.fullmatch(match["relay"])
    complaint, blamed = _complaint(match["why"])
    _, at, domain = match["to"].rpartition("@")
    return Delivery(
        request=(queue_id, match["queued"]),
        domain=domain if at else "",
        server=_server(relay) if relay else None,
        port=relay["port"] if relay else "",
        fresh=match["use"] is None,
        sent=match["status"] == "sent",
        complaint=complaint,
        blamed=blamed,
    )


def _complaint(why: str) -> tuple[Complaint | None, Server | None]:
    """Return what a text complains about, and about whom if it tells."""
    if match := _NOT_OFFERED.match(why):
        return Complaint.NOT_OFFERED, _server(match)
    if match := _REFUSED.match(why):
        return Complaint.REFUSED, _server(match)
    if why.startswith(Complaint.HANDSHAKE):
        return Complaint.HANDSHAKE, None
    return (Complaint.CERTIFICATE, None) if _CERTIFICATE.match(why) else (None, None)


def _server(match: re.Match[str]) -> Server:
    return Server(match["host"], match["ip"])
