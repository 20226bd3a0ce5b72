"""The page and ``/metrics`` over HTTP, as a process of its own: no report waits while the store is looked into.

The rim of aiohttp's server. One request a connection, a limit to each, read-only: ``GET`` and ``HEAD``.
"""

import asyncio
import datetime as dt
import functools
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from aiohttp import hdrs, web

from policy import endpoints, listeners, names, stopping
from sender import config, readiness
from sender.store import engine
from sender.web import access, exporting, pages, views

CONNECTIONS = 64
"""At once; those beyond are closed."""

BACKLOG = 8
"""Connections accepted in one go, and so how many may be beyond."""

CONNECTION_LIMIT = 60.0
"""Seconds that a connection may last: a postmaster's request and its answer take a fraction of one."""

AT_ONCE = 4
"""Requests that look into the store at once; others wait."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

log = structlog.get_logger()

Result = TypeVar("Result")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def main(settings: config.Config, directory: str, *, records: bool, reports: bool) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    Args:
        settings: the configuration.
        records: whether this host has a recorder.
        reports: whether it has a reporter, whose page it is then; metrics are those of the host.
        directory: where the roles publish metrics.
    """
    try:
        address = endpoints.parse(settings.web.listen, key="web.listen")
        listening = endpoints.listen([settings.web.listen], mode=0o660)
    except (ValueError, listeners.ListenError) as error:
        log.error("the page cannot be served", error=str(error))
        return 1
    store = engine.Deferred(settings.store.url)
    exporter = exporting.Exporter(settings, records, reports, directory, store)
    site = _Site(settings, store, exporter, has_page=reports, is_local=isinstance(address, endpoints.UnixAddress))
    asyncio.run(_serve(site, listening))
    return 0


async def _serve(site: "_Site", listening: endpoints.Listening) -> None:
    stop, loop = stopping.asked(), asyncio.get_running_loop()
    runner = web.AppRunner(site.application(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    factory = functools.partial(_protocol, runner)
    servers = [await loop.create_server(factory, sock=sock, backlog=BACKLOG) for sock in listening.sockets]
    log.info("page and metrics are served", listen=site.settings.web.listen, page=site.has_page)
    readiness.tell()
    try:
        await stop.wait()
    finally:
        for server in servers:
            server.close()
        await runner.cleanup()
        listening.close()
        site.close()
    log.info("page and metrics are served no longer")


def _protocol(runner: web.AppRunner) -> asyncio.Protocol:
    """Return what handles a connection; it ends after its limit, whatever it is at."""
    server = runner.server
    assert server is not None  # noqa: S101 - it is set up
    handler = server()
    loop = asyncio.get_running_loop()
    if len(server.connections) >= CONNECTIONS:
        loop.call_later(0, handler.force_close)  # once it has its connection
    loop.call_later(CONNECTION_LIMIT, handler.force_close)
    return handler


class _Site:
    """The routes, and what they need."""

    def __init__(
        self,
        settings: config.Config,
        store: engine.Deferred,
        exporter: exporting.Exporter,
        *,
        has_page: bool,
        is_local: bool,
    ) -> None:
        self.settings = settings
        self.has_page = has_page
        self._is_local = is_local
        self._store = store
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._exporter = exporter
        self._style = pages.style().encode()

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._guard], client_max_size=1)
        application.on_response_prepare.append(_prepare)
        application.router.add_get("/metrics", self._metrics)
        if self.has_page:
            application.router.add_get("/style.css", self._css)
            for path, handler in (
                ("/", self._overview),
                ("/domains", self._domains),
                ("/domain", self._find),
                ("/domains/{name}", self._domain),
                ("/pending", self._pending),
                ("/sent", self._sent),
                ("/reports/{id}", self._report),
                ("/reports/{id}/document", self._document),
                ("/plots/sessions.svg", self._sessions_plot),
                ("/plots/failures.svg", self._failures_plot),
                ("/plots/domains/{name}", self._domain_plot),
            ):
                application.router.add_get(path, handler)
        return application

    def close(self) -> None:
        self._store.close()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in who may look, and answer with a page whatever goes wrong."""
        response = await self._answered(request, handler)
        response.headers.update({**HEADERS, **response.headers})
        response.force_close()
        return response

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return self._refused(request) or await handler(request)
        except web.HTTPException as error:
            return _error(error.status, error.reason)
        except views.NotFoundError as error:
            return _error(404, str(error))
        except (engine.StoreError, config.ConfigError) as error:
            log.error("a page cannot be shown", path=request.path, error=str(error))
            return _error(503, f"The store cannot be used: {error}")
        except Exception:
            log.exception("a page failed", path=request.path)
            return _error(500, "This failed for a reason that nobody foresaw; the log tells more.")

    def _refused(self, request: web.Request) -> web.Response | None:
        """Return what is told to somebody who may not look."""
        token = self.settings.web.token
        if token and not access.knows(request.headers.get(hdrs.AUTHORIZATION), token):
            asking = {"WWW-Authenticate": 'Basic realm="tlsrpt", charset="UTF-8"'}
            return _error(401, "Give any user name, and web.token as the password.", asking)
        if not token and not self._is_local and not access.is_for_us(request.headers.get(hdrs.HOST)):
            return _error(403, "This page answers for names of loopback only, or with web.token set.")
        return None

    async def _look(self, view: Callable[[views.Views], Result]) -> Result:
        """Look into the store in a thread."""

        def look() -> Result:
            return view(views.Views(self.settings, self._store.opened()))

        async with self._slots:
            return await asyncio.to_thread(look)

    async def _metrics(self, _request: web.Request) -> web.Response:
        async with self._slots:
            exported = await asyncio.to_thread(self._exporter.export, _now())
        return web.Response(body=exported, headers={hdrs.CONTENT_TYPE: exporting.CONTENT_TYPE})

    async def _css(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._style, content_type="text/css", charset="utf-8")

    async def _overview(self, _request: web.Request) -> web.Response:
        return _html(await self._look(lambda look: look.overview(_now())))

    async def _domains(self, request: web.Request) -> web.Response:
        day, page = _day(request), _number(request, "page") or 1
        return _html(await self._look(lambda look: look.domains(_now(), day, page)))

    async def _find(self, request: web.Request) -> web.Response:
        """Lead from the form to the page of a domain."""
        name = _domain(request.query.get("name", "").strip())
        return web.Response(status=303, headers={hdrs.LOCATION: f"/domains/{name}"})

    async def _domain(self, request: web.Request) -> web.Response:
        name, day, revision = _domain(request.match_info["name"]), _day(request), _number(request, "revision")
        return _html(await self._look(lambda look: look.domain(_now(), name, day, revision)))

    async def _pending(self, request: web.Request) -> web.Response:
        domain = _only(request)
        return _html(await self._look(lambda look: look.pending(_now(), domain)))

    async def _sent(self, request: web.Request) -> web.Response:
        domain = _only(request)
        return _html(await self._look(lambda look: look.sent(_now(), domain)))

    async def _report(self, request: web.Request) -> web.Response:
        report_id = request.match_info["id"]
        return _html(await self._look(lambda look: look.report(_now(), report_id)))

    async def _document(self, request: web.Request) -> web.Response:
        report_id = request.match_info["id"]
        document = await self._look(lambda look: look.document(report_id))
        return web.Response(body=document, content_type="application/json")

    async def _sessions_plot(self, _request: web.Request) -> web.Response:
        return _svg(await self._look(lambda look: look.sessions_plot(_now())))

    async def _failures_plot(self, _request: web.Request) -> web.Response:
        return _svg(await self._look(lambda look: look.failures_plot(_now())))

    async def _domain_plot(self, request: web.Request) -> web.Response:
        name = _domain(request.match_info["name"])
        return _svg(await self._look(lambda look: look.domain_plot(_now(), name)))


async def _prepare(_request: web.Request, response: web.StreamResponse) -> None:
    """Tell nobody what we are made of."""
    response.headers.popall(hdrs.SERVER, None)


def _html(text: str) -> web.Response:
    return web.Response(text=text, content_type="text/html")


def _svg(drawn: bytes) -> web.Response:
    """Return a picture, whose style is in itself."""
    allowed = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return web.Response(body=drawn, content_type="image/svg+xml", charset="utf-8", headers=allowed)


def _error(status: int, what: str, headers: dict[str, str] | None = None) -> web.Response:
    text = pages.render("error", now=_now(), status=status, what=what)
    return web.Response(status=status, text=text, content_type="text/html", headers=headers)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _domain(text: str) -> str:
    """Return a name as the store has it."""
    try:
        return names.a_label(text)
    except names.InvalidNameError as error:
        raise views.NotFoundError(f"This is no domain: {error}") from error


def _only(request: web.Request) -> str | None:
    text = request.query.get("domain", "").strip()
    return _domain(text) if text else None


def _day(request: web.Request) -> dt.date | None:
    text = request.query.get("day")
    if not text:
        return None
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise views.NotFoundError("This is no day: give it as in 2026-12-31.") from error


def _number(request: web.Request, key: str) -> int | None:
    text = request.query.get(key)
    if not text:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise views.NotFoundError(f"This is no number for {key}.")
    return int(text)
