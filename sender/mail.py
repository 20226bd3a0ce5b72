"""Messages to the relay over SMTP (RFC 5321), several over one connection.

The one module that uses aiosmtplib. :func:`parse_relay` reads ``mail.relay``; a :class:`Connection` opens at the
first message, again after a hundred, and again when the server has dropped it. Whatever the server says and whatever
happens to the network becomes an ``outcome.Outcome``: a 5xx to MAIL, RCPT or DATA is the recipient's refusal, while
everything before that (greeting, EHLO, STARTTLS, AUTH) is our relay's trouble and only defers.

Does not queue, does not look up MX hosts, and does not verify the relay's certificate with ``starttls=opportunistic``.
Known limits: no client certificates, no XOAUTH2, no SMTPUTF8; a message whose last answer is lost is sent again.
"""

import asyncio
import contextlib
import dataclasses
import enum
import ipaddress
import re
import ssl
import urllib.parse
from types import TracebackType
from typing import Self

import aiosmtplib

from sender import config, message, outcome

MAX_MESSAGES = 100
"""Messages for one connection: common servers close one after a hundred or more."""

MAX_TIMEOUTS = 3
"""Messages in a row that time out before the relay is left alone: one slow message must not hold up the others."""

QUIT_TIMEOUT = 5.0
"""Seconds for the answer to QUIT: all is done by then, waiting is mere politeness."""

SMTP_PORT = 25
SMTPS_PORT = 465

_AUTHENTICATION_CODES = (530, 534, 535, 538)
"""Replies about who we are, at whatever command (RFC 4954 section 6, RFC 3207 section 4)."""

_UNAVAILABLE = 421
"""The server closes the connection (RFC 5321 section 3.8)."""

_REFUSALS = range(400, 600)
"""Replies after which client and server still agree where they are (RFC 5321 section 4.2.1)."""


class Tls(enum.StrEnum):
    """How the connection to the relay is secured."""

    IMPLICIT = "implicit"
    """TLS from the first byte; the certificate is verified."""
    OPPORTUNISTIC = "opportunistic"
    """STARTTLS if it is offered; the certificate is not verified."""
    REQUIRE = "require"
    """STARTTLS or nothing; the certificate is verified."""
    NEVER = "never"


@dataclasses.dataclass(frozen=True, slots=True)
class Relay:
    """The server that takes our mail."""

    host: str
    port: int
    tls: Tls
    username: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)

    def __str__(self) -> str:
        """Return host and port, for messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclasses.dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for the relay."""

    connect: float = 30.0
    """To connect, TLS and the greeting included: a relay is near; one that takes longer is not well."""
    command: float = 60.0
    """For the answer to a command: the five minutes of RFC 5321 section 4.5.3.2 are meant for hosts far away."""
    data: float = 300.0
    """For the answer to a whole message: content filters take their time, and giving up early sends it twice."""


_FORM = "write smtp://HOST:PORT or smtps://HOST:PORT"


def parse_relay(url: str) -> Relay:
    """Read ``mail.relay``: ``smtp://`` or ``smtps://``, with ``user:password@``, port and ``?starttls=``.

    Raises:
        config.ConfigError: it cannot be used; the password is not shown.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # its text may quote the password
        raise _wrong(url, f"{_FORM}, an IPv6 address in brackets, / ? # @ : in user and password as %XX") from None
    if parts.scheme not in {"smtp", "smtps"} or not host or port == 0:
        raise _wrong(url, _FORM)
    if parts.path not in {"", "/"} or parts.fragment:
        raise _wrong(url, "remove what follows the port; write / ? # @ : in user and password as %XX")
    if (parts.username is None) != (parts.password is None) or parts.username == "":
        raise _wrong(url, "give user and password as user:password@ or none of them")
    return Relay(
        host=host,
        port=port or (SMTPS_PORT if parts.scheme == "smtps" else SMTP_PORT),
        tls=_tls(url, parts, host),
        username=None if parts.username is None else urllib.parse.unquote(parts.username),
        password=None if parts.password is None else urllib.parse.unquote(parts.password),
    )


def tls_context(relay: Relay, ca_file: str = "") -> ssl.SSLContext:
    """Return how TLS to the relay is set up.

    Args:
        relay: whose certificate is verified unless TLS is opportunistic.
        ca_file: ``https.ca_file``: more trust anchors; empty: those of the system alone.

    Raises:
        config.ConfigError: the file cannot be used.
    """
    if relay.tls is Tls.OPPORTUNISTIC:  # loading the anchors of the system would take as long as ten messages
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:  # ssl.SSLError is one
            cure = "name a file of certificates in PEM, or leave it empty"
            raise config.ConfigError(f'https.ca_file = "{ca_file}": {error.strerror or error}: {cure}') from error
    return context


class Connection:
    """A connection to the relay, for messages one after the other.

    ``async with Connection(relay, name) as connection: outcome = await connection.send(...)``. Nothing is connected
    before the first :meth:`send`. Once connecting has failed, every further message is deferred at once with the
    same answer, so that a dead relay costs one time-out rather than one for each report.
    """

    def __init__(self, relay: Relay, name: str, *, ca_file: str = "", timeouts: Timeouts | None = None) -> None:
        """Remember what to connect to; ``name`` is told in EHLO."""
        self._relay = relay
        self._name = name
        self._ca_file = ca_file
        self._timeouts = timeouts or Timeouts()
        self._one_at_a_time = asyncio.Lock()
        self._client: aiosmtplib.SMTP | None = None
        self._sent = 0
        self._timed_out = 0
        self._trouble: outcome.Deferred | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._quit()

    async def send(self, sender: str, recipient: str, content: bytes) -> outcome.Outcome:
        """Send a message to one recipient.

        Args:
            sender: the envelope sender, an address as ``message.check_address`` takes it.
            recipient: likewise; one that is none is refused.
            content: the message with CRLF line ends.
        """
        try:
            message.check_address(sender)
            message.check_address(recipient)
        except message.InvalidAddressError as error:
            return outcome.Refused(outcome.clean(str(error)))
        async with self._one_at_a_time:
            try:
                return await self._send(sender, recipient, content)
            except BaseException:  # cancelled: the connection is in the middle of something
                self._drop()
                raise

    async def probe(self) -> str | None:
        """Connect and greet, with TLS and login as configured; return what is wrong, ``None``: nothing."""
        try:
            await self._connected()
        except _FAULTS as error:
            self._drop()
            return self._deferred("cannot be used", error).answer
        except BaseException:  # cancelled: the connection is in the middle of something
            self._drop()
            raise
        return None

    async def _send(self, sender: str, recipient: str, content: bytes) -> outcome.Outcome:
        if self._trouble is not None:
            return self._trouble
        try:
            client = await self._connected()
        except _FAULTS as error:
            self._drop()
            self._trouble = self._deferred("cannot be used", error)
            return self._trouble
        self._sent += 1
        try:
            result = await self._transaction(client, sender, recipient, content)
        except _FAULTS as error:
            self._drop()
            return self._lost(error)
        self._timed_out = 0
        return result

    async def _connected(self) -> aiosmtplib.SMTP:
        """Return the open connection, or open one."""
        if self._client is not None and self._client.is_connected and self._sent < MAX_MESSAGES:
            return self._client
        await self._quit()
        relay, tls = self._relay, self._relay.tls
        self._client = client = aiosmtplib.SMTP(
            hostname=relay.host,
            port=relay.port,
            username=relay.username,
            password=relay.password,
            local_hostname=self._name,
            timeout=self._timeouts.command,
            use_tls=tls is Tls.IMPLICIT,
            start_tls={Tls.REQUIRE: True, Tls.OPPORTUNISTIC: None}.get(tls, False),
            tls_context=None if tls is Tls.NEVER else tls_context(relay, self._ca_file),
        )
        self._sent = 0
        await client.connect(timeout=self._timeouts.connect)
        if client.is_ehlo_or_helo_needed:
            await client.ehlo()
        return client

    async def _transaction(
        self, client: aiosmtplib.SMTP, sender: str, recipient: str, content: bytes
    ) -> outcome.Outcome:
        size = [f"SIZE={len(content)}"] if client.supports_extension("size") else []
        try:
            await client.mail(sender, options=size)
            await client.rcpt(recipient)
            answer = await client.data(content, timeout=self._timeouts.data)
        except aiosmtplib.SMTPResponseException as error:
            result = self._refusal(error)
            await self._reset(client, error.code)
            return result
        return outcome.of_smtp(answer.code, answer.message)

    def _refusal(self, error: aiosmtplib.SMTPResponseException) -> outcome.Outcome:
        """Return what a reply means that is not the one expected."""
        if error.code in _AUTHENTICATION_CODES:
            return self._deferred("does not let us in", error)
        result = outcome.of_smtp(error.code, error.message)
        return self._deferred("gave an unexpected answer", error) if isinstance(result, outcome.Delivered) else result

    async def _reset(self, client: aiosmtplib.SMTP, code: int) -> None:
        """Make the connection ready for the next message, or drop it."""
        if code not in _REFUSALS or code == _UNAVAILABLE:
            self._drop()
            return
        try:
            await client.rset()
        except _FAULTS:
            self._drop()

    def _lost(self, error: Exception) -> outcome.Deferred:
        self._timed_out = self._timed_out + 1 if isinstance(error, TimeoutError) else 0
        result = self._deferred("failed in the middle of a message", error)
        if self._timed_out >= MAX_TIMEOUTS:
            self._trouble = result
        return result

    def _deferred(self, what: str, error: Exception) -> outcome.Deferred:
        if isinstance(error, aiosmtplib.SMTPResponseException):
            reason = f"{error.code} {error.message}"
        else:
            reason = str(error) or type(error).__name__
        return outcome.Deferred(outcome.clean(f"our relay {self._relay} {what}: {reason}"))

    async def _quit(self) -> None:
        """Take leave if there is a connection; what the server says to that does not matter."""
        if self._client is not None and self._client.is_connected:
            with contextlib.suppress(*_FAULTS):
                await self._client.quit(timeout=QUIT_TIMEOUT)
        self._drop()

    def _drop(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None


_FAULTS = (aiosmtplib.SMTPException, OSError, ValueError, config.ConfigError)
"""All that aiosmtplib, ssl and the resolver raise: time-outs are OSErrors, an unusable host name is a ValueError."""


def _tls(url: str, parts: urllib.parse.SplitResult, host: str) -> Tls:
    query = urllib.parse.parse_qs(parts.query, keep_blank_values=True)
    [word] = query.pop("starttls", [""])[-1:]
    if query:
        raise _wrong(url, "the only option is starttls, for example ?starttls=require")
    if parts.scheme == "smtps":
        if parts.query:
            raise _wrong(url, "smtps:// has no STARTTLS, remove ?starttls= or write smtp://")
        return Tls.IMPLICIT
    if not parts.query:
        return Tls.REQUIRE if parts.username and not _is_loopback(host) else Tls.OPPORTUNISTIC
    if word not in {Tls.OPPORTUNISTIC, Tls.REQUIRE, Tls.NEVER}:
        raise _wrong(url, "write ?starttls=opportunistic, ?starttls=require or ?starttls=never")
    return Tls(word)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _wrong(url: str, cure: str) -> config.ConfigError:
    hidden = re.sub(r"\A([^/@]*://)?.*@", r"\1***@", url, flags=re.DOTALL)
    return config.ConfigError(f'mail.relay = "{hidden}": {cure}')
