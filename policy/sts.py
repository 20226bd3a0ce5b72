"""Does this domain ask for MTA-STS? Its record from the DNS, its policy from its policy host (RFC 8461 section 3).

A conductor: ``policy.resolver`` and ``policy.https`` ask, ``policy.mtasts`` judges, ``policy.verdict`` has the values.
The record's id tells whether the policy we know is still the current one; only if not, the policy is fetched. A policy
that is known goes on to hold whatever goes wrong, also when the record is gone: whoever forges DNS answers could take
it away else (section 3.1). A domain withdraws its policy with a new one of mode none (section 8.3).

While a policy is known, any trouble to have it anew is a finding, be it of the DNS (RFC 8461 section 6); else only the
DNS's own word that there is a record makes a domain one that uses MTA-STS.

Not done: nothing is kept here, and no clock is looked at: what is known, and whether it has expired, what failed, and
for how long it is left alone, is the caller's to remember.
"""

import dataclasses
from collections.abc import Sequence

from policy import https, mtasts, resolver, verdict

LABEL = "_mta-sts"
"""Where a domain publishes its record (RFC 8461 section 3.1)."""

POLICY_HOST = "mta-sts"
"""What a policy host is called, before the domain (RFC 8461 section 3.2)."""

PATH = "/.well-known/mta-sts.txt"

_HTTPS_PORT = 443
_OK = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """A policy that was fetched before and has not expired."""

    id: str
    """Of the record it was fetched for."""
    policy: mtasts.Policy


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """A fetch that failed; not to be tried again for five minutes (RFC 8461 section 3.3)."""

    id: str
    """Of the record it was tried for."""
    finding: verdict.Finding


@dataclasses.dataclass(frozen=True, slots=True)
class Looked:
    """What was found for a domain."""

    sts: verdict.Sts
    ttl: int
    """Seconds until the record is to be looked up again, 0 or more."""
    fetched: Known | None = None
    """The policy that came just now: its ``max_age`` begins."""
    failed: Failed | None = None
    """The fetch that failed just now: its five minutes begin."""


async def look_up(
    dns: resolver.Resolver,
    client: https.Client,
    domain: str,
    known: Known | None = None,
    *,
    failed: Failed | None = None,
    refresh: bool = False,
    port: int = _HTTPS_PORT,
) -> Looked:
    """Look up MTA-STS for a domain; trouble is told in the finding or the steps, never raised.

    Args:
        dns: whom to ask for the record.
        client: fetches the policy.
        domain: the policy domain as A-labels in lower case.
        known: the policy to go on with; ``None``: there is none, or it has expired.
        failed: the last fetch, if it failed less than five minutes ago.
        refresh: fetch also when the id is that of the known policy, to make it last longer.
        port: of policy hosts; another one than 443 is for tests.
    """
    name = f"{LABEL}.{domain}"
    try:
        answer = await dns.texts(name)
    except resolver.TemporaryError as error:
        step = f"The TXT record at {name} has no answer now ({error})."
        finding = verdict.Finding(verdict.FindingType.STS_POLICY_FETCH_ERROR, error.code) if known else None
        return _kept(known, [step], resolver.RETRY, finding, nothing="Whether the domain has MTA-STS is not known.")
    try:
        record = mtasts.choose(answer.records)
    except mtasts.InvalidRecordError as error:
        finding = verdict.Finding(verdict.FindingType.STS_POLICY_INVALID, error.code)
        return _kept(known, [f"The MTA-STS record at {name} is invalid: {error}."], answer.ttl, finding)
    if record is None:
        return _kept(known, [f"There is no MTA-STS record at {name}."], answer.ttl)
    step = f"{domain} publishes an MTA-STS record with id {record.id}."
    if failed is not None and failed.id == record.id:
        again = f"Its policy could not be had some minutes ago ({failed.finding.reason}) and is left alone for now."
        return _kept(known, [step, again], answer.ttl, failed.finding)
    if known is not None and known.id == record.id and not refresh:
        return _kept(known, [step], answer.ttl)
    url = f"https://{POLICY_HOST}.{domain}{'' if port == _HTTPS_PORT else f':{port}'}{PATH}"
    fetched = await _fetch(client, url)
    return _after_fetch(fetched, record.id, known, step, answer.ttl)


@dataclasses.dataclass(frozen=True, slots=True)
class _Trouble:
    """Why there is no policy behind a URL."""

    finding: verdict.Finding
    step: str
    """A sentence."""


async def _fetch(client: https.Client, url: str) -> mtasts.Policy | _Trouble:
    try:
        answer = await client.get(url, mtasts.MAX_POLICY)
    except https.CertificateError as error:
        return _trouble(
            verdict.FindingType.STS_WEBPKI_INVALID, error.code, f"The policy host cannot be trusted: {error}."
        )
    except https.HttpsError as error:
        return _trouble(verdict.FindingType.STS_POLICY_FETCH_ERROR, error.code, f"{url} cannot be fetched: {error}.")
    return _judge(url, answer)


def _judge(url: str, answer: https.Answer) -> mtasts.Policy | _Trouble:
    """Return the policy in an answer (RFC 8461 sections 3.2 and 3.3)."""
    fetch_error, invalid = verdict.FindingType.STS_POLICY_FETCH_ERROR, verdict.FindingType.STS_POLICY_INVALID
    said = f"{answer.status} {answer.reason}".strip()
    if 300 <= answer.status < 400:  # noqa: PLR2004 - redirects (RFC 9110 section 15.4)
        return _trouble(fetch_error, "redirect", f"{url} leads elsewhere ({said}), which a policy must not.")
    if answer.status != _OK:
        return _trouble(fetch_error, f"http-{answer.status}", f"{url} answered {said} instead of a policy.")
    if _media_type(answer.content_type) != "text/plain":
        what = f"is {answer.content_type}" if answer.content_type else "has no media type"
        return _trouble(invalid, "media-type", f"{url} {what}; a policy is text/plain.")
    if answer.truncated:
        return _trouble(invalid, "too-long", f"{url} is longer than {mtasts.MAX_POLICY} octets.")
    try:
        return mtasts.parse_policy(answer.body)
    except mtasts.InvalidPolicyError as error:
        return _trouble(invalid, error.code, f"The policy at {url} is invalid: {error}.")


def _trouble(result_type: verdict.FindingType, reason: str, step: str) -> _Trouble:
    return _Trouble(verdict.Finding(result_type, reason), step)


def _media_type(content_type: str) -> str:
    """Return the media type without its parameters, which do not matter (RFC 8461 section 3.2)."""
    return content_type.partition(";")[0].strip().lower()


def _after_fetch(fetched: mtasts.Policy | _Trouble, id_: str, known: Known | None, step: str, ttl: int) -> Looked:
    if isinstance(fetched, _Trouble):
        kept = _kept(known, [step, fetched.step], ttl, fetched.finding)
        return dataclasses.replace(kept, failed=Failed(id_, fetched.finding))
    steps = (step, f"Its policy was fetched. {_in_force(fetched)}")
    return Looked(verdict.Sts(fetched, id_, None, steps), ttl, fetched=Known(id_, fetched))


def _kept(
    known: Known | None,
    steps: Sequence[str],
    ttl: int,
    finding: verdict.Finding | None = None,
    *,
    nothing: str = "No MTA-STS for this domain.",
) -> Looked:
    """Go on with the known policy, if there is one."""
    if known is None:
        return Looked(verdict.Sts(None, None, finding, (*steps, nothing)), ttl)
    last = f"The policy with id {known.id} was fetched before and has not expired. {_in_force(known.policy)}"
    return Looked(verdict.Sts(known.policy, known.id, finding, (*steps, last)), ttl)


def _in_force(policy: mtasts.Policy) -> str:
    hosts = ", ".join(policy.mx)
    match policy.mode:
        case mtasts.Mode.ENFORCE:
            return f"Mail goes only to hosts that match {hosts} and prove their name with a certificate."
        case mtasts.Mode.TESTING:
            return f"It is in testing: failures are reported, mail goes out all the same. Hosts: {hosts}."
        case mtasts.Mode.NONE:
            return "It says that the domain does not use MTA-STS any more."
