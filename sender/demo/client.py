"""A sending MTA in small: it delivers one short message to a domain and reports the TLS session as Postfix does.

It looks up the TLSRPT record and the MX set in the made-up DNS, tries one MX after another (RFC 5321
section 5.1), and does STARTTLS (RFC 3207) by the policy it was told: with an MTA-STS policy in enforce mode
the certificate must be valid for the MX host (RFC 8461 section 4.1), without one anything goes. Each attempt
that Postfix would report carries its datagram (``sender.demo.libtlsrpt``).

Not its job: discovering policies, DANE, IPv6, queueing, pipelining, session resumption.
"""

import asyncio
import contextlib
import dataclasses
import re
import ssl
from collections.abc import AsyncIterator, Mapping

from sender import session
from sender.demo import dialogue, dns, libtlsrpt, zone

CERT_EXPIRED = 10
"""X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL."""

HOST_MISMATCH = 62
"""X509_V_ERR_HOSTNAME_MISMATCH of OpenSSL."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sts:
    """The MTA-STS policy of a domain, in enforce mode (RFC 8461 section 3.2)."""

    mx: tuple[str, ...]
    """Patterns, in order."""
    max_age: int = 604_800
    """Seconds."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The policy file line by line."""
        patterns = (f"mx: {pattern}" for pattern in self.mx)
        return ("version: STSv1", "mode: enforce", *patterns, f"max_age: {self.max_age}")

    def allows(self, host: str) -> bool:
        """Tell whether a host may be the MX; ``*`` stands for one label (RFC 8461 section 4.1)."""
        label, _, parent = host.partition(".")
        return any(pattern in {host, f"*.{parent}"} for pattern in self.mx if label)


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """One try at one MX."""

    domain: str
    mx_host: str
    delivered: bool
    tls: str | None
    """Version and cipher of the TLS session; ``None``: there was none."""
    text: str
    """What happened, in a few words."""
    datagram: bytes | None
    """What Postfix would send to the recorder; ``None``: nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Target:
    """Whom an attempt is for."""

    domain: str
    host: str
    policy: Sts | None
    record: str | None
    sender: str

    def attempt(
        self, text: str, *, delivered: bool = False, tls: str | None = None, datagram: bytes | None = None
    ) -> Attempt:
        return Attempt(self.domain, self.host, delivered, tls, text, datagram)


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """What the MTA knows when TLS begins."""

    target: _Target
    sending_ip: str
    receiving_ip: str
    ehlo: str

    def success(self, tls: str, *, delivered: bool) -> Attempt:
        how = "verified" if self.target.policy else "encrypted, not verified"
        return self.target.attempt(how, delivered=delivered, tls=tls, datagram=self._datagram(()))

    def failure(self, result_type: session.ResultType, reason: str | None = None) -> Attempt:
        failure = session.Failure(
            result_type=result_type,
            sending_mta_ip=self.sending_ip,
            receiving_mx_hostname=self.target.host,
            receiving_mx_helo=self.ehlo,
            receiving_ip=self.receiving_ip,
            failure_reason_code=reason,
        )
        text = f"{result_type} ({reason})" if reason else result_type.value
        return self.target.attempt(text, datagram=self._datagram((failure,)))

    def _datagram(self, failures: tuple[session.Failure, ...]) -> bytes | None:
        target = self.target
        if target.record is None:
            return None
        policy = session.Policy(session.PolicyType.NO_POLICY_FOUND, target.domain)
        if target.policy:
            policy = session.Policy(session.PolicyType.STS, target.domain, target.policy.lines, target.policy.mx)
        result = session.Result(policy, failed=bool(failures), failures=failures)
        return libtlsrpt.datagram(session.Session(target.domain, target.record, (result,)))


@dataclasses.dataclass(frozen=True, slots=True)
class Mta:
    """The sending MTA.

    Attributes:
        nameserver: ``HOST:PORT`` of the made-up DNS.
        routes: the port of each MX host on the address its A record gives.
        trust: a context with the trust anchors for verified sessions; the MTA checks the host name, too.
        policies: the MTA-STS policy of each domain that has one.
        hostname: its own name.
    """

    nameserver: str
    routes: Mapping[str, int]
    trust: ssl.SSLContext
    policies: Mapping[str, Sts]
    hostname: str = "mail.sender.example"

    async def send(self, domain: str, sender: str = "alice@sender.example") -> AsyncIterator[Attempt]:
        """Deliver one message to ``postmaster`` at a domain; yield each attempt until one succeeds.

        Raises:
            dns.LookupLaterError: the MX set cannot be looked up now.
        """
        record = await self._tlsrpt_record(domain)
        policy = self.policies.get(domain)
        for host in await self._mx_hosts(domain):
            if policy and not policy.allows(host):
                yield Attempt(domain, host, delivered=False, tls=None, text="not in the MTA-STS policy", datagram=None)
                continue
            attempt = await self._attempt(_Target(domain, host, policy, record, sender))
            yield attempt
            if attempt.delivered:
                return

    async def _mx_hosts(self, domain: str) -> list[str]:
        found = await dns.ask(self.nameserver, domain, zone.Mx)
        ranked = sorted((record.preference, record.host) for record in found if isinstance(record, zone.Mx))
        return [host for _, host in ranked] or [domain]  # RFC 5321 section 5.1: no MX, the domain itself

    async def _tlsrpt_record(self, domain: str) -> str | None:
        """Return the TXT record, when there is exactly one (RFC 8460 section 3)."""
        with contextlib.suppress(dns.LookupLaterError):
            found = await dns.ask(self.nameserver, f"_smtp._tls.{domain}", zone.Txt)
            texts = [record.text for record in found if isinstance(record, zone.Txt)]
            texts = [text for text in texts if re.match(r"v=TLSRPTv1\s*(;|\Z)", text)]
            return texts[0] if len(texts) == 1 else None
        return None

    async def _attempt(self, target: _Target) -> Attempt:
        try:
            connection = await self._connect(target.host)
        except dialogue.DialogueError as error:
            return target.attempt(str(error))
        try:
            return await self._talk(target, connection)
        except dialogue.DialogueError as error:
            return target.attempt(str(error))
        finally:
            await connection.close()

    async def _connect(self, host: str) -> dialogue.Connection:
        try:
            found = await dns.ask(self.nameserver, host, zone.A)
            address = next((record.address for record in found if isinstance(record, zone.A)), None)
            if address is None or host not in self.routes:
                raise dialogue.DialogueError("no such host")
            async with asyncio.timeout(dialogue.REPLY_SECONDS):
                return dialogue.Connection(*await asyncio.open_connection(address, self.routes[host]))
        except (dns.LookupLaterError, OSError, TimeoutError) as error:
            raise dialogue.DialogueError(f"no connection: {error}") from error

    async def _talk(self, target: _Target, connection: dialogue.Connection) -> Attempt:
        await connection.expect(None, dialogue.SERVICE_READY)
        ehlo = await connection.expect(f"EHLO {self.hostname}", dialogue.COMPLETED)
        seen = _Seen(target, *connection.addresses(), ehlo.text)
        if not (ehlo.offers_starttls and (await connection.command("STARTTLS")).code == dialogue.SERVICE_READY):
            if target.policy:
                return seen.failure(session.ResultType.STARTTLS_NOT_SUPPORTED)
            return target.attempt("in plain text", delivered=await self._deliver(target, connection))
        try:
            tls = await connection.start_tls(self.trust if target.policy else _unverified(), target.host)
        except ssl.SSLCertVerificationError as error:
            return seen.failure(*_verification(error))
        except (OSError, TimeoutError):  # ssl.SSLError is an OSError
            return seen.failure(session.ResultType.VALIDATION_FAILURE, "tls-handshake-failure")
        return seen.success(tls, delivered=await self._deliver_again(target, connection))

    async def _deliver_again(self, target: _Target, connection: dialogue.Connection) -> bool:
        """Deliver over TLS; the session counts as good even when the message is refused."""
        with contextlib.suppress(dialogue.DialogueError):
            await connection.expect(f"EHLO {self.hostname}", dialogue.COMPLETED)
            return await self._deliver(target, connection)
        return False

    async def _deliver(self, target: _Target, connection: dialogue.Connection) -> bool:
        recipient = f"postmaster@{target.domain}"
        text = f"From: {target.sender}\r\nTo: {recipient}\r\nSubject: a message of the demo\r\n\r\nHello.\r\n."
        commands = [
            (f"MAIL FROM:<{target.sender}>", dialogue.COMPLETED),
            (f"RCPT TO:<{recipient}>", dialogue.COMPLETED),
            ("DATA", dialogue.START_MAIL_INPUT),
            (text, dialogue.COMPLETED),
        ]
        for command, code in commands:
            if (await connection.command(command)).code != code:
                return False
        await connection.command("QUIT")
        return True


def _unverified() -> ssl.SSLContext:
    """Return a context for opportunistic TLS, which takes any certificate (RFC 7435)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _verification(error: ssl.SSLCertVerificationError) -> tuple[session.ResultType, str | None]:
    """Return what Postfix calls a failed verification: a result type, and for untrusted issuers OpenSSL's reason."""
    if error.verify_code == CERT_EXPIRED:
        return session.ResultType.CERTIFICATE_EXPIRED, None
    if error.verify_code == HOST_MISMATCH:
        return session.ResultType.CERTIFICATE_HOST_MISMATCH, None
    return session.ResultType.VALIDATION_FAILURE, error.verify_message.replace(" ", "_")
