"""Note how attempts to deliver end, several in one transaction.

The store waits for the disk in each transaction, and takes longer than a relay takes for a message. So an attempt is
noted with those that end soon after it. A process that dies in between makes them again, with the same Message-ID and
report-id: at most :data:`UNNOTED`, besides those whose answer was awaited.
"""

import asyncio
import dataclasses
import datetime as dt
from types import TracebackType
from typing import Self

import structlog

from sender.store import deliveries, engine

UNNOTED = 8
"""Attempts of one transaction at most: it takes an eighth of the time of eight, more would gain little."""

SOON = 1.0
"""Seconds that an attempt waits for others: ``tlsrpt history`` is to tell what is true now."""

RETRY_FIRST, RETRY_LAST = 1.0, 30.0
"""Seconds until a store that is away is tried again, doubled each time."""

PATIENCE = 600.0
"""Seconds to hold on to what could not be noted: a database server is restarted, or replaced, in less."""

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to deliver, and what follows."""

    delivery: deliveries.Delivery
    ended: dt.datetime
    step: deliveries.Step


class Notes:
    """Notes attempts; an asynchronous context manager, at whose end all are noted.

    While the store is away they are kept, because what was sent and is not noted would be sent again.

    Attributes:
        noted: the attempts that are in the store.
    """

    def __init__(self, store: engine.Store, patience: float = PATIENCE) -> None:
        self.noted: list[Attempt] = []
        self._store = store
        self._patience = patience
        self._waiting: list[Attempt] = []
        self._timer: asyncio.TimerHandle | None = None
        self._trouble: engine.StoreError | None = None

    def add(self, attempt: Attempt) -> None:
        """Note an attempt soon."""
        self._waiting.append(attempt)
        if len(self._waiting) >= UNNOTED:
            self._write()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SOON, self._write)

    async def recovered(self) -> None:
        """Wait while the store is away: what would be sent meanwhile could not be noted either.

        Raises:
            store.engine.StoreError: it is away for too long; what is not noted is sent again when its lease is over.
        """
        loop = asyncio.get_running_loop()
        until, delay = loop.time() + self._patience, RETRY_FIRST
        while self._trouble is not None:
            if loop.time() > until:
                raise self._trouble
            await asyncio.sleep(delay)
            delay = min(2 * delay, RETRY_LAST)
            self._write()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write()
        if error is None:
            await self.recovered()

    def _write(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting = self._waiting, []
        ended = [(one.delivery, one.ended, one.step) for one in batch]
        try:
            if batch:
                self._store.change(lambda connection: deliveries.note_all(connection, ended))
        except engine.StoreError as error:
            if self._trouble is None:
                log.error("deliveries cannot be noted, tried again", error=str(error))
            self._trouble = error
            self._waiting = batch + self._waiting
        else:
            self._trouble = None
            self.noted += batch
