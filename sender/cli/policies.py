"""``tlsrpt policy``: what the policy socket answers for a domain, and why."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sender.cli import running

if TYPE_CHECKING:
    from policy import explaining
    from sender import config as configuration


def _domain(key: str) -> str:
    """Read a domain as Postfix asks for it.

    Raises:
        typer.BadParameter: the socket does not look it up.
    """
    from policy import socketmap

    found = socketmap.key(key.encode("utf-8", "surrogateescape"))
    if found is None:
        why = "hosts in brackets, addresses, parent domains (.example.com) and ports other than 25 are not looked up"
        raise typer.BadParameter(f"{key!r} is no mail domain, the answer is NOTFOUND at once: {why}")
    return found.a_label


def policy(
    domain: Annotated[str, typer.Argument(parser=_domain, metavar="DOMAIN", help="A mail domain.")],
    *,
    json: running.Json = False,
    config: running.Config = None,
) -> None:
    """Tell what the policy socket answers for a domain, and why, step by step.

    Everything is looked up anew; a policy that the socket keeps from before goes on to hold. Nothing is changed or
    reported. The socket itself may answer as before until the DNS answers it stands on have expired.
    """
    import asyncio

    from rich import console

    from sender.cli import rows, trees

    with running.failures():
        settings = running.settings(config)
        with console.Console(stderr=True).status(f"asking the DNS and the policy host of {domain}"):
            explained = asyncio.run(_explain(settings, domain))
        if json:
            typer.echo(rows.dumps(_document(explained)))
        else:
            console.Console(highlight=False).print(trees.make(explained))


async def _explain(settings: "configuration.Config", domain: str) -> "explaining.Explanation":
    import time

    from policy import cache, explaining, https, lookups, resolver
    from sender import config as configuration

    now = time.time()
    known = None
    try:
        kept = cache.look(settings.policy.cache, domain, now)
        known = lookups.known_policy(kept, now) if kept is not None else None
    except cache.CacheError as error:
        running.complain(f"tlsrpt: policy.cache: {error}: what is kept there is not in this answer")
    with configuration.checked():
        dns = resolver.Resolver(settings.dns.nameservers)
        client = https.Client(settings.https, dns)
    async with client:
        return await explaining.explain(dns, client, domain, known)


def _document(explained: "explaining.Explanation") -> dict[str, Any]:
    """Return the verdict as the socket has it under the name JSON, with the answers and the TLSRPT record."""
    import msgspec

    record = explained.record
    reports = {
        "record": None if record is None else record.text,
        "rua": [] if record is None else [rua.uri for rua in record.rua],
        "trouble": explained.trouble,
    }
    verdict: dict[str, Any] = msgspec.to_builtins(explained.decided)
    return {**verdict, "answers": explained.answers(), "tlsrpt": reports}
