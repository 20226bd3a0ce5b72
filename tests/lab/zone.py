"""Signed zones from records: DNSSEC as the real DNS has it (RFC 4035), with a key of our own as trust anchor.

:func:`signed` makes the text of a zone file and the anchor that a validating resolver needs to believe it;
:func:`plain` makes a zone that nobody vouches for. A signature can be broken on purpose.
"""

import dataclasses
import datetime as dt
from collections.abc import Iterable

import dns.dnssec
import dns.dnssectypes
import dns.name
import dns.node
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec

TTL = 300

ALGORITHM = dns.dnssectypes.Algorithm.ECDSAP256SHA256

LIFETIME = dt.timedelta(days=30)
"""Of signatures: an hour before now to this."""

KEY_FLAGS = 257
"""A zone key that is a secure entry point (RFC 4034 section 2.1.1)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Zone:
    """A zone as a name server takes it."""

    name: str
    text: str
    """In zone file form."""
    anchor: str | None
    """The DNSKEY record to believe; ``None``: the zone is not signed."""


def plain(name: str, records: Iterable[tuple[str, str, str]]) -> Zone:
    """Make a zone without signatures.

    Args:
        name: of the zone; records of other zones are left out.
        records: name, type and value, as in a zone file.
    """
    return Zone(name, _zone(name, records).to_text(), None)


def signed(name: str, records: Iterable[tuple[str, str, str]], bogus: Iterable[str] = ()) -> Zone:
    """Make a signed zone.

    Args:
        name: of the zone; records of other zones are left out.
        records: name, type and value, as in a zone file.
        bogus: names whose TLSA records do not fit their signature.
    """
    zone = _zone(name, records)
    key = ec.generate_private_key(ec.SECP256R1())
    dnskey = dns.dnssec.make_dnskey(key.public_key(), ALGORITHM, flags=KEY_FLAGS)
    now = dt.datetime.now(dt.UTC)
    begin, end = now - dt.timedelta(hours=1), now + LIFETIME
    with zone.writer() as txn:
        dns.dnssec.sign_zone(zone, txn, keys=[(key, dnskey)], dnskey_ttl=TTL, inception=begin, expiration=end)
    for owner in bogus:
        _break(zone, owner)
    return Zone(name, zone.to_text(), f"{name}. DNSKEY {dnskey.to_text()}")


def _zone(name: str, records: Iterable[tuple[str, str, str]]) -> dns.zone.Zone:
    """Return a zone with its SOA and NS records."""
    zone = dns.zone.Zone(f"{name}.", relativize=False)
    own = [(name, "SOA", f"ns.{name}. postmaster.{name}. 1 3600 600 86400 60"), (name, "NS", f"ns.{name}.")]
    for owner, kind, value in [*own, (f"ns.{name}", "A", "127.0.0.1"), *records]:
        if owner == name or owner.endswith(f".{name}"):
            rdata = dns.rdata.from_text("IN", kind, value)
            rdataset: dns.rdataset.Rdataset = zone.find_rdataset(f"{owner}.", rdata.rdtype, create=True)
            rdataset.add(rdata, TTL)
    return zone


def _break(zone: dns.zone.Zone, owner: str) -> None:
    """Change the TLSA record of a name, so that its signature does not fit any more."""
    node = zone.find_node(f"{owner}.")
    old = node.find_rdataset(dns.rdataclass.IN, dns.rdatatype.TLSA)
    other = dns.rdata.from_text("IN", "TLSA", f"3 1 1 {'22' * 32}")
    node.replace_rdataset(dns.rdataset.from_rdata(old.ttl, other))
