"""HTTPS to hosts that strangers name: reports are posted to their receivers (RFC 8460 sections 3 and 5.2).

The one module of this room that imports aiohttp. Names are looked up by ``policy.resolver``, and every address is
judged by ``policy.addresses`` at the moment its socket is made, so neither an IP address in a URL nor DNS that changes
its mind leads into the local network. No redirects, cookies, proxies from the environment, or decompression; whatever
the other side does ends in an :class:`Answer` or an :class:`HttpsError` within the time-out.

Known limits: an address once connected to is kept with its connection for some seconds, without another look-up;
certificates are not checked for revocation.
"""

import asyncio
import contextlib
import dataclasses
import importlib.metadata
import io
import os
import socket
import ssl
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Self

import aiohttp
import aiohttp.abc
import yarl

from policy import addresses, resolver
from policy.settings import Https

TIMEOUT = 60.0
"""Seconds for a request, from look-up to the end of its answer: 10 MB on a slow line, or a receiver that is slow."""

CONNECT_TIMEOUT = 10.0
"""Seconds for one connection with its TLS handshake: long enough for lost packets, short enough to try the next."""

MAX_ANSWER = 64 * 1024
"""Octets of an answer that are read: it is for people; the status says it all."""

MAX_PER_HOST = 8
"""Connections to one host at once: a provider receives the reports of many domains and must not be flooded."""

MAX_LINE = 1000
"""Characters of a header or reason phrase that are passed on; they end in logs and the store."""


class HttpsError(Exception):
    """No answer came: try again later. The text names the host and what went wrong, for a postmaster."""


class RefusedAddressError(HttpsError):
    """The host has only addresses that are not public; the text names one and ``https.allow_private``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What the other side answered; texts have no control characters."""

    status: int
    """Of HTTP (RFC 9110 section 15), redirects included."""
    reason: str
    """The reason phrase; empty: none."""
    retry_after: str | None
    """The header of that name (RFC 9110 section 10.2.3) as it came; ``None``: none."""
    content_type: str
    """The header of that name as it came; empty: none."""
    body: bytes
    """Not unpacked, at most :data:`MAX_ANSWER` octets, and no more than came before the connection broke."""


Guard = Callable[[str], str | None]
"""Returns why an IP address must not be connected to; ``None``: it may be."""


class Client:
    """Sends requests, any number at once; an async context manager, which closes what is open at its end.

    Args:
        settings: ``verify`` holds for report receivers; a policy host must always be verified (RFC 8461 section 3.3).
        resolver: whom to ask for addresses.
        timeout: seconds a request may take.
        guard: judges addresses; not asked when ``settings.allow_private``.

    Raises:
        ValueError: ``settings.ca_file`` cannot be used; the text names key, value and cure.
    """

    def __init__(
        self,
        settings: Https,
        resolver: resolver.Resolver,
        *,
        timeout: float = TIMEOUT,
        guard: Guard = addresses.refusal,
    ) -> None:
        self._tls = _tls(settings)
        self._names = _Names(resolver, (lambda _: None) if settings.allow_private else guard)
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=min(CONNECT_TIMEOUT, timeout))
        self._agent = f"tlsrpt/{importlib.metadata.version('tlsrpt')}"
        self._session: aiohttp.ClientSession | None = None
        self._gates: weakref.WeakValueDictionary[str, asyncio.Semaphore] = weakref.WeakValueDictionary()

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            ssl=self._tls,
            resolver=self._names,
            use_dns_cache=False,
            limit_per_host=MAX_PER_HOST,
            socket_factory=self._names.make_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"User-Agent": self._agent, "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, url: str, body: bytes, content_type: str) -> Answer:
        """Post a body to an https URL, which is sent as it is.

        Raises:
            HttpsError: no answer came: no address, no connection, no trust, no time, or it is not HTTP.
            RefusedAddressError: only addresses that are not public.
        """
        host = url
        try:
            target = _target(url)
            host = target.raw_host or url
            gate = self._gates.setdefault(f"{host}:{target.port}", asyncio.Semaphore(MAX_PER_HOST))
            async with gate:  # the time-out must not run while others of our requests are before this one
                return await self._exchange(target, body, {"Content-Type": content_type})
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._explain(host, error) from error

    async def _exchange(self, target: yarl.URL, body: bytes, headers: dict[str, str]) -> Answer:
        if self._session is None:
            raise RuntimeError("a Client is used inside of async with")
        data = io.BytesIO(body)
        async with self._session.post(target, data=data, headers=headers, allow_redirects=False) as response:
            return await _answer(response)

    def _explain(self, host: str, error: Exception) -> HttpsError:
        """Say in our words what aiohttp's exceptions mean."""
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            cause = error.certificate_error
        if isinstance(cause, _RefusedError):
            return RefusedAddressError(f"{host}: {cause}: set https.allow_private = true to connect to it")
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return HttpsError(f"{host}: no connection within {self._timeout.sock_connect:g} seconds")
        if isinstance(error, TimeoutError):
            return HttpsError(f"{host}: no answer within {self._timeout.total:g} seconds")
        return HttpsError(f"{host}: {_what(cause)}")


def _target(url: str) -> yarl.URL:
    target = yarl.URL(url, encoded=True)
    if target.scheme != "https" or not target.raw_host:
        raise ValueError("not an https URL")
    return target


def _what(cause: Exception) -> str:
    match cause:
        case ssl.SSLCertVerificationError():
            return f"certificate: {cause.verify_message}"
        case ssl.SSLError():
            return f"TLS: {cause.reason or cause}"
        case aiohttp.ClientResponseError():
            return f"not HTTP: {_line(cause.message)}"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | ConnectionResetError():
            return "the connection was closed before an answer came"
        case OSError(errno=int(number)):
            return f"cannot connect: {os.strerror(number)}"
        case _:
            return _line(str(cause)) or type(cause).__name__


async def _answer(response: aiohttp.ClientResponse) -> Answer:
    retry_after = response.headers.get("Retry-After")
    return Answer(
        status=response.status,
        reason=_line(response.reason or ""),
        retry_after=None if retry_after is None else _line(retry_after),
        content_type=_line(response.headers.get("Content-Type", "")),
        body=await _beginning(response),
    )


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """Read the body as far as it comes, and not beyond the limit.

    The status has come before it and holds, whatever becomes of the body: a report that was accepted must not be
    sent again because the receiver closes too early.
    """
    body = bytearray()
    with contextlib.suppress(aiohttp.ClientError, OSError):
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MAX_ANSWER:
                break
    if not response.content.at_eof():
        _abort(response)
    return bytes(body[:MAX_ANSWER])


def _abort(response: aiohttp.ClientResponse) -> None:
    """Close the connection without a farewell: what comes is not wanted, and a stranger could keep it open."""
    if response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()
    response.close()


def _line(text: str) -> str:
    """Make text from outside fit for a log line: surrogates (octets that are not UTF-8) and controls replaced."""
    clean = text[:MAX_LINE].encode("utf-8", "replace").decode("utf-8")
    return "".join(character if character.isprintable() else "?" for character in clean)


class _RefusedError(OSError):
    """The guard said no."""


class _UnresolvedError(OSError):
    """There is no address, or nobody knows just now."""


class _Names(aiohttp.abc.AbstractResolver):
    """Looks up names for aiohttp and makes its sockets, both behind the guard."""

    def __init__(self, resolver: resolver.Resolver, guard: Guard) -> None:
        self._resolver = resolver
        self._guard = guard

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - aiohttp asks for any family
    ) -> list[aiohttp.abc.ResolveResult]:
        """Return the addresses of a host that the guard lets pass; if it lets none pass, its word on the first."""
        try:
            found = await self._resolver.addresses(host)
        except resolver.TemporaryError as error:
            raise _UnresolvedError(str(error)) from error
        if not found:
            raise _UnresolvedError("the host has no address")
        passed = [address for address in found if self._guard(address) is None]
        self._check(passed[0] if passed else found[0])
        return [_result(host, address, port) for address in passed]

    def make_socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """Make the socket of a connection; the last look at where it goes, also when the URL has an IP address."""
        family, kind, protocol, _, address = info
        self._check(str(address[0]))
        return socket.socket(family=family, type=kind, proto=protocol)

    def _check(self, address: str) -> None:
        reason = self._guard(address)
        if reason is not None:
            raise _RefusedError(f"{address} is {reason}")

    async def close(self) -> None:
        """Do nothing: nothing is kept open."""


def _result(host: str, address: str, port: int) -> aiohttp.abc.ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return aiohttp.abc.ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)


def _tls(settings: Https) -> ssl.SSLContext:
    """Trust the anchors of the system and those of the configuration, or anybody."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if settings.ca_file:
        try:
            context.load_verify_locations(settings.ca_file)
        except OSError as error:
            cure = "give a file of CA certificates in PEM, or leave it empty"
            raise ValueError(f'https.ca_file = "{settings.ca_file}": cannot be read: {error}: {cure}') from error
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
