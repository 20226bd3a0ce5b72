"""``tlsrpt report``, ``retry`` and ``cancel``: the daily job by hand."""

import datetime as dt
import pathlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sender import printable
from sender.cli import running

if TYPE_CHECKING:
    from collections.abc import Callable

    from sender import building, summary
    from sender import config as configuration
    from sender.store import engine

MAX_SHOWN = 20
"""Failures of one run that are named one by one; ``pending`` and ``history`` have all."""

ReportId = Annotated[str, typer.Argument(metavar="ID", help="A report-id, as pending and history show it.")]


def report(
    *,
    day: running.Day = None,
    domain: Annotated[
        str | None, typer.Option(parser=running.domain, metavar="DOMAIN", help="Only reports about this domain.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done; close and send nothing.")
    ] = False,
    now: Annotated[bool, typer.Option("--now", help="Deliver at once, without spreading.")] = False,
    json: running.Json = False,
    config: running.Config = None,
) -> None:
    """Do the daily job by hand: tally, close DAY and what is older, build reports, deliver what is due.

    DAY is yesterday where it is left out; today closes the running day early, and later sessions become a revision.
    """
    import asyncio

    from sender import journal
    from sender.store import engine

    with running.failures(engine.StoreError, journal.JournalError):
        settings = running.settings(config)
        store = engine.open_store(settings.store.url)
        last = day or running.day("yesterday")
        if dry_run:
            asyncio.run(_dry_run(settings, store, last, domain, json=json))
            return
        done, failures = asyncio.run(_run(settings, store, last, domain, now=now))
        _print_summary(done, failures, json=json)
    raise typer.Exit(running.FAILED if done.undelivered else 0)


async def _run(
    settings: "configuration.Config", store: "engine.Store", last: dt.date, domain: str | None, *, now: bool
) -> "tuple[summary.Summary, list[str]]":
    """Do it; return what was done, and the first failures in words."""
    from sender import closing, daily, outcome, summary
    from sender.cli import progress

    done = summary.Summary()
    failures: list[str] = []
    async with daily.open_daily(settings, store) as job:
        done.closed = await job.close(last, domain)
        failures += [
            f"{last} was closed without {one.host}, which was tallied up to {one.tallied:%H:%M} UTC only"
            for one in (closing.missing_hosts(store, last) if last < job.clock().date() else [])
        ]
        with progress.counting("domain-days decided") as count:
            async for built in job.build(domain, spread=0 if now else None):
                done.built(built)
                count(done.decided)
        if now:
            job.hurry(domain)
        with progress.counting("deliveries made") as count:
            async for attempt in job.deliver(domain):
                state = done.attempted(attempt)
                count(done.deliveries.total())
                if state != outcome.State.DELIVERED and len(failures) < MAX_SHOWN:
                    one = attempt.delivery
                    failures.append(f"{one.domain} {one.day} to {one.rua}: {state}: {attempt.step.answer}")
    return done, failures


def _print_summary(done: "summary.Summary", failures: list[str], *, json: bool) -> None:
    from sender.cli import rows

    document = _summary_row(done)
    if json:
        typer.echo(rows.dumps(document))
    else:
        closed = ", ".join(document.pop("closed")) or "nothing was open"
        typer.echo(f"closed      {closed}")
        for name, number in document.items():
            typer.echo(f"{name:<11} {number:,}")
    for line in failures:
        running.complain(f"tlsrpt: {line}")


async def _dry_run(
    settings: "configuration.Config", store: "engine.Store", last: dt.date, domain: str | None, *, json: bool
) -> None:
    """Show what a run would decide about each domain-day."""
    from sender import daily
    from sender.cli import rows

    decided: list[dict[str, Any]] = []
    async with daily.open_daily(settings, store) as job:
        await job.catch_up()
        async for batch in job.builder.decide(domain=domain, last=last):
            for one in batch:
                row = _decided_row(one)
                decided.append(row)
                if not json:
                    typer.echo(printable.escaped(f"{row['day']} {row['domain']}: {_would(row)}"))
    if json:
        typer.echo(rows.dumps({"domain_days": decided}))
    elif not decided:
        typer.echo("There is nothing to report.")


def _summary_row(done: "summary.Summary") -> dict[str, Any]:
    """Return what a run of ``tlsrpt report`` did."""
    return {
        "closed": [day.isoformat() for day in done.closed],
        "reports": done.reports,
        "skipped": done.skipped,
        "waiting": done.waiting,
        **{state: done.deliveries[state] for state in ("delivered", "deferred", "refused", "expired")},
    }


def _decided_row(one: "building.Decided") -> dict[str, Any]:
    """Return what ``tlsrpt report --dry-run`` would do about a domain-day."""
    from sender import decision

    day = one.domain_day
    rua = [target.uri for target in one.decision.rua] if isinstance(one.decision, decision.Send) else []
    return {
        "day": day.day.isoformat(),
        "domain": day.domain,
        "successful": day.successful,
        "failed": day.failed,
        "rua": rua,
        "reason": None if isinstance(one.decision, decision.Send) else one.decision.reason,
    }


def _would(row: dict[str, Any]) -> str:
    sessions = f"{row['successful']:,} successful, {row['failed']:,} failed"
    what = f"report to {', '.join(row['rua'])}" if row["rua"] else f"no report: {row['reason']}"
    return f"{sessions}: {what}"


def retry(report_id: ReportId, *, config: running.Config = None) -> None:
    """Deliver a report again wherever it was not accepted, at the next run of the reporter."""
    from sender.store import deliveries

    now = dt.datetime.now(dt.UTC)
    _change(config, report_id, "will be tried again", lambda c: deliveries.retry(c, report_id, now))


def cancel(report_id: ReportId, *, config: running.Config = None) -> None:
    """Stop a report's deliveries that are not settled yet."""
    from sender.store import deliveries

    now = dt.datetime.now(dt.UTC)
    _change(config, report_id, "cancelled", lambda c: deliveries.cancel(c, report_id, now))


def _change(
    config: pathlib.Path | None, report_id: str, what: str, change: "Callable[[engine.Connection], int]"
) -> None:
    from sender.store import deliveries, engine

    with running.failures(engine.StoreError):
        store = engine.open_store(running.settings(config).store.url)
        known, number = store.change(lambda c: (deliveries.of_report(c, report_id), change(c)))
        if not known:
            raise running.failed(f"no report has the id {report_id}: pending and history show the ids")
    typer.echo(f"{number} of {len(known)} deliveries {what}")
