"""The tally, from a journal into SQLite, against a loop that only decodes each datagram."""

import collections
import contextlib
import datetime as dt
import functools
import itertools
import pathlib
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from sender import journal, tally
from sender.store import engine
from tests.benchmarks import measure, processes, traffic

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


def _decoded(lines: Sequence[bytes]) -> float:
    """Decode each datagram and drop it; return how many a second."""
    decode = msgspec.json.Decoder().decode
    started = time.perf_counter()
    for line in lines:
        decode(line)
    return len(lines) / (time.perf_counter() - started)


def _received(lines: Sequence[bytes]) -> float:
    """Receive each datagram, decode it and count; return how many a second."""
    receiving, sending = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with receiving, sending, processes.running(lambda: [sending.send(line) for line in lines]):
        decode, counts = msgspec.json.Decoder().decode, collections.Counter[str]()
        started = time.perf_counter()
        for _ in lines:
            counts[decode(receiving.recv(traffic.LONGEST))["d"]] += 1
        return len(lines) / (time.perf_counter() - started)


def tallied(url: str, directory: pathlib.Path, now: dt.datetime, number: int) -> float:
    """Tally a journal of so many datagrams into a new store; return how many a second."""
    store = engine.open_store(url)
    started = time.perf_counter()
    counted = tally.Tally(store, directory, "mta.example").catch_up(now)
    figure = number / (time.perf_counter() - started)
    store.close()
    if counted != number:
        raise AssertionError(f"{counted} of {number} counted")
    return figure


@contextlib.contextmanager
def _tally(bare: Callable[[Sequence[bytes]], float], place: measure.Place) -> Iterator[measure.Round]:
    number, domains = SHORT if place.short else (DATAGRAMS, DOMAINS)
    lines = traffic.datagrams(number, domains)
    now = dt.datetime.now(dt.UTC)
    directory = place.scratch / "journal"
    write(directory, lines, now.timestamp())
    numbers = itertools.count()

    def one_round() -> measure.Sample:
        yardstick = bare(lines)
        figure = tallied(f"sqlite:///{place.scratch}/{next(numbers)}.db", directory, now, number)
        return measure.Sample(figure, yardstick)

    yield one_round


BENCHMARKS = (
    measure.Benchmark(
        id="tally",
        what=f"tally: {DATAGRAMS:,} datagrams of {DOMAINS:,} domains from the journal into SQLite",
        unit="datagrams/s",
        yardstick="a loop that only decodes each datagram with msgspec",
        target=0.35,
        guard=0.06,
        prepare=functools.partial(_tally, _decoded),
        known="SQLite's rows alone take longer",
    ),
    measure.Benchmark(
        id="tally-receive",
        what="the same",
        unit="datagrams/s",
        yardstick="a loop that receives, decodes and counts each",
        target=0.35,
        prepare=functools.partial(_tally, _received),
    ),
)
