"""Postfix 3.10 with tlsrpt, as conf/postfix/main-3.10.cf configures it: real mail to every scenario, real reports.

Two runs, with ``smtp_tls_connection_reuse`` off and on. In each all messages are sent, the day is closed, and the
reports travel through that same Postfix and by HTTPS to where they are compared, field by field, with what must be in
them.
"""

from collections.abc import Callable, Iterator

import pytest

from tests.lab import day, expected, postfix, product, roots, rows, scenarios, sites
from tests.lab.conftest import Laboratory, Line

SNIPPET = product.CHECKOUT / "conf/postfix/main-3.10.cf"

ROWS = [pytest.param(row, id=row.id) for row in rows.ALL]
REUSE = [pytest.param(False, id="new-connections"), pytest.param(True, id="reused-connections")]


@pytest.fixture(scope="module", params=REUSE)
def run(request: pytest.FixtureRequest, laboratory: Laboratory) -> Iterator[day.Day]:
    """Send to every scenario, close the day, deliver the reports."""
    reuse = bool(request.param)
    day.stay_clear_of_midnight()
    folder = laboratory.folder / ("reused" if reuse else "new")
    folder.mkdir()
    root = roots.copy(laboratory.root, folder / "root")
    queue = postfix.prepare(root)
    settings = {**postfix.SENDING, "smtp_tls_connection_reuse": "yes" if reuse else "no"}
    with (
        laboratory.serving(folder, queue) as tlsrpt,
        postfix.running(root, SNIPPET, laboratory.authority.ca_pem, settings=settings) as server,
    ):
        yield day.spend(
            laboratory,
            tlsrpt,
            server,
            laboratory.sites,
            reuse=reuse,
            sessions=expected.sessions(laboratory.sites, reuse=reuse).total(),
        )


@pytest.mark.parametrize("row", ROWS)
def test_mail_is_sent_deferred_or_bounced_as_its_policy_demands(run: day.Day, row: scenarios.Scenario) -> None:
    """Each recipient's last line in the log has the status that the scenario asks for."""
    assert run.statuses(row) == [row.mail] * row.recipients


@pytest.mark.parametrize("row", ROWS)
def test_sessions_are_verified_where_they_must_be(run: day.Day, row: scenarios.Scenario) -> None:
    """The log has the word of each TLS session that was set up: how far the certificate was believed."""
    assert run.words(row) == row.tls.split()


@pytest.mark.parametrize("row", ROWS)
def test_report_says_what_happened(run: day.Day, row: scenarios.Scenario, tell: Callable[[Line], None]) -> None:
    """The report is, field by field, what must be in it; where none must be, there is none."""
    said = next(iter(run.policies(row)), [])
    server = "Postfix 3.10, reuse" if run.reuse else "Postfix 3.10"
    tell((server, row.id, run.did(row), expected.line(said)))
    assert run.policies(row) == run.wanted(row)


@pytest.mark.parametrize("row", ROWS)
def test_report_names_sender_and_day(run: day.Day, row: scenarios.Scenario) -> None:
    """What is the same in all reports of a day."""
    for document in run.documents(row):
        assert document["organization-name"] == "Sender Example Inc."
        assert document["contact-info"] == f"tls-reports@{sites.ORGANIZATION}"
        assert document["date-range"] == {
            "start-datetime": f"{run.date}T00:00:00Z",
            "end-datetime": f"{run.date}T23:59:59Z",
        }
        assert document["report-id"].endswith(f"@{sites.ORGANIZATION}")
        assert set(document) == {"organization-name", "contact-info", "date-range", "report-id", "policies"}


def test_operator_of_an_mx_host_gets_a_report_about_his_tlsa_records(run: day.Day) -> None:
    """An MX host with a TLSRPT record of its own is told of all sessions by its TLSA records (RFC 8460 section 1.1)."""
    assert run.operators() == expected.operators(run.sites.values(), reuse=run.reuse) != {}


def test_nothing_else_was_reported(run: day.Day) -> None:
    """There are as many reports as there must be, and each report-id occurs for one domain only."""
    assert run.reports() == day.wanted_reports(run.sites.values(), reuse=run.reuse)


def test_nothing_was_recorded_that_did_not_happen(run: day.Day) -> None:
    """The journal has a line for each session that must be recorded, and no other."""
    assert run.recorded() == expected.sessions(run.sites.values(), reuse=run.reuse)


def test_each_policy_host_was_asked_once(run: day.Day) -> None:
    """A policy that came, and one that cannot be had, is not asked for again so soon (RFC 8461 section 3.3)."""
    assert sorted(run.policy_requests) == run.asked_once()


def test_receivers_are_satisfied(run: day.Day) -> None:
    """Every report that arrived passes every check: DKIM, MIME, gzip, JSON Schema, file name, subject."""
    assert run.failed_checks() == []
    assert run.mails
    assert run.posts


def test_daily_job_says_so(run: day.Day) -> None:
    """All deliveries were accepted: exit code 0, and the history has each with its answer."""
    assert run.exit_code == 0
    assert {row["state"] for row in run.history} == {"delivered"}


def test_reports_make_no_reports(run: day.Day) -> None:
    """The sessions that report mails made are not reported: a second run of the daily job sends nothing."""
    lines = [line.split() for line in run.again.splitlines()]
    assert ["reports", "0"] in lines
    assert ["delivered", "0"] in lines


def test_log_has_no_word_about_lost_events(run: day.Day) -> None:
    """Postfix handed everything over."""
    assert [line for line in run.log if "Could not report TLS handshake result" in line] == []
