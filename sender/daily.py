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
from collections.abc import AsyncIterator, Callable

import structlog

from policy import https, resolver, tlsrpt
from sender import building, closing, config, delivering, journal, mail, signature, tally
from sender.store import deliveries, engine, retention

log = structlog.get_logger()


def utc_now() -> dt.datetime:
    """Return the time."""
    return dt.datetime.now(dt.UTC)


CHANCE = building.Chance(token=lambda: secrets.token_hex(8), fraction=random.random)


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

    async def close(self, last: dt.date | None = None, domain: str | None = None) -> list[dt.date]:
        """Tally, then close what is open up to a day (``None``: all that has settled); which days.

        A part of the journal that cannot be read holds nothing up: once it can, it becomes a revision.

        Raises:
            store.engine.StoreError: the store cannot be used.
        """
        try:
            await self.catch_up()
        except journal.JournalError as error:
            log.error("a part of the journal is not counted", error=str(error))
        settled = closing.last_full_day(self.clock(), self.settings.report.settle)
        return closing.close(self.store, last or settled, domain)

    async def build(
        self, domain: str | None = None, spread: float | None = None
    ) -> AsyncIterator[building.Decided | building.Told]:
        """Build the reports of what is closed, with first deliveries spread over seconds (``None``: as configured)."""
        due = building.Due(self.clock(), self.settings.report.spread if spread is None else spread)
        async for built in self.builder.build(due, domain=domain):
            yield built

    def hurry(self, domain: str | None = None) -> None:
        """Make first deliveries due now that were to be spread."""
        with self.store.write() as connection:
            deliveries.hurry(connection, self.clock(), deliveries.Selection(domain=domain))

    async def deliver(self, domain: str | None = None) -> AsyncIterator[delivering.Attempt]:
        """Make every delivery that is due now, and yield each with what follows."""
        now = self.clock()
        for scheme in tlsrpt.Scheme:
            selection = deliveries.Selection(domain=domain, scheme=scheme.value, due_by=now)
            while attempts := await self.courier.deliver(selection):
                for attempt in attempts:
                    yield attempt

    def forget(self) -> int:
        """Delete what is older than ``report.keep_days``; how many domain-days."""
        first = self.clock().date() - dt.timedelta(days=self.settings.report.keep_days)
        with self.store.write() as connection:
            return retention.delete_before(connection, first)


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
        )
        builder = building.Builder(store, dns, identity, settings.report, chance)
        gc.freeze()  # all modules, which stay: a seventh of a run is looking through them for garbage
        yield Daily(settings, store, tally.open_tally(settings, store), builder, courier, clock)


def check(settings: config.Config) -> None:
    """Find out whether :func:`open_daily` would work, without connecting anywhere.

    Raises:
        config.ConfigError: something in the configuration cannot be used; one line.
    """
    load_signer(settings, config.identity(settings))
    mail.tls_context(mail.parse_relay(settings.mail.relay), settings.https.ca_file)
    _client(settings, _resolver(settings))


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
