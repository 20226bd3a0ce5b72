"""Postfix 3.10 with tlsrpt, as conf/postfix/main-3.10.cf configures it: real mail to every scenario, real reports.

Two runs, with ``smtp_tls_connection_reuse`` off and on. In each all messages are sent, the day is closed, and the
reports travel through that same Postfix and by HTTPS to where they are compared, field by field, with what must be in
them.
"""

import asyncio
import dataclasses
import datetime as dt
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from policy import names
from sender import report
from sender.demo import receivers, verify
from tests.lab import expected, postfix, product, roots, rows, scenarios, sites
from tests.lab.conftest import Laboratory, Line

SNIPPET = product.CHECKOUT / "conf/postfix/main-3.10.cf"

SETTINGS = {
    "smtp_bind_address": sites.SENDER,
    "smtp_bind_address6": sites.SENDER_6,
    "smtp_connection_cache_destinations": ", ".join(row.domain for row in rows.ALL if row.messages > 1),
    "smtp_connection_cache_time_limit": "30s",
}
"""Only for the laboratory: whose connections are kept for the next message when connections are used again."""

JOURNALED_WITHIN = 10.0
"""Seconds from a TLS session to its line in the journal."""

_ANSWERING = {
    scenarios.PolicyHost.GOOD,
    scenarios.PolicyHost.MISSING,
    scenarios.PolicyHost.BROKEN,
    scenarios.PolicyHost.REDIRECTS,
    scenarios.PolicyHost.NO_MX,
    scenarios.PolicyHost.HTML,
}
"""Those that get as far as a request."""

ROWS = [pytest.param(row, id=row.id) for row in rows.ALL]
REUSE = [pytest.param(False, id="new-connections"), pytest.param(True, id="reused-connections")]


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What came of all messages; made by :func:`run`."""

    reuse: bool
    day: dt.date
    sites: Mapping[str, sites.Site]
    """By id of the scenario."""
    deliveries: Mapping[str, list[postfix.Delivery]]
    """The last attempt at each recipient, by id of the scenario."""
    handshakes: list[postfix.Handshake]
    log: list[str]
    journal: list[str]
    """What was recorded before the day was closed."""
    mails: Mapping[str, list[bytes]]
    """Reports by mail, by the address they went to."""
    posts: Mapping[str, list[receivers.Request]]
    """Reports by HTTPS, by path."""
    mail_checks: list[verify.Verified]
    post_checks: list[verify.Verified]
    history: list[dict[str, Any]]
    policy_requests: tuple[str, ...]
    """Policy hosts that were asked, each as often as it was."""
    exit_code: int
    again: str
    """What a second run of the daily job said."""


@pytest.fixture(scope="module", params=REUSE)
def run(request: pytest.FixtureRequest, laboratory: Laboratory) -> Iterator[Run]:
    """Send to every scenario, close the day, deliver the reports."""
    reuse = bool(request.param)
    _stay_clear_of_midnight()
    laboratory.world.forget()
    folder = laboratory.folder / ("reused" if reuse else "new")
    folder.mkdir()
    root = roots.copy(laboratory.root, folder / "root")
    queue = postfix.prepare(root)
    settings = {**SETTINGS, "smtp_tls_connection_reuse": "yes" if reuse else "no"}
    with (
        product.serving(folder, queue, laboratory.nameserver, laboratory.authority, laboratory.key) as tlsrpt,
        postfix.running(root, SNIPPET, laboratory.authority.ca_pem, settings=settings) as server,
    ):
        yield _run(laboratory, tlsrpt, server, reuse=reuse)


def _stay_clear_of_midnight() -> None:
    """Wait for the next day where the run would go over midnight UTC: a report is about one day."""
    now = dt.datetime.now(dt.UTC)
    midnight = dt.datetime.combine(now.date() + dt.timedelta(days=1), dt.time(), dt.UTC)
    left = (midnight - now).total_seconds()
    if left < 2 * postfix.PATIENCE:
        time.sleep(left + 1)


def _run(laboratory: Laboratory, tlsrpt: product.Tlsrpt, server: postfix.Postfix, *, reuse: bool) -> Run:
    day = dt.datetime.now(dt.UTC).date()
    queued = _send(laboratory, server)
    journal = _recorded(laboratory, tlsrpt, reuse=reuse)
    deliveries = server.deliveries()
    handshakes = server.handshakes()
    done = tlsrpt.run("report", "--day", "today", "--now")
    assert done.returncode in {0, 1}, done.stderr
    _receive(laboratory, server, reuse=reuse)
    boxes = [laboratory.world.mail, *laboratory.world.mtas.values()]
    reports = [mail for box in boxes for mail in box.mailbox.messages if mail.sender.startswith("noreply-tls-reports@")]
    requests = list(laboratory.world.https.requests)
    mails: dict[str, list[bytes]] = {}
    for mail in reports:
        mails.setdefault(mail.recipients[0], []).append(mail.content)
    posts: dict[str, list[receivers.Request]] = {}
    for post in requests:
        posts.setdefault(post.path, []).append(post)
    return Run(
        reuse=reuse,
        day=day,
        sites={site.scenario.id: site for site in laboratory.sites},
        deliveries={
            id_: list({one.recipient: one for one in deliveries if one.queue_id in queue_ids}.values())
            for id_, queue_ids in queued.items()
        },
        handshakes=handshakes,
        log=server.log(),
        journal=journal,
        mails=mails,
        posts=posts,
        mail_checks=[asyncio.run(verify.mail(mail.content, laboratory.nameserver)) for mail in reports],
        post_checks=[verify.post(post) for post in requests],
        history=json.loads(tlsrpt.run("history", "--json").stdout)["deliveries"],
        policy_requests=tuple(laboratory.world.policy_requests),
        exit_code=done.returncode,
        again=tlsrpt.run("report", "--day", "today", "--now").stdout,
    )


def _send(laboratory: Laboratory, server: postfix.Postfix) -> dict[str, list[str]]:
    """Send all messages, the second to a domain after the first was delivered; return their queue ids."""
    queued: dict[str, list[str]] = {}
    for turn in range(max(row.messages for row in rows.ALL)):
        counts: dict[str, int] = {}
        for site in laboratory.sites:
            row = site.scenario
            if turn < row.messages:
                queue_id = server.send([f"u{number}@{row.domain}" for number in range(row.recipients)])
                queued.setdefault(row.id, []).append(queue_id)
                counts[queue_id] = row.recipients
        server.settle(counts)
    return queued


def _recorded(laboratory: Laboratory, tlsrpt: product.Tlsrpt, *, reuse: bool) -> list[str]:
    """Wait until as much was recorded as must be, as long as that may take; return what was."""
    wanted = sum(expected.sessions(site, reuse=reuse) for site in laboratory.sites)
    deadline = time.monotonic() + JOURNALED_WITHIN
    while True:
        paths = (tlsrpt.folder / "journal").glob("2*.ndjson")
        lines = [line for path in paths for line in path.read_text().splitlines()]
        if len(lines) >= wanted or time.monotonic() > deadline:
            return lines
        time.sleep(postfix.GLANCE)


def _receive(laboratory: Laboratory, server: postfix.Postfix, *, reuse: bool) -> None:
    """Wait until as many reports by mail went out as must."""
    operators = expected.operators(laboratory.sites, reuse=reuse)
    by_mail = [site for site in laboratory.sites if expected.wanted(site) and site.scenario.rua in expected.BY_MAIL]

    def received() -> bool:
        return len(_report_deliveries(server)) >= len(by_mail) + len(operators)

    server.wait(received)


def _report_deliveries(server: postfix.Postfix) -> list[postfix.Delivery]:
    ours = {line.split(": ")[1] for line in server.log() if "from=<noreply-tls-reports@" in line}
    return [one for one in server.deliveries() if one.queue_id in ours]


def _documents(run: Run, site: sites.Site) -> list[dict[str, Any]]:
    """Return every report about a domain, wherever it arrived."""
    id_ = site.scenario.id
    by_mail = [one for mail in run.mails.get(site.mailbox, ()) if (one := _unpacked(run, mail))]
    by_post = [json.loads(report.unpack(post.body)) for post in run.posts.get(f"{sites.COLLECTOR_PATH}/{id_}", ())]
    return [*by_mail, *by_post]


def _unpacked(run: Run, mail: bytes) -> dict[str, Any]:
    document = asyncio.run(verify.mail(mail, "127.0.0.1:53")).document
    assert document is not None
    unpacked: dict[str, Any] = json.loads(document)
    return unpacked


@pytest.mark.parametrize("row", ROWS)
def test_mail_is_sent_deferred_or_bounced_as_its_policy_demands(run: Run, row: scenarios.Scenario) -> None:
    """Each recipient's last line in the log has the status that the scenario asks for."""
    assert [one.status for one in run.deliveries[row.id]] == [row.mail] * row.recipients


@pytest.mark.parametrize("row", ROWS)
def test_sessions_are_verified_where_they_must_be(run: Run, row: scenarios.Scenario) -> None:
    """The log has the word of each TLS session that was set up: how far the certificate was believed."""
    site = run.sites[row.id]
    seen = [one.word for host in site.hosts for one in run.handshakes if one.address == host.address]
    assert list(dict.fromkeys(seen)) == row.tls.split()


@pytest.mark.parametrize("row", ROWS)
def test_report_says_what_happened(run: Run, row: scenarios.Scenario, tell: Callable[[Line], None]) -> None:
    """The report is, field by field, what must be in it; where none must be, there is none."""
    site = run.sites[row.id]
    documents = _documents(run, site)
    said = documents[0]["policies"] if documents else []
    server = "Postfix 3.10, reuse" if run.reuse else "Postfix 3.10"
    tell((server, row.id, _did(run, row), expected.line(said)))
    if not expected.wanted(site):
        assert documents == []
        return
    assert len(documents) == (2 if row.rua is scenarios.Rua.BOTH else 1)
    for document in documents:
        assert expected.in_order(document["policies"]) == expected.in_order(expected.policies(site, reuse=run.reuse))


def _did(run: Run, row: scenarios.Scenario) -> str:
    return "; ".join(dict.fromkeys(f"{one.status} ({one.text[:60]})" for one in run.deliveries[row.id]))


@pytest.mark.parametrize("row", ROWS)
def test_report_names_sender_and_day(run: Run, row: scenarios.Scenario) -> None:
    """What is the same in all reports of a day."""
    for document in _documents(run, run.sites[row.id]):
        assert document["organization-name"] == "Sender Example Inc."
        assert document["contact-info"] == f"tls-reports@{sites.ORGANIZATION}"
        assert document["date-range"] == {
            "start-datetime": f"{run.day}T00:00:00Z",
            "end-datetime": f"{run.day}T23:59:59Z",
        }
        assert document["report-id"].endswith(f"@{sites.ORGANIZATION}")
        assert set(document) == {"organization-name", "contact-info", "date-range", "report-id", "policies"}


def test_operator_of_an_mx_host_gets_a_report_about_his_tlsa_records(run: Run) -> None:
    """An MX host with a TLSRPT record of its own is told of all sessions by its TLSA records (RFC 8460 section 1.1)."""
    hosts = {host.canonical: host for site in run.sites.values() for host in site.hosts if host.host.record}
    wanted = expected.operators(run.sites.values(), reuse=run.reuse)
    assert set(wanted) == set(hosts) != set()
    for name, policies in wanted.items():
        (mail,) = run.mails[sites.host_mailbox(hosts[name])]
        assert _unpacked(run, mail)["policies"] == policies


def test_nothing_else_was_reported(run: Run) -> None:
    """There are as many reports as there must be, and each report-id occurs for one domain only."""
    reported = [site for site in run.sites.values() if expected.wanted(site)]
    by_mail = [site for site in reported if site.scenario.rua in expected.BY_MAIL]
    by_https = [site for site in reported if site.scenario.rua in expected.BY_HTTPS]
    operators = expected.operators(run.sites.values(), reuse=run.reuse)
    assert sum(map(len, run.mails.values())) == len(by_mail) + len(operators)
    assert sum(map(len, run.posts.values())) == len(by_https)
    rows = run.history
    domains = {row["report_id"]: row["domain"] for row in rows}
    assert len(set(domains.values())) == len(domains) == len(reported) + len(operators)


def test_nothing_was_recorded_that_did_not_happen(run: Run) -> None:
    """The journal has a line for each session that must be recorded, and no other."""
    seen: dict[str, int] = {}
    for line in run.journal:
        domain = names.a_label(json.loads(line)["d"])
        seen[domain] = seen.get(domain, 0) + 1
    wanted = {site.domain: expected.sessions(site, reuse=run.reuse) for site in run.sites.values()}
    wanted["plain-no-rua.example"] = 1  # a record without rua is a record to Postfix
    assert seen == {domain: count for domain, count in wanted.items() if count}


def test_each_policy_host_was_asked_once(run: Run) -> None:
    """A policy that came, and one that cannot be had, is not asked for again so soon (RFC 8461 section 3.3)."""
    answering = {
        site.policy_host
        for site in run.sites.values()
        if site.scenario.sts is not None
        and site.scenario.sts.host in _ANSWERING
        and len(site.scenario.sts.records) == 1
    }
    assert sorted(run.policy_requests) == sorted(answering - {"mta-sts.sts-bad-record.example"})


def test_receivers_are_satisfied(run: Run) -> None:
    """Every report that arrived passes every check: DKIM, MIME, gzip, JSON Schema, file name, subject."""
    failed = [
        (check.name, check.text)
        for one in (*run.mail_checks, *run.post_checks)
        for check in one.checks
        if not check.passed
    ]
    assert failed == []
    assert run.mail_checks
    assert run.post_checks


def test_daily_job_says_so(run: Run) -> None:
    """All deliveries were accepted: exit code 0, and the history has each with its answer."""
    assert run.exit_code == 0
    assert {row["state"] for row in run.history} == {"delivered"}


def test_reports_make_no_reports(run: Run) -> None:
    """The sessions that report mails made are not reported: a second run of the daily job sends nothing."""
    lines = [line.split() for line in run.again.splitlines()]
    assert ["reports", "0"] in lines
    assert ["delivered", "0"] in lines


def test_log_has_no_word_about_lost_events(run: Run) -> None:
    """Postfix handed everything over."""
    assert [line for line in run.log if "Could not report TLS handshake result" in line] == []
