"""The made-up internet as a whole: who is in it, and everything that listens, started and ended together.

:func:`start` takes a list of :class:`Recipient` and gives an :class:`Internet`: DNS, a receiving MTA for each MX,
a relay that is every mailbox at once, an HTTPS receiver, and a sending MTA that knows the way. All of it
listens on 127.0.0.1 with ports of its own; files (CA, DKIM key) go to one directory, and
:meth:`Internet.config_text` is the tlsrpt.toml of an organization that lives in it.
"""

import contextlib
import dataclasses
import json
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from sender.demo import certificates, client, dns, mx, receivers, zone

ORGANIZATION = "sender.example"
"""Domain of the organization that sends and reports."""

DKIM_SELECTOR = "tlsrpt"


@dataclasses.dataclass(frozen=True, slots=True)
class MailTo:
    """A ``mailto:`` rua."""

    address: str


@dataclasses.dataclass(frozen=True, slots=True)
class Post:
    """An ``https:`` rua."""

    host: str
    path: str = "/tlsrpt"


Rua: TypeAlias = MailTo | Post


@dataclasses.dataclass(frozen=True, slots=True)
class Recipient:
    """A domain that receives mail."""

    domain: str
    tempers: tuple[mx.Temper, ...] = (mx.Temper.GOOD,)
    """One for each MX, the most preferred first."""
    sts: bool = True
    """Whether there is an MTA-STS policy, in enforce mode, that names every MX."""
    rua: tuple[Rua, ...] = ()
    """Where it wants reports; empty: ``mailto:tls-reports@`` the domain."""
    loses_policy: bool = False
    """Whether it publishes an MTA-STS record, but its policy host refuses connections (as long as nothing of this
    machine listens at port 443)."""
    withdraws: bool = False
    """Whether its TLSRPT record is gone once :meth:`Internet.withdraw` was called."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """Its MX hosts, the most preferred first."""
        numbers = range(1, len(self.tempers) + 1)
        return (f"mx.{self.domain}",) if len(numbers) == 1 else tuple(f"mx{n}.{self.domain}" for n in numbers)

    @property
    def policy(self) -> client.Sts | None:
        """Its MTA-STS policy."""
        return client.Sts(self.hosts) if self.sts else None

    def record(self, https_port: int) -> str:
        """Return its TLSRPT record (RFC 8460 section 3)."""
        uris = [_uri(rua, https_port) for rua in self.rua or (MailTo(f"tls-reports@{self.domain}"),)]
        return f"v=TLSRPTv1; rua={','.join(uris)}"


def _uri(rua: Rua, https_port: int) -> str:
    match rua:
        case MailTo(address):
            return f"mailto:{address}"
        case Post(host, path):
            return f"https://{host}:{https_port}{path}"


RECIPIENTS = (
    Recipient("good.example", rua=(MailTo("tls-reports@good.example"), Post("reports.good.example"))),
    Recipient("nopolicy.example", sts=False),
    Recipient("failover.example", tempers=(mx.Temper.EXPIRED, mx.Temper.GOOD)),
    Recipient("expired.example", tempers=(mx.Temper.EXPIRED,)),
    Recipient("wrongname.example", tempers=(mx.Temper.WRONG_NAME,)),
    Recipient("untrusted.example", tempers=(mx.Temper.UNKNOWN_ISSUER,), rua=(Post("reports.untrusted.example"),)),
    Recipient("plaintext.example", tempers=(mx.Temper.NO_STARTTLS,)),
    Recipient("nopolicyhost.example", sts=False, loses_policy=True),
    Recipient("withdrawn.example", withdraws=True),
)
"""The domains of the demo: each shows one thing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Internet:
    """Everything that is up; made by :func:`start`."""

    directory: Path
    recipients: tuple[Recipient, ...]
    authority: certificates.Authority
    zone: zone.Zone
    """May be changed at any time."""
    nameserver: str
    """``HOST:PORT``."""
    mail: receivers.MailReceiver
    """The organization's relay and every mailbox."""
    https: receivers.HttpsReceiver
    mtas: Mapping[str, mx.Mta]
    """The receiving MTAs by host name."""
    sender: client.Mta
    """The organization's sending MTA."""

    @property
    def ca_file(self) -> Path:
        """The trust anchor of everybody here."""
        return self.directory / "ca.pem"

    @property
    def dkim_file(self) -> Path:
        """The organization's DKIM key."""
        return self.directory / "dkim.pem"

    @property
    def recorder_socket(self) -> Path:
        """Where the recorder is to listen."""
        return self.directory / "tlsrpt.sock"

    @property
    def policy_socket(self) -> Path:
        """Where policies are to be asked for."""
        return self.directory / "policy.sock"

    @property
    def relay(self) -> str:
        """The relay as ``mail.relay`` names it."""
        return f"smtp://{dns.LOOPBACK}:{self.mail.port}"

    def withdraw(self) -> None:
        """Take away the TLSRPT records of all domains that withdraw theirs."""
        for recipient in self.recipients:
            if recipient.withdraws:
                self.zone.remove(f"_smtp._tls.{recipient.domain}")

    def config_text(self, store_url: str = "") -> str:
        """Return the tlsrpt.toml of the organization; every path is in the directory, but for a store that is told."""
        return "\n".join(_toml(self, store_url or f"sqlite:///{self.directory / 'tlsrpt.db'}")) + "\n"


def _toml(internet: Internet, store_url: str) -> Iterator[str]:
    directory = internet.directory
    sections: dict[str, dict[str, object]] = {
        "organization": {
            "name": "Sender Example Inc.",
            "domain": ORGANIZATION,
            "contact": f"tls-reports@{ORGANIZATION}",
        },
        "recorder": {"socket": str(internet.recorder_socket), "journal": str(directory / "journal")},
        "store": {"url": store_url},
        "policy": {"listen": [f"unix:{internet.policy_socket}"], "cache": str(directory / "policy.db")},
        "dns": {"nameservers": [internet.nameserver]},
        "report": {"settle": 0, "spread": 0},
        "mail": {"relay": internet.relay, "dkim_selector": DKIM_SELECTOR, "dkim_key": str(internet.dkim_file)},
        "https": {"ca_file": str(internet.ca_file), "allow_private": True},
    }
    for section, values in sections.items():
        yield f"[{section}]"
        yield from (f"{key} = {json.dumps(value)}" for key, value in values.items())  # strings, numbers and lists: TOML


@contextlib.asynccontextmanager
async def start(directory: Path, recipients: tuple[Recipient, ...] = RECIPIENTS) -> AsyncIterator[Internet]:
    """Start a made-up internet; everything ends with the context.

    Args:
        directory: an existing directory for its files; its path must be short enough for UNIX sockets (100 bytes).
        recipients: the domains that receive mail.
    """
    authority = certificates.Authority()
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(dns.Server())
        mail = await stack.enter_async_context(receivers.MailReceiver(authority))
        https = await stack.enter_async_context(receivers.HttpsReceiver(_https_context(authority, recipients)))
        mtas = {
            host: await stack.enter_async_context(mx.Mta(host, temper, authority))
            for recipient in recipients
            for host, temper in zip(recipient.hosts, recipient.tempers, strict=True)
        }
        sender = client.Mta(
            nameserver=server.address,
            routes={host: mta.port for host, mta in mtas.items()},
            trust=authority.client_context(),
            policies={recipient.domain: recipient.policy for recipient in recipients if recipient.policy},
        )
        internet = Internet(directory, recipients, authority, server.zone, server.address, mail, https, mtas, sender)
        _publish(internet)
        yield internet


def _https_context(authority: certificates.Authority, recipients: tuple[Recipient, ...]) -> ssl.SSLContext:
    hosts = {rua.host for recipient in recipients for rua in recipient.rua if isinstance(rua, Post)}
    return certificates.server_context(authority.issue((*sorted(hosts), "localhost", dns.LOOPBACK)))


def _publish(internet: Internet) -> None:
    """Write the files and the DNS records."""
    key = certificates.dkim_key()
    internet.authority.write_ca(internet.ca_file)
    internet.dkim_file.touch(mode=0o600)
    internet.dkim_file.write_bytes(key.private_pem)
    internet.zone.put(f"{DKIM_SELECTOR}._domainkey.{ORGANIZATION}", zone.Txt(key.record))
    for recipient in internet.recipients:
        for name, record in _records(recipient, internet.https.port):
            internet.zone.put(name, record)


def _records(recipient: Recipient, https_port: int) -> Iterator[tuple[str, zone.Record]]:
    yield f"_smtp._tls.{recipient.domain}", zone.Txt(recipient.record(https_port))
    for place, host in enumerate(recipient.hosts, 1):
        yield recipient.domain, zone.Mx(10 * place, host)
        yield host, zone.A(dns.LOOPBACK)
    if recipient.loses_policy:
        yield f"_mta-sts.{recipient.domain}", zone.Txt("v=STSv1; id=1;")
        yield f"mta-sts.{recipient.domain}", zone.A(dns.LOOPBACK)
    for rua in recipient.rua:
        if isinstance(rua, Post):
            yield rua.host, zone.A(dns.LOOPBACK)
