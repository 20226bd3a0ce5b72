"""The reporter: its clock, and the real role in a made-up internet."""

import asyncio
import collections
import contextlib
import dataclasses
import datetime as dt
import email
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from policy import tlsrpt
from sender import closing, counting, daily, journal, report, reporter
from sender.demo import dns, internet, receivers, verify, zone
from sender.store import deliveries, engine, listings, reports, schema
from tests import stored

Run = Callable[[Callable[[internet.Internet, daily.Daily], Awaitable[None]]], None]
Serve = Callable[..., Any]

DAY = dt.timedelta(days=1)
YESTERDAY = dt.date(2026, 11, 23)
PATIENCE = 20.0

SCHEDULE = """
import asyncio, datetime as dt, json, sys
from policy import tlsrpt
from sender import config, daily, reporter
from sender.store import engine

NOON = dt.datetime(2026, 10, 31, 12, tzinfo=dt.UTC)  # the day before DST ends in New York

async def main():
    for settle in map(int, sys.argv[2:]):
        text = '[organization]\\ndomain="s.example"\\ncontact="c@s.example"\\n[dns]\\nnameservers=["127.0.0.1:1"]\\n'
        settings = config.parse(f"{text}[report]\\nsettle={settle}\\n[store]\\nurl='sqlite:///{sys.argv[1]}'", {})
        store = engine.open_store(settings.store.url)
        async with daily.open_daily(settings, store) as job:
            deliverers = {'deliver': reporter.Deliverer(job, tlsrpt.Scheme.MAILTO)}
            scheduler = reporter.schedule(settle, reporter.Closer(job), deliverers)
            scheduler.start(paused=True)
            for one in scheduler.get_jobs():
                last = NOON
                times = []
                for _ in range(2):
                    last = one.trigger.get_next_fire_time(last, last + dt.timedelta(seconds=1))
                    times.append(last.astimezone(dt.UTC).isoformat())
                late = (dt.datetime.now(dt.UTC) - one.next_run_time).total_seconds()
                row = [settle, one.id, times, one.coalesce, one.max_instances, one.misfire_grace_time, late]
                print(json.dumps(row))
            scheduler.shutdown()
        store.close()

asyncio.run(main())
"""

CLOSES = [(0, "00:00:00"), (300, "00:05:00"), (4321, "01:12:01"), (86399, "23:59:59"), (86400, "00:00:00")]


@pytest.mark.parametrize("zone_name", ["UTC", "America/New_York", "Pacific/Kiritimati"])
def test_days_close_by_utc_whatever_the_time_zone_of_the_machine(tmp_path: pathlib.Path, zone_name: str) -> None:
    """Once a day, ``settle`` after midnight, also when clocks are put back; missed runs are one, none overlaps."""
    command = [sys.executable, "-c", SCHEDULE, str(tmp_path / "x.db"), *(str(settle) for settle, _ in CLOSES)]
    environment = os.environ | {"TZ": zone_name}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=60)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row[1] for row in rows} == {"close", "build", "deliver"}
    closes = [(settle, times) for settle, name, times, *_ in rows if name == "close"]
    days = {
        settle: ("11-01", "11-02") if settle < 43200 or settle == 86400 else ("10-31", "11-01") for settle, _ in CLOSES
    }
    assert closes == [(settle, [f"2026-{day}T{time}+00:00" for day in days[settle]]) for settle, time in CLOSES]
    for row in rows:
        assert row[3:6] == [True, 1, None]
        assert 0 <= row[6] < PATIENCE, "it runs once at the start"


def datagram(domain: str, number: int = 0) -> bytes:
    """Return the datagram of a failure; different numbers are different failures."""
    detail = f'{{"c":201,"r":"192.0.2.{number}"}}'
    policy = f'{{"policy-type":9,"failure-details":[{detail}],"t":1,"f":1}}'
    return f'{{"d":"{domain}","policies":[{policy}]}}'.encode()


def append(directory: pathlib.Path, now: dt.datetime, *datagrams: bytes) -> None:
    """Append to the journal as a recorder does at that time."""
    writer = journal.Writer(directory, now.timestamp())
    assert writer.append(b"".join(one + b"\n" for one in datagrams), len(datagrams), now.timestamp()) is None
    writer.close()


def ask_for_reports(net: internet.Internet, domains: Iterable[str]) -> None:
    """Publish a TLSRPT record for each domain."""
    for domain in domains:
        net.zone.put(f"_smtp._tls.{domain}", zone.Txt(f"v=TLSRPTv1;rua=mailto:r@{domain}"))


@contextlib.asynccontextmanager
async def settling_at_noon(folder: pathlib.Path) -> AsyncIterator[tuple[internet.Internet, dt.datetime]]:
    """Yield an internet whose days change at the latest noon, that time, and a configuration file for ``serve``.

    So no midnight can come in between: the newest day that is over is the one before this noon's.
    """
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    noon = now.replace(hour=12, minute=0, second=0)
    noon -= DAY if noon > now else 0 * DAY
    async with internet.start(folder, ()) as net:
        text = net.config_text().replace("settle = 0", f"settle = {int((now - noon).total_seconds())}")
        (folder / "tlsrpt.toml").write_text(text)
        yield net, noon


async def until(true: Callable[[], object]) -> None:
    """Wait for another process while this one is the internet."""
    async with asyncio.timeout(2 * PATIENCE):
        while not true():  # noqa: ASYNC110 - it is another process that makes it true
            await asyncio.sleep(0.01)


def reported(net: internet.Internet) -> collections.Counter[tuple[str, str]]:
    """Return the day and the recipient of each mail that arrived."""
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    for message in net.mail.mailbox.messages:
        *_, attachment = email.message_from_bytes(message.content).walk()
        first = (attachment.get_filename() or "").split("!")[2]
        (recipient,) = message.recipients
        found[dt.datetime.fromtimestamp(int(first), dt.UTC).date().isoformat(), recipient] += 1
    return found


def test_days_that_were_missed_are_closed_reported_and_delivered_at_the_start(
    serve: Serve, tmp_path: pathlib.Path
) -> None:
    """One report for each day and domain, to real receivers, who find nothing wrong; today stays open."""

    async def scenario() -> None:
        async with settling_at_noon(tmp_path) as (net, noon):
            ask_for_reports(net, ["a.example", "b.example"])
            for days in (3, 2, 1, 0):
                append(tmp_path / "journal", noon - days * DAY, datagram("a.example"), datagram("b.example", days))
            served = serve("reporter", "--config", str(tmp_path / "tlsrpt.toml"))
            await until(lambda: len(net.mail.mailbox.messages) == 6 or served.process.poll() is not None)
            assert await asyncio.to_thread(served.end) == 0
            past = [(noon - days * DAY).date().isoformat() for days in (3, 2, 1)]
            assert reported(net) == {(day, f"r@{name}.example"): 1 for day in past for name in "ab"}
            assert served.events("closed")[0]["days"] == past
            for message in net.mail.mailbox.messages:
                verified = await verify.mail(message.content, net.nameserver)
                assert [check for check in verified.checks if not check.passed] == []
            assert open_days(tmp_path) == [((noon.date()).isoformat(), f"{name}.example", "open") for name in "ab"]
            assert {row["level"] for row in served.events()} == {"info"}
            (signed,) = served.events("report mails are signed")
            published = await dns.ask(net.nameserver, signed["dns_name"], zone.Txt)
            assert published == (zone.Txt(signed["txt"]),), "the log says which record to publish"

    asyncio.run(scenario())


def open_days(folder: pathlib.Path) -> list[tuple[str, str, str]]:
    """Return day, domain and state of what is not reported."""
    store = engine.open_store(f"sqlite:///{folder / 'tlsrpt.db'}")
    with store.read() as connection:
        found = [(row.day.isoformat(), row.domain, row.state) for row in listings.pending_days(connection)]
    store.close()
    return found


def delivered(folder: pathlib.Path) -> int:
    """Return how many deliveries are noted as done."""
    store = engine.open_store(f"sqlite:///{folder / 'tlsrpt.db'}")
    with store.read() as connection:
        number = sum(row.state == "delivered" for row in listings.settled_deliveries(connection))
    store.close()
    return number


def test_stopped_in_the_middle_of_deliveries_it_sends_nothing_twice(serve: Serve, tmp_path: pathlib.Path) -> None:
    """SIGTERM ends it within seconds, with all noted that was sent; the next start sends the rest, another nothing."""
    domains = [f"d{number}.example" for number in range(400)]

    async def scenario() -> None:
        async with settling_at_noon(tmp_path) as (net, noon):
            ask_for_reports(net, domains)
            append(tmp_path / "journal", noon - DAY, *map(datagram, domains))
            command = ("reporter", "--config", str(tmp_path / "tlsrpt.toml"))
            first = serve(*command)
            await asyncio.to_thread(first.wait_for, "built")
            assert await asyncio.to_thread(first.end) == 0
            second = serve(*command)
            await until(lambda: net.mail.mailbox.messages or second.process.poll() is not None)
            assert await asyncio.to_thread(second.end) == 0
            before = len(net.mail.mailbox.messages)
            assert 0 < before < len(domains), "it was stopped in between"
            assert delivered(tmp_path) == before
            third = serve(*command)
            await until(lambda: len(net.mail.mailbox.messages) == len(domains))
            await asyncio.to_thread(third.wait_for, "delivery", len(domains) - before)
            assert await asyncio.to_thread(third.end) == 0
            fourth = serve(*command)
            await asyncio.to_thread(fourth.wait_for, "deleted what is too old")
            assert await asyncio.to_thread(fourth.end) == 0
            assert reported(net) == {((noon - DAY).date().isoformat(), f"r@{domain}"): 1 for domain in domains}
            for served in (first, second, third, fourth):
                assert {row["level"] for row in served.events()} == {"info"}

    asyncio.run(scenario())


def put_report(store: engine.Store, job: daily.Daily, *rua: str) -> str:
    """Put a report with deliveries that are due into the store; return its id."""
    report_id = report.report_id(job.builder.chance.token(), job.builder.identity)
    record = tlsrpt.parse_record(f"v=TLSRPTv1; rua={','.join(rua)}")
    (domain,) = counting.count(collections.Counter([datagram("a.example")])).domains.values()
    by_policy = [report.PolicyCount(policy, 0, 1, ()) for policy in domain.policies]
    packed = report.pack(report.document(job.builder.identity, YESTERDAY, report_id, by_policy))
    with store.write() as connection:
        reports.add(connection, [reports.Report(report_id, YESTERDAY, "a.example", job.clock(), 0, 1, packed)])
        due = [(one, job.clock()) for one in record.rua]
        deliveries.add(connection, [deliveries.Addressed(report_id, YESTERDAY, "a.example", due)])
    return report_id


def test_the_end_waits_for_the_batch_under_way_and_begins_no_other(in_internet: Run, store: engine.Store) -> None:
    """A receiver that thinks about its answer: stop() returns once it is noted."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        net.zone.put("localhost", zone.A("127.0.0.1"))
        net.https.program("/slow", receivers.Silent())
        slow = put_report(store, job, f"https://localhost:{net.https.port}/slow")
        deliverer = reporter.Deliverer(job, tlsrpt.Scheme.HTTPS)
        delivering = asyncio.create_task(deliverer.run())
        await until(lambda: net.https.requests)
        stopping = asyncio.create_task(deliverer.stop())
        await asyncio.sleep(0)
        later = put_report(store, job, f"https://localhost:{net.https.port}/later")
        assert not stopping.done()
        net.https._closing.set()
        await asyncio.gather(stopping, delivering)
        await deliverer.run()
        with store.read() as connection:
            assert [one.attempts for one in deliveries.of_report(connection, slow)] == [1]
            assert [one.attempts for one in deliveries.of_report(connection, later)] == [0]

    in_internet(scenario)


def segment_names(net: internet.Internet) -> list[str]:
    """Return the days of the segments that are there."""
    return [segment.day.isoformat() for segment in journal.segments(net.directory / "journal")]


@pytest.mark.parametrize("keep_days", [1, 30])
def test_old_days_are_deleted_and_never_come_back(
    in_internet: Run, store: engine.Store, clock: Any, keep_days: int
) -> None:
    """Counts, reports and segments of old days go; the newest segment stays, and is not counted anew."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        kept = msgspec.structs.replace(job.settings.report, keep_days=keep_days)
        job = dataclasses.replace(job, settings=msgspec.structs.replace(job.settings, report=kept))
        ask_for_reports(net, ["a.example"])
        noon = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)
        for days in (2, 1, 0):
            append(net.directory / "journal", noon - days * DAY, datagram("a.example"))
        closer = reporter.Closer(job)
        await closer.run()
        await reporter.Deliverer(job, tlsrpt.Scheme.MAILTO).run()
        assert len(reported(net)) == 3
        for _ in range(keep_days + 4):
            clock.pass_(days=1)
            await closer.run()
            await reporter.Deliverer(job, tlsrpt.Scheme.MAILTO).run()
        assert segment_names(net) == ["2026-11-23"]
        with store.read() as connection:
            assert list(listings.pending_days(connection)) == []
            assert list(listings.settled_deliveries(connection)) == []
            assert [row.day for row in connection.execute(sa.select(schema.positions))] == [YESTERDAY]
        assert set(reported(net).values()) == {1}, "no day is reported again"

    in_internet(scenario)


def test_a_journal_that_cannot_be_read_is_told_and_hinders_no_delivery(serve: Serve, tmp_path: pathlib.Path) -> None:
    """One line without a traceback; what is in the store already still goes out."""

    async def scenario() -> None:
        async with internet.start(tmp_path, ()) as net:
            ask_for_reports(net, ["a.example"])
            (tmp_path / "tlsrpt.toml").write_text(net.config_text())
            (tmp_path / "journal").write_text("a file where a directory should be")
            put_closed(tmp_path, datagram("a.example"))
            served = serve("reporter", "--config", str(tmp_path / "tlsrpt.toml"))
            (failed,) = await asyncio.to_thread(served.wait_for, "a part of the journal is not counted")
            assert failed["error"] == f"{tmp_path}/journal: the journal cannot be read: Not a directory"
            await asyncio.to_thread(served.wait_for, "built")
            assert await asyncio.to_thread(served.end) == 0
            assert not [row for row in served.events() if "exception" in row]

    asyncio.run(scenario())


def put_closed(folder: pathlib.Path, *datagrams: bytes) -> None:
    """Count sessions of a day that is closed."""
    store = engine.open_store(f"sqlite:///{folder / 'tlsrpt.db'}")
    stored.count(store, YESTERDAY, datagrams)
    closing.close(store, YESTERDAY)
    store.close()


def test_a_day_that_could_not_be_closed_is_closed_at_the_next_run_and_then_left_alone(
    in_internet: Run, store: engine.Store, clock: Any
) -> None:
    """A store that failed at midnight costs a quarter of an hour, not a day; late sessions wait for the next day."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        ask_for_reports(net, ["a.example"])
        closer = reporter.Closer(job)
        append(net.directory / "journal", dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC), datagram("a.example"))
        with store.write() as connection:
            connection.exec_driver_sql("ALTER TABLE closings RENAME TO gone")
        with pytest.raises(engine.StoreError):
            await closer.run()
        with store.write() as connection:
            connection.exec_driver_sql("ALTER TABLE gone RENAME TO closings")
        await closer.run()
        with store.read() as connection:
            assert len(reports.of_domain(connection, "a.example", YESTERDAY)) == 1
        append(net.directory / "journal", dt.datetime(2026, 11, 23, 23, tzinfo=dt.UTC), datagram("a.example"))
        for days, revisions in ((0, 1), (1, 2)):
            clock.pass_(days=days)
            await closer.run()
            with store.read() as connection:
                assert len(reports.of_domain(connection, "a.example", YESTERDAY)) == revisions

    in_internet(scenario)
