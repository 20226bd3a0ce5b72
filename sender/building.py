"""Build reports: decide about each closed domain-day, and keep the report with its deliveries.

A conductor. The rua are discovered anew (``policy.discovery``), the decision is ``sender.decision``'s, the document
``sender.report``'s. Each decision is one transaction; what is interrupted is done again by the next run, once.
Domain-days come in batches, so memory does not grow with their number, but for that of the domains behind one MX host.
"""

import asyncio
import collections
import contextlib
import dataclasses
import datetime as dt
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence

import structlog

from policy import discovery, resolver, tlsrpt
from sender import config, counting, decision, loopguard, report, rules, session
from sender.store import deliveries, engine, hosts, locks, reports, schema, suppressions

log = structlog.get_logger()

BATCH = 1000
"""Domain-days at a time: their transaction takes a fraction of a second, in which the tally waits."""

AHEAD = 4
"""Batches being looked up at a time: a dead nameserver must not hold up all others for as long as it is waited for."""

LOOKUPS = 50
"""DNS look-ups at a time for each batch: all together what a resolver of one's own takes without noticing."""


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
class _Batch:
    """Domain-days, and what is needed to decide about them."""

    domain_days: list[reports.DomainDay]
    mailed: Mapping[reports.DomainDay, int]
    """How many report mails can be among the sessions of each."""
    reach: rules.Reach
    """Whom reports do not go to."""


@dataclasses.dataclass(frozen=True, slots=True)
class Builder:
    """What building needs, put together once."""

    store: engine.Store
    dns: resolver.Resolver
    identity: config.Identity
    settings: config.Report
    chance: Chance
    clock: Callable[[], dt.datetime]
    """Tells the time, aware."""
    exceptions: tuple[rules.Rule, ...] = ()
    """Whom reports do not go to, or not as published."""

    async def build(self, due: Due, *, domain: str | None = None) -> AsyncGenerator[Decided | Told]:
        """Decide about every closed domain-day, and yield what became of each.

        Args:
            due: when reports are made and first deliveries are due.
            domain: only reports about this policy domain.

        Raises:
            store.engine.StoreError: the store cannot be used; what was yielded is done.
        """

        def claim(after: reports.DomainDay | None) -> _Batch:
            def work(connection: engine.Connection) -> _Batch:
                batch = reports.claim(connection, self.clock(), BATCH, after=after, domain=domain)
                return _Batch(batch, _mailed(connection, batch), self._reach(connection))

            return self.store.change(work)

        async with contextlib.aclosing(self._decide_all(claim, self._release)) as batches:
            async for batch in batches:
                for decided in self.store.change(functools.partial(self._keep, batch=batch, due=due)):
                    yield decided
        async for told in self._tell_hosts(due, domain):
            yield told

    async def decide(self, *, domain: str | None = None, last: dt.date | None = None) -> AsyncIterator[list[Decided]]:
        """Yield decisions about all closed domain-days in batches; nothing is changed.

        Args:
            domain: only about this recipient domain.
            last: as if all days up to this one were closed.
        """

        def look(after: reports.DomainDay | None) -> _Batch:
            with self.store.read() as connection:
                batch = reports.undecided(connection, BATCH, after=after, domain=domain, last=last)
                return _Batch(batch, _mailed(connection, batch), self._reach(connection))

        async for decided in self._decide_all(look, lambda _: None):
            yield decided

    async def _decide_all(
        self, take: Callable[[reports.DomainDay | None], _Batch], put_back: Callable[[list[reports.DomainDay]], None]
    ) -> AsyncGenerator[list[Decided]]:
        """Yield decisions batch by batch; what was taken and not yielded is put back."""
        ahead: collections.deque[tuple[list[reports.DomainDay], asyncio.Task[list[Decided]]]] = collections.deque()
        after: reports.DomainDay | None = None
        more = True
        try:
            while more or ahead:
                while more and len(ahead) < AHEAD:
                    batch = take(after)
                    more = len(batch.domain_days) == BATCH
                    if batch.domain_days:
                        after = batch.domain_days[-1]
                        ahead.append((batch.domain_days, asyncio.create_task(self._decided(batch))))
                if ahead:
                    yield await ahead[0][1]
                    ahead.popleft()
        finally:
            for _, task in ahead:
                task.cancel()
            put_back([one for batch, _ in ahead for one in batch])

    def _release(self, claimed: list[reports.DomainDay]) -> None:
        """Give leases back at the end; where that cannot be done, they expire."""
        if claimed:
            with contextlib.suppress(engine.StoreError):
                self.store.change(lambda connection: reports.release(connection, claimed))

    def _reach(self, connection: engine.Connection) -> rules.Reach:
        now = self.clock()
        suppressed = {one.target: one.told() for one in suppressions.active(connection, now)}
        return rules.Reach(self.exceptions, now.astimezone(dt.UTC).date(), suppressed)

    async def _decided(self, batch: _Batch) -> list[Decided]:
        lookups = await self._look_up({one.domain for one in batch.domain_days})
        return [self._decide(one, lookups[one.domain], batch) for one in batch.domain_days]

    def _decide(self, one: reports.DomainDay, lookup: decision.Lookup, batch: _Batch) -> Decided:
        verdict = decision.decide(
            lookup,
            domain=one.domain,
            seen=one.record,
            successful=one.successful,
            failed=one.failed,
            mailed=batch.mailed[one],
            success_only=self.settings.success_only,
            reach=batch.reach,
        )
        return Decided(one, verdict)

    async def _look_up(self, domains: Iterable[str]) -> dict[str, decision.Lookup]:
        waiting = iter(sorted(domains))
        found: dict[str, decision.Lookup] = {}

        async def work() -> None:
            for domain in waiting:
                found[domain] = await look_up(self.dns, domain)

        await asyncio.gather(*(work() for _ in range(LOOKUPS)))
        return found

    def _keep(self, connection: engine.Connection, batch: Sequence[Decided], due: Due) -> list[Decided]:
        """Carry decisions out; return those for which no other process was first."""
        sending = [one.domain_day for one in batch if isinstance(one.decision, decision.Send)]
        counted = reports.counted(connection, sending)
        made = [self._made(one, counted, due) for one in batch]
        settled = reports.settle(connection, [(one.domain_day, *_state(one.decision)) for one, _ in made])
        kept = [pair for pair in made if pair[0].domain_day in settled]
        self._add(connection, [(built, _destinations(one.decision)) for one, built in kept if built is not None], due)
        for one, _ in kept:
            if isinstance(one.decision, decision.SkipOwn):
                hosts.need_not_be_told(connection, one.domain_day)
        return [one for one, _ in kept]

    def _made(
        self, one: Decided, counted: Mapping[reports.DomainDay, reports.Counted], due: Due
    ) -> tuple[Decided, reports.Report | None]:
        """Make the report that was decided on, if one was."""
        day = one.domain_day
        if not isinstance(one.decision, decision.Send):
            return one, None
        made = self._make((day.day, day.domain), counted[day].by_policy, due)
        if isinstance(made, decision.Wait):
            return Decided(day, made), None
        return dataclasses.replace(one, report_id=made.report_id), made

    def _make(
        self, about: tuple[dt.date, str], counts: Callable[[], Sequence[report.PolicyCount]], due: Due
    ) -> reports.Report | decision.Wait:
        """Make a report; one that cannot be made must not keep all others from being made."""
        try:
            return self._report(about, counts(), due)
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

    def _add(
        self,
        connection: engine.Connection,
        made: Sequence[tuple[reports.Report, Sequence[rules.Destination]]],
        due: Due,
    ) -> None:
        reports.add(connection, [one for one, _ in made])
        addressed = [
            deliveries.Addressed(
                one.report_id,
                one.day,
                one.domain,
                [(where.rua, self._when(due)) for where in destinations],
                [where.rule for where in destinations],
            )
            for one, destinations in made
        ]
        deliveries.add(connection, addressed)

    def _when(self, due: Due) -> dt.datetime:
        return due.now + dt.timedelta(seconds=due.spread * self.chance.fraction())

    async def _tell_hosts(self, due: Due, host: str | None) -> AsyncIterator[Told]:
        """Report tlsa policies to the operators of their MX hosts, where these ask for it (RFC 8460 section 1.1)."""
        after: hosts.HostDay | None = None
        while True:
            with self.store.read() as connection:
                batch = hosts.untold(connection, BATCH, after=after, host=host)
            if not batch:
                return
            lookups = await self._look_up({one.host for one in batch})
            asking = [
                (one, _rua(lookups[one.host])) for one in batch if not isinstance(lookups[one.host], decision.Later)
            ]
            for one in self.store.change(functools.partial(self._tell_all, asking=asking, due=due)):
                if one is not None:
                    yield one
            after = batch[-1]

    def _tell_all(
        self, connection: engine.Connection, asking: Sequence[tuple[hosts.HostDay, Sequence[tlsrpt.Rua]]], due: Due
    ) -> list[Told | None]:
        locks.alone(connection, locks.Only.TELLING_HOSTS)
        hosts.mark_all_told(connection, [one for one, rua in asking if not rua])
        reach = self._reach(connection)
        return [self._tell(connection, one, rua, due, reach) for one, rua in asking if rua]

    def _tell(
        self,
        connection: engine.Connection,
        host_day: hosts.HostDay,
        rua: Sequence[tlsrpt.Rua],
        due: Due,
        reach: rules.Reach,
    ) -> Told | None:
        shares = hosts.shares(connection, host_day)
        counts = _others(shares, frozenset(one.target for one in rua))
        failed = any(count.failed for count in counts)
        going, _ = reach.apply(host_day.host, rua, failed=failed)
        wanted = bool(counts) and bool(going) and (self.settings.success_only or failed)
        made = self._make((host_day.day, host_day.host), lambda: counts, due) if wanted else None
        if isinstance(made, decision.Wait):
            return None
        if not hosts.mark_told(connection, host_day, shares):
            raise engine.ConflictError(f"another process told {host_day.host} meanwhile")
        if made is None:
            return None
        self._add(connection, [(made, going)], due)
        return Told(host_day, made.report_id)


def _state(verdict: decision.Decision) -> tuple[str, str | None]:
    match verdict:
        case decision.Send():
            return schema.REPORTED, None
        case decision.Wait(reason):
            return schema.UNDECIDED, reason
        case decision.Skip(reason) | decision.SkipOwn(reason):
            return schema.SKIPPED, reason


def _destinations(verdict: decision.Decision) -> tuple[rules.Destination, ...]:
    return verdict.destinations if isinstance(verdict, decision.Send) else ()


def _rua(lookup: decision.Lookup) -> tuple[tlsrpt.Rua, ...]:
    return lookup.record.rua if isinstance(lookup, decision.Found) else ()


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
