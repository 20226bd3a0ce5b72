"""The benchmarks: ``python -m tests.benchmarks [--short] [--markdown] [ID ...]``.

Each is measured against a yardstick in the same run. Without ``--short`` the exit code is 1 if a target is missed that
is not known to be out of reach; with it, if a ratio is worse than its guard.
"""

import argparse
import os
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence

import rich.box
import rich.console
import rich.table

from tests.benchmarks import answering, commands, delivering, fleet, measure, recording, reporting, tallying

ALL: tuple[measure.Benchmark, ...] = (
    *recording.BENCHMARKS,
    *tallying.BENCHMARKS,
    *reporting.BENCHMARKS,
    *fleet.BENCHMARKS,
    *delivering.BENCHMARKS,
    *answering.BENCHMARKS,
    *commands.BENCHMARKS,
)


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--short", action="store_true", help="less of each; fails where a ratio is worse than its guard"
    )
    parser.add_argument("--markdown", action="store_true", help="print the table for docs/performance.md")
    parser.add_argument("id", nargs="*", metavar="ID", help="which; all if none is named")
    options = parser.parse_args(arguments)
    chosen = [one for one in ALL if _wanted(one, options.id, short=options.short)]
    results = list(_measured(chosen, short=options.short))
    print(_machine())  # noqa: T201 - this is a command
    if options.markdown:
        print("\n".join(_markdown(results)))  # noqa: T201 - this is a command
    else:
        rich.console.Console(width=150 if not sys.stdout.isatty() else None).print(_table(results))
    return 0 if all(result.good or (result.benchmark.known and not options.short) for result in results) else 1


def _wanted(benchmark: measure.Benchmark, ids: Sequence[str], *, short: bool) -> bool:
    return benchmark.id in ids if ids else not short or benchmark.guard is not None


def _measured(benchmarks: Iterable[measure.Benchmark], *, short: bool) -> Iterable[measure.Result]:
    for benchmark in benchmarks:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="tlsrpt-bench-") as scratch:
            result = measure.measure(benchmark, measure.Place(pathlib.Path(scratch), short=short))
        said = result.cannot or f"{result.ratio:.3g}"
        print(f"{benchmark.id}: {said} ({time.monotonic() - started:.0f} s)", file=sys.stderr)  # noqa: T201 - progress
        yield result


def _machine() -> str:
    processors = f"{os.cpu_count()} processors ({platform.machine()})"
    return f"{processors}, Linux {platform.release()}, Python {platform.python_version()}"


_HEAD = ("ID", "what", "figure", "yardstick", "ratio", "rounds", "target", "")


def _cells(result: measure.Result) -> tuple[str, ...]:
    one = result.benchmark
    target = f"{'at most' if one.at_most else 'at least'} {result.bound:g}"
    if result.cannot:
        return (one.id, one.what, "-", one.yardstick, "-", "-", target, f"not measured: {result.cannot}")
    low, high = result.span
    return (
        one.id,
        one.what,
        f"{_number(result.figure)} {one.unit}",
        f"{one.yardstick}: {_number(result.yardstick)}",
        f"{result.ratio:.3g}",
        f"{low:.3g} to {high:.3g}",
        target,
        "reached" if result.good else f"missed{': ' if one.known else ''}{one.known}",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(results: Iterable[measure.Result]) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for column in _HEAD:
        table.add_column(column, overflow="fold")
    for result in results:
        table.add_row(*_cells(result))
    return table


def _markdown(results: Iterable[measure.Result]) -> Iterable[str]:
    yield f"| {' | '.join(_HEAD)} |"
    yield f"|{' --- |' * len(_HEAD)}"
    for result in results:
        yield f"| {' | '.join(_cells(result))} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
