"""From closed domain-days to reports: discovery, decisions, one report each, revisions, MX hosts."""

import asyncio
import collections
import datetime as dt
import json
import pathlib
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, cast

import jsonschema
import pytest

from sender import building, daily, decision, outcome, report
from sender.demo import internet, zone
from sender.store import closings, deliveries, engine, listings, reports
from tests import stored

pytestmark = pytest.mark.both_stores

YESTERDAY = dt.date(2026, 11, 23)
Run = Callable[[Callable[[internet.Internet, daily.Daily], Awaitable[None]]], None]


def datagram(domain: str, record: str | None = None, policies: str = '{"policy-type":9,"t":0,"f":0}') -> bytes:
    """Return a datagram as Postfix sends it."""
    seen = "" if record is None else f'"pr":"{record}",'
    return f'{{"d":"{domain}",{seen}"policies":[{policies}]}}'.encode()


def add(store: engine.Store, *datagrams: bytes) -> None:
    """Count sessions of yesterday."""
    stored.count(store, YESTERDAY, datagrams)


async def closed_and_built(job: daily.Daily) -> list[building.Decided | building.Told]:
    """Close yesterday and build; return what became of each domain-day."""
    closing = job.store
    with closing.write() as connection:
        for day in closings.days_to_close(connection, YESTERDAY):
            closings.close(connection, day)
    return [built async for built in job.build()]


def documents(store: engine.Store, domain: str) -> list[dict[str, Any]]:
    """Return the documents about a domain, by revision."""
    with store.read() as connection:
        kept = reports.of_domain(connection, domain, YESTERDAY)
    return [json.loads(report.unpack(one.packed)) for one in kept]


def rua_of(store: engine.Store, domain: str) -> list[str]:
    """Return whom the reports about a domain go to."""
    with store.read() as connection:
        kept = reports.of_domain(connection, domain, YESTERDAY)
        return [one.rua for made in kept for one in deliveries.of_report(connection, made.report_id)]


SEEN = "v=TLSRPTv1;rua=mailto:old@%s"
PENDING = {
    "neither.example": ("skipped", "no usable rua: ftp://neither.example/"),
    "withdrawn.example": ("skipped", "the TLSRPT record was withdrawn"),
    "two.example": ("skipped", "the TLSRPT record cannot be used: 2 "),
    "unknown.example": ("closed", "the TLSRPT record cannot be looked up, tried again"),
}


def test_each_domain_ends_as_it_should_and_pending_tells_why(
    in_internet: Run, store: engine.Store, tmp_path: pathlib.Path
) -> None:
    """Two rua, none usable, withdrawn, two records, DNS that fails with and without a record that sessions brought."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        good = "v=TLSRPTv1; rua=mailto:r@both.example, https://both.example/t; x=y;"
        net.zone.put("_smtp._tls.both.example", zone.Txt(good))
        net.zone.put("_smtp._tls.neither.example", zone.Txt("v=TLSRPTv1;rua=ftp://neither.example/,mailto:nobody"))
        for text in ("v=TLSRPTv1;rua=mailto:a@two.example", "v=TLSRPTv1;rua=mailto:b@two.example"):
            net.zone.put("_smtp._tls.two.example", zone.Txt(text))
        for name in ("remembered", "unknown"):
            net.zone.temper(f"_smtp._tls.{name}.example", zone.Temper.SERVFAIL)
        names = ("both", "neither", "two", "withdrawn", "remembered")
        add(store, *(datagram(f"{name}.example", SEEN % f"{name}.example") for name in names))
        add(store, datagram("unknown.example"))
        await closed_and_built(job)
        command = [sys.executable, "-m", "sender", "pending", "--json", "--config", str(tmp_path / "tlsrpt.toml")]
        shown = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
        pending = json.loads(shown.stdout)
        rows = {row["domain"]: (row["state"], row["reason"]) for row in pending["domain_days"]}
        assert rows.keys() == PENDING.keys()
        for domain, (state, reason) in PENDING.items():
            assert rows[domain][0] == state
            assert reason in rows[domain][1]
        assert sorted(row["rua"] for row in pending["deliveries"]) == [
            "https://both.example/t",
            "mailto:old@remembered.example",
            "mailto:r@both.example",
        ]

    in_internet(scenario)


def test_a_domain_whose_dns_recovers_is_reported_then(in_internet: Run, store: engine.Store) -> None:
    """What had to wait is decided at the next run."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        net.zone.put("_smtp._tls.a.example", zone.Txt("v=TLSRPTv1;rua=mailto:r@a.example"))
        net.zone.temper("_smtp._tls.a.example", zone.Temper.SERVFAIL)
        add(store, datagram("a.example"))
        (waiting,) = await closed_and_built(job)
        assert isinstance(waiting, building.Decided)
        assert isinstance(waiting.decision, decision.Wait)
        net.zone.temper("_smtp._tls.a.example", None)
        await closed_and_built(job)
        assert rua_of(store, "a.example") == ["mailto:r@a.example"]

    in_internet(scenario)


def test_late_sessions_go_out_as_revision_2_and_are_in_no_other_report(
    in_internet: Run, store: engine.Store, schema: jsonschema.protocols.Validator
) -> None:
    """A report never changes; what was tallied after it is a report of its own, with its own id."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        net.zone.put("_smtp._tls.a.example", zone.Txt("v=TLSRPTv1;rua=mailto:r@a.example"))
        for late in (3, 2, 0):
            add(store, *[datagram("a.example")] * late)
            await closed_and_built(job)
        first, second = documents(store, "a.example")
        sums = [one["policies"][0]["summary"]["total-successful-session-count"] for one in (first, second)]
        assert sums == [3, 2]
        assert first["report-id"] != second["report-id"]
        assert first["date-range"] == second["date-range"]
        for one in (first, second):
            schema.validate(one)

    in_internet(scenario)


def test_two_builders_at_once_make_one_report(in_internet: Run, store: engine.Store) -> None:
    """The reporter's and that of `tlsrpt report` may meet."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        for number in range(40):
            net.zone.put(f"_smtp._tls.d{number}.example", zone.Txt("v=TLSRPTv1;rua=mailto:r@a.example"))
            add(store, datagram(f"d{number}.example"))
        await closed_and_built(job)
        made = [len(documents(store, f"d{number}.example")) for number in range(40)]
        assert made == [1] * 40

    async def both(net: internet.Internet, job: daily.Daily) -> None:
        await asyncio.gather(scenario(net, job), closed_and_built(job), closed_and_built(job))

    in_internet(both)


def _mailed(store: engine.Store, address: str, at: dt.datetime) -> None:
    """Note that the relay took a report mail."""
    with store.write() as connection:
        rows = [row for row in deliveries.claim(connection, at + dt.timedelta(days=9), 99) if row.target == address]
        for row in rows:
            deliveries.note(connection, row, at, outcome.Settled(outcome.State.DELIVERED, "250 ok"))


def test_a_day_of_nothing_but_our_own_report_mails_is_not_reported(
    in_internet: Run, store: engine.Store, clock: object
) -> None:
    """The loop ends: two report mails for the first day make the only session of the next, and that is it."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        tlsa = '{"policy-type":1,"policy-domain":"mx.a.example","policy-string":["3 1 1 AB"],"t":0,"f":0}'
        for name in ("a.example", "mx.a.example"):
            net.zone.put(f"_smtp._tls.{name}", zone.Txt(f"v=TLSRPTv1;rua=mailto:r@a.example,mailto:h@{name}"))
        add(store, datagram("a.example", policies=tlsa), datagram("a.example", policies=tlsa))
        await closed_and_built(job)
        noon = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)
        _mailed(store, "r@a.example", noon)
        add(store, datagram("a.example", policies=tlsa))
        (own,) = await closed_and_built(job)
        assert isinstance(own, building.Decided)
        assert isinstance(own.decision, decision.SkipOwn)
        assert len(documents(store, "mx.a.example")) == 1, "the MX host is not told of it either"
        add(store, *[datagram("a.example", policies=tlsa)] * 3)
        await closed_and_built(job)
        assert len(documents(store, "a.example")) == 2

    in_internet(scenario)


HOST_CASES = [
    ("no record of its own", None, [], None),
    ("other rua", "mailto:tls@p.example", ["mailto:tls@p.example"], {"a.example", "b.example"}),
    ("the same rua as one domain", "mailto:r@a.example", ["mailto:r@a.example"], {"b.example"}),
]


@pytest.mark.parametrize(
    ("rua", "expected", "told"), [row[1:] for row in HOST_CASES], ids=[row[0] for row in HOST_CASES]
)
def test_the_operator_of_an_mx_host_is_told_of_its_tlsa_policies(
    in_internet: Run, store: engine.Store, rua: str | None, expected: list[str], told: set[str] | None
) -> None:
    """One report for all domains behind the host, of tlsa policies only, unless a domain's own report reaches it."""
    tlsa = '{"policy-type":1,"policy-domain":"mx.p.example","policy-string":["3 1 1 AB"],"t":0,"f":0}'
    sts = '{"policy-type":2,"policy-string":["version: STSv1"],"t":0,"f":0}'

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        for name in ("a.example", "b.example"):
            net.zone.put(f"_smtp._tls.{name}", zone.Txt(f"v=TLSRPTv1;rua=mailto:r@{name}"))
            add(store, datagram(name, policies=tlsa), datagram(name, policies=sts))
        if rua:
            net.zone.put("_smtp._tls.mx.p.example", zone.Txt(f"v=TLSRPTv1;rua={rua}"))
        await closed_and_built(job)
        await closed_and_built(job)
        assert rua_of(store, "mx.p.example") == expected
        if told:
            (document,) = documents(store, "mx.p.example")
            (policy,) = document["policies"]
            assert policy["policy"]["policy-domain"] == "mx.p.example"
            assert policy["summary"]["total-successful-session-count"] == len(told)
        own = [row["policy"]["policy-type"] for row in documents(store, "a.example")[0]["policies"]]
        assert sorted(own) == ["sts", "tlsa"]

    in_internet(scenario)


def test_first_deliveries_are_spread(in_internet: Run, store: engine.Store, clock: Callable[[], dt.datetime]) -> None:
    """RFC 8460 section 4.1: hours, not all at midnight; `--now` does without."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        net.zone.put("_smtp._tls.a.example", zone.Txt("v=TLSRPTv1;rua=mailto:r@a.example"))
        add(store, datagram("a.example"))
        with store.write() as connection:
            closings.close(connection, YESTERDAY)
        [_ async for _ in job.build(spread=3600)]
        with store.write() as connection:
            assert deliveries.claim(connection, clock(), 9) == []
        job.hurry()
        with store.write() as connection:
            assert len(deliveries.claim(connection, clock(), 9)) == 1

    in_internet(scenario)


def test_every_session_of_the_captures_is_in_exactly_one_report(
    in_internet: Run, store: engine.Store, captures: dict[str, list[bytes]], schema: jsonschema.protocols.Validator
) -> None:
    """Policy types, domains and counts of all reports are those of the datagrams."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        datagrams = [one for several in captures.values() for one in several]
        wanted: collections.Counter[tuple[str, str, str, int]] = collections.Counter()
        for raw in datagrams:
            wire = json.loads(raw)
            net.zone.put(f"_smtp._tls.{wire['d']}", zone.Txt(f"v=TLSRPTv1;rua=mailto:r@{wire['d']}"))
            (policy,) = wire["policies"]
            kind = {1: "tlsa", 2: "sts", 9: "no-policy-found"}[policy["policy-type"]]
            wanted[wire["d"], kind, policy["policy-domain"], policy["f"]] += 1
        add(store, *datagrams)
        await closed_and_built(job)
        found: collections.Counter[tuple[str, str, str, int]] = collections.Counter()
        for domain in {key[0] for key in wanted}:
            (document,) = documents(store, domain)
            schema.validate(document)
            for row in document["policies"]:
                key = (domain, row["policy"]["policy-type"], row["policy"]["policy-domain"])
                found[*key, 0] += row["summary"]["total-successful-session-count"]
                found[*key, 1] += row["summary"]["total-failure-session-count"]
        assert +found == wanted

    in_internet(scenario)


def test_a_domain_whose_counts_are_damaged_does_not_hold_the_others_up(in_internet: Run, store: engine.Store) -> None:
    """It waits, with the reason in pending; every other report is built."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        for name in ("a.example", "b.example", "c.example"):
            net.zone.put(f"_smtp._tls.{name}", zone.Txt(f"v=TLSRPTv1;rua=mailto:r@{name}"))
            add(store, datagram(name))
        with store.write() as connection:
            connection.exec_driver_sql("UPDATE policies SET policy_strings = '[' WHERE domain = 'b.example'")
        await closed_and_built(job)
        assert [len(documents(store, name)) for name in ("a.example", "b.example", "c.example")] == [1, 0, 1]
        with store.read() as connection:
            (row,) = listings.pending_days(connection)
        assert (row.domain, row.state) == ("b.example", "closed")
        assert "cannot be made" in (row.reason or "")

    in_internet(scenario)


def test_more_domains_than_a_batch_are_each_decided_once_and_in_order(in_internet: Run, store: engine.Store) -> None:
    """Batches are looked up side by side; what is half done when the run is broken off is done by the next one."""
    names = sorted(f"d{number}.example" for number in range(2 * building.BATCH + 1))

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        for name in names:
            net.zone.put(f"_smtp._tls.{name}", zone.Txt(f"v=TLSRPTv1;rua=mailto:r@{name}"))
        add(store, *map(datagram, names))
        with store.write() as connection:
            closings.close(connection, YESTERDAY)
        first = [built async for built in _until(building.BATCH + 1, job.build())]
        rest = [built async for built in job.build()]
        decided = [built.domain_day.domain for built in (*first, *rest) if isinstance(built, building.Decided)]
        assert decided == [*names[: building.BATCH + 1], *names[2 * building.BATCH :]]
        with store.read() as connection:
            assert [len(reports.of_domain(connection, name, YESTERDAY)) for name in names] == [1] * len(names)

    in_internet(scenario)


async def _until(
    number: int, builds: AsyncIterator[building.Decided | building.Told]
) -> AsyncIterator[building.Decided | building.Told]:
    """Yield so many, and break the run off."""
    async for built in builds:
        yield built
        number -= 1
        if not number:
            await cast("AsyncGenerator[Any, None]", builds).aclose()
            return
