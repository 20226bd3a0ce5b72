"""What commands share: their options, the configuration, and how a failure becomes one line and an exit code."""

import contextlib
import datetime as dt
import pathlib
from collections.abc import Iterator
from typing import Annotated

import typer

from policy import names
from sender import config, printable

FAILED = 1
WRONG_USAGE = 2

Config = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--config", envvar="TLSRPT_CONFIG", help=f"Configuration file; {config.DEFAULT_PATH} where it is left out."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


@contextlib.contextmanager
def failures(*expected: type[Exception]) -> Iterator[None]:
    """Turn the errors that a command expects into one line on standard error and its exit code."""
    try:
        yield
    except config.ConfigError as error:
        raise _exit(error, WRONG_USAGE) from error
    except BrokenPipeError as error:  # whoever read our output has seen enough
        raise typer.Exit(FAILED) from error
    except expected as error:
        raise _exit(error, FAILED) from error
    except OSError as error:
        raise _exit(error, FAILED) from error


def _exit(error: Exception, code: int) -> typer.Exit:
    return typer.Exit(complain(f"tlsrpt: {error}", code))


def failed(text: str) -> typer.Exit:
    """Say what failed, and return what ends the command."""
    return typer.Exit(complain(f"tlsrpt: {text}"))


def complain(text: str, code: int = FAILED) -> int:
    """Say what is wrong in one line on standard error; return the exit code."""
    typer.echo(printable.escaped(" ".join(text.split())), err=True)
    return code


def settings(path: pathlib.Path | None) -> config.Config:
    """Return the configuration: of a file that was named, or of the usual one if it is there.

    From here on the log goes to standard error: standard output is the command's.
    """
    from sender import logs

    logs.configure(json=False)
    return load(path)


def load(path: pathlib.Path | None) -> config.Config:
    """Return the configuration, as :func:`settings` does."""
    if path is None:
        return config.load(config.DEFAULT_PATH, required=False)
    return config.load(path)


def domain(text: str) -> str:
    """Read a domain from the command line.

    Raises:
        typer.BadParameter: it is none.
    """
    try:
        return names.a_label(text)
    except names.InvalidNameError as error:
        raise typer.BadParameter(str(error)) from error


def day(text: str) -> dt.date:
    """Read a day (UTC) from the command line: ``2026-11-24``, ``today`` or ``yesterday``.

    Raises:
        typer.BadParameter: it is none.
    """
    today = dt.datetime.now(dt.UTC).date()
    named = {"today": today, "yesterday": today - dt.timedelta(days=1)}
    try:
        return named.get(text) or dt.date.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no day: give YYYY-MM-DD, today or yesterday") from error


Domain = Annotated[str | None, typer.Argument(parser=domain, metavar="DOMAIN", help="Only this domain.")]
Day = Annotated[
    dt.date | None, typer.Option("--day", parser=day, metavar="DAY", help="YYYY-MM-DD, today or yesterday (UTC).")
]
