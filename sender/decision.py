"""Whether a domain-day gets a report, and to whom: a decision is a value that ``sender.building`` carries out.

Pure. The reasons are what ``tlsrpt pending`` shows a postmaster.
"""

import dataclasses

from policy import tlsrpt
from sender import loopguard, rules


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """The domain publishes a TLSRPT record."""

    record: tlsrpt.Record


@dataclasses.dataclass(frozen=True, slots=True)
class Absent:
    """The domain publishes none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Broken:
    """The domain publishes something that cannot be used."""

    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class Later:
    """It cannot be told now: a temporary failure of the DNS."""

    why: str


Lookup = Found | Absent | Broken | Later


@dataclasses.dataclass(frozen=True, slots=True)
class Send:
    """A report goes to these rua."""

    destinations: tuple[rules.Destination, ...]

    @property
    def rua(self) -> tuple[tlsrpt.Rua, ...]:
        """Return where to."""
        return tuple(one.rua for one in self.destinations)


@dataclasses.dataclass(frozen=True, slots=True)
class Skip:
    """No report goes out."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class SkipOwn:
    """No report goes out, not even to the MX hosts: the sessions can all be our own report mails."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Wait:
    """It is decided at the next run."""

    reason: str


Decision = Send | Skip | SkipOwn | Wait


def decide(
    lookup: Lookup,
    *,
    domain: str,
    seen: str | None,
    successful: int,
    failed: int,
    mailed: int,
    success_only: bool,
    reach: rules.Reach,
) -> Decision:
    """Decide about a domain-day.

    Args:
        lookup: what the domain publishes now.
        domain: which.
        seen: the record that the sessions brought.
        successful: sessions.
        failed: sessions.
        mailed: report mails that can be among the sessions (``loopguard``).
        success_only: whether days on which nothing failed are reported.
        reach: whom reports do not go to.
    """
    if loopguard.all_our_own(successful, failed, mailed):
        return SkipOwn(f"all sessions can be our own report mails ({mailed} sent): a report would go round for ever")
    if not failed and not success_only:
        return Skip("nothing failed, and report.success_only is off")
    if isinstance(lookup, Later):
        lookup = _remembered(lookup, seen)
    match lookup:
        case Absent():
            return Skip("the TLSRPT record was withdrawn" if seen else "there is no TLSRPT record")
        case Broken(why):
            return Skip(f"the TLSRPT record cannot be used: {why}")
        case Later(why):
            return Wait(f"the TLSRPT record cannot be looked up, tried again: {why}")
        case Found(record):
            return _send(record, reach, domain, failed=failed > 0)


def _send(record: tlsrpt.Record, reach: rules.Reach, domain: str, *, failed: bool) -> Send | Skip:
    if not record.rua:
        return Skip(_why_no_rua(record))
    going, reasons = reach.apply(domain, record.rua, failed=failed)
    return Send(going) if going else Skip("; ".join(reasons))


def _remembered(lookup: Later, seen: str | None) -> Lookup:
    """Fall back to the record that the sessions brought, if it can be used."""
    if seen is None:
        return lookup
    try:
        return Found(tlsrpt.parse_record(seen))
    except tlsrpt.InvalidRecordError:
        return lookup


def _why_no_rua(record: tlsrpt.Record) -> str:
    if not record.unusable:
        return "the TLSRPT record has no rua"
    reasons = "; ".join(f"{one.uri}: {one.reason}" for one in record.unusable)
    return f"the TLSRPT record has no usable rua: {reasons}"
