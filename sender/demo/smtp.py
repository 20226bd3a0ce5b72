"""A receiving SMTP server whose behaviour is a value; the only module here that imports aiosmtpd.

:class:`Server` listens on a port of 127.0.0.1 in the running loop. What it does about STARTTLS
(RFC 3207) is a :class:`Starttls`; what it answers to RCPT and after DATA, and what it was given, is its
``mailbox.Mailbox``. It relays nothing and checks no address.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import enum
import ssl
import warnings
from types import TracebackType
from typing import Any, Self

from aiosmtpd import smtp

from sender.demo import dns, mailbox

MAX_MESSAGE = 33_554_432
"""Octets of a message (SIZE), aiosmtpd's default: three times what the largest report needs."""

IDLE_SECONDS = 60.0
"""How long a client may be silent."""

HANDSHAKE_SECONDS = 10.0
"""How long a client may take for TLS from the first octet; the end of the server may wait for it."""

GARBAGE = b"\x15\x03\x05 this is not TLS \r\n" * 4
"""What a broken handshake answers to a ClientHello."""

SERVICE_CLOSING = 421
"""The one reply after which the server hangs up (RFC 5321 section 3.8)."""


class Starttls(enum.Enum):
    """What happens about STARTTLS."""

    OFFERED = "offered"
    ABSENT = "absent"
    REFUSED = "refused"
    """Offered, but answered with 454."""
    GARBAGE = "garbage"
    """Answered with 220, and then something that is not TLS."""
    HANG_UP = "hang-up"
    """Answered with 220, and then the connection is closed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Login:
    """What AUTH takes."""

    user: str
    password: str = dataclasses.field(repr=False)


class Server:
    """An SMTP server on loopback; an async context manager.

    Args:
        hostname: what greeting and EHLO say.
        context: the TLS context; ``None``: no STARTTLS whatever ``starttls`` says.
        starttls: what happens about STARTTLS.
        implicit_tls: TLS from the first octet (RFC 8314 section 3.3) with ``context``; no STARTTLS then.
        login: required AUTH PLAIN or LOGIN; on plain connections, too.

    Attributes:
        connections: how many there were.
    """

    def __init__(
        self,
        hostname: str,
        context: ssl.SSLContext | None = None,
        *,
        starttls: Starttls = Starttls.OFFERED,
        implicit_tls: bool = False,
        login: Login | None = None,
    ) -> None:
        self.hostname = hostname
        self.starttls = starttls
        self.mailbox = mailbox.Mailbox()
        self._context = context
        self._implicit_tls = implicit_tls
        self._login = login
        self._open: set[_Protocol] = set()
        self.connections = 0
        self._port = 0

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        return self._port

    async def __aenter__(self) -> Self:
        context = self._context if self._implicit_tls else None
        loop = asyncio.get_running_loop()
        limit = HANDSHAKE_SECONDS if context else None
        self._listener = await loop.create_server(
            self._protocol, dns.LOOPBACK, 0, ssl=context, ssl_handshake_timeout=limit
        )
        self._port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        tasks = [task for protocol in tuple(self._open) if (task := protocol.hang_up())]
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._listener.wait_closed()

    def _protocol(self) -> "_Protocol":
        self.connections += 1
        offered = self.starttls is not Starttls.ABSENT and not self._implicit_tls
        login = self._login
        return _Protocol(
            _Hooks(self.mailbox),
            self.starttls,
            self._open,
            hostname=self.hostname,
            ident="ESMTP",
            data_size_limit=MAX_MESSAGE,
            tls_context=self._context if offered else None,
            timeout=IDLE_SECONDS,
            auth_required=login is not None,
            auth_require_tls=login is None,
            authenticator=_authenticator(login) if login else None,
            loop=asyncio.get_running_loop(),
        )


def _authenticator(login: Login) -> Any:
    def check(*arguments: Any) -> smtp.AuthResult:
        data = arguments[-1]  # after server, session, envelope, mechanism
        given = (data.login, data.password) if isinstance(data, smtp.LoginPassword) else None
        good = given == (login.user.encode(), login.password.encode())
        return smtp.AuthResult(success=good, handled=False)  # not handled: aiosmtpd replies 235 or 535

    return check


class _Hooks:
    """What aiosmtpd calls, by its names."""

    def __init__(self, box: mailbox.Mailbox) -> None:
        self._box = box

    async def handle_RCPT(  # noqa: N802 # aiosmtpd's name
        self, protocol: "_Protocol", _session: smtp.Session, envelope: smtp.Envelope, address: str, options: list[str]
    ) -> str:
        answer = self._box.recipient(address, dt.datetime.now(dt.UTC))
        if isinstance(answer, mailbox.Reply) and answer.accepts:
            envelope.rcpt_tos.append(address)
            envelope.rcpt_options.extend(options)
        return await protocol.give(answer)

    async def handle_DATA(  # noqa: N802 # aiosmtpd's name
        self, protocol: "_Protocol", _session: smtp.Session, envelope: smtp.Envelope
    ) -> str:
        message = mailbox.Message(
            sender=envelope.mail_from or "",
            recipients=tuple(envelope.rcpt_tos),
            content=bytes(envelope.original_content or b""),
            tls=protocol.encrypted,
            arrived=dt.datetime.now(dt.UTC),
        )
        return await protocol.give(self._box.message(message))

    async def handle_exception(self, error: Exception) -> str:
        """Say nothing of broken handshakes: they are what many of these servers are for."""
        return f"451 4.3.0 {type(error).__name__}"


class _Protocol(smtp.SMTP):
    """A connection."""

    def __init__(self, hooks: _Hooks, starttls: Starttls, registry: "set[_Protocol]", **options: Any) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Requiring AUTH while not requiring TLS", UserWarning)
            super().__init__(hooks, **options)
        self._starttls = starttls
        self._registry = registry

    @property
    def encrypted(self) -> bool:
        return self.transport is not None and self.transport.get_extra_info("sslcontext") is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._registry.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._registry.discard(self)
        super().connection_lost(error)

    def hang_up(self) -> "asyncio.Task[None] | None":
        """Break the connection; return the task that still ends."""
        for transport in (self.transport, self._original_transport):
            if isinstance(transport, asyncio.WriteTransport):
                with contextlib.suppress(AttributeError):  # Python 3.11.2: a TLS transport that was closed twice
                    transport.abort()
        return self._handler_coroutine

    async def give(self, answer: mailbox.Answer) -> str:
        """Return a reply's line; do what is programmed in its place otherwise, and never return."""
        if isinstance(answer, mailbox.Reply):
            line = f"{answer.code} {answer.text}"
            if answer.code != SERVICE_CLOSING:
                return line
            await self.push(line)
            if self.transport:
                self.transport.close()
        if isinstance(answer, mailbox.Drop):
            self.hang_up()
        await asyncio.Event().wait()  # until the connection ends and with it this task
        raise AssertionError("nobody sets this event")

    @smtp.syntax("STARTTLS", when="tls_context")
    async def smtp_STARTTLS(self, arg: str) -> None:  # noqa: N802 # aiosmtpd's name
        if self._starttls is Starttls.OFFERED:
            await super().smtp_STARTTLS(arg)
        elif self._starttls is Starttls.REFUSED:
            await self.push("454 4.7.0 TLS not available due to temporary reason")
        else:
            await self._break_handshake()

    async def _break_handshake(self) -> None:
        await self.push("220 2.0.0 Ready to start TLS")
        await self._reader.read(1)  # the first octet of the ClientHello
        if self._starttls is Starttls.GARBAGE:
            self._writer.write(GARBAGE)
        if self.transport:
            self.transport.close()
        await asyncio.Event().wait()
