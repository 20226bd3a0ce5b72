"""``tlsrpt pending``, ``show`` and ``history``: looking, without sending or closing anything.

``pending`` and ``show`` first tally what the journal of this host holds, so that they tell what is true now.
"""

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer

from sender import printable
from sender.cli import running

if TYPE_CHECKING:
    from sender import config as configuration
    from sender import showing
    from sender.store import deliveries, engine, listings, recorders

MAX_ROWS = 100
"""Rows of a table for people: a few screens, drawn in no time; ``--json`` has all."""


def pending(domain: running.Domain = None, *, json: running.Json = False, config: running.Config = None) -> None:
    """List domain-days that are not reported yet, and deliveries that are not settled yet.

    A domain-day is open (the day goes on), closed (its report is about to be built) or skipped (no report goes out,
    with the reason). Hosts of a fleet that yesterday still waits for, or was closed without, are named.
    """
    from sender import closing, journal
    from sender.cli import rows
    from sender.store import engine, listings, recorders

    day = closing.last_full_day(dt.datetime.now(dt.UTC), settle=0)
    with running.failures(engine.StoreError, journal.JournalError):
        settings = running.settings(config)
        store, code = _up_to_date(settings)
        most = None if json else MAX_ROWS + 1
        with store.read() as connection:
            days = list(listings.pending_days(connection, domain, most))
            due = list(listings.pending_deliveries(connection, domain, most))
            malformed = listings.malformed(connection)
            missing = recorders.missing(connection, day)
        if json:
            document = {
                "domain_days": [rows.domain_day(row) for row in days],
                "deliveries": [rows.delivery(row) for row in due],
                "hosts_missing": [rows.missing_host(day, one) for one in missing],
            }
            typer.echo(rows.dumps(document))
        else:
            _print_pending(days, due)
            _print_missing(day, missing, closing.waits_until(day, settings.report))
            _print_malformed(malformed)
    raise typer.Exit(code)


def _print_pending(days: "list[listings.PendingDay]", due: "list[deliveries.Delivery]") -> None:
    import rich.console

    from sender.cli import tables

    console = rich.console.Console()
    if not days and not due:
        console.print("Nothing is pending.")
    if days:
        console.print(tables.domain_days(days[:MAX_ROWS]))
    if due:
        console.print(tables.due(due[:MAX_ROWS]))
    if max(len(days), len(due)) > MAX_ROWS:
        console.print("There are more rows: --json shows all.")


def _print_missing(day: dt.date, missing: "list[recorders.Recorder]", until: dt.datetime) -> None:
    import rich.console

    console = rich.console.Console()
    waits = dt.datetime.now(dt.UTC) < until
    what = f"waits until {until:%H:%M} UTC for" if waits else "was closed without"
    for one in missing:
        host = printable.escaped(one.host)
        console.print(f"{day} {what} {host}, which was tallied up to {one.tallied:%H:%M} UTC only", markup=False)


def _print_malformed(malformed: list[tuple[dt.date, str, int]]) -> None:
    import rich.console

    console = rich.console.Console()
    for day, reason, number in malformed:
        console.print(
            f"{day}: {number:,} session results could not be read: {reason} (malformed.ndjson in the journal)"
        )


def history(domain: running.Domain = None, *, json: running.Json = False, config: running.Config = None) -> None:
    """List what was sent where, and with what answer."""
    from sender.cli import rows
    from sender.store import engine, listings

    with running.failures(engine.StoreError):
        store = engine.open_store(running.settings(config).store.url)
        with store.read() as connection:
            settled = list(listings.settled_deliveries(connection, domain, None if json else MAX_ROWS + 1))
        if json:
            typer.echo(rows.dumps({"deliveries": [rows.settled_delivery(row) for row in settled]}))
        else:
            _print_history(settled)


def _print_history(settled: "list[deliveries.Delivery]") -> None:
    import rich.console

    from sender.cli import tables

    console = rich.console.Console()
    if not settled:
        console.print("Nothing was sent yet.")
        return
    console.print(tables.settled(settled[-MAX_ROWS:]))
    if len(settled) > MAX_ROWS:
        console.print("There are older rows: --json shows all.")


def show(
    domain: Annotated[str, typer.Argument(parser=running.domain, metavar="DOMAIN", help="The policy domain.")],
    *,
    day: running.Day = None,
    revision: Annotated[int | None, typer.Option(min=1, help="Which report of the day; the newest otherwise.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the exact document.")] = False,
    mail: Annotated[bool, typer.Option("--mail", help="Print the exact message.")] = False,
    config: running.Config = None,
) -> None:
    """Show the report about a domain as it was sent, or as it would be: of the newest day that is known, or of DAY."""
    from sender import config as configuration
    from sender import journal, report, showing
    from sender.store import engine

    if json and mail:
        raise typer.BadParameter("--json and --mail exclude each other")
    with running.failures(engine.StoreError, journal.JournalError, report.InvalidReportError):
        settings = running.settings(config)
        identity = configuration.identity(settings)
        store, code = _up_to_date(settings)
        shown = showing.look(store, identity, domain, day, revision)
        if shown is None:
            when = f" on {day}" if day else ""
            raise running.failed(f"nothing is known of {domain}{when}")
        if json:
            typer.echo(shown.document, nl=False)
        elif mail:
            typer.echo(_message(settings, identity, shown), nl=False)
        else:
            _print_report(shown)
    raise typer.Exit(code)


def _message(settings: "configuration.Config", identity: "configuration.Identity", shown: "showing.Shown") -> bytes:
    """Return the message to the first rua that is a mail address."""
    from sender import daily, delivering

    if shown.report is None:
        raise running.failed("no report is built yet: --json shows it as it would be")
    mails = [one for one in shown.deliveries if one.scheme == "mailto"]
    if not mails:
        raise running.failed("this report goes by HTTPS only: --json shows what is posted, before gzip")
    for other in mails[1:]:
        running.complain(f"tlsrpt: another message goes to {other.target}")
    return delivering.compose(identity, daily.load_signer(settings, identity), mails[0], shown.report)


def _print_report(shown: "showing.Shown") -> None:
    import rich.console

    from sender import report_view
    from sender.cli import tables

    console = rich.console.Console()
    console.print(_standing(shown), style="bold")
    console.print()
    console.print(report_view.render(shown.document))
    if shown.deliveries:
        console.print()
        console.print(tables.settled(shown.deliveries, "Deliveries (times in UTC)"))
    for row in shown.waiting:
        if shown.report is not None or row.reason:
            console.print()
            sessions = f"{row.successful:,} successful and {row.failed:,} failed sessions"
            why = f"{row.state}, {row.reason}" if row.reason else row.state
            console.print(printable.escaped(f"{sessions} are not in a report: {why}"), markup=False)


def _standing(shown: "showing.Shown") -> str:
    if shown.report is None:
        return "As it would be now; no report is built yet."
    revision = f" (revision {shown.report.revision})" if shown.report.revision > 1 else ""
    return f"As it was built at {shown.report.created:%Y-%m-%d %H:%M:%S} UTC{revision}."


def _up_to_date(settings: "configuration.Config") -> "tuple[engine.Store, int]":
    """Open the store, and tally what the journal of this host holds; an exit code tells whether all of it was."""
    from sender import journal, tally
    from sender.store import engine

    store = engine.open_store(settings.store.url)
    try:
        tally.open_tally(settings, store).catch_up(dt.datetime.now(dt.UTC))
    except journal.JournalError as error:
        return store, running.complain(f"tlsrpt: {error}")
    return store, 0
