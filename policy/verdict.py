"""What the policy socket answers for a domain, and why, as values.

Pure. :func:`decide` puts together what was found out about DANE and about MTA-STS. DANE goes first: an MTA-STS policy
must never make up for a DANE check that fails (RFC 8461 section 2), so a domain with DANE is not held to its policy.
Only where no host has TLSA records that a certificate can be checked against, there is nothing that could fail: then an
enforced policy asks for more than DANE does, and holds (RFC 7672 section 2.2 leaves authentication open there).
Policies in testing and of mode none enforce nothing. All three are kept in the verdict, with what was found wrong.

When the DNS is in trouble, what is known goes on to hold: a policy in force where DANE cannot be looked up at all, and
where it can be for some hosts only, the stricter ``dane-only`` (see :func:`_level`).

Known limit: a server has one level for all hosts of a domain, so hosts without TLSA records of a domain where others
have some are not held to the domain's MTA-STS policy.
"""

import dataclasses
import enum

from policy import mtasts


class Level(enum.StrEnum):
    """How mail to a domain is secured; words of Postfix, but for ``none``."""

    DANE_ONLY = "dane-only"
    """Only to hosts whose certificate matches their TLSA records."""
    DANE = "dane"
    """As TLSA records say where a host has some (RFC 7672 section 2.2)."""
    SECURE = "secure"
    """Only to hosts that the MTA-STS policy allows, with a certificate that is valid for them (RFC 8461 section 4)."""
    NONE = "none"
    """Nothing is enforced: as the server does without us."""


class About(enum.StrEnum):
    """What a step belongs to."""

    DANE = "dane"
    MTA_STS = "mta-sts"
    ANSWER = "answer"


class FindingType(enum.StrEnum):
    """What can be wrong with a domain's MTA-STS: result types of RFC 8460 section 4.3.2.1."""

    STS_POLICY_FETCH_ERROR = "sts-policy-fetch-error"
    STS_POLICY_INVALID = "sts-policy-invalid"
    STS_WEBPKI_INVALID = "sts-webpki-invalid"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong, to be reported to the domain."""

    result_type: FindingType
    reason: str
    """A short code: ``dns-timeout``, ``http-404``, ``certificate-expired``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Dane:
    """What was found out about DANE."""

    level: Level | None
    """``DANE_ONLY`` or ``DANE``; ``None``: no DANE for this domain, as far as is known."""
    steps: tuple[str, ...]
    """Sentences for a postmaster."""
    later: str | None
    """What had no answer now; ``None``: all had one."""
    authenticates: bool = True
    """With a level: whether a host has usable TLSA records, or may have some; else TLS is a must and no more."""

    def __post_init__(self) -> None:
        """Refuse levels that are not DANE's."""
        if self.level not in {Level.DANE_ONLY, Level.DANE, None}:
            raise ValueError(f"not a level of DANE: {self.level}")


@dataclasses.dataclass(frozen=True, slots=True)
class Sts:
    """What was found out about MTA-STS."""

    policy: mtasts.Policy | None
    """The one that holds now, of whatever mode."""
    id: str | None
    """Of the record it was fetched for."""
    finding: Finding | None
    """May stand beside a policy that was fetched before."""
    steps: tuple[str, ...]
    """Sentences for a postmaster."""


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One thing that was found out, or decided."""

    about: About
    text: str
    """A sentence for a postmaster."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What is answered for a domain; the fields are the keys of the answer in JSON."""

    domain: str
    """A-labels in lower case."""
    level: Level
    sts: mtasts.Policy | None
    """The domain's policy, enforced only at level ``SECURE``."""
    policy_id: str | None
    finding: Finding | None
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        """Refuse to secure by a policy that is missing or names no host: mail would go anywhere, or nowhere."""
        if self.level is Level.SECURE and not (self.sts and self.sts.mx):
            raise ValueError("level secure without a policy that names hosts")


def decide(domain: str, dane: Dane, sts: Sts) -> Verdict:
    """Put together what was found out about a domain.

    Args:
        domain: the policy domain as A-labels in lower case.
        dane: trouble of the DNS is in ``later``.
        sts: a policy that has expired must not be in it.
    """
    level = _level(dane, sts.policy)
    told = ((About.DANE, dane.steps), (About.MTA_STS, sts.steps), (About.ANSWER, _reasons(dane, level, sts.policy)))
    steps = tuple(Step(about, text) for about, texts in told for text in texts)
    return Verdict(domain, level, sts.policy, sts.id, _finding(sts), steps)


def _finding(sts: Sts) -> Finding | None:
    """Leave out a finding about a domain that said it does not use MTA-STS any more (RFC 8461 section 10.2)."""
    return None if sts.policy is not None and sts.policy.mode is mtasts.Mode.NONE else sts.finding


def _enforces(policy: mtasts.Policy | None) -> bool:
    return policy is not None and policy.mode is mtasts.Mode.ENFORCE


def _level(dane: Dane, policy: mtasts.Policy | None) -> Level:
    """Return what holds.

    ``dane`` lets mail go unauthenticated to a host that turns out to have no TLSA records. Where that is not known yet
    and a policy demands authentication, ``dane-only`` keeps both promises: at worst mail waits until the DNS answers.
    """
    if _enforces(policy) and (dane.level is None or not dane.authenticates):
        return Level.SECURE
    if _enforces(policy) and dane.later:
        return Level.DANE_ONLY
    return dane.level or Level.NONE


_DANE_FIRST = "DANE goes before MTA-STS, so mail is not held to the MTA-STS policy."
_DANE_ONLY_FOR_NOW = (
    "The MTA-STS policy asks for authentication, and the DNS does not tell now whether all hosts have TLSA records: "
    "until it does, mail goes only where the certificate matches TLSA records."
)


_DANE_HAS_NO_SAY = (
    "DANE asks for TLS with any certificate, the MTA-STS policy for TLS with the right one: that does for both."
)


def _reasons(dane: Dane, level: Level, policy: mtasts.Policy | None) -> tuple[str, ...]:
    """Return how DANE and an enforced policy go together, where there are both."""
    if dane.level is None or not _enforces(policy):
        return ()
    if level is Level.SECURE:
        return (_DANE_HAS_NO_SAY,)
    return (_DANE_FIRST,) if level is dane.level else (_DANE_FIRST, _DANE_ONLY_FOR_NOW)
