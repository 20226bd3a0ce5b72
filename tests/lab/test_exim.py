"""Exim 4.96 with tlsrpt, as conf/exim and docs/exim.md configure Debian's: real mail to every scenario, real reports.

Two runs. In one Exim delivers each message at once; in the other all wait, and a queue run in two stages (``-qq``)
passes connections on from message to message. In each the day is closed, and the reports travel through that same Exim
and by HTTPS to where they are compared, field by field, with what must be in them: what is with Postfix, but for what
``tests.lab.eximrows`` lists.
"""

import pathlib
from collections.abc import Callable, Iterator

import pytest

from tests.lab import day, exim, eximrows, expected, roots, rows, scenarios
from tests.lab.conftest import Laboratory, Line

LISTEN = "127.0.0.5"

ROWS = [pytest.param(row, id=row.id) for row in eximrows.ALL]
REUSE = [pytest.param(False, id="at-once"), pytest.param(True, id="queue-run")]


@pytest.fixture(scope="module", params=REUSE)
def run(request: pytest.FixtureRequest, exim_496: pathlib.Path, laboratory: Laboratory) -> Iterator[day.Day]:
    """Send to every scenario, close the day, deliver the reports."""
    reuse = bool(request.param)
    day.stay_clear_of_midnight()
    folder = laboratory.folder / ("exim-queue" if reuse else "exim")
    folder.mkdir()
    root = roots.copy(exim_496, folder / "root")
    exim.prepare(root)
    planned = [eximrows.site(site) for site in laboratory.sites]
    with (
        laboratory.serving(folder, root, more=exim.settings(root, LISTEN)) as tlsrpt,
        exim.running(
            root,
            laboratory.authority.ca_pem,
            listen=LISTEN,
            options=[exim.QUEUE_ONLY] if reuse else [],
        ) as server,
    ):
        yield day.spend(
            laboratory,
            tlsrpt,
            server,
            planned,
            reuse=reuse,
            sessions=expected.all_sessions(planned, reuse=reuse).total(),
        )


@pytest.mark.parametrize("id_", eximrows.DIFFERENCES)
def test_a_listed_difference_is_one(id_: str) -> None:
    """What the list says is not what Postfix does anyway, and is about a scenario that there is."""
    (row,) = [row for row in rows.ALL if row.id == id_]
    assert eximrows.DIFFERENCES[id_].vain(row) == []


@pytest.mark.parametrize("row", ROWS)
def test_mail_is_sent_deferred_or_bounced(run: day.Day, row: scenarios.Scenario) -> None:
    """Each recipient's last line in the log has the status that the scenario has with Exim."""
    assert run.statuses(row) == [row.mail] * row.recipients


@pytest.mark.parametrize("row", ROWS)
def test_report_says_what_happened(run: day.Day, row: scenarios.Scenario, tell: Callable[[Line], None]) -> None:
    """The report is, field by field, what must be in it; where none must be, there is none."""
    said = next(iter(run.policies(row)), [])
    tell(("Exim 4.96, -qq" if run.reuse else "Exim 4.96", row.id, run.did(row), expected.line(said)))
    assert run.policies(row) == run.wanted(row)


def test_operator_of_an_mx_host_gets_a_report(run: day.Day) -> None:
    """An MX host with a TLSRPT record of its own is told of all sessions under DANE (RFC 8460 section 1.1)."""
    assert run.operators() == expected.operators(run.sites.values(), reuse=run.reuse) != {}


def test_nothing_else_was_reported(run: day.Day) -> None:
    """There are as many reports as there must be."""
    assert run.reports() == day.wanted_reports(run.sites.values(), reuse=run.reuse)


def test_nothing_was_recorded_that_did_not_happen(run: day.Day) -> None:
    """The journal has a line for each session, with domains that want no report, too, and no other."""
    assert run.recorded() == expected.all_sessions(run.sites.values(), reuse=run.reuse)


def test_each_policy_host_was_asked_once(run: day.Day) -> None:
    """The policy is asked for after the delivery; what came, and what cannot be had, is not asked for again."""
    assert sorted(run.policy_requests) == run.asked_once()


def test_receivers_are_satisfied(run: day.Day) -> None:
    """Every report that arrived passes every check, and all were accepted."""
    assert run.failed_checks() == []
    assert run.mails
    assert run.posts
    assert run.exit_code == 0
    assert {row["state"] for row in run.history} == {"delivered"}


def test_reports_make_no_reports(run: day.Day) -> None:
    """Exim tells of the sessions that report mails made, too; where there are no others, nothing is reported."""
    lines = [line.split() for line in run.again.splitlines()]
    assert ["reports", "0"] in lines
    assert ["delivered", "0"] in lines


def test_exim_has_no_complaint(run: day.Day) -> None:
    """No expansion of the snippet failed, no message was frozen."""
    words = ("expand", "failed to", "frozen", "event_action", "panic")
    assert [line for line in run.log if any(word in line for word in words)] == []
