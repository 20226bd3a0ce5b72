"""Puts sessions into a store, as the tally does."""

import collections
import datetime as dt
from collections.abc import Iterable

from sender import counting
from sender.store import counts, engine, partitions


def count(store: engine.Store, day: dt.date, datagrams: Iterable[bytes]) -> None:
    """Add to the counts of a day what datagrams tell."""
    partitions.prepare(store, day)
    counted = counting.count(collections.Counter(datagrams))
    store.change(lambda connection: counts.add(connection, "journal", day, counted))
