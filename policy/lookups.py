"""One look-up of a domain, in bounded time: DANE, MTA-STS and what is kept of it, to a verdict with a time to live.

A conductor below ``policy.answers``. ``policy.dane`` and ``policy.sts`` are asked at the same time, ``policy.verdict``
decides, and what was fetched, or that it failed, is kept in ``policy.cache``. When a finding is met, the domain's
TLSRPT record is looked up, too: only who asks for reports gets to know.

A look-up is in time or does without: after :data:`LIMIT` what is known decides, and what is found later holds from
then on. What is known is the policy of the cache until its ``max_age``, and DANE as it was found before. Where nothing
is known nothing is enforced.

Known limits: DANE that was found is forgotten by a restart.
"""

import asyncio
import collections
import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

import structlog

from policy import cache, dane, discovery, findings, https, mtasts, resolver, statistics, sts, tlsrpt, verdict

LIMIT = 20.0
"""Seconds an asker waits at most: Postfix gives a socketmap 100. More than twice what the resolver takes at most."""

RECORD_LIMIT = 5.0
"""Seconds of these, at most, for the TLSRPT record when the policy does not come in time."""

MIN_TTL = 60
"""Seconds what was found holds at least: a TTL of 0 must not make every mail a look-up."""

MAX_TTL = 86_400
"""Seconds it holds at most."""

RETRY = 300
"""Seconds a failed fetch is not tried again for the same id (RFC 8461 section 3.3)."""

STALE_DANE = 86_400
"""Seconds that DANE as it was found holds while the DNS does not answer."""

DANE_SLOTS = 200
"""Domains whose DANE is looked up at once; each is up to some ten questions at a time."""

STS_SLOTS = 90
"""Domains whose MTA-STS is looked up at once; the client has 100 connections, and waiting for one would be counted as
the policy host's fault."""

_STRENGTH = (None, verdict.Level.DANE, verdict.Level.DANE_ONLY)

_NO_DANE_YET = verdict.Dane(None, ("DANE could not be looked up in time.",), "no answer in time")

_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What holds for a domain."""

    decided: verdict.Verdict
    ttl: float
    """Seconds, :data:`MIN_TTL` to :data:`MAX_TTL`."""
    datagram: bytes | None
    """For the recorder, each time somebody meets this finding; ``None``: no finding, or the domain wants no reports."""


@dataclasses.dataclass(slots=True)
class Memory:
    """What a look-up leaves to the next one of the same domain, besides the cache."""

    domain: str
    """A-labels in lower case."""
    dane: verdict.Dane | None = None
    """The last that was found without trouble."""
    dane_at: float = -math.inf
    """Unix seconds."""
    wants_reports: bool = True
    """Whether there is a TLSRPT record, or nobody knows."""
    record: str | None = None
    """Its text, as far as it is known."""


@dataclasses.dataclass(slots=True)
class _Flight:
    """A look-up under way."""

    memory: Memory
    refresh: bool
    began: float = math.inf
    """Loop time when MTA-STS had its slot."""


class Lookups:
    """Looks domains up, any number at once; to be used in one event loop.

    Args:
        dns: whom to ask.
        client: fetches policies.
        kept: the policies that are known.
        clock: Unix seconds.
        limit: seconds until there is an outcome.
        port: of policy hosts; another one than 443 is for tests.
        fetches: counts attempts to fetch a policy, by outcome.
        log: where to warn.
    """

    def __init__(
        self,
        dns: resolver.Resolver,
        client: https.Client,
        kept: cache.Cache,
        *,
        clock: Callable[[], float],
        limit: float = LIMIT,
        port: int = 443,
        fetches: collections.Counter[str] | None = None,
        log: structlog.typing.FilteringBoundLogger | None = None,
    ) -> None:
        self._dns, self._client, self._cache = dns, client, kept
        self._clock, self._limit, self._port = clock, limit, port
        self._fetches = fetches if fetches is not None else collections.Counter()
        self._log = log or structlog.get_logger()
        self._dane_slots, self._sts_slots = asyncio.Semaphore(DANE_SLOTS), asyncio.Semaphore(STS_SLOTS)

    async def look_up(self, memory: Memory, settle: Callable[[Outcome], None], *, refresh: bool = False) -> None:
        """Look a domain up; the outcome goes to ``settle``, in time, and once more if more is known later.

        Args:
            memory: of this domain.
            settle: gets the outcome.
            refresh: fetch the policy also when its id has not changed.
        """
        flight = _Flight(memory, refresh)
        daning, stsing = asyncio.create_task(self._dane(memory)), asyncio.create_task(self._sts(flight))
        recording: asyncio.Task[None] | None = None
        try:
            spare = min(RECORD_LIMIT, self._limit / 4)
            _, late = await asyncio.wait((daning, stsing), timeout=self._limit - spare)
            if late:
                recording = asyncio.create_task(self._look_for_record(memory))
                _, late = await asyncio.wait(late, timeout=spare)
            if late:
                settle(self._outcome(flight, self._result(daning), self._result(stsing)))
                await asyncio.wait(late)
            settle(self._outcome(flight, self._result(daning), self._result(stsing)))
        finally:
            await _end(daning, stsing, recording)

    def known(self, memory: Memory) -> Outcome:
        """Return what is known of a domain without a look-up."""
        return self._outcome(_Flight(memory, refresh=False), None, None)

    def _result(self, task: asyncio.Task[_Result]) -> _Result | None:
        """Return what a part of a look-up found; ``None``: it is under way, or ended by a fault of ours."""
        if not task.done():
            return None
        error = task.exception()
        if error is not None:
            self._log.error("a part of a look-up failed", exc_info=error)
            return None
        return task.result()

    async def _dane(self, memory: Memory) -> dane.Looked:
        async with self._dane_slots:
            return await dane.look_up(self._dns, memory.domain)

    async def _sts(self, flight: _Flight) -> sts.Looked:
        memory = flight.memory
        async with self._sts_slots:
            flight.began = asyncio.get_running_loop().time()
            now = self._clock()
            kept = self._kept(memory.domain)
            looked = await sts.look_up(
                self._dns,
                self._client,
                memory.domain,
                known_policy(kept, now),
                failed=_failed(kept, now, refresh=flight.refresh),
                refresh=flight.refresh,
                port=self._port,
            )
        self._keep(looked, memory.domain)
        if looked.sts.finding is not None:
            await self._look_for_record(memory)
        return looked

    async def _look_for_record(self, memory: Memory) -> None:
        """Find out whether the domain asks for reports; what was known stays when nobody knows now."""
        try:
            record = await discovery.tlsrpt_record(self._dns, memory.domain)
        except resolver.TemporaryError:
            return
        except tlsrpt.InvalidRecordError:
            record = None
        memory.wants_reports = record is not None
        memory.record = record.text if record is not None else None

    def _kept(self, domain: str) -> cache.Kept:
        return self._cache.get(domain) or cache.Kept(domain)

    def _keep(self, looked: sts.Looked, domain: str) -> None:
        """Remember what was fetched, or that it failed."""
        now = self._clock()
        kept = self._kept(domain)
        if looked.fetched is not None:
            self._fetches[statistics.FETCHED] += 1
            self._cache.put(cache.Kept(domain, looked.fetched.id, looked.fetched.policy, now))
        elif looked.failed is not None:
            self._fetches[looked.failed.finding.result_type.value] += 1
            failure = cache.Failure(looked.failed.id, looked.failed.finding, now)
            known = kept if kept.holds(now) else cache.Kept(domain)
            self._cache.put(dataclasses.replace(known, failure=failure))
            self._warn(known, failure)

    def _warn(self, kept: cache.Kept, failure: cache.Failure) -> None:
        """Alert administrators (RFC 8461 section 3.3): what runs out unrefreshed protects nobody."""
        if kept.policy is not None and kept.policy.mode is not mtasts.Mode.NONE:
            left = round(kept.fetched + kept.policy.max_age - failure.at)
            finding = failure.finding
            self._log.warning(
                "policy not refreshed",
                domain=kept.domain,
                error=finding.result_type.value,
                reason=finding.reason,
                seconds_left=left,
            )

    def _outcome(self, flight: _Flight, found_dane: dane.Looked | None, found_sts: sts.Looked | None) -> Outcome:
        """Decide by what was found, and by what is known where nothing was."""
        memory, now = flight.memory, self._clock()
        about_dane = _steady(memory, found_dane.dane if found_dane else _NO_DANE_YET, now)
        about_sts = found_sts.sts if found_sts else self._sts_so_far(flight, now)
        ttl = min(found.ttl if found else MIN_TTL for found in (found_dane, found_sts))
        decided = verdict.decide(memory.domain, about_dane, about_sts)
        return Outcome(
            decided=decided,
            ttl=max(MIN_TTL, min(ttl, MAX_TTL, self._left(memory.domain, now))),
            datagram=_datagram(memory, decided),
        )

    def _sts_so_far(self, flight: _Flight, now: float) -> verdict.Sts:
        """Tell what is known of MTA-STS before the look-up is done.

        The resolver has less than half of the limit, so what takes longer is the policy host.
        """
        known = known_policy(self._kept(flight.memory.domain), now)
        slow = asyncio.get_running_loop().time() - flight.began > self._limit / 2
        finding = verdict.Finding(verdict.FindingType.STS_POLICY_FETCH_ERROR, "timeout") if slow else None
        step = "The policy host does not answer in time." if slow else "MTA-STS could not be looked up in time."
        if known is None:
            return verdict.Sts(None, None, finding, (step,))
        held = f"The policy with id {known.id} was fetched before and has not expired."
        return verdict.Sts(known.policy, known.id, finding, (step, held))

    def _left(self, domain: str, now: float) -> float:
        """Return in how many seconds what is kept of a domain makes a difference: the policy ends, or a new try."""
        kept = self._kept(domain)
        if kept.policy is not None and kept.holds(now):
            return kept.fetched + kept.policy.max_age - now
        return _pause(kept, now) or math.inf


def known_policy(kept: cache.Kept, now: float) -> sts.Known | None:
    """Return the kept policy that has not expired; ``None``: there is none."""
    if kept.id is None or kept.policy is None or not kept.holds(now):
        return None
    return sts.Known(kept.id, kept.policy)


def _failed(kept: cache.Kept, now: float, *, refresh: bool) -> sts.Failed | None:
    """Return the failure that is not to be tried again now; with a policy to go on with, only a refresh tries again."""
    failure = kept.failure
    if failure is None or (not _pause(kept, now) and (refresh or not kept.holds(now))):
        return None
    return sts.Failed(failure.id, failure.finding)


def _pause(kept: cache.Kept, now: float) -> float:
    """Return for how many seconds a failed fetch is not to be tried again."""
    return max(0.0, kept.failure.at + RETRY - now) if kept.failure is not None else 0.0


def _steady(memory: Memory, found: verdict.Dane, now: float) -> verdict.Dane:
    """Let DANE that was found before hold while the DNS has no answer."""
    if found.later is None:
        memory.dane, memory.dane_at = found, now
        return found
    before = memory.dane
    if before is None or now - memory.dane_at > STALE_DANE:
        return found
    if _STRENGTH.index(before.level) <= _STRENGTH.index(found.level):
        return found
    minutes = round((now - memory.dane_at) / 60)
    steps = (*found.steps, f"What was found {minutes} minutes ago holds for now: {before.level}.")
    return verdict.Dane(before.level, steps, found.later, before.authenticates)


def _datagram(memory: Memory, decided: verdict.Verdict) -> bytes | None:
    if decided.finding is None or not memory.wants_reports:
        return None
    return findings.datagram(memory.domain, decided.finding, memory.record, decided.sts)


async def _end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel what still runs, and wait for its end."""
    running = [task for task in tasks if task is not None and not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.gather(*running, return_exceptions=True)
