"""``tlsrpt check``: what can be wrong with this installation, each with its cure."""

import enum
from typing import TYPE_CHECKING, Annotated

import typer

from sender.cli import running

if TYPE_CHECKING:
    from sender.check import findings


class Role(enum.StrEnum):
    """What a host does that can be checked."""

    RECORDER = "recorder"
    POLICY = "policy"
    REPORTER = "reporter"


def check(
    roles: Annotated[
        list[Role] | None,
        typer.Argument(
            metavar="ROLE", help="recorder, policy, reporter: what this host does; all where it is left out."
        ),
    ] = None,
    *,
    json: running.Json = False,
    config: running.Config = None,
) -> None:
    """Look at everything that can be wrong with this installation, and name the cure.

    Nothing is changed and no mail is sent. The exit code is 1 if there is a warning or an error.
    """
    import asyncio

    from sender.check import findings
    from sender.check import running as checks
    from sender.cli import rows

    with running.failures():
        settings = running.settings(config)
        found = asyncio.run(checks.look(settings, [role.value for role in roles or Role]))
    if json:
        typer.echo(rows.dumps({"findings": [rows.finding(one) for one in found]}))
    else:
        _print(found)
    raise typer.Exit(running.FAILED if any(one.state in findings.BAD for one in found) else 0)


def _print(found: "list[findings.Finding]") -> None:
    import rich.console

    from sender.cli import tables

    rich.console.Console().print(tables.findings(found))
