"""The receiving side: MX servers, policy hosts, and receivers of reports, each at its own address and the real port.

The servers are those of ``sender.demo``, moved from ports of 127.0.0.1 to where the namespace has room for all.
They run in one event loop in a thread of their own, so that tests can be written without one.
"""

import asyncio
import contextlib
import functools
import ssl
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Self

from aiohttp import web

from sender.demo import certificates, mx, receivers, smtp
from tests.lab import scenarios, sites

SMTP, HTTPS = 25, 443

STARTED_WITHIN = 30.0
"""Seconds."""


class Mta(smtp.Server):
    """A receiving MTA at an address of its own.

    Args:
        hostname: what greeting and EHLO say.
        address: where it listens.
        shown: its certificate.
        temper: how it takes TLS sessions.
        latin_1: whether it greets with octets that are not UTF-8.
    """

    def __init__(
        self,
        hostname: str,
        address: str,
        shown: certificates.Certificate,
        temper: mx.Temper,
        *,
        latin_1: bool = False,
    ) -> None:
        starttls = mx._STARTTLS.get(temper, smtp.Starttls.OFFERED)
        super().__init__(
            f"{hostname} grüßt" if latin_1 else hostname, certificates.server_context(shown), starttls=starttls
        )
        self._address = address
        self._latin_1 = latin_1

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._protocol, self._address, SMTP)
        return self

    def _protocol(self) -> smtp._Protocol:
        protocol = super()._protocol()
        protocol.enable_SMTPUTF8 = True
        if self._latin_1:
            protocol.push = functools.partial(_push_latin_1, protocol)  # type: ignore[method-assign]
        return protocol


async def _push_latin_1(protocol: smtp._Protocol, line: str) -> None:
    protocol._writer.write(f"{line}\r\n".encode("latin-1"))
    await protocol._writer.drain()


class Collector(receivers.HttpsReceiver):
    """A receiver of reports by HTTPS at an address of its own."""

    async def __aenter__(self) -> Self:
        self._closing = asyncio.Event()
        application = web.Application(client_max_size=receivers.MAX_BODY)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=receivers.SHUTDOWN_SECONDS)
        await self._runner.setup()
        await web.TCPSite(self._runner, sites.COLLECTOR_ADDRESS, HTTPS, ssl_context=self._context).start()
        return self


class World:
    """Everything that receives; made by :func:`running`.

    Attributes:
        mail: the server that takes reports and bounces.
        https: the server that takes reports by HTTPS.
        mtas: the MX servers by host name.
        policy_requests: hosts that were asked for a policy, in order.
    """

    def __init__(self, planned: Sequence[sites.Site], authority: certificates.Authority) -> None:
        name = f"mx.{sites.REPORTS}"
        self.sites = tuple(planned)
        self.authority = authority
        self.mail = Mta(name, sites.REPORTS_ADDRESS, authority.issue((name,)), mx.Temper.GOOD)
        self.https = Collector(certificates.server_context(authority.issue((sites.COLLECTOR,))))
        self.policy_requests: list[str] = []
        self.mtas: dict[str, Mta] = {
            host.name: Mta(host.canonical, host.address, host.certificate, host.host.temper, latin_1=host.host.latin_1)
            for site in planned
            for host in site.hosts
            if host.host.listens
        }

    def forget(self) -> None:
        """Empty all mailboxes, and forget all requests."""
        self.mail.mailbox.messages.clear()
        self.https.requests.clear()
        self.policy_requests.clear()
        for mta in self.mtas.values():
            mta.mailbox.messages.clear()
            mta.connections = 0


@contextlib.contextmanager
def running(planned: Sequence[sites.Site], authority: certificates.Authority) -> Iterator[World]:
    """Run all servers in this network namespace."""
    world = World(planned, authority)
    started, ended = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            asyncio.run(_serve(world, started, ended))
        except BaseException as error:  # noqa: BLE001 - the test must get to know, whatever it is
            failures.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=work, name="world")
    thread.start()
    try:
        assert started.wait(STARTED_WITHIN), "the world does not start"
        if failures:
            raise failures[0]
        yield world
    finally:
        ended.set()
        thread.join()
    if failures:
        raise failures[0]


async def _serve(world: World, started: threading.Event, ended: threading.Event) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for mta in (world.mail, *world.mtas.values()):
            await stack.enter_async_context(mta)
        await stack.enter_async_context(world.https)
        await stack.enter_async_context(_policy_hosts(world))
        started.set()
        await asyncio.to_thread(ended.wait)


@contextlib.asynccontextmanager
async def _policy_hosts(world: World) -> AsyncIterator[None]:
    """Serve all policy hosts; the name in the TLS handshake tells which certificate is shown (RFC 6066 section 3)."""
    published = {site.policy_host: site for site in world.sites if site.scenario.sts is not None}
    contexts = _contexts(published, world.authority)

    def pick(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        if name in contexts:
            connection.context = contexts[name]

    async def answer(request: web.Request) -> web.Response:
        world.policy_requests.append(request.host)
        return _answer(published.get(request.host), request.path)

    front = certificates.server_context(world.authority.issue((mx.NOBODY,)))
    front.sni_callback = pick
    application = web.Application()
    application.router.add_route("GET", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=receivers.SHUTDOWN_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, sites.POLICY_ADDRESS, HTTPS, ssl_context=front).start()
    try:
        yield
    finally:
        await runner.cleanup()


_TEMPERS = {
    scenarios.PolicyHost.EXPIRED: mx.Temper.EXPIRED,
    scenarios.PolicyHost.WRONG_NAME: mx.Temper.WRONG_NAME,
    scenarios.PolicyHost.SELF_SIGNED: mx.Temper.SELF_SIGNED,
}


def _contexts(published: Mapping[str, sites.Site], authority: certificates.Authority) -> dict[str, ssl.SSLContext]:
    return {
        host: certificates.server_context(mx.certificate(host, _temper(site), authority))
        for host, site in published.items()
    }


def _temper(site: sites.Site) -> mx.Temper:
    sts = site.scenario.sts
    return _TEMPERS.get(sts.host, mx.Temper.GOOD) if sts else mx.Temper.GOOD


def _answer(site: sites.Site | None, path: str) -> web.Response:
    """Answer as a policy host does (RFC 8461 section 3.2)."""
    sts = site.scenario.sts if site else None
    if site is None or sts is None or path != "/.well-known/mta-sts.txt":
        return web.Response(status=404)
    text = "".join(f"{line}\n" for line in site.policy_lines)
    match sts.host:
        case scenarios.PolicyHost.MISSING:
            return web.Response(status=404)
        case scenarios.PolicyHost.BROKEN:
            return web.Response(status=500)
        case scenarios.PolicyHost.REDIRECTS:
            return web.Response(status=301, headers={"Location": f"https://{site.domain}{path}"})
        case scenarios.PolicyHost.HTML:
            return web.Response(text=text, content_type="text/html")
        case _:
            return web.Response(text=text, content_type="text/plain")
