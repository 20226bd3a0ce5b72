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

from sender.store import deliveries, engine

UNNOTED = 8
"""Attempts of one transaction at most: it takes an eighth of the time of eight, more would gain little."""

PATIENCE = 1.0
"""Seconds that an attempt waits for others: ``tlsrpt history`` is to tell what is true now."""


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to deliver, and what follows."""

    delivery: deliveries.Delivery
    ended: dt.datetime
    step: deliveries.Step


class Notes:
    """Notes attempts; a context manager, at whose end all are noted.

    Attributes:
        noted: the attempts that are in the store.
    """

    def __init__(self, store: engine.Store) -> None:
        self.noted: list[Attempt] = []
        self._store = store
        self._waiting: list[Attempt] = []
        self._timer: asyncio.TimerHandle | None = None
        self._trouble: engine.StoreError | None = None

    def add(self, attempt: Attempt) -> None:
        """Note an attempt soon.

        Raises:
            store.engine.StoreError: this or an earlier one could not be noted, and is made again.
        """
        self._waiting.append(attempt)
        if len(self._waiting) >= UNNOTED:
            self._write()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._write)
        self._check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write()
        if error is None:
            self._check()

    def _check(self) -> None:
        if self._trouble is not None:
            raise self._trouble

    def _write(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting = self._waiting, []
        if not batch:
            return
        try:
            ended = [(one.delivery, one.ended, one.step) for one in batch]
            self._store.change(lambda connection: deliveries.note_all(connection, ended))
        except engine.StoreError as error:  # the next transaction may do better
            self._trouble = error
        else:
            self.noted += batch
