"""Names, addresses, certificates and DNS records for the scenarios.

Pure but for the keys it makes. :func:`plan` gives every host of every scenario a name, an address of its own and a
certificate; :func:`records` has what stands in the DNS. Addresses that all share are the constants here.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from policy import names
from sender import session
from sender.demo import certificates, mx
from tests.lab import scenarios

ORGANIZATION = "sender.example"
"""Who sends and reports."""

SENDER = "192.0.2.1"
SENDER_6 = "2001:db8::1"
"""Where mail leaves from."""

REPORTS = "reports.example"
REPORTS_ADDRESS = "192.0.2.2"
"""Where reports by mail go to; the bounces of ours, too."""

POLICY_ADDRESS = "192.0.2.3"
"""Where all policy hosts are."""

CLOSED_ADDRESS = "192.0.2.4"
"""Where nobody listens."""

COLLECTOR = "collector.example"
COLLECTOR_ADDRESS = "192.0.2.5"
"""Where reports by HTTPS go to."""

COLLECTOR_PATH = "/tlsrpt"

FIRST = 10
"""The lowest host number of MX hosts, in 192.0.2.0/24 and 2001:db8::/32."""

TTL = 300

Record = tuple[str, str, str]
"""Name, type, and value in zone file form."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mx:
    """An MX host that has a place."""

    host: scenarios.Host
    name: str
    """As in the MX record, A-labels."""
    canonical: str
    """The name its CNAME leads to; ``name`` itself when it is no alias."""
    address: str
    certificate: certificates.Certificate = dataclasses.field(repr=False)
    tlsa: tuple[str, ...]
    """Records in zone file form, digits in upper case."""

    @property
    def sending_address(self) -> str:
        """Where mail to it comes from."""
        return SENDER_6 if self.host.ipv6 else SENDER


@dataclasses.dataclass(frozen=True, slots=True)
class Site:
    """A scenario that has a place."""

    scenario: scenarios.Scenario
    domain: str
    """A-labels."""
    hosts: tuple[Mx, ...]

    @property
    def policy_lines(self) -> tuple[str, ...]:
        """The MTA-STS policy, line by line."""
        sts = self.scenario.sts
        if sts is None:
            return ()
        lines = (f"mx: {pattern}" for pattern in self.patterns)
        return ("version: STSv1", f"mode: {sts.mode}", *lines, "max_age: 86400")

    @property
    def patterns(self) -> tuple[str, ...]:
        """The ``mx`` of the MTA-STS policy."""
        sts = self.scenario.sts
        if sts is None or sts.host is scenarios.PolicyHost.NO_MX:
            return ()
        return tuple(pattern.format(self.domain) for pattern in sts.mx) or tuple(host.name for host in self.hosts)

    @property
    def mailbox(self) -> str:
        """Where it wants reports by mail."""
        return f"tlsrpt@{self.domain}" if self.scenario.rua is scenarios.Rua.OWN else f"{self.scenario.id}@{REPORTS}"

    @property
    def policy_host(self) -> str:
        """The name of its policy host."""
        return f"mta-sts.{self.domain}"


def plan(rows: Iterable[scenarios.Scenario], authority: certificates.Authority) -> tuple[Site, ...]:
    """Give every scenario its place."""
    numbers = iter(range(FIRST, 255))
    return tuple(_site(row, authority, numbers) for row in rows)


def addresses(sites: Iterable[Site]) -> tuple[str, ...]:
    """Return all that loopback must have."""
    shared = (SENDER, SENDER_6, REPORTS_ADDRESS, POLICY_ADDRESS, CLOSED_ADDRESS, COLLECTOR_ADDRESS)
    return (*shared, *(host.address for site in sites for host in site.hosts))


def _site(row: scenarios.Scenario, authority: certificates.Authority, numbers: Iterator[int]) -> Site:
    domain = names.a_label(row.domain)
    labels = ("",) if row.implicit else ("mx.",) if len(row.hosts) == 1 else ("mx1.", "mx2.", "mx3.")
    hosts = zip(row.hosts, labels, strict=False)
    return Site(row, domain, tuple(_mx(host, f"{label}{domain}", authority, next(numbers)) for host, label in hosts))


def _mx(host: scenarios.Host, name: str, authority: certificates.Authority, number: int) -> Mx:
    canonical = f"real-{name}" if host.alias else name
    shown = mx.certificate(canonical, host.temper, authority)
    if host.chain:
        shown = dataclasses.replace(shown, cert_pem=shown.cert_pem + authority.ca_pem)
    address = f"2001:db8::{number}" if host.ipv6 else f"192.0.2.{number}"
    return Mx(host, name, canonical, address, shown, _tlsa(host.tlsa, shown, authority))


_OTHER = "11" * 32


def _tlsa(
    kind: scenarios.Tlsa | None, shown: certificates.Certificate, authority: certificates.Authority
) -> tuple[str, ...]:
    own = f"3 1 1 {key_digest(shown.cert_pem)}"
    texts: Mapping[scenarios.Tlsa | None, tuple[str, ...]] = {
        None: (),
        scenarios.Tlsa.OWN_KEY: (own,),
        scenarios.Tlsa.BOGUS: (own,),
        scenarios.Tlsa.OTHER_KEY: (f"3 1 1 {_OTHER}",),
        scenarios.Tlsa.ROLLOVER: tuple(sorted((f"3 1 1 {_OTHER}", own))),
        scenarios.Tlsa.AUTHORITY: (f"2 0 1 {certificate_digest(authority.ca_pem)}",),
        scenarios.Tlsa.UNKNOWN_DIGEST: (f"3 1 9 {_OTHER}",),
        scenarios.Tlsa.PKIX: (f"1 0 1 {certificate_digest(shown.cert_pem)}",),
    }
    return texts[kind]


def key_digest(pem: bytes) -> str:
    """Return the SHA-256 of a certificate's public key, as TLSA records with ``1 1`` have it."""
    key = x509.load_pem_x509_certificate(pem).public_key()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest().upper()


def certificate_digest(pem: bytes) -> str:
    """Return the SHA-256 of a certificate, as TLSA records with ``0 1`` have it."""
    der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    return hashlib.sha256(der).hexdigest().upper()


def records(sites: Sequence[Site], dkim_record: str, selector: str) -> list[Record]:
    """Return all that is in the DNS."""
    shared = [
        (ORGANIZATION, "MX", f"10 mx.{REPORTS}."),
        (f"{selector}._domainkey.{ORGANIZATION}", "TXT", _quoted(dkim_record)),
        (REPORTS, "MX", f"10 mx.{REPORTS}."),
        (f"mx.{REPORTS}", "A", REPORTS_ADDRESS),
        (COLLECTOR, "A", COLLECTOR_ADDRESS),
    ]
    return [*shared, *(record for site in sites for record in _records(site))]


def bogus(sites: Iterable[Site]) -> tuple[str, ...]:
    """Return the names whose TLSA records have a signature that does not fit."""
    hosts = (host for site in sites for host in site.hosts if host.host.tlsa is scenarios.Tlsa.BOGUS)
    return tuple(f"_25._tcp.{host.canonical}" for host in hosts)


def _records(site: Site) -> Iterator[Record]:
    yield from _tlsrpt(site)
    yield from _mta_sts(site)
    if site.scenario.null_mx:
        yield site.domain, "MX", "0 ."
    for place, host in enumerate(site.hosts, 1):
        if not site.scenario.implicit:
            yield site.domain, "MX", f"{10 * place} {host.name}."
        if host.canonical != host.name:
            yield host.name, "CNAME", f"{host.canonical}."
        yield host.canonical, "AAAA" if host.host.ipv6 else "A", host.address
        for text in host.tlsa:
            yield f"_25._tcp.{host.canonical}", "TLSA", text
        if host.host.record:
            yield f"_smtp._tls.{host.canonical}", "TXT", _quoted(f"v=TLSRPTv1; rua=mailto:{host_mailbox(host)}")


def host_mailbox(host: Mx) -> str:
    """Return where the operator of an MX host wants reports."""
    return f"operator-{host.canonical.replace('.', '-')}@{REPORTS}"


def record(site: Site) -> str:
    """Return the domain's TLSRPT record."""
    rua = site.scenario.rua
    mail, https = f"mailto:{site.mailbox}", f"https://{COLLECTOR}{COLLECTOR_PATH}/{site.scenario.id}"
    uris = {scenarios.Rua.HTTPS: https, scenarios.Rua.BOTH: f"{mail},{https}"}.get(rua, mail)
    return "v=TLSRPTv1;" if rua is scenarios.Rua.NOWHERE else f"v=TLSRPTv1; rua={uris}"


def _tlsrpt(site: Site) -> Iterator[Record]:
    name = f"_smtp._tls.{site.domain}"
    if site.scenario.rua is not scenarios.Rua.NONE:
        yield name, "TXT", _quoted(record(site))
    if site.scenario.rua is scenarios.Rua.TWICE:
        yield name, "TXT", _quoted("v=TLSRPTv1; rua=mailto:second@reports.example")


def _mta_sts(site: Site) -> Iterator[Record]:
    sts = site.scenario.sts
    if sts is None:
        return
    for text in sts.records:
        yield f"_mta-sts.{site.domain}", "TXT", _quoted(text)
    if sts.host is not scenarios.PolicyHost.NOWHERE:
        refuses = sts.host is scenarios.PolicyHost.REFUSES
        yield site.policy_host, "A", CLOSED_ADDRESS if refuses else POLICY_ADDRESS


_STRING = 255


def _quoted(text: str) -> str:
    """Return a text as character-strings of a TXT record (RFC 1035 section 3.3)."""
    return " ".join(f'"{text[start : start + _STRING]}"' for start in range(0, len(text), _STRING))


def kind(seen: scenarios.Seen) -> str:
    """Return the policy type as reports have it."""
    return session.PolicyType(seen.type).value
