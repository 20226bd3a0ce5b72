"""Build reports: decide about each closed domain-day, and keep the report with its deliveries.

A conductor. The rua are discovered anew (``policy.discovery``), the decision is ``sender.decision``'s, the document
``sender.report``'s. Each decision is one transaction; what is interrupted is done again by the next run, once.
Domain-days come in batches, so memory does not grow with their number, but for that of the domains behind one MX host.
"""

import asyncio
import dataclasses
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import structlog

from policy import discovery, resolver, tlsrpt
from sender import config, counting, decision, loopguard, report, session
from sender.store import deliveries, engine, hosts, reports, schema

log = structlog.get_logger()

BATCH = 200
"""Domain-days at a time."""

LOOKUPS = 50
"""DNS look-ups at a time: what a resolver of one's own takes without noticing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Chance:
    """The randomness that building needs, as arguments."""

    token: Callable[[], str]
    """Makes the unique part of a report-id, letters and digits."""
    fraction: Callable[[], float]
    """Makes a number in [0, 1)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Due:
    """When reports are made, and their first deliveries are due."""

    now: dt.datetime
    """Aware."""
    spread: float
    """Seconds over which first deliveries are spread (RFC 8460 section 4.1)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Decided:
    """A decision about a domain-day, and with :attr:`report_id` what was made of it."""

    domain_day: reports.DomainDay
    decision: decision.Decision
    report_id: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """A report to the operator of an MX host about the tlsa policies of the domains it serves."""

    host_day: hosts.HostDay
    report_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class Builder:
    """What building needs, put together once."""

    store: engine.Store
    dns: resolver.Resolver
    identity: config.Identity
    settings: config.Report
    chance: Chance

    async def build(self, due: Due, *, domain: str | None = None) -> AsyncIterator[Decided | Told]:
        """Decide about every closed domain-day, and yield what became of each.

        Args:
            due: when reports are made and first deliveries are due.
            domain: only reports about this policy domain.

        Raises:
            store.engine.StoreError: the store cannot be used; what was yielded is done.
        """
        async for batch in self.decide(domain=domain):
            with self.store.write() as connection:
                kept = [self._keep(connection, one, due) for one in batch]
            for decided in kept:
                if decided is not None:
                    yield decided
        async for told in self._tell_hosts(due, domain):
            yield told

    async def decide(self, *, domain: str | None = None, last: dt.date | None = None) -> AsyncIterator[list[Decided]]:
        """Yield decisions about all closed domain-days in batches; nothing is changed.

        Args:
            domain: only about this recipient domain.
            last: as if all days up to this one were closed.
        """
        after: reports.DomainDay | None = None
        while True:
            with self.store.read() as connection:
                batch = reports.undecided(connection, BATCH, after=after, domain=domain, last=last)
                mailed = _mailed(connection, batch)
            if not batch:
                return
            lookups = await self._look_up({one.domain for one in batch})
            yield [self._decide(one, lookups[one.domain], mailed[one]) for one in batch]
            after = batch[-1]

    def _decide(self, one: reports.DomainDay, lookup: decision.Lookup, mailed: int) -> Decided:
        verdict = decision.decide(
            lookup,
            seen=one.record,
            successful=one.successful,
            failed=one.failed,
            mailed=mailed,
            success_only=self.settings.success_only,
        )
        return Decided(one, verdict)

    async def _look_up(self, domains: Iterable[str]) -> dict[str, decision.Lookup]:
        gate = asyncio.Semaphore(LOOKUPS)

        async def one(domain: str) -> tuple[str, decision.Lookup]:
            async with gate:
                return domain, await look_up(self.dns, domain)

        return dict(await asyncio.gather(*map(one, domains)))

    def _keep(self, connection: engine.Connection, decided: Decided, due: Due) -> Decided | None:
        """Carry a decision out; ``None`` when another process was first."""
        day, verdict = decided.domain_day, decided.decision
        if isinstance(verdict, decision.Send):
            return self._keep_report(connection, decided, verdict.rua, due)
        state = schema.UNDECIDED if isinstance(verdict, decision.Wait) else schema.SKIPPED
        if not reports.decide(connection, day, state, verdict.reason):
            return None
        if isinstance(verdict, decision.SkipOwn):
            hosts.need_not_be_told(connection, day)
        return decided

    def _keep_report(
        self, connection: engine.Connection, decided: Decided, rua: Sequence[tlsrpt.Rua], due: Due
    ) -> Decided | None:
        day = decided.domain_day
        made = self._make((day.day, day.domain), lambda: reports.policy_counts(connection, day), due)
        if isinstance(made, decision.Wait):
            return self._keep(connection, Decided(day, made), due)
        if not reports.decide(connection, day, schema.REPORTED):
            return None
        self._add(connection, made, rua, due)
        return dataclasses.replace(decided, report_id=made.report_id)

    def _make(
        self, about: tuple[dt.date, str], counts: Callable[[], Sequence[report.PolicyCount]], due: Due
    ) -> reports.Report | decision.Wait:
        """Make a report; one that cannot be made must not keep all others from being made."""
        try:
            return self._report(about, counts(), due)
        except engine.DatabaseError:
            raise
        except Exception as error:
            log.exception("a report cannot be made, tried again", about=str(about))
            return decision.Wait(f"the report cannot be made, tried again: {error!r}")

    def _report(self, about: tuple[dt.date, str], counts: Sequence[report.PolicyCount], due: Due) -> reports.Report:
        day, domain = about
        report_id = report.report_id(f"{day:%Y%m%d}.{self.chance.token()}", self.identity)
        return reports.Report(
            report_id=report_id,
            day=day,
            domain=domain,
            created=due.now,
            successful=sum(count.successful for count in counts),
            failed=sum(count.failed for count in counts),
            packed=report.pack(report.document(self.identity, day, report_id, counts)),
        )

    def _add(self, connection: engine.Connection, made: reports.Report, rua: Sequence[tlsrpt.Rua], due: Due) -> None:
        reports.add(connection, made)
        times = [due.now + dt.timedelta(seconds=due.spread * self.chance.fraction()) for _ in rua]
        about = (made.day, made.domain)
        deliveries.add(connection, made.report_id, about, list(zip(rua, times, strict=True)))

    async def _tell_hosts(self, due: Due, host: str | None) -> AsyncIterator[Told]:
        """Report tlsa policies to the operators of their MX hosts, where these ask for it (RFC 8460 section 1.1)."""
        after: hosts.HostDay | None = None
        while True:
            with self.store.read() as connection:
                batch = hosts.untold(connection, BATCH, after=after, host=host)
            if not batch:
                return
            lookups = await self._look_up({one.host for one in batch})
            with self.store.write() as connection:
                told = [self._tell(connection, one, lookups[one.host], due) for one in batch]
            for one in told:
                if one is not None:
                    yield one
            after = batch[-1]

    def _tell(
        self,
        connection: engine.Connection,
        host_day: hosts.HostDay,
        lookup: decision.Lookup,
        due: Due,
    ) -> Told | None:
        if isinstance(lookup, decision.Later):
            return None
        rua = lookup.record.rua if isinstance(lookup, decision.Found) else ()
        shares = hosts.shares(connection, host_day)
        counts = _others(shares, frozenset(one.target for one in rua))
        wanted = bool(rua and counts) and (self.settings.success_only or any(count.failed for count in counts))
        made = self._make((host_day.day, host_day.host), lambda: counts, due) if wanted else None
        if isinstance(made, decision.Wait):
            return None
        if not hosts.mark_told(connection, host_day, shares):
            raise engine.StoreError(f"another process told {host_day.host} meanwhile: this batch is built again")
        if made is None:
            return None
        self._add(connection, made, rua, due)
        return Told(host_day, made.report_id)


async def look_up(dns: resolver.Resolver, domain: str) -> decision.Lookup:
    """Look up what a domain publishes now."""
    try:
        record = await discovery.tlsrpt_record(dns, domain)
    except resolver.TemporaryError as error:
        return decision.Later(str(error))
    except tlsrpt.InvalidRecordError as error:
        return decision.Broken(str(error))
    return decision.Absent() if record is None else decision.Found(record)


def _mailed(connection: engine.Connection, batch: Sequence[reports.DomainDay]) -> dict[reports.DomainDay, int]:
    """Return how many report mails can be among the sessions of each domain-day."""
    by_day: dict[dt.date, dict[str, int]] = {}
    for day in {one.day for one in batch}:
        domains = [one.domain for one in batch if one.day == day]
        by_day[day] = deliveries.mailed(connection, domains, *loopguard.window(day))
    return {one: by_day[one.day].get(one.domain, 0) for one in batch}


def _others(shares: Sequence[hosts.Share], targets: frozenset[str]) -> list[report.PolicyCount]:
    """Sum up, by policy, the shares of domains whose own reports do not reach the host's operator already."""
    sums: dict[session.Policy, counting.PolicyCounts] = {}
    for share in shares:
        if not targets <= share.targets:
            numbers = sums.setdefault(share.count.policy, counting.PolicyCounts())
            numbers.successful += share.count.successful
            numbers.failed += share.count.failed
            numbers.failures.update(dict(share.count.failures))
    return [
        report.PolicyCount(policy, numbers.successful, numbers.failed, tuple(numbers.failures.items()))
        for policy, numbers in sums.items()
    ]
