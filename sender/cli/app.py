"""The command line: which commands there are, in the order of their help.

Exit codes: 0 done, 1 something failed, 2 wrong usage or configuration. An error is one line on standard error.
"""

import importlib.metadata
import sys
from typing import Annotated

import typer
from typer import exceptions

from sender.cli import inspecting, reporting, running, serving, submitting

app = typer.Typer(
    name="tlsrpt",
    epilog="Exit codes: 0 done, 1 something failed, 2 wrong usage or configuration.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        typer.echo(f"tlsrpt {importlib.metadata.version('tlsrpt')}")
        raise typer.Exit


@app.callback()
def tlsrpt(
    *,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Record how TLS sessions with other mail servers went, and tell every domain that asks for it (RFC 8460)."""


app.command("serve")(serving.serve)
app.command("submit")(submitting.submit)
app.command("pending")(inspecting.pending)
app.command("show")(inspecting.show)
app.command("report")(reporting.report)
app.command("history")(inspecting.history)
app.command("retry")(reporting.retry)
app.command("cancel")(reporting.cancel)
app.command("demo")(serving.demo)


def main() -> None:
    """Run the command line and exit; wrong usage is one line, too."""
    try:
        code = app(standalone_mode=False)
    except exceptions.TyperException as error:
        code = running.WRONG_USAGE
        typer.echo(_explained(error), err=True)
    sys.exit(code)


def _explained(error: exceptions.TyperException) -> str:
    """Return what is wrong with the usage and where help is; the whole help where no command was given."""
    context = getattr(error, "ctx", None)
    message = error.format_message() if isinstance(error, typer.BadParameter) else str(error)
    if context is None or not message:  # help was shown instead
        return message
    return f"{context.command_path}: {message} ({context.command_path} --help tells more)"
