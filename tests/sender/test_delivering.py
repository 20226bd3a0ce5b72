"""Reports travel: real mail and HTTPS receivers, every answer they can give, and the next step it leads to."""

import asyncio
import collections
import contextlib
import dataclasses
import datetime as dt
import json
import pathlib
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa

from policy import https, resolver, settings, tlsrpt
from sender import counting, daily, delivering, mail, report
from sender.demo import internet, mailbox, receivers, verify, zone
from sender.store import deliveries, engine, listings, reports, schema
from tests import stored

pytestmark = pytest.mark.both_stores

YESTERDAY = dt.date(2026, 11, 23)
PATIENCE = 0.3
"""Seconds that the courier of these tests waits for an answer."""

Run = Callable[[Callable[[internet.Internet, daily.Daily], Awaitable[None]]], None]
DATAGRAM = b'{"d":"a.example","pr":"v=TLSRPTv1;","policies":[{"policy-type":9,"t":0,"f":0}]}'


def put_report(store: engine.Store, job: daily.Daily, *rua: str) -> str:
    """Put a report with one delivery for each rua into the store; return its id."""
    report_id = report.report_id(job.builder.chance.token(), job.builder.identity)
    record = tlsrpt.parse_record(f"v=TLSRPTv1; rua={','.join(rua)}")
    (domain,) = counting.count(collections.Counter([DATAGRAM])).domains.values()
    by_policy = [report.PolicyCount(policy, 1, 0, ()) for policy in domain.policies]
    document = report.document(job.builder.identity, YESTERDAY, report_id, by_policy)
    with store.write() as connection:
        made = reports.Report(report_id, YESTERDAY, "a.example", job.clock(), 1, 0, report.pack(document))
        reports.add(connection, [made])
        due = [(one, job.clock()) for one in record.rua]
        deliveries.add(connection, [deliveries.Addressed(report_id, YESTERDAY, "a.example", due)])
    return report_id


@contextlib.asynccontextmanager
async def impatient(job: daily.Daily) -> AsyncIterator[daily.Daily]:
    """Yield the job with a courier that does not wait long."""
    timeouts = mail.Timeouts(connect=PATIENCE, command=PATIENCE, data=PATIENCE)
    async with https.Client(job.settings.https, job.builder.dns, timeout=PATIENCE) as client:
        courier = dataclasses.replace(job.courier, client=client, timeouts=timeouts)
        yield dataclasses.replace(job, courier=courier)


async def delivered(job: daily.Daily) -> list[delivering.Attempt]:
    """Deliver all that is due."""
    return [attempt async for attempt in job.deliver()]


def state(store: engine.Store, report_id: str) -> tuple[str, int, dt.datetime | None, str]:
    """Return state, attempts, next attempt and answer of a report's only delivery."""
    with store.read() as connection:
        (one,) = deliveries.of_report(connection, report_id)
    return one.state, one.attempts, one.next_attempt, one.answer or ""


MINUTES = dt.timedelta(minutes=1)
SOON, LATER = 5 * MINUTES, 60 * MINUTES
HTTP = [
    ("200", receivers.Status(200), "delivered", None, "200"),
    ("201", receivers.Status(201), "delivered", None, "201"),
    ("302 is not followed", receivers.Status(302, (("Location", "/other"),)), "due", SOON, "redirect"),
    ("400", receivers.Status(400), "refused", None, "400"),
    ("404", receivers.Status(404), "refused", None, "404"),
    ("429 with Retry-After", receivers.Status(429, (("Retry-After", "3600"),)), "due", LATER, "429"),
    ("503 with Retry-After", receivers.Status(503, (("Retry-After", "3600"),)), "due", LATER, "503"),
    ("500", receivers.Status(500), "due", SOON, "500"),
    ("408", receivers.Status(408), "due", SOON, "408"),
    ("no answer", receivers.Silent(), "due", SOON, "localhost"),
    ("a dropped connection", receivers.Drop(), "due", SOON, "localhost"),
]


@pytest.mark.parametrize(("answer", "ends", "pause", "text"), [row[1:] for row in HTTP], ids=[row[0] for row in HTTP])
def test_each_answer_to_a_post_leads_to_the_right_next_step(
    in_internet: Run,
    store: engine.Store,
    clock: Any,
    answer: receivers.Answer,
    ends: str,
    pause: dt.timedelta | None,
    text: str,
) -> None:
    """Settled is settled; what is deferred is due again after its pause, not earlier, and then succeeds."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        net.zone.put("localhost", zone.A("127.0.0.1"))
        net.https.program("/t", answer)
        report_id = put_report(store, job, f"https://localhost:{net.https.port}/t")
        async with impatient(job) as hasty:
            await check(hasty, report_id)
            assert [request.path for request in net.https.requests] == ["/t"] * (1 if pause is None else 2)

    async def check(job: daily.Daily, report_id: str) -> None:
        assert len(await delivered(job)) == 1
        now, attempts, due, told = state(store, report_id)
        assert (now, attempts) == (ends, 1)
        assert text in told
        if pause is None:
            assert due is None
            return
        assert due is not None
        assert pause <= due - clock.now <= pause * 1.2
        clock.now = due - dt.timedelta(seconds=1)
        assert await delivered(job) == []
        clock.now = due
        assert len(await delivered(job)) == 1
        assert state(store, report_id)[:2] == ("delivered", 2)

    in_internet(scenario)


MAIL = [
    ("250", mailbox.Stage.RCPT, mailbox.Reply(250), "delivered", ""),
    ("421", mailbox.Stage.RCPT, mailbox.Reply(421, "4.3.2 closing"), "due", "421"),
    ("450", mailbox.Stage.RCPT, mailbox.Reply(450, "4.2.1 greylisted"), "due", "450"),
    ("550", mailbox.Stage.RCPT, mailbox.Reply(550, "5.1.1 nobody"), "refused", "550"),
    ("451 to the message", mailbox.Stage.DATA, mailbox.Reply(451, "4.7.1 later"), "due", "451"),
    ("554 to the message", mailbox.Stage.DATA, mailbox.Reply(554, "5.7.1 no"), "refused", "554"),
    ("no reply", mailbox.Stage.RCPT, mailbox.Silent(), "due", ""),
    ("a dropped connection", mailbox.Stage.DATA, mailbox.Drop(), "due", ""),
]


@pytest.mark.parametrize(("stage", "answer", "ends", "text"), [row[1:] for row in MAIL], ids=[row[0] for row in MAIL])
def test_each_answer_to_a_mail_leads_to_the_right_next_step(
    in_internet: Run,
    store: engine.Store,
    clock: Any,
    stage: mailbox.Stage,
    answer: mailbox.Answer,
    ends: str,
    text: str,
) -> None:
    """A refusal ends it; all else is tried again in minutes, with the same Message-ID."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        net.mail.mailbox.program("r@a.example", answer, stage=stage)
        report_id = put_report(store, job, "mailto:r@a.example")
        async with impatient(job) as hasty:
            await check(net, hasty, report_id)

    async def check(net: internet.Internet, job: daily.Daily, report_id: str) -> None:
        assert len(await delivered(job)) == 1
        now, attempts, due, told = state(store, report_id)
        assert (now, attempts) == (ends, 1)
        assert text in told
        if due is not None:
            assert SOON * 0.8 <= due - clock.now <= SOON * 1.2
            clock.now = due
            await delivered(job)
            assert state(store, report_id)[:2] == ("delivered", 2)

    in_internet(scenario)


def test_a_delivery_is_given_up_when_its_time_is_over(in_internet: Run, store: engine.Store, clock: Any) -> None:
    """RFC 8460 section 5.5: up to 24 hours with growing pauses; then history tells the last answer."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        net.mail.mailbox.program("r@a.example", *[mailbox.Reply(450, "4.2.1 greylisted")] * 99)
        report_id = put_report(store, job, "mailto:r@a.example")
        began, pauses = clock.now, []
        while state(store, report_id)[0] == "due":
            await delivered(job)
            due = state(store, report_id)[2]
            if due is not None:
                pauses.append((due - clock.now).total_seconds())
                clock.now = due
        ended, attempts, _, told = state(store, report_id)
        assert ended == "expired"
        assert attempts == len(net.mail.mailbox.recipients) == len(pauses) + 1
        assert "450" in told
        assert dt.timedelta(hours=19) < clock.now - began <= dt.timedelta(hours=24)
        assert pauses[:4] == [300, 600, 1200, 2400]
        assert max(pauses) <= 4 * 3600

    in_internet(scenario)


def test_many_mails_go_through_one_connection(in_internet: Run, store: engine.Store) -> None:
    """A relay is not greeted for each report."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        for number in range(20):
            put_report(store, job, f"mailto:r@a{number}.example")
        assert len(await delivered(job)) == 20
        assert len(net.mail.mailbox.messages) == 20
        assert net.mail.connections == 1

    in_internet(scenario)


def test_a_crash_between_sending_and_noting_sends_the_same_message_again(
    in_internet: Run, store: engine.Store, clock: Any
) -> None:
    """The lease expires, and the receiver knows the report by its Message-ID and Report-ID."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        put_report(store, job, "mailto:r@a.example")
        with store.write() as connection:  # what a process does before it dies
            (one,) = deliveries.claim(connection, clock(), 9)
            made = reports.by_id(connection, [one.report_id])[one.report_id]
        async with mail.Connection(job.courier.relay, "sender.example") as sending:
            composed = delivering.compose(job.courier.identity, job.courier.signer, one, made)
            await sending.send("noreply@sender.example", one.target, composed)
        assert await delivered(job) == []
        clock.now += deliveries.LEASE
        assert len(await delivered(job)) == 1
        first, second = (message.content for message in net.mail.mailbox.messages)
        unsigned = [content.partition(b"\r\nFrom: ")[2] for content in (first, second)]
        assert unsigned[0] == unsigned[1]
        assert b"Message-ID: <" in unsigned[0]

    in_internet(scenario)


def test_rua_that_lead_inside_are_refused(in_internet: Run, store: engine.Store) -> None:
    """Loopback by name or by address, unless https.allow_private says otherwise; nothing is sent."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        net.zone.put("inside.example", zone.A("127.0.0.1"))
        strict = settings.Https(ca_file=str(net.ca_file))
        uris = [f"https://{host}:{net.https.port}/t" for host in ("inside.example", "127.0.0.1")]
        report_ids = [put_report(store, job, uri) for uri in uris]
        async with https.Client(strict, resolver.Resolver([net.nameserver])) as client:
            await delivered(dataclasses.replace(job, courier=dataclasses.replace(job.courier, client=client)))
        for report_id in report_ids:
            ended, _, _, told = state(store, report_id)
            assert ended == "refused"
            assert "allow_private" in told
        assert not net.https.requests

    in_internet(scenario)


def test_a_relay_that_is_down_defers_everything_and_holds_nobody_up(in_internet: Run, store: engine.Store) -> None:
    """The HTTPS deliveries of the same run go through."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        for number in range(5):
            put_report(store, job, f"mailto:r@a{number}.example")
        put_report(store, job, f"https://127.0.0.1:{net.https.port}/t")
        down = dataclasses.replace(job.courier, relay=mail.parse_relay("smtp://127.0.0.1:1"))
        attempts = await delivered(dataclasses.replace(job, courier=down))
        assert len(attempts) == 6
        with store.read() as connection:
            due = list(listings.pending_deliveries(connection))
            settled = list(listings.settled_deliveries(connection))
        assert [one.scheme for one in settled] == ["https"]
        assert all("127.0.0.1" in (one.answer or "") for one in due)

    in_internet(scenario)


def test_receivers_get_the_exact_document_signed_and_packed(
    in_internet: Run, store: engine.Store, tmp_path: pathlib.Path, captures: dict[str, list[bytes]]
) -> None:
    """The mail's DKIM signature verifies, its structure is RFC 8460 section 5.3's, and mail, POST and show agree."""
    raw = captures["c3-sts-untrusted-issuer-unknown"][0]
    domain = json.loads(raw)["d"]

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        post = f"https://localhost:{net.https.port}/v1/tlsrpt"
        net.zone.put("localhost", zone.A("127.0.0.1"))
        net.zone.put(f"_smtp._tls.{domain}", zone.Txt(f"v=TLSRPTv1;rua=mailto:tls@{domain},{post}"))
        stored.count(store, YESTERDAY, [raw])
        await job.close(YESTERDAY)
        assert len([built async for built in job.build(spread=0)]) == 1
        assert len(await delivered(job)) == 2
        (message,), (request,) = net.mail.mailbox.messages, net.https.requests
        show = [sys.executable, "-m", "sender", "show", domain, "--config", str(tmp_path / "tlsrpt.toml"), "--json"]
        shown = await asyncio.to_thread(subprocess.run, show, check=True, capture_output=True)
        by_mail, by_post = await verify.mail(message.content, net.nameserver), verify.post(request)
        for verified in (by_mail, by_post):
            assert [check for check in verified.checks if not check.passed] == []
            assert verified.document == shown.stdout
        details = json.loads(shown.stdout)["policies"][0]["failure-details"]
        assert [(row["result-type"], row["failure-reason-code"]) for row in details] == [
            ("certificate-not-trusted", "unable_to_get_local_issuer_certificate")
        ]

    in_internet(scenario)


def test_a_delivery_that_cannot_be_made_does_not_hold_the_others_up(in_internet: Run, store: engine.Store) -> None:
    """It is tried again and given up in its time; the rest of its batch goes out, by mail and by HTTPS."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        broken = [
            put_report(store, job, uri) for uri in ("mailto:r@a.example", f"https://127.0.0.1:{net.https.port}/t")
        ]
        put_report(store, job, "mailto:r@b.example")
        put_report(store, job, f"https://127.0.0.1:{net.https.port}/t")
        with store.write() as connection:
            for report_id, target in zip(broken, ("no address", b"\xff"), strict=True):
                table = schema.deliveries
                connection.execute(sa.update(table).where(table.c.report_id == report_id).values(target=target))
        assert len(await delivered(job)) == 4
        for report_id in broken:
            assert state(store, report_id)[0] == "due"
        assert len(net.mail.mailbox.messages) == len(net.https.requests) == 1

    in_internet(scenario)


def test_what_is_not_begun_when_it_is_stopped_is_left_as_it_was(in_internet: Run, store: engine.Store) -> None:
    """The end of the process costs one mail at most; all others are free for the next start at once."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        for number in range(5):
            put_report(store, job, f"mailto:r@a{number}.example")
        attempts = await job.courier.deliver(stopped=lambda: len(net.mail.mailbox.messages) == 2)
        assert len(attempts) == len(net.mail.mailbox.messages) == 2
        assert len(await delivered(job)) == 3
        assert len({message.recipients for message in net.mail.mailbox.messages}) == 5

    in_internet(scenario)
