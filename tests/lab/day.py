"""A day at a sending server: mail to every scenario, the day closed, the reports where they arrived.

:func:`spend` does all of that with whichever server, :class:`Day` is what came of it. What must come of it is
``tests.lab.expected``'s business.
"""

import asyncio
import collections
import concurrent.futures
import dataclasses
import datetime as dt
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from policy import names
from sender import report
from sender.demo import mailbox, receivers, verify
from tests.lab import expected, mta, product, scenarios, sites, world
from tests.lab.conftest import Laboratory

JOURNALED_WITHIN = 10.0
"""Seconds from a TLS session to its line in the journal."""

AT_ONCE = 8
"""Messages handed over at once."""

_ANSWERING = {
    scenarios.PolicyHost.GOOD,
    scenarios.PolicyHost.MISSING,
    scenarios.PolicyHost.BROKEN,
    scenarios.PolicyHost.REDIRECTS,
    scenarios.PolicyHost.NO_MX,
    scenarios.PolicyHost.HTML,
}
"""Policy hosts that get as far as a request."""


@dataclasses.dataclass(frozen=True, slots=True)
class Day:
    """What came of all messages; made by :func:`spend`."""

    date: dt.date
    sites: Mapping[str, sites.Site]
    """By id of the scenario."""
    reuse: bool
    """Whether connections are used again."""
    deliveries: Mapping[str, list[mta.Delivery]]
    """The last attempt at each recipient, by id of the scenario."""
    log: list[str]
    """Of the server, at the end."""
    handshakes: list[mta.Handshake]
    """Before the day was closed."""
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

    def documents(self, row: scenarios.Scenario) -> list[dict[str, Any]]:
        """Return every report about a scenario's domain, wherever it arrived."""
        by_mail = [unpacked(mail) for mail in self.mails.get(self.sites[row.id].mailbox, ())]
        posts = self.posts.get(f"{sites.COLLECTOR_PATH}/{row.id}", ())
        return [*by_mail, *(json.loads(report.unpack(post.body)) for post in posts)]

    def policies(self, row: scenarios.Scenario) -> list[list[Mapping[str, Any]]]:
        """Return the policies of every report about a scenario's domain."""
        return [expected.in_order(document["policies"]) for document in self.documents(row)]

    def wanted(self, row: scenarios.Scenario) -> list[list[Mapping[str, Any]]]:
        """Return what :meth:`policies` must be."""
        site = self.sites[row.id]
        return [expected.in_order(expected.policies(site, reuse=self.reuse))] * expected.copies(site)

    def did(self, row: scenarios.Scenario) -> str:
        """Tell in a few words what became of the messages of a scenario."""
        return "; ".join(dict.fromkeys(f"{one.status} ({one.text[:60]})" for one in self.deliveries[row.id]))

    def statuses(self, row: scenarios.Scenario) -> list[str]:
        """Return what became of each recipient of a scenario at last."""
        return [one.status for one in self.deliveries[row.id]]

    def words(self, row: scenarios.Scenario) -> list[str]:
        """Return the words of the log about certificates of a scenario's hosts, each once."""
        hosts = self.sites[row.id].hosts
        return list(dict.fromkeys(one.word for host in hosts for one in self.handshakes if one.address == host.address))

    def reports(self) -> tuple[int, int, int]:
        """Return how many reports there were: by mail, by HTTPS, and domains (each with a report-id of its own)."""
        domains = {row["report_id"]: row["domain"] for row in self.history}
        assert len(set(domains.values())) == len(domains)
        return sum(map(len, self.mails.values())), sum(map(len, self.posts.values())), len(domains)

    def failed_checks(self) -> list[tuple[str, str]]:
        """Return what a receiver finds wrong with any of the reports."""
        checks = (check for one in (*self.mail_checks, *self.post_checks) for check in one.checks)
        return [(check.name, check.text) for check in checks if not check.passed]

    def operators(self) -> dict[str, list[Mapping[str, Any]]]:
        """Return the policies of the reports that operators of MX hosts got, by MX host, each one report."""
        hosts = [host for site in self.sites.values() for host in site.hosts if host.host.record]
        mails = {host.canonical: self.mails[sites.host_mailbox(host)] for host in hosts}
        assert {len(one) for one in mails.values()} == {1}
        return {name: unpacked(mail)["policies"] for name, (mail,) in mails.items()}

    def recorded(self) -> collections.Counter[str]:
        """Return how many sessions were recorded, by domain."""
        return by_domain(self.journal)

    def asked_once(self) -> list[str]:
        """Return the policy hosts that must have been asked, each once."""
        return sorted(
            site.policy_host
            for site in self.sites.values()
            if site.scenario.sts is not None
            and site.scenario.sts.host in _ANSWERING
            and len(site.scenario.sts.records) == 1
            and site.policy_host != "mta-sts.sts-bad-record.example"
        )


def by_domain(journal: Iterable[str]) -> collections.Counter[str]:
    """Return how many sessions were recorded, by domain, from lines of the recorder's journal."""
    return collections.Counter(names.a_label(json.loads(line)["d"]) for line in journal)


def unpacked(mail: bytes) -> dict[str, Any]:
    """Return the report in a mail."""
    document = asyncio.run(verify.mail(mail, "127.0.0.1:53")).document
    assert document is not None
    found: dict[str, Any] = json.loads(document)
    return found


def stay_clear_of_midnight() -> None:
    """Wait for the next day where the run would go over midnight UTC: a report is about one day."""
    now = dt.datetime.now(dt.UTC)
    midnight = dt.datetime.combine(now.date() + dt.timedelta(days=1), dt.time(), dt.UTC)
    left = (midnight - now).total_seconds()
    if left < 2 * mta.PATIENCE:
        time.sleep(left + 1)


def spend(
    laboratory: Laboratory,
    tlsrpt: product.Tlsrpt,
    server: mta.Server,
    planned: Sequence[sites.Site],
    *,
    sessions: int,
    reuse: bool,
) -> Day:
    """Send to every scenario, close the day, have the reports delivered.

    Args:
        laboratory: in which both run; what was before is forgotten.
        tlsrpt: what records and reports.
        server: what sends, the reports by mail as well.
        planned: all scenarios in their places, as they are with this server.
        sessions: how many must be recorded.
        reuse: whether connections are used again.
    """
    laboratory.world.forget()
    date = dt.datetime.now(dt.UTC).date()
    queued = send(planned, server)
    journal = recorded(tlsrpt, sessions)
    deliveries, handshakes = server.deliveries(), server.handshakes()
    done = tlsrpt.run("report", "--day", "today", "--now")
    assert done.returncode in {0, 1}, done.stderr
    try:
        mails = _receive(laboratory.world, server, wanted_reports(planned, reuse=reuse)[0])
    except AssertionError as error:
        error.add_note(f"{done.stdout}\n{[one for one in server.deliveries() if one.status != 'sent']}")
        raise
    posts = list(laboratory.world.https.requests)
    return Day(
        date=date,
        sites={site.scenario.id: site for site in planned},
        reuse=reuse,
        deliveries={
            id_: list({one.recipient: one for one in deliveries if one.queue_id in queue_ids}.values())
            for id_, queue_ids in queued.items()
        },
        log=server.log(),
        handshakes=handshakes,
        journal=journal,
        mails={to: [mail.content for mail in mails if mail.recipients[0] == to] for to in _distinct(mails)},
        posts={path: [post for post in posts if post.path == path] for path in {post.path for post in posts}},
        mail_checks=[asyncio.run(verify.mail(mail.content, laboratory.nameserver)) for mail in mails],
        post_checks=[verify.post(post) for post in posts],
        history=json.loads(tlsrpt.run("history", "--json").stdout)["deliveries"],
        policy_requests=tuple(laboratory.world.policy_requests),
        exit_code=done.returncode,
        again=tlsrpt.run("report", "--day", "today", "--now").stdout,
    )


def _distinct(mails: Iterable[mailbox.Message]) -> set[str]:
    return {mail.recipients[0] for mail in mails}


def send(
    planned: Sequence[sites.Site], server: mta.Server, after_each: Callable[[int], None] = lambda _: None
) -> dict[str, list[str]]:
    """Send all messages, the second to a domain after the first was tried.

    Args:
        planned: all scenarios in their places.
        server: what sends.
        after_each: called for each message that was handed over, with how many these are; meanwhile hardly any
            (:data:`AT_ONCE`) are handed over.

    Returns:
        Queue ids by id of the scenario.
    """
    queued: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for turn in range(max(site.scenario.messages for site in planned)):
        rows = [site.scenario for site in planned if turn < site.scenario.messages]
        for row, queue_id in _hand_over(rows, server):
            queued.setdefault(row.id, []).append(queue_id)
            counts[queue_id] = row.recipients
            after_each(len(counts))
        if not server.queues:
            server.settle(counts)
    if server.queues:
        server.flush()
        server.settle(counts)
    return queued


def _hand_over(rows: Sequence[scenarios.Scenario], server: mta.Server) -> Iterator[tuple[scenarios.Scenario, str]]:
    """Send a message to each, some at a time; yield the queue ids."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            yield from zip(some, pool.map(lambda row: server.send(_recipients(row)), some), strict=True)


def _recipients(row: scenarios.Scenario) -> list[str]:
    return [f"u{number}@{row.domain}" for number in range(row.recipients)]


def recorded(tlsrpt: product.Tlsrpt, sessions: int) -> list[str]:
    """Wait until as much was recorded as must be, as long as that may take; return what was."""
    deadline = time.monotonic() + JOURNALED_WITHIN
    while len(lines := tlsrpt.journal()) < sessions and time.monotonic() < deadline:
        time.sleep(mta.GLANCE)
    return lines


def wanted_reports(planned: Iterable[sites.Site], *, reuse: bool) -> tuple[int, int, int]:
    """Return how many reports there must be, as :meth:`Day.reports` does."""
    reported = [site for site in planned if expected.wanted(site)]
    operators = len(expected.operators(reported, reuse=reuse))
    by_mail, by_https = sum(map(expected.by_mail, reported)), sum(map(expected.by_https, reported))
    return by_mail + operators, by_https, len(reported) + operators


def _receive(receiving: world.World, server: mta.Server, wanted: int) -> list[mailbox.Message]:
    """Wait until as many reports by mail came in as must; return them."""

    def received() -> list[mailbox.Message]:
        boxes = [receiving.mail.mailbox, *(one.mailbox for one in receiving.mtas.values())]
        return [mail for box in boxes for mail in box.messages if mail.sender.startswith("noreply-tls-reports@")]

    server.flush()
    server.wait(lambda: len(received()) >= wanted)
    return received()
