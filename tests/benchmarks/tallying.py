"""The tally, from a journal into SQLite, against a loop that only decodes each datagram."""

import contextlib
import datetime as dt
import itertools
import pathlib
import time
from collections.abc import Iterable, Iterator

import msgspec

from sender import journal, tally
from sender.store import engine
from tests.benchmarks import measure, traffic

DATAGRAMS = 200_000

DOMAINS = 20_000

SHORT = 50_000, 5_000
"""Datagrams and domains."""

BATCH = 1000
"""Datagrams appended to the journal at a time."""


def write(directory: pathlib.Path, datagrams: Iterable[bytes], now: float) -> None:
    """Write a journal as the recorder does."""
    writer = journal.Writer(directory, now)
    lines = iter(datagrams)
    while chunk := list(itertools.islice(lines, BATCH)):
        loss = writer.append(memoryview(b"".join(line + b"\n" for line in chunk)), len(chunk), now)
        if loss:
            raise AssertionError(loss)
    writer.close()


@contextlib.contextmanager
def _tally(place: measure.Place) -> Iterator[measure.Round]:
    number, domains = SHORT if place.short else (DATAGRAMS, DOMAINS)
    lines = traffic.datagrams(number, domains)
    now = dt.datetime.now(dt.UTC)
    directory = place.scratch / "journal"
    write(directory, lines, now.timestamp())
    numbers = itertools.count()

    def one_round() -> measure.Sample:
        decode = msgspec.json.Decoder().decode
        started = time.perf_counter()
        for line in lines:
            decode(line)
        yardstick = number / (time.perf_counter() - started)
        store = engine.open_store(f"sqlite:///{place.scratch}/{next(numbers)}.db")
        started = time.perf_counter()
        counted = tally.Tally(store, directory).catch_up(now)
        figure = number / (time.perf_counter() - started)
        store.close()
        if counted != number:
            raise AssertionError(f"{counted} of {number} counted")
        return measure.Sample(figure, yardstick)

    yield one_round


BENCHMARKS = (
    measure.Benchmark(
        id="tally",
        what=f"tally: {DATAGRAMS:,} datagrams of {DOMAINS:,} domains from the journal into SQLite",
        unit="datagrams/s",
        yardstick="a loop that only decodes each datagram with msgspec",
        target=0.35,
        guard=0.05,
        prepare=_tally,
    ),
)
