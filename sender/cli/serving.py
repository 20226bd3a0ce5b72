"""``tlsrpt serve`` and ``tlsrpt demo``: what runs."""

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sender.cli import running

if TYPE_CHECKING:
    from sender import config as configuration


class Role(enum.StrEnum):
    """What a host does."""

    RECORDER = "recorder"
    POLICY = "policy"
    REPORTER = "reporter"
    FOLLOWER = "follower"
    """Only where there is a log to follow."""


class Log(enum.StrEnum):
    """How the log looks."""

    LOGFMT = "logfmt"
    JSON = "json"


def serve(
    roles: Annotated[
        list[Role] | None,
        typer.Argument(
            metavar="ROLE",
            help="recorder, policy, reporter, follower; all where it is left out (follower with follower.log only).",
        ),
    ] = None,
    *,
    log: Annotated[Log, typer.Option(help="How the log on standard error is written.")] = Log.LOGFMT,
    config: running.Config = None,
) -> None:
    """Run the roles of this host in the foreground, each a process of its own, until SIGTERM."""
    from policy import listeners
    from sender import logs
    from sender import roles as all_roles

    with running.failures(listeners.ListenError):
        settings = running.settings(config)
        wanted = [role.value for role in roles or usual(settings)]
        check(settings, wanted)
        logs.configure(json=log is Log.JSON)

        def load() -> "configuration.Config":
            new = running.load(config)
            check(new, wanted)
            return new

        code = all_roles.serve(settings, wanted, load)
    raise typer.Exit(code)


def usual(settings: "configuration.Config") -> list[Role]:
    """Return the roles of a host where none is named."""
    return [role for role in Role if role is not Role.FOLLOWER or settings.follower.log]


def check(settings: "configuration.Config", roles: Sequence[str]) -> None:
    """Find out before anything starts whether the roles can run with this configuration.

    Raises:
        config.ConfigError: one of them cannot; one line.
    """
    from policy import listeners, role
    from sender import config as configuration
    from sender import daily
    from sender.cli import following
    from sender.store import engine
    from sender.web import access

    engine.check_url(settings.store.url)
    if Role.RECORDER in roles:
        try:
            listeners.group_id(settings.recorder.socket_group)
        except listeners.ListenError as error:
            raise configuration.ConfigError(f"recorder.socket_group: {error}") from error
        if not settings.recorder.socket:
            raise configuration.ConfigError('recorder.socket = "": give the recorder a path to listen on')
    if Role.POLICY in roles:
        with configuration.checked():
            role.check(settings.policy, settings.dns, settings.https)
    if Role.REPORTER in roles:
        daily.check(settings)
    if settings.web.listen:
        with configuration.checked():
            access.check(settings.web.listen, settings.web.token)
    if Role.FOLLOWER in roles:
        following.check(settings)


def demo(
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the folder with configuration, journal and store.")
    ] = False,
) -> None:
    """Show the whole way in a made-up internet on loopback: TLS sessions, the report, its delivery."""
    from sender.demo import story

    raise typer.Exit(story.run(keep=keep))
