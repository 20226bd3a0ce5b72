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
    ed25519: Annotated[
        bool, typer.Option("--ed25519", help="Make an Ed25519 key instead of RSA; few receivers can check it.")
    ] = False,
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
        if not force:
            installing.refuse_another(path)
        signer = None
        if key is not None:  # before the configuration, which names it
            made = installing.make_key(key, signature.Algorithm.ED25519 if ed25519 else signature.Algorithm.RSA)
            typer.echo(f"{key} is {'made' if made else 'kept as it was'}.")
            domain = configuration.identity(configuration.parse(text, {})).domain
            signer = signature.Signer.load(str(key), installing.SELECTOR, domain)
        installing.write(path, text)
        typer.echo(f"{path} is written.")
        if signer is not None:
            typer.echo("\nPublish in the DNS, so that receivers believe our reports:\n")
            typer.echo(signature.zone_line(signer))
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
