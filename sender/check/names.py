"""What the DNS says: that it answers, whether it validates, and what our own domain publishes.

:func:`key`, :func:`spf` and :func:`dmarc` are pure; the others ask.
"""

from collections.abc import AsyncIterator, Iterable

from policy import explaining, https, resolver, verdict
from sender import config, signature
from sender.check import findings

SIGNED = "org"
"""A name that everybody can look up and that is signed (RFC 4035): a validating resolver vouches for it."""


async def look(
    settings: config.Config, identity: config.Identity, signer: signature.Signer | None
) -> AsyncIterator[findings.Finding]:
    """Look at the DNS, and at what our own domain publishes for others to believe our reports."""
    names = resolver.Resolver(settings.dns.nameservers)
    try:
        answer = await names.texts(f"_dmarc.{identity.domain}")
    except resolver.TemporaryError as error:
        yield findings.error("dns", str(error), "name a resolver that answers in dns.nameservers or /etc/resolv.conf")
        return
    yield findings.ok("dns", "the resolver answers")
    yield dmarc(identity.domain, answer.records, signs=signer is not None)
    yield await _spf(names, identity.domain)
    yield await _key(names, signer)
    async for finding in _own(settings, names, identity.domain):
        yield finding


async def validates(settings: config.Config) -> findings.Finding:
    """Tell whether the resolver validates DNSSEC."""
    id_ = "dnssec"
    try:
        answer = await resolver.Resolver(settings.dns.nameservers).texts(SIGNED)
    except resolver.TemporaryError as error:
        return findings.warning(id_, str(error), "DANE needs a resolver that answers")
    if answer.secure:
        return findings.ok(id_, "the resolver validates DNSSEC, and its word is taken for it")
    cure = 'apt-get install unbound, and "nameserver 127.0.0.1" with "options trust-ad" in /etc/resolv.conf'
    return findings.warning(id_, "the resolver does not vouch for signed names: no domain gets DANE", cure)


async def _key(names: resolver.Resolver, signer: signature.Signer | None) -> findings.Finding:
    if signer is None:
        return findings.unknown(
            "dkim", "the relay has to sign report mails, which cannot be told from here (mail.dkim_key)"
        )
    try:
        records = await names.txt(signature.dns_name(signer))
    except resolver.TemporaryError as error:
        return findings.unknown("dkim", str(error))
    return key(signer, records or ())


def key(signer: signature.Signer, records: Iterable[str]) -> findings.Finding:
    """Judge what is published for our DKIM key (RFC 6376 section 3.6.1, RFC 8460 section 3)."""
    id_, name = "dkim", signature.dns_name(signer)
    cure = f"publish {signature.zone_line(signer)}"
    found = [tags(text) for text in records]
    if not found:
        return findings.error(id_, f"{name} has no key: receivers refuse our reports", cure)
    if len(found) > 1:
        return findings.warning(
            id_, f"{name} has {len(found)} records, of which receivers take any", f"leave one: {cure}"
        )
    ours = [one for one in found if "".join(one.get("p", "").split()) == signer.public]
    if not ours:
        revoked = any("p" in one and not one["p"] for one in found)
        return findings.error(id_, f"{name} has {'a key that is revoked' if revoked else 'another key'}", cure)
    unfit = _unfit(signer, ours[0])
    if unfit:
        return findings.error(id_, f"the key at {name} is {unfit}", cure)
    if signer.is_weak:
        cure = "make one with: openssl genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:2048"
        return findings.warning(id_, f"the DKIM key has {signer.bits} bits only: many receivers want 2048", cure)
    return findings.ok(id_, f"the key at {name} is ours and may sign TLS reports")


def _unfit(signer: signature.Signer, record: dict[str, str]) -> str:
    """Return for what a record of our key does not let it sign; empty: it does."""
    hashes, services = ([word.strip() for word in record.get(tag, "*").split(":")] for tag in ("h", "s"))
    if record.get("k", "rsa") != signer.kind:
        return f"said to be of another kind: k={record.get('k', 'rsa')}"
    if not {"*", "sha256"} & set(hashes):
        return f"not for signatures with SHA-256: h={record['h']}"
    if not {"*", "tlsrpt"} & set(services):
        return f"not for TLS reports: s={record['s']}"
    return ""


def tags(text: str) -> dict[str, str]:
    """Read a list of tags (RFC 6376 section 3.2); what is none is left out."""
    pairs = (part.partition("=") for part in text.split(";"))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


async def _spf(names: resolver.Resolver, domain: str) -> findings.Finding:
    try:
        return spf(domain, await names.txt(domain) or ())
    except resolver.TemporaryError as error:
        return findings.unknown("spf", str(error))


def spf(domain: str, records: Iterable[str]) -> findings.Finding:
    """Judge a domain's SPF record (RFC 7208 section 4.5); whether it has the relay's address cannot be told."""
    found = [text for text in records if text.lower().split(" ")[0] == "v=spf1"]
    if not found:
        return findings.hint(
            "spf", f"{domain} has no SPF record", f'publish {domain} TXT "v=spf1 mx -all" with your relay in it'
        )
    if len(found) > 1:
        return findings.warning(
            "spf", f"{domain} has {len(found)} SPF records, which counts as none", "leave one of them"
        )
    return findings.ok("spf", f"{domain} has an SPF record; whether your relay is in it cannot be told from here")


def dmarc(domain: str, records: Iterable[str], *, signs: bool) -> findings.Finding:
    """Judge a domain's DMARC record (RFC 7489 section 6.3) for mail from it with our signature, or without."""
    policies = [one["p"].lower() for one in map(tags, records) if one.get("v") == "DMARC1" and "p" in one]
    if not policies:
        cure = f'publish _dmarc.{domain} TXT "v=DMARC1; p=none; rua=mailto:postmaster@{domain}"'
        return findings.hint("dmarc", f"{domain} has no DMARC record of its own", cure)
    if signs:
        return findings.ok("dmarc", f"report mails pass DMARC by their signature (p={policies[0]})")
    if policies[0] == "none":
        return findings.ok("dmarc", f"DMARC of {domain} asks to refuse nothing (p=none)")
    cure = "set mail.dkim_selector and mail.dkim_key (tlsrpt init makes a key), or have the relay sign for this domain"
    found = f"DMARC of {domain} is p={policies[0]}: report mails pass only if the relay signs them or SPF has it"
    return findings.warning("dmarc", found, cure)


async def _own(settings: config.Config, names: resolver.Resolver, domain: str) -> AsyncIterator[findings.Finding]:
    """Look at how our own domain takes part."""
    async with https.Client(settings.https, names) as client:
        told = await explaining.explain(names, client, domain, None)
    if told.trouble:
        yield findings.warning("own-tlsrpt", told.trouble, f"mend _smtp._tls.{domain}")
    elif told.record is None:
        cure = f'publish _smtp._tls.{domain} TXT "v=TLSRPTv1; rua=mailto:tls-reports@{domain}"'
        yield findings.hint("own-tlsrpt", f"{domain} does not ask others for reports", cure)
    else:
        yield findings.ok("own-tlsrpt", f"{domain} asks others for reports")
    yield _own_sts(domain, told.decided)


def _own_sts(domain: str, decided: verdict.Verdict) -> findings.Finding:
    if decided.finding is not None:
        return findings.warning(
            "own-mta-sts",
            f"its policy cannot be had: {decided.finding.reason}",
            f"mend _mta-sts.{domain} and its policy host",
        )
    if decided.sts is None:
        return findings.hint(
            "own-mta-sts", f"{domain} has no MTA-STS policy", "publish one (RFC 8461), in mode testing first"
        )
    return findings.ok("own-mta-sts", f"{domain} has an MTA-STS policy in mode {decided.sts.mode}")
