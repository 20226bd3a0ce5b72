"""``tlsrpt suppress``: whom no reports go to."""

import datetime as dt
import re
from typing import Annotated

import typer

from sender import printable
from sender.cli import running

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def _span(text: str) -> dt.timedelta:
    """Read a span: ``12h``, ``30d``, ``4w``.

    Raises:
        typer.BadParameter: it is none.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,3})([hdw])", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no span: give hours, days or weeks as 12h, 30d or 4w")
    return dt.timedelta(**{_UNITS[match[2]]: int(match[1])})


def _target(text: str) -> str:
    """Read an address or URL as deliveries have it.

    Raises:
        typer.BadParameter: reports cannot go there.
    """
    from policy import tlsrpt

    uri = text if ":" in text else f"mailto:{text}"
    try:
        usable = tlsrpt.parse_record(f"v=TLSRPTv1;rua={uri}").rua
    except tlsrpt.InvalidRecordError:
        usable = ()
    if len(usable) != 1:
        raise typer.BadParameter(f"{text!r} is no rua: give a mail address, or an https: URL")
    return usable[0].target


def suppress(
    address: Annotated[
        str | None,
        typer.Argument(parser=_target, metavar="ADDRESS", help="A mail address or https: URL; left out: lists all."),
    ] = None,
    *,
    span: Annotated[
        dt.timedelta | None,
        typer.Option("--for", parser=_span, metavar="SPAN", help="12h, 30d, 4w; for ever where it is left out."),
    ] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for those who look later.")] = "by hand",
    remove: Annotated[bool, typer.Option("--remove", help="Let reports go there again.")] = False,
    json: running.Json = False,
    config: running.Config = None,
) -> None:
    """Send no more reports to an address, and cancel what is due to it; or list what is suppressed."""
    from sender.cli import rows
    from sender.store import engine, suppressions

    if remove and address is None:
        raise typer.BadParameter("--remove needs an ADDRESS")
    now = dt.datetime.now(dt.UTC)
    with running.failures(engine.StoreError):
        store = engine.open_store(running.settings(config).store.url)
        if address is None:
            with store.read() as connection:
                found = suppressions.active(connection, now)
            if json:
                typer.echo(rows.dumps({"suppressions": [rows.suppression(one) for one in found]}))
            for one in () if json else found:
                typer.echo(printable.escaped(f"{one.target}: {one.told()}"))
            return
        if remove:
            if not store.change(lambda connection: suppressions.remove(connection, address)):
                raise running.failed(f"{address} is not suppressed")
            typer.echo(f"{address} gets reports again")
            return
        one = suppressions.Suppression(address, None if span is None else now + span, reason, now)
        cancelled = store.change(lambda connection: suppressions.add(connection, one))
    typer.echo(f"{address} gets no reports: {one.told()}; {cancelled} deliveries cancelled")
