"""The daily job, its parts put together: tally, close, build, deliver, forget.

The top conductor. ``sender.reporter`` runs it by the clock, ``tlsrpt report`` by hand; both through :func:`open_daily`.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import gc
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable

import structlog

from policy import endpoints, https, resolver, tlsrpt
from sender import building, closing, config, delivering, dsn, journal, mail, signature, tally
from sender.store import deliveries, engine, retention

log = structlog.get_logger()


def utc_now() -> dt.datetime:
    """Return the time."""
    return dt.datetime.now(dt.UTC)


def _token() -> str:
    """Return what is made once, here or on another host; later ones sort behind, which spares an index much work."""
    return f"{time.time_ns():016x}{secrets.token_hex(4)}"


CHANCE = building.Chance(token=_token, fraction=random.random)


@dataclasses.dataclass(frozen=True, slots=True)
class Daily:
    """The parts of the daily job; made by :func:`open_daily`."""

    settings: config.Config
    store: engine.Store
    tally: tally.Tally
    builder: building.Builder
    courier: delivering.Courier
    clock: Callable[[], dt.datetime]

    async def catch_up(self) -> None:
        """Tally what the journal of this host holds.

        Raises:
            store.engine.StoreError: the store cannot be used.
        """
        await asyncio.to_thread(self.tally.catch_up, self.clock())

    async def last_to_close(self) -> dt.date:
        """Tally, then return the newest day that is to be closed by now.

        Raises:
            store.engine.StoreError: the store cannot be used.
        """
        await self._catch_up_what_can_be()
        return closing.last_to_close(self.store, self.clock(), self.settings.report)

    async def close(self, last: dt.date, domain: str | None = None) -> list[dt.date]:
        """Tally, then close what is open up to a day, whatever hosts are missing; which days.

        Raises:
            store.engine.StoreError: the store cannot be used.
        """
        await self._catch_up_what_can_be()
        return closing.close(self.store, last, domain)

    async def _catch_up_what_can_be(self) -> None:
        """Tally; a part of the journal that cannot be read holds nothing up: once it can, it becomes a revision."""
        now = self.clock()
        try:
            await self.catch_up()
        except journal.JournalError as error:
            log.error("a part of the journal is not counted", error=str(error))
        with contextlib.suppress(journal.JournalError):  # told already
            await asyncio.to_thread(self.tally.note, now)

    async def build(
        self, domain: str | None = None, spread: float | None = None
    ) -> AsyncIterator[building.Decided | building.Told]:
        """Build the reports of what is closed, with first deliveries spread over seconds (``None``: as configured)."""
        due = building.Due(self.clock(), self.settings.report.spread if spread is None else spread)
        async with contextlib.aclosing(self.builder.build(due, domain=domain)) as built:
            async for one in built:
                yield one

    def hurry(self, domain: str | None = None) -> None:
        """Make first deliveries due now that were to be spread."""
        selection = deliveries.Selection(domain=domain)
        self.store.change(lambda connection: deliveries.hurry(connection, self.clock(), selection))

    async def deliver(self, domain: str | None = None) -> AsyncIterator[delivering.Attempt]:
        """Make every delivery that is due now, and yield each with what follows."""
        now = self.clock()
        for scheme in tlsrpt.Scheme:
            selection = deliveries.Selection(domain=domain, scheme=scheme.value, due_by=now)
            while attempts := await self.courier.deliver(selection):
                for attempt in attempts:
                    yield attempt

    def forget(self) -> dt.date:
        """Delete what is older than ``report.keep_days``; the first day that is kept."""
        first = self.clock().date() - dt.timedelta(days=self.settings.report.keep_days)
        self.store.change(lambda connection: retention.delete_before(connection, first))
        return first


@contextlib.asynccontextmanager
async def open_daily(
    settings: config.Config,
    store: engine.Store,
    *,
    clock: Callable[[], dt.datetime] = utc_now,
    chance: building.Chance = CHANCE,
) -> AsyncIterator[Daily]:
    """Put the daily job together.

    Raises:
        config.ConfigError: something in the configuration cannot be used; one line.
    """
    identity = config.identity(settings)
    dns = _resolver(settings)
    relay, signer = mail.parse_relay(settings.mail.relay), load_signer(settings, identity)
    async with _client(settings, dns) as client:
        courier = delivering.Courier(
            store=store,
            identity=identity,
            retry_for=settings.report.retry_for,
            relay=relay,
            signer=signer,
            ca_file=settings.https.ca_file,
            client=client,
            fraction=chance.fraction,
            clock=clock,
            takes_bounces=bool(settings.bounces.listen),
        )
        builder = building.Builder(store, dns, identity, settings.report, chance, clock, settings.rule)
        gc.freeze()  # all modules, which stay: a seventh of a run is looking through them for garbage
        yield Daily(settings, store, tally.open_tally(settings, store), builder, courier, clock)


def check(settings: config.Config) -> None:
    """Find out whether :func:`open_daily` would work, without connecting anywhere.

    Raises:
        config.ConfigError: something in the configuration cannot be used; one line.
    """
    identity = config.identity(settings)
    load_signer(settings, identity)
    _check_bounces(settings, identity)
    mail.tls_context(mail.parse_relay(settings.mail.relay), settings.https.ca_file)
    _client(settings, _resolver(settings))


def _check_bounces(settings: config.Config, identity: config.Identity) -> None:
    if not settings.bounces.listen:
        return
    with config.checked():
        endpoints.parse(settings.bounces.listen, key="bounces.listen")
    local = identity.sender.rpartition("@")[0]
    if len(local) + dsn.TAG > dsn.MAX_LOCAL:
        most = dsn.MAX_LOCAL - dsn.TAG
        cure = f"give an address with at most {most} characters before the @: bounces.listen adds {dsn.TAG} to it"
        raise config.ConfigError(f'mail.sender = "{identity.sender}": {cure}')


def _client(settings: config.Config, dns: resolver.Resolver) -> https.Client:
    with config.checked():
        return https.Client(settings.https, dns)


def _resolver(settings: config.Config) -> resolver.Resolver:
    with config.checked():
        return resolver.Resolver(settings.dns.nameservers)


def load_signer(settings: config.Config, identity: config.Identity) -> signature.Signer | None:
    """Return what signs report mails; ``None`` when the relay does.

    Raises:
        config.ConfigError: the key cannot be used.
    """
    if not settings.mail.dkim_key:
        return None
    try:
        return signature.Signer.load(settings.mail.dkim_key, settings.mail.dkim_selector, identity.domain)
    except signature.InvalidKeyError as error:
        raise config.ConfigError(f"mail.dkim_key: {error}") from error
