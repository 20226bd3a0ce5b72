"""The recorder against a bare receive loop, and against the peer's collector; and what is lost when nobody waits.

The length of a socket's queue is a setting of the kernel for each network namespace, so what needs another one than
this machine has runs in a namespace of its own, for which it must be root.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import functools
import pathlib
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator

from sender import config, recorder, roles, tally
from sender.store import engine
from tests.benchmarks import installation, measure, peers, processes, reporting, traffic
from tests.lab import namespace

DATAGRAMS = 500_000

SHORT = 200_000

DOMAINS = 20_000


def bare(path: pathlib.Path) -> None:
    """Receive and drop."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        receive = sock.recv
        while True:
            receive(traffic.LONGEST)


@contextlib.contextmanager
def receiving(path: pathlib.Path, work: Callable[[], object]) -> Iterator[None]:
    """Run what binds a socket, until the end."""
    path.unlink(missing_ok=True)
    with processes.running(work):
        processes.wait(path.is_socket)
        yield


def journaled(settings: config.Config) -> int:
    """Return how many datagrams are in the journal."""
    return sum(path.read_bytes().count(b"\n") for path in pathlib.Path(settings.recorder.journal).glob("*.ndjson"))


@contextlib.contextmanager
def _blocking(place: measure.Place) -> Iterator[measure.Round]:
    lines = traffic.datagrams(SHORT if place.short else DATAGRAMS, DOMAINS)
    settings = installation.configured(place.scratch)
    path = pathlib.Path(settings.recorder.socket)

    def one_round() -> measure.Sample:
        with receiving(path, functools.partial(bare, path)):
            yardstick = len(lines) / traffic.send(path, lines)
        with receiving(path, functools.partial(recorder.main, settings, [])):
            figure = len(lines) / traffic.send(path, lines)
        recorded = journaled(settings)
        if recorded != len(lines):
            raise AssertionError(f"{recorded} of {len(lines)} in the journal")
        for segment in pathlib.Path(settings.recorder.journal).glob("*.ndjson"):
            segment.unlink()
        return measure.Sample(figure, yardstick)

    yield one_round


PEER_DATAGRAMS = 20_000


@contextlib.contextmanager
def _peer(place: measure.Place) -> Iterator[measure.Round]:
    peers.installed("tlsrpt-reporter")
    lines = traffic.datagrams(SHORT, DOMAINS)
    few = lines[:PEER_DATAGRAMS]
    settings = installation.configured(place.scratch)
    path = pathlib.Path(settings.recorder.socket)

    def one_round() -> measure.Sample:
        with receiving(path, functools.partial(peers.collectd, place.scratch, path)):
            yardstick = len(few) / traffic.send(path, few)
        with receiving(path, functools.partial(recorder.main, settings, [])):
            figure = len(lines) / traffic.send(path, lines)
        return measure.Sample(figure, yardstick)

    yield one_round


@dataclasses.dataclass(frozen=True, slots=True)
class Pour:
    """How datagrams are sent that nobody waits for."""

    queue: int
    """Datagrams that the kernel keeps for the socket (``net.unix.max_dgram_qlen``)."""
    rate: float
    """Datagrams a second."""
    seconds: float
    allowed: float | None
    """Share that may be lost, if the bare loop does not lose half as much; ``None``: what counts is the share lost."""


FAST = Pour(queue=512, rate=100_000, seconds=30, allowed=None)
SLOW = Pour(queue=10, rate=20_000, seconds=30, allowed=0.002)

SHORT_SECONDS = 3.0


@contextlib.contextmanager
def _pouring(pour: Pour, place: measure.Place) -> Iterator[measure.Round]:
    lines = traffic.datagrams(int(pour.rate * (SHORT_SECONDS if place.short else pour.seconds)), DOMAINS)
    settings = installation.configured(place.scratch)
    path = pathlib.Path(settings.recorder.socket)
    busy = place.scratch / "busy"
    reporting.tallied(busy, DOMAINS, dt.datetime.now(dt.UTC))

    def one_round() -> measure.Sample:
        with receiving(path, functools.partial(bare, path)), _busy(busy):
            lost_bare = traffic.pour(path, lines, pour.rate)
        with receiving(path, functools.partial(recorder.main, settings, [])), _busy(busy):
            lost = traffic.pour(path, lines, pour.rate)
            processes.wait(lambda: journaled(settings) == len(lines) - lost)
        for segment in pathlib.Path(settings.recorder.journal).glob("*.ndjson"):
            segment.unlink()
        share, share_bare = lost / len(lines), lost_bare / len(lines)
        return measure.Sample(share, 1.0 if pour.allowed is None else max(pour.allowed, 2 * share_bare))

    with _queue(pour.queue):
        yield one_round


@contextlib.contextmanager
def _busy(folder: pathlib.Path) -> Iterator[None]:
    """Tally a day and report it, over and over, in two processes as low in priority as those of the product."""
    with (
        processes.running(functools.partial(_tally, folder), nice=roles.BACKGROUND),
        processes.running(functools.partial(_report, folder), nice=roles.BACKGROUND),
    ):
        yield


def _tally(folder: pathlib.Path) -> None:
    while True:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            store = engine.open_store(f"sqlite:///{scratch}/tlsrpt.db")
            tally.Tally(store, folder / "journal", "mta.example").catch_up(dt.datetime.now(dt.UTC))
            store.close()


def _report(folder: pathlib.Path) -> None:
    while True:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            settings = installation.configured(pathlib.Path(scratch), reporting.NO_DNS)
            shutil.copy(folder / "tallied.db", f"{scratch}/tlsrpt.db")
            store = engine.open_store(settings.store.url)
            asyncio.run(reporting.run(settings, store, dt.datetime.now(dt.UTC), reporting.Remembered(reporting.NOBODY)))
            store.close()


@contextlib.contextmanager
def _queue(length: int) -> Iterator[None]:
    if int(namespace.QUEUE.read_text()) == length:
        yield
        return
    if reason := namespace.missing():
        raise measure.CannotError(f"net.unix.max_dgram_qlen is not {length}, and a namespace of its own: {reason}")
    with namespace.entered([], queue=length):
        yield


BENCHMARKS = (
    measure.Benchmark(
        id="record",
        what="recorder: receive and journal, the sender waits",
        unit="datagrams/s",
        yardstick="a bare receive loop",
        target=0.6,
        guard=0.3,
        prepare=_blocking,
    ),
    measure.Benchmark(
        id="record-peer",
        what="the same, against the peer",
        unit="datagrams/s",
        yardstick="tlsrpt-collectd",
        target=20,
        prepare=_peer,
    ),
    measure.Benchmark(
        id="pour-512",
        what="recorder: nobody waits, queue of 512, 100,000/s for 30 s during tally and report run",
        unit="lost",
        yardstick="all",
        target=0,
        guard=0.15,
        at_most=True,
        rounds=3,
        prepare=functools.partial(_pouring, FAST),
    ),
    measure.Benchmark(
        id="pour-10",
        what="the same, queue of 10, 20,000/s",
        unit="lost",
        yardstick="0.002, or twice what a bare loop loses",
        target=1,
        guard=2,
        at_most=True,
        rounds=3,
        prepare=functools.partial(_pouring, SLOW),
    ),
)
