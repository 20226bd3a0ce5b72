"""The command line: which commands there are, in the order of their help.

Exit codes: 0 done, 1 something failed, 2 wrong usage or configuration. An error is one line on standard error.
"""

import io
import os
import sys
from typing import Annotated, TextIO

import typer
from typer import exceptions

from sender.cli import (
    beginning,
    checking,
    following,
    inspecting,
    manual,
    policies,
    reaching,
    reporting,
    running,
    serving,
    submitting,
)

NAME = "tlsrpt"

app = typer.Typer(
    name=NAME,
    epilog="Exit codes: 0 done, 1 something failed, 2 wrong usage or configuration.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        import importlib.metadata

        typer.echo(f"{NAME} {importlib.metadata.version(NAME)}")
        raise typer.Exit


@app.callback()
def tlsrpt(
    *,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Secure mail as its domain asks, record how TLS sessions went, tell every domain that wants to know.

    MTA-STS (RFC 8461), DANE (RFC 7672) and TLSRPT (RFC 8460) for the server that sends.
    """


app.command("serve")(serving.serve)
app.command("submit")(submitting.submit)
app.command("follow")(following.follow)
app.command("pending")(inspecting.pending)
app.command("show")(inspecting.show)
app.command("report")(reporting.report)
app.command("history")(inspecting.history)
app.command("retry")(reporting.retry)
app.command("cancel")(reporting.cancel)
app.command("suppress")(reaching.suppress)
app.command("policy")(policies.policy)
app.command("check")(checking.check)
app.command("init")(beginning.init)
app.command("demo")(serving.demo)
app.command("manual")(manual.manual)


def main() -> None:
    """Run the command line and exit; wrong usage is one line, too."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show is told as an escape
            stream.reconfigure(errors="backslashreplace")
    code = _run()
    if sys.stdout is not None:
        _flush(sys.stdout)
    sys.exit(code)


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:  # told already, and Python would try once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run() -> int:
    try:
        return app(prog_name=NAME, standalone_mode=False) or 0
    except exceptions.TyperException as error:
        return running.complain(_explained(error), running.WRONG_USAGE)
    except OSError as error:  # help or version on a full disk
        return running.complain(f"{NAME}: {error}", running.FAILED)


def _explained(error: exceptions.TyperException) -> str:
    """Return what is wrong with the usage, and where help is."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else NAME
    message = error.format_message().removesuffix(".").replace("Value error, ", "")  # the latter says nothing
    return f"{command}: {message or 'no command was given'} ({command} --help tells more)"
