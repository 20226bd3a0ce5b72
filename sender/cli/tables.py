"""Tables for people.

Pure: rows in, rich renderables out. Texts from strangers are shown as they are, never as markup.
"""

import datetime as dt
from collections.abc import Sequence

from rich import box, table, text

from sender import outcome
from sender.store import deliveries, listings

_STATE_STYLES = {
    "open": "cyan",
    "closed": "yellow",
    "skipped": "dim",
    outcome.State.DUE.value: "yellow",
    outcome.State.DELIVERED.value: "green",
    outcome.State.REFUSED.value: "red",
    outcome.State.EXPIRED.value: "red",
    outcome.State.CANCELLED.value: "dim",
}


def _table(title: str, *columns: str) -> table.Table:
    made = table.Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        number = column in {"ok", "failed", "tries"}
        made.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return made


def state(name: str) -> text.Text:
    """Return a state in its colour."""
    return text.Text(name, style=_STATE_STYLES.get(name, ""))


def time(moment: dt.datetime | None) -> str:
    """Return a time in UTC, to the minute."""
    return "" if moment is None else f"{moment.astimezone(dt.UTC):%Y-%m-%d %H:%M}"


def domain_days(rows: Sequence[listings.PendingDay]) -> table.Table:
    """Return the table of domain-days without a report."""
    made = _table("Not reported", "day", "domain", "ok", "failed", "state", "why")
    for row in rows:
        made.add_row(
            row.day.isoformat(),
            text.Text(row.domain),
            f"{row.successful:,}",
            text.Text(f"{row.failed:,}", style="red" if row.failed else ""),
            state(row.state),
            text.Text(row.reason or ""),
        )
    return made


def due(rows: Sequence[deliveries.Delivery]) -> table.Table:
    """Return the table of deliveries that are not settled."""
    made = _table("To be delivered (times in UTC)", "report", "rua", "tries", "next", "last answer")
    for row in rows:
        made.add_row(
            text.Text(row.report_id),
            text.Text(row.rua),
            str(row.attempts),
            time(row.next_attempt),
            text.Text(row.answer or ""),
        )
    return made


def settled(rows: Sequence[deliveries.Delivery], title: str = "Delivered or given up (times in UTC)") -> table.Table:
    """Return the table of deliveries with how they ended."""
    made = _table(title, "at", "report", "rua", "state", "tries", "answer")
    for row in rows:
        made.add_row(
            time(row.settled),
            text.Text(row.report_id),
            text.Text(row.rua),
            state(row.state),
            str(row.attempts),
            text.Text(row.answer or ""),
        )
    return made
