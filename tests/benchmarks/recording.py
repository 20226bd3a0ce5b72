"""The recorder against a bare receive loop, and against the peer's collector."""

import contextlib
import functools
import pathlib
import socket
from collections.abc import Callable, Iterator

from sender import config, recorder
from tests.benchmarks import measure, processes, traffic

DATAGRAMS = 500_000

SHORT = 200_000

DOMAINS = 20_000

LONGEST = 65536
"""Bytes of a datagram that the bare loop takes."""


def configured(scratch: pathlib.Path, more: str = "") -> config.Config:
    """Return a configuration whose files are all in a folder."""
    return config.parse(
        f"""
[organization]
domain = "sender.example"
contact = "postmaster@sender.example"
[recorder]
socket = "{scratch}/tlsrpt.sock"
journal = "{scratch}/journal"
[store]
url = "sqlite:///{scratch}/tlsrpt.db"
[policy]
listen = []
{more}
""",
        {},
    )


def bare(path: pathlib.Path) -> None:
    """Receive and drop."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        receive = sock.recv
        while True:
            receive(LONGEST)


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
    settings = configured(place.scratch)
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
)
