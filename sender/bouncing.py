"""The process that takes bounces of our report mails from the mail server; the rim of aiosmtpd.

SMTP or LMTP, as the server speaks. It answers the end of a message only once what it says is in the store; while that
is away, it asks to try again. It sends nothing, and takes nothing for other recipients than envelope senders of reports
that were sent (``sender.dsn``).
"""

import asyncio
import datetime as dt
import functools
import warnings
from collections.abc import Callable
from typing import Any

import structlog
from aiosmtpd import smtp

from policy import endpoints, listeners, stopping
from sender import config, dsn, readiness
from sender.store import bounces, engine

MAX_MESSAGE = 1_000_000
"""Octets: a bounce has the mail that came back in it, or its head; servers shorten long ones."""

CONNECTIONS = 20
"""At once; those beyond are told to come back."""

IDLE_SECONDS = 60.0
"""How long a client may be silent."""

LONGEST_SECONDS = 600.0
"""How long a connection may last."""

log = structlog.get_logger()


def main(settings: config.Config) -> int:
    """Take bounces until SIGTERM or SIGINT; return the exit code."""
    try:
        listening = endpoints.listen([settings.bounces.listen], mode=0o660)
    except (ValueError, listeners.ListenError) as error:
        log.error("bounces cannot be taken", error=str(error))
        return 1
    taker = Taker(config.identity(settings).sender, engine.Deferred(settings.store.url))
    asyncio.run(_serve(taker, listening, settings.bounces.listen))
    return 0


class Taker:
    """What is answered to each command that matters; the handler of aiosmtpd.

    Args:
        sender: ``mail.sender``.
        store: closed with this.
        clock: tells the time, aware.
    """

    def __init__(
        self,
        sender: str,
        store: engine.Deferred,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._sender, self._store, self._clock = sender, store, clock

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: smtp.SMTP, _session: Any, envelope: smtp.Envelope, address: str, _options: list[str]
    ) -> str:
        """Take one recipient, who stands for a delivery that was made."""
        delivery = dsn.delivery(self._sender, address)
        if delivery is None:
            return "550 5.1.1 No report is sent from this address"
        if envelope.rcpt_tos:
            return "452 4.5.3 One recipient at a time"
        try:
            known = await asyncio.to_thread(self._knows, *delivery)
        except engine.StoreError as error:
            return self._later(error)
        if not known:
            return "550 5.1.1 No report was sent from this address"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, _server: smtp.SMTP, _session: Any, envelope: smtp.Envelope) -> str:  # noqa: N802
        """Note what a bounce says; take other mail, and drop it."""
        delivery = dsn.delivery(self._sender, envelope.rcpt_tos[0])
        content = envelope.content
        if delivery is None or not isinstance(content, bytes):
            return "554 5.6.0 Not what was announced"
        report_id, number = delivery
        try:
            bounce = await asyncio.to_thread(dsn.parse, content)
            if bounce.fate is dsn.Fate.FAILED:
                suppressed = await asyncio.to_thread(self._note, report_id, number, bounce)
            else:
                suppressed = None
        except dsn.NotABounceError as error:
            log.info("mail that is no bounce is dropped", report_id=report_id, number=number, reason=str(error))
            return "250 2.0.0 Dropped"
        except engine.StoreError as error:
            return self._later(error)
        log.info("bounce", report_id=report_id, number=number, fate=bounce.fate.value, status=bounce.status)
        if suppressed:
            log.warning("an address gets no more reports", address=suppressed, days=bounces.PAUSE.days)
        return "250 2.0.0 Noted"

    def _knows(self, report_id: str, number: int) -> bool:
        with self._store.opened().read() as connection:
            return bounces.known(connection, report_id, number)

    def _note(self, report_id: str, number: int, bounce: dsn.Bounce) -> str | None:
        told = f"{bounce.status} {bounce.told}".strip()
        now = self._clock()
        return self._store.opened().change(lambda connection: bounces.note(connection, report_id, number, now, told))

    def _later(self, error: engine.StoreError) -> str:
        log.error("a bounce is put off: the store cannot be used", error=str(error))
        return "451 4.3.0 Not now"


async def _serve(taker: Taker, listening: endpoints.Listening, where: str) -> None:
    stop, loop = stopping.asked(), asyncio.get_running_loop()
    open_ = set[Protocol]()
    servers = [await loop.create_server(functools.partial(Protocol, taker, open_), sock=s) for s in listening.sockets]
    log.info("bounces are taken", listen=where)
    readiness.tell()
    try:
        await stop.wait()
    finally:
        for server in servers:
            server.close()
        for protocol in tuple(open_):
            protocol.drop()
        listening.close()
        taker.close()
    log.info("bounces are taken no longer")


class Protocol(smtp.SMTP):
    """One connection; SMTP and LMTP (RFC 2033), which with one recipient differ in the greeting only.

    Args:
        taker: the handler.
        others: connections that are open; this one is among them while it is.
    """

    def __init__(self, taker: Taker, others: "set[Protocol]") -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # aiosmtpd warns of what is meant: no TLS and no login on loopback
            super().__init__(
                taker,
                data_size_limit=MAX_MESSAGE,
                enable_SMTPUTF8=True,
                hostname="tlsrpt",
                ident="tlsrpt",
                timeout=IDLE_SECONDS,
                loop=asyncio.get_running_loop(),
            )
        self._others = others
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless there are too many."""
        if len(self._others) >= CONNECTIONS:
            assert isinstance(transport, asyncio.Transport)  # noqa: S101 - it is a stream
            transport.write(b"421 4.3.2 Too many connections\r\n")
            transport.close()
            return
        self._others.add(self)
        self._end = asyncio.get_running_loop().call_later(LONGEST_SECONDS, self.drop)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget it."""
        if self._end is not None:
            self._end.cancel()
            super().connection_lost(error)
        self._others.discard(self)

    def drop(self) -> None:
        """End it at once; the server tries again what was not answered."""
        if isinstance(self.transport, asyncio.Transport):
            self.transport.abort()

    async def smtp_LHLO(self, hostname: str) -> None:  # noqa: N802 - aiosmtpd's name
        """Greet as EHLO does (RFC 2033 section 4.1)."""
        await self.smtp_EHLO(hostname)
