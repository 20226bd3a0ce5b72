"""How long commands take, from the start of the process to its end, against importing the largest library they need.

Each round runs yardstick and command in turn some times, and takes the fastest run of each. The short version has a
tenth of the domain-days.
"""

import collections
import contextlib
import datetime as dt
import functools
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from sender import counting
from sender.store import counts, engine
from tests.benchmarks import installation, measure, traffic

RUNS = 5
"""Of each in a round."""

SHORT_RUNS = 2

DAYS = 5

DOMAINS = 20_000
"""Of each day."""

SHORT_DOMAINS = 2_000

_ROOT = pathlib.Path(__file__).parents[2]

_SAME = {**os.environ, "COLUMNS": "120", "TERM": "dumb"}


def seconds(*command: str) -> float:
    """Return how long a Python process takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, cwd=_ROOT, env=_SAME)
    return time.perf_counter() - began


def tlsrpt(*arguments: str) -> Sequence[str]:
    """Return a command of tlsrpt."""
    return "-m", "sender", *arguments


def _round(place: measure.Place, yardstick: Sequence[str], command: Sequence[str]) -> measure.Sample:
    runs = SHORT_RUNS if place.short else RUNS
    pairs = [(seconds(*yardstick), seconds(*command)) for _ in range(runs)]
    return measure.Sample(1000 * min(ours for _, ours in pairs), 1000 * min(theirs for theirs, _ in pairs))


@contextlib.contextmanager
def _helping(place: measure.Place) -> Iterator[measure.Round]:
    yield functools.partial(_round, place, ("-c", "import typer"), tlsrpt("--help"))


@contextlib.contextmanager
def _pending(place: measure.Place) -> Iterator[measure.Round]:
    path = filled(place.scratch, SHORT_DOMAINS if place.short else DOMAINS)
    yield functools.partial(_round, place, ("-c", "import sqlalchemy"), tlsrpt("pending", "--config", str(path)))


def filled(scratch: pathlib.Path, domains: int) -> pathlib.Path:
    """Make a store of many domain-days, up to today; return the configuration that names it."""
    settings, path = installation.configured(scratch), scratch / "tlsrpt.toml"
    path.write_text(installation.text(scratch))
    store, today = engine.open_store(settings.store.url), dt.datetime.now(dt.UTC).date()
    counted = counting.count(collections.Counter(traffic.datagrams(domains, domains)))
    for day in range(DAYS):
        with store.write() as connection:
            counts.add(connection, "journal", today - dt.timedelta(days=day), counted)
    store.close()
    return path


BENCHMARKS = (
    measure.Benchmark(
        id="help",
        what="tlsrpt --help, the whole process",
        unit="ms",
        yardstick='python -c "import typer"',
        target=3,
        guard=6,
        at_most=True,
        prepare=_helping,
    ),
    measure.Benchmark(
        id="pending",
        what=f"tlsrpt pending on {DAYS * DOMAINS:,} domain-days, the whole process",
        unit="ms",
        yardstick='python -c "import sqlalchemy"',
        target=3,
        guard=6,
        at_most=True,
        prepare=_pending,
    ),
)
