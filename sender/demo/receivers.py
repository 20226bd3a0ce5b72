"""Receivers of reports: one for mail, one for HTTPS (RFC 8460 sections 5.3 and 5.4).

The mail receiver is the organization's relay and the mailbox of every rua at once. The HTTPS receiver
keeps each request whole, whatever its path and method. Both do what they are told: the mail
receiver for each address (``mailbox.Mailbox.program``), the HTTPS receiver for each path, as a list of
behaviours used up one by one, after which every request gets 201. Neither looks into reports;
``sender.demo.verify`` does.
"""

import asyncio
import collections
import dataclasses
import datetime as dt
import ssl
from types import TracebackType
from typing import Self, TypeAlias

from aiohttp import web

from sender.demo import certificates, dns, smtp

KEPT = 10_000
"""Requests kept; older ones are dropped, so that a long load test does not fill memory."""

MAX_BODY = 16_777_216
"""Octets of a request's body: more than the largest report has unpacked (10 MB)."""

SHUTDOWN_SECONDS = 1.0
"""How long the end of the server waits for requests that are being answered."""


@dataclasses.dataclass(frozen=True, slots=True)
class Status:
    """An HTTP answer."""

    code: int
    headers: tuple[tuple[str, str], ...] = ()
    """For example ``(("Retry-After", "120"),)`` or ``(("Location", "https://..."),)``."""
    body: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True)
class Drop:
    """The connection breaks without an answer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Silent:
    """No answer, and the connection stays open."""


Answer: TypeAlias = Status | Drop | Silent

CREATED = Status(201)


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A request as it came."""

    method: str
    host: str
    """The Host header."""
    path: str
    """With the query, not decoded."""
    headers: tuple[tuple[str, str], ...]
    body: bytes
    answer: Answer
    arrived: dt.datetime
    """When its body was complete."""

    def header(self, name: str) -> str | None:
        """Return a header field's value; the name may be in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class MailReceiver(smtp.Server):
    """A relay that delivers everything into its own mailbox; an async context manager.

    Args:
        authority: whose certificate it shows when STARTTLS is used; ``None``: no STARTTLS.
        implicit_tls: TLS from the first octet; needs ``authority``.
        login: required AUTH.
    """

    def __init__(
        self,
        authority: certificates.Authority | None = None,
        *,
        implicit_tls: bool = False,
        login: smtp.Login | None = None,
    ) -> None:
        context = None
        if authority:
            context = certificates.server_context(authority.issue(("localhost", dns.LOOPBACK)))
        super().__init__("localhost", context, implicit_tls=implicit_tls, login=login)


class HttpsReceiver:
    """An HTTPS server that takes reports; an async context manager.

    Args:
        context: the TLS context, with a certificate for the host names it is reached by.

    Attributes:
        requests: every request that was complete, oldest first; at most :data:`KEPT`.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.requests: collections.deque[Request] = collections.deque(maxlen=KEPT)
        self._context = context
        self._programs: dict[str, collections.deque[Answer]] = {}
        self._port = 0

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        return self._port

    def program(self, path: str, *answers: Answer) -> None:
        """Set the next answers for a path; with none, it is 201 again."""
        self._programs[path] = collections.deque(answers)

    async def __aenter__(self) -> Self:
        self._closing = asyncio.Event()
        application = web.Application(client_max_size=MAX_BODY)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await self._runner.setup()
        await web.TCPSite(self._runner, dns.LOOPBACK, 0, ssl_context=self._context).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        program = self._programs.get(request.path_qs)
        answer = program.popleft() if program else CREATED
        self.requests.append(_request(request, body, answer))
        if isinstance(answer, Status):
            return web.Response(status=answer.code, headers=answer.headers, body=answer.body)
        if isinstance(answer, Silent):
            await self._closing.wait()
        if request.transport:
            request.transport.abort()
        return web.Response()


def _request(request: web.Request, body: bytes, answer: Answer) -> Request:
    return Request(
        method=request.method,
        host=request.host,
        path=request.path_qs,
        headers=tuple(request.headers.items()),
        body=body,
        answer=answer,
        arrived=dt.datetime.now(dt.UTC),
    )
