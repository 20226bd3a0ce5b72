"""What a scenario is: a domain with its DNS, policies and receiving servers, and what must come of mail to it.

Pure values. :mod:`tests.lab.rows` has the scenarios, :mod:`tests.lab.sites` gives names, addresses and certificates to
them, :mod:`tests.lab.expected` spells out what their reports say.
"""

import dataclasses
import enum

from policy import mtasts
from sender import session
from sender.demo import mx


class Tlsa(enum.Enum):
    """TLSA records of a host (RFC 6698)."""

    OWN_KEY = "3 1 1, the host's key"
    OTHER_KEY = "3 1 1, another key"
    ROLLOVER = "3 1 1, another key and the host's"
    AUTHORITY = "2 0 1, the authority"
    UNKNOWN_DIGEST = "3 1 9"
    PKIX = "1 0 1"
    BOGUS = "3 1 1 with a broken signature"


class PolicyHost(enum.Enum):
    """What a policy host does."""

    GOOD = "has the policy"
    MISSING = "answers 404"
    BROKEN = "answers 500"
    REDIRECTS = "answers 301"
    NO_MX = "has a policy without mx"
    HTML = "has the policy as text/html"
    EXPIRED = "shows an expired certificate"
    WRONG_NAME = "shows another host's certificate"
    SELF_SIGNED = "shows a self-signed certificate"
    REFUSES = "refuses the connection"
    NOWHERE = "has no address"


class Mail(enum.StrEnum):
    """What becomes of a message; Postfix's words."""

    SENT = "sent"
    DEFERRED = "deferred"
    BOUNCED = "bounced"


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """An MX host."""

    temper: mx.Temper = mx.Temper.GOOD
    tlsa: Tlsa | None = None
    ipv6: bool = False
    """Whether its only address is of IPv6."""
    alias: bool = False
    """Whether the name in the MX record is a CNAME."""
    listens: bool = True
    chain: bool = False
    """Whether it sends the authority's certificate, too."""
    latin_1: bool = False
    """Whether its reply to EHLO has octets that are not UTF-8."""
    record: bool = False
    """Whether it publishes a TLSRPT record of its own."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sts:
    """MTA-STS of a domain (RFC 8461)."""

    mode: mtasts.Mode = mtasts.Mode.ENFORCE
    mx: tuple[str, ...] = ()
    """Patterns, ``{}`` stands for the domain; empty: all MX hosts by name."""
    host: PolicyHost = PolicyHost.GOOD
    records: tuple[str, ...] = ("v=STSv1; id=20261124;",)


@dataclasses.dataclass(frozen=True, slots=True)
class Detail:
    """One of the failure details in a report."""

    result: session.ResultType
    host: int | None = 0
    """Which MX host; ``None``: found by the policy room, which knows no host."""
    reason: str | None = None
    count: int = 1
    ends: bool = True
    """Whether it is told where the connection came from, and what the host calls itself."""


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """One of the policies in a report."""

    type: session.PolicyType
    ok: int = 0
    failed: int = 0
    details: tuple[Detail, ...] = ()
    host: int = 0
    """Whose TLSA records they are."""
    ok_reused: int | None = None
    """``ok`` where connections are used again; ``None``: the same."""
    fetched: bool = True
    """Whether there is a policy to tell the lines of."""
    as_listed: bool = False
    """Whether the host has the name that is in the MX record, and not the one that its CNAME leads to."""


class Rua(enum.Enum):
    """Where a domain wants its reports."""

    MAIL = "by mail"
    OWN = "by mail to the domain itself"
    HTTPS = "by HTTPS"
    BOTH = "by mail and by HTTPS"
    NOWHERE = "nowhere: a record without rua"
    NONE = "no record"
    TWICE = "two records"


@dataclasses.dataclass(frozen=True, slots=True)
class Scenario:
    """A domain, and what must come of mail to it."""

    id: str
    hosts: tuple[Host, ...] = (Host(),)
    sts: Sts | None = None
    report: tuple[Seen, ...] = ()
    """Empty: no report."""
    mail: Mail = Mail.SENT
    rua: Rua = Rua.MAIL
    tls: str = ""
    """Words of the log for the sessions that were made with its hosts: ``Verified``, ``Trusted``, ``Untrusted``."""
    name: str = ""
    """The domain; empty: ``ID.example``."""
    zone: str = "example"
    """``example`` is signed, ``test`` is not."""
    implicit: bool = False
    """Whether there is no MX record and the domain is its own host."""
    null_mx: bool = False
    messages: int = 1
    """Sent one after another."""
    recipients: int = 1
    """Of each message."""
    waits: bool = False
    """Whether a report by mail cannot be delivered, as other mail to the domain cannot."""

    @property
    def domain(self) -> str:
        """The domain as it is in addresses."""
        return self.name or f"{self.id}.{self.zone}"
