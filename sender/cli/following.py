"""``tlsrpt follow``: sessions out of the log of a Postfix that does not report them."""

from typing import TYPE_CHECKING, Annotated

import typer

from sender.cli import running

if TYPE_CHECKING:
    from sender import config as configuration


def follow(
    log: Annotated[
        str | None,
        typer.Argument(metavar="[FILE|journal]", help="Log of Postfix; follower.log where it is left out."),
    ] = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="Read to the end of the log and stop.")] = False,
    config: running.Config = None,
) -> None:
    """Make sessions of the log of Postfix before 3.10, in the foreground, until SIGTERM or Ctrl-C.

    Goes on where it stopped, in files that were rotated, too, and counts nothing twice. A log that is new to it is
    followed from its end; with --once it is read from its beginning. With Postfix 3.10 and newer it compares what
    Postfix reported with what was recorded.
    """
    from sender import bookmark, following, logsource, submit

    with running.failures(logsource.LogError, bookmark.BookmarkError, submit.SubmitError):
        settings = running.settings(config)
        name = log or settings.follower.log
        check(settings, name)
        totals = following.run(settings, name, once=once, stop=following.stopping())
        typer.echo(str(totals.compared) if totals.compared else f"{totals.sessions} sessions handed to the recorder")


def check(settings: "configuration.Config", name: str | None = None) -> None:
    """Find out whether a log can be followed with this configuration.

    Args:
        settings: all of it.
        name: of the log; ``None``: that of the configuration.

    Raises:
        config.ConfigError: it cannot; one line.
    """
    from policy import endpoints
    from sender import config as configuration

    if not (settings.follower.log if name is None else name):
        cure = 'set it to the log of Postfix, for example "/var/log/mail.log", or to "journal"'
        raise configuration.ConfigError(f'follower.log = "": {cure}')
    if not settings.recorder.socket:
        raise configuration.ConfigError('recorder.socket = "": name the socket of the recorder that gets the sessions')
    with configuration.checked():
        for address in settings.policy.listen:
            endpoints.parse(address)
