"""``tlsrpt init``: the first configuration."""

import sys
from typing import Annotated

import typer

from sender.cli import running

KEY = "dkim.pem"
"""Beside the configuration file."""


def init(
    *,
    domain: Annotated[
        str | None, typer.Option(metavar="DOMAIN", help="The domain that reports come from; asked for on a terminal.")
    ] = None,
    contact: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="An address at the domain that a person reads; likewise.")
    ] = None,
    relay: Annotated[
        str, typer.Option(metavar="URL", help="The server that takes report mails.")
    ] = "smtp://127.0.0.1:25",
    dkim: Annotated[bool, typer.Option(help="Make a key and sign report mails; the relay has to otherwise.")] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Write a configuration that is there anew; a key is kept.")
    ] = False,
    config: running.Config = None,
) -> None:
    """Write the configuration, make the DKIM key, and print what the DNS and Postfix have to be told."""
    from sender import config as configuration
    from sender import installing, mail, signature
    from sender.check import postfix

    path = config or configuration.DEFAULT_PATH
    with running.failures(installing.ExistsError, signature.InvalidKeyError):
        values = _asked()
        group = "" if values is None else "postfix"
        answers = installing.Answers(_given("--domain", domain), _given("--contact", contact), relay, group)
        mail.parse_relay(relay)
        key = path.absolute().with_name(KEY) if dkim else None
        text = installing.text(answers, key)
        installing.write(path, text, force=force)
        typer.echo(f"{path} is written.")
        if key is not None:
            made = installing.make_key(key)
            typer.echo(f"{key} is {'made' if made else 'kept as it was'}.")
            signer = signature.Signer.load(str(key), installing.SELECTOR, answers.domain)
            typer.echo("\nPublish in the DNS, so that receivers believe our reports:\n")
            typer.echo(f'{signature.dns_name(signer)}. TXT "{signature.dns_record(signer)}"')
        settings = configuration.load(path, {})
        typer.echo("\nAdd to Postfix's main.cf, then run postfix reload:\n")
        typer.echo("\n".join(f"{name} = {value}" for name, value in postfix.wanted(values or {}, settings).items()))
        typer.echo("\nThen start it (tlsrpt serve, or your service), and see what is left to do: tlsrpt check")


def _asked() -> "dict[str, str] | None":
    """Return what Postfix tells of itself; ``None``: there is none, or it does not tell."""
    from sender.check import postfix

    try:
        values = postfix.ask()
    except OSError:
        return None
    return None if values is None else dict(values)


def _given(option: str, value: str | None) -> str:
    """Return what an option says, or what a person answers.

    Raises:
        typer.BadParameter: there is neither.
    """
    if value is not None:
        return value
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"{option} is missing: nobody is there to ask")
    return str(typer.prompt(option.removeprefix("--").capitalize()))
