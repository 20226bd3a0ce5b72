"""``tlsrpt serve`` and ``tlsrpt demo``: what runs."""

import enum
from typing import Annotated

import typer

from sender.cli import running


class Role(enum.StrEnum):
    """What a host does."""

    RECORDER = "recorder"
    REPORTER = "reporter"


class Log(enum.StrEnum):
    """How the log looks."""

    LOGFMT = "logfmt"
    JSON = "json"


def serve(
    roles: Annotated[
        list[Role] | None, typer.Argument(metavar="[ROLE]...", help="recorder, reporter; all where it is left out.")
    ] = None,
    *,
    log: Annotated[Log, typer.Option(help="How the log on standard error is written.")] = Log.LOGFMT,
    config: running.Config = None,
) -> None:
    """Run the roles of this host in the foreground, each a process of its own, until SIGTERM."""
    from policy import listeners
    from sender import config as configuration
    from sender import logs
    from sender import roles as all_roles

    with running.failures(listeners.ListenError):
        settings = running.settings(config)
        wanted = [role.value for role in roles or Role]
        if Role.REPORTER in wanted:
            configuration.identity(settings)
        logs.configure(json=log is Log.JSON)
        code = all_roles.serve(settings, wanted)
    raise typer.Exit(code)


def demo(
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the folder with configuration, journal and store.")
    ] = False,
) -> None:
    """Show the whole way in a made-up internet on loopback: TLS sessions, the report, its delivery."""
    from sender.demo import story

    raise typer.Exit(story.run(keep=keep))
