"""The rows of ``--json``: a contract with scripts, so their keys change only with a note in the changelog.

Pure. Times are RFC 3339 in UTC, days ISO 8601.
"""

import datetime as dt
import json
from typing import Any

from sender import outcome
from sender.check import findings
from sender.store import deliveries, listings, recorders, suppressions


def time(moment: dt.datetime | None) -> str | None:
    """Return a time as RFC 3339 in UTC."""
    return None if moment is None else moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def domain_day(row: listings.PendingDay) -> dict[str, Any]:
    """Return a row of ``domain_days``."""
    return {
        "day": row.day.isoformat(),
        "domain": row.domain,
        "successful": row.successful,
        "failed": row.failed,
        "state": row.state,
        "reason": row.reason,
    }


def suppression(row: suppressions.Suppression) -> dict[str, Any]:
    """Return a row of ``suppressions``."""
    return {"address": row.target, "until": time(row.until), "reason": row.reason, "created": time(row.created)}


def missing_host(day: dt.date, row: recorders.Recorder) -> dict[str, Any]:
    """Return a row of ``hosts_missing``."""
    return {"day": day.isoformat(), "host": row.host, "tallied": time(row.tallied)}


def finding(row: findings.Finding) -> dict[str, Any]:
    """Return a row of ``findings``."""
    return {"id": row.id, "state": row.state.value, "found": row.found, "cure": row.cure or None}


def delivery(row: deliveries.Delivery) -> dict[str, Any]:
    """Return a row of ``deliveries``."""
    return {
        "report_id": row.report_id,
        "day": row.day.isoformat(),
        "domain": row.domain,
        "rua": row.rua,
        "state": row.state,
        "attempts": row.attempts,
        "next_attempt": time(row.next_attempt),
        "last_error": None if row.state == outcome.State.DELIVERED else row.answer,
        "rule": row.rule,
    }


def settled_delivery(row: deliveries.Delivery) -> dict[str, Any]:
    """Return a row of ``deliveries`` of the history: that of :func:`delivery`, with how it ended."""
    came_back = {"bounced": time(row.bounced), "bounce": row.bounce}
    return {**delivery(row), "settled": time(row.settled), "answer": row.answer, **came_back}


def dumps(document: dict[str, Any]) -> str:
    """Return JSON in plain ASCII: readable in any locale, and nothing of a stranger's controls a terminal."""
    return json.dumps(document, indent=1)
