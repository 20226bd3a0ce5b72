"""``tlsrpt check``: what can be wrong with this installation, each with its cure."""

from typing import TYPE_CHECKING, Annotated

import typer

from sender.cli import running, serving

if TYPE_CHECKING:
    from sender.check import findings


def check(
    roles: Annotated[
        list[serving.Role] | None,
        typer.Argument(
            metavar="ROLE",
            help="recorder, policy, reporter, follower: what this host does; as tlsrpt serve where it is left out.",
        ),
    ] = None,
    *,
    alive: Annotated[
        bool,
        typer.Option("--alive", help="Only whether somebody answers at the sockets: for a container's health check."),
    ] = False,
    json: running.Json = False,
    config: running.Config = None,
) -> None:
    """Look at everything that can be wrong with this installation, and name the cure.

    Nothing is changed and no mail is sent. The exit code is 1 if there is a warning or an error, 2 if tlsrpt
    serve could not start with this configuration.
    """
    import asyncio

    from sender.check import findings
    from sender.check import running as checks
    from sender.cli import rows

    with running.failures():
        settings = running.settings(config)
        wanted = [role.value for role in roles or serving.usual(settings)]
        serving.check(settings, wanted)
        found = asyncio.run(checks.look(settings, wanted, alive=alive))
    if json:
        typer.echo(rows.dumps({"findings": [rows.finding(one) for one in found]}))
    else:
        _print(found)
    raise typer.Exit(running.FAILED if any(one.state in findings.BAD for one in found) else 0)


def _print(found: "list[findings.Finding]") -> None:
    import rich.console

    from sender.cli import tables

    console = rich.console.Console()
    for one in found:
        console.print(tables.finding(one))
        if one.cure:
            console.print(tables.cure(one), soft_wrap=True)  # a line to copy stays one line
