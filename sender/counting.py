"""From datagrams to counts: the heart of the tally, without the store and the journal.

Pure. Equal datagrams are equal bytes: :func:`count` takes distinct byte strings with their number and decodes each
once. What comes out is keyed by domain, policy and failure, ready to be added to the store.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import msgspec

from sender import datagram
from sender.session import Failure, Policy, Session

MAX_FAILURES = 1000
"""Distinct failure details kept per domain, day and closing: enough for every MX, address and reason of a large
domain, and a report of them stays far below the 10 MB that receivers take (RFC 8460 section 5.2)."""

MAX_POLICIES = 32
"""Distinct policies kept per domain, day and closing: a policy seldom changes twice a day, and a domain seldom has
more MX hosts with TLSA records; a hostile one could answer each look-up with another."""

KEY_SIZE = 16
"""Bytes of a key: 128 bits, no two values meet by chance."""


@dataclasses.dataclass(slots=True)
class PolicyCounts:
    """Sessions by one policy, and its failures with the number of sessions each befell."""

    successful: int = 0
    failed: int = 0
    failures: collections.Counter[Failure] = dataclasses.field(default_factory=collections.Counter)


@dataclasses.dataclass(slots=True)
class DomainCounts:
    """Sessions of one recipient domain."""

    record: str | None = None
    """A TLSRPT record that the sessions brought; where it changed, most likely the later one."""
    policies: dict[Policy, PolicyCounts] = dataclasses.field(default_factory=dict)

    @property
    def successful(self) -> int:
        """Successful sessions over all policies."""
        return sum(counts.successful for counts in self.policies.values())

    @property
    def failed(self) -> int:
        """Failed sessions over all policies."""
        return sum(counts.failed for counts in self.policies.values())


@dataclasses.dataclass(slots=True)
class Counts:
    """What a stretch of the journal held."""

    domains: dict[str, DomainCounts] = dataclasses.field(default_factory=dict)
    malformed: list[tuple[bytes, datagram.MalformedError, int]] = dataclasses.field(default_factory=list)
    """Each distinct malformed datagram, what is wrong with it, and how often it came."""


def count(datagrams: Mapping[bytes, int]) -> Counts:
    """Count the sessions that datagrams tell of; a malformed one is set aside and stops nothing.

    Args:
        datagrams: each distinct one, and how often it came.
    """
    counts = Counts()
    for raw, times in datagrams.items():
        try:
            session = datagram.decode(raw)
        except datagram.MalformedError as error:
            counts.malformed.append((raw, error, times))
        else:
            _add(counts.domains, session, times)
    return counts


def _add(domains: dict[str, DomainCounts], session: Session, times: int) -> None:
    domain = domains.get(session.domain)
    if domain is None:
        domain = domains[session.domain] = DomainCounts()
    if session.record is not None:
        domain.record = session.record
    for result in session.results:
        policy = domain.policies.get(result.policy)
        if policy is None:
            policy = domain.policies[result.policy] = PolicyCounts()
        if result.failed:
            policy.failed += times
        else:
            policy.successful += times
        for failure in result.failures:
            policy.failures[failure] += times


def key(value: Policy | Failure) -> str:
    """Return what names a policy or failure in the store: equal values have equal keys, on every host."""
    return hashlib.blake2b(msgspec.json.encode(value), digest_size=KEY_SIZE).hexdigest()


def bound_policies(domain: str, counts: DomainCounts, known: AbstractSet[str]) -> DomainCounts:
    """Return the counts with at most :data:`MAX_POLICIES` distinct policies, those already ``known`` included.

    A policy too many is counted under one of its type without particulars.

    Args:
        domain: whose counts these are.
        counts: what is to be added.
        known: keys of the policies that the store has for this domain, day and closing.
    """
    if len(known) + len(counts.policies) <= MAX_POLICIES:
        return counts
    room = MAX_POLICIES - len(known)
    bounded = DomainCounts(record=counts.record)
    for policy, numbers in counts.policies.items():
        kept = policy
        if key(policy) not in known:
            room -= 1
            kept = policy if room >= 0 else Policy(policy.type, domain)
        _merge(bounded.policies.setdefault(kept, PolicyCounts()), numbers)
    return bounded


def _merge(into: PolicyCounts, numbers: PolicyCounts) -> None:
    into.successful += numbers.successful
    into.failed += numbers.failed
    into.failures.update(numbers.failures)


def bound_failures(counts: DomainCounts, known: AbstractSet[tuple[str, str]]) -> DomainCounts:
    """Return the counts with at most :data:`MAX_FAILURES` distinct failures, those already ``known`` included.

    A failure too many is counted under one of its result type without particulars (for each policy).

    Args:
        counts: what is to be added.
        known: keys of (policy, failure) that the store has for this domain, day and closing.
    """
    room = MAX_FAILURES - len(known)
    if sum(len(numbers.failures) for numbers in counts.policies.values()) <= room:
        return counts
    bounded = DomainCounts(record=counts.record)
    for policy, numbers in counts.policies.items():
        kept = bounded.policies[policy] = PolicyCounts(numbers.successful, numbers.failed)
        policy_key = key(policy)
        for failure, sessions in numbers.failures.items():
            is_known = (policy_key, key(failure)) in known
            room -= not is_known
            kept.failures[failure if is_known or room >= 0 else Failure(failure.result_type)] += sessions
    return bounded
