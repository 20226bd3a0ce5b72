"""HTTPS to hosts that strangers name: receivers of reports, and policy hosts.

Reports are posted (RFC 8460 sections 3 and 5.2), policies are got (RFC 8461 section 3.3). A report is delivered once
its status has come; a policy must come whole, and from a host whose certificate is right, whatever the settings say.

The one module of this room that imports aiohttp. Names are looked up by ``policy.resolver``, and every address is
judged by ``policy.addresses`` at the moment its socket is made, so neither an IP address in a URL nor DNS that changes
its mind leads into the local network. No redirects, cookies, proxies from the environment, or decompression; whatever
the other side does ends in an :class:`Answer` or an :class:`HttpsError` within the time-out.

Known limits: an address once connected to is kept with its connection for some seconds, without another look-up (not
of policy hosts); certificates are not checked for revocation; a body that only the end of its connection ends may
lack its tail without our noticing.
"""

import asyncio
import dataclasses
import errno
import importlib.metadata
import io
import os
import socket
import ssl
import weakref
from collections.abc import Callable, Mapping
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
"""Octets of an answer that are read: that to a report is for people, and for a policy RFC 8461 suggests as many."""

_OK = 200
"""The one status of a policy (RFC 8461 section 3.3)."""

MAX_PER_HOST = 8
"""Connections to one host at once: a provider receives the reports of many domains and must not be flooded."""

MAX_LINE = 1000
"""Characters of a header or reason phrase that are passed on; they end in logs and the store."""


class HttpsError(Exception):
    """No answer came: try again later. The text names the host and what went wrong, for a postmaster."""

    def __init__(self, text: str, code: str = "connection-failed") -> None:
        super().__init__(text)
        self.code = code
        """In one word, for reports: ``url-invalid``, ``no-address``, ``dns-timeout`` and the others of
        :class:`resolver.TemporaryError`, ``address-refused``, ``connection-refused``, ``host-unreachable``,
        ``connection-failed``, ``connection-lost``, ``timeout``, ``tls-handshake-failure``, ``http-invalid``."""


class CertificateError(HttpsError):
    """The host cannot prove its name.

    ``code`` is ``certificate-expired``, ``certificate-not-yet-valid``, ``certificate-host-mismatch`` or
    ``certificate-not-trusted``.
    """


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
    """Not unpacked, at most as many octets as are wanted; to a post, no more than came before the connection broke."""
    truncated: bool = False
    """Whether there was more than is wanted."""


Guard = Callable[[str], str | None]
"""Returns why an IP address must not be connected to; ``None``: it may be."""


class Client:
    """Sends requests, any number at once; an async context manager, which closes what is open at its end.

    Args:
        settings: ``verify`` holds for posts; what is got must always be verified (RFC 8461 section 3.3).
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
        self._receivers = _tls(settings, verify=settings.verify)
        self._policy_hosts = _tls(settings, verify=True)
        self._policy_hosts.hostname_checks_common_name = False  # DNS-IDs only (RFC 8461 section 3.3)
        self._names = _Names(resolver, (lambda _: None) if settings.allow_private else guard)
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=min(CONNECT_TIMEOUT, timeout))
        self._agent = f"tlsrpt/{importlib.metadata.version('tlsrpt')}"
        self._posting: aiohttp.ClientSession | None = None
        self._getting: aiohttp.ClientSession | None = None
        self._gates: weakref.WeakValueDictionary[str, asyncio.Semaphore] = weakref.WeakValueDictionary()

    async def __aenter__(self) -> Self:
        self._posting = self._open(self._receivers)
        self._getting = self._open(self._policy_hosts, force_close=True)  # a policy host is asked once a day
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in (self._posting, self._getting):
            if session is not None:
                await session.close()

    def _open(self, tls: ssl.SSLContext, *, force_close: bool = False) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            ssl=tls,
            resolver=self._names,
            use_dns_cache=False,
            limit_per_host=MAX_PER_HOST,
            force_close=force_close,
            socket_factory=self._names.make_socket,
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"User-Agent": self._agent, "Accept-Encoding": "identity"},
        )

    async def post(self, url: str, body: bytes, content_type: str) -> Answer:
        """Post a body to an https URL, which is sent as it is.

        The status comes before the body and holds, whatever becomes of that: a report that was accepted must not be
        sent again because the receiver closes too early.

        Raises:
            HttpsError: no answer came: no address, no connection, no trust, no time, or it is not HTTP.
            RefusedAddressError: only addresses that are not public.
        """
        with_type = {"Content-Type": content_type}
        return await self._exchange(self._posting, "POST", url, body=body, headers=with_type)

    async def get(self, url: str, max_bytes: int = MAX_ANSWER) -> Answer:
        """Get what is behind an https URL; its host's certificate is verified whatever the settings say.

        A body with status 200 comes whole or, if it is too long, ``truncated``.

        Args:
            url: is sent as it is.
            max_bytes: octets of the body that are wanted.

        Raises:
            HttpsError: no answer came: no address, no connection, no time, it is not HTTP, or it broke off.
            CertificateError: the host cannot prove its name.
            RefusedAddressError: only addresses that are not public.
        """
        return await self._exchange(self._getting, "GET", url, whole=True, max_bytes=max_bytes)

    async def _exchange(
        self,
        session: aiohttp.ClientSession | None,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        whole: bool = False,
        max_bytes: int = MAX_ANSWER,
    ) -> Answer:
        if session is None:
            raise RuntimeError("a Client is used inside of async with")
        data = None if body is None else io.BytesIO(body)
        host = url
        try:
            target = _target(url)
            host = target.raw_host or url
            gate = self._gates.setdefault(f"{host}:{target.port}", asyncio.Semaphore(MAX_PER_HOST))
            async with (
                gate,  # the time-out must not run while others of our requests are before this one
                session.request(method, target, data=data, headers=headers, allow_redirects=False) as response,
            ):
                return await _answer(response, max_bytes, whole=whole and response.status == _OK)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._explain(host, error) from error

    def _explain(self, host: str, error: Exception) -> HttpsError:
        """Say in our words what aiohttp's exceptions mean."""
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            cause = error.certificate_error
        if isinstance(cause, ssl.SSLCertVerificationError):
            return CertificateError(f"{host}: certificate: {cause.verify_message}", _certificate_code(cause))
        if isinstance(cause, _RefusedError):
            cure = "set https.allow_private = true to connect to it"
            return RefusedAddressError(f"{host}: {cause}: {cure}", "address-refused")
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return HttpsError(f"{host}: no connection within {self._timeout.sock_connect:g} seconds", "timeout")
        if isinstance(error, TimeoutError):
            return HttpsError(f"{host}: no answer within {self._timeout.total:g} seconds", "timeout")
        if isinstance(error, aiohttp.ClientConnectorError) and isinstance(cause, _CUT):
            return HttpsError(f"{host}: TLS: the connection was closed during the handshake", "tls-handshake-failure")
        what, code = _what(cause)
        return HttpsError(f"{host}: {what}", code)


def _target(url: str) -> yarl.URL:
    target = yarl.URL(url, encoded=True)
    if target.scheme != "https" or not target.raw_host:
        raise ValueError("not an https URL")
    return target


_CERTIFICATE_CODES = {
    9: "certificate-not-yet-valid",
    10: "certificate-expired",
    62: "certificate-host-mismatch",
    64: "certificate-host-mismatch",
}
"""What OpenSSL's numbers of X509_V_ERR_CERT_NOT_YET_VALID, CERT_HAS_EXPIRED, HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH
mean; the ssl module has no names for them. All others mean that there is no way to a trusted CA."""


def _certificate_code(error: ssl.SSLCertVerificationError) -> str:
    return _CERTIFICATE_CODES.get(error.verify_code, "certificate-not-trusted")


_CONNECT_CODES = {
    errno.ECONNREFUSED: "connection-refused",
    errno.EHOSTUNREACH: "host-unreachable",
    errno.ENETUNREACH: "host-unreachable",
    errno.ETIMEDOUT: "timeout",
}


_CUT = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
"""While connecting: there was a connection, so it was cut in the handshake; TCP's own refusal is another error."""


def _what(cause: Exception) -> tuple[str, str]:
    """Return what happened, for a postmaster and in one word."""
    match cause:
        case _UnresolvedError():
            what, code = str(cause), cause.code
        case ssl.SSLError():
            what, code = f"TLS: {cause.reason or cause}", "tls-handshake-failure"
        case aiohttp.ClientResponseError():
            what, code = f"not HTTP: {_line(cause.message)}", "http-invalid"
        case aiohttp.ClientPayloadError():
            what, code = "the answer broke off", "connection-lost"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | ConnectionResetError():
            what, code = "the connection was closed before an answer came", "connection-lost"
        case OSError(errno=int(number)):
            what, code = f"cannot connect: {os.strerror(number)}", _CONNECT_CODES.get(number, "connection-failed")
        case ValueError():
            what, code = _line(str(cause)), "url-invalid"
        case _:
            what, code = _line(str(cause)) or type(cause).__name__, "connection-failed"
    return what, code


async def _answer(response: aiohttp.ClientResponse, max_bytes: int, *, whole: bool) -> Answer:
    body = bytearray()
    try:
        await _fill(body, response, max_bytes)
    except (aiohttp.ClientError, OSError):
        if whole:
            raise
    finally:
        if not response.content.at_eof():
            _abort(response)
    retry_after = response.headers.get("Retry-After")
    return Answer(
        status=response.status,
        reason=_line(response.reason or ""),
        retry_after=None if retry_after is None else _line(retry_after),
        content_type=_line(response.headers.get("Content-Type", "")),
        body=bytes(body[:max_bytes]),
        truncated=len(body) > max_bytes,
    )


async def _fill(body: bytearray, response: aiohttp.ClientResponse, max_bytes: int) -> None:
    """Read the body as far as it comes, and not far beyond the limit."""
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > max_bytes:
            break


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

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


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
            raise _UnresolvedError(str(error), error.code) from error
        if not found:
            raise _UnresolvedError("the host has no address", "no-address")
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


def _tls(settings: Https, *, verify: bool) -> ssl.SSLContext:
    """Trust the anchors of the system and those of the configuration, or anybody."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if settings.ca_file:
        try:
            context.load_verify_locations(settings.ca_file)
        except OSError as error:
            cure = "give a file of CA certificates in PEM, or leave it empty"
            raise ValueError(f'https.ca_file = "{settings.ca_file}": cannot be read: {error}: {cure}') from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
