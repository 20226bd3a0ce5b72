"""Tables for people.

Pure: rows in, rich renderables out. Texts from strangers are shown as they are, never as markup.
"""

import datetime as dt
from collections.abc import Sequence

from rich import box, table, text

from sender import outcome, printable
from sender.check import findings as check
from sender.store import deliveries, listings

_STATE_STYLES = {
    "open": "cyan",
    "closed": "yellow",
    "skipped": "dim",
    "ok": "green",
    "hint": "cyan",
    "warning": "yellow",
    "error": "red",
    "unknown": "dim",
    outcome.State.DUE.value: "yellow",
    outcome.State.DELIVERED.value: "green",
    outcome.State.REFUSED.value: "red",
    outcome.State.EXPIRED.value: "red",
    outcome.State.CANCELLED.value: "dim",
}

_STACKED = "report about, id, to, last answer"
"""The column of what is long, line by line: 80 columns have no room for it side by side."""


def _table(title: str, *columns: str) -> table.Table:
    made = table.Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        number = column in {"ok", "failed", "tries"}
        made.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return made


def state(name: str) -> text.Text:
    """Return a state in its colour."""
    return text.Text(name, style=_STATE_STYLES.get(name, ""))


def _literal(string: str) -> text.Text:
    return text.Text(printable.escaped(string))


def _time(moment: dt.datetime | None) -> str:
    """Return a time in UTC, to the minute, on two lines."""
    return "" if moment is None else f"{moment.astimezone(dt.UTC):%Y-%m-%d\n%H:%M}"


def _delivery(row: deliveries.Delivery) -> text.Text:
    """Return line by line what goes where, with what answer: the report-id is to be copied, so it is not folded."""
    about = _literal(f"{row.domain} {row.day}")
    about.stylize("bold")
    came_back = f"came back at {_time(row.bounced)}: {row.bounce}" if row.bounced else None
    lines: list[str | None] = [row.report_id, row.rua, row.rule, row.answer, came_back]
    return text.Text("\n").join([about, *map(_literal, filter(None, lines))])


def domain_days(rows: Sequence[listings.PendingDay]) -> table.Table:
    """Return the table of domain-days without a report."""
    made = _table("Not reported", "day", "domain", "ok", "failed", "state", "why")
    for row in rows:
        made.add_row(
            row.day.isoformat(),
            _literal(row.domain),
            f"{row.successful:,}",
            text.Text(f"{row.failed:,}", style="red" if row.failed else ""),
            state(row.state),
            _literal(row.reason or ""),
        )
    return made


def due(rows: Sequence[deliveries.Delivery]) -> table.Table:
    """Return the table of deliveries that are not settled."""
    made = _table("To be delivered (times in UTC)", "next", "tries", _STACKED)
    for row in rows:
        made.add_row(_time(row.next_attempt), str(row.attempts), _delivery(row))
    return made


_STATE_WIDTH = max(len(one.value) for one in check.State)


def finding(row: check.Finding) -> table.Table:
    """Return what ``tlsrpt check`` found of one thing."""
    made = table.Table.grid(padding=(0, 1))
    made.add_column(no_wrap=True, min_width=_STATE_WIDTH)
    made.add_column(overflow="fold")
    made.add_row(state(row.state.value), _literal(f"{row.id}: {row.found}"))
    return made


def cure(row: check.Finding) -> text.Text:
    """Return what to do about it, in one line, which is to be copied."""
    return text.Text(f"{'':{_STATE_WIDTH}} {printable.escaped(row.cure)}", style="bold")


def settled(rows: Sequence[deliveries.Delivery], title: str = "Delivered or given up (times in UTC)") -> table.Table:
    """Return the table of deliveries with how they ended."""
    made = _table(title, "at", "state", "tries", _STACKED)
    for row in rows:
        made.add_row(_time(row.settled), state(row.state), str(row.attempts), _delivery(row))
    return made
