"""What the policy socket answers, as bytes that are ready: looked up once for all askers, and again before it ends.

A conductor. ``policy.lookups`` finds out what holds for a domain, ``policy.postfix`` words it, and the answer stays
ready until the first of the DNS answers it stands on ends. Who asks for what is ready gets it without parsing, DNS,
disk or waiting. The answer is never TEMP: nothing says that mail must wait.

A policy is kept until its ``max_age`` when the record is gone, too: RFC 8461 section 3.1 says that a missing record is
not sufficient to remove it (else forging one DNS answer were), and section 8.3 how a domain does withdraw: by a policy
of mode ``none`` with a new id. That is noticed as soon as the record's TTL has passed. It is not fetched again without
a record, as section 3.1 ends discovery there, so it does run out.

Ready answers that were asked for are looked up again shortly before they end; policies are fetched again each day, as
section 10.2 asks, while their domain is asked for. :meth:`Answers.run` does both.

Known limits: times are Unix seconds, so a clock that is set back makes answers last longer.
"""

import asyncio
import dataclasses
import heapq
import math
import time
from collections.abc import Callable

import structlog

from policy import cache, https, lookups, postfix, resolver, socketmap, statistics, verdict

RETRY_IDLE = 3600
"""Seconds instead of :data:`policy.lookups.RETRY` to refresh a policy that nobody asked for since."""

REFRESH = 86_400
"""Seconds until a policy is fetched again (RFC 8461 section 3.3 suggests once a day), or half of its ``max_age``."""

ASKED_FOR = 7 * 86_400
"""Seconds since the last question during which policies are refreshed: who gets mail once a week stays protected."""

LEAD = 25
"""Seconds before it ends that an answer is looked up again: :data:`policy.lookups.LIMIT` and a :data:`ROUND`."""

ROUND = 5.0
"""Seconds between two looks for what is to be looked up again."""

SLICE = 500
"""Entries looked at in one go: less than a millisecond, so no asker waits for it."""

MAX_DOMAINS = 50_000
"""Answers ready, some 100 MB with the steps of each; those asked for the longest time ago go first."""

MAX_WEIGHT = 64 * 1024 * 1024
"""Octets of ready answers and their policies, roughly: a stranger's policy can have 64 KiB."""

MAX_SPELLINGS = 100_000
"""Spellings of requests remembered; then all are forgotten, which costs each one parse."""

MAX_FLIGHTS = 10_000
"""Look-ups at once, most of them waiting for a slot; beyond, what is known decides at once."""

MAX_IN_BACKGROUND = 50
"""Look-ups at once that nobody waits for."""

_BARE_WEIGHT = 1000
"""Octets of an entry without policy and answers."""

_EVICTED = 16
"""One in so many entries goes when there is no room: choosing them takes a look at all."""

_NOTFOUND = socketmap.reply(postfix.NOT_FOUND)
_UNKNOWN = socketmap.reply(b"PERM unknown map name")
_NAMES = frozenset({postfix.QUERY, postfix.QUERY_WITH_TLSRPT, postfix.JSON, postfix.PEEK})

Report = Callable[[bytes], None]
"""Takes a datagram of ``policy.findings``; must neither wait nor raise."""


@dataclasses.dataclass(slots=True)
class _Entry:
    """A domain and what is answered for it."""

    memory: lookups.Memory
    asked: float
    """When somebody asked last."""
    deadline: float = -math.inf
    """Until when it is ready."""
    wanted: bool = False
    """Whether somebody asked since it was looked up."""
    outcome: lookups.Outcome | None = None
    replies: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    """Netstrings by map name; postfix.JSON only once it is asked for."""
    datagram: bytes | None = None
    """That of the outcome."""
    level: str = verdict.Level.NONE.value
    """That of the outcome."""
    refreshed: float = -math.inf
    """When a refresh of the policy was tried last."""
    weight: int = 0


@dataclasses.dataclass(slots=True)
class _Flight:
    """A look-up under way."""

    entry: _Entry
    settled: asyncio.Event
    """Set as soon as there is an answer, be it a makeshift."""
    task: asyncio.Task[None] | None = None


class Answers:
    """Answers requests; to be used in one event loop, and closed.

    Args:
        dns: whom to ask.
        client: fetches policies.
        kept: the policies that are known; not closed here.
        report: gets a datagram for each answered question that met a finding, if the domain asks for reports.
        clock: Unix seconds.
        limit: seconds an asker waits at most.
        port: of policy hosts; another one than 443 is for tests.
        max_domains: answers ready.
        numbers: what is counted for monitoring.
        log: where to warn.
    """

    def __init__(
        self,
        dns: resolver.Resolver,
        client: https.Client,
        kept: cache.Cache,
        *,
        report: Report,
        clock: Callable[[], float] = time.time,
        limit: float = lookups.LIMIT,
        port: int = 443,
        max_domains: int = MAX_DOMAINS,
        numbers: statistics.Statistics | None = None,
        log: structlog.typing.FilteringBoundLogger | None = None,
    ) -> None:
        self._log = log or structlog.get_logger()
        self._cache, self._report, self._clock, self._max_domains = kept, report, clock, max_domains
        self._numbers = numbers if numbers is not None else statistics.Statistics()
        self._lookups = lookups.Lookups(
            dns, client, kept, clock=clock, limit=limit, port=port, fetches=self._numbers.fetches, log=self._log
        )
        self._known: dict[bytes, tuple[bytes, str]] = {}
        self._entries: dict[str, _Entry] = {}
        self._weight = 0
        self._flights: dict[str, _Flight] = {}
        self._in_background = 0

    def ready(self, request: bytes) -> bytes | None:
        """Return the answer as a netstring if it is ready; ``None``: it must be looked up, or this is no request.

        Args:
            request: a netstring: :data:`policy.postfix.QUERY` or one of its likes, a space, the key Postfix asks for.
        """
        known = self._known.get(request) or self._recognize(request)
        if known is None:
            return None
        map_name, domain = known
        entry = self._entries.get(domain)
        if entry is None:
            return self._at_once(map_name, domain)
        now = self._clock()
        if entry.deadline <= now:
            return None
        entry.wanted = True
        return self._give(entry, map_name, now)

    async def answer(self, request: bytes) -> bytes:
        """Return the answer to a request as a netstring, looked up if it is not ready."""
        reply = self.ready(request)
        if reply is None:
            map_name, domain = self._known[request]
            began = time.monotonic()
            entry = await self._fresh(domain)
            self._numbers.waits.append(time.monotonic() - began)
            reply = self._give(entry, map_name, self._clock())
        return reply

    async def run(self) -> None:
        """Look up again what is about to end and was asked for, until cancelled."""
        while True:
            await self.sweep()
            await asyncio.sleep(ROUND)

    async def sweep(self) -> None:
        """Start to look up again what it is time for: one round of :meth:`run`."""
        for number, entry in enumerate(tuple(self._entries.values()), start=1):
            if entry.wanted and entry.deadline - LEAD <= self._clock() < entry.deadline:
                self._renew(entry)
            if number % SLICE == 0:
                await asyncio.sleep(0)
        for number, kept in enumerate(self._cache, start=1):
            if self._due(kept, self._clock()):
                self._renew(self._entry(kept.domain, asked=kept.fetched))
            if number % SLICE == 0:
                await asyncio.sleep(0)
        numbers = self._numbers
        numbers.ready, numbers.under_way, numbers.kept = len(self._entries), len(self._flights), len(self._cache)

    async def close(self) -> None:
        """Break off what is under way."""
        tasks = [flight.task for flight in self._flights.values() if flight.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _recognize(self, request: bytes) -> tuple[bytes, str] | None:
        """Parse a request, and remember its map name and domain; the latter is empty: nothing is looked up."""
        parsed = socketmap.request(request)
        if parsed is None:
            return None
        map_name, key = parsed
        domain = socketmap.key(key) if map_name in _NAMES else None
        if len(self._known) >= MAX_SPELLINGS:
            self._known.clear()
        found = self._known[request] = map_name, domain.a_label if domain is not None else ""
        return found

    def _at_once(self, map_name: bytes, domain: str) -> bytes | None:
        """Return the netstring for what needs no look-up; ``None``: it needs one."""
        if map_name not in _NAMES:
            self._numbers.answers[statistics.UNKNOWN_MAP] += 1
            return _UNKNOWN
        if domain:
            return None
        self._numbers.answers[verdict.Level.NONE.value] += 1
        return _NOTFOUND

    def _give(self, entry: _Entry, map_name: bytes, now: float) -> bytes:
        entry.asked = now
        self._numbers.answers[entry.level] += 1
        if entry.datagram is not None and map_name != postfix.PEEK:
            self._report(entry.datagram)
        return entry.replies.get(map_name) or self._word(entry, map_name)

    def _word(self, entry: _Entry, map_name: bytes) -> bytes:
        """Make an answer that is seldom asked for."""
        reply = entry.replies[map_name] = _worded(entry.outcome, map_name)
        self._weigh(entry)
        return reply

    def _entry(self, domain: str, asked: float) -> _Entry:
        entry = self._entries.get(domain)
        if entry is None:
            entry = self._entries[domain] = _Entry(lookups.Memory(domain), asked)
            self._weigh(entry)
        return entry

    async def _fresh(self, domain: str) -> _Entry:
        """Return the entry of a domain, ready."""
        now = self._clock()
        flight = self._flights.get(domain)
        if flight is None:
            entry = self._entry(domain, now)
            if entry.deadline > now:
                return entry
            if len(self._flights) >= MAX_FLIGHTS:
                return self._makeshift(entry)
            flight = self._start(entry)
        elif flight.entry.deadline > now:
            return flight.entry
        await flight.settled.wait()
        return flight.entry

    def _makeshift(self, entry: _Entry) -> _Entry:
        """Return an entry made of what is known, for one asker."""
        once = dataclasses.replace(entry)
        self._settle(once, self._lookups.known(entry.memory))
        return once

    def _start(self, entry: _Entry, *, refresh: bool = False, background: bool = False) -> _Flight:
        flight = _Flight(entry, asyncio.Event())
        flight.task = asyncio.create_task(self._fly(flight, refresh=refresh, background=background))
        self._flights[entry.memory.domain] = flight
        return flight

    async def _fly(self, flight: _Flight, *, refresh: bool, background: bool) -> None:
        def settle(outcome: lookups.Outcome) -> None:
            self._settle(flight.entry, outcome)
            flight.settled.set()

        memory = flight.entry.memory
        try:
            await self._lookups.look_up(memory, settle, refresh=refresh)
        except Exception:  # noqa: BLE001 - a fault of ours must not leave an asker without an answer
            self._log.exception("a look-up failed", domain=memory.domain)
        finally:
            self._in_background -= background
            del self._flights[memory.domain]
            flight.settled.set()

    def _settle(self, entry: _Entry, outcome: lookups.Outcome) -> None:
        """Make the answers of an entry."""
        entry.outcome, entry.datagram, entry.level = outcome, outcome.datagram, outcome.decided.level.value
        entry.replies = {name: _worded(outcome, name) for name in (postfix.QUERY, postfix.QUERY_WITH_TLSRPT)}
        entry.deadline = self._clock() + outcome.ttl
        entry.wanted = False
        self._weigh(entry)

    def _renew(self, entry: _Entry) -> None:
        """Look an entry up in the background, with its policy if that is due."""
        if entry.memory.domain in self._flights or self._in_background >= MAX_IN_BACKGROUND:
            return
        now = self._clock()
        kept = self._cache.get(entry.memory.domain)
        refresh = kept is not None and self._due(kept, now)
        if refresh:
            entry.refreshed = now
        self._in_background += 1
        self._start(entry, refresh=refresh, background=True)

    def _due(self, kept: cache.Kept, now: float) -> bool:
        """Tell whether it is time to fetch a policy again that has not expired."""
        if kept.policy is None or not kept.holds(now):
            return False
        if now - kept.fetched < min(REFRESH, kept.policy.max_age / 2) and kept.failure is None:
            return False
        entry = self._entries.get(kept.domain)
        asked, tried = (kept.fetched, -math.inf) if entry is None else (entry.asked, entry.refreshed)
        if kept.failure is not None:
            tried = max(tried, kept.failure.at)
        return now - asked <= ASKED_FOR and now - tried >= (lookups.RETRY if asked >= tried else RETRY_IDLE)

    def _weigh(self, entry: _Entry) -> None:
        """Account for what an entry takes, and make room."""
        if self._entries.get(entry.memory.domain) is not entry:
            return
        policy = entry.outcome.decided.sts if entry.outcome is not None else None
        weight = _BARE_WEIGHT + sum(map(len, entry.replies.values())) + cache.weight(policy)
        self._weight += weight - entry.weight
        entry.weight = weight
        while len(self._entries) > self._max_domains or self._weight > MAX_WEIGHT:
            count = len(self._entries) // _EVICTED + 1
            for oldest in heapq.nsmallest(count, self._entries.values(), key=lambda one: one.asked):
                del self._entries[oldest.memory.domain]
                self._weight -= oldest.weight


def _worded(outcome: lookups.Outcome | None, map_name: bytes) -> bytes:
    """Put an outcome as a netstring; without one, nothing is known that would be enforced."""
    if outcome is None:
        return _NOTFOUND
    if map_name in {postfix.JSON, postfix.PEEK}:
        return socketmap.reply(postfix.json(outcome.decided))
    return socketmap.reply(postfix.answer(outcome.decided, tlsrpt=map_name == postfix.QUERY_WITH_TLSRPT))
