"""Does this domain ask for DANE? Its MX hosts and their TLSA records, from the DNS (RFC 7672 section 2.2).

A conductor: ``policy.resolver`` asks, ``policy.tlsa`` judges records, ``policy.verdict`` has the values. What holds for
the domain follows from its hosts in :func:`_level`: DANE for all of them, for some, or for none. The steps tell a
postmaster what was found on the way.

When the MX records are not secure there is no DANE for the domain, whatever its hosts publish: whoever forges them
leads to hosts of his own (section 2.2.1 leaves it to us). Trouble of the DNS at a host leaves the last word to the MTA,
which asks the same questions at the time of delivery and must defer where they have no answer (section 2.1.2).

Not done: CNAMEs are followed by the recursive resolver, certificates are the MTA's business.
"""

import asyncio
import dataclasses
import enum
from collections.abc import Iterable, Sequence

from policy import resolver, tlsa, verdict

MAX_HOSTS = 16
"""MX hosts that are looked at, those of best preference: large providers have up to ten, an MTA tries a few, and each
is up to five questions that a stranger makes us ask."""


class State(enum.Enum):
    """What a host says about DANE."""

    USABLE = enum.auto()
    """It has TLSA records that its certificate must match."""
    UNUSABLE = enum.auto()
    """It has TLSA records, none of them usable: encrypt, without authentication (RFC 7672 section 2.2)."""
    NONE = enum.auto()
    """It has no TLSA records that DNSSEC vouches for."""
    LATER = enum.auto()
    """Its TLSA records have no answer now: it may or may not have some."""
    UNKNOWN = enum.auto()
    """Its addresses have no answer now, so nobody can deliver there now, either."""
    GONE = enum.auto()
    """It has no address: nobody ever delivers there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Looked:
    """What was found for a domain."""

    dane: verdict.Dane
    ttl: int
    """Seconds until it is to be looked up again, 0 or more: that of the answer that ends first."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    """What was found for one host."""

    state: State
    step: str
    """A sentence."""
    ttl: int


async def look_up(dns: resolver.Resolver, domain: str) -> Looked:
    """Look up DANE for a domain; trouble of the DNS is told in ``later``, never raised.

    Args:
        dns: whom to ask; must validate DNSSEC.
        domain: the next-hop domain as A-labels in lower case.
    """
    try:
        mx = await dns.mx(domain)
    except resolver.TemporaryError as error:
        return _without(f"The MX records of {domain} have no answer now ({error}).", resolver.RETRY, later=str(error))
    why_not = _without_dane(domain, mx)
    if why_not:
        return _without(why_not, mx.ttl)
    hosts = _hosts(domain, mx)
    found = await asyncio.gather(*(_look_at(dns, host) for host in hosts[:MAX_HOSTS]))
    return _judge(domain, mx, found, left_out=len(hosts) - len(found))


def _without(step: str, ttl: int, later: str | None = None) -> Looked:
    return Looked(verdict.Dane(None, (step,), later), ttl)


def _without_dane(domain: str, mx: resolver.Answer[resolver.Mx]) -> str | None:
    """Return why DANE does not apply before any host is looked at; ``None``: it may."""
    if not mx.exists:
        return f"{domain} does not exist in the DNS."
    if mx.records and all(one.host == "." for one in mx.records):
        return f"{domain} takes no mail: it has a null MX record."
    if not mx.secure:
        what = "MX records" if mx.records else "missing MX record"
        return f"No DANE: the {what} of {domain} cannot be trusted, because DNSSEC does not protect the answer."
    return None


def _hosts(domain: str, mx: resolver.Answer[resolver.Mx]) -> tuple[str, ...]:
    """Return the hosts that take mail, best first, each once; the domain itself without MX (RFC 5321 section 5.1)."""
    if not mx.records:
        return (domain,)
    return tuple(dict.fromkeys(one.host for one in mx.records if one.host != "."))


async def _look_at(dns: resolver.Resolver, host: str) -> _Found:
    """Look a host up: first its addresses, which tell whether to ask for TLSA at all (RFC 7672 section 2.2.2)."""
    try:
        addresses = await dns.host(host)
    except resolver.TemporaryError as error:
        return _Found(State.UNKNOWN, f"{host}: its addresses have no answer now ({error}).", resolver.RETRY)
    if not addresses.addresses:
        return _Found(State.GONE, f"{host} has no address, so no mail goes there.", addresses.ttl)
    names = _base_names(host, addresses)
    if not names:
        return _Found(State.NONE, f"{host}: no DANE, because DNSSEC does not protect its addresses.", addresses.ttl)
    try:
        return await _search(dns, host, names, addresses.ttl)
    except resolver.TemporaryError as error:
        return _Found(State.LATER, f"{host}: its TLSA records have no answer now ({error}).", resolver.RETRY)


def _base_names(host: str, addresses: resolver.Host) -> tuple[str, ...]:
    """Return the candidate TLSA base domains, best first (RFC 7672 section 2.2.2); empty: DANE does not apply."""
    if addresses.secure:
        return tlsa.base_names(host, addresses.expanded)
    return (host,) if addresses.first_secure else ()


async def _search(dns: resolver.Resolver, host: str, names: Iterable[str], ttl: int) -> _Found:
    """Judge a host by the first of these names that has TLSA records (RFC 7672 section 2.2.3).

    Raises:
        resolver.TemporaryError: one of the names before it has no answer now.
    """
    found = _Found(State.NONE, f"{host}: no DANE.", ttl)
    for name in names:
        answer = await dns.tlsa(tlsa.query_name(name))
        ttl = min(ttl, answer.ttl)
        found = _judge_host(host, name, answer, ttl)
        if found.state is not State.NONE:
            break
    return found


def _holds(answer: resolver.Answer[tlsa.Record]) -> bool:
    """Tell whether there are TLSA records that DNSSEC vouches for (RFC 7672 section 2.2.3)."""
    return answer.secure and bool(answer.records)


def _judge_host(host: str, name: str, answer: resolver.Answer[tlsa.Record], ttl: int) -> _Found:
    where = tlsa.query_name(name)
    if not _holds(answer):
        why = f"DNSSEC does not protect its TLSA records at {where}" if answer.records else "it has no TLSA records"
        return _Found(State.NONE, f"{host}: no DANE, because {why}.", ttl)
    usable = sum(tlsa.usable(record) for record in answer.records)
    if not usable:
        step = f"{host}: none of the TLSA records at {where} can be used for mail: TLS is a must, with any certificate."
        return _Found(State.UNUSABLE, step, ttl)
    of_all = f"{usable} of {len(answer.records)}" if usable < len(answer.records) else f"{usable}"
    step = f"{host}: its certificate must match the TLSA records at {where} ({of_all} usable)."
    return _Found(State.USABLE, step, ttl)


def _judge(domain: str, mx: resolver.Answer[resolver.Mx], found: Sequence[_Found], left_out: int) -> Looked:
    """Put together what was found for the hosts."""
    states = {one.state for one in found}
    level = _level(states, complete=left_out == 0)
    troubles = [one.step for one in found if one.state in {State.LATER, State.UNKNOWN}]
    steps = (
        _first_step(domain, mx),
        *(one.step for one in found),
        *([f"{left_out} more MX hosts were not looked at."] if left_out else []),
        _LAST_STEPS[level],
    )
    ttl = min([mx.ttl, *(one.ttl for one in found)])
    authenticates = bool(states & {State.USABLE, State.LATER, State.UNKNOWN}) or left_out > 0
    return Looked(verdict.Dane(level, steps, " ".join(troubles) or None, authenticates), ttl)


def _level(states: Iterable[State], *, complete: bool) -> verdict.Level | None:
    """Return what holds for a domain whose MX records are secure, from what its hosts say.

    Args:
        states: those of the hosts.
        complete: whether these are all hosts.
    """
    live = set(states) - {State.GONE}
    if live == {State.USABLE} and complete:
        return verdict.Level.DANE_ONLY
    return verdict.Level.DANE if live & {State.USABLE, State.UNUSABLE, State.LATER} else None


def _first_step(domain: str, mx: resolver.Answer[resolver.Mx]) -> str:
    if mx.records:
        return f"DNSSEC protects the MX records of {domain}."
    return f"{domain} has no MX record, so mail goes to the host of that name; DNSSEC protects this answer."


_LAST_STEPS = {
    verdict.Level.DANE_ONLY: "DANE for every host: mail goes only where the certificate matches the TLSA records.",
    verdict.Level.DANE: "DANE where a host has TLSA records; each host is looked up again when mail goes out.",
    None: "No DANE for this domain.",
}
