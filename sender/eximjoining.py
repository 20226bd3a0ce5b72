"""What the events of one connection of Exim tell together: one attempt to set up TLS.

Pure; the clock is an argument. An attempt is complete

- when Exim says EHLO inside of TLS: it is set up, and Exim takes the certificate. What comes later says nothing more: a
  connection that is passed on to the next message ends in another process, which knows nothing of TLS any more;
- when Exim defers the server after a connection without that, and says why;
- :data:`SETTLE` seconds after the end of a connection without that, when Exim went on in the clear.

Where TLS fails, Exim connects once more and delivers in the clear unless ``hosts_require_tls`` forbids: that connection
is no attempt of its own. One that ends before a reply to EHLO, and one of which the beginning was missed, are none.

Known limits: a server that offers STARTTLS and that Exim does not use it with (``hosts_avoid_tls``) looks like one that
refuses it. A connection that breaks between EHLO and TLS, without a word of Exim about TLS, tells nothing.
"""

import collections
import dataclasses
import enum
import re

from sender import eximevents

SETTLE = 5.0
"""Seconds that Exim has to tell why it gave up after it closed a connection; it does so at once."""

KEPT = 900.0
"""Seconds that a connection is remembered: longer than Exim waits for an answer (``command_timeout``, 5 minutes)."""

MAX_CONNECTIONS = 10_000
"""Connections remembered, some 2 KB each; the oldest is forgotten."""

MAX_HELO = 512
"""Characters kept of a reply to EHLO: its first line (RFC 5321 section 4.5.3.1.5)."""

MAX_REASON = 256
"""Characters kept of what Exim says of a failure."""

TLS_FAILED = -37
"""Exim's ERRNO_TLSFAILURE."""

TLS_REQUIRED = -38
"""Exim's ERRNO_TLSREQUIRED."""


class Outcome(enum.Enum):
    """How far it came."""

    ESTABLISHED = enum.auto()
    """TLS is set up and used, whatever the certificate is."""
    NOT_OFFERED = enum.auto()
    """The server has no STARTTLS."""
    REFUSED = enum.auto()
    """The server offers STARTTLS and does not do it."""
    FAILED = enum.auto()
    """The handshake failed, or Exim does not take the certificate."""
    DANE = enum.auto()
    """DANE does not let the mail go to this server."""


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to set up TLS with one server."""

    domain: str
    """The recipient domain as Exim has it; empty: several."""
    host: str
    ip: str
    sending_ip: str
    helo: str
    """The beginning of the reply to EHLO; empty: there was none."""
    outcome: Outcome
    verified: bool
    tlsa: bool
    """The server has TLSA records, and Exim held it to them."""
    matched: bool
    """The certificate matched a TLSA record."""
    reason: str
    """Exim's words; for :attr:`Outcome.DANE` see ``dane`` as well."""
    dane: str
    """Of :attr:`Outcome.DANE`: the word of RFC 8460 that Exim gives."""
    certificate: eximevents.Certificate | None


@dataclasses.dataclass(slots=True)
class _Open:
    event: eximevents.Event
    """The one that tells most so far."""
    since: float
    helo: str = ""
    offered: bool = False
    dane: str = ""
    closed: float | None = None


class Joiner:
    """Takes events in the order in which Exim sent them, gives attempts."""

    def __init__(self) -> None:
        self.unjoined = 0
        """Connections of which the end was missed, or that tell nothing."""
        self._open: collections.OrderedDict[eximevents.Connection, _Open] = collections.OrderedDict()
        self._closed: collections.OrderedDict[eximevents.Connection, float] = collections.OrderedDict()
        self._failed: collections.OrderedDict[eximevents.Connection, float] = collections.OrderedDict()

    def feed(self, event: eximevents.Event, now: float) -> list[Attempt]:
        """Take an event; return the attempts that are complete with it.

        Args:
            event: the next one.
            now: seconds; never goes back.
        """
        match event.name:
            case eximevents.Name.EHLO:
                return self._ehlo(event, now)
            case eximevents.Name.DANE_FAIL if event.port <= 0 or event.port == _SMTP:
                return self._dane_fail(event, now)
            case eximevents.Name.CLOSE:
                self._close(event, now)
            case eximevents.Name.HOST_DEFER if event.connection in self._open:
                return self._complete(event.connection, now, event)
        return []

    def expire(self, now: float) -> list[Attempt]:
        """Return the attempts that are complete because nothing more came; to be called every few seconds."""
        attempts: list[Attempt] = []
        while self._closed and now - next(iter(self._closed.values())) >= SETTLE:
            attempts += self._complete(next(iter(self._closed)), now)
        while self._open and now - next(iter(self._open.values())).since >= KEPT:
            attempts += self._give_up(next(iter(self._open)), now)
        while self._failed and now - next(iter(self._failed.values())) >= KEPT:
            self._failed.popitem(last=False)
        return attempts

    def end(self, now: float) -> list[Attempt]:
        """Return what is known of the connections that are open, and forget them."""
        attempts: list[Attempt] = []
        while self._open:
            attempts += self._give_up(next(iter(self._open)), now)
        return attempts

    def _ehlo(self, event: eximevents.Event, now: float) -> list[Attempt]:
        if event.port != _SMTP:
            return []
        if event.tls:
            known = self._take(event.connection)
            helo = known.helo if known else event.data[:MAX_HELO]
            return [_attempt(event, Outcome.ESTABLISHED, helo, tlsa=event.tlsa or event.dane)]
        before = self._complete(event.connection, now)
        if self._failed.pop(event.connection, None) is not None and event.errno == TLS_FAILED:
            return before  # once more, in the clear
        offered = bool(_STARTTLS.search(event.data))
        if offered or _ANSWERED.match(event.data):
            before += self._remember(event, now, _Open(event, now, event.data[:MAX_HELO], offered))
        return before

    def _remember(self, event: eximevents.Event, now: float, known: _Open) -> list[Attempt]:
        self._open[event.connection] = known
        if len(self._open) > MAX_CONNECTIONS:
            return self._give_up(next(iter(self._open)), now)
        return []

    def _dane_fail(self, event: eximevents.Event, now: float) -> list[Attempt]:
        dane = event.data[:MAX_REASON] or "validation-failure"
        known = self._open.get(event.connection)
        if known is not None:
            known.event, known.dane = event, dane
            return []
        self._closed[event.connection] = now  # there is no connection yet, and there will be none
        return self._remember(event, now, _Open(event, now, dane=dane, closed=now))

    def _close(self, event: eximevents.Event, now: float) -> None:
        known = self._open.get(event.connection)
        if known is not None and known.closed is None:
            known.event = event
            self._closed[event.connection] = known.closed = now

    def _take(self, connection: eximevents.Connection) -> _Open | None:
        self._closed.pop(connection, None)
        return self._open.pop(connection, None)

    def _give_up(self, connection: eximevents.Connection, now: float) -> list[Attempt]:
        """Tell what is known of a connection whose end was missed: only that there is no STARTTLS, or no DANE."""
        known = self._open[connection]
        if known.closed is None and known.offered and not known.dane:
            self._take(connection)
            self.unjoined += 1
            return []
        return self._complete(connection, now)

    def _complete(
        self, connection: eximevents.Connection, now: float, deferred: eximevents.Event | None = None
    ) -> list[Attempt]:
        known = self._take(connection)
        if known is None:
            return []
        outcome = _outcome(known, deferred)
        if outcome is None:
            self.unjoined += 1
            return []
        if outcome is Outcome.FAILED:
            self._failed[connection] = now
            if len(self._failed) > MAX_CONNECTIONS:
                self._failed.popitem(last=False)
        about_tls = deferred is not None and (known.dane or deferred.errno in {TLS_FAILED, TLS_REQUIRED})
        reason = deferred.data if deferred is not None and about_tls else ""
        return [
            _attempt(known.event, outcome, known.helo, reason, known.dane, tlsa=bool(known.dane) or known.event.tlsa)
        ]


_SMTP = 25
"""The only port where domains have a say in how mail to them is secured."""

_STARTTLS = re.compile(r"^250[ -]STARTTLS[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_ANSWERED = re.compile(r"250|50[0-9]")
"""A reply of a server that goes on, with EHLO or without: not one that has no time or does not want us."""


def _outcome(known: _Open, deferred: eximevents.Event | None) -> Outcome | None:
    """Return how a connection went of which no EHLO inside of TLS was told; ``None``: that cannot be told."""
    if known.dane:
        return Outcome.DANE
    if deferred is not None and deferred.errno == TLS_FAILED:
        return Outcome.FAILED
    if known.event.tls:  # then that EHLO was missed
        return Outcome.ESTABLISHED if known.event.verified else None
    if not known.offered:
        return Outcome.NOT_OFFERED
    if deferred is None or deferred.errno == TLS_REQUIRED or "STARTTLS" in deferred.data:
        return Outcome.REFUSED
    return None


def _attempt(
    event: eximevents.Event, outcome: Outcome, helo: str, reason: str = "", dane: str = "", *, tlsa: bool
) -> Attempt:
    return Attempt(
        domain=event.domain,
        host=event.connection.host,
        ip=event.connection.ip,
        sending_ip=event.sending_ip,
        helo=helo,
        outcome=outcome,
        verified=event.verified,
        tlsa=tlsa,
        matched=event.dane,
        reason=reason[:MAX_REASON],
        dane=dane,
        certificate=event.certificate,
    )
