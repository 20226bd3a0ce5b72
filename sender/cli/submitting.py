"""``tlsrpt submit``: session results of an MTA of one's own, from a file or standard input."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator
from typing import Annotated, BinaryIO

import typer

from sender.cli import running

MAX_SHOWN = 20
"""Bad lines that are named one by one."""


def submit(
    file: Annotated[
        pathlib.Path | None,
        typer.Argument(
            metavar="FILE", help="Session results, one JSON object a line; standard input where it is left out or -."
        ),
    ] = None,
    *,
    config: running.Config = None,
) -> None:
    """Hand session results to the recorder, waiting for it rather than dropping any.

    Each line is a JSON object in the format of libtlsrpt's datagrams, for example:

    {"d":"example.com","pr":"v=TLSRPTv1;rua=mailto:r@example.com","policies":[{"policy-type":9,"t":0,"f":0}]}
    """
    from sender import submit as submitting
    from sender.cli import progress

    with running.failures(submitting.SubmitError):
        settings = running.settings(config)
        with _lines(file) as lines, progress.counting("submitted") as count:
            summary = submitting.submit(lines, settings.recorder.socket, count)
        typer.echo(f"{summary.sent} submitted")
        for bad in summary.bad[:MAX_SHOWN]:
            running.complain(f"tlsrpt: line {bad.number}: {bad.reason}")
        if more := summary.rejected - len(summary.bad[:MAX_SHOWN]):
            running.complain(f"tlsrpt: {more:,} more lines were not sent")
    raise typer.Exit(running.FAILED if summary.rejected else 0)


@contextlib.contextmanager
def _lines(file: pathlib.Path | None) -> Iterator[BinaryIO]:
    if file is None or str(file) == "-":
        yield sys.stdin.buffer
    else:
        with file.open("rb") as lines:
            yield lines
