"""TLSA records as SMTP uses them: where they are, and which of them count (RFC 7672 sections 2.2.3 and 3.1, RFC 7671).

Pure. DANE for SMTP knows usages 2 (DANE-TA) and 3 (DANE-EE) only; a record with any other number, or whose digest has
not the length of its kind, is *unusable*. Records that are all unusable still mean that TLS is a must (section 2.2).

Not done: certificates are not compared with records, that is the MTA's business; whether the data of a matching type 0
is a certificate or key is not looked at, so an MTA may find a record unusable that is usable here.
"""

import dataclasses

_USAGES = frozenset((2, 3))
"""DANE-TA and DANE-EE; 0 (PKIX-TA) and 1 (PKIX-EE) are not for SMTP (RFC 7672 section 3.1.3)."""

_SELECTORS = frozenset((0, 1))
"""The certificate, its public key (RFC 6698 section 2.1.2)."""

_FULL = 0
_DIGEST_LENGTHS = {1: 32, 2: 64}
"""Octets of SHA2-256 and SHA2-512, by matching type (RFC 6698 section 2.1.3)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A TLSA record (RFC 6698 section 2.1); each number 0 to 255."""

    usage: int
    selector: int
    matching_type: int
    data: bytes
    """The certificate association data."""


def usable(record: Record) -> bool:
    """Tell whether a certificate could match the record (RFC 7672 section 3.1)."""
    if record.usage not in _USAGES or record.selector not in _SELECTORS:
        return False
    if record.matching_type == _FULL:
        return bool(record.data)
    return len(record.data) == _DIGEST_LENGTHS.get(record.matching_type)


def base_names(host: str, expanded: str) -> tuple[str, ...]:
    """Return the candidate TLSA base domains of a host, best first (RFC 7672 section 2.2.2, "secure CNAME").

    Args:
        host: the name in the MX record.
        expanded: the name that its CNAMEs lead to, securely at every stage; ``host`` itself, when it is no alias.
    """
    return (host,) if expanded == host else (expanded, host)


def query_name(base: str) -> str:
    """Return the name that has the TLSA records of a base domain, for SMTP at port 25 (RFC 7672 section 2.2.3)."""
    return f"_25._tcp.{base}"
