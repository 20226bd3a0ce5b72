"""``pending`` and ``history``: keys that scripts rely on, and tables of 80 columns with strangers' texts literally."""

import datetime as dt
import json
import pathlib
import re
import subprocess
from collections.abc import Callable

import pytest

from policy import tlsrpt as record
from sender import journal, outcome, report
from sender.cli import inspecting
from sender.store import closings, deliveries, engine, recorders, reports
from tests import stored

Command = Callable[..., subprocess.CompletedProcess[str]]

DAY = dt.date(2026, 11, 23)
DUE = dt.datetime(2026, 11, 24, 3, 4, 5, tzinfo=dt.UTC)
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")

DOMAIN_DAY_KEYS = {"day", "domain", "successful", "failed", "state", "reason"}
DELIVERY_KEYS = {"report_id", "day", "domain", "rua", "state", "attempts", "next_attempt", "last_error", "rule"}

DELIVERED = outcome.Settled(outcome.State.DELIVERED, "250 2.0.0 taken")
REFUSED = outcome.Settled(outcome.State.REFUSED, "550 5.1.1 nobody")
AGAIN = outcome.Again(DUE, "450 4.2.1 [red]greylisted")

REASON = "[red]ftp: \x1b[31m.example/é"
"""Why a domain-day is skipped, with markup, a terminal control and a letter beyond ASCII."""


def put_delivery(store: engine.Store, report_id: str, rua: str, step: outcome.Settled | outcome.Again | None) -> None:
    """Put a report with one delivery into the store, attempted once unless ``step`` is ``None``."""
    domain = f"{report_id.partition('@')[0]}.example"
    packed = report.pack(b"{}")
    (target,) = record.parse_record(f"v=TLSRPTv1;rua={rua}").rua
    with store.write() as connection:
        reports.add(connection, [reports.Report(report_id, DAY, domain, DUE, 1, 0, packed)])
        deliveries.add(connection, [deliveries.Addressed(report_id, DAY, domain, [(target, DUE)])])
        if step is not None:
            (one,) = deliveries.of_report(connection, report_id)
            deliveries.note(connection, one, DUE, step)


@pytest.fixture
def filled(store: engine.Store, add: Callable[..., None]) -> engine.Store:
    """A store with a domain-day and a delivery in each state."""
    for domain in ("skipped", "closed"):
        add(DAY, f"{domain}.example", successful=3, failed=2)
    with store.write() as connection:
        closings.close(connection, DAY)
        (row,) = reports.undecided(connection, 9, after=None, domain="skipped.example")
        reports.settle(connection, [(row, "skipped", REASON)])
    add(DAY, "open.example", successful=1234)
    put_delivery(store, "due@s.example", "mailto:r@due.example", None)
    put_delivery(store, "again@s.example", "https://again.example/r", AGAIN)
    put_delivery(store, "delivered@s.example", "mailto:r@delivered.example", DELIVERED)
    put_delivery(store, "refused@s.example", "mailto:r@refused.example", REFUSED)
    return store


def test_pending_json_has_the_keys_of_the_contract(tlsrpt: Command, filled: engine.Store) -> None:
    """No key more, none less; days by domain, late ones last, deliveries by their next attempt; times in UTC with Z."""
    shown = json.loads(tlsrpt("pending", "--json").stdout)
    assert shown.keys() == {"domain_days", "deliveries", "hosts_missing"}
    days, waiting = shown["domain_days"], shown["deliveries"]
    assert [(row["domain"], row["state"], row["successful"], row["failed"]) for row in days] == [
        ("closed.example", "closed", 3, 2),
        ("skipped.example", "skipped", 3, 2),
        ("open.example", "open", 1234, 0),
    ]
    assert all(row.keys() == DOMAIN_DAY_KEYS for row in days)
    assert {row["day"] for row in days} == {"2026-11-23"}
    assert [row["reason"] for row in days] == [None, REASON, None]
    assert waiting == [
        {
            "report_id": report_id,
            "day": "2026-11-23",
            "domain": domain,
            "rua": rua,
            "state": "due",
            "attempts": attempts,
            "next_attempt": "2026-11-24T03:04:05Z",
            "last_error": last_error,
            "rule": None,
        }
        for report_id, domain, rua, attempts, last_error in [
            ("again@s.example", "again.example", "https://again.example/r", 1, "450 4.2.1 [red]greylisted"),
            ("due@s.example", "due.example", "mailto:r@due.example", 0, None),
        ]
    ]


def test_history_json_has_the_same_rows_once_settled(tlsrpt: Command, filled: engine.Store) -> None:
    """What was accepted has no error, but the answer; what was refused has both."""
    shown = json.loads(tlsrpt("history", "--json").stdout)
    assert shown.keys() == {"deliveries"}
    rows = {row["state"]: row for row in shown["deliveries"]}
    assert rows.keys() == {"delivered", "refused"}
    for row in rows.values():
        assert row.keys() == DELIVERY_KEYS | {"settled", "answer", "bounced", "bounce"}
        assert TIME.match(row["settled"])
        assert (row["attempts"], row["next_attempt"]) == (1, None)
    assert (rows["delivered"]["last_error"], rows["delivered"]["answer"]) == (None, "250 2.0.0 taken")
    assert (rows["refused"]["last_error"], rows["refused"]["answer"]) == ("550 5.1.1 nobody", "550 5.1.1 nobody")


def test_a_domain_narrows_listings_down(tlsrpt: Command, filled: engine.Store) -> None:
    """In any case and with a final dot, as people paste it."""
    shown = json.loads(tlsrpt("pending", "DUE.Example.", "--json").stdout)
    assert ([row["domain"] for row in shown["deliveries"]], shown["domain_days"]) == (["due.example"], [])
    shown = json.loads(tlsrpt("pending", "skipped.example", "--json").stdout)
    assert ([row["domain"] for row in shown["domain_days"]], shown["deliveries"]) == (["skipped.example"], [])
    shown = json.loads(tlsrpt("history", "refused.example", "--json").stdout)
    assert [row["domain"] for row in shown["deliveries"]] == ["refused.example"]


def rows_of(shown: str) -> list[str]:
    """Return the lines of a table with single spaces."""
    assert max(map(len, shown.splitlines())) <= 80
    return [" ".join(line.split()) for line in shown.splitlines()]


def test_pending_tells_people_what_waits_and_why(tlsrpt: Command, filled: engine.Store) -> None:
    """In 80 columns, markup and terminal controls of strangers shown literally."""
    done = tlsrpt("pending", COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    lines = rows_of(done.stdout)
    assert "2026-11-23 closed.example 3 2 closed" in lines
    assert "2026-11-23 open.example 1,234 0 open" in lines
    assert any(line.startswith("2026-11-23 skipped.example 3 2 skipped [red]ftp:") for line in lines)
    at = lines.index("2026-11-24 1 again.example 2026-11-23")
    assert lines[at + 1 : at + 4] == ["03:04 again@s.example", "https://again.example/r", "450 4.2.1 [red]greylisted"]
    at = lines.index("2026-11-24 0 due.example 2026-11-23")
    assert lines[at + 1 : at + 3] == ["03:04 due@s.example", "mailto:r@due.example"]
    assert r"\x1b[31m.example/é" in done.stdout
    assert "\x1b" not in done.stdout


def test_history_tells_people_what_was_answered(tlsrpt: Command, filled: engine.Store) -> None:
    """In 80 columns: when, what, to whom, with what answer."""
    done = tlsrpt("history")
    assert (done.returncode, done.stderr) == (0, "")
    lines = rows_of(done.stdout)
    at = lines.index("2026-11-24 refused 1 refused.example 2026-11-23")
    assert lines[at + 1 : at + 4] == ["03:04 refused@s.example", "mailto:r@refused.example", "550 5.1.1 nobody"]
    assert "2026-11-24 delivered 1 delivered.example 2026-11-23" in lines


def test_a_report_id_can_be_copied_from_a_table_of_80_columns(tlsrpt: Command, store: engine.Store) -> None:
    """``tlsrpt retry`` wants it whole, however long rua and answer are."""
    report_id = "20261123.0123456789abcdef@sender-of-mail.example"
    answer = outcome.Again(DUE, "450 4.2.1 " + 40 * "greylisted ")
    put_delivery(store, report_id, f"https://{'long.' * 20}example/tlsrpt", answer)
    assert report_id in tlsrpt("pending").stdout


EMPTY = [("pending", "Nothing is pending.\n"), ("history", "Nothing was sent yet.\n")]


@pytest.mark.parametrize(("command", "text"), EMPTY)
def test_an_empty_listing_says_so(tlsrpt: Command, tmp_path: pathlib.Path, command: str, text: str) -> None:
    """On the first day there is nothing; that is no failure. The store is made where it is missing."""
    assert tlsrpt(command).stdout == text
    assert all(rows == [] for rows in json.loads(tlsrpt(command, "--json").stdout).values())
    assert (tmp_path / "tlsrpt.db").exists()


def test_a_long_table_is_cut_and_says_by_how_much(
    tlsrpt: Command, store: engine.Store, add: Callable[..., None]
) -> None:
    """The oldest domain-days, the next deliveries, the newest history; ``--json`` has all."""
    for place in range(inspecting.MAX_ROWS + 2):
        add(DAY, f"d{place:04}.example", successful=1)
        put_delivery(store, f"{place:04}@s.example", "mailto:r@a.example", DELIVERED)
    put_delivery(store, "due@s.example", "mailto:r@a.example", None)
    pending, history = tlsrpt("pending").stdout, tlsrpt("history").stdout
    assert "There are more rows: --json shows all." in pending
    assert "d0000.example" in pending
    assert f"d{inspecting.MAX_ROWS:04}.example" not in pending
    assert "due@s.example" in pending
    assert "There are older rows: --json shows all." in history
    assert "0001@s.example" not in history
    assert f"{inspecting.MAX_ROWS + 1:04}@s.example" in history
    assert len(json.loads(tlsrpt("pending", "--json").stdout)["domain_days"]) == inspecting.MAX_ROWS + 2
    assert len(json.loads(tlsrpt("history", "--json").stdout)["deliveries"]) == inspecting.MAX_ROWS + 2


def test_a_terminal_without_unicode_gets_escapes(tlsrpt: Command, filled: engine.Store) -> None:
    """Neither a traceback nor broken JSON."""
    done = tlsrpt("pending", "skipped.example", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\xe9" in done.stdout
    (row,) = json.loads(tlsrpt("pending", "skipped.example", "--json", PYTHONIOENCODING="ascii").stdout)["domain_days"]
    assert row["reason"].endswith("é")


def test_pending_counts_what_the_journal_holds(tlsrpt: Command, tmp_path: pathlib.Path) -> None:
    """What was received a moment ago is shown, whether or not the tally runs; twice it is not counted."""
    folder = tmp_path / "journal"
    folder.mkdir()
    (folder / "2026-11-23.00000000001.ndjson").write_text('{"d":"a.example","policies":[{"policy-type":9,"f":0}]}\n')
    for _ in range(2):
        (row,) = json.loads(tlsrpt("pending", "--json").stdout)["domain_days"]
        assert (row["domain"], row["successful"], row["state"]) == ("a.example", 1, "open")


def test_what_goes_wrong_on_the_way_is_told_on_standard_error_only(tlsrpt: Command, tmp_path: pathlib.Path) -> None:
    """Malformed datagrams, and a segment that cannot be read: scripts still get their JSON, people the cure."""
    writer = journal.Writer(tmp_path / "journal", DUE.timestamp())
    writer.append(b'nonsense\n{"d":"a.example","policies":[{"policy-type":9,"t":0,"f":0}]}\n', 2, DUE.timestamp())
    writer.close()
    (tmp_path / "journal" / "2026-11-20.00000000000.ndjson").mkdir()
    shown = tlsrpt("pending", "--json")
    assert [row["domain"] for row in json.loads(shown.stdout)["domain_days"]] == ["a.example"]
    assert shown.returncode == 1
    assert "malformed datagrams" in shown.stderr
    assert "1 session results could not be read: not-json" in tlsrpt("pending").stdout
    assert "make it readable for this user, or move it away" in shown.stderr


def test_late_sessions_are_listed_beside_a_report(store: engine.Store, tlsrpt: Command) -> None:
    """Another closing of the same domain-day is a row of its own."""
    datagram = b'{"d":"a.example","policies":[{"policy-type":9,"f":0}]}'
    for _ in range(2):
        stored.count(store, DAY, [datagram])
        with store.write() as connection:
            closings.close(connection, DAY)
    rows = json.loads(tlsrpt("pending", "--json").stdout)["domain_days"]
    assert [(row["domain"], row["successful"]) for row in rows] == [("a.example", 1)] * 2


def test_hosts_that_yesterday_is_without_are_named(tlsrpt: Command, store: engine.Store, yesterday: dt.date) -> None:
    """In words, what becomes of it; in JSON, how far it was tallied. One that was stopped in order is none."""
    noon = dt.datetime.combine(yesterday, dt.time(12), dt.UTC)

    def note(connection: engine.Connection) -> None:
        recorders.note(connection, "journal 1", "mx1.[red]example", noon)
        recorders.note(connection, "journal 2", "mx2.example", noon, ended=True)
        recorders.note(connection, "journal 3", "mx3.example", noon + dt.timedelta(days=1))

    store.change(note)
    assert json.loads(tlsrpt("pending", "--json").stdout)["hosts_missing"] == [
        {"day": yesterday.isoformat(), "host": "mx1.[red]example", "tallied": f"{yesterday}T12:00:00Z"}
    ]
    told = "mx1.[red]example, which was tallied up to 12:00 UTC only"
    for wait, expected in (
        (0, f"{yesterday} was closed without {told}"),
        (86400, f"{yesterday} waits until 00:00 UTC for {told}"),
    ):
        shown = tlsrpt("pending", TLSRPT_REPORT_WAIT_FOR_HOSTS=str(wait)).stdout
        assert " ".join(shown.split()).endswith(expected)
